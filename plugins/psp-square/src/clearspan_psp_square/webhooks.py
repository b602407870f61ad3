"""Square's messages.

Signature: base64 of HMAC-SHA256 over the subscription's URL and the raw body, keyed with the subscription's signature key as it
stands, in ``x-square-hmacsha256-signature`` (https://developer.squareup.com/docs/webhooks/step3validate). No time is signed, so a
message can be sent again by whoever saw it; the core takes each ``event_id`` once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_square import answers
from clearspan_psp_square.settings import SquareConfig

HEADER = "x-square-hmacsha256-signature"
READERS: dict[str, tuple[str, Callable[[dict[str, Any], str], sdk.News | None]]] = {
    "payment.created": ("payment", answers.payment_news),
    "payment.updated": ("payment", answers.payment_news),
    "refund.created": ("refund", answers.refund_news),
    "refund.updated": ("refund", answers.refund_news),
    "dispute.created": ("dispute", answers.dispute_news),
    "dispute.state.updated": ("dispute", answers.dispute_news),
    "dispute.state.changed": ("dispute", answers.dispute_news),
}
"""Type of message -> where its object is under ``data.object``, and who reads it. ``dispute.state.changed``, once the name of
``dispute.state.updated`` (https://developer.squareup.com/reference/square/webhooks/dispute.state.updated), is not confirmed and
taken as the same."""


class Data(msgspec.Struct, frozen=True):
    """What the message is about."""

    object: dict[str, dict[str, Any]] = {}


class Event(msgspec.Struct, frozen=True):
    """The envelope."""

    event_id: str
    type: str
    data: Data = Data()


def read(delivery: sdk.WebhookDelivery, config: SquareConfig) -> list[sdk.WebhookEvent]:
    """Check and read a message; what is about another location of the seller's is of no interest.

    Raises:
        WebhookRejected, OutcomeUnknown: see ``PspAdapter.verify_webhook``.
    """
    url = config.notification_url or delivery.url
    if not (config.webhook_signature_key and url):
        raise sdk.WebhookRejected("the account has no webhook_signature_key, or the gateway no public address")
    signed = url.encode() + delivery.body
    expected = sdk.hmac_base64(config.webhook_signature_key.encode(), signed)
    if not sdk.same(delivery.headers.get(HEADER, ""), expected):
        raise sdk.WebhookRejected(f"{HEADER} is missing or wrong for this body, key and URL")
    try:
        event = msgspec.json.decode(delivery.body, type=Event)
    except msgspec.MsgspecError as error:
        raise sdk.OutcomeUnknown(f"the message is not as documented: {error}") from error
    name, reader = READERS.get(event.type, ("", None))
    raw = event.data.object.get(name)
    if reader is not None and raw is None:
        raise sdk.OutcomeUnknown(f"{event.type} holds no {name}")
    news = reader(raw, config.location_id) if reader is not None and raw is not None else None
    version = raw.get("version") if raw is not None and name == "dispute" else None
    return [sdk.WebhookEvent(event_id=event.event_id, type=event.type, news=news, sequence=version)]
