"""Payments without I/O: states, transitions and the pure function from operations to what a client sees.

This module is the specification. The SQL in ``payments/sql`` does the same under locks; property tests hold the two
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec


class OperationState(StrEnum):
    """Where one intended change at a PSP stands."""

    PREPARED = "prepared"
    SUBMITTED = "submitted"
    REQUIRES_ACTION = "requires_action"
    PENDING = "pending"
    UNKNOWN = "unknown"
    NEEDS_REVIEW = "needs_review"
    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    EXPIRED = "expired"
    NOT_CHARGED = "not_charged"
    NOT_SENT = "not_sent"
    SURPLUS = "surplus"
    REVERSED = "reversed"


S = OperationState

TRANSITIONS: dict[S, frozenset[S]] = {
    S.PREPARED: frozenset({S.SUBMITTED, S.NOT_SENT, S.UNKNOWN}),
    S.SUBMITTED: frozenset({S.NOT_SENT, S.SUCCEEDED, S.DECLINED, S.REQUIRES_ACTION, S.PENDING, S.UNKNOWN}),
    S.REQUIRES_ACTION: frozenset({S.SUCCEEDED, S.DECLINED, S.EXPIRED, S.PENDING, S.UNKNOWN}),
    S.PENDING: frozenset({S.SUCCEEDED, S.DECLINED, S.EXPIRED, S.UNKNOWN}),
    S.UNKNOWN: frozenset(
        {S.SUCCEEDED, S.DECLINED, S.PENDING, S.REQUIRES_ACTION, S.EXPIRED, S.NOT_CHARGED, S.NEEDS_REVIEW}
    ),
    S.NEEDS_REVIEW: frozenset({S.SUCCEEDED, S.DECLINED, S.NOT_CHARGED}),
    S.SUCCEEDED: frozenset({S.REVERSED}),
    S.DECLINED: frozenset({S.SURPLUS, S.REVERSED}),
    S.EXPIRED: frozenset({S.SURPLUS}),
    S.NOT_CHARGED: frozenset({S.SURPLUS}),
    S.NOT_SENT: frozenset({S.SURPLUS}),
    S.SURPLUS: frozenset(),
    S.REVERSED: frozenset(),
}
"""From each state, where a fact may lead; to ``reversed`` a refund only. The database's trigger holds the same table."""

LIVE = frozenset({S.PREPARED, S.SUBMITTED, S.REQUIRES_ACTION, S.PENDING, S.UNKNOWN, S.NEEDS_REVIEW})
"""Not decided: money may still move."""
HOLDS_THE_PLACE = LIVE | {S.SUCCEEDED}
"""At most one charge of an intent is in one of these."""
FINAL = frozenset({S.SUCCEEDED, S.DECLINED, S.EXPIRED, S.NOT_CHARGED, S.NOT_SENT, S.SURPLUS, S.REVERSED})
CHARGES = frozenset({"authorize", "purchase"})


class PaymentStatus(StrEnum):
    """What a client sees."""

    REQUIRES_PAYMENT_METHOD = "requires_payment_method"
    REQUIRES_CONFIRMATION = "requires_confirmation"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    REQUIRES_CAPTURE = "requires_capture"
    SUCCEEDED = "succeeded"
    PARTIALLY_CAPTURED = "partially_captured"
    CANCELED = "canceled"
    EXPIRED = "expired"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``operations``, as far as the domain looks at it. Amounts in minor units."""

    operation_id: UUID
    payment_id: UUID
    kind: str
    state: S
    amount_minor: int
    currency: str
    created_at: datetime
    sent_at: datetime
    updated_at: datetime
    psp_account_id: UUID
    psp_key: str
    psp_ref: str | None = None
    payment_method_id: UUID | None = None
    parent_id: UUID | None = None
    generation: int = 0
    final: bool = False
    code: str | None = None
    raw_code: str | None = None
    advice: str | None = None
    network_code: str | None = None
    message: str | None = None
    next_action: dict[str, Any] | None = None
    action_expires_at: datetime | None = None
    reason: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = {}
    routing: dict[str, Any] = {}
    lease_token: UUID | None = None
    lease_until: datetime | None = None
    sweep_step: int = 0
    decided_at: datetime | None = None
    fee_minor: int | None = None
    psp_sequence: int | None = None
    merchant_initiated: bool = False
    mandate_id: UUID | None = None
    clock_at: datetime | None = None


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``disputes``, as far as the domain looks at it. Amounts in minor units."""

    dispute_id: UUID
    payment_id: UUID
    operation_id: UUID
    psp_account_id: UUID
    psp_ref: str
    status: str
    amount_minor: int
    currency: str
    opened_at: datetime
    updated_at: datetime
    reason: str | None = None
    network_code: str | None = None
    evidence_due_at: datetime | None = None
    sequence: int = 1
    closed_at: datetime | None = None


