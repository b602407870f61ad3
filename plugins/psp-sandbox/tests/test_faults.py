"""Every fault that an exchange can meet: what the adapter makes of it, and what the book says.

The adapter never calls a success or a decline what is not clear, and says "not sent" only when not a byte was written.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from clearspan.sdk import (
    Approved,
    CancelRequest,
    CaptureRequest,
    ChargeRequest,
    Declined,
    Money,
    NotFound,
    Outcome,
    OutcomeUnknown,
    Pending,
    PspContext,
    PspMisconfigured,
    PspUnavailable,
    RefundRequest,
    RetrieveRequest,
)
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig
from clearspan_psp_sandbox.faults import TABLE

if TYPE_CHECKING:
    from conftest import Eventually, OpenShop, Running, Shop, World


def lookup(request: ChargeRequest) -> RetrieveRequest:
    return RetrieveRequest(request.operation_id, request.key, "purchase", request.amount)


async def unknown(world: World, request: ChargeRequest, *, after_s: float = 0) -> str:
    """Charge, see that the outcome is unknown, and give the adapter's words."""
    charging = asyncio.create_task(world.psp.create_intent(request))
    await world.time.go_on(after_s)
    assert charging.done()
    with pytest.raises(OutcomeUnknown) as raised:
        await charging
    return str(raised.value)


async def booked_once_under_its_key(world: World, request: ChargeRequest) -> None:
    """The charge is booked, a repeat is answered as booked, and books nothing."""
    again = await world.psp.create_intent(request)
    assert isinstance(again, Approved)
    (booked,) = await world.booked(request.operation_id)
    assert (booked["id"], booked["status"]) == (again.psp_ref, "succeeded")


# -- F1, F2, F3: no answer in time ----------------------------------------------------------------------------------------------


async def test_f1_while_it_hangs_the_charge_is_booked_and_its_key_answers(world: World) -> None:
    request = world.request(fault="F1 hang_s=60")
    charging = asyncio.create_task(world.psp.create_intent(request))
    await world.time.go_on(1)
    assert not charging.done()
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)
    await booked_once_under_its_key(world, request)
    await world.time.go_on(60)
    with pytest.raises(OutcomeUnknown, match="ReadError"):
        await charging
    await booked_once_under_its_key(world, request)


async def test_f2_leaves_no_trace_and_the_key_is_free(world: World) -> None:
    request = world.request(fault="F2 hang_s=60")
    await unknown(world, request, after_s=60)
    assert await world.booked(request.operation_id) == []
    assert isinstance(await world.psp.retrieve(lookup(request)), NotFound)
    await booked_once_under_its_key(world, request)


async def test_f3_books_late_and_is_in_flight_until_then(world: World) -> None:
    request = world.request(fault="F3 delay_s=5 hang_s=1")
    await unknown(world, request, after_s=1)
    assert isinstance(await world.psp.retrieve(lookup(request)), NotFound)
    with pytest.raises(OutcomeUnknown, match="409"):
        await world.psp.create_intent(request)
    await world.time.go_on(3.9)
    assert await world.booked(request.operation_id) == []
    await world.time.go_on(0.2)
    await booked_once_under_its_key(world, request)
    assert world.consumer.types == ["charge.succeeded"]


async def test_f3_with_another_key_is_the_second_charge_that_the_core_must_prevent(world: World) -> None:
    request = world.request(fault="F3 delay_s=5 hang_s=1")
    await unknown(world, request, after_s=1)
    other = world.request(operation_id=request.operation_id, key="another")
    assert isinstance(await world.psp.create_intent(other), Approved)
    await world.time.go_on(5)
    assert len({one["id"] for one in await world.booked(request.operation_id)}) == 2


@pytest.mark.parametrize("verb", ["capture", "void", "refund"])
async def test_f3_decides_a_follow_up_when_its_time_has_come(world: World, verb: str) -> None:
    charge = await world.charged(1000, capture=verb == "refund")
    await world.script("F3", verb=verb, options={"delay_s": 5, "hang_s": 1})
    late = asyncio.create_task(follow_up(world, verb, charge, 1000, "late"))
    await world.time.go_on(1)
    with pytest.raises(OutcomeUnknown):
        await late
    assert isinstance(await follow_up(world, verb, charge, 1000, "other"), Approved)
    await world.time.go_on(5)
    assert await world.booked("late") == []  # nothing is left for it
    outcome = await follow_up(world, verb, charge, 1000, "late")
    assert isinstance(outcome, Declined)
    assert outcome.raw_code in ("already_captured", "charge_voided", "amount_exceeds_captured")


