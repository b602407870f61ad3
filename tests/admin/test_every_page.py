"""Every page of the cockpit in a real browser: accessible by axe-core, quiet, small, and as wide as a phone.

Pages are found by their routes, so a new one is visited without a line here. Each is loaded once, as the owner, and checked
by axe-core in light and in dark, and measured at 390 pixels.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import httpx
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import CDPSession
from playwright.async_api import Page as Tab
from tests.admin import samples
from tests.admin.conftest import Served, Tabs, picture, signed_in
from tests.conftest import Merchant, NewMerchant

TRANSFERRED_MAX = 100_000
WIDE, PHONE = 1280, 390
AXE = Axe()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
FULL = {"resultTypes": ["violations"], "runOnly": RULES}
COLORS = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
SETTLED = "!document.querySelector('.htmx-request, .htmx-settling, .htmx-swapping')"
SHAPE = """() => ({
  title: document.title, headings: document.querySelectorAll('h1').length, language: document.documentElement.lang,
  doubled: [...document.querySelectorAll('[id]')].map((each) => each.id).filter((id, at, all) => all.indexOf(id) !== at),
  unlabelled: [...document.querySelectorAll('tbody td:not([data-label], [colspan])')].length,
})"""
OVERFLOW = """() => [...document.querySelectorAll('main *')].filter((each) => {
  if (each.getBoundingClientRect().right <= document.documentElement.clientWidth + 1) return false;
  for (let up = each.parentElement; up; up = up.parentElement) if (getComputedStyle(up).overflowX !== 'visible') return false;
  return !each.closest('.visually-hidden, thead');
}).slice(0, 3).map((each) => each.outerHTML.slice(0, 120))"""
SMALL = """() => [...document.querySelectorAll('button, summary, select, textarea, .button, input:not([type=hidden])')]
  .filter((each) => !['checkbox', 'radio'].includes(each.type) || !each.labels.length)
  .filter((each) => each.checkVisibility() && !each.closest('.visually-hidden'))
  .filter((each) => { const box = each.getBoundingClientRect(); return box.width && (box.width < 24 || box.height < 24); })
  .map((each) => each.outerHTML.slice(0, 120))"""


class Visit:
    """A tab that counts what is transferred and remembers what the pages complain about."""

    def __init__(self, tab: Tab, tabs: Tabs, session: CDPSession) -> None:
        self.tab = tab
        self._tabs = tabs
        self._session = session
        self._bytes = 0
        session.on("Network.loadingFinished", lambda said: self._count(said["encodedDataLength"]))

    def _count(self, size: int) -> None:
        self._bytes += size

    @classmethod
    async def of(cls, tabs: Tabs, tab: Tab) -> Visit:
        """With the cache off, so that every visit is a first one."""
        session = await tab.context.new_cdp_session(tab)
        await session.send("Network.enable")
        await session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        return cls(tab, tabs, session)

    async def problems(self, url: str, *, missing: bool) -> list[str]:
        """What is wrong with a page."""
        self._bytes = 0
        answer = await self.tab.goto(url, wait_until="load")
        assert answer is not None
        wrong = [] if answer.status == (404 if missing else 200) else [f"answered {answer.status}"]
        await self.tab.wait_for_function(SETTLED)
        if self._bytes > TRANSFERRED_MAX:
            wrong.append(f"{self._bytes} bytes transferred")
        shape = await self.tab.evaluate(SHAPE)
        if shape["headings"] != 1 or not shape["title"].partition("· Clearspan")[0].strip() or not shape["language"]:
            wrong.append(f"{shape['headings']} h1, title {shape['title']!r}, language {shape['language']!r}")
        if shape["doubled"] or shape["unlabelled"]:
            wrong.append(f"ids twice: {shape['doubled']}; cells without data-label: {shape['unlabelled']}")
        wrong += [f"light: {each}" for each in await self._axe(FULL)]
        wrong += [f"smaller than 24 px: {each}" for each in await self.tab.evaluate(SMALL)]
        await self.tab.emulate_media(color_scheme="dark")
        wrong += [f"dark: {each}" for each in await self._axe(COLORS)]
        await self.tab.emulate_media(color_scheme="light")
        await self.tab.set_viewport_size({"width": PHONE, "height": 844})
        wrong += [f"{PHONE} px, smaller than 24 px: {each}" for each in await self.tab.evaluate(SMALL)]
        if await self.tab.evaluate("document.documentElement.scrollWidth") > PHONE:
            wrong.append(f"scrolls sideways at {PHONE} px: {await self.tab.evaluate(OVERFLOW)}")
        await self.tab.set_viewport_size({"width": WIDE, "height": 900})
        said = [each for each in self._tabs.complaints if not (missing and "status of 404" in each)]
        self._tabs.complaints.clear()
        return wrong + said

    async def _axe(self, options: dict[str, Any]) -> list[str]:
        """Serious and critical violations of what is shown now."""
        found = (await AXE.run(self.tab, options=options)).response["violations"]
        return [
            f"{one['id']} ({one['help']}): {node['html'][:160]} {' '.join(node['failureSummary'].split())[:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:3]
        ]


async def is_page(http: httpx.AsyncClient, path: str) -> bool:
    """Whether an address answers with a whole page: not with a part of one, a file, a stream or another address."""
    async with http.stream("GET", path, headers={"Accept": "text/html"}) as answer:
        if answer.status_code in (302, 303) or not answer.headers.get("content-type", "").startswith("text/html"):
            return False
        await answer.aread()
        return "<!doctype html>" in answer.text


async def stocked(served: Served, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    """A merchant with an object of every kind."""
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, trust_env=False) as client:
        return await samples.made(client, served.gateway.settings, merchant, superuser, served.gateway)


async def test_every_page_is_accessible_quiet_and_small(
    served: Served, tabs: Tabs, new_merchant: NewMerchant, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    merchant = await new_merchant()
    objects = await stocked(served, merchant, superuser)
    _, session = await signed_in(served.gateway, merchant, "owner")
    cookies = {served.gateway.sessions.cookie: session.token}
    owner, nobody = await tabs.open(None), await tabs.open(None)
    await owner.context.add_cookies(
        [{"name": name, "value": value, "url": served.url} for name, value in cookies.items()]
    )
    visits = {True: await Visit.of(tabs, owner), False: await Visit.of(tabs, nobody)}
    wrong: dict[str, list[str]] = {}
    seen = 0
    async with httpx.AsyncClient(base_url=served.url, cookies=cookies, trust_env=False) as http:
        for page in samples.pages_of(served.application, "GET"):
            path = page.path(objects)
            missing = page.template.endswith("{path}")
            if not missing and not await is_page(http, path):
                continue
            seen += 1
            wrong[str(page)] = await visits[page.session].problems(f"{served.url}{path}", missing=missing)
    assert not any(wrong.values()), "\n".join(f"{page}: {one}" for page, found in wrong.items() for one in found)
    assert seen >= 3


async def test_the_style_guide_shows_every_status_in_words(tabs: Tabs, served: Served) -> None:
    for name, dark, width in (
        ("light", False, 1280),
        ("dark", True, 1280),
        ("phone", False, 390),
        ("phone-dark", True, 390),
    ):
        page = await tabs.open("owner", dark=dark, width=width)
        await page.goto(f"{served.url}/admin/style-guide")
        badges = await page.locator("#statuses .badge").all_inner_texts()
        assert len(badges) > 50
        assert all(text.strip() for text in badges)
        await picture(page, f"style-guide-{name}")
