"""The simulator's time: one clock that can be moved ahead, and what happens by itself when its time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush

Sleep = Callable[[float], Awaitable[object]]
_REST_S = 0.001
"""The shortest sleep: a clock that ran slower than the sleep must not make the alarm ring without end."""


class Clock:
    """Seconds since 1970.

    Attributes:
        offset: how far it was moved ahead.
        sleep: real seconds; a hanging request is not hurried by moving the clock.
    """

    def __init__(self, now: Callable[[], float], sleep: Sleep) -> None:
        self._now = now
        self.sleep = sleep
        self.offset = 0.0

    def now(self) -> float:
        """The simulator's time."""
        return self._now() + self.offset

    def everybodys(self) -> float:
        """The time outside, which the receiver of a signature compares with."""
        return self._now()


class Agenda:
    """Things to do at a time. They are done when their time has come, or at the next request, whichever is first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._alarm: asyncio.Task[None] | None = None
        self._rings_at = 0.0
        self._open = False

    def put(self, at: float, act: Callable[[], None]) -> None:
        """Do it then; things of one moment in the order in which they were put."""
        self._count += 1
        heappush(self._entries, (at, self._count, act))
        if self._open:
            self._set_alarm()

    def run_due(self) -> None:
        """Do what is due. The first call, in a running loop, opens the agenda."""
        self._open = True
        while self._entries and self._entries[0][0] <= self._clock.now():
            heappop(self._entries)[2]()
        self._set_alarm()

    def moved(self) -> None:
        """The clock was moved: do what became due and set the alarm anew."""
        self.close()
        self.run_due()

    def close(self) -> None:
        """Do nothing by itself any more."""
        self._open = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self) -> None:
        if not self._entries or (self._alarm is not None and self._rings_at <= self._entries[0][0]):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = self._entries[0][0]
        self._alarm = asyncio.create_task(self._ring(self._rings_at))

    async def _ring(self, at: float) -> None:
        await self._clock.sleep(max(_REST_S, at - self._clock.now()))
        self._alarm = None
        self.run_due()
