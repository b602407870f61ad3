"""The simulator and the vault as processes of their own, and the adapter between them, wired as the core wires it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import httpx
import pytest

from clearspan.sdk import CardSource, ChargeRequest, Money, PspContext, PspError, VaultContext, VaultProvider
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig

T = TypeVar("T")


class Running:
    """A server in its own process, which can be killed and started again on the same port and folder."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
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
        self.http = httpx.AsyncClient(timeout=timeout_s)
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
        )

    async def close(self) -> None:
        await self.http.aclose()
        await self.vault_http.aclose()


class OpenShop(Protocol):
    """Make a shop; ``psp`` and ``vault`` are other processes than the shared ones."""

    def __call__(
        self, account: str = "alpha", *, psp: Running = ..., vault: Running = ..., timeout_s: float = 30
    ) -> Shop: ...


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
        base_url=simulator.url, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as client:
        yield client
