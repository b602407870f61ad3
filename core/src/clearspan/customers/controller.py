"""``/v1/customers`` and ``/v1/payment-methods``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from clearspan.customers.errors import (
    CustomerDeleted,
    MethodAccountMissing,
    MethodNotTaken,
    ReferenceTaken,
    TestModeOnly,
)
from clearspan.customers.schemas import (
    CustomerCreate,
    CustomerList,
    CustomerOut,
    CustomerUpdate,
    PaymentMethodCreate,
    PaymentMethodList,
    PaymentMethodOut,
)
from clearspan.customers.service import CustomerFilters, Customers
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems, reply

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]


class CustomerController(Controller):
    """Customers."""

    path = "/customers"
    tags = ("Customers",)

    @post(opt={"scope": "customers:write"}, responses=problems(ReferenceTaken, NotFound, TestModeOnly))
    async def create(
        self,
        data: JSONBody[CustomerCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        customers: NamedDependency[Customers],
    ) -> Response[CustomerOut]:
        """Make a customer. Name, e-mail, phone and address are stored encrypted, under a key of that one person."""
        return reply(await customers.create(caller, key, data))

    @get(opt={"scope": "customers:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        customers: NamedDependency[Customers],
        limit: Limit = 20,
        cursor: Cursor = None,
        reference: Annotated[
            str | None, QueryParameter(max_length=200, pattern=r"^[^\x00]+$", description="Your own id.")
        ] = None,
        email: Annotated[str | None, QueryParameter(max_length=254, description="The whole address.")] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> CustomerList:
        """Customers, newest first, without the deleted ones."""
        filters = CustomerFilters(
            reference=reference,
            email=email,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
        )
        return await customers.list(caller.scope, filters, limit, cursor)

    @get("/{customer_id:str}", opt={"scope": "customers:read"}, responses=problems(NotFound))
    async def retrieve(
        self, customer_id: FromPath[str], caller: NamedDependency[Caller], customers: NamedDependency[Customers]
    ) -> CustomerOut:
        """One customer. Of a deleted one only the id and the times are left."""
        return await customers.get(caller.scope, ids.decode("cus", customer_id))

    @patch(
        "/{customer_id:str}",
        opt={"scope": "customers:write"},
        responses=problems(NotFound, CustomerDeleted, ReferenceTaken),
    )
    async def update(
        self,
        customer_id: FromPath[str],
        data: JSONBody[CustomerUpdate],
        caller: NamedDependency[Caller],
        customers: NamedDependency[Customers],
    ) -> CustomerOut:
        """Change a customer: what is left out stays, null clears."""
        return await customers.update(caller, ids.decode("cus", customer_id), data)

    @delete("/{customer_id:str}", status_code=200, opt={"scope": "customers:write"}, responses=problems(NotFound))
    async def delete(
        self, customer_id: FromPath[str], caller: NamedDependency[Caller], customers: NamedDependency[Customers]
    ) -> CustomerOut:
        """Delete a customer: personal data, reference and metadata are erased, payment methods detached, mandates
        revoked.

        Payments stay and point at the empty customer.
        """
        return await customers.delete(caller, ids.decode("cus", customer_id))


class PaymentMethodController(Controller):
    """Payment methods."""

    path = "/payment-methods"
    tags = ("Customers",)

    @post(
        opt={"scope": "customers:write"},
        # The vault's refusals are documented by their codes: modules of one layer do not import each other.
        responses=problems(NotFound, CustomerDeleted, MethodNotTaken, MethodAccountMissing),
    )
    async def create(
        self,
        data: JSONBody[PaymentMethodCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        customers: NamedDependency[Customers],
    ) -> Response[PaymentMethodOut]:
        """Make a payment method: of a token that the vault's capture page gave, of a PSP's token, or for a PSP's pages.

        The vault is asked about a card: 422 `vault_token_invalid` when it does not know the token, 503 `vault_unavailable` when
        it cannot be reached. Nothing is stored then.
        """
        return reply(await customers.add_method(caller, key, data))

    @get(opt={"scope": "customers:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        customers: NamedDependency[Customers],
        customer: Annotated[str | None, QueryParameter(max_length=90, description="Of this customer.")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> PaymentMethodList:
        """Payment methods, newest first, the detached ones too."""
        customer_id = ids.decode("cus", customer) if customer is not None else None
        return await customers.list_methods(caller.scope, customer_id, limit, cursor)

    @get("/{method_id:str}", opt={"scope": "customers:read"}, responses=problems(NotFound))
    async def retrieve(
        self, method_id: FromPath[str], caller: NamedDependency[Caller], customers: NamedDependency[Customers]
    ) -> PaymentMethodOut:
        """One payment method."""
        return await customers.get_method(caller.scope, ids.decode("pm", method_id))

    @post("/{method_id:str}/detach", status_code=200, opt={"scope": "customers:write"}, responses=problems(NotFound))
    async def detach(
        self,
        method_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        customers: NamedDependency[Customers],
    ) -> Response[PaymentMethodOut]:
        """Never charge a payment method again; its mandates are revoked. What is under way with it goes on."""
        return reply(await customers.detach_method(caller, key, ids.decode("pm", method_id)))
