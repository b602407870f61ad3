"""Telling the payments what PSPs said unasked: the messages that ``psps.webhooks`` has committed.

A message is claimed under a lease (one committed call), told (``Payments.tell``, which does a thing once however often
it is told), and its end is stored. Who dies in between leaves a row that is due when the lease ends.

A message that matches nothing is parked and told again after each of ``DELAYS_S``, 55 days in all: PSPs repeat for up to
30 days, and a payment may be restored later than its message. Then a human has to look.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import structlog

from clearspan.payments import errors
from clearspan.payments.service import Payments
from clearspan.platform import clock
from clearspan.platform.context import Scope, system
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable, DomainError
from clearspan.psps.messages import read_news
from clearspan.sdk import Hint
from clearspan.settings import Settings

log = structlog.get_logger("clearspan.inbox")
DELAYS_S = (1, 5, 30, 120, 600, 3600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_592_000)
"""Seconds from one try to the next."""
BATCH = 8
"""Messages told together: few enough that all are done before their lease ends."""
RUNNERS = 2
"""Scopes worked on at once in a process that receives; more would take the connections of those who pay."""
WAITING_MAX = 1000
"""Scopes that wait for a runner; what is beyond is left to the sweep."""


class Claimed(msgspec.Struct, frozen=True):
    """A message under our lease."""

    inbox_id: UUID
    account_id: UUID
    news: msgspec.Raw
    sequence: int | None
    tries: int
    seen: int


_CLAIMED = msgspec.json.Decoder(list[Claimed])


class Inbox:
    """Applies messages, on a sweep's request or right after they came."""

    def __init__(self, db: Database, payments: Payments, settings: Settings) -> None:
        self._db = db
        self._payments = payments
        self._lease = timedelta(seconds=settings.idempotency.lease_s)
        self._most = settings.worker.sweep_batch
        self._waiting: dict[Scope, str] = {}
        self._runners: set[asyncio.Task[None]] = set()

    async def apply(self, scope: Scope, request_id: str, most: int) -> int:
        """Tell what is due of one tenant and mode, oldest first.

        Returns:
            how many messages were told.

        Raises:
            DatabaseUnavailable: what was claimed is due again when its lease ends.
        """
        told = 0
        while told < most:
            now = clock.now()
            count = min(BATCH, most - told)
            document = self._document(scope, request_id, now) | {
                "lease_until": now + self._lease,
                "delays_s": DELAYS_S,
                "most": count,
                "event_ids": [clock.new_uuid() for _ in range(count)],
            }
            claimed = _CLAIMED.decode(await self._db.call("inbox_claim", document))
            if not claimed:
                break
            # All are awaited whatever one of them meets: a message that raises must not hold up the others.
            work = (self._tell(scope, request_id, one, now + self._lease) for one in claimed)
            for ended in await asyncio.gather(*work, return_exceptions=True):
                if ended is not None:
                    raise ended
            told += len(claimed)
        return told

    async def _tell(self, scope: Scope, request_id: str, one: Claimed, lease_until: datetime) -> None:
        end: dict[str, Any]
        news = read_news(one.news)
        # A hint that came again wants another look, which is another fact.
        again = isinstance(news, Hint) and one.seen > 1
        try:
            told = await self._payments.tell(
                scope,
                request_id,
                account_id=one.account_id,
                news=news,
                fact_id=uuid5(one.inbox_id, str(one.seen)) if again else one.inbox_id,
                sequence=one.sequence,
            )
        except DatabaseUnavailable:
            raise
        except errors.DisputeCurrencyMismatch as error:  # No later try makes it better.
            end = {"state": "needs_attention", "code": error.code, "note": error.detail}
        except DomainError as error:
            end = self._again(one, None, error.code, f"{error.code}: {error.detail}")
        else:
            if told is None:
                end = self._again(one, "parked", "no_match", "it matches no payment, refund or dispute of this account")
            else:
                end = {"state": "applied"} | msgspec.structs.asdict(told)
        document = self._document(scope, request_id, clock.now()) | {
            "inbox_id": one.inbox_id,
            "seen": one.seen,
            "lease_until": lease_until,
            "event_id": clock.new_uuid(),
        }
        if not msgspec.json.decode(await self._db.call("inbox_told", document | end)):
            log.warning("the lease of a message ended before it was told", inbox_id=str(one.inbox_id))

    def _again(self, one: Claimed, state: str | None, code: str, note: str) -> dict[str, Any]:
        if one.tries > len(DELAYS_S):
            return {"state": "needs_attention", "code": code, "note": note}
        due_at = clock.now() + timedelta(seconds=DELAYS_S[one.tries - 1])
        return {"state": state, "code": code, "note": note, "due_at": due_at}

    def _document(self, scope: Scope, request_id: str, now: datetime) -> dict[str, Any]:
        caller = system(scope, "inbox", request_id)
        return {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "now": now,
            "actor_type": caller.actor_type,
            "actor_id": caller.actor_id,
            "request_id": request_id,
        }

    # -- at once --------------------------------------------------------------------------------------------------

    def wake(self, scope: Scope, request_id: str) -> None:
        """Apply what is due, in this process and soon. Does not wait; what it cannot do a sweep finds."""
        if scope not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        self._waiting.setdefault(scope, request_id)
        if sum(not runner.done() for runner in self._runners) < RUNNERS:
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)

    async def _run(self) -> None:
        while self._waiting:
            scope = next(iter(self._waiting))
            request_id = self._waiting.pop(scope)
            try:
                await self.apply(scope, request_id, self._most)
            except DatabaseUnavailable as error:
                log.warning("messages stay in the inbox: the database is away", error=str(error))
            except Exception:
                log.exception("applying messages failed")

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way; what is left stays due."""
        self._waiting.clear()
        if self._runners:
            await asyncio.wait(self._runners, timeout=seconds)
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)
