"""Races on one payment, over two processes: one charge, and never more captured or refunded than there is."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from tests.shop import Json, Shop, Web, insist, new_key, state, succeeded, until, web

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import NewMerchant, Urls

RACERS = 200


@pytest.fixture(scope="module")
async def gateways(
    urls: Urls, settings: Settings, master: MasterKey, sandboxes: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Web]:
    """Two processes."""
    folder: Path = tmp_path_factory.mktemp("race")
    async with web(urls.app, settings, master, folder, count=2) as running:
        yield running


@pytest.fixture
async def shops(gateways: Web, new_merchant: NewMerchant, settings: Settings) -> AsyncIterator[list[Shop]]:
    """A fresh merchant, once behind each process."""
    merchant = await new_merchant()
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=url,
                    headers={"Authorization": f"Bearer {merchant.key}"},
                    timeout=60,
                    limits=httpx.Limits(max_connections=RACERS),
                    trust_env=False,
                )
            )
            for url in gateways.urls
        ]
        shop = await Shop.open(one, settings.plugin["psp-sandbox"]["url"])
        await shop.card()
        yield [shop, shop.behind(two)]


def outcomes(answers: list[httpx.Response]) -> Counter[tuple[int, str]]:
    """How often each status came with which word: the payment's or refund's status, or the code of a refusal."""
    return Counter(
        (one.status_code, str(one.json()["status"] if one.is_success else one.json()["code"])) for one in answers
    )


def _taken(charge: Json) -> tuple[int, int]:
    """What the PSP has captured and voided of a charge; it leaves zeros out."""
    return charge.get("captured", 0), charge.get("voided", 0)


async def test_two_hundred_confirmations_of_one_payment_charge_once(shops: list[Shop]) -> None:
    payment = await shops[0].ready()
    answers = await asyncio.gather(*(shops[n % 2].act(payment, "confirm") for n in range(RACERS)))
    told = outcomes(answers)
    assert told.pop((200, "succeeded")) == 1
    # 503: more at once than there are connections to the database, and nothing was done.
    assert set(told) <= {
        (409, "payment_in_progress"),
        (409, "payment_not_confirmable"),
        (503, "database_unavailable"),
    }
    assert all("retry-after" in one.headers for one in answers if one.status_code == 503)
    assert len(await shops[0].book()) == 1
    shown = [await shop.get(payment) for shop in shops]
    assert shown[0] == shown[1]
    assert [one["kind"] for one in shown[0]["operations"]] == ["purchase"]


@pytest.mark.parametrize("at_once", [True, False], ids=["create", "confirm"])
async def test_fifty_clients_with_one_key_get_the_same_bytes_and_one_charge(shops: list[Shop], at_once: bool) -> None:
    body = {"amount_minor": 1099, "currency": "EUR", "payment_method": await shops[0].card(), "confirm": True}
    path = "/v1/payments"
    if not at_once:
        path, body = f"/v1/payments/{(await shops[0].ready())['id']}/confirm", {}
    key = new_key()
    answers = await asyncio.gather(*(insist([shops[n % 2], shops[1 - n % 2]], path, body, key) for n in range(50)))
    assert len({(one.status_code, one.content) for one in answers}) == 1
    assert len(await shops[0].book()) == 1
    listed = (await shops[1].http.get("/v1/payments")).json()["data"]
    assert [one["status"] for one in listed] == ["succeeded"]


async def test_partial_refunds_at_once_never_exceed_what_was_captured(shops: list[Shop]) -> None:
    payment = await shops[0].paid(1000)
    answers = await asyncio.gather(*(shops[n % 2].act(payment, "refunds", {"amount_minor": 70}) for n in range(40)))
    told = outcomes(answers)
    assert told == {(201, "succeeded"): 14, (422, "amount_above_refundable"): 26}
    after = await shops[1].get(payment)
    assert (after["amounts"]["refunded_minor"], after["amounts"]["refundable_minor"]) == (980, 20)
    assert sum(one["amount"] for one in succeeded(await shops[0].book(), "refund")) == 980


async def test_partial_captures_at_once_never_exceed_what_was_authorised(shops: list[Shop]) -> None:
    payment = await shops[0].paid(1000, capture_method="manual")
    answers = await asyncio.gather(*(shops[n % 2].act(payment, "capture", {"amount_minor": 70}) for n in range(40)))
    told = outcomes(answers)
    assert told == {(200, "partially_captured"): 14, (422, "amount_above_capturable"): 26}
    after = await shops[1].get(payment)
    assert (after["amounts"]["captured_minor"], after["amounts"]["capturable_minor"]) == (980, 20)
    assert sum(one["amount"] for one in succeeded(await shops[0].book(), "capture")) == 980


async def test_final_captures_among_others_release_only_what_is_left(shops: list[Shop]) -> None:
    payment = await shops[0].paid(1000, capture_method="manual")
    answers = await asyncio.gather(
        *(shops[n % 2].act(payment, "capture", {"amount_minor": 90, "final": n % 3 == 0}) for n in range(30))
    )
    assert all(one.status_code in (200, 409, 422) for one in answers), [one.text for one in answers]
    after, book = await shops[1].get(payment), await shops[0].book()
    amounts = after["amounts"]
    assert {one["state"] for one in after["operations"]} == {"succeeded"}
    assert amounts["captured_minor"] == sum(one["amount"] for one in succeeded(book, "capture"))
    (charge,) = succeeded(book)
    assert _taken(charge) == (amounts["captured_minor"], amounts["voided_minor"])
    assert amounts["captured_minor"] + amounts["voided_minor"] + amounts["capturable_minor"] == 1000


async def test_a_cancel_that_races_a_capture_ends_as_the_psp_s_book_says(shops: list[Shop]) -> None:
    payments = [await shops[0].paid(1000, capture_method="manual") for _ in range(12)]
    answers = await asyncio.gather(
        *(
            shops[(n + turn) % 2].act(payment, what)
            for n, payment in enumerate(payments)
            for turn, what in enumerate(("capture", "cancel") if n % 2 else ("cancel", "capture"))
        )
    )
    assert set(outcomes(list(answers))) <= {
        (200, "succeeded"),
        (200, "canceled"),
        (409, "payment_in_progress"),
        (409, "payment_not_capturable"),
        (409, "payment_not_cancelable"),
    }
    charges = {one["id"]: one for one in succeeded(await shops[0].book())}
    for payment in payments:
        after = await shops[0].get(payment)
        charge = charges[after["psp"]["reference"]]
        assert after["status"] in ("succeeded", "canceled")
        assert _taken(charge) == ((1000, 0) if after["status"] == "succeeded" else (0, 1000))
        assert (after["amounts"]["captured_minor"], after["amounts"]["voided_minor"]) == _taken(charge)


async def test_a_cancel_that_races_a_confirmation_leaves_one_of_the_two(shops: list[Shop]) -> None:
    payments = [await shops[0].ready(1000) for _ in range(12)]
    await asyncio.gather(
        *(shops[n % 2].act(payment, "confirm") for n, payment in enumerate(payments)),
        *(shops[1 - n % 2].act(payment, "cancel") for n, payment in enumerate(payments)),
    )
    statuses = Counter[str]()
    for payment in payments:
        after = await shops[0].get(payment)
        statuses[after["status"]] += 1
        assert len(await shops[0].charged(after)) == (1 if after["status"] == "succeeded" else 0)
    assert set(statuses) <= {"succeeded", "canceled"}


async def test_continuations_at_once_charge_once(shops: list[Shop]) -> None:
    payment = (await shops[0].pay(1000, "tok_3ds_challenge")).json()
    await shops[0].answer_challenge(payment, "approve")
    answers = await asyncio.gather(*(shops[n % 2].act(payment, "continue") for n in range(30)))
    told = outcomes(list(answers))
    assert told.pop((200, "succeeded")) == 1
    assert set(told) <= {(409, "payment_in_progress"), (409, "payment_not_continuable")}
    assert len(succeeded(await shops[0].book())) == 1


async def test_no_transaction_is_open_while_the_psp_works(
    shops: list[Shop], superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Sampled while slow charges are under way: no connection of the application stays in a transaction."""
    method = await shops[0].card("tok_slow")
    charging = [asyncio.create_task(shops[n % 2].create(1002, payment_method=method, confirm=True)) for n in range(20)]

    async def all_there() -> list[Json] | None:
        charges = [one for one in await shops[0].book() if one["kind"] == "charge"]
        return charges if len(charges) == len(charging) else None

    await until(all_there)
    samples: list[set[tuple[int, object]]] = []
    while not any(one.done() for one in charging):
        rows = await superuser.fetch(
            "SELECT pid, xact_start FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'clearspan' AND state LIKE 'idle in transaction%'"
        )
        samples.append({(row["pid"], row["xact_start"]) for row in rows})
        await clock.sleep(0.05)
    answers = await asyncio.gather(*charging)
    assert outcomes(list(answers)) == {(201, "succeeded"): len(charging)}
    assert len(samples) > 2
    assert not any(before & after for before, after in itertools.pairwise(samples))


async def test_a_payment_reads_the_same_in_both_processes_whatever_happened_in_one(shops: list[Shop]) -> None:
    payment = await shops[0].paid(1000, capture_method="manual")
    for n, (what, body) in enumerate(
        [("capture", {"amount_minor": 300}), ("refunds", {"amount_minor": 50}), ("cancel", {})]
    ):
        answer = await shops[n % 2].act(payment, what, body)
        assert answer.is_success
        here, there = [await shop.get(payment) for shop in shops]
        assert here == there
        if what != "refunds":
            assert state(here) == answer.json()
