"""Subscriptions: what they bill, what comes next, and changing them with the amounts shown first."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.customers.mandates import MandateFilters, Mandates
from clearspan.customers.service import Customers
from clearspan.journal.checking import Trail
from clearspan.platform import ids
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.subscriptions.catalogue import Coupons, PlanFilters, Plans
from clearspan.subscriptions.invoices import InvoiceFilters, Invoices
from clearspan.subscriptions.schemas import (
    ItemIn,
    PlanOut,
    SubscriptionCancel,
    SubscriptionChange,
    SubscriptionOut,
    SubscriptionPause,
    SubscriptionPreview,
    SubscriptionUpdate,
)
from clearspan.subscriptions.service import SubscriptionFilters, Subscriptions
from clearspan_admin import billing, web
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

STATUSES: Final = ("active", "trialing", "past_due", "unpaid", "paused", "incomplete", "canceled", "incomplete_expired")
_QUANTITY_WRONG: Final = mark("A quantity is a whole number from 0 to 1000000; with 0 the item goes.")
_ITEMS_WRONG: Final = mark("At least one item stays. To end the subscription, cancel it.")
_DATE_WRONG: Final = mark("This is no date.")
_PRORATIONS: Final = ("now", "at_period_end", "none")


class SubscriptionPages(Controller):
    """``/admin/subscriptions``."""

    @get("/subscriptions", opt={"scope": "subscriptions:read", "session": True})
    async def list(
        self,
        request: Http,
        subscriptions: NamedDependency[Subscriptions],
        customers: NamedDependency[Customers],
        plans: NamedDependency[Plans],
    ) -> Response[bytes]:
        """Newest first, by status, plan, customer, reference or metadata."""
        asked = request.query_params
        query, cursor = asked.get("q", "").strip(), asked.get("cursor")
        where = billing.place_of(query)
        if where is not None:
            return web.go(request, where)
        scope = web.caller_of(request).scope
        chosen = {name: asked.get(name, "") for name in ("status", "plan", "customer")} | {"q": query}
        name, equals, value = query.partition("=")
        filters = SubscriptionFilters(
            status=chosen["status"] if chosen["status"] in STATUSES else None,
            plan_id=ids.decode("plan", chosen["plan"]) if chosen["plan"] else None,
            customer_id=ids.decode("cus", chosen["customer"]) if chosen["customer"] else None,
            metadata={name.strip(): value.strip()} if equals else None,
            reference=query[:200] if query and not equals else None,
        )
        found = await subscriptions.list(scope, filters, billing.ROWS, cursor)
        sold: list[PlanOut] = []
        if "plans:read" in web.who(request).scopes:
            sold = (await plans.list(scope, PlanFilters(), 100, None)).data
        return billing.show(
            request,
            "subscriptions/list.html",
            found=found,
            names=await billing.names_of(request, customers, found.data),
            chosen=chosen,
            cursor=cursor,
            statuses=STATUSES,
            plan_options=[(plan.id, plan.name) for plan in sold],
        )

    @get("/subscriptions/{subscription_id:str}", opt={"scope": "subscriptions:read", "session": True})
    async def show(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        customers: NamedDependency[Customers],
        mandates: NamedDependency[Mandates],
        coupons: NamedDependency[Coupons],
        invoices: NamedDependency[Invoices],
        trail: NamedDependency[Trail],
    ) -> Response[bytes]:
        """One subscription."""
        scope, scopes = web.caller_of(request).scope, web.who(request).scopes
        own = ids.decode("sub", subscription_id)
        one = await subscriptions.get(scope, own)
        found: dict[str, Any] = {"method": None, "mandate": None, "coupon": None, "invoices": None}
        if one.payment_method is not None and "customers:read" in scopes:
            found["method"] = await customers.get_method(scope, ids.decode("pm", one.payment_method))
        if one.mandate is not None and "mandates:read" in scopes:
            found["mandate"] = await mandates.get(scope, ids.decode("man", one.mandate))
        if one.discount is not None and "plans:read" in scopes:
            found["coupon"] = await coupons.get(scope, ids.decode("cpn", one.discount.coupon))
        if "invoices:read" in scopes:
            found["invoices"] = await invoices.list(scope, InvoiceFilters(subscription_id=own), 12, None)
        return billing.show(
            request,
            "subscriptions/show.html",
            one=one,
            names=await billing.names_of(request, customers, [one]),
            history=await billing.history_of(request, trail, subject=subscription_id),
            **found,
        )

    # -- Other items --------------------------------------------------------------------------------------------------

    @get("/subscriptions/{subscription_id:str}/change", opt={"scope": "subscriptions:write", "session": True})
    async def change_form(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        plans: NamedDependency[Plans],
    ) -> Response[bytes]:
        """The items, to be changed."""
        one = await subscriptions.get(web.caller_of(request).scope, ids.decode("sub", subscription_id))
        rows = [(item.plan, str(item.quantity)) for item in one.items]
        return await _change_page(request, one, plans, rows, "now")

    @post("/subscriptions/{subscription_id:str}/preview", opt={"scope": "subscriptions:read", "session": True})
    async def preview(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        plans: NamedDependency[Plans],
    ) -> Response[bytes]:
        """What the change would bill; nothing is stored."""
        scope, form = web.caller_of(request).scope, await web.form_of(request)
        own = ids.decode("sub", subscription_id)
        one = await subscriptions.get(scope, own)
        rows, proration = _rows(form), _proration(form)
        try:
            items = _items(rows)
            seen = await subscriptions.preview(scope, own, SubscriptionPreview(items=items, proration=proration))
        except billing.Wrong as error:
            return await _change_page(request, one, plans, rows, proration, wrong=error.fields)
        except DomainError as error:
            return await _change_page(request, one, plans, rows, proration, problem=error)
        answer = await _change_page(request, one, plans, rows, proration, preview=seen, items=items)
        answer.status_code = 200
        return answer

    @post(
        "/subscriptions/{subscription_id:str}/change",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def change(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        plans: NamedDependency[Plans],
    ) -> Response[bytes]:
        """Change the items, at the moment of the preview and so for its amounts."""
        caller, form = web.caller_of(request), await web.form_of(request)
        own = ids.decode("sub", subscription_id)
        rows, proration = _rows(form), _proration(form)
        try:
            at = msgspec.convert(form.text("at"), datetime) if form.text("at") else None
            body = SubscriptionChange(items=_items(rows), proration=proration, at=at)
            await subscriptions.change(caller, web.idempotency(request, form), own, body)
        except billing.Wrong as error:
            one = await subscriptions.get(caller.scope, own)
            return await _change_page(request, one, plans, rows, proration, wrong=error.fields)
        except (DomainError, msgspec.ValidationError) as error:
            one = await subscriptions.get(caller.scope, own)
            refusal = error if isinstance(error, DomainError) else InvalidRequest("Look at the preview again first.")
            return await _change_page(request, one, plans, rows, proration, problem=refusal)
        said = (
            mark("The items change at the end of the period.")
            if proration == "at_period_end"
            else mark("The items were changed.")
        )
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, said))

    # -- Pause, resume, cancel, another method ------------------------------------------------------------------------

    @get(
        [f"/subscriptions/{{subscription_id:str}}/{what}" for what in ("pause", "cancel", "method")],
        opt={"scope": "subscriptions:write", "session": True},
    )
    async def form(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        mandates: NamedDependency[Mandates],
        customers: NamedDependency[Customers],
        invoices: NamedDependency[Invoices],
    ) -> Response[bytes]:
        """What is to be said before it is paused or canceled, or before it gets another payment method."""
        what = request.url.path.rpartition("/")[2]
        around = _Around(subscriptions, mandates, customers, invoices)
        return await _act_page(request, around, ids.decode("sub", subscription_id), what, _TYPED[what])

    @post(
        "/subscriptions/{subscription_id:str}/pause",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def pause(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        mandates: NamedDependency[Mandates],
        customers: NamedDependency[Customers],
        invoices: NamedDependency[Invoices],
    ) -> Response[bytes]:
        """Bill nothing for a while."""
        form, own = await web.form_of(request), ids.decode("sub", subscription_id)
        around, typed = _Around(subscriptions, mandates, customers, invoices), _typed(form, "pause")
        until = billing.day_of(typed["resume_on"], web.who(request).operator.timezone) if typed["resume_on"] else None
        if typed["resume_on"] and until is None:
            return await _act_page(request, around, own, "pause", typed, wrong={"resume_on": _DATE_WRONG})
        try:
            key = web.idempotency(request, form)
            await subscriptions.pause(web.caller_of(request), key, own, SubscriptionPause(resume_at=until))
        except DomainError as error:
            return await _act_page(request, around, own, "pause", typed, problem=error)
        said = mark("Paused. Nothing is billed; open invoices are collected as before.")
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, said))

    @post(
        "/subscriptions/{subscription_id:str}/cancel",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def cancel(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        mandates: NamedDependency[Mandates],
        customers: NamedDependency[Customers],
        invoices: NamedDependency[Invoices],
    ) -> Response[bytes]:
        """End it, now or at the period's end."""
        form, own = await web.form_of(request), ids.decode("sub", subscription_id)
        around, typed = _Around(subscriptions, mandates, customers, invoices), _typed(form, "cancel")
        now = typed["at"] == "now"
        try:
            body = SubscriptionCancel(
                at="now" if now else "period_end",
                invoices=("void" if typed["invoices"] == "void" else "keep") if now else None,
                reason=typed["reason"][:200] or None,
            )
            await subscriptions.cancel(web.caller_of(request), web.idempotency(request, form), own, body)
        except DomainError as error:
            return await _act_page(request, around, own, "cancel", typed, problem=error)
        said = mark("The subscription has ended.") if now else mark("The subscription ends with its period.")
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, said))

    @post(
        "/subscriptions/{subscription_id:str}/method",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def method(
        self,
        request: Http,
        subscription_id: FromPath[str],
        subscriptions: NamedDependency[Subscriptions],
        mandates: NamedDependency[Mandates],
        customers: NamedDependency[Customers],
        invoices: NamedDependency[Invoices],
    ) -> Response[bytes]:
        """Charge another method of the customer's, on a mandate that stands."""
        form, own = await web.form_of(request), ids.decode("sub", subscription_id)
        around, typed = _Around(subscriptions, mandates, customers, invoices), _typed(form, "method")
        try:
            await subscriptions.update(web.caller_of(request), own, SubscriptionUpdate(mandate=typed["mandate"]))
        except DomainError as error:
            return await _act_page(request, around, own, "method", typed, problem=error)
        said = mark("The payment method was changed. What waited for the customer is tried anew.")
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, said))

    @post(
        "/subscriptions/{subscription_id:str}/resume",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def resume(
        self, request: Http, subscription_id: FromPath[str], subscriptions: NamedDependency[Subscriptions]
    ) -> Response[bytes]:
        """Go on after a pause."""
        form, own = await web.form_of(request), ids.decode("sub", subscription_id)
        await subscriptions.resume(web.caller_of(request), web.idempotency(request, form), own)
        said = mark("Resumed: it is billed again from the next period on.")
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, said))

    @post(
        "/subscriptions/{subscription_id:str}/uncancel",
        opt={"scope": "subscriptions:write", "session": True},
        status_code=303,
    )
    async def uncancel(
        self, request: Http, subscription_id: FromPath[str], subscriptions: NamedDependency[Subscriptions]
    ) -> Response[bytes]:
        """Do not end it after all."""
        form, own = await web.form_of(request), ids.decode("sub", subscription_id)
        await subscriptions.uncancel(web.caller_of(request), web.idempotency(request, form), own)
        return web.go(request, f"/subscriptions/{subscription_id}", web.say(request, "It goes on after all."))


