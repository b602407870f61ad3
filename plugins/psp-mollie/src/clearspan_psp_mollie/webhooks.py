"""Mollie's two kinds of messages.

Classic: to the address that each payment is sent with; a form ``id=tr_...``, unsigned, and called whenever the payment, a refund
or a chargeback of it changes. Its sender is anybody, so it is a hint and nothing else: the payment is to be fetched
(https://docs.mollie.com/reference/webhooks). Mollie repeats it for 26 hours (the same page; not confirmed here).

Events: to an address made in the dashboard; JSON, ``X-Mollie-Signature: sha256=<hex>``, HMAC-SHA256 over the raw body, sent twice
while a secret is rotated (https://docs.mollie.com/reference/webhooks-best-practices; no time is signed). What they say of
operations is looked up all the same. Chargebacks have no lookup of their own, so that a signed one is believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_mollie import answers

HEADER = "x-mollie-signature"
_KINDS = {"payment": "charge", "capture": "capture", "refund": "refund"}
_ID = re.compile(r"[a-z]{2,8}_[A-Za-z0-9]{1,64}")


class _Embedded(msgspec.Struct):
    entity: dict[str, Any] | None = None


class _Event(msgspec.Struct, rename="camel"):
    id: str
    type: str
    entity_id: str | None = None
    embedded: _Embedded | None = msgspec.field(name="_embedded", default=None)


def events(delivery: sdk.WebhookDelivery, secret: str) -> Sequence[sdk.WebhookEvent]:
    """What a message says.

    Raises:
        WebhookRejected: it is neither a classic call nor signed with the secret.
        OutcomeUnknown: it is signed, and not readable.
    """
    header = delivery.headers.get(HEADER)
    if header is None:
        return [_classic(delivery.body)]
    if not secret:
        raise sdk.WebhookRejected("the message is signed, and the account has no webhook_secret to check it with")
    expected = sdk.hmac_hex(secret.encode(), delivery.body)
    given = [one.strip().removeprefix("sha256=") for one in header.split(",")]
    if not any(sdk.same(one, expected) for one in given):
        raise sdk.WebhookRejected("the signature is wrong")
    return [_signed(delivery.body)]


def _classic(body: bytes) -> sdk.WebhookEvent:
    fields = parse_qs(body.decode("utf-8", "replace"))
    said = fields.get("id", [""])
    if len(said) != 1 or not _ID.fullmatch(said[0]):
        raise sdk.WebhookRejected("the message is unsigned and no call about a payment")
    news = sdk.Hint(kind="charge", psp_ref=said[0]) if said[0].startswith("tr_") else None
    return sdk.WebhookEvent(event_id="", type="classic", news=news)


def _signed(body: bytes) -> sdk.WebhookEvent:
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise sdk.OutcomeUnknown(f"the message is not as documented: {error}") from error
    about, news = event.type.partition(".")[0], None
    if about in _KINDS and event.entity_id:
        news = sdk.Hint(kind=_KINDS[about], psp_ref=event.entity_id)
    elif about == "chargeback":
        if event.embedded is None or event.embedded.entity is None:
            raise sdk.OutcomeUnknown("the event holds no chargeback: let Mollie's webhook send full payloads")
        return sdk.WebhookEvent(event_id=event.id, type=event.type, news=answers.dispute(event.embedded.entity))
    return sdk.WebhookEvent(event_id=event.id, type=event.type, news=news)
