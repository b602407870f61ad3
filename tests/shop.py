"""A merchant who is ready to charge, and the processes it takes: simulators that can be stopped, gateways that can be killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
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
            base_url=self.psp_url, headers={"Authorization": f"Bearer {self.keys[account]}"}, trust_env=False
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
        async with httpx.AsyncClient(trust_env=False) as browser:
            page = await browser.get(payment["next_action"]["url"])
            assert page.status_code == 200, page.text
            return await browser.post(payment["next_action"]["url"], data={"result": result})


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
                async with httpx.AsyncClient(trust_env=False) as http:
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
