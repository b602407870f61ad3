"""Every query about customers and payment methods, tenant and mode first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, select, text, update

from clearspan.customers.models import Customer, CustomerPii, Mandate, PaymentMethod
from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.orm import Repository, Scoped

T = TypeVar("T", bound=Scoped)


class CustomerRows(Repository[Customer]):
    """Customers."""

    model_type = Customer
    noun = "customer"

    async def hold(self, scope: Scope, customer_id: UUID) -> Customer:
        """The row, locked so that rows which point at it can still be written: payments of his that are being settled.

        Raises:
            NotFound: there is none in this scope.
        """
        return await _hold(self, scope, customer_id)

    async def now_of(self, customer: Customer) -> datetime:
        """The time by which a customer lives: his test clock's, else everybody's."""
        if customer.test_clock_id is None:
            return clock.now()
        found: datetime = (
            await self.session.execute(
                text(
                    "SELECT now_at FROM test_clocks WHERE tenant_id = :tenant AND live = :live AND test_clock_id = :clock"
                ),
                {"tenant": customer.tenant_id, "live": customer.live, "clock": customer.test_clock_id},
            )
        ).scalar_one()
        return found

    async def tenants_clock(self, scope: Scope) -> UUID | None:
        """The test clock that covers the tenant."""
        found: UUID | None = await self.session.scalar(
            text(
                "SELECT test_clock_id FROM test_clocks WHERE tenant_id = :tenant AND live = :live AND covers = 'tenant'"
                " FOR KEY SHARE"
            ),
            {"tenant": scope.tenant_id, "live": scope.live},
        )
        return found

    def with_email(self, scope: Scope, email_index: bytes) -> ColumnElement[bool]:
        """The condition that a customer has this address."""
        return Customer.id.in_(
            select(CustomerPii.id).where(
                CustomerPii.tenant_id == scope.tenant_id,
                CustomerPii.live.is_(scope.live),
                CustomerPii.email_index == email_index,
            )
        )


class PiiRows(Repository[CustomerPii]):
    """Sealed personal data."""

    model_type = CustomerPii

    async def by_customer(self, scope: Scope, customer_ids: Iterable[UUID]) -> dict[UUID, CustomerPii]:
        """The rows of those customers who have one."""
        return {row.id: row for row in await self.among(scope, customer_ids)}


class MethodRows(Repository[PaymentMethod]):
    """Payment methods."""

    model_type = PaymentMethod
    noun = "payment method"

    async def hold(self, scope: Scope, method_id: UUID) -> PaymentMethod:
        """As ``CustomerRows.hold``."""
        return await _hold(self, scope, method_id)

    async def active_of(self, scope: Scope, customer_id: UUID) -> Sequence[PaymentMethod]:
        """The methods of a customer that can be charged, locked."""
        statement = select(PaymentMethod).where(
            *self.of(scope), PaymentMethod.customer_id == customer_id, PaymentMethod.status == "active"
        )
        return (await self.session.scalars(statement.order_by(PaymentMethod.id).with_for_update(key_share=True))).all()


class MandateRows(Repository[Mandate]):
    """Mandates."""

    model_type = Mandate
    noun = "mandate"

    async def standing_of(
        self, scope: Scope, *, customer_id: UUID | None = None, method_id: UUID | None = None
    ) -> Sequence[UUID]:
        """Those of a customer or a payment method that are not revoked, in the order in which they are locked."""
        statement = select(Mandate.id).where(*self.of(scope), Mandate.status != "revoked")
        if customer_id is not None:
            statement = statement.where(Mandate.customer_id == customer_id)
        if method_id is not None:
            statement = statement.where(Mandate.payment_method_id == method_id)
        return (await self.session.scalars(statement.order_by(Mandate.id))).all()

    async def revoke(self, caller: Caller, mandate_id: UUID, because: str, at: datetime) -> None:
        """Revoke it, and stop in this transaction what rests on it (``mandate_revoke`` in SQL); again changes nothing."""
        document = {
            "tenant_id": caller.scope.tenant_id,
            "live": caller.scope.live,
            "now": clock.now(),
            "at": at,
            "actor_type": caller.actor_type,
            "actor_id": caller.actor_id,
            "request_id": caller.request_id,
            "mandate_id": mandate_id,
            "because": because,
        }
        await self.session.execute(
            text(f"SELECT {sqlbundle.name('mandate_revoke')}(CAST(:document AS jsonb))"),
            {"document": msgspec.json.encode(document).decode()},
        )

    async def forget_acceptance(self, scope: Scope, customer_id: UUID) -> None:
        """Erase where and with what a customer agreed."""
        await self.session.execute(
            update(Mandate).where(*self.of(scope), Mandate.customer_id == customer_id).values(acceptance=None)
        )


async def _hold(rows: Repository[T], scope: Scope, row_id: UUID) -> T:
    kind = rows.model_type
    statement = select(kind).where(*rows.of(scope), kind.id == row_id).with_for_update(key_share=True)
    row: T | None = await rows.session.scalar(statement)
    if row is None:
        raise rows.missing()
    return row
