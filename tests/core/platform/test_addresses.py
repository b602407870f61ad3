"""A tenant's URL reaches nothing but the public internet: refused when it is saved, refused again when a connection is made.

Somebody listens on this machine, on every address and on a port that is allowed, and counts who connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from clearspan.app import Gateway, _psp_guard
from clearspan.platform import outbound
from clearspan.platform.addresses import AddressRefused, Guard, is_public, place, place_of, refusal
from clearspan.settings import Settings

PUBLIC = "93.184.216.34"


class Names(AbstractResolver):
    """A name server of the test: each look-up takes the next answer, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def say(self, name: str, *answers: list[str]) -> None:
        self.answers[name] = list(answers)

    async def resolve(
        self, host: str, port: int = 0, _: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        left = self.answers[host]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_UNSPEC, proto=0, flags=0)
            for one in (left.pop(0) if len(left) > 1 else left[0])
        ]

    async def close(self) -> None:
        pass


class Listener(msgspec.Struct):
    """Counts connections; answers whatever it is asked with ``answer``."""

    port: int
    connects: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    heard = Listener(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.connects += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(heard.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    servers = [await asyncio.start_server(serve, "0.0.0.0", 0)]  # noqa: S104  (on every address: whichever is reached is heard)
    heard.port = servers[0].sockets[0].getsockname()[1]
    with contextlib.suppress(OSError):  # A machine without IPv6.
        servers.append(await asyncio.start_server(serve, "::", heard.port))
    yield heard
    for server in servers:
        server.close()
        await server.wait_closed()


def corpus() -> list[tuple[str, list[str]]]:
    lines = (Path(__file__).parent / "ssrf_urls.txt").read_text().splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            url, _, answers = line.partition(" => ")
            found.append((url, answers.split()))
    return found


URLS = corpus()


def test_the_corpus_is_large_enough() -> None:
    assert len({url for url, _ in URLS}) == len(URLS) >= 100


def prepared(url: str, answers: list[str], listener: Listener) -> tuple[str, Names, Guard]:
    url, names = url.replace("{port}", str(listener.port)), Names()
    if answers:
        host = re.match(r"\w+://([^:/]+)", url)
        assert host is not None
        for name in (host[1], host[1].lower()):
            names.say(name, answers)
    # The listener's port is allowed: it must not be the port that saves us.
    return url, names, Guard([], [443, 8443, listener.port], names)


@pytest.mark.parametrize(("url", "answers"), URLS, ids=[url for url, _ in URLS])
async def test_it_is_refused_when_saved_and_reaches_nobody_when_sent(
    url: str, answers: list[str], listener: Listener
) -> None:
    url, _, guard = prepared(url, answers, listener)
    with pytest.raises(AddressRefused):
        await guard.check_url(url)
    # As if the first look had let it pass. Plain http and https alike, for it is the address that must refuse.
    async with outbound.client(2, 2, guard=guard) as http:
        for scheme in ("http", "https"):
            with pytest.raises((httpx.TransportError, httpx.InvalidURL, UnicodeError, ValueError)) as raised:
                await http.post(re.sub(r"^\w+:", f"{scheme}:", url), content=b"{}")
            assert not isinstance(raised.value, httpx.ReadError)
    assert listener.connects == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/hooks",
        "https://shop.example:8443/hooks?token=1",
        "https://SHOP.example",
        "https://xn--bcher-kva.example/",
        f"https://{PUBLIC}/hooks",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/hooks",
        "https://nowhere.example/hooks",
    ],
)
async def test_what_is_public_may_be_saved(url: str) -> None:
    names = Names()
    for name in ("shop.example", "xn--bcher-kva.example"):
        names.say(name, [PUBLIC, "2606:2800:220:1:248:1893:25c8:1946"])
    await Guard([], [443, 8443], names).check_url(url)


async def test_the_public_internet_is_reached_by_https_only() -> None:
    with pytest.raises(AddressRefused, match="https"):
        await Guard([], [443], Names()).check_url("http://shop.example:443/")


async def test_a_name_that_moves_to_this_machine_after_it_was_saved_is_not_followed(listener: Listener) -> None:
    names = Names()
    names.say("rebinding.example", [PUBLIC], ["127.0.0.1"])
    guard = Guard([], [443, listener.port], names)
    url = f"https://rebinding.example:{listener.port}/"
    await guard.check_url(url)
    async with outbound.client(2, 2, guard=guard) as http:
        with pytest.raises(httpx.ConnectError) as raised:
            await http.post(url.replace("https", "http"), content=b"{}")
    found = refusal(raised.value)
    assert found is not None
    assert "public internet" in found.reason
    assert "127.0.0.1" not in str(raised.value), "what a name leads to inside is not told"
    assert names.asked == ["rebinding.example"] * 2
    assert listener.connects == 0


async def test_an_answer_that_flips_between_look_and_connect_is_not_followed(listener: Listener) -> None:
    """Even a resolver that lies about what it gave is caught: the socket is made for the address it connects to."""
    guard = Guard([], [443, listener.port])
    with pytest.raises(AddressRefused):
        guard.socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", listener.port)))
    made = guard.socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (PUBLIC, 443)))
    made.close()


