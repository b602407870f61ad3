"""People for the tests of the cockpit: signed in with a role, as an HTTP client and as a real browser.

``people(role)`` makes somebody of the merchant's tenant and signs them in; ``served`` is a gateway that listens, with a shop to
make payments in; ``tabs`` opens tabs of Chromium, driven by Playwright. Every tab is watched: a violation of the policy or an
error on the console fails the test that caused it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from tests.conftest import BASE_URL, Merchant, Urls, free_ports, lifespan
from tests.core.invoices import chromium
from tests.shop import Shop

from clearspan.access.sessions import NewSession, Operator
from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings

PICTURES = os.environ.get("CLEARSPAN_TEST_PICTURES")
"""Where tests leave their screenshots, when somebody wants to look at them."""
_TOKEN = re.compile(r'name="csrf" value="([^"]+)"')
_KEY = re.compile(r'name="key" value="([^"]+)"')


@pytest.fixture(scope="session")
def cockpit_settings(settings: Settings) -> Settings:
    """As everywhere, with the cockpit."""
    enabled = {**settings.plugins.enabled, "admin": ""}
    return msgspec.structs.replace(settings, plugins=msgspec.structs.replace(settings.plugins, enabled=enabled))


@pytest.fixture(scope="session")
def gateway(urls: Urls, cockpit_settings: Settings, master: MasterKey) -> Gateway:
    """Every service of an application with the cockpit; open while ``app`` is."""
    return Gateway(cockpit_settings, urls.app, master, plugins.load(cockpit_settings.plugins.enabled))


@pytest.fixture(scope="session")
async def app(gateway: Gateway) -> AsyncIterator[AsgiApp]:
    """The application with the cockpit, as a server runs it."""
    application = create_app(gateway)
    async with lifespan(application):
        yield application


@pytest.fixture(scope="session")
def psp_url(settings: Settings, sandboxes: None) -> str:
    """Where the running simulator is."""
    url: str = settings.plugin["psp-sandbox"]["url"]
    return url


@pytest.fixture
async def shop(client: httpx.AsyncClient, psp_url: str) -> Shop:
    """``merchant`` with PSP accounts, to make payments through the API before the cockpit looks at them."""
    return await Shop.open(client, psp_url)


class Person:
    """Somebody who is signed in.

    Attributes:
        operator: who.
        session: by which session.
        http: a client with their cookie, that sends what a browser's own forms send.
    """

    def __init__(self, operator: Operator, session: NewSession, http: httpx.AsyncClient) -> None:
        self.operator = operator
        self.session = session
        self.http = http

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page below ``/admin``."""
        return await self.http.get(f"/admin{path}", headers=headers)

    async def post(self, path: str, page: str = "", **fields: Any) -> httpx.Response:
        """Send a form as the page at ``page`` (the same path by default) would: with its token and key."""
        return await self.send(path, await self.hidden(page or path), **fields)

    async def hidden(self, page: str) -> dict[str, str]:
        """What the forms of a page carry: its token and key."""
        text = (await self.get(page)).text
        token, key = _TOKEN.search(text), _KEY.search(text)
        assert token is not None, f"{page} has no form: {text[:300]}"
        return {"csrf": token[1]} | ({"key": key[1]} if key else {})

    async def send(self, path: str, hidden: dict[str, str], **fields: Any) -> httpx.Response:
        """Send a form of a page that was opened before."""
        return await self.http.post(f"/admin{path}", data=hidden | fields)


NewPerson = Callable[..., Awaitable[Person]]


@pytest.fixture
async def people(gateway: Gateway, app: AsgiApp, merchant: Merchant) -> AsyncIterator[NewPerson]:
    """``await people("finance")``: a member of ``merchant``'s tenant, in test mode, with a second factor given just now."""
    async with AsyncExitStack() as stack:

        async def new(role: str = "owner", *, of: Merchant | None = None, strong: bool = True) -> Person:
            operator, session = await signed_in(gateway, of or merchant, role, strong=strong)
            http = await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=app),  # type: ignore[arg-type]
                    base_url=BASE_URL,
                    cookies={gateway.sessions.cookie: session.token},
                    headers={"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"},
                )
            )
            return Person(operator, session, http)

        yield new


