"""A consumer in a process of its own, things that happen, and workers that tell it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from tests.shop import NO_TLS

from clearspan.journal.feed import Feed
from clearspan.journal.service import record
from clearspan.platform import clock, ids
from clearspan.platform.addresses import Guard
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.telemetry import Metrics
from clearspan.settings import Settings
from clearspan.tenants.service import Tenants
from clearspan.webhooks.dispatch import Deliveries, Dispatcher
from clearspan.webhooks.sending import Sender

if TYPE_CHECKING:
    from tests.conftest import Merchant

Json = dict[str, Any]
PATIENCE_S = 30


class Consumer:
    """Somebody who takes webhooks; see ``tests.consumer``."""

    def __init__(self, port: int, http: httpx.AsyncClient) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._http = http

    async def plan(self, name: str, *behaviours: Any) -> str:
        """Say what the hook of this name does; returns its URL."""
        assert (await self._http.put(f"{self.url}/plan/{name}", json=list(behaviours))).status_code == 200
        return f"{self.url}/hook/{name}"

    async def release(self) -> None:
        """Answer those who are held."""
        assert (await self._http.put(f"{self.url}/release/all")).status_code == 200

    async def received(self, name: str) -> list[Json]:
        """What came, in order."""
        found: list[Json] = (await self._http.get(f"{self.url}/received/{name}")).json()
        return found

    async def ids(self, name: str) -> list[str]:
        """The ``webhook-id`` of each."""
        return [one["headers"]["webhook-id"] for one in await self.received(name)]


@pytest.fixture(scope="session")
async def consumer() -> AsyncIterator[Consumer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.consumer",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
            yield Consumer(port, http)
    finally:
        process.kill()
        await process.wait()


class Hook:
    """An endpoint of a merchant at the consumer.

    Attributes:
        id: of the endpoint.
        name: at the consumer.
        secret: as shown once.
    """

    def __init__(self, http: httpx.AsyncClient, consumer: Consumer, name: str, made: Json) -> None:
        self.http = http
        self.consumer = consumer
        self.name = name
        self.id: str = made["id"]
        self.secret: str = made["secret"]

    async def get(self) -> Json:
        found: Json = (await self.http.get(f"/v1/webhook-endpoints/{self.id}")).json()
        return found

    async def patch(self, **body: Any) -> httpx.Response:
        return await self.http.patch(f"/v1/webhook-endpoints/{self.id}", json=body)

    async def post(self, verb: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"/v1/webhook-endpoints/{self.id}/{verb}", json=body)

    async def log(self, **params: Any) -> list[Json]:
        """Its deliveries, the oldest event first."""
        answer = await self.http.get("/v1/webhook-deliveries", params={"endpoint": self.id, "limit": 100} | params)
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["data"]
        return found[::-1]

    async def attempts(self, delivery: str) -> list[Json]:
        answer = await self.http.get(f"/v1/webhook-deliveries/{delivery}")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["log"]
        return found

    async def received(self) -> list[Json]:
        return await self.consumer.received(self.name)

    async def ids(self) -> list[str]:
        return await self.consumer.ids(self.name)


NewHook = Callable[..., Awaitable[Hook]]


@pytest.fixture
def new_hook(consumer: Consumer, client: httpx.AsyncClient) -> NewHook:
    """Makes endpoints: ``await new_hook(500, 200, events=["payment.*"])`` with what the consumer does."""

    async def make(*plan: Any, http: httpx.AsyncClient = client, **body: Any) -> Hook:
        name = f"h{clock.random_bytes(6).hex()}"
        url = await consumer.plan(name, *(plan or (200,)))
        made = await http.post("/v1/webhook-endpoints", json={"url": url, "events": ["payment.*"]} | body)
        assert made.status_code == 201, made.text
        return Hook(http, consumer, name, made.json())

    return make


Happen = Callable[..., Awaitable[str]]


@pytest.fixture
def happen(db: Database) -> Happen:
    """Records something: ``event_id = await happen(caller, "payment.created", subject=...)``, as a public id."""

    async def happen(
        caller: Caller, event_type: str = "payment.created", *, subject: UUID | None = None, sequence: int = 1
    ) -> str:
        async with db.begin(caller.scope) as session:
            event_id = await record(
                session,
                caller,
                type=event_type,
                subject_type="payment",
                subject_id=subject or clock.new_uuid(),
                sequence=sequence,
                data={},
            )
        return ids.encode("evt", event_id)

    return happen


async def settle(db: Database) -> None:
    """Wait until everything committed so far is below the horizon."""
    mine = int(await db.fetch_text("SELECT pg_current_xact_id()::text"))
    while int(await db.fetch_text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) <= mine:
        await clock.sleep(0.005)


class Works:
    """A worker's loop in this process, for one merchant: other tests' endpoints are theirs."""

    def __init__(
        self, dispatcher: Dispatcher, merchant: Merchant, database: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        self.dispatcher = dispatcher
        self._scope = merchant.caller.scope
        self._database = database

    async def run(self) -> None:
        """Do what is due now, to the end: everything that need not wait for its time."""
        async with asyncio.timeout(PATIENCE_S):
            idle = 0
            while idle < 2:
                await self.dispatcher.step({self._scope})
                if self.dispatcher._tasks:
                    await asyncio.wait(self.dispatcher._tasks, return_when=asyncio.FIRST_COMPLETED)
                    idle = 0
                elif (await self.dispatcher._deliveries.look({self._scope})).endpoints:
                    idle = 0
                else:
                    # What was committed a moment ago may stand above the horizon still.
                    await settle(self.dispatcher._db)
                    idle += 1

    async def later(self, seconds: float = 200_000) -> None:
        """What waits for its time has waited so long."""
        await self._database.execute(
            "UPDATE webhook_deliveries SET due_at = due_at - make_interval(secs => $1) WHERE due_at IS NOT NULL"
            " AND tenant_id = $2 AND live = $3",
            float(seconds),
            self._scope.tenant_id,
            self._scope.live,
        )


NewWorks = Callable[..., Awaitable[Works]]


@pytest.fixture
async def new_works(
    urls: Any, settings: Settings, tenants: Tenants, merchant: Merchant, gateway: Any, app: Any
) -> AsyncIterator[NewWorks]:
    """Makes workers' loops: ``await new_works(timeout_s=..., of=merchant)``."""
    made: list[tuple[Dispatcher, Sender]] = []
    database = await asyncpg.connect(urls.superuser, server_settings={"timezone": "UTC"})

    async def make(*, of: Merchant = merchant, lease_margin_s: float = 15.0, **changed: Any) -> Works:
        own = msgspec.structs.replace(settings.webhooks, **({"timeout_s": 1.0} | changed))
        sender = Sender(Guard(settings.outbound.allow_internal, settings.outbound.ports), own)
        feed: Feed = gateway.feed
        deliveries = Deliveries(gateway.db, tenants, feed, sender, own, Metrics(), lease_margin_s)
        made.append((Dispatcher(deliveries, feed, 5), sender))
        return Works(made[-1][0], of, database)

    yield make
    for dispatcher, sender in made:
        await dispatcher.drain()
        await sender.close()
    await database.close()


@pytest.fixture
async def works(new_works: NewWorks) -> Works:
    return await new_works()
