"""``/v1/plans``, ``/v1/coupons``, ``/v1/billing-settings`` and ``/v1/subscriptions``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from clearspan.payments import errors as payments
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.platform.replies import problems, reply
from clearspan.subscriptions import errors
from clearspan.subscriptions.catalogue import Billing, CouponFilters, Coupons, PlanFilters, Plans
from clearspan.subscriptions.schemas import (
    BillingSettingsOut,
    BillingSettingsUpdate,
    CouponCreate,
    CouponList,
    CouponOut,
    CouponUpdate,
    PlanCreate,
    PlanList,
    PlanOut,
    PlanUpdate,
    PreviewOut,
    SubscriptionCancel,
    SubscriptionChange,
    SubscriptionCreate,
    SubscriptionList,
    SubscriptionOut,
    SubscriptionPause,
    SubscriptionPreview,
    SubscriptionResume,
    SubscriptionUncancel,
    SubscriptionUpdate,
)
from clearspan.subscriptions.service import SubscriptionFilters, Subscriptions

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]
OwnId = Annotated[str | None, QueryParameter(max_length=200, pattern=r"^[^\x00]+$", description="Your own id.")]


class PlanController(Controller):
    """Plans."""

    path = "/plans"
    tags = ("Subscriptions",)

    @post(opt={"scope": "plans:write"}, responses=problems(payments.UnsupportedCurrency, errors.PlanReferenceTaken))
    async def create(
        self,
        data: JSONBody[PlanCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        plans: NamedDependency[Plans],
    ) -> Response[PlanOut]:
        """Make a plan. Its amounts and interval never change; a new price is a new plan."""
        return reply(await plans.create(caller, key, data))

    @get(opt={"scope": "plans:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        plans: NamedDependency[Plans],
        limit: Limit = 20,
        cursor: Cursor = None,
        reference: OwnId = None,
        status: FromQuery[Literal["active", "archived"] | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> PlanList:
        """Plans, newest first."""
        filters = PlanFilters(
            reference=reference,
            status=status,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
        )
        return await plans.list(caller.scope, filters, limit, cursor)

    @get("/{plan_id:str}", opt={"scope": "plans:read"}, responses=problems(NotFound))
    async def retrieve(
        self, plan_id: FromPath[str], caller: NamedDependency[Caller], plans: NamedDependency[Plans]
    ) -> PlanOut:
        """Retrieve one plan."""
        return await plans.get(caller.scope, ids.decode("plan", plan_id))

    @patch("/{plan_id:str}", opt={"scope": "plans:write"}, responses=problems(NotFound))
    async def update(
        self,
        plan_id: FromPath[str],
        data: JSONBody[PlanUpdate],
        caller: NamedDependency[Caller],
        plans: NamedDependency[Plans],
    ) -> PlanOut:
        """Change name, metadata or status; what is left out stays. An archived plan is not sold any more."""
        return await plans.update(caller, ids.decode("plan", plan_id), data)


class CouponController(Controller):
    """Coupons."""

    path = "/coupons"
    tags = ("Subscriptions",)

    @post(opt={"scope": "plans:write"}, responses=problems(payments.UnsupportedCurrency, errors.CouponCodeTaken))
    async def create(
        self,
        data: JSONBody[CouponCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        coupons: NamedDependency[Coupons],
    ) -> Response[CouponOut]:
        """Make a coupon: a share or an amount off, once, for some periods, or for ever."""
        return reply(await coupons.create(caller, key, data))

    @get(opt={"scope": "plans:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        coupons: NamedDependency[Coupons],
        limit: Limit = 20,
        cursor: Cursor = None,
        code: Annotated[str | None, QueryParameter(max_length=60, pattern=r"^[A-Za-z0-9_-]+$")] = None,
        status: FromQuery[Literal["active", "archived"] | None] = None,
    ) -> CouponList:
        """Coupons, newest first."""
        return await coupons.list(caller.scope, CouponFilters(code=code, status=status), limit, cursor)

    @get("/{coupon_id:str}", opt={"scope": "plans:read"}, responses=problems(NotFound))
    async def retrieve(
        self, coupon_id: FromPath[str], caller: NamedDependency[Caller], coupons: NamedDependency[Coupons]
    ) -> CouponOut:
        """Retrieve one coupon."""
        return await coupons.get(caller.scope, ids.decode("cpn", coupon_id))

    @patch("/{coupon_id:str}", opt={"scope": "plans:write"}, responses=problems(NotFound))
    async def update(
        self,
        coupon_id: FromPath[str],
        data: JSONBody[CouponUpdate],
        caller: NamedDependency[Caller],
        coupons: NamedDependency[Coupons],
    ) -> CouponOut:
        """Change name, metadata or status; what is left out stays. Subscriptions that have an archived coupon keep it."""
        return await coupons.update(caller, ids.decode("cpn", coupon_id), data)


class BillingSettingsController(Controller):
    """Billing settings."""

    path = "/billing-settings"
    tags = ("Subscriptions",)

    @get(opt={"scope": "plans:read"}, responses=problems())
    async def retrieve(self, caller: NamedDependency[Caller], billing: NamedDependency[Billing]) -> BillingSettingsOut:
        """How you bill in this mode."""
        return await billing.get(caller.scope)

    @patch(opt={"scope": "plans:write"}, responses=problems(errors.DunningPlanMissing))
    async def update(
        self,
        data: JSONBody[BillingSettingsUpdate],
        caller: NamedDependency[Caller],
        billing: NamedDependency[Billing],
    ) -> BillingSettingsOut:
        """Change how you bill; what is left out stays."""
        return await billing.update(caller, data)


_FILTERS = frozenset({"limit", "cursor", "customer", "status", "plan", "reference", "created_after", "created_before"})
_OF_METHOD = (
    payments.MandateMissing, payments.MandateNotActive, errors.MandateNotFitting, payments.MethodMissing,
    payments.MethodDetached, payments.MethodOfAnother,
)  # fmt: skip
_OF_COUPON = (
    errors.CouponMissing, errors.CouponExpired, errors.CouponExhausted, errors.CouponArchived,
    errors.CouponOfAnotherCurrency,
)  # fmt: skip
_OF_CHANGE = (
    NotFound, errors.SubscriptionCanceled, errors.SubscriptionState, errors.ChargeUnderWay, errors.ChargeUnknown,
    errors.PlanMissing, errors.PlanArchived, errors.PlansDoNotFit, errors.NotPriceable,
)  # fmt: skip


class SubscriptionController(Controller):
    """Subscriptions."""

    path = "/subscriptions"
    tags = ("Subscriptions",)

    @post(
        opt={"scope": "subscriptions:write"},
        responses=problems(
            payments.CustomerMissing, errors.PlanMissing, errors.PlanArchived, errors.PlansDoNotFit, errors.NotPriceable,
            payments.UnsupportedCurrency, errors.UnknownTimeZone, errors.NoSuchDate, errors.DunningPlanMissing,
            payments.AccountUnavailable, payments.InProgress, payments.OutcomeNotStored, *_OF_METHOD, *_OF_COUPON,
            money=SubscriptionOut,
        ),
    )  # fmt: skip
    async def create(
        self,
        data: JSONBody[SubscriptionCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Subscribe a customer, and charge the first invoice.

        With a trial and a payment method the mandate is confirmed by a payment of nothing (`verification`). While either
        waits for the customer the subscription is `incomplete`.
        """
        return reply(await subscriptions.create(caller, key, data))

    @get(opt={"scope": "subscriptions:read"}, responses=problems())
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        subscriptions: NamedDependency[Subscriptions],
        limit: Limit = 20,
        cursor: Cursor = None,
        customer: Annotated[str | None, QueryParameter(max_length=90, description="Of this customer.")] = None,
        status: Annotated[str | None, QueryParameter(pattern="^[a-z_]{1,40}$")] = None,
        plan: Annotated[str | None, QueryParameter(max_length=90, description="With an item of this plan.")] = None,
        reference: OwnId = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> SubscriptionList:
        """Subscriptions, newest first. `metadata[name]=value` searches by metadata."""
        metadata: dict[str, str] = {}
        for name, value in request.query_params.items():
            if name.startswith("metadata[") and name.endswith("]"):
                metadata[name[9:-1]] = value
            elif name not in _FILTERS:
                message = f"There is no filter {name[:40]!r}; there are {', '.join(sorted(_FILTERS))}, metadata[name]."
                raise InvalidRequest(message, errors=[{"path": name[:40], "message": "unknown query parameter"}])
        filters = SubscriptionFilters(
            customer_id=None if customer is None else ids.decode("cus", customer),
            status=status,
            plan_id=None if plan is None else ids.decode("plan", plan),
            reference=reference,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
            metadata=metadata or None,
        )
        return await subscriptions.list(caller.scope, filters, limit, cursor)

    @get("/{subscription_id:str}", opt={"scope": "subscriptions:read"}, responses=problems(NotFound))
    async def retrieve(
        self,
        subscription_id: FromPath[str],
        caller: NamedDependency[Caller],
        subscriptions: NamedDependency[Subscriptions],
    ) -> SubscriptionOut:
        """One subscription with its newest invoice."""
        return await subscriptions.get(caller.scope, ids.decode("sub", subscription_id))

    @patch(
        "/{subscription_id:str}",
        opt={"scope": "subscriptions:write"},
        responses=problems(NotFound, errors.SubscriptionCanceled, errors.DunningPlanMissing, *_OF_METHOD, *_OF_COUPON),
    )
    async def update(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionUpdate],
        caller: NamedDependency[Caller],
        subscriptions: NamedDependency[Subscriptions],
    ) -> SubscriptionOut:
        """Change what is not billed; what is left out stays, null clears."""
        return await subscriptions.update(caller, ids.decode("sub", subscription_id), data)

    @post(
        "/{subscription_id:str}/preview",
        status_code=200,
        opt={"scope": "subscriptions:read"},
        responses=problems(*_OF_CHANGE),
    )
    async def preview(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionPreview],
        caller: NamedDependency[Caller],
        subscriptions: NamedDependency[Subscriptions],
    ) -> PreviewOut:
        """What a change would bill. Send its `at` with the change, and these amounts hold."""
        return await subscriptions.preview(caller.scope, ids.decode("sub", subscription_id), data)

    @post(
        "/{subscription_id:str}/change",
        status_code=200,
        opt={"scope": "subscriptions:write"},
        responses=problems(*_OF_CHANGE, payments.InProgress, payments.OutcomeNotStored, money=SubscriptionOut),
    )
    async def change(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionChange],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Other items: the rest of the period is exchanged to the microsecond, or they change at its end."""
        return reply(await subscriptions.change(caller, key, ids.decode("sub", subscription_id), data))

    @post(
        "/{subscription_id:str}/pause",
        status_code=200,
        opt={"scope": "subscriptions:write"},
        responses=problems(NotFound, errors.SubscriptionCanceled, errors.SubscriptionState),
    )
    async def pause(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionPause],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Bill nothing until `resume_at`, or until you resume it. Open invoices are collected as before."""
        return reply(await subscriptions.pause(caller, key, ids.decode("sub", subscription_id), data))

    @post(
        "/{subscription_id:str}/resume",
        status_code=200,
        opt={"scope": "subscriptions:write"},
        responses=problems(
            NotFound, errors.SubscriptionCanceled, errors.SubscriptionState, payments.MandateMissing,
            payments.MandateNotActive,
        ),
    )  # fmt: skip
    async def resume(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionResume],  # noqa: ARG002  (refuses what does not belong there)
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Resume a paused subscription. Periods that began during the pause are not billed."""
        return reply(await subscriptions.resume(caller, key, ids.decode("sub", subscription_id)))

    @post(
        "/{subscription_id:str}/cancel",
        status_code=200,
        opt={"scope": "subscriptions:write"},
        responses=problems(NotFound, errors.SubscriptionCanceled, errors.SubscriptionState, errors.ChargeUnderWay),
    )
    async def cancel(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionCancel],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Cancel a subscription: no later invoice, retry or reminder.

        A charge under way for an invoice that becomes void is given back.
        """
        return reply(await subscriptions.cancel(caller, key, ids.decode("sub", subscription_id), data))

    @post(
        "/{subscription_id:str}/uncancel",
        status_code=200,
        opt={"scope": "subscriptions:write"},
        responses=problems(NotFound, errors.SubscriptionCanceled, errors.SubscriptionState),
    )
    async def uncancel(
        self,
        subscription_id: FromPath[str],
        data: JSONBody[SubscriptionUncancel],  # noqa: ARG002  (refuses what does not belong there)
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        subscriptions: NamedDependency[Subscriptions],
    ) -> Response[SubscriptionOut]:
        """Do not end it after all, as long as it has not ended."""
        return reply(await subscriptions.uncancel(caller, key, ids.decode("sub", subscription_id)))