async def signed_in(
    gateway: Gateway, merchant: Merchant, role: str, *, strong: bool = True
) -> tuple[Operator, NewSession]:
    """A new person with a role in the merchant's tenant, and their session."""
    operator = await gateway.operators.create(
        f"{role}-{clock.random_bytes(4).hex()}@example.com", f"{role.title()} Test"
    )
    await gateway.operators.join(merchant.caller, operator.operator_id, role)
    operator = await gateway.operators.get(operator.operator_id)
    if strong:
        operator = await gateway.operators.change(operator, totp_secret=b"not used here".hex())
    session = await gateway.sessions.open(
        operator, method="password", strong=strong, ip="127.0.0.1", agent="tests", live=merchant.caller.scope.live
    )
    return operator, session


class Served:
    """A gateway that listens on this machine.

    Attributes:
        url: where.
        gateway: its services.
        shop: makes payments in it, through the API.
        application: what listens.
    """

    def __init__(self, url: str, gateway: Gateway, shop: Shop, merchant: Merchant, application: AsgiApp) -> None:
        self.url = url
        self.application = application
        self.gateway = gateway
        self.shop = shop
        self.merchant = merchant


@pytest.fixture
async def served(
    urls: Urls, cockpit_settings: Settings, master: MasterKey, merchant: Merchant, psp_url: str
) -> AsyncIterator[Served]:
    """A gateway behind uvicorn, with the sandbox PSP and a shop."""
    (port,) = free_ports(1)
    settings = cockpit_settings
    server = msgspec.structs.replace(settings.server, public_url=f"http://127.0.0.1:{port}")
    gateway = Gateway(
        msgspec.structs.replace(settings, server=server), urls.app, master, plugins.load(settings.plugins.enabled)
    )
    application = create_app(gateway)
    async with lifespan(application):
        listening = uvicorn.Server(
            uvicorn.Config(application, port=port, lifespan="off", log_level="error", access_log=False)  # type: ignore[arg-type]
        )
        task = asyncio.create_task(listening.serve())
        headers = {"Authorization": f"Bearer {merchant.key}"}
        async with httpx.AsyncClient(base_url=server.public_url, headers=headers, trust_env=False) as client:
            while not listening.started:  # noqa: ASYNC110  (uvicorn has no event for it)
                await asyncio.sleep(0.01)
            yield Served(server.public_url, gateway, await Shop.open(client, psp_url), merchant, application)
        listening.should_exit = True
        await task


class Tabs:
    """Opens browser tabs for signed-in people, and remembers what the pages complained about."""

    def __init__(self, browser: Browser, served: Served) -> None:
        self._browser = browser
        self._served = served
        self._open: list[BrowserContext] = []
        self.complaints: list[str] = []

    async def open(
        self,
        role: str | None = "owner",
        *,
        dark: bool = False,
        width: int = 1280,
        locale: str = "en-GB",
        scripts: bool = True,
    ) -> Page:
        """A tab of somebody with this role; ``None`` for nobody."""
        context = await self._browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900},
            locale=locale,
            java_script_enabled=scripts,
        )
        self._open.append(context)
        if role is not None:
            _, session = await signed_in(self._served.gateway, self._served.merchant, role)
            cookie = {"name": self._served.gateway.sessions.cookie, "value": session.token, "url": self._served.url}
            await context.add_cookies([cookie])  # type: ignore[list-item]
        page = await context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    async def close(self) -> None:
        for context in self._open:
            await context.close()


@pytest.fixture
async def tabs(served: Served) -> AsyncIterator[Tabs]:
    """``page = await tabs.open("finance")``; at the end no page has complained."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium.found(),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
        )  # fmt: skip
        made = Tabs(browser, served)
        try:
            yield made
        finally:
            await made.close()
            await browser.close()
    assert made.complaints == []


async def picture(page: Page, name: str) -> None:
    """Leave a screenshot where ``CLEARSPAN_TEST_PICTURES`` says, for people to look at."""
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)
