"""From the link that ``clearspan up`` prints to signing in with a code, in a real browser."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
import uvicorn
from tests.admin.conftest import Served, Tabs, picture
from tests.admin.test_signing import PASSWORD, far_from_the_next_step, totp
from tests.conftest import Merchant, Urls, free_ports, lifespan

from clearspan.app import Gateway, create_app
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.shop import Shop


@pytest.fixture
def empty_urls(databases: Callable[[], Urls]) -> Urls:
    """A database of its own."""
    return databases()


@pytest.fixture
async def served(
    empty_urls: Urls, cockpit_settings: Settings, master: MasterKey, merchant: Merchant
) -> AsyncIterator[Served]:
    """A gateway that listens, and that nobody is in yet."""
    (port,) = free_ports(1)
    server = msgspec.structs.replace(cockpit_settings.server, public_url=f"http://127.0.0.1:{port}")
    settings = msgspec.structs.replace(cockpit_settings, server=server)
    gateway = Gateway(settings, empty_urls.app, master, plugins.load(settings.plugins.enabled))
    application = create_app(gateway)
    async with lifespan(application):
        listening = uvicorn.Server(
            uvicorn.Config(application, port=port, lifespan="off", log_level="error", access_log=False)  # type: ignore[arg-type]
        )
        task = asyncio.create_task(listening.serve())
        while not listening.started:  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        no_shop: Shop = None  # type: ignore[assignment]  # Nobody pays here.
        yield Served(server.public_url, gateway, no_shop, merchant, application)
        listening.should_exit = True
        await task


async def test_from_the_first_owners_link_to_signing_in_with_a_code(served: Served, tabs: Tabs) -> None:
    page = await tabs.open(None)
    url = await served.gateway.signing.first_owner_link()
    assert url is not None
    await page.goto(url)
    await picture(page, "link-first-owner")
    for name, typed in (("tenant", "Ada's shop"), ("email", "ada@example.com"), ("name", "Ada")):
        if await page.locator(f"#{name}").count():
            await page.fill(f"#{name}", typed)
    await page.fill("#password", PASSWORD)
    await page.fill("#again", PASSWORD)
    await page.click("form.form button")
    await page.wait_for_selector(".qr")
    await picture(page, "second-factor")
    shown = await page.locator(".secret code").inner_text()
    secret = base64.b32decode(shown.replace(" ", ""))
    await far_from_the_next_step()
    await page.fill("#code", totp(secret, steps=-1))
    await page.click("form.form button")
    await page.wait_for_selector(".codes")
    assert await page.locator(".codes li").count() == 10
    await picture(page, "recovery-codes")
    await page.click("text=I have kept them")
    assert await page.locator("h1").inner_text() == "Home"
    await page.goto(f"{served.url}/admin/profile")
    await picture(page, "profile")
    await page.click("details.person summary")
    await page.click("text=Sign out >> nth=0")
    await page.wait_for_selector("#email")
    await picture(page, "sign-in")
    await page.fill("#email", "ada@example.com")
    await page.fill("#password", PASSWORD)
    await page.click("form.form button")
    await page.wait_for_selector("#code")
    await picture(page, "code")
    await page.fill("#code", totp(secret))
    await page.click("form.form button")
    await page.wait_for_url(re.compile(r"/admin/$"))
    assert await page.locator("h1").inner_text() == "Home"
    if await page.locator(".alert").count():
        await picture(page, "signed-in")
