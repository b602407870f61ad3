"""Writing the journal, and searching it as the audit trail. Following it as events is ``journal.feed``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta
from sqlalchemy import ColumnElement, insert
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal import repository
from clearspan.journal.models import Position, journal
from clearspan.journal.schemas import SUBJECTS, AuditEntry, AuditList
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import InvalidRequest


async def record(
    session: AsyncSession,
    caller: Caller,
    *,
    type: str,  # noqa: A002  (the column's name)
    subject_type: str,
    subject_id: UUID,
    sequence: int,
    data: dict[str, Any],
    customer_id: UUID | None = None,
) -> UUID:
    """Tell what happened, in the transaction in which it happens.

    Args:
        session: of the change itself.
        caller: who made it, under which request.
        type: ``<subject>.<past participle>``, such as ``customer.created``; listed in docs/events.md.
        subject_type: one of ``schemas.SUBJECTS``.
        subject_id: what it happened to.
        sequence: of the subject after the change; it grows with each.
        data: ids, codes, amounts and names of changed fields; no personal data. Ids of other things stand under
            ``payment_id`` and the like.
        customer_id: whom it concerns, so that a search by customer finds it.

    Returns:
        the event's id.
    """
    event_id = clock.new_uuid()
    await session.execute(
        insert(journal).values(
            tenant_id=caller.scope.tenant_id,
            live=caller.scope.live,
            event_id=event_id,
            type=type,
            subject_type=subject_type,
            subject_id=subject_id,
            sequence=sequence,
            customer_id=customer_id,
            actor_type=caller.actor_type,
            actor_id=caller.actor_id,
            request_id=caller.request_id,
            data=msgspec.to_builtins(data),
            at=clock.now(),
        )
    )
    return event_id


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """``{"before": …, "after": …}`` of what differs, for an entry about changed settings; empty when nothing does.

    Args:
        before, after: the same names; values that everybody may see: codes, amounts, ids and names that the merchant gave.
    """
    names = [name for name in after if before[name] != after[name]]
    if not names:
        return {}
    return {"before": {name: before[name] for name in names}, "after": {name: after[name] for name in names}}


async def entries_for(
    session: AsyncSession, scope: Scope, subject_ids: Collection[UUID]
) -> dict[UUID, list[AuditEntry]]:
    """The audit entries of some objects, oldest first; those of a payment's operations and refunds stand with the payment.

    An entry is here as soon as it is committed: this is for looking at objects, not for following.
    """
    found: dict[UUID, list[AuditEntry]] = {subject_id: [] for subject_id in subject_ids}
    for entry in await repository.about(session, scope, subject_ids):
        owner = entry.subject_id
        if owner not in found:
            owner = UUID(entry.data["payment_id"])
        found[owner].append(AuditEntry.of(entry))
    return found


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for; everything given must hold.

    Attributes:
        customer: public id.
        subject: public id of any kind; of a payment its operations and refunds are meant too.
        subject_type: one of ``schemas.SUBJECTS``.
        actor: a key's or person's public id, or a part of the system.
        type: of the event.
        request_id: as every answer carries it.
        created_after: at this moment or later.
        created_before: before this moment.
    """

    customer: str | None = None
    subject: str | None = None
    subject_type: str | None = None
    actor: str | None = None
    type: str | None = None
    request_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


async def search(db: Database, scope: Scope, query: AuditQuery, *, limit: int, cursor: str | None) -> AuditList:
    """The audit trail, newest first.

    Raises:
        InvalidId: ``customer`` or ``subject`` is no id.
        InvalidRequest: the cursor is none of ours.
    """
    before = None if cursor is None else _read_cursor(cursor)
    async with db.begin(scope) as session:
        found = await repository.search(session, scope, _conditions(scope, query), before=before, most=limit + 1)
    rows, more = found[:limit], len(found) > limit
    return AuditList(
        data=[AuditEntry.of(entry) for entry in rows],
        next_cursor=_write_cursor(rows[-1].position) if more else None,
        has_more=more,
    )


async def find(db: Database, scope: Scope, event_id: UUID) -> AuditEntry | None:
    """One entry of the scope."""
    async with db.begin(scope) as session:
        found = await repository.find(session, scope, event_id)
    return None if found is None else AuditEntry.of(found)


def _conditions(scope: Scope, query: AuditQuery) -> list[ColumnElement[bool]]:
    columns = journal.c
    found: list[ColumnElement[bool]] = []
    if query.customer is not None:
        found.append(columns.customer_id == ids.decode("cus", query.customer))
    if query.subject is not None:
        found.append(repository.with_operations(scope, [_subject_id(query.subject)]))
    for column, value in (
        (columns.subject_type, query.subject_type),
        (columns.actor_id, query.actor),
        (columns.type, query.type),
        (columns.request_id, query.request_id),
    ):
        if value is not None:
            found.append(column == value)
    if query.created_after is not None:
        found.append(columns.at >= query.created_after)
    if query.created_before is not None:
        found.append(columns.at < query.created_before)
    return found


def _subject_id(text: str) -> UUID:
    prefix = text.rpartition("_")[0]
    if prefix not in SUBJECTS.values():
        raise ids.InvalidId(
            f"{text[:64]!r} is not an id of ours; they start with {', '.join(SUBJECTS.values())} and '_'."
        )
    return ids.decode(prefix, text)


_INT8_MAX = 2**63 - 1
_Place = tuple[
    Annotated[int, Meta(ge=0, le=2**31 - 1)],
    Annotated[int, Meta(ge=0, le=_INT8_MAX)],
    Annotated[int, Meta(ge=0, le=_INT8_MAX)],
]


def _write_cursor(position: Position) -> str:
    """The opaque text that continues a list after this row."""
    return base64.urlsafe_b64encode(msgspec.json.encode(msgspec.structs.astuple(position))).decode().rstrip("=")


def _read_cursor(cursor: str) -> Position:
    try:
        epoch, xid, seq = msgspec.json.decode(
            base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True), type=_Place
        )
    except (binascii.Error, ValueError, msgspec.DecodeError):
        message = "This is no cursor of a list: take next_cursor from the page before, unchanged."
        raise InvalidRequest(message, errors=[{"path": "cursor", "message": message}]) from None
    return Position(epoch, xid, seq)
