"""Mandates: a customer's consent to be charged without being present.

Here a consent is noted and taken back. A payment activates it, a decline suspends or revokes it: that happens in the
transaction of the payment (``mandate_settled`` in ``subscriptions/sql/collect.sql``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.customers.errors import CustomerDeleted, MethodGone, MethodOfAnotherCustomer
from clearspan.customers.mandates_schemas import (
    MandateCreate,
    MandateDetails,
    MandateList,
    MandateRevoke,
    mandate_details,
    mandate_list,
    mandate_out,
)
from clearspan.customers.models import Mandate
from clearspan.customers.pii import Acceptance, PersonalData
from clearspan.customers.repository import CustomerRows, MandateRows, MethodRows, PiiRows
from clearspan.journal import service as journal
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest
from clearspan.tenants.service import Tenants

_SKEW = timedelta(minutes=5)
"""So far the merchant's clock may be ahead of ours."""


class MandateFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What mandates are searched by; all must hold."""

    customer_id: UUID | None = None
    payment_method_id: UUID | None = None
    status: str | None = None


class Mandates:
    """The mandates of a tenant in one mode."""

    def __init__(self, db: Database, tenants: Tenants) -> None:
        self._db = db
        self._tenants = tenants

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: MandateCreate) -> Answer:
        """Note a consent; it is pending until its first payment.

        Raises:
            NotFound: no such customer or payment method.
            CustomerDeleted, MethodOfAnotherCustomer, MethodGone.
            InvalidRequest: accepted in the future; and as ``once``.
        """
        customer_id = ids.decode("cus", body.customer)
        method_id = ids.decode("pm", body.payment_method)
        accepted_at = in_utc("accepted_at", body.accepted_at)
        personal = await self._personal(caller.scope)

        async def work(session: AsyncSession) -> Answer:
            customer = await CustomerRows(session).hold(caller.scope, customer_id)
            if customer.deleted_at is not None:
                raise CustomerDeleted
            method = await MethodRows(session).hold(caller.scope, method_id)
            if method.customer_id != customer_id:
                raise MethodOfAnotherCustomer
            if method.status != "active":
                raise MethodGone
            now = await CustomerRows(session).now_of(customer)
            if accepted_at is not None and accepted_at > now + _SKEW:
                message = "accepted_at lies in the future."
                raise InvalidRequest(message, errors=[{"path": "$.accepted_at", "message": message}])
            mandate = Mandate(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                customer_id=customer_id,
                payment_method_id=method_id,
                purpose=body.purpose,
                status="pending",
                backup=body.backup,
                authenticated=False,
                text_version=body.text_version,
                accepted_at=accepted_at or now,
                metadata_=body.metadata,
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            if body.accepted_ip is not None or body.user_agent is not None:
                person = await PiiRows(session).require(caller.scope, customer_id)
                said = Acceptance(ip=body.accepted_ip, user_agent=body.user_agent)
                mandate.acceptance = personal.seal_acceptance(person, mandate.id, said)
            await MandateRows(session).add(mandate)
            await journal.record(
                session,
                caller,
                type="mandate.created",
                subject_type="mandate",
                subject_id=mandate.id,
                sequence=mandate.sequence,
                customer_id=customer_id,
                data={
                    "status": mandate.status,
                    "purpose": mandate.purpose,
                    "text_version": mandate.text_version,
                    "payment_method_id": str(method_id),
                },
            )
            return Answer(201, msgspec.json.encode(mandate_out(mandate)))

        return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, mandate_id: UUID) -> MandateDetails:
        """One mandate with the evidence of its acceptance.

        Raises:
            NotFound: no such mandate.
        """
        personal = await self._personal(scope)
        async with self._db.begin(scope) as session:
            mandate = await MandateRows(session).require(scope, mandate_id)
            acceptance = None
            if mandate.acceptance is not None:
                person = await PiiRows(session).find(scope, mandate.customer_id)
                if person is not None:
                    acceptance = personal.open_acceptance(person, mandate_id, mandate.acceptance)
            return mandate_details(mandate, acceptance)

    async def list(self, scope: Scope, filters: MandateFilters, limit: int, cursor: str | None) -> MandateList:
        """Mandates, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: list[ColumnElement[bool]] = []
        if filters.customer_id is not None:
            conditions.append(Mandate.customer_id == filters.customer_id)
        if filters.payment_method_id is not None:
            conditions.append(Mandate.payment_method_id == filters.payment_method_id)
        if filters.status is not None:
            conditions.append(Mandate.status == filters.status)
        async with self._db.begin(scope) as session:
            page = await MandateRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            return mandate_list(page.rows, page.next_cursor)

    async def revoke(self, caller: Caller, key: IdempotencyKey | None, mandate_id: UUID, body: MandateRevoke) -> Answer:
        """Take a consent back: nothing is charged on it after this has been answered; again changes nothing.

        Raises:
            NotFound: no such mandate; and as ``once``.
        """

        async def work(session: AsyncSession) -> Answer:
            rows = MandateRows(session)
            mandate = await rows.require(caller.scope, mandate_id)
            customer = await CustomerRows(session).require(caller.scope, mandate.customer_id)
            await rows.revoke(caller, mandate_id, body.because, await CustomerRows(session).now_of(customer))
            await session.refresh(mandate)
            return Answer(200, msgspec.json.encode(mandate_out(mandate)))

        return await once(self._db, caller.scope, key, work)

    async def render_many(self, scope: Scope, mandate_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Mandates for the event feed."""
        async with self._db.begin(scope) as session:
            mandates = await MandateRows(session).among(scope, mandate_ids)
        return {mandate.id: msgspec.to_builtins(mandate_out(mandate)) for mandate in mandates}

    async def _personal(self, scope: Scope) -> PersonalData:
        return await personal_data(self._tenants, scope)


async def personal_data(tenants: Tenants, scope: Scope) -> PersonalData:
    """What seals and opens the personal data of a tenant's customers."""
    mode = "live" if scope.live else "test"
    return PersonalData(
        scope,
        data_key=await tenants.data_key(scope.tenant_id),
        index_key=await tenants.derive(scope.tenant_id, f"customer-email-index/{mode}"),
    )
