"""Finding payments: each filter alone, all together, and pages that neither skip nor repeat."""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.payments.conftest import Puppet
from tests.shop import Json, Shop, code

from clearspan.platform import clock, ids
from clearspan.sdk import OutcomeUnknown

if TYPE_CHECKING:
    from tests.conftest import Merchant


async def found(shop: Shop, **params: Any) -> list[str]:
    """Ids, newest first."""
    answer = await shop.http.get("/v1/payments", params=params)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", False, None)
    return [payment["id"] for payment in page["data"]]


@pytest.fixture
async def ledger(shop: Shop) -> dict[str, str]:
    """One payment of every kind; name -> id, oldest first."""

    async def made(name: str, payment: Json) -> None:
        given[name] = payment["id"]

    given: dict[str, str] = {}
    await made("bare", (await shop.create(100)).json())
    await made("ready", await shop.ready(200, reference="order-1", metadata={"order": "1", "shop": "a"}))
    await made("paid", await shop.paid(300, metadata={"order": "2", "shop": "a"}))
    await made("dollars", await shop.paid(300, currency="USD", psp_account="beta"))
    await made("declined", (await shop.pay(9001)).json())
    await made("waiting", (await shop.pay(400, "tok_3ds_challenge")).json())
    await made("pending", (await shop.pay(9052)).json())
    await made("authorized", await shop.paid(500, capture_method="manual"))
    partly = await shop.paid(600, capture_method="manual")
    await shop.act(partly, "capture", {"amount_minor": 100})
    await made("partly", partly)
    refunded = await shop.paid(700)
    await shop.act(refunded, "refunds", {"amount_minor": 1})
    await made("refunded", refunded)
    canceled = await shop.ready(800)
    await shop.act(canceled, "cancel")
    await made("canceled", canceled)
    retried = (await shop.pay(900, "tok_decline_lost_card")).json()
    await shop.act(retried, "confirm", {"payment_method": await shop.card()})
    await made("retried", retried)
    return given


BY_STATUS = {
    "requires_payment_method": ["bare", "declined"],
    "requires_confirmation": ["ready"],
    "requires_action": ["waiting"],
    "processing": ["pending"],
    "requires_capture": ["authorized"],
    "succeeded": ["paid", "dollars", "refunded", "retried"],
    "partially_captured": ["partly"],
    "canceled": ["canceled"],
    "expired": [],
    "failed": ["declined"],
    "authorized": ["authorized", "partly"],
    "captured": ["paid", "dollars", "partly", "refunded", "retried"],
    "refunded": ["refunded"],
    "disputed": [],
    "unknown": [],
}


async def test_every_filter_finds_what_it_names_and_nothing_else(
    shop: Shop, ledger: dict[str, str], merchant: Merchant
) -> None:
    async def names(**params: Any) -> list[str]:
        by_id = {identity: name for name, identity in ledger.items()}
        return [by_id[identity] for identity in reversed(await found(shop, **params))]

    everything = list(ledger)
    assert await names() == everything
    for status, expected in BY_STATUS.items():
        assert await names(status=status) == expected, status
    slug, tenant_id = merchant.caller.tenant, ids.encode("ten", merchant.caller.scope.tenant_id)
    assert await names(tenant=slug) == everything
    assert await names(tenant=slug, status="failed") == ["declined"]
    assert await names(tenant=tenant_id, status="failed") == ["declined"]
    assert await names(currency="USD") == ["dollars"]
    assert await names(currency="EUR") == [name for name in everything if name != "dollars"]
    assert await names(currency="GBP") == []
    assert await names(reference="order-1") == ["ready"]
    assert await names(reference="order") == []
    assert await names(psp="beta") == ["dollars"]
    assert await names(psp="sandbox") == [
        "paid", "dollars", "declined", "waiting", "pending", "authorized", "partly", "refunded", "retried",
    ]  # fmt: skip
    assert await names(psp="stripe") == []
    assert await names(amount_min=700, amount_max=900) == ["refunded", "canceled", "retried"]
    assert await names(amount_min=700, amount_max=699) == []
    assert await names(amount_max=100) == ["bare"]
    assert await names(amount_min=9052) == ["pending"]
    assert await names(**{"metadata[order]": "1"}) == ["ready"]
    assert await names(**{"metadata[shop]": "a"}) == ["ready", "paid"]
    assert await names(**{"metadata[shop]": "a", "metadata[order]": "2"}) == ["paid"]
    assert await names(**{"metadata[shop]": "A"}) == []
    assert await names(**{"metadata[other]": ""}) == []
    assert await names(status="succeeded", currency="EUR", psp="alpha", amount_min=301) == ["refunded", "retried"]


async def test_a_payment_is_found_by_its_customer(shop: Shop, other_shop: Shop) -> None:
    customer = (await shop.post("/v1/customers", {})).json()["id"]
    stranger = (await other_shop.post("/v1/customers", {})).json()["id"]
    payment = (await shop.create(customer=customer)).json()
    await shop.create()
    assert await found(shop, customer=customer) == [payment["id"]]
    assert await found(shop, customer=stranger) == []


async def test_a_payment_whose_outcome_is_unknown_is_found(theatre: Shop, puppet: Puppet) -> None:
    def unclear(*_: Any) -> Any:
        raise OutcomeUnknown("sent, no answer")

    puppet.does = unclear
    payment = (await theatre.pay()).json()
    assert await found(theatre, status="unknown") == [payment["id"]]
    assert await found(theatre, status="failed") == []


