"""A day in the cockpit, in one real browser: from the first owner's link to the verified trail.

The gateway listens with a database of its own, nobody is in yet, and the shop's demo runs as a process against it. What each step
may refuse is tried where its pages are tested; here the way through all of them is walked.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import asyncpg
import httpx
import msgspec
import pytest
import uvicorn
from playwright.async_api import Page, expect
from tests.admin.conftest import Served, Tabs, picture, signed_in
from tests.admin.test_audit import seal
from tests.admin.test_signing import PASSWORD, far_from_the_next_step, totp
from tests.admin.test_work import unknown_payment
from tests.conftest import ALL_SCOPES, BASE_URL, Merchant, Urls, app_of, free_ports, lifespan
from tests.core.desk.stuck import failed_mails
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import clock, plugins
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from clearspan.platform.gate import AsgiApp


@pytest.fixture
def urls(databases: Callable[[], Urls]) -> Urls:
    """A database of its own: the first owner's link is only made while there is nobody."""
    return databases()


@pytest.fixture
async def served(urls: Urls, cockpit_settings: Settings, master: MasterKey, psp_url: str) -> AsyncIterator[Served]:
    """A gateway that listens, with a tenant, its key, and PSP accounts whose webhooks come nowhere: the unknown stays so."""
    (port,) = free_ports(1)
    server = msgspec.structs.replace(cockpit_settings.server, public_url=f"http://127.0.0.1:{port}")
    settings = msgspec.structs.replace(cockpit_settings, server=server)
    loaded = plugins.load(settings.plugins.enabled)
    gateway = Gateway(settings, urls.app, master, loaded)
    away = Gateway(cockpit_settings, urls.app, master, loaded)
    async with AsyncExitStack() as stack:
        for each in (away, gateway):
            await stack.enter_async_context(lifespan(app_of(each)))
        merchant = await _shopkeeper(gateway)
        application = app_of(gateway)
        listening = uvicorn.Server(
            uvicorn.Config(application, port=port, lifespan="off", log_level="error", access_log=False)  # type: ignore[arg-type]
        )
        task = asyncio.create_task(listening.serve())
        while not listening.started:  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        http = await stack.enter_async_context(_client(app_of(away), merchant))
        yield Served(server.public_url, gateway, await _shop(http, psp_url), merchant, application)
        listening.should_exit = True
        await task


async def _shopkeeper(gateway: Gateway) -> Merchant:
    tenant = await gateway.tenants.create("northwind", "Northwind Coffee")
    scope = Scope(tenant_id=tenant.tenant_id, live=False)
    cli = Caller(scope=scope, actor_type="cli", actor_id="cli", request_id="req_tests", tenant="northwind")
    _, secret = await gateway.api_keys.create(cli, "shop backend", ALL_SCOPES)
    return Merchant(cli, secret)


async def _shop(http: httpx.AsyncClient, psp_url: str) -> Shop:
    """With the accounts that the demo compares its books with."""
    shop = Shop(http, psp_url)
    shop.keys["alpha"] = "sk_sandbox_alpha"
    await shop.add_account("alpha", 10)
    await shop.add_account("beta", 20)
    return shop


def _client(application: AsgiApp, merchant: Merchant) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
    headers = {"Authorization": f"Bearer {merchant.key}"}
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers)


