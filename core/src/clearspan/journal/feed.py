"""Following events: pages that a client polls, and streams that the server holds open.

A stream first replays the journal from the event it names, then goes on with what the process's one tailer finds; the hand-over
is by position, so nothing is missed and nothing comes twice. Events of one tenant and mode are rendered once for all its open
streams, and each stream holds references to the finished bytes: 1,000 streams cost what one costs, plus the sending. A stream may
be told in another ``Format`` than that of ``/v1/events``; then this holds for the streams of each format.

Costs: one query per ``events.poll_ms`` and process while a stream is open (10 per second by default, 0.2 ms each when nothing
happened), and per busy tenant one batch of renderings per look. A stream that keeps up holds about 8 KiB besides its connection;
one that does not holds references to at most ``events.stream_backlog_max`` events more.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any, Protocol
from uuid import UUID

import msgspec
import structlog

from clearspan.journal import repository
from clearspan.journal.errors import CursorUnknown, EventNotFound, StreamsClosed, TooManyStreams
from clearspan.journal.models import Entry, Position, Slice
from clearspan.journal.schemas import EventList, EventOut
from clearspan.journal.tail import BACKOFF_S_MAX, Tailer
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable, Forbidden, InvalidRequest, Unauthorized
from clearspan.settings import EventSettings

RECHECK_S = 30.0
"""At most between two looks at the key of an open stream. With the ticks' distance and the memory of checked keys on top, a
revoked key's stream ends within a minute."""
TICK_S_MAX = 15.0
TURNS = 15
"""Streams tick and are looked at in turns: a thousand of them at once would keep an event waiting."""
RETRY_MS = 1000
"""How long a client waits before it opens the stream again."""

_OPENING = f": clearspan events\nretry: {RETRY_MS}\n\n".encode()
_KEEPALIVE = b": keep-alive\n\n"
_ENCODER = msgspec.json.Encoder()

Renderer = Callable[[Scope, Sequence[UUID]], Awaitable[Mapping[UUID, dict[str, Any]]]]
"""The current state of objects of one kind, by id; those that do not exist are left out."""
Recheck = Callable[[], Awaitable[object]]
"""Raises ``Unauthorized`` or ``Forbidden`` when the stream's reader may read no longer."""

log = structlog.get_logger("clearspan.journal.feed")


Told = Entry
"""An event as a ``Format`` gets it."""


class Format(Protocol):
    """How events are told on a stream. It must be hashable: streams of one scope with equal formats share what it makes."""

    async def frames(self, scope: Scope, entries: Sequence[Told]) -> Sequence[bytes]:
        """Whole frames for each entry, with the event's ``id:``, so that a client can go on from there."""
        ...


class _Frame(msgspec.Struct, frozen=True):
    """A finished event on its way to a stream."""

    position: Position
    type: str
    data: bytes


