"""``/v1/dunning-plans`` and ``/v1/rebills``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from clearspan.payments.errors import (
    CardStopped,
    InProgress,
    MandateNotActive,
    MethodRequired,
    RetryCapReached,
)
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey, KeyMissing
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest
from clearspan.platform.replies import problems, reply
from clearspan.rebills.desk import Rebills
from clearspan.rebills.dunning import DunningPlans
from clearspan.rebills.errors import InvoiceNotHeld, RebillNotFound, RebillNotOpen
from clearspan.rebills.schemas import (
    DunningPlanCreate,
    DunningPlanList,
    DunningPlanOut,
    DunningPlanVersion,
    RebillExplained,
    RebillList,
    RebillStop,
    RecoveryOut,
    State,
)
from clearspan.subscriptions.errors import DunningPlanMissing

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]


class DunningPlanController(Controller):
    """Dunning plans."""

    path = "/dunning-plans"
    tags = ("Rebills",)

    @post(opt={"scope": "dunning:write"}, responses=problems())
    async def create(
        self,
        data: JSONBody[DunningPlanCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        dunning_plans: NamedDependency[DunningPlans],
    ) -> Response[DunningPlanOut]:
        """Make a dunning plan: when failed charges are tried again, who is told when, and how it ends."""
        return reply(await dunning_plans.create(caller, key, data))

    @post("/{dunning_plan_id:str}/versions", opt={"scope": "dunning:write"}, responses=problems(DunningPlanMissing))
    async def add_version(
        self,
        dunning_plan_id: FromPath[str],
        data: JSONBody[DunningPlanVersion],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        dunning_plans: NamedDependency[DunningPlans],
    ) -> Response[DunningPlanOut]:
        """Make the next version of a plan. Invoices that failed before go on by the version they began with."""
        return reply(await dunning_plans.add_version(caller, key, ids.decode("dun", dunning_plan_id), data))

    @get(opt={"scope": "dunning:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        dunning_plans: NamedDependency[DunningPlans],
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> DunningPlanList:
        """Dunning plans, each in its newest version; the one that comes with Clearspan has no id and is the last."""
        return await dunning_plans.list(caller.scope, limit, cursor)

    @get("/{dunning_plan_id:str}", opt={"scope": "dunning:read"}, responses=problems(DunningPlanMissing))
    async def retrieve(
        self,
        dunning_plan_id: FromPath[str],
        caller: NamedDependency[Caller],
        dunning_plans: NamedDependency[DunningPlans],
        version: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1, description="Default: the newest.")] = None,
    ) -> DunningPlanOut:
        """One dunning plan."""
        return await dunning_plans.get(caller.scope, ids.decode("dun", dunning_plan_id), version)


class RebillController(Controller):
    """Rebills: the collection of invoices."""

    path = "/rebills"
    tags = ("Rebills",)

    @get(opt={"scope": "dunning:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        rebills: NamedDependency[Rebills],
        limit: Limit = 20,
        cursor: Cursor = None,
        wanted: Annotated[State | None, QueryParameter(name="state", description="How it stands.")] = None,
        subscription: Annotated[str | None, QueryParameter(max_length=90, description="Of this subscription.")] = None,
        due_before: FromQuery[datetime | None] = None,
    ) -> RebillList:
        """Rebills, newest invoice first."""
        filters = {
            "state": wanted,
            "subscription_id": ids.decode("sub", subscription) if subscription is not None else None,
            "due_before": in_utc("due_before", due_before),
        }
        return await rebills.list(caller.scope, filters, limit, cursor)

    @get("/recovery", opt={"scope": "dunning:read"}, responses=problems())
    async def recovery(
        self,
        caller: NamedDependency[Caller],
        rebills: NamedDependency[Rebills],
        since: FromQuery[datetime | None] = None,
        until: FromQuery[datetime | None] = None,
    ) -> RecoveryOut:
        """What was recovered: per try, by code and by delay, and the plan against its control group.

        It is about invoices whose first charge failed between `since` (default: 90 days ago) and `until` (default: now).
        """
        end = in_utc("until", until) or clock.now()
        begin = in_utc("since", since) or clock.now() - timedelta(days=90)
        if begin >= end:
            message = "since must lie before until."
            raise InvalidRequest(message, errors=[{"path": "since", "message": message}])
        return await rebills.recovery(caller.scope, begin, end)

    @get("/{invoice_id:str}", opt={"scope": "dunning:read"}, responses=problems(RebillNotFound))
    async def retrieve(
        self, invoice_id: FromPath[str], caller: NamedDependency[Caller], rebills: NamedDependency[Rebills]
    ) -> RebillExplained:
        """Explain a rebill: every charge, every decision with its reason in words, and what comes next."""
        return await rebills.explain(caller.scope, ids.decode("inv", invoice_id))

    @post(
        "/{invoice_id:str}/retry",
        status_code=200,
        opt={"scope": "dunning:write"},
        responses=problems(
            RebillNotFound,
            RebillNotOpen,
            RetryCapReached,
            CardStopped,
            InProgress,
            MandateNotActive,
            MethodRequired,
            KeyMissing,
        ),
    )
    async def retry(
        self,
        invoice_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        rebills: NamedDependency[Rebills],
    ) -> Response[RebillExplained]:
        """Charge an invoice now instead of when its plan says. The limits of the schemes hold."""
        return reply(await rebills.retry(caller, key, ids.decode("inv", invoice_id)))

    @post(
        "/{invoice_id:str}/stop",
        status_code=200,
        opt={"scope": "dunning:write"},
        responses=problems(RebillNotFound, RebillNotOpen, KeyMissing),
    )
    async def stop(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[RebillStop],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        rebills: NamedDependency[Rebills],
    ) -> Response[RebillExplained]:
        """Collect an invoice no more. A charge that is under way resolves; the subscription stays as it is."""
        return reply(await rebills.stop(caller, key, ids.decode("inv", invoice_id), data.reason))

    @post(
        "/{invoice_id:str}/release",
        status_code=200,
        opt={"scope": "dunning:write"},
        responses=problems(RebillNotFound, InvoiceNotHeld, KeyMissing),
    )
    async def release(
        self,
        invoice_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        rebills: NamedDependency[Rebills],
    ) -> Response[RebillExplained]:
        """Collect an invoice that was held because its period had been missed."""
        return reply(await rebills.release(caller, key, ids.decode("inv", invoice_id)))
