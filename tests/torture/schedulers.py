"""Schedulers that die, clocks that jump, a year and more: exactly one invoice per period, and nothing after a cancellation.

Several processes plan the same merchant's subscriptions on one real PostgreSQL. The time they plan for comes from a file
that this process moves on, day by day; each look adds a jump of up to 36 hours forward or back to it, as if its database's
clock had been set wrong. At random instants a process is killed with SIGKILL and another one is started; now and then
subscriptions are cancelled, while they are being planned. Afterwards the periods are counted again by a calendar that
shares no code with the gateway's: wall-clock dates by ``zoneinfo`` and month lengths by ``calendar``.

    python -m tests.torture schedulers --subscriptions 10000 --days 400
"""

from __future__ import annotations

import argparse
import asyncio
import calendar
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
from tests.torture import database, sim

from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.subscriptions.schedule import Scheduler

BEGINS = datetime(2027, 12, 20, tzinfo=UTC)
"""So that 400 days hold 29 February 2028 and both daylight-saving nights of Europe and America."""
JUMP_H = 36
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kolkata", "America/Sao_Paulo")
UNITS = (
    ("day", 1),
    ("day", 10),
    ("week", 1),
    ("week", 2),
    ("month", 1),
    ("month", 1),
    ("month", 1),
    ("month", 3),
    ("year", 1),
)


class Made(msgspec.Struct, frozen=True):
    """A subscription as it was made: what the independent calendar needs."""

    subscription_id: UUID
    anchor: datetime
    zone: str
    unit: str
    count: int
    first_period: int


class Report(msgspec.Struct, kw_only=True):
    """What was done and what was found."""

    seed: int
    subscriptions: int = 0
    days: int = 0
    kills: int = 0
    looks: int = 0
    canceled: int = 0
    invoices: int = 0
    seconds: float = 0.0
    violations: list[str] = []

    def text(self) -> str:
        """A table."""
        rows = [f"{name:<15} {value}" for name, value in msgspec.structs.asdict(self).items() if name != "violations"]
        end = [f"  {one}" for one in self.violations[:20]] or ["every promise held"]
        return "\n".join(rows + end)


# -- A calendar of its own -------------------------------------------------------------------------------------------------------


