"""Requests and answers of the customers' API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clearspan.customers.models import Customer, PaymentMethod
from clearspan.customers.pii import Address, Email, Name, Phone, Pii
from clearspan.platform import ids

# PostgreSQL stores every character but NUL.
_TEXT = r"^[^\x00]+$"
Reference = Annotated[
    str, Meta(max_length=200, pattern=_TEXT, description="Your own id; unique per mode.", examples=["c-1042"])
]
Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=40, pattern=_TEXT)],
        Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")],
    ],
    Meta(max_length=50, description="Your own short strings; no personal data.", examples=[{"tier": "gold"}]),
]
Token = Annotated[
    str,
    Meta(max_length=500, pattern=_TEXT, description="From the vault's capture page.", examples=["tok_visa_approved"]),
]
Language = Literal["en", "de", "fr", "es"]
CustomerId = Annotated[str, Meta(max_length=90, examples=["cus_01h455vb4pex5vsknk084sn02q"])]


class CustomerCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a customer. Everything is optional."""

    reference: Reference | None = None
    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None
    address: Address | None = None
    test_clock: (
        Annotated[
            str,
            Meta(
                max_length=90,
                description="Test mode: the clock this customer lives by, for ever.",
                examples=["tc_01h455vb4pex5vsknk084sn02q"],
            ),
        ]
        | None
    ) = None
    language: Annotated[
        Language | None,
        Meta(description="Of mails, documents and the pay page; default: the tenant's.", examples=["de"]),
    ] = None
    metadata: Metadata = {}


class CustomerUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a customer: what is left out stays, null clears. ``address`` and ``metadata`` are replaced as a whole."""

    reference: Reference | UnsetType | None = UNSET
    name: Name | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET
    phone: Phone | UnsetType | None = UNSET
    address: Address | UnsetType | None = UNSET
    language: Annotated[Language | UnsetType | None, Meta(examples=["de"])] = UNSET
    metadata: Metadata | UnsetType = UNSET


class CardTold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a PSP's fields told your page about a card; shown to people, and never believed for more."""

    brand: Annotated[str, Meta(max_length=30, pattern="^[a-z_]+$", examples=["visa"])]
    last4: Annotated[str, Meta(pattern="^[0-9]{4}$", examples=["4242"])]
    exp_month: Annotated[int, Meta(ge=1, le=12, examples=[12])]
    exp_year: Annotated[int, Meta(ge=2000, le=2200, examples=[2030])]


class PaymentMethodCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a payment method: of a card in a vault, of something a PSP holds, or of what the payer chooses on a PSP's pages."""

    type: Annotated[
        Literal["card", "psp_token", "redirect"],
        Meta(
            description="card: a vault's token, charged at any account. psp_token: what the fields of one PSP made; charged at"
            " that account only. redirect: the payer pays on the PSP's pages."
        ),
    ] = "card"
    token: Annotated[Token | None, Meta(description="Of card and psp_token.", examples=["tok_visa_approved"])] = None
    psp_account: (
        Annotated[
            str,
            Meta(
                max_length=90,
                description="Of psp_token and redirect: the account's name or id.",
                examples=["square-eu"],
            ),
        ]
        | None
    ) = None
    method: (
        Annotated[
            str,
            Meta(
                max_length=60,
                description="Of redirect: the PSP's word; default: the payer chooses.",
                examples=["ideal"],
            ),
        ]
        | None
    ) = None
    card: Annotated[CardTold | None, Meta(description="Of psp_token: what the fields told.")] = None
    vault: (
        Annotated[
            str, Meta(max_length=60, description="Which vault; default: the only enabled one.", examples=["sandbox"])
        ]
        | None
    ) = None
    customer: CustomerId | None = None


