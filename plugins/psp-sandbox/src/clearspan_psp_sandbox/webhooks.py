"""Messages: every booked change makes one, and it is sent until somebody answers 2xx.

Body: ``{"id": "evt_..", "type": "charge.succeeded", "account": "alpha", "created": <unix>, "sequence": n, "data": <operation or
dispute>}``; ``sequence`` counts the messages about one object from 1. It goes to the account's address (``PUT /v1/webhooks``),
else to the charge's ``webhook_url``, else nowhere. Without a 2xx it is sent again after ``RETRIES_S``, for three days.

A message is a function of the book's lines, so the book holds only how its delivery went. A restart loses none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import msgspec

from clearspan_psp_sandbox import signatures
from clearspan_psp_sandbox.bank import Operation, Url, letters
from clearspan_psp_sandbox.book import Books, Line
from clearspan_psp_sandbox.clock import Agenda, Clock
from clearspan_psp_sandbox.disputes import Dispute
from clearspan_psp_sandbox.faults import Fault, Faults

Deliver = Callable[[str, dict[str, str], bytes], Awaitable[int]]
"""Address, headers and body; gives the HTTP status, 0 when there was no answer."""

FIRST_S = 0.1
"""A message's first delivery: usually after the answer to the request that caused it."""
RETRIES_S = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0)
"""Between two deliveries; the last is repeated."""
GIVEN_UP_S = 3 * 86_400
_AT_ONCE = 16
_SKEW_S = 2 * signatures.TOLERANCE_S


