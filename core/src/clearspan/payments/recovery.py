"""Finding out what became of an operation when nobody said: the rules, without I/O.

An operation whose outcome is not known is looked up at growing distances (``DELAYS_S``, then daily). What is found is
a fact. When the PSP finds nothing, that alone proves nothing, because a request may take effect late; so, in this
order:

1. the charge is still wanted and the PSP still remembers the key: send the *same* key again;
2. the PSP's longest late effect has passed since: it was never executed (``not_charged``), and a new try may be made;
3. else wait.

After ``payments.quarantine_h`` without an answer a human decides (``needs_review``). Age alone never makes a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from clearspan.payments.models import CHARGES, Operation, OperationState, Payment
from clearspan.psps.calls import Observation
from clearspan.sdk import PspFacts

DELAYS_S = (2, 10, 60, 300, 900, 3600, 21_600, 86_400)
"""Seconds from one look to the next; the last one repeats."""
NOT_ASKED = frozenset(
    {"psp_unavailable", "psp_timeout", "psp_answer_unclear", "psp_circuit_open", "psp_busy", "adapter_error"}
)
"""Why a look may end without having heard anything of the PSP."""
NOT_ASKED_DELAY_S = 30
"""Seconds after such a look. An open circuit lets one call in ten seconds through, so that this is no burden."""
RESEND_SHARE = 0.8
"""A key is sent again only within this share of the PSP's window, from its first use (clocks differ, and requests travel)."""
BATCH = 64
"""Operations claimed at once by one process, at most; each is asked about at once, so a lease never waits."""
PER_ACCOUNT = 16
"""Of one PSP account, so many are asked about at a time: one that hangs keeps the others' places free."""
CALLS = 2
"""What one look may take: a lookup, and then sending again or giving up. Its lease lasts for both."""
SLICE_S = 0.25
"""After so long what is due is claimed beside those looks that still wait for their PSP."""
PATIENCE_S = 2.0
"""After so long the looks that still wait go on by themselves, and their job's place is free for other tenants."""
WANTED_FOR = timedelta(minutes=15)
"""A charge with the customer present is sent again only so long after its confirmation: by then the customer has gone."""


class NextStep(StrEnum):
    """What to do when a lookup found nothing."""

    RESEND = "resend"
    NOT_CHARGED = "not_charged"
    WAIT = "wait"


def next_look(operation: Operation, now: datetime) -> datetime:
    """When to look again after this look."""
    return now + timedelta(seconds=DELAYS_S[min(operation.sweep_step, len(DELAYS_S) - 1)])


def look_again(operation: Operation, observation: Observation, now: datetime) -> datetime:
    """When to look again after what was just seen. The distances grow while the PSP answers and has nothing new; one that
    could not be asked is asked again soon, so that everything is found out soon after it is back; and when a lookup that finds
    nothing becomes a proof, it is made at once."""
    at = next_look(operation, now)
    if observation.look_by is not None and observation.look_by > now:
        at = min(at, observation.look_by)
    if observation.observed in (OperationState.UNKNOWN, OperationState.PENDING) and observation.code in NOT_ASKED:
        return min(at, now + timedelta(seconds=NOT_ASKED_DELAY_S))
    return at


def called_off(payment: Payment, operation: Operation) -> bool:
    """Whether the merchant has canceled what this operation would charge."""
    if operation.kind not in CHARGES:
        return False
    return payment.canceled_at is not None or payment.cancel_requested_at is not None


def still_wanted(payment: Payment, operation: Operation, now: datetime) -> bool:
    """Whether sending the operation again is what the merchant and the payer still expect."""
    if operation.kind not in CHARGES:
        return True  # The merchant asked for it, and nobody stands at a till.
    if called_off(payment, operation) or payment.expires_at <= now:
        return False
    return operation.merchant_initiated or now - operation.created_at <= WANTED_FOR


