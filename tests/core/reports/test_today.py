"""A tenant's day in figures: what is counted, by whose midnight, and that history does not make it slower."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
import pytest
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.reports.service import Bounds, Reports

VIENNA = ZoneInfo("Europe/Vienna")


@pytest.fixture
async def shop(client: Any, settings: Any, sandboxes: None) -> Shop:
    return await Shop.open(client, settings.plugin["psp-sandbox"]["url"])


class Unasked:
    """Accounts that this process has not called yet."""

    def seen(self, _: UUID) -> tuple[dict[str, str], str | None]:
        return {"charge": "closed"}, None


@pytest.fixture
def reports(db: Database) -> Reports:
    return Reports(db, Unasked())  # type: ignore[arg-type]


# -- Days -----------------------------------------------------------------------------------------------------------------------


def test_a_day_begins_at_the_midnight_of_the_zone() -> None:
    bounds = Bounds.of(datetime(2026, 6, 10, 22, 30, tzinfo=UTC), VIENNA)
    assert bounds.hours[0] == datetime(2026, 6, 10, 22, 0, tzinfo=UTC)
    assert bounds.ended == datetime(2026, 6, 11, 22, 0, tzinfo=UTC)
    assert bounds.before == datetime(2026, 6, 9, 22, 0, tzinfo=UTC)
    assert bounds.before_until == datetime(2026, 6, 9, 22, 30, tzinfo=UTC)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 6, 10), 24)])
def test_a_day_has_the_hours_that_the_zone_gives_it(day: tuple[int, int, int], hours: int) -> None:
    noon = datetime(*day, 12, tzinfo=VIENNA)
    bounds = Bounds.of(noon.astimezone(UTC), VIENNA)
    assert len(bounds.hours) == hours
    assert bounds.ended - bounds.hours[0] == timedelta(hours=hours)
    assert len(set(bounds.hours)) == hours


# -- Counting -------------------------------------------------------------------------------------------------------------------


async def test_what_happened_today_is_counted(shop: Shop, reports: Reports, merchant: Merchant) -> None:
    paid = await shop.paid(1000)
    await shop.paid(2500, currency="USD")
    await shop.pay(700, "tok_decline_insufficient_funds")
    await shop.ready(300)
    refund = await shop.act(paid, "refunds", {"amount_minor": 400})
    assert refund.status_code == 201, refund.text
    today = await reports.today(merchant.caller.scope, "UTC")
    assert (today.payments.tried, today.payments.succeeded, today.payments.declined) == (3, 2, 1)
    assert today.payments.rate == pytest.approx(2 / 3)
    by_currency = {one.currency: one for one in today.volumes}
    assert {name: one.captured_minor for name, one in by_currency.items()} == {"EUR": 1000, "USD": 2500}
    assert (by_currency["EUR"].refunds, by_currency["EUR"].refunded_minor) == (1, 400)
    assert sum(by_currency["EUR"].hours) == 1000
    assert sum(today.tried_by_hour) == 3
    assert [(one.name, one.tally.tried) for one in today.accounts] == [("alpha", 3), ("beta", 0)]
    assert {one.state for one in today.accounts} == {"healthy"}
    assert (await reports.today(merchant.caller.scope, "UTC", "USD")).payments.tried == 1


async def test_other_tenants_and_modes_count_for_themselves(
    shop: Shop, reports: Reports, other_merchant: Merchant, live_merchant: Merchant
) -> None:
    await shop.paid(1000)
    for merchant in (other_merchant, live_merchant):
        today = await reports.today(merchant.caller.scope, "UTC")
        assert today.payments.tried == 0
        assert today.volumes == []
        assert (await reports.newest(merchant.caller.scope, 50)).rows == []


async def test_askers_at_the_same_time_share_one_answer(reports: Reports, merchant: Merchant) -> None:
    first = await reports.today(merchant.caller.scope, "UTC")
    assert await reports.today(merchant.caller.scope, "UTC") is first
    assert await reports.today(merchant.caller.scope, "Europe/Vienna") is not first


async def test_rows_are_those_of_the_tenant_and_newest_first(
    shop: Shop, reports: Reports, merchant: Merchant, other_merchant: Merchant
) -> None:
    made = [await shop.paid(1000 + each) for each in range(4)]
    newest = await reports.newest(merchant.caller.scope, 3)
    assert [row.id for row in newest.rows] == [one["id"] for one in reversed(made[1:])]
    assert newest.cursor is not None
    row = newest.rows[0]
    assert (row.state, row.account, row.brand, row.last4) == ("succeeded", "alpha", "visa", "4242")
    wanted = [row.payment_id for row in newest.rows]
    assert len(await reports.rows(merchant.caller.scope, wanted)) == 3
    assert await reports.rows(other_merchant.caller.scope, wanted) == {}
    assert await reports.rows(merchant.caller.scope, []) == {}


async def test_a_payment_given_back_says_so(shop: Shop, reports: Reports, merchant: Merchant) -> None:
    half, whole = await shop.paid(1000), await shop.paid(2000)
    await shop.act(half, "refunds", {"amount_minor": 400})
    await shop.act(whole, "refunds", {})
    await shop.pay(700, "tok_decline_insufficient_funds")
    rows = (await reports.newest(merchant.caller.scope, 10)).rows
    assert [row.state for row in rows] == ["failed", "refunded", "partially_refunded"]
    assert rows[0].code == "insufficient_funds"


# -- Cost -----------------------------------------------------------------------------------------------------------------------

OLD = """
INSERT INTO payment_intents (tenant_id, live, payment_id, amount_minor, currency, capture_method, customer_present,
    psp_account_id, created_at, expires_at, updated_at, status, charge_operation_id, authorized_minor, captured_minor)
