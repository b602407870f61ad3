"""The simulator and the vault as processes of their own, and the adapter between them, wired as the core wires it.

``World`` is the simulator in this process with a time of its own, for what needs no network: nothing there waits for real.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import httpx
import msgspec
import pytest

from clearspan.sdk import (
    Approved,
    CardSource,
    ChargeRequest,
    Money,
    PspContext,
    PspError,
    VaultContext,
    VaultProvider,
    WebhookDelivery,
    WebhookEvent,
)
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig
from clearspan_psp_sandbox.api import Api
from clearspan_psp_sandbox.book import MemoryBook
from clearspan_psp_sandbox.faults import Cut
from clearspan_psp_sandbox.simulator import build_in_memory

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain http only: reading the authorities anew for each would take 20 ms."""
T = TypeVar("T")


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server in its own process, which can be killed and started again on the same port and folder."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._argv = [sys.executable, "-m", module, "--port", str(port), "--data-dir", str(folder / "data"), *arguments]
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log)
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/health").raise_for_status()
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self._argv} does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def text(self) -> str:
        """Everything the process has written to disk."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in files)


class ThroughVault(httpx.AsyncBaseTransport):
    """What the core's transport does: a request that names a token goes to the vault, which fills in the card."""

    def __init__(self, provider: VaultProvider) -> None:
        self._provider = provider
        self._wire = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        token = request.extensions.get("vault_token")
        if token is None:
            return await self._wire.handle_async_request(request)
        response = await self._wire.handle_async_request(self._provider.proxy(request, token))
        try:
            self._provider.check(response)
        except PspError:
            await response.aclose()
            raise
        return response

    async def aclose(self) -> None:
        await self._wire.aclose()


class Shop:
    """What the core holds: the adapter of one account and the vault it charges through."""

    def __init__(self, psp_url: str, vault_url: str, account: str, timeout_s: float) -> None:
        (vault_plugin,) = entry_points(group="clearspan", name="vault-sandbox")
        (provider_type,) = vault_plugin.load().clearspan_vaults()
        self.http = httpx.AsyncClient(timeout=timeout_s, verify=NO_TLS)
        self.provider: VaultProvider = provider_type(provider_type.config_type(url=vault_url), VaultContext(self.http))
        self.vault_http = httpx.AsyncClient(timeout=timeout_s, transport=ThroughVault(self.provider))
        config = SandboxPspConfig(url=psp_url, api_key=f"sk_sandbox_{account}")
        self.psp = SandboxPsp(config, PspContext(http=self.http, vault_http=self.vault_http))

    def request(
        self,
        token: str = "tok_visa",  # noqa: S107  (a well-known token)
        amount_minor: int = 1099,
        *,
        capture: bool = True,
        customer_present: bool = True,
        network_transaction_id: str | None = None,
        return_url: str | None = None,
        fault: str = "",
    ) -> ChargeRequest:
        source = CardSource(
            token=token,
            number=self.provider.placeholder(token, "number"),
            exp_month=self.provider.placeholder(token, "exp_month"),
            exp_year=self.provider.placeholder(token, "exp_year"),
            cvc=self.provider.placeholder(token, "cvc"),
            network_transaction_id=network_transaction_id,
        )
        operation_id = str(uuid4())
        return ChargeRequest(
            operation_id=operation_id,
            key=f"key-{operation_id}",
            amount=Money(amount_minor, "EUR"),
            capture=capture,
            source=source,
            customer_present=customer_present,
            return_url=return_url,
            metadata={"sandbox_fault": fault} if fault else {},
        )

    async def close(self) -> None:
        await self.http.aclose()
        await self.vault_http.aclose()


class OpenShop(Protocol):
    """Make a shop; ``psp`` and ``vault`` are other processes than the shared ones."""

    def __call__(
        self, account: str = "alpha", *, psp: Running = ..., vault: Running = ..., timeout_s: float = 30
    ) -> Shop: ...


