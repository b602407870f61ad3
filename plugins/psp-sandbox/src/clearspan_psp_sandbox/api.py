"""The simulator's HTTP interface: an ASGI application. ``desk`` decides what happens, ``incidents`` what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from clearspan_psp_sandbox import pages, wire
from clearspan_psp_sandbox.bank import Bank, CaptureIn, ChargeIn, Operation, RefundIn, RuleBroken, VoidIn
from clearspan_psp_sandbox.book import Books
from clearspan_psp_sandbox.clock import Agenda, Clock
from clearspan_psp_sandbox.desk import Ask, Desk, Event, Reply, as_error, as_json
from clearspan_psp_sandbox.faults import Cut, Faults, Rates, Script
from clearspan_psp_sandbox.incidents import Incidents
from clearspan_psp_sandbox.webhooks import Deliver, Endpoint, Sending, Webhooks
from clearspan_psp_sandbox.wire import Receive, Send, Stream

BODY_MAX_BYTES = 64_000
PAGE_MAX = 100
_ACCOUNT = re.compile(rb"Bearer sk_sandbox_([a-z0-9_]{1,32})")

Body = TypeVar("Body", bound=msgspec.Struct)


class Advance(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/clock``; the clock only goes ahead."""

    advance_s: float


class Api:
    """The application.

    Args:
        seed: ids are a function of it.
        deliver: sends a message to the outside.
    """

    def __init__(self, book: Books, seed: str, clock: Clock, deliver: Deliver) -> None:
        self._clock = clock
        self._agenda = Agenda(clock)
        self._bank = Bank(seed)
        self._faults = Faults()
        self._webhooks = Webhooks(clock, self._agenda, book, self._faults, deliver)
        self._desk = Desk(book, self._bank, clock, self._agenda, self._faults, self._webhooks, self._decision)
        self._incidents = Incidents(self._desk, self._bank, clock)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # The server's start-up opens the agenda.
        self._agenda.run_due()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            answer = await self._route(scope, await _read_body(receive))
        except RuleBroken as broken:
            answer = as_json(broken.status, as_error(broken))
        except Cut as fault:
            await wire.cut(fault, receive, send, reset=True)
            return
        if isinstance(answer, Stream):
            try:
                await wire.stream(answer, send)
            except Cut as fault:
                await wire.cut(fault, receive, send, reset=False)
        else:
            await wire.put(answer, send)

    async def close(self) -> None:
        """Close the book."""
        await self._desk.close()

    async def _route(self, scope: dict[str, Any], body: bytes) -> Reply | Stream:
        method, path = scope["method"], scope["path"].strip("/").split("/")
        if method == "GET" and path == ["health"]:
            return as_json(200, b'{"status":"ok"}')
        self._agenda.run_due()
        if path[0] == "challenge" and len(path) == 2:
            return await self._challenge(method, path[1], body)
        headers = dict(scope["headers"])
        account = _account(headers.get(b"authorization", b""))
        match method, path:
            case "POST", ["v1", "charges", *rest]:
                key = headers.get(b"idempotency-key", b"").decode("latin-1")
                return await self._change(account, key, scope["path"], rest, body)
            case "GET", ["v1", "charges", charge_id]:
                return await self._charge(account, charge_id)
            case "GET", ["v1", "operations"]:
                return await self._look_up(account, _query(scope))
            case "GET", ["v1", "activity"]:
                return await self._activity(account, _query(scope))
            case "GET", ["v1", "book"]:
                operations, disputes = list(self._bank.book(account)), list(self._bank.dispute_book(account))
                return await self._tell({"account": account, "operations": operations, "disputes": disputes})
            case _, ["v1", ("faults" | "clock" | "webhooks" | "events"), *_]:
                return await self._control(account, method, path[1:], body)
            case _:
                raise _nothing_here()

    # -- what a merchant does ------------------------------------------------------------------------------------------

    async def _change(self, account: str, key: str, path: str, rest: list[str], body: bytes) -> Reply | Stream:
        digest = hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
        match rest:
            case []:
                wanted = _decode(body, ChargeIn)
                self._faults.rehearse(account, wanted.reference, wanted.metadata)
                decide = self._charging(account, wanted)
                ask = Ask(account, "charge", wanted.reference, wanted.amount, decide, key=key, digest=digest)
            case [charge_id, ("continue" | "captures" | "voids" | "refunds") as what]:
                verb = what.removesuffix("s")
                decide = self._decision(account, verb, charge_id, body)
                about = _decode(body, _About) if verb != "continue" else _About()
                charge = self._bank.find(charge_id)
                reference = about.reference or (charge.reference if charge else "")
                amount = about.amount or (charge.amount if charge else None)
                ask = Ask(account, verb, reference, amount, decide, charge_id, body, key, digest)
            case _:
                raise _nothing_here()
        if fault := self._faults.meet(account, ask.verb, ask.reference, ask.amount):
            return await self._incidents.change(fault, ask)
        return await self._desk.once(ask)

    def _charging(self, account: str, wanted: ChargeIn) -> Callable[[float], Operation]:
        return lambda now: self._bank.charge(account, wanted, now)

    def _decision(self, account: str, verb: str, charge_id: str, body: bytes) -> Callable[[float], Operation]:
        """What to do with a charge; decided when it is sure that the key is new."""
        bank = self._bank
        match verb:
            case "continue":
                return lambda now: bank.resume(bank.get(account, charge_id), now)
            case "capture":
                capture_in = _decode(body, CaptureIn)
                return lambda now: bank.capture(bank.get(account, charge_id), capture_in, now)
            case "void":
                void_in = _decode(body, VoidIn)
                return lambda now: bank.void(bank.get(account, charge_id), void_in, now)
            case _:
                refund_in = _decode(body, RefundIn)
                return lambda now: bank.refund(bank.get(account, charge_id), refund_in, now)

    async def _charge(self, account: str, charge_id: str) -> Reply | Stream:
        charge = self._bank.get(account, charge_id)
        fault = self._faults.meet(account, "lookup", charge.reference, charge.amount)

        async def look() -> Reply:
            told = self._incidents.told(fault, [charge])
            if not told:
                raise RuleBroken(404, "charge_not_found", "This account has no such charge.")
            return await self._tell(told[0])

        return await self._incidents.look(fault, look) if fault else await look()

    async def _look_up(self, account: str, query: dict[str, str]) -> Reply | Stream:
        reference = query.get("reference", "")
        found = self._bank.referenced(account, reference)
        fault = self._faults.meet(account, "lookup", reference, found[0].amount if found else None)

        async def look() -> Reply:
            told = self._incidents.told(fault, self._bank.referenced(account, reference))
            if fault and fault.id == "F12" and fault.word("kind") == "pages":
                return await self._tell(_page_of(told, query, size=1, first=0))
            return await self._tell(_page_of(told, query))

        return await self._incidents.look(fault, look) if fault else await look()

    async def _activity(self, account: str, query: dict[str, str]) -> Reply | Stream:
        since, until = _seconds(query, "since"), _seconds(query, "until")
        fault = self._faults.meet(account, "activity", "", None)

        async def look() -> Reply:
            return await self._tell(_page_of(self._bank.between(account, since, until), query))

        return await self._incidents.look(fault, look) if fault else await look()

    async def _tell(self, what: object) -> Reply:
        """When it is on the disk."""
        told = msgspec.json.encode(what)
        await self._desk.settled()
        return as_json(200, told)

    # -- what a rehearsal does -----------------------------------------------------------------------------------------

    async def _control(self, account: str, method: str, path: list[str], body: bytes) -> Reply:
        match method, path:
            case "PUT", ["faults"]:
                self._faults.set_rates(account, _decode(body or b"{}", Rates))
                self._desk.keep_settings()
            case "POST", ["faults", "scripts"]:
                self._faults.add(account, _decode(body, Script))
                self._desk.keep_settings()
            case "POST", ["clock"]:
                advance_s = _decode(body, Advance).advance_s
                if advance_s < 0:
                    raise RuleBroken(400, "invalid_request", "The clock only goes ahead.")
                self._clock.offset += advance_s
                self._desk.keep_settings(account, clock=True)
                self._agenda.moved()
            case "PUT", ["webhooks"]:
                self._webhooks.set_endpoint(account, _decode(body or b"{}", Endpoint))
                self._desk.keep_settings(account, endpoint=True)
            case "POST", ["webhooks", "send"]:
                return await self._tell({"sent": await self._webhooks.send(account, _decode(body or b"{}", Sending))})
            case "POST", ["events"]:
                return await self._tell(await self._desk.happen(account, _decode(body, Event)))
            case "GET", ["faults" | "clock" | "webhooks"]:
                pass
            case _:
                raise _nothing_here()
        match path[0]:
            case "faults":
                state = self._faults.state(account)
                rates = msgspec.to_builtins(state.chance)
                return await self._tell({"rates": {}} | rates | {"scripts": state.scripts, "injected": state.injected})
            case "clock":
                return await self._tell({"now": self._clock.now()})
            case _:
                messages = [message.told() for message in self._webhooks.of(account)]
                settings = msgspec.to_builtins(self._webhooks.endpoint(account))
                return await self._tell({"url": "", "paused": False} | settings | {"messages": messages})

    # -- what a payer does ---------------------------------------------------------------------------------------------

    async def _challenge(self, method: str, charge_id: str, body: bytes) -> Reply:
        charge = self._bank.find(charge_id)
        if charge is None or charge.three_ds is None or charge.three_ds.flow != "challenge":
            return _page(404, pages.missing(), None)
        if method == "POST":
            result = parse_qs(body.decode("utf-8", "replace")).get("result", [""])[0]
            if result in ("approve", "fail"):
                noted = self._bank.authenticate(charge, approved=result == "approve")
                if noted is not charge:
                    self._desk.book(noted)
                    charge = noted
            await self._desk.settled()
            if charge.three_ds and charge.three_ds.result != "pending" and charge.return_url:
                return 303, b"", {"location": pages.come_back(charge), "cache-control": "no-store"}
        await self._desk.settled()
        open_ = (
            charge.status == "requires_action" and charge.three_ds is not None and charge.three_ds.result == "pending"
        )
        return _page(200, pages.challenge(charge) if open_ else pages.done(charge), charge.return_url)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._agenda.run_due()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


