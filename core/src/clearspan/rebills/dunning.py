"""Dunning plans of a tenant: made, given a next version, read. A version never changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal import service as journal
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.orm import read_cursor, write_cursor
from clearspan.platform.problems import InvalidRequest
from clearspan.rebills import plans
from clearspan.rebills.plans import DunningPlan
from clearspan.rebills.schemas import (
    DunningPlanCreate,
    DunningPlanList,
    DunningPlanOut,
    DunningPlanVersion,
    built_in,
)
from clearspan.subscriptions.errors import DunningPlanMissing

_COLUMNS = "dunning_plan_id, version, name, plan, created_at, created_by"
_OF = "tenant_id = :tenant AND live = :live"


class DunningPlans:
    """The plans of a tenant in one mode."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: DunningPlanCreate) -> Answer:
        """Make a plan, version 1.

        Raises:
            InvalidRequest: the plan contradicts itself; and as ``once``.
        """
        _check(body.plan)

        async def work(session: AsyncSession) -> Answer:
            made = await _store(session, caller, clock.new_uuid(), 1, body.name, body.plan)
            return Answer(201, msgspec.json.encode(made))

        return await once(self._db, caller.scope, key, work)

    async def add_version(
        self, caller: Caller, key: IdempotencyKey | None, plan_id: UUID, body: DunningPlanVersion
    ) -> Answer:
        """Make the next version. Invoices whose first decision is made go by the version of that day.

        Raises:
            DunningPlanMissing; InvalidRequest: the plan contradicts itself; and as ``once``.
        """
        _check(body.plan)

        async def work(session: AsyncSession) -> Answer:
            # Two at once take turns, so that each has a number of its own.
            await session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:plan, 0))"), {"plan": f"dunning {plan_id}"}
            )
            newest = await _newest(session, caller.scope, plan_id)
            made = await _store(session, caller, plan_id, newest.version + 1, body.name or newest.name, body.plan)
            return Answer(201, msgspec.json.encode(made))

        return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, plan_id: UUID, version: int | None) -> DunningPlanOut:
        """One version of a plan, the newest by default.

        Raises:
            DunningPlanMissing.
        """
        async with self._db.begin(scope) as session:
            return _out(await _newest(session, scope, plan_id, version), live=scope.live)

    async def list(self, scope: Scope, limit: int, cursor: str | None) -> DunningPlanList:
        """The newest version of each, newest plan first; the built-in one ends the last page.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        after = read_cursor(cursor) if cursor is not None else None
        statement = (
            f"SELECT DISTINCT ON (dunning_plan_id) {_COLUMNS} FROM dunning_plans WHERE {_OF}"  # noqa: S608
            " AND (CAST(:after AS uuid) IS NULL OR dunning_plan_id < :after)"
            " ORDER BY dunning_plan_id DESC, version DESC LIMIT :most"
        )
        async with self._db.begin(scope) as session:
            found = (await session.execute(text(statement), _place(scope) | {"after": after, "most": limit + 1})).all()
        more = len(found) > limit
        data = [_out(row, live=scope.live) for row in found[:limit]]
        return DunningPlanList(
            data=data if more else [*data, built_in(live=scope.live)],
            has_more=more,
            next_cursor=write_cursor(found[limit - 1].dunning_plan_id) if more else None,
        )


async def _newest(session: AsyncSession, scope: Scope, plan_id: UUID, version: int | None = None) -> Row[Any]:
    statement = (
        f"SELECT {_COLUMNS} FROM dunning_plans WHERE {_OF} AND dunning_plan_id = :plan"  # noqa: S608
        " AND (CAST(:version AS integer) IS NULL OR version = :version) ORDER BY version DESC LIMIT 1"
    )
    row = (await session.execute(text(statement), _place(scope) | {"plan": plan_id, "version": version})).first()
    if row is None:
        raise DunningPlanMissing
    return row


async def _store(
    session: AsyncSession, caller: Caller, plan_id: UUID, version: int, name: str, plan: DunningPlan
) -> DunningPlanOut:
    now: datetime = clock.now()
    await session.execute(
        text(
            f"INSERT INTO dunning_plans (tenant_id, live, {_COLUMNS})"  # noqa: S608
            " VALUES (:tenant, :live, :plan, :version, :name, CAST(:document AS jsonb), :now, :by)"
        ),
        _place(caller.scope)
        | {
            "plan": plan_id,
            "version": version,
            "name": name,
            "document": msgspec.json.encode(plan).decode(),
            "now": now,
            "by": caller.actor_id,
        },
    )
    await journal.record(
        session,
        caller,
        type="dunning_plan.created" if version == 1 else "dunning_plan.versioned",
        subject_type="dunning_plan",
        subject_id=plan_id,
        sequence=version,
        data={"version": version},
    )
    return DunningPlanOut(
        id=ids.encode("dun", plan_id),
        live=caller.scope.live,
        name=name,
        version=version,
        plan=plan,
        created_at=now,
        created_by=caller.actor_id,
    )


def _check(plan: DunningPlan) -> None:
    found = [{"path": path, "message": message} for path, message in plans.problems(plan)]
    if found:
        raise InvalidRequest(" ".join(one["message"] for one in found), errors=found)


def _out(row: Row[Any], *, live: bool) -> DunningPlanOut:
    return DunningPlanOut(
        id=ids.encode("dun", row.dunning_plan_id),
        live=live,
        name=row.name,
        version=row.version,
        plan=msgspec.convert(row.plan, DunningPlan),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant": scope.tenant_id, "live": scope.live}
