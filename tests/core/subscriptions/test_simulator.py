"""A subscription at the simulated PSP, and what the event feed shows of it."""

from __future__ import annotations

from typing import Any

import asyncpg
import httpx
from tests.shop import Json, Shop, until

from clearspan.platform import ids


async def subscribed(shop: Shop, **fields: Any) -> Json:
    """One customer, one plan, one card from outside the EEA."""
    body = {"name": "Basic", "amounts": {"EUR": 900}, "interval": {"unit": "month"}}
    plan = (await shop.http.post("/v1/plans", json=body)).json()
    customer = (await shop.http.post("/v1/customers", json={"name": "Ada"})).json()["id"]
    wanted = {
        "customer": customer,
        "items": [{"plan": plan["id"]}],
        "payment_method": await shop.card("tok_visa_gb", customer=customer),
        "mandate": {"text_version": "2026-01"},
    }
    answer = await shop.post("/v1/subscriptions", wanted | fields)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def test_the_first_payment_is_in_the_book_of_the_psp(shop: Shop) -> None:
    made = await subscribed(shop)
    assert made["status"] == "active"
    assert [one["amount"] for one in await shop.book() if one["kind"] == "charge"] == [900]


async def test_an_eea_card_that_was_not_challenged_pays_and_leaves_the_mandate_pending(
    shop: Shop, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    customer = (await shop.http.post("/v1/customers", json={"name": "Ada"})).json()["id"]
    card = await shop.card("tok_visa_de", customer=customer)
    made = await subscribed(shop, customer=customer, payment_method=card, trial_days=0)
    assert (made["status"], made["latest_invoice"]["status"]) == ("active", "paid")
    mandate = ids.decode("man", made["mandate"])
    assert await superuser.fetchval("SELECT status FROM mandates WHERE mandate_id = $1", mandate) == "pending"


async def test_the_feed_shows_plan_coupon_and_subscription(client: httpx.AsyncClient, shop: Shop) -> None:
    body = {"code": "SPRING", "name": "Spring", "percent_bp": 1000, "duration": "once"}
    await client.post("/v1/coupons", json=body)
    made = await subscribed(shop, coupon="SPRING")

    async def told() -> list[Json] | None:
        found = (await client.get("/v1/events", params={"limit": 100})).json()["data"]
        return found if any(event["type"] == "subscription.activated" for event in found) else None

    events: dict[str, Json] = {event["type"]: event for event in await until(told)}
    for name in ("plan.created", "coupon.redeemed", "subscription.created"):
        assert events[name]["data"]["object"]["id"] == events[name]["subject"]["id"], name
    assert events["subscription.activated"]["data"]["object"]["id"] == made["id"]
    assert events["subscription.activated"]["data"]["object"]["status"] == "active"
