"""Every query about plans, coupons and subscriptions, tenant and mode first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.platform import sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.orm import Repository
from clearspan.subscriptions.rows import BillingSettings, Coupon, Item, Plan, Subscription


class PlanRows(Repository[Plan]):
    """Plans."""

    model_type = Plan
    noun = "plan"


class CouponRows(Repository[Coupon]):
    """Coupons."""

    model_type = Coupon
    noun = "coupon"

    async def by_code(self, scope: Scope, code: str) -> Coupon | None:
        """The one that customers type in."""
        return await self.session.scalar(select(Coupon).where(*self.of(scope), Coupon.code == code))


class SubscriptionRows(Repository[Subscription]):
    """Subscriptions."""

    model_type = Subscription
    noun = "subscription"


class ItemRows(Repository[Item]):
    """Items."""

    model_type = Item

    async def by_subscription(self, scope: Scope, subscription_ids: Iterable[UUID]) -> dict[UUID, list[Item]]:
        """In the order in which they stand on invoices."""
        found: dict[UUID, list[Item]] = {}
        statement = select(Item).where(*self.of(scope), Item.subscription_id.in_(list(subscription_ids)))
        for item in await self.session.scalars(statement.order_by(Item.position)):
            found.setdefault(item.subscription_id, []).append(item)
        return found

    async def replace(self, scope: Scope, subscription_id: UUID, items: Sequence[Item]) -> None:
        """Other items from now on."""
        await self.session.execute(delete(Item).where(*self.of(scope), Item.subscription_id == subscription_id))
        self.session.add_all(items)
        await self.session.flush()


async def billing_settings(session: AsyncSession, scope: Scope, now: datetime) -> BillingSettings:
    """The row of this tenant and mode, locked; it is made when it is first needed."""
    place = {"tenant_id": scope.tenant_id, "live": scope.live}
    await session.execute(insert(BillingSettings).values(**place, updated_at=now).on_conflict_do_nothing())
    own = await session.scalar(
        select(BillingSettings)
        .where(BillingSettings.tenant_id == scope.tenant_id, BillingSettings.live.is_(scope.live))
        .with_for_update(key_share=True)
    )
    assert own is not None
    return own


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """A customer as far as billing is concerned; ``clock_at`` is the time of the test clock it hangs on."""

    deleted: bool
    test_clock_id: UUID | None
    clock_at: datetime | None


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """A mandate."""

    mandate_id: UUID
    customer_id: UUID
    payment_method_id: UUID
    purpose: str
    status: str
    psp_account_id: UUID | None


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """A payment method."""

    customer_id: UUID | None
    status: str


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice of a subscription; amounts in minor units."""

    invoice_id: UUID
    subscription_id: UUID
    number: str | None
    status: str
    reason: str
    collection: str
    currency: str
    period_start: datetime
    period_end: datetime
    subtotal_minor: int
    discount_minor: int
    tax_minor: int
    total_minor: int
    credit_used_minor: int
    due_minor: int
    credited_minor: int
    payment_id: UUID | None
    payment_locked: bool
    coupon_id: UUID | None
    created_at: datetime
    paid_at: datetime | None


_INVOICE = ", ".join(Invoice.__struct_fields__)


