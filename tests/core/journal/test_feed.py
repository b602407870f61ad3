"""A stream tells one tenant's events as they happen, and those that a client missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from clearspan.journal.errors import CursorUnknown, StreamsClosed, TooManyStreams
from clearspan.journal.feed import RECHECK_S, Feed
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.problems import DatabaseUnavailable, Unauthorized


def evt(event_id: UUID) -> str:
    return ids.encode("evt", event_id)


class HastyClock(clock.SystemClock):
    """Ticks come soon, and the test says how late it is."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.02))


@pytest.fixture
async def hasty() -> AsyncIterator[HastyClock]:
    hasty = HastyClock()
    previous = clock.use(hasty)
    yield hasty
    clock.use(previous)


async def test_a_new_stream_tells_what_happens_from_now_on(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    await happen(tenant, "payment.created")
    listener = await listen(feed, tenant)
    await listener.open()
    later = await happen(tenant, "payment.captured", sequence=3)
    (event,) = await listener.events(1)
    assert event["id"] == evt(later)
    assert event["type"] == "payment.captured"
    assert event["sequence"] == 3


async def test_a_frame_is_what_server_sent_events_prescribe(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    before = await happen(tenant)
    event_id = await happen(tenant, data={"note": "two\nlines"})
    listener = await listen(feed, tenant, evt(before))
    assert await listener.frame() == ": clearspan events\nretry: 1000"
    frame = await listener.frame()
    assert frame is not None
    lines = frame.split("\n")
    assert lines[0] == f"id: {evt(event_id)}"
    assert lines[1] == "event: payment.created"
    assert lines[2].startswith('data: {"id":"evt_')
    assert len(lines) == 3


async def test_what_was_missed_is_replayed_before_what_happens(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    seen = await happen(tenant)
    missed = [await happen(tenant) for _ in range(3)]
    listener = await listen(feed, tenant, evt(seen))
    assert [event["id"] for event in await listener.events(3)] == [evt(each) for each in missed]
    new = await happen(tenant)
    assert [event["id"] for event in await listener.events(1)] == [evt(new)]


async def test_a_replay_longer_than_a_page_is_complete(new_feed: Any, tenant: Caller, happen: Any, listen: Any) -> None:
    feed = await new_feed(page_max=2)
    first, *missed = [await happen(tenant) for _ in range(8)]
    listener = await listen(feed, tenant, evt(first))
    assert [event["id"] for event in await listener.events(7)] == [evt(each) for each in missed]


async def test_a_client_that_lost_the_stream_before_its_first_event_can_resume(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    await happen(tenant)
    lost = await listen(feed, tenant)
    await lost.open()
    missed = await happen(tenant)
    again = await listen(feed, tenant, lost.last_event_id)
    assert [event["id"] for event in await again.events(1)] == [evt(missed)]


@pytest.mark.parametrize("streams", [1, 12])
async def test_every_stream_gets_every_event_once_and_in_order_while_many_write(
    new_feed: Any, feed: Feed, tenant: Caller, happen: Any, listen: Any, streams: int
) -> None:
    """Streams open, break off and resume at any moment between commits of concurrent writers."""
    followed: Feed = await new_feed(page_max=7)
    first = await happen(tenant)
    written: list[UUID] = []

    async def write() -> None:
        written.extend([await happen(tenant) for _ in range(25)])

    async def follow(number: int) -> list[str]:
        got: list[str] = []
        last = evt(first)
        while len(got) < 100:
            listener = await listen(followed, tenant, last)
            got += [event["id"] for event in await listener.events(min(3 + 5 * number, 100 - len(got)))]
            await listener.close()
            last = got[-1]
        return got

    async with asyncio.TaskGroup() as group:
        following = [group.create_task(follow(number)) for number in range(streams)]
        for _ in range(4):
            group.create_task(write())
    order = (await feed.page(tenant.scope, evt(first), 100)).data
    expected = [event.id for event in order]
    assert sorted(expected) == sorted(evt(each) for each in written)
    for task in following:
        assert task.result() == expected


async def test_events_of_one_tenant_or_mode_never_reach_another(
    feed: Feed, tenant: Caller, other_tenant: Caller, live_merchant: Any, happen: Any, listen: Any
) -> None:
    live = live_merchant.caller
    mine, theirs, real = await listen(feed, tenant), await listen(feed, other_tenant), await listen(feed, live)
    for listener in (mine, theirs, real):
        await listener.open()
    told: dict[Scope, list[str]] = {}
    for caller in (tenant, other_tenant, live, tenant, other_tenant, live):
        told.setdefault(caller.scope, []).append(evt(await happen(caller)))
    for listener, caller in ((mine, tenant), (theirs, other_tenant), (real, live)):
        events = await listener.events(2)
        assert [event["id"] for event in events] == told[caller.scope]
        assert {event["live"] for event in events} == {caller.scope.live}
    assert not tenant.scope.live
    assert live.scope.live


async def test_the_last_event_id_of_another_tenant_or_mode_is_unknown(
    feed: Feed, tenant: Caller, other_tenant: Caller, live_merchant: Any, happen: Any, listen: Any
) -> None:
    for stranger in (other_tenant, live_merchant.caller):
        with pytest.raises(CursorUnknown):
            await listen(feed, tenant, evt(await happen(stranger)))


@pytest.mark.parametrize("text", ["evt_", "evt_00000000000000000000000000", "pay_01h455vb4pex5vsknk084sn02q", "x" * 90])
async def test_a_last_event_id_that_is_none_is_unknown(feed: Feed, tenant: Caller, listen: Any, text: str) -> None:
    with pytest.raises(CursorUnknown):
        await listen(feed, tenant, text)


async def test_only_the_types_asked_for_are_told(feed: Feed, tenant: Caller, happen: Any, listen: Any) -> None:
    start = await happen(tenant)
    await happen(tenant, "payment.declined")
    replayed = await happen(tenant, "refund.created", subject_type="refund")
    listener = await listen(feed, tenant, evt(start), types=frozenset({"refund.created", "payment.captured"}))
    assert [event["id"] for event in await listener.events(1)] == [evt(replayed)]
    await happen(tenant, "payment.declined")
    new = await happen(tenant, "payment.captured")
    assert [event["id"] for event in await listener.events(1)] == [evt(new)]


async def test_a_replay_without_any_event_asked_for_still_moves_the_client_on(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    start = await happen(tenant)
    passed_over = await happen(tenant, "payment.declined")
    listener = await listen(feed, tenant, evt(start), types=frozenset({"refund.created"}))
    await listener.open()
    assert listener.last_event_id == evt(passed_over)


async def test_a_client_too_slow_is_cut_off_and_resumes_without_loss(
    new_feed: Any, tenant: Caller, happen: Any, listen: Any
) -> None:
    feed = await new_feed(stream_backlog_max=3)
    start = await happen(tenant)
    slow = await listen(feed, tenant)
    await slow.open()
    missed = [await happen(tenant) for _ in range(6)]
    (stream,) = feed._streams
    async with asyncio.timeout(20):
        while not stream._end:  # It reads nothing meanwhile.
            await clock.sleep(0.005)
    assert await slow.rest() == [": the client is too slow, open the stream again"]
    assert slow.last_event_id == evt(start)
    again = await listen(feed, tenant, slow.last_event_id)
    assert [event["id"] for event in await again.events(6)] == [evt(each) for each in missed]


async def test_a_long_absence_is_no_reason_to_be_cut_off(
    new_feed: Any, tenant: Caller, happen: Any, listen: Any
) -> None:
    feed = await new_feed(stream_backlog_max=2, page_max=2)
    start, *missed = [await happen(tenant) for _ in range(12)]
    listener = await listen(feed, tenant, evt(start))
    assert [event["id"] for event in await listener.events(11)] == [evt(each) for each in missed]


async def test_no_more_streams_than_allowed(
    new_feed: Any, tenant: Caller, other_tenant: Caller, happen: Any, listen: Any
) -> None:
    feed = await new_feed(streams_max=2)
    await happen(tenant)
    await happen(other_tenant)
    first = await listen(feed, tenant)
    await first.open()
    with pytest.raises(TooManyStreams, match="as one key may"):
        await listen(feed, tenant)
    await (await listen(feed, other_tenant)).open()
    with pytest.raises(TooManyStreams, match="as many streams as it may") as refusal:
        await listen(feed, tenant)
    assert refusal.value.status == 429
    assert refusal.value.headers() == {"Retry-After": "5"}


async def test_a_stream_that_lost_the_race_for_the_last_place_ends_at_once(
    new_feed: Any, tenant: Caller, happen: Any, listen: Any
) -> None:
    feed = await new_feed(streams_max=1)
    await happen(tenant)
    winner, loser = await listen(feed, tenant), await listen(feed, tenant)
    await winner.open()
    (reason,) = await loser.rest()
    assert "as many streams as it may" in reason


async def test_a_closed_stream_gives_its_place_back_and_the_last_one_stops_the_looking(
    new_feed: Any, tenant: Caller, happen: Any
) -> None:
    feed: Feed = await new_feed(streams_max=1)
    await happen(tenant)
    for _ in range(3):
        body = await feed.stream(tenant, None, (), allow_nothing)
        assert (await anext(body)).startswith(b": clearspan events")
        assert feed.tailer._task is not None
        await body.aclose()  # type: ignore[attr-defined]  # it is a generator
        async with asyncio.timeout(20):
            while feed.tailer._task is not None:
                await clock.sleep(0.005)
    assert not feed._channels


async def allow_nothing() -> None:
    raise Unauthorized


async def test_a_silent_stream_is_kept_alive(
    hasty: HastyClock, feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    await happen(tenant)
    listener = await listen(feed, tenant)
    await listener.open()
    assert await listener.frame() == ": keep-alive"
    assert await listener.frame() == ": keep-alive"


async def test_the_stream_of_a_revoked_key_ends_before_it_tells_anything_more(
    hasty: HastyClock, feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    await happen(tenant)
    revoked = await listen(feed, tenant, recheck=allow_nothing)
    await revoked.open()
    await happen(tenant)
    assert len(await revoked.events(1)) == 1, "nobody asks before it is time to"
    hasty.ahead_s = RECHECK_S + 1
    await happen(tenant)
    told = [frame for frame in await revoked.rest() if frame != ": keep-alive"]
    assert told == [": The API key is missing, wrong, expired or revoked"]


async def test_nothing_is_told_while_nobody_can_say_whether_the_key_is_good(
    hasty: HastyClock, feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    reachable = asyncio.Event()

    async def recheck() -> None:
        if not reachable.is_set():
            raise DatabaseUnavailable

    await happen(tenant)
    listener = await listen(feed, tenant, recheck=recheck)
    await listener.open()
    hasty.ahead_s = RECHECK_S + 1
    held = await happen(tenant)
    for _ in range(3):
        assert await listener.frame() == ": keep-alive"
    reachable.set()
    assert [event["id"] for event in await listener.events(1)] == [evt(held)]


async def test_stopping_ends_every_stream_and_refuses_new_ones(
    new_feed: Any, tenant: Caller, other_tenant: Caller, happen: Any, listen: Any
) -> None:
    feed = await new_feed()
    await happen(tenant)
    busy, fresh = await listen(feed, tenant), await listen(feed, other_tenant)
    await busy.open()
    await fresh.frame()
    await feed.stop()
    for listener in (busy, fresh):
        assert await listener.rest() == [": the server is stopping, open the stream again"]
    with pytest.raises(StreamsClosed):
        await listen(feed, tenant)
    await feed.stop()  # Twice is fine: the server stops it early, the application's shutdown again.


async def test_an_event_carries_its_subject_as_it_is_when_told(
    feed: Feed, tenant: Caller, happen: Any, listen: Any
) -> None:
    state = {"status": "processing"}
    payment_id, unrendered = clock.new_uuid(), clock.new_uuid()
    asked: list[tuple[Scope, Sequence[UUID]]] = []

    async def render(scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        asked.append((scope, wanted))
        return {payment_id: dict(state)}

    feed.renderers["payment"] = render
    start = await happen(tenant)
    await happen(tenant, subject_id=payment_id, sequence=1)
    await happen(tenant, subject_id=payment_id, sequence=2)
    await happen(tenant, "operation.submitted", subject_type="operation", subject_id=unrendered)
    state["status"] = "succeeded"
    listener = await listen(feed, tenant, evt(start))
    events = await listener.events(3)
    assert [event["data"]["object"] for event in events] == [{"status": "succeeded"}] * 2 + [None]
    assert asked == [(tenant.scope, [payment_id])], "one batch, each object once"


async def test_what_cannot_be_rendered_ends_that_tenants_streams_and_no_other(
    feed: Feed, tenant: Caller, other_tenant: Caller, happen: Any, listen: Any
) -> None:
    async def render(scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        if scope == tenant.scope:
            raise ZeroDivisionError
        return {}

    await happen(tenant)
    await happen(other_tenant)
    feed.renderers["payment"] = render
    broken, other = await listen(feed, tenant), await listen(feed, other_tenant)
    await broken.open()
    await other.open()
    await happen(tenant)
    assert await broken.rest() == [": an event cannot be shown, open the stream again"]
    told = await happen(other_tenant)
    assert [event["id"] for event in await other.events(1)] == [evt(told)]


async def test_rendering_waits_for_the_database(feed: Feed, tenant: Caller, happen: Any, listen: Any) -> None:
    failures = iter([DatabaseUnavailable(), DatabaseUnavailable()])

    async def render(scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        for failure in failures:
            raise failure
        return {}

    await happen(tenant)
    listener = await listen(feed, tenant)
    await listener.open()
    feed.renderers["payment"] = render
    told = await happen(tenant)
    assert [event["id"] for event in await listener.events(1)] == [evt(told)]
