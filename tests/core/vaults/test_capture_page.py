"""The capture page: a card typed into the vault's frames on a page of ours goes to the vault and nowhere else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from tests.conftest import Merchant, Urls, free_ports, lifespan
from tests.core.invoices.chromium import Page, browsing, found
from tests.core.vaults.elsewhere import ElsewhereVault, Vendor

from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.context import Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.pan import find_pan_in_text
from clearspan.settings import Settings
from clearspan.vaults.capture_controller import policy
from clearspan.vaults.links import Captured, CaptureLinks

BACK = "https://shop.example/back?a=1%202"


class World(msgspec.Struct):
    """A gateway that listens, with a vault that has no page of its own.

    Attributes:
        asked: what browsers asked of our origin: method, target and body.
    """

    url: str
    vendor: Vendor
    vault: ElsewhereVault
    links: CaptureLinks
    client: httpx.AsyncClient
    asked: list[str]

    async def session(self, return_url: str = BACK) -> str:
        opened = await self.client.post("/v1/capture-sessions", json={"return_url": return_url, "vault": "elsewhere"})
        assert opened.status_code == 201, opened.text
        assert opened.json()["vault"] == "elsewhere"
        return str(opened.json()["url"])


@pytest.fixture
async def world(urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant) -> AsyncIterator[World]:
    (port,) = free_ports(1)
    vendor = Vendor()
    async with vendor.serving():
        enabled = plugins.load(settings.plugins.enabled)
        enabled.vaults["elsewhere"] = ElsewhereVault
        enabled.plugin_of_vault["elsewhere"] = "vault-elsewhere"
        changed = msgspec.structs.replace(
            settings,
            server=msgspec.structs.replace(settings.server, public_url=f"http://127.0.0.1:{port}"),
            plugin=dict(settings.plugin) | {"vault-elsewhere": {"url": vendor.url}},
        )
        gateway = Gateway(changed, urls.app, master, enabled)
        application = create_app(gateway)
        asked: list[str] = []

        async def listening(scope: Any, receive: Any, send: Any) -> None:
            body = bytearray()

            async def heard() -> Any:
                message = await receive()
                body.extend(message.get("body", b""))
                return message

            await application(scope, heard, send)
            if scope["type"] == "http":
                headers = b" ".join(value for _, value in scope["headers"])
                query = scope["query_string"].decode()
                asked.append(
                    f"{scope['method']} {scope['path']}?{query} {headers.decode('latin-1')} {body.decode('latin-1')}"
                )

        async with lifespan(application):
            server = uvicorn.Server(
                uvicorn.Config(listening, port=port, lifespan="off", log_level="error", access_log=False)
            )
            task = asyncio.create_task(server.serve())
            headers = {"Authorization": f"Bearer {merchant.key}"}
            base = f"http://127.0.0.1:{port}"
            transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
                vault = gateway.vaults.get("elsewhere")
                assert isinstance(vault, ElsewhereVault)
                yield World(base, vendor, vault, gateway.capture_links, client, asked)
            server.should_exit = True
            await task


async def typed(page: Page, values: list[str]) -> None:
    """Type into the vault's frames as a payer does: focus and keys, which go to whatever frame has the focus."""
    frames = (await page.do("Page.getFrameTree"))["frameTree"]["childFrames"]
    assert len(frames) == len(values)
    for name, value in zip(("number", "expiry", "cvc"), values, strict=True):
        await page.run(f"document.querySelector('#{name} iframe').scrollIntoView()")
        box = await page.run(
            f"(b => [b.x + 20, b.y + b.height / 2])(document.querySelector('#{name} iframe').getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await page.do("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        await page.do("Input.insertText", text=value)


async def test_a_card_typed_in_a_real_browser_goes_to_the_vault_and_never_to_us(world: World, tmp_path: Path) -> None:
    browser = found()
    url = await world.session(f"{world.url}/health?a=1%202")
    world.vendor.answers = [{"invalid": ["number"]}, {"fail": True}]
    async with browsing(browser, tmp_path / "profile") as page:
        await page.do("Page.navigate", url=url)
        await page.until("document.querySelector('#send') && !document.querySelector('#send').disabled")
        assert await page.run("document.querySelector('#status').textContent") == ""
        assert await page.run("document.querySelector('#number iframe').title") == "Card number"
        await page.screenshot(tmp_path / "capture.png", 360)
        assert await page.run("document.documentElement.scrollWidth <= window.innerWidth")
        await typed(page, ["4242424242424242", "12/40", "737"])
        press = "document.querySelector('#send').click()"
        await page.run(press)
        await page.until("document.querySelector('#number-wrong').textContent")
        assert await page.run("document.querySelector('#number').getAttribute('aria-invalid')") == "true"
        await page.run(press)
        await page.until("document.querySelector('#problem').textContent.includes('could not be saved')")
        await page.run(press)
        await page.until("location.pathname === '/health'")
        assert await page.run("location.search") == "?a=1%202&token=tok_elsewhere%2B1"
        assert [each for each in page.complaints if "Policy" in each or "integrity" in each] == []
    assert world.vendor.values[:3] == ["4242424242424242", "12/40", "737"]
    mine = [each for each in world.asked if "/v1/" not in each]
    assert len([each for each in mine if each.startswith("GET /capture/")]) == 3
    assert not any(
        find_pan_in_text(each) or "4242" in each or "737" in each.replace("HTTP", "") for each in bodies(mine)
    )


def bodies(asked: list[str]) -> list[str]:
    """Without what has digits of its own: addresses of scripts and sealed links, and the browser's version."""
    return [re.sub(r"/capture/\S+|Mozilla.*Safari/\S+|127\.0\.0\.1:\d+|\"[^\"]*\"", "", each) for each in asked]


async def test_a_script_that_is_blocked_is_said_on_the_page(world: World, tmp_path: Path) -> None:
    browser = found()
    good = await world.session()
    world.vault._config = msgspec.structs.replace(world.vault._config, integrity="sha384-" + "A" * 64)
    async with browsing(browser, tmp_path / "profile") as page:
        await page.do("Page.navigate", url=good)
        await page.until("!document.querySelector('#problem').hidden")
        assert "ad blocker" in await page.run("document.querySelector('#problem').textContent")
        assert await page.run("document.querySelector('#fields').hidden")
        assert not await page.run("document.querySelector('#again').hidden")
        assert any("integrity" in each for each in page.complaints)


async def test_the_page_allows_the_vaults_origins_and_nothing_else(world: World) -> None:
    url = await world.session()
    page = await world.client.get(url)
    nonce = re.search(r"'nonce-([^']+)'", page.headers["Content-Security-Policy"])
    assert nonce
    vendor = world.vendor.url
    assert page.headers["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'nonce-{nonce[1]}'; script-src 'nonce-{nonce[1]}' {vendor}; frame-src {vendor};"
        f" connect-src {vendor}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.text.count("<script") == 1
    assert "<script>" not in page.text
    assert "</script>" not in unescape(page.text).split("data-told")[0]
    told = msgspec.json.decode(unescape(re.search(r'data-told="([^"]*)"', page.text)[1]))  # type: ignore[index]
    assert told["data"] == {"key": 'pk_"</script>'}
    assert nonce[1] not in (await world.client.get(url)).headers["Content-Security-Policy"]
    for path in re.findall(r"/capture/assets/[0-9a-f]{32}\.js", unescape(page.text)):
        script = await world.client.get(path)
        assert script.headers["Content-Type"].startswith("text/javascript")
        assert "immutable" in script.headers["Cache-Control"]
    assert (await world.client.get("/capture/assets/other.js")).status_code == 404


@pytest.mark.parametrize(
    ("asked", "language", "says"),
    [
        ("de-AT,de;q=0.9", "de", "Karte eingeben"),
        ("fr", "fr", "Saisissez votre carte"),
        ("es", "es", "Introduzca su tarjeta"),
        ("pt, en;q=0.5", "en", "Enter your card"),
        ("", "en", "Enter your card"),
    ],
)
async def test_it_speaks_the_payers_language(world: World, asked: str, language: str, says: str) -> None:
    page = await world.client.get(await world.session(), headers={"Accept-Language": asked})
    assert f'<html lang="{language}">' in page.text
    assert says in page.text


async def test_every_language_has_the_same_words() -> None:
    from clearspan.platform.locales import LANGUAGES
    from clearspan.vaults.capture_controller import _words

    names = [list(_words(language)) for language in LANGUAGES]
    assert all(each == names[0] for each in names)


async def test_links_are_sealed_expire_and_say_so(world: World) -> None:
    url = await world.session()
    assert "shop.example" not in url
    sealed = url.rsplit("/", 1)[1]
    for wrong in (sealed[:-8], sealed[:-3] + "AAA", "x", "%00x", "a" * 9000, sealed[::-1]):
        answer = await world.client.get(f"/capture/{wrong}")
        assert answer.status_code in (404, 422), wrong
    captured = world.links.read(sealed)
    assert captured is not None
    assert captured.return_url == BACK
    assert CaptureLinks(bytes(32), "http://x").read(sealed) is None
    old = msgspec.structs.replace(captured, expires_at=clock.now() - timedelta(seconds=1))
    late = await world.client.get(world.links.url(old))
    assert late.status_code == 410
    assert "This link has expired" in late.text
    gone = msgspec.structs.replace(captured, vault="gone")
    assert (await world.client.get(world.links.url(gone))).status_code == 503


async def test_a_vault_that_is_away_is_said_without_its_address(world: World) -> None:
    url = await world.session()
    world.vault.away = True
    page = await world.client.get(url)
    assert page.status_code == 503
    assert "does not answer" in page.text
    assert "10.0.0.1" not in page.text
    refused = await world.client.post("/v1/capture-sessions", json={"return_url": BACK, "vault": "elsewhere"})
    assert refused.status_code == 503
    assert refused.json()["code"] == "vault_unavailable"


@pytest.mark.parametrize(
    "frames",
    ["https://a.example; script-src *", "https://a.example https://b.example", "'unsafe-inline'", "*", "data:"],
)
async def test_a_provider_cannot_widen_the_policy(world: World, frames: str) -> None:
    url = await world.session()
    world.vault._config = msgspec.structs.replace(world.vault._config, frames=frames)
    assert (await world.client.get(url)).status_code == 503


def test_a_page_without_fields_may_load_nothing() -> None:
    assert policy("n", None) == (
        "default-src 'none'; style-src 'nonce-n'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_a_link_of_one_mode_says_its_mode() -> None:
    links = CaptureLinks(bytes(32), "https://pay.example")
    for live in (True, False):
        scope = Scope(tenant_id=clock.new_uuid(), live=live)
        captured = Captured(scope=scope, vault="v", return_url=BACK, expires_at=clock.now())
        url = links.url(captured)
        assert url.startswith("https://pay.example/capture/")
        assert links.read(url.rsplit("/", 1)[1]) == captured
