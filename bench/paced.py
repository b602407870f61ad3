"""A load that does not wait for answers: ``python -m bench.paced URL KEY METHOD SECONDS ACCOUNT=PER_S ...``; prints JSON.

Payments are begun at fixed times whatever became of those before, as customers do: a PSP that hangs then gets as many
calls as one that answers. Latency counts from the planned moment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import uvloop


async def run(url: str, key: str, method: str, seconds: float, rates: dict[str, float]) -> dict[str, Any]:
    """Per account: payments answered, latencies in milliseconds, and what became of them."""
    took: dict[str, list[float]] = {account: [] for account in rates}
    outcomes: dict[str, Counter[str]] = {account: Counter() for account in rates}

    async def pay(session: aiohttp.ClientSession, account: str, planned: float) -> None:
        body = {
            "amount_minor": 1099,
            "currency": "EUR",
            "payment_method": method,
            "confirm": True,
            "psp_account": account,
        }
        headers = {"Idempotency-Key": f"bench-{account}-{planned}"}
        async with session.post(f"{url}/v1/payments", json=body, headers=headers) as response:
            answer = await response.json()
        took[account].append(1000 * (time.monotonic() - planned))
        outcomes[account][(answer.get("last_error") or {}).get("code") or answer.get("status") or answer["code"]] += 1

    async def pace(session: aiohttp.ClientSession, account: str, per_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * per_s)):
                planned = began + number / per_s
                await asyncio.sleep(planned - time.monotonic())
                group.create_task(pay(session, account, planned))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {key}"}) as session:
        began = time.monotonic()
        await asyncio.gather(*(pace(session, account, per_s) for account, per_s in rates.items()))
    return {
        account: {"ms": [round(one, 3) for one in took[account]], "outcomes": dict(outcomes[account])}
        for account in rates
    }


if __name__ == "__main__":
    address, secret, card, duration, *wanted = sys.argv[1:]
    paces = {name: float(per_s) for name, _, per_s in (one.partition("=") for one in wanted)}
    print(json.dumps(uvloop.run(run(address, secret, card, float(duration), paces))))
