"""What is sold: plans and coupons."""

from __future__ import annotations

from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.platform import ids
from clearspan.platform.problems import DomainError
from clearspan.sdk import CURRENCIES
from clearspan.subscriptions.catalogue import CouponFilters, Coupons, PlanFilters, Plans
from clearspan.subscriptions.schemas import CouponCreate, CouponUpdate, PlanCreate, PlanUpdate
from clearspan_admin import billing, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

_PLAN: Final = {
    "name": "", "currency": "EUR", "amount": "", "unit": "month", "count": "1", "trial_days": "0", "setup_fee": "",
    "tax_name": "", "tax_rate": "", "tax_inclusive": "yes", "reference": "",
}  # fmt: skip
_COUPON: Final = {
    "code": "", "name": "", "kind": "percent", "percent": "", "amount": "", "currency": "EUR", "duration": "once",
    "periods": "", "redeem_by": "", "redemptions_max": "",
}  # fmt: skip
_CURRENCY_WRONG: Final = mark("This is no currency of ISO 4217, such as EUR.")
_DATE_WRONG: Final = mark("This is no date.")
_WRONG: Final = {
    "name": mark("A name has 1 to 200 characters."),
    "trial_days": mark("From 0 to 1095 days."),
    "count": mark("From 1 to 366."),
    "reference": mark("A reference has up to 200 characters."),
    "tax_name": mark("A tax needs a name of up to 60 characters, such as VAT."),
    "tax_rate": mark("Write a rate such as 19 or 5.5, up to 100."),
    "code": mark("A code has 1 to 60 letters, digits, dashes and underscores."),
    "percent": mark("Write a share such as 25 or 12.5, up to 100."),
    "periods": mark("From 1 to 1000 periods."),
    "redemptions_max": mark("A whole number, 1 or more."),
}


class PlanPages(Controller):
    """``/admin/plans``."""

    @get("/plans", opt={"scope": "plans:read", "session": True})
    async def list(self, request: Http, plans: NamedDependency[Plans]) -> Response[bytes]:
        """Newest first."""
        status, cursor = _status(request), request.query_params.get("cursor")
        filters = PlanFilters(status=status or None)
        found = await plans.list(web.caller_of(request).scope, filters, billing.ROWS, cursor)
        return billing.show(request, "plans/list.html", found=found, chosen=status, cursor=cursor)

    @get("/plans/new", opt={"scope": "plans:write", "session": True})
    async def new(self, request: Http) -> Response[bytes]:
        """An empty form."""
        return billing.show(request, "plans/new.html", typed=_PLAN)

    @post("/plans/new", opt={"scope": "plans:write", "session": True}, status_code=303)
    async def create(self, request: Http, plans: NamedDependency[Plans]) -> Response[bytes]:
        """Make a plan in one currency."""
        form = await web.form_of(request)
        typed = {name: form.text(name) for name in _PLAN}
        try:
            made = await plans.create(web.caller_of(request), web.idempotency(request, form), _plan(typed))
        except billing.Wrong as error:
            return billing.show(request, "plans/new.html", typed=typed, wrong=error.fields)
        except DomainError as error:
            return billing.show(request, "plans/new.html", typed=typed, problem=error)
        return web.go(request, f"/plans/{web.answered(made)['id']}", web.say(request, "The plan was made."))

    @get("/plans/{plan_id:str}", opt={"scope": "plans:read", "session": True})
    async def show(self, request: Http, plan_id: FromPath[str], plans: NamedDependency[Plans]) -> Response[bytes]:
        """One plan."""
        one = await plans.get(web.caller_of(request).scope, ids.decode("plan", plan_id))
        return billing.show(request, "plans/show.html", one=one)

    @post("/plans/{plan_id:str}/status", opt={"scope": "plans:write", "session": True}, status_code=303)
    async def status(self, request: Http, plan_id: FromPath[str], plans: NamedDependency[Plans]) -> Response[bytes]:
        """Archive it, or sell it again."""
        form = await web.form_of(request)
        status: Any = "archived" if form.text("status") == "archived" else "active"
        await plans.update(web.caller_of(request), ids.decode("plan", plan_id), PlanUpdate(status=status))
        said = (
            mark("Archived: it is not sold any more. Who has it keeps it.")
            if status == "archived"
            else mark("It is sold again.")
        )
        return web.go(request, f"/plans/{plan_id}", web.say(request, said))

    # -- Coupons ------------------------------------------------------------------------------------------------------

    @get("/plans/coupons", opt={"scope": "plans:read", "session": True})
    async def coupons(self, request: Http, coupons: NamedDependency[Coupons]) -> Response[bytes]:
        """Newest first."""
        status, cursor = _status(request), request.query_params.get("cursor")
        filters = CouponFilters(status=status or None)
        found = await coupons.list(web.caller_of(request).scope, filters, billing.ROWS, cursor)
        return billing.show(request, "plans/coupons.html", found=found, chosen=status, cursor=cursor)

    @get("/plans/coupons/new", opt={"scope": "plans:write", "session": True})
    async def new_coupon(self, request: Http) -> Response[bytes]:
        """An empty form."""
        return billing.show(request, "plans/coupon.html", typed=_COUPON)

    @post("/plans/coupons/new", opt={"scope": "plans:write", "session": True}, status_code=303)
    async def create_coupon(self, request: Http, coupons: NamedDependency[Coupons]) -> Response[bytes]:
        """Make a coupon."""
        form = await web.form_of(request)
        typed = {name: form.text(name) for name in _COUPON}
        try:
            body = _coupon(typed, web.who(request).operator.timezone)
            await coupons.create(web.caller_of(request), web.idempotency(request, form), body)
        except billing.Wrong as error:
            return billing.show(request, "plans/coupon.html", typed=typed, wrong=error.fields)
        except DomainError as error:
            return billing.show(request, "plans/coupon.html", typed=typed, problem=error)
        return web.go(request, "/plans/coupons", web.say(request, "The coupon was made."))

    @post("/plans/coupons/{coupon_id:str}/status", opt={"scope": "plans:write", "session": True}, status_code=303)
    async def coupon_status(
        self, request: Http, coupon_id: FromPath[str], coupons: NamedDependency[Coupons]
    ) -> Response[bytes]:
        """Archive it, or let it be redeemed again."""
        form = await web.form_of(request)
        status: Any = "archived" if form.text("status") == "archived" else "active"
        await coupons.update(web.caller_of(request), ids.decode("cpn", coupon_id), CouponUpdate(status=status))
        archived = mark("Archived: nobody can redeem it any more. Subscriptions that have it keep it.")
        said = archived if status == "archived" else mark("It can be redeemed again.")
        return web.go(request, "/plans/coupons", web.say(request, said))


