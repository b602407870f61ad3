"""Looking at the queue of background jobs, which stands in Redis: what a tenant's jobs do, and ringing for them again.

A job only wakes a worker; what there is to do stands in rows (``platform.queue``). So nothing is lost with a job, and a process
that cannot reach Redis says so and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from saq import Job, Status
from saq.queue.redis import RedisQueue

from clearspan.desk.errors import JobGone, QueueAway
from clearspan.desk.models import JOBS_ACT, JOBS_READ, REASON_MAX
from clearspan.journal import service as journal
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import Forbidden, InvalidRequest
from clearspan.platform.queue import QUEUE

LOOKED_AT: Final = 1_000
"""Jobs of the whole installation that one look reads, at most."""
PATIENCE_S: Final = 2.0
_ERROR_MAX: Final = 300
_STATES = {
    Status.NEW: "waiting",
    Status.QUEUED: "waiting",
    Status.ACTIVE: "active",
    Status.ABORTING: "active",
    Status.ABORTED: "failed",
    Status.FAILED: "failed",
}


class JobSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A background job.

    Attributes:
        key: names it.
        function: what it does.
        state: ``waiting``, ``scheduled``, ``active``, ``failed`` or ``complete``.
        since: when it got into this state, as far as the queue knows.
        next_at: when it is tried again, of a scheduled one.
        tries: how often it was begun.
        error: the last line of what it raised, cut.
    """

    key: str
    function: str
    state: str
    since: datetime | None
    next_at: datetime | None
    tries: int
    error: str


class JobsSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the queue for one tenant and mode.

    Attributes:
        jobs: those that failed first, then by age.
        workers: how many worker processes serve the queue.
        more: there were more jobs in the installation than one look reads.
    """

    jobs: list[JobSeen]
    workers: int
    more: bool


class JobQueue:
    """See the module's docstring.

    Args:
        url: of Redis; empty when this process knows none.
        db: journals what people do.
    """

    def __init__(self, url: str, db: Database) -> None:
        self._url = url
        self._db = db

    async def look(self, caller: Caller) -> JobsSeen:
        """The jobs of the caller's tenant and mode.

        Raises:
            Forbidden, QueueAway.
        """
        _allow(caller, JOBS_READ)
        async with self._queue() as queue:
            info = await queue.info()
            found: list[Job] = []
            looked = 0
            async for job in queue.iter_jobs():
                looked += 1
                if _of(job, caller.scope):
                    found.append(job)
                if looked >= LOOKED_AT:
                    break
            seen = sorted(map(_seen, found), key=lambda one: (one.state != "failed", one.since or _LAST))
            return JobsSeen(jobs=seen, workers=len(info["workers"]), more=looked >= LOOKED_AT)

    async def retry(self, caller: Caller, key: str, reason: str = "") -> int:
        """Ring again for one job that failed, or with an empty key for all of the tenant's; how many.

        Raises:
            Forbidden, QueueAway, JobGone, InvalidRequest.
        """
        return await self._change(caller, key, reason, "retry")

    async def abort(self, caller: Caller, key: str, reason: str = "") -> int:
        """Take a waiting job back, or stop a running one; with an empty key forget all that failed. What it works on stays due.

        Raises:
            Forbidden, QueueAway, JobGone, InvalidRequest.
        """
        return await self._change(caller, key, reason, "abort")

    async def _change(self, caller: Caller, key: str, reason: str, action: str) -> int:
        _allow(caller, JOBS_ACT)
        if not key and not reason:
            message = "Say why, in a few words; the audit trail keeps it."
            raise InvalidRequest(message, errors=[{"path": "reason", "message": message}])
        async with self._queue() as queue:
            if key:
                job = await queue.job(key)
                if job is None or not _of(job, caller.scope):
                    raise JobGone
                wanted = [job]
            else:
                wanted = [
                    job
                    async for job in queue.iter_jobs([Status.FAILED, Status.ABORTED, Status.COMPLETE])
                    if _of(job, caller.scope) and _seen(job).state == "failed"
                ][:LOOKED_AT]
            done = 0
            for job in wanted:
                failed = _seen(job).state == "failed"
                if action == "retry" and failed:
                    job.attempts = 0
                    job.result = None
                    await queue.retry(job, "asked for by an operator")
                    done += 1
                elif action == "abort" and not failed and job.status is not Status.COMPLETE:
                    await queue.abort(job, "aborted by an operator")
                    done += 1
                elif action == "abort" and failed:
                    await queue.redis.delete(job.id)
                    done += 1
        if done:
            async with self._db.begin(caller.scope) as session:
                await journal.record(
                    session,
                    caller,
                    type="tenant.jobs_changed",
                    subject_type="tenant",
                    subject_id=caller.scope.tenant_id,
                    sequence=0,
                    data={"action": action, "jobs": done, "reason": reason[:REASON_MAX]},
                )
        return done

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[RedisQueue]:
        if not self._url:
            raise QueueAway("This process knows no Redis: set redis.url, or run it beside the worker.")
        queue = RedisQueue(
            redis.from_url(
                self._url,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
            ),
            name=QUEUE,
        )
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                yield queue
        except (RedisError, OSError, TimeoutError) as error:
            raise QueueAway from error
        finally:
            await _quietly(queue)


_LAST = datetime.max.replace(tzinfo=UTC)


async def _quietly(queue: RedisQueue) -> None:
    try:
        await queue.disconnect()
    except (RedisError, OSError):
        return


def _of(job: Job, scope: Scope) -> bool:
    """Whether a job is about this tenant in this mode; each is about one."""
    given = job.kwargs or {}
    return given.get("tenant_id") == str(scope.tenant_id) and given.get("live") is scope.live


def _seen(job: Job) -> JobSeen:
    state = _STATES.get(job.status, "complete")
    # A job of ours raises nothing: it answers whether it ended well (worker.Jobs).
    if state == "complete" and job.result is False:
        state = "failed"
    if state == "waiting" and job.scheduled:
        state = "scheduled"
    ms = job.completed or job.started or job.queued
    said = (job.error or "").strip()
    if state == "failed" and not said:
        said = "It did not end well; the worker's log says why."
    return JobSeen(
        key=job.key,
        function=job.function,
        state=state,
        since=_at(ms / 1000) if ms else None,
        next_at=_at(job.scheduled) if job.scheduled else None,
        tries=job.attempts,
        error=said.splitlines()[-1][:_ERROR_MAX] if said else "",
    )


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _allow(caller: Caller, scope: str) -> None:
    if scope not in caller.scopes:
        raise Forbidden(f"Your role lacks the right '{scope}'. Ask an owner or admin for it.")
