"""A failed invoice is paid in a real browser: pay page, vault, bank and back, without one complaint about the policy.

The same way is walked without a browser by ``test_pay_page``, which reads forms and refreshes itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest
import uvicorn
from tests.conftest import Merchant, Urls, free_ports, lifespan
from tests.core.invoices.billing import customer, look, subscribed
from tests.core.invoices.chromium import browsing, found
from tests.core.invoices.paying import pay_by_card
from tests.shop import Shop

from clearspan.app import Gateway, create_app
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings


@pytest.fixture
async def served(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, psp_url: str
) -> AsyncIterator[Shop]:
    """A shop behind a gateway that listens."""
    (port,) = free_ports(1)
    server = msgspec.structs.replace(settings.server, public_url=f"http://127.0.0.1:{port}")
    changed = msgspec.structs.replace(settings, server=server)
    application = create_app(Gateway(changed, urls.app, master, plugins.load(settings.plugins.enabled)))
    async with lifespan(application):
        listening = uvicorn.Server(
            uvicorn.Config(application, port=port, lifespan="off", log_level="error", access_log=False)  # type: ignore[arg-type]
        )
        task = asyncio.create_task(listening.serve())
        transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
        headers = {"Authorization": f"Bearer {merchant.key}"}
        async with httpx.AsyncClient(transport=transport, base_url=server.public_url, headers=headers) as client:
            yield await Shop.open(client, psp_url)
        listening.should_exit = True
        await task


async def test_a_failed_invoice_is_paid_in_a_real_browser(
    served: Shop, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    browser = found()
    pictures = Path(os.environ.get("CLEARSPAN_TEST_PICTURES", tmp_path))
    who = await customer(served, language="en")
    subscription_id, invoice_id = await subscribed(superuser, merchant.caller.scope, who)
    invoice = {"id": invoice_id}
    assert await pay_by_card(served, invoice, "tok_decline_do_not_honor") == "declined"
    url = (await look(served, invoice))["pay_url"]
    async with browsing(browser, tmp_path / "profile") as page:
        await page.do("Emulation.setScriptExecutionDisabled", value=True)  # Of the pages; the driver's own goes on.
        await page.do("Page.navigate", url=f"{url}?e=declined")
        await page.until("document.querySelector('#keep')")
        await page.screenshot(pictures / "pay-desktop.png", 1200)
        await page.screenshot(pictures / "pay-dark.png", 1200, dark=True)
        await page.screenshot(pictures / "pay-phone.png", 360)
        assert await page.run("document.documentElement.scrollWidth <= window.innerWidth")
        await page.run("document.querySelector('#keep').click()")
        await page.run("document.querySelector('button').click()")
        await page.until("document.querySelector('#number')")
        for field, value in {"number": "4000002500003155", "expiry": "12/40", "cvc": "123", "name": "Ada"}.items():
            await page.run(f"document.querySelector('#{field}').value = '{value}'")
        await page.run("document.querySelector('form button').click()")
        await page.until("document.querySelector('button[value=approve]')")
        await page.run("document.querySelector('button[value=approve]').click()")
        await page.until("location.pathname.startsWith('/pay/') && document.querySelector('h1')")
        assert "the invoice is paid" in await page.run("document.querySelector('h1').textContent")
        assert await page.run("location.search") == ""
        await page.screenshot(pictures / "paid-phone.png", 360)
        assert [each for each in page.complaints if "Policy" in each] == []
    assert (await look(served, invoice))["status"] == "paid"
    status = "SELECT status, mandate_id IS NOT NULL FROM subscriptions WHERE subscription_id = $1"
    assert tuple(await superuser.fetchrow(status, subscription_id) or ()) == ("active", True)
