"""Clients for calls to the outside: httpx for whoever uses them, aiohttp underneath (a quarter of the CPU per call).

One client per PSP account is its bulkhead: a PSP that hangs exhausts its own connections and nobody else's. Redirects
are not followed, the environment's proxies are not used, and cookies are not kept. Where a tenant names the address, a
``Guard`` looks at it when the connection is made, and only then: requests on a connection that is open cost nothing more.

``httpx-aiohttp`` 0.2 reports *every* lost connection as ``ConnectTimeout``, also one that was reset after the request
was written. Read as "not sent" that would be a second charge, so ``PreciseTransport`` looks at the cause: only what
aiohttp raises before a connection exists may be called a connect error. aiohttp also sends a GET, PUT or DELETE a second
time when a connection breaks; here nothing is sent twice, because the second try may be refused and tell nothing about
the first.

A vault that is a forward proxy gets a pool of its own: ``CONNECT``, then the PSP's TLS, which the vault opens, then the
request. Until the TLS inside stands, not a byte of the request is written, so whatever fails before is "not sent"; the
status of a refused ``CONNECT`` says whether an operator must act.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from clearspan.platform import clock
from clearspan.platform.addresses import Guard
from clearspan.sdk import PspError, PspMisconfigured, PspUnavailable, Tunnel, VaultProvider

CONNECTIONS_MAX = 100
KEEPALIVE_S = 30.0


@contextmanager
def _precisely(*, connecting: bool) -> Iterator[None]:
    """Raise the httpx error that says how far a request came.

    Raises:
        httpx.ConnectError: there was no connection, so not a byte was written.
        httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError: there was one.
    """
    try:
        yield
    except (httpx.TransportError, aiohttp.ClientError, OSError, TimeoutError) as error:
        cause = error.__cause__ if isinstance(error, httpx.TransportError) and error.__cause__ is not None else error
        if isinstance(error, httpx.UnsupportedProtocol) or isinstance(cause, aiohttp.InvalidURL):
            raise httpx.UnsupportedProtocol(str(cause)) from cause
        if connecting and isinstance(
            cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx.ConnectError)
        ):
            raise httpx.ConnectError(str(cause)) from cause
        if isinstance(cause, (TimeoutError, httpx.TimeoutException)):
            raise httpx.ReadTimeout(str(cause)) from cause
        if isinstance(cause, aiohttp.ClientResponseError):
            raise httpx.RemoteProtocolError(str(cause)) from cause
        raise httpx.ReadError(f"{type(cause).__name__}: {cause}") from cause


class _PreciseStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, ends_at: float) -> None:
        self._inner = inner
        self._ends_at = ends_at

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._inner)
        while True:
            with _precisely(connecting=False):
                async with asyncio.timeout(self._ends_at - clock.monotonic()):
                    chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        with _precisely(connecting=False):
            await self._inner.aclose()


class PreciseTransport(AiohttpTransport):
    """aiohttp under httpx, with errors that tell "not sent" from "unknown"; see the module's docstring.

    Args:
        session: makes the connections' pool, at the first request.
        timeout_s: the whole exchange, to the last byte of the answer.
        proxy: everything goes through it.
    """

    def __init__(
        self, session: Callable[[], aiohttp.ClientSession], timeout_s: float, proxy: httpx.Proxy | None = None
    ) -> None:
        super().__init__(client=session, proxy=proxy)
        self._timeout_s = timeout_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send."""
        ends_at = clock.monotonic() + self._timeout_s
        with _precisely(connecting=True):
            async with asyncio.timeout(self._timeout_s):
                response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _PreciseStream(response.stream, ends_at)
        return response


class _TunnelConnector(aiohttp.TCPConnector):
    """Makes connections through a forward proxy. What is raised here is raised before the request was written."""

    def __init__(self, connect_timeout_s: float, trusted: ssl.SSLContext, **options: Any) -> None:
        super().__init__(ssl=trusted, **options)
        self._within_s = connect_timeout_s

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  (the name is aiohttp's)
    ) -> aiohttp.connector.Connection:
        try:
            async with asyncio.timeout(self._within_s):
                return await super().connect(req, traces, timeout)
        except aiohttp.ClientHttpProxyError as error:
            raise _tunnel_refused(error.status) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PspUnavailable(f"not sent: no tunnel through the vault's proxy: {type(error).__name__}") from error


