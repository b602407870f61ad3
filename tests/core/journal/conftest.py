"""Things that happen, feeds that tell them, and clients that listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from tests.core.journal.trail import Trail, new_trail

from clearspan.journal.feed import Feed
from clearspan.journal.service import record
from clearspan.platform import clock
from clearspan.platform.context import Caller
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.settings import EventSettings, Settings

if TYPE_CHECKING:
    from tests.conftest import Urls

PATIENCE_S = 20
"""How long a test waits for what must come; no claim is made about how fast it does."""

Happen = Callable[..., Awaitable[UUID]]


async def settle(db: Database) -> None:
    """Wait until everything committed so far is below the horizon."""
    async with asyncio.timeout(PATIENCE_S):
        mine = int(await db.fetch_text("SELECT pg_current_xact_id()::text"))
        while int(await db.fetch_text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) <= mine:
            await clock.sleep(0.005)


@pytest.fixture
def happen(db: Database) -> Happen:
    """Records something: ``event_id = await happen(caller, "payment.created", subject_id=...)``; it can be read at once."""

    async def happen(
        caller: Caller,
        event_type: str = "payment.created",
        *,
        subject_type: str = "payment",
        subject_id: UUID | None = None,
        sequence: int = 1,
        customer_id: UUID | None = None,
        data: dict[str, Any] | None = None,
    ) -> UUID:
        async with db.begin(caller.scope) as session:
            event_id = await record(
                session,
                caller,
                type=event_type,
                subject_type=subject_type,
                subject_id=subject_id or clock.new_uuid(),
                sequence=sequence,
                customer_id=customer_id,
                data=data or {},
            )
        await settle(db)
        return event_id

    return happen


NewFeed = Callable[..., Awaitable[Feed]]


@pytest.fixture
async def new_feed(db: Database, settings: Settings) -> AsyncIterator[NewFeed]:
    """Makes feeds: ``await new_feed(streams_max=..., **changed_settings)``; they stop when the test ends."""
    made: list[Feed] = []

    async def make(*, streams_max: int = 100, **changed: Any) -> Feed:
        events: EventSettings = msgspec.structs.replace(settings.events, **({"poll_ms": 10} | changed))
        feed = Feed(db, events, streams_max)
        await feed.start()
        made.append(feed)
        return feed

    yield make
    for feed in made:
        await feed.stop()


@pytest.fixture
async def feed(new_feed: NewFeed) -> Feed:
    """One with the defaults."""
    return await new_feed()


async def allow() -> None:
    """The key is still good."""


class Listener:
    """A client of one stream: reads its frames as a browser would."""

    def __init__(self, body: AsyncGenerator[bytes, None]) -> None:
        self._pieces = body
        self._frames: list[str] = []
        self.last_event_id: str | None = None

    async def frame(self) -> str | None:
        """The next frame without its blank line, or ``None`` at the end."""
        while not self._frames:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                return None
            assert piece.endswith(b"\n\n"), "a piece holds whole frames"
            self._frames = piece.decode()[:-2].split("\n\n")
        frame = self._frames.pop(0)
        if frame.startswith("id: "):
            self.last_event_id = frame.partition("\n")[0].removeprefix("id: ")
        return frame

    async def events(self, count: int) -> list[dict[str, Any]]:
        """So many events; comments and bare ids are passed over."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                frame = await self.frame()
                assert frame is not None, f"the stream ended after {len(found)} of {count} events"
                if "\ndata: " in frame:
                    found.append(msgspec.json.decode(frame.partition("\ndata: ")[2]))
        return found

    async def open(self) -> None:
        """Until whatever happens from now on comes: a stream from now on names its place first."""
        async with asyncio.timeout(PATIENCE_S):
            while self.last_event_id is None:
                assert await self.frame() is not None

    async def close(self) -> None:
        """Break off, in the middle of whatever comes."""
        await self._pieces.aclose()

    async def rest(self) -> list[str]:
        """Everything until the end."""
        frames: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while (frame := await self.frame()) is not None:
                frames.append(frame)
        return frames


Listen = Callable[..., Awaitable[Listener]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Opens streams: ``await listen(feed, caller, last_event_id, types=..., recheck=...)``; they close when the test ends."""
    async with AsyncExitStack() as stack:

        async def listen(
            feed: Feed,
            caller: Caller,
            last_event_id: str | None = None,
            *,
            types: frozenset[str] = frozenset(),
            recheck: Callable[[], Awaitable[object]] = allow,
        ) -> Listener:
            body = await feed.stream(caller, last_event_id, types, recheck)
            assert isinstance(body, AsyncGenerator)
            await stack.enter_async_context(aclosing(body))
            return Listener(body)

        yield listen


@pytest.fixture
def trail_urls(databases: Callable[[], Urls]) -> Urls:
    """A database of its own."""
    return databases()


@pytest.fixture
async def trail(trail_urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Trail]:
    """An empty journal with a sealer."""
    async with new_trail(trail_urls, settings, master) as found:
        yield found
