"""Behind a proxy that gives the cockpit a prefix and ends TLS: every address has the prefix, every cookie is a secure one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from html.parser import HTMLParser

import asyncpg
import httpx
import msgspec
import pytest
from tests.admin import samples
from tests.admin.conftest import signed_in
from tests.admin.test_role_matrix import TOKEN
from tests.conftest import Merchant, Urls, lifespan

from clearspan.app import Gateway, create_app
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings

PUBLIC = "https://pay.example.com/gateway"
ORIGIN = "https://pay.example.com"
ROOT = "/gateway/admin"
BEHIND = "http://10.0.0.7:8080"
"""What the proxy calls; it has taken the prefix off."""
ADDRESSES = {
    "href",
    "src",
    "action",
    "formaction",
    "hx-get",
    "hx-post",
    "hx-put",
    "hx-delete",
    "hx-push-url",
    "sse-connect",
    "data-root",
}
"""Attributes that hold one."""
ELSEWHERE = re.compile(r"#|mailto:|data:|https://(?!pay\.example\.com)")
"""Addresses within a page and of others. Of our own host there must be none without the prefix."""
OTHER_PAGES = (
    "/gateway/docs",
    "/gateway/pay/",
    "/gateway/capture/",
    "/gateway/openapi.json",
    "/gateway/v1/",
    "/gateway/oauth/",
)


class Addresses(HTMLParser):
    """Every address that a page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.found |= {value for name, value in attrs if name in ADDRESSES and value and value not in ("true", "false")}


@pytest.fixture(scope="module")
async def proxied(urls: Urls, cockpit_settings: Settings, master: MasterKey) -> AsyncIterator[tuple[Gateway, AsgiApp]]:
    """A gateway whose public address is https with a path."""
    server = msgspec.structs.replace(cockpit_settings.server, public_url=PUBLIC)
    gateway = Gateway(
        msgspec.structs.replace(cockpit_settings, server=server),
        urls.app,
        master,
        plugins.load(cockpit_settings.plugins.enabled),
    )
    application = create_app(gateway)
    async with lifespan(application):
        yield gateway, application


@pytest.fixture
async def browser(proxied: tuple[Gateway, AsgiApp], merchant: Merchant) -> AsyncIterator[httpx.AsyncClient]:
    """An owner's browser, as the proxy passes it on: under an internal address, with the public origin."""
    gateway, application = proxied
    assert gateway.sessions.cookie.startswith("__Host-")
    _, session = await signed_in(gateway, merchant, "owner")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=samples.glance(application)),  # type: ignore[arg-type]
                base_url=BEHIND,
                headers={
                    "Origin": ORIGIN,
                    "Sec-Fetch-Site": "same-origin",
                    "Cookie": f"{gateway.sessions.cookie}={session.token}",
                },
            )
        )


def ours(address: str) -> bool:
    """Whether an address is right behind the prefix."""
    if address.startswith(f"{ORIGIN}/gateway/"):
        return True
    return (
        address == ROOT or address.startswith((f"{ROOT}/", f"{ROOT}?", *OTHER_PAGES)) or bool(ELSEWHERE.match(address))
    )


async def test_every_address_on_every_page_begins_with_the_prefix(
    proxied: tuple[Gateway, AsgiApp],
    browser: httpx.AsyncClient,
    client: httpx.AsyncClient,
    settings: Settings,
    merchant: Merchant,
    superuser: asyncpg.Connection[asyncpg.Record],
    sandboxes: None,
) -> None:
    gateway, application = proxied
    objects = await samples.made(client, settings, merchant, superuser, gateway)
    wrong = []
    checked = 0
    for page in samples.pages_of(application, "GET"):
        answer = await browser.get(page.path(objects))
        where = answer.headers.get("location") or answer.headers.get("hx-redirect")
        if where is not None and not ours(where):
            wrong.append(f"{page} leads to {where}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            named = Addresses(answer.text).found
            checked += len(named)
            # A query alone, or nothing, is the page's own address.
            wrong += [f"{page} names {each}" for each in sorted(named) if not each.startswith("?") and not ours(each)]
            policy = answer.headers["content-security-policy"]
            assert f"report-uri {ROOT}/csp-reports" in policy, page
        assert "max-age=" in answer.headers["strict-transport-security"], page
    assert wrong == []
    assert checked > 60


async def test_cookies_are_for_this_host_by_https_only(
    proxied: tuple[Gateway, AsgiApp], browser: httpx.AsyncClient
) -> None:
    page = await browser.get("/admin/style-guide")
    token = TOKEN.search(page.text)
    assert token is not None
    switched = await browser.post("/admin/look-at", data={"csrf": token[1], "mode": "live"})
    assert switched.status_code == 303
    assert switched.headers["location"] == f"{ROOT}/"
    del browser.headers["Cookie"]
    signing_in = await browser.get("/admin/sign-in")
    cookies = [*switched.headers.get_list("set-cookie"), *signing_in.headers.get_list("set-cookie")]
    assert cookies
    for cookie in cookies:
        name, *attributes = [part.strip().lower() for part in cookie.split(";")]
        assert name.startswith("__host-clearspan"), cookie
        assert {"secure", "httponly", "path=/"} <= set(attributes), cookie
        assert not any(part.startswith("domain") for part in attributes), "a __Host- cookie has none"
        assert {"samesite=lax", "samesite=strict"} & set(attributes), cookie


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Host": "pay.example.com"}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://pay.example.com.evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
    ids=["internal-host", "public-host", "another-origin", "no-origin", "look-alike", "same-site"],
)
async def test_a_form_is_taken_from_the_public_origin_whatever_the_proxy_calls_us(
    browser: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    token = TOKEN.search((await browser.get("/admin/style-guide")).text)
    assert token is not None
    answer = await browser.post("/admin/look-at", data={"csrf": token[1], "mode": "test"}, headers=headers)
    assert answer.status_code == status


async def test_whoever_is_not_signed_in_is_sent_to_the_public_address(browser: httpx.AsyncClient) -> None:
    del browser.headers["Cookie"]
    answer = await browser.get("/admin/style-guide")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{ROOT}/sign-in?next=%2Fstyle-guide"
