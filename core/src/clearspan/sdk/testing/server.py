"""A server on this machine that answers from a script, and badly when it is told to. It keeps every request as it came.

```python
with ScriptedServer(Exchange(200, {"id": "ch_1"}), Exchange(402, {"error": "no"}), fault="half_answer", at=1) as server:
    ...  # call server.url
assert server.requests[0].json() == {...}
```
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from clearspan.sdk.testing.openapi import nested

VAULT_MARK = "x-clearspan-testing-vault"
"""How the kit's transport says that a request went the vault's way; the server takes it away."""
RETRY_AFTER_S = 7


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came.

    Attributes:
        target: path and query.
        headers: by name in lower case.
        vault_token: of a request that went the vault's way.
        answered: what the script answered, as far as it got.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    vault_token: str | None = None
    answered: Exchange | None = None

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The last value of each name."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    def form(self) -> dict[str, Any]:
        """The body, ``a[b][0]=c`` unfolded."""
        return nested(self.body.decode())

    def values(self) -> list[Any]:
        """Every value of the body and the query, and the path's pieces, without their names."""
        kind = self.headers.get("content-type", "")
        body = {} if not self.body else self.form() if "form-urlencoded" in kind else self.json()
        return [*leaves(body), *leaves(nested(urlsplit(self.target).query)), *self.path.split("/")]


@dataclasses.dataclass(slots=True)
class Exchange:
    """One answer of a script, as plain data.

    Attributes:
        status: of HTTP.
        body: JSON; or text or bytes as they are; or, in a conformance class, a function of ``Said`` that gives one of them.
            ``None`` for nothing.
        headers: besides length and type.
        path: ``"POST /v1/charges"``, when only such a request may get it (``*`` stands for one piece of a path). Without it the
            answers go out in their order.
        prepares: the request it answers cannot move money (a PSP-side customer, an access token).
        described: the description has this operation and this answer.
        repeats: it may be given any number of times, also never.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)
    path: str = dataclasses.field(default="", kw_only=True)
    prepares: bool = dataclasses.field(default=False, kw_only=True)
    described: bool = dataclasses.field(default=True, kw_only=True)
    repeats: bool = dataclasses.field(default=False, kw_only=True)

    def content(self) -> bytes:
        """The body's bytes."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)

    def fits(self, method: str, path: str) -> bool:
        """Whether it answers such a request."""
        if not self.path:
            return True
        wanted, _, place = self.path.partition(" ")
        here, there = place.split("/"), path.split("/")
        return (
            wanted == method
            and len(here) == len(there)
            and all(a in ("*", b) for a, b in zip(here, there, strict=True))
        )


FAULTS: dict[str, str] = {
    "hang": "F1 F2 F11: the request was read, and no answer ever comes",
    "error_500": "F4: 500 with an error in JSON",
    "error_502": "F4: 502 with HTML",
    "error_503": "F4: 503",
    "error_503_retry_after": "F4: 503 with Retry-After",
    "error_504": "F4: 504",
    "reset_before": "F5: the connection is reset before the request was read",
    "reset_during": "F5: reset after the request's head",
    "reset_after": "F5: reset after the whole request",
    "closed_after": "F5: closed after the whole request, without a word",
    "half_head": "F5: the answer ends in its head",
    "half_answer": "F5: the answer ends in its body",
    "slow_drip": "F6: a byte now and then, without end",
    "huge_body": "F6: more than a megabyte",
    "endless_chunks": "F6: chunks without end",
    "gzip_bomb": "F6: little that unpacks into much",
    "html_200": "F7: a page with status 200",
    "empty_200": "F7: nothing with status 200",
    "truncated_json": "F7: JSON that breaks off",
    "duplicate_keys": "F7: a key stands twice",
    "not_a_number": "F7: NaN",
    "json_list": "F7: a list instead of an object",
    "json_null": "F7: null",
    "not_utf8": "F7: bytes that are no text",
    "empty_object": "F7: an object with nothing in it",
    "error_429": "F10: too many requests",
    "error_429_retry_after": "F10: too many requests, with Retry-After",
    "error_409": "F13: 409 for ever",
    "error_408": "F2: 408",
    "wrong_credentials": "401",
    "forbidden": "403",
}
"""Fault -> what it is, with the class it belongs to."""


