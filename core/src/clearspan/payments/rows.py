"""What the SQL functions of the money path answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from clearspan.payments.models import Operation, Payment
from clearspan.platform.idempotency import Answer
from clearspan.psps.service import Sending


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What a reserving SQL function answers; exactly one of ``payment``, ``replay`` and ``resume``."""

    payment: Payment | None = None
    operation: Operation | None = None
    sending: Sending | None = None
    operations: list[Operation] = []
    replay: Kept | None = None
    resume: Resume | None = None
    decision: Decision | None = None


class Kept(msgspec.Struct, frozen=True):
    status: int
    body: str

    def answer(self) -> Answer:
        return Answer(self.status, self.body.encode())


class Resume(msgspec.Struct, frozen=True):
    payment_id: UUID
    operation_id: UUID | None = None


class Settled(msgspec.Struct, frozen=True):
    """What ``operation_settle`` answers."""

    payment: Payment
    operation: Operation
    kept: bool


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """A payment with everything about it."""

    payment: Payment
    operations: list[Operation]
    facts: list[dict[str, Any]] = []
    audit: list[dict[str, Any]] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``decisions``."""

    decision_id: UUID
    outcome: str
    reason: str
    state: str
    proposed_by: str
    proposed_at: datetime
    psp_ref: str | None = None
    confirmed_by: str | None = None
    confirmed_at: datetime | None = None


class MandateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``mandates``, as far as payments look at it."""

    mandate_id: UUID
    customer_id: UUID
    payment_method_id: UUID
    psp_account_id: UUID | None = None


class Stale(msgspec.Struct, frozen=True):
    payment_id: UUID
    status: str
    operation_id: UUID | None = None


class InvoiceCharge(msgspec.Struct, frozen=True, kw_only=True):
    """One try to charge an invoice.

    Attributes:
        invoice_id, number: the invoice and its number, which becomes the payment's reference.
        payment_id: of the invoice's payment; a pure function of the invoice, so that there is one.
        opened: the payment is there: this is not the first try.
        operation_id: a pure function of invoice and try, so that a try is made once.
        amount_minor, currency: what the invoice asks for.
        customer_id, payment_method_id: whom and what to charge.
        customer_present: ``False`` for a merchant-initiated charge, which needs a mandate.
        mandate_id: what it rests on, or what its success activates.
        psp_account_id: where; ``None`` for routing.
        clock_at: the time of the customer's test clock, when there is one.
        rebill: of the scheduler: ``lease_token``, ``try``, ``reason``, ``delay_s``.
        description: for the PSP's own pages; no personal data.
        return_url: where the payer comes back to after an action.
    """

    invoice_id: UUID
    number: str
    payment_id: UUID
    opened: bool
    operation_id: UUID
    amount_minor: int
    currency: str
    customer_id: UUID
    payment_method_id: UUID
    customer_present: bool
    mandate_id: UUID | None = None
    psp_account_id: UUID | None = None
    clock_at: datetime | None = None
    rebill: dict[str, Any] | None = None
    description: str | None = None
    return_url: str | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A payment of nothing by which a customer who is present confirms a mandate.

    Attributes:
        payment_id, operation_id: pure functions of what it is for, so that there is one.
        currency: of the zero.
        customer_id, payment_method_id, mandate_id: whose, what, and what its success activates.
        psp_account_id: where; ``None`` for routing.
        clock_at: the time of the customer's test clock, when there is one.
        return_url: where the payer comes back to after an action.
    """

    payment_id: UUID
    operation_id: UUID
    currency: str
    customer_id: UUID
    payment_method_id: UUID
    mandate_id: UUID
    psp_account_id: UUID | None = None
    clock_at: datetime | None = None
    return_url: str | None = None