@pytest.mark.parametrize("fault", ["F1", "F2", "F3"])
async def test_a_hanging_simulator_is_unknown_after_the_timeout(open_shop: OpenShop, fault: str) -> None:
    shop = open_shop(timeout_s=0.3)
    request = shop.request(fault=f"{fault} hang_s=1")
    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        await shop.psp.create_intent(request)
    assert isinstance(await shop.psp.retrieve(lookup(request)), Approved if fault == "F1" else NotFound)


async def test_a_late_charge_survives_a_kill(
    own_simulator: Running, open_shop: OpenShop, eventually: Eventually
) -> None:
    shop = open_shop(psp=own_simulator, timeout_s=0.3)
    request = shop.request(fault="F3 delay_s=3600")
    with pytest.raises(OutcomeUnknown):
        await shop.psp.create_intent(request)
    own_simulator.kill()
    own_simulator.start()
    assert isinstance(await shop.psp.retrieve(lookup(request)), NotFound)
    with pytest.raises(OutcomeUnknown, match="409"):
        await shop.psp.create_intent(request)
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=headers) as api:
        await api.post("/v1/clock", json={"advance_s": 3601})
    found = await shop.psp.retrieve(lookup(request))
    assert isinstance(found, Approved)
    again = await shop.psp.create_intent(request)
    assert isinstance(again, Approved)
    assert again.psp_ref == found.psp_ref


# -- F4, F10, F11: an answer that says nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("booked", ["true", "false"])
async def test_f4_a_server_error_is_unknown_whether_it_booked_or_not(world: World, status: int, booked: str) -> None:
    request = world.request(fault=f"F4 status={status} booked={booked}")
    assert str(status) in await unknown(world, request)
    assert len(await world.booked(request.operation_id)) == (1 if booked == "true" else 0)
    await booked_once_under_its_key(world, request)


@pytest.mark.parametrize("checked", [True, False])
async def test_f10_too_many_requests_books_nothing_and_may_answer_a_known_key(world: World, checked: bool) -> None:
    request = world.request()
    await world.script("F10", times=2, options={"checked": checked, "retry_after_s": 3})
    assert "429" in await unknown(world, request)
    assert await world.booked(request.operation_id) == []
    answer = await world.api.post("/v1/charges", json={"reference": "r", "amount": 1, "currency": "EUR", "card": CARD})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    await booked_once_under_its_key(world, request)
    await world.script("F10", options={"checked": checked})
    if checked:
        await booked_once_under_its_key(world, request)
    else:
        assert "429" in await unknown(world, request)


async def test_f11_one_endpoint_is_down_and_the_others_are_not(world: World) -> None:
    await world.api.put("/v1/faults", json={"rates": {"F11": 1.0}, "options": {"F11": {"verb": "charge", "hang_s": 2}}})
    request = world.request()
    assert "503" in await unknown(world, request, after_s=2)
    assert isinstance(await world.psp.retrieve(lookup(request)), NotFound)
    await world.api.put("/v1/faults", json={"rates": {"F11": 1.0}, "options": {"F11": {"verb": "lookup"}}})
    await booked_once_under_its_key(world, request)
    with pytest.raises(OutcomeUnknown, match="503"):
        await world.psp.retrieve(lookup(request))


async def test_f11_a_brown_out_answers_late(world: World) -> None:
    await world.script("F11", options={"kind": "brown_out", "hang_s": 5})
    charging = asyncio.create_task(world.psp.create_intent(world.request()))
    await world.time.go_on(4.9)
    assert not charging.done()
    await world.time.go_on(0.1)
    assert isinstance(await charging, Approved)


