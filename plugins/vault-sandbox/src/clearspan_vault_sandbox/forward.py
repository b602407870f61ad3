"""The detokenising proxy: fill the card into a request and pass it on, and never confuse "not sent" with "no answer".

Every answer of the vault's own carries ``X-Vault-Error``; a target's answer never does (the header is taken away).

=================== ====== ====================================================================
``X-Vault-Error``   status meaning
=================== ====== ====================================================================
bad_request         400    no usable ``X-Vault-Target``
unauthorized        401    ``X-Vault-Authorization`` is missing or wrong
target_not_allowed  403    the target's origin is not on the list
too_large           413    the body is larger than ``BODY_MAX_BYTES``
unknown_token       422    a placeholder names a token that the vault does not know
target_unreachable  502    no connection: not a byte was sent to the target
target_broken       502    the connection broke after something was sent
target_timeout      504    sent, and no answer in time
=================== ====== ====================================================================
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from clearspan_vault_sandbox.store import Store

BODY_MAX_BYTES = 1_000_000
TOTAL_TIMEOUT_S = 120
"""The whole exchange, so that an endless answer ends."""

# `{{tok_visa.number}}`, or the same percent-encoded: form bodies arrive so. The values are digits, safe in JSON and in forms.
_PLACEHOLDER = re.compile(
    rb"(?:\{\{|%7B%7B)(tok_[A-Za-z0-9_]{1,64})\.(number|exp_month|exp_year|cvc)(?:\}\}|%7D%7D)", re.IGNORECASE
)
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"host", b"content-length", b"expect"}

Send = Callable[[dict[str, Any]], Awaitable[None]]


class VaultRefusal(Exception):
    """An answer of the vault's own; ``code`` goes into ``X-Vault-Error``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def fill(store: Store, body: bytes) -> bytes:
    """The body with the card's values.

    Raises:
        VaultRefusal: unknown_token; the text is not repeated, because anything may stand in it.
    """

    def value(found: re.Match[bytes]) -> bytes:
        stored = store.find(found[1].decode())
        if stored is None:
            raise VaultRefusal(422, "unknown_token", "A placeholder names a token this vault does not know.")
        match found[2].lower():
            case b"number":
                return stored.card.number.encode()
            case b"exp_month":
                return f"{stored.exp_month:02}".encode()
            case b"exp_year":
                return str(stored.exp_year).encode()
            case _:
                return stored.card.cvc.encode()

    return _PLACEHOLDER.sub(value, body)


class Forwarder:
    """A pool of connections to the targets.

    Args:
        allow: origins like ``https://api.psp.example``; empty means any origin on this machine's loopback.
        read_timeout_s: the longest silence of a target.
    """

    def __init__(self, allow: Iterable[str], read_timeout_s: float) -> None:
        self._allow = frozenset(_origin(entry) for entry in allow)
        self._http = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Kept connections are dropped well before a server (uvicorn: 5 s) closes them, so that none is used while it dies.
            connector=aiohttp.TCPConnector(limit=500, keepalive_timeout=2),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, connect=10, sock_connect=3, sock_read=read_timeout_s),
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._http.close()

    def check(self, target: str) -> None:
        """Refuse a target that is not an allowed origin.

        Raises:
            VaultRefusal: bad_request, target_not_allowed.
        """
        try:
            origin, host = _origin(target), urlsplit(target).hostname or ""
        except ValueError:
            raise VaultRefusal(400, "bad_request", "X-Vault-Target must be an http or https URL.") from None
        if not (origin in self._allow if self._allow else _is_loopback(host)):
            raise VaultRefusal(403, "target_not_allowed", "This vault does not forward to that origin (see --allow).")

    async def forward(
        self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, send: Send
    ) -> None:
        """Pass the request on and stream the answer through ``send`` (ASGI).

        An answer that breaks off is left incomplete, so that the caller's connection breaks off too.

        Raises:
            VaultRefusal: target_unreachable, target_broken, target_timeout.
        """
        passed = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in _NOT_FORWARDED and not name.startswith(b"x-vault-")
        ]
        started = False
        try:
            async with self._http.request(
                method, URL(target, encoded=True), headers=passed, data=body or None, allow_redirects=False
            ) as answer:
                kept = [
                    (name.lower(), value)
                    for name, value in answer.raw_headers
                    if name.lower() not in _HOP_BY_HOP and not name.lower().startswith(b"x-vault-")
                ]
                started = True
                await send({"type": "http.response.start", "status": answer.status, "headers": kept})
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise VaultRefusal(
                502, "target_unreachable", "The target could not be reached; nothing was sent."
            ) from error
        except TimeoutError as error:
            if not started:
                raise VaultRefusal(504, "target_timeout", "The target did not answer in time.") from error
        except aiohttp.ClientError as error:
            if not started:
                raise VaultRefusal(502, "target_broken", "The connection to the target broke.") from error


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("not an http or https origin")
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
