"""The scheduler: whatever is due becomes invoices.

It holds no state and has no leader: any number of workers call ``plan``, each batch is one transaction
(``plan.sql``), and a batch that is lost is due again. Time is a parameter, so a test clock's months go through the
same statements as the wall clock's.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings

BATCHES = 200
"""One job plans so many batches at most; what is left is due in the next sweep."""


class _Planned(msgspec.Struct, frozen=True):
    planned: int
    handled: int


class Scheduler:
    """Plans the subscriptions of one tenant and mode at a time."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._batch = settings.rebills.plan_batch

    async def plan(
        self,
        scope: Scope,
        request_id: str,
        *,
        at: datetime | None = None,
        test_clock_id: UUID | None = None,
        batches: int = BATCHES,
    ) -> int:
        """Open an invoice for every period that is due, and move on what ends, resumes or changes.

        Args:
            scope: whose.
            request_id: of the run.
            at: the moment to plan for; default now. A test clock's own time with ``test_clock_id``.
            test_clock_id: only what hangs on this clock; default: only what hangs on none.
            batches: transactions at most.

        Returns:
            how many subscriptions were moved on; a missed period counts each.
        """
        done = 0
        for _ in range(batches):
            now = clock.now()
            document = {
                "tenant_id": scope.tenant_id,
                "live": scope.live,
                "now": now,
                "at": at or now,
                "most": self._batch,
                "test_clock_id": test_clock_id,
                "actor_type": "system",
                "actor_id": "scheduler",
                "request_id": request_id,
            }
            found = msgspec.json.decode(await self._db.call("subscriptions_plan", document), type=_Planned)
            done += found.handled
            if found.handled == 0:
                break
        return done
