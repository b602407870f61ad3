"""The dunning board, and the plans by which failed charges are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.customers.service import Customers
from clearspan.platform import clock, ids
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.rebills.desk import BOARD, BOARD_COUNTED, Rebills
from clearspan.rebills.dunning import DunningPlans
from clearspan.rebills.plans import BUILT_IN, DunningPlan
from clearspan.rebills.schemas import BoardFilters, DunningPlanCreate, DunningPlanOut, DunningPlanVersion, built_in
from clearspan.sdk import DeclineClass
from clearspan.subscriptions.catalogue import Billing, PlanFilters, Plans
from clearspan_admin import billing as bills
from clearspan_admin import web
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

SPANS: Final = (7, 30, 90)
"""Days that the board looks back; the second one at first."""
_CARDS: Final = 12
_BUILT_IN: Final = "clearspan"
"""The plan that comes with Clearspan has no id; this is its place in addresses."""
_DAYS_WRONG: Final = mark("Write days such as 1, 3, 5: each later than the one before, and before the last day.")
_WRONG: Final = {
    "soft_days": _DAYS_WRONG,
    "control_days": _DAYS_WRONG,
    "reminder_days": _DAYS_WRONG,
    "technical_h": mark("Write up to three hours such as 1, 6, 24, from 1 to 72."),
    "name": mark("A plan needs a name of up to 200 characters."),
    "payday": mark("Write up to five days of the month such as 1, 15, 25, each later than the one before."),
    "generic_tries": mark("From 1 to 3."),
    "restricted_tries": mark("1 or 2."),
    "jitter_h": mark("From 0 to 3."),
    "card_expiring_days": mark("From 0 to 60 days."),
    "grace_days": mark("From 0 to 60 days, and not beyond the last day."),
    "final_day": mark("From 1 to 60 days."),
    "holdout": mark("From 0 to 50 percent."),
}


class DunningPages(Controller):
    """``/admin/dunning``."""

    @get("/dunning", opt={"scope": "dunning:read", "session": True})
    async def board(
        self,
        request: Http,
        rebills: NamedDependency[Rebills],
        customers: NamedDependency[Customers],
        plans: NamedDependency[Plans],
        dunning_plans: NamedDependency[DunningPlans],
    ) -> Response[bytes]:
        """Four columns of unpaid invoices; with ``column`` and ``cursor`` more of one, which htmx puts below the rest."""
        scope, asked = web.caller_of(request).scope, request.query_params
        chosen, filters, days = _chosen(asked)
        since = clock.now() - timedelta(days=days)
        only = asked.get("column")
        if only in BOARD:
            page = await rebills.board(scope, only, since, filters, _CARDS, asked.get("cursor"))
            names = await bills.names_of(request, customers, page.cards)
            part = {"column": only, "page": page, "names": names, "chosen": chosen}
            template = "dunning/cards.html" if web.is_fragment(request) else "dunning/column.html"
            return bills.show(request, template, **part)
        columns = {name: await rebills.board(scope, name, since, filters, _CARDS, None) for name in BOARD}
        totals: dict[str, list[Any]] = {name: [] for name in BOARD}
        for one in await rebills.board_totals(scope, since, filters):
            totals[one.column].append(one)
        recovery = await rebills.recovery(scope, since, clock.now())
        sold: list[tuple[str, str]] = []
        if "plans:read" in web.who(request).scopes:
            sold = [(plan.id, plan.name) for plan in (await plans.list(scope, PlanFilters(), 100, None)).data]
        own = [(one.id or _BUILT_IN, one.name) for one in (await dunning_plans.list(scope, 100, None)).data]
        return bills.show(
            request,
            "dunning/board.html",
            columns=columns,
            totals=totals,
            counted=BOARD_COUNTED,
            names=await bills.names_of(request, customers, [card for one in columns.values() for card in one.cards]),
            failed=sum(group.failed for group in recovery.groups),
            recovered=sum(group.recovered for group in recovery.groups),
            by_customer=sum(group.by_customer for group in recovery.groups),
            chosen=chosen,
            days=days,
            spans=SPANS,
            kind_options=[(kind, web.say(request, text)) for kind, text in bills.KINDS.items()],
            plan_options=sold,
            dunning_options=own,
        )

    # -- Plans --------------------------------------------------------------------------------------------------------

    @get("/dunning/plans", opt={"scope": "dunning:read", "session": True})
    async def plans(
        self, request: Http, dunning_plans: NamedDependency[DunningPlans], billing: NamedDependency[Billing]
    ) -> Response[bytes]:
        """The newest version of each."""
        scope = web.caller_of(request).scope
        found = await dunning_plans.list(scope, 100, request.query_params.get("cursor"))
        default = (await billing.get(scope)).dunning_plan if "plans:read" in web.who(request).scopes else None
        return bills.show(request, "dunning/plans.html", found=found, default=default)

    @get("/dunning/plans/new", opt={"scope": "dunning:write", "session": True})
    async def new(self, request: Http) -> Response[bytes]:
        """A form that holds the values of the plan that comes with Clearspan."""
        return _form_page(request, None, _typed(built_in(live=True)) | {"name": ""})

    @post("/dunning/plans/new", opt={"scope": "dunning:write", "session": True}, status_code=303)
    async def create(self, request: Http, dunning_plans: NamedDependency[DunningPlans]) -> Response[bytes]:
        """Make a plan."""
        form = await web.form_of(request)
        typed = {name: form.text(name) for name in _typed(built_in(live=True))}
        try:
            body = bills.body_of(DunningPlanCreate, {"name": typed["name"], "plan": BUILT_IN}, _WRONG)
            body = DunningPlanCreate(name=body.name, plan=_plan(form))
            made = await dunning_plans.create(web.caller_of(request), web.idempotency(request, form), body)
        except bills.Wrong as error:
            return _form_page(request, None, typed, wrong=error.fields)
        except DomainError as error:
            return _refused(request, None, typed, error)
        said = web.say(request, "The plan was made. Choose it for a subscription, or for all in the billing settings.")
        return web.go(request, f"/dunning/plans/{web.answered(made)['id']}", said)

    @get("/dunning/plans/{plan_id:str}", opt={"scope": "dunning:read", "session": True})
    async def plan(
        self, request: Http, plan_id: FromPath[str], dunning_plans: NamedDependency[DunningPlans]
    ) -> Response[bytes]:
        """One plan as a schedule that people can read."""
        version = bills.whole(request.query_params.get("version", ""))
        one = await _get(request, dunning_plans, plan_id, version)
        newest = await _get(request, dunning_plans, plan_id, None)
        return bills.show(request, "dunning/plan.html", one=one, newest=newest.version)

    @get("/dunning/plans/{plan_id:str}/version", opt={"scope": "dunning:write", "session": True})
    async def version_form(
        self, request: Http, plan_id: FromPath[str], dunning_plans: NamedDependency[DunningPlans]
    ) -> Response[bytes]:
        """A form that holds the newest version."""
        one = await _get(request, dunning_plans, plan_id, None)
        return _form_page(request, one, _typed(one))

    @post("/dunning/plans/{plan_id:str}/version", opt={"scope": "dunning:write", "session": True}, status_code=303)
    async def add_version(
        self, request: Http, plan_id: FromPath[str], dunning_plans: NamedDependency[DunningPlans]
    ) -> Response[bytes]:
        """Make the next version."""
        form, own = await web.form_of(request), ids.decode("dun", plan_id)
        one = await _get(request, dunning_plans, plan_id, None)
        typed = {name: form.text(name) for name in _typed(one)}
        try:
            document = {"name": typed["name"], "plan": BUILT_IN}
            body = bills.body_of(DunningPlanVersion, document, _WRONG)
            body = DunningPlanVersion(name=body.name, plan=_plan(form))
            await dunning_plans.add_version(web.caller_of(request), web.idempotency(request, form), own, body)
        except bills.Wrong as error:
            return _form_page(request, one, typed, wrong=error.fields)
        except DomainError as error:
            return _refused(request, one, typed, error)
        said = mark(
            "The new version counts for invoices that fail from now on; others go on by the version they began with."
        )
        return web.go(request, f"/dunning/plans/{plan_id}", web.say(request, said))


def _chosen(asked: Any) -> tuple[dict[str, str], BoardFilters, int]:
    """What was asked for: as addresses say it, and as the core takes it. What is unknown is not filtered by."""
    days = bills.whole(asked.get("days", ""))
    days = days if days in SPANS else SPANS[1]
    kind = asked.get("kind", "")
    plan, dunning = asked.get("plan", ""), asked.get("dunning_plan", "")
    chosen = {"days": str(days), "kind": kind if kind in bills.KINDS else "", "plan": plan, "dunning_plan": dunning}
    filters = BoardFilters(
        plan_id=ids.decode("plan", plan) if plan else None,
        dunning_plan_id=ids.decode("dun", dunning) if dunning not in ("", _BUILT_IN) else None,
        built_in=dunning == _BUILT_IN,
        kind=DeclineClass(kind) if chosen["kind"] else None,
    )
    return chosen, filters, days


async def _get(request: Http, plans: DunningPlans, plan_id: str, version: int | None) -> DunningPlanOut:
    scope = web.caller_of(request).scope
    if plan_id == _BUILT_IN:
        return built_in(live=scope.live)
    return await plans.get(scope, ids.decode("dun", plan_id), version)


def _form_page(request: Http, one: DunningPlanOut | None, typed: dict[str, str], **more: Any) -> Response[bytes]:
    hours = [(str(hour), f"{hour:02}:00") for hour in range(24)]
    return bills.show(request, "dunning/form.html", one=one, typed=typed, hours=hours, **more)


def _refused(request: Http, one: DunningPlanOut | None, typed: dict[str, str], error: DomainError) -> Response[bytes]:
    """A plan that contradicts itself is refused field by field."""
    wrong = bills.wrong_of(error) if isinstance(error, InvalidRequest) else {}
    if "days" in wrong:
        wrong["payday"] = wrong.pop("days")
    return _form_page(request, one, typed, problem=None if wrong else error, wrong=wrong)


def _typed(one: DunningPlanOut) -> dict[str, str]:
    """A plan as the form's fields."""
    plan = one.plan

    def row(values: tuple[int, ...]) -> str:
        return ", ".join(map(str, values))

    return {
        "name": one.name,
        "soft_days": row(plan.soft_days),
        "technical_h": row(plan.technical_h),
        "generic_tries": str(plan.generic_tries),
        "restricted_tries": str(plan.restricted_tries),
        "payday": row(plan.payday.days) if plan.payday else "",
        "weekday": "" if plan.payday is None or plan.payday.weekday is None else str(plan.payday.weekday),
        "hour": str(plan.hour),
        "jitter_h": str(plan.jitter_h),
        "reminder_days": row(plan.reminder_days),
        "card_expiring_days": str(plan.card_expiring_days),
        "other_method": "yes" if plan.other_method else "",
        "pay_link": "yes" if plan.pay_link else "",
        "grace_days": str(plan.grace_days),
        "final_day": str(plan.final_day),
        "final_action": plan.final_action,
        "holdout": str(plan.holdout_bp // 100),
        "control_days": row(plan.control_days),
    }


def _plan(form: Form) -> DunningPlan:
    """What was typed, as a plan; its own contradictions the core finds. Raises ``bills.Wrong``."""

    def numbers(name: str) -> list[int]:
        found = [bills.whole(part) for part in form.text(name).replace(";", ",").split(",") if part.strip()]
        if any(value is None for value in found):
            raise bills.Wrong(**{name: _WRONG[name]})
        return [value for value in found if value is not None]

    def number(name: str) -> int:
        value = bills.whole(form.text(name))
        if value is None:
            raise bills.Wrong(**{name: _WRONG[name]})
        return value

    if number("holdout") > 50:
        raise bills.Wrong(holdout=_WRONG["holdout"])
    hour, weekday = bills.whole(form.text("hour")), bills.whole(form.text("weekday"))
    paydays = numbers("payday")
    document: dict[str, Any] = {
        **{name: numbers(name) for name in ("soft_days", "technical_h", "reminder_days", "control_days")},
        **{
            name: number(name)
            for name in (
                "generic_tries", "restricted_tries", "jitter_h", "card_expiring_days", "grace_days", "final_day",
            )
        },
        "payday": {"days": paydays, "weekday": weekday} if paydays or weekday is not None else None,
        "hour": "last_success" if hour is None else hour,
        "other_method": form.has("other_method"),
        "pay_link": form.has("pay_link"),
        "final_action": form.text("final_action"),
        "holdout_bp": number("holdout") * 100,
    }  # fmt: skip
    return bills.body_of(DunningPlan, document, _WRONG)
