"""A merchant's server that takes webhooks, well or badly: ``python -m tests.consumer`` prints its port and serves until killed.

``POST /hook/<name>`` is the webhook; what it does comes from the plan of that name, one behaviour per request, the last one for
ever: a status, a status with a ``Retry-After``, or ``held`` (200 after ``PUT /release/all``), ``hang``, ``garbage``, ``lies`` (a
length it does not keep), ``endless`` (an answer that never ends), ``silent`` (closes without an answer), ``card`` (500 with a
card number). ``PUT /plan/<name>`` sets it, ``GET /received/<name>`` tells what came.

``books`` is a merchant who keeps a copy of our objects and has a bad day: every second request fails, at random, half of those
after the event was taken in. Events it has seen it drops, and those older than its copy. ``GET /books/<name>`` is the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from typing import Any

released = asyncio.Event()
plans: dict[str, list[Any]] = {}
received: dict[str, list[dict[str, Any]]] = {}
books: dict[str, Books] = {}
chance = random.Random(20261122)  # noqa: S311


class Books:
    """A copy of what events told, and how it came about."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.objects: dict[str, dict[str, Any]] = {}
        self.sequences: dict[str, int] = {}
        self.told = {"requests": 0, "failed": 0, "seen": 0, "older": 0}

    def take(self, event: dict[str, Any]) -> int:
        """The status to answer."""
        self.told["requests"] += 1
        fails = chance.random() < 0.5
        self.told["failed"] += fails
        if fails and chance.random() < 0.5:
            return 500
        subject = event["subject"]["id"]
        if event["id"] in self.seen:
            self.told["seen"] += 1
        elif event["sequence"] < self.sequences.get(subject, 0):
            self.told["older"] += 1
        else:
            self.sequences[subject] = event["sequence"]
            self.objects[subject] = event["data"]["object"]
        self.seen.add(event["id"])
        return 500 if fails else 200


def answer(status: int, body: bytes = b"{}", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


async def behave(how: Any, writer: asyncio.StreamWriter) -> None:
    match how:
        case int():
            more = ""
            if how == 301:
                more = "Location: http://169.254.169.254/latest/meta-data/\r\n"
            writer.write(answer(how, f'{{"you said": {how}}}'.encode(), more))
        case [int(), int() | str() as after]:
            writer.write(answer(how[0], b"later", f"Retry-After: {after}\r\n"))
        case "held":
            await released.wait()
            writer.write(answer(200))
        case "hang":
            await asyncio.sleep(3600)
        case "garbage":
            writer.write(b"\x00\xff\xfe not HTTP at all\r\n\r\n" * 10)
        case "lies":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        case "endless":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        case "silent":
            pass
        case "card":
            writer.write(answer(500, b"x" * 1016 + b" 4242424242424242 and NUL \x00"))
        case _:
            raise AssertionError(how)
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while await one(reader, writer):
            pass
    writer.close()


async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Serve a request; whether another may follow on the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    _, kind, name = path.split("/")
    if kind == "release":
        released.set()
        writer.write(answer(200))
    elif method == "PUT":
        plans[name] = json.loads(body)
        writer.write(answer(200))
    elif kind == "received":
        writer.write(answer(200, json.dumps(received.get(name, [])).encode()))
    elif kind == "books":
        kept = books.get(name, Books())
        shown = {"seen": sorted(kept.seen), "objects": kept.objects, "told": kept.told}
        writer.write(answer(200, json.dumps(shown).encode()))
    else:
        plan = plans.get(name, [200])
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        if how == "books":
            writer.write(answer(books.setdefault(name, Books()).take(json.loads(body))))
            await writer.drain()
            return True
        heard = {"headers": headers, "body": body.decode(), "how": how, "open": True}
        received.setdefault(name, []).append(heard)
        try:
            await behave(how, writer)
        finally:
            heard["open"] = False
        return how in (200, 500)
    await writer.drain()
    return True


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    # Until whoever started it is gone.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
