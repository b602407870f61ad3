"""What is sold and how it is billed: plans, coupons, billing settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal import service as journal
from clearspan.payments.errors import UnsupportedCurrency
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.moments import in_utc
from clearspan.platform.orm import violated
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.sdk import CURRENCIES
from clearspan.subscriptions.errors import CouponCodeTaken, DunningPlanMissing, PlanReferenceTaken
from clearspan.subscriptions.repository import CouponRows, Neighbours, PlanRows, billing_settings
from clearspan.subscriptions.rows import BillingSettings, Coupon, Plan
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
    coupon_list,
    coupon_out,
    plan_list,
    plan_out,
    settings_out,
)


class PlanFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What plans are searched by; all must hold. Times are aware."""

    reference: str | None = None
    status: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class Plans:
    """Plans of a tenant in one mode."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: PlanCreate) -> Answer:
        """Make a plan.

        Raises:
            UnsupportedCurrency, PlanReferenceTaken; and as ``once``.
        """
        _known([*body.amounts, *body.setup_fees])
        strange = body.setup_fees.keys() - body.amounts.keys()
        if strange:
            raise _invalid("setup_fees", f"There is a fee but no amount in {', '.join(sorted(strange))}.")

        async def work(session: AsyncSession) -> Answer:
            now = clock.now()
            plan = Plan(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                name=body.name,
                reference=body.reference,
                amounts=body.amounts,
                setup_fees=body.setup_fees,
                interval_unit=body.interval.unit,
                interval_count=body.interval.count,
                trial_days=body.trial_days,
                tax=None if body.tax is None else msgspec.to_builtins(body.tax),
                status="active",
                metadata_=body.metadata,
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            await PlanRows(session).add(plan)
            await _record_plan(session, caller, plan, "plan.created", [])
            return Answer(201, msgspec.json.encode(plan_out(plan)))

        with _taken("plans_tenant_id_live_reference_key", PlanReferenceTaken):
            return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, plan_id: UUID) -> PlanOut:
        """One plan.

        Raises:
            NotFound: no such plan.
        """
        async with self._db.begin(scope) as session:
            return plan_out(await PlanRows(session).require(scope, plan_id))

    async def list(self, scope: Scope, filters: PlanFilters, limit: int, cursor: str | None) -> PlanList:
        """Plans, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: list[ColumnElement[bool]] = []
        if filters.reference is not None:
            conditions.append(Plan.reference == filters.reference)
        if filters.status is not None:
            conditions.append(Plan.status == filters.status)
        if filters.created_after is not None:
            conditions.append(Plan.created_at > filters.created_after)
        if filters.created_before is not None:
            conditions.append(Plan.created_at < filters.created_before)
        async with self._db.begin(scope) as session:
            page = await PlanRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            return plan_list(page.rows, page.next_cursor)

    async def update(self, caller: Caller, plan_id: UUID, body: PlanUpdate) -> PlanOut:
        """Change name, metadata or status. Subscriptions keep the name they were made with.

        Raises:
            NotFound: no such plan.
        """
        given = _given(body)
        async with self._db.begin(caller.scope) as session:
            plan = await PlanRows(session).require(caller.scope, plan_id, lock=True)
            before = {"name": plan.name, "status": plan.status}
            plan.name = given.get("name", plan.name)
            plan.metadata_ = given.get("metadata", plan.metadata_)
            plan.status = given.get("status", plan.status)
            if given:
                plan.sequence += 1
                plan.updated_at = clock.now()
                archived = plan.status == "archived" != before["status"]
                differing = journal.differing(before, {"name": plan.name, "status": plan.status})
                event = "plan.archived" if archived else "plan.updated"
                await _record_plan(session, caller, plan, event, sorted(given), differing)
            return plan_out(plan)

    async def render(self, scope: Scope, plan_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Plans for the event feed."""
        async with self._db.begin(scope) as session:
            plans = await PlanRows(session).among(scope, plan_ids)
        return {plan.id: msgspec.to_builtins(plan_out(plan)) for plan in plans}


class CouponFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What coupons are searched by; all must hold."""

    code: str | None = None
    status: str | None = None


class Coupons:
    """Coupons of a tenant in one mode."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: CouponCreate) -> Answer:
        """Make a coupon.

        Raises:
            InvalidRequest, UnsupportedCurrency, CouponCodeTaken; and as ``once``.
        """
        if (body.percent_bp is None) == (body.amounts is None):
            raise _invalid("percent_bp", "A coupon takes percent_bp or amounts off, one of the two.")
        if (body.duration == "repeating") != (body.periods is not None):
            raise _invalid("periods", "periods goes with duration = repeating, and that needs it.")
        _known(body.amounts or {})
        redeem_by = in_utc("redeem_by", body.redeem_by)

        async def work(session: AsyncSession) -> Answer:
            now = clock.now()
            coupon = Coupon(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                code=body.code,
                name=body.name,
                percent_bp=body.percent_bp,
                amounts=body.amounts,
                duration=body.duration,
                periods=body.periods,
                redeem_by=redeem_by,
                redemptions_max=body.redemptions_max,
                redemptions=0,
                status="active",
                metadata_=body.metadata,
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            await CouponRows(session).add(coupon)
            await record_coupon(session, caller, coupon, "coupon.created", [])
            return Answer(201, msgspec.json.encode(coupon_out(coupon)))

        with _taken("coupons_tenant_id_live_code_key", CouponCodeTaken):
            return await once(self._db, caller.scope, key, work)

    async def get(self, scope: Scope, coupon_id: UUID) -> CouponOut:
        """One coupon.

        Raises:
            NotFound: no such coupon.
        """
        async with self._db.begin(scope) as session:
            return coupon_out(await CouponRows(session).require(scope, coupon_id))

    async def list(self, scope: Scope, filters: CouponFilters, limit: int, cursor: str | None) -> CouponList:
        """Coupons, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: list[ColumnElement[bool]] = []
        if filters.code is not None:
            conditions.append(Coupon.code == filters.code)
        if filters.status is not None:
            conditions.append(Coupon.status == filters.status)
        async with self._db.begin(scope) as session:
            page = await CouponRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            return coupon_list(page.rows, page.next_cursor)

    async def update(self, caller: Caller, coupon_id: UUID, body: CouponUpdate) -> CouponOut:
        """Change name, metadata or status. Subscriptions that have an archived coupon keep it.

        Raises:
            NotFound: no such coupon.
        """
        given = _given(body)
        async with self._db.begin(caller.scope) as session:
            coupon = await CouponRows(session).require(caller.scope, coupon_id, lock=True)
            before = {"name": coupon.name, "status": coupon.status}
            coupon.name = given.get("name", coupon.name)
            coupon.metadata_ = given.get("metadata", coupon.metadata_)
            coupon.status = given.get("status", coupon.status)
            if given:
                coupon.sequence += 1
                coupon.updated_at = clock.now()
                archived = coupon.status == "archived" != before["status"]
                differing = journal.differing(before, {"name": coupon.name, "status": coupon.status})
                event = "coupon.archived" if archived else "coupon.updated"
                await record_coupon(session, caller, coupon, event, sorted(given), differing)
            return coupon_out(coupon)

    async def render(self, scope: Scope, coupon_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Coupons for the event feed."""
        async with self._db.begin(scope) as session:
            coupons = await CouponRows(session).among(scope, coupon_ids)
        return {coupon.id: msgspec.to_builtins(coupon_out(coupon)) for coupon in coupons}


class Billing:
    """The billing settings of a tenant in one mode."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, scope: Scope) -> BillingSettingsOut:
        """The settings; those that come with Clearspan until they are changed."""
        async with self._db.begin(scope) as session:
            return settings_out(await billing_settings(session, scope, clock.now()))

    async def update(self, caller: Caller, body: BillingSettingsUpdate) -> BillingSettingsOut:
        """Change what the body names; what is billed later goes by it.

        Raises:
            DunningPlanMissing.
        """
        given = _given(body)
        if given.get("dunning_plan") is not None:
            given["dunning_plan"] = decode("dun", given["dunning_plan"], DunningPlanMissing)
        async with self._db.begin(caller.scope) as session:
            now = clock.now()
            own = await billing_settings(session, caller.scope, now)
            if given.get("dunning_plan") is not None and not await Neighbours(session, caller.scope).dunning_plan(
                given["dunning_plan"]
            ):
                raise DunningPlanMissing
            before = _told(own)
            for name, value in given.items():
                if name == "dunning_plan":
                    own.dunning_plan_id = value
                else:
                    setattr(own, name, msgspec.to_builtins(value))
            if given:
                own.sequence += 1
                own.updated_at = now
                await journal.record(
                    session,
                    caller,
                    type="tenant.billing_settings_updated",
                    subject_type="tenant",
                    subject_id=caller.scope.tenant_id,
                    sequence=own.sequence,
                    data={"changed": sorted(given), **journal.differing(before, _told(own))},
                )
            return settings_out(own)


def decode(prefix: str, text: str, missing: type[DomainError]) -> UUID:
    """The id in a field of a body.

    Raises:
        DomainError: ``missing``, when it is no such id.
    """
    try:
        return ids.decode(prefix, text)
    except ids.InvalidId:
        raise missing from None


async def record_coupon(
    session: AsyncSession,
    caller: Caller,
    coupon: Coupon,
    event: str,
    changed: list[str],
    differing: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Tell what happened to a coupon."""
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="coupon",
        subject_id=coupon.id,
        sequence=coupon.sequence,
        data={"changed": changed, "status": coupon.status, "redemptions": coupon.redemptions, **differing},
    )


async def _record_plan(
    session: AsyncSession,
    caller: Caller,
    plan: Plan,
    event: str,
    changed: list[str],
    differing: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="plan",
        subject_id=plan.id,
        sequence=plan.sequence,
        data={"changed": changed, "status": plan.status, **differing},
    )


def _told(own: BillingSettings) -> dict[str, Any]:
    """What the journal may tell of billing settings: not who the seller is."""
    names = ("language", "invoice_prefix", "credit_note_prefix", "catch_up", "mails")
    plan = ids.encode_optional("dun", own.dunning_plan_id)
    return {name: getattr(own, name) for name in names} | {"dunning_plan": plan}


def _given(body: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}


def _known(currencies: Iterable[str]) -> None:
    for currency in currencies:
        if currency not in CURRENCIES:
            raise UnsupportedCurrency


def _invalid(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": f"$.{path}", "message": message}])


@contextlib.contextmanager
def _taken(constraint: str, refusal: type[DomainError]) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if violated(error) == constraint:
            raise refusal from None
        raise
