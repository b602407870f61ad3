"""A closed loop of clients in a process of its own: ``python -m bench.load URL KEY METHOD CLIENTS SECONDS``; prints
JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
import uvloop


async def run(url: str, key: str, method: str, clients: int, seconds: float, pause_s: float) -> dict[str, float]:
    """Create and confirm payments, ``clients`` at a time; ``pause_s`` is slept by each client between two of them."""
    latencies: list[float] = []
    failed = 0
    end = time.monotonic() + seconds
    body = {"amount_minor": 1099, "currency": "EUR", "payment_method": method, "confirm": True}

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal failed
        count = 0
        while time.monotonic() < end:
            count += 1
            started = time.monotonic()
            headers = {"Idempotency-Key": f"bench-{started}-{number}-{count}"}
            async with session.post(f"{url}/v1/payments", json=body, headers=headers) as response:
                answer = await response.json()
                if response.status != 201 or answer["status"] != "succeeded":
                    failed += 1
            latencies.append(time.monotonic() - started)
            if pause_s:
                await asyncio.sleep(pause_s)

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {key}"}) as session:
        started = time.monotonic()
        await asyncio.gather(*(client(session, number) for number in range(clients)))
        took = time.monotonic() - started
    latencies.sort()
    return {
        "payments": len(latencies),
        "failed": failed,
        "per_s": len(latencies) / took,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


if __name__ == "__main__":
    address, secret, card, many, duration, pause = sys.argv[1:7]
    print(json.dumps(uvloop.run(run(address, secret, card, int(many), float(duration), float(pause)))))
