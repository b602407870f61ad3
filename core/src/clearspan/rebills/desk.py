"""Looking at rebills and stepping in: list, explain, charge now, stop, release, measure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.payments import caps
from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, KeyMissing, once
from clearspan.platform.orm import read_cursor, write_cursor
from clearspan.platform.problems import InvalidRequest
from clearspan.rebills.errors import RebillNotFound
from clearspan.rebills.schemas import (
    BoardColumn,
    BoardFilters,
    BoardRow,
    BoardTotal,
    Read,
    RebillExplained,
    RebillList,
    RecoveryOut,
    Row,
    board_card,
    explained,
    rebill_out,
    recovery_out,
)

BOARD = ("at_risk", "recovering", "recovered", "lost")
"""The columns of the dunning board."""
BOARD_SCAN = 1_000
BOARD_COUNTED = 10_000


class _Board(msgspec.Struct, frozen=True):
    cards: list[BoardRow]
    next_at: str | None = None
    next_id: UUID | None = None


_BOARD = msgspec.json.Decoder(_Board)
_TOTALS = msgspec.json.Decoder(list[BoardTotal])
_ROWS = msgspec.json.Decoder(list[Row])
_READ = msgspec.json.Decoder(Read | None)


class Rebills:
    """The rebills of a tenant in one mode."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def wake_account(self, scope: Scope, psp_account_id: UUID) -> None:
        """End the rest of a PSP account that refused the merchant: its settings were changed, or found to work."""
        async with self._db.begin(scope) as session:
            await session.execute(
                text(
                    "UPDATE rebill_pace SET blocked_until = NULL, blocked_because = NULL"
                    " WHERE tenant_id = :tenant AND live = :live AND psp_account_id = :id AND blocked_until IS NOT NULL"
                ),
                {"tenant": scope.tenant_id, "live": scope.live, "id": psp_account_id},
            )

    async def list(self, scope: Scope, filters: Mapping[str, Any], limit: int, cursor: str | None) -> RebillList:
        """A page, newest invoice first.

        Args:
            filters: ``state``, ``subscription_id``, ``due_before``; absent or ``None`` means any.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        document = _place(scope) | {name: value for name, value in filters.items() if value is not None}
        document |= {"limit": limit + 1} | ({"after_id": read_cursor(cursor)} if cursor is not None else {})
        found = _ROWS.decode(await self._db.call("rebill_list", document))
        more = len(found) > limit
        return RebillList(
            data=[rebill_out(row) for row in found[:limit]],
            has_more=more,
            next_cursor=write_cursor(found[limit - 1].invoice_id) if more else None,
        )

    async def explain(self, scope: Scope, invoice_id: UUID) -> RebillExplained:
        """What was tried, what was decided and why, and what comes next.

        Raises:
            RebillNotFound.
        """
        found = _READ.decode(await self._db.call("rebill_read", _place(scope) | {"invoice_id": invoice_id}))
        if found is None:
            raise RebillNotFound
        return explained(found)

    async def waiting(self, scope: Scope) -> dict[str, Any]:
        """What waits on the wall clock, by state, and which PSP accounts rest."""
        found: dict[str, Any] = msgspec.json.decode(
            await self._db.call("rebills_due", _place(scope) | {"now": clock.now()})
        )
        return found

    async def recovery(self, scope: Scope, since: datetime, until: datetime) -> RecoveryOut:
        """What was recovered of invoices whose first charge failed in a span of time; per group, try, code and delay."""
        found = await self._db.call("rebill_recovery", _place(scope) | {"since": since, "until": until})
        return recovery_out(msgspec.json.decode(found), live=scope.live, since=since, until=until)

    async def board(
        self, scope: Scope, column: str, since: datetime, filters: BoardFilters, limit: int, cursor: str | None
    ) -> BoardColumn:
        """A page of a column of the dunning board (``board.sql`` says which there are).

        It costs its rows, wherever it begins; with filters, up to ``BOARD_SCAN`` rows are looked through.

        Args:
            since: of what was recovered or lost.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        assert column in BOARD, column
        filtered = filters.document
        document = _place(scope) | filtered | _read_place(cursor)
        # Of what was given up some was taken back (void): that is looked through, too.
        scan = BOARD_SCAN if filtered or column == "lost" else limit + 1
        document |= {"column": column, "since": since, "limit": limit, "scan": scan}
        found = _BOARD.decode(await self._db.call("rebill_board", document))
        place = None if found.next_at is None else _write_place(found.next_at, found.next_id)
        return BoardColumn(cards=[board_card(row) for row in found.cards], next_cursor=place)

    async def board_totals(self, scope: Scope, since: datetime, filters: BoardFilters) -> Sequence[BoardTotal]:
        """Invoices and money of each column and currency; of a column ``BOARD_COUNTED`` invoices are counted at most."""
        document = _place(scope) | filters.document | {"since": since, "scan": BOARD_COUNTED}
        return _TOTALS.decode(await self._db.call("rebill_board_totals", document))

    async def retry(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Charge now instead of when the plan says. It is put first in line, and charged within seconds.

        Raises:
            KeyMissing; RebillNotFound, RebillNotOpen; what ``payments.errors`` says of caps, locks, mandates; and as ``once``.
        """
        return await self._act("rebill_retry", caller, key, invoice_id, caps=caps.at(clock.now()))

    async def stop(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID, reason: str) -> Answer:
        """Charge this invoice no more by itself.

        Raises:
            KeyMissing; RebillNotFound, RebillNotOpen; and as ``once``.
        """
        return await self._act("rebill_stop", caller, key, invoice_id, reason=reason)

    async def release(self, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID) -> Answer:
        """Collect an invoice that was held because its period was missed.

        Raises:
            KeyMissing; RebillNotFound, InvoiceNotHeld; and as ``once``.
        """
        return await self._act("rebill_release", caller, key, invoice_id)

    async def render_many(self, scope: Scope, invoices: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """The current state of rebills, for events."""
        document = _place(scope) | {"ids": list(invoices), "limit": len(invoices)}
        found = _ROWS.decode(await self._db.call("rebill_list", document))
        return {row.invoice_id: msgspec.to_builtins(rebill_out(row)) for row in found}

    async def _act(
        self, function: str, caller: Caller, key: IdempotencyKey | None, invoice_id: UUID, **more: Any
    ) -> Answer:
        if key is None:
            raise KeyMissing

        async def work(session: AsyncSession) -> Answer:
            document = _place(caller.scope) | {
                "now": clock.now(),
                "actor_type": caller.actor_type,
                "actor_id": caller.actor_id,
                "key_id": caller.key_id,
                "session_id": caller.session_id,
                "request_id": caller.request_id,
                "invoice_id": invoice_id,
                **more,
            }
            await _call(session, function, document)
            found = msgspec.convert(await _call(session, "rebill_read", document), Read)
            return Answer(200, msgspec.json.encode(explained(found)))

        return await once(self._db, caller.scope, key, work)


async def _call(session: AsyncSession, function: str, document: dict[str, Any]) -> Any:
    statement = text(f"SELECT {sqlbundle.name(function)}(CAST(:document AS jsonb))")
    return (await session.execute(statement, {"document": msgspec.json.encode(document).decode()})).scalar_one()


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def _write_place(at: str, invoice_id: UUID | None) -> str:
    return base64.urlsafe_b64encode(f"{at}~{invoice_id}".encode()).decode().rstrip("=")


def _read_place(cursor: str | None) -> dict[str, Any]:
    if cursor is None:
        return {}
    try:
        said = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        at, _, invoice_id = said.partition("~")
        if at != "infinity":
            datetime.fromisoformat(at)
        return {"after_at": at, "after_id": UUID(invoice_id)}
    except (binascii.Error, ValueError):
        message = "This is no cursor of a column: take next_cursor from the page before, unchanged."
        raise InvalidRequest(message, errors=[{"path": "cursor", "message": message}]) from None