def may_resend(operation: Operation, facts: PspFacts, now: datetime) -> bool:
    """Whether the PSP surely still remembers the key."""
    return now - operation.created_at < facts.idempotency.window * RESEND_SHARE


def can_ask(operation: Operation, facts: PspFacts) -> bool:
    """Whether the PSP can be asked about this operation: by our reference, or by its own when that is known."""
    return facts.lookup.by_reference or (facts.lookup.by_psp_ref and operation.psp_ref is not None)


def after_nothing_was_found(payment: Payment, operation: Operation, facts: PspFacts, now: datetime) -> NextStep:
    """The rule for a lookup by reference that found nothing."""
    if may_resend(operation, facts, now) and still_wanted(payment, operation, now):
        return NextStep.RESEND
    if facts.lookup.by_reference and now - operation.sent_at > facts.max_late_effect + facts.lookup.lag_max:
        return NextStep.NOT_CHARGED
    return NextStep.WAIT


def proof_at(operation: Operation, facts: PspFacts) -> datetime | None:
    """From when on a lookup that finds nothing proves that nothing was executed; ``None``: never."""
    if not facts.lookup.by_reference:
        return None
    return operation.sent_at + facts.max_late_effect + facts.lookup.lag_max + timedelta(seconds=1)


def quarantined(operation: Operation, now: datetime, limit: timedelta) -> bool:
    """Whether a human must decide."""
    return operation.state is OperationState.UNKNOWN and now - operation.created_at > limit


UNWIND_RULE = "unwind"
"""In ``operations.routing``: the gateway gave the charge back on its own."""
UNWIND_DELAYS_S = (60, 600, 3600, 21_600, 86_400)
"""Seconds from a refused try to give a charge back to the next; the last one repeats. Each refusal opens an incident."""


class Unwinding(msgspec.Struct, frozen=True):
    """A charge that nobody wants any more.

    Attributes:
        charge: what is given back.
        kind: ``void`` or ``refund``.
        because: ``surplus`` or ``cancel_requested``.
        tries: how often it was tried already.
    """

    charge: Operation
    kind: str
    because: str
    tries: int


TOOK_EFFECT = (OperationState.SUCCEEDED, OperationState.SURPLUS)


def unwinding(payment: Payment, operations: Sequence[Operation]) -> Unwinding | None:
    """What to give back next: charges that arrived although they had been given up, and one whose cancellation was asked for
    while its outcome was open."""
    for charge in operations:
        if charge.kind not in CHARGES:
            continue
        children = [op for op in operations if op.parent_id == charge.operation_id and op.kind in ("void", "refund")]
        tries = sum(op.routing.get("rule") == UNWIND_RULE for op in children)
        if charge.state is OperationState.SURPLUS:
            back = sum(op.amount_minor for op in children if op.state in TOOK_EFFECT)
            if back < charge.amount_minor:
                kind = "refund" if charge.kind == "purchase" else "void"
                return Unwinding(charge, kind, "surplus", tries)
        elif payment.cancel_requested_at is not None and charge.operation_id == payment.charge_operation_id:
            if charge.state is OperationState.REQUIRES_ACTION or payment.capturable_minor > 0:
                return Unwinding(charge, "void", "cancel_requested", tries)
            if charge.state is OperationState.SUCCEEDED and payment.refundable_minor > 0:
                return Unwinding(charge, "refund", "cancel_requested", tries)
    return None


def unwind_again(operation: Operation, operations: Sequence[Operation], now: datetime) -> datetime:
    """When to try again to give a charge back, after ``operation`` was settled; at once when it was not such a try."""
    if operation.routing.get("rule") != UNWIND_RULE:
        return now
    tries = sum(op.parent_id == operation.parent_id and op.routing.get("rule") == UNWIND_RULE for op in operations)
    return now + timedelta(seconds=UNWIND_DELAYS_S[min(tries, len(UNWIND_DELAYS_S)) - 1])