_TYPED: Final[dict[str, dict[str, str]]] = {
    "pause": {"resume_on": ""},
    "cancel": {"at": "period_end", "invoices": "keep", "reason": ""},
    "method": {"mandate": ""},
}
"""Forms and what stands in them at first."""


class _Around(msgspec.Struct, frozen=True):
    """The services of these forms."""

    subscriptions: Subscriptions
    mandates: Mandates
    customers: Customers
    invoices: Invoices


def _typed(form: Form, what: str) -> dict[str, str]:
    return {name: form.text(name) for name in _TYPED[what]}


async def _act_page(
    request: Http, around: _Around, own: UUID, what: str, typed: dict[str, str], **more: Any
) -> Response[bytes]:
    scope, scopes = web.caller_of(request).scope, web.who(request).scopes
    one = await around.subscriptions.get(scope, own)
    consents: list[tuple[str, Any]] = []
    if what == "method" and {"mandates:read", "customers:read"} <= scopes:
        filters = MandateFilters(customer_id=ids.decode("cus", one.customer), status="active")
        for mandate in (await around.mandates.list(scope, filters, 100, None)).data:
            if mandate.purpose == "recurring":
                method = await around.customers.get_method(scope, ids.decode("pm", mandate.payment_method))
                if method.status == "active":
                    consents.append((mandate.id, method))
    unpaid = await around.invoices.list(scope, InvoiceFilters(subscription_id=own, status="open"), 100, None)
    return billing.show(
        request, f"subscriptions/{what}.html", one=one, typed=typed, consents=consents, unpaid=unpaid.data, **more
    )