MONEY_IS_GONE = frozenset({"needs_response", "under_review", "lost", "accepted", "expired", "pre_arbitration"})
"""The states of a dispute in which the PSP has taken the amount back."""


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``payment_intents``. Amounts in minor units of ``currency``."""

    payment_id: UUID
    live: bool
    amount_minor: int
    currency: str
    capture_method: str
    customer_present: bool
    created_at: datetime
    expires_at: datetime
    updated_at: datetime
    status: PaymentStatus
    sequence: int = 1
    customer_id: UUID | None = None
    payment_method_id: UUID | None = None
    mandate_id: UUID | None = None
    psp_account_id: UUID | None = None
    reference: str | None = None
    description: str | None = None
    return_url: str | None = None
    metadata: dict[str, str] = {}
    canceled_at: datetime | None = None
    cancellation_reason: str | None = None
    expired_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_request_reason: str | None = None
    unwind_at: datetime | None = None
    outcome: str | None = None
    charge_operation_id: UUID | None = None
    next_action: dict[str, Any] | None = None
    last_error: dict[str, Any] | None = None
    authorized_minor: int = 0
    captured_minor: int = 0
    capture_pending_minor: int = 0
    voided_minor: int = 0
    refunded_minor: int = 0
    refund_pending_minor: int = 0
    disputed_minor: int = 0
    returned_minor: int = 0
    surplus_minor: int = 0

    @property
    def capturable_minor(self) -> int:
        """What can still be captured."""
        return self.authorized_minor - self.captured_minor - self.capture_pending_minor - self.voided_minor

    @property
    def refundable_minor(self) -> int:
        """What can still be refunded."""
        left = self.captured_minor - self.refunded_minor - self.refund_pending_minor - self.returned_minor
        return max(0, left - self.disputed_minor)


def next_state(state: S, observed: S, *, kind: str = "purchase", fenced: bool = False, answered: bool = True) -> S:
    """Where an observation leads.

    Args:
        state: the operation's state.
        observed: what the observation speaks for.
        kind: the operation's.
        fenced: the observer no longer holds the lease; it may say what the PSP said, but neither that it does not know nor
            that it did not send.
        answered: the observation is the answer to our request; only later news may say that a refund failed after all.
    """
    if fenced and observed in (S.UNKNOWN, S.NOT_SENT):
        return state
    if observed is S.SUCCEEDED and state in (S.DECLINED, S.EXPIRED, S.NOT_CHARGED, S.NOT_SENT):
        return S.SURPLUS
    if observed is S.DECLINED and state is S.SUCCEEDED and kind == "refund" and not answered:
        return S.REVERSED
    return observed if observed in TRANSITIONS[state] and observed is not S.REVERSED else state


def derive(payment: Payment, operations: Sequence[Operation], disputes: Sequence[Dispute] = ()) -> Payment:
    """The intent with every derived field computed from its operations and disputes; ``sequence`` and ``updated_at`` stay."""
    charges = sorted(
        (op for op in operations if op.kind in CHARGES),
        key=lambda op: (op.state in HOLDS_THE_PLACE, op.created_at, op.operation_id.int),
    )
    charge = charges[-1] if charges else None
    state = charge.state if charge else None
    succeeded = charge is not None and state is S.SUCCEEDED
    # What is done to a surplus gives it back, also when it is the only charge there is.
    counted = charge.operation_id if charge and state is not S.SURPLUS else None

    def total(kind: str, states: frozenset[S], *, others: bool = False) -> int:
        return sum(
            op.amount_minor
            for op in operations
            if op.kind == kind and op.state in states and (kind == "capture" or (op.parent_id == counted) is not others)
        )

    # What took effect although it had been given up counts as well, as far as there is room: the money is gone.
    done = frozenset({S.SUCCEEDED, S.SURPLUS})
    authorized = charge.amount_minor if charge is not None and succeeded else 0
    captured = min(total("capture", done), authorized)
    if charge is not None and succeeded and charge.kind == "purchase":
        captured = charge.amount_minor
    final = any(op.final for op in operations if op.kind == "capture" and op.state in done)
    voided = authorized - captured if final else min(total("void", done), authorized - captured)
    refunded = min(total("refund", done), captured)
    refund_pending = min(total("refund", LIVE), captured - refunded)
    surplus = sum(op.amount_minor for op in operations if op.kind in CHARGES and op.state is S.SURPLUS)
    surplus -= total("void", done, others=True) + total("refund", done, others=True)
    returned = sum(one.amount_minor for one in disputes if one.status == "returned")

    if succeeded:
        if captured >= authorized:
            status = PaymentStatus.SUCCEEDED
        elif captured > 0:
            status = PaymentStatus.PARTIALLY_CAPTURED
        elif voided > 0:
            status = PaymentStatus.CANCELED
        else:
            status = PaymentStatus.REQUIRES_CAPTURE
    elif state is S.REQUIRES_ACTION:
        status = PaymentStatus.REQUIRES_ACTION
    elif state in LIVE:
        status = PaymentStatus.PROCESSING
    elif payment.canceled_at is not None or payment.cancel_requested_at is not None:
        status = PaymentStatus.CANCELED
    elif payment.expired_at is not None:
        status = PaymentStatus.EXPIRED
    elif state in (S.DECLINED, S.EXPIRED, S.SURPLUS) or payment.payment_method_id is None:
        status = PaymentStatus.REQUIRES_PAYMENT_METHOD
    else:
        status = PaymentStatus.REQUIRES_CONFIRMATION

    outcome = "unknown" if state in (S.UNKNOWN, S.NEEDS_REVIEW) else "pending" if state is S.PENDING else None
    last_error = None
    if charge is not None and state in (S.DECLINED, S.EXPIRED, S.NOT_CHARGED, S.NOT_SENT):
        told = {
            "code": charge.code or charge.state.value,
            "raw_code": charge.raw_code,
            "advice": charge.advice,
            "network_code": charge.network_code,
            "message": charge.message,
        }
        last_error = {name: value for name, value in told.items() if value is not None}
    return msgspec.structs.replace(
        payment,
        status=status,
        outcome=outcome,
        charge_operation_id=charge.operation_id if charge else None,
        psp_account_id=charge.psp_account_id if charge else payment.psp_account_id,
        next_action=charge.next_action if charge is not None and state is S.REQUIRES_ACTION else None,
        last_error=last_error,
        authorized_minor=authorized,
        captured_minor=captured,
        capture_pending_minor=min(total("capture", LIVE), authorized - captured - voided),
        voided_minor=voided,
        refunded_minor=refunded,
        refund_pending_minor=refund_pending,
        disputed_minor=sum(one.amount_minor for one in disputes if one.status in MONEY_IS_GONE),
        returned_minor=min(returned, captured - refunded - refund_pending),
        surplus_minor=max(0, surplus),
    )