class ScriptedServer:
    """See the module.

    Args:
        script: the answers, in order.
        fault: one of ``FAULTS``, met by one request.
        at: which one: the position of its answer in the script; for ``reset_before`` the number of requests before it.
    """

    def __init__(self, *script: Exchange, fault: str = "", at: int = 0) -> None:
        if fault and fault not in FAULTS:
            raise ValueError(f"no fault {fault}; there are {', '.join(FAULTS)}")
        self.script = list(script)
        self.requests: list[Request] = []
        self.unexpected: list[str] = []
        self.url = ""
        self.fault, self._at = fault, at
        self.stuck = threading.Event()
        """Set once an endless fault has been met."""
        self.on_stuck: Callable[[], object] | None = None
        self._left: list[int] = []
        self.load(self.script)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> ScriptedServer:
        self._server = _loop().do(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=64))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        _loop().do(self._close())

    def load(self, script: Sequence[Exchange]) -> None:
        """Another script, from its beginning."""
        self.script = list(script)
        self._left = list(range(len(self.script)))

    @property
    def unused(self) -> list[Exchange]:
        """Answers that nobody asked for."""
        return [self.script[index] for index in self._left if not self.script[index].repeats]

    def choose(self, method: str, path: str) -> tuple[int, Exchange] | None:
        """The answer to a request, taken from the script."""
        for index in self._left:
            one = self.script[index]
            if one.fits(method, path):
                if not one.repeats:
                    self._left.remove(index)
                return index, one
        self.unexpected.append(f"{method} {path}")
        return None

    def _next(self, method: str, path: str) -> int | None:
        return next((index for index in self._left if self.script[index].fits(method, path)), None)

    def received(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Exchange] | None:
        """Keep a request and choose its answer."""
        chosen = self.choose(method, urlsplit(target).path)
        kept = {name: value for name, value in headers.items() if name != VAULT_MARK}
        self.requests.append(
            Request(
                method=method,
                target=target,
                headers=kept,
                body=body,
                vault_token=headers.get(VAULT_MARK),
                answered=chosen[1] if chosen else None,
            )
        )
        return chosen

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # Not raised again: nobody awaits this task, and streams of Python 3.11 complain of a cancelled one.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read a request and answer; whether another one may follow."""
        position = len(self.requests)
        if self.fault == "reset_before" and position == self._at:
            _reset(writer)
            return False
        try:
            first_byte = await reader.readexactly(1)
            if first_byte == b"\x16":  # a TLS handshake, which nobody here speaks
                return False
            head = first_byte + await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [line.split(":", 1) for line in lines if line]
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        if self.fault == "reset_during" and self._next(method, urlsplit(target).path) == self._at:
            _reset(writer)
            return False
        body = await _body(reader, headers)
        chosen = self.received(method, target, headers, body)
        if chosen is None:
            text = b'{"error": "the script has no answer to this request"}'
            writer.write(b"HTTP/1.1 500 Unscripted\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            await writer.drain()
            return True
        index, said = chosen
        if self.fault and index == self._at:
            await self._fail(writer, said)
            return False
        writer.write(_answer(said.status, said.content(), {"content-type": "application/json"} | dict(said.headers)))
        await writer.drain()
        return True

    async def _fail(self, writer: asyncio.StreamWriter, said: Exchange) -> None:
        match self.fault:
            case "hang":
                await self._stay()
            case "reset_after":
                _reset(writer)
            case "closed_after":
                return
            case "half_head":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
            case "half_answer":
                whole = said.content() or b'{"id": "x"}'
                writer.write(
                    _answer(said.status, whole, {"content-type": "application/json"})[: -(len(whole) // 2 + 1)]
                )
            case "slow_drip":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
                writer.write(b'{"')
                await writer.drain()
                await self._stay()
            case "endless_chunks":
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                    await writer.drain()
            case _:
                status, body, headers = _strange(self.fault, said)
                writer.write(_answer(status, body, headers))
        await writer.drain()

    async def _stay(self) -> None:
        self.stuck.set()
        if self.on_stuck is not None:
            self.on_stuck()
        await asyncio.Event().wait()


def strange_answer(fault: str, said: Exchange) -> Exchange | None:
    """A fault that is an answer, as one; ``None`` for one that is a broken connection."""
    try:
        status, body, headers = _strange(fault, said)
    except KeyError:
        return None
    return Exchange(status, body, headers=headers)


def _strange(fault: str, said: Exchange) -> tuple[int, bytes, dict[str, str]]:
    json_type = {"content-type": "application/json"}
    whole = said.content() or b'{"id": "x"}'
    retry = {"retry-after": str(RETRY_AFTER_S)}
    error = b'{"error": {"code": "internal", "type": "api_error", "message": "try again"}}'
    page = b"<!doctype html><title>Welcome</title><p>maintenance"
    strange: dict[str, tuple[int, bytes, dict[str, str]]] = {
        "error_500": (500, error, json_type),
        "error_502": (502, page, {"content-type": "text/html"}),
        "error_503": (503, b"", {}),
        "error_503_retry_after": (503, b"", retry),
        "error_504": (504, page, {"content-type": "text/html"}),
        "error_429": (429, error, json_type),
        "error_429_retry_after": (429, error, json_type | retry),
        "error_409": (409, error, json_type),
        "error_408": (408, b"", {}),
        "wrong_credentials": (401, error, json_type),
        "forbidden": (403, error, json_type),
        "huge_body": (
            said.status if said.status != 204 else 200,
            b'{"padding": "' + b"x" * 1_100_000 + b'"}',
            json_type,
        ),
        "html_200": (200, page, {"content-type": "text/html"}),
        "empty_200": (200, b"", json_type),
        "truncated_json": (200, whole[: max(1, len(whole) - 2)], json_type),
        "duplicate_keys": (200, _twice(whole), json_type),
        "not_a_number": (200, b'{"amount": NaN, ' + whole[1:] if len(whole) > 2 else b'{"amount": NaN}', json_type),
        "json_list": (200, b"[" + whole + b"]", json_type),
        "json_null": (200, b"null", json_type),
        "not_utf8": (200, b'{"id": "\xff\xfe"}', json_type),
        "empty_object": (200, b"{}", json_type),
    }
    if fault == "gzip_bomb":
        return 200, _bomb(), json_type | {"content-encoding": "gzip"}
    return strange[fault]


_BOMB: list[bytes] = []


def _bomb() -> bytes:
    if not _BOMB:
        _BOMB.append(gzip.compress(b'{"padding": "' + b" " * 8_000_000 + b'"}'))
    return _BOMB[0]


def _twice(whole: bytes) -> bytes:
    """The object with its first name twice, and another value for it."""
    try:
        decoded = json.loads(whole)
        name = next(iter(decoded))
    except (ValueError, StopIteration, TypeError):
        return b'{"id": "x", "id": "y"}'
    return b"{" + json.dumps(name).encode() + b': "another", ' + whole.lstrip()[1:]


def _answer(status: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    if status != 204:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if status != 204 else b"")


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a TCP reset."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def leaves(value: Any) -> Iterator[Any]:
    """The values of a structure, objects themselves included."""
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for one in value:
            yield from leaves(one)
    else:
        yield value


class _Loop:
    """An event loop in a thread of its own, for all servers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="scripted-servers", daemon=True).start()

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)


_LOOPS: list[_Loop] = []


def _loop() -> _Loop:
    if not _LOOPS:
        _LOOPS.append(_Loop())
    return _LOOPS[0]
