"""What people do about work that waits for them: look, act on one thing, and on many in the background.

Acting on one thing is a short transaction, which journals it; a bulk run is a row that the worker takes up under a lease and
works off in steps. A step is one transaction too: what it does to its rows and how far it has got are committed together, so
that a run whose worker dies goes on behind its last row and does nothing twice. There is one run per queue at a time.

Nothing here decides about money. An operation of unknown outcome is *looked up* now instead of later, by the rules of
``payments.recovery``; an invoice is put first in line, and the collector charges it by its own rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.desk.errors import QueueUnknown
from clearspan.desk.models import (
    COUNT_MAX,
    IDS_MAX,
    QUEUES,
    REASON_MAX,
    TOTAL_MAX,
    BulkRun,
    Narrowed,
    Queue,
    WorkPage,
)
from clearspan.payments import caps
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.problems import Forbidden, InvalidRequest, NotFound
from clearspan.psps.webhooks import PspWebhooks

log = structlog.get_logger("clearspan.desk")
STEP: Final = 50
"""Rows of one step: each is a subtransaction, and PostgreSQL keeps 64 of them in its fast cache."""
LEASE: Final = timedelta(seconds=30)
"""Much longer than a step with its lookups takes; renewed with each."""
SPELL_S: Final = 60.0
"""A job works so long on one run, then the others have their turn."""
LOOKS: Final = 64
"""Operations looked up between two steps."""
ERRORS_MAX: Final = 50

_PAGE = msgspec.json.Decoder(WorkPage)
_RUN = msgspec.json.Decoder(BulkRun | None)
_RUNS = msgspec.json.Decoder(list[BulkRun])


class _Step(msgspec.Struct, frozen=True):
    over: bool
    queue: str = ""
    action: str = ""


class Desk:
    """See the module's docstring.

    Args:
        db: the database.
        payments: looks up what is not known.
        psp_webhooks: wakes who tells the payments what PSPs said.
    """

    def __init__(self, db: Database, payments: Payments, psp_webhooks: PspWebhooks) -> None:
        self._db = db
        self._payments = payments
        self._psp_webhooks = psp_webhooks

    # -- looking ------------------------------------------------------------------------------------------------------------

    async def counts(self, scope: Scope, scopes: Collection[str]) -> dict[str, int]:
        """How much waits in each queue that somebody with these scopes may see, counted up to ``COUNT_MAX``."""
        seen = [queue.name for queue in QUEUES.values() if queue.reads in scopes]
        document = _place(scope) | {"queues": seen, "most": COUNT_MAX, "now": clock.now()}
        found: dict[str, int] = msgspec.json.decode(await self._db.call("desk_counts", document))
        return found

    async def page(
        self, caller: Caller, queue: str, narrowed: Narrowed, *, limit: int, after: UUID | None = None
    ) -> WorkPage:
        """Rows of a queue in the order of ids, oldest first as a rule; one more than ``limit`` when there are more.

        Raises:
            QueueUnknown, Forbidden.
        """
        of = _queue(queue)
        _allow(caller, of.reads)
        document = _place(caller.scope) | {
            "queue": queue,
            "filter": narrowed,
            "after": after,
            "limit": limit + 1,
            "most": COUNT_MAX,
            "now": clock.now(),
        }
        return _PAGE.decode(await self._db.call("desk_page", document))

    async def runs(self, caller: Caller, queue: str, *, limit: int = 5) -> list[BulkRun]:
        """The newest bulk runs of a queue.

        Raises:
            QueueUnknown, Forbidden.
        """
        _allow(caller, _queue(queue).reads)
        document = _place(caller.scope) | {"queue": queue, "limit": limit}
        return _RUNS.decode(await self._db.call("bulk_list", document))

    async def run(self, caller: Caller, run_id: str) -> BulkRun:
        """One bulk run.

        Raises:
            NotFound, Forbidden.
        """
        try:
            identity = ids.decode("bulk", run_id)
        except ids.InvalidId:
            raise NotFound("There is no such bulk run.") from None
        document = _place(caller.scope) | {"bulk_run_id": identity, "limit": 1}
        found = _RUNS.decode(await self._db.call("bulk_list", document))
        if not found:
            raise NotFound("There is no such bulk run.")
        _allow(caller, QUEUES[found[0].queue].reads)
        return found[0]

    # -- acting on one ------------------------------------------------------------------------------------------------------

    async def act(
        self, caller: Caller, key: IdempotencyKey | None, queue: str, item: str, action: str = "retry", reason: str = ""
    ) -> None:
        """Retry or dismiss one row, now.

        Raises:
            QueueUnknown, Forbidden, InvalidRequest (a dismissal without a reason), InvalidId.
            WorkDoneAlready and whatever the row's own module refuses; and as ``once``.
        """
        of = _queue(queue)
        _allow(caller, of.acts)
        _check(of, action, reason, needed=action == "dismiss")
        identity = ids.decode(of.prefix, item)

        async def work(session: AsyncSession) -> Answer:
            await _call(
                session,
                "desk_act",
                _acting(caller) | {"queue": queue, "action": action, "reason": reason or None, "item": identity},
            )
            return Answer(200, b"{}")

        await once(self._db, caller.scope, key, work)
        await self._follow(caller.scope, caller.request_id, queue, action)

    # -- acting on many -----------------------------------------------------------------------------------------------------

    async def start(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        queue: str,
        narrowed: Narrowed,
        action: str = "retry",
        reason: str = "",
    ) -> BulkRun:
        """Begin a bulk run over everything that matches now; what comes later is not a part of it.

        Raises:
            QueueUnknown, Forbidden, InvalidRequest (no reason, or too many rows named).
            BulkRunEmpty, BulkRunUnderWay; and as ``once``.
        """
        of = _queue(queue)
        _allow(caller, of.acts)
        _check(of, action, reason, needed=True)
        if narrowed.ids is not None and not 1 <= len(narrowed.ids) <= IDS_MAX:
            raise _invalid("item", f"Select 1 to {IDS_MAX} rows, or choose all that match.")
        run_id = clock.new_uuid()

        async def work(session: AsyncSession) -> Answer:
            document = _acting(caller) | {
                "bulk_run_id": run_id,
                "queue": queue,
                "action": action,
                "filter": narrowed,
                "reason": reason,
                "most": TOTAL_MAX,
            }
            return Answer(201, msgspec.json.encode(await _call(session, "bulk_start", document)))

        answer = await once(self._db, caller.scope, key, work)
        return msgspec.json.decode(answer.body, type=BulkRun)

    async def cancel(self, caller: Caller, run_id: str) -> BulkRun:
        """Stop a run: what it has done stays done.

        Raises:
            NotFound, Forbidden, BulkRunOver.
        """
        run = await self.run(caller, run_id)
        _allow(caller, QUEUES[run.queue].acts)
        canceled = await self._db.call("bulk_cancel", _acting(caller) | {"bulk_run_id": run.bulk_run_id})
        return msgspec.json.decode(canceled, type=BulkRun)

    # -- the worker's part --------------------------------------------------------------------------------------------------

    async def work(self, scope: Scope, request_id: str) -> int:
        """Work on runs of one tenant and mode until none is due; each has ``SPELL_S`` before it is another's turn.

        Returns:
            how many steps were made.
        """
        steps = 0
        while True:
            run = await self.claim(scope)
            if run is None:
                return steps
            ends_at = clock.monotonic() + SPELL_S
            while await self.step(scope, run, request_id):
                steps += 1
                if clock.monotonic() > ends_at:
                    await self._db.call(
                        "bulk_release",
                        _place(scope)
                        | {"bulk_run_id": run.bulk_run_id, "lease_token": run.lease_token, "now": clock.now()},
                    )
                    return steps

    async def claim(self, scope: Scope) -> BulkRun | None:
        """Take up a run that is due; ``None`` when there is none."""
        now = clock.now()
        document = _place(scope) | {"now": now, "lease_token": clock.new_uuid(), "lease_until": now + LEASE}
        claimed: BulkRun | None = _RUN.decode(await self._db.call("bulk_claim", document))
        return claimed

    async def step(self, scope: Scope, run: BulkRun, request_id: str) -> bool:
        """Deal with the next rows of a run that was claimed; whether it goes on."""
        now = clock.now()
        document = _place(scope) | {
            "bulk_run_id": run.bulk_run_id,
            "lease_token": run.lease_token,
            "lease_until": now + LEASE,
            "now": now,
            "most": STEP,
            "errors_max": ERRORS_MAX,
            "caps": caps.at(now),
        }
        step = msgspec.json.decode(await self._db.call("bulk_step", document), type=_Step)
        if step.over:
            log.info("bulk run over", run=ids.encode("bulk", run.bulk_run_id))
            return False
        await self._follow(scope, request_id, step.queue, step.action)
        return True

    async def _follow(self, scope: Scope, request_id: str, queue: str, action: str) -> None:
        """What comes right after rows were made due, and would come with the next sweep anyhow."""
        if queue in ("unknown", "rebills"):
            await self._payments.recover(scope, request_id, LOOKS)
        elif queue == "webhooks" and action == "retry":
            self._psp_webhooks.wake(scope, request_id)


def narrowed_by(queue: str, given: Mapping[str, str], items: Sequence[str] | None = None) -> Narrowed:
    """A filter as people send it, with public ids.

    Args:
        queue: whose.
        given: ``state``, ``account``, ``endpoint``, ``kind``; empty means any.
        items: public ids of rows; ``None`` for all.

    Raises:
        QueueUnknown: no such queue, or no such state in it.
        InvalidId.
    """
    of = _queue(queue)
    state = given.get("state") or None
    if state is not None and state not in of.states:
        raise QueueUnknown(f"This queue has no state {state[:40]!r}; it has {', '.join(of.states) or 'none'}.")
    account, endpoint = given.get("account") or None, given.get("endpoint") or None
    return Narrowed(
        ids=None if items is None else [ids.decode(of.prefix, item) for item in items],
        state=state,
        account=ids.decode("acct", account) if account is not None else None,
        endpoint=ids.decode("we", endpoint) if endpoint is not None else None,
        kind=(given.get("kind") or "")[:200] or None,
    )


def _queue(name: str) -> Queue:
    if name not in QUEUES:
        raise QueueUnknown
    return QUEUES[name]


def _allow(caller: Caller, scope: str) -> None:
    if scope not in caller.scopes:
        raise Forbidden(f"Your role lacks the right '{scope}'. Ask an owner or admin for it.")


def _check(queue: Queue, action: str, reason: str, *, needed: bool) -> None:
    if action not in ("retry", "dismiss") or (action == "dismiss" and not queue.dismisses):
        raise _invalid("action", "This cannot be done in this queue.")
    if needed and not reason:
        raise _invalid("reason", "Say why, in a few words; the audit trail keeps it.")
    if len(reason) > REASON_MAX:
        raise _invalid("reason", f"A reason has at most {REASON_MAX} characters.")


def _invalid(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": path, "message": message}])


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def _acting(caller: Caller) -> dict[str, Any]:
    now = clock.now()
    return _place(caller.scope) | {
        "now": now,
        "actor_type": caller.actor_type,
        "actor_id": caller.actor_id,
        "key_id": caller.key_id,
        "request_id": caller.request_id,
        "caps": caps.at(now),
    }


async def _call(session: AsyncSession, function: str, document: dict[str, Any]) -> Any:
    statement = text(f"SELECT {sqlbundle.name(function)}(CAST(:document AS jsonb))")
    return (await session.execute(statement, {"document": msgspec.json.encode(document).decode()})).scalar_one()