class VirtualTime:
    """A clock that stands still until a test lets time pass; whoever sleeps is woken in order."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), woken))
        await woken

    async def go_on(self, seconds: float = 0) -> None:
        """Let it pass, and whatever happens by then happen."""
        until = self.now + seconds
        await self._rest()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                self.now = max(self.now, at)
                woken.set_result(None)
                await self._rest()
        self.now = until
        await self._rest()

    @staticmethod
    async def _rest() -> None:
        for _ in range(50):
            await asyncio.sleep(0)


class Consumer:
    """Who receives the messages.

    Attributes:
        answers: statuses to give, first to last; afterwards 200.
        got: address, headers and body of every message.
        on_message: called for each.
    """

    def __init__(self) -> None:
        self.on_message: Callable[[], None] = lambda: None
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, url: str, headers: dict[str, str], body: bytes) -> int:
        self.got.append((url, headers, body))
        self.on_message()
        return self.answers.pop(0) if self.answers else 200

    @property
    def types(self) -> list[str]:
        return [str(msgspec.json.decode(body)["type"]) for _, _, body in self.got]


class InProcess(httpx.AsyncBaseTransport):
    """Straight into the application; where a connection would break, it breaks."""

    def __init__(self, app: Api) -> None:
        self._inner = httpx.ASGITransport(app)  # type: ignore[arg-type]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._inner.handle_async_request(request)
        except Cut as cut:
            raise httpx.ReadError(f"cut {cut.when}") from cut


class World:
    """A simulator in memory, its clients, and who receives its messages.

    Attributes:
        api: the simulator's own interface as ``alpha``.
        psp: the adapter of ``alpha``.
    """

    hook = "https://gateway.example/hooks/alpha"

    def __init__(self, seed: str = "7", book: MemoryBook | None = None, time: VirtualTime | None = None) -> None:
        self.time = time or VirtualTime()
        self.consumer = Consumer()
        self.book = book or MemoryBook()
        self.app = build_in_memory(
            seed, now=lambda: self.time.now, sleep=self.time.sleep, deliver=self.consumer, book=self.book
        )
        self.http = httpx.AsyncClient(transport=InProcess(self.app))
        self.api = httpx.AsyncClient(
            transport=InProcess(self.app), base_url="http://psp", headers={"Authorization": "Bearer sk_sandbox_alpha"}
        )
        self.psp = SandboxPsp(SandboxPspConfig(url="http://psp"), PspContext(http=self.http, vault_http=self.http))
        self._references = itertools.count(1)

    def request(
        self, amount_minor: int = 1099, *, fault: str = "", capture: bool = True, **changes: Any
    ) -> ChargeRequest:
        """A charge; ``fault`` goes with its metadata."""
        reference = f"op_{next(self._references)}"
        fields: dict[str, Any] = {
            "operation_id": reference,
            "key": f"key_{reference}",
            "amount": Money(amount_minor, "EUR"),
            "capture": capture,
            "source": CardSource("tok", number="4242424242424242", exp_month="12", exp_year="2040", cvc="123"),
            "webhook_url": self.hook,
            "metadata": {"sandbox_fault": fault} if fault else {},
        }
        return ChargeRequest(**fields | changes)

    async def charged(self, amount_minor: int = 1099, *, capture: bool = True, fault: str = "") -> str:
        """The id of an approved charge."""
        outcome = await self.psp.create_intent(self.request(amount_minor, capture=capture, fault=fault))
        assert isinstance(outcome, Approved), outcome
        return outcome.psp_ref

    async def script(self, fault: str, **script: Any) -> None:
        """The next matching request meets the fault."""
        answer = await self.api.post("/v1/faults/scripts", json={"fault": fault} | script)
        assert answer.status_code == 200, answer.text

    async def event(self, do: str, **event: Any) -> dict[str, Any]:
        """Something happens that nobody asked for."""
        answer = await self.api.post("/v1/events", json={"do": do} | event)
        assert answer.status_code == 200, answer.text
        happened: dict[str, Any] = answer.json()
        return happened

    async def messages(self) -> list[dict[str, Any]]:
        """Every message, as ``GET /v1/webhooks`` tells it."""
        told: list[dict[str, Any]] = (await self.api.get("/v1/webhooks")).json()["messages"]
        return told

    async def booked(self, reference: str) -> list[dict[str, Any]]:
        """What the book has under a reference."""
        book = (await self.api.get("/v1/book")).json()["operations"]
        return [operation for operation in book if operation["reference"] == reference]

    async def read(self, position: int = -1) -> WebhookEvent:
        """A message that was received, as the adapter reads it."""
        (event,) = await self.psp.verify_webhook(self.delivery(position))
        return event

    def delivery(self, position: int = -1) -> WebhookDelivery:
        """A message that was received, as the core hands it over."""
        _, headers, body = self.consumer.got[position]
        at = datetime.fromtimestamp(self.time.now, UTC)
        return WebhookDelivery(headers=headers, body=body, query={}, received_at=at)

    async def restarted(self) -> World:
        """Another simulator over the same book, at the same time."""
        await self.close()
        again = World(book=self.book, time=self.time)
        again._references = self._references
        return again

    async def close(self) -> None:
        await self.http.aclose()
        await self.api.aclose()
        await self.app.close()


class Eventually(Protocol):
    """Ask until the answer is not ``None``, up to a minute."""

    async def __call__(self, ask: Callable[[], Awaitable[T | None]]) -> T: ...


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running("clearspan_psp_sandbox.simulator", tmp_path_factory.mktemp("psp"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running("clearspan_vault_sandbox.server", tmp_path_factory.mktemp("vault"))
    yield running
    running.stop()


@pytest.fixture
def own_simulator(tmp_path: Path) -> Iterator[Running]:
    """One that the test may kill."""
    running = Running("clearspan_psp_sandbox.simulator", tmp_path / "psp")
    yield running
    running.stop()


@pytest.fixture
def broken_tls(tmp_path: Path) -> Iterator[str]:
    """Where a simulator breaks every handshake."""
    port = free_port()
    running = Running("clearspan_psp_sandbox.simulator", tmp_path / "psp", "--tls-port", str(port))
    yield f"https://127.0.0.1:{port}"
    running.stop()


@pytest.fixture
def new_world() -> type[World]:
    """For tests that need more than one."""
    return World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The simulator in memory."""
    opened = World()
    yield opened
    await opened.close()


