"""The simulator in a process of its own, and an adapter that talks to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan_psp_square import SquareConfig, SquarePsp

LOCATION = "LEUR0000MAIN1"
EUROS = sdk.Money(12347, "EUR")


class Stage:
    """The simulator, adapters, and short words for requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.AsyncClient(timeout=5)
        self.psp = self.adapter()
        self.count = 0

    def adapter(self, http: httpx.AsyncClient | None = None, **settings: str) -> SquarePsp:
        config = {"access_token": "EAAAtest_token", "location_id": LOCATION, "url": self.url} | settings
        client = http or self.http
        return SquarePsp(msgspec.convert(config, SquareConfig), sdk.PspContext(http=client, vault_http=client))

    def charge(self, token: str = "cnon:card-nonce-ok", **fields: Any) -> sdk.ChargeRequest:  # noqa: S107
        self.count += 1
        asked = {
            "operation_id": f"op_test{self.count:04}",
            "key": f"key{self.count:04}",
            "amount": EUROS,
            "capture": True,
        }
        return sdk.ChargeRequest(**asked | {"source": sdk.TokenSource(token=token)} | fields)

    async def paid(self, **fields: Any) -> sdk.Approved:
        outcome = await self.psp.create_intent(self.charge(**fields))
        assert isinstance(outcome, sdk.Approved), outcome
        return outcome

    def capture(self, charge: sdk.Approved, amount: sdk.Money = EUROS) -> sdk.CaptureRequest:
        self.count += 1
        return sdk.CaptureRequest(f"op_test{self.count:04}", f"key{self.count:04}", amount, charge.psp_ref, final=True)

    def refund(self, charge: sdk.Approved, amount: sdk.Money = EUROS, reason: str | None = None) -> sdk.RefundRequest:
        self.count += 1
        return sdk.RefundRequest(f"op_test{self.count:04}", f"key{self.count:04}", amount, charge.psp_ref, reason)

    def lookup(self, request: Any, kind: str, **fields: Any) -> sdk.RetrieveRequest:
        return sdk.RetrieveRequest(request.operation_id, request.key, kind, request.amount, **fields)

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, f"{self.url}/_control/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def messages(self, psp: SquarePsp) -> list[sdk.WebhookEvent]:
        """Every message of the simulator, read by an adapter."""
        found: list[sdk.WebhookEvent] = []
        for one in await self.control("GET", "webhooks"):
            delivery = sdk.WebhookDelivery(
                headers=one["headers"], body=one["body"].encode(), query={}, received_at=datetime.now(UTC)
            )
            found += await psp.verify_webhook(delivery)
        return found


@pytest.fixture(scope="session")
def simulator_url() -> Iterator[str]:
    argv = [sys.executable, str(Path(__file__).parent / "simulator.py"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


@pytest.fixture
async def stage(simulator_url: str) -> AsyncIterator[Stage]:
    stage = Stage(simulator_url)
    await stage.control("POST", "reset")
    yield stage
    assert await stage.control("GET", "problems") == []
    await stage.http.aclose()
