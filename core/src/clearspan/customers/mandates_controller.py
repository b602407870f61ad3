"""``/v1/mandates``; its ``/verify`` charges, and is in ``payments.controller``."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from clearspan.customers.controller import Cursor, Limit
from clearspan.customers.errors import CustomerDeleted, MethodGone, MethodOfAnotherCustomer
from clearspan.customers.mandates import MandateFilters, Mandates
from clearspan.customers.mandates_schemas import (
    MandateCreate,
    MandateDetails,
    MandateList,
    MandateOut,
    MandateRevoke,
)
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems, reply


class MandateController(Controller):
    """Mandates."""

    path = "/mandates"
    tags = ("Mandates",)

    @post(
        opt={"scope": "mandates:write"},
        responses=problems(NotFound, CustomerDeleted, MethodOfAnotherCustomer, MethodGone),
    )
    async def create(
        self,
        data: JSONBody[MandateCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        mandates: NamedDependency[Mandates],
    ) -> Response[MandateOut]:
        """Note a customer's consent to be charged without being present.

        It is `pending` until its first payment: a payment of the customer's that names it, or `POST /v1/mandates/{id}/verify`.
        The address and the browser are stored encrypted under the customer's own key and erased with the customer.
        """
        return reply(await mandates.create(caller, key, data))

    @get(opt={"scope": "mandates:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        mandates: NamedDependency[Mandates],
        customer: Annotated[str | None, QueryParameter(max_length=90, description="Of this customer.")] = None,
        payment_method: Annotated[str | None, QueryParameter(max_length=90, description="For this method.")] = None,
        status: Annotated[str | None, QueryParameter(pattern="^(pending|active|suspended|revoked)$")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> MandateList:
        """Mandates, newest first, the revoked ones too."""
        filters = MandateFilters(
            customer_id=ids.decode("cus", customer) if customer is not None else None,
            payment_method_id=ids.decode("pm", payment_method) if payment_method is not None else None,
            status=status,
        )
        return await mandates.list(caller.scope, filters, limit, cursor)

    @get("/{mandate_id:str}", opt={"scope": "mandates:read"}, responses=problems(NotFound))
    async def retrieve(
        self, mandate_id: FromPath[str], caller: NamedDependency[Caller], mandates: NamedDependency[Mandates]
    ) -> MandateDetails:
        """One mandate with the evidence of its acceptance."""
        return await mandates.get(caller.scope, ids.decode("man", mandate_id))

    @post("/{mandate_id:str}/revoke", status_code=200, opt={"scope": "mandates:write"}, responses=problems(NotFound))
    async def revoke(
        self,
        mandate_id: FromPath[str],
        data: JSONBody[MandateRevoke],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        mandates: NamedDependency[Mandates],
    ) -> Response[MandateOut]:
        """Take a consent back: no charge begins after this. Subscriptions that rest on it pause, their retries and reminders end.

        A charge that was sent already resolves by itself. Again changes nothing.
        """
        return reply(await mandates.revoke(caller, key, ids.decode("man", mandate_id), data))
