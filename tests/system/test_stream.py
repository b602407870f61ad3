"""Following the journal for real: transactions that commit out of order, a server that restarts, clients over HTTP."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from clearspan.app import Gateway
from clearspan.commands.web import WebServer
from clearspan.journal import repository
from clearspan.journal.feed import Feed
from clearspan.journal.models import Entry, Position
from clearspan.journal.service import record
from clearspan.journal.tail import Tailer
from clearspan.platform import clock, ids, plugins, schema
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.settings import Settings

PATIENCE_S = 30
"""How long a test waits for what must come; no claim is made about how fast it does."""


# -- Commits out of order -------------------------------------------------------------------------------------------------------


class Everything:
    """A reader of the tailer, as a relay of all tenants would be."""

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        self.position: Position | None = None
        self.received: list[Entry] = []

    def joined(self, position: Position) -> None:
        self.position = position

    def receive(self, entries: Sequence[Entry]) -> None:
        self.received += entries


async def write_slowly(url: str, scope: Scope, seed: int, kept: list[UUID]) -> None:
    """Transactions of one to three rows that take their time between writing and committing; some roll back."""
    chance = random.Random(seed)  # noqa: S311  (to be repeatable)
    connection = await asyncpg.connect(url)
    try:
        for _ in range(30):
            rows = [clock.new_uuid() for _ in range(chance.randint(1, 3))]
            keep = chance.random() < 0.8
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                "SELECT set_config('app.tenant', $1, true), set_config('app.live', 'f', true)", str(scope.tenant_id)
            )
            for event_id in rows:
                await connection.execute(
                    "INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, actor_type,"
                    " actor_id, request_id, data, at)"
                    " VALUES ($1, false, $2, 'payment.created', 'payment', $2, 1, 'cli', 'tests', 'req_tests', '{}', now())",
                    scope.tenant_id,
                    event_id,
                )
                await clock.sleep(chance.random() * 0.01)
            if keep:
                await transaction.commit()
                kept += rows
            else:
                await transaction.rollback()
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_follower_never_misses_and_never_repeats_while_a_reader_of_the_sequence_does(
    urls: Any, db: Database, tenant: Caller, settings: Settings, seed: int
) -> None:
    scope = tenant.scope
    kept: list[UUID] = []
    done = asyncio.Event()

    async def write() -> None:
        await asyncio.gather(*(write_slowly(urls.app, scope, 100 * seed + number, kept) for number in range(8)))
        await settle(db)
        done.set()

    async def follow(start: Position, most: int) -> list[UUID]:
        """Page by page, as ``GET /v1/events`` does."""
        found: list[UUID] = []
        position = start
        while True:
            last_look = done.is_set()
            page = await repository.page(db, scope, after=position, most=most)
            found += [entry.event_id for entry in page.entries]
            position = page.upto
            if last_look and not page.more:
                return found
            await clock.sleep(0.001)

    async def follow_the_sequence() -> list[UUID]:
        found: list[UUID] = []
        connection = await asyncpg.connect(urls.superuser)
        last = await connection.fetchval("SELECT COALESCE(max(seq), 0) FROM journal")
        try:
            while True:
                last_look = done.is_set()
                rows = await connection.fetch(
                    "SELECT seq, event_id FROM journal WHERE tenant_id = $1 AND seq > $2 ORDER BY seq",
                    scope.tenant_id,
                    last,
                )
                found += [row["event_id"] for row in rows]
                last = rows[-1]["seq"] if rows else last
                if last_look:
                    return found
                await clock.sleep(0.001)
        finally:
            await connection.close()

    start = (await repository.page(db, scope, after=None, most=1000)).upto
    tailer = Tailer(db, msgspec.structs.replace(settings.events, poll_ms=10, page_max=7))
    mine, all_of_them = Everything(scope), Everything(None)
    tailer.join(mine)
    tailer.join(all_of_them)
    async with asyncio.timeout(PATIENCE_S):
        while mine.position is None:
            await clock.sleep(0.001)
        _, in_big_steps, in_small_steps, naive = await asyncio.gather(
            write(), follow(start, 1000), follow(start, 3), follow_the_sequence()
        )
        while len(mine.received) < len(kept):
            await clock.sleep(0.001)
    await tailer.stop()

    assert sorted(in_big_steps) == sorted(kept), "every committed row, once"
    assert in_small_steps == in_big_steps
    assert [entry.event_id for entry in mine.received] == in_big_steps
    assert [entry.event_id for entry in all_of_them.received if entry.scope == scope] == in_big_steps
    assert set(naive) < set(kept), "the transactions did not overlap, so nothing was tried"


async def settle(db: Database) -> None:
    """Wait until everything committed so far is below the horizon."""
    async with asyncio.timeout(PATIENCE_S):
        mine = int(await db.fetch_text("SELECT pg_current_xact_id()::text"))
        while int(await db.fetch_text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) <= mine:
            await clock.sleep(0.005)


# -- A database that restarts ---------------------------------------------------------------------------------------------------


async def test_a_stream_outlives_a_restart_of_the_database(tmp_path: Path, settings: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    caller = Caller(
        scope=Scope(tenant_id=clock.new_uuid(), live=False),
        actor_type="cli",
        actor_id="tests",
        request_id="req_tests",
    )
    with EmbeddedPostgres(tmp_path / "postgres", port=port) as server:
        app_url = await _migrated(server.superuser_url, caller.scope)
        db = Database(app_url, settings.database)
        await db.open()
        feed = Feed(db, msgspec.structs.replace(settings.events, poll_ms=10), 1)
        await feed.start()
        start = ids.encode("evt", await happen(db, caller))
        await settle(db)
        body = await feed.stream(caller, start, (), _nothing)
        try:
            async with asyncio.timeout(PATIENCE_S), _received(body) as received:
                await happen(db, caller)
                while len(received) < 1:
                    await clock.sleep(0.01)
                await asyncio.to_thread(server.stop)
                with pytest.raises(DatabaseUnavailable):
                    await happen(db, caller)
                await asyncio.to_thread(server.start)
                await happen(db, caller)
                while len(received) < 2:
                    await clock.sleep(0.01)
            order = await feed.page(caller.scope, start, 100)
            assert received == [event.id for event in order.data], "one stream, nothing missed, nothing twice"
        finally:
            await feed.stop()
            await db.close()


async def happen(db: Database, caller: Caller) -> UUID:
    """Record something; connections that a restart broke are met once each."""
    for _ in range(20):
        with suppress(DatabaseUnavailable):
            async with db.begin(caller.scope) as session:
                return await record(
                    session,
                    caller,
                    type="payment.created",
                    subject_type="payment",
                    subject_id=clock.new_uuid(),
                    sequence=1,
                    data={},
                )
    raise DatabaseUnavailable


async def _migrated(superuser_url: str, scope: Scope) -> str:
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute("CREATE ROLE cs_owner LOGIN CREATEROLE PASSWORD 'of-the-tests-only'")
        await connection.execute("CREATE DATABASE clearspan OWNER cs_owner")
    finally:
        await connection.close()
    owner_url = schema.derive_app_url(superuser_url, "cs_owner", "of-the-tests-only").rpartition("/")[0] + "/clearspan"
    report = await asyncio.to_thread(schema.migrate, owner_url, app_role="cs_app", app_password="of-the-tests-only")
    connection = await asyncpg.connect(superuser_url.rpartition("/")[0] + "/clearspan")
    try:
        await connection.execute(
            "INSERT INTO tenants VALUES ($1, 'acme', 'Acme', 'active', '', now())", scope.tenant_id
        )
    finally:
        await connection.close()
    return report.app_url


async def _nothing() -> None:
    """The key is still good."""


@asynccontextmanager
async def _received(body: AsyncIterator[bytes]) -> AsyncIterator[list[str]]:
    """The ids of events as they come; it is listening when it is entered."""
    received: list[str] = []

    async def read() -> None:
        async for piece in body:
            frames = piece.decode().split("\n\n")
            received.extend(frame.partition("\n")[0].removeprefix("id: ") for frame in frames if "\ndata: " in frame)

    task = asyncio.create_task(read())
    try:
        yield received
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- Over HTTP ------------------------------------------------------------------------------------------------------------------


class Live(msgspec.Struct, frozen=True):
    """A server that listens."""

    gateway: Gateway
    server: WebServer
    url: str
    serving: asyncio.Task[None]


@pytest.fixture
async def live(urls: Any, settings: Settings, master: MasterKey) -> AsyncIterator[Live]:
    """The gateway behind the server that ``clearspan web`` runs, on a port of 127.0.0.1."""
    gateway = Gateway(settings, urls.app, master, plugins.load(settings.plugins.enabled))
    server = WebServer(gateway)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve_on(listener))
        async with asyncio.timeout(PATIENCE_S):
            while not server.started:
                await clock.sleep(0.01)
        yield Live(gateway, server, f"http://127.0.0.1:{listener.getsockname()[1]}", serving)
        server.stop()
        await serving


class Client:
    """One open stream, read line by line."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def line(self, start: str) -> str:
        """The rest of the next line that begins so."""
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if line.startswith(start):
                    return line.removeprefix(start)
        pytest.fail(f"the stream ended before a line that begins with {start!r}")

    async def event(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.line("data: "))
        return found


