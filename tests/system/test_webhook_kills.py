"""Workers killed at any instant lose no event: a careless consumer ends with the same objects as we have.

``KILLS`` of them here; ``python -m tests.system.webhook_kills --kills 2000`` does as many as one likes.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
from tests.core.webhooks.conftest import Consumer, consumer
from tests.shop import until

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

__all__ = ["consumer"]  # a fixture

KILLS = int(os.environ.get("CLEARSPAN_WEBHOOK_KILLS", "100"))
CHILDREN = 4
ENDPOINTS = 3
CUSTOMERS = 40
PAUSE_S = 0.02
BACKLOG = 200
"""Between two changes."""
Json = dict[str, Any]


async def test_a_consumer_that_fails_half_the_time_ends_equal_to_us_however_often_workers_are_killed(
    urls: Urls,
    master: MasterKey,
    merchant: Merchant,
    client: httpx.AsyncClient,
    consumer: Consumer,
    superuser: asyncpg.Connection[asyncpg.Record],
    tmp_path: Path,
) -> None:
    tenant = merchant.caller.scope.tenant_id
    names, endpoints = [], []
    for number in range(ENDPOINTS):
        names.append(f"books{number}-{tenant.hex}")
        url = await consumer.plan(names[-1], "books")
        made = await client.post("/v1/webhook-endpoints", json={"url": url, "events": ["customer.*"]})
        assert made.status_code == 201, made.text
        endpoints.append(made.json()["id"])
    customers = [(await client.post("/v1/customers", json={})).json()["id"] for _ in range(CUSTOMERS)]
    chance = random.Random(KILLS)  # noqa: S311
    changes = 0

    async def waiting() -> int:
        """Deliveries that are not settled, and events not relayed, of each endpoint."""
        found: int = await superuser.fetchval(
            "SELECT (SELECT count(*) FROM webhook_deliveries WHERE tenant_id = $1 AND state = 'pending')"
            " + (SELECT count(*) FROM journal j, webhook_endpoints e WHERE j.tenant_id = $1 AND e.tenant_id = $1"
            " AND (j.epoch, j.xid, j.seq) > (e.cursor_epoch, e.cursor_xid, e.cursor_seq))",
            tenant,
        )
        return found

    async def few() -> bool | None:
        return True if await waiting() < BACKLOG else None

    async def trade() -> None:
        nonlocal changes
        while True:
            changes += 1
            await until(few)  # However slow the machine: there is always something to do, and never too much.
            change = {"metadata": {"change": str(changes)}, "reference": f"r{changes}"}
            answer = await client.patch(f"/v1/customers/{chance.choice(customers)}", json=change)
            assert answer.status_code == 200, answer.text
            await clock.sleep(PAUSE_S)

    began = clock.monotonic()
    task = {
        "url": urls.app,
        "master": master._secret.hex(),
        "folder": str(tmp_path),
        "kills": KILLS,
        "children": CHILDREN,
        "seed": 20261122,
    }
    with (tmp_path / "log").open("wb") as log:
        workers = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.system.webhook_workers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
    assert workers.stdin is not None
    assert workers.stdout is not None
    workers.stdin.write(msgspec.json.encode(task))
    workers.stdin.close()
    trading = asyncio.create_task(trade())
    try:
        said = await workers.stdout.readline()
        assert said, (tmp_path / "log").read_text()
        kills: Json = msgspec.json.decode(said)
        took_s = clock.monotonic() - began
        trading.cancel()
        await asyncio.gather(trading, return_exceptions=True)

        async def settled() -> bool | None:
            return True if await waiting() == 0 else None

        given_up = 0
        for _ in range(20):
            await until(settled)
            again = 0
            for endpoint in endpoints:
                # Ten tries that fail by half: one event in a thousand is given up, and sent again when somebody asks.
                since = (clock.now() - clock.seconds(3600)).isoformat()
                body = {"since": since, "only_failed": True}
                answer = await client.post(f"/v1/webhook-endpoints/{endpoint}/replay", json=body)
                again += answer.json()["deliveries"]
            given_up += again
            if not again:
                break
        settled_s = clock.monotonic() - began
    finally:
        trading.cancel()
        workers.terminate()
        await workers.wait()

    ours = {one: (await client.get(f"/v1/customers/{one}")).json() for one in customers}
    for customer in ours.values():
        for name in ("name", "email", "phone", "address"):
            del customer[name]  # Events carry no personal data.
    events = await superuser.fetchval(
        "SELECT count(*) FROM journal WHERE tenant_id = $1 AND type LIKE 'customer.%'", tenant
    )
    rows = await superuser.fetch(
        "SELECT webhook_endpoint_id, count(*) AS rows, count(DISTINCT event_id) AS events, sum(attempts) AS attempts,"
        " count(*) FILTER (WHERE state = 'delivered') AS delivered FROM webhook_deliveries WHERE tenant_id = $1 GROUP BY 1",
        tenant,
    )
    assert [(row["rows"], row["events"], row["delivered"]) for row in rows] == [(events, events, events)] * ENDPOINTS
    told = []
    for name in names:
        books = (await consumer._http.get(f"{consumer.url}/books/{name}")).json()
        assert books["objects"] == ours
        assert len(books["seen"]) == events
        told.append(books["told"])
    tries = sum(row["attempts"] for row in rows)
    print(f"\n{kills} in {took_s:.1f} s; {changes} changes, {events} events to {ENDPOINTS} endpoints; ", end="")  # noqa: T201
    print(f"settled after {settled_s:.1f} s; {tries} tries noted, {given_up} given up and replayed; {told}")  # noqa: T201
    assert kills["kills"] >= KILLS
    assert kills["ended otherwise"] == 0, (tmp_path / "log").read_text()
    assert [point for point in ("relayed", "claimed", "sent", "settled") if not kills.get(point)] == [], kills
