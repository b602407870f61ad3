"""Where requests are decided: one key, one effect, one answer. What is decided is booked, and what is booked is told.

A decision and its place in memory happen without an ``await`` in between, so two requests never decide on the same state; the
answer goes out when the book has the line on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from clearspan_psp_sandbox import cards, disputes
from clearspan_psp_sandbox.bank import BY_TRACE, Amount, Bank, Operation, RuleBroken
from clearspan_psp_sandbox.book import Books, Line
from clearspan_psp_sandbox.clock import Agenda, Clock
from clearspan_psp_sandbox.disputes import Dispute
from clearspan_psp_sandbox.faults import Fault, Faults
from clearspan_psp_sandbox.faults import State as FaultState
from clearspan_psp_sandbox.keys import WINDOW_S, Keys, Remembered
from clearspan_psp_sandbox.webhooks import Attempt, Endpoint, Lie, Message, Webhooks

Reply = tuple[int, bytes, dict[str, str]]
Told = tuple[Message, Operation | Dispute]
_KEY = re.compile(r"[\x21-\x7e]{1,64}")
_NEVER_KEPT = frozenset({"not_a_test_card", "card_number_outside_card"})
"""Nothing of a request with a foreign card number is written, not even its hash."""


class Event(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/events``: something that no request asked for.

    Attributes:
        do: ``dispute`` (``charge``, ``amount``, ``status``), ``dispute_update`` (``dispute``, ``status``), ``return``
            (``charge``, ``amount``), ``fail_refund`` (``refund``), ``approve`` (``charge``: its issuer takes the no back),
            ``expire_authorization`` (``charge``).
    """

    do: str
    charge: str = ""
    dispute: str = ""
    refund: str = ""
    status: disputes.Status | None = None
    amount: Amount | None = None


class Ask(msgspec.Struct, frozen=True):
    """What a request wants.

    Attributes:
        reference, amount: of the operation, for scripts.
        decide: what to book at a moment, or ``RuleBroken``.
        charge, body: of all verbs but ``charge``: what ``decide`` was made of, to make it again.
        digest: of path and body.
    """

    account: str
    verb: str
    reference: str
    amount: int | None
    decide: Callable[[float], Operation]
    charge: str = ""
    body: bytes = b""
    key: str = ""
    digest: str = ""


class Promise(msgspec.Struct, omit_defaults=True):
    """What will happen at a time, whatever happens to the simulator until then.

    Attributes:
        operation: a charge that is decided and not booked; its id is reserved.
        verb, charge, body: another request, decided when its time has come.
        event: see there.
    """

    id: str
    account: str
    due_at: float
    operation: Operation | None = None
    verb: str = ""
    charge: str = ""
    body: msgspec.Raw = msgspec.Raw()
    key: str = ""
    digest: str = ""
    event: Event | None = None


