"""Reading what Stripe says. Source: the objects of its OpenAPI description of 2023-08-16, and the pages named beside a rule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_stripe.amounts import told
from clearspan_psp_stripe.refusals import REFUSALS

REFERENCE, CAPTURED_BY = "operation_id", "capture_operation_id"
"""Metadata of ours: on a charge or refund, and on a charge by the operation that captured it."""
_UNTOLD = frozenset({"client_secret", "billing_details", "shipping", "receipt_email", "receipt_url", "receipt_number"})
"""Left out of what is kept of an answer: a secret that lets a browser pay again, and personal data."""
_STATUSES = frozenset(
    [
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "canceled",
        "succeeded",
    ]
)


class Error(msgspec.Struct):
    """Why Stripe said no. ``advice_code`` and the two of the network are in newer versions only and are read when they come."""

    type: str
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None
    param: str | None = None
    advice_code: str | None = None
    network_advice_code: str | None = None
    network_decline_code: str | None = None
    payment_intent: dict[str, Any] | None = None
    setup_intent: dict[str, Any] | None = None


class _Refused(msgspec.Struct):
    error: Error


class _ThreeDs(msgspec.Struct):
    result: str | None = None
    authentication_flow: str | None = None
    version: str | None = None


class _Card(msgspec.Struct):
    three_d_secure: _ThreeDs | None = None
    network_transaction_id: str | None = None  # since 2024-12-18, so not in the pinned version


class _Details(msgspec.Struct):
    card: _Card | None = None


class _Balance(msgspec.Struct):
    fee: int
    currency: str


class _Charge(msgspec.Struct):
    status: str
    payment_method_details: _Details | None = None
    balance_transaction: _Balance | str | None = None


class _Redirect(msgspec.Struct):
    url: str | None = None


class _NextAction(msgspec.Struct):
    type: str
    redirect_to_url: _Redirect | None = None


class Intent(msgspec.Struct):
    """A payment intent, or a setup intent, which has no amount."""

    id: str
    object: str
    status: str
    created: int
    metadata: dict[str, str] | None = None
    amount: int = 0
    amount_capturable: int = 0
    amount_received: int = 0
    currency: str = ""
    capture_method: str | None = None
    customer: str | None = None
    payment_method: str | None = None
    setup_future_usage: str | None = None
    usage: str | None = None
    latest_charge: _Charge | str | None = None
    next_action: _NextAction | None = None
    last_payment_error: Error | None = None
    last_setup_error: Error | None = None

    def tagged(self, name: str) -> str | None:
        """A value of the metadata."""
        return (self.metadata or {}).get(name)


class Refund(msgspec.Struct):
    """A refund."""

    id: str
    amount: int
    currency: str
    created: int
    status: str | None = None
    payment_intent: str | None = None
    metadata: dict[str, str] | None = None
    failure_reason: str | None = None
    balance_transaction: _Balance | str | None = None


class Asked(NamedTuple):
    """What an answer must be about.

    Attributes:
        capture: of charges: ``False`` for an authorisation.
        charge: id of the charge that it belongs to.
        looked_up: nothing was asked of Stripe but what it knows.
    """

    reference: str
    amount: sdk.Money
    capture: bool = True
    charge: str | None = None
    looked_up: bool = False


def charge(raw: Mapping[str, Any], asked: Asked, refusal: Error | None = None) -> sdk.Outcome:
    """How a payment or setup intent stands (https://docs.stripe.com/payments/paymentintents/lifecycle).

    Args:
        refusal: what the answer says besides the intent.

    Raises:
        OutcomeUnknown: it is not clear, or about something else.
    """
    found = sdk.read(raw, Intent)
    manual = found.capture_method == "manual"
    if found.tagged(REFERENCE) != asked.reference or (found.object == "payment_intent" and manual == asked.capture):
        raise sdk.OutcomeUnknown("the answer belongs to another operation")
    made = found.latest_charge if isinstance(found.latest_charge, _Charge) else None
    match found.status:
        case "succeeded" if found.object == "setup_intent":
            return _approved(found, asked.amount, made, raw)
        case "succeeded":
            return _approved(found, told(found.amount if manual else found.amount_received, found.currency), made, raw)
        case "requires_capture" if manual:
            return _approved(found, told(found.amount_capturable, found.currency), made, raw)
        case "canceled" if manual and made is not None and made.status == "succeeded":
            # Released or lapsed: the authorisation took effect before that.
            return _approved(found, told(found.amount, found.currency), made, raw)
        case "canceled":
            return decline(Error(type="canceled"), found.id, raw, looked_up=True)
        case "processing":
            return sdk.Pending(psp_ref=found.id, raw=plain(raw))
        case "requires_action" if found.next_action is not None:
            return _action(found, found.next_action, raw)
        case "requires_payment_method" if error := refusal or found.last_payment_error or found.last_setup_error:
            return decline(error, found.id, raw, looked_up=asked.looked_up)
    raise sdk.OutcomeUnknown(f"Stripe says {found.status}, which is not documented for this")


def captured(raw: Mapping[str, Any], asked: Asked) -> sdk.Outcome | sdk.NotFound:
    """What became of a capture, from the intent. Stripe captures once, and what captured it is in the metadata."""
    found = _of_charge(raw, asked)
    if found.tagged(CAPTURED_BY) == asked.reference and found.status in ("succeeded", "processing"):
        ref = f"{found.id}/capture"
        if found.status == "processing":
            return sdk.Pending(psp_ref=ref, raw=plain(raw))
        made = found.latest_charge if isinstance(found.latest_charge, _Charge) else None
        amount = told(found.amount_received, found.currency)
        return sdk.Approved(
            psp_ref=ref, amount=amount, fee=_fee(made.balance_transaction) if made else None, raw=plain(raw)
        )
    return sdk.NotFound(raw=plain(raw))


def voided(raw: Mapping[str, Any], asked: Asked) -> sdk.Outcome | sdk.NotFound:
    """What became of a void, from the intent. Its amount is the whole payment's: after a capture nothing can be voided."""
    found = _of_charge(raw, asked)
    if found.status != "canceled":
        return sdk.NotFound(raw=plain(raw))
    amount = told(found.amount, found.currency) if found.currency else asked.amount
    return sdk.Approved(psp_ref=f"{found.id}/void", amount=amount, raw=plain(raw))


def refund(raw: Mapping[str, Any], asked: Asked) -> sdk.Outcome:
    """How a refund stands. Source of the statuses: https://docs.stripe.com/api/refunds/object, ``status``.

    Raises:
        OutcomeUnknown: it is not clear, or about something else.
    """
    found = sdk.read(raw, Refund)
    if (found.metadata or {}).get(REFERENCE) != asked.reference or asked.charge not in (None, found.payment_intent):
        raise sdk.OutcomeUnknown("the answer belongs to another operation")
    return refund_state(found, raw)


def refund_state(found: Refund, raw: Mapping[str, Any]) -> sdk.Outcome:
    """The same, whoever asked for it."""
    if found.status == "succeeded":
        amount = told(found.amount, found.currency)
        fee = _fee(found.balance_transaction)
        return sdk.Approved(psp_ref=found.id, amount=amount, fee=fee, raw=plain(raw))
    if found.status in ("pending", "requires_action"):
        return sdk.Pending(psp_ref=found.id, raw=plain(raw))
    if found.status in ("failed", "canceled"):
        return decline(Error(type=found.failure_reason or found.status), found.id, raw, looked_up=True)
    raise sdk.OutcomeUnknown(f"Stripe says {found.status}, which is not documented for a refund")


def refused(answer: sdk.Answer) -> Error:
    """Why Stripe refused a request: 400, 402 or 404.

    Raises:
        OutcomeUnknown: the key was used for something else, so that nothing is known about what it was used for.
        PspMisconfigured: the request is malformed or about nothing that Stripe knows; it was not executed.
    """
    error = sdk.read(answer.body, _Refused).error
    if error.type == "idempotency_error":
        raise sdk.OutcomeUnknown("Stripe knows the key, with another request")
    if error.type == "card_error" or (error.code or "") in REFUSALS.rows:
        return error
    field = f", field {error.param}" if error.param else ""
    raise sdk.PspMisconfigured(f"Stripe refused the request: {error.code or error.type}{field}")


def decline(error: Error, ref: str | None, raw: Mapping[str, Any], *, looked_up: bool = False) -> sdk.Declined:
    """The refusal in the gateway's words.

    Raises:
        OutcomeUnknown: Stripe suspects a duplicate; only a lookup says of what.
    """
    code = error.decline_code or error.code or error.type
    if REFUSALS.code(code) == "duplicate" and not looked_up:
        raise sdk.OutcomeUnknown("Stripe suspects a duplicate: look the operation up")
    return sdk.Declined(
        code=REFUSALS.code(code),
        raw_code=code,
        advice=error.network_advice_code or error.advice_code,
        network_code=error.network_decline_code,
        message=error.message,
        psp_ref=ref,
        raw=plain(raw),
    )


def plain(raw: Any) -> Any:
    """An answer without what must not be kept."""
    if isinstance(raw, Mapping):
        return {name: plain(one) for name, one in raw.items() if name not in _UNTOLD}
    return [plain(one) for one in raw] if isinstance(raw, list) else raw


def at(seconds: int) -> datetime:
    """Stripe's times are seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def _of_charge(raw: Mapping[str, Any], asked: Asked) -> Intent:
    found = sdk.read(raw, Intent)
    if found.id != asked.charge or found.status not in _STATUSES:
        raise sdk.OutcomeUnknown(f"the answer belongs to another charge, or {found.status} is not documented")
    return found


def _action(found: Intent, action: _NextAction, raw: Mapping[str, Any]) -> sdk.Outcome:
    if action.type == "redirect_to_url" and action.redirect_to_url is not None and action.redirect_to_url.url:
        page = sdk.RedirectAction(action.redirect_to_url.url)
        return sdk.ActionRequired(psp_ref=found.id, action=page, raw=plain(raw))
    if action.type == "card_await_notification":  # India: the issuer tells the payer first, and Stripe charges later.
        return sdk.Pending(psp_ref=found.id, raw=plain(raw))
    raise sdk.OutcomeUnknown(f"the payer must act in a way that was not asked for: {action.type}")


def _approved(found: Intent, amount: sdk.Money, made: _Charge | None, raw: Mapping[str, Any]) -> sdk.Approved:
    card = made and made.payment_method_details and made.payment_method_details.card
    stays = "off_session" in (found.setup_future_usage, found.usage) and found.customer and found.payment_method
    return sdk.Approved(
        psp_ref=found.id,
        amount=amount,
        network_transaction_id=card.network_transaction_id if card else None,
        fee=_fee(made.balance_transaction) if made else None,
        authentication=_authentication(card.three_d_secure) if card else None,
        stored_token=f"{found.customer}/{found.payment_method}" if stays else None,
        raw=plain(raw),
    )


def _authentication(said: _ThreeDs | None) -> sdk.Authentication | None:
    if said is None or said.result != "authenticated":
        return None
    return sdk.Authentication(challenged=said.authentication_flow == "challenge", version=said.version)


def _fee(said: _Balance | str | None) -> sdk.Money | None:
    return told(said.fee, said.currency) if isinstance(said, _Balance) and said.fee > 0 else None