# -- F5: the connection breaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "booked"), [("before", 0), ("during", 0), ("after", 1), ("half", 1)])
async def test_f5_a_reset_is_unknown_whenever_it_comes(shop: Shop, simulator: Running, when: str, booked: int) -> None:
    request = shop.request(fault=f"F5 when={when}")
    direct = SandboxPsp(SandboxPspConfig(url=simulator.url), PspContext(http=shop.http, vault_http=shop.vault_http))
    with pytest.raises(OutcomeUnknown):
        await direct.create_intent(request)
    found = await shop.psp.retrieve(lookup(request))
    assert isinstance(found, Approved if booked else NotFound)
    assert isinstance(await shop.psp.create_intent(request), Approved)


@pytest.mark.parametrize("when", ["before", "after", "half"])
async def test_f5_a_reset_without_a_vault_between_is_unknown_too(shop: Shop, simulator: Running, when: str) -> None:
    charge = await shop.psp.create_intent(shop.request(capture=False))
    assert isinstance(charge, Approved)
    operation_id = str(uuid4())
    await script(simulator, {"fault": "F5", "reference": operation_id, "options": {"when": when}})
    request = CaptureRequest(operation_id, operation_id, Money(1099, "EUR"), charge.psp_ref, final=True)
    with pytest.raises(OutcomeUnknown, match=r"ReadError|RemoteProtocolError"):
        await shop.psp.capture(request)
    assert isinstance(await shop.psp.capture(request), Approved)


async def test_f5_a_broken_handshake_and_an_unknown_name_mean_that_nothing_was_sent(broken_tls: str) -> None:
    for url in (broken_tls, "http://psp.invalid"):
        async with httpx.AsyncClient(trust_env=False) as http:
            psp = SandboxPsp(SandboxPspConfig(url=url), PspContext(http=http, vault_http=http))
            with pytest.raises(PspUnavailable, match="not sent"):
                await psp.capture(CaptureRequest("c", "c", Money(1, "EUR"), "ch_x", final=False))


# -- F6, F7, F8: an answer that is none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["F6 kind=large", "F6 kind=gzip_bomb", "F6 kind=endless"])
async def test_f6_a_huge_answer_is_unknown_and_is_not_read_to_its_end(shop: Shop, fault: str) -> None:
    request = shop.request(fault=fault)
    with pytest.raises(OutcomeUnknown):
        await shop.psp.create_intent(request)
    assert isinstance(await shop.psp.retrieve(lookup(request)), Approved)


@pytest.mark.parametrize("kind", ["large", "gzip_bomb", "endless"])
async def test_f6_a_huge_lookup_is_unknown(shop: Shop, simulator: Running, kind: str) -> None:
    request = shop.request()
    await shop.psp.create_intent(request)
    await script(simulator, {"fault": "F6", "reference": request.operation_id, "options": {"kind": kind}})
    with pytest.raises(OutcomeUnknown, match="larger than"):
        await shop.psp.retrieve(lookup(request))


async def test_f6_a_dripping_answer_is_unknown_when_the_time_is_up(shop: Shop, simulator: Running) -> None:
    request = shop.request()
    await shop.psp.create_intent(request)
    await script(simulator, {"fault": "F6", "reference": request.operation_id, "options": {"kind": "drip"}})
    with pytest.raises(TimeoutError):
        # Each byte comes in time: only a budget for the whole call ends it, and that is the core's.
        async with asyncio.timeout(0.5):
            await shop.psp.retrieve(lookup(request))


MALFORMED = TABLE["F7"].options["kind"]
assert isinstance(MALFORMED, tuple)


@pytest.mark.parametrize("kind", MALFORMED)
async def test_f7_a_malformed_answer_is_unknown(world: World, kind: str) -> None:
    request = world.request(fault=f"F7 kind={kind}")
    await unknown(world, request)
    await booked_once_under_its_key(world, request)
    await world.script("F7", verb="lookup", options={"kind": kind})
    with pytest.raises(OutcomeUnknown):
        await world.psp.retrieve(lookup(request))


@pytest.mark.parametrize("kind", ["reference", "object", "account"])
async def test_f8_an_answer_about_something_else_is_unknown(world: World, kind: str) -> None:
    await world.charged(500)
    request = world.request(fault=f"F8 kind={kind}")
    assert "another operation" in await unknown(world, request)
    await booked_once_under_its_key(world, request)


