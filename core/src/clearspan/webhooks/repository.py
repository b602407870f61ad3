"""Every query of webhooks that is not a SQL function."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text, update

from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.orm import Repository
from clearspan.webhooks.errors import EndpointDeleted
from clearspan.webhooks.models import Attempt, Delivery, Endpoint

PRESENT = Endpoint.status != "deleted"


class EndpointRows(Repository[Endpoint]):
    """Endpoints."""

    model_type = Endpoint
    noun = "webhook endpoint"

    async def present(self, scope: Scope, endpoint_id: UUID, *, lock: bool = False) -> Endpoint:
        """One that was not deleted.

        Raises:
            NotFound: there is none in this scope.
            EndpointDeleted.
        """
        endpoint = await self.require(scope, endpoint_id, lock=lock)
        if endpoint.status == "deleted":
            raise EndpointDeleted
        return endpoint

    async def count(self, scope: Scope) -> int:  # type: ignore[override]  # ours takes a scope
        """How many there are; until the end of the transaction nobody else counts those of this scope."""
        await self.session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"webhook_endpoints/{scope.tenant_id}/{scope.live}"},
        )
        counted = select(func.count()).select_from(Endpoint).where(*self.of(scope), PRESENT)
        return (await self.session.execute(counted)).scalar_one()


class DeliveryRows(Repository[Delivery]):
    """Deliveries and their attempts."""

    model_type = Delivery
    noun = "webhook delivery"

    async def cancel(self, scope: Scope, endpoint_id: UUID) -> None:
        """Send nothing more of what waits for an endpoint."""
        await self.session.execute(
            update(Delivery)
            .where(*self.of(scope), Delivery.webhook_endpoint_id == endpoint_id, Delivery.state == "pending")
            .values(state="canceled", due_at=None, lease_token=None, updated_at=clock.now())
        )

    async def attempts(self, scope: Scope, delivery_id: UUID) -> Sequence[Attempt]:
        """Every try, the first one first."""
        statement = select(Attempt).where(
            Attempt.tenant_id == scope.tenant_id, Attempt.live.is_(scope.live), Attempt.delivery_id == delivery_id
        )
        return (await self.session.scalars(statement.order_by(Attempt.number))).all()
