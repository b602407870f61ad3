"""How many rebills are charged per second, end to end, against the sandbox PSP, with so many workers?

Subscriptions of one tenant, each with a card of its own and an active mandate, are planned; then N worker processes collect the
invoices: claim under the pace, reserve with mandate and caps checked, call PSP and vault over loopback HTTP, settle, invoice
paid. The pace is set so high that it does not bind. Everything is durable.

``python -m bench.charging DIR DATABASE_URL TENANT`` is one such worker.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec

from clearspan.app import Gateway
from clearspan.platform import clock, plugins
from clearspan.platform.context import Scope
from clearspan.platform.crypto import load_master_key
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import DataSettings, load
from clearspan.subscriptions.schedule import Scheduler

SETTINGS = '[rebills]\nrate_per_account_s = 10000.0\n[log]\nlevel = "error"\n'
ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
_METHODS = """
INSERT INTO payment_methods (tenant_id, live, payment_method_id, customer_id, vault, vault_token, brand, last4, exp_month,
    exp_year, fingerprint, created_at, updated_at)
SELECT $1, false, md5('method' || $5::text || n)::uuid, $2, 'sandbox', 'tok_visa__' || n, 'visa', '4242', 12,
       2060, 'fp' || n, $3, $3
FROM generate_series(1, $4::integer) AS n
"""
_MANDATES = """
INSERT INTO mandates (tenant_id, live, mandate_id, customer_id, payment_method_id, purpose, status, text_version, accepted_at,
    activated_at, created_at, updated_at)
SELECT $1, false, md5('mandate' || $5::text || n)::uuid, $2, md5('method' || $5::text || n)::uuid, 'recurring', 'active', '1', $3,
       $3, $3, $3
FROM generate_series(1, $4::integer) AS n
"""
_SUBSCRIPTIONS = """
INSERT INTO subscriptions (tenant_id, live, subscription_id, customer_id, status, currency, interval_unit, interval_count,
    time_zone, anchor_local, period_no, current_period_start, current_period_end, next_at, started_at, created_at, updated_at,
    payment_method_id, mandate_id)
SELECT $1, false, md5('sub' || $5::text || n)::uuid, $2, 'active', 'EUR', 'month', 1,
       'UTC', $3::timestamptz AT TIME ZONE 'UTC', 0, $3, $6::timestamptz, $6::timestamptz, $3, $3, $3,
       md5('method' || $5::text || n)::uuid, md5('mandate' || $5::text || n)::uuid
FROM generate_series(1, $4::integer) AS n
"""
_ITEMS = """
INSERT INTO subscription_items (tenant_id, live, subscription_id, item_id, position, plan_id, description, quantity,
    unit_amount_minor)
SELECT $1, false, subscription_id, md5(subscription_id::text)::uuid, 1, $2, 'Basic', 1, 900
FROM subscriptions WHERE tenant_id = $1
"""


class Stand(Protocol):
    """The bench, as far as it is needed here."""

    home: Path
    app_url: str
    tenant_id: UUID

    def companions(self) -> Any: ...


class Charged(msgspec.Struct, frozen=True):
    """With so many workers: invoices paid, and how many per second."""

    workers: int
    paid: int
    per_s: float


async def fill(superuser_url: str, tenant: UUID, size: int) -> None:
    """A customer with so many cards, mandates and subscriptions, all due now."""
    now = clock.now()
    connection = await asyncpg.connect(superuser_url)
    customer, plan = clock.new_uuid(), clock.new_uuid()
    salt = str(tenant)
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO customers (tenant_id, live, customer_id, created_at, updated_at) VALUES ($1, false, $2, $3, $3)",
            *(tenant, customer, now),
        )
        await connection.execute(
            "INSERT INTO plans (tenant_id, live, plan_id, name, amounts, interval_unit, interval_count, created_at, updated_at)"
            " VALUES ($1, false, $2, 'Basic', '{\"EUR\": 900}', 'month', 1, $3, $3)",
            *(tenant, plan, now),
        )
        await connection.execute(_METHODS, tenant, customer, ANCHOR, size, salt)
        await connection.execute(_MANDATES, tenant, customer, ANCHOR, size, salt)
        await connection.execute(_SUBSCRIPTIONS, tenant, customer, ANCHOR, size, salt, now)
        await connection.execute(_ITEMS, tenant, plan)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def measure(bench: Stand, superuser_url: str, size: int, workers: Sequence[int]) -> list[Charged]:
    """The same subscriptions, a month later each time, with more and more workers."""
    await fill(superuser_url, bench.tenant_id, size)
    found = []
    scope = Scope(tenant_id=bench.tenant_id, live=False)
    gateway = _gateway(bench.home, bench.app_url)
    await gateway.db.open()
    try:
        for number, count in enumerate(workers):
            connection = await asyncpg.connect(superuser_url)
            await connection.execute(
                "UPDATE subscriptions SET next_at = $2, current_period_end = $2, period_no = $3,"
                " anchor_local = ($2 AT TIME ZONE 'UTC') - make_interval(months => $3 + 1) WHERE tenant_id = $1",
                *(bench.tenant_id, clock.now(), number),
            )
            planned = await Scheduler(gateway.db, gateway.settings).plan(scope, "req_bench")
            assert planned == size, (planned, size)
            await connection.execute("VACUUM ANALYZE")
            before = await _paid(connection, bench.tenant_id)
            seconds = await asyncio.to_thread(_run, bench, count)
            paid = await _paid(connection, bench.tenant_id) - before
            await connection.close()
            assert paid == size, (paid, size)
            found.append(Charged(workers=count, paid=paid, per_s=paid / seconds))
    finally:
        await gateway.db.close()
    return found


async def _paid(connection: asyncpg.Connection[asyncpg.Record], tenant: UUID) -> int:
    found: int = await connection.fetchval(
        "SELECT count(*) FROM invoices WHERE tenant_id = $1 AND status = 'paid'", tenant
    )
    return found


def _run(bench: Stand, count: int) -> float:
    """Seconds from the first worker's readiness to the last one's end."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.charging", str(bench.home), bench.app_url, str(bench.tenant_id)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        assert process.wait(900) == 0
    seconds = time.monotonic() - began
    for process in running:
        process.communicate()
    return seconds


def _gateway(home: Path, url: str) -> Gateway:
    settings = load(home / "clearspan.toml", environ={})
    settings = msgspec.structs.replace(settings, data=DataSettings(dir=str(home)))
    return Gateway(
        settings, url, load_master_key(home / "master.key", create=False), plugins.load(settings.plugins.enabled)
    )


async def _work(home: Path, url: str, tenant: UUID) -> None:
    gateway = _gateway(home, url)
    await gateway.open()
    try:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        scope = Scope(tenant_id=tenant, live=False)
        while await gateway.collector.collect(scope, "req_bench"):
            pass
    finally:
        await gateway.close()


def table(found: Sequence[Charged]) -> str:
    """Markdown."""
    lines = ["| workers | invoices paid | per second |", "|---|---|---|"]
    lines += [f"| {one.workers} | {one.paid:,} | {one.per_s:.0f} |" for one in found]
    return "\n".join(lines)


if __name__ == "__main__":
    configure_logging("error", "json")
    asyncio.run(_work(Path(sys.argv[1]), sys.argv[2], UUID(sys.argv[3])))