def _tunnel_refused(status: int) -> PspError:
    """What a refused CONNECT says. RFC 9110, 9.3.6: any answer but 2xx means that there is no tunnel."""
    if status in (401, 403, 407):
        return PspMisconfigured(
            f"not sent: the vault's proxy refused the tunnel with {status}; check its user name, password and routes"
        )
    return PspUnavailable(f"not sent: the vault's proxy answered CONNECT with {status}")


class VaultTransport(httpx.AsyncBaseTransport):
    """Sends a request whose extensions carry ``vault_token`` through the vault, which fills in the card.

    Args:
        inner: what sends.
        vault: holds the token.
        tunnel: what sends requests with a token, when the vault is a forward proxy.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, vault: VaultProvider, tunnel: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._inner = inner
        self._vault = vault
        self._tunnel = tunnel

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Rewrite, send, and let the vault say whether the answer is its own."""
        token = request.extensions.get("vault_token")
        if token is None:
            return await self._inner.handle_async_request(request)
        rewritten = self._vault.proxy(request, token)
        rewritten.extensions.setdefault("timeout", request.extensions.get("timeout", {}))
        response = await (self._tunnel or self._inner).handle_async_request(rewritten)
        try:
            self._vault.check(response)
        except PspError:
            await response.aclose()
            raise
        return response

    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()
        if self._tunnel is not None:
            await self._tunnel.aclose()


def client(
    connect_timeout_s: float,
    timeout_s: float,
    vault: VaultProvider | None = None,
    *,
    guard: Guard | None = None,
    connections_max: int = CONNECTIONS_MAX,
    keepalive_s: float = KEEPALIVE_S,
) -> httpx.AsyncClient:
    """A client with the core's limits; close it with ``aclose``.

    Args:
        connect_timeout_s: for name, TCP and TLS together.
        timeout_s: the whole exchange.
        vault: takes requests that carry a vault token.
        guard: where it may connect to. Without one, anywhere: for addresses that no tenant names.
        connections_max: open ones.
        keepalive_s: how long an idle connection stays open.
    """

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector if guard is None else guard.connector
        made = aiohttp.ClientSession(
            connector=connector(limit=connections_max, keepalive_timeout=keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # There is no public switch (aiohttp 3.14); tests/core/platform/test_outbound.py notices when this one is gone.
        made._retry_connection = False  # noqa: SLF001
        return made

    transport: httpx.AsyncBaseTransport = PreciseTransport(session, timeout_s)
    if vault is not None:
        opened: Tunnel | None = vault.tunnel() if hasattr(vault, "tunnel") else None
        tunnel = None if opened is None else _tunnel(opened, connect_timeout_s, timeout_s, connections_max, keepalive_s)
        transport = VaultTransport(transport, vault, tunnel)
    return httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s),
        follow_redirects=False,
        trust_env=False,
    )


def _tunnel(
    tunnel: Tunnel, connect_timeout_s: float, timeout_s: float, connections_max: int, keepalive_s: float
) -> PreciseTransport:
    """A pool whose connections all go through a vault's proxy.

    The operator names the proxy, and the vault connects to the PSP: no guard looks at an address here.
    """
    # The proxy's own certificate may be a public one; the PSPs' names inside are signed by the vault.
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(cadata=tunnel.ca)

    def session() -> aiohttp.ClientSession:
        made = aiohttp.ClientSession(
            connector=_TunnelConnector(
                connect_timeout_s, trusted, limit=connections_max, keepalive_timeout=keepalive_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        made._retry_connection = False  # noqa: SLF001  (as above)
        return made

    credentials = base64.b64encode(f"{tunnel.username}:{tunnel.password}".encode()).decode()
    # aiohttp makes Proxy-Authorization of it, in CONNECT or, where there is no TLS, in the request.
    proxy = httpx.Proxy(tunnel.url, headers={"Authorization": f"Basic {credentials}"})
    return PreciseTransport(session, timeout_s, proxy)
