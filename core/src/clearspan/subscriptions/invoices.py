"""What a user can do with invoices and credit notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.customers.errors import CustomerDeleted
from clearspan.journal import service as journal
from clearspan.payments.errors import UnsupportedCurrency
from clearspan.payments.schemas import RefundCreate, RefundOut
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, KeyMissing, once
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.sdk import CURRENCIES
from clearspan.subscriptions.invoices_errors import CreditNotPossible, InvoiceTransition, InvoiceWithoutDocument
from clearspan.subscriptions.invoices_models import CreditNote, CreditNoteRows, Invoice, InvoiceLine, InvoiceRows
from clearspan.subscriptions.invoices_schemas import (
    TOTAL_MAX,
    CreditNoteCreate,
    CreditNoteList,
    CreditNoteOut,
    InvoiceCreate,
    InvoiceList,
    InvoiceOut,
    LineIn,
    credit_note_out,
    invoice_out,
)
from clearspan.subscriptions.models import Tax, taxed
from clearspan.subscriptions.pay_links import PayLinks


class InvoiceFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What invoices are searched by; all must hold. Times are aware. ``due``: something is, or nothing is, left to pay.
    ``opened_before``: they asked for money before this moment."""

    customer_id: UUID | None = None
    subscription_id: UUID | None = None
    status: str | None = None
    number: str | None = None
    due: bool | None = None
    opened_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class Invoices:
    """Invoices and credit notes of a tenant in one mode."""

    def __init__(self, db: Database, payments: Payments, links: PayLinks) -> None:
        self._db = db
        self._payments = payments
        self._links = links

    # -- invoices ---------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: InvoiceCreate) -> Answer:
        """Make a draft.

        Raises:
            NotFound: no such customer.
            CustomerDeleted, UnsupportedCurrency, InvalidRequest; and as ``once``.
        """
        if body.currency not in CURRENCIES:
            raise UnsupportedCurrency
        customer_id = ids.decode("cus", body.customer)
        invoice_id = clock.new_uuid()
        lines = [_line(caller.scope, invoice_id, position, line) for position, line in enumerate(body.lines, 1)]
        subtotal = sum(line["amount_minor"] for line in lines)
        added = sum(line["tax_minor"] for line in lines if not line["tax_inclusive"])
        if subtotal + added > TOTAL_MAX:
            raise InvalidRequest(
                f"The lines may come to {TOTAL_MAX} at most.", errors=[{"path": "$.lines", "message": "too much"}]
            )

        async def work(session: AsyncSession) -> Answer:
            customer = (
                await session.execute(
                    text(
                        "SELECT c.deleted_at, c.test_clock_id, k.now_at FROM customers c"
                        " LEFT JOIN test_clocks k ON k.tenant_id = c.tenant_id AND k.live = c.live"
                        " AND k.test_clock_id = c.test_clock_id"
                        " WHERE c.tenant_id = :tenant AND c.live = :live AND c.customer_id = :customer"
                        " FOR KEY SHARE OF c"
                    ),
                    {"tenant": caller.scope.tenant_id, "live": caller.scope.live, "customer": customer_id},
                )
            ).one_or_none()
            if customer is None:
                raise NotFound(
                    "There is no such customer. Check the id, and that the key is of the same tenant and mode."
                )
            if customer.deleted_at is not None:
                raise CustomerDeleted
            at = customer.now_at or clock.now()
            invoice = Invoice(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=invoice_id,
                customer_id=customer_id,
                status="draft",
                reason="manual",
                collection="held",
                currency=body.currency,
                period_start=at,
                period_end=at,
                subtotal_minor=subtotal,
                discount_minor=0,
                tax_minor=sum(line["tax_minor"] for line in lines),
                tax_added_minor=added,
                total_minor=subtotal + added,
                credit_used_minor=0,
                due_minor=subtotal + added,
                credited_minor=0,
                payment_locked=False,
                description=body.description,
                metadata_=body.metadata,
                test_clock_id=customer.test_clock_id,
                sequence=1,
                created_at=at,
                updated_at=at,
            )
            await InvoiceRows(session).add(invoice)
            await session.execute(insert(InvoiceLine), lines)
            await journal.record(
                session,
                caller,
                type="invoice.created",
                subject_type="invoice",
                subject_id=invoice_id,
                sequence=1,
                customer_id=customer_id,
                data={"status": "draft", "amount_minor": invoice.due_minor, "currency": invoice.currency},
            )
            return Answer(201, msgspec.json.encode(await self._shown(session, caller.scope, invoice_id)))

        return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, invoice_id: UUID) -> InvoiceOut:
        """One invoice with lines and credit notes.

        Raises:
            NotFound: no such invoice.
        """
        async with self._db.begin(scope) as session:
            return await self._shown(session, scope, invoice_id)

    async def list(self, scope: Scope, filters: InvoiceFilters, limit: int, cursor: str | None) -> InvoiceList:
        """Invoices, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: list[ColumnElement[bool]] = []
        if filters.customer_id is not None:
            conditions.append(Invoice.customer_id == filters.customer_id)
        if filters.subscription_id is not None:
            conditions.append(Invoice.subscription_id == filters.subscription_id)
        if filters.status is not None:
            conditions.append(Invoice.status == filters.status)
        if filters.number is not None:
            conditions.append(Invoice.number == filters.number)
        if filters.due is not None:
            due = Invoice.status.in_(("open", "uncollectible")) & (Invoice.due_minor > Invoice.credited_minor)
            conditions.append(due if filters.due else ~due)
        if filters.opened_before is not None:
            conditions.append(Invoice.opened_at < filters.opened_before)
        if filters.created_after is not None:
            conditions.append(Invoice.created_at > filters.created_after)
        if filters.created_before is not None:
            conditions.append(Invoice.created_at < filters.created_before)
        async with self._db.begin(scope) as session:
            page = await InvoiceRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            data = await self._render(session, scope, page.rows)
        return InvoiceList(
            object="list", data=[*data], has_more=page.next_cursor is not None, next_cursor=page.next_cursor
        )

    async def open(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Give a draft its number: from here on it asks for money and never changes.

        Raises:
            NotFound, InvoiceTransition; and as ``once``.
        """
        return await self._do(caller, key, "invoice_open", invoice_id, {})

    async def void(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Take an unpaid invoice back as a whole; its collection and mails end.

        Raises:
            NotFound, InvoiceTransition, InvoiceLocked; and as ``once``.
        """
        return await self._do(caller, key, "invoice_close", invoice_id, {"after": "void"})

    async def mark_uncollectible(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Give an open invoice up; the customer may still pay it.

        Raises:
            NotFound, InvoiceTransition, InvoiceLocked; and as ``once``.
        """
        return await self._do(caller, key, "invoice_close", invoice_id, {"after": "uncollectible"})

    async def send(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Mail it to the customer, with the PDF and the link to pay.

        Raises:
            NotFound, InvoiceTransition, InvoiceWithoutDocument; and as ``once``.
        """

        async def work(session: AsyncSession) -> Answer:
            invoice = await InvoiceRows(session).require(caller.scope, invoice_id)
            if invoice.status == "draft":
                raise InvoiceWithoutDocument
            if invoice.status == "void":
                raise InvoiceTransition(invoice_status=invoice.status)
            dedupe = f"invoice:{invoice_id}:{clock.new_uuid().hex}"
            await _call(session, "invoice_send", _document(caller) | {"invoice_id": invoice_id, "dedupe": dedupe})
            return Answer(202, msgspec.json.encode(await self._shown(session, caller.scope, invoice_id)))

        return await once(self._db, caller.scope, key, work)

    async def render_many(self, scope: Scope, invoice_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Invoices for the event feed, without the link to pay: reading events does not mean paying."""
        async with self._db.begin(scope) as session:
            rows = await InvoiceRows(session).among(scope, invoice_ids)
            shown = await self._render(session, scope, rows, links=False)
        return {row.id: msgspec.to_builtins(out) for row, out in zip(rows, shown, strict=True)}

    # -- credit notes -----------------------------------------------------------------------------------------------

    async def credit(
        self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID, body: CreditNoteCreate
    ) -> Answer:
        """Take an invoice back, in whole or in part; never more than it asks for.

        Raises:
            KeyMissing, NotFound, InvoiceLocked, InvoiceTransition, CreditAboveInvoice, CreditNotPossible; of a refund what
            ``Payments.refund`` refuses; and as ``once``.
        """
        if key is None:
            raise KeyMissing
        note_id = clock.new_uuid()

        def note(refund_id: UUID | None) -> dict[str, Any]:
            return {
                "invoice_id": invoice_id,
                "credit_note": msgspec.to_builtins(body) | {"credit_note_id": note_id, "refund_id": refund_id},
            }

        if body.settled_by == "refund":
            async with self._db.begin(caller.scope) as session:
                invoice = await InvoiceRows(session).require(caller.scope, invoice_id)
            if invoice.payment_id is None:
                because = "not_paid" if invoice.status in ("draft", "open", "uncollectible") else "without_payment"
                raise CreditNotPossible(because=because)

            async def shown(refund: RefundOut) -> bytes:
                async with self._db.begin(caller.scope) as session:
                    of_refund = CreditNote.refund_id == ids.decode("re", refund.id)
                    page = await CreditNoteRows(session).page(caller.scope, of_refund, limit=1, cursor=None)
                return msgspec.json.encode(credit_note_out(page.rows[0], refund.status))

            return await self._payments.refund_within(
                caller,
                key,
                invoice.payment_id,
                RefundCreate(amount_minor=body.amount_minor, reason=body.reason[:200]),
                "credit_note_refund",
                note,
                shown,
            )

        async def work(session: AsyncSession) -> Answer:
            await InvoiceRows(session).require(caller.scope, invoice_id)
            await _call(session, "credit_note_write", _document(caller) | note(None))
            return Answer(
                201,
                msgspec.json.encode(
                    credit_note_out(await CreditNoteRows(session).require(caller.scope, note_id), None)
                ),
            )

        return await once(self._db, caller.scope, key, work)

    async def get_credit_note(self, scope: Scope, note_id: UUID) -> CreditNoteOut:
        """One credit note.

        Raises:
            NotFound: no such credit note.
        """
        async with self._db.begin(scope) as session:
            note = await CreditNoteRows(session).require(scope, note_id)
        return (await self._credit_notes(scope, [note]))[0]

    async def list_credit_notes(
        self, scope: Scope, invoice_id: UUID | None, limit: int, cursor: str | None
    ) -> CreditNoteList:
        """Credit notes, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions = [] if invoice_id is None else [CreditNote.invoice_id == invoice_id]
        async with self._db.begin(scope) as session:
            page = await CreditNoteRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
        data = await self._credit_notes(scope, page.rows)
        return CreditNoteList(
            object="list", data=[*data], has_more=page.next_cursor is not None, next_cursor=page.next_cursor
        )

    async def render_credit_notes(self, scope: Scope, note_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Credit notes for the event feed."""
        async with self._db.begin(scope) as session:
            notes = await CreditNoteRows(session).among(scope, note_ids)
        shown = await self._credit_notes(scope, notes)
        return {note.id: msgspec.to_builtins(out) for note, out in zip(notes, shown, strict=True)}

    # -- pieces -----------------------------------------------------------------------------------------------------

    async def _do(
        self, caller: Caller, key: IdempotencyKey | None, function: str, invoice_id: UUID, more: dict[str, Any]
    ) -> Answer:
        async def work(session: AsyncSession) -> Answer:
            await InvoiceRows(session).require(caller.scope, invoice_id)
            await _call(session, function, _document(caller) | {"invoice_id": invoice_id} | more)
            session.expire_all()
            return Answer(200, msgspec.json.encode(await self._shown(session, caller.scope, invoice_id)))

        return await once(self._db, caller.scope, key, work)

    async def _shown(self, session: AsyncSession, scope: Scope, invoice_id: UUID) -> InvoiceOut:
        row = await InvoiceRows(session).require(scope, invoice_id)
        return (await self._render(session, scope, [row]))[0]

    async def _render(
        self, session: AsyncSession, scope: Scope, rows: Sequence[Invoice], *, links: bool = True
    ) -> Sequence[InvoiceOut]:
        lines = await InvoiceRows(session).lines(scope, [row.id for row in rows])
        notes = await CreditNoteRows(session).of_invoices(scope, [row.id for row in rows])
        refunds = await self._refunds(scope, [note for of_one in notes.values() for note in of_one])
        return [
            invoice_out(row, lines.get(row.id, ()), notes.get(row.id, ()), refunds, self.pay_url if links else _no_link)
            for row in rows
        ]

    async def _credit_notes(self, scope: Scope, notes: Sequence[CreditNote]) -> Sequence[CreditNoteOut]:
        refunds = await self._refunds(scope, notes)
        return [credit_note_out(note, refunds.get(note.refund_id) if note.refund_id else None) for note in notes]

    async def _refunds(self, scope: Scope, notes: Sequence[CreditNote]) -> dict[UUID, str]:
        wanted = [note.refund_id for note in notes if note.refund_id is not None]
        found = await self._payments.render_refunds(scope, wanted) if wanted else {}
        return {refund_id: refund["status"] for refund_id, refund in found.items()}

    def pay_url(self, invoice: Invoice) -> str | None:
        """Where the customer pays it; ``None`` when there is nothing to pay."""
        return self._links.url(invoice.scope, invoice.id) if invoice.left_minor > 0 else None


def _no_link(_: Invoice) -> None:
    return None


def _line(scope: Scope, invoice_id: UUID, position: int, line: LineIn) -> dict[str, Any]:
    amount = line.quantity * line.unit_amount_minor
    tax = None
    if line.tax is not None:
        tax = Tax(name=line.tax.name, rate_bp=line.tax.rate_bp, inclusive=line.tax.inclusive)
    return {
        "tenant_id": scope.tenant_id,
        "live": scope.live,
        "invoice_id": invoice_id,
        "position": position,
        "kind": "manual",
        "plan_id": None,
        "description": line.description,
        "quantity": line.quantity,
        "unit_amount_minor": line.unit_amount_minor,
        "amount_minor": amount,
        "discount_minor": 0,
        "tax_name": None if tax is None else tax.name,
        "tax_rate_bp": None if tax is None else tax.rate_bp,
        "tax_inclusive": tax is None or tax.inclusive,
        "tax_minor": (line.tax_minor or 0) if tax is None else taxed(amount, tax),
        "period_start": None,
        "period_end": None,
    }


def _document(caller: Caller) -> dict[str, Any]:
    return {
        "tenant_id": caller.scope.tenant_id,
        "live": caller.scope.live,
        "now": clock.now(),
        "actor_type": caller.actor_type,
        "actor_id": caller.actor_id,
        "request_id": caller.request_id,
    }


async def _call(session: AsyncSession, function: str, document: dict[str, Any]) -> None:
    await session.execute(text(f"SELECT {sqlbundle.name(function)}(CAST(:p AS jsonb))"), {"p": _json(document)})


def _json(document: dict[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
