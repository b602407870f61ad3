"""Requests and answers of the invoices' API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.payments.schemas import AmountMinor, Currency, Metadata
from clearspan.platform import ids
from clearspan.subscriptions.invoices_models import CreditNote, Invoice, InvoiceLine

LINES_MAX = 500
TOTAL_MAX = 10**12
STATUSES = ("draft", "open", "paid", "void", "uncollectible")

# PostgreSQL stores every character but NUL; control characters would only spoil a document.
_TEXT = r"^[^\x00-\x08\x0b-\x1f\x7f]*$"
_Words = Annotated[str, Meta(min_length=1, max_length=500, pattern=_TEXT)]
Minor = Annotated[int, Meta(ge=0, le=TOTAL_MAX)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body."""


class TaxIn(_Body, frozen=True, kw_only=True):
    """A tax by its rate; Clearspan multiplies and rounds, what rate applies you know."""

    name: Annotated[str, Meta(min_length=1, max_length=60, pattern=_TEXT, examples=["VAT 19 %"])]
    rate_bp: Annotated[int, Meta(ge=0, le=10_000, description="Hundredths of a percent: 1900 is 19 %.")]
    inclusive: Annotated[bool, Meta(description="Contained in the amount, or on top of it.")] = True


class LineIn(_Body, frozen=True, kw_only=True):
    """A line. ``tax_minor`` when you know the amount of the tax (contained in the line's), or ``tax`` by its rate."""

    description: Annotated[_Words, Meta(examples=["Consulting in May"])]
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    unit_amount_minor: Annotated[Minor, Meta(examples=[12_000])]
    tax_minor: Minor | None = None
    tax: TaxIn | None = None

    def __post_init__(self) -> None:
        if self.tax_minor is not None and self.tax is not None:
            raise ValueError("give `tax_minor` or `tax`, not both")
        if self.tax_minor is not None and self.tax_minor > self.quantity * self.unit_amount_minor:
            raise ValueError("`tax_minor` is more than the line's amount, which contains it")


class InvoiceCreate(_Body, frozen=True, kw_only=True):
    """Make a draft."""

    customer: Annotated[str, Meta(max_length=90, examples=["cus_01h455vb4pex5vsknk084sn02q"])]
    currency: Currency
    lines: Annotated[list[LineIn], Meta(min_length=1, max_length=LINES_MAX)]
    description: Annotated[_Words, Meta(description="Stands above the lines.", examples=["Order 4711"])] | None = None
    metadata: Metadata = {}


class Nothing(_Body, frozen=True, kw_only=True):
    """An empty object."""


class CreditNoteCreate(_Body, frozen=True, kw_only=True):
    """Take an invoice back, in whole or in part."""

    amount_minor: Annotated[AmountMinor, Meta(description="Tax included.")]
    tax_minor: Annotated[Minor, Meta(description="The tax in it.", examples=[80])] = 0
    settled_by: Annotated[
        Literal["refund", "credit", "reduction"],
        Meta(
            description=(
                "refund: the money goes back; credit: the subscription's next invoices use it up; reduction: less is left to pay"
                " of an open invoice that nobody tried to pay yet."
            )
        ),
    ]
    reason: Annotated[str, Meta(min_length=1, max_length=500, pattern=_TEXT, examples=["Two days of outage"])]
    metadata: Metadata = {}

    def __post_init__(self) -> None:
        if self.tax_minor > self.amount_minor:
            raise ValueError("`tax_minor` is more than `amount_minor`, which contains it")