@pytest.fixture
async def working(served: Served) -> AsyncIterator[None]:
    """Somebody works off bulk runs, as a worker does."""

    async def run() -> None:
        while True:
            held = await served.gateway.desk.claim(served.merchant.caller.scope)
            while held is not None and await served.gateway.desk.step(served.merchant.caller.scope, held, "req_worker"):
                pass
            await clock.sleep(0.1)

    task = asyncio.create_task(run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_from_the_first_link_to_the_verified_trail(served: Served, tabs: Tabs, urls: Urls, working: None) -> None:
    page = await tabs.open(None)
    await _become_the_first_owner(page, served)
    await _watch_the_demo(page, served)
    await _find_and_refund(page, served)
    await _resolve_what_is_unknown(page, served)
    await _retry_in_bulk(page, served, urls)
    await _change_a_role_and_read_what_changed(page, served)
    await _verify(page, served)


async def _become_the_first_owner(page: Page, served: Served) -> None:
    """With a password and an authenticator."""
    url = await served.gateway.signing.first_owner_link()
    assert url is not None
    await page.goto(url)
    await page.fill("#email", "ada@example.com")
    await page.fill("#name", "Ada Lovelace")
    await page.fill("#password", PASSWORD)
    await page.fill("#again", PASSWORD)
    await page.click("form.form button")
    await page.wait_for_selector(".qr")
    shown = await page.locator(".secret code").inner_text()
    await far_from_the_next_step()
    await page.fill("#code", totp(base64.b32decode(shown.replace(" ", "")), steps=-1))
    await page.click("form.form button")
    await page.click("text=I have kept them")
    await expect(page.locator("h1")).to_have_text("Home")


async def _watch_the_demo(page: Page, served: Served) -> None:
    """Payments of another process come in without a reload."""
    loaded = await page.evaluate("performance.timeOrigin")
    arguments = ["-m", "clearspan.cli", "demo", "--url", served.url, "--key", served.merchant.key]
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")}
        | {"CLEARSPAN_PLUGIN_PSP_SANDBOX_URL": served.shop.psp_url},
    )
    said = asyncio.create_task(demo.communicate())
    with suppress(AssertionError):  # What the demo said tells more.
        await expect(page.locator("tbody tr").nth(11)).to_be_visible(timeout=60_000)
    output, _ = await said
    assert demo.returncode == 0, output.decode()[-2000:]
    assert await page.locator("tbody tr").count() >= 12
    await expect(page.get_by_text("Live updates")).to_be_visible()
    assert await page.evaluate("performance.timeOrigin") == loaded
    await picture(page, "story-home")


async def _find_and_refund(page: Page, served: Served) -> None:
    payment = await served.shop.paid(4_200, reference="order-story")
    await page.keyboard.press("/")
    await page.fill("#find", "order-story")
    await page.keyboard.press("Enter")
    await page.locator("tbody tr a").first.click()
    await page.get_by_role("link", name="Refund", exact=True).click()
    await page.fill("#amount", "1.00")
    await page.fill("#reason", "broken cup")
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_role("button", name="Refund €1.00").click()
    await page.get_by_text("Refunded €1.00.").wait_for()
    assert (await served.shop.get(payment))["amounts"]["refunded_minor"] == 100


async def _resolve_what_is_unknown(page: Page, served: Served) -> None:
    payment = await unknown_payment(served.shop)
    await page.goto(f"{served.url}/admin/work?queue=unknown")
    await page.locator(f"a[href$='{payment['id']}']").first.click()
    for _ in range(8):  # The PSP does not answer lookups either, at first.
        await page.get_by_role("button", name="Ask the PSP now").click()
        await page.wait_for_load_state()
        if not await page.get_by_role("button", name="Ask the PSP now").count():
            break
    await expect(page.locator(".badge.good", has_text="Succeeded").first).to_be_visible()
    assert (await served.shop.get(payment))["status"] == "succeeded"
    assert len(await served.shop.charged(payment)) == 1


async def _retry_in_bulk(page: Page, served: Served, urls: Urls) -> None:
    owner = await asyncpg.connect(urls.superuser)
    try:
        await failed_mails(owner, served.merchant.caller, 130)
    finally:
        await owner.close()
    await page.goto(f"{served.url}/admin/work?queue=notices")
    await page.get_by_label("All 130 that match this filter").check()
    await page.get_by_label("Why").fill("the mail server was away")
    await page.get_by_role("button", name="Send again").first.click()
    await page.locator("#confirm button[value=yes]").click()
    await expect(page.get_by_text("Through.")).to_be_visible(timeout=30_000)
    await expect(page.locator(".stat.good .stat-value")).to_have_text("130")


async def _change_a_role_and_read_what_changed(page: Page, served: Served) -> None:
    grace, _ = await signed_in(served.gateway, served.merchant, "support")
    await page.goto(f"{served.url}/admin/settings/people/{grace.public_id}")
    await page.get_by_label("Auditor").check()
    await page.get_by_role("button", name="Change the role").click()
    await page.locator("#confirm button[value=yes]").click()
    await page.get_by_text("The new role holds at once").wait_for()
    await page.goto(f"{served.url}/admin/audit?mode=live&type=operator.role_changed")
    await expect(page.locator("del")).to_have_text("support")
    await expect(page.locator("ins")).to_have_text("auditor")
    await picture(page, "story-diff")


async def _verify(page: Page, served: Served) -> None:
    await seal(served.gateway)
    await page.goto(f"{served.url}/admin/audit")
    await page.get_by_role("button", name="Verify now").click()
    await page.get_by_text("Verified: the trail is what was signed.").wait_for()
    await picture(page, "story-verified")
