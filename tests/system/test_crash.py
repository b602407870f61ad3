"""A gateway killed at any instant charges nobody twice and loses nothing.

Clients do what careful clients do: they repeat a request with its key until it is answered. Afterwards the PSP's own book, the
gateway's payments and the clients' answers are laid side by side.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.shop import Json, Shop, Web, insist, new_key, succeeded, until, web, with_payments

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import NewMerchant, Urls

KILLS = 30
CLIENTS = 12
POINTS = ["reserved", "answered", "settled"]
VERBS = ["create_intent", "capture", "cancel", "refund"]
Asked = tuple[str, Json, str, httpx.Response]
"""Path, body, key and what was answered."""


@pytest.fixture(scope="module")
async def gateways(
    urls: Urls, settings: Settings, master: MasterKey, sandboxes: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Web]:
    """One process per verb, with a short lease: a repetition soon may go on where a killed process stopped."""
    folder: Path = tmp_path_factory.mktemp("crash")
    own = with_payments(settings, lease_s=2, psp_timeout_s=20)
    async with web(urls.app, own, master, folder, count=len(VERBS)) as running:
        yield running


@pytest.fixture
async def shops(gateways: Web, new_merchant: NewMerchant, settings: Settings) -> AsyncIterator[list[Shop]]:
    """A fresh merchant, once behind each process."""
    merchant = await new_merchant()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=url,
                    headers={"Authorization": f"Bearer {merchant.key}"},
                    timeout=30,
                    limits=httpx.Limits(max_keepalive_connections=0),
                    trust_env=False,
                )
            )
            for url in gateways.urls
        ]
        first = await Shop.open(clients[0], settings.plugin["psp-sandbox"]["url"])
        for token in ("tok_visa", "tok_slow"):
            await first.card(token)
        yield [first, *(first.behind(http) for http in clients[1:])]


async def every_payment(shop: Shop) -> dict[str, Json]:
    """All of them, with operations, by id."""
    found: dict[str, Json] = {}
    params: dict[str, Any] = {"limit": 100}
    while True:
        page = (await shop.http.get("/v1/payments", params=params)).json()
        found |= {payment["id"]: payment for payment in page["data"]}
        if not page["has_more"]:
            return found
        params["cursor"] = page["next_cursor"]


async def order(shops: list[Shop], number: int) -> list[Asked]:
    """A payment in one or two steps, then a part of it back, each step repeated at whichever process until it is answered."""
    done: list[Asked] = []

    async def ask(path: str, body: Json) -> Json:
        key = new_key()
        answer = await insist(shops, path, body, key)
        done.append((path, body, key, answer))
        made: Json = answer.json()
        return made

    body = {"amount_minor": 1000 + number, "currency": "EUR", "payment_method": await shops[0].card()}
    payment = await ask("/v1/payments", body | {"confirm": number % 2 == 0})
    if number % 2:
        payment = await ask(f"/v1/payments/{payment['id']}/confirm", {})
    if payment["status"] == "succeeded":
        await ask(f"/v1/payments/{payment['id']}/refunds", {"amount_minor": 100 + number % 7})
    return done


async def test_thirty_kills_at_random_double_nothing_and_lose_nothing(gateways: Web, shops: list[Shop]) -> None:
    over = asyncio.Event()
    numbers = iter(range(1_000_000))
    orders: list[list[Asked]] = []

    async def client() -> None:
        while not over.is_set():
            orders.append(await order(shops, next(numbers)))

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    instants = random.Random(20261122)  # noqa: S311
    try:
        for _ in range(KILLS):
            await clock.sleep(instants.uniform(0.02, 0.4))
            await gateways.kill(instants.randrange(len(gateways.urls)))
            assert not any(one.done() for one in clients), "a client was told something it must not be told"
    finally:
        over.set()
        ends = await asyncio.gather(*clients, return_exceptions=True)
    assert [end for end in ends if end is not None] == []

    for number, asked in enumerate(one for done in orders for one in done):
        path, body, key, answer = asked
        again = await shops[number % len(shops)].post(path, body, key)
        assert (again.status_code, again.content) == (answer.status_code, answer.content)

    payments, book = await every_payment(shops[0]), await shops[0].book()
    assert [one for one in book if one["status"] != "succeeded"] == []
    booked = Counter((one["kind"], one["reference"]) for one in book)
    assert sorted(payments) == sorted(done[0][3].json()["id"] for done in orders), "one payment for each client's key"
    charged = refunded = 0
    for done in orders:
        payment = payments[done[0][3].json()["id"]]
        (charge,) = [one for one in payment["operations"] if one["kind"] == "purchase"]
        times = booked.pop(("charge", charge["id"]), 0)
        if payment["status"] != "succeeded":
            # The repetition met the first request still on its way to the PSP. That is told as what it is, not as a failure.
            assert (payment["status"], payment["outcome"]) == ("processing", "unknown")
            assert times <= 1
            continue
        assert times == 1, "charged once"
        charged += 1
        (refund,) = [one for one in payment["operations"] if one["kind"] == "refund"]
        times = booked.pop(("refund", refund["id"]), 0)
        assert refund["state"] in ("succeeded", "unknown")
        assert times == 1 if refund["state"] == "succeeded" else times <= 1
        refunded += times
    assert not booked, "the PSP has nothing in its book that no payment knows"
    assert charged > KILLS, "the clients got something done between the kills"
    assert refunded > KILLS


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_each_step_of_each_call_is_continued_by_the_repetition(
    gateways: Web, shops: list[Shop], point: str
) -> None:
    """``reserved``: stored and not sent. ``answered``: the PSP has done it. ``settled``: stored and not answered."""
    ready = shops[0]
    authorized, whole, paid = (
        await ready.paid(5000, capture_method="manual"),
        await ready.paid(2020, capture_method="manual"),
        await ready.paid(5000),
    )
    charge = {"amount_minor": 2000, "currency": "EUR", "payment_method": await ready.card(), "confirm": True}
    calls: dict[str, tuple[int, str, Json, str, str]] = {
        "create_intent": (2000, "/v1/payments", charge, "charge", "succeeded"),
        "capture": (
            2010, f"/v1/payments/{authorized['id']}/capture", {"amount_minor": 2010}, "capture", "partially_captured",
        ),
        "cancel": (2020, f"/v1/payments/{whole['id']}/cancel", {}, "void", "canceled"),
        "refund": (2030, f"/v1/payments/{paid['id']}/refunds", {"amount_minor": 2030}, "refund", "succeeded"),
    }  # fmt: skip

    async def check(shop: Shop, verb: str) -> None:
        amount_minor, path, body, kind, status = calls[verb]
        doom = gateways.doom / f"{point}-{verb}-{amount_minor}"
        doom.touch()
        key = new_key()
        answer = await insist([shop], path, body, key)
        assert not doom.exists(), "the process was killed here"
        assert answer.json()["status"] == status
        again = await shop.post(path, body, key)
        assert (again.status_code, again.content) == (answer.status_code, answer.content)
        booked = [one for one in succeeded(await shop.book(), kind) if one["amount"] == amount_minor]
        assert len([one for one in booked if one.get("capture", True)]) == 1

    await asyncio.gather(*(check(shop, verb) for shop, verb in zip(shops, VERBS, strict=True)))


async def test_a_kill_while_the_psp_works_is_continued_by_the_repetition(gateways: Web, shops: list[Shop]) -> None:
    """The slow card: booked at once, answered a second later. Another process takes over."""
    body = {"amount_minor": 1001, "currency": "EUR", "payment_method": await shops[0].card("tok_slow"), "confirm": True}
    key = new_key()
    gone = asyncio.create_task(shops[0].post("/v1/payments", body, key))
    await shops[0].under_way()
    await gateways.kill(0)
    with pytest.raises(httpx.TransportError):
        await gone
    answer = await insist([shops[1]], "/v1/payments", body, key)
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(await shops[0].book()) == 1
    assert len(await every_payment(shops[0])) == 1


async def test_a_payment_of_a_killed_gateway_is_shown_as_processing_and_is_not_charged_again(
    gateways: Web, shops: list[Shop]
) -> None:
    """By another key: only the request itself may go on with it."""
    payment = await shops[0].ready(1001, "tok_slow")
    gone = asyncio.create_task(shops[0].act(payment, "confirm"))
    await shops[0].under_way()
    await gateways.kill(0)
    with pytest.raises(httpx.TransportError):
        await gone

    async def ask() -> httpx.Response | None:
        try:
            return await shops[0].act(payment, "confirm")
        except httpx.TransportError:
            return None

    refused = await until(ask)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_in_progress")
    assert (await shops[1].get(payment))["status"] == "processing"
    assert len(await shops[0].book()) == 1
