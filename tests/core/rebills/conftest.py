"""Subscriptions that are charged at a PSP which does what the test says, in the time of a test clock or of the wall."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from tests.core.payments.conftest import Puppet, approve, with_puppets
from tests.factories import Connection, insert

from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey
from clearspan.rebills import plans
from clearspan.sdk import Declined
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
"""A Monday."""
MONTH = timedelta(days=31)


def declined(code: str, **more: Any) -> Any:
    """A PSP that refuses everything."""

    def answer(verb: str, request: Any) -> Any:
        return Declined(code=code, raw_code=f"raw-{code}", **more)

    return answer


class Deal(msgspec.Struct, frozen=True):
    """A subscription with what it rests on."""

    subscription: UUID
    customer: UUID
    method: UUID
    mandate: UUID | None


class Desk:
    """Makes rows, lets the collector work, and looks at what became of them.

    Attributes:
        clock_id: of the test clock that everything hangs on; ``None``: on the wall clock.
    """

    def __init__(
        self, gateway: Gateway, http: httpx.AsyncClient, merchant: Merchant, superuser: Connection, puppet: Puppet
    ) -> None:
        self.gateway = gateway
        self.http = http
        self.scope = merchant.caller.scope
        self.puppet = puppet
        self.sql = superuser
        self.clock_id: UUID | None = None
        self.account: UUID = UUID(int=0)
        self._numbers = 0

    async def add(self, table: str, **row: Any) -> None:
        """One row of the merchant's."""
        await insert(self.sql, table, {"tenant_id": self.scope.tenant_id, "live": self.scope.live, **row})

    async def open(self, *, virtual: bool) -> Desk:
        """With an account at the puppet."""
        made = await self.http.post(
            "/v1/psp-accounts", json={"psp": "puppet", "name": "alpha", "config": {"name": self.puppet.name}}
        )
        assert made.status_code == 201, made.text
        self.account = ids.decode("acct", made.json()["id"])
        await self.add("billing_settings", updated_at=START)
        if virtual:
            self.clock_id = clock.new_uuid()
            stamps = {"created_at": START, "updated_at": START}
            await self.add("test_clocks", test_clock_id=self.clock_id, name="t", now_at=START, **stamps)
        return self

    async def card(self, customer: UUID, **more: Any) -> UUID:
        """A payment method, of a card of its own unless ``fingerprint`` says which."""
        method = clock.new_uuid()
        row = {
            "brand": "visa",
            "funding": "credit",
            "fingerprint": method.hex,
            "last4": "4242",
            "exp_month": 12,
            "exp_year": 2099,
            "vault": "sandbox",
            "vault_token": "tok_visa",
            "created_at": START,
            "updated_at": START,
        } | more
        await self.add("payment_methods", payment_method_id=method, customer_id=customer, **row)
        return method

    async def mandate(self, customer: UUID, method: UUID, **more: Any) -> UUID:
        """An active one."""
        mandate = clock.new_uuid()
        row = {
            "purpose": "recurring",
            "status": "active",
            "text_version": "1",
            "accepted_at": START,
            "activated_at": START - MONTH,
            "created_at": START,
            "updated_at": START,
        } | more
        await self.add("mandates", mandate_id=mandate, customer_id=customer, payment_method_id=method, **row)
        return mandate

    async def deal(self, *, zone: str = "Europe/Berlin", mandated: bool = True, card: Any = None, **more: Any) -> Deal:
        """An active subscription in its first month."""
        customer, subscription = clock.new_uuid(), clock.new_uuid()
        stamps = {"created_at": START, "updated_at": START}
        await self.add("customers", customer_id=customer, test_clock_id=self.clock_id, **stamps)
        method = await self.card(customer, **(card or {}))
        mandate = await self.mandate(customer, method) if mandated else None
        row = {
            "status": "active",
            "currency": "EUR",
            "interval_unit": "month",
            "interval_count": 1,
            "time_zone": zone,
            "anchor_local": START.replace(tzinfo=None),
            "period_no": 0,
            "current_period_start": START,
            "current_period_end": START + MONTH,
            "next_at": START + MONTH,
            "started_at": START,
            "test_clock_id": self.clock_id,
        } | more
        await self.add(
            "subscriptions",
            subscription_id=subscription,
            customer_id=customer,
            payment_method_id=method,
            mandate_id=mandate,
            **row,
            **stamps,
        )
        return Deal(subscription, customer, method, mandate)

    async def invoice(
        self, deal: Deal, amount_minor: int = 900, *, at: datetime = START, state: str = "due", **more: Any
    ) -> UUID:
        """An open invoice that is due now, and in no control group of the built-in plan."""
        invoice = clock.new_uuid()
        while plans.held_out(plans.BUILT_IN, invoice):
            invoice = clock.new_uuid()
        self._numbers += 1
        row = {
            "status": "open",
            "reason": "manual",
            "currency": "EUR",
            "period_start": at,
            "period_end": at + MONTH,
            "subtotal_minor": amount_minor,
            "total_minor": amount_minor,
            "due_minor": amount_minor,
            "opened_at": at,
            "test_clock_id": self.clock_id,
        } | more
        stamps = {"created_at": at, "updated_at": at}
        await self.add(
            "invoices",
            invoice_id=invoice,
            customer_id=deal.customer,
            subscription_id=deal.subscription,
            number=f"INV-{self._numbers:06}",
            **row,
            **stamps,
        )
        if row.get("collection") != "held":
            await self.add(
                "rebills",
                invoice_id=invoice,
                subscription_id=deal.subscription,
                state=state,
                next_at=at,
                test_clock_id=self.clock_id,
                **stamps,
            )
        return invoice

    async def collect(
        self, at: datetime | None = None, *, gateway: Gateway | None = None, most: int | None = None
    ) -> int:
        """One run at a moment of the test clock, or now."""
        if self.clock_id is not None:
            assert at is not None
            await self.sql.execute(
                "UPDATE test_clocks SET now_at = greatest(now_at, $2) WHERE test_clock_id = $1", self.clock_id, at
            )
        collector = (gateway or self.gateway).collector
        return await collector.collect(self.scope, "req_collect", at=at, test_clock_id=self.clock_id, most=most)

    async def rebill(self, invoice: UUID) -> dict[str, Any]:
        """The row, with the decision decoded."""
        row = await self.sql.fetchrow("SELECT * FROM rebills WHERE invoice_id = $1", invoice)
        assert row is not None
        found = dict(row)
        found["last_decision"] = msgspec.json.decode(found["last_decision"]) if found["last_decision"] else None
        return found

    async def decision(self, invoice: UUID) -> tuple[str, str]:
        """Action and reason of the last one."""
        found = (await self.rebill(invoice))["last_decision"]
        return found["action"], found["reason"]

    async def value(self, sql: str, *arguments: Any) -> Any:
        """One value."""
        return await self.sql.fetchval(sql, *arguments)

    async def status(self, deal: Deal) -> str:
        """Of the subscription."""
        found: str = await self.value("SELECT status FROM subscriptions WHERE subscription_id = $1", deal.subscription)
        return found

    async def tries(self, invoice: UUID) -> list[datetime]:
        """When the scheduler charged it."""
        rows = await self.sql.fetch("SELECT at FROM rebill_tries WHERE invoice_id = $1 ORDER BY try", invoice)
        return [row["at"] for row in rows]

    async def operations(self, invoice: UUID) -> list[str]:
        """The states of all charges of an invoice."""
        rows = await self.sql.fetch(
            "SELECT o.state FROM operations o JOIN payment_intents p USING (tenant_id, live, payment_id)"
            " WHERE p.invoice_id = $1 ORDER BY o.created_at",
            invoice,
        )
        return [row["state"] for row in rows]

    async def run_through(self, invoice: UUID, until: datetime, *, most: int = 60) -> list[datetime]:
        """Let the collector work at each moment the rebill names, up to ``until``; returns when it was charged."""
        for _ in range(most):
            next_at = (await self.rebill(invoice))["next_at"]
            if next_at is None or next_at > until:
                break
            await self.collect(next_at)
        else:
            pytest.fail("the rebill never comes to rest")
        return await self.tries(invoice)

    async def notices(self, invoice: UUID) -> list[tuple[str, str]]:
        """Kinds and states, oldest first."""
        rows = await self.sql.fetch("SELECT kind, state FROM notices WHERE invoice_id = $1 ORDER BY notice_id", invoice)
        return [(row["kind"], row["state"]) for row in rows]

    async def events(self, subject: UUID) -> list[str]:
        """Types of what the journal tells of it, in order."""
        rows = await self.sql.fetch("SELECT type FROM journal WHERE subject_id = $1 ORDER BY epoch, xid, seq", subject)
        return [row["type"] for row in rows]


