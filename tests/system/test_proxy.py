"""The proxy of the torture bench does to connections what it says, and the money path stands it: real PostgreSQL, real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from tests.shop import Shop, gateway, insist, new_key, succeeded, with_payments
from tests.torture.proxy import Proxy, When

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.platform.embedded_redis import EmbeddedRedis
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

Connection = asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)


@pytest.fixture
async def proxy(urls: Urls) -> AsyncIterator[Proxy]:
    """In front of PostgreSQL."""
    async with Proxy(urls.superuser) as running:
        yield running


@pytest.fixture
async def table(superuser: Connection) -> AsyncIterator[str]:
    """Where committed rows can be counted."""
    name = f"seen_{clock.random_bytes(4).hex()}"
    await superuser.execute(f"CREATE TABLE {name} (n integer)")
    yield name
    await superuser.execute(f"DROP TABLE {name}")


@pytest.fixture
async def through(proxy: Proxy) -> AsyncIterator[Connection]:
    """A connection through the proxy."""
    connection = await asyncpg.connect(proxy.url)
    yield connection
    connection.terminate()


# -- PostgreSQL -----------------------------------------------------------------------------------------------------------------


async def test_what_is_not_told_to_fail_goes_through(through: Connection, proxy: Proxy) -> None:
    assert await through.fetchval("SELECT repeat('x', 1000000) || $1", "y") == "x" * 1_000_000 + "y"
    assert (proxy.connections, proxy.cuts) == (1, 0)


@pytest.mark.parametrize("when", list(When), ids=lambda when: when.value)
async def test_a_trap_springs_when_the_statement_runs_and_decides_whether_it_ran(
    through: Connection, proxy: Proxy, table: str, superuser: Connection, when: When
) -> None:
    """Not when it is prepared, and only for the arguments that are meant."""
    insert = await through.prepare(f"INSERT INTO {table} VALUES ($1::text::integer)")
    trap = proxy.trap(b"10203040", when)
    await insert.fetch("10203041")
    with pytest.raises(LOST):
        await insert.fetch("10203040", timeout=10)
    assert trap.sprung.is_set()

    async def count() -> int:
        return int(await superuser.fetchval(f"SELECT count(*) FROM {table} WHERE n = 10203040"))

    if when is When.BEFORE:
        assert await count() == 0
    elif when is When.AFTER:
        assert await count() == 1
    else:  # Sent: the server gets to it, sooner or later.
        for _ in range(500):
            if await count():
                break
            await clock.sleep(0.02)
        assert await count() == 1
    again = await asyncpg.connect(proxy.url)
    assert await again.fetchval("SELECT 77") == 77, "the trap was for once"
    await again.close()


async def test_a_trap_on_a_simple_query_meets_a_commit(
    through: Connection, proxy: Proxy, table: str, superuser: Connection
) -> None:
    proxy.trap(b"COMMIT", When.AFTER, reset=True)
    with pytest.raises(LOST):
        async with through.transaction():
            await through.execute(f"INSERT INTO {table} VALUES (1)")
    assert await superuser.fetchval(f"SELECT count(*) FROM {table}") == 1


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_cut_ends_every_connection_at_once(through: Connection, proxy: Proxy, reset: bool) -> None:
    waiting = asyncio.create_task(through.execute("SELECT pg_sleep(30)"))
    await clock.sleep(0.1)
    assert proxy.cut(reset=reset) == 1
    with pytest.raises(LOST):
        await waiting


async def test_a_connection_is_cut_at_the_nth_byte(proxy: Proxy) -> None:
    proxy.cut_at(2_000)
    connection = await asyncpg.connect(proxy.url)
    with pytest.raises(LOST):
        await connection.fetchval("SELECT repeat('x', 100000)")
    connection.terminate()


async def test_a_black_hole_neither_answers_nor_closes_and_gives_everything_back(
    through: Connection, proxy: Proxy
) -> None:
    proxy.hold()
    asked = asyncio.create_task(through.fetchval("SELECT 7"))
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done
    proxy.release()
    assert await asked == 7


async def test_refused_means_that_nobody_listens(proxy: Proxy) -> None:
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(proxy.url)
    await proxy.accept()
    await (await asyncpg.connect(proxy.url)).close()


async def test_delay_makes_each_piece_wait(through: Connection, proxy: Proxy) -> None:
    proxy.delay_s = 0.1
    began = clock.monotonic()
    await through.fetchval("SELECT 1")
    assert clock.monotonic() - began >= 0.2, "there and back"


# -- Valkey ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server of the module's own."""
    with EmbeddedRedis(Path(tmp_path_factory.mktemp("valkey"))) as server:
        yield server


