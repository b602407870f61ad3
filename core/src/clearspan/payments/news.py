"""What PSPs say unasked: webhooks, and what their lists show after a restore.

A message is believed when it is signed, full, and moves an operation forward. One that contradicts what is final
already is looked up first, and the lookup is what counts: so a message can be old, doubled, out of order or wrong
without moving money here. Each fact has an id of its own, so telling it twice changes nothing.

An operation that only the PSP knows is taken in (``operation.adopted``) when it belongs to a charge we know (a refund
made by hand at the PSP), or when ``adopt`` says that our own record may be incomplete (``clearspan recover``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import msgspec

from clearspan.payments import errors
from clearspan.payments.models import FINAL, OperationState
from clearspan.payments.rows import Opened
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller
from clearspan.psps.calls import Observation, read
from clearspan.sdk import Approved, Declined, DisputeNews, Hint, Money, News, OperationNews, OutcomeUnknown

if TYPE_CHECKING:
    from clearspan.payments.service import Payments

JUDGED_MAX = 5
"""So often news is judged anew because the operation changed meanwhile."""
PAYMENT_LABEL = "clearspan_payment"
CLOCK_LABEL = "clearspan_clock"
"""In test mode: the time of the customer's test clock, for a simulator that lives by it."""
"""The metadata that carries a payment's id to the PSP and back."""
_OPENED = msgspec.json.Decoder(Opened)


class Told(msgspec.Struct, frozen=True):
    """What news was about."""

    payment_id: UUID
    operation_id: UUID | None = None
    dispute_id: UUID | None = None


_TOLD = msgspec.json.Decoder(Told)


class _Adopted(msgspec.Struct, frozen=True):
    known: bool = False


async def tell(
    payments: Payments,
    caller: Caller,
    *,
    account_id: UUID,
    news: News,
    fact_id: UUID,
    sequence: int | None,
    adopt: bool,
) -> Told | None:
    """Take in one piece of news.

    Args:
        payments: the service.
        caller: the gateway itself.
        account_id: the PSP account it came for.
        news: as the adapter read it.
        fact_id: the same news always comes with the same one.
        sequence: the PSP's own order, when it has one.
        adopt: take in a charge that is not known at all.

    Returns:
        what it was about; ``None`` when nothing here matches.

    Raises:
        StillOpen: a lookup was needed and gave no clear answer; tell it again later.
        DisputeCurrencyMismatch: a dispute in another currency than its charge.
        DatabaseUnavailable: tell it again later.
    """
    if isinstance(news, DisputeNews):
        return await _dispute(payments, caller, account_id, news, sequence)
    for _ in range(JUDGED_MAX):
        try:
            return await _tell(payments, caller, account_id, news, fact_id, sequence, adopt=adopt)
        except errors.MovedOn:
            continue  # Another message was faster: what this one says is to be judged by what is known now.
    raise errors.StillOpen("The operation changes faster than its news can be judged.")


async def _tell(
    payments: Payments,
    caller: Caller,
    account_id: UUID,
    news: OperationNews | Hint,
    fact_id: UUID,
    sequence: int | None,
    *,
    adopt: bool,
) -> Told | None:
    opened = await match(payments, caller, account_id, news)
    if opened is None and isinstance(news, OperationNews):
        opened = await _adopt(payments, caller, account_id, news, adopt=adopt)
    if opened is None:
        return None
    operation, sending = opened.operation, opened.sending
    assert operation is not None
    assert sending is not None
    told = Told(operation.payment_id, operation.operation_id)
    if isinstance(news, Hint):
        await payments.settle(caller, opened, await _looked_up(payments, caller, opened), fact_id=fact_id)
        return told
    observation = observed(news, Money(operation.amount_minor, operation.currency))
    contradicts = (
        operation.state in FINAL
        and observation.observed in ("succeeded", "declined")
        and observation.observed != operation.state
        and not (operation.state is OperationState.SURPLUS and observation.observed == "succeeded")
        and not (operation.state is OperationState.REVERSED and observation.observed == "declined")
    )
    older = sequence is not None and operation.psp_sequence is not None and sequence <= operation.psp_sequence
    if contradicts and not older and await payments.can_look_up(caller.scope, operation, sending):
        found = await _looked_up(payments, caller, opened)
        await payments.settle(caller, opened, found, fact_id=uuid5(fact_id, "looked up"), sequence=sequence)
        await payments.settle(caller, opened, observation, fact_id=fact_id, note_only=True)
    else:
        await payments.settle(caller, opened, observation, fact_id=fact_id, sequence=sequence, judged=operation.state)
    return told


