"""Stripe's messages: their signature, and what they say. Source: https://docs.stripe.com/webhooks and https://docs.stripe.com/api/events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_stripe import answers
from clearspan_psp_stripe.amounts import told

VERSION = "2023-08-16"
_DISPUTES = {
    "warning_needs_response": sdk.DisputeStatus.INQUIRY,
    "warning_under_review": sdk.DisputeStatus.INQUIRY,
    "warning_closed": sdk.DisputeStatus.INQUIRY_CLOSED,
    "needs_response": sdk.DisputeStatus.NEEDS_RESPONSE,
    "under_review": sdk.DisputeStatus.UNDER_REVIEW,
    "won": sdk.DisputeStatus.WON,
    "lost": sdk.DisputeStatus.LOST,
    "prevented": sdk.DisputeStatus.PREVENTED,  # newer than the pinned version: https://docs.stripe.com/api/disputes/object
}
_REFUNDS = frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"})


class _Data(msgspec.Struct):
    object: dict[str, Any]


class _Request(msgspec.Struct):
    idempotency_key: str | None = None


class Event(msgspec.Struct):
    """A message, and a row of the list of events."""

    id: str
    type: str
    livemode: bool
    created: int
    data: _Data
    api_version: str | None = None
    request: _Request | str | None = None


class _NetworkCode(msgspec.Struct):
    network_reason_code: str | None = None


class _DisputedWith(msgspec.Struct):
    card: _NetworkCode | None = None


class _Evidence(msgspec.Struct):
    due_by: int | None = None


class _Dispute(msgspec.Struct):
    id: str
    status: str
    amount: int
    currency: str
    charge: str
    payment_intent: str | None = None
    reason: str | None = None
    evidence_details: _Evidence | None = None
    payment_method_details: _DisputedWith | None = None


def verify(delivery: sdk.WebhookDelivery, secret: str) -> None:
    """``Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>]``: HMAC-SHA256 over time, dot and raw body; the key is the whole
    secret. Other schemes than v1 are ignored (https://docs.stripe.com/webhooks#verify-manually).

    Raises:
        WebhookRejected: it does not hold.
    """
    pairs = [part.strip().partition("=") for part in delivery.headers.get("stripe-signature", "").split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    if not secret or len(times) != 1 or not (times[0].isascii() and times[0].isdigit()):
        raise sdk.WebhookRejected("the signature is missing or unreadable, or the account has no signing secret")
    expected = sdk.hmac_hex(secret.encode(), times[0].encode() + b"." + delivery.body)
    if not any([sdk.same(value, expected) for name, _, value in pairs if name == "v1"]):  # noqa: C419 compare all, always
        raise sdk.WebhookRejected("the signature is wrong")
    sdk.check_time(int(times[0][:12]), delivery.received_at)


def event(body: bytes) -> Event:
    """A message whose signature is good.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    try:
        return msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise sdk.OutcomeUnknown(f"the message is not as documented: {error}") from error


def news(told_by: Event) -> sdk.News | None:
    """What an event says; ``None`` when it is of no interest, or about a payment that is none of the gateway's.

    ``charge.refunded`` names its refunds only in versions before 2022-11-15; the events of the refunds themselves always do.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    raw = told_by.data.object
    if told_by.type.startswith("charge.dispute."):
        return _dispute(raw)
    if told_by.type in _REFUNDS:
        return _refund(raw)
    if told_by.type == "charge.refunded" and (listed := (raw.get("refunds") or {}).get("data")):
        return _refund(listed[0])
    if told_by.type.startswith(("payment_intent.", "setup_intent.")):
        return _intent(raw, told_by)
    return None


def _intent(raw: Mapping[str, Any], told_by: Event) -> sdk.News | None:
    found = sdk.read(raw, answers.Intent)
    reference = found.tagged(answers.REFERENCE)
    if reference is None or told_by.type.endswith(".created"):
        return None
    made_at = answers.at(told_by.created)
    by_others = not isinstance(told_by.request, _Request) or told_by.request.idempotency_key is None
    if (
        told_by.api_version != VERSION
        or found.object == "setup_intent"
        or (found.status == "canceled" and not by_others)
    ):
        # Another version writes its fields otherwise, a setup intent has no amount, and a cancel that we asked for carries no
        # reference by which it could be known: whoever asked looks it up.
        return sdk.Hint(kind="charge", reference=reference, psp_ref=found.id)
    manual = found.capture_method == "manual"
    amount = told(found.amount, found.currency)
    if manual and found.status == "canceled" and found.latest_charge is not None and found.last_payment_error is None:
        outcome = sdk.Approved(psp_ref=f"{found.id}/void", amount=amount, raw=answers.plain(raw))
        return sdk.OperationNews(
            kind="void", outcome=outcome, psp_ref=outcome.psp_ref, charge_ref=found.id, amount=amount, at=made_at
        )
    if manual and found.status == "succeeded":
        taken = told(found.amount_received, found.currency)
        captured = sdk.Approved(psp_ref=f"{found.id}/capture", amount=taken, raw=answers.plain(raw))
        return sdk.OperationNews(
            kind="capture",
            outcome=captured,
            reference=found.tagged(answers.CAPTURED_BY),
            psp_ref=captured.psp_ref,
            charge_ref=found.id,
            amount=taken,
            at=made_at,
        )
    return sdk.OperationNews(
        kind="charge",
        outcome=answers.charge(raw, answers.Asked(reference, amount, capture=not manual, looked_up=True)),
        reference=reference,
        psp_ref=found.id,
        amount=amount,
        capture=not manual,
        at=answers.at(found.created),
        metadata={name: value for name, value in (found.metadata or {}).items() if name != answers.REFERENCE},
    )


def _refund(raw: Mapping[str, Any]) -> sdk.News:
    found = sdk.read(raw, answers.Refund)
    return sdk.OperationNews(
        kind="refund",
        outcome=answers.refund_state(found, raw),
        reference=(found.metadata or {}).get(answers.REFERENCE),
        psp_ref=found.id,
        charge_ref=found.payment_intent,
        amount=told(found.amount, found.currency),
        at=answers.at(found.created),
    )


def _dispute(raw: Mapping[str, Any]) -> sdk.News:
    found = sdk.read(raw, _Dispute)
    if found.status not in _DISPUTES:
        raise sdk.OutcomeUnknown(f"a dispute that is {found.status}, which is not documented")
    due = found.evidence_details and found.evidence_details.due_by
    card = found.payment_method_details and found.payment_method_details.card
    return sdk.DisputeNews(
        dispute_ref=found.id,
        status=_DISPUTES[found.status],
        amount=told(found.amount, found.currency),
        charge_ref=found.payment_intent or found.charge,
        reason=found.reason,
        network_code=card.network_reason_code if card else None,
        evidence_due_at=answers.at(due) if due else None,
        raw={name: value for name, value in answers.plain(raw).items() if name != "evidence"},
    )
