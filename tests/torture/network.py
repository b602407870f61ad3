"""The world outside: the sandbox PSP's simulator and a vault, in this process, behind a network that loses and breaks things.

The transport raises exactly what ``platform.outbound.PreciseTransport`` would: ``ConnectError`` only when not a byte was written,
else ``ReadTimeout`` and ``ReadError``. The PSP's own work belongs to no gateway process: it goes on when the one that asked is dead.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import httpx
import msgspec
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig
from clearspan_psp_sandbox.api import Api
from clearspan_psp_sandbox.bank import Operation
from clearspan_psp_sandbox.book import Line

from clearspan.platform import outbound
from clearspan.sdk import Money, OperationNews, PspContext, VaultProvider

from tests.torture.loop import PROCESS, Mortal

if TYPE_CHECKING:
    from tests.torture.world import World

T = TypeVar("T")
Json = dict[str, Any]
PSP_URL = "http://psp.test"
CARDS = {
    "tok_visa": "4242424242424242",
    "tok_mastercard": "5555555555554444",
    "tok_challenge": "4000002500003155",
    "tok_challenge_declined": "4000008400001629",
    "tok_slow": "4000000000088007",
    "tok_insufficient": "4000000000009995",
    "tok_declined": "4000000000000002",
    "tok_duplicate": "4000000000088148",
}
"""Vault token -> the number behind it; the numbers are the canaries of I11."""
LATE_MAX_S = 58.0
"""The sandbox declares that a request may take effect 60 seconds late; some of it is spent on the way."""
LAG_MAX_S = 0.9
"""It declares one second from an effect to its lookup."""


class Faults(msgspec.Struct, kw_only=True):
    """How often each fault of the network and the PSP happens, as a share of all requests; see docs/reliability.md for the codes."""

    refused: float = 0.0
    """F5: the connection cannot be made, not a byte is written."""
    f1: float = 0.0
    f2: float = 0.0
    f3: float = 0.0
    f4: float = 0.0
    f5: float = 0.0
    f7: float = 0.0
    f8: float = 0.0
    f10: float = 0.0
    f12: float = 0.0
    twice: float = 0.0
    """A proxy sends the request a second time."""
    slow: float = 0.0
    """The answer takes up to 20 seconds."""

    def pick(self, chance: random.Random) -> str:
        """Which one meets this request, or none."""
        drawn = chance.random()
        for name in self.__struct_fields__:
            drawn -= getattr(self, name)
            if drawn < 0:
                return name
        return ""


class Webhooks(msgspec.Struct, kw_only=True):
    """How the PSP's messages come.

    Attributes:
        sent: whether there are any.
        lost: share that never arrives (W6).
        twice: share that comes at least twice, at once or later (W1).
        early: share that comes before the answer to the request can (W3).
        late: share that comes up to an hour late; what is neither comes within some seconds, out of order (W2).
        false: share after which, half a minute later, the opposite is said (F9).
    """

    sent: bool = False
    lost: float = 0.05
    twice: float = 0.2
    early: float = 0.3
    late: float = 0.1
    false: float = 0.0


class MemoryBook:
    """A book without a disk."""

    def read(self) -> list[Line]:
        """It was never written before."""
        return []

    def add(self, line: Line) -> None:
        """The bank has it in memory already."""

    async def settled(self) -> None:
        """Nothing can be undone."""

    async def close(self) -> None:
        """Nothing is open."""


class Outside:
    """The PSP's simulator with its network.

    Attributes:
        faults: of the requests from now on.
        outage_until: no connection can be made before that moment, in the loop's time.
        latest_s: how late a request may take effect; more than the sandbox declares makes it a liar.
        injected: how often each fault happened.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._app: Any = Api(MemoryBook(), str(chance.random()), now=lambda: world.clock.now().timestamp())  # type: ignore[arg-type]
        self._apply = self._app._bank.apply
        self._app._bank.apply = self._booked
        self._adapter = SandboxPsp(SandboxPspConfig(url=PSP_URL), PspContext(http=None, vault_http=None))  # type: ignore[arg-type]
        self._messages = 0
        self.webhooks = Webhooks()
        self._booked_at: dict[str, float] = {}
        self._last_body: dict[str, bytes] = {}
        self.faults = Faults()
        self.outage_until = 0.0
        self.latest_s = LATE_MAX_S
        self._announced: dict[asyncio.Task[Any], float] = {}
        self.waiting: list[Mortal | None] = []
        self.injected: Counter[str] = Counter()

    async def ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """One exchange as a client of the PSP meets it.

        Raises:
            httpx.ConnectError, httpx.ReadError: as the faults have it. A hang never returns: the caller has a time limit.
        """
        chance = self._chance
        await asyncio.sleep(chance.uniform(0.001, 0.03))
        if self._world.loop.time() < self.outage_until:
            self._note("refused", method, url)
            raise httpx.ConnectError("simulated: refused")
        fault = self.faults.pick(chance)
        lookup = method == "GET"
        if fault == "f3" and lookup:
            fault = "f2"
        if fault == "f12" and not lookup:
            fault = ""
        if fault:
            self._note(fault, method, url)
        match fault:
            case "refused":
                raise httpx.ConnectError("simulated: refused")
            case "f1":
                self._deliver(method, url, headers, body, chance.uniform(0, 0.2))
                await self._hang()
            case "f2":
                await self._hang()
            case "f3":
                self._deliver(method, url, headers, body, chance.uniform(0.5, self.latest_s))
                await self._hang()
            case "f4":
                if chance.random() < 0.5:
                    await self._answered(method, url, headers, body, 0)
                return chance.choice([500, 502, 503, 504]), {"content-type": "text/html"}, b"<h1>Sorry</h1>"
            case "f5":
                if chance.random() < 0.6:
                    delivery = self._deliver(method, url, headers, body, chance.uniform(0, 0.5))
                    if chance.random() < 0.5:
                        await asyncio.shield(delivery)
                raise httpx.ReadError("simulated: reset")
            case "f10":
                return 429, {"retry-after": "5"}, b'{"error": {"code": "rate_limited", "message": "slow down"}}'
            case "twice":
                self._deliver(method, url, headers, body, chance.uniform(0, 2))
            case "slow":
                await asyncio.sleep(chance.uniform(0, 20))
        if fault == "f12" and self._fresh(url):
            return 200, {"content-type": "application/json"}, b'{"operations": []}'
        status, given, answer = await self._answered(method, url, headers, body, chance.uniform(0.002, 0.3))
        await asyncio.sleep(chance.uniform(0.001, 0.03))
        if fault == "f7":
            return self._garbled(status, answer)
        if fault == "f8":
            answer = self._lied(url, answer)
        self._last_body[method + url] = answer
        return status, given, answer

    # -- what the PSP tells unasked -----------------------------------------------------------------------------------------------

    def _booked(self, operation: Operation) -> None:
        self._apply(operation)
        if not self.webhooks.sent:
            return
        raw = msgspec.to_builtins(operation)
        if operation.status == "pending" and operation.settles_at is not None:
            # The simulator settles when somebody asks; a real PSP does so by itself.
            self._later(3.0, self.book(f"sk_sandbox_{operation.account}"))
        self._messages += 1
        event, chance = f"evt_{self._messages}", self._chance
        if chance.random() < self.webhooks.lost:
            return
        self._send(event, raw)
        if chance.random() < self.webhooks.twice:
            for _ in range(chance.choice((1, 1, 5))):
                self._send(event, raw)
        if operation.status == "succeeded" and chance.random() < self.webhooks.false:
            false = raw | {"status": "declined", "code": "2001", "message": "not true"}
            self._send(f"{event}_false", false, chance.uniform(30, 60))

    def _send(self, event: str, raw: Json, delay_s: float | None = None) -> None:
        chance = self._chance
        if delay_s is None:
            drawn = chance.random()
            if drawn < self.webhooks.early:
                delay_s = chance.uniform(0, 0.01)
            elif drawn > 1 - self.webhooks.late:
                delay_s = chance.uniform(10, 3600)
            else:
                delay_s = chance.uniform(0, 5)
        self._later(delay_s, self._tell(event, raw))

    def _later(self, delay_s: float, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do it then, and let ``next_at`` know."""

        async def wait() -> T:
            await asyncio.sleep(delay_s)
            return await work

        task = self._world.loop.create_task(wait(), context=self._world.outside.copy())
        self._announced[task] = self._world.loop.time() + delay_s
        task.add_done_callback(self._announced.pop, context=self._world.outside)
        return task

    @property
    def next_at(self) -> float | None:
        """When the next thing happens out there that is known to happen, in the loop's time; ``None`` when there is nothing."""
        return min(self._announced.values(), default=None)

    async def _tell(self, event: str, raw: Json) -> None:
        """Until somebody has taken it in. ``Payments.tell`` is what the inbox of webhooks calls for each message that it has stored."""
        shop, account = next(
            (shop, account) for shop in self._world.merchants for account in shop.accounts if account.api_key.endswith(f"_{raw['account']}")
        )
        news = OperationNews(
            kind=raw["kind"],
            outcome=self._adapter._outcome(raw, raw["reference"], looked_up=True),
            reference=raw["reference"],
            psp_ref=raw["id"],
            charge_ref=raw.get("charge"),
            amount=Money(raw["amount"], raw["currency"]),
            capture=raw.get("capture"),
            metadata=raw.get("metadata") or {},
        )
        account_id = UUID(account.account_id)
        for pause_s in (0.0, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0):
            await asyncio.sleep(pause_s * self._chance.uniform(0.9, 1.1))
            try:
                status, said = await self._world.request(
                    self._chance.choice(self._world.gateways),
                    lambda gateway: gateway.payments.tell(
                        shop.caller.scope, "req_webhook", account_id=account_id, news=news, fact_id=uuid5(account_id, event)
                    ),
                )
            except ConnectionError:
                continue
            self._world.note(f"webhook {event} {raw['kind']} {raw['reference']} {raw['status']} -> {status} {said}")
            if status == 200 and said != "null":
                return

    @property
    def busy(self) -> bool:
        """Whether somebody who lives waits for an answer."""
        return any(one is None or one.alive for one in self.waiting)

    async def book(self, account: str) -> list[Json]:
        """The PSP's own truth about an account."""
        _, _, body = await self._call("GET", f"{PSP_URL}/v1/book", {"authorization": f"Bearer {account}"}, b"")
        found: list[Json] = msgspec.json.decode(body)["operations"]
        return found

    async def answer_challenge(self, url: str, result: str) -> None:
        """What the payer's browser does."""
        await self._call(
            "POST", url, {"content-type": "application/x-www-form-urlencoded"}, f"result={result}".encode()
        )

    def _deliver(
        self, method: str, url: str, headers: dict[str, str], body: bytes, delay_s: float
    ) -> asyncio.Task[tuple[int, dict[str, str], bytes]]:
        """Bring a request to the PSP, which then acts, whatever becomes of the one that asked."""

        async def arrive() -> tuple[int, dict[str, str], bytes]:
            answer = await self._call(method, url, headers, body)
            if method == "POST" and answer[0] in (200, 402):
                self._booked_at.setdefault(_word(body, "reference"), self._world.loop.time())
            self._world.note(
                f"psp {method} {urlsplit(url).path} -> {answer[0]} {answer[2].decode(errors='replace')[:600]}"
            )
            return answer

        return self._later(delay_s, arrive())

    async def _answered(
        self, method: str, url: str, headers: dict[str, str], body: bytes, delay_s: float
    ) -> tuple[int, dict[str, str], bytes]:
        # Shielded: a client that stops waiting does not stop the PSP.
        return await asyncio.shield(self._deliver(method, url, headers, body, delay_s))

    async def _call(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(url)
        scope = {
            "type": "http",
            "method": method,
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        sent: list[Json] = []

        async def receive() -> Json:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Json) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        given = {name.decode(): value.decode("latin-1") for name, value in sent[0].get("headers", [])}
        return sent[0]["status"], given, b"".join(one.get("body", b"") for one in sent[1:])

    async def _hang(self) -> None:
        await self._world.loop.create_future()

    def _fresh(self, url: str) -> bool:
        """Whether the PSP may still not show what it has booked."""
        reference = parse_qs(urlsplit(url).query).get("reference", [""])[0]
        booked = self._booked_at.get(reference)
        return booked is not None and self._world.loop.time() - booked < LAG_MAX_S

    def _garbled(self, status: int, answer: bytes) -> tuple[int, dict[str, str], bytes]:
        bodies = (
            b"",
            b"<html>OK</html>",
            b"{}",
            b"[]",
            b"null",
            b'{"id": NaN}',
            answer[: len(answer) // 2],
            b"\xff\xfe\x00",
        )
        bodies += (
            answer.replace(b'"succeeded"', b'"settled_maybe"'),
            answer.replace(b'"amount":', b'"amount":"x","amont":'),
        )
        return status, {"content-type": "application/json"}, self._chance.choice(bodies)

    def _lied(self, url: str, answer: bytes) -> bytes:
        """Another amount, another currency, another reference, or the answer to another request."""
        try:
            told = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            return answer
        target = told["operations"][-1] if told.get("operations") else told
        if "amount" not in target:
            return answer
        match self._chance.randrange(4):
            case 0:
                target["amount"] += self._chance.choice((-1, 1, 100))
            case 1:
                target["currency"] = "SEK"
            case 2:
                target["reference"] = "op_00000000000000000000000000"
            case _:
                others = [body for key, body in self._last_body.items() if not key.endswith(url)]
                return self._chance.choice(others) if others else answer
        return msgspec.json.encode(told)

    def _note(self, fault: str, method: str, url: str) -> None:
        self.injected[fault] += 1
        self._world.note(f"fault {fault} {method} {urlsplit(url).path}")


class SimulatedTransport(httpx.AsyncBaseTransport):
    """Under httpx in the place of ``PreciseTransport``; it also is the vault that fills the cards in."""

    def __init__(self, outside: Outside, timeout_s: float) -> None:
        self._outside = outside
        self._timeout_s = timeout_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send."""
        body = await request.aread()
        url, headers = str(request.url), dict(request.headers)
        if "x-vault-target" in headers:
            url = headers.pop("x-vault-target")
            headers.pop("x-vault-authorization")
            for token, number in CARDS.items():
                for field, value in {"number": number, "exp_month": "12", "exp_year": "2040", "cvc": "123"}.items():
                    body = body.replace(f"{{{{{token}.{field}}}}}".encode(), value.encode())
        waits = PROCESS.get()
        self._outside.waiting.append(waits)
        try:
            async with asyncio.timeout(self._timeout_s):
                status, given, answer = await self._outside.ask(request.method, url, headers, body)
        except TimeoutError as error:
            raise httpx.ReadTimeout("simulated: no answer") from error
        finally:
            self._outside.waiting.remove(waits)
        given = {name: value for name, value in given.items() if name.lower() != "content-length"}
        return httpx.Response(status, headers=given, stream=_Stream(answer), request=request)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


def client(outside: Outside, timeout_s: float, vault: VaultProvider | None) -> httpx.AsyncClient:
    """What ``outbound.client`` makes, over the simulated network."""
    transport: httpx.AsyncBaseTransport = SimulatedTransport(outside, timeout_s)
    if vault is not None:
        transport = outbound.VaultTransport(transport, vault)
    return httpx.AsyncClient(transport=transport, timeout=None, follow_redirects=False, trust_env=False)  # noqa: S113


def _word(body: bytes, name: str) -> str:
    try:
        return str(msgspec.json.decode(body).get(name, ""))
    except (msgspec.DecodeError, AttributeError):
        return ""
