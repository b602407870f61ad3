"""A gateway whose breakers are quick to open, and PSPs that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from tests.conftest import BASE_URL, Merchant, app_of, lifespan
from tests.core.payments.conftest import Puppet, with_puppets
from tests.shop import Json, Shop, with_payments

from clearspan.app import Gateway
from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.settings import PspSettings, Settings

if TYPE_CHECKING:
    from tests.conftest import Urls

RULES = PspSettings(
    webhook_body_max_kb=1024,
    webhook_verify_timeout_s=5.0,
    webhook_rotation_overlap_h=72,
    calls_max=20,
    breaker_window_s=60,
    breaker_sample=10,
    breaker_calls_min=4,
    breaker_failure_share=0.5,
    breaker_open_s=30,
    breaker_probes=1,
    breaker_recovery_probe_s=10,
)


class Ahead:
    """A clock whose time and timer are both ahead; everything else is the real one's."""

    def __init__(self, real: clock.Clock, by_s: float) -> None:
        self._real = real
        self._by_s = by_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def now(self) -> datetime:
        return self._real.now() + timedelta(seconds=self._by_s)

    def monotonic(self) -> float:
        return self._real.monotonic() + self._by_s


@contextmanager
def later(seconds: float) -> Iterator[None]:
    """As if so much time had passed."""
    real = clock.use(clock.SystemClock())
    clock.use(Ahead(real, seconds))  # type: ignore[arg-type]  # the rest comes from the real one
    try:
        yield
    finally:
        clock.use(real)


@pytest.fixture(scope="module")
async def house(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """The services of a process with ``RULES``, that waits for its PSPs."""
    patient = msgspec.structs.replace(with_payments(settings, wait_budget_s=60), psps=RULES)
    gateway = Gateway(patient, urls.app, master, with_puppets(settings))
    async with lifespan(app_of(gateway)):
        yield gateway


class Stage(Shop):
    """A merchant with two PSP accounts, ``first`` and ``second``, at a puppet each."""

    def __init__(self, http: httpx.AsyncClient, psp_url: str, house: Gateway, merchant: Merchant) -> None:
        super().__init__(http, psp_url)
        self.house = house
        self.scope = merchant.caller.scope
        self.first, self.second = Puppet(), Puppet()

    async def recover(self) -> int:
        """One job of a worker. It ends long before a call that hangs would."""
        async with asyncio.timeout(self.house.settings.payments.psp_timeout_s - 5):
            return await self.house.payments.recover(self.scope, "req_recovery", 200)

    async def health(self, name: str) -> Json:
        """Of an account, by group."""
        listed = (await self.http.get("/v1/psp-accounts")).json()["data"]
        found: Json = next(one["health"] for one in listed if one["name"] == name)
        return found

    async def told(self, kind: str) -> list[Json]:
        """The journal's entries of a type."""
        entries: list[Json] = (await self.http.get("/v1/audit", params={"type": f"psp_account.{kind}"})).json()["data"]
        return entries


@pytest.fixture
async def stage(house: Gateway, merchant: Merchant, settings: Settings, sandboxes: None) -> AsyncIterator[Stage]:
    """Ready to pay."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app_of(house)),  # type: ignore[arg-type]  # its ASGI types are its own
                base_url=BASE_URL,
                headers={"Authorization": f"Bearer {merchant.key}"},
            )
        )
        made = Stage(http, settings.plugin["psp-sandbox"]["url"], house, merchant)
        for name, priority, puppet in (("first", 1, made.first), ("second", 2, made.second)):
            await made.add_account(name, priority, psp="puppet", config={"name": puppet.name})
            stack.callback(Puppet.strings.pop, puppet.name)
        await made.card()
        yield made