class Desk:
    """The simulated acquirer's office."""

    def __init__(
        self,
        book: Books,
        bank: Bank,
        clock: Clock,
        agenda: Agenda,
        faults: Faults,
        webhooks: Webhooks,
        decision: Callable[[str, str, str, bytes], Callable[[float], Operation]],
    ) -> None:
        self._book, self._bank, self._clock, self._agenda = book, bank, clock, agenda
        self._faults, self._webhooks, self._decision = faults, webhooks, decision
        self._keys = Keys()
        self._promises: dict[str, Promise] = {}
        self._promised = 0
        self._early: list[Message] = []
        for line in book.read():
            self._reread(line)
        for promise in self._promises.values():
            self._expect(promise)
        for operation in bank.pending():
            self._settle_later(operation)
        webhooks.start()

    # -- requests ------------------------------------------------------------------------------------------------------

    async def once(self, ask: Ask, lie: Fault | None = None, *, late: bool = True) -> Reply:
        """Decide, book and answer; for a key that is known, answer as before.

        Args:
            lie: F13.
            late: let the slow card be slow, and hold its key meanwhile.
        """
        if not ask.key:
            return await self._decide(ask, late=late)
        if not _KEY.fullmatch(ask.key):
            raise RuleBroken(400, "invalid_idempotency_key", "An Idempotency-Key has 1 to 64 visible ASCII characters.")
        kind = lie.word("kind") if lie else ""
        if (ask.account, ask.key) in self._keys.in_flight and kind != "ignored":
            raise RuleBroken(409, "idempotency_key_in_flight", "The first request with this key is not answered yet.")
        window_s = lie.number("window_s") if lie and kind == "short_window" else WINDOW_S
        remembered = self._keys.find(ask.account, ask.key, self._clock.now(), window_s)
        if remembered and kind == "conflict":
            raise RuleBroken(409, "idempotency_key_in_flight", "The first request with this key is not answered yet.")
        if remembered and kind != "ignored":
            if remembered.digest != ask.digest and kind != "other_payload":
                raise RuleBroken(422, "idempotency_key_reused", "This key came with another request before.")
            await self._book.settled()
            status, answer, headers = as_json(remembered.status, remembered.answer)
            return status, answer, headers | {"idempotent-replayed": "true"}
        self._keys.in_flight.add((ask.account, ask.key))
        try:
            return await self._decide(ask, late=late)
        finally:
            self._keys.in_flight.discard((ask.account, ask.key))

    def known(self, ask: Ask) -> bool:
        """Whether the key was answered before."""
        return bool(ask.key and self._keys.find(ask.account, ask.key, self._clock.now()))

    def promise(self, ask: Ask, due_at: float) -> None:
        """Let a request take effect later, and be in flight until then; one that would be refused never does."""
        if ask.key and (
            (ask.account, ask.key) in self._keys.in_flight
            or self._keys.find(ask.account, ask.key, self._clock.now()) is not None
        ):
            return
        try:
            decided = ask.decide(self._clock.now())
        except RuleBroken:
            return
        promised = Promise(self._promise_id(), ask.account, due_at, key=ask.key, digest=ask.digest)
        if ask.verb == "charge":
            promised.operation = decided
            self._bank.reserve(decided)
        else:
            promised.verb, promised.charge, promised.body = ask.verb, ask.charge, msgspec.Raw(ask.body)
        self._promise(promised)

    def promise_event(self, account: str, event: Event, due_at: float) -> None:
        """Let something happen later."""
        self._promise(Promise(self._promise_id(), account, due_at, event=event))

    async def happen(self, account: str, event: Event) -> Operation | Dispute:
        """Let something happen now."""
        done = self._happen(account, event, "")
        await self.settled()
        return done

    def lie(self, operation: Operation, type_: str) -> None:
        """Make a message about what did not happen to an operation."""
        line = Line(at=self._clock.now(), account=operation.account)
        line.lie = msgspec.Raw(msgspec.json.encode(Lie(type_, operation)))
        self._book.add(line)
        self._tell([self._note_lie(line)])

    def book(self, operation: Operation) -> None:
        """Book what was decided elsewhere."""
        self._write(self._line(operation.account), operation)

    def keep_settings(self, account: str = "", *, endpoint: bool = False, clock: bool = False) -> None:
        """Write down what changed in an account's faults, its endpoint, or the clock."""
        for changed in sorted(self._faults.changed):
            state = msgspec.Raw(msgspec.json.encode(self._faults.state(changed)))
            self._book.add(Line(at=self._clock.now(), account=changed, faults=state))
        self._faults.changed.clear()
        if endpoint:
            kept = msgspec.Raw(msgspec.json.encode(self._webhooks.endpoint(account)))
            self._book.add(Line(at=self._clock.now(), account=account, endpoint=kept))
        if clock:
            self._book.add(Line(at=self._clock.now(), account=account, offset=self._clock.offset))

    async def settled(self) -> None:
        """Return when everything so far is on the disk, and told to whom it is told before the answer."""
        if self._faults.changed:
            self.keep_settings()
        early, self._early = self._early, []
        await self._book.settled()
        for message in early:
            await self._webhooks.hurry(message)

    async def close(self) -> None:
        """Close the book."""
        self._agenda.close()
        self._webhooks.close()
        await self._book.close()

    # -- decisions -----------------------------------------------------------------------------------------------------

    async def _decide(self, ask: Ask, *, late: bool) -> Reply:
        line = self._line(ask.account, ask.key, ask.digest)
        slow_s = 0
        try:
            operation = ask.decide(line.at)
        except RuleBroken as broken:
            if not ask.key or broken.code in _NEVER_KEPT:
                raise
            line.status, line.error = broken.status, msgspec.Raw(as_error(broken))
            self._write(line, None)
        else:
            if self._bank.find(operation.id) is operation:  # ``continue`` changed nothing
                await self.settled()
                return as_json(_status(operation), msgspec.json.encode(operation))
            self._write(line, operation)
            if late and operation.kind == "charge" and operation.card and BY_TRACE[operation.card].slow:
                slow_s = cards.delay_s(operation.amount)
        await self.settled()
        if slow_s:
            await self._clock.sleep(slow_s)
        return as_json(line.status, line.answer)

    def _write(self, line: Line, operation: Operation | None) -> None:
        """Make a line true, in memory and on its way to the disk."""
        if operation is not None:
            line.status = _status(operation)
            line.operation = msgspec.Raw(msgspec.json.encode(operation))
        self._book.add(line)
        self._tell(self._make_true(line, operation))
        if operation is not None:
            self._settle_later(operation)

    def _make_true(self, line: Line, operation: Operation | None) -> list[Told]:
        told: list[Told] = []
        if operation is not None:
            for one in self._bank.apply(operation, line.at):
                data = bytes(line.operation) if one is operation else msgspec.json.encode(one)
                told.append((self._webhooks.note(one, data, self._url(one), line.at), one))
        if line.key:
            self._keys.remember(line.account, line.key, Remembered(line.digest, line.status, line.answer), line.at)
        return told

    def _tell(self, told: list[Told]) -> None:
        self._early += [message for message, said in told if self._webhooks.release(message, said)]

    def _settle_later(self, operation: Operation) -> None:
        if operation.status != "pending" or operation.settles_at is None:
            return

        def settle() -> None:
            if settled := self._bank.settle(operation.id, self._clock.now()):
                self.book(settled)

        self._agenda.put(operation.settles_at, self._by_itself(settle))

    # -- promises ------------------------------------------------------------------------------------------------------

    def _promise_id(self) -> str:
        self._promised += 1
        return f"promise-{self._promised}"

    def _promise(self, promise: Promise) -> None:
        line = self._line(promise.account)
        line.promise = msgspec.Raw(msgspec.json.encode(promise))
        self._book.add(line)
        self._promises[promise.id] = promise
        self._expect(promise)

    def _expect(self, promise: Promise) -> None:
        if promise.key:
            self._keys.in_flight.add((promise.account, promise.key))
        self._agenda.put(promise.due_at, self._by_itself(lambda: self._keep(promise)))

    def _keep(self, promise: Promise) -> None:
        del self._promises[promise.id]
        if promise.key:
            self._keys.in_flight.discard((promise.account, promise.key))
        line = self._line(promise.account, promise.key, promise.digest)
        line.kept = promise.id
        try:
            if promise.event:
                self._happen(promise.account, promise.event, promise.id)
            elif promise.operation:
                self._write(line, self._bank.dated(promise.operation, line.at))
            else:
                decide = self._decision(promise.account, promise.verb, promise.charge, bytes(promise.body))
                operation: Operation | None = decide(line.at)
                if operation and self._bank.find(operation.id) is operation:  # ``continue`` changes nothing
                    line.key, operation = "", None
                self._write(line, operation)
        except RuleBroken as broken:
            line.status, line.error = broken.status, msgspec.Raw(as_error(broken))
            self._write(line, None)

    def _by_itself(self, act: Callable[[], None]) -> Callable[[], None]:
        """What happens without a request is told without one too."""

        def acted() -> None:
            act()
            if self._early or self._faults.changed:
                self._webhooks.spawn(self.settled())

        return acted

    # -- events --------------------------------------------------------------------------------------------------------

    def _happen(self, account: str, event: Event, promise: str) -> Operation | Dispute:
        line = self._line(account)
        line.kept = promise
        if event.do in ("dispute", "return", "dispute_update"):
            dispute = self._disputed(account, event, line.at)
            line.dispute = msgspec.Raw(msgspec.json.encode(dispute))
            self._book.add(line)
            self._tell([self._note_dispute(line, dispute)])
            return dispute
        match event.do:
            case "fail_refund":
                operation = self._bank.fail_refund(account, event.refund)
            case "approve":
                operation = self._bank.approve(self._bank.get(account, event.charge))
            case "expire_authorization":
                operation = self._bank.expire(self._bank.get(account, event.charge))
            case _:
                raise RuleBroken(400, "unknown_event", "See the documentation for what can be done.")
        self._write(line, operation)
        return operation

    def _disputed(self, account: str, event: Event, now: float) -> Dispute:
        if event.do == "dispute_update":
            if event.status is None:
                raise RuleBroken(400, "status_missing", "Say which status the dispute gets.")
            return self._bank.redispute(account, event.dispute, event.status)
        status: Any = "returned" if event.do == "return" else event.status or "needs_response"
        return self._bank.dispute(self._bank.get(account, event.charge), status, event.amount, now)

    def _note_dispute(self, line: Line, dispute: Dispute) -> Told:
        self._bank.apply_dispute(dispute)
        url = self._bank.get(dispute.account, dispute.charge).webhook_url
        return self._webhooks.note(dispute, bytes(line.dispute), url, line.at), dispute

    def _note_lie(self, line: Line) -> Told:
        lie = msgspec.json.decode(line.lie, type=Lie)
        data = msgspec.json.encode(lie.operation)
        return self._webhooks.note(lie.operation, data, self._url(lie.operation), line.at, lie.type), lie.operation

    # -- the book ------------------------------------------------------------------------------------------------------

    def _line(self, account: str, key: str = "", digest: str = "") -> Line:
        return Line(at=self._clock.now(), account=account, key=key, digest=digest)

    def _url(self, operation: Operation) -> str | None:
        return operation.webhook_url or (
            self._bank.get(operation.account, operation.charge).webhook_url if operation.charge else None
        )

    def _reread(self, line: Line) -> None:
        operation = msgspec.json.decode(line.operation, type=Operation) if line.operation else None
        self._make_true(line, operation)
        if line.dispute:
            self._note_dispute(line, msgspec.json.decode(line.dispute, type=Dispute))
        if line.promise:
            promise = msgspec.json.decode(line.promise, type=Promise)
            self._promised += 1
            self._promises[promise.id] = promise
            if promise.operation:
                self._bank.reserve(promise.operation)
        self._promises.pop(line.kept, None)
        if line.lie:
            self._note_lie(line)
        if line.attempt:
            self._webhooks.restore_attempt(msgspec.json.decode(line.attempt, type=Attempt), line.at)
        if line.faults:
            self._faults.restore(line.account, msgspec.json.decode(line.faults, type=FaultState))
        if line.endpoint:
            self._webhooks.restore_endpoint(line.account, msgspec.json.decode(line.endpoint, type=Endpoint))
        if line.offset is not None:
            self._clock.offset = line.offset


def as_error(broken: RuleBroken) -> bytes:
    """The body of a refusal."""
    return msgspec.json.encode({"error": {"code": broken.code, "message": broken.message}})


def as_json(status: int, body: bytes) -> Reply:
    """A JSON answer."""
    return status, body, {"content-type": "application/json"}


def _status(operation: Operation) -> int:
    return 402 if operation.status == "declined" else 200
