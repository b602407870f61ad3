"""Finding payments and looking at one: what people do all day. Reading only; ``payments/sql/search.sql`` does it.

Whatever somebody types is taken for everything that it may be, each by an index: an id of ours, an e-mail address (by its
keyed hash), the last digits of a card, an amount, or a word: a reference or its beginning, a PSP's reference, the number of
an invoice.
A page costs the same among a thousand payments and among millions; see the SQL for how, and for what ``upto`` means.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from clearspan.customers.service import Customers
from clearspan.payments import errors
from clearspan.payments.models import Dispute, Operation, Payment
from clearspan.payments.rows import Decision
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import InvalidRequest
from clearspan.psps.service import PspAccounts
from clearspan.sdk import CURRENCIES

TEXT_MAX: Final = 500
WINDOW: Final = 20_000
"""Rows of one driver that a page looks at; filters that no index serves are checked on these."""
EXPORT_MAX: Final = 100_000
_EXPORT_PAGE = 1_000
STATUSES: Final = (
    "succeeded", "failed", "unknown", "processing", "requires_action", "authorized", "captured", "partially_captured", "refunded",
    "disputed", "requires_capture", "requires_confirmation", "requires_payment_method", "canceled", "expired",
)  # fmt: skip
"""What a payment is looked for by: its status, or the word that people use."""
DIGITS: Final = frozenset(CURRENCIES.values())
_ODD = {currency: digits for currency, digits in CURRENCIES.items() if digits != 2}
_PREFIXES = {
    "pay": "payments",
    "op": "operations",
    "re": "operations",
    "dp": "disputes",
    "cus": "customers",
    "pm": "methods",
    "inv": "invoices",
    "evt": "events",
}
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,190}")
_AMOUNT_MAX = 10**12


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for; all must hold.

    Attributes:
        text: as typed: anything that the module's docstring names.
        amounts: what ``text`` is as an amount in major units, where it is one.
        status: one of ``STATUSES``.
        accounts: PSP accounts, one of them.
        currency: ISO 4217.
        customer: whose.
        amount_min, amount_max: in major units of each payment's own currency.
        created_after: at that moment or later.
        created_before: before that moment.
        metadata: all of these.
    """

    text: str = ""
    amounts: Sequence[Decimal] = ()
    status: str | None = None
    accounts: Sequence[UUID] = ()
    currency: str | None = None
    customer: UUID | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = {}


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """What a payment is paid with."""

    kind: str
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    funding: str | None = None
    issuer_country: str | None = None
    psp_method: str | None = None
    status: str = "active"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A payment in a list."""

    payment: Payment
    method: Method | None = None
    account: str = ""
    psp: str = ""

    @property
    def id(self) -> str:
        """``pay_…``."""
        return ids.encode("pay", self.payment.payment_id)

    @property
    def customer_id(self) -> str | None:
        """``cus_…``."""
        return ids.encode_optional("cus", self.payment.customer_id)

    @property
    def word(self) -> str:
        """The status that people want to see: ``failed`` and ``unknown`` say more than where the payment could go next."""
        return status_word(self.payment)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A page, newest first.

    Attributes:
        rows: payments.
        next_cursor: of the next page.
        looked_until: the page is not full, and so far back was looked; the next page goes on there.
        looked_for: what the text was taken for: ``id``, ``customer``, ``method``, ``email``, ``last4``, ``amount``, ``word``.
        capped: only the newest payments of a card, or the first of a beginning, were looked at.
    """

    rows: list[Row]
    next_cursor: str | None = None
    looked_until: datetime | None = None
    looked_for: Sequence[str] = ()
    capped: bool = False


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """A journal entry."""

    event_id: UUID
    type: str
    at: datetime
    actor_type: str
    actor_id: str
    request_id: str
    subject_id: UUID
    data: dict[str, Any]


