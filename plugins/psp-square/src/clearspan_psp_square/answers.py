"""Reading what Square says, answers and messages alike.

Statuses: ``Payment.status`` is APPROVED, PENDING, COMPLETED, CANCELED or FAILED, ``PaymentRefund.status`` PENDING, COMPLETED,
REJECTED or FAILED (reference of both objects, Square-Version 2025-08-20; the description types them as free text).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_square.refusals import REFUSALS, UNKNOWN

DISPUTE_STATES = {
    "INQUIRY_EVIDENCE_REQUIRED": sdk.DisputeStatus.INQUIRY,
    "INQUIRY_PROCESSING": sdk.DisputeStatus.INQUIRY,
    "INQUIRY_CLOSED": sdk.DisputeStatus.INQUIRY_CLOSED,
    "EVIDENCE_REQUIRED": sdk.DisputeStatus.NEEDS_RESPONSE,
    "PROCESSING": sdk.DisputeStatus.UNDER_REVIEW,
    "WON": sdk.DisputeStatus.WON,
    "LOST": sdk.DisputeStatus.LOST,
    "ACCEPTED": sdk.DisputeStatus.ACCEPTED,
}
"""``DisputeState`` of the description."""


class SquareMoney(msgspec.Struct, frozen=True):
    """In the currency's smallest unit (https://developer.squareup.com/docs/build-basics/working-with-monetary-amounts)."""

    amount: int
    currency: str

    def money(self) -> sdk.Money:
        """Ours."""
        return sdk.Money(self.amount, self.currency)


class Fee(msgspec.Struct, frozen=True):
    """``ProcessingFee``."""

    amount_money: SquareMoney


class Error(msgspec.Struct, frozen=True):
    """``Error``."""

    category: str
    code: str
    detail: str = ""
    field: str = ""


class CardDetails(msgspec.Struct, frozen=True):
    """``CardPaymentDetails``, of which only the reason of a failure matters here."""

    errors: list[Error] | None = None


class Payment(msgspec.Struct, frozen=True):
    """``Payment``. ``total_money`` is what is charged, ``approved_money`` what the issuer allowed."""

    id: str
    status: str
    total_money: SquareMoney
    location_id: str
    approved_money: SquareMoney | None = None
    card_details: CardDetails | None = None
    processing_fee: list[Fee] | None = None
    created_at: datetime | None = None


class Refund(msgspec.Struct, frozen=True):
    """``PaymentRefund``. It has no reference of the merchant's; ``reason`` begins with the operation's id."""

    id: str
    status: str
    amount_money: SquareMoney
    payment_id: str
    location_id: str | None = None
    created_at: datetime | None = None


class Made(msgspec.Struct, frozen=True):
    """A customer or a card that was made."""

    id: Annotated[str, msgspec.Meta(min_length=1)]


class DisputedPayment(msgspec.Struct, frozen=True):
    """``DisputedPayment``."""

    payment_id: str


class Dispute(msgspec.Struct, frozen=True):
    """``Dispute``."""

    id: str
    state: str
    amount_money: SquareMoney
    disputed_payment: DisputedPayment
    location_id: str | None = None
    reason: str | None = None
    due_at: datetime | None = None
    version: int | None = None


def reference(raw: dict[str, Any]) -> str | None:
    """The operation's id in a payment, or at the beginning of a refund's reason; others' words there are none of ours."""
    told = str(raw.get("reference_id") or raw.get("reason") or "").partition(" ")[0]
    return told if told.startswith("op_") else None


def refused(raw: dict[str, Any], *, by_state: bool = False) -> sdk.Declined:
    """What an answer with ``errors`` means (https://developer.squareup.com/docs/build-basics/handling-errors).

    Args:
        by_state: the request had no body to be wrong, so what is wrong is the state of the payment.

    Raises:
        PspMisconfigured: the request was wrong, so it was not executed.
        OutcomeUnknown: the errors do not tell.
    """
    errors = sdk.read(raw.get("errors"), list[Error])
    made = next((one for one in (raw.get("payment"), raw.get("refund")) if isinstance(one, dict)), {})
    if not errors or any(error.code in UNKNOWN for error in errors):
        raise sdk.OutcomeUnknown(f"Square answered {', '.join(error.code for error in errors) or 'no error'}")
    error = errors[0]
    final = error.code in REFUSALS.rows or error.category in ("PAYMENT_METHOD_ERROR", "REFUND_ERROR")
    if final or (by_state and error.code == "BAD_REQUEST"):
        return sdk.Declined(
            code=REFUSALS.code(error.code),
            raw_code=error.code,
            message=error.detail or None,
            psp_ref=made.get("id") if isinstance(made.get("id"), str) else None,
            raw={"errors": raw["errors"]},
        )
    if error.category in ("INVALID_REQUEST_ERROR", "AUTHENTICATION_ERROR"):
        field = f" for {error.field}" if error.field else ""
        raise sdk.PspMisconfigured(f"Square refused the request: {error.code}{field}")
    raise sdk.OutcomeUnknown(f"Square answered {error.category} {error.code}")


