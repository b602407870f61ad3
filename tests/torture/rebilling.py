"""Rebills while their workers die and the queue forgets: each invoice is charged at most once, none is forgotten.

Subscriptions with several missed periods each, all to be charged, at a merchant of the torture bench's world: real gateways and
workers, PostgreSQL, Valkey and the simulated PSP, which fails by rate. Workers and gateways are killed at random instants, the
queue is flushed again and again, and some subscriptions are cancelled in the middle. Then the faults end, everything has its
time, and the invoices are compared with the PSP's own book.

    python -m tests.torture rebilling --subscriptions 100 --kills 100
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from redis import asyncio as redis
from tests.shop import insist
from tests.torture import invariants, processes
from tests.torture.processes import World

from clearspan.platform import clock, ids

PERIODS = 5
"""Missed days of each subscription, the present one included."""
DECLINED = 7
"""Every so many subscriptions have a card that is declined."""
FAULTS: dict[str, Any] = {
    "rates": dict.fromkeys(("F1", "F2", "F3", "F4", "F5", "F7", "F8", "F10"), 0.03) | {"W1": 0.05, "W3": 0.05}
}
PATIENCE_S = 300.0
_TENANT = "tenant_id = $1"


class Report(msgspec.Struct, kw_only=True):
    """What was done and what was found."""

    seed: int
    subscriptions: int = 0
    invoices: int = 0
    paid: int = 0
    charges_in_book: int = 0
    tries: int = 0
    canceled: int = 0
    kills: int = 0
    flushes: int = 0
    seconds: float = 0.0
    converged_s: float = 0.0
    violations: list[str] = []

    def text(self) -> str:
        """A table."""
        rows = [f"{name:<18} {value}" for name, value in msgspec.structs.asdict(self).items() if name != "violations"]
        return "\n".join(rows + ([f"  {one}" for one in self.violations[:20]] or ["every promise held"]))


async def fill(connection: asyncpg.Connection[asyncpg.Record], tenant: UUID, account: UUID, count: int) -> list[UUID]:
    """Customers with a card, a mandate and a daily subscription each that was not planned for days."""
    now = clock.now()
    begin = now - timedelta(days=PERIODS)
    plan, made = clock.new_uuid(), []
    own = {"tenant_id": tenant, "live": False}
    await _add(connection, "billing_settings", own | {"catch_up": "all", "mails": False, "updated_at": now})
    stamps = {"created_at": begin, "updated_at": begin}
    await _add(
        connection,
        "plans",
        own
        | {
            "plan_id": plan,
            "name": "Daily",
            "amounts": '{"EUR": 900}',
            "interval_unit": "day",
            "interval_count": 1,
            **stamps,
        },
    )
    for number in range(count):
        customer, method, mandate, subscription = (clock.new_uuid() for _ in range(4))
        made.append(subscription)
        token = "tok_decline_insufficient_funds" if number % DECLINED == 0 else "tok_visa"
        await _add(connection, "customers", own | {"customer_id": customer, **stamps})
        card = {
            "vault": "sandbox",
            "vault_token": f"{token}__{number}",
            "brand": "visa",
            "last4": "4242",
            "exp_month": 12,
        }
        await _add(
            connection,
            "payment_methods",
            own
            | card
            | {
                "payment_method_id": method,
                "customer_id": customer,
                "exp_year": 2060,
                "fingerprint": method.hex,
                **stamps,
            },
        )
        await _add(
            connection,
            "mandates",
            own
            | {"mandate_id": mandate, "customer_id": customer, "payment_method_id": method, "purpose": "recurring"}
            | {
                "status": "active",
                "text_version": "1",
                "accepted_at": begin,
                "activated_at": begin,
                "psp_account_id": account,
            }
            | stamps,
        )
        await _add(
            connection,
            "subscriptions",
            own
            | {"subscription_id": subscription, "customer_id": customer, "status": "active", "currency": "EUR"}
            | {
                "interval_unit": "day",
                "interval_count": 1,
                "time_zone": "UTC",
                "anchor_local": begin.replace(tzinfo=None),
            }
            | {"period_no": 0, "current_period_start": begin, "current_period_end": begin + timedelta(days=1)}
            | {
                "next_at": begin + timedelta(days=1),
                "started_at": begin,
                "payment_method_id": method,
                "mandate_id": mandate,
            }
            | stamps,
        )
        item = {
            "subscription_id": subscription,
            "item_id": clock.new_uuid(),
            "position": 1,
            "plan_id": plan,
            "quantity": 1,
        }
        await _add(connection, "subscription_items", own | item | {"description": "Daily", "unit_amount_minor": 900})
    return made


async def _add(connection: asyncpg.Connection[asyncpg.Record], table: str, row: dict[str, Any]) -> None:
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())


async def run(world: World, *, subscriptions: int, kills: int, seed: int) -> Report:
    """One run with a fresh merchant."""
    await world.open_shop()
    report, dice = Report(seed=seed, subscriptions=subscriptions), random.Random(f"{seed}/rebilling")
    tenant, began = world.scope.tenant_id, clock.monotonic()
    await world.faults(FAULTS | {"seed": seed})
    async with world.connected() as connection:
        made = await fill(connection, tenant, world.accounts["alpha"], subscriptions)
        queue = redis.from_url(world.valkey.url)
        canceled: list[UUID] = []
        killed = world.web.killed
        flushed = clock.monotonic()
        while world.web.killed - killed < kills:
            await clock.sleep(dice.uniform(0.05, 0.3))
            await world.web.kill(dice.randrange(world.web.count))
            if clock.monotonic() - flushed > 1:
                await queue.flushall()
                report.flushes, flushed = report.flushes + 1, clock.monotonic()
            if dice.random() < 0.1 and len(canceled) < subscriptions // 5:
                one = dice.choice([each for each in made if each not in canceled])
                path = f"/v1/subscriptions/{ids.encode('sub', one)}/cancel"
                body = {"at": "now", "invoices": dice.choice(("void", "keep")), "reason": "moved on"}
                answer = await insist([world.shop], path, body, str(clock.new_uuid()))
                if answer.status_code == 200:
                    canceled.append(one)
        await queue.aclose()
        await world.faults({})
        report.kills, report.canceled = world.web.killed - killed, len(set(canceled))
        ended = clock.monotonic()

        async def quiet() -> bool:
            return not await connection.fetchval(
                "SELECT (SELECT count(*) FROM subscriptions WHERE tenant_id = $1 AND next_at <= now())"
                " + (SELECT count(*) FROM rebills WHERE tenant_id = $1 AND next_at <= now())"
                " + (SELECT count(*) FROM invoices WHERE tenant_id = $1 AND payment_locked)"
                " + (SELECT count(*) FROM payment_intents WHERE tenant_id = $1 AND unwind_at IS NOT NULL)",
                tenant,
            )

        await _patiently(quiet)
        report.converged_s = round(clock.monotonic() - ended, 1)
        await _check(world, connection, tenant, made, canceled, report)
    report.seconds = round(clock.monotonic() - began, 1)
    return report


async def _patiently(ask: Callable[[], Awaitable[bool]]) -> None:
    until = clock.monotonic() + PATIENCE_S
    while not await ask() and clock.monotonic() < until:
        await clock.sleep(0.3)


async def _check(
    world: World,
    connection: asyncpg.Connection[asyncpg.Record],
    tenant: UUID,
    made: list[UUID],
    canceled: list[UUID],
    report: Report,
) -> None:
    tell = report.violations.append
    books = await world.books()
    ours = await invariants.read(connection, [tenant])
    report.violations += [str(one) for one in invariants.check(ours, books, [])]
    invoices = await connection.fetch(f"SELECT * FROM invoices WHERE {_TENANT}", tenant)
    periods = Counter(one["subscription_id"] for one in invoices)
    report.invoices = len(invoices)
    report.paid = sum(one["status"] == "paid" for one in invoices)
    for subscription in set(made) - set(canceled):
        if periods[subscription] != PERIODS:
            tell(f"subscription {subscription} has {periods[subscription]} invoices instead of {PERIODS}")
    booked = [
        row for book in books.values() for row in book if row["kind"] == "charge" and row["status"] == "succeeded"
    ]
    report.charges_in_book = len(booked)
    of_invoice: Counter[UUID] = Counter()
    payment_of = {ids.encode("op", UUID(one["operation_id"])): UUID(one["payment_id"]) for one in ours.operations}
    invoice_of = {one["payment_id"]: one["invoice_id"] for one in invoices if one["payment_id"] is not None}
    for row in booked:
        kept = row["amount"] - row.get("refunded", 0) - row.get("voided", 0)
        payment = payment_of.get(row["reference"])
        if payment in invoice_of and kept:
            of_invoice[invoice_of[payment]] += 1
    for one in invoices:
        charged = of_invoice[one["invoice_id"]]
        if charged != (1 if one["status"] == "paid" else 0):
            tell(f"invoice {one['number']} is {one['status']} and was charged {charged} times")
    report.tries = await connection.fetchval(f"SELECT count(*) FROM rebill_tries WHERE {_TENANT}", tenant)
    late = await connection.fetch(
        "SELECT o.operation_id FROM operations o JOIN invoices i ON i.tenant_id = o.tenant_id AND i.payment_id = o.payment_id"
        " JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.subscription_id = i.subscription_id"
        " WHERE o.tenant_id = $1 AND o.merchant_initiated AND o.created_at > s.ended_at",
        tenant,
    )
    for row in late:
        tell(f"operation {row['operation_id']} was begun after its subscription had ended")
    waiting = await connection.fetch(
        f"SELECT state, count(*) AS many FROM rebills WHERE {_TENANT} AND state IN ('due', 'claimed', 'decide')"
        " AND next_at <= now() GROUP BY state",
        tenant,
    )
    for row in waiting:
        tell(f"{row['many']} rebills are still {row['state']}")


def add_commands(commands: Any) -> None:
    """``rebilling``, for ``argparse``'s subcommands."""
    parser = commands.add_parser("rebilling", help="workers die and the queue forgets while invoices are collected")
    parser.add_argument("--subscriptions", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--kills", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=main)


def main(given: argparse.Namespace) -> int:
    """Run, print, and say whether every promise held."""

    async def go() -> Report:
        with tempfile.TemporaryDirectory(prefix="clearspan-torture-") as folder:
            Path(folder).chmod(0o755)
            async with processes.world(Path(folder), gateways=1, workers=2) as world:
                return await run(world, subscriptions=given.subscriptions, kills=given.kills, seed=given.seed)

    report = asyncio.run(go())
    print(report.text())
    return 1 if report.violations else 0