@pytest.mark.parametrize(("kind", "told"), [("amount", Money(1100, "EUR")), ("currency", Money(1099, "USD"))])
async def test_f8_another_amount_is_told_as_it_is_and_never_as_it_was_asked(
    world: World, kind: str, told: Money
) -> None:
    outcome = await world.psp.create_intent(world.request(fault=f"F8 kind={kind}"))
    assert isinstance(outcome, Approved)
    assert outcome.amount == told


async def test_an_answer_about_another_charges_capture_is_unknown(world: World) -> None:
    one, other = await world.charged(capture=False), await world.charged(capture=False)
    done = await follow_up(world, "capture", one, 1099, "c")
    assert isinstance(done, Approved)
    body = done.raw | {"charge": other}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    async with httpx.AsyncClient(transport=transport) as http:
        psp = SandboxPsp(SandboxPspConfig(), PspContext(http=http, vault_http=http))
        with pytest.raises(OutcomeUnknown, match="another operation"):
            await psp.capture(CaptureRequest("c", "k", Money(1099, "EUR"), one, final=True))


# -- F9, F12: contradictions and lookups that lag --------------------------------------------------------------------------------


async def test_f9_a_message_can_contradict_the_answer(world: World) -> None:
    request = world.request(fault="F9 kind=webhook_failed")
    outcome = await world.psp.create_intent(request)
    assert isinstance(outcome, Approved)
    await world.time.go_on(1)
    assert world.consumer.types == ["charge.succeeded", "charge.declined"]
    true, lie = await world.read(0), await world.read(1)
    assert (true.sequence, lie.sequence) == (1, 2)
    assert [one["status"] for one in await world.booked(request.operation_id)] == ["succeeded"]


async def test_f9_an_answer_can_contradict_the_book(world: World) -> None:
    request = world.request(fault="F9 kind=response_declined")
    assert isinstance(await world.psp.create_intent(request), Declined)
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)
    await world.time.go_on(1)
    assert world.consumer.types == ["charge.succeeded"]


async def test_f9_a_declined_charge_can_succeed_later(world: World) -> None:
    request = world.request(fault="F9 kind=late_success delay_s=30")
    assert isinstance(await world.psp.create_intent(request), Declined)
    (booked,) = await world.booked(request.operation_id)
    assert (booked["status"], "captured" in booked, "fee" in booked) == ("declined", False, False)
    assert isinstance(await world.psp.retrieve(lookup(request)), Declined)
    await world.time.go_on(31)
    found = await world.psp.retrieve(lookup(request))
    assert isinstance(found, Approved)
    assert world.consumer.types == ["charge.declined", "charge.succeeded"]


async def test_f9_a_lookup_can_change_its_mind(world: World) -> None:
    request = world.request()
    await world.psp.create_intent(request)
    await world.script("F9", verb="lookup", skip=1, options={"kind": "lookup_flips"})
    seen = [await world.psp.retrieve(lookup(request)) for _ in range(3)]
    assert [type(one) for one in seen] == [Approved, Declined, Approved]


async def test_f12_a_lookup_lags(world: World) -> None:
    await world.api.put("/v1/faults", json={"rates": {"F12": 1}, "options": {"F12": {"kind": "lag", "lag_s": 10}}})
    request = world.request()
    await world.psp.create_intent(request)
    assert isinstance(await world.psp.retrieve(lookup(request)), NotFound)
    await world.time.go_on(10)
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)


async def test_f12_a_stale_replica_shows_the_state_before(world: World) -> None:
    await world.api.put("/v1/faults", json={"rates": {"F12": 1}, "options": {"F12": {"kind": "stale", "lag_s": 10}}})
    request = world.request(9050)
    assert isinstance(await world.psp.create_intent(request), Pending)
    assert isinstance(await world.psp.retrieve(lookup(request)), NotFound)
    await world.time.go_on(3)
    assert isinstance(await world.psp.retrieve(lookup(request)), Pending)
    await world.time.go_on(10)
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)


async def test_f12_replicas_that_flap_agree_in_the_end(world: World) -> None:
    rates = {"seed": 3, "rates": {"F12": 1}, "options": {"F12": {"kind": "flapping", "lag_s": 10}}}
    await world.api.put("/v1/faults", json=rates)
    request = world.request()
    await world.psp.create_intent(request)
    seen = {type(await world.psp.retrieve(lookup(request))) for _ in range(20)}
    assert seen == {Approved, NotFound}
    await world.time.go_on(10)
    assert {type(await world.psp.retrieve(lookup(request))) for _ in range(20)} == {Approved}


