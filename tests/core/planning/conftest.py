"""Subscriptions as rows, for tests of what the scheduler makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
import pytest
from tests.conftest import Merchant
from tests.factories import insert

from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings
from clearspan.subscriptions.models import Unit, period_of, period_start
from clearspan.subscriptions.schedule import Scheduler

REQUEST = "req_of_the_tests"


class Register:
    """Makes subscriptions of one merchant, plans them, and reads what came of it.

    Attributes:
        scope: whose.
        scheduler: the real one.
    """

    def __init__(self, db: Database, settings: Settings, scope: Scope) -> None:
        self.db = db
        self.scope = scope
        self.settings = settings
        self.scheduler = Scheduler(db, settings)
        self.customer: UUID | None = None
        self.plan: UUID | None = None

    async def store(self, table: str, **row: Any) -> None:
        """One row of this merchant, as it is."""
        async with self.db.pool.acquire() as connection, connection.transaction():
            await self._enter(connection)
            await insert(connection, table, {"tenant_id": self.scope.tenant_id, "live": self.scope.live, **row})

    async def ask(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows of this merchant."""
        async with self.db.pool.acquire() as connection, connection.transaction():
            await self._enter(connection)
            found: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return found

    async def change(self, subscription: UUID, **columns: Any) -> None:
        """Change columns of a subscription."""
        places = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 2))
        await self.ask(f"UPDATE subscriptions SET {places} WHERE subscription_id = $1", subscription, *columns.values())

    async def subscription(
        self,
        *,
        anchor: datetime,
        zone: str = "UTC",
        unit: Unit = "month",
        count: int = 1,
        begins: datetime | None = None,
        items: Sequence[tuple[int, int, dict[str, Any] | None]] = ((1, 900, None),),
        **columns: Any,
    ) -> UUID:
        """An active one in the period that holds ``begins``, default the anchor; items are (quantity, unit amount, tax)."""
        now = clock.now()
        if self.customer is None:
            self.customer, self.plan = clock.new_uuid(), clock.new_uuid()
            await self.store("customers", customer_id=self.customer, created_at=now, updated_at=now)
            await self.store(
                "plans",
                plan_id=self.plan,
                name="Basic",
                amounts='{"EUR": 900}',
                interval_unit="month",
                interval_count=1,
                created_at=now,
                updated_at=now,
            )
        start = begins or anchor.replace(tzinfo=ZoneInfo(zone))
        k = period_of(anchor, zone, unit, count, start)
        end = period_start(anchor, zone, unit, count, k + 1)
        subscription = clock.new_uuid()
        row: dict[str, Any] = {
            "subscription_id": subscription,
            "customer_id": self.customer,
            "status": "active",
            "currency": "EUR",
            "interval_unit": unit,
            "interval_count": count,
            "time_zone": zone,
            "anchor_local": anchor,
            "period_no": k,
            "current_period_start": start,
            "current_period_end": end,
            "next_at": end,
            "started_at": start,
            "created_at": now,
            "updated_at": now,
        }
        await self.store("subscriptions", **row | columns)
        for position, (quantity, unit_amount, tax) in enumerate(items, 1):
            await self.store(
                "subscription_items",
                subscription_id=subscription,
                item_id=clock.new_uuid(),
                position=position,
                plan_id=self.plan,
                description=f"Item {position}",
                quantity=quantity,
                unit_amount_minor=unit_amount,
                tax=None if tax is None else msgspec.json.encode(tax).decode(),
            )
        return subscription

    async def run(self, at: datetime, **arguments: Any) -> int:
        """Plan whatever is due at a moment."""
        return await self.scheduler.plan(self.scope, REQUEST, at=at, **arguments)

    async def invoices(self, subscription: UUID) -> list[asyncpg.Record]:
        """In the order of their periods."""
        return await self.ask("SELECT * FROM invoices WHERE subscription_id = $1 ORDER BY period_start", subscription)

    async def read(self, subscription: UUID) -> asyncpg.Record:
        """The subscription's row."""
        return (await self.ask("SELECT * FROM subscriptions WHERE subscription_id = $1", subscription))[0]

    async def _enter(self, connection: Any) -> None:
        await connection.execute(
            "SELECT set_config('app.tenant', $1, true), set_config('app.live', $2, true)",
            str(self.scope.tenant_id),
            "t" if self.scope.live else "f",
        )


@pytest.fixture
async def register(db: Database, settings: Settings, merchant: Merchant) -> Register:
    """A register of a new merchant."""
    return Register(db, settings, merchant.caller.scope)