class _About(msgspec.Struct):
    """What scripts look at in any body."""

    reference: str = ""
    amount: int | None = None


def _nothing_here() -> RuleBroken:
    return RuleBroken(404, "not_found", "There is nothing at this address.")


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


def _query(scope: dict[str, Any]) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}


def _seconds(query: dict[str, str], name: str) -> float:
    try:
        return float(query[name])
    except (KeyError, ValueError):
        raise RuleBroken(400, "invalid_request", f"Give {name} in seconds since 1970.") from None


def _page_of(
    found: list[Operation], query: dict[str, str], size: int = PAGE_MAX, first: int = PAGE_MAX
) -> dict[str, object]:
    """``{"operations": [...], "next": "<cursor>"}``; ``next`` is missing on the last page."""
    cursor = query.get("cursor", "")
    start = int(cursor) if cursor.isdecimal() and len(cursor) < 10 else 0
    end = start + (size if cursor else first)
    return {"operations": found[start:end]} | ({"next": str(end)} if end < len(found) else {})


async def _read_body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        if len(body) > BODY_MAX_BYTES:
            raise RuleBroken(413, "too_large", f"The body is larger than {BODY_MAX_BYTES} bytes.")
        message = await receive()
        body += message.get("body", b"")
    return body


def _page(status: int, html: str, return_url: str | None) -> Reply:
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": pages.policy(return_url),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return status, html.encode(), headers
