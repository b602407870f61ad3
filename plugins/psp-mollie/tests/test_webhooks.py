"""Mollie's two kinds of messages: anybody's, which are hints, and signed ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import clearspan.sdk as sdk

if TYPE_CHECKING:
    from conftest import World

CLASSIC = {"content-type": "application/x-www-form-urlencoded"}
# Payload and secret: mollie-api-php (BSD-2), tests/Webhooks/SignatureValidatorTest.php; the value is
# that payload's HMAC, computed apart from our code and checked again below.
SECRET = "test_webhook_secret"
BODY = b'{"id":"tr_12345","event_type":"payment-link.paid"}'
SIGNATURE = "sha256=e479a5e4aaa17db94cfc546071e10e91c0b37f21e464e751ebdd7d7ad2ffd146"


def delivery(body: bytes, **headers: str) -> sdk.WebhookDelivery:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return sdk.WebhookDelivery(headers=names, body=body, query={}, received_at=datetime.now(UTC))


def signed(body: bytes, secret: str = SECRET) -> sdk.WebhookDelivery:
    return delivery(body, x_mollie_signature=f"sha256={sdk.hmac_hex(secret.encode(), body)}")


async def test_an_unsigned_call_is_a_hint_and_nothing_else(world: World) -> None:
    events = await world.adapter.verify_webhook(delivery(b"id=tr_d0b0E3EA3v", **CLASSIC))
    hint = sdk.Hint(kind="charge", psp_ref="tr_d0b0E3EA3v")
    assert events == [sdk.WebhookEvent(event_id="", type="classic", news=hint)]
    other = await world.adapter.verify_webhook(delivery(b"id=ord_kEn1PlbGa", **CLASSIC))
    assert other[0].news is None


@pytest.mark.parametrize(
    "body",
    [b"", b"id=", b"id=tr_1&id=tr_2", b"id=../v2/me", BODY, b"id=tr_\xff", b'{"id": "tr_1"}', b"id=tr_" + b"1" * 999],
)
async def test_what_is_neither_signed_nor_a_call_is_rejected(world: World, body: bytes) -> None:
    with pytest.raises(sdk.WebhookRejected):
        await world.adapter.verify_webhook(delivery(body, **CLASSIC))


async def test_the_official_vector_is_signed_as_the_adapter_checks(world: World) -> None:
    assert f"sha256={sdk.hmac_hex(SECRET.encode(), BODY)}" == SIGNATURE
    adapter = world.another(webhook_secret=SECRET)
    with pytest.raises(sdk.OutcomeUnknown):  # Its payload is the vector's own: signed, and no event.
        await adapter.verify_webhook(delivery(BODY, x_mollie_signature=SIGNATURE))
    # Twice while the secret is rotated: any may match.
    with pytest.raises(sdk.OutcomeUnknown):
        await adapter.verify_webhook(delivery(BODY, x_mollie_signature=f"sha256={'0' * 64}, {SIGNATURE}"))


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY + b" ", SIGNATURE),
        (BODY, SIGNATURE[:-1] + "7"),
        (BODY, ""),
        (BODY, "sha256="),
        (b"", SIGNATURE),
        (BODY, "ä"),
    ],
)
async def test_a_wrong_signature_is_rejected(world: World, body: bytes, signature: str) -> None:
    with pytest.raises(sdk.WebhookRejected):
        await world.another(webhook_secret=SECRET).verify_webhook(delivery(body, x_mollie_signature=signature))


async def test_a_signed_message_is_rejected_where_there_is_no_secret(world: World) -> None:
    with pytest.raises(sdk.WebhookRejected, match="webhook_secret"):
        await world.adapter.verify_webhook(signed(BODY))


async def test_every_message_of_a_payments_life_is_understood(world: World) -> None:
    adapter, before = world.another(webhook_secret=SECRET), len(await world.control("GET webhooks"))
    await world.control("POST webhook", {"url": "https://pay.example", "secret": SECRET})
    held = await world.approved(capture=False)
    capture = await world.adapter.capture(world.part(sdk.CaptureRequest, held.psp_ref, final=True))
    refund = await world.adapter.refund(world.part(sdk.RefundRequest, held.psp_ref, 100))
    back = await world.control("POST chargeback", {"payment": held.psp_ref, "value": "5.00"})
    await world.control("POST chargeback", {"payment": held.psp_ref, "reversed": True})
    await world.control("POST webhook", {})
    assert isinstance(capture, sdk.Approved)
    assert isinstance(refund, sdk.Approved)
    told = {}
    for one in (await world.control("GET webhooks"))[before:]:
        message = sdk.WebhookDelivery(
            headers=one["headers"], body=one["body"].encode(), query={}, received_at=datetime.now(UTC)
        )
        for event in await adapter.verify_webhook(message):
            told[event.type] = event.news
    hint = sdk.Hint(kind="charge", psp_ref=held.psp_ref)
    assert told["classic"] == told["payment.authorized"] == told["payment.paid"] == hint
    assert told["capture.succeeded"] == sdk.Hint(kind="capture", psp_ref=capture.psp_ref)
    assert told["refund.refunded"] == sdk.Hint(kind="refund", psp_ref=refund.psp_ref)
    lost, won = told["chargeback.received"], told["chargeback.reversed"]
    assert isinstance(lost, sdk.DisputeNews)
    assert isinstance(won, sdk.DisputeNews)
    assert (lost.dispute_ref, lost.charge_ref, lost.amount) == (back["id"], held.psp_ref, sdk.Money(500, "EUR"))
    assert (lost.status, won.status) == (sdk.DisputeStatus.LOST, sdk.DisputeStatus.WON)


@pytest.mark.parametrize(
    ("body", "understood"),
    [
        (b'{"resource":"event","id":"event_1","type":"payout.completed","entityId":"pot_1"}', True),
        (b'{"resource":"event","id":"event_1","type":"payment-link.paid","entityId":"pl_1"}', True),
        (b'{"resource":"event","id":"event_1","type":"chargeback.received","entityId":"chb_1"}', False),
        (b'{"resource":"event","type":"payment.paid"}', False),
        (b"id=tr_1", False),
        (b"[" * 2000, False),
    ],
)
async def test_signed_messages_of_no_interest_are_ignored_and_unreadable_ones_kept_for_a_human(
    world: World, body: bytes, understood: bool
) -> None:
    adapter = world.another(webhook_secret=SECRET)
    if understood:
        assert [event.news for event in await adapter.verify_webhook(signed(body))] == [None]
    else:
        with pytest.raises(sdk.OutcomeUnknown):
            await adapter.verify_webhook(signed(body))