async def match(payments: Payments, caller: Caller, account_id: UUID, news: OperationNews | Hint) -> Opened | None:
    """The operation that news speaks of, if we have it."""
    document = {
        "psp_account_id": account_id,
        "operation_id": _operation(news.reference),
        "psp_ref": news.psp_ref
        or (getattr(news.outcome, "psp_ref", None) if isinstance(news, OperationNews) else None),
        "kind": news.kind,
    }
    found = await payments.ask("operation_match", caller, document)
    return None if found is None else _OPENED.decode(found)


async def _looked_up(payments: Payments, caller: Caller, opened: Opened) -> Observation:
    assert opened.operation is not None
    assert opened.sending is not None
    found = await payments.look_up(caller.scope, opened.operation, opened.sending)
    if found.observed in ("not_found", "not_sent", "unknown") and found.code != "amount_mismatch":
        raise errors.StillOpen(f"The PSP was asked and did not say: {found.code or found.observed}.")
    return found


def observed(news: OperationNews, asked: Money) -> Observation:
    """What news says about an operation over ``asked``."""
    try:
        return read(news.outcome, asked, "webhook")
    except OutcomeUnknown as error:
        return Observation(observed="unknown", source="webhook", code="psp_answer_unclear", message=str(error)[:500])


def came_to_nothing(news: OperationNews) -> bool:
    """Whether the PSP refused the operation: there is no money to account for."""
    return isinstance(news.outcome, Declined)


async def _adopt(
    payments: Payments, caller: Caller, account_id: UUID, news: OperationNews, *, adopt: bool
) -> Opened | None:
    """An operation that only the PSP knows and that took effect there, or may."""
    if isinstance(news.outcome, Declined) or (news.kind == "charge" and not adopt):
        return None
    amount = news.outcome.amount if isinstance(news.outcome, Approved) else news.amount
    if amount is None:
        return None
    operation_id = _operation(news.reference) or uuid5(account_id, f"{news.kind} {news.outcome.psp_ref}")
    payment_id = _payment(news.metadata.get(PAYMENT_LABEL)) or uuid5(operation_id, "payment")
    capture = news.capture if news.capture is not None else True
    document: dict[str, Any] = {
        "payment_id": payment_id,
        "operation": {
            "operation_id": operation_id,
            "kind": news.kind,
            "capture": capture,
            "amount_minor": amount.amount_minor,
            "currency": amount.currency,
            "psp_account_id": account_id,
            "charge_ref": news.charge_ref,
            "psp_key": f"adopted-{operation_id}",
        },
    }
    found = await payments.ask("operation_adopt", caller, document)
    if found is None:
        return None
    if msgspec.json.decode(found, type=_Adopted).known:
        # Its reservation was committed in this moment, for another account or kind than the news speaks of, or for the same.
        return await match(payments, caller, account_id, news)
    return _OPENED.decode(found)


async def _dispute(
    payments: Payments, caller: Caller, account_id: UUID, news: DisputeNews, sequence: int | None
) -> Told | None:
    document = {
        "dispute_id": clock.new_uuid(),
        "psp_account_id": account_id,
        "psp_ref": news.dispute_ref,
        "status": news.status,
        "amount_minor": news.amount.amount_minor,
        "currency": news.amount.currency,
        "charge_ref": news.charge_ref,
        "operation_id": _operation(news.reference),
        "reason": news.reason,
        "network_code": news.network_code,
        "evidence_due_at": news.evidence_due_at,
        "psp_sequence": sequence,
    }
    found = await payments.ask("dispute_apply", caller, document)
    return None if found is None else _TOLD.decode(found)


def _operation(reference: str | None) -> UUID | None:
    return _decoded("op", reference)


def _payment(label: str | None) -> UUID | None:
    return _decoded("pay", label)


def _decoded(prefix: str, text: str | None) -> UUID | None:
    try:
        return None if text is None else ids.decode(prefix, text)
    except ids.InvalidId:
        return None
