"""Invoices, their lines and credit notes as rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from sqlalchemy import BigInteger, select
from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.context import Scope
from clearspan.platform.orm import Base, Repository, Scoped

Minor = Annotated[int, mapped_column(BigInteger)]
"""SQLAlchemy sends a plain ``int`` as four bytes."""


class Invoice(Scoped):
    """What a customer owes; ``invoice_may_become`` in the schema has the transitions."""

    __tablename__ = "invoices"

    id: Mapped[UUID] = mapped_column("invoice_id", primary_key=True)
    customer_id: Mapped[UUID]
    subscription_id: Mapped[UUID | None]
    number: Mapped[str | None]
    status: Mapped[str]
    reason: Mapped[str]
    collection: Mapped[str]
    currency: Mapped[str]
    period_start: Mapped[datetime]
    period_end: Mapped[datetime]
    subtotal_minor: Mapped[Minor]
    discount_minor: Mapped[Minor]
    tax_minor: Mapped[Minor]
    tax_added_minor: Mapped[Minor]
    total_minor: Mapped[Minor]
    credit_used_minor: Mapped[Minor]
    due_minor: Mapped[Minor]
    credited_minor: Mapped[Minor]
    payment_id: Mapped[UUID | None]
    payment_locked: Mapped[bool]
    coupon_id: Mapped[UUID | None]
    description: Mapped[str | None]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    test_clock_id: Mapped[UUID | None]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]

    @property
    def left_minor(self) -> int:
        """What is still to be paid."""
        return self.due_minor - self.credited_minor if self.status in ("open", "uncollectible") else 0


class InvoiceLine(Base):
    """A line; it never changes."""

    __tablename__ = "invoice_lines"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    live: Mapped[bool] = mapped_column(primary_key=True)
    invoice_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    plan_id: Mapped[UUID | None]
    description: Mapped[str]
    quantity: Mapped[int]
    unit_amount_minor: Mapped[Minor]
    amount_minor: Mapped[Minor]
    discount_minor: Mapped[Minor]
    tax_name: Mapped[str | None]
    tax_rate_bp: Mapped[int | None]
    tax_inclusive: Mapped[bool]
    tax_minor: Mapped[Minor]
    period_start: Mapped[datetime | None]
    period_end: Mapped[datetime | None]


class CreditNote(Scoped):
    """What takes an invoice back, in whole or in part; it never changes."""

    __tablename__ = "credit_notes"

    id: Mapped[UUID] = mapped_column("credit_note_id", primary_key=True)
    invoice_id: Mapped[UUID]
    number: Mapped[str]
    amount_minor: Mapped[Minor]
    tax_minor: Mapped[Minor]
    currency: Mapped[str]
    settled_by: Mapped[str]
    refund_id: Mapped[UUID | None]
    reason: Mapped[str]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    created_at: Mapped[datetime]


class InvoiceRows(Repository[Invoice]):
    """Invoices."""

    model_type = Invoice
    noun = "invoice"

    async def lines(self, scope: Scope, invoice_ids: Sequence[UUID]) -> dict[UUID, list[InvoiceLine]]:
        """The lines of some invoices, in their order."""
        statement = (
            select(InvoiceLine)
            .where(
                InvoiceLine.tenant_id == scope.tenant_id,
                InvoiceLine.live.is_(scope.live),
                InvoiceLine.invoice_id.in_(list(invoice_ids)),
            )
            .order_by(InvoiceLine.invoice_id, InvoiceLine.position)
        )
        found: dict[UUID, list[InvoiceLine]] = {}
        for line in await self.session.scalars(statement):
            found.setdefault(line.invoice_id, []).append(line)
        return found


class CreditNoteRows(Repository[CreditNote]):
    """Credit notes."""

    model_type = CreditNote
    noun = "credit note"

    async def of_invoices(self, scope: Scope, invoice_ids: Sequence[UUID]) -> dict[UUID, list[CreditNote]]:
        """The credit notes of some invoices, oldest first."""
        statement = (
            select(CreditNote)
            .where(*self.of(scope), CreditNote.invoice_id.in_(list(invoice_ids)))
            .order_by(CreditNote.id)
        )
        found: dict[UUID, list[CreditNote]] = {}
        for note in await self.session.scalars(statement):
            found.setdefault(note.invoice_id, []).append(note)
        return found
