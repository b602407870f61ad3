"""The world outside: the sandbox PSP's simulator and a vault, in this process, behind a network that loses and breaks things.

The transport raises exactly what ``platform.outbound.PreciseTransport`` would: ``ConnectError`` only when not a byte was
written, else ``ReadTimeout`` and ``ReadError``. The PSP's own work belongs to no gateway process: it goes on when the one
that asked is dead.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import httpx
import msgspec
from tests.torture.loop import EPOCH, PROCESS, Mortal

from clearspan.platform import ids, outbound
from clearspan.sdk import Outcome, PspContext, VaultProvider, WebhookDelivery, WebhookEvent, WebhookRejected
from clearspan.sdk.http import ANSWER_MAX_BYTES
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig
from clearspan_psp_sandbox.faults import Cut
from clearspan_psp_sandbox.simulator import build_in_memory

if TYPE_CHECKING:
    from tests.torture.world import Account, World

    from clearspan.app import Gateway

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


GATEWAY_URL = "http://gateway.test/webhooks"
OPTIONS: dict[str, dict[str, Any]] = {"F6": {"size": 1_200_000}}
"""Of the simulator's own faults; a gigabyte tells no more than a megabyte too much."""


class _TooMuch(Exception):
    """More than anybody reads."""


class Faults(msgspec.Struct, kw_only=True):
    """How often each fault of the network and the PSP happens, as a share of all requests; docs/reliability.md has the codes."""

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
    f5_after: float = 0.0
    """The request takes effect at once, and its answer is lost."""
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


class Outside:
    """The PSP's simulator with its network.

    Attributes:
        faults: of the requests from now on.
        outage_until: before that moment, in the loop's time, hardly a connection can be made.
        outage_share: how many cannot.
        latest_s: how late a request may take effect; more than the sandbox declares makes it a liar.
        record: whether answers that were lost are kept in ``recorded``.
        injected: how often each fault happened.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._app = build_in_memory(
            str(chance.random()),
            now=lambda: world.clock.now().timestamp(),
            sleep=asyncio.sleep,
            deliver=self._delivered,
        )
        self.record = False
        self.recorded: list[Json] = []
        self._told = 0
        self._booked_at: dict[str, float] = {}
        self._last_body: dict[str, bytes] = {}
        self.faults = Faults()
        self.outage_until = 0.0
        self.outage_share = 1.0
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
        if self._world.loop.time() < self.outage_until and chance.random() < self.outage_share:
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
            case "f5_after":
                status, _, answer = await self._answered(method, url, headers, body, 0)
                if self.record and status in (200, 402):
                    self.recorded.append(msgspec.json.decode(answer))
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

    # -- what the PSP tells unasked ---------------------------------------------------------------------------------------------

    async def send_webhooks(self, account: Account, rates: dict[str, float]) -> None:
        """From now on its messages come to the gateways; ``rates`` are those of the simulator's own faults."""
        control = {"authorization": f"Bearer {account.api_key}"}
        endpoint = {"url": f"{GATEWAY_URL}/{account.account_id}"}
        chosen = {"seed": self._chance.randrange(2**31), "rates": rates, "options": OPTIONS}
        await self._call("PUT", f"{PSP_URL}/v1/webhooks", control, msgspec.json.encode(endpoint))
        await self._call("PUT", f"{PSP_URL}/v1/faults", control, msgspec.json.encode(chosen))

    async def script(self, account: Account, script: Json) -> None:
        """The next requests that match meet a fault of the simulator's own."""
        control = {"authorization": f"Bearer {account.api_key}"}
        status, _, said = await self._call("POST", f"{PSP_URL}/v1/faults/scripts", control, msgspec.json.encode(script))
        assert status == 200, said

    async def behave(self, account: Account) -> None:
        """The simulator's own faults end."""
        await self._call("PUT", f"{PSP_URL}/v1/faults", {"authorization": f"Bearer {account.api_key}"}, b"{}")

    async def messages(self, account: Account) -> list[Json]:
        """Every message that the PSP ever made."""
        _, _, body = await self._call(
            "GET", f"{PSP_URL}/v1/webhooks", {"authorization": f"Bearer {account.api_key}"}, b""
        )
        found: list[Json] = msgspec.json.decode(body)["messages"]
        return found

    async def happen(self, account: Account, event: Json) -> None:
        """Something that no request asked for."""
        control = {"authorization": f"Bearer {account.api_key}"}
        status, _, said = await self._call("POST", f"{PSP_URL}/v1/events", control, msgspec.json.encode(event))
        assert status == 200, said

    def adapter(self, account: Account) -> SandboxPsp:
        """The gateway's adapter, to read what the PSP says."""
        return SandboxPsp(
            SandboxPspConfig(url=PSP_URL, api_key=account.api_key), PspContext(http=None, vault_http=None)
        )  # type: ignore[arg-type]

    async def read(self, account: Account, headers: dict[str, str], body: bytes) -> Sequence[WebhookEvent]:
        """A message as the gateway takes it."""
        delivery = WebhookDelivery(headers=headers, body=body, query={}, received_at=self._world.clock.now())
        return await self.adapter(account).verify_webhook(delivery)

    async def _delivered(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """A message to some gateway. ``Payments.tell`` is what the inbox calls for each one it has stored; here the PSP's own
        patience stands for the inbox."""
        shop, account = next(
            (shop, one) for shop in self._world.merchants for one in shop.accounts if url.endswith(one.account_id)
        )
        self._told += 1
        try:
            events = await self.read(account, {name.lower(): value for name, value in headers.items()}, body)
        except WebhookRejected as rejected:
            self._world.note(f"webhook rejected: {rejected}")
            return 401
        account_id = UUID(account.account_id)
        for event in events:

            async def tell(gateway: Gateway, event: WebhookEvent = event) -> Any:
                return await gateway.payments.tell(
                    shop.caller.scope,
                    "req_webhook",
                    account_id=account_id,
                    news=event.news,
                    fact_id=uuid5(account_id, event.event_id),
                    sequence=event.sequence,
                )

            await asyncio.sleep(self._chance.uniform(0.0, 0.05))
            try:
                status, said = await self._world.request(self._chance.choice(self._world.gateways), tell)
            except ConnectionError:
                return 0
            self._world.note(f"webhook {event.type} {event.event_id} {event.sequence} -> {status} {said}")
            if status != 200 or said == "null":
                return 503
        return 200

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
        known = [*self._announced.values()]
        if agenda := self._app._agenda._entries:
            known.append(agenda[0][0] - EPOCH.timestamp())
        return min(known, default=None)

    def outcome(self, account: Account, raw: Json) -> Outcome:
        """How the adapter reads the simulator's answer to a request."""
        return self.adapter(account)._outcome(raw, raw["kind"], raw["reference"], raw.get("charge"), looked_up=True)

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

        size = 0

        async def send(message: Json) -> None:
            nonlocal size
            sent.append(message)
            size += len(message.get("body", b""))
            if size > ANSWER_MAX_BYTES + 100_000:
                raise _TooMuch

        try:
            await self._app(scope, receive, send)
        except Cut as cut:
            raise httpx.ReadError(f"simulated: {cut}") from cut
        except _TooMuch:
            pass  # Whoever reads it stops here too.
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


def operation_of(reference: str, prefix: str = "op") -> UUID:
    """The id in a public one."""
    return ids.decode(prefix, reference)


def _word(body: bytes, name: str) -> str:
    try:
        return str(msgspec.json.decode(body).get(name, ""))
    except (msgspec.DecodeError, AttributeError):
        return ""
