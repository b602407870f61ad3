"""Rehearsing: time that moves on request, things that nobody asked for, repeatable runs, and restarts that lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from clearspan.sdk import (
    Approved,
    CancelRequest,
    CaptureRequest,
    Declined,
    Money,
    OutcomeUnknown,
    PspMisconfigured,
    RefundRequest,
    RetrieveRequest,
)
from clearspan_psp_sandbox.api import PAGE_MAX
from clearspan_psp_sandbox.book import MemoryBook
from clearspan_psp_sandbox.faults import METADATA_KEY, TABLE, Cut
from clearspan_psp_sandbox.simulator import build

if TYPE_CHECKING:
    from conftest import World

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


# -- time ------------------------------------------------------------------------------------------------------------------------


async def test_the_clock_jumps_and_what_was_to_happen_has_happened(world: World) -> None:
    pending = world.request(9050)
    await world.psp.create_intent(pending)
    late = world.request(fault="F3 delay_s=3600 hang_s=1")
    with contextlib.suppress(OutcomeUnknown):
        charging = asyncio.create_task(world.psp.create_intent(late))
        await world.time.go_on(1)
        await charging
    before = (await world.api.get("/v1/clock")).json()["now"]
    after = (await world.api.post("/v1/clock", json={"advance_s": 3600})).json()["now"]
    assert after - before == 3600
    assert [one["status"] for one in await world.booked(pending.operation_id)] == ["succeeded"]
    (charge,) = await world.booked(late.operation_id)
    assert charge["created_at"] == datetime.fromtimestamp(after, UTC).isoformat().replace("+00:00", "Z")


async def test_after_a_jump_the_rest_happens_when_the_moved_clock_says_so(world: World) -> None:
    charging = asyncio.create_task(world.psp.create_intent(world.request(fault="F3 delay_s=3600 hang_s=1")))
    await world.time.go_on(1)
    with pytest.raises(OutcomeUnknown):
        await charging
    await world.api.post("/v1/clock", json={"advance_s": 3000})
    await world.time.go_on(590)
    assert world.consumer.types == []
    await world.time.go_on(10)
    assert world.consumer.types == ["charge.succeeded"]


async def test_the_clock_does_not_go_back(world: World) -> None:
    assert (await world.api.post("/v1/clock", json={"advance_s": -1})).status_code == 400


async def test_a_key_is_forgotten_when_the_clock_passes_its_window(world: World) -> None:
    request = world.request()
    first = await world.psp.create_intent(request)
    await world.api.post("/v1/clock", json={"advance_s": 86_399})
    assert await world.psp.create_intent(request) == first
    await world.api.post("/v1/clock", json={"advance_s": 1})
    assert await world.psp.create_intent(request) != first


async def test_pending_operations_settle_and_are_told_without_being_asked_for(world: World) -> None:
    await world.psp.create_intent(world.request(9050))
    await world.time.go_on(2.2)
    assert world.consumer.types == ["charge.pending", "charge.succeeded"]


# -- what nobody asked for -------------------------------------------------------------------------------------------------------


async def test_a_late_approval_makes_a_declined_charge_succeed(world: World) -> None:
    request = world.request(9001)
    declined = await world.psp.create_intent(request)
    assert isinstance(declined, Declined)
    await world.event("approve", charge=declined.psp_ref)
    lookup = RetrieveRequest(request.operation_id, request.key, "purchase", request.amount)
    found = await world.psp.retrieve(lookup)
    assert isinstance(found, Approved)
    assert found.raw["captured"] == 9001
    assert "code" not in found.raw
    assert isinstance(await world.psp.create_intent(request), Declined)  # what was answered stays answered


async def test_a_refund_that_comes_back_can_be_made_again(world: World) -> None:
    charge = await world.charged(1000)
    refund = RefundRequest("r", "r", Money(1000, "EUR"), charge)
    done = await world.psp.refund(refund)
    assert isinstance(done, Approved)
    failed = await world.event("fail_refund", refund=done.psp_ref)
    assert (failed["status"], failed["code"]) == ("failed", "8007")
    assert (await world.api.get(f"/v1/charges/{charge}")).json().get("refunded", 0) == 0
    again = RefundRequest("r2", "r2", Money(1000, "EUR"), charge)
    assert isinstance(await world.psp.refund(again), Approved)


async def test_what_is_left_of_a_partial_capture_lapses_and_the_captured_stays(world: World) -> None:
    charge = await world.charged(1000, capture=False)
    await world.psp.capture(CaptureRequest("c", "c", Money(400, "EUR"), charge, final=False))
    lapsed = await world.event("expire_authorization", charge=charge)
    assert (lapsed["status"], lapsed["captured"], lapsed["voided"]) == ("succeeded", 400, 600)
    assert isinstance(await world.psp.refund(RefundRequest("r", "r", Money(400, "EUR"), charge)), Approved)


async def test_the_book_says_what_disputes_hold(world: World) -> None:
    charge = await world.charged(1000)
    await world.psp.refund(RefundRequest("r", "r", Money(1000, "EUR"), charge))

    async def held() -> int:
        return int((await world.api.get(f"/v1/charges/{charge}")).json().get("disputed", 0))

    dispute = await world.event("dispute", charge=charge, status="inquiry")
    assert (dispute["amount"], await held()) == (1000, 0)
    for status, holds in (("needs_response", 1000), ("won", 0), ("pre_arbitration", 1000), ("lost", 1000)):
        await world.event("dispute_update", dispute=dispute["id"], status=status)
        assert await held() == holds
    await world.event("return", charge=charge, amount=300)
    assert await held() == 1300
    book = (await world.api.get("/v1/book")).json()
    assert [(one["kind"], one["status"]) for one in book["disputes"]] == [("dispute", "lost"), ("return", "returned")]


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        ({"do": "dispute", "charge": "ch_x"}, 404, "charge_not_found"),
        ({"do": "dispute_update", "dispute": "dp_x", "status": "won"}, 404, "dispute_not_found"),
        ({"do": "dispute_update", "dispute": "dp_x"}, 400, "status_missing"),
        ({"do": "fail_refund", "refund": "re_x"}, 404, "refund_not_found"),
        ({"do": "dance"}, 400, "unknown_event"),
        ({"do": "dispute", "charge": "$", "amount": 1001}, 422, "amount_exceeds_charge"),
        ({"do": "approve", "charge": "$"}, 422, "event_impossible"),
        ({"do": "expire_authorization", "charge": "$"}, 422, "event_impossible"),
    ],
)
async def test_what_cannot_happen_is_refused(world: World, event: dict[str, Any], status: int, code: str) -> None:
    charge = await world.charged(1000)
    answer = await world.api.post("/v1/events", json=event | ({"charge": charge} if event.get("charge") == "$" else {}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


# -- the list of a span of time --------------------------------------------------------------------------------------------------


async def test_activity_lists_what_was_made_or_changed_in_a_span_and_all_its_pages(world: World) -> None:
    start = datetime.fromtimestamp(world.time.now, UTC)
    old = await world.charged(1000)
    await world.time.go_on(3600)
    since = datetime.fromtimestamp(world.time.now, UTC)
    for amount in range(100, 100 + PAGE_MAX + 5):
        await world.charged(amount)
    await world.psp.refund(RefundRequest("r", "r", Money(1000, "EUR"), old))
    await world.time.go_on(3600)
    await world.charged(7)
    listed = await world.psp.activity(since, since + timedelta(seconds=1800))
    assert [one.amount.amount_minor for one in listed if one.amount] == [*range(100, 100 + PAGE_MAX + 5), 1000]
    assert (listed[-1].kind, listed[-1].reference, listed[-1].charge_ref) == ("refund", "r", old)
    assert all(one.at == since for one in listed)
    everything = await world.psp.activity(start, start + timedelta(days=1))
    assert len(everything) == PAGE_MAX + 8
    assert await world.psp.activity(start - timedelta(days=1), start - timedelta(seconds=1)) == []


async def test_activity_shows_what_settled_in_the_span_though_it_began_before(world: World) -> None:
    await world.psp.create_intent(world.request(9050))
    await world.time.go_on(1)
    since = datetime.fromtimestamp(world.time.now, UTC)
    await world.time.go_on(5)
    (news,) = await world.psp.activity(since, since + timedelta(seconds=60))
    assert isinstance(news.outcome, Approved)


@pytest.mark.parametrize("fault", ["F2", "F4", "F5 when=half", "F7 kind=html", "F10", "F11"])
async def test_a_list_that_does_not_come_is_not_an_empty_one(world: World, fault: str) -> None:
    await world.api.put("/v1/faults", json={"rates": {fault.split(maxsplit=1)[0]: 1}, "options": options(fault)})
    since = datetime.fromtimestamp(world.time.now, UTC)
    asking = asyncio.create_task(world.psp.activity(since, since + timedelta(days=1)))
    await world.time.go_on(60)
    with pytest.raises(OutcomeUnknown):
        await asking


async def test_a_span_without_a_begin_is_refused(world: World) -> None:
    assert (await world.api.get("/v1/activity", params={"until": "1"})).status_code == 400


def options(text: str) -> dict[str, dict[str, str]]:
    fault, *pairs = text.split()
    return {fault: dict(pair.split("=") for pair in pairs)} if pairs else {}


# -- in process ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "when"),
    [("F5 when=before", "before"), ("F5 when=during", "during"), ("F5 when=after", "after"), ("F5 when=half", "after")],
)
async def test_in_process_a_broken_connection_is_raised(world: World, fault: str, when: str) -> None:
    body = {"reference": "r", "amount": 5, "currency": "EUR", "card": CARD, "metadata": {METADATA_KEY: fault}}
    transport = httpx.ASGITransport(world.app)  # type: ignore[arg-type]
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    async with httpx.AsyncClient(transport=transport, base_url="http://psp", headers=headers) as http:
        with pytest.raises(Cut) as cut:
            await http.post("/v1/charges", json=body)
    assert cut.value.when == when
    assert len(await world.booked("r")) == (when == "after")


async def test_two_runs_with_one_seed_give_the_same_books_and_messages(new_world: type[World]) -> None:
    runs = [
        await chaotic_run(new_world, seed=11),
        await chaotic_run(new_world, seed=11),
        await chaotic_run(new_world, seed=12),
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    lines, got = runs[0]
    assert len(lines) > 200
    assert len(got) > 50


async def test_a_run_with_restarts_in_the_middle_loses_nothing(new_world: type[World]) -> None:
    """What the books say is in the messages, each number once, and every promise is kept."""
    lines, got = await chaotic_run(new_world, seed=21, restarts=True)
    told = [msgspec.json.decode(body) for _, _, body in got]
    by_object: dict[str, set[int]] = {}
    for message in told:
        by_object.setdefault(message["data"]["id"], set()).add(message["sequence"])
    decoded = list(map(msgspec.json.decode, lines))
    booked = {one[what]["id"] for one in decoded for what in ("operation", "dispute") if what in one}
    assert booked == set(by_object)
    for sequences in by_object.values():
        assert sequences == set(range(1, len(sequences) + 1))
    promises = {one["promise"]["id"] for one in decoded if "promise" in one}
    kept = {one["kept"] for one in decoded if "kept" in one}
    assert promises
    assert kept == promises


async def chaotic_run(
    new_world: type[World], seed: int, *, restarts: bool = False
) -> tuple[list[bytes], list[tuple[str, dict[str, str], bytes]]]:
    """Random requests under random faults; gives the book's lines and all messages, in their order."""
    dice = random.Random(seed)  # noqa: S311  (a run that can be repeated)
    world = new_world(seed=str(seed))
    got = world.consumer.got
    rates = {"F1": 0.1, "F2": 0.1, "F3": 0.15, "F4": 0.1, "F5": 0.1, "F10": 0.05, "F15": 0.05, "W1": 0.1, "W2": 0.3}
    await world.api.put("/v1/faults", json={"seed": seed, "rates": rates})
    charges: list[str] = []
    calls: list[asyncio.Task[Any]] = []
    for step in range(150):
        world.consumer.answers = [dice.choice((200, 500, 0)) for _ in range(3)]
        amount = dice.choice((1000, 9001, 9050))
        match dice.randrange(4) if charges else 0:
            case 0:
                calls.append(asyncio.create_task(world.psp.create_intent(world.request(amount, capture=False))))
            case 1:
                capture = CaptureRequest(f"c{step}", f"c{step}", Money(10, "EUR"), dice.choice(charges), final=False)
                calls.append(asyncio.create_task(world.psp.capture(capture)))
            case 2:
                refund = RefundRequest(f"r{step}", f"r{step}", Money(5, "EUR"), dice.choice(charges))
                calls.append(asyncio.create_task(world.psp.refund(refund)))
            case 3:
                void = CancelRequest(f"v{step}", f"v{step}", Money(1000, "EUR"), dice.choice(charges))
                calls.append(asyncio.create_task(world.psp.cancel(void)))
        await world.time.go_on(dice.random())
        outcome = calls[-1].result() if calls[-1].done() and not calls[-1].exception() else None
        if isinstance(outcome, Approved) and outcome.raw["kind"] == "charge":
            charges.append(outcome.psp_ref)
        if restarts and step % 30 == 29:
            for call in calls:
                call.cancel()
            world = await world.restarted()
            world.consumer.got = got
    await world.time.go_on(10 * 86_400)
    await asyncio.gather(*calls, return_exceptions=True)
    lines = list(world.book.lines)
    await world.close()
    return lines, got