SELECT $1, false, gen_random_uuid(), 1000, 'EUR', 'automatic', true, $2, at, at + interval '1 day', at, 'succeeded',
       gen_random_uuid(), 1000, 1000 FROM (SELECT $3::timestamptz - interval '3 days' - each * interval '1 minute' AS at
                        FROM generate_series(1, $4::integer) AS each) AS past
"""
OLD_ENTRIES = """
INSERT INTO ledger_entries (tenant_id, live, at, transfer_id, account, amount_minor, currency, kind, payment_id)
SELECT $1, false, i.created_at, i.payment_id, line.account, line.amount, 'EUR', 'purchase', i.payment_id
FROM payment_intents i, (VALUES ('in_transit', 1000), ('captured', -1000)) AS line (account, amount) WHERE i.tenant_id = $1
  AND i.created_at < $2
"""
OLD_OPERATIONS = """
INSERT INTO operations (tenant_id, live, operation_id, payment_id, kind, state, amount_minor, currency, psp_account_id, psp_key,
    created_at, sent_at, updated_at)
SELECT $1, false, i.charge_operation_id, i.payment_id, 'purchase', 'succeeded', 1000, 'EUR', $2, i.payment_id::text, i.created_at,
       i.created_at, i.created_at FROM payment_intents i WHERE i.tenant_id = $1 AND i.created_at < $3
"""


async def fill(superuser: asyncpg.Connection[Any], scope: Scope, size: int) -> None:
    """So many payments of the past, with their operations and entries; triggers and foreign keys are not asked."""
    now = clock.now()
    account = await superuser.fetchval(
        "SELECT psp_account_id FROM psp_accounts WHERE tenant_id = $1 LIMIT 1", scope.tenant_id
    )
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute(OLD, scope.tenant_id, account, now, size)
        await superuser.execute(OLD_ENTRIES, scope.tenant_id, now - timedelta(days=2))
        await superuser.execute(OLD_OPERATIONS, scope.tenant_id, account, now - timedelta(days=2))
    await superuser.execute("ANALYZE payment_intents, ledger_entries, operations")


async def test_history_does_not_make_it_slower(
    shop: Shop, db: Database, reports: Reports, merchant: Merchant, superuser: asyncpg.Connection[Any]
) -> None:
    """Counted in pages that PostgreSQL touches, since those do not depend on the machine."""
    await shop.paid(1000)
    calls: list[tuple[str, dict[str, Any]]] = []

    class Listening:
        """The database, with an ear on it."""

        async def call(self, function: str, document: dict[str, Any]) -> str:
            calls.append((function, document))
            return await db.call(function, document)

    listening = Reports(Listening(), reports._psps)  # type: ignore[arg-type]
    await listening.today(merchant.caller.scope, "UTC")
    await listening.newest(merchant.caller.scope, 50)

    async def pages() -> list[int]:
        found = []
        for function, document in calls:
            statement = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT {sqlbundle.name(function)}($1::jsonb)"
            async with db.pool.acquire() as connection:
                await connection.fetch(
                    statement, msgspec.json.encode(document).decode()
                )  # What is read once per connection.
                plan = "\n".join(
                    row[0] for row in await connection.fetch(statement, msgspec.json.encode(document).decode())
                )
            touched = re.search(r"Buffers: shared (?:hit=(\d+))?(?: ?read=(\d+))?", plan.partition("Planning")[0])
            assert touched is not None, plan
            found.append(int(touched[1] or 0) + int(touched[2] or 0))
        return found

    before = await pages()
    await fill(superuser, merchant.caller.scope, 20_000)
    after = await pages()
    # Tables of 20,000 rows have hundreds of pages; 49 rows more are shown of the second.
    assert after[0] < before[0] + 100, (before, after)
    assert after[1] < before[1] + 600, (before, after)
