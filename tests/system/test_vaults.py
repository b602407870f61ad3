"""A payment with each real vault's plugin over the whole gateway: the PSP gets the true card, the tables only the token.

The vaults are the plugins' simulators, in processes of their own; VGS's is a real forward proxy.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from tests.conftest import Merchant, Urls, free_ports, lifespan

from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

ROOT = Path(__file__).parents[2]
NUMBER = "4242424242424242"
Made = tuple[str, type[Any], dict[str, str], str]


def started(plugin: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    port, _ = free_ports(2)
    script = ROOT / "plugins" / plugin / "tests" / "simulator.py"
    argv = [sys.executable, str(script), "--port", str(port), *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(params=["basis_theory", "vgs"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """A vault: its name, class and settings, and a token of a card in it."""
    if request.param == "basis_theory":
        module = pytest.importorskip("clearspan_vault_basis_theory")
        process, url = started("vault-basis-theory")
        data = {"number": NUMBER, "expiration_month": 3, "expiration_year": 2031, "cvc": "737"}
        headers = {"BT-API-KEY": "key_private"}
        body = {"type": "card", "data": data}
        token = httpx.post(f"{url}/tokens", json=body, headers=headers, trust_env=False).json()["id"]
        settings = {"url": url, "private_key": "key_private", "public_key": "key_public"}
        kind = module.BasisTheoryVault
    else:
        module = pytest.importorskip("clearspan_vault_vgs")
        (proxy_port,) = free_ports(1)
        process, url = started("vault-vgs", "--proxy-port", str(proxy_port))
        credentials = ("USsandbox", "7d2f3a51-sandbox")
        values = [{"value": value, "format": "UUID"} for value in (NUMBER, "737")]
        answer = httpx.post(f"{url}/aliases", json={"data": values}, auth=credentials, trust_env=False).json()
        aliases = [one["aliases"][0]["alias"] for one in answer["data"]]
        token = f"{aliases[0]}.{aliases[1]}.032031.visa.4242"
        ca = httpx.get(f"{url}/_control/ca", trust_env=False).text
        settings = {"vault_id": "tntsandbox", "username": credentials[0], "password": credentials[1], "route_id": "r1"}
        settings |= {"url": url, "proxy_url": f"https://127.0.0.1:{proxy_port}", "ca": ca}
        kind = module.VgsVault
    yield request.param, kind, settings, token
    process.terminate()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
async def client(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, sandboxes: None, made: Made
) -> AsyncIterator[httpx.AsyncClient]:
    name, kind, table, _ = made
    enabled = plugins.load(settings.plugins.enabled)
    enabled.vaults[name] = kind
    enabled.plugin_of_vault[name] = f"vault-{name}"
    changed = msgspec.structs.replace(settings, plugin=dict(settings.plugin) | {f"vault-{name}": table})
    application = create_app(Gateway(changed, urls.app, master, enabled))
    async with lifespan(application):
        headers = {"Authorization": f"Bearer {merchant.key}"}
        transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=headers) as client:
            yield client


async def test_a_card_of_a_real_vault_is_charged_and_only_its_token_is_kept(
    client: httpx.AsyncClient, settings: Settings, made: Made, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    name, _, _, token = made

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await client.post(path, json=body, headers={"Idempotency-Key": clock.new_uuid().hex})
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    config = {"url": settings.plugin["psp-sandbox"]["url"], "api_key": "sk_sandbox_alpha"}
    await post("/v1/psp-accounts", {"psp": "sandbox", "name": "alpha", "config": config})
    method = await post("/v1/payment-methods", {"vault": name, "token": token})
    assert (method["card"]["brand"], method["card"]["last4"]) == ("visa", "4242")
    charge = {"amount_minor": 1099, "currency": "EUR", "payment_method": method["id"], "confirm": True}
    payment = await post("/v1/payments", charge)
    assert payment["status"] == "succeeded", payment
    tables = await superuser.fetch(
        "SELECT to_jsonb(o)::text AS row FROM operations o UNION ALL SELECT to_jsonb(m)::text FROM payment_methods m"
    )
    assert not any(NUMBER in each["row"] for each in tables)