async def test_a_memory_simulator_starts_no_thread(world: World) -> None:
    before = threading.active_count()
    await world.charged(fault="W1 parallel=true times=20")
    await world.time.go_on(60)
    assert threading.active_count() == before


# -- restarts --------------------------------------------------------------------------------------------------------------------


async def test_settings_scripts_counts_and_the_clock_survive_a_restart(world: World) -> None:
    await world.api.put("/v1/faults", json={"seed": 5, "rates": {"F9": 0.0}, "options": {"F9": {"delay_s": 9}}})
    await world.script("F4", verb="charge", times=3, options={"booked": False})
    await world.api.put("/v1/webhooks", json={"url": "https://kept.example/", "secrets": ["whsec_kept"]})
    await world.api.post("/v1/clock", json={"advance_s": 1000})
    with pytest.raises(OutcomeUnknown):
        await world.psp.create_intent(world.request(fault="F10"))
    addresses = ("/v1/faults", "/v1/webhooks", "/v1/clock", "/v1/book")
    before = [(await world.api.get(address)).json() for address in addresses]
    assert before[0]["scripts"][0]["times"] == 2
    again = await world.restarted()
    try:
        assert [(await again.api.get(address)).json() for address in addresses] == before
    finally:
        await again.close()


async def test_disputes_promises_and_totals_survive_a_restart(world: World) -> None:
    charge = await world.charged(1000, fault="F15 delay_s=100")
    dispute = await world.event("dispute", charge=charge, amount=100)
    await world.event("dispute_update", dispute=dispute["id"], status="won")
    before = (await world.api.get("/v1/book")).json()
    again = await world.restarted()
    try:
        assert (await again.api.get("/v1/book")).json() == before
        await again.time.go_on(101)
        disputes = (await again.api.get("/v1/book")).json()["disputes"]
        assert [one["status"] for one in disputes] == ["won", "needs_response"]
        assert len({one["id"] for one in disputes}) == 2
    finally:
        await again.close()


