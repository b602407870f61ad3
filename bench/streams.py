"""How long a payment takes until it is a row on a thousand screens.

One process of the gateway with the cockpit; so many streams of it (``/admin/live``), eight per person, half of them in German; a
payment is made through the API every now and then, and each client notes when its row is there. Time runs from sending the
request that makes the payment, so its two round trips and its commit are in it. Everything runs over loopback.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import aiohttp
import uvloop

from clearspan.app import Gateway
from clearspan.platform.context import Caller, Scope

if TYPE_CHECKING:
    from bench.__main__ import Bench

BAR_MS = 250
LATE_S = 10.0
_READY_S = 30.0


async def people(bench: Bench, streams: int) -> tuple[str, list[str]]:
    """Enough signed-in people for so many streams.

    Returns:
        the cookie's name, and a value per stream.
    """
    gateway = Gateway(bench.settings, bench.app_url, bench.master, bench.plugins)
    await gateway.db.open()
    try:
        scope = Scope(tenant_id=bench.tenant_id, live=False)
        caller = Caller(scope=scope, actor_type="cli", actor_id="bench", request_id="req_bench", tenant="bench")
        each = bench.settings.server.sse_streams_per_person_max
        tokens: list[str] = []
        for number in range(-(-streams // each)):
            person = await gateway.operators.create(
                f"p{number}@example.com", "Bench", locale="de" if number % 2 else "en"
            )
            await gateway.operators.join(caller, person.operator_id, "support")
            person = await gateway.operators.get(person.operator_id)
            session = await gateway.sessions.open(
                person, method="password", strong=False, ip="127.0.0.1", agent="bench", tenant_id=bench.tenant_id
            )
            tokens += [session.token] * each
        return gateway.sessions.cookie, tokens[:streams]
    finally:
        await gateway.psps.close()
        await gateway.vaults.close()
        await gateway.db.close()


class _Screen(asyncio.Protocol):
    """One client: it notes when it is told of the payment that is waited for."""

    def __init__(self, stage: _Stage, host: str, cookie: str) -> None:
        self._stage = stage
        self._head = (
            f"GET /admin/live HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nAccept: text/event-stream\r\n\r\n"
        )
        self._rest = b""
        self._ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._head.encode())

    def data_received(self, data: bytes) -> None:
        text = self._rest + data
        assert self._ready or self._rest or b" 200 " in text[:20], text[:300]
        if not self._ready:
            # The place from which the stream goes on is named once it is open.
            self._ready = b"\nid: evt_" in text
            self._stage.ready += self._ready
        elif self._stage.awaited and self._stage.awaited in text:
            self._stage.seen.append(time.monotonic())
            text = b""
        self._rest = text[-100:]

    def connection_lost(self, _: Exception | None) -> None:
        self._stage.lost += 1


class _Stage:
    """What the clients share."""

    def __init__(self) -> None:
        self.ready = 0
        self.lost = 0
        self.awaited = b""
        self.seen: list[float] = []


async def watch(
    url: str, key: str, cookie: str, tokens: Sequence[str], payments: int, pause_s: float
) -> dict[str, Any]:
    """Open the streams, make payments, and say how long each took to each."""
    stage, place = _Stage(), urlsplit(url)
    loop = asyncio.get_running_loop()
    opened = time.monotonic()
    for begin in range(0, len(tokens), 50):
        await asyncio.gather(
            *(
                loop.create_connection(
                    lambda token=token: _Screen(stage, place.netloc, f"{cookie}={token}"),  # type: ignore[misc]
                    place.hostname, place.port,
                )
                for token in tokens[begin : begin + 50]
            )
        )  # fmt: skip
        async with asyncio.timeout(_READY_S):
            while stage.ready < min(begin + 50, len(tokens)):
                await asyncio.sleep(0.01)
                assert not stage.lost, "the server ended a stream; is the machine busy?"
    open_s = time.monotonic() - opened
    took: list[float] = []
    made: list[float] = []
    whole: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        for number in range(-5, payments):
            # The reference is in the row: it is known before the payment has an id.
            reference = f"bench-{number}-{time.monotonic_ns()}"
            stage.awaited, stage.seen = reference.encode(), []
            began = time.monotonic()
            body = {"amount_minor": 1099, "currency": "EUR", "reference": reference}
            headers = {"Idempotency-Key": reference}
            async with http.post(f"{url}/v1/payments", json=body, headers=headers) as answer:
                assert answer.status == 201, await answer.text()
            answered = time.monotonic()
            end = answered + LATE_S
            while len(stage.seen) < len(tokens) and time.monotonic() < end:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if number >= 0:  # The first few warm up.
                took += [1000 * (moment - began) for moment in stage.seen]
                made.append(1000 * (answered - began))
                whole.append(1000 * (max(stage.seen, default=end) - began))
            await asyncio.sleep(pause_s)
    took.sort()
    made.sort()
    whole.sort()
    return {
        "streams": len(tokens),
        "open_s": open_s,
        "payments": payments,
        "missing": payments * len(tokens) - len(took),
        "lost": stage.lost,
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[int(len(took) * 0.99)],
        "worst_ms": took[-1],
        "all_p50_ms": whole[len(whole) // 2],
        "answer_p50_ms": made[len(made) // 2],
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    told = found["payments"] * found["streams"] - found["missing"]
    head = "| open streams | rows told | missing | p50 ms | p99 ms | bar p99 ms | slowest ms | until the last has it, p50 ms |"
    row = (
        f"| {found['streams']:,} | {told:,} | {found['missing']} | {found['p50_ms']:.0f} | **{found['p99_ms']:.0f}** |"
    )
    row += f" {BAR_MS} | {found['worst_ms']:.0f} | {found['all_p50_ms']:.0f} | {found['answer_p50_ms']:.0f} |"
    return f"{head} of it the API's answer, p50 ms |\n|---|---|---|---|---|---|---|---|---|\n{row}"


def main() -> None:
    """The clients, in a process of their own: ``python -m bench.streams`` with a JSON document on its input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else soft, hard))
    print(json.dumps(uvloop.run(watch(**json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
