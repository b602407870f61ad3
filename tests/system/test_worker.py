"""The worker in a process of its own: what is due is done with the queue, without it, and after it lost everything."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from redis import asyncio as redis
from tests.conftest import free_ports

from clearspan.platform.crypto import MasterKey
from clearspan.platform.embedded_redis import EmbeddedRedis
from clearspan.settings import Settings

if TYPE_CHECKING:
    Merchant = Any
    NewClient = Any
    Urls = Any

PATIENCE_S = 30


class Worker:
    """``clearspan worker`` on the session's database, sweeping every second."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        self.environ = environ
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, redis_url: str) -> None:
        environ = self.environ | {"CLEARSPAN_REDIS_URL": redis_url}
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clearspan.cli", "worker"], cwd=self._folder, env=environ, stderr=log
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def healthy(self) -> bool:
        command = [sys.executable, "-m", "clearspan.cli", "worker", "--check"]
        return (
            subprocess.run(command, env=self.environ, cwd=self._folder, capture_output=True, check=False).returncode
            == 0
        )

    def cpu_ticks(self) -> int:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


@pytest.fixture
def worker(tmp_path: Path, urls: Urls, master: MasterKey, settings: Settings) -> Iterator[Worker]:
    key = tmp_path / "master.key"
    key.write_text(master._secret.hex())
    key.chmod(0o600)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    made = Worker(
        tmp_path,
        environ
        | {
            "CLEARSPAN_DATA_DIR": str(tmp_path / "data"),
            "CLEARSPAN_DATABASE_URL": urls.owner,
            "CLEARSPAN_DATABASE_APP_URL": urls.app,
            "CLEARSPAN_SECURITY_MASTER_KEY_FILE": str(key),
            "CLEARSPAN_PLUGIN_PSP_SANDBOX_URL": settings.plugin["psp-sandbox"]["url"],
            "CLEARSPAN_PLUGIN_VAULT_SANDBOX_URL": settings.plugin["vault-sandbox"]["url"],
            "CLEARSPAN_PLUGINS_ENABLED": '{"psp-sandbox": "", "vault-sandbox": ""}',
            "CLEARSPAN_WORKER_SWEEP_INTERVAL_S": "1",
        },
    )
    yield made
    if made.process is not None:
        made.end(signal.SIGKILL)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    port = free_ports(1)[0]
    server = EmbeddedRedis(tmp_path / "redis", port=port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def dead_redis() -> str:
    return f"redis://127.0.0.1:{free_ports(1)[0]}/0"


@pytest.fixture
async def database(urls: Urls) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that may turn times back."""
    connection = await asyncpg.connect(urls.superuser)
    yield connection
    await connection.close()


async def _stale_payment(client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record]) -> str:
    """An intent that nobody paid in time."""
    answer = await client.post(
        "/v1/payments", json={"amount_minor": 1000, "currency": "EUR"}, headers={"Idempotency-Key": os.urandom(8).hex()}
    )
    assert answer.status_code == 201, answer.text
    payment_id: str = answer.json()["id"]
    await _turn_back(client, database, "payment_intents", "expires_at", "status = 'requires_payment_method'")
    return payment_id


async def _turn_back(
    client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record], table: str, column: str, condition: str
) -> None:
    slug = (await client.get("/v1/tenant")).json()["slug"]
    await database.execute(
        f"UPDATE {table} SET {column} = now() - interval '100 days'"
        f" WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE slug = $1) AND {condition}",
        slug,
    )


async def _status(client: httpx.AsyncClient, payment_id: str) -> str:
    answer = await client.get(f"/v1/payments/{payment_id}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


async def _wait_until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(PATIENCE_S * 20):
        if await holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"it did not happen in {PATIENCE_S} s")


async def _wait_until_expired(client: httpx.AsyncClient, payment_id: str) -> None:
    async def expired() -> bool:
        return await _status(client, payment_id) == "expired"

    await _wait_until(expired)


async def test_the_queue_carries_the_work_also_after_it_lost_everything(
    worker: Worker, valkey: EmbeddedRedis, client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    payment_id = await _stale_payment(client, database)
    worker.start(valkey.url)
    await _wait_until_expired(client, payment_id)
    audit = (await client.get(f"/v1/payments/{payment_id}")).json()["audit"]
    last = [entry for entry in audit if entry["type"] == "payment.expired"]
    assert [(entry["actor_type"], entry["actor_id"]) for entry in last] == [("system", "expiry")]
    async with redis.from_url(valkey.url) as queue:
        assert [key async for key in queue.scan_iter("saq:job:clearspan:clearspan:expire_payments:*")]
        await queue.flushall()
        payment_id = await _stale_payment(client, database)
        await _wait_until_expired(client, payment_id)
        assert [key async for key in queue.scan_iter("saq:job:clearspan:clearspan:expire_payments:*")]
    assert await asyncio.to_thread(worker.healthy)
    assert await asyncio.to_thread(worker.end) == 0
    assert not await asyncio.to_thread(worker.healthy)


async def test_sweeps_do_the_work_while_the_queue_is_away_and_the_queue_does_when_it_is_back(
    worker: Worker, valkey: EmbeddedRedis, client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    worker.start(valkey.url)
    await _wait_until_expired(client, await _stale_payment(client, database))
    assert valkey._server is not None
    os.kill(valkey._server.pid, signal.SIGKILL)
    await _wait_until_expired(client, await _stale_payment(client, database))
    assert "the queue is away; sweeps go on without it" in worker.log()

    await asyncio.to_thread(valkey.start)
    async with redis.from_url(valkey.url) as queue:
        await queue.flushall()

        async def rung() -> bool:
            payment_id = await _stale_payment(client, database)
            await _wait_until_expired(client, payment_id)
            return bool([key async for key in queue.scan_iter("saq:job:clearspan:clearspan:expire_payments:*")])

        await _wait_until(rung)


async def test_a_worker_that_never_met_a_queue_works_without_turning_at_full_speed(
    worker: Worker, dead_redis: str, client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    worker.start(dead_redis)
    await _wait_until_expired(client, await _stale_payment(client, database))
    # CPU time, which other programs on the machine do not add to: two seconds of waiting are not one of work. Other tests may
    # have left it something to do first.
    spent = []
    while not spent or (spent[-1] >= os.sysconf("SC_CLK_TCK") and len(spent) < 15):
        before = worker.cpu_ticks()
        await asyncio.sleep(2)
        spent.append(worker.cpu_ticks() - before)
    assert spent[-1] < os.sysconf("SC_CLK_TCK"), spent
    assert await asyncio.to_thread(worker.end) == 0


async def test_old_answers_are_forgotten_and_their_keys_stay_spent(
    worker: Worker, valkey: EmbeddedRedis, client: httpx.AsyncClient, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    async def create(key: str) -> httpx.Response:
        body = {"amount_minor": 1000, "currency": "EUR"}
        return await client.post("/v1/payments", json=body, headers={"Idempotency-Key": key})

    first = await create("old")
    assert (await create("old")).content == first.content
    await _turn_back(client, database, "idempotency_keys", "created_at", "state = 'done'")
    young = await create("young")
    worker.start(valkey.url)

    async def spent() -> bool:
        answer = await create("old")
        return bool(answer.status_code == 422 and answer.json()["code"] == "idempotency_key_expired")

    await _wait_until(spent)
    assert (await create("young")).content == young.content
    kept = await database.fetch("SELECT body IS NULL AS gone FROM idempotency_keys WHERE state = 'expired'")
    assert kept
    assert all(row["gone"] for row in kept)


@pytest.mark.usefixtures("sandboxes")
async def test_a_challenge_that_nobody_finished_is_given_up_at_the_provider(
    worker: Worker,
    valkey: EmbeddedRedis,
    client: httpx.AsyncClient,
    database: asyncpg.Connection[asyncpg.Record],
    settings: Settings,
) -> None:
    name = f"w{os.urandom(4).hex()}"
    config = {"url": settings.plugin["psp-sandbox"]["url"], "api_key": f"sk_sandbox_{name}"}
    made = await client.post("/v1/psp-accounts", json={"psp": "sandbox", "name": name, "config": config})
    assert made.status_code == 201, made.text
    method = await client.post("/v1/payment-methods", json={"token": "tok_3ds_challenge"})
    body = {"amount_minor": 1000, "currency": "EUR", "payment_method": method.json()["id"], "confirm": True}
    payment = (await client.post("/v1/payments", json=body, headers={"Idempotency-Key": "challenge"})).json()
    assert payment["status"] == "requires_action"
    await _turn_back(client, database, "payment_intents", "expires_at", "status = 'requires_action'")
    worker.start(valkey.url)
    await _wait_until_expired(client, payment["id"])
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer sk_sandbox_{name}"}, trust_env=False) as simulator:
        book = (await simulator.get(f"{config['url']}/v1/book")).json()["operations"]
    assert [row["status"] for row in book if row["kind"] == "charge"] == ["canceled"]


async def test_two_workers_and_a_killed_one_close_each_payment_once(
    worker: Worker,
    valkey: EmbeddedRedis,
    client: httpx.AsyncClient,
    database: asyncpg.Connection[asyncpg.Record],
    tmp_path: Path,
) -> None:
    (tmp_path / "second").mkdir()
    second = Worker(tmp_path / "second", worker.environ)
    payments = [await _stale_payment(client, database) for _ in range(20)]
    worker.start(valkey.url)
    second.start(valkey.url)
    try:
        await _wait_until_expired(client, payments[0])
        assert await asyncio.to_thread(worker.end, signal.SIGKILL) == -signal.SIGKILL
        for payment_id in payments:
            await _wait_until_expired(client, payment_id)
            audit = (await client.get(f"/v1/payments/{payment_id}")).json()["audit"]
            assert [entry["type"] for entry in audit].count("payment.expired") == 1
    finally:
        await asyncio.to_thread(second.end, signal.SIGKILL)


async def test_what_happened_is_sealed_signed_and_taken_off_the_host(
    worker: Worker,
    dead_redis: str,
    client: httpx.AsyncClient,
    database: asyncpg.Connection[asyncpg.Record],
    tmp_path: Path,
) -> None:
    """The proof needs the database alone."""
    held = tmp_path / "checkpoints.txt"
    worker.environ |= {
        "CLEARSPAN_AUDIT_SEAL_INTERVAL_S": "0.1",
        "CLEARSPAN_AUDIT_CHECKPOINT_INTERVAL_S": "1",
        "CLEARSPAN_AUDIT_PUSH_TO": str(held),
    }
    payment_id = await _stale_payment(client, database)
    event = (await client.get("/v1/audit", params={"subject": payment_id})).json()["data"][0]["id"]
    worker.start(dead_redis)

    async def proven() -> bool:
        answer = await client.get(f"/v1/audit/{event}/proof")
        assert answer.status_code in (200, 409), answer.text
        return answer.status_code == 200

    async def pushed() -> bool:
        return held.exists() and held.read_text().endswith((await client.get("/v1/audit/checkpoint")).json()["note"])

    await _wait_until(proven)
    await _wait_until(pushed)
    assert worker.end() == 0
