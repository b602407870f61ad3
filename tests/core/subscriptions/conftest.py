"""A merchant who sells subscriptions, at the simulator or at a PSP that does what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from tests.conftest import Merchant, Urls
from tests.core.payments.conftest import Puppet, other_shop, psp_url, shop, with_puppets, worker
from tests.shop import Json, Shop, gateway, with_payments

from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.sdk import ActionRequired, Declined, RedirectAction
from clearspan.settings import Settings
from clearspan.subscriptions.schedule import Scheduler

__all__ = ["other_shop", "psp_url", "shop", "worker"]


class Sales:
    """A shop with a customer, a card and plans.

    Attributes:
        shop: its PSP account is the puppet.
        puppet: the PSP.
        customer: an id.
    """

    def __init__(self, shop: Shop, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record], of: Merchant) -> None:
        self.shop = shop
        self.puppet = puppet
        self.of = of
        self.customer = ""
        self.method = ""
        self._superuser = superuser

    async def open(self) -> Sales:
        """With a customer and a card from outside the EEA."""
        self.customer = await self.new_customer()
        self.method = await self.card()
        return self

    async def new_customer(self) -> str:
        made = await self.shop.http.post("/v1/customers", json={"name": "Ada", "reference": clock.new_uuid().hex})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def card(self, customer: str | None = None) -> str:
        return await self.shop.card("tok_visa_gb", customer=customer or self.customer)

    async def plan(self, **fields: Any) -> str:
        """A plan: 9.00 EUR a month unless told otherwise."""
        body = {"name": "Basic", "amounts": {"EUR": 900}, "interval": {"unit": "month"}} | fields
        made = await self.shop.http.post("/v1/plans", json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def coupon(self, **fields: Any) -> str:
        """A coupon's code: half price once unless told otherwise."""
        code = f"c{ids.encode('c', UUID(int=id(fields))).replace('_', '')}"
        body = {"code": code, "name": "Half", "duration": "once"} | fields
        if "amounts" not in body:
            body = {"percent_bp": 5000} | body
        made = await self.shop.http.post("/v1/coupons", json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["code"])

    def body(self, plan: str, **fields: Any) -> Json:
        """Of ``POST /v1/subscriptions``, with the card and a fresh consent."""
        whole: Json = {
            "customer": self.customer,
            "items": [{"plan": plan}],
            "payment_method": self.method,
            "mandate": {"text_version": "2026-01"},
        } | fields
        return {name: value for name, value in whole.items() if value is not None}

    async def subscribe(self, plan: str | None = None, *, key: str | None = None, **fields: Any) -> httpx.Response:
        """Create a subscription."""
        return await self.shop.post("/v1/subscriptions", self.body(plan or await self.plan(), **fields), key)

    async def subscribed(self, plan: str | None = None, **fields: Any) -> Json:
        """One that is active."""
        answer = await self.subscribe(plan, **fields)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        assert made["status"] == "active", made
        return made

    async def subscribed_with(self, does: Callable[[str, Any], Any]) -> Json:
        """One that is active at a PSP that does this from now on."""
        self.puppet.does = does
        return await self.subscribed()

    async def act(self, subscription: Json, what: str, key: str | None = None, **body: Any) -> httpx.Response:
        """``change``, ``pause``, ``cancel`` and so on."""
        return await self.shop.post(f"/v1/subscriptions/{subscription['id']}/{what}", body, key)

    async def get(self, subscription: Json) -> Json:
        answer = await self.shop.http.get(f"/v1/subscriptions/{subscription['id']}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def rows(self, sql: str, subscription: Json) -> list[Json]:
        """What the database says: ``$1`` is the subscription's id."""
        return [dict(row) for row in await self._superuser.fetch(sql, ids.decode("sub", subscription["id"]))]

    async def invoices(self, subscription: Json) -> list[Json]:
        return await self.rows(
            "SELECT * FROM invoices WHERE subscription_id = $1 ORDER BY created_at, invoice_id", subscription
        )

    async def lines(self, subscription: Json) -> list[Json]:
        return await self.rows(
            "SELECT l.*, i.reason FROM invoice_lines l JOIN invoices i USING (tenant_id, live, invoice_id)"
            " WHERE i.subscription_id = $1 ORDER BY i.created_at, i.invoice_id, l.position",
            subscription,
        )

    async def events(self, subscription: Json) -> list[str]:
        rows = await self.rows("SELECT type FROM journal WHERE subject_id = $1 ORDER BY sequence, at", subscription)
        return [row["type"] for row in rows]

    async def shift(self, subscription: Json, by: str) -> None:
        """As if it had begun that much earlier."""
        await self._superuser.execute(
            "UPDATE subscriptions SET anchor_local = anchor_local - $2::text::interval, current_period_start ="
            " current_period_start - $2::text::interval, current_period_end = current_period_end - $2::text::interval,"
            " next_at = next_at - $2::text::interval WHERE subscription_id = $1",
            ids.decode("sub", subscription["id"]),
            by,
        )

    async def run(self, sql: str, *values: Any) -> None:
        """Change rows as nobody may."""
        await self._superuser.execute(sql, *values)


def decline(*_: Any) -> Any:
    """The bank says no."""
    return Declined(code="do_not_honor", raw_code="05")


def challenge(_: str, request: Any) -> Any:
    """The bank wants to see the customer."""
    return ActionRequired(psp_ref=f"ref-{request.operation_id}", action=RedirectAction("https://bank.test/"))


@pytest.fixture
def puppet() -> Any:
    made = Puppet()
    yield made
    del Puppet.strings[made.name]


@pytest.fixture(scope="session")
async def subscription_stage(
    urls: Urls, settings: Settings, master: MasterKey
) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    """A gateway that knows ``PuppetPsp`` and waits for it; leases are short."""
    quick = with_payments(settings, wait_budget_s=60, lease_s=30)
    async with gateway(urls.app, quick, master, with_puppets(settings)) as clients:
        yield clients


@pytest.fixture
async def sales(
    subscription_stage: Callable[[str], httpx.AsyncClient],
    merchant: Merchant,
    puppet: Puppet,
    settings: Settings,
    sandboxes: None,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> Sales:
    """A fresh merchant at the puppet."""
    shop = Shop(subscription_stage(merchant.key), settings.plugin["psp-sandbox"]["url"])
    await shop.add_account("puppet", 1, psp="puppet", config={"name": puppet.name})
    return await Sales(shop, puppet, superuser, merchant).open()


@pytest.fixture
def scheduler(db: Database, settings: Settings) -> Scheduler:
    """The real one."""
    return Scheduler(db, settings)