def _status(request: Http) -> str:
    asked: str = request.query_params.get("status", "active")
    return asked if asked in ("active", "archived") else ""


def _amount(typed: dict[str, str], field: str) -> int:
    amount = billing.minor_of(typed[field], typed["currency"])
    if amount is None:
        raise billing.Wrong(**{field: billing.AMOUNT_WRONG})
    return amount


def _rate(text: str) -> int | None:
    """Percent with up to two decimals, as basis points from 0 to 10000."""
    found = billing.minor_of(text, "EUR")  # Two decimals, as a cent has.
    return found if found is not None and found <= 10_000 else None


def _whole(typed: dict[str, str], field: str) -> int:
    found = billing.whole(typed[field])
    if found is None:
        raise billing.Wrong(**{field: _WRONG[field]})
    return found


def _plan(typed: dict[str, str]) -> PlanCreate:
    """Raises ``billing.Wrong``."""
    typed["currency"] = currency = typed["currency"].upper()
    if currency not in CURRENCIES:
        raise billing.Wrong(currency=_CURRENCY_WRONG)
    document: dict[str, Any] = {
        "name": typed["name"],
        "amounts": {currency: _amount(typed, "amount")},
        "interval": {"unit": typed["unit"], "count": _whole(typed, "count")},
        "trial_days": _whole(typed, "trial_days"),
        "reference": typed["reference"] or None,
    }
    if not 1 <= document["interval"]["count"] <= 366:
        raise billing.Wrong(count=_WRONG["count"])
    if typed["setup_fee"]:
        document["setup_fees"] = {currency: _amount(typed, "setup_fee")}
    if typed["tax_name"] or typed["tax_rate"]:
        rate = _rate(typed["tax_rate"])
        if rate is None:
            raise billing.Wrong(tax_rate=_WRONG["tax_rate"])
        if not 1 <= len(typed["tax_name"]) <= 60:
            raise billing.Wrong(tax_name=_WRONG["tax_name"])
        document["tax"] = {"name": typed["tax_name"], "rate_bp": rate, "inclusive": typed["tax_inclusive"] == "yes"}
    return billing.body_of(PlanCreate, document, _WRONG | {"amounts": billing.AMOUNT_WRONG})


def _coupon(typed: dict[str, str], zone: str) -> CouponCreate:
    """Raises ``billing.Wrong``."""
    document: dict[str, Any] = {"code": typed["code"], "name": typed["name"], "duration": typed["duration"]}
    if typed["kind"] == "amount":
        typed["currency"] = typed["currency"].upper()
        if typed["currency"] not in CURRENCIES:
            raise billing.Wrong(currency=_CURRENCY_WRONG)
        document["amounts"] = {typed["currency"]: _amount(typed, "amount")}
    else:
        document["percent_bp"] = _rate(typed["percent"])
        if not document["percent_bp"]:
            raise billing.Wrong(percent=_WRONG["percent"])
    if typed["duration"] == "repeating":
        document["periods"] = _whole(typed, "periods")
    if typed["redemptions_max"]:
        document["redemptions_max"] = _whole(typed, "redemptions_max")
    if typed["redeem_by"]:
        document["redeem_by"] = billing.day_of(typed["redeem_by"], zone)
        if document["redeem_by"] is None:
            raise billing.Wrong(redeem_by=_DATE_WRONG)
    return billing.body_of(CouponCreate, document, _WRONG)
