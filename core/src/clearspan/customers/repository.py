"""Every query about customers and payment methods, tenant and mode first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, select

from clearspan.customers.models import Customer, CustomerPii, PaymentMethod
from clearspan.platform.context import Scope
from clearspan.platform.orm import Repository


class CustomerRows(Repository[Customer]):
    """Customers."""

    model_type = Customer
    noun = "customer"

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

    async def active_of(self, scope: Scope, customer_id: UUID) -> Sequence[PaymentMethod]:
        """The methods of a customer that can be charged, locked."""
        statement = select(PaymentMethod).where(
            *self.of(scope), PaymentMethod.customer_id == customer_id, PaymentMethod.status == "active"
        )
        return (await self.session.scalars(statement.order_by(PaymentMethod.id).with_for_update(key_share=True))).all()