class Endpoint(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``PUT /v1/webhooks``.

    Attributes:
        url: where the account's messages go; empty: to each charge's own.
        secrets: each signs; empty: the account's default one.
        paused: messages wait.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^(https?://[!-~]{1,2000})?$")] = ""
    secrets: Annotated[list[str], msgspec.Meta(max_length=8)] = msgspec.field(default_factory=list)
    paused: bool = False


class Sending(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/webhooks/send``: messages to send now, again or for the first time; it is answered when all are sent.

    Attributes:
        ids: which, in this order; ``None``: every one there is.
        times: how often each.
        shuffle_seed: send all copies in an order drawn from it.
        parallel: all at once.
        secret: sign with this instead.
        timestamp_shift_s: sign as if it were so much later.
        url: send there instead.
    """

    ids: list[str] | None = None
    times: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    shuffle_seed: int | None = None
    parallel: bool = False
    secret: str | None = None
    timestamp_shift_s: int = 0
    url: Url | None = None


class Attempt(msgspec.Struct, omit_defaults=True):
    """How a delivery of one message about an object went; ``asked``: somebody asked for it; ``lost``: there will be none."""

    about: str
    sequence: int
    status: int = 0
    asked: bool = False
    lost: bool = False


class Lie(msgspec.Struct, omit_defaults=True):
    """A message about something that did not happen."""

    type: str
    operation: Operation


class Message:
    """One message.

    Attributes:
        about: the object's id.
        url: the charge's own address.
        attempts: the statuses that were answered, 0 for none.
        due_at: when it is sent next; ``None``: not by itself.
    """

    def __init__(
        self, said: Operation | Dispute, type_: str, data: bytes, created: float, sequence: int, url: str
    ) -> None:
        self.about = said.id
        self.type = type_
        self.account = said.account
        self.created = created
        self.sequence = sequence
        self.data = data
        self.url = url
        self.attempts: list[int] = []
        self.delivered = False
        self.lost = False
        self.due_at: float | None = None
        self.fault: Fault | None = None

    @property
    def id(self) -> str:
        """The same whenever it is sent."""
        return f"evt_{letters(f'{self.about}/{self.sequence}')}"

    @property
    def body(self) -> bytes:
        """The bytes that are sent and signed."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "type": self.type,
                "account": self.account,
                "created": int(self.created),
                "sequence": self.sequence,
                "data": msgspec.Raw(self.data),
            }
        )

    def told(self) -> dict[str, object]:
        """For ``GET /v1/webhooks``."""
        return {
            "id": self.id,
            "type": self.type,
            "body": self.body.decode(),
            "attempts": self.attempts,
            "delivered": self.delivered,
            "lost": self.lost,
            "due_at": self.due_at,
        }


class Webhooks:
    """The messages of all accounts."""

    def __init__(self, clock: Clock, agenda: Agenda, book: Books, faults: Faults, deliver: Deliver) -> None:
        self._clock, self._agenda, self._book, self._faults, self._deliver = clock, agenda, book, faults, deliver
        self._messages: dict[tuple[str, int], Message] = {}
        self._of_account: dict[str, list[Message]] = {}
        self._counts: dict[str, int] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._lanes = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def endpoint(self, account: str) -> Endpoint:
        """Where its messages go."""
        return self._endpoints.get(account) or Endpoint()

    def of(self, account: str) -> list[Message]:
        """Every message ever made, oldest first."""
        return self._of_account.get(account, [])

    def secrets(self, account: str) -> list[str]:
        """What signs."""
        return self.endpoint(account).secrets or [signatures.default_secret(account)]

    def restore_endpoint(self, account: str, endpoint: Endpoint) -> None:
        """As the book has it."""
        self._endpoints[account] = endpoint

    def restore_attempt(self, attempt: Attempt, at: float) -> None:
        """As the book has it."""
        self._count(self._messages[attempt.about, attempt.sequence], attempt, at)

    def start(self) -> None:
        """After the book was read: send what is not delivered."""
        for message in self._messages.values():
            self._plan(message)

    def set_endpoint(self, account: str, endpoint: Endpoint) -> None:
        """From now on; what waited goes out."""
        self._endpoints[account] = endpoint
        for message in self.of(account):
            self._plan(message)

    def note(self, said: Operation | Dispute, data: bytes, url: str | None, at: float, type_: str = "") -> Message:
        """Make the message; ``data`` is the encoded object. It is not planned yet."""
        sequence = self._counts[said.id] = self._counts.get(said.id, 0) + 1
        name = type_ or ("return.created" if said.kind == "return" else f"{said.kind}.{said.status}")
        message = Message(said, name, data, at, sequence, url or "")
        self._messages[said.id, sequence] = message
        self._of_account.setdefault(said.account, []).append(message)
        if message.url or self.endpoint(said.account).url:
            message.due_at = at + FIRST_S
        return message

    def release(self, message: Message, said: Operation | Dispute) -> bool:
        """Plan a message that was just made, and let it meet its fault; whether it is to be sent before the answer."""
        if message.due_at is None:
            return False
        message.fault = fault = self._faults.meet_message(said.account, said.kind, said.reference, said.amount)
        if fault and fault.id == "W2":
            message.due_at += fault.chance("hold") * fault.number("hold_s")
        if fault and fault.id == "W6":
            self._record(message, Attempt(message.about, message.sequence, lost=True))
        self._plan(message)
        return fault is not None and fault.id == "W3"

    async def hurry(self, message: Message) -> None:
        """Send it now, and return when it was sent, whatever becomes of who waits for it."""
        if message.due_at is not None and not self.endpoint(message.account).paused:
            message.due_at = None
            await asyncio.wait({self.spawn(self._send(message))})

    async def send(self, account: str, order: Sending) -> list[dict[str, object]]:
        """See ``Sending``."""
        known = self.of(account)
        by_id = {message.id: message for message in known}
        chosen = known if order.ids is None else [by_id[one] for one in order.ids if one in by_id]
        copies = [message for message in chosen for _ in range(order.times)]
        if order.shuffle_seed is not None:
            random.Random(order.shuffle_seed).shuffle(copies)  # noqa: S311  (a shuffle that can be repeated)
        secrets = [order.secret] if order.secret else self.secrets(account)

        async def once(message: Message) -> dict[str, object]:
            url = order.url or self._address(message)
            signature = signatures.sign(message.body, secrets, self._clock.everybodys() + order.timestamp_shift_s)
            async with self._lanes:
                status = await self._post(url, signature, message.body)
            self._record(message, Attempt(message.about, message.sequence, status, asked=True))
            return {"id": message.id, "status": status}

        if order.parallel:
            return list(await asyncio.gather(*map(once, copies)))
        return [await once(message) for message in copies]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let it go on by itself."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Send nothing any more."""
        for task in self._tasks:
            task.cancel()

    def _address(self, message: Message) -> str:
        return self.endpoint(message.account).url or message.url

    def _plan(self, message: Message) -> None:
        if message.due_at is not None and not self.endpoint(message.account).paused:
            self._agenda.put(message.due_at, lambda: self._go(message))

    def _go(self, message: Message) -> None:
        due = message.due_at is not None and message.due_at <= self._clock.now()
        if due and not self.endpoint(message.account).paused:
            message.due_at = None
            self.spawn(self._send(message))

    async def _send(self, message: Message) -> None:
        await self._book.settled()  # nobody is told what a kill could still undo
        fault, message.fault = message.fault, None
        url, signed, body = self._address(message), self._signed(message), message.body
        async with self._lanes:
            if fault and fault.id == "W5" and fault.word("url"):
                await self._post(fault.word("url"), signed, body)
            posts = [
                self._post(url, *(self._spoiled(message, fault) if fault and fault.id == "W4" else (signed, body)))
            ]
            if fault and fault.id == "W1":
                posts += [self._post(url, signed, body) for _ in range(int(fault.number("times")))]
            if fault and fault.id == "W1" and fault.flag("parallel"):
                statuses = await asyncio.gather(*posts)
            else:
                statuses = [await post for post in posts]
        for status in statuses:
            self._record(message, Attempt(message.about, message.sequence, status))
        self._plan(message)

    def _signed(self, message: Message, shift_s: float = 0) -> str:
        return signatures.sign(message.body, self.secrets(message.account), self._clock.everybodys() + shift_s)

    def _spoiled(self, message: Message, fault: Fault) -> tuple[str, bytes]:
        """Signature and body under W4."""
        body, own, now = message.body, self.secrets(message.account), self._clock.everybodys()
        match fault.word("kind"):
            case "wrong":
                return signatures.sign(body, ["whsec_wrong"], now), body
            case "missing":
                return "", body
            case "other_account":
                return signatures.sign(body, [signatures.default_secret("somebody_else")], now), body
            case "old":
                return self._signed(message, -_SKEW_S), body
            case "future":
                return self._signed(message, _SKEW_S), body
            case "reserialised":
                return self._signed(message), msgspec.json.format(body, indent=2)
            case "rotated":
                return signatures.sign(body, [*own, "whsec_next"], now), body
            case _:
                return signatures.sign(body, ["whsec_wrong", *own], now), body

    async def _post(self, url: str, signature: str, body: bytes) -> int:
        headers = {"content-type": "application/json"} | ({signatures.HEADER: signature} if signature else {})
        return await self._deliver(url, headers, body) if url else 0

    def _record(self, message: Message, attempt: Attempt) -> None:
        now = self._clock.now()
        self._count(message, attempt, now)
        self._book.add(Line(at=now, account=message.account, attempt=msgspec.Raw(msgspec.json.encode(attempt))))

    def _count(self, message: Message, attempt: Attempt, at: float) -> None:
        message.lost = message.lost or attempt.lost
        if not attempt.lost:
            message.attempts.append(attempt.status)
        message.delivered = message.delivered or 200 <= attempt.status < 300
        if attempt.asked and not message.delivered:
            return
        wait = RETRIES_S[min(max(len(message.attempts), 1), len(RETRIES_S)) - 1]
        over = message.delivered or message.lost or at + wait > message.created + GIVEN_UP_S
        message.due_at = None if over else at + wait
