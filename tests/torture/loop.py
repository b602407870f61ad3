"""Time and chance of a simulated run: an event loop that never waits, and the clock that goes with it.

``VirtualLoop`` has no selector. When nothing is ready it jumps to the next timer; when several things are ready the seed
picks one, so two seeds interleave differently and one seed always the same. Everything belongs to a process (a context
variable that tasks inherit); what belongs to a dead one is never run again, not even its ``finally`` blocks: that is SIGKILL.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import inspect
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
TICK_S = 0.000_002
"""Each step takes so long, so that no two moments are equal."""
STEPS_MAX = 2_000_000


class Mortal(Protocol):
    """What a task can belong to.

    Attributes:
        alive: nothing of a dead one runs.
    """

    alive: bool

    def step(self) -> None:
        """Called before each step; it may die of it."""
        ...


PROCESS: ContextVar[Mortal | None] = ContextVar("torture_process", default=None)


class Stuck(Exception):
    """Nothing is ready and no timer is set: the run hangs."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's docstring."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._now = 0.0
        self._chance = chance
        self._made: list[asyncio.Task[Any]] = []
        self.steps = 0
        self.set_task_factory(self._remember)
        self.set_exception_handler(_ignore)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def jump(self, moment: float) -> None:
        """Nobody looks at a clock until then; whatever was to happen meanwhile happens late."""
        self._now = max(self._now, moment)

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """At once: there are no threads here."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (handed to the caller, as an executor does)
            done.set_exception(error)
        return done

    def forget(self) -> None:
        """Let go of tasks that a dead process left behind; only now, because letting go would run their clean-up."""
        for task in self._made:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro = task.get_coro()
            if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
                coro.close()  # It never began; Python warns of that.
        self._made.clear()

    def _remember(
        self, loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
        self._made.append(task)
        return task

    def _check_closed(self) -> None:
        """What a dead process leaves behind may still call here, long after the run."""

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not ready:
            if not scheduled:
                raise Stuck("nothing is ready and no timer is set")
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                ready.append(timer)
        if not ready:
            return
        index = self._chance.randrange(len(ready)) if len(ready) > 1 else 0
        handle = ready[index]
        del ready[index]
        self._now += TICK_S
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"still not at rest after {STEPS_MAX} steps")
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is not None:
            if process.alive:
                process.step()
            if not process.alive:
                return
        handle._run()


def _ignore(*_: object) -> None:
    """What nobody asked for any more, because whoever would have is dead."""


class VirtualClock:
    """See ``clearspan.platform.clock.Clock``."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance

    def now(self) -> datetime:
        """The loop's time as a date."""
        return EPOCH + timedelta(microseconds=round(self._loop.time() * 1e6))

    def monotonic(self) -> float:
        """The loop's time."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Takes no time."""
        await asyncio.sleep(seconds)

    def random_bytes(self, count: int) -> bytes:
        """From the seed."""
        return self._chance.randbytes(count)

    def synchronise(self, database_now: datetime) -> None:
        """The database's clock is not asked: time is virtual."""


class Trace:
    """What happened, in order: a hash always, the lines when somebody reads them."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._show = show
        self.lines = 0

    def __call__(self, moment: float, line: str) -> None:
        """Note one thing."""
        text = f"{moment:14.6f} {line}"
        self._hash.update(text.encode() + b"\n")
        self.lines += 1
        if self._show is not None:
            self._show(text)

    def digest(self) -> str:
        """Equal for two runs that did the same."""
        return self._hash.hexdigest()
