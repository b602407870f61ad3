"""The simulator as a process of its own, and adapters that talk to it over real HTTP."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan_psp_stripe import StripeConfig, StripePsp

_numbers = itertools.count(1)
APPROVED, POOR, REFUSED, CHALLENGED = "4242424242424242", "4000000000009995", "4000000000000002", "4000002500003155"


def card(number: str = APPROVED) -> sdk.CardSource:
    """As the core hands it over, the placeholders already filled in: there is no vault here."""
    return sdk.CardSource("tok", number=number, exp_month="12", exp_year="2030", cvc="123")


class Shop:
    """An account at the simulator.

    Attributes:
        psp: the adapter.
        api: the simulator's own interface.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, key: str = "sk_test_simulator", live: bool = False) -> None:
        self.url = url
        self.http = httpx.AsyncClient(timeout=timeout_s)
        self.api = httpx.AsyncClient(base_url=url, timeout=10)
        self.psp = StripePsp(
            StripeConfig(api_key=key, webhook_secret="whsec_simulator", url=url),
            sdk.PspContext(http=self.http, vault_http=self.http, live=live),
        )

    def request(self, number: str = APPROVED, minor: int = 1099, **changes: Any) -> sdk.ChargeRequest:
        """A charge of its own."""
        reference = f"op_{next(_numbers)}"
        fields: dict[str, Any] = {
            "operation_id": reference,
            "key": f"key_{reference}",
            "amount": sdk.Money(minor, "EUR"),
            "capture": True,
            "source": card(number),
            "return_url": "https://shop.example/back?cart=7",
        }
        return sdk.ChargeRequest(**fields | changes)

    def retrieve(self, request: Any, kind: str, **changes: Any) -> sdk.RetrieveRequest:
        """A lookup of a charge, capture, void or refund."""
        fields: dict[str, Any] = {
            "operation_id": request.operation_id,
            "key": request.key,
            "kind": kind,
            "amount": request.amount,
            "charge_ref": getattr(request, "charge_ref", None),
            "created_at": datetime.now(UTC),
        }
        return sdk.RetrieveRequest(**fields | changes)

    async def approved(self, request: sdk.ChargeRequest) -> sdk.Approved:
        """The outcome of a charge that must be one."""
        outcome = await self.psp.create_intent(request)
        assert isinstance(outcome, sdk.Approved), outcome
        return outcome

    async def control(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the simulator."""
        if body is None:
            return (await self.api.get(f"/_control/{path}")).json()
        return (await self.api.post(f"/_control/{path}", json=body)).json()

    async def sent(self, key: str) -> dict[str, Any]:
        """The one request that carried a key."""
        (found,) = [one for one in await self.control("requests") if one["key"] == key]
        return dict(found)

    async def events(self, reference: str) -> list[sdk.WebhookEvent]:
        """What the messages that name a reference say, read by the adapter."""
        told: list[sdk.WebhookEvent] = []
        for message in await self.control("webhooks"):
            if f'"{reference}"' in message["body"]:
                delivery = sdk.WebhookDelivery(
                    headers=message["headers"], body=message["body"].encode(), query={}, received_at=datetime.now(UTC)
                )
                told += await self.psp.verify_webhook(delivery)
        return told

    async def close(self) -> None:
        await self.http.aclose()
        await self.api.aclose()


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """Its address. At the end it must have seen no request and given no answer that is not as described."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, str(Path(__file__).parent / "simulator.py"), "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().removeprefix("ready ").strip()
        yield url
        problems = httpx.get(f"{url}/_control/problems").json()
        running.kill()
    assert problems == []


@pytest.fixture
async def open_shop(simulator: str) -> AsyncIterator[Callable[..., Shop]]:
    opened: list[Shop] = []

    def make(**changes: Any) -> Shop:
        opened.append(Shop(simulator, **changes))
        return opened[-1]

    yield make
    for shop in opened:
        await shop.close()


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    return open_shop()
