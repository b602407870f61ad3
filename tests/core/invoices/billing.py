"""Invoices for tests: a customer, one-off invoices over the API, and one of a subscription by SQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from tests.factories import insert
from tests.shop import Shop

from clearspan.platform import clock, ids
from clearspan.platform.context import Scope

Json = dict[str, Any]


async def customer(shop: Shop, **fields: Any) -> str:
    """A customer's id."""
    made = await shop.post("/v1/customers", {"name": "Ada Lovelace", "email": "ada@example.com"} | fields)
    assert made.status_code == 201, made.text
    identity: str = made.json()["id"]
    return identity


async def draft(shop: Shop, amount_minor: int = 1200, **fields: Any) -> Json:
    """A draft over one line."""
    body = {"currency": "EUR", "lines": [{"description": "Consulting", "unit_amount_minor": amount_minor}]} | fields
    if "customer" not in body:
        body["customer"] = await customer(shop)
    made = await shop.post("/v1/invoices", body)
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def act(shop: Shop, invoice: Json, what: str, body: Json | None = None, key: str | None = None) -> httpx.Response:
    """POST on an invoice."""
    return await shop.post(f"/v1/invoices/{invoice['id']}/{what}", body, key)


async def opened(shop: Shop, amount_minor: int = 1200, **fields: Any) -> Json:
    """An open invoice."""
    answer = await act(shop, await draft(shop, amount_minor, **fields), "open")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def look(shop: Shop, invoice: Json) -> Json:
    """As it stands."""
    answer = await shop.http.get(f"/v1/invoices/{invoice['id']}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def subscribed(
    connection: Any, scope: Scope, customer_id: str, amount_minor: int = 900, number: str = "SUB-000001", **fields: Any
) -> tuple[UUID, str]:
    """A subscription with one open invoice of its current period, and the rebill of it; by SQL, as the superuser."""
    now = clock.now()
    subscription_id, invoice_id = clock.new_uuid(), clock.new_uuid()
    month = timedelta(days=30)
    common = {"tenant_id": scope.tenant_id, "live": scope.live, "created_at": now, "updated_at": now}
    await insert(
        connection,
        "subscriptions",
        common
        | {
            "subscription_id": subscription_id,
            "customer_id": ids.decode("cus", customer_id),
            "status": "past_due",
            "currency": "EUR",
            "interval_unit": "month",
            "interval_count": 1,
            "time_zone": "Europe/Berlin",
            "anchor_local": now.replace(tzinfo=None),
            "period_no": 0,
            "current_period_start": now,
            "current_period_end": now + month,
            "next_at": now + month,
            "started_at": now,
            "description": "Basic",
        }
        | fields,
    )
    await insert(
        connection,
        "invoices",
        common
        | {
            "invoice_id": invoice_id,
            "customer_id": ids.decode("cus", customer_id),
            "subscription_id": subscription_id,
            "number": number,
            "status": "open",
            "reason": "cycle",
            "currency": "EUR",
            "period_start": now,
            "period_end": now + month,
            "subtotal_minor": amount_minor,
            "total_minor": amount_minor,
            "due_minor": amount_minor,
            "opened_at": now,
        },
    )
    await insert(
        connection,
        "invoice_lines",
        {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "invoice_id": invoice_id,
            "position": 1,
            "kind": "period",
            "description": "Basic",
            "quantity": 1,
            "unit_amount_minor": amount_minor,
            "amount_minor": amount_minor,
            "period_start": now,
            "period_end": now + month,
        },
    )
    await insert(
        connection,
        "rebills",
        common
        | {
            "invoice_id": invoice_id,
            "subscription_id": subscription_id,
            "state": "waiting",
            "tries": 1,
            "next_at": now + timedelta(days=3),
            "first_failed_at": now,
        },
    )
    return subscription_id, ids.encode("inv", invoice_id)
