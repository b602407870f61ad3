"""What a customer's browser does on the pay page, without JavaScript: follow links, send forms, follow refreshes."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from tests.conftest import BASE_URL
from tests.core.invoices.billing import look
from tests.shop import Shop

REFRESH = re.compile(r'http-equiv="refresh" content="0;url=([^"]+)"')


def place(url: str) -> str:
    """Path and query, for a client whose base is the gateway of the tests."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def browser(shop: Shop) -> httpx.AsyncClient:
    """Without a key and without anything kept."""
    transport = shop.http._transport
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, follow_redirects=False)


async def follow(client: httpx.AsyncClient, answer: httpx.Response) -> httpx.Response:
    """Follow redirects within the gateway."""
    for _ in range(5):
        if answer.status_code != 303:
            return answer
        answer = await client.get(place(answer.headers["location"]))
    raise AssertionError("redirects without end")


def refresh_of(page: httpx.Response) -> str:
    """Where the page in between leads."""
    found = REFRESH.search(page.text)
    assert found, page.text
    return html.unescape(found[1])


async def card(client: httpx.AsyncClient, pay_url: str, token: str, *, keep: bool = False) -> httpx.Response:
    """Back from the vault with a token."""
    query = ({"keep": "yes"} if keep else {}) | {"token": token}
    return await client.get(f"{place(pay_url)}/card?{urlencode(query)}")


async def pay_by_card(shop: Shop, invoice: dict[str, Any], token: str = "tok_visa", *, keep: bool = False) -> str:  # noqa: S107
    """Pay an invoice on its page; ``paid`` or the word of the message."""
    url = (await look(shop, invoice))["pay_url"]
    async with browser(shop) as client:
        answer = await card(client, url, token, keep=keep)
        assert answer.status_code == 303, answer.text
        _, _, said = answer.headers["location"].partition("?e=")
    return said or (await look(shop, invoice))["status"]
