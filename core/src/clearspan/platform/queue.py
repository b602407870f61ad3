"""The doorbell: SAQ on Redis. A message only wakes a worker; the work itself is rows in PostgreSQL.

So nothing is lost when Redis is: a sweep finds due rows by itself. House rules, checked by ``ring``: a job may run
again (retries of at least 2), has a timeout above zero, and a heartbeat when it may take longer than 30 seconds
(SAQ's defaults would lose a killed job for good). Keys carry the queue's name, because SAQ's job keys are shared
between queues.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.exceptions import RedisError
from saq import Job
from saq.queue.redis import RedisQueue

QUEUE = "clearspan"
HEARTBEAT_FROM_S = 30
log = structlog.get_logger("clearspan.queue")


class Doorbell:
    """Rings for a job; never raises when Redis is away, because a sweep will find the work."""

    def __init__(self, url: str) -> None:
        self.queue = RedisQueue.from_url(url, name=QUEUE)
        self._silent = False

    async def ring(self, job: str, *, key: str, timeout_s: int = 60, retries: int = 3, **arguments: Any) -> bool:
        """Ask a worker to run ``job`` soon; one message per ``key`` at a time.

        Returns:
            whether Redis took the message (also when the same key is already waiting).
        """
        assert retries >= 2, "a job that runs once is lost with its worker"
        assert timeout_s > 0, "a job without a timeout is never swept"
        heartbeat = 5 if timeout_s > HEARTBEAT_FROM_S else 0
        try:
            await self.queue.enqueue(
                Job(
                    function=job,
                    kwargs=arguments,
                    key=f"{QUEUE}:{key}",
                    timeout=timeout_s,
                    retries=retries,
                    heartbeat=heartbeat,
                    ttl=60,
                )
            )
        except (RedisError, OSError) as error:
            if not self._silent:
                log.warning("the queue is away; sweeps go on without it", error=type(error).__name__)
            self._silent = True
            return False
        self._silent = False
        return True

    async def close(self) -> None:
        """Disconnect."""
        await self.queue.disconnect()