def charge(payment: Payment, kind: str, raw: dict[str, Any]) -> sdk.Outcome:
    """How an authorisation (``authorize``) or a purchase stands."""
    allowed = payment.approved_money or payment.total_money
    match payment.status:
        case "COMPLETED" | "APPROVED" if kind == "authorize":
            return sdk.Approved(psp_ref=payment.id, amount=allowed.money(), fee=_fee(payment), raw=raw)
        case "COMPLETED":
            return sdk.Approved(psp_ref=payment.id, amount=payment.total_money.money(), fee=_fee(payment), raw=raw)
        case "APPROVED" | "PENDING":
            return sdk.Pending(psp_ref=payment.id, raw=raw)
        case "FAILED" | "CANCELED":
            # A canceled one holds nothing any more, and nobody waits for its money: for a charge that is a no.
            errors = (payment.card_details and payment.card_details.errors) or []
            code = errors[0].code if errors else payment.status
            return sdk.Declined(code=REFUSALS.code(code), raw_code=code, psp_ref=payment.id, raw=raw)
    raise sdk.OutcomeUnknown(f"Square's status {payment.status!r} is not documented")


def change(payment: Payment, kind: str, raw: dict[str, Any]) -> sdk.Outcome | sdk.NotFound:
    """How a capture or a void of the payment stands; neither has an id of its own."""
    ref, allowed = f"{payment.id}/{kind}", payment.approved_money or payment.total_money
    match payment.status, kind:
        case "COMPLETED", "capture":
            return sdk.Approved(psp_ref=ref, amount=payment.total_money.money(), fee=_fee(payment), raw=raw)
        case "CANCELED", "void":
            return sdk.Approved(psp_ref=ref, amount=allowed.money(), raw=raw)
        case "APPROVED" | "PENDING", _:
            return sdk.NotFound(raw=raw)
        case "COMPLETED" | "CANCELED" | "FAILED", _:
            return sdk.Declined(code="not_permitted", raw_code=payment.status, raw=raw)
    raise sdk.OutcomeUnknown(f"Square's status {payment.status!r} is not documented")


def refund(found: Refund, raw: dict[str, Any]) -> sdk.Outcome:
    """How a refund stands."""
    match found.status:
        case "COMPLETED":
            return sdk.Approved(psp_ref=found.id, amount=found.amount_money.money(), raw=raw)
        case "PENDING":
            return sdk.Pending(psp_ref=found.id, raw=raw)
        case "REJECTED" | "FAILED":
            return sdk.Declined(code="generic_decline", raw_code=found.status, psp_ref=found.id, raw=raw)
    raise sdk.OutcomeUnknown(f"Square's status {found.status!r} is not documented")


def payment_news(raw: dict[str, Any], location: str) -> sdk.News | None:
    """What a message or a list says about a payment.

    It never says whether the payment was to be captured at once. APPROVED is an authorisation that stands, or a purchase that
    is not there yet; so it is only a hint, and the lookup, which knows what was asked, decides.
    """
    payment = sdk.read(raw, Payment)
    if payment.location_id != location:
        return None
    if payment.status in ("APPROVED", "PENDING"):
        return sdk.Hint(kind="charge", reference=reference(raw), psp_ref=payment.id)
    if payment.status == "CANCELED":
        voided = change(payment, "void", raw)
        assert isinstance(voided, sdk.Approved)
        return sdk.OperationNews(
            kind="void", outcome=voided, psp_ref=voided.psp_ref, charge_ref=payment.id, amount=voided.amount
        )
    outcome = charge(payment, "purchase", raw)
    amount = (payment.approved_money or payment.total_money).money()
    if isinstance(outcome, sdk.Approved):
        outcome = msgspec.structs.replace(outcome, amount=amount)
    return sdk.OperationNews(
        kind="charge",
        outcome=outcome,
        reference=reference(raw),
        psp_ref=payment.id,
        amount=amount,
        at=payment.created_at,
    )


def refund_news(raw: dict[str, Any], location: str) -> sdk.News | None:
    """What a message or a list says about a refund."""
    found = sdk.read(raw, Refund)
    if found.location_id not in (None, location):
        return None
    return sdk.OperationNews(
        kind="refund",
        outcome=refund(found, raw),
        reference=reference(raw),
        psp_ref=found.id,
        charge_ref=found.payment_id,
        amount=found.amount_money.money(),
        at=found.created_at,
    )


def dispute_news(raw: dict[str, Any], location: str) -> sdk.News | None:
    """What a message says about a dispute."""
    dispute = sdk.read(raw, Dispute)
    if dispute.location_id not in (None, location):
        return None
    if dispute.state not in DISPUTE_STATES:
        raise sdk.OutcomeUnknown(f"Square's dispute state {dispute.state!r} is not documented")
    return sdk.DisputeNews(
        dispute_ref=dispute.id,
        status=DISPUTE_STATES[dispute.state],
        amount=dispute.amount_money.money(),
        charge_ref=dispute.disputed_payment.payment_id,
        reason=dispute.reason,
        evidence_due_at=dispute.due_at,
        raw=raw,
    )


def _fee(payment: Payment) -> sdk.Money | None:
    """What Square keeps; it is often told later than the payment, by ``payment.updated``."""
    fees = [fee.amount_money for fee in payment.processing_fee or ()]
    total = sum(fee.amount for fee in fees)
    return sdk.Money(total, fees[0].currency) if fees and total >= 0 else None
