"""The simulator's HTTP interface: an ASGI application over the bank, the book and the keys.

A decision and its place in memory happen without an ``await`` in between, so two requests never decide on the same state; the
answer goes out when the book has the line on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from clearspan_psp_sandbox import cards, pages
from clearspan_psp_sandbox.bank import (
    BY_TRACE,
    Bank,
    CaptureIn,
    ChargeIn,
    Operation,
    RefundIn,
    RuleBroken,
    VoidIn,
)
from clearspan_psp_sandbox.book import Book, Line
from clearspan_psp_sandbox.keys import Keys, Remembered

BODY_MAX_BYTES = 64_000
_KEY = re.compile(r"[\x21-\x7e]{1,64}")
_ACCOUNT = re.compile(rb"Bearer sk_sandbox_([a-z0-9_]{1,32})")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Reply = tuple[int, bytes, dict[str, str]]
Body = TypeVar("Body", bound=msgspec.Struct)


class Api:
    """The application.

    Args:
        now: seconds since 1970.
    """

    def __init__(self, book: Book, seed: str, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now
        self._bank = Bank(seed)
        self._keys = Keys()
        for line in book.read():
            if line.operation:
                self._bank.apply(msgspec.json.decode(line.operation, type=Operation))
            if line.key:
                self._keys.remember(line.account, line.key, Remembered(line.digest, line.status, line.answer), line.at)

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            reply = await self._route(scope, await _read_body(receive))
        except RuleBroken as broken:
            reply = broken.status, _error(broken), {"content-type": "application/json"}
        status, body, headers = reply
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    async def close(self) -> None:
        """Close the book."""
        await self._book.close()

    async def _route(self, scope: dict[str, Any], body: bytes) -> Reply:
        method, path = scope["method"], scope["path"].strip("/").split("/")
        if method == "GET" and path == ["health"]:
            return _json(200, b'{"status":"ok"}')
        self._settle_due()
        if path[0] == "challenge" and len(path) == 2:
            return await self._challenge(method, path[1], body)
        headers = dict(scope["headers"])
        account = _account(headers.get(b"authorization", b""))
        match method, path:
            case "GET", ["v1", "charges", charge_id]:
                charge = self._bank.get(account, charge_id)
                await self._book.settled()
                return _json(200, msgspec.json.encode(charge))
            case "GET", ["v1", "operations"]:
                reference = parse_qs(scope["query_string"].decode("latin-1")).get("reference", [""])[0]
                found = self._bank.referenced(account, reference)
                await self._book.settled()
                return _json(200, msgspec.json.encode({"operations": found}))
            case "GET", ["v1", "book"]:
                whole = list(self._bank.book(account))
                await self._book.settled()
                return _json(200, msgspec.json.encode({"account": account, "operations": whole}))
            case "POST", ["v1", "charges", *rest]:
                key = headers.get(b"idempotency-key", b"").decode("latin-1")
                return await self._once(account, key, scope["path"], body, self._decision(account, rest, body))
            case _:
                raise RuleBroken(404, "not_found", "There is nothing at this address.")

    def _decision(self, account: str, rest: list[str], body: bytes) -> Callable[[], Operation]:
        """What a POST asks for; called when it is sure that the key is new."""
        bank, now = self._bank, self._now()
        match rest:
            case []:
                charge_in = _decode(body, ChargeIn)
                return lambda: bank.charge(account, charge_in, now)
            case [charge_id, "continue"]:
                return lambda: bank.resume(bank.get(account, charge_id), now)
            case [charge_id, "captures"]:
                capture_in = _decode(body, CaptureIn)
                return lambda: bank.capture(bank.get(account, charge_id), capture_in, now)
            case [charge_id, "voids"]:
                void_in = _decode(body, VoidIn)
                return lambda: bank.void(bank.get(account, charge_id), void_in, now)
            case [charge_id, "refunds"]:
                refund_in = _decode(body, RefundIn)
                return lambda: bank.refund(bank.get(account, charge_id), refund_in, now)
            case _:
                raise RuleBroken(404, "not_found", "There is nothing at this address.")

    async def _once(self, account: str, key: str, path: str, body: bytes, decide: Callable[[], Operation]) -> Reply:
        """Decide, book and answer; for a key that is known, answer as before."""
        if not key:
            return await self._decide(account, "", "", decide)
        if not _KEY.fullmatch(key):
            raise RuleBroken(400, "invalid_idempotency_key", "An Idempotency-Key has 1 to 64 visible ASCII characters.")
        if (account, key) in self._keys.in_flight:
            raise RuleBroken(409, "idempotency_key_in_flight", "The first request with this key is not answered yet.")
        digest = hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
        if remembered := self._keys.find(account, key, self._now()):
            if remembered.digest != digest:
                raise RuleBroken(422, "idempotency_key_reused", "This key came with another request before.")
            status, answer, headers = _json(remembered.status, remembered.answer)
            return status, answer, headers | {"idempotent-replayed": "true"}
        self._keys.in_flight.add((account, key))
        try:
            return await self._decide(account, key, digest, decide)
        finally:
            self._keys.in_flight.discard((account, key))

    async def _decide(self, account: str, key: str, digest: str, decide: Callable[[], Operation]) -> Reply:
        line = Line(at=self._now(), account=account, key=key, digest=digest)
        late = 0
        try:
            operation = decide()
        except RuleBroken as broken:
            if not key or broken.code in _NEVER_KEPT:
                raise
            line.status, line.error = broken.status, msgspec.Raw(_error(broken))
        else:
            line.status = 402 if operation.status == "declined" else 200
            line.operation = msgspec.Raw(msgspec.json.encode(operation))
            known = self._bank.find(operation.id)
            if known is operation:  # ``continue`` changed nothing
                await self._book.settled()
                return _json(line.status, bytes(line.operation))
            self._bank.apply(operation)
            if operation.kind == "charge" and operation.card and BY_TRACE[operation.card].slow:
                late = cards.delay_s(operation.amount)
        if key:
            self._keys.remember(account, key, Remembered(digest, line.status, line.answer), line.at)
        self._book.add(line)
        await self._book.settled()
        if late:
            await asyncio.sleep(late)
        return _json(line.status, line.answer)

    async def _challenge(self, method: str, charge_id: str, body: bytes) -> Reply:
        charge = self._bank.find(charge_id)
        if charge is None or charge.three_ds is None or charge.three_ds.flow != "challenge":
            return _page(404, pages.missing(), None)
        if method == "POST":
            result = parse_qs(body.decode("utf-8", "replace")).get("result", [""])[0]
            if result in ("approve", "fail"):
                noted = self._bank.authenticate(charge, approved=result == "approve")
                if noted is not charge:
                    self._apply(noted)
                    charge = noted
            await self._book.settled()
            if charge.three_ds and charge.three_ds.result != "pending" and charge.return_url:
                return 303, b"", {"location": pages.come_back(charge), "cache-control": "no-store"}
        await self._book.settled()
        open_ = (
            charge.status == "requires_action" and charge.three_ds is not None and charge.three_ds.result == "pending"
        )
        return _page(200, pages.challenge(charge) if open_ else pages.done(charge), charge.return_url)

    def _settle_due(self) -> None:
        """End the pending operations whose time has come: whoever asks next sees it, and the book has it."""
        for operation in self._bank.due(self._now()):
            self._apply(operation)

    def _apply(self, operation: Operation) -> None:
        self._bank.apply(operation)
        encoded = msgspec.Raw(msgspec.json.encode(operation))
        self._book.add(Line(at=self._now(), account=operation.account, operation=encoded))

    async def _lifespan(self, receive: Callable[[], Any], send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


_NEVER_KEPT = frozenset({"not_a_test_card", "card_number_outside_card"})
"""Nothing of a request with a foreign card number is written, not even its hash."""


def _account(authorization: bytes) -> str:
    if found := _ACCOUNT.fullmatch(authorization):
        return found[1].decode()
    raise RuleBroken(401, "unauthorized", "Send Authorization: Bearer sk_sandbox_<account>.")


def _decode(body: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A validation message names the place and the rule, never the value.
        raise RuleBroken(400, "invalid_request", str(error)) from None


async def _read_body(receive: Callable[[], Any]) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        if len(body) > BODY_MAX_BYTES:
            raise RuleBroken(413, "too_large", f"The body is larger than {BODY_MAX_BYTES} bytes.")
        message = await receive()
        body += message.get("body", b"")
    return body


def _error(broken: RuleBroken) -> bytes:
    return msgspec.json.encode({"error": {"code": broken.code, "message": broken.message}})


def _json(status: int, body: bytes) -> Reply:
    return status, body, {"content-type": "application/json"}


def _page(status: int, html: str, return_url: str | None) -> Reply:
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": pages.policy(return_url),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return status, html.encode(), headers