class Neighbours:
    """What subscriptions must know of rows that belong to other modules."""

    def __init__(self, session: AsyncSession, scope: Scope) -> None:
        self._session = session
        self._place = {"tenant": scope.tenant_id, "live": scope.live}

    async def _one(self, sql: str, **values: Any) -> dict[str, Any] | None:
        row = (await self._session.execute(text(sql), self._place | values)).mappings().first()
        return None if row is None else dict(row)

    async def customer(self, customer_id: UUID) -> Whose | None:
        """Shared lock: a deletion waits, and finds the subscription that is being made."""
        row = await self._one(
            "SELECT c.deleted_at IS NOT NULL AS deleted, c.test_clock_id, t.now_at AS clock_at FROM customers c"
            " LEFT JOIN test_clocks t USING (tenant_id, live, test_clock_id)"
            " WHERE c.tenant_id = :tenant AND c.live = :live AND c.customer_id = :id FOR SHARE OF c",
            id=customer_id,
        )
        return None if row is None else Whose(**row)

    async def clock(self, test_clock_id: UUID | None) -> datetime | None:
        """The time of a test clock."""
        row = await self._one(
            "SELECT now_at FROM test_clocks WHERE tenant_id = :tenant AND live = :live AND test_clock_id = :id",
            id=test_clock_id,
        )
        return None if row is None else row["now_at"]

    async def clock_of_customer(self, customer_id: UUID) -> datetime | None:
        """The time of the test clock that a customer hangs on."""
        row = await self._one(
            "SELECT t.now_at FROM customers c JOIN test_clocks t USING (tenant_id, live, test_clock_id)"
            " WHERE c.tenant_id = :tenant AND c.live = :live AND c.customer_id = :id",
            id=customer_id,
        )
        return None if row is None else row["now_at"]

    async def mandate(self, mandate_id: UUID) -> Consent | None:
        """Shared lock: no revocation slips in between."""
        row = await self._one(
            "SELECT mandate_id, customer_id, payment_method_id, purpose, status, psp_account_id FROM mandates"
            " WHERE tenant_id = :tenant AND live = :live AND mandate_id = :id FOR SHARE",
            id=mandate_id,
        )
        return None if row is None else Consent(**row)

    async def method(self, method_id: UUID) -> Method | None:
        """A payment method."""
        row = await self._one(
            "SELECT customer_id, status FROM payment_methods"
            " WHERE tenant_id = :tenant AND live = :live AND payment_method_id = :id FOR SHARE",
            id=method_id,
        )
        return None if row is None else Method(**row)

    async def account(self, wanted: str, account_id: UUID | None) -> UUID | None:
        """An enabled PSP account by name or id."""
        row = await self._one(
            "SELECT psp_account_id FROM psp_accounts WHERE tenant_id = :tenant AND live = :live AND status = 'enabled'"
            " AND (name = :name OR psp_account_id = :id)",
            name=wanted,
            id=account_id,
        )
        return None if row is None else row["psp_account_id"]

    async def dunning_plan(self, dunning_plan_id: UUID) -> bool:
        """Whether there is such a one."""
        found = await self._one(
            "SELECT 1 AS found FROM dunning_plans"
            " WHERE tenant_id = :tenant AND live = :live AND dunning_plan_id = :id LIMIT 1",
            id=dunning_plan_id,
        )
        return found is not None

    async def new_mandate(self, **values: Any) -> None:
        """A mandate whose first payment is to come."""
        await self._session.execute(
            text(
                "INSERT INTO mandates (tenant_id, live, mandate_id, customer_id, payment_method_id, purpose, text_version,"
                " accepted_at, created_at, updated_at) VALUES (:tenant, :live, :mandate_id, :customer_id, :payment_method_id,"
                " 'recurring', :text_version, :accepted_at, :now, :now)"
            ),
            self._place | values,
        )

    async def locked_payment(self, subscription_id: UUID) -> str | None:
        """``unknown`` or the status of a payment that locks an invoice; ``None`` when none does."""
        row = await self._one(
            "SELECT COALESCE(p.outcome, p.status) AS how FROM invoices i"
            " LEFT JOIN payment_intents p USING (tenant_id, live, payment_id)"
            " WHERE i.tenant_id = :tenant AND i.live = :live AND i.subscription_id = :id AND i.payment_locked LIMIT 1",
            id=subscription_id,
        )
        return None if row is None else str(row["how"])

    async def period_coupon(self, subscription_id: UUID, period_end: datetime) -> UUID | None:
        """The coupon with which the running period was billed."""
        row = await self._one(
            "SELECT coupon_id FROM invoices WHERE tenant_id = :tenant AND live = :live AND subscription_id = :id"
            " AND period_end = :ends AND reason IN ('first', 'cycle', 'change') ORDER BY created_at, invoice_id LIMIT 1",
            id=subscription_id,
            ends=period_end,
        )
        return None if row is None else row["coupon_id"]

    async def owes(self, subscription_id: UUID) -> bool:
        """Whether an invoice that could not be collected is open."""
        found = await self._one(
            "SELECT 1 AS found FROM rebills r JOIN invoices i USING (tenant_id, live, invoice_id)"
            " WHERE r.tenant_id = :tenant AND r.live = :live AND r.subscription_id = :id AND i.status = 'open'"
            " AND r.first_failed_at IS NOT NULL LIMIT 1",
            id=subscription_id,
        )
        return found is not None

    async def invoice(self, subscription_id: UUID, invoice_id: UUID | None = None) -> Invoice | None:
        """One of a subscription, or its newest."""
        row = await self._one(
            f"SELECT {_INVOICE} FROM invoices WHERE tenant_id = :tenant AND live = :live AND subscription_id = :id"  # noqa: S608
            " AND (CAST(:invoice AS uuid) IS NULL OR invoice_id = :invoice)"
            " ORDER BY created_at DESC, invoice_id DESC LIMIT 1",
            id=subscription_id,
            invoice=invoice_id,
        )
        return None if row is None else Invoice(**row)

    async def first_invoice(self, subscription_id: UUID) -> Invoice | None:
        """The one that was opened with the subscription."""
        row = await self._one(
            f"SELECT {_INVOICE} FROM invoices WHERE tenant_id = :tenant AND live = :live AND subscription_id = :id"  # noqa: S608
            " AND reason = 'first'",
            id=subscription_id,
        )
        return None if row is None else Invoice(**row)

    async def payment_exists(self, payment_id: UUID) -> bool:
        """Whether a payment of this id was opened."""
        found = await self._one(
            "SELECT 1 AS found FROM payment_intents WHERE tenant_id = :tenant AND live = :live AND payment_id = :id",
            id=payment_id,
        )
        return found is not None


async def run(session: AsyncSession, function: str, document: dict[str, Any]) -> Any:
    """Call an SQL function of this release in the session's transaction."""
    answer = await session.execute(
        text(f"SELECT {sqlbundle.name(function)}(CAST(:document AS jsonb))"),
        {"document": msgspec.json.encode(document).decode()},
    )
    return answer.scalar_one()
