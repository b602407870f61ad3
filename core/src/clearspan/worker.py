"""The worker's composition root: jobs from the queue, and the sweep that finds due work when no message tells of it.

Plain ``saq.Worker`` with the house rules of ``platform.queue``. The queue is a doorbell: what is due stands in rows, and a sweep
looks for it every ``worker.sweep_interval_s`` and rings. When Redis is away the sweep does the work itself, so losing the queue
delays work by one sweep and loses none.

SIGTERM and SIGINT: no new job is taken, those under way get ``server.drain_timeout_s``; what does not end in time is given back
to the queue, and each job finds its rows as it left them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import msgspec
import saq
import saq.types
import structlog
import uvloop
from prometheus_client import start_http_server
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from saq.queue.redis import RedisQueue

from clearspan.app import Gateway
from clearspan.commands import heartbeat
from clearspan.commands.start import check_master_key, keep_clock, note_plugins
from clearspan.desk import jobs as desk_jobs
from clearspan.journal.push import Pusher
from clearspan.journal.seal import Sealer
from clearspan.payments import jobs as payment_jobs
from clearspan.platform import clock, ids, memory, sqlbundle
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.platform.queue import QUEUE, Doorbell
from clearspan.platform.runtime import Runtime, opened, publish, require_schema, withdraw
from clearspan.platform.telemetry import configure_logging
from clearspan.rebills import jobs as rebill_jobs
from clearspan.settings import Settings
from clearspan.subscriptions import jobs as subscription_jobs
from clearspan.webhooks.dispatch import Dispatcher

JOB_TIMEOUT_S = 300
"""Above everything one batch may wait for PSPs. A killed worker's job is found by its heartbeat, long before."""
BEAT_S = 2.0
"""Well under the heartbeat that ``Doorbell.ring`` asks for."""
RING_TIMEOUT_S = 2.0
"""A Redis that hangs must not hold up the sweep."""
AWAY_S = 1.0
"""Between two tries while Redis is away; without a pause a worker turns at full speed."""
DEQUEUE_S = 1.0
"""How long one wait for a message lasts, and so how long a stop waits for it."""
JOBS = {**payment_jobs.JOBS, **subscription_jobs.JOBS, **rebill_jobs.JOBS, **desk_jobs.JOBS}
"""By the name that ``due_work`` gives them."""
log = structlog.get_logger("clearspan.worker")


class Due(msgspec.Struct, frozen=True):
    """One line of ``due_work``: so many rows of one tenant and mode wait for a job."""

    tenant_id: str
    live: bool
    job: str
    rows: int


_DUE = msgspec.json.Decoder(list[Due])


class PatientQueue(RedisQueue):
    """A queue whose workers wait, instead of asking again at once, while Redis is away."""

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> saq.Job | None:  # noqa: ASYNC109  (SAQ's signature)
        """The next job, or ``None``."""
        try:
            return await super().dequeue(timeout, poll_interval)
        except (RedisError, OSError):
            await clock.sleep(AWAY_S)
            return None


class Jobs:
    """Runs jobs by name, each under a request id of its own.

    Args:
        gateway: open.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._given = {
            "payments": gateway.payments,
            "inbox": gateway.inbox,
            "db": gateway.db,
            "settings": gateway.settings,
            "scheduler": gateway.scheduler,
            "test_clocks": gateway.test_clocks,
            "collector": gateway.collector,
            "metrics": gateway.metrics,
            "notices": gateway.notices,
            "desk": gateway.desk,
        }

    async def run(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Run one job; whatever it raises is logged, never passed on. Returns whether it ended well."""
        request_id = ids.encode("req", clock.new_uuid())
        began = clock.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=request_id, job=name):
            try:
                done = await JOBS[name]({**self._given, "request_id": request_id}, **arguments)
            except DatabaseUnavailable as error:
                log.warning("job put off: the database is away", error=str(error))
                return False
            except Exception:  # One of the three edges: the rows stay due, and a sweep comes back.
                log.exception("job failed")
                return False
            log.info("job", done=done, ms=round((clock.monotonic() - began) * 1000, 1))
        return True

    def for_queue(self, name: str) -> Any:
        """The function that SAQ calls."""

        async def function(ctx: Mapping[str, Any], **arguments: Any) -> bool:
            async with _beating(ctx["job"]):
                return await self.run(name, arguments)

        return name, function


@asynccontextmanager
async def _beating(job: saq.Job) -> AsyncIterator[None]:
    """Tell the queue again and again that the job is in hand; a job that stops beating is given to another worker."""

    async def beat() -> None:
        while True:
            await clock.sleep(BEAT_S)
            with suppress(RedisError, OSError):
                await job.update()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


