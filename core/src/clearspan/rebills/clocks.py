"""Test clocks: months of a subscription in seconds.

A customer of a test clock lives by it: periods, retries and notices come when *it* says so. An advance is answered at once;
the job ``advance_test_clocks`` moves the clock from one due instant to the next and does at each what is due there, by the
same functions as for everybody. Whoever dies over it is followed by the next one: all that is known stands in rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.customers.errors import TestModeOnly
from clearspan.journal import service as journal
from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.rebills.clocks_models import ClockRows, TestClock
from clearspan.rebills.clocks_schemas import (
    TestClockAdvance,
    TestClockCreate,
    TestClockList,
    TestClockOut,
    clock_list,
    clock_out,
)
from clearspan.subscriptions.schedule import Scheduler

FARTHEST = timedelta(days=5 * 366)
"""One advance goes no farther: it is a test, not a simulation of a company's life."""
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
RUN_S = 30.0
"""One job moves clocks so long; the next sweep goes on."""
LEASE_S = 120
"""Well above what happens between two steps."""
PATIENCE_S = 300.0
"""So old may a payment be that a clock still waits for; it does not stand still for one that nobody can find out about."""
PAUSE_S = 0.1
"""Between two looks at what is not done yet."""
STALLS_MAX = 30
"""So many looks at something due that nobody does, before the job gives up until the next sweep."""

log = structlog.get_logger("clearspan.rebills")


class ClockBackwards(DomainError):
    """The moment is not later than the clock's."""

    code = "test_clock_backwards"
    status = 422
    title = "A test clock does not go back"
    advice = "Advance to a moment after now_at; make a new clock to begin again."


class ClockTooFar(DomainError):
    """More than five years at once."""

    code = "test_clock_too_far"
    status = 422
    title = "A test clock advances by five years at most"
    advice = "Advance in several steps."


class ClockAdvancing(DomainError):
    """It is on its way already."""

    code = "test_clock_advancing"
    status = 409
    title = "The test clock is advancing"
    advice = "Wait until its status is ready (event test_clock.advanced), then advance it again."


class ClockLeaseLost(DomainError):
    """Another worker moves the clock. Never leaves the gateway."""

    code = "test_clock_lease_lost"
    status = 409
    title = "The test clock is not moved by this worker any more"


