"""Customers, their payment methods and their consents."""

from __future__ import annotations

from typing import Any, Literal

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.customers.mandates import MandateFilters, Mandates
from clearspan.customers.mandates_schemas import MandateRevoke
from clearspan.customers.schemas import CustomerOut, CustomerUpdate
from clearspan.customers.service import CustomerFilters, Customers
from clearspan.journal.checking import Trail
from clearspan.platform import ids
from clearspan.platform.problems import DomainError, NotFound
from clearspan.rebills.clocks import TestClocks
from clearspan.subscriptions.invoices import InvoiceFilters, Invoices
from clearspan.subscriptions.service import SubscriptionFilters, Subscriptions
from clearspan_admin import billing, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

_SOME = 10
"""So many subscriptions and invoices stand on a customer's page."""
_WRONG = {
    "email": mark("This is no e-mail address."),
    "name": mark("A name has up to 200 characters."),
    "phone": mark("A phone number has 3 to 31 digits, best as +, country, number."),
    "reference": mark("A reference has up to 200 characters."),
    "metadata": billing.METADATA_WRONG,
}
_FIELDS = ("name", "email", "phone", "reference", "language", "metadata")


class CustomerPages(Controller):
    """``/admin/customers``."""

    @get("/customers", opt={"scope": "customers:read", "session": True})
    async def list(self, request: Http, customers: NamedDependency[Customers]) -> Response[bytes]:
        """Newest first, or those found."""
        query, cursor = request.query_params.get("q", "").strip(), request.query_params.get("cursor")
        where = billing.place_of(query)
        if where is not None:
            return web.go(request, where)
        filters = CustomerFilters()
        if "@" in query:
            filters = CustomerFilters(email=query[:254])
        elif query:
            filters = CustomerFilters(reference=query[:200])
        found = await customers.list(web.caller_of(request).scope, filters, billing.ROWS, cursor)
        return billing.show(request, "customers/list.html", found=found, q=query, cursor=cursor)

    @get("/customers/{customer_id:str}", opt={"scope": "customers:read", "session": True})
    async def show(
        self,
        request: Http,
        customer_id: FromPath[str],
        customers: NamedDependency[Customers],
        mandates: NamedDependency[Mandates],
        subscriptions: NamedDependency[Subscriptions],
        invoices: NamedDependency[Invoices],
        trail: NamedDependency[Trail],
        test_clocks: NamedDependency[TestClocks],
    ) -> Response[bytes]:
        """One customer with what belongs to them."""
        scope, scopes = web.caller_of(request).scope, web.who(request).scopes
        own = ids.decode("cus", customer_id)
        customer = await customers.get(scope, own)
        found: dict[str, Any] = {
            "customer": customer,
            "methods": (await customers.list_methods(scope, own, 100, None)).data,
            "mandates": None,
            "subscriptions": None,
            "invoices": None,
            "test_clock": None,
        }
        if "mandates:read" in scopes:
            found["mandates"] = (await mandates.list(scope, MandateFilters(customer_id=own), 100, None)).data
        if "subscriptions:read" in scopes:
            filters = SubscriptionFilters(customer_id=own)
            found["subscriptions"] = await subscriptions.list(scope, filters, _SOME, None)
        if "invoices:read" in scopes:
            found["invoices"] = await invoices.list(scope, InvoiceFilters(customer_id=own), _SOME, None)
        if customer.test_clock is not None and "test_clocks:write" in scopes:
            found["test_clock"] = await test_clocks.get(scope, ids.decode("tc", customer.test_clock))
        history = await billing.history_of(request, trail, customer=customer_id)
        by_method = {one.id: one for one in found["methods"]}
        return billing.show(request, "customers/show.html", history=history, by_method=by_method, **found)

    # -- Change -------------------------------------------------------------------------------------------------------

    @get("/customers/{customer_id:str}/edit", opt={"scope": "customers:write", "session": True})
    async def edit(
        self, request: Http, customer_id: FromPath[str], customers: NamedDependency[Customers]
    ) -> Response[bytes]:
        """The form, filled in."""
        customer = await customers.get(web.caller_of(request).scope, ids.decode("cus", customer_id))
        return billing.show(request, "customers/edit.html", customer=customer, typed=_typed(customer))

    @post("/customers/{customer_id:str}/edit", opt={"scope": "customers:write", "session": True}, status_code=303)
    async def change(
        self, request: Http, customer_id: FromPath[str], customers: NamedDependency[Customers]
    ) -> Response[bytes]:
        """Store what differs from what was there."""
        caller, form = web.caller_of(request), await web.form_of(request)
        customer = await customers.get(caller.scope, ids.decode("cus", customer_id))
        typed = {name: form.text(name) for name in _FIELDS}
        try:
            body = billing.body_of(CustomerUpdate, _changes(customer, typed), _WRONG)
            await customers.update(caller, ids.decode("cus", customer_id), body)
        except billing.Wrong as error:
            return billing.show(request, "customers/edit.html", customer=customer, typed=typed, wrong=error.fields)
        except DomainError as error:
            return billing.show(request, "customers/edit.html", customer=customer, typed=typed, problem=error)
        return web.go(request, f"/customers/{customer_id}", web.say(request, "The customer was changed."))

    @get("/customers/{customer_id:str}/delete", opt={"scope": "customers:write", "session": True})
    async def before_deletion(
        self,
        request: Http,
        customer_id: FromPath[str],
        customers: NamedDependency[Customers],
        mandates: NamedDependency[Mandates],
        subscriptions: NamedDependency[Subscriptions],
        invoices: NamedDependency[Invoices],
    ) -> Response[bytes]:
        """What deleting ends, and the button."""
        scope, own = web.caller_of(request).scope, ids.decode("cus", customer_id)
        methods = await customers.list_methods(scope, own, 100, None)
        standing = await mandates.list(scope, MandateFilters(customer_id=own), 100, None)
        running = await subscriptions.list(scope, SubscriptionFilters(customer_id=own), 100, None)
        unpaid = await invoices.list(scope, InvoiceFilters(customer_id=own, status="open"), 100, None)
        return billing.show(
            request,
            "customers/delete.html",
            customer=await customers.get(scope, own),
            methods=sum(one.status == "active" for one in methods.data),
            mandates=sum(one.status != "revoked" for one in standing.data),
            subscriptions=sum(one.ended_at is None for one in running.data),
            invoices=sum(one.subscription is not None for one in unpaid.data),
        )

    @post(
        "/customers/{customer_id:str}/delete",
        opt={"scope": "customers:write", "session": True, "step_up": True},
        status_code=303,
    )
    async def delete(
        self, request: Http, customer_id: FromPath[str], customers: NamedDependency[Customers]
    ) -> Response[bytes]:
        """Erase them."""
        await customers.delete(web.caller_of(request), ids.decode("cus", customer_id))
        said = web.say(request, "The customer was deleted. Payments and invoices stay, without the person.")
        return web.go(request, f"/customers/{customer_id}", said)

    # -- Payment methods and consents ---------------------------------------------------------------------------------

    @post(
        "/customers/{customer_id:str}/methods/{method_id:str}/detach",
        opt={"scope": "customers:write", "session": True},
        status_code=303,
    )
    async def detach(
        self,
        request: Http,
        customer_id: FromPath[str],
        method_id: FromPath[str],
        customers: NamedDependency[Customers],
    ) -> Response[bytes]:
        """Never charge a payment method again."""
        caller, form = web.caller_of(request), await web.form_of(request)
        own = ids.decode("pm", method_id)
        if (await customers.get_method(caller.scope, own)).customer != customer_id:
            raise NotFound(web.say(request, "This customer has no such payment method."))
        await customers.detach_method(caller, web.idempotency(request, form), own)
        return web.go(request, f"/customers/{customer_id}", web.say(request, "The payment method was detached."))

    @get("/customers/{customer_id:str}/mandates/{mandate_id:str}", opt={"scope": "mandates:read", "session": True})
    async def mandate(
        self,
        request: Http,
        customer_id: FromPath[str],
        mandate_id: FromPath[str],
        customers: NamedDependency[Customers],
        mandates: NamedDependency[Mandates],
        trail: NamedDependency[Trail],
    ) -> Response[bytes]:
        """A consent with the evidence of its acceptance."""
        scope = web.caller_of(request).scope
        mandate = await mandates.get(scope, ids.decode("man", mandate_id))
        if mandate.customer != customer_id:
            raise NotFound(web.say(request, "This customer has no such mandate."))
        method = None
        if "customers:read" in web.who(request).scopes:
            method = await customers.get_method(scope, ids.decode("pm", mandate.payment_method))
        history = await billing.history_of(request, trail, subject=mandate_id)
        return billing.show(request, "customers/mandate.html", mandate=mandate, method=method, history=history)

    @post(
        "/customers/{customer_id:str}/mandates/{mandate_id:str}/revoke",
        opt={"scope": "mandates:write", "session": True},
        status_code=303,
    )
    async def revoke(
        self, request: Http, customer_id: FromPath[str], mandate_id: FromPath[str], mandates: NamedDependency[Mandates]
    ) -> Response[bytes]:
        """Take a consent back."""
        caller, form = web.caller_of(request), await web.form_of(request)
        own = ids.decode("man", mandate_id)
        if (await mandates.get(caller.scope, own)).customer != customer_id:
            raise NotFound(web.say(request, "This customer has no such mandate."))
        because: Literal["customer", "merchant"] = "customer" if form.text("because") == "customer" else "merchant"
        await mandates.revoke(caller, web.idempotency(request, form), own, MandateRevoke(because=because))
        said = web.say(request, "The mandate was revoked. Nothing is charged on it any more.")
        return web.go(request, f"/customers/{customer_id}/mandates/{mandate_id}", said)


def _typed(customer: CustomerOut) -> dict[str, str]:
    found = {name: getattr(customer, name) or "" for name in _FIELDS if name != "metadata"}
    return found | {"metadata": billing.metadata_text(customer.metadata)}


def _changes(customer: CustomerOut, typed: dict[str, str]) -> dict[str, Any]:
    """What differs; an emptied field is cleared. Raises ``billing.Wrong``."""
    before = _typed(customer)
    document: dict[str, Any] = {
        name: typed[name] or None for name in _FIELDS if name != "metadata" and typed[name] != before[name]
    }
    metadata = billing.metadata_of(typed["metadata"])
    if metadata != customer.metadata:
        document["metadata"] = metadata
    return document
