"""``clearspan worker`` sends webhooks by itself, with or without a queue, and tells how it goes."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import httpx
from standardwebhooks.webhooks import Webhook
from tests.conftest import free_ports
from tests.core.webhooks.conftest import Consumer, consumer, new_hook
from tests.shop import until
from tests.system.test_worker import Worker, dead_redis, worker

if TYPE_CHECKING:
    from tests.core.webhooks.conftest import NewHook
else:
    NewHook = Any

__all__ = ["consumer", "dead_redis", "new_hook", "worker"]  # fixtures


async def test_a_worker_without_a_queue_sends_webhooks_and_serves_its_metrics(
    worker: Worker, dead_redis: str, client: httpx.AsyncClient, new_hook: NewHook, consumer: Consumer
) -> None:
    port = free_ports(1)[0]
    worker.environ |= {
        "CLEARSPAN_OUTBOUND_ALLOW_INTERNAL": "127.0.0.1:*",
        "CLEARSPAN_TELEMETRY_WORKER_PORT": str(port),
        "CLEARSPAN_WEBHOOKS_TIMEOUT_S": "2",
    }
    hook = await new_hook(events=["customer.*"])
    before = (await client.post("/v1/customers", json={"reference": "before"})).json()["id"]
    worker.start(dead_redis)

    async def came(count: int) -> list[Any] | None:
        received = await hook.received()
        return received if len(received) == count else None

    first = await until(lambda: came(1))
    assert Webhook(hook.secret).verify(first[0]["body"], first[0]["headers"])["data"]["object"]["id"] == before
    after = (await client.post("/v1/customers", json={"reference": "after"})).json()["id"]
    second = (await until(lambda: came(2)))[1]
    assert Webhook(hook.secret).verify(second["body"], second["headers"])["data"]["object"]["id"] == after

    async def metrics() -> str | None:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        return text if 'webhook_attempts_total{result="delivered"}' in text else None

    assert "webhook_lag_seconds" in await until(metrics)
    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 0
    # Nobody sends now: what waits is seen by whoever asks the web process.
    await client.post("/v1/customers", json={"reference": "waits"})

    async def waits() -> bool | None:
        text = (await client.get("/metrics")).text
        lag = next(line for line in text.splitlines() if line.startswith("webhook_lag_seconds "))
        return True if float(lag.split()[1]) > 0 else None

    await until(waits)
