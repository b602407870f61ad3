"""The only door to time, randomness, ids and sleep.

Everything that decides or records goes through here, so that a seeded run can replace all four at once (``use``) and
a run replays exactly. Lint forbids ``datetime.now``, ``time.time``, ``random``, ``uuid4`` and ``asyncio.sleep``
elsewhere.

``now()`` is the *database's* clock: each process measures the offset between its monotonic clock and the database
when it connects and again every minute (``synchronise``), so hosts whose wall clocks disagree still agree about
leases and due times.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """What a clock must offer; the simulator brings its own."""

    def now(self) -> datetime:
        """An aware UTC moment, microsecond resolution."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards, for timeouts."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for so long."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, fit for secrets."""
        ...

    def synchronise(self, database_now: datetime) -> None:
        """Take the database's word for what time it is."""
        ...


class SystemClock:
    """Real time, corrected to the database's; real randomness."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> datetime:
        """See ``Clock.now``."""
        return datetime.fromtimestamp(time.monotonic() + self._offset, UTC)

    def monotonic(self) -> float:
        """See ``Clock.monotonic``."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See ``Clock.sleep``."""
        await asyncio.sleep(seconds)

    def random_bytes(self, count: int) -> bytes:
        """See ``Clock.random_bytes``."""
        return os.urandom(count)

    def synchronise(self, database_now: datetime) -> None:
        """See ``Clock.synchronise``."""
        self._offset = database_now.timestamp() - time.monotonic()


_clock: Clock = SystemClock()


def use(clock: Clock) -> Clock:
    """Replace the clock of this process; returns the one it replaces."""
    global _clock
    previous, _clock = _clock, clock
    return previous


def now() -> datetime:
    """The current moment by the database's clock, aware UTC."""
    return _clock.now()


def monotonic() -> float:
    """Seconds that never go backwards."""
    return _clock.monotonic()


async def sleep(seconds: float) -> None:
    """Suspend the caller."""
    await _clock.sleep(seconds)


def random_bytes(count: int) -> bytes:
    """Unpredictable bytes, fit for secrets."""
    return _clock.random_bytes(count)


def synchronise(database_now: datetime) -> None:
    """Correct the clock to the database's."""
    _clock.synchronise(database_now)


def new_uuid() -> UUID:
    """A UUIDv7 (RFC 9562): its first 48 bits are the clock's milliseconds, the rest is random."""
    milliseconds = int(now().timestamp() * 1000)
    tail = int.from_bytes(random_bytes(10), "big")
    value = (milliseconds << 80) | (0x7 << 76) | ((tail >> 66) & 0xFFF) << 64 | (0b10 << 62) | (tail & ((1 << 62) - 1))
    return UUID(int=value)


def seconds(count: float) -> timedelta:
    """A span, for ``now() + seconds(30)``."""
    return timedelta(seconds=count)


__all__ = [
    "Clock",
    "SystemClock",
    "monotonic",
    "new_uuid",
    "now",
    "random_bytes",
    "seconds",
    "sleep",
    "synchronise",
    "use",
]
