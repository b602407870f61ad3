"""Standard webhooks: who sent a message, and what each of its items says.

An item is signed by itself, over eight fields (``additionalData.hmacSignature``): not over ``reason``, ``eventDate`` and the rest
of ``additionalData``. So money is decided by signed fields only; the others add words, dates and the state of a dispute.
Sources: ``Webhooks-v1`` of Adyen/adyen-openapi, https://docs.adyen.com/development-resources/webhooks/verify-hmac-signatures, the
vectors of Adyen's Python library, https://docs.adyen.com/risk-management/disputes-api/dispute-notifications.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_adyen import answers
from clearspan_psp_adyen.amounts import told
from clearspan_psp_adyen.settings import AdyenConfig

_S = sdk.DisputeStatus
MODIFICATIONS = {
    "CAPTURE": ("capture", True),
    "CAPTURE_FAILED": ("capture", False),
    "CANCELLATION": ("void", True),
    "TECHNICAL_CANCEL": ("void", True),  # of a cancellation by our reference
    "REFUND": ("refund", True),
    "REFUND_FAILED": ("refund", False),
    "REFUNDED_REVERSED": ("refund", False),
}
"""Event code -> kind of operation, and whether the event means that it worked. ``success`` says whether the event took place."""

DISPUTES = {
    "REQUEST_FOR_INFORMATION": _S.INQUIRY,
    "NOTIFICATION_OF_CHARGEBACK": _S.NEEDS_RESPONSE,
    "CHARGEBACK": _S.NEEDS_RESPONSE,  # may still be defended unless disputeStatus says otherwise; the money is gone for now
    "INFORMATION_SUPPLIED": _S.UNDER_REVIEW,
    "CHARGEBACK_REVERSED": _S.WON,  # the money is back; a second chargeback may follow
    "SECOND_CHARGEBACK": _S.LOST,
    "DISPUTE_DEFENSE_PERIOD_ENDED": _S.EXPIRED,
    "ISSUER_RESPONSE_TIMEFRAME_EXPIRED": _S.WON,
    "PREARBITRATION_OPEN": _S.PRE_ARBITRATION,
    "PREARBITRATION_ACCEPTED": _S.ACCEPTED,
    "PREARBITRATION_DECLINED": _S.PRE_ARBITRATION,  # it goes on: by whom it is declined is not confirmed
    "PREARBITRATION_ISSUER_WITHDRAWN": _S.WON,
    "PREARBITRATION_LOST": _S.LOST,
    "PREARBITRATION_WON": _S.WON,
    "SCHEME_ARBITRATION": _S.PRE_ARBITRATION,
    "SCHEME_ARBITRATION_LOST": _S.LOST,
    "SCHEME_ARBITRATION_WON": _S.WON,
}
"""Event code -> where the dispute stands when ``disputeStatus`` does not say more. Fraud alerts (``NOTIFICATION_OF_FRAUD``) and
``ISSUER_COMMENTS`` change nothing and are not in it."""

STATUSES = {
    "Undefended": _S.NEEDS_RESPONSE,
    "Responded": _S.UNDER_REVIEW,
    "Pending": _S.UNDER_REVIEW,
    "Accepted": _S.ACCEPTED,
    "Expired": _S.EXPIRED,
    "Lost": _S.LOST,
    "Won": _S.WON,
}
"""``disputeStatus``, which refines the event codes of ``_REFINED``."""
_REFINED = {
    *("REQUEST_FOR_INFORMATION", "NOTIFICATION_OF_CHARGEBACK", "CHARGEBACK", "INFORMATION_SUPPLIED"),
    "DISPUTE_DEFENSE_PERIOD_ENDED",
}


class _Amount(msgspec.Struct):
    value: int
    currency: str


class Item(msgspec.Struct, rename="camel"):
    """``NotificationRequestItem``."""

    psp_reference: str
    merchant_account_code: str
    event_code: str
    success: str
    amount: _Amount
    merchant_reference: str = ""
    original_reference: str | None = None
    event_date: str = ""
    reason: str | None = None
    additional_data: dict[str, Any] = {}


class _Wrapper(msgspec.Struct, rename="pascal"):
    notification_request_item: dict[str, Any]


class _Message(msgspec.Struct, rename="camel"):
    live: str
    notification_items: list[_Wrapper]


class _Newer(msgspec.Struct):
    type: str
    environment: str = "test"


def signed_text(raw: Mapping[str, Any]) -> str:
    """What the signature of an item speaks for; nothing is escaped, a missing field is empty."""
    amount = raw.get("amount") or {}
    fields = [raw.get(n) for n in ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")]
    fields += [amount.get("value"), amount.get("currency"), raw.get("eventCode"), raw.get("success")]
    return ":".join("" if one is None else str(one) for one in fields)


def events(delivery: sdk.WebhookDelivery, config: AdyenConfig, *, live: bool) -> list[sdk.WebhookEvent]:
    """The events of a message.

    Raises:
        WebhookRejected: an item is not signed with our key, or is another account's.
        OutcomeUnknown: one cannot be read.
    """
    if config.webhook_username:
        pair = base64.b64encode(f"{config.webhook_username}:{config.webhook_password}".encode()).decode()
        if not sdk.same(delivery.headers.get("authorization", ""), f"Basic {pair}"):
            raise sdk.WebhookRejected("basic authentication is missing or wrong")
    if "hmacsignature" in delivery.headers:
        return _of_newer_kind(delivery, config, live=live)
    try:
        message = msgspec.json.decode(delivery.body, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise sdk.WebhookRejected("not a standard webhook in JSON, so that nothing in it is signed") from None
    items = [wrapper.notification_request_item for wrapper in message.notification_items]
    if not items:
        raise sdk.WebhookRejected("a message without items, so that nothing in it is signed")
    for raw in items:
        _check(raw, config)
    if message.live != ("true" if live else "false"):
        raise sdk.WebhookRejected("the message is of the other mode (live or test)")
    return [_event(raw) for raw in items]


def _of_newer_kind(delivery: sdk.WebhookDelivery, config: AdyenConfig, *, live: bool) -> list[sdk.WebhookEvent]:
    """Messages signed as a whole, over the raw body (bank account changes, tokens): none of them is about a payment."""
    expected = sdk.hmac_base64(bytes.fromhex(config.hmac_key), delivery.body)
    if not sdk.same(delivery.headers["hmacsignature"], expected):
        raise sdk.WebhookRejected("the signature of the message does not hold")
    try:
        message = msgspec.json.decode(delivery.body, type=_Newer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise sdk.OutcomeUnknown("the message is not as documented") from error
    if message.environment != ("live" if live else "test"):
        raise sdk.WebhookRejected("the message is of the other mode (live or test)")
    return [sdk.WebhookEvent(event_id="", type=message.type, news=None)]


def _check(raw: dict[str, Any], config: AdyenConfig) -> None:
    extra, amount = raw.get("additionalData"), raw.get("amount")
    given = extra.get("hmacSignature") if isinstance(extra, dict) else None
    if not isinstance(given, str) or not (amount is None or isinstance(amount, dict)):
        raise sdk.WebhookRejected("an item without hmacSignature: switch HMAC on for this webhook")
    if not sdk.same(given, sdk.hmac_base64(bytes.fromhex(config.hmac_key), signed_text(raw).encode())):
        raise sdk.WebhookRejected("the signature of an item does not hold")
    if raw.get("merchantAccountCode") != config.merchant_account:
        raise sdk.WebhookRejected("the message is another merchant account's")


def _event(raw: dict[str, Any]) -> sdk.WebhookEvent:
    item = sdk.read(raw, Item)
    # Adyen repeats a message with the same three; an outcome that changes its mind comes with another ``success``.
    event_id = f"{item.event_code}/{item.psp_reference}/{item.success}"
    return sdk.WebhookEvent(event_id=event_id, type=item.event_code, news=_news(item, raw))


def _news(item: Item, raw: dict[str, Any]) -> sdk.News | None:
    code, worked = item.event_code, item.success == "true"
    if item.success not in ("true", "false"):
        raise sdk.OutcomeUnknown(f"{code}: success is neither true nor false")
    if code == "AUTHORISATION":
        return _operation("charge", item, raw, worked=worked)
    if code == "OFFER_CLOSED":  # the payer never finished; for cards 12 hours after the redirect
        return _operation("charge", item, raw, worked=False)
    if code in MODIFICATIONS:
        kind, good = MODIFICATIONS[code]
        if not good and not worked:
            raise sdk.OutcomeUnknown(f"{code} with success=false is not documented")
        return _operation(kind, item, raw, worked=good and worked)
    if code == "CANCEL_OR_REFUND":  # of a reversal, which only a human in the Customer Area asks for
        action = item.additional_data.get("modification.action")
        if action not in ("cancel", "refund"):
            raise sdk.OutcomeUnknown("CANCEL_OR_REFUND does not say which of the two it was")
        return _operation("void" if action == "cancel" else "refund", item, raw, worked=worked)
    return _dispute(item, raw, worked=worked) if code in DISPUTES else None


def _operation(kind: str, item: Item, raw: dict[str, Any], *, worked: bool) -> sdk.OperationNews:
    amount = told(item.amount.value, item.amount.currency)
    outcome: sdk.Outcome
    if worked:
        outcome = answers.approved(item.psp_reference, amount, item.additional_data, raw)
    elif kind == "charge" and item.event_code == "AUTHORISATION":
        outcome = answers.declined(None, item.reason, item.additional_data, item.psp_reference, raw)
    else:
        # Refused captures, cancellations and refunds are told in words only, of which Adyen publishes no list.
        code = "authentication_required" if kind == "charge" else "not_permitted"
        outcome = sdk.Declined(
            code=code, raw_code=item.event_code, message=item.reason, psp_ref=item.psp_reference, raw=answers.kept(raw)
        )
    labels = {k.removeprefix("metadata."): str(v) for k, v in item.additional_data.items() if k.startswith("metadata.")}
    return sdk.OperationNews(
        kind=kind,
        outcome=outcome,
        # Of a modification it may be the charge's reference or the modification's own (Adyen's examples show both).
        reference=item.merchant_reference or None,
        psp_ref=item.psp_reference,
        charge_ref=None if kind == "charge" else item.original_reference,
        amount=amount,
        at=_moment(item.event_date),
        metadata=labels if kind == "charge" else {},
    )


def _dispute(item: Item, raw: dict[str, Any], *, worked: bool) -> sdk.DisputeNews:
    if not worked:
        raise sdk.OutcomeUnknown(f"{item.event_code} with success=false is not documented")
    extra = item.additional_data
    status = DISPUTES[item.event_code]
    if item.event_code in _REFINED:
        status = STATUSES.get(str(extra.get("disputeStatus", "")), status)
    code = extra.get("chargebackReasonCode") or extra.get("rfiReasonCode")
    return sdk.DisputeNews(
        dispute_ref=item.psp_reference,
        status=status,
        amount=told(item.amount.value, item.amount.currency),
        charge_ref=item.original_reference,
        reference=item.merchant_reference or None,
        reason=item.reason,
        network_code=str(code).strip() if code else None,
        evidence_due_at=_moment(str(extra.get("defensePeriodEndsAt", ""))),
        raw=answers.kept(raw),
    )


def _moment(text: str) -> datetime | None:
    """ISO 8601 with an offset, as aware UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None