class CustomerOut(msgspec.Struct, frozen=True, kw_only=True):
    """A customer. After deletion the personal data, the reference and the metadata are gone."""

    id: str
    object: Literal["customer"]
    live: bool
    reference: str | None
    name: str | None
    email: str | None
    phone: str | None
    address: Address | None
    test_clock: str | None
    language: Language | None
    metadata: dict[str, str]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class CustomerList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of customers, newest first."""

    object: Literal["list"]
    data: list[CustomerOut]
    has_more: bool
    next_cursor: str | None


class CardOut(msgspec.Struct, frozen=True, kw_only=True):
    """What may be known of a card outside the vault."""

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: Annotated[str, Meta(description="Equal for the same card; the number cannot be found from it.")]
    funding: Literal["credit", "debit", "prepaid", "unknown"]
    issuer_country: str | None


class PaymentMethodOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a payer pays with, to charge now or later."""

    id: str
    object: Literal["payment_method"]
    live: bool
    type: Literal["card", "psp_token", "redirect"]
    customer: str | None
    vault: Annotated[str | None, Meta(description="Of a card.", examples=["sandbox"])]
    psp_account: Annotated[
        str | None,
        Meta(description="The only account that can charge it.", examples=["acct_01h455vb4pex5vsknk084sn02q"]),
    ]
    method: Annotated[str | None, Meta(description="Of a redirect.", examples=["ideal"])]
    status: Literal["active", "detached"]
    card: Annotated[CardOut | None, Meta(description="null where nobody told what it is.")]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime


class PaymentMethodList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of payment methods, newest first."""

    object: Literal["list"]
    data: list[PaymentMethodOut]
    has_more: bool
    next_cursor: str | None


def customer_out(customer: Customer, pii: Pii) -> CustomerOut:
    """Render the current state."""
    return CustomerOut(
        id=ids.encode("cus", customer.id),
        object="customer",
        live=customer.live,
        reference=customer.reference,
        name=pii.name,
        email=pii.email,
        phone=pii.phone,
        address=pii.address,
        test_clock=ids.encode_optional("tc", customer.test_clock_id),
        language=customer.language,  # type: ignore[arg-type]  # the column's CHECK holds the words
        metadata=customer.metadata_,
        sequence=customer.sequence,
        created_at=customer.created_at,
        updated_at=customer.updated_at,
        deleted_at=customer.deleted_at,
    )


def method_out(method: PaymentMethod) -> PaymentMethodOut:
    """Render the current state."""
    return PaymentMethodOut(
        id=ids.encode("pm", method.id),
        object="payment_method",
        live=method.live,
        customer=ids.encode_optional("cus", method.customer_id),
        type=TYPES[method.kind],  # type: ignore[arg-type]  # the column's CHECK holds the words
        vault=method.vault,
        psp_account=ids.encode_optional("acct", method.psp_account_id),
        method=method.psp_method,
        status=method.status,  # type: ignore[arg-type]  # likewise
        card=_card_out(method),
        sequence=method.sequence,
        created_at=method.created_at,
        updated_at=method.updated_at,
    )


TYPES = {"card": "card", "token": "psp_token", "redirect": "redirect"}
"""``payment_methods.kind`` -> the word of the API."""


def _card_out(method: PaymentMethod) -> CardOut | None:
    if method.brand is None or method.last4 is None or method.exp_month is None or method.exp_year is None:
        return None
    return CardOut(
        brand=method.brand,
        last4=method.last4,
        exp_month=method.exp_month,
        exp_year=method.exp_year,
        fingerprint=method.fingerprint,
        funding=method.funding,  # type: ignore[arg-type]  # the column's CHECK holds the words
        issuer_country=method.issuer_country,
    )


def customer_list(data: Sequence[CustomerOut], next_cursor: str | None) -> CustomerList:
    """A page."""
    return CustomerList(object="list", data=list(data), has_more=next_cursor is not None, next_cursor=next_cursor)


def method_list(methods: Sequence[PaymentMethod], next_cursor: str | None) -> PaymentMethodList:
    """A page."""
    data = [method_out(method) for method in methods]
    return PaymentMethodList(object="list", data=data, has_more=next_cursor is not None, next_cursor=next_cursor)
