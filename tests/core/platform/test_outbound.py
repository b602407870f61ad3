"""Only what was certainly not sent may be called "not sent": everything else a connection does is an unknown outcome.

A raw TCP server plays the PSP, one way to fail per test. Read wrongly, each of these would be a second charge.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clearspan.platform import clock, outbound
from clearspan.platform.telemetry import Metrics
from clearspan.psps.calls import observe
from clearspan.sdk import Approved, Money, OutcomeUnknown, PspError, PspMisconfigured, PspUnavailable, Tunnel, send

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONNECT_TIMEOUT_S = 0.3
TIMEOUT_S = 0.8
FINE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
METHODS = ["POST", "PUT", "DELETE", "GET"]
"""aiohttp repeats the last three by itself unless it is told not to."""


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """As an adapter gets it."""
    async with outbound.client(CONNECT_TIMEOUT_S, TIMEOUT_S) as client:
        yield client


class Server:
    """Serves each connection with ``peer``.

    Attributes:
        url: where it listens.
        requests: every request it has read, whole.
    """

    def __init__(self, peer: Peer, tls: ssl.SSLContext | None) -> None:
        self._peer = peer
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.url = ""
        self.requests: list[bytes] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._peer(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def read(self, reader: asyncio.StreamReader) -> None:
        """One whole request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))

    def listen_no_more(self) -> None:
        """Refuse new connections, keep those there are."""
        assert self._server is not None
        self._server.close()

    async def stop(self) -> None:
        self.listen_no_more()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


NewServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[NewServer]:
    """Starts servers: ``await serve(peer, tls=...)``."""
    running: list[Server] = []

    async def start(peer: Peer, tls: ssl.SSLContext | None = None) -> Server:
        running.append(Server(peer, tls))
        await running[-1].start()
        return running[-1]

    yield start
    for server in running:
        await server.stop()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def outcome(http: httpx.AsyncClient, url: str, method: str = "POST") -> BaseException:
    """What ``send`` raises."""
    request = http.build_request(method, f"{url}/v1/charges", json={"amount": 1})
    with pytest.raises(PspError) as raised:
        await asyncio.wait_for(send(http, request), 20)
    return raised.value


async def answered(http: httpx.AsyncClient, serve: NewServer, answer: bytes) -> BaseException:
    """What ``send`` raises for these bytes, after which the connection is closed."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(answer)
        await writer.drain()

    server = await serve(peer)
    error = await outcome(http, server.url)
    assert len(server.requests) == 1
    return error


# -- Not sent -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_a_refused_connection_was_not_sent(http: httpx.AsyncClient, method: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # Bound and not listening: the kernel refuses, and nobody else gets the port.
        error = await outcome(http, f"http://127.0.0.1:{nobody.getsockname()[1]}", method)
    assert type(error) is PspUnavailable


async def test_a_name_that_does_not_resolve_was_not_sent(http: httpx.AsyncClient) -> None:
    assert type(await outcome(http, "http://psp.invalid")) is PspUnavailable


async def test_a_connection_that_is_never_accepted_was_not_sent() -> None:
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        # The backlog is full with two, so the kernel drops the next SYN and the client waits in vain.
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        async with outbound.client(0.2, 5) as http:
            assert type(await outcome(http, f"http://127.0.0.1:{deaf.getsockname()[1]}")) is PspUnavailable


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "gopher://psp.test"])
async def test_an_address_nobody_can_send_to_was_not_sent(http: httpx.AsyncClient, url: str) -> None:
    assert type(await outcome(http, url)) is PspUnavailable


# -- TLS ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody trusts, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "psp.test")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem: Path = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


@pytest.fixture(scope="session")
def stranger(identity: Path) -> ssl.SSLContext:
    """A server's TLS with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    return context


async def test_a_certificate_nobody_trusts_was_not_sent(
    http: httpx.AsyncClient, serve: NewServer, stranger: ssl.SSLContext
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)

    server = await serve(peer, stranger)
    assert type(await outcome(http, server.url)) is PspUnavailable
    assert server.requests == []


@pytest.mark.parametrize("how", ["plain text", "silence", "reset", "close"])
async def test_a_handshake_that_fails_was_not_sent(http: httpx.AsyncClient, serve: NewServer, how: str) -> None:
    heard = bytearray()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1000))
        if how == "plain text":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        elif how == "silence":
            heard.extend(await reader.read())
        elif how == "reset":
            reset(writer)

    server = await serve(peer)
    assert type(await outcome(http, server.url.replace("http:", "https:"))) is PspUnavailable
    assert b"/v1/charges" not in heard


