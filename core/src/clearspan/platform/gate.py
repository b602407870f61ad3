"""The gate: what every HTTP request passes before any route sees it.

An ASGI application around Litestar's. In this order: a request id (taken over when it is harmless, else made), limits
on headers and body, no API key in the query, no card number anywhere, then the route; and around all of it one log
line, the metrics and the security headers. A refusal here is the same problem document as everywhere.

A PSP's webhook has a limit of its own and is not looked through: refused for a card number it would come again for
ever. Its route masks what it keeps (``clearspan.psps.messages``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_plus

import msgspec
import structlog

from clearspan.platform import clock, ids
from clearspan.platform.pan import find_pan, find_pan_in_text
from clearspan.platform.problems import BodyTooLarge, DomainError, InvalidRequest
from clearspan.platform.telemetry import Metrics

AsgiScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

WEBHOOKS = "/webhooks"
"""Where PSPs send their messages: ``POST /webhooks/{token}``."""
_WEBHOOK = re.compile(rf"{WEBHOOKS}/[^/]+/?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_KEY_IN_URL = re.compile("csk_(?:test|live)_")
_SKIPPED_HEADERS = frozenset(
    {b"authorization", b"content-length", b"host", b"date", b"traceparent", b"tracestate", b"cookie"}
)
"""Headers that are never stored or logged, or whose digits are not free text. ``authorization`` holds our own key."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"strict-transport-security", b"max-age=31536000"),
)
log = structlog.get_logger("clearspan.http")


class PanDetected(DomainError):
    """A card number or a security code was sent to the gateway."""

    code = "pan_detected"
    status = 422
    title = "Card data must never be sent to the gateway"
    advice = (
        "Let the vault's hosted page collect the card and send its token. If this was no card number, change the value: "
        "use ids with letters in them."
    )


class KeyInUrl(DomainError):
    """An API key stood in the URL, where logs and histories keep it."""

    code = "api_key_in_url"
    status = 400
    title = "An API key must not be part of a URL"
    advice = "Send it as 'Authorization: Bearer ...', and rotate this key: URLs are kept in logs."


class HeadersTooLarge(DomainError):
    """The headers are over the limit."""

    code = "headers_too_large"
    status = 431
    title = "The headers are too large"


class Gate:
    """See the module's docstring.

    Args:
        app: what is behind the gate.
        metrics: counts requests.
        body_max: bytes.
        webhook_max: bytes of a PSP's webhook.
        header_max: bytes of all header names and values together.
    """

    def __init__(self, app: AsgiApp, metrics: Metrics, *, body_max: int, webhook_max: int, header_max: int) -> None:
        self._app = app
        self._metrics = metrics
        self._body_max = body_max
        self._webhook_max = webhook_max
        self._header_max = header_max

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started = clock.monotonic()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *(header for header in SECURITY_HEADERS if header[0] not in present),
                    *(((b"cache-control", b"no-store"),) if b"cache-control" not in present else ()),
                ]
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            try:
                body = await self._checked_body(scope, headers, receive)
            except DomainError as refusal:
                await _send_problem(answer, refusal, request_id)
                return
            if body is None:  # The client went away before it had sent everything.
                status = 499
                return
            await self._app(scope, _replay(body, receive), answer)
        finally:
            elapsed = clock.monotonic() - started
            route = _route(scope)
            self._metrics.request(scope["method"], route, status, elapsed)
            log.info("request", method=scope["method"], route=route, status=status, ms=round(elapsed * 1000, 1))

    async def _checked_body(
        self, scope: AsgiScope, headers: list[tuple[bytes, bytes]], receive: Receive
    ) -> bytes | None:
        if sum(len(name) + len(value) for name, value in headers) > self._header_max:
            raise HeadersTooLarge(f"All headers together may have {self._header_max} bytes.")
        query: bytes = scope["query_string"]
        if _KEY_IN_URL.search(unquote_plus(query.decode("latin-1"))) or _KEY_IN_URL.search(scope["path"]):
            raise KeyInUrl
        if b"%00" in query or "\0" in scope["path"]:
            raise InvalidRequest("No part of a URL may hold a NUL character (%00); leave it out.")
        if scope["method"] == "POST" and _WEBHOOK.fullmatch(scope["path"]):
            return await _read_body(headers, receive, self._webhook_max)
        if query and find_pan(query, content="form"):
            raise PanDetected(where="query")
        if find_pan_in_text(scope["path"]):
            raise PanDetected(where="path")
        content_type = b"application/json"
        for name, value in headers:
            if name == b"content-type":
                content_type = value
            if name not in _SKIPPED_HEADERS and find_pan_in_text(value.decode("latin-1")):
                raise PanDetected(where=f"header {name.decode('latin-1')}")
        raw = await _read_body(headers, receive, self._body_max)
        if raw:
            finding = find_pan(raw, content="form" if b"form" in content_type else "json")
            if finding is not None:
                raise PanDetected(where=finding.where, kind=finding.kind)
        elif raw is not None and scope["method"] in ("POST", "PATCH", "PUT"):
            return b"{}"  # Nothing sent means nothing chosen; a route that needs a field says which.
        return raw


async def _read_body(headers: list[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes | None:
    """All of it, or ``None`` when the client goes away before. No more than the limit is ever held.

    Raises:
        BodyTooLarge: it says so, or it is.
    """
    for name, value in headers:
        # A longer number is over any limit as well, and slow to read.
        if name == b"content-length" and value.isdigit() and int(value[:19]) > limit:
            raise BodyTooLarge(f"A body may have {limit} bytes.", limit_bytes=limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"A body may have {limit} bytes.", limit_bytes=limit)
        if not message.get("more_body", False):
            return bytes(body)


def problem_body(problem: DomainError, request_id: str) -> bytes:
    """The problem document, with the request id for support."""
    return msgspec.json.encode(problem.document() | {"request_id": request_id})


async def _send_problem(send: Send, problem: DomainError, request_id: str) -> None:
    headers = [(b"content-type", b"application/problem+json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers().items()]
    body = problem_body(problem, request_id)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text) and find_pan_in_text(text) is None:
                return text
    return ids.encode("req", clock.new_uuid())


def _route(scope: Mapping[str, Any]) -> str:
    """The route's template, never the path: labels stay few and ids stay out of metrics."""
    return str(scope.get("path_template") or "unmatched")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then pass on what comes (the disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
