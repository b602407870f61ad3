"""Customers, subscriptions and invoices for the cockpit's tests, made through the API at the simulator."""

from __future__ import annotations

import re
from typing import Any

import httpx
from tests.admin.conftest import Person
from tests.shop import Json, Shop

from clearspan.app import Gateway
from clearspan.platform.context import Scope

HOSTILE = "<script>alert(1)</script>\"'{{7*7}}"
"""A name that would do harm if it were not text."""
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


async def plan(shop: Shop, amount_minor: int = 900, **fields: Any) -> str:
    """A plan's id: 9.00 EUR a month unless told otherwise."""
    body = {"name": "Basic", "amounts": {"EUR": amount_minor}, "interval": {"unit": "month"}} | fields
    made = await shop.post("/v1/plans", body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def subscribed(shop: Shop, card: str = "tok_visa_gb", **fields: Any) -> Json:
    """A new customer's subscription."""
    customer = fields.pop("customer", None) or await shop.customer(name="Ada Lovelace", email="ada@example.com")
    body = {
        "customer": customer,
        "items": [{"plan": fields.pop("plan", None) or await plan(shop)}],
        "payment_method": await shop.card(card, customer=customer),
        "mandate": {"text_version": "2026-01"},
    } | fields
    made = await shop.post("/v1/subscriptions", body)
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def get(shop: Shop, path: str) -> Json:
    """An object as the API shows it."""
    answer = await shop.http.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def failing(
    shop: Shop, gateway: Gateway, scope: Scope, amount_minor: int = 2000, **fields: Any
) -> tuple[Json, Json]:
    """A subscription whose second invoice was declined for lack of money: it and the invoice, which waits for the next try."""
    one = await subscribed(shop, "tok_rebill_declined", **fields)
    assert one["status"] == "active", one
    body = {"items": [{"plan": await plan(shop, one["latest_invoice"]["total_minor"] + amount_minor, name="Bigger")}]}
    changed = await shop.post(f"/v1/subscriptions/{one['id']}/change", body)
    assert changed.status_code == 200, changed.text
    await gateway.collector.collect(scope, "req_collect")
    invoice = await get(shop, f"invoices/{changed.json()['latest_invoice']['id']}")
    return await get(shop, f"subscriptions/{one['id']}"), invoice


async def page_of(person: Person, path: str) -> str:
    """A page's text; it is there."""
    answer = await person.get(path)
    assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[-1500:]}"
    return answer.text


def said(text: str) -> str:
    """What a page says, without its tags."""
    text = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


async def followed(person: Person, answer: httpx.Response) -> str:
    """The page that a form leads to."""
    assert answer.status_code == 303, f"{answer.status_code}: {said(answer.text)[:1500]}"
    return await page_of(person, answer.headers["location"].removeprefix("/admin"))
