"""The sandbox PSP tells a running gateway by webhook, over HTTP, with its own signatures and its own retries."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.core.psps.conftest import Rows
from tests.shop import Json, Shop, until, web

from clearspan.platform import ids
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls


@pytest.fixture(scope="module")
async def served(
    urls: Urls, settings: Settings, master: MasterKey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of a gateway in a process of its own."""
    async with web(urls.app, settings, master, tmp_path_factory.mktemp("served")) as running:
        yield running.urls[0]


@pytest.fixture
async def shop(served: str, merchant: Merchant, psp_url: str) -> AsyncIterator[Shop]:
    """A merchant whose address the PSP knows."""
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(base_url=served, headers=headers, trust_env=False) as http:
        shop = Shop(http, psp_url)
        account = await shop.add_account("alpha", 10)
        await control(shop, "PUT", "/v1/webhooks", {"url": served + urlsplit(account["webhook_url"]).path})
        yield shop
        await control(shop, "PUT", "/v1/webhooks", {"paused": True})


async def control(shop: Shop, method: str, path: str, body: Json | None = None) -> Any:
    async with shop.psp() as psp:
        answer = await psp.request(method, path, json=body, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()


async def applied(inbox: Rows, count: int) -> list[Any]:
    async def ask() -> list[Any] | None:
        rows = [row for row in await inbox.all() if row["state"] == "applied"]
        return rows if len(rows) == count else None

    return await until(ask)


async def test_every_change_at_the_psp_arrives_and_is_linked(shop: Shop, inbox: Rows) -> None:
    payment = await shop.paid(2000)
    (row,) = await applied(inbox, 1)
    assert (row["type"], ids.encode("pay", row["payment_id"])) == ("charge.succeeded", payment["id"])
    (charge,) = await shop.book()
    await control(shop, "POST", "/v1/events", {"do": "dispute", "charge": charge["id"], "amount": 500})
    rows = await applied(inbox, 2)
    assert {ids.encode("pay", row["payment_id"]) for row in rows} == {payment["id"]}
    assert sum(row["dispute_id"] is not None for row in rows) == 1
    assert (await shop.get(payment))["amounts"]["disputed_minor"] == 500
    told = (await control(shop, "GET", "/v1/webhooks"))["messages"]
    assert [message["delivered"] for message in told] == [True, True]


async def test_what_is_not_rightly_signed_is_rejected_and_what_is_sent_again_is_one_row(
    shop: Shop, inbox: Rows
) -> None:
    await shop.paid()
    await applied(inbox, 1)
    for wrong in ({"secret": "whsec_wrong"}, {"timestamp_shift_s": -3600}, {"timestamp_shift_s": 3600}):
        (sent,) = (await control(shop, "POST", "/v1/webhooks/send", wrong))["sent"]
        assert sent["status"] == 401, wrong
    assert [row["seen"] for row in await inbox.all()] == [1]
    sent = (await control(shop, "POST", "/v1/webhooks/send", {"times": 100, "parallel": True}))["sent"]
    told = Counter(one["status"] for one in sent)
    assert told[200] >= 50
    assert set(told) <= {200, 503}
    assert [row["seen"] for row in await inbox.all()] == [1 + told[200]]


@pytest.mark.parametrize("kind", ["wrong", "missing", "other_account", "old", "future", "reserialised"])
async def test_a_message_whose_signature_is_spoiled_once_comes_again_rightly(
    shop: Shop, inbox: Rows, kind: str
) -> None:
    fault = {"fault": "W4", "verb": "charge", "options": {"kind": kind}}
    await control(shop, "POST", "/v1/faults/scripts", fault)
    await shop.paid()
    (row,) = await applied(inbox, 1)
    (message,) = (await control(shop, "GET", "/v1/webhooks"))["messages"]
    assert (message["attempts"], row["seen"]) == ([401, 200], 1)


@pytest.mark.parametrize("kind", ["rotated", "two_one_valid"])
async def test_a_message_with_a_second_signature_is_taken(shop: Shop, inbox: Rows, kind: str) -> None:
    await control(shop, "POST", "/v1/faults/scripts", {"fault": "W4", "verb": "charge", "options": {"kind": kind}})
    await shop.paid()
    await applied(inbox, 1)
    (message,) = (await control(shop, "GET", "/v1/webhooks"))["messages"]
    assert message["attempts"] == [200]
