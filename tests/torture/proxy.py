"""A TCP proxy on loopback between the gateway and PostgreSQL or Redis, told in process how to fail.

It understands as much of PostgreSQL's protocol as it takes to know which statement a client executes: drivers name a
prepared statement, whose text went over the connection long before. So a trap on ``b"operation_settle"`` springs when that
function is called, not when it is prepared (PostgreSQL 16 documentation, chapters 55.2 "Message Flow", 55.7 "Message Formats").
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum
from typing import Self
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 65_536


class When(Enum):
    """At which point of a request a trap cuts its connection."""

    BEFORE = "before"
    """Nothing of it goes on: it was not executed."""
    SENT = "sent"
    """It has gone on, and the server may still be at it when the client learns of the cut."""
    AFTER = "after"
    """The server has answered, so it was executed, and the answer goes nowhere."""


class Trap:
    """Cuts the connections whose client sends ``match``.

    Attributes:
        left: how often it still springs.
        sprung: set when it did for the last time.
    """

    def __init__(self, match: bytes, when: When, times: int, *, reset: bool) -> None:
        self.match = match
        self.when = when
        self.left = times
        self.reset = reset
        self.sprung = asyncio.Event()

    def takes(self, requests: list[bytes]) -> bool:
        """Whether it springs at one of these."""
        if self.left <= 0 or not any(self.match in request for request in requests):
            return False
        self.left -= 1
        if not self.left:
            self.sprung.set()
        return True


class Requests:
    """What a client asks for, read from its bytes."""

    def read(self, chunk: bytes) -> list[bytes]:
        """Each request that this chunk completes."""
        return [chunk]

    def answered(self, tail: bytes) -> bool:
        """Whether an answer that ends in these bytes is whole."""
        return bool(tail)


class PostgresRequests(Requests):
    """Each simple query, and each binding of a prepared statement with that statement's text in front."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._statements: dict[bytes, bytes] = {}

    def read(self, chunk: bytes) -> list[bytes]:
        """See ``Requests``."""
        self._rest += chunk
        found: list[bytes] = []
        while True:
            head = 1 if self._started else 0
            if len(self._rest) < head + 4:
                return found
            length = head + int(struct.unpack_from(">I", self._rest, head)[0])
            if len(self._rest) < length:
                return found
            kind, body, self._rest = self._rest[:head], self._rest[head + 4 : length], self._rest[length:]
            if not self._started:
                # An SSLRequest is answered with one byte and followed by another start; version 3.0 is the start itself.
                self._started = body[:4] == b"\x00\x03\x00\x00"
            elif kind == b"P":
                name, text, *_ = body.split(b"\0", 2)
                self._statements[name] = text
            elif kind == b"B":
                _, name, rest = body.split(b"\0", 2)
                found.append(self._statements.get(name, b"") + b"\0" + rest)
            elif kind == b"Q":
                found.append(body)

    def answered(self, tail: bytes) -> bool:
        """ReadyForQuery is sent after the commit; rows of a long answer go out before."""
        return tail[:5] == b"Z\x00\x00\x00\x05"


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, requests: Requests) -> None:
        self.client = client
        self.server = server
        self.requests = requests
        self.trapped: Trap | None = None
        self.bytes_left: dict[str, int] = {}

    def cut(self, *, reset: bool) -> None:
        """Close both sides now: orderly (FIN), or at once (RST), as a host does that knows nothing of the connection."""
        for writer in (self.client, self.server):
            if reset:
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Forwards everything until told otherwise. ``async with Proxy(url) as proxy: connect(proxy.url)``.

    Attributes:
        url: the upstream's, with this proxy's port.
        delay_s: how long each piece waits before it goes on, each way.
        connections: how many were made.
        cuts: how many it has cut.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._parts = parts
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._traps: list[Trap] = []
        self._at_byte: tuple[str, int] | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_s = 0.0
        self.connections = 0
        self.cuts = 0

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self._flowing.set()
        self.cut()
        if self._handlers:
            await asyncio.wait(self._handlers)

    @property
    def url(self) -> str:
        """See the class."""
        return self.of(urlunsplit(self._parts))

    def of(self, url: str) -> str:
        """Another URL of the same server (another role, another database), through this proxy."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self._port}"))

    # -- how to fail --------------------------------------------------------------------------------------------------

    async def refuse(self) -> None:
        """New connections are refused; those there are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Take new connections (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port, backlog=256)
            self._port = self._server.sockets[0].getsockname()[1]

    def cut(self, *, reset: bool = False) -> int:
        """Cut every connection now; returns how many."""
        links = list(self._links)
        for link in links:
            self._cut(link, reset=reset)
        return len(links)

    def cut_at(self, nth: int, *, of: str = "server") -> None:
        """Cut each connection made from now on when ``nth`` bytes ``of`` the ``client`` or ``server`` have gone on."""
        self._at_byte = (of, nth)

    def trap(self, match: bytes, when: When, *, times: int = 1, reset: bool = False) -> Trap:
        """Cut the connection of whoever sends ``match``."""
        trap = Trap(match, when, times, reset=reset)
        self._traps.append(trap)
        return trap

    def hold(self) -> None:
        """Black hole: connections are taken and bytes swallowed, nothing is answered and nothing closed.

        TCP repeats what was lost, so all of it goes on at ``release``, as after a partition.
        """
        self._flowing.clear()

    def release(self) -> None:
        """End of ``hold``."""
        self._flowing.set()

    def heal(self) -> None:
        """No delay, no trap, no black hole."""
        self._traps.clear()
        self._at_byte = None
        self.delay_s = 0.0
        self.release()

    # -- forwarding ---------------------------------------------------------------------------------------------------

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        link: _Link | None = None
        try:
            await self._flowing.wait()
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            requests = PostgresRequests() if self._parts.scheme.startswith("postgres") else Requests()
            link = _Link(writer, up_writer, requests)
            if self._at_byte is not None:
                link.bytes_left = {self._at_byte[0]: self._at_byte[1]}
            self._links.add(link)
            ways = [
                asyncio.create_task(self._client_to_server(link, reader)),
                asyncio.create_task(self._server_to_client(link, up_reader)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # The server refuses: so does the proxy, in the only way left to it.
        finally:
            if link is None:
                writer.close()
            else:
                self._links.discard(link)
                link.cut(reset=False)
            self._handlers.discard(task)

    async def _client_to_server(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while chunk := await self._next(reader):
            requests = link.requests.read(chunk)
            trap = next((one for one in self._traps if one.takes(requests)), None)
            if trap is not None and trap.when is When.BEFORE:
                self._cut(link, reset=trap.reset)
                return
            link.trapped = trap or link.trapped
            if not await self._forward(link, "client", chunk, link.server):
                return
            if trap is not None and trap.when is When.SENT:
                self._cut(link, reset=trap.reset)
                return

    async def _server_to_client(self, link: _Link, reader: asyncio.StreamReader) -> None:
        tail = b""
        while chunk := await self._next(reader):
            if link.trapped is not None and link.trapped.when is When.AFTER:
                tail = (tail + chunk)[-6:]
                if link.requests.answered(tail):
                    self._cut(link, reset=link.trapped.reset)
                    return
                continue
            if not await self._forward(link, "server", chunk, link.client):
                return

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        try:
            chunk = await reader.read(CHUNK_BYTES)
        except OSError:
            return b""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._flowing.wait()
        return chunk

    async def _forward(self, link: _Link, of: str, chunk: bytes, writer: asyncio.StreamWriter) -> bool:
        left = link.bytes_left.get(of)
        over = left is not None and len(chunk) >= left
        with suppress(OSError):
            writer.write(chunk[:left] if over else chunk)
            await writer.drain()
        if left is not None:
            link.bytes_left[of] = left - len(chunk)
        if over:
            self._cut(link, reset=False)
        return not over

    def _cut(self, link: _Link, *, reset: bool) -> None:
        self.cuts += 1
        link.cut(reset=reset)
