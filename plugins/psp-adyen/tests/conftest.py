"""The simulator as a process of its own, a vault that fills cards in on the way to it, and the adapter between them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan_psp_adyen import Adyen, AdyenConfig

HERE = Path(__file__).parent
KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
CARDS = {
    "tok_visa": "4242424242424242",
    "tok_decline_insufficient_funds": "4000000000009995",
    "tok_decline_generic_decline": "4000000000000002",
    "tok_3ds_challenge": "4000002500003155",
    "tok_no_test_card": "4999999999999999",
}
COUNT = itertools.count(1)


def module(name: str) -> Any:
    """A file beside this one, which is a script and in no package."""
    found = importlib.util.spec_from_file_location(f"adyen_{name}", HERE / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


class Vault(httpx.AsyncBaseTransport):
    """Fills placeholders in, as a vault's proxy does, and sends the request on; keeps what it was handed."""

    def __init__(self) -> None:
        self._onward = httpx.AsyncHTTPTransport()
        self.seen: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = request.content.decode()
        self.seen.append(request.content)
        if "vault_token" in request.extensions:
            card = {"number": CARDS[request.extensions["vault_token"]], "month": "03", "year": "2030", "cvc": "737"}
            for name, value in card.items():
                body = body.replace("{{" + name + "}}", value)
        headers = {k: v for k, v in request.headers.items() if k != "content-length"}
        return await self._onward.handle_async_request(
            httpx.Request(request.method, request.url, content=body.encode(), headers=headers)
        )

    async def aclose(self) -> None:
        await self._onward.aclose()


class World:
    """The adapter at the simulator."""

    def __init__(self, url: str, http: httpx.AsyncClient, vault: Vault, vault_http: httpx.AsyncClient) -> None:
        self.url, self.http, self.vault = url, http, vault
        self.context = sdk.PspContext(http=http, vault_http=vault_http, now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
        self.psp = self.adapter()

    def adapter(self, **changes: Any) -> Adyen:
        settings = {
            "api_key": "adyen_test_api_key",
            "merchant_account": "ClearspanECOM",
            "hmac_key": KEY,
            "url": self.url,
        }
        return Adyen(AdyenConfig(**(settings | changes)), self.context)

    def charge(
        self, card: str | sdk.Source = "tok_visa", amount: int = 1099, currency: str = "EUR", **fields: Any
    ) -> Any:
        number = next(COUNT)
        source = card
        if isinstance(card, str):
            source = sdk.CardSource(card, "{{number}}", "{{month}}", "{{year}}", "{{cvc}}")
        given = {
            "operation_id": f"op_{number}",
            "key": f"key-{number}",
            "amount": sdk.Money(amount, currency),
            "capture": True,
            "source": source,
            "return_url": "https://shop.example/back?order=7",
            "customer": "cus_4711",
            "browser": sdk.Browser(ip_address="198.51.100.7", user_agent="Mozilla/5.0", accept_header="text/html"),
        }
        return sdk.ChargeRequest(**(given | fields))

    def follow_up(self, kind: type[Any], charge_ref: str, amount: int = 1099, **fields: Any) -> Any:
        number = next(COUNT)
        given = {
            "operation_id": f"op_{number}",
            "key": f"key-{number}",
            "amount": sdk.Money(amount, "EUR"),
            "charge_ref": charge_ref,
        } | ({"final": True} if kind is sdk.CaptureRequest else {})
        return kind(**(given | fields))

    async def control(self, path: str, body: Any = None) -> Any:
        address = f"{self.url}/_control/{path}"
        answer = await (self.http.get(address) if body is None else self.http.post(address, json=body))
        return answer.json()

    async def booked(self, reference: str) -> list[dict[str, Any]]:
        return [one for one in await self.control("charges") if one["reference"] == reference]

    async def last_webhook(self) -> list[sdk.WebhookEvent]:
        return list(await self.psp.verify_webhook(delivery((await self.control("webhooks"))[-1]["body"])))

    async def visit(self, url: str, outcome: str) -> dict[str, str]:
        """What the payer's browser brings back."""
        answer = await self.http.get(url, params={"outcome": outcome})
        assert answer.status_code == 302
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def delivery(body: str | bytes | dict[str, Any], **headers: str) -> sdk.WebhookDelivery:
    raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    return sdk.WebhookDelivery(headers=headers, body=raw, query={}, received_at=datetime(2026, 11, 23, tzinfo=UTC))


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """Its address."""
    with subprocess.Popen(
        [sys.executable, HERE / "simulator.py", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        word, _, address = process.stdout.readline().strip().partition(" ")
        assert word == "ready"
        yield address
        process.terminate()


@pytest.fixture
async def world(simulator: str) -> AsyncIterator[World]:
    """The adapter, and at the end the claim that every request was as the published description wants it."""
    vault = Vault()
    async with httpx.AsyncClient(timeout=5) as http, httpx.AsyncClient(transport=vault, timeout=5) as vault_http:
        made = World(simulator, http, vault, vault_http)
        yield made
        assert await made.control("problems") == []
