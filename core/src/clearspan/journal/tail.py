"""One look at the end of the journal for everybody in this process.

A look is one query for what was committed since the last one, across the tenants that somebody reads; readers get their
entries in memory. So the database sees one query per ``events.poll_ms`` and process while anybody reads, and none otherwise,
however many streams are open. Nothing is woken by NOTIFY: inside business transactions it would queue all commits on one lock.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import structlog

from clearspan.journal import repository
from clearspan.journal.models import Entry, Position
from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import EventSettings

BACKOFF_S_MAX = 5.0
log = structlog.get_logger("clearspan.journal.tail")


class Reader(Protocol):
    """Somebody who wants to know. Both methods return at once: they run between two looks."""

    @property
    def scope(self) -> Scope | None:
        """Whose entries; ``None`` for everybody's."""
        ...

    def joined(self, position: Position) -> None:
        """From now on ``receive`` gets every entry after this position, each once, in order."""
        ...

    def receive(self, entries: Sequence[Entry]) -> None:
        """Some entries, one or more."""
        ...


class Tailer:
    """Follows the journal as long as there are readers."""

    def __init__(self, db: Database, settings: EventSettings) -> None:
        self._db = db
        self._poll_s = settings.poll_ms / 1000
        self._most = settings.page_max
        self._readers: dict[Reader, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def join(self, reader: Reader) -> None:
        """Take a reader in at the next look, which starts at once; it is told by ``joined``."""
        self._readers[reader] = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="journal-tail")
        self.wake()

    def leave(self, reader: Reader) -> None:
        """Give a reader nothing any more."""
        self._readers.pop(reader, None)
        self.wake()

    def wake(self) -> None:
        """Look now; for whoever knows that there is something."""
        self._wake.set()

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        position: Position | None = None
        admitted: set[Reader] = set()
        failures = 0
        while self._readers:
            if position is not None:
                # Taken in between two looks: during one, nobody could say whether it was made for the newcomer too.
                for reader in self._readers.keys() - admitted:
                    reader.joined(position)
                admitted = set(self._readers)
            try:
                found = await repository.tail(self._db, position, _scopes(admitted), self._most)
            except Exception as error:  # noqa: BLE001  (an edge: whatever happens to the database, the feed outlives it)
                failures += 1
                log.warning("tail.failed", error=type(error).__name__, failures=failures)
                await clock.sleep(min(BACKOFF_S_MAX, self._poll_s * 2 ** min(failures, 10)))
                continue
            if failures:
                log.info("tail.recovered", failures=failures)
                failures = 0
            self._hand_out(found.entries, admitted)
            position = found.upto
            if not found.more:
                await self._pause()
        self._task = None

    def _hand_out(self, entries: Sequence[Entry], readers: set[Reader]) -> None:
        if not entries:
            return
        by_scope: defaultdict[Scope, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_scope[entry.scope].append(entry)
        for reader in readers:
            wanted = entries if reader.scope is None else by_scope.get(reader.scope)
            if wanted and reader in self._readers:
                reader.receive(wanted)

    async def _pause(self) -> None:
        """Until the next look is due or asked for."""
        sleeper = asyncio.ensure_future(clock.sleep(self._poll_s))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleeper, waker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()
        self._wake.clear()


def _scopes(readers: set[Reader]) -> set[Scope] | None:
    scopes = {reader.scope for reader in readers}
    return None if None in scopes else {scope for scope in scopes if scope is not None}