async def test_a_redirect_to_metadata_is_an_answer_and_not_an_order(listener: Listener) -> None:
    listener.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n"
    )
    guard = Guard([f"127.0.0.1:{listener.port}"], [443])
    async with outbound.client(2, 2, guard=guard) as http:
        answer = await http.post(f"http://127.0.0.1:{listener.port}/", content=b"{}")
    assert answer.status_code == 302
    assert listener.connects == 1


async def test_what_the_operator_allows_is_reached_by_http_and_by_name_and_nothing_beside_it(
    listener: Listener,
) -> None:
    names = Names()
    names.say("erp.internal", ["127.0.0.1"])
    names.say("evil.example", ["127.0.0.1"])
    names.say("moved.internal", ["127.0.0.1"], ["10.0.0.1"])
    other = listener.port + 1 if listener.port < 65535 else listener.port - 1
    guard = Guard([f"erp.internal:{listener.port}"], [443], names)
    url = f"http://erp.internal:{listener.port}/"
    await guard.check_url(url)
    async with outbound.client(2, 2, guard=guard) as http:
        assert (await http.post(url, content=b"{}")).text == "ok"
    for refused in (f"http://erp.internal:{other}/", f"http://evil.example:{listener.port}/"):
        with pytest.raises(AddressRefused):
            await guard.check_url(refused)
    async with outbound.client(2, 2, guard=Guard([f"erp.internal:{other}"], [443], names)) as http:
        with pytest.raises(httpx.ConnectError):
            await http.post(url, content=b"{}")
    assert listener.connects == 1


async def test_an_address_that_an_allowed_name_left_is_closed_again() -> None:
    names = Names()
    guard = Guard(["erp.internal:8069"], [443], names)
    guard.vouch("erp.internal", 8069, ["10.0.0.1"])
    guard.check("10.0.0.1", 8069)
    guard.vouch("erp.internal", 8069, ["10.0.0.2"])
    with pytest.raises(AddressRefused):
        guard.check("10.0.0.1", 8069)
    guard.vouch("evil.example", 8069, ["10.0.0.3"])
    with pytest.raises(AddressRefused):
        guard.check("10.0.0.3", 8069)


def test_what_python_calls_private_is_never_public() -> None:
    for network in (*_special(), ipaddress.ip_network("fe80::/10"), ipaddress.ip_network("::ffff:0:0/96")):
        for address in (network[0], network[-1], network[network.num_addresses // 2]):
            assert not is_public(str(address)), address
    for given in ("", "localhost", "127.1", "fe80::1%eth0", "2606:2800::1%eth0"):
        assert not is_public(given)
    for given in (PUBLIC, "1.1.1.1", "223.255.255.255", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"):
        assert is_public(given)


def _special() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Python's own list."""
    constants = (ipaddress.IPv4Address._constants, ipaddress.IPv6Address._constants)  # type: ignore[attr-defined]
    return [network for one in constants for network in one._private_networks]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("127.0.0.1:9999", ("127.0.0.1", 9999)),
        ("ERP.internal:*", ("erp.internal", 0)),
        ("[::1]:8081", ("::1", 8081)),
        ("[0:0::1]:8081", ("::1", 8081)),
    ],
)
def test_a_place_is_a_host_and_a_port(text: str, pair: tuple[str, int]) -> None:
    assert place(text) == pair


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "host:0", "host:65536", "host:http", "http://host:1", "10.0.0.0/8:1", ":1"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        place(text)


def test_a_url_of_the_operator_names_its_place() -> None:
    assert place_of("http://psp-sandbox:8081/x") == "psp-sandbox:8081"
    assert place_of("https://api.psp.example") == "api.psp.example:443"
    assert place_of("http://[::1]/") == "[::1]:80"


async def test_a_psp_account_that_leads_inside_is_a_psp_that_cannot_be_reached(
    client: httpx.AsyncClient, settings: Settings, gateway: Gateway, listener: Listener, sandboxes: None
) -> None:
    """The simulator's own address is open without a line; the address beside it is not."""
    own = msgspec.structs.replace(settings, outbound=msgspec.structs.replace(settings.outbound, allow_internal=()))
    guard = _psp_guard(own)
    companion = httpx.URL(settings.plugin["psp-sandbox"]["url"])
    assert companion.port is not None
    guard.check("127.0.0.1", companion.port)
    with pytest.raises(AddressRefused):
        guard.check("127.0.0.1", listener.port)
    gateway.psps._addresses, open_guard = guard, gateway.psps._addresses
    try:
        inside = {"url": f"http://127.0.0.1:{listener.port}", "api_key": "sk_sandbox_alpha"}
        made = await client.post("/v1/psp-accounts", json={"psp": "sandbox", "name": "inside", "config": inside})
        assert made.status_code == 201, made.text
        method = (await client.post("/v1/payment-methods", json={"token": "tok_visa"})).json()["id"]
        body = {"amount_minor": 1099, "currency": "EUR", "payment_method": method, "confirm": True}
        paid = await client.post("/v1/payments", json=body, headers={"Idempotency-Key": "inside"})
    finally:
        gateway.psps._addresses = open_guard
    payment = (await client.get(f"/v1/payments/{paid.json()['id']}")).json()
    assert payment["status"] == "requires_confirmation", "another try is possible"
    assert [one["state"] for one in payment["operations"]] == ["not_sent"]
    assert listener.connects == 0