# -- Sent, or nobody knows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_a_reset_before_the_request_is_read_leaves_the_outcome_unknown(
    http: httpx.AsyncClient, serve: NewServer, method: str
) -> None:
    async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    server = await serve(peer)
    assert type(await outcome(http, server.url, method)) is OutcomeUnknown


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_connection_lost_after_the_request_leaves_the_outcome_unknown(
    http: httpx.AsyncClient, serve: NewServer, how: str, method: str
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        if how == "reset":
            reset(writer)

    server = await serve(peer)
    assert type(await outcome(http, server.url, method)) is OutcomeUnknown
    assert len(server.requests) == 1, "sent once, whatever the method"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["close", "reset", "close unread"])
async def test_a_kept_connection_that_ends_as_the_next_request_is_written_leaves_the_outcome_unknown(
    http: httpx.AsyncClient, serve: NewServer, how: str, method: str
) -> None:
    """Also when nobody listens any more, so that a silent repetition would be refused and look like "not sent"."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        server.listen_no_more()
        writer.write(FINE)
        await writer.drain()
        if how == "close unread":
            await reader.readexactly(1)
        else:
            await server.read(reader)
        if how == "reset":
            reset(writer)

    server = await serve(peer)
    request = http.build_request(method, f"{server.url}/v1/charges", json={"amount": 1})
    assert (await send(http, request)).body == {"ok": True}
    assert type(await outcome(http, server.url, method)) is OutcomeUnknown


async def test_a_kept_connection_that_ended_before_is_not_used_again(http: httpx.AsyncClient, serve: NewServer) -> None:
    closed = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(FINE)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await serve(peer)
    for _ in range(2):
        closed.clear()
        request = http.build_request("POST", f"{server.url}/v1/charges", json={"amount": 1})
        assert (await send(http, request)).status == 200
        await closed.wait()
        await asyncio.sleep(0)  # The client's side of the connection hears of it.


async def test_a_hanging_peer_leaves_the_outcome_unknown(http: httpx.AsyncClient, serve: NewServer) -> None:
    async def peer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.read(reader)
        await reader.read()

    server = await serve(peer)
    assert type(await outcome(http, server.url)) is OutcomeUnknown
    assert len(server.requests) == 1


async def test_a_peer_that_never_reads_leaves_the_outcome_unknown(http: httpx.AsyncClient, serve: NewServer) -> None:
    """The request is longer than all buffers between the two."""

    async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 500_000

    server = await serve(peer)
    request = http.build_request("POST", f"{server.url}/v1/charges", content=endless())
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(send(http, request), 20)


async def test_a_peer_that_hangs_in_its_answer_leaves_the_outcome_unknown(
    http: httpx.AsyncClient, serve: NewServer
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(FINE[:-4])
        await writer.drain()
        await reader.read()

    server = await serve(peer)
    assert type(await outcome(http, server.url)) is OutcomeUnknown


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(b'{"x":"' + b"0" * 5_000_000 + b'"}')


def body(content: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(content) + content


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(FINE[:-4], id="half a body"),
        pytest.param(CHUNKED + b"b\r\n" + b'{"ok"', id="half a chunk"),
        pytest.param(CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", id="a chunk without a length"),
        pytest.param(b"\x00\x01\x02 garbage\r\n\r\n", id="a garbage status line"),
        pytest.param(b"HTTP/9.9 abc\r\n\r\n", id="a status that is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="a length that is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="a broken header"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(body(b""), id="an empty 200"),
        pytest.param(body(b"<html>fine</html>"), id="HTML with 200"),
        pytest.param(body(b'{"ok":tru'), id="half a JSON"),
        pytest.param(body(b'{"ok":NaN}'), id="NaN"),
        pytest.param(body(b"[true]"), id="a JSON array"),
        pytest.param(body(b'"ok"'), id="a JSON string"),
        pytest.param(body(b"\xff\xfe{}"), id="no UTF-8"),
        pytest.param(body(b'{"a":"\xff"}'), id="no UTF-8 within JSON"),
        pytest.param(body(b'{"x":"' + b"0" * 1_100_000 + b'"}'), id="over a megabyte"),
        pytest.param(body(b"no gzip", more=b"Content-Encoding: gzip\r\n"), id="gzip that is none"),
        pytest.param(body(BOMB, more=b"Content-Encoding: gzip\r\n"), id="a gzip bomb"),
        pytest.param(body(BOMB[: len(BOMB) // 2], more=b"Content-Encoding: gzip\r\n"), id="half a gzip"),
        *(
            pytest.param(body(b'{"error":"x"}', status=status), id=status.decode())
            for status in (
                b"408 Request Timeout",
                b"409 Conflict",
                b"425 Too Early",
                b"429 Too Many Requests",
                b"500 Internal Server Error",
                b"502 Bad Gateway",
                b"503 Service Unavailable",
                b"504 Gateway Timeout",
                b"599 Whatever",
            )
        ),
    ],
)
async def test_an_answer_that_says_nothing_clear_leaves_the_outcome_unknown(
    http: httpx.AsyncClient, serve: NewServer, answer: bytes
) -> None:
    assert type(await answered(http, serve, answer)) is OutcomeUnknown


async def test_an_answer_that_drips_ends_with_the_time_for_the_whole(http: httpx.AsyncClient, serve: NewServer) -> None:
    """Each byte comes in time; all of them never would."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(TIMEOUT_S / 10)

    server = await serve(peer)
    assert type(await outcome(http, server.url)) is OutcomeUnknown


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000])
async def test_an_answer_without_a_bottom_is_observed_as_unknown(
    http: httpx.AsyncClient, serve: NewServer, content: bytes
) -> None:
    """JSON nested so deeply that reading it is an error of another kind."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(body(content))
        await writer.drain()

    async def charge() -> Approved:
        answer = await send(http, http.build_request("POST", server.url, json={"amount": 1}))
        return Approved(psp_ref="ch", amount=asked, raw=answer.body)

    server, asked = await serve(peer), Money(1, "EUR")
    seen = await observe(charge(), asked=asked, psp="raw", verb="create_intent", timeout_s=20, metrics=Metrics())
    assert seen.observed == "unknown"


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_refused_credentials_speak_to_the_operator(
    http: httpx.AsyncClient, serve: NewServer, status: bytes
) -> None:
    assert type(await answered(http, serve, body(b"{}", status=status))) is PspMisconfigured


async def test_a_redirect_is_not_followed(http: httpx.AsyncClient, serve: NewServer) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(body(b"{}", status=b"307 Temporary Redirect", more=b"Location: /elsewhere\r\n"))
        await writer.drain()

    server = await serve(peer)
    request = http.build_request("POST", f"{server.url}/v1/charges", json={"amount": 1})
    assert (await send(http, request)).status == 307
    assert len(server.requests) == 1


async def test_a_clear_answer_is_read_whatever_the_size_of_its_pieces(
    http: httpx.AsyncClient, serve: NewServer
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        for byte in FINE:
            writer.write(bytes([byte]))
            await writer.drain()

    server = await serve(peer)
    request = http.build_request("POST", f"{server.url}/v1/charges", json={"amount": 1})
    assert (await send(http, request)).body == {"ok": True}


async def test_the_environment_s_proxy_is_not_used(
    monkeypatch: pytest.MonkeyPatch, http: httpx.AsyncClient, serve: NewServer
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(FINE)
        await writer.drain()

    server = await serve(peer)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    request = http.build_request("POST", f"{server.url}/v1/charges", json={"amount": 1})
    assert (await send(http, request)).status == 200


# -- A vault that is a forward proxy (the whole way, with TLS inside: plugins/vault-vgs) ----------------------------------------


class Proxied:
    """A vault that has nothing to say but where its proxy is."""

    def __init__(self, url: str, ca: str) -> None:
        self._tunnel = Tunnel(url, "user", "secret", ca)

    def tunnel(self) -> Tunnel:
        return self._tunnel

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:  # noqa: ARG002
        return request

    def check(self, response: httpx.Response) -> None:  # noqa: ARG002
        return


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (b"HTTP/1.1 407 X\r\nContent-Length: 0\r\n\r\n", PspMisconfigured),
        (b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", PspMisconfigured),
        (b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n", PspUnavailable),
        (b"HTTP/1.1 200 X\r\n\r\nthis is no TLS", PspUnavailable),
        (b"nonsense\r\n\r\n", PspUnavailable),
        (b"", PspUnavailable),
        (None, PspUnavailable),
    ],
    ids=["407", "403", "502", "no TLS", "nonsense", "closed", "hangs"],
)
async def test_a_tunnel_that_does_not_stand_sends_nothing(
    serve: NewServer, identity: Path, answer: bytes | None, raised: type[Exception]
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        if answer is None:
            await asyncio.sleep(60)
        writer.write(answer or b"")

    asked: list[bytes] = []
    server = await serve(peer)
    vault = Proxied(server.url, identity.read_text().partition("-----BEGIN PRIVATE")[0])
    async with outbound.client(0.3, 5, vault=vault) as http:  # type: ignore[arg-type]
        sent = http.build_request("POST", "https://psp.example/v1", content=b"x=1", extensions={"vault_token": "tok"})
        with pytest.raises(raised):
            await http.send(sent)
    assert asked[0].startswith(b"CONNECT psp.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in asked[0]
    assert not any(b"x=1" in each for each in asked)
