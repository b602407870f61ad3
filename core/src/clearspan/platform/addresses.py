"""Where the gateway may connect to when a tenant names the place: public addresses, and what the operator allows by name.

Server-side request forgery (OWASP API7, ASVS 5.0 1.3.6 and 13.2.4): whoever may write a URL must not reach what only this machine
reaches. Two looks, of which the second decides:

- ``Guard.check_url`` when a URL is saved: its form, and every address its name has at that moment.
- ``Guard.socket`` when a connection is made: exactly the address that the socket is about to connect to. What the name resolved
  to a second ago does not count, so rebinding gains nothing. Host header, SNI and certificate stay those of the name.

Nothing is checked by the spelling of a name alone: spellings are endless, addresses are not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

URL_MAX = 2048
RESOLVE_TIMEOUT_S = 3.0
DEFAULT_PORTS = {"https": 443, "http": 80}

# IANA's special-purpose registries (https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-, 2026-11), written
# out: what ``ipaddress`` calls global differs between the Python releases we run on.
_CLOSED_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform, public in form only (learn.microsoft.com: What is IP address 168.63.129.16?)
        "169.254.0.0/16",  # link-local; the clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Of IPv6 only 2000::/3 is given out. So mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), unique local, link-local,
# site-local, multicast, loopback and unspecified addresses need no line here.
_OPEN_6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address within
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_URL = re.compile(r"[\x21-\x7e]+")


class AddressRefused(OSError):
    """The guard lets nobody connect there; ``reason`` says why, without naming an address.

    An ``OSError`` because a refused connection is one: aiohttp turns it into a connection that was never made.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; false for what is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _CLOSED_4)
    return parsed.scope_id is None and parsed in _OPEN_6 and not any(parsed in network for network in _CLOSED_6)


class Guard:
    """Decides where connections may go. One may serve any number of clients.

    Args:
        allow: places besides the public internet, as ``host:port`` or ``host:*``; an IPv6 address stands in brackets. They may
            be reached by http too.
        ports: of the public internet.
        resolver: instead of the system's.
    """

    def __init__(self, allow: Iterable[str], ports: Collection[int], resolver: AbstractResolver | None = None) -> None:
        self._allowed = {place(text) for text in allow}
        self._ports = frozenset(ports)
        self._resolver = resolver
        # (address, port) -> allowed, because an allowed name was found there when it was last resolved.
        self._vouched: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}

    def connector(self, **options: Any) -> aiohttp.TCPConnector:
        """A connector whose every socket is checked; ``options`` are aiohttp's. Make it inside the event loop."""
        return aiohttp.TCPConnector(resolver=_Resolver(self), socket_factory=self.socket, **options)

    async def check_url(self, url: str) -> None:
        """Whether a tenant may name this URL. A name that does not resolve now may do so later: connecting checks again.

        Raises:
            AddressRefused: its form, its port, or an address of its name.
        """
        host, port = self._read(url)
        if self._is_allowed(host, port):
            return
        addresses = [host]
        if not _is_address(host):
            try:
                async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                    found = await self.resolver().resolve(host, port, socket.AF_UNSPEC)
            except (OSError, TimeoutError, UnicodeError):
                return
            addresses = [one["host"] for one in found]
        for address in addresses:
            self.check(address, port)

    def check(self, address: str, port: int) -> None:
        """Whether a connection to this address may be made.

        Raises:
            AddressRefused: it may not.
        """
        if self._is_allowed(_plain(address), port) or any(
            (_plain(address), port) in found for found in self._vouched.values()
        ):
            return
        if not is_public(address):
            raise AddressRefused("the address is not one of the public internet")
        if port not in self._ports:
            raise AddressRefused(f"port {port} is not allowed")

    def vouch(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """An allowed name resolved to these; what it resolved to before counts no longer."""
        if self._is_allowed(host.lower(), port):
            self._vouched[(host.lower(), port)] = frozenset((_plain(address), port) for address in addresses)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for one address: aiohttp connects it to that address and to no other (its ``socket_factory``)."""
        family, kind, protocol, _, address = info
        self.check(str(address[0]), int(address[1]))
        return socket.socket(family=family, type=kind, proto=protocol)

    def resolver(self) -> AbstractResolver:
        """What looks names up."""
        return self._resolver or aiohttp.ThreadedResolver()

    def _is_allowed(self, host: str, port: int) -> bool:
        return (host, port) in self._allowed or (host, 0) in self._allowed

    def _read(self, url: str) -> tuple[str, int]:
        """Host in lower case, without brackets, and port."""
        if len(url) > URL_MAX or not _URL.fullmatch(url) or "\\" in url:
            raise AddressRefused(
                "it must be at most 2048 visible ASCII characters; write a name with other letters as xn--..."
            )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise AddressRefused("it cannot be read") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise AddressRefused("it must begin with https://")
        if "@" in parts.netloc:
            raise AddressRefused("it must not carry credentials")
        if "#" in url:
            raise AddressRefused("it must not have a fragment")
        port = DEFAULT_PORTS[parts.scheme] if port is None else port
        allowed = self._is_allowed(host, port)
        if "[" in parts.netloc:
            if not _is_address(host) or "%" in host:
                raise AddressRefused("there is no IPv6 address in the brackets")
        elif not _NAME.fullmatch(host):
            raise AddressRefused("the host is no name")
        elif re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) and not _is_address(host):
            # As the URL standard has it: what ends in a number is an IPv4 address in some spelling (octal, hex, short).
            raise AddressRefused("an IPv4 address is written as four decimal numbers")
        if allowed:
            return host, port
        if parts.scheme != "https":
            raise AddressRefused("it must begin with https://")
        if port not in self._ports:
            raise AddressRefused(f"port {port} is not allowed; use {' or '.join(map(str, sorted(self._ports)))}")
        if ":" not in host and "." not in host:
            raise AddressRefused("the host needs its whole name")
        return host, port


class _Resolver(AbstractResolver):
    """Resolves, and refuses a name that has an address nobody may connect to beside others: no answer is half good."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = guard.resolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        self._guard.vouch(host, port, [one["host"] for one in found])
        for one in found:
            self._guard.check(one["host"], port)
        return found

    async def close(self) -> None:
        await self._inner.close()


def place(text: str) -> tuple[str, int]:
    """``host:port`` as a pair, the port 0 for ``*``.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+):([0-9]{1,5}|\*)", text.lower())
    if match is None or (match[2] != "*" and not 1 <= int(match[2]) <= 65535):
        raise ValueError(text)
    host = match[1].strip("[]")
    return _plain(host), 0 if match[2] == "*" else int(match[2])


def place_of(url: str) -> str:
    """The place a URL of the operator names, as ``host:port``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 443)}"


def refusal(error: BaseException) -> AddressRefused | None:
    """The guard's refusal behind a failed connection, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AddressRefused):
            return seen
        inner = getattr(seen, "os_error", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return None


def _plain(address: str) -> str:
    """An address in its one shortest spelling, anything else as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