async def test_a_range_of_time_includes_its_start_and_not_its_end(shop: Shop) -> None:
    made = [(await shop.create()).json() for _ in range(3)]
    times = [payment["created_at"] for payment in made]
    given = [payment["id"] for payment in made]
    assert await found(shop, created_after=times[1]) == [given[2], given[1]]
    assert await found(shop, created_before=times[1]) == [given[0]]
    assert await found(shop, created_after=times[1], created_before=times[2]) == [given[1]]
    elsewhere = datetime.fromisoformat(times[1]).astimezone(_zone(-5)).isoformat()
    assert await found(shop, created_after=elsewhere, created_before=times[2]) == [given[1]]
    assert await found(shop, created_after=(clock.now() + timedelta(hours=1)).isoformat()) == []


def _zone(hours: int) -> Any:
    from datetime import timezone

    return timezone(timedelta(hours=hours))


async def test_another_tenant_s_payments_are_not_there(
    shop: Shop, other_shop: Shop, live_shop: Shop, other_merchant: Merchant
) -> None:
    await shop.paid()
    assert await found(other_shop) == []
    assert await found(live_shop) == []
    refused = await shop.http.get("/v1/payments", params={"tenant": other_merchant.caller.tenant})
    assert code(refused) == (404, "tenant_not_found")


async def test_pages_neither_skip_nor_repeat_while_new_payments_are_made(shop: Shop) -> None:
    made = {(await shop.create(n + 1)).json()["id"] for n in range(45)}
    seen: list[str] = []
    cursor: str | None = None
    sizes: list[int] = []
    while True:
        params: dict[str, Any] = {"limit": 10} | ({"cursor": cursor} if cursor else {})
        (answer, *_) = await asyncio.gather(
            shop.http.get("/v1/payments", params=params), *(shop.create(1000) for _ in range(3))
        )
        page = answer.json()
        sizes.append(len(page["data"]))
        seen += [payment["id"] for payment in page["data"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    assert seen[-45:] == sorted(made, reverse=True)
    assert all(size == 10 for size in sizes[:-1])


async def test_payments_of_the_same_moment_are_paged_too(shop: Shop, merchant: Merchant, superuser: Any) -> None:
    made = {(await shop.create()).json()["id"] for _ in range(5)}
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")  # The trigger guards created_at.
        await superuser.execute(
            "UPDATE payment_intents SET created_at = $2 WHERE tenant_id = $1",
            merchant.caller.scope.tenant_id,
            clock.now(),
        )
    seen: list[str] = []
    cursor = None
    for _ in range(5):
        params: dict[str, Any] = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = (await shop.http.get("/v1/payments", params=params)).json()
        seen += [payment["id"] for payment in page["data"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert sorted(seen) == sorted(made)


async def test_refunds_are_paged_too(shop: Shop) -> None:
    payment, other = await shop.paid(1000), await shop.paid(1000)
    made = [(await shop.act(payment, "refunds", {"amount_minor": n})).json()["id"] for n in range(1, 6)]
    elsewhere = (await shop.act(other, "refunds")).json()["id"]
    seen: list[str] = []
    params: dict[str, Any] = {"payment": payment["id"], "limit": 2}
    while True:
        page = (await shop.http.get("/v1/refunds", params=params)).json()
        seen += [refund["id"] for refund in page["data"]]
        if not page["has_more"]:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == list(reversed(made))
    assert [one["id"] for one in (await shop.http.get("/v1/refunds")).json()["data"]] == [elsewhere, *reversed(made)]


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=ten", "limit"),
    ("limit=", "limit"),
    ("limit=-1", "limit"),
    ("cursor=x", "cursor"),
    ("cursor=%C3%A9", "cursor"),
    ("cursor=" + base64.urlsafe_b64encode(b"2026-01-01T00:00:00+00:00|no-uuid").decode(), "cursor"),
    ("cursor=" + base64.urlsafe_b64encode(b"yesterday|01a20661-9280-7000-8000-000000000001").decode(), "cursor"),
    ("cursor=" + "A" * 201, "cursor"),
    ("status=lost", "status"),
    ("status=Succeeded", "status"),
    ("status=", "status"),
    ("currency=eur", "currency"),
    ("currency=EURO", "currency"),
    ("amount_min=0", "amount_min"),
    ("amount_min=1.5", "amount_min"),
    ("amount_max=1000000000001", "amount_max"),
    ("created_after=yesterday", "created_after"),
    ("created_after=2026-01-01T00:00:00", "created_after"),
    ("created_before=2026-01-01", "created_before"),
    ("created_before=2026-02-30T00:00:00Z", "created_before"),
    ("colour=red", "colour"),
    ("Status=succeeded", "Status"),
    ("metadata=x", "metadata"),
    ("metadata[order=1", "metadata[order"),
    ("metadata%5Border%5Dx=1", "metadata[order]x"),
    ("reference=" + "r" * 201, "reference"),
]


@pytest.mark.parametrize(("query", "path"), BAD_QUERIES, ids=[query[:40] for query, _ in BAD_QUERIES])
async def test_a_wrong_filter_is_refused_and_named(shop: Shop, query: str, path: str) -> None:
    refused = await shop.http.get(f"/v1/payments?{query}")
    assert code(refused) == (422, "invalid_request")
    assert [error["path"] for error in refused.json()["errors"]] == [path]
    assert len(refused.json()["detail"]) > len(path)


async def test_a_filter_of_refunds_that_is_not_there_is_refused(shop: Shop) -> None:
    refused = await shop.http.get("/v1/refunds?payment_id=pay_01h455vb4pex5vsknk084sn02q")
    assert code(refused) == (422, "invalid_request")
    assert "payment" in refused.json()["detail"]


@pytest.mark.parametrize("text", ["cus_x", "x", "pay_01h455vb4pex5vsknk084sn02q", ""])
async def test_a_customer_that_is_no_id_is_refused(shop: Shop, text: str) -> None:
    assert code(await shop.http.get("/v1/payments", params={"customer": text})) == (404, "invalid_id")
