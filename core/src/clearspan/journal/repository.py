"""Every query of the journal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    any_,
    column,
    func,
    literal,
    select,
    table,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal.models import Entry, Position, Slice, Xid8, journal
from clearspan.platform.context import Scope
from clearspan.platform.db import Database

LOOK_MAX = 5_000
"""Rows that one page with a filter by type looks at."""

_SLICE = msgspec.json.Decoder(Slice)


async def page(
    db: Database,
    scope: Scope,
    *,
    after: Position | UUID | None,
    until: Position | None = None,
    types: Collection[str] = (),
    most: int,
) -> Slice:
    """What a follower may read next, in one round trip.

    Args:
        after: a position, or an event of the scope; ``None`` is the beginning.
        until: the last position wanted.
        types: only these; empty for all.

    Raises:
        CursorUnknown: no such event in the scope.
    """
    document: dict[str, Any] = {"tenant_id": scope.tenant_id, "live": scope.live, "most": most, "look": LOOK_MAX}
    if isinstance(after, UUID):
        document["after_event"] = after
    elif after is not None:
        document["after"] = after
    if until is not None:
        document["until"] = until
    if types:
        document["types"] = list(types)
    return _SLICE.decode(await db.call("journal_page", document))


async def tail(db: Database, after: Position | None, scopes: Collection[Scope] | None, most: int) -> Slice:
    """What was committed since ``after`` in these scopes, or in all; without ``after`` only where the horizon is."""
    document: dict[str, Any] = {"most": most}
    if after is not None:
        document["after"] = after
    if scopes is not None:
        document["scopes"] = list(scopes)
    return _SLICE.decode(await db.call("journal_tail", document))


async def find(session: AsyncSession, scope: Scope, event_id: UUID) -> Entry | None:
    """One entry."""
    found = await _entries(session, select(journal).where(*_of(scope), journal.c.event_id == event_id))
    return found[0] if found else None


async def newest(session: AsyncSession, scope: Scope, until: Position) -> UUID | None:
    """The last event at or before a position."""
    statement = select(journal.c.event_id).where(*_of(scope), _place() <= _literal(until))
    return await session.scalar(statement.order_by(*_newest_first()).limit(1))


async def search(
    session: AsyncSession,
    scope: Scope,
    conditions: Sequence[ColumnElement[bool]],
    *,
    before: Position | None,
    most: int,
) -> list[Entry]:
    """Entries that meet every condition, newest first, from below a position on."""
    statement = select(journal).where(*_of(scope), *conditions)
    if before is not None:
        statement = statement.where(_place() < _literal(before))
    return await _entries(session, statement.order_by(*_newest_first()).limit(most))


async def about(session: AsyncSession, scope: Scope, subject_ids: Collection[UUID]) -> list[Entry]:
    """Everything about these objects and, of payments, about their operations; oldest first."""
    statement = select(journal).where(*_of(scope), with_operations(scope, subject_ids))
    return await _entries(session, statement.order_by(journal.c.epoch, journal.c.xid, journal.c.seq))


def with_operations(scope: Scope, subject_ids: Collection[UUID]) -> ColumnElement[bool]:
    """The entry is about one of these objects, or about an operation of one of these payments.

    Written as one array so that the index on subjects serves it. ``data->>'payment_id'`` could not be served by any index: under
    row security only leakproof operators are, and those of jsonb are not.
    """
    wanted = literal(list(subject_ids), ARRAY(Uuid))
    operations = select(_operations.c.operation_id).where(
        _operations.c.tenant_id == scope.tenant_id,
        _operations.c.live.is_(scope.live),
        _operations.c.payment_id == any_(wanted),
    )
    both: ColumnElement[list[UUID]] = wanted.op("||")(func.array(operations.scalar_subquery()))
    return journal.c.subject_id == any_(both)


# Of payments only this is known here: an operation is a part of its payment.
_operations = table(
    "operations",
    column("tenant_id", Uuid),
    column("live", Boolean),
    column("operation_id", Uuid),
    column("payment_id", Uuid),
)


def _of(scope: Scope) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The first two conditions of every query."""
    return journal.c.tenant_id == scope.tenant_id, journal.c.live.is_(scope.live)


def _place() -> ColumnElement[Any]:
    return tuple_(journal.c.epoch, journal.c.xid, journal.c.seq)


def _literal(position: Position) -> ColumnElement[Any]:
    return tuple_(literal(position.epoch, Integer), literal(position.xid, Xid8()), literal(position.seq, BigInteger))


def _newest_first() -> tuple[ColumnElement[Any], ...]:
    return journal.c.epoch.desc(), journal.c.xid.desc(), journal.c.seq.desc()


async def _entries(session: AsyncSession, statement: Select[Any]) -> list[Entry]:
    return [Entry(**row) for row in (await session.execute(statement)).mappings()]