class Sweeper:
    """Looks for due work, rings for it, and does it here when nobody hears.

    Attributes:
        says: how the last look went, for the heartbeat.
    """

    def __init__(self, gateway: Gateway, doorbell: Doorbell, jobs: Jobs) -> None:
        self._gateway = gateway
        self._doorbell = doorbell
        self._jobs = jobs
        self.says = "starting"

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await clock.sleep(self._gateway.settings.worker.sweep_interval_s)

    async def sweep(self) -> None:
        """One look."""
        settings = self._gateway.settings
        now = clock.now()
        try:
            found = await self._gateway.db.fetch_text(
                f"SELECT {sqlbundle.name('due_work')}($1, $2, $3)",
                now,
                settings.worker.sweep_batch,
                now - timedelta(days=settings.idempotency.replay_days),
            )
        except DatabaseUnavailable as error:
            self.says = "the database is away"
            log.warning("no sweep: the database is away", error=str(error.__cause__ or error))
            return
        heard = True
        for due in _DUE.decode(found):
            arguments = {"tenant_id": due.tenant_id, "live": due.live}
            # Not heard once, not rung again in this sweep: each ring may take its whole time to fail.
            heard = heard and await self._ring(due, arguments)
            if not heard:
                await self._jobs.run(due.job, arguments)
        self.says = "fine" if heard else "the queue is away, sweeps do the work"

    async def _ring(self, due: Due, arguments: Mapping[str, Any]) -> bool:
        key = f"{due.job}:{due.tenant_id}:{'live' if due.live else 'test'}"
        try:
            async with asyncio.timeout(RING_TIMEOUT_S):
                return await self._doorbell.ring(due.job, key=key, timeout_s=JOB_TIMEOUT_S, **arguments)
        except TimeoutError:
            return False


class Worker(saq.Worker[Any]):
    """``saq.Worker`` that leaves the signals to its caller."""

    SIGNALS: list[signal.Signals] = []


def run(settings: Settings) -> int:
    """Work until told to stop.

    Raises:
        OperatorError: the database is away, or not at this release.
    """
    configure_logging(settings.log.level, settings.log.format)
    # SAQ reports a lost Redis with a traceback per second and task. What matters is said here: the doorbell's one warning, and
    # each job's own failure.
    logging.getLogger("saq").setLevel(logging.CRITICAL)
    with opened(settings, redis=True) as runtime:
        if runtime.servers is not None:
            publish(runtime, "worker")
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_work(runtime))
        finally:
            withdraw(settings, "worker")
    return 0


async def _work(runtime: Runtime) -> None:
    settings = runtime.settings
    await require_schema(runtime)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = Gateway(settings, runtime.app_url, runtime.master, runtime.plugins)
    if settings.telemetry.metrics and settings.telemetry.worker_port:
        start_http_server(settings.telemetry.worker_port, settings.server.host, gateway.metrics.registry)
    await gateway.open()
    doorbell = Doorbell(runtime.redis_url)
    # Without the client's own retries: they would hold up a stop, and ``PatientQueue`` waits by itself.
    queue = PatientQueue(redis.from_url(runtime.redis_url, retry=Retry(NoBackoff(), 0)), name=QUEUE)
    try:
        await check_master_key(runtime, gateway)
        await note_plugins(gateway, "worker")
        jobs = Jobs(gateway)
        sweeper = Sweeper(gateway, doorbell, jobs)
        worker = Worker(
            queue,
            [jobs.for_queue(name) for name in JOBS],
            concurrency=settings.worker.concurrency,
            # worker_info as well: a stop waits for the tasks that sleep between two of them.
            timers=saq.types.PartialTimersDict(schedule=1, worker_info=2, sweep=2, abort=1),
            dequeue_timeout=DEQUEUE_S,
            shutdown_grace_period_s=settings.server.drain_timeout_s,
        )
        memory.settle()
        webhooks = Dispatcher(gateway.webhook_deliveries, gateway.feed, settings.server.drain_timeout_s)
        helpers = [
            asyncio.create_task(work)
            for work in (
                worker.start(),
                sweeper.run(),
                Sealer(gateway.db, gateway.proofs, gateway.audit_key, settings.audit).run(),
                Pusher(gateway.db, settings.audit).run(),
                webhooks.run(),
                keep_clock(gateway),
                _show(settings, sweeper),
            )
        ]
        log.info("worker started", concurrency=settings.worker.concurrency)
        stopped = asyncio.create_task(stop.wait())
        # Nothing but a bug ends one of them; then the process ends, to be started again.
        await asyncio.wait([stopped, *helpers], return_when=asyncio.FIRST_COMPLETED)
        log.info("worker stops")
        worker.event.set()
        stopped.cancel()
        serving, *others = helpers
        for task in others:
            task.cancel()
        ends = await asyncio.gather(*others, return_exceptions=True)
        await serving
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end
    finally:
        heartbeat.end(settings)
        with suppress(RedisError, OSError):
            await queue.disconnect()
        with suppress(RedisError, OSError):
            await doorbell.close()
        await gateway.close()


async def _show(settings: Settings, sweeper: Sweeper) -> None:
    while True:
        heartbeat.beat(settings, sweeper.says)
        await clock.sleep(heartbeat.EVERY_S)
