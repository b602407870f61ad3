"""Vaults: made from the operator's settings, asked outside of transactions, and honest about why they did not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from clearspan.platform import plugins as loader
from clearspan.platform.clock import new_uuid
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.idempotency import IdempotencyKey, read_key
from clearspan.platform.plugins import Plugins
from clearspan.settings import Settings, SettingsError
from clearspan.vaults.errors import VaultTokenInvalid, VaultUnavailable, VaultUnknown
from clearspan.vaults.links import CaptureLinks
from clearspan.vaults.schemas import CaptureSessionCreate
from clearspan.vaults.service import VaultCheck, Vaults

LINKS = CaptureLinks(bytes(32), "https://pay.example")
SESSION = CaptureSessionCreate(return_url="https://shop.example/back")


@asynccontextmanager
async def vaults_of(plugins: Plugins, settings: Settings) -> AsyncIterator[Vaults]:
    vaults = Vaults(plugins, settings, LINKS)
    try:
        yield vaults
    finally:
        await vaults.close()


@pytest.fixture
def plugins(settings: Settings) -> Plugins:
    return loader.load({"vault-sandbox": ""})


def configured(settings: Settings, **table: Any) -> Settings:
    return msgspec.structs.replace(settings, plugin={"vault-sandbox": table})


def second_vault(plugins: Plugins) -> Plugins:
    """The same provider under a second name, as another plugin would bring it."""

    first = plugins.vaults["sandbox"]
    plugins.vaults["second"] = type("Second", (first,), {"name": "second"})
    plugins.plugin_of_vault["second"] = "vault-second"
    return plugins


def idempotency() -> IdempotencyKey:
    key = read_key(new_uuid().hex, route="POST /v1/capture-sessions", path="/v1/capture-sessions", body=b"{}")
    assert key is not None
    return key


async def test_a_provider_gets_its_plugins_table_even_as_text(plugins: Plugins, settings: Settings) -> None:
    async with vaults_of(plugins, configured(settings, url="http://127.0.0.1:1", api_key="vk_other")) as vaults:
        request = vaults.get("sandbox").proxy(httpx.Request("POST", "https://psp.example/charges"), "tok_visa")
        assert str(request.url) == "http://127.0.0.1:1/forward"
        assert request.headers["X-Vault-Authorization"] == "Bearer vk_other"


@pytest.mark.parametrize("table", [{"ulr": "http://127.0.0.1"}, {"url": 1}, {"allow": "http://127.0.0.1"}])
def test_a_wrong_setting_stops_the_start_and_names_its_plugin(
    plugins: Plugins, settings: Settings, table: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=r"plugin\.vault-sandbox: "):
        Vaults(plugins, configured(settings, **table), LINKS)


async def test_the_only_vault_is_the_default(plugins: Plugins, settings: Settings) -> None:
    async with vaults_of(plugins, settings) as vaults:
        assert vaults.default() == "sandbox"
    async with vaults_of(second_vault(plugins), settings) as vaults:
        with pytest.raises(VaultUnknown, match="sandbox, second"):
            vaults.default()
        assert vaults.get("second") is not vaults.get("sandbox")
    async with vaults_of(Plugins(), settings) as vaults:
        with pytest.raises(VaultUnknown, match="none"):
            vaults.default()
        with pytest.raises(VaultUnknown):
            vaults.get("sandbox")


@pytest.mark.usefixtures("sandboxes")
async def test_a_known_token_is_described_and_an_unknown_one_refused(plugins: Plugins, settings: Settings) -> None:
    async with vaults_of(plugins, settings) as vaults:
        assert (await vaults.describe("sandbox", "tok_visa")).last4 == "4242"
        with pytest.raises(VaultTokenInvalid):
            await vaults.describe("sandbox", "tok_nobody")
        with pytest.raises(VaultUnknown):
            await vaults.describe("elsewhere", "tok_visa")


async def test_a_vault_that_is_down_is_no_fault_of_the_token(
    plugins: Plugins, settings: Settings, db: Database, tenant: Caller
) -> None:
    # Nobody listens on port 1 of this machine.
    async with vaults_of(plugins, configured(settings, url="http://127.0.0.1:1")) as vaults:
        with pytest.raises(VaultUnavailable) as refused:
            await vaults.describe("sandbox", "tok_visa")
        assert "127.0.0.1" not in refused.value.detail
        assert refused.value.headers() == {"Retry-After": "5"}
        with pytest.raises(VaultUnavailable):
            await vaults.capture_session(db, tenant, None, SESSION)


@pytest.mark.usefixtures("sandboxes")
async def test_a_check_tells_settings_that_work_from_those_that_do_not(plugins: Plugins, settings: Settings) -> None:
    url = settings.plugin["vault-sandbox"]["url"]
    async with vaults_of(plugins, settings) as vaults:
        assert await vaults.check("sandbox") == VaultCheck("ok")
        with pytest.raises(VaultUnknown):
            await vaults.check("elsewhere")
    async with vaults_of(plugins, configured(settings, url=url, api_key="wrong")) as vaults:
        found = await vaults.check("sandbox")
        assert (found.status, "401" in found.message) == ("unavailable", True), found
    async with vaults_of(plugins, configured(settings, url="http://127.0.0.1:1")) as vaults:
        assert (await vaults.check("sandbox")).status == "unavailable"


async def test_a_check_survives_a_provider_that_cannot_fails_or_hangs(plugins: Plugins, settings: Settings) -> None:
    async def fail(_: object) -> None:
        raise KeyError("a bug")

    async def hang(_: object) -> None:
        await asyncio.sleep(3600)

    class Mute(plugins.vaults["sandbox"]):  # type: ignore[misc]  # a class that is loaded
        check_connection = property()  # as if it were not there

    quick = msgspec.structs.replace(settings, payments=msgspec.structs.replace(settings.payments, psp_timeout_s=0.05))
    kind = plugins.vaults["sandbox"]
    for provider, status, words in (
        (Mute, "not_supported", ""),
        (type("Buggy", (kind,), {"check_connection": fail}), "unclear", "KeyError"),
        (type("Stuck", (kind,), {"check_connection": hang}), "unclear", "0.05 seconds"),
    ):
        plugins.vaults["sandbox"] = provider
        async with vaults_of(plugins, quick) as vaults:
            found = await vaults.check("sandbox")
        assert (found.status, words in found.message) == (status, True), found


@pytest.mark.usefixtures("sandboxes")
async def test_a_vault_that_refuses_us_opens_no_page(
    plugins: Plugins, settings: Settings, db: Database, tenant: Caller
) -> None:
    url = settings.plugin["vault-sandbox"]["url"]
    async with vaults_of(plugins, configured(settings, url=url, api_key="wrong")) as vaults:
        with pytest.raises(VaultUnavailable):
            await vaults.capture_session(db, tenant, None, SESSION)


@pytest.mark.usefixtures("sandboxes")
async def test_a_repeated_request_gets_the_same_page_though_the_vault_is_gone(
    plugins: Plugins, settings: Settings, db: Database, tenant: Caller
) -> None:
    key = idempotency()
    async with vaults_of(plugins, settings) as vaults:
        first = await vaults.capture_session(db, tenant, key, SESSION)
    assert first.status == 201
    async with vaults_of(plugins, configured(settings, url="http://127.0.0.1:1")) as vaults:
        assert await vaults.capture_session(db, tenant, key, SESSION) == first


@pytest.mark.usefixtures("sandboxes")
async def test_a_page_is_opened_over_the_api(client: httpx.AsyncClient, settings: Settings) -> None:
    answer = await client.post("/v1/capture-sessions", json={"return_url": "https://shop.example/back?order=1"})
    assert answer.status_code == 201
    session = answer.json()
    assert (session["object"], session["vault"], session["live"]) == ("capture_session", "sandbox", False)
    assert session["url"].startswith(settings.plugin["vault-sandbox"]["url"] + "/capture/")
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(session["url"])).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"return_url": ""},
        {"return_url": "javascript:alert(1)"},
        {"return_url": "shop.example"},
        {"return_url": "https://shop.example/a b"},
        {"return_url": "https://shop.example/\n"},
        {"return_url": "https://shop.example/", "vault": ""},
        {"return_url": "https://shop.example/", "extra": 1},
        {"return_url": "https://shop.example/" + "x" * 2000},
    ],
)
async def test_a_wrong_body_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    refused = await client.post("/v1/capture-sessions", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
