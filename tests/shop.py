"""A merchant who is ready to charge, and the processes it takes: simulators that can be stopped, gateways that can be killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.plugins import Plugins
from clearspan.settings import Settings

T = TypeVar("T")
Json = dict[str, Any]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain http only: reading the authorities anew for each would take 20 ms."""
PATIENCE_S = 60.0
"""How long anything may take before a test gives up: much longer than it does, on whatever machine."""


async def until(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until the answer is not ``None``."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await ask()
            if answer is not None:
                return answer
            await clock.sleep(0.02)


class Shop:
    """A tenant with the PSP accounts ``alpha`` (priority 10) and ``beta`` (priority 20) at the simulator.

    ``alpha`` has a book of its own there; ``beta`` is the simulator's well-known one, whose book everybody shares.

    Attributes:
        http: the gateway, with the tenant's key.
    """

    def __init__(self, http: httpx.AsyncClient, psp_url: str) -> None:
        self.http = http
        self.psp_url = psp_url
        self.keys = {"alpha": f"sk_sandbox_t{clock.random_bytes(8).hex()}", "beta": "sk_sandbox_beta"}
        self._cards: dict[str, str] = {}

    @classmethod
    async def open(cls, http: httpx.AsyncClient, psp_url: str) -> Shop:
        """With both accounts."""
        shop = cls(http, psp_url)
        await shop.add_account("alpha", 10)
        await shop.add_account("beta", 20)
        return shop

    def behind(self, http: httpx.AsyncClient) -> Shop:
        """The same shop behind another gateway."""
        other = Shop(http, self.psp_url)
        other.keys, other._cards = self.keys, self._cards
        return other

    async def add_account(self, name: str, priority: int, **body: Any) -> Json:
        """Another PSP account."""
        config = {"url": self.psp_url, "api_key": self.keys.get(name, "sk_sandbox_alpha")}
        given = {"psp": "sandbox", "name": name, "priority": priority, "config": config} | body
        made = await self.http.post("/v1/psp-accounts", json=given)
        assert made.status_code == 201, made.text
        account: Json = made.json()
        return account

    async def card(self, token: str = "tok_visa", **body: Any) -> str:  # noqa: S107  (a well-known token)
        """A payment method of this token, made once."""
        if body or token not in self._cards:
            made = await self.http.post("/v1/payment-methods", json={"token": token} | body)
            assert made.status_code == 201, made.text
            identity: str = made.json()["id"]
            if body:
                return identity
            self._cards[token] = identity
        return self._cards[token]

    async def post(
        self, path: str, body: Mapping[str, Any] | bytes | None = None, key: str | None = None
    ) -> httpx.Response:
        """POST with an idempotency key, a fresh one by default."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body or {})
        headers = {"Idempotency-Key": key or new_key(), "Content-Type": "application/json"}
        return await self.http.post(path, content=content, headers=headers)

    async def create(self, amount_minor: int = 1099, *, key: str | None = None, **fields: Any) -> httpx.Response:
        """``POST /v1/payments``."""
        return await self.post("/v1/payments", {"amount_minor": amount_minor, "currency": "EUR"} | fields, key)

    async def pay(
        self, amount_minor: int = 1099, card: str = "tok_visa", *, key: str | None = None, **fields: Any
    ) -> httpx.Response:
        """Create and confirm."""
        method = await self.card(card)
        return await self.create(amount_minor, key=key, payment_method=method, confirm=True, **fields)

    async def customer(self, **body: Any) -> str:
        """A fresh customer."""
        made = await self.http.post("/v1/customers", json=body)
        assert made.status_code == 201, made.text
        identity: str = made.json()["id"]
        return identity

    async def mandate(
        self,
        card: str = "tok_visa",
        *,
        customer: str | None = None,
        method: str | None = None,
        purpose: str = "unscheduled",
        **body: Any,
    ) -> Json:
        """A pending mandate of a customer, a fresh one with a fresh payment method by default."""
        owner = customer or await self.customer()
        given = {"customer": owner, "payment_method": method or await self.card(card, customer=owner)}
        given |= {"purpose": purpose, "text_version": "terms-2026-01"}
        made = await self.post("/v1/mandates", given | body)
        assert made.status_code == 201, made.text
        mandate: Json = made.json()
        return mandate

    async def consented(self, card: str = "tok_visa", amount_minor: int = 500, **fields: Any) -> Json:
        """An active mandate: its first payment is made, with the challenge when the PSP asks for one."""
        mandate = await self.mandate(card)
        made = await self.first_payment(mandate, amount_minor, **fields)
        assert made["status"] in ("succeeded", "requires_capture"), made
        return await self.mandate_of(mandate)

    async def first_payment(
        self, mandate: Json, amount_minor: int = 500, result: str = "approve", **fields: Any
    ) -> Json:
        """A payment of the customer's that names the mandate, to its end."""
        given = {"return_url": "https://shop.example/thanks", "confirm": True} | fields
        answer = await self.create(amount_minor, **_named(mandate), **given)
        assert answer.status_code == 201, answer.text
        return await self.challenged(answer.json(), result)

    async def challenged(self, payment: Json, result: str = "approve") -> Json:
        """The payment after the payer's challenge, when there is one."""
        if payment["status"] != "requires_action":
            return payment
        await self.answer_challenge(payment, result)
        answer = await self.act(payment, "continue")
        assert answer.status_code == 200, answer.text
        going_on: Json = answer.json()
        return going_on

    async def rebill(self, mandate: Json, amount_minor: int = 700, **fields: Any) -> httpx.Response:
        """A merchant-initiated charge."""
        given = {"confirm": True, "customer_present": False} | fields
        return await self.create(amount_minor, **_named(mandate), **given)

    async def mandate_of(self, mandate: Json | str) -> Json:
        """As it stands."""
        identity = mandate if isinstance(mandate, str) else mandate["id"]
        answer = await self.http.get(f"/v1/mandates/{identity}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def paid(self, amount_minor: int = 1099, card: str = "tok_visa", **fields: Any) -> Json:
        """A payment that was charged, or authorised with ``capture_method="manual"``."""
        answer = await self.pay(amount_minor, card, **fields)
        assert answer.status_code == 201, answer.text
        payment: Json = answer.json()
        assert payment["status"] in ("succeeded", "requires_capture"), payment
        return payment

    async def ready(self, amount_minor: int = 1099, card: str = "tok_visa", **fields: Any) -> Json:
        """A payment that waits for its confirmation."""
        answer = await self.create(amount_minor, payment_method=await self.card(card), **fields)
        assert answer.status_code == 201, answer.text
        payment: Json = answer.json()
        return payment

    async def act(
        self, payment: Json, what: str, body: Mapping[str, Any] | None = None, key: str | None = None
    ) -> httpx.Response:
        """``confirm``, ``continue``, ``capture``, ``cancel`` or ``refunds`` on a payment."""
        return await self.post(f"/v1/payments/{payment['id']}/{what}", body, key)

    async def get(self, payment: Json | str) -> Json:
        """A payment with its operations and audit entries."""
        identity = payment if isinstance(payment, str) else payment["id"]
        answer = await self.http.get(f"/v1/payments/{identity}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    # -- the PSP's side -----------------------------------------------------------------------------------------------

    async def book(self, account: str = "alpha") -> list[Json]:
        """Everything the PSP has in its book for an account."""
        async with self.psp(account) as psp:
            answer = (await psp.get("/v1/book")).raise_for_status()
        operations: list[Json] = answer.json()["operations"]
        return operations

    def psp(self, account: str = "alpha") -> httpx.AsyncClient:
        """The PSP's own interface, as the merchant."""
        return httpx.AsyncClient(
            base_url=self.psp_url,
            headers={"Authorization": f"Bearer {self.keys[account]}"},
            trust_env=False,
            verify=NO_TLS,
        )

    async def charged(self, payment: Json) -> list[Json]:
        """The charges of a payment that the PSP has booked and not declined."""
        mine = {one["id"] for one in (await self.get(payment))["operations"]}
        booked = [*await self.book("alpha"), *await self.book("beta")]
        return [one for one in booked if one["kind"] == "charge" and one["reference"] in mine and _took(one)]

    async def under_way(self, account: str = "alpha") -> Json:
        """The only charge in the PSP's book, as soon as it is there: its answer may not have been sent yet."""

        async def ask() -> Json | None:
            charges = [one for one in await self.book(account) if one["kind"] == "charge"]
            return charges[-1] if charges else None

        return await until(ask)

    async def answer_challenge(self, payment: Json, result: str) -> httpx.Response:
        """What the payer's browser does: open the page, press the button, follow the way back."""
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as browser:
            page = await browser.get(payment["next_action"]["url"])
            assert page.status_code == 200, page.text
            return await browser.post(payment["next_action"]["url"], data={"result": result})


def _named(mandate: Json) -> Json:
    return {name: mandate[name] for name in ("customer", "payment_method")} | {"mandate": mandate["id"]}


def _took(operation: Json) -> bool:
    return operation["status"] in ("succeeded", "pending", "requires_action")


def succeeded(book: list[Json], kind: str = "charge") -> list[Json]:
    """The operations of a kind that took effect."""
    return [one for one in book if one["kind"] == kind and one["status"] == "succeeded"]


def new_key() -> str:
    """An idempotency key."""
    return f"key-{clock.new_uuid()}"


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and problem code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"urn:clearspan:problem:{problem['code']}"
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, problem["code"]


def state(payment: Json) -> Json:
    """A payment without what only ``GET /v1/payments/{id}`` shows."""
    return {name: value for name, value in payment.items() if name not in ("operations", "audit")}


class Simulator:
    """A simulator's process of our own: it can be stopped, killed and started again on its port, with its book."""

    def __init__(self, module: str, port: int, folder: Path, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"{module}.log"
        self._argv = [sys.executable, "-m", module, "--port", str(port), "--data-dir", str(folder / module), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Until it answers."""
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(self._argv, stdout=log, stderr=log)

        async def ask() -> bool | None:
            assert process.poll() is None, self._log.read_text()
            try:
                async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
                    return True if (await http.get(f"{self.url}/health")).status_code == 200 else None
            except httpx.TransportError:
                return None

        await until(ask)

    def kill(self) -> None:
        """At once; what it has booked stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@asynccontextmanager
async def gateway(
    url: str, settings: Settings, master: MasterKey, loaded: Plugins | None = None
) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    """A gateway of the test's own, in this process. Gives a maker of clients: ``client(api_key)``."""
    from tests.conftest import BASE_URL, lifespan

    application = create_app(Gateway(settings, url, master, loaded or plugins.load(settings.plugins.enabled)))
    made: list[httpx.AsyncClient] = []

    def client(key: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=application)
        made.append(
            httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers={"Authorization": f"Bearer {key}"})
        )
        return made[-1]

    async with lifespan(application):
        yield client
        for http in made:
            await http.aclose()


def with_payments(settings: Settings, *, lease_s: int | None = None, **changes: float) -> Settings:
    """Settings with other times for charging."""
    replaced = msgspec.structs.replace(settings, payments=msgspec.structs.replace(settings.payments, **changes))
    if lease_s is None:
        return replaced
    return msgspec.structs.replace(replaced, idempotency=msgspec.structs.replace(replaced.idempotency, lease_s=lease_s))


class Web:
    """Gateways and workers in processes of their own (``tests.system.serve``) that live again when they are killed.

    Attributes:
        urls: one per gateway.
        shared_url: whichever gateway is free.
        doom: the folder in which a file calls for a kill; see ``tests.system.serve``.
        count: how many processes there are, gateways first.
        kills: how many were killed from here.
        killed: how many SIGKILL has ended, by doom too.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, urls: list[str], shared_url: str, doom: Path, count: int
    ) -> None:
        self._process = process
        self._pids: dict[int, int] = {}
        self._born = asyncio.Condition()
        self.urls = urls
        self.shared_url = shared_url
        self.doom = doom
        self.count = count
        self.kills = 0
        self.killed = 0

    async def watch(self) -> None:
        """Keep up with who lives."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            index, pid, end = map(int, line.split())
            async with self._born:
                self._pids[index] = pid
                self.killed += end == signal.SIGKILL
                self._born.notify_all()

    async def kill(self, index: int = 0) -> None:
        """SIGKILL, and wait until another one is there."""
        async with self._born:
            await self._born.wait_for(lambda: index in self._pids)
            with suppress(ProcessLookupError):  # It killed itself in this moment.
                os.kill(self._pids.pop(index), signal.SIGKILL)
                self.kills += 1
            await self._born.wait_for(lambda: index in self._pids)

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send a signal to a process, if it is there; one that ends by it lives again."""
        with suppress(KeyError, ProcessLookupError):
            os.kill(self._pids[index], number)


@asynccontextmanager
async def web(
    url: str,
    settings: Settings,
    master: MasterKey,
    folder: Path,
    *,
    count: int = 1,
    workers: int = 0,
    webhooks: bool = False,
    **more: Any,
) -> AsyncIterator[Web]:
    """Start ``count`` gateways and so many workers, and stop them at the end.

    Args:
        webhooks: the PSP is told where to send its messages: to whichever gateway is free.
        more: see ``tests.system.serve.Task``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024)) for _ in range(count + 1)
        ]
        *own, shared = [one.fileno() for one in listeners]
        *urls, shared_url = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in listeners]
        task = {
            "url": url,
            "master": master._secret.hex(),
            "folder": str(folder),
            "plugin": settings.plugin,
            "payments": settings.payments,
            "idempotency": settings.idempotency,
            "sockets": own,
            "shared": shared,
            "workers": workers,
            "public_url": shared_url if webhooks else "",
        } | more
        with (folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.system.serve",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                pass_fds=[one.fileno() for one in listeners],
                cwd=Path(__file__).parent.parent,
            )
        running = Web(process, urls, shared_url, folder / "doom", count + workers)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(task))
        process.stdin.close()
        watching = asyncio.create_task(running.watch())
        try:
            for address in urls:
                await until(lambda address=address: _healthy(address, process, folder / "log"))  # type: ignore[misc]
            yield running
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            await watching


async def _healthy(url: str, process: asyncio.subprocess.Process, log: Path) -> bool | None:
    assert process.returncode is None, log.read_text(errors="replace")
    try:
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
            return True if (await http.get(f"{url}/health/ready")).status_code == 200 else None
    except httpx.TransportError:
        return None


async def insist(shops: Sequence[Shop], path: str, body: Mapping[str, Any], key: str) -> httpx.Response:
    """What a careful client does: repeat the same request with the same key until it is answered.

    Args:
        shops: the same one behind several processes, asked in turn.
    """
    passing = {"idempotency_key_in_flight", "payment_in_progress", "database_unavailable", "outcome_not_stored"}
    turn = itertools.cycle(shops)

    async def ask() -> httpx.Response | None:
        try:
            answer = await next(turn).post(path, body, key)
        except httpx.TransportError:
            return None
        if answer.is_success:
            return answer
        assert answer.json()["code"] in passing, answer.text
        await clock.sleep(0.1)
        return None

    return await until(ask)
