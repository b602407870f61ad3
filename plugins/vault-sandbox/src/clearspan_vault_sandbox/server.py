"""The sandbox vault's server, in its own process and on its own origin.

``python -m clearspan_vault_sandbox.server --port 8082 --data-dir DIR [--allow http://127.0.0.1:8081]``

==========================  ============================================================================
``GET /health``             200 once it listens
``POST /sessions``          ``{"return_url"}`` -> ``{"id", "url", "expires_at"}``; the page to send a payer to
``GET, POST /capture/{id}``  the page; takes test cards only, then 303 to ``return_url?token=tok_...``
``GET /tokens/{token}``     what may be known of the card
``DELETE /tokens/{token}``  forget it
``ANY /forward``            see ``clearspan_vault_sandbox.forward``
==========================  ============================================================================

The API wants ``Authorization: Bearer <api key>``. ``/forward`` wants the same in ``X-Vault-Authorization``, because the
``Authorization`` there belongs to the target. Requests are not logged: a payer's typing must not end in a log.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import msgspec
import uvicorn

from clearspan_vault_sandbox import pages
from clearspan_vault_sandbox.cards import BY_NAME, BY_NUMBER
from clearspan_vault_sandbox.forward import BODY_MAX_BYTES, Forwarder, Send, VaultRefusal, fill
from clearspan_vault_sandbox.store import Session, Store, StoredCard

DEFAULT_API_KEY = "vk_sandbox"
SESSION_TTL_S = 1800
_RETURN_URL_MAX = 2000
_PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Its origin goes into the page's policy, so it may hold nothing but a host and a port.
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_EXPIRY = re.compile(r"(0?[1-9]|1[0-2]) ?/ ?(?:20)?([0-9]{2})")

Headers = Mapping[str, str]


class SessionIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /sessions``."""

    return_url: str


