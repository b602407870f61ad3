"""The simulator as a process of its own, and the adapter in front of it, wired as the core wires it."""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan_psp_mollie import Mollie, MollieConfig

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain http only: reading the authorities anew for each would take 20 ms."""
API_KEY = "test_dHar4XY7LxsDOtmnkVtjNVWXLSlXsM"
_NUMBERS = itertools.count(1)


class World:
    """Requests with their usual fields, each with an operation id of its own, and the simulator's control calls."""

    def __init__(self, url: str, http: httpx.AsyncClient, **config: Any) -> None:
        self.url = url
        self.http = http
        self.context = sdk.PspContext(http=http, vault_http=http)
        self.adapter = self.another(**config)

    def another(self, **config: Any) -> Mollie:
        """Another account there."""
        return Mollie(MollieConfig(**({"api_key": API_KEY, "url": self.url} | config)), self.context)

    def charge(self, source: sdk.Source | str = "tkn_visa", **fields: Any) -> sdk.ChargeRequest:
        """A purchase of 10.00 EUR with a card token, unless told otherwise."""
        number = next(_NUMBERS)
        known: dict[str, Any] = {
            "operation_id": f"op_{number}",
            "key": f"key{number:029}",
            "amount": sdk.Money(1000, "EUR"),
            "capture": True,
            "return_url": "https://shop.example/back",
            "webhook_url": "https://pay.example/webhooks/abc",
        }
        source = sdk.TokenSource(source) if isinstance(source, str) else source
        return sdk.ChargeRequest(source=source, **(known | fields))

    async def approved(self, source: sdk.Source | str = "tkn_visa", **fields: Any) -> sdk.Approved:
        """The answer to such a charge, which is a yes."""
        found = await self.adapter.create_intent(self.charge(source, **fields))
        assert isinstance(found, sdk.Approved)
        return found

    def part(self, kind: type[Any], charge_ref: str, minor: int = 1000, **fields: Any) -> Any:
        """A capture, void or refund."""
        number = next(_NUMBERS)
        known = {"operation_id": f"op_{number}", "key": f"key{number:029}", "charge_ref": charge_ref}
        return kind(**(known | {"amount": sdk.Money(minor, "EUR")} | fields))

    async def control(self, line: str, body: Any = None) -> Any:
        """A control call: ``POST next``."""
        method, _, path = line.partition(" ")
        answer = await self.http.request(method, f"{self.url}/_control/{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    async def booked(self, reference: str) -> list[dict[str, Any]]:
        """What the PSP's own book has of an operation."""
        return [one for one in await self.control("GET charges") if one["reference"] == reference]

    async def visit(self, outcome: sdk.Outcome, choice: str) -> str:
        """The payer on Mollie's page; where he is sent to."""
        assert isinstance(outcome, sdk.ActionRequired)
        answer = await self.http.get(outcome.action.url, params={"outcome": choice})
        assert answer.status_code == 302
        return answer.headers["location"]

    def continued(self, request: sdk.ChargeRequest, psp_ref: str, **params: str) -> sdk.ContinueRequest:
        """Going on with a charge."""
        words = (request.operation_id, request.key, request.amount, request.capture)
        return sdk.ContinueRequest(*words, psp_ref=psp_ref, params=params)

    def lookup(self, request: Any, kind: str, **fields: Any) -> sdk.RetrieveRequest:
        """A lookup by our reference."""
        made = {"created_at": datetime.now(UTC)} | fields
        return sdk.RetrieveRequest(request.operation_id, request.key, kind, request.amount, **made)


@pytest.fixture(scope="session")
def simulator_url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("simulator.py")
    with subprocess.Popen(
        [sys.executable, str(script), "--port", str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
async def world(simulator_url: str) -> AsyncIterator[World]:
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=0.15), verify=NO_TLS) as http:
        found = World(simulator_url, http)
        yield found
        assert await found.control("GET problems") == []