@asynccontextmanager
async def streaming(live: Live, key: str, last_event_id: str | None = None) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    async with (
        httpx.AsyncClient(base_url=live.url, headers=headers, trust_env=False, timeout=PATIENCE_S) as client,
        client.stream("GET", "/v1/events/stream") as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield Client(answer)


async def create_customer(live: Live, key: str) -> str:
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as client:
        answer = await client.post("/v1/customers", json={}, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 201, answer.text
    customer_id: str = answer.json()["id"]
    return customer_id


async def test_a_client_that_lost_the_stream_gets_what_it_missed_and_then_what_happens(
    live: Live, merchant: Any
) -> None:
    async with streaming(live, merchant.key) as client:
        assert client.answer.headers["content-type"].startswith("text/event-stream")
        assert client.answer.headers["cache-control"] == "no-cache"
        assert client.answer.headers["x-accel-buffering"] == "no"
        await client.line("id: ")  # It names its place: from here on everything is told.
        seen = await create_customer(live, merchant.key)
        event = await client.event()
        assert event["subject"] == {"type": "customer", "id": seen}
        assert event["data"]["object"]["id"] == seen
    missed = [await create_customer(live, merchant.key) for _ in range(3)]
    async with streaming(live, merchant.key, event["id"]) as client:
        told = [(await client.event())["subject"]["id"] for _ in missed]
        assert told == missed
        new = await create_customer(live, merchant.key)
        assert (await client.event())["subject"]["id"] == new


async def test_a_client_that_went_away_leaves_nothing_behind(live: Live, merchant: Any) -> None:
    feed = live.gateway.feed
    for _ in range(3):
        async with streaming(live, merchant.key) as client:
            await client.line("id: ")
            assert len(feed._streams) == 1
        async with asyncio.timeout(PATIENCE_S):
            while feed._streams or feed._channels or feed.tailer._task is not None:
                await clock.sleep(0.01)


async def test_a_server_that_stops_ends_its_streams_instead_of_waiting_for_them(live: Live, merchant: Any) -> None:
    """Uvicorn waits ``server.drain_timeout_s`` for open answers; a stream would never end by itself."""
    async with streaming(live, merchant.key) as client:
        await client.line("id: ")
        live.server.stop()
        assert "the server is stopping" in await client.line(": ")
        async with asyncio.timeout(live.gateway.settings.server.drain_timeout_s / 2):
            await asyncio.shield(live.serving)