class Feed:
    """Events of one tenant and mode, as pages and as streams.

    Args:
        db: the database.
        settings: distances and bounds.
        streams_max: open streams of this process; one key may hold half of them.

    Attributes:
        renderers: by type of subject; what has none is told as ``null``.
        tailer: of this process; whatever else follows the journal here shares it.
    """

    def __init__(self, db: Database, settings: EventSettings, streams_max: int) -> None:
        self.renderers: dict[str, Renderer] = {}
        self.tailer = Tailer(db, settings)
        self._db = db
        self._settings = settings
        self._streams_max = streams_max
        self._streams_per_key_max = (streams_max + 1) // 2
        self._streams: set[_Stream] = set()
        self._channels: dict[tuple[Scope, Format | None], _Channel] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Begin to keep streams alive."""
        self._stopped = False
        self._ticker = asyncio.create_task(self._tick(), name="feed-ticker")

    async def stop(self) -> None:
        """End all streams at once and refuse new ones. A server calls it when it begins to stop: it waits for its answers."""
        self._stopped = True
        for stream in self._streams:
            stream.end("the server is stopping, open the stream again")
        for channel in self._channels.values():
            channel.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        await self.tailer.stop()

    async def page(self, scope: Scope, after: str | None, limit: int | None, types: Collection[str] = ()) -> EventList:
        """Events after the event ``after``, or from the beginning, oldest first.

        Raises:
            CursorUnknown: ``after`` is no event of the scope.
            InvalidRequest: more than ``events.page_max`` are asked for.
        """
        most = min(20, self._settings.page_max) if limit is None else limit
        if most > self._settings.page_max:
            message = f"limit is at most {self._settings.page_max}."
            raise InvalidRequest(message, errors=[{"path": "limit", "message": message}])
        found = await repository.page(self._db, scope, after=_cursor(after), types=types, most=most)
        return EventList(
            data=await self.render(scope, found.entries),
            next_cursor=(after or None) if found.last is None else ids.encode("evt", found.last),
            has_more=found.more,
        )

    async def get(self, scope: Scope, event_id: UUID) -> EventOut:
        """One event.

        Raises:
            EventNotFound: there is none in the scope.
        """
        async with self._db.begin(scope) as session:
            entry = await repository.find(session, scope, event_id)
        if entry is None:
            raise EventNotFound
        return (await self.render(scope, [entry]))[0]

    async def render(self, scope: Scope, entries: Sequence[Entry]) -> list[EventOut]:
        """Entries of one scope as events, with their subjects as they are now."""
        wanted: defaultdict[str, dict[UUID, None]] = defaultdict(dict)
        for entry in entries:
            wanted[entry.subject_type][entry.subject_id] = None
        objects: dict[str, Mapping[UUID, dict[str, Any]]] = {}
        for subject_type, subject_ids in wanted.items():
            renderer = self.renderers.get(subject_type)
            objects[subject_type] = {} if renderer is None else await renderer(scope, list(subject_ids))
        return [EventOut.of(entry, objects[entry.subject_type].get(entry.subject_id)) for entry in entries]

    def recheck(self, actor_id: str) -> None:
        """Ask at once whether this actor's streams may go on; other processes do within the usual time."""
        for stream in self._streams:
            if stream.actor_id == actor_id:
                stream.doubt()

    async def stream(
        self,
        caller: Caller,
        last_event_id: str | None,
        types: Collection[str],
        recheck: Recheck,
        *,
        form: Format | None = None,
        from_start: bool = False,
        streams_max: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Server-sent events: those after ``last_event_id``, then whatever happens; from now on without it.

        Args:
            caller: whose events; its actor counts as one reader.
            last_event_id: an event of the caller's scope.
            types: only these; empty for all.
            recheck: asked again and again while the stream is open.
            form: how events are told; as JSON by default.
            from_start: without ``last_event_id`` the whole journal comes first.
            streams_max: of this actor, instead of half of the process's.

        Returns:
            the body, in pieces of one or more whole frames. It ends with a comment that says why.

        Raises:
            CursorUnknown: ``last_event_id`` is no event of the scope.
            TooManyStreams: of this process, or of this actor.
            StreamsClosed: the process is stopping.
        """
        self._admit(caller, streams_max)
        wanted = frozenset(types)
        first = None
        if last_event_id or from_start:
            first = await repository.page(
                self._db, caller.scope, after=_cursor(last_event_id), types=wanted, most=self._settings.page_max
            )
        return self._body(caller, first, wanted, recheck, form, streams_max)

    def _admit(self, caller: Caller, streams_max: int | None) -> None:
        if self._stopped:
            raise StreamsClosed
        if len(self._streams) >= self._streams_max:
            raise TooManyStreams("This server holds as many streams as it may; try again, or poll /v1/events.")
        held = sum(stream.actor_id == caller.actor_id for stream in self._streams)
        if streams_max is not None and held >= streams_max:
            raise TooManyStreams(f"You have {held} live pages open, as many as one person may. Close one of them.")
        if held >= self._streams_per_key_max:
            raise TooManyStreams("This key holds as many streams as one key may; share one among your processes.")

    async def _body(
        self,
        caller: Caller,
        first: Slice | None,
        types: frozenset[str],
        recheck: Recheck,
        form: Format | None,
        streams_max: int | None,
    ) -> AsyncIterator[bytes]:
        try:
            # Once more: others may have begun between the answer's head and its body, where the place is taken.
            self._admit(caller, streams_max)
        except (StreamsClosed, TooManyStreams) as refusal:
            yield _comment(refusal.detail)
            return
        stream = _Stream(caller.actor_id, types, self._settings.stream_backlog_max, recheck)
        channel = self._channels.get((caller.scope, form)) or self._new_channel(caller.scope, form)
        channel.streams.add(stream)
        self._streams.add(stream)
        try:
            async for piece in self._follow(channel, stream, first):
                yield piece
        except _Ended as end:
            yield _comment(str(end))
        except DatabaseUnavailable:
            yield _comment("the database cannot be reached, open the stream again")
        finally:
            self._streams.discard(stream)
            channel.streams.discard(stream)
            if not channel.streams:
                self._channels.pop((channel.scope, form), None)
                channel.close()

    async def _follow(self, channel: _Channel, stream: _Stream, first: Slice | None) -> AsyncIterator[bytes]:
        yield _OPENING
        position: Position | None = None
        if first is not None:
            # The long way first, while the stream takes nothing from the channel: a client that was away for a week must
            # not overflow before it has caught up.
            async for found, piece in self._replay(channel, stream, first, None):
                position = found.upto
                if piece:
                    yield piece
        while channel.position is None:
            await stream.wait()
            await stream.check()
            if stream.ticked():
                yield _KEEPALIVE
        start = channel.position
        stream.accept(start if position is None else max(start, position))
        # Nothing is awaited between reading the channel's position and accepting from there: this is the hand-over.
        if position is None:
            async with self._db.begin(channel.scope) as session:
                newest = await repository.newest(session, channel.scope, start)
            if newest is not None:
                # So that a client which loses the stream before its first event can resume too.
                yield _progress(newest)
        elif position < start:
            rest = await self._page(channel.scope, stream, position, start)
            async for _, piece in self._replay(channel, stream, rest, start):
                if piece:
                    yield piece
        while True:
            await stream.wait()
            allowed = await stream.check()
            piece = stream.take() if allowed else b""
            if stream.ticked():
                piece += _KEEPALIVE
            if piece:
                yield piece

    async def _replay(
        self, channel: _Channel, stream: _Stream, found: Slice, until: Position | None
    ) -> AsyncIterator[tuple[Slice, bytes]]:
        """Slices from the journal with what to send for each (maybe nothing), from ``found`` on until there is no more."""
        while True:
            if not await stream.check():
                raise DatabaseUnavailable
            piece = b"".join(frame.data for frame in await channel.render(found.entries))
            if not piece and found.last is not None:
                piece = _progress(found.last)
            yield found, piece
            if not found.more:
                return
            found = await self._page(channel.scope, stream, found.upto, until)

    async def _page(self, scope: Scope, stream: _Stream, after: Position, until: Position | None) -> Slice:
        return await repository.page(
            self._db, scope, after=after, until=until, types=stream.types, most=self._settings.page_max
        )

    async def _frames(self, form: Format | None, scope: Scope, entries: Sequence[Entry]) -> list[_Frame]:
        if form is not None:
            told = await form.frames(scope, entries)
            return [_Frame(entry.position, entry.type, data) for entry, data in zip(entries, told, strict=True)]
        events = await self.render(scope, entries)
        return [_frame(entry, event) for entry, event in zip(entries, events, strict=True)]

    def _new_channel(self, scope: Scope, form: Format | None) -> _Channel:
        channel = _Channel(scope, partial(self._frames, form, scope), self._settings, self.tailer)
        self._channels[scope, form] = channel
        return channel

    async def _tick(self) -> None:
        for turn in cycle(range(TURNS)):
            await clock.sleep(min(self._settings.keepalive_s, TICK_S_MAX) / TURNS)
            for stream in self._streams:
                if stream.turn == turn:
                    stream.tick()


class _Ended(Exception):
    """The stream is over; ``str()`` says why."""


class _Stream:
    """What waits to be sent on one connection."""

    def __init__(self, actor_id: str, types: frozenset[str], backlog_max: int, recheck: Recheck) -> None:
        self.actor_id = actor_id
        self.types = types
        self._backlog_max = backlog_max
        self._recheck = recheck
        self.turn = clock.random_bytes(1)[0] % TURNS
        self._recheck_at = _next_recheck()
        self._after: Position | None = None
        self._waiting: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._ticked = False
        self._end = ""

    def accept(self, after: Position) -> None:
        """Take frames after this position from now on."""
        self._after = after

    def push(self, frames: Iterable[_Frame]) -> None:
        """Keep what this stream wants; too much of it ends the stream."""
        if self._after is None or self._end:
            return
        for frame in frames:
            if frame.position > self._after and (not self.types or frame.type in self.types):
                self._waiting.append(frame.data)
        if len(self._waiting) > self._backlog_max:
            self.end("the client is too slow, open the stream again")
        elif self._waiting:
            self._ready.set()

    def end(self, reason: str) -> None:
        """Send nothing more but the reason."""
        self._end = self._end or reason
        self._waiting.clear()
        self._ready.set()

    def tick(self) -> None:
        """Time has passed."""
        self._ticked = True
        self._ready.set()

    def ticked(self) -> bool:
        """Whether it has, since the last question."""
        ticked, self._ticked = self._ticked, False
        return ticked

    def doubt(self) -> None:
        """Ask before anything else is sent whether the reader may read still."""
        self._recheck_at = clock.monotonic()
        self._ready.set()

    def wake(self) -> None:
        """Something around has changed."""
        self._ready.set()

    async def wait(self) -> None:
        """Until there is something to do."""
        await self._ready.wait()
        self._ready.clear()

    async def check(self) -> bool:
        """Whether something may be sent; not while nobody can say whether the key is still good.

        Raises:
            _Ended: nothing more is to be sent.
        """
        if not self._end and clock.monotonic() >= self._recheck_at:
            try:
                await self._recheck()
            except (Unauthorized, Forbidden) as refusal:
                self.end(refusal.title)
            except DatabaseUnavailable:
                return False
            self._recheck_at = _next_recheck()
        if self._end:
            raise _Ended(self._end)
        return True

    def take(self) -> bytes:
        """All that waits."""
        piece = b"".join(self._waiting)
        self._waiting.clear()
        return piece


class _Channel:
    """The open streams of one tenant in one mode and one format, and the one task that renders events for all of them."""

    def __init__(
        self,
        scope: Scope,
        render: Callable[[Sequence[Entry]], Awaitable[list[_Frame]]],
        settings: EventSettings,
        tailer: Tailer,
    ) -> None:
        self.scope = scope
        self.position: Position | None = None
        self.streams: set[_Stream] = set()
        self.render = render
        self._batch_max = settings.page_max
        self._inbox_max = settings.stream_backlog_max + settings.page_max
        self._tailer = tailer
        self._inbox: deque[Entry] = deque()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="feed-channel")
        tailer.join(self)

    def joined(self, position: Position) -> None:
        """See ``Reader.joined``."""
        self.position = position
        for stream in self.streams:
            stream.wake()

    def receive(self, entries: Sequence[Entry]) -> None:
        """See ``Reader.receive``."""
        self.position = entries[-1].position
        self._inbox.extend(entries)
        if len(self._inbox) > self._inbox_max:
            self._inbox.clear()
            self._end("events come faster than they can be rendered, open the stream again")
        self._arrived.set()

    def close(self) -> None:
        """Follow no longer."""
        self._tailer.leave(self)
        self._task.cancel()

    def _end(self, reason: str) -> None:
        for stream in self.streams:
            stream.end(reason)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._inbox:
                batch = [self._inbox.popleft() for _ in range(min(len(self._inbox), self._batch_max))]
                frames = await self._rendered(batch)
                for stream in self.streams:
                    stream.push(frames)

    async def _rendered(self, batch: Sequence[Entry]) -> list[_Frame]:
        delay_s = 0.1
        while True:
            try:
                return await self.render(batch)
            except DatabaseUnavailable:
                await clock.sleep(delay_s)
                delay_s = min(2 * delay_s, BACKOFF_S_MAX)
            except Exception:  # An edge: one tenant's event must not silence the others.
                log.exception("stream.rendering_failed", events=[str(entry.event_id) for entry in batch])
                self._end("an event cannot be shown, open the stream again")
                return []


def _next_recheck() -> float:
    """At another moment for each stream, though they were all opened at once or wait for the same event."""
    return clock.monotonic() + RECHECK_S * (0.3 + 0.7 * clock.random_bytes(1)[0] / 255)


def _frame(entry: Entry, event: EventOut) -> _Frame:
    data = f"id: {event.id}\nevent: {event.type}\ndata: ".encode() + _ENCODER.encode(event) + b"\n\n"
    return _Frame(entry.position, entry.type, data)


def _progress(event_id: UUID) -> bytes:
    """An id without data moves a client's Last-Event-ID and dispatches nothing (WHATWG HTML, 9.2.6)."""
    return f"id: {ids.encode('evt', event_id)}\n\n".encode()


def _comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


def _cursor(text: str | None) -> UUID | None:
    """The event a client goes on from.

    Raises:
        CursorUnknown: it is no id of an event.
    """
    if not text:
        return None
    try:
        return ids.decode("evt", text)
    except ids.InvalidId:
        raise CursorUnknown from None
