"""Stripe's messages: whom they are believed, and what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan.sdk import Money
from clearspan_psp_stripe import webhooks

SAMPLES = json.loads((Path(__file__).parent / "spec" / "fixtures3.subset.json").read_text())["resources"]
SPEC = json.loads((Path(__file__).parent / "spec" / "spec3.subset.json").read_text())
SECRET = "whsec_simulator"

# Payload and secret of stripe-python's tests/test_webhook.py; the signature was computed and verified with stripe 16.1.0 (Stripe
# publishes no vector with a fixed time). judges/test_sdk.py lets the SDK judge what the simulator signs.
VECTOR_SECRET = "whsec_test_secret"
VECTOR_BODY = (
    b'{\n  "id": "evt_test_webhook",\n  "object": "event",\n  "data": { "object": { "id": "rdr_123",'
    b' "object": "terminal.reader" } }\n}'
)
VECTOR_AT = 1614556800
VECTOR = "206d84847ba6b43f9ff2d9a5c30466fd87fc05989b46ee2733cf32ba442c873c"


def delivery(header: str | None, body: bytes = VECTOR_BODY, at: int = VECTOR_AT) -> sdk.WebhookDelivery:
    headers = {} if header is None else {"stripe-signature": header}
    return sdk.WebhookDelivery(headers=headers, body=body, query={}, received_at=datetime.fromtimestamp(at, UTC))


@pytest.mark.parametrize(
    ("header", "away_s"),
    [
        (f"t={VECTOR_AT},v1={VECTOR}", 0),
        (f"t={VECTOR_AT},v1={VECTOR}", 300),
        (f"t={VECTOR_AT},v1={VECTOR}", -300),
        (f"t={VECTOR_AT}, v1={'0' * 64}, v1={VECTOR}, v0=1", 0),
    ],
    ids=["now", "late", "early", "second of two"],
)
def test_a_good_signature_holds(header: str, away_s: int) -> None:
    webhooks.verify(delivery(header, at=VECTOR_AT + away_s), VECTOR_SECRET)


@pytest.mark.parametrize(
    ("header", "away_s"),
    [
        (None, 0),
        ("", 0),
        (f"v1={VECTOR}", 0),
        (f"t={VECTOR_AT}", 0),
        (f"t={VECTOR_AT},v0={VECTOR}", 0),
        (f"t={VECTOR_AT},v1={VECTOR}", 301),
        (f"t={VECTOR_AT},v1={VECTOR}", -301),
        (f"t={VECTOR_AT + 1},v1={VECTOR}", 0),
        (f"t={VECTOR_AT},t={VECTOR_AT},v1={VECTOR}", 0),
        (f"t=١٢٣,v1={VECTOR}", 0),
        (f"t={'9' * 40},v1={VECTOR}", 0),
        (f"t={VECTOR_AT},v1={VECTOR.upper()}", 0),
    ],
)
def test_any_other_signature_does_not(header: str | None, away_s: int) -> None:
    with pytest.raises(sdk.WebhookRejected):
        webhooks.verify(delivery(header, at=VECTOR_AT + away_s), VECTOR_SECRET)


def test_the_raw_bytes_are_signed() -> None:
    header = f"t={VECTOR_AT},v1={VECTOR}"
    with pytest.raises(sdk.WebhookRejected):
        webhooks.verify(delivery(header, json.dumps(json.loads(VECTOR_BODY)).encode()), VECTOR_SECRET)


def test_an_account_without_a_secret_believes_nothing() -> None:
    signed = sdk.hmac_hex(b"", f"{VECTOR_AT}.".encode() + VECTOR_BODY)
    with pytest.raises(sdk.WebhookRejected):
        webhooks.verify(delivery(f"t={VECTOR_AT},v1={signed}"), "")


async def test_a_purchase_is_told(shop: Any) -> None:
    request = shop.request(metadata={"clearspan_payment": "pay_7"})
    charge = await shop.approved(request)
    told = [event for event in await shop.events(request.operation_id) if event.news is not None]
    assert [event.type for event in told] == ["payment_intent.succeeded"]
    news = told[0].news
    assert isinstance(news, sdk.OperationNews)
    assert (news.kind, news.reference, news.psp_ref) == ("charge", request.operation_id, charge.psp_ref)
    assert (news.amount, news.capture, news.metadata) == (Money(1099, "EUR"), True, {"clearspan_payment": "pay_7"})
    assert isinstance(news.outcome, sdk.Approved)
    assert "secret" not in str(news.outcome.raw)


async def test_a_decline_a_challenge_and_its_end_are_told(shop: Any) -> None:
    declined = shop.request("4000000000009995")
    await shop.psp.create_intent(declined)
    (news,) = [event.news for event in await shop.events(declined.operation_id) if event.news]
    assert (news.outcome.code, news.reference) == ("insufficient_funds", declined.operation_id)
    challenged = shop.request("4000002500003155")
    action = await shop.psp.create_intent(challenged)
    await shop.api.get(action.action.url, params={"outcome": "approve"})
    told = [event.news.outcome for event in await shop.events(challenged.operation_id) if event.news]
    assert [type(one) for one in told] == [sdk.ActionRequired, sdk.Approved]


async def test_a_capture_by_us_and_one_by_hand_are_told(shop: Any) -> None:
    for by_us in (True, False):
        request = shop.request(capture=False)
        authorised = await shop.approved(request)
        if by_us:
            capture = sdk.CaptureRequest("op_told", "key_told", Money(700, "EUR"), authorised.psp_ref, final=True)
            await shop.psp.capture(capture)
        else:
            await shop.api.post(
                f"/v1/payment_intents/{authorised.psp_ref}/capture",
                data={"amount_to_capture": "700"},
                headers={"Authorization": "Bearer sk_test_simulator"},
            )
        first, second = [event.news for event in await shop.events(request.operation_id) if event.news]
        assert (first.kind, first.capture, first.outcome.amount) == ("charge", False, Money(1099, "EUR"))
        assert (second.kind, second.reference) == ("capture", "op_told" if by_us else None)
        assert (second.charge_ref, second.amount) == (authorised.psp_ref, Money(700, "EUR"))
        assert second.psp_ref == second.outcome.psp_ref == f"{authorised.psp_ref}/capture"


async def test_a_void_by_hand_is_told_and_one_by_us_is_looked_up(shop: Any) -> None:
    request = shop.request(capture=False)
    authorised = await shop.approved(request)
    await shop.psp.cancel(sdk.CancelRequest("op_v", "key_v", request.amount, authorised.psp_ref))
    assert (await shop.events(request.operation_id))[-1].news == sdk.Hint(
        kind="charge", reference=request.operation_id, psp_ref=authorised.psp_ref
    )
    other = shop.request(capture=False)
    authorised = await shop.approved(other)
    await shop.api.post(
        f"/v1/payment_intents/{authorised.psp_ref}/cancel", headers={"Authorization": "Bearer sk_test_simulator"}
    )
    news = (await shop.events(other.operation_id))[-1].news
    assert (news.kind, news.psp_ref, news.charge_ref) == ("void", f"{authorised.psp_ref}/void", authorised.psp_ref)


async def test_refunds_are_told_with_their_charge(shop: Any) -> None:
    charge = await shop.approved(shop.request())
    refund = await shop.psp.refund(sdk.RefundRequest("op_r", "key_r", Money(99, "EUR"), charge.psp_ref))
    await shop.control("refund", {"refund": refund.psp_ref, "status": "failed"})
    told = [event.news for event in await shop.events("op_r")]
    assert [type(one.outcome) for one in told] == [sdk.Approved, sdk.Declined]
    for news in told:
        assert (news.kind, news.reference, news.psp_ref) == ("refund", "op_r", refund.psp_ref)
        assert (news.charge_ref, news.amount) == (charge.psp_ref, Money(99, "EUR"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("warning_needs_response", sdk.DisputeStatus.INQUIRY),
        ("warning_under_review", sdk.DisputeStatus.INQUIRY),
        ("warning_closed", sdk.DisputeStatus.INQUIRY_CLOSED),
        ("needs_response", sdk.DisputeStatus.NEEDS_RESPONSE),
        ("under_review", sdk.DisputeStatus.UNDER_REVIEW),
        ("won", sdk.DisputeStatus.WON),
        ("lost", sdk.DisputeStatus.LOST),
        ("prevented", sdk.DisputeStatus.PREVENTED),
    ],
)
async def test_a_dispute_is_told(shop: Any, status: str, expected: sdk.DisputeStatus) -> None:
    charge = await shop.approved(shop.request())
    dispute = await shop.control("dispute", {"charge": charge.psp_ref, "status": status})
    (event,) = await shop.events(dispute["id"])
    news = event.news
    assert isinstance(news, sdk.DisputeNews)
    assert (news.status, news.charge_ref, news.amount) == (expected, charge.psp_ref, Money(1099, "EUR"))
    assert (news.dispute_ref, news.reason, news.network_code) == (dispute["id"], "fraudulent", "10.4")
    assert news.evidence_due_at == datetime(2023, 9, 26, 23, 59, 59, tzinfo=UTC)
    assert "evidence" not in news.raw


def event(kind: str, about: dict[str, Any], **fields: Any) -> webhooks.Event:
    raw = SAMPLES["event"] | {"type": kind, "api_version": "2023-08-16", "data": {"object": about}} | fields
    return msgspec.convert(raw, webhooks.Event)


def test_a_dispute_in_a_status_nobody_documented_is_for_a_human() -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        webhooks.news(event("charge.dispute.updated", SAMPLES["dispute"] | {"status": "arbitrated"}))


def test_every_documented_status_of_a_dispute_is_known() -> None:
    documented = SPEC["components"]["schemas"]["dispute"]["properties"]["status"]["enum"]
    assert set(documented) | {"prevented"} == set(webhooks._DISPUTES)


def test_what_is_none_of_ours_says_nothing() -> None:
    paid = SAMPLES["payment_intent"] | {"status": "succeeded", "amount_received": 1099}
    for one in (
        event("payment_intent.succeeded", paid),
        event("plan.created", {"id": "plan_1"}),
        event("charge.refunded", SAMPLES["charge"]),
        event("payment_intent.created", paid | {"metadata": {"operation_id": "op_1"}}),
    ):
        assert webhooks.news(one) is None


def test_an_event_of_another_version_is_a_hint() -> None:
    paid = SAMPLES["payment_intent"] | {"status": "succeeded", "metadata": {"operation_id": "op_1"}}
    hint = webhooks.news(event("payment_intent.succeeded", paid, api_version="2017-08-15"))
    assert hint == sdk.Hint(kind="charge", reference="op_1", psp_ref=paid["id"])
    ready = SAMPLES["setup_intent"] | {"status": "succeeded", "metadata": {"operation_id": "op_2"}}
    hint = webhooks.news(event("setup_intent.succeeded", ready))
    assert hint == sdk.Hint(kind="charge", reference="op_2", psp_ref=ready["id"])


def test_an_old_endpoint_shows_the_refund_inside_its_charge() -> None:
    refund = SAMPLES["refund"] | {"metadata": {"operation_id": "op_1"}, "payment_intent": "pi_1"}
    news = webhooks.news(event("charge.refunded", SAMPLES["charge"] | {"refunds": {"data": [refund]}}))
    assert isinstance(news, sdk.OperationNews)
    assert (news.kind, news.reference) == ("refund", "op_1")


async def test_a_message_of_the_other_mode_is_not_believed(open_shop: Any) -> None:
    shop, live = open_shop(), open_shop(live=True, key="sk_live_simulator")
    request = shop.request()
    await shop.approved(request)
    with pytest.raises(sdk.WebhookRejected, match="mode"):
        await live.events(request.operation_id)


async def test_what_happened_is_listed_oldest_first(shop: Any) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    first, second = shop.request(), shop.request("4000000000009995")
    await shop.approved(first)
    await shop.psp.create_intent(second)
    listed = await shop.psp.activity(began, datetime.fromtimestamp(began.timestamp() + 60, UTC))
    ours = [one for one in listed if one.reference in (first.operation_id, second.operation_id)]
    assert [(one.reference, type(one.outcome)) for one in ours] == [
        (first.operation_id, sdk.Approved),
        (second.operation_id, sdk.Declined),
    ]
    assert await shop.psp.activity(datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)) == []