@pytest.fixture
def puppet() -> Any:
    """The PSP."""
    made = Puppet()
    made.does = approve
    yield made
    del Puppet.strings[made.name]


@pytest.fixture(scope="session")
async def collecting(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """A worker's services, with the puppet's plugin and a pace that holds nobody up."""
    hurried = msgspec.structs.replace(settings.rebills, rate_per_account_s=5000.0)
    settings = msgspec.structs.replace(settings, rebills=hurried)
    gateway = Gateway(settings, urls.app, master, with_puppets(settings))
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
async def wall(collecting: Gateway, merchant: Merchant, superuser: Connection, puppet: Puppet) -> AsyncIterator[Desk]:
    """In the time of the wall clock."""
    from tests.conftest import BASE_URL, app_of

    transport = httpx.ASGITransport(app=app_of(collecting))
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        yield await Desk(collecting, http, merchant, superuser, puppet).open(virtual=False)


@pytest.fixture
async def desk(collecting: Gateway, merchant: Merchant, superuser: Connection, puppet: Puppet) -> AsyncIterator[Desk]:
    """In the time of a test clock that stands at ``START``."""
    from tests.conftest import BASE_URL, app_of

    transport = httpx.ASGITransport(app=app_of(collecting))
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        yield await Desk(collecting, http, merchant, superuser, puppet).open(virtual=True)
