"""The sandbox PSP with the control interface of the shared scenario (docs/conformance.md): ``simulator.py --port N``."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from clearspan_psp_sandbox.simulator import build

ACCOUNT = "stage"
KEY = {"Authorization": f"Bearer sk_sandbox_{ACCOUNT}"}
FAULTS = {
    "hang_after": ("F1", {}),
    "hang_before": ("F2", {}),
    "error_after": ("F4", {"status": 500, "booked": True}),
    "error_before": ("F4", {"status": 500, "booked": False}),
    "garbage_after": ("F7", {"kind": "html"}),
}
STATES = {"succeeded": "captured", "requires_action": "pending"}


class Staged:
    """The simulator's application, and what the scenario asks besides."""

    def __init__(self, data_dir: Path) -> None:
        self._told: list[dict[str, Any]] = []
        self._inner = build(data_dir, "stage", deliver=self._keep)

    async def _keep(self, _: str, headers: dict[str, str], body: bytes) -> int:
        if body not in [one["body"].encode() for one in self._told]:
            self._told.append({"headers": headers, "body": body.decode()})
        return 200

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """ASGI."""
        path = scope.get("path", "")
        if scope["type"] == "http" and scope["method"] == "GET" and b"outcome=" in scope["query_string"]:
            await self._pay(path, scope["query_string"].decode().rpartition("outcome=")[2], send)
        elif path.startswith("/_control/"):
            body = b""
            while True:
                part = await receive()
                body += part.get("body", b"")
                if not part.get("more_body"):
                    break
            answer = await self._control(path.removeprefix("/_control/"), json.loads(body or b"null"))
            await _answer(send, 200, json.dumps(answer).encode())
        else:
            await self._inner(scope, receive, send)

    async def _ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._inner)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://simulator.test", headers=KEY) as http:
            return await http.request(method, path, json=body, **more)

    async def _control(self, what: str, body: Any) -> Any:
        if what == "next":
            fault, options = FAULTS[body["fault"]]
            script = {"fault": fault, "verb": "charge", "options": options}
            return (await self._ask("POST", "/v1/faults/scripts", script)).raise_for_status().json()
        if what == "webhook":
            return None
        if what == "webhooks":
            await self._ask("PUT", "/v1/webhooks", {"url": "http://gateway.test/hook"})
            await self._ask("POST", "/v1/webhooks/send", {})
            return self._told
        if what == "problems":
            return []
        book = (await self._ask("GET", "/v1/book")).raise_for_status().json()["operations"]
        charges = []
        for one in book:
            if one["kind"] == "charge":
                done = [other for other in book if other.get("charge") == one["id"] and other["status"] == "succeeded"]
                charges.append(_booked(one, done))
        return charges

    async def _pay(self, path: str, outcome: str, send: Callable[[Any], Awaitable[None]]) -> None:
        transport = httpx.ASGITransport(app=self._inner)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://simulator.test") as http:
            result = "approve" if outcome == "approve" else "fail"
            answer = await http.post(path, data={"result": result})
        await _answer(send, answer.status_code, answer.content, answer.headers.get("location", ""))


def _booked(one: dict[str, Any], done: list[dict[str, Any]]) -> dict[str, Any]:
    captured = one["amount"] if one.get("capture") is not False else 0
    captured += sum(other["amount"] for other in done if other["kind"] == "capture")
    status = STATES.get(one["status"], one["status"])
    if status == "captured" and captured == 0:
        status = "canceled" if any(other["kind"] == "void" for other in done) else "authorized"
    return {
        "id": one["id"],
        "reference": one["reference"],
        "amount_minor": one["amount"],
        "currency": one["currency"],
        "status": status,
        "captured_minor": captured if one["status"] == "succeeded" else 0,
        "refunded_minor": sum(other["amount"] for other in done if other["kind"] == "refund"),
    }


async def _answer(send: Callable[[Any], Awaitable[None]], status: int, body: bytes, location: str = "") -> None:
    headers = [(b"content-type", b"application/json")] + ([(b"location", location.encode())] if location else [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    with tempfile.TemporaryDirectory() as home:
        config = uvicorn.Config(Staged(Path(home)), log_level="warning", access_log=False)
        print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)  # noqa: T201
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(parser.parse_args().port))