async def test_a_late_charge_keeps_its_id_over_a_restart_and_gives_it_to_nobody(world: World) -> None:
    charging = asyncio.create_task(world.psp.create_intent(world.request(fault="F3 delay_s=60 hang_s=1")))
    await world.time.go_on(1)
    with pytest.raises(OutcomeUnknown):
        await charging
    again = await world.restarted()
    try:
        await again.charged(5)
        await again.charged(6)
        await again.time.go_on(60)
        booked = (await again.api.get("/v1/book")).json()["operations"]
        assert sorted(one["amount"] for one in booked) == [5, 6, 1099]
        assert len({one["id"] for one in booked}) == 3
    finally:
        await again.close()


async def test_nobody_is_told_what_is_not_safe_yet(new_world: type[World]) -> None:
    book = SlowBook()
    world = new_world(book=book)
    charging = asyncio.create_task(world.psp.create_intent(world.request(fault="W3")))
    await world.time.go_on(60)
    assert (charging.done(), world.consumer.got) == (False, [])
    book.written.set()
    assert isinstance(await charging, Approved)
    assert world.consumer.types == ["charge.succeeded"]
    await world.close()


class SlowBook(MemoryBook):
    """A disk that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    async def settled(self) -> None:
        await self.written.wait()


async def test_the_metadata_of_a_charge_is_rehearsed_once_even_over_a_restart(world: World) -> None:
    request = world.request(fault="F4 booked=false")
    with pytest.raises(OutcomeUnknown):
        await world.psp.create_intent(request)
    again = await world.restarted()
    try:
        assert isinstance(await again.psp.create_intent(request), Approved)
    finally:
        await again.close()


async def test_a_late_charge_has_no_card_number_in_the_file(tmp_path: Path) -> None:
    app = build(tmp_path, "7", lambda: 1_800_000_000.0, no_time)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    headers = {"Authorization": "Bearer sk_sandbox_alpha", "Idempotency-Key": "k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://psp", headers=headers) as http:
        body = {"reference": "r", "amount": 5, "currency": "EUR", "card": CARD, "metadata": {METADATA_KEY: "F3"}}
        with pytest.raises(Cut):
            await http.post("/v1/charges", json=body)
        foreign = body | {"card": CARD | {"number": "4111111111111111"}, "reference": "r2"}
        with pytest.raises(Cut):
            await http.post("/v1/charges", json=foreign)
    await app.close()
    written = (tmp_path / "book.jsonl").read_text("utf-8")
    assert "promise-1" in written
    for number in ("4242424242424242", "4111111111111111"):
        assert number not in written


async def no_time(seconds: float) -> None:
    """A sleep that takes none."""
    await asyncio.sleep(0.001 if seconds < 60 else 0.01)


# -- the page --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", TABLE)
def test_the_readme_lists_the_fault(fault: str) -> None:
    kind = TABLE[fault]
    said = ", ".join(
        f"{name} {'/'.join(map(_said, value)) if isinstance(value, tuple) else _said(value)}".strip()
        for name, value in kind.options.items()
    )
    assert f"| {fault} | {kind.does} | {said} |\n" in README


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


async def test_a_fault_that_does_not_exist_is_refused(world: World) -> None:
    for path, body in (("PUT", {"rates": {"F77": 1}}), ("POST", {"fault": "F77"})):
        address = "/v1/faults" if path == "PUT" else "/v1/faults/scripts"
        answer = await world.api.request(path, address, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_fault")
    with pytest.raises(PspMisconfigured):
        await world.psp.create_intent(world.request(fault="F1 hang_s=soon"))


CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