async def test_f12_an_empty_first_page_is_not_taken_for_not_found(world: World) -> None:
    await world.api.put("/v1/faults", json={"rates": {"F12": 1}, "options": {"F12": {"kind": "pages"}}})
    request = world.request()
    await world.psp.create_intent(request)
    first = (await world.api.get("/v1/operations", params={"reference": request.operation_id})).json()
    assert (first["operations"], "next" in first) == ([], True)
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)


async def test_by_default_lookups_lag_less_than_the_facts_say_and_late_charges_too() -> None:
    lag_s, delay_s = TABLE["F12"].options["lag_s"], TABLE["F3"].options["delay_s"]
    assert isinstance(lag_s, float)
    assert isinstance(delay_s, float)
    assert lag_s < SandboxPsp.facts.lookup.lag_max.total_seconds()
    assert delay_s < SandboxPsp.facts.max_late_effect.total_seconds()


# -- F13: keys that lie ----------------------------------------------------------------------------------------------------------


async def test_f13_a_key_that_is_ignored_books_twice_and_the_adapter_does_not_choose(world: World) -> None:
    request = world.request()
    await world.psp.create_intent(request)
    await world.script("F13", options={"kind": "ignored"})
    await world.psp.create_intent(request)
    assert len(await world.booked(request.operation_id)) == 2
    with pytest.raises(OutcomeUnknown, match="2 operations"):
        await world.psp.retrieve(lookup(request))


async def test_f13_a_window_can_be_shorter_than_told(world: World) -> None:
    request = world.request()
    await world.psp.create_intent(request)
    await world.script("F13", times=2, options={"kind": "short_window", "window_s": 10})
    await world.psp.create_intent(request)
    assert len(await world.booked(request.operation_id)) == 1
    await world.time.go_on(10)
    await world.psp.create_intent(request)
    assert len(await world.booked(request.operation_id)) == 2


async def test_f13_another_payload_can_be_answered_as_if_it_were_the_first(world: World) -> None:
    request = world.request()
    await world.psp.create_intent(request)
    await world.script("F13", options={"kind": "other_payload"})
    other = world.request(2000, operation_id=request.operation_id, key=request.key)
    outcome = await world.psp.create_intent(other)
    assert isinstance(outcome, Approved)
    assert outcome.amount == request.amount != other.amount  # the core compares
    assert len(await world.booked(request.operation_id)) == 1


async def test_f13_a_key_can_stay_in_flight_for_ever(world: World) -> None:
    request = world.request()
    await world.psp.create_intent(request)
    await world.api.put("/v1/faults", json={"rates": {"F13": 1}, "options": {"F13": {"kind": "conflict"}}})
    for _ in range(3):
        assert "409" in await unknown(world, request)
    assert isinstance(await world.psp.retrieve(lookup(request)), Approved)


# -- F14: what the books forbid, or take back ------------------------------------------------------------------------------------


async def test_f14_a_refund_can_fail_after_it_succeeded(world: World) -> None:
    charge = await world.charged(1000)
    await world.script("F14", verb="refund", options={"delay_s": 60})
    assert isinstance(await follow_up(world, "refund", charge, 700, "r"), Approved)
    await world.time.go_on(61)
    found = await world.psp.retrieve(RetrieveRequest("r", "", "refund", Money(700, "EUR"), charge_ref=charge))
    assert isinstance(found, Declined)
    assert found.raw_code == "8007"
    assert world.consumer.types == ["charge.succeeded", "refund.succeeded", "refund.failed"]
    assert isinstance(await follow_up(world, "refund", charge, 1000, "again"), Approved)


@pytest.mark.parametrize("verb", ["capture", "void"])
async def test_f14_an_authorisation_can_lapse_before_the_request_comes(world: World, verb: str) -> None:
    charge = await world.charged(1000, capture=False)
    await world.script("F14", verb=verb)
    outcome = await follow_up(world, verb, charge, 1000, "f")
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.raw_code) == ("not_permitted", "authorization_expired")
    await world.time.go_on(1)
    assert world.consumer.types == ["charge.succeeded", "charge.expired"]


