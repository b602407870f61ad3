"""What is personal about a customer, and how it is sealed.

Each person has a key of their own, wrapped by the tenant's data key and stored beside the sealed data: without that one row
nothing about the person can be read. Search by e-mail works on a keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.customers.models import CustomerPii
from clearspan.platform import clock, crypto
from clearspan.platform.context import Scope
from clearspan.tenants.service import place

# ISO 3166-1 alpha-2, officially assigned: https://www.iso.org/obp/ui/#search (249 codes).
_ASSIGNED = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC"
    " CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD"
    " GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH"
    " KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW"
    " MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC"
    " SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY"
    " UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
COUNTRIES = frozenset(_ASSIGNED.split())

_Line = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=200, examples=["Ada Lovelace"])]
# Whether an address exists only a message to it can tell; this finds what cannot be one. Python's $ also matches before a last
# line end, hence (?!\n).
Email = Annotated[
    str, Meta(max_length=254, pattern=r"^[^@\s]{1,64}@[^@\s]+\.[^@\s.]{2,}$(?!\n)", examples=["ada@example.com"])
]
Phone = Annotated[
    str,
    Meta(
        pattern=r"^\+?[0-9][0-9 ()./-]{2,30}$(?!\n)",
        description="Best as +, country, number.",
        examples=["+44 20 7946 0018"],
    ),
]


class Address(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A postal address."""

    line1: _Line
    city: _Line
    country: Annotated[
        str,
        Meta(min_length=2, max_length=2, pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.", examples=["GB"]),
    ]
    line2: _Line | None = None
    postal_code: Annotated[str, Meta(min_length=1, max_length=20)] | None = None
    state: _Line | None = None

    def __post_init__(self) -> None:
        if self.country not in COUNTRIES:
            raise ValueError("`country` is no ISO 3166-1 alpha-2 code")


class Pii(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed."""

    name: str | None = None
    email: str | None = None
    phone: str | None = None
    address: Address | None = None


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and with what a person agreed to a mandate."""

    ip: str | None = None
    user_agent: str | None = None


NOBODY = Pii()
PERSONAL = frozenset(Pii.__struct_fields__)


class PersonalData:
    """Seals and opens the personal data of one tenant's customers in one mode. Does no I/O.

    Args:
        scope: whose.
        data_key: the tenant's, which wraps each person's key.
        index_key: hashes e-mail addresses.
    """

    def __init__(self, scope: Scope, data_key: bytes, index_key: bytes) -> None:
        self._scope = scope
        self._data_key = data_key
        self._index_key = index_key

    def new(self, customer_id: UUID, pii: Pii) -> CustomerPii:
        """A row for a person, with a fresh key. Every customer has one until deleted, however little is known of them."""
        row = CustomerPii(tenant_id=self._scope.tenant_id, live=self._scope.live, id=customer_id)
        row.wrapped_key = crypto.seal(
            self._data_key,
            clock.random_bytes(crypto.KEY_BYTES),
            self._place("customer_pii", "wrapped_key", customer_id),
        )
        self.seal(row, pii)
        return row

    def seal(self, row: CustomerPii, pii: Pii) -> None:
        """Replace what the row holds."""
        row.body = crypto.seal(self._person(row), msgspec.json.encode(pii), self._place("customer_pii", "body", row.id))
        row.email_index = None if pii.email is None else self.index(pii.email)

    def open(self, row: CustomerPii | None) -> Pii:
        """What the row holds; nothing when it is gone.

        Raises:
            KeyProblem: the row was sealed for another customer or under another key.
        """
        if row is None:
            return NOBODY
        plain = crypto.open_(self._person(row), row.body, self._place("customer_pii", "body", row.id))
        return msgspec.json.decode(plain, type=Pii)

    def seal_answer(self, row: CustomerPii, answer: bytes) -> bytes:
        """An answer about the person, to be kept for repetition; it goes with the person's key."""
        return crypto.seal(self._person(row), answer, self._place("idempotency_keys", "body", row.id))

    def open_answer(self, row: CustomerPii, sealed: bytes) -> bytes:
        """What ``seal_answer`` made."""
        return crypto.open_(self._person(row), sealed, self._place("idempotency_keys", "body", row.id))

    def seal_acceptance(self, row: CustomerPii, mandate_id: UUID, acceptance: Acceptance) -> bytes:
        """Where and with what a person agreed to a mandate; it goes with the person's key."""
        return crypto.seal(
            self._person(row), msgspec.json.encode(acceptance), self._place("mandates", "acceptance", mandate_id)
        )

    def open_acceptance(self, row: CustomerPii, mandate_id: UUID, sealed: bytes) -> Acceptance:
        """What ``seal_acceptance`` made."""
        plain = crypto.open_(self._person(row), sealed, self._place("mandates", "acceptance", mandate_id))
        return msgspec.json.decode(plain, type=Acceptance)

    def index(self, email: str) -> bytes:
        """What an address is found by; case does not matter."""
        return hmac.digest(self._index_key, email.lower().encode(), hashlib.sha256)

    def _person(self, row: CustomerPii) -> bytes:
        return crypto.open_(self._data_key, row.wrapped_key, self._place("customer_pii", "wrapped_key", row.id))

    def _place(self, table: str, column: str, row_id: UUID) -> str:
        return place(self._scope, table, column, row_id)
