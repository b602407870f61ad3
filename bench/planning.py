"""What does planning a rebill cost? Many subscriptions of a tenant are due; the scheduler plans them, then pgbench does.

For each size: so many monthly subscriptions with one item and a mandate's place left empty are stored, all due. The scheduler
(``clearspan.subscriptions.schedule``) plans them batch by batch: claim, invoice, line, rebill, journal, next date, each batch
one durable transaction. A month later all are due again, and pgbench runs the very statement, with the same parameters, as often
as the scheduler did. Reported are rows per second of both, the ratio, the time of a batch at the beginning and at the end (flat
or not), and what the process of the scheduler grew by.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings
from clearspan.subscriptions.schedule import Scheduler

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
DUE = (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
_STORE = """
INSERT INTO subscriptions (tenant_id, live, subscription_id, customer_id, status, currency, interval_unit, interval_count,
    time_zone, anchor_local, period_no, current_period_start, current_period_end, next_at, started_at, created_at, updated_at)
SELECT $1, false, md5($5::text || n)::uuid, $2, 'active', 'EUR', 'month', 1, 'Europe/Berlin',
       $3::timestamptz AT TIME ZONE 'Europe/Berlin', 0, $3, $4, $4, $3, $3, $3
FROM generate_series(1, $6::integer) AS n
"""
_ITEMS = """
INSERT INTO subscription_items (tenant_id, live, subscription_id, item_id, position, plan_id, description, quantity,
    unit_amount_minor)
SELECT $1, false, subscription_id, md5(subscription_id::text)::uuid, 1, $2, 'Basic', 1, 900
FROM subscriptions WHERE tenant_id = $1
"""


class Planned(msgspec.Struct, frozen=True):
    """One size.

    Attributes:
        due: subscriptions planned.
        per_s, pgbench_per_s: rows per second.
        first_ms, last_ms: the median batch of the first and of the last tenth.
        grown_mb: of the scheduler's process.
    """

    due: int
    per_s: float
    pgbench_per_s: float
    first_ms: float
    last_ms: float
    grown_mb: float


async def measure(
    app_url: str, superuser_url: str, settings: Settings, sizes: Sequence[int], pgbench: str, home: Path
) -> list[Planned]:
    """Each size with a tenant of its own."""
    db = Database(app_url, settings.database)
    await db.open()
    try:
        return [await _one(db, app_url, superuser_url, settings, size, pgbench, home) for size in sizes]
    finally:
        await db.close()


async def _one(
    db: Database, app_url: str, superuser_url: str, settings: Settings, size: int, pgbench: str, home: Path
) -> Planned:
    scope = Scope(tenant_id=clock.new_uuid(), live=False)
    await _fill(superuser_url, scope, size)
    scheduler = Scheduler(db, settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    done, began = 0, time.monotonic()
    while True:
        batch = time.monotonic()
        moved = await scheduler.plan(scope, "req_bench", at=DUE[0], batches=1)
        if not moved:
            break
        times.append((time.monotonic() - batch) * 1000)
        done += moved
    seconds = time.monotonic() - began
    assert done == size, (done, size)
    tenth = max(1, len(times) // 10)
    limit = _pgbench(pgbench, home, app_url, scope, settings.rebills.plan_batch, len(times), DUE[1])
    connection = await asyncpg.connect(superuser_url)
    counted = await connection.fetchrow(
        "SELECT count(*) AS invoices, count(DISTINCT (subscription_id, period_start)) AS periods FROM invoices"
        " WHERE tenant_id = $1",
        scope.tenant_id,
    )
    await connection.close()
    assert counted is not None
    assert (counted["invoices"], counted["periods"]) == (2 * size, 2 * size), counted
    return Planned(
        due=size,
        per_s=size / seconds,
        pgbench_per_s=size / limit,
        first_ms=statistics.median(times[:tenth]),
        last_ms=statistics.median(times[-tenth:]),
        grown_mb=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    )


async def _fill(superuser_url: str, scope: Scope, size: int) -> None:
    tenant, customer, plan = scope.tenant_id, clock.new_uuid(), clock.new_uuid()
    connection = await asyncpg.connect(superuser_url)
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO tenants (tenant_id, slug, name, data_key, created_at) VALUES ($1, $2, 'Bench', 'x', $3)",
            *(tenant, f"t-{tenant.hex[-12:]}", ANCHOR),
        )
        await connection.execute(
            "INSERT INTO customers (tenant_id, live, customer_id, created_at, updated_at) VALUES ($1, false, $2, $3, $3)",
            *(tenant, customer, ANCHOR),
        )
        await connection.execute(
            "INSERT INTO plans (tenant_id, live, plan_id, name, amounts, interval_unit, interval_count, created_at, updated_at)"
            " VALUES ($1, false, $2, 'Basic', '{\"EUR\": 900}', 'month', 1, $3, $3)",
            *(tenant, plan, ANCHOR),
        )
        await connection.execute(_STORE, tenant, customer, ANCHOR, DUE[0], str(tenant), size)
        await connection.execute(_ITEMS, tenant, plan)
    # As in an installation that is in use; the first ANALYZE of autovacuum would come within a minute.
    await connection.execute(
        "VACUUM ANALYZE subscriptions, subscription_items, invoices, invoice_lines, rebills, journal"
    )
    await connection.close()


def _pgbench(binary: str, home: Path, app_url: str, scope: Scope, most: int, times: int, at: datetime) -> float:
    """Seconds that pgbench needs for the scheduler's statement, so many times."""
    document: dict[str, Any] = {
        "tenant_id": scope.tenant_id,
        "live": scope.live,
        "now": clock.now(),
        "at": at,
        "most": most,
        "test_clock_id": None,
        "actor_type": "system",
        "actor_id": "scheduler",
        "request_id": "req_bench",
    }
    script = home / "plan.sql"
    script.write_text(
        f"SELECT {sqlbundle.name('subscriptions_plan')}('{msgspec.json.encode(document).decode()}'::jsonb);\n"
    )
    address = urlsplit(app_url)
    command = [
        binary, "--no-vacuum", "--file", str(script), "--client", "1", "--transactions", str(times),
        "--host", str(address.hostname), "--port", str(address.port), "--username", str(address.username), "bench",
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PGPASSWORD": str(address.password)}
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    assert failed is not None, done.stdout
    assert failed[1] == "0", done.stdout
    return seconds


def table(found: Sequence[Planned], batch: int) -> str:
    """Markdown."""
    lines = [
        f"Batches of {batch}, one scheduler, one tenant; pgbench runs the scheduler's own statement a month later, in the"
        " same run.",
        "",
        "| due | planned per s | pgbench per s | ratio | bar | a batch at the beginning / at the end, ms | the process grew by |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.due:,} | {one.per_s:,.0f} | {one.pgbench_per_s:,.0f} | {one.per_s / one.pgbench_per_s:.2f} | 0.50 |"
        f" {one.first_ms:.1f} / {one.last_ms:.1f} | {one.grown_mb:.0f} MB |"
        for one in found
    ]
    return "\n".join(lines)