@pytest.fixture
def own_vault(tmp_path: Path) -> Iterator[Running]:
    """One that the test may kill, and that does not wait long for a target."""
    running = Running("clearspan_vault_sandbox.server", tmp_path / "vault", "--read-timeout-s", "0.5")
    yield running
    running.stop()


@pytest.fixture
async def open_shop(simulator: Running, vault: Running) -> AsyncIterator[OpenShop]:
    shops = []

    def make(
        account: str = "alpha", *, psp: Running = simulator, vault: Running = vault, timeout_s: float = 30
    ) -> Shop:
        shops.append(Shop(psp.url, vault.url, account, timeout_s))
        return shops[-1]

    yield make
    for shop in shops:
        await shop.close()


@pytest.fixture
def eventually() -> Eventually:
    async def wait(ask: Callable[[], Awaitable[T | None]]) -> T:
        for _ in range(1200):
            if (answer := await ask()) is not None:
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError("it did not happen within a minute")

    return wait


@pytest.fixture
def shop(open_shop: OpenShop) -> Shop:
    return open_shop()


@pytest.fixture
async def api(simulator: Running) -> AsyncIterator[httpx.AsyncClient]:
    """The simulator's own interface, as a merchant of its own."""
    key = f"sk_sandbox_{uuid4().hex}"
    async with httpx.AsyncClient(
        base_url=simulator.url, headers={"Authorization": f"Bearer {key}"}, timeout=30, verify=NO_TLS
    ) as client:
        yield client