class MessageIn(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a PSP that was applied to the payment."""

    inbox_id: UUID
    type: str
    state: str
    seen: int
    received_at: datetime
    event: str
    note: str | None = None
    operation_id: UUID | None = None

    @property
    def id(self) -> str:
        """``whi_…``."""
        return ids.encode("whi", self.inbox_id)


class MessageOut(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the payment on its way to an endpoint."""

    delivery_id: UUID
    event_id: UUID
    type: str
    state: str
    attempts: int
    created_at: datetime
    url: str
    last_status: int | None = None
    last_error: str | None = None
    delivered_at: datetime | None = None
    due_at: datetime | None = None

    @property
    def id(self) -> str:
        """``wd_…``."""
        return ids.encode("wd", self.delivery_id)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger entry; signed minor units."""

    at: datetime
    transfer_id: UUID
    account: str
    amount_minor: int
    currency: str
    kind: str


class LinkedInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """The invoice that the payment pays."""

    invoice_id: UUID
    status: str
    number: str | None = None
    subscription_id: UUID | None = None


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody observed about an operation."""

    fact_id: UUID
    operation_id: UUID
    source: str
    observed: str
    observed_at: datetime
    amount_minor: int | None = None
    currency: str | None = None
    psp_ref: str | None = None
    code: str | None = None
    raw_code: str | None = None
    raw: Any = None
    authentication: Any = None


class DecisionRow(Decision, frozen=True, kw_only=True):
    """A decision about one of the operations."""

    operation_id: UUID


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs a second person: a row of ``approvals``."""

    approval_id: UUID
    kind: str
    subject_id: UUID
    request: dict[str, Any]
    amount_minor: int
    currency: str
    reason: str
    status: str
    asked_by: str
    asked_at: datetime
    expires_at: datetime
    decision: str = ""
    decided_by: str | None = None
    decided_at: datetime | None = None
    operation_id: UUID | None = None

    @property
    def id(self) -> str:
        """``apv_…``."""
        return ids.encode("apv", self.approval_id)

    @property
    def payment(self) -> str:
        """``pay_…``."""
        return ids.encode("pay", self.subject_id)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one payment."""

    payment: Payment
    operations: list[Operation]
    facts: list[Fact]
    audit: list[Happened]
    webhooks_in: list[MessageIn]
    deliveries: list[MessageOut]
    ledger: list[Line]
    disputes: list[Dispute]
    decisions: list[DecisionRow]
    approvals: list[ApprovalRow]
    method: Method | None = None
    invoice: LinkedInvoice | None = None
    names: dict[UUID, tuple[str, str]] = {}

    @property
    def word(self) -> str:
        """See ``Row.word``."""
        return status_word(self.payment)


class _Hit(msgspec.Struct, frozen=True):
    payment: Payment
    method: Method | None = None


class _Answer(msgspec.Struct, frozen=True):
    rows: list[_Hit]
    capped: bool
    upto_at: datetime | None = None
    upto_id: UUID | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_VIEW = msgspec.json.Decoder(View | None)


class PaymentSearch:
    """See the module's docstring."""

    def __init__(self, db: Database, psps: PspAccounts, customers: Customers) -> None:
        self._db = db
        self._psps = psps
        self._customers = customers

    async def find(self, scope: Scope, query: Query, *, limit: int = 50, cursor: str | None = None) -> Found:
        """A page of payments, newest first: one round trip.

        Raises:
            InvalidRequest: the cursor is none of ours, or the text is too long.
        """
        document: dict[str, Any] = _place(scope) | _filters(query) | after(cursor)
        looked_for: list[str] = []
        if query.text.strip():
            document["text"], looked_for = await self._taken_for(scope, query)
        document |= {"limit": limit + 1, "window": WINDOW}
        answer = _ANSWER.decode(await self._db.call("payment_search", document))
        names = await self._psps.names(scope)
        rows = []
        for hit in answer.rows[:limit]:
            account_id = hit.payment.psp_account_id
            if account_id is not None and account_id not in names:
                names = await self._psps.names(scope, account_id)
            psp, account = names.get(account_id, ("", "")) if account_id is not None else ("", "")
            rows.append(Row(payment=hit.payment, method=hit.method, psp=psp, account=account))
        if len(answer.rows) > limit:
            last = rows[-1].payment
            return Found(
                rows=rows,
                next_cursor=write_cursor(last.created_at, last.payment_id),
                looked_for=looked_for,
                capped=answer.capped,
            )
        following = None
        if answer.upto_at is not None and answer.upto_id is not None:
            following = write_cursor(answer.upto_at, answer.upto_id)
        return Found(
            rows=rows,
            next_cursor=following,
            looked_until=answer.upto_at,
            looked_for=looked_for,
            capped=answer.capped,
        )

    async def all(self, scope: Scope, query: Query) -> AsyncIterator[list[Row]]:
        """Every payment that is looked for, newest first, a page at a time; ``EXPORT_MAX`` at most."""
        cursor, left = None, EXPORT_MAX
        while left > 0:
            found = await self.find(scope, query, limit=min(_EXPORT_PAGE, left), cursor=cursor)
            left -= len(found.rows)
            yield found.rows
            cursor = found.next_cursor
            if cursor is None:
                return

    async def view(self, scope: Scope, payment_id: str) -> View:
        """Everything about one payment: one round trip, and one more when a PSP account is new to this process.

        Raises:
            PaymentNotFound.
        """
        try:
            identity = ids.decode("pay", payment_id)
        except ids.InvalidId:
            raise errors.PaymentNotFound from None
        found = await self._db.call("payment_view", _place(scope) | {"payment_id": identity})
        view: View | None = None if found is None else _VIEW.decode(found)
        if view is None:
            raise errors.PaymentNotFound
        names = await self._psps.names(scope, view.payment.psp_account_id)
        return msgspec.structs.replace(view, names=names)

    async def _taken_for(self, scope: Scope, query: Query) -> tuple[dict[str, Any], list[str]]:
        """What the text may be, as ``payment_search`` takes it, and the words for it."""
        text = query.text.strip()
        if len(text) > TEXT_MAX:
            raise InvalidRequest(f"A search has {TEXT_MAX} characters at most.", errors=[_error("q", "too long")])
        prefix, _, rest = text.lower().partition("_")
        if prefix in _PREFIXES and rest:
            try:
                several = {"cus": "customer", "pm": "method"}.get(prefix, "id")
                return {_PREFIXES[prefix]: [ids.decode(prefix, text.lower())]}, [several]
            except ids.InvalidId:
                pass
        try:
            given = UUID(text)
        except ValueError:
            pass
        else:
            return {"payments": [given], "operations": [given], "word": text}, ["id", "word"]
        if _EMAIL.fullmatch(text):
            return {"email_index": (await self._customers.email_index(scope, text)).hex(), "word": text}, [
                "email",
                "word",
            ]
        document: dict[str, Any] = {"word": text}
        looked_for = ["word"]
        if re.fullmatch("[0-9]{4}", text):
            document["last4"] = text
            looked_for.append("last4")
        amounts: list[dict[str, int | None]] = [
            {"minor": int(minor), "digits": digits}
            for amount in dict.fromkeys(query.amounts)
            for digits in sorted(DIGITS)
            if (minor := amount.scaleb(digits)) == minor.to_integral_value() and 0 <= minor <= _AMOUNT_MAX
        ]
        if re.fullmatch("[0-9]{1,13}", text) and int(text) <= _AMOUNT_MAX:
            amounts.append({"minor": int(text), "digits": None})  # cents, as the API takes them
        if amounts:
            document["amounts"] = amounts
            looked_for.append("amount")
        return document, looked_for


def status_word(payment: Payment) -> str:
    """The status that people want to see."""
    if payment.outcome == "unknown":
        return "unknown"
    if payment.status == "requires_payment_method" and payment.last_error is not None:
        return "failed"
    if payment.status == "succeeded" and payment.refunded_minor > 0:
        return "refunded" if payment.refunded_minor >= payment.captured_minor else "partially_refunded"
    return payment.status.value


def _filters(query: Query) -> dict[str, Any]:
    document: dict[str, Any] = {
        "status": query.status,
        "currency": query.currency,
        "customer_id": query.customer,
        "created_after": query.created_after,
        "created_before": query.created_before,
        "metadata": dict(query.metadata) or None,
        "account_ids": list(query.accounts) or None,
        "odd_digits": _ODD,
    }
    for name, amount, rounding in (
        ("amount_min", query.amount_min, "ROUND_CEILING"),
        ("amount_max", query.amount_max, "ROUND_FLOOR"),
    ):
        if amount is not None:
            document[name] = {
                str(digits): int(min(amount, Decimal(_AMOUNT_MAX)).scaleb(digits).to_integral_value(rounding))
                for digits in DIGITS
            }
    return {name: value for name, value in document.items() if value is not None}


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def write_cursor(moment: datetime, identity: UUID) -> str:
    """Where a page ended, as text."""
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{identity}".encode()).decode().rstrip("=")


def after(cursor: str | None) -> dict[str, Any]:
    """Where the next page begins, as the SQL functions take it.

    Raises:
        InvalidRequest: no cursor of ours.
    """
    if not cursor:
        return {}
    try:
        moment, _, identity = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
        return {"after_at": datetime.fromisoformat(moment).astimezone(UTC), "after_id": UUID(identity)}
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidRequest(
            "The page's address is cut or too old; start again.", errors=[_error("cursor", "unknown")]
        ) from None


def _error(path: str, message: str) -> dict[str, str]:
    return {"path": path, "message": message}
