"""What each fault does to one exchange; ``faults.TABLE`` says it in words."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from clearspan_psp_sandbox.bank import Bank, Operation, RuleBroken, declined
from clearspan_psp_sandbox.clock import Clock
from clearspan_psp_sandbox.desk import Ask, Desk, Event, Reply, as_error, as_json
from clearspan_psp_sandbox.faults import Cut, Fault
from clearspan_psp_sandbox.wire import Stream

_CHUNK = 64_000
_ENDLESS_CHUNKS_MAX = 20_000
"""An endless answer ends after 1.2 GB, so that a client without a limit does not take the machine with it."""


class Incidents:
    """The faults at work."""

    def __init__(self, desk: Desk, bank: Bank, clock: Clock) -> None:
        self._desk, self._bank, self._clock = desk, bank, clock

    async def change(self, fault: Fault, ask: Ask) -> Reply | Stream:
        """A request that would book something.

        Raises:
            Cut: no answer.
            RuleBroken: a refusal.
        """
        self._desk.keep_settings()

        async def properly() -> Reply:
            try:
                return await self._desk.once(ask, fault if fault.id == "F13" else None, late=False)
            except RuleBroken as broken:
                return as_json(broken.status, as_error(broken))

        match fault.id:
            case "F3":
                return await self._promise(fault, ask)
            case "F9" if fault.word("kind") == "late_success" and ask.verb == "charge":
                unlucky = replace(ask, decide=lambda now: _refused(ask.decide(now)))
                return await self._contradict(fault, ask, await self._desk.once(unlucky, late=False))
            case "F9":
                return await self._contradict(fault, ask, await properly())
            case "F10" if fault.flag("checked") and self._desk.known(ask):
                return await properly()
            case "F14" if ask.verb in ("capture", "void"):
                charge = self._bank.get(ask.account, ask.charge)
                if charge.open_amount:
                    await self._desk.happen(ask.account, Event("expire_authorization", charge=charge.id))
            case "F14":
                reply = await properly()
                refund = _booked(self._bank, reply)
                if refund and refund.status == "succeeded":
                    self._later(fault, ask.account, Event("fail_refund", refund=refund.id))
                    await self._desk.settled()
                return reply
            case "F15":
                reply = await properly()
                charged = _booked(self._bank, reply)
                if charged and charged.status == "succeeded":
                    self._later(fault, ask.account, Event(fault.word("kind"), charge=charged.id))
                    await self._desk.settled()
                return reply
        return await self._transport(fault, properly)

    async def look(self, fault: Fault, look: Callable[[], Awaitable[Reply]]) -> Reply | Stream:
        """A request that only reads; F12 and the lookups of F9 are in ``told`` instead.

        Raises:
            Cut: no answer.
        """
        self._desk.keep_settings()
        return await self._transport(fault, look)

    def told(self, fault: Fault | None, found: list[Operation]) -> list[Operation]:
        """What a lookup tells about what is there, under F9 and F12."""
        if fault is None or fault.id not in ("F9", "F12"):
            return found
        if fault.id == "F9":
            return [_refused(one) if one.status == "succeeded" else one for one in found]
        edge = self._clock.now() - fault.number("lag_s")
        fresh = [one for one in found if self._bank.last_change(one.id).at > edge]
        match fault.word("kind"):
            case "lag":
                return [one for one in found if one not in fresh]
            case "flapping":
                return [one for one in found if one not in fresh or fault.chance(one.id) < 0.5]
            case "stale":
                before = ((self._bank.last_change(one.id).before if one in fresh else one) for one in found)
                return [one for one in before if one is not None]
        return found

    async def _transport(self, fault: Fault, properly: Callable[[], Awaitable[Reply]]) -> Reply | Stream:
        """Faults of the way to the PSP and back, whatever was asked."""
        match fault.id:
            case "F1":
                await properly()
                await self._hang(fault)
                raise Cut("after")
            case "F2":
                await self._hang(fault)
                raise Cut("during")
            case "F4":
                if fault.flag("booked"):
                    await properly()
                return _gateway_error(int(fault.number("status")))
            case "F5":
                return await self._reset(fault, properly)
            case "F6":
                return self._strange(fault, await properly())
            case "F7":
                return _malformed(fault.word("kind"), await properly())
            case "F8":
                return self._wrong(fault.word("kind"), await properly())
            case "F10":
                wait = int(fault.number("retry_after_s"))
                refusal = RuleBroken(429, "too_many_requests", "Slow down.")
                status, body, headers = as_json(429, as_error(refusal))
                return status, body, headers | ({"retry-after": str(wait)} if wait else {})
            case "F11":
                await self._hang(fault)
                return await properly() if fault.word("kind") == "brown_out" else _gateway_error(503)
        return await properly()

    async def _hang(self, fault: Fault) -> None:
        if hang_s := fault.number("hang_s"):
            await self._clock.sleep(hang_s)

    async def _promise(self, fault: Fault, ask: Ask) -> Reply:
        self._desk.promise(ask, self._clock.now() + fault.number("delay_s"))
        await self._desk.settled()
        await self._hang(fault)
        raise Cut("during")

    async def _contradict(self, fault: Fault, ask: Ask, reply: Reply) -> Reply:
        operation = _booked(self._bank, reply)
        if operation is None:
            return reply
        kind = fault.word("kind")
        if kind == "late_success" and operation.kind == "charge" and operation.status == "declined":
            self._later(fault, ask.account, Event("approve", charge=operation.id))
        elif operation.status != "succeeded":
            return reply
        elif kind == "response_declined":
            return as_json(402, msgspec.json.encode(_refused(operation)))
        else:
            self._desk.lie(_refused(operation), f"{operation.kind}.declined")
        await self._desk.settled()
        return reply

    def _later(self, fault: Fault, account: str, event: Event) -> None:
        self._desk.promise_event(account, event, self._clock.now() + fault.number("delay_s"))

    async def _reset(self, fault: Fault, properly: Callable[[], Awaitable[Reply]]) -> Reply | Stream:
        when: Any = fault.word("when")
        if when in ("before", "during"):
            raise Cut(when)
        status, body, headers = await properly()
        if when == "after":
            raise Cut("after")

        async def half() -> AsyncIterator[bytes]:
            yield body[: len(body) // 2]
            raise Cut("after")

        return Stream(status, headers | {"content-length": str(len(body))}, half())

    def _wrong(self, kind: str, reply: Reply) -> Reply:
        status, body, headers = reply
        operation = _booked(self._bank, reply)
        if operation is None and b'"amount":' not in body:
            return reply
        changes: dict[str, Any] = {"reference": "of-somebody-else"}
        match kind:
            case "amount":
                changes = {"amount": (operation.amount if operation else 1) + 1}
            case "currency":
                changes = {"currency": "GBP" if operation and operation.currency == "USD" else "USD"}
            case "account":
                changes = {"account": "somebody_else"}
            case "object" if operation:
                others = (one for one in self._bank.book(operation.account) if one.id != operation.id)
                if (other := next(others, None)) is not None:
                    return as_json(status, msgspec.json.encode(other))
        return status, _rewritten(body, changes), headers

    def _strange(self, fault: Fault, reply: Reply) -> Stream:
        status, body, headers = reply
        size = int(fault.number("size"))
        match fault.word("kind"):
            case "drip":
                pieces: AsyncIterator[bytes] = self._drip(body, fault.number("interval_s"))
                headers = headers | {"content-length": str(len(body))}
            case "large":
                pieces = _each(_padded(body, size))
            case "gzip_bomb":
                pieces = _each(_compressed(_padded(body, size)))
                headers = headers | {"content-encoding": "gzip"}
            case _:
                pieces = _each(b" " * _CHUNK for _ in range(_ENDLESS_CHUNKS_MAX))
        return Stream(status, headers, pieces)

    async def _drip(self, body: bytes, interval_s: float) -> AsyncIterator[bytes]:
        for place in range(len(body)):
            yield body[place : place + 1]
            await self._clock.sleep(interval_s)


def _refused(operation: Operation) -> Operation:
    """As if the issuer had said no."""
    return declined(
        replace(operation, captured=0, fee=0, settles_at=None, settles_as=None, network_transaction_id=None),
        "do_not_honor",
    )


async def _each(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)  # others want to be answered too


def _padded(body: bytes, size: int) -> Iterator[bytes]:
    """Still the same JSON, with spaces after it."""
    yield body
    for _ in range(max(0, size - len(body)) // _CHUNK):
        yield b" " * _CHUNK


def _compressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    press = zlib.compressobj(6, wbits=31)
    for chunk in chunks:
        if pressed := press.compress(chunk):
            yield pressed
    yield press.flush()


def _gateway_error(status: int) -> Reply:
    return status, b"<html><h1>The server is not well</h1></html>", {"content-type": "text/html"}


def _booked(bank: Bank, reply: Reply) -> Operation | None:
    """The operation that was answered, as it is booked."""
    return bank.find(str(msgspec.json.decode(reply[1]).get("id")))


def _malformed(kind: str, reply: Reply) -> Reply:
    status, body, headers = reply
    # The key that stands twice: what stands last wins with most readers.
    said = {"wrong_type": '"one"', "nan": "NaN", "duplicate_keys": '@,"amount":1', "unknown_status": "@"}
    match kind:
        case "truncated":
            return status, body[: len(body) // 2], headers
        case "list":
            return status, b"[" + body + b"]", headers
        case "empty":
            return 200, b"", {}
        case _ if kind in said and b'"amount":' in body:
            changes = {"status": "shiny"} if kind == "unknown_status" else {}
            return status, _rewritten(body, changes, said[kind]), headers
    return 200, b"<!doctype html><title>Maintenance</title><h1>Back soon</h1>", {"content-type": "text/html"}


def _rewritten(body: bytes, changes: Mapping[str, Any], amount: str = "@") -> bytes:
    """An answer with other fields in each of its operations; ``amount`` is JSON, ``@`` in it the true amount."""

    def rewrite(operation: dict[str, Any]) -> dict[str, Any]:
        raw = msgspec.Raw(amount.replace("@", str(operation.get("amount"))).encode())
        return {**operation, "amount": raw, **changes}

    answer = msgspec.json.decode(body)
    if "operations" in answer:
        return msgspec.json.encode(answer | {"operations": [rewrite(one) for one in answer["operations"]]})
    return msgspec.json.encode(rewrite(answer))