async def test_the_queue_s_connections_fail_in_the_same_ways(valkey: EmbeddedRedis) -> None:
    async with Proxy(valkey.url) as proxy:
        client = redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0))
        straight = redis.from_url(valkey.url)
        await client.set("a", 1)
        proxy.trap(b"INCR", When.AFTER)
        with pytest.raises(RedisAway):
            await client.incr("a")
        assert await straight.get("a") == b"2"
        proxy.trap(b"INCR", When.BEFORE)
        with pytest.raises(RedisAway):
            await client.incr("a")
        assert await straight.get("a") == b"2"
        assert await client.incr("a") == 3
        proxy.hold()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get("a"), 0.2)
        proxy.release()
        await proxy.refuse()
        proxy.cut(reset=True)
        with pytest.raises(RedisAway):
            await client.get("a")
        await proxy.accept()
        assert await client.get("a") == b"3"
        await client.aclose()
        await straight.aclose()


# -- The money path over it -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def far_shop(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, sandboxes: None, proxy: Proxy
) -> AsyncIterator[Shop]:
    """A merchant behind a gateway that reaches PostgreSQL through the proxy; its leases are short."""
    own = with_payments(settings, lease_s=2, psp_timeout_s=1)
    async with gateway(proxy.of(urls.app), own, master) as client:
        shop = await Shop.open(client(merchant.key), settings.plugin["psp-sandbox"]["url"])
        await shop.card()
        yield shop


@pytest.mark.parametrize("function", ["payment_open", "operation_settle"])
@pytest.mark.parametrize("when", list(When), ids=lambda when: when.value)
async def test_a_connection_lost_in_a_commit_charges_once_and_the_key_is_answered_the_same(
    far_shop: Shop, proxy: Proxy, function: str, when: When
) -> None:
    """D1: whether it was committed is not known to the gateway. Settling is repeated, and the client notices nothing."""
    body = {"amount_minor": 4321, "currency": "EUR", "payment_method": await far_shop.card(), "confirm": True}
    trap = proxy.trap(f"{function}_".encode(), when, reset=when is When.SENT)
    key = new_key()
    if function == "operation_settle":
        answer = await far_shop.post("/v1/payments", body, key)
    else:
        answer = await insist([far_shop], "/v1/payments", body, key)
    assert trap.sprung.is_set()
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    again = await far_shop.post("/v1/payments", body, key)
    assert (again.status_code, again.content) == (answer.status_code, answer.content)
    assert [one["amount"] for one in succeeded(await far_shop.book())] == [4321]
    listed = (await far_shop.http.get("/v1/payments")).json()["data"]
    assert [one["id"] for one in listed] == [answer.json()["id"]]


@pytest.mark.parametrize("function", ["operation_open", "operation_settle"])
@pytest.mark.parametrize("what", ["capture", "refunds"])
async def test_so_does_one_lost_in_a_capture_or_refund(far_shop: Shop, proxy: Proxy, function: str, what: str) -> None:
    payment = await far_shop.paid(5000, capture_method="manual" if what == "capture" else "automatic")
    path, body, key = f"/v1/payments/{payment['id']}/{what}", {"amount_minor": 1000}, new_key()
    trap = proxy.trap(f"{function}_".encode(), When.AFTER)
    answer = await insist([far_shop], path, body, key)
    assert trap.sprung.is_set()
    again = await far_shop.post(path, body, key)
    assert (again.status_code, again.content) == (answer.status_code, answer.content)
    kind = "capture" if what == "capture" else "refund"
    assert [one["amount"] for one in succeeded(await far_shop.book(), kind)] == [1000]


async def test_a_database_that_is_gone_before_the_reservation_means_that_nothing_was_sent(
    far_shop: Shop, proxy: Proxy
) -> None:
    method = await far_shop.card()
    await proxy.refuse()
    proxy.cut(reset=True)
    refused: httpx.Response = await far_shop.create(payment_method=method, confirm=True)
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert await far_shop.book() == []
    await proxy.accept()
    assert (await far_shop.create(payment_method=method, confirm=True)).status_code == 201