class LineOut(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an invoice."""

    kind: Literal["period", "setup_fee", "proration", "manual"]
    plan: str | None
    description: str
    quantity: int
    unit_amount_minor: int
    amount_minor: int
    discount_minor: int
    tax_minor: int
    tax_name: str | None
    tax_rate_bp: int | None
    tax_inclusive: bool
    period_start: datetime | None
    period_end: datetime | None


class TaxOut(msgspec.Struct, frozen=True, kw_only=True):
    """The tax of all lines of one name and rate."""

    name: str | None
    rate_bp: int | None
    inclusive: bool
    tax_minor: int


class CreditNoteOut(msgspec.Struct, frozen=True, kw_only=True):
    """A credit note. It never changes; how its refund goes may."""

    id: str
    object: Literal["credit_note"]
    live: bool
    number: str
    invoice: str
    amount_minor: int
    tax_minor: int
    currency: str
    settled_by: Literal["refund", "credit", "reduction"]
    refund: str | None
    refund_status: Annotated[str | None, Meta(description="As of GET /v1/refunds/{id}; null unless money goes back.")]
    reason: str
    metadata: dict[str, str]
    created_at: datetime


class InvoiceOut(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice. total = subtotal - discount + tax that comes on top; due = total - credit used."""

    id: str
    object: Literal["invoice"]
    live: bool
    number: Annotated[str | None, Meta(description="From the moment it is open; without gaps.")]
    status: Literal["draft", "open", "paid", "void", "uncollectible"]
    reason: Literal["first", "cycle", "change", "manual"]
    collection: Annotated[
        Literal["automatic", "held"], Meta(description="held: of a missed period, charged by nobody on its own.")
    ]
    customer: str
    subscription: str | None
    currency: str
    period_start: datetime
    period_end: datetime
    lines: list[LineOut]
    taxes: list[TaxOut]
    subtotal_minor: int
    discount_minor: int
    tax_minor: Annotated[int, Meta(description="All of it, contained or on top.")]
    total_minor: int
    credit_used_minor: int
    due_minor: Annotated[int, Meta(description="What it asked for when it was opened.")]
    credited_minor: Annotated[int, Meta(description="Taken back by credit notes.")]
    left_minor: Annotated[int, Meta(description="What is still to be paid.")]
    payment: str | None
    payment_locked: Annotated[
        bool, Meta(description="A charge is under way or its outcome is unknown: nobody can try another, nor void it.")
    ]
    pay_url: Annotated[
        str | None, Meta(description="Where the customer can pay it; a secret of this invoice. Null in events.")
    ]
    credit_notes: list[CreditNoteOut]
    description: str | None
    metadata: dict[str, str]
    sequence: int
    created_at: datetime
    updated_at: datetime
    opened_at: datetime | None
    paid_at: datetime | None
    closed_at: datetime | None


class InvoiceList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of invoices, newest first."""

    object: Literal["list"]
    data: list[InvoiceOut]
    has_more: bool
    next_cursor: str | None


class CreditNoteList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of credit notes, newest first."""

    object: Literal["list"]
    data: list[CreditNoteOut]
    has_more: bool
    next_cursor: str | None


def taxes_of(lines: Sequence[InvoiceLine]) -> list[TaxOut]:
    """Sums by name and rate, in the order in which they first stand on the invoice."""
    sums: dict[tuple[str | None, int | None, bool], int] = {}
    for line in lines:
        if line.tax_name is not None or line.tax_minor:
            kind = (line.tax_name, line.tax_rate_bp, line.tax_inclusive)
            sums[kind] = sums.get(kind, 0) + line.tax_minor
    return [
        TaxOut(name=name, rate_bp=rate, inclusive=inclusive, tax_minor=tax)
        for (name, rate, inclusive), tax in sums.items()
    ]


def credit_note_out(note: CreditNote, refund_status: str | None) -> CreditNoteOut:
    """Render the current state."""
    return CreditNoteOut(
        id=ids.encode("cn", note.id),
        object="credit_note",
        live=note.live,
        number=note.number,
        invoice=ids.encode("inv", note.invoice_id),
        amount_minor=note.amount_minor,
        tax_minor=note.tax_minor,
        currency=note.currency,
        settled_by=note.settled_by,  # type: ignore[arg-type]  # the column's CHECK holds the words
        refund=ids.encode_optional("re", note.refund_id),
        refund_status=refund_status,
        reason=note.reason,
        metadata=note.metadata_,
        created_at=note.created_at,
    )


def invoice_out(
    invoice: Invoice,
    lines: Sequence[InvoiceLine],
    notes: Sequence[CreditNote],
    refunds: Mapping[UUID, str],
    pay_url: Callable[[Invoice], str | None],
) -> InvoiceOut:
    """Render the current state.

    Args:
        refunds: status by the refund's id.
        pay_url: makes the link.
    """
    return InvoiceOut(
        id=ids.encode("inv", invoice.id),
        object="invoice",
        live=invoice.live,
        number=invoice.number,
        status=invoice.status,  # type: ignore[arg-type]  # the columns' CHECKs hold the words
        reason=invoice.reason,  # type: ignore[arg-type]
        collection=invoice.collection,  # type: ignore[arg-type]
        customer=ids.encode("cus", invoice.customer_id),
        subscription=ids.encode_optional("sub", invoice.subscription_id),
        currency=invoice.currency,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        lines=[
            LineOut(
                kind=line.kind,  # type: ignore[arg-type]
                plan=ids.encode_optional("plan", line.plan_id),
                description=line.description,
                quantity=line.quantity,
                unit_amount_minor=line.unit_amount_minor,
                amount_minor=line.amount_minor,
                discount_minor=line.discount_minor,
                tax_minor=line.tax_minor,
                tax_name=line.tax_name,
                tax_rate_bp=line.tax_rate_bp,
                tax_inclusive=line.tax_inclusive,
                period_start=line.period_start,
                period_end=line.period_end,
            )
            for line in lines
        ],
        taxes=taxes_of(lines),
        subtotal_minor=invoice.subtotal_minor,
        discount_minor=invoice.discount_minor,
        tax_minor=invoice.tax_minor,
        total_minor=invoice.total_minor,
        credit_used_minor=invoice.credit_used_minor,
        due_minor=invoice.due_minor,
        credited_minor=invoice.credited_minor,
        left_minor=invoice.left_minor,
        payment=ids.encode_optional("pay", invoice.payment_id),
        payment_locked=invoice.payment_locked,
        pay_url=pay_url(invoice),
        credit_notes=[credit_note_out(note, refunds.get(note.refund_id) if note.refund_id else None) for note in notes],
        description=invoice.description,
        metadata=invoice.metadata_,
        sequence=invoice.sequence,
        created_at=invoice.created_at,
        updated_at=invoice.updated_at,
        opened_at=invoice.opened_at,
        paid_at=invoice.paid_at,
        closed_at=invoice.closed_at,
    )
