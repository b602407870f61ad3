"""Messages: signed, repeated until answered, replayed, shuffled, spoiled and lost; and what the adapter makes of them."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from clearspan.sdk import (
    ActionRequired,
    Approved,
    CancelRequest,
    CaptureRequest,
    Declined,
    DisputeNews,
    DisputeStatus,
    Money,
    OperationNews,
    OutcomeUnknown,
    Pending,
    PspContext,
    RefundRequest,
    RetrieveRequest,
    WebhookDelivery,
    WebhookRejected,
)
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig, signatures
from clearspan_psp_sandbox.webhooks import GIVEN_UP_S, RETRIES_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Eventually, Running, World

CHALLENGE = "4000002500003155"


async def refused(world: World, position: int = -1) -> str:
    with pytest.raises(WebhookRejected) as raised:
        await world.read(position)
    return str(raised.value)


# -- what is told ----------------------------------------------------------------------------------------------------------------


async def test_every_booked_change_is_told_once_and_in_order(world: World) -> None:
    charge = await world.charged(1000, capture=False)
    await world.psp.capture(CaptureRequest("c", "c", Money(400, "EUR"), charge, final=False))
    await world.psp.cancel(CancelRequest("v", "v", Money(600, "EUR"), charge))
    await world.psp.refund(RefundRequest("r", "r", Money(100, "EUR"), charge))
    await world.psp.create_intent(world.request(9050))
    await world.psp.create_intent(world.request(9001))
    await world.time.go_on(3)
    told = world.consumer.types
    assert told[:4] == ["charge.succeeded", "capture.succeeded", "void.succeeded", "refund.succeeded"]
    assert told[4:] == ["charge.pending", "charge.declined", "charge.succeeded"]
    assert len({msgspec.json.decode(body)["id"] for _, _, body in world.consumer.got}) == 7
    assert {url for url, _, _ in world.consumer.got} == {world.hook}


async def test_the_adapter_reads_what_the_answer_said(world: World) -> None:
    request = world.request()
    outcome = await world.psp.create_intent(request)
    assert isinstance(outcome, Approved)
    assert outcome.fee == Money(25 + 15, "EUR")
    await world.time.go_on(1)
    event = await world.read()
    assert (event.type, event.sequence) == ("charge.succeeded", 1)
    assert event.event_id.startswith("evt_")
    news = event.news
    assert isinstance(news, OperationNews)
    assert news.outcome == outcome
    assert (news.kind, news.reference, news.psp_ref) == ("charge", request.operation_id, outcome.psp_ref)
    assert (news.amount, news.capture, news.charge_ref) == (request.amount, True, None)
    assert news.at == datetime.fromtimestamp(1_800_000_000, UTC)


async def test_a_follow_up_names_its_charge(world: World) -> None:
    charge = await world.charged(1000, capture=False)
    await world.psp.capture(CaptureRequest("c", "c", Money(400, "EUR"), charge, final=False))
    await world.time.go_on(1)
    authorised, captured = (await world.read(0)).news, (await world.read(1)).news
    assert isinstance(authorised, OperationNews)
    assert isinstance(captured, OperationNews)
    assert (authorised.capture, captured.capture) == (False, None)
    assert (captured.kind, captured.reference, captured.charge_ref) == ("capture", "c", charge)
    assert isinstance(captured.outcome, Approved)
    assert captured.outcome.fee == Money(6, "EUR")


async def test_a_pending_charge_is_told_twice_with_growing_sequence(world: World) -> None:
    await world.psp.create_intent(world.request(9051))
    await world.time.go_on(3)
    first, second = await world.read(0), await world.read(1)
    assert (first.sequence, second.sequence) == (1, 2)
    assert isinstance(first.news, OperationNews)
    assert isinstance(second.news, OperationNews)
    assert isinstance(first.news.outcome, Pending)
    assert isinstance(second.news.outcome, Declined)


async def test_a_charge_that_is_given_up_declines_the_charge_and_not_the_void(world: World) -> None:
    request = world.request()
    source = msgspec.structs.replace(request.source, number=CHALLENGE)
    waiting = await world.psp.create_intent(msgspec.structs.replace(request, source=source))
    assert isinstance(waiting, ActionRequired)
    void = CancelRequest("v", "v", request.amount, waiting.psp_ref)
    assert isinstance(await world.psp.cancel(void), Approved)
    assert isinstance(await world.psp.cancel(void), Approved)
    found = await world.psp.retrieve(RetrieveRequest("v", "v", "void", request.amount, charge_ref=waiting.psp_ref))
    assert isinstance(found, Approved)
    await world.time.go_on(1)
    assert world.consumer.types == ["charge.requires_action", "void.succeeded", "charge.canceled"]
    voided, canceled = (await world.read(1)).news, (await world.read(2)).news
    assert isinstance(voided, OperationNews)
    assert isinstance(canceled, OperationNews)
    assert isinstance(voided.outcome, Approved)
    assert isinstance(canceled.outcome, Declined)
    assert (canceled.kind, canceled.outcome.raw_code) == ("charge", "2008")


async def test_a_challenge_that_runs_out_is_a_decline_and_a_lapsed_authorisation_is_none(world: World) -> None:
    request = world.request()
    source = msgspec.structs.replace(request.source, number=CHALLENGE)
    waiting = await world.psp.create_intent(msgspec.structs.replace(request, source=source))
    await world.event("expire_authorization", charge=waiting.psp_ref)
    expired = await world.psp.retrieve(RetrieveRequest(request.operation_id, "", "purchase", request.amount))
    assert isinstance(expired, Declined)
    assert (expired.code, expired.raw_code) == ("authentication_required", "2009")
    authorised = world.request(capture=False)
    charge = await world.psp.create_intent(authorised)
    assert isinstance(charge, Approved)
    await world.event("expire_authorization", charge=charge.psp_ref)
    lapsed = await world.psp.retrieve(RetrieveRequest(authorised.operation_id, "", "authorize", authorised.amount))
    assert isinstance(lapsed, Approved)
    late = await world.psp.capture(CaptureRequest("c", "c", authorised.amount, charge.psp_ref, final=True))
    assert isinstance(late, Declined)
    assert late.raw_code == "authorization_expired"


async def test_without_an_address_a_message_is_made_and_not_sent(world: World) -> None:
    await world.psp.create_intent(world.request(webhook_url=None))
    await world.time.go_on(10)
    assert world.consumer.got == []
    (message,) = await world.messages()
    assert (message["type"], message["attempts"], message["delivered"]) == ("charge.succeeded", [], False)


async def test_an_address_in_a_private_network_is_taken(world: World) -> None:
    await world.psp.create_intent(world.request(webhook_url="http://gate_way:8000/v1/hooks/a?b=c"))
    await world.time.go_on(1)
    assert [url for url, _, _ in world.consumer.got] == ["http://gate_way:8000/v1/hooks/a?b=c"]


async def test_the_accounts_own_address_goes_before_the_charges(world: World) -> None:
    assert (await world.api.put("/v1/webhooks", json={"url": "https://elsewhere.example/"})).status_code == 200
    await world.charged()
    await world.time.go_on(1)
    assert [url for url, _, _ in world.consumer.got] == ["https://elsewhere.example/"]


# -- signatures ------------------------------------------------------------------------------------------------------------------


async def test_the_signature_is_a_known_vector() -> None:
    signed = signatures.sign(b'{"id":"evt_x"}', ["whsec_sandbox_alpha"], 1_800_000_000.9)
    # openssl dgst -sha256 -hmac whsec_sandbox_alpha over 1800000000.{"id":"evt_x"}
    assert signed == "t=1800000000,v1=e14406b6a52e8fa172bb16130d59eac148261023c869b038ad99672b2706c126"


async def test_a_changed_body_a_changed_time_and_another_secret_are_refused(world: World) -> None:
    await world.charged()
    await world.time.go_on(1)
    good = world.delivery()
    t, v1 = good.headers["sandbox-signature"].split(",")
    spoiled = [
        (msgspec.structs.replace(good, body=good.body.replace(b"1099", b"1098")), "secret"),
        (with_signature(good, f"t={int(t[2:]) + 1},{v1}"), "secret"),
        (with_signature(good, signatures.sign(good.body, ["whsec_sandbox_beta"], world.time.now)), "secret"),
        (with_signature(good, v1), "malformed"),
        (with_signature(good, f"{t},{v1},v1=é"), "malformed"),
        (with_signature(good, ""), "not signed"),
    ]
    for delivery, why in spoiled:
        with pytest.raises(WebhookRejected, match=why):
            await world.psp.verify_webhook(delivery)
    assert await world.psp.verify_webhook(good)


@pytest.mark.parametrize(("off_s", "good"), [(-301, False), (-300, True), (300, True), (301, False)])
async def test_a_signature_may_be_five_minutes_off_both_ways(world: World, off_s: int, good: bool) -> None:
    await world.charged()
    await world.time.go_on(1)
    delivery = world.delivery()
    signed_at = int(delivery.headers["sandbox-signature"].split(",")[0][2:])
    moved = msgspec.structs.replace(delivery, received_at=datetime.fromtimestamp(signed_at - off_s, UTC))
    if good:
        assert await world.psp.verify_webhook(moved)
    else:
        with pytest.raises(WebhookRejected, match="300 seconds"):
            await world.psp.verify_webhook(moved)


async def test_while_a_secret_is_changed_both_are_good(world: World) -> None:
    await world.api.put("/v1/webhooks", json={"secrets": ["whsec_new", "whsec_sandbox_alpha"]})
    await world.charged()
    await world.time.go_on(1)
    assert (await world.read()).type == "charge.succeeded"
    new = SandboxPsp(
        SandboxPspConfig(url="http://psp", webhook_secret="whsec_new"),
        PspContext(http=world.http, vault_http=world.http),
    )
    assert await new.verify_webhook(world.delivery())
    await world.api.put("/v1/webhooks", json={"secrets": ["whsec_new"]})
    await world.charged()
    await world.time.go_on(1)
    assert "secret" in await refused(world)
    assert await new.verify_webhook(world.delivery())


async def test_a_message_of_another_account_is_refused_even_with_a_good_signature(world: World) -> None:
    await world.charged()
    await world.time.go_on(1)
    body = world.delivery().body.replace(b'"account":"alpha"', b'"account":"beta"')
    delivery = signed(world, body)
    with pytest.raises(WebhookRejected, match="another account"):
        await world.psp.verify_webhook(delivery)
    inside = world.delivery().body.replace(b'"data":{"id"', b'"data":{"account":"beta","id"')
    mixed = inside.replace(b'"account":"alpha","reference"', b'"account":"beta","reference"')
    with pytest.raises(OutcomeUnknown, match="another account"):
        await world.psp.verify_webhook(signed(world, mixed))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"id":"e","type":"t","account":"alpha","sequence":1,"data":{}}',
        b'{"id":"e","type":"t","account":"alpha","sequence":1,"data":{"kind":"payout"}}',
    ],
)
async def test_a_signed_message_that_nobody_can_read_is_kept_for_a_human(world: World, body: bytes) -> None:
    with pytest.raises(OutcomeUnknown, match="not as documented"):
        await world.psp.verify_webhook(signed(world, body))


def with_signature(delivery: WebhookDelivery, value: str) -> WebhookDelivery:
    return msgspec.structs.replace(delivery, headers={"sandbox-signature": value})


def signed(world: World, body: bytes) -> WebhookDelivery:
    header = signatures.sign(body, ["whsec_sandbox_alpha"], world.time.now)
    at = datetime.fromtimestamp(world.time.now, UTC)
    return WebhookDelivery(headers={"sandbox-signature": header}, body=body, query={}, received_at=at)


# -- until somebody answers ------------------------------------------------------------------------------------------------------


async def test_a_message_is_repeated_until_it_is_answered_with_2xx(world: World) -> None:
    world.consumer.answers = [500, 301, 0, 204]
    await world.charged()
    await world.time.go_on(1 + sum(RETRIES_S[:3]))
    (message,) = await world.messages()
    assert (message["attempts"], message["delivered"]) == ([500, 301, 0, 204], True)
    assert len({body for _, _, body in world.consumer.got}) == 1
    await world.time.go_on(GIVEN_UP_S)
    assert len(world.consumer.got) == 4


async def test_after_three_days_without_an_answer_it_is_given_up(world: World) -> None:
    world.consumer.answers = [500] * 1000
    await world.charged()
    await world.time.go_on(2 * GIVEN_UP_S)
    (message,) = await world.messages()
    assert message["delivered"] is False
    assert len(RETRIES_S) < len(message["attempts"]) < 40


async def test_moving_the_clock_makes_retries_due_and_signs_with_everybodys_time(world: World) -> None:
    world.consumer.answers = [500] * 4
    await world.charged()
    await world.time.go_on(1)
    for _ in range(4):
        await world.api.post("/v1/clock", json={"advance_s": 3600})
        await world.time.go_on(0)
    (message,) = await world.messages()
    assert message["delivered"]
    assert (await world.read()).type == "charge.succeeded"  # the receiver's clock did not move


async def test_a_pause_holds_messages_back(world: World) -> None:
    await world.api.put("/v1/webhooks", json={"paused": True})
    await world.charged()
    await world.time.go_on(100)
    assert world.consumer.got == []
    await world.api.put("/v1/webhooks", json={"paused": False})
    await world.time.go_on(0.1)
    assert world.consumer.types == ["charge.succeeded"]


async def test_a_restart_loses_no_message_and_repeats_none_that_was_delivered(world: World) -> None:
    world.consumer.answers = [200, 500]
    await world.charged(100)
    await world.charged(200)
    await world.time.go_on(0.5)
    await world.charged(300)
    before = await world.messages()
    again = await world.restarted()
    try:
        assert [(one["id"], one["body"]) for one in await again.messages()] == [
            (one["id"], one["body"]) for one in before
        ]
        await again.time.go_on(60)
        amounts = [msgspec.json.decode(body)["data"]["amount"] for _, _, body in again.consumer.got]
        assert sorted(amounts) == [200, 300]
        assert all(one["delivered"] for one in await again.messages())
    finally:
        await again.close()


async def test_a_killed_process_delivers_what_it_had_booked(
    own_simulator: Running, receiver: Receiver, eventually: Eventually
) -> None:
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    body = {"reference": "r", "amount": 5, "currency": "EUR", "webhook_url": receiver.url, "card": CARD}
    receiver.status = 500
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=headers) as api:
        await api.post("/v1/charges", json=body)
        await eventually(receiver.one)
        own_simulator.kill()
        receiver.status = 200
        receiver.got.clear()
        own_simulator.start()
        await api.post("/v1/clock", json={"advance_s": 10})
        headers_, content = await eventually(receiver.one)
    signatures.verify(content, headers_["sandbox-signature"], "whsec_sandbox_alpha", datetime.now(UTC).timestamp())
    assert msgspec.json.decode(content)["type"] == "charge.succeeded"


# -- faults of messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [True, False])
async def test_w1_a_message_comes_several_times_and_is_the_same_event(world: World, parallel: bool) -> None:
    await world.script("W1", options={"times": 9, "parallel": parallel})
    await world.charged()
    await world.time.go_on(1)
    events = [await world.read(position) for position in range(10)]
    assert len(world.consumer.got) == 10
    assert len({event.event_id for event in events}) == 1


async def test_w1_a_message_is_replayed_after_29_days(world: World) -> None:
    await world.charged()
    await world.time.go_on(29 * 86_400)
    first = world.consumer.got[0][2]
    sent = (await world.api.post("/v1/webhooks/send", json={"times": 3, "parallel": True})).json()["sent"]
    assert [one["status"] for one in sent] == [200, 200, 200]
    assert {body for _, _, body in world.consumer.got} == {first}
    assert (await world.read()).sequence == 1


async def test_w2_messages_overtake_each_other(world: World) -> None:
    await world.api.put("/v1/faults", json={"seed": 5, "rates": {"W2": 1}, "options": {"W2": {"hold_s": 10}}})
    for amount in range(100, 120):
        await world.charged(amount)
    await world.time.go_on(11)
    amounts = [msgspec.json.decode(body)["data"]["amount"] for _, _, body in world.consumer.got]
    assert sorted(amounts) == list(range(100, 120)) != amounts


async def test_w2_a_replay_is_shuffled_by_its_seed(world: World) -> None:
    for amount in range(100, 110):
        await world.charged(amount)
    orders = []
    for seed in (1, 1, 2):
        sent = (await world.api.post("/v1/webhooks/send", json={"shuffle_seed": seed})).json()["sent"]
        orders.append([one["id"] for one in sent])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


async def test_w3_a_message_comes_before_the_answer(world: World) -> None:
    await world.script("W3")
    charging = asyncio.create_task(world.psp.create_intent(world.request()))
    answered = []
    world.consumer.on_message = lambda: answered.append(charging.done())
    assert isinstance(await charging, Approved)
    assert answered == [False]
    await world.charged()  # without the fault: after the answer
    assert len(answered) == 1
    await world.time.go_on(1)
    assert len(answered) == 2


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("wrong", "secret"),
        ("missing", "not signed"),
        ("other_account", "secret"),
        ("old", "seconds off"),
        ("future", "seconds off"),
        ("reserialised", "secret"),
    ],
)
async def test_w4_a_bad_signature_is_refused_and_the_repetition_is_good(world: World, kind: str, why: str) -> None:
    world.consumer.answers = [401]
    await world.script("W4", options={"kind": kind})
    await world.charged()
    await world.time.go_on(0.5)
    assert why in await refused(world)
    await world.time.go_on(2)
    assert (await world.read()).type == "charge.succeeded"
    assert [one["attempts"] for one in await world.messages()] == [[401, 200]]


@pytest.mark.parametrize("kind", ["rotated", "two_one_valid"])
async def test_w4_one_valid_signature_of_two_is_enough(world: World, kind: str) -> None:
    await world.script("W4", options={"kind": kind})
    await world.charged()
    await world.time.go_on(0.5)
    assert world.delivery().headers["sandbox-signature"].count("v1=") == 2
    assert (await world.read()).type == "charge.succeeded"


async def test_w4_a_replay_can_be_signed_with_another_secret_and_time(world: World) -> None:
    await world.charged()
    await world.time.go_on(1)
    await world.api.post("/v1/webhooks/send", json={"secret": "whsec_wrong"})
    assert "secret" in await refused(world)
    for shift in (-301, 301):
        await world.api.post("/v1/webhooks/send", json={"timestamp_shift_s": shift})
        assert "seconds off" in await refused(world)


async def test_w5_a_message_comes_to_another_address_too_and_is_refused_there(world: World) -> None:
    await world.script("W5", options={"url": "https://gateway.example/hooks/beta"})
    await world.charged()
    await world.time.go_on(1)
    assert sorted(url for url, _, _ in world.consumer.got) == ["https://gateway.example/hooks/alpha", BETA_HOOK]
    beta = SandboxPsp(
        SandboxPspConfig(url="http://psp", api_key="sk_sandbox_beta"),
        PspContext(http=world.http, vault_http=world.http),
    )
    with pytest.raises(WebhookRejected):
        await beta.verify_webhook(world.delivery(0))
    assert [one["attempts"] for one in await world.messages()] == [[200]]


async def test_w6_a_lost_message_never_comes_but_the_lookup_knows(world: World) -> None:
    request = world.request(fault="W6")
    await world.psp.create_intent(request)
    await world.time.go_on(GIVEN_UP_S)
    assert world.consumer.got == []
    (message,) = await world.messages()
    assert (message["lost"], message["delivered"]) == (True, False)
    found = await world.psp.retrieve(RetrieveRequest(request.operation_id, "", "purchase", request.amount))
    assert isinstance(found, Approved)
    again = await world.restarted()
    await again.time.go_on(GIVEN_UP_S)
    assert again.consumer.got == []
    await again.close()


# -- disputes --------------------------------------------------------------------------------------------------------------------


async def test_a_dispute_is_told_with_its_amount_charge_and_deadline(world: World) -> None:
    request = world.request(1000)
    charge = await world.psp.create_intent(request)
    await world.event("dispute", charge=charge.psp_ref, amount=500)
    await world.time.go_on(1)
    event = await world.read()
    news = event.news
    assert isinstance(news, DisputeNews)
    assert (event.type, news.status) == ("dispute.needs_response", DisputeStatus.NEEDS_RESPONSE)
    assert (news.amount, news.charge_ref, news.reference) == (Money(500, "EUR"), charge.psp_ref, request.operation_id)
    assert news.evidence_due_at == datetime.fromtimestamp(1_800_000_000, UTC) + timedelta(days=14)
    for sequence, status in enumerate(("under_review", "won", "pre_arbitration", "lost"), 2):
        await world.event("dispute_update", dispute=news.dispute_ref, status=status)
        await world.time.go_on(1)
        later = await world.read()
        assert isinstance(later.news, DisputeNews)
        assert (later.news.dispute_ref, later.news.status.value, later.sequence) == (
            news.dispute_ref,
            status,
            sequence,
        )


async def test_a_return_is_told_as_one(world: World) -> None:
    charge = await world.charged(1000)
    await world.event("return", charge=charge, amount=1000)
    await world.time.go_on(1)
    event = await world.read()
    assert isinstance(event.news, DisputeNews)
    assert (event.type, event.news.status, event.news.charge_ref) == (
        "return.created",
        DisputeStatus.RETURNED,
        charge,
    )


BETA_HOOK = "https://gateway.example/hooks/beta"
CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}


class Receiver:
    """A server that receives messages.

    Attributes:
        got: headers (lower case) and body.
        status: what it answers.
    """

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    async def one(self) -> tuple[dict[str, str], bytes] | None:
        return self.got[0] if self.got else None

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.stop()