# -- F15 by chance (by hand: test_events) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "told"), [("dispute", "dispute.needs_response"), ("return", "return.created")])
async def test_f15_a_charge_is_disputed_or_taken_back_later(world: World, kind: str, told: str) -> None:
    charge = await world.charged(1000, fault=f"F15 kind={kind} delay_s=4233600")  # seven weeks
    await world.time.go_on(4_233_601)
    assert world.consumer.types == ["charge.succeeded", told]
    assert (await world.api.get(f"/v1/charges/{charge}")).json()["disputed"] == 1000


# -- how faults are chosen -------------------------------------------------------------------------------------------------------


async def test_a_script_skips_matches_and_ends(world: World) -> None:
    await world.script("F4", verb="charge", amount=500, skip=1, times=2)
    answered = []
    for amount in (500, 400, 500, 500, 500):
        try:
            answered.append(type(await world.psp.create_intent(world.request(amount))).__name__)
        except OutcomeUnknown:
            answered.append("unknown")
    assert answered == ["Approved", "Approved", "unknown", "unknown", "Approved"]
    told = (await world.api.get("/v1/faults")).json()
    assert told == {"rates": {}, "scripts": [], "injected": {"F4": 2}}


async def test_a_rate_is_met_about_as_often_as_it_says_and_an_empty_put_ends_it(world: World) -> None:
    await world.api.put("/v1/faults", json={"seed": 1, "rates": {"F4": 0.2, "F10": 0.1}})
    for _ in range(300):
        with contextlib.suppress(OutcomeUnknown):
            await world.psp.create_intent(world.request())
    injected = (await world.api.get("/v1/faults")).json()["injected"]
    assert 40 <= injected["F4"] <= 80
    assert 15 <= injected["F10"] <= 45
    await world.script("F4")
    assert (await world.api.put("/v1/faults", json={})).json()["scripts"] == []
    assert isinstance(await world.psp.create_intent(world.request()), Approved)


async def test_faults_concern_their_own_account_only(world: World) -> None:
    await world.api.put("/v1/faults", json={"rates": {"F4": 1}})
    body = {"reference": "r", "amount": 1, "currency": "EUR", "card": CARD}
    other = await world.http.post(
        "http://psp/v1/charges", json=body, headers={"Authorization": "Bearer sk_sandbox_beta"}
    )
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("fault", "code"),
    [("F99", "unknown_fault"), ("F1 hangs=1", "unknown_option"), ("F5 when=never", "unknown_option")],
)
async def test_an_unknown_fault_in_the_metadata_is_the_operators_matter(world: World, fault: str, code: str) -> None:
    with pytest.raises(PspMisconfigured, match=code):
        await world.psp.create_intent(world.request(fault=fault))


async def test_several_faults_can_come_with_one_charge(world: World) -> None:
    request = world.request(fault="F4 booked=true times=2; W6")
    for _ in range(2):
        await unknown(world, request)
    await booked_once_under_its_key(world, request)
    await world.time.go_on(600)
    assert world.consumer.got == []


async def test_every_fault_of_the_table_has_a_test_that_names_it() -> None:
    tests = Path(__file__).parent
    text = (tests / "test_faults.py").read_text("utf-8") + (tests / "test_webhooks.py").read_text("utf-8")
    for fault in TABLE:
        assert f"async def test_{fault.lower()}_" in text, fault


CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}


async def follow_up(world: World, verb: str, charge: str, amount_minor: int, operation_id: str) -> Outcome:
    amount = Money(amount_minor, "EUR")
    match verb:
        case "capture":
            return await world.psp.capture(CaptureRequest(operation_id, operation_id, amount, charge, final=True))
        case "void":
            return await world.psp.cancel(CancelRequest(operation_id, operation_id, amount, charge))
        case _:
            return await world.psp.refund(RefundRequest(operation_id, operation_id, amount, charge))


async def script(simulator: Running, body: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    async with httpx.AsyncClient(base_url=simulator.url, headers=headers) as api:
        assert (await api.post("/v1/faults/scripts", json=body)).status_code == 200
