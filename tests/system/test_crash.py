"""A gateway killed at any instant charges nobody twice and loses nothing.

Clients do what careful clients do: they repeat a request with its key until it is answered. Afterwards the PSP's own book, the
gateway's payments and the clients' answers are laid side by side.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from tests.shop import Json, Shop, Web, insist, new_key, succeeded, until, web, with_payments

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import NewMerchant, Urls

KILLS = 60
CLIENTS = 12
POINTS = ["reserved", "answered", "settled"]
VERBS = ["create_intent", "capture", "cancel", "refund"]


@pytest.fixture(scope="module")
async def gateway(
    urls: Urls, settings: Settings, master: MasterKey, sandboxes: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Web]:
    """One gateway with a short lease, so that a repetition soon may go on where a killed one stopped."""
    folder: Path = tmp_path_factory.mktemp("crash")
    own = with_payments(settings, lease_s=2, psp_timeout_s=1.5, psp_connect_timeout_s=1)
    async with web(urls.app, own, master, folder) as running:
        yield running


@pytest.fixture
async def shop(gateway: Web, new_merchant: NewMerchant, settings: Settings) -> AsyncIterator[Shop]:
    """A fresh merchant behind it."""
    merchant = await new_merchant()
    async with httpx.AsyncClient(
        base_url=gateway.urls[0],
        headers={"Authorization": f"Bearer {merchant.key}"},
        timeout=30,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    ) as http:
        yield await Shop.open(http, settings.plugin["psp-sandbox"]["url"])


async def every_payment(shop: Shop) -> list[Json]:
    """All of them, with operations."""
    found: list[Json] = []
    params: dict[str, Any] = {"limit": 100}
    while True:
        page = (await shop.http.get("/v1/payments", params=params)).json()
        found += page["data"]
        if not page["has_more"]:
            return found
        params["cursor"] = page["next_cursor"]


async def order(shop: Shop, number: int) -> tuple[str, Json, list[tuple[str, Json, str, httpx.Response]]]:
    """A payment in one or two steps, then a part of it back; what was asked and answered, in order."""
    done: list[tuple[str, Json, str, httpx.Response]] = []

    async def ask(path: str, body: Json) -> Json:
        key = new_key()
        answer = await insist(shop, path, body, key)
        done.append((path, body, key, answer))
        made: Json = answer.json()
        return made

    body = {"amount_minor": 1000 + number, "currency": "EUR", "payment_method": await shop.card()}
    payment = await ask("/v1/payments", body | {"confirm": number % 2 == 0})
    if number % 2:
        payment = await ask(f"/v1/payments/{payment['id']}/confirm", {})
    refund: Json = {}
    if payment["status"] == "succeeded":
        refund = await ask(f"/v1/payments/{payment['id']}/refunds", {"amount_minor": 100 + number % 7})
    return payment["id"], refund, done


async def test_sixty_kills_at_random_double_nothing_and_lose_nothing(
    gateway: Web, shop: Shop, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    await shop.card()
    over = asyncio.Event()
    numbers = iter(range(1_000_000))
    orders: list[tuple[str, Json, list[tuple[str, Json, str, httpx.Response]]]] = []

    async def client() -> None:
        while not over.is_set():
            orders.append(await order(shop, next(numbers)))

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    instants = random.Random(20261122)  # noqa: S311
    try:
        for _ in range(KILLS):
            await clock.sleep(instants.uniform(0.05, 0.7))
            await gateway.kill()
            assert not any(one.done() for one in clients), "a client was told something it must not be told"
    finally:
        over.set()
        ends = await asyncio.gather(*clients, return_exceptions=True)
    assert [end for end in ends if end is not None] == []
    assert gateway.kills >= KILLS

    for _, _, done in orders:
        for path, body, key, answer in done:
            again = await shop.post(path, body, key)
            assert (again.status_code, again.content) == (answer.status_code, answer.content)

    payments, book = await every_payment(shop), await shop.book()
    by_id = {payment["id"]: payment for payment in payments}
    assert sorted(by_id) == sorted(identity for identity, _, _ in orders), "one payment per key of a client"
    charges, refunds = Counter[str](), Counter[str]()
    for operation in book:
        assert operation["status"] == "succeeded"
        (charges if operation["kind"] == "charge" else refunds)[operation["reference"]] += 1
    charged = 0
    for identity, refund, _ in orders:
        payment = by_id[identity]
        mine = [one for one in payment["operations"] if one["kind"] == "purchase"]
        booked = sum(charges.pop(one["id"], 0) for one in mine)
        assert len(mine) == 1
        if payment["status"] == "succeeded":
            assert booked == 1, "charged once"
            charged += 1
            back = [one for one in payment["operations"] if one["kind"] == "refund"]
            assert len(back) == 1
            assert refunds.pop(back[0]["id"], 0) <= 1
            if refund["status"] == "succeeded":
                assert payment["amounts"]["refunded_minor"] == refund["amount_minor"]
        else:
            # Only a PSP slower than its time leaves this, and never as a failure.
            assert (payment["status"], payment["outcome"]) == ("processing", "unknown")
            assert booked <= 1
    assert charged > KILLS, "the clients got something done between the kills"
    assert not charges, "nothing in the PSP's book that no payment knows"
    assert not refunds
    doubled = await superuser.fetchval(
        "SELECT count(*) FROM (SELECT payment_id FROM operations WHERE kind = 'purchase'"
        " GROUP BY tenant_id, live, payment_id HAVING count(*) > 1) AS twice"
    )
    assert isinstance(doubled, int)


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_each_step_of_each_call_is_continued_by_the_repetition(
    gateway: Web, shop: Shop, point: str
) -> None:
    """``reserved``: stored and not sent. ``answered``: the PSP has done it. ``settled``: stored and not answered."""
    await shop.card()
    amounts = {verb: 2000 + 10 * number for number, verb in enumerate(VERBS)}
    kinds = {"create_intent": "charge", "capture": "capture", "cancel": "void", "refund": "refund"}
    ready = {
        verb: await shop.paid(5000 if verb != "cancel" else amounts[verb], capture_method=capture)
        for verb, capture in (("capture", "manual"), ("cancel", "manual"), ("refund", "automatic"))
    }
    calls: dict[str, tuple[str, Json]] = {
        "create_intent": (
            "/v1/payments",
            {"amount_minor": amounts["create_intent"], "currency": "EUR", "payment_method": await shop.card()}
            | {"confirm": True},
        ),
        "capture": (f"/v1/payments/{ready['capture']['id']}/capture", {"amount_minor": amounts["capture"]}),
        "cancel": (f"/v1/payments/{ready['cancel']['id']}/cancel", {}),
        "refund": (f"/v1/payments/{ready['refund']['id']}/refunds", {"amount_minor": amounts["refund"]}),
    }
    for verb in VERBS:
        doom = gateway.doom / f"{point}-{verb}-{amounts[verb]}"
        doom.touch()
        path, body = calls[verb]
        key = new_key()
        answer = await insist(shop, path, body, key)
        assert not doom.exists(), "the gateway was killed here"
        again = await shop.post(path, body, key)
        assert (again.status_code, again.content) == (answer.status_code, answer.content)
        expected = {"create_intent": "succeeded", "capture": "partially_captured", "cancel": "canceled"}
        assert answer.json()["status"] == expected.get(verb, "succeeded")
        booked = [one for one in succeeded(await shop.book(), kinds[verb]) if one["amount"] == amounts[verb]]
        wanted = [one for one in booked if verb != "create_intent" or one["capture"]]
        assert len(wanted) == 1, verb


async def test_a_kill_while_the_psp_works_is_continued_by_the_repetition(gateway: Web, shop: Shop) -> None:
    """The slow card: booked at once, answered a second later."""
    body = {"amount_minor": 1001, "currency": "EUR", "payment_method": await shop.card("tok_slow"), "confirm": True}
    key = new_key()
    insisting = asyncio.create_task(insist(shop, "/v1/payments", body, key))
    await shop.under_way()
    await gateway.kill()
    answer = await insisting
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(await shop.book()) == 1
    assert len(await every_payment(shop)) == 1


async def test_a_payment_of_a_killed_gateway_is_shown_as_processing_and_is_not_charged_again(
    gateway: Web, shop: Shop
) -> None:
    """By another key: only the request itself may go on with it."""
    payment = await shop.ready(1001, "tok_slow")
    gone = asyncio.create_task(shop.act(payment, "confirm"))
    await shop.under_way()
    await gateway.kill()
    with pytest.raises(httpx.TransportError):
        await gone

    async def ask() -> httpx.Response | None:
        try:
            return await shop.act(payment, "confirm")
        except httpx.TransportError:
            return None

    refused = await until(ask)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_in_progress")
    assert (await shop.get(payment))["status"] == "processing"
    assert len(await shop.book()) == 1
