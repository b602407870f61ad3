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


async def test_the_first_payment_of_an_eea_card_waits_for_its_holder_and_then_activates_the_mandate(
    shop: Shop, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    customer = (await shop.http.post("/v1/customers", json={"name": "Ada"})).json()["id"]
    card = await shop.card("tok_visa_de", customer=customer)
    made = await subscribed(shop, customer=customer, payment_method=card, return_url="https://shop.example/thanks")
    payment = made["latest_invoice"]["payment"]
    assert (made["status"], payment["status"]) == ("incomplete", "requires_action")
    await shop.challenged(payment)
    mandate = ids.decode("man", made["mandate"])
    row = await superuser.fetchrow("SELECT status, authenticated FROM mandates WHERE mandate_id = $1", mandate)
    assert row is not None
    assert tuple(row) == ("active", True)
    assert (await shop.http.get(f"/v1/subscriptions/{made['id']}")).json()["status"] == "active"


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