def starts(made: Made, k: int) -> datetime:
    """Where period k begins, by day counts and month lengths only."""
    steps = made.count * k
    if made.unit in ("day", "week"):
        date = made.anchor.date() + timedelta(days=steps * (7 if made.unit == "week" else 1))
    else:
        months = steps * (12 if made.unit == "year" else 1)
        year, month = divmod(made.anchor.year * 12 + made.anchor.month - 1 + months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        date = made.anchor.date().replace(year=year, month=month + 1, day=min(made.anchor.day, last))
    wall = datetime.combine(date, made.anchor.time())
    zone = ZoneInfo(made.zone)
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return max(first, second)


def expected(made: Made, until: datetime) -> list[datetime]:
    """The starts of every period that began by then, the first one excepted: it was paid at the beginning."""
    found = []
    k = made.first_period + 1
    while (moment := starts(made, k)) <= until:
        found.append(moment)
        k += 1
    return found


# -- The processes ---------------------------------------------------------------------------------------------------------------


async def work(url: str, folder: Path, tenant: UUID, seed: int) -> None:
    """One scheduler, until it is killed: plan whatever is due at a time that is wrong by up to 36 hours."""
    dice = random.Random(seed)
    defaults, _ = sim.parts()
    narrow = msgspec.structs.replace(defaults.database, pool_size=2, orm_pool_size=1)
    settings = msgspec.structs.replace(
        defaults,
        database=narrow,
        rebills=msgspec.structs.replace(defaults.rebills, plan_batch=dice.choice((20, 100, 500))),
    )
    db = Database(url, narrow)
    await db.open()
    scheduler = Scheduler(db, settings)
    scope = Scope(tenant_id=tenant, live=False)
    looks = folder / f"looks-{os.getpid()}"
    count = 0
    while True:
        at = datetime.fromisoformat((folder / "now").read_text())
        if dice.random() < 0.3:
            at += timedelta(hours=dice.uniform(-JUMP_H, JUMP_H))
        await scheduler.plan(scope, "req_torture", at=at, batches=dice.randint(1, 4))
        count += 1
        looks.write_text(str(count))


async def _worked(looks: Path) -> None:
    """Until a process has looked at least once: one that dies while it starts proves nothing."""
    for _ in range(3000):
        if looks.exists():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a scheduler does not start")


def _spawn(url: str, folder: Path, tenant: UUID, seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.torture.schedulers", url, str(folder), str(tenant), str(seed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


# -- The run ---------------------------------------------------------------------------------------------------------------------


class Run:
    """One merchant with many subscriptions."""

    def __init__(self, urls: database.Urls, seed: int) -> None:
        self.urls = urls
        self.dice = random.Random(f"{seed}/schedulers")
        self.report = Report(seed=seed)
        self.made: list[Made] = []
        self.tenant = clock.new_uuid()

    async def fill(self, connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
        """The merchant and the subscriptions, each in the middle of its first period."""
        tenant, customer, plan = self.tenant, clock.new_uuid(), clock.new_uuid()
        await connection.execute(
            "INSERT INTO tenants (tenant_id, slug, name, data_key, created_at) VALUES ($1, $2, 'T', 'x', $3)",
            *(tenant, f"t-{tenant.hex[-12:]}", BEGINS),
        )
        await connection.execute(
            "INSERT INTO customers (tenant_id, live, customer_id, created_at, updated_at) VALUES ($1, false, $2, $3, $3)",
            *(tenant, customer, BEGINS),
        )
        await connection.execute(
            "INSERT INTO plans (tenant_id, live, plan_id, name, amounts, interval_unit, interval_count, created_at, updated_at)"
            " VALUES ($1, false, $2, 'Basic', '{\"EUR\": 900}', 'month', 1, $3, $3)",
            *(tenant, plan, BEGINS),
        )
        rows: list[tuple[Any, ...]] = []
        items: list[tuple[Any, ...]] = []
        for _ in range(count):
            unit, length = self.dice.choice(UNITS)
            day = self.dice.choice((1, 15, 28, 29, 30, 31, 31))
            hour, minute = self.dice.choice(((0, 0), (2, 30), (1, 30), (12, 0), (23, 59)))
            anchor = datetime(2027, 10, day, hour, minute)  # noqa: DTZ001  (a wall time)
            made = Made(clock.new_uuid(), anchor, self.dice.choice(ZONES), unit, length, 0)
            k = 0
            while starts(made, k + 1) <= BEGINS:
                k += 1
            made = msgspec.structs.replace(made, first_period=k)
            self.made.append(made)
            begin, end = starts(made, k), starts(made, k + 1)
            rows.append(
                (tenant, False, made.subscription_id, customer, "active", "EUR", unit, length, made.zone, anchor, k, begin, end,
                 end, begin, BEGINS, BEGINS)
            )  # fmt: skip
            items.append((tenant, False, made.subscription_id, clock.new_uuid(), 1, plan, "Basic", 1, 900))
        await connection.copy_records_to_table(
            "subscriptions",
            records=rows,
            columns=[
                "tenant_id", "live", "subscription_id", "customer_id", "status", "currency", "interval_unit", "interval_count",
                "time_zone", "anchor_local", "period_no", "current_period_start", "current_period_end", "next_at", "started_at",
                "created_at", "updated_at",
            ],
        )  # fmt: skip
        await connection.copy_records_to_table(
            "subscription_items",
            records=items,
            columns=[
                "tenant_id", "live", "subscription_id", "item_id", "position", "plan_id", "description", "quantity",
                "unit_amount_minor",
            ],
        )  # fmt: skip
        await connection.execute("ANALYZE subscriptions, subscription_items")

    async def trouble(self, folder: Path, days: int, schedulers: int, kills: int) -> None:
        """Move the time on while processes die, and cancel now and then."""
        settings, _ = sim.parts()
        pool = Database(self.urls.app, msgspec.structs.replace(settings.database, pool_size=1, orm_pool_size=1))
        await pool.open()
        now = BEGINS
        (folder / "now").write_text(now.isoformat())
        running = [_spawn(self.urls.app, folder, self.tenant, self.dice.getrandbits(32)) for _ in range(schedulers)]
        self.report.days = days
        try:
            for day in range(days):
                now += timedelta(days=1)
                (folder / "now.new").write_text(now.isoformat())
                (folder / "now.new").rename(folder / "now")
                if self.dice.random() < 0.2:
                    await self.cancel(pool, now)
                while self.report.kills * days < kills * (day + 1):
                    await asyncio.sleep(self.dice.uniform(0, 0.3))
                    victim = self.dice.randrange(schedulers)
                    process = running[victim]
                    await _worked(folder / f"looks-{process.pid}")
                    assert process.poll() is None, process.communicate()[1].decode()[-3000:]
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    self.report.kills += 1
                    running[victim] = _spawn(self.urls.app, folder, self.tenant, self.dice.getrandbits(32))
                await asyncio.sleep(0.02)
        finally:
            for process in running:
                process.kill()
                process.communicate()
            self.report.looks = sum(int(one.read_text() or 0) for one in folder.glob("looks-*"))
        scheduler = Scheduler(pool, settings)
        scope = Scope(tenant_id=self.tenant, live=False)
        while await scheduler.plan(scope, "req_torture", at=now):
            pass
        await pool.close()
        self.end = now

    async def cancel(self, pool: Database, now: datetime) -> None:
        """End one of them now, in one transaction, while others plan it."""
        made = self.dice.choice(self.made)
        async with pool.begin(Scope(tenant_id=self.tenant, live=False)) as session:
            connection = await session.connection()
            await connection.exec_driver_sql(
                "UPDATE subscriptions SET cancel_at = $1, next_at = least(next_at, $1) WHERE subscription_id = $2"
                " AND ended_at IS NULL",
                (now, made.subscription_id),
            )

    async def check(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Count again."""
        tell = self.report.violations.append
        found: dict[UUID, list[datetime]] = {}
        for row in await connection.fetch(
            "SELECT subscription_id, period_start FROM invoices WHERE tenant_id = $1 ORDER BY period_start", self.tenant
        ):
            found.setdefault(row["subscription_id"], []).append(row["period_start"])
        ended = {
            row["subscription_id"]: row["ended_at"]
            for row in await connection.fetch(
                "SELECT subscription_id, ended_at FROM subscriptions WHERE tenant_id = $1 AND ended_at IS NOT NULL",
                self.tenant,
            )
        }
        self.report.subscriptions, self.report.canceled = len(self.made), len(ended)
        self.report.invoices = sum(len(periods) for periods in found.values())
        ahead = timedelta(hours=JUMP_H)
        for made in self.made:
            periods = found.get(made.subscription_id, [])
            until = ended.get(made.subscription_id, self.end)
            due = expected(made, until)
            # A clock that ran ahead opens the next period early; never twice, and never one that is not the next.
            early = [one for one in periods[len(due) :] if until < one <= max(until, self.end) + ahead]
            if made.subscription_id in ended:
                due = [one for one in due if one < until or one in periods]
            if periods[: len(due)] != due or len(periods) != len(due) + len(early) or len(early) > 1 + ahead.days:
                tell(f"{made}: {len(periods)} invoices instead of {len(due)}: {periods[-3:]} {due[-3:]} until {until}")
        late = await connection.fetch(
            "SELECT o.data->>'subscription_id' AS id FROM journal o JOIN journal c ON c.tenant_id = o.tenant_id"
            " AND c.type = 'subscription.canceled' AND c.subject_id = (o.data->>'subscription_id')::uuid"
            " WHERE o.tenant_id = $1 AND o.type LIKE 'invoice.%' AND (o.epoch, o.xid, o.seq) > (c.epoch, c.xid, c.seq)",
            self.tenant,
        )
        for row in late:
            tell(f"{row['id']}: an invoice after its cancellation")
        numbers = await connection.fetchrow(
            "SELECT count(*) AS many, count(DISTINCT number) AS different, max(substr(number, 5)::integer) AS last FROM invoices"
            " WHERE tenant_id = $1",
            self.tenant,
        )
        assert numbers is not None
        if len(set(numbers.values())) != 1:
            tell(f"numbers with gaps: {dict(numbers)}")
        rebills = Counter(
            row["invoice_id"]
            for row in await connection.fetch("SELECT invoice_id FROM rebills WHERE tenant_id = $1", self.tenant)
        )
        if any(many > 1 for many in rebills.values()):
            tell("an invoice with two rebills")


async def run(urls: database.Urls, *, subscriptions: int, days: int, schedulers: int, kills: int, seed: int) -> Report:
    """One run on a database of its own."""
    one = Run(urls, seed)
    began = time.monotonic()
    connection = await asyncpg.connect(urls.superuser)
    try:
        await one.fill(connection, subscriptions)
        with tempfile.TemporaryDirectory(prefix="clearspan-torture-") as folder:
            await one.trouble(Path(folder), days, schedulers, kills)
        await one.check(connection)
    finally:
        await connection.close()
    one.report.seconds = round(time.monotonic() - began, 1)
    return one.report


def add_commands(commands: Any) -> None:
    """``schedulers``, for ``argparse``'s subcommands."""
    parser = commands.add_parser("schedulers", help="schedulers die and clocks jump: one invoice per period")
    parser.add_argument("--subscriptions", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--days", type=int, default=400, help="virtual days (default 400)")
    parser.add_argument("--schedulers", type=int, default=3, help="processes (default 3)")
    parser.add_argument("--kills", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=main)


def main(given: argparse.Namespace) -> int:
    """Run, print, and say whether every promise held."""
    with sim.postgres() as superuser_url:
        report = asyncio.run(
            run(
                database.prepare(superuser_url, f"cs_schedulers_{os.getpid()}"),
                subscriptions=given.subscriptions,
                days=given.days,
                schedulers=given.schedulers,
                kills=given.kills,
                seed=given.seed,
            )
        )
    print(report.text())
    return 1 if report.violations else 0


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2]), UUID(sys.argv[3]), int(sys.argv[4])))