class Collector(Protocol):
    """Charges invoices that are due (``rebills.service``)."""

    async def collect(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        """Do what is due of a clock's rebills at its time; returns how many were handled, 0 when none was due."""
        ...


class Notices(Protocol):
    """Sends what customers are to be told (``rebills.notices``)."""

    async def send(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        """Send what is due of a clock's notices at its time; returns how many were handled, 0 when none was due."""
        ...


class _Step(msgspec.Struct, frozen=True):
    """What ``clock_step`` answers: exactly one of ``at``, ``busy`` and ``done``."""

    at: datetime | None = None
    moved: bool = False
    busy: bool = False
    done: bool = False


_STEP = msgspec.json.Decoder(_Step)
_CLAIMED = msgspec.json.Decoder(UUID | None)


class TestClocks:
    """The test clocks of a tenant, and what moves them.

    Args:
        scheduler: opens invoices.
        collector: charges them; without one, what is due of rebills is left alone.
        notices: tells customers; likewise.
    """

    __test__ = False  # pytest: not a test class

    def __init__(
        self, db: Database, scheduler: Scheduler, collector: Collector | None = None, notices: Notices | None = None
    ) -> None:
        self._db = db
        self._scheduler = scheduler
        self._collector = collector
        self._notices = notices

    # -- what a merchant's developer calls ------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: TestClockCreate) -> Answer:
        """Make a clock that stands.

        Raises:
            TestModeOnly: called with a live key.
            InvalidRequest: a moment outside the years 2000 to 2100; and as ``once``.
        """
        if caller.scope.live:
            raise TestModeOnly
        now_at = _sensible("now_at", body.now_at)

        async def work(session: AsyncSession) -> Answer:
            now = clock.now()
            if body.covers == "tenant" and (former := await ClockRows(session).covering(caller.scope)) is not None:
                await self._uncover(session, caller, former)
            made = TestClock(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                name=body.name,
                covers=body.covers,
                status="ready",
                now_at=now_at,
                target_at=None,
                steps=0,
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            await ClockRows(session).add(made)
            await _record(session, caller, made, "test_clock.created")
            return Answer(201, msgspec.json.encode(clock_out(made)))

        return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, clock_id: UUID) -> TestClockOut:
        """One clock.

        Raises:
            NotFound: no such clock.
        """
        async with self._db.begin(scope) as session:
            return clock_out(await ClockRows(session).require(scope, clock_id))

    async def list(self, scope: Scope, limit: int, cursor: str | None) -> TestClockList:
        """Clocks, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        async with self._db.begin(scope) as session:
            page = await ClockRows(session).page(scope, limit=limit, cursor=cursor)
            return clock_list(page.rows, page.next_cursor)

    async def advance(
        self, caller: Caller, key: IdempotencyKey | None, clock_id: UUID, body: TestClockAdvance
    ) -> Answer:
        """Send a clock on its way; the job does the rest.

        Raises:
            NotFound: no such clock.
            ClockAdvancing, ClockBackwards, ClockTooFar; and as ``once``.
        """
        to = _sensible("to", body.to)

        async def work(session: AsyncSession) -> Answer:
            moved = await ClockRows(session).require(caller.scope, clock_id, lock=True)
            if moved.status != "ready":
                raise ClockAdvancing
            if to <= moved.now_at:
                raise ClockBackwards(now_at=moved.now_at.isoformat())
            if to > moved.now_at + FARTHEST:
                raise ClockTooFar(now_at=moved.now_at.isoformat())
            moved.status, moved.target_at = "advancing", to
            moved.sequence += 1
            moved.updated_at = clock.now()
            await _record(session, caller, moved, "test_clock.advancing")
            return Answer(202, msgspec.json.encode(clock_out(moved)))

        return await once(self._db, caller.scope, key, work)

    async def release(self, caller: Caller, key: IdempotencyKey | None, clock_id: UUID) -> Answer:
        """New customers live by the real time again. Those of the clock stay with it.

        Raises:
            NotFound: no such clock; and as ``once``.
        """

        async def work(session: AsyncSession) -> Answer:
            released = await ClockRows(session).require(caller.scope, clock_id, lock=True)
            if released.covers == "tenant":
                await self._uncover(session, caller, released)
            return Answer(200, msgspec.json.encode(clock_out(released)))

        return await once(self._db, caller.scope, key, work)

    async def _uncover(self, session: AsyncSession, caller: Caller, former: TestClock) -> None:
        former.covers = "customers"
        former.sequence += 1
        former.updated_at = clock.now()
        await session.flush()
        await _record(session, caller, former, "test_clock.released")

    async def render_many(self, scope: Scope, clock_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Clocks for the event feed."""
        async with self._db.begin(scope) as session:
            clocks = await ClockRows(session).among(scope, clock_ids)
        return {one.id: msgspec.to_builtins(clock_out(one)) for one in clocks}

    # -- what the job calls -----------------------------------------------------------------------------------------

    async def move(self, scope: Scope, request_id: str, *, seconds: float = RUN_S) -> int:
        """Move every clock that is on its way and that nobody else moves, for so many seconds.

        Returns:
            at how many instants something was done.
        """
        ends_at = clock.monotonic() + seconds
        steps = 0
        while clock.monotonic() < ends_at:
            token = clock.new_uuid()
            document = self._document(scope, request_id, token)
            clock_id = _CLAIMED.decode(await self._db.call("clock_claim", document) or "null")
            if clock_id is None:
                break
            try:
                done, going_on = await self._move_one(scope, request_id, clock_id, token, ends_at)
            except ClockLeaseLost:
                continue
            steps += done
            if going_on:
                await self._db.call("clock_release", document | {"test_clock_id": clock_id, "now": clock.now()})
                break
        return steps

    async def _move_one(
        self, scope: Scope, request_id: str, clock_id: UUID, token: UUID, ends_at: float
    ) -> tuple[int, bool]:
        """Returns at how many instants something was done, and whether the clock has farther to go."""
        steps = stalls = 0
        while True:
            document = self._document(scope, request_id, token) | {
                "test_clock_id": clock_id,
                "patience_s": PATIENCE_S,
                "collects": self._collector is not None,
                "sends": self._notices is not None,
            }
            step = _STEP.decode(await self._db.call("clock_step", document))
            if step.done:
                return steps, False
            handled = 0
            if step.at is not None:
                steps += step.moved
                handled = await self._work(scope, request_id, step.at, clock_id)
            if handled:
                stalls = 0
            else:
                # A payment is under way, or somebody holds what is due.
                stalls += not step.busy
                await clock.sleep(PAUSE_S)
            if stalls > STALLS_MAX:
                log.warning("something is due at a test clock and nobody does it", test_clock=str(clock_id))
            if stalls > STALLS_MAX or clock.monotonic() >= ends_at:
                return steps, True

    async def _work(self, scope: Scope, request_id: str, at: datetime, clock_id: UUID) -> int:
        """Do once what is due at an instant: invoices, then charges, then notices. The next step finds what came of it."""
        handled = await self._scheduler.plan(scope, request_id, at=at, test_clock_id=clock_id)
        if self._collector is not None:
            handled += await self._collector.collect(scope, request_id, at=at, test_clock_id=clock_id)
        if self._notices is not None:
            handled += await self._notices.send(scope, request_id, at=at, test_clock_id=clock_id)
        return handled

    def _document(self, scope: Scope, request_id: str, token: UUID) -> dict[str, Any]:
        now = clock.now()
        return {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "now": now,
            "lease_token": token,
            "lease_until": now + timedelta(seconds=LEASE_S),
            "actor_type": "system",
            "actor_id": "test_clocks",
            "request_id": request_id,
        }


def _sensible(name: str, moment: datetime) -> datetime:
    given = in_utc(name, moment)
    if not _EARLIEST <= given < _LATEST:
        message = f"{name} lies outside the years 2000 to 2100."
        raise InvalidRequest(message, errors=[{"path": f"$.{name}", "message": message}])
    return given


async def _record(session: AsyncSession, caller: Caller, moved: TestClock, event: str) -> None:
    target = None if moved.target_at is None else moved.target_at.isoformat()
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="test_clock",
        subject_id=moved.id,
        sequence=moved.sequence,
        data={"status": moved.status, "now_at": moved.now_at.isoformat(), "target_at": target},
    )