class Server:
    """The ASGI application."""

    def __init__(self, store: Store, forwarder: Callable[[], Forwarder], api_key: str) -> None:
        self._store = store
        self._new_forwarder = forwarder
        self._api_key = f"Bearer {api_key}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            headers = dict(scope["headers"])
            body = await _read_body(receive)
            if scope["path"] == "/forward":
                self._authorize(headers.get(b"x-vault-authorization", b""))
                target = headers.get(b"x-vault-target", b"").decode("latin-1")
                self._forwarder.check(target)
                await self._forwarder.forward(scope["method"], target, scope["headers"], fill(self._store, body), send)
            else:
                await _answer(send, *self._route(scope, headers, body))
        except VaultRefusal as refusal:
            error = {"error": {"code": refusal.code, "message": refusal.message}}
            await _answer(
                send, refusal.status, _json_headers() | {"x-vault-error": refusal.code}, msgspec.json.encode(error)
            )

    def _route(self, scope: dict[str, Any], headers: dict[bytes, bytes], body: bytes) -> tuple[int, Headers, bytes]:
        match scope["method"], scope["path"].strip("/").split("/"):
            case "GET", ["health"]:
                return 200, _json_headers(), b'{"status":"ok"}'
            case "GET" | "HEAD", ["capture", session_id]:
                return self._capture_page(session_id, parse_qs(scope["query_string"].decode("latin-1")))
            case "POST", ["capture", session_id]:
                return self._capture(session_id, parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True))
            case "POST", ["sessions"]:
                self._authorize(headers.get(b"authorization", b""))
                return self._open_session(body, f"{scope['scheme']}://{headers.get(b'host', b'').decode('latin-1')}")
            case "GET", ["tokens", token]:
                self._authorize(headers.get(b"authorization", b""))
                return self._describe(token)
            case "DELETE", ["tokens", token]:
                self._authorize(headers.get(b"authorization", b""))
                self._store.delete(token)
                return 204, {}, b""
            case _:
                raise VaultRefusal(404, "not_found", "There is nothing at this address.")

    def _authorize(self, given: bytes) -> None:
        if not hmac.compare_digest(given, self._api_key):
            raise VaultRefusal(401, "unauthorized", "The vault's API key is missing or wrong.")

    def _open_session(self, body: bytes, origin: str) -> tuple[int, Headers, bytes]:
        try:
            return_url = msgspec.json.decode(body, type=SessionIn).return_url
            parts = urlsplit(return_url)
            usable = (
                parts.scheme in ("http", "https")
                and _HOST.fullmatch(parts.netloc)
                and len(return_url) <= _RETURN_URL_MAX
            )
        except (msgspec.DecodeError, ValueError):
            usable = False
        if not usable:
            raise VaultRefusal(
                422, "invalid_return_url", f"Send return_url: http or https, {_RETURN_URL_MAX} characters at most."
            )
        session = Session(return_url, int(time.time()) + SESSION_TTL_S)
        session_id = self._store.sign(session)
        expires_at = datetime.fromtimestamp(session.expires_at, UTC)
        answer = {"id": session_id, "url": f"{origin}/capture/{session_id}", "expires_at": expires_at}
        return 201, _json_headers(), msgspec.json.encode(answer)

    def _describe(self, token: str) -> tuple[int, Headers, bytes]:
        stored = self._store.find(token)
        if stored is None:
            raise VaultRefusal(404, "unknown_token", "This vault does not know the token.")
        card = stored.card
        description = {
            "token": token,
            "brand": card.brand,
            "last4": card.number[-4:],
            "exp_month": stored.exp_month,
            "exp_year": stored.exp_year,
            "fingerprint": self._store.fingerprint(stored),
            "funding": card.funding,
            "issuer_country": card.issuer_country,
        }
        return 200, _json_headers(), msgspec.json.encode(description)

    def _capture_page(self, session_id: str, query: Mapping[str, list[str]]) -> tuple[int, Headers, bytes]:
        session = self._session(session_id)
        if session is None:
            return _expired()
        card = BY_NAME.get(query.get("card", [""])[0])
        return _page(200, pages.capture(session_id, pages.filled(card) if card else {}, {}), session.return_url)

    def _capture(self, session_id: str, form: Mapping[str, list[str]]) -> tuple[int, Headers, bytes]:
        """Keep the card, or say what is wrong; of the payer's typing only a test card's number is shown again."""
        session = self._session(session_id)
        if session is None:
            return _expired()
        number, expiry, cvc, name = (form.get(field, [""])[0].strip() for field in ("number", "expiry", "cvc", "name"))
        card = BY_NUMBER.get(re.sub(r"[ -]", "", number))
        errors = {}
        if card is None:
            errors["number"] = "This is a sandbox: use a test card."
        when = _EXPIRY.fullmatch(expiry)
        month, year = (int(when[1]), 2000 + int(when[2])) if when else (0, 0)
        today = datetime.now(UTC)
        if when is None:
            errors["expiry"] = "Enter the expiry date as MM/YY."
        elif (year, month) < (today.year, today.month):
            errors["expiry"] = "This date is in the past."
        digits = len(card.cvc) if card else 3
        if not re.fullmatch(r"[0-9]{3,4}", cvc) or (card and len(cvc) != digits):
            errors["cvc"] = f"Enter the {digits} digits of the security code."
        if not name:
            errors["name"] = "Enter a name; any will do."
        if errors or card is None:
            values = pages.filled(card) | dict.fromkeys(errors, "") if card else {}
            return _page(422, pages.capture(session_id, values, errors), session.return_url)
        token = self._store.add(StoredCard(card, month, year))
        parts = urlsplit(session.return_url)
        query = f"{parts.query}&" * bool(parts.query) + urlencode({"token": token})
        location = quote(urlunsplit(parts._replace(query=query)), safe="%/:=&?~#+!$,;'@()*[]")
        return 303, {"location": location, "cache-control": "no-store", "referrer-policy": "no-referrer"}, b""

    def _session(self, session_id: str) -> Session | None:
        session = self._store.read(session_id)
        return session if session and session.expires_at > time.time() else None

    async def _lifespan(self, receive: Callable[[], Any], send: Send) -> None:
        await receive()
        self._forwarder = self._new_forwarder()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._forwarder.close()
        self._store.close()
        await send({"type": "lifespan.shutdown.complete"})


def _json_headers() -> dict[str, str]:
    return {"content-type": "application/json", "cache-control": "no-store"}


def _page(status: int, html: str, return_url: str | None = None) -> tuple[int, Headers, bytes]:
    return status, _PAGE_HEADERS | {"content-security-policy": pages.policy(return_url)}, html.encode()


def _expired() -> tuple[int, Headers, bytes]:
    text = "Go back to the shop and start again. Nothing was saved."
    return _page(410, pages.message("This page has expired", text))


async def _read_body(receive: Callable[[], Any]) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_MAX_BYTES:
            raise VaultRefusal(413, "too_large", f"The body is larger than {BODY_MAX_BYTES} bytes.")
    return bytes(body)


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    if status != 204:
        pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="clearspan_vault_sandbox.server", description="The sandbox vault of Clearspan."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8082)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--api-key", default=DEFAULT_API_KEY)
    parser.add_argument("--allow", action="append", default=[], help="origin to forward to; none: any on the loopback")
    parser.add_argument("--read-timeout-s", type=float, default=65.0, help="the longest silence of a target")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    store = Store(options.data_dir)
    server = Server(store, lambda: Forwarder(options.allow, options.read_timeout_s), options.api_key)
    uvicorn.run(
        server,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # longer than any client keeps a connection
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
