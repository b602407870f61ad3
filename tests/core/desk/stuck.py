"""Rows that wait for somebody, made in SQL: in tests of queues what they are matters, not how they got there."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.factories import Connection, insert

from clearspan.platform import clock
from clearspan.platform.context import Caller


async def failed_mails(sql: Connection, caller: Caller, count: int, **row: Any) -> None:
    """So many notices that could not be sent."""
    scope, now = caller.scope, clock.now()
    customer = clock.new_uuid()
    place = {"tenant_id": scope.tenant_id, "live": scope.live}
    await insert(sql, "customers", {**place, "customer_id": customer, "created_at": now, "updated_at": now})
    await sql.execute(
        "INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, dedupe, state, tries, error, created_at, updated_at)"
        " SELECT $1, $2, n, 'receipt', $3, n::text, 'failed', 5, $5, $4, $4 FROM unnest($6::uuid[]) AS n",
        scope.tenant_id,
        scope.live,
        customer,
        now - clock.seconds(60),
        row.get("error", "550 mailbox unavailable"),
        [clock.new_uuid() for _ in range(count)],
    )


async def parked(sql: Connection, caller: Caller, count: int, account: UUID, **row: Any) -> None:
    """So many messages of a PSP that match nothing here."""
    scope, now = caller.scope, clock.now()
    await sql.execute(
        "INSERT INTO webhook_inbox (tenant_id, live, inbox_id, psp_account_id, event_key, type, news, body_hash, state, note,"
        " tries, due_at, received_at, updated_at)"
        " SELECT $1, $2, n, $3, n::text, $4, $5::jsonb, 'hash', $6, $7, 4,"
        " CASE WHEN $6 = 'parked' THEN $8::timestamptz + interval '1 day' END, $8, $8 FROM unnest($9::uuid[]) AS n",
        scope.tenant_id,
        scope.live,
        account,
        row.get("type", "charge.updated"),
        row.get("news", '{"type": "hint", "kind": "charge", "psp_ref": "ch_of_nobody"}'),
        row.get("state", "parked"),
        row.get("note", "it matches no payment, refund or dispute of this account"),
        now - clock.seconds(60),
        [clock.new_uuid() for _ in range(count)],
    )