def _rows(form: Form) -> list[tuple[str, str]]:
    """What was typed: plan and quantity, line by line."""
    return [pair for pair in zip(form.many("plan"), form.many("quantity"), strict=False) if pair[0]][:20]


def _proration(form: Form) -> Any:
    asked = form.text("proration")
    return asked if asked in _PRORATIONS else "now"


def _items(rows: list[tuple[str, str]]) -> list[ItemIn]:
    found = []
    for index, (plan, quantity) in enumerate(rows):
        count = billing.whole(quantity)
        if count is None or count > 1_000_000:
            raise billing.Wrong(**{f"quantity-{index}": _QUANTITY_WRONG})
        if count:
            found.append(ItemIn(plan=plan, quantity=count))
    if not found:
        raise billing.Wrong(items=_ITEMS_WRONG)
    return found


async def _change_page(
    request: Http, one: SubscriptionOut, plans: Plans, rows: list[tuple[str, str]], proration: str, **more: Any
) -> Response[bytes]:
    sold = (await plans.list(web.caller_of(request).scope, PlanFilters(status="active"), 100, None)).data
    known = {plan.id: plan.name for plan in sold if one.currency in plan.amounts}
    kept = {item.plan: item.description for item in one.items}
    prices = {plan.id: (plan.amounts[one.currency], plan.interval) for plan in sold if one.currency in plan.amounts}
    return billing.show(
        request,
        "subscriptions/change.html",
        one=one,
        rows=rows,
        proration=proration,
        options=known | {plan: name for plan, name in kept.items() if plan not in known},
        prices=prices,
        **({"preview": None} | more),
    )
