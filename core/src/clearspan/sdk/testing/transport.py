"""How the kit's runs are connected, timed and overheard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx

from clearspan.sdk.testing.server import VAULT_MARK, ScriptedServer

T = TypeVar("T")


class Patient(httpx.AsyncBaseTransport):
    """Real connections; a request for the vault is marked, and an endless silence ends at once as a read timeout."""

    def __init__(self, *, vault: bool = False, stuck: asyncio.Event | None = None) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=False, trust_env=False)
        self._vault, self._stuck = vault, stuck

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _mark(request, vault=self._vault)
        if self._stuck is None:
            return await self._inner.handle_async_request(request)
        answer = asyncio.ensure_future(self._inner.handle_async_request(request))
        silence = asyncio.ensure_future(self._stuck.wait())
        try:
            await asyncio.wait({answer, silence}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise httpx.ReadTimeout("no answer in time", request=request)
            return answer.result()
        finally:
            silence.cancel()
            if not answer.done():
                answer.cancel()
                await asyncio.wait({answer})

    async def aclose(self) -> None:
        await self._inner.aclose()


class Direct(httpx.AsyncBaseTransport):
    """The same answers without a connection, where there are thousands."""

    def __init__(self, server: ScriptedServer, *, vault: bool = False) -> None:
        self._server, self._vault = server, vault

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _mark(request, vault=self._vault)
        body = await request.aread()
        headers = {name.lower(): value for name, value in request.headers.items()}
        chosen = self._server.received(request.method, request.url.raw_path.decode(), headers, body)
        if chosen is None:
            return httpx.Response(500, json={"error": "the script has no answer to this request"})
        said = chosen[1]
        return httpx.Response(said.status, content=said.content(), headers=dict(said.headers))


def _mark(request: httpx.Request, *, vault: bool) -> None:
    token = request.extensions.get("vault_token")
    if vault and token is not None:
        request.headers[VAULT_MARK] = str(token)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines
        self.addFilter(lambda record: not record.name.startswith(("httpcore", "asyncio")))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextlib.contextmanager
def logged(lines: list[str]) -> Iterator[None]:
    """Keep every line that is logged, whatever its level."""
    root, handler = logging.getLogger(), _Lines(lines)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end in a loop of its own, whatever the test suite does with loops."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def awaited(verb: Awaitable[T], stuck: asyncio.Event, *, impatient: bool) -> T:
    """As the core awaits a verb: when ``impatient``, no longer than until the server stops answering.

    Raises:
        CancelledError: it was cancelled then and let the cancellation pass.
    """
    task = asyncio.ensure_future(verb)
    patience = asyncio.ensure_future(stuck.wait())
    await asyncio.wait({task, patience} if impatient else {task}, return_when=asyncio.FIRST_COMPLETED)
    patience.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    return task.result()
