"""What a merchant can do with subscriptions.

A request that charges is three steps: one transaction that decides and writes everything (subscription, invoice, key), the
charge, which is ``Payments.collect`` and so reserved, sent and settled by itself, and the answer, kept under the key. The
ids of payment and operation are pure functions of the invoice: whoever repeats the request after a crash goes on with the
same charge.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import ColumnElement, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal import service as journal
from clearspan.payments.errors import (
    AccountUnavailable,
    CustomerMissing,
    InProgress,
    MandateMissing,
    MandateNotActive,
    MethodDetached,
    MethodMissing,
    MethodOfAnother,
    OutcomeNotStored,
    UnsupportedCurrency,
)
from clearspan.payments.rows import InvoiceCharge, Verification
from clearspan.payments.schemas import AMOUNT_MAX_MINOR, PaymentOut
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, KeyMissing, claim, finish, once
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import DatabaseUnavailable, DomainError, InvalidRequest
from clearspan.sdk import CURRENCIES
from clearspan.settings import Settings
from clearspan.subscriptions import errors
from clearspan.subscriptions.catalogue import decode, record_coupon
from clearspan.subscriptions.models import (
    WHOLE,
    Discount,
    Priced,
    Share,
    SubscriptionStatus,
    Tax,
    Totals,
    Unit,
    exchanged,
    period_of,
    period_start,
    totals,
    wall_anchor,
)
from clearspan.subscriptions.repository import (
    Consent,
    CouponRows,
    Invoice,
    ItemRows,
    Neighbours,
    PlanRows,
    SubscriptionRows,
    billing_settings,
    run,
)
from clearspan.subscriptions.rows import Coupon, Item, Plan, Subscription
from clearspan.subscriptions.schemas import (
    ChangeLineOut,
    ItemIn,
    MandateIn,
    PeriodOut,
    PreviewOut,
    ProblemOut,
    SubscriptionCancel,
    SubscriptionChange,
    SubscriptionCreate,
    SubscriptionList,
    SubscriptionOut,
    SubscriptionPause,
    SubscriptionPreview,
    SubscriptionUpdate,
    invoice_out,
    subscription_list,
    subscription_out,
)

PERIODS_MISSED_MAX = 400
"""So many periods a start may be backdated: each becomes an invoice."""
PREVIEW_D = 1
"""How long a preview's amounts can be had."""
TRIAL_NOTICE_D = 3
CUSTOMER_H = 1
"""How long a customer who tried a change's invoice himself has it to himself, before it is collected like any other."""
_LIVE = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE)


def payment_of(invoice_id: UUID) -> UUID:
    """The id of an invoice's only payment."""
    return uuid5(invoice_id, "payment")


def verification_of(subscription_id: UUID) -> UUID:
    """The id of the payment that confirms the mandate when nothing is due yet."""
    return uuid5(subscription_id, "verification")


def _customers_try(payment_id: UUID) -> UUID:
    return uuid5(payment_id, "customer 1")


class SubscriptionFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What subscriptions are searched by; all must hold. Times are aware."""

    customer_id: UUID | None = None
    status: str | None = None
    plan_id: UUID | None = None
    reference: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: dict[str, str] | None = None


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an invoice to be."""

    kind: str
    plan_id: UUID
    description: str
    quantity: int
    unit_amount_minor: int
    priced: Priced


class _Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a change does."""

    at: datetime
    effective_at: datetime
    items: list[Item]
    lines: list[_Line]
    totals: Totals
    interval: tuple[str, int]
    anchor_local: datetime
    period_no: int
    starts: datetime
    ends: datetime
    pending: bool
    restarts: bool
    coupon_id: UUID | None

    @property
    def credit_added_minor(self) -> int:
        return max(0, -self.totals.total_minor)


class Subscriptions:
    """Subscriptions of a tenant in one mode."""

    def __init__(self, db: Database, payments: Payments, settings: Settings) -> None:
        self._db = db
        self._payments = payments
        self._settings = settings

    # -- create -----------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: SubscriptionCreate) -> Answer:
        """Subscribe a customer, and make the first charge or the verification of the mandate.

        Raises:
            KeyMissing, and the refusals of ``errors``; and as ``claim``.
        """
        if key is None:
            raise KeyMissing
        if body.time_zone not in _zones():
            raise errors.UnknownTimeZone
        subscription_id = clock.new_uuid()
        async with self._db.begin(caller.scope) as session:
            claimed = await claim(session, caller.scope, key, subscription_id, self._lease_until())
            if claimed is None:
                await self._create(session, caller, subscription_id, body)
        if claimed is not None and claimed.replay is not None:
            return claimed.replay
        if claimed is not None and claimed.resume is not None:
            subscription_id = claimed.resume
        problem = await self._first_charge(caller, subscription_id, body.return_url)
        return await self._answer(caller, key, 201, subscription_id, problem)

    async def _create(
        self, session: AsyncSession, caller: Caller, subscription_id: UUID, body: SubscriptionCreate
    ) -> None:
        scope, now = caller.scope, clock.now()
        around = Neighbours(session, scope)
        customer_id = decode("cus", body.customer, CustomerMissing)
        customer = await around.customer(customer_id)
        if customer is None or customer.deleted:
            raise CustomerMissing
        at = customer.clock_at or now
        plans = await self._plans(session, scope, body.items)
        unit, count = _interval(plans)
        currency = _currency(plans, body.currency)
        items = _items(scope, subscription_id, body.items, plans, currency)
        consent = await self._consent(around, body, customer_id, now)
        account_id = None
        if body.psp_account is not None:
            account_id = await around.account(body.psp_account, _maybe("acct", body.psp_account))
            if account_id is None:
                raise AccountUnavailable
        start, trial_end = _begin(body, plans, at)
        backdated = start < at
        zone = body.time_zone
        if trial_end is not None:
            anchor = _anchor(body, trial_end, unit, count)
            k = period_of(anchor, zone, unit, count, trial_end)
            if body.anchor is None:
                trial_end = max(period_start(anchor, zone, unit, count, k), start + timedelta(minutes=1))
            period_no, starts, ends = k - 1, start, trial_end
        else:
            anchor = _anchor(body, start, unit, count)
            period_no = period_of(anchor, zone, unit, count, start)
            starts, ends = start, period_start(anchor, zone, unit, count, period_no + 1)
        if backdated:
            today = period_of(anchor, zone, unit, count, at)
            if today - period_no > PERIODS_MISSED_MAX:
                raise _invalid("start_at", f"More than {PERIODS_MISSED_MAX} periods lie between start_at and now.")
            if body.backdate == "none":
                period_no = today
                starts, ends = (period_start(anchor, zone, unit, count, k) for k in (today, today + 1))
        row = Subscription(
            tenant_id=scope.tenant_id,
            live=scope.live,
            id=subscription_id,
            customer_id=customer_id,
            currency=currency,
            interval_unit=unit,
            interval_count=count,
            time_zone=zone,
            anchor_local=anchor,
            period_no=period_no,
            current_period_start=starts,
            current_period_end=ends,
            started_at=start,
            trial_end_at=trial_end,
            payment_method_id=None if consent is None else consent.payment_method_id,
            mandate_id=None if consent is None else consent.mandate_id,
            psp_account_id=account_id,
            dunning_plan_id=await self._dunning_plan(around, body.dunning_plan),
            credit_minor=0,
            cancel_at_period_end=False,
            description=body.description,
            reference=body.reference,
            metadata_=body.metadata,
            test_clock_id=customer.test_clock_id,
            sequence=1,
            created_at=now,
            updated_at=now,
        )
        coupon = None if body.coupon is None else await self._redeem(session, caller, row, body.coupon, at)
        lines = _fees(items, plans, currency)
        whole = starts - period_start(anchor, zone, unit, count, period_no) if trial_end is None else timedelta(0)
        share = WHOLE if not whole else Share(part=ends - starts, whole=ends - starts + whole)
        if trial_end is None:
            if body.anchor is None and share is not WHOLE:
                share = WHOLE  # The start lies in the repeated hour of an autumn night: the period is a whole one.
            lines = [_line("period", item, share.of(item.priced)) for item in items] + lines
        billed = totals([line.priced for line in lines], _discount(coupon, currency) if trial_end is None else None, 0)
        self._check_amounts(items, coupon, currency, billed)
        held = backdated and ends <= at and (await billing_settings(session, scope, now)).catch_up == "newest"
        asks = bool(lines) and not (backdated and body.backdate == "none")
        due = asks and not held and billed.due_minor > 0
        incomplete = consent is not None and (due or consent.status != "active")
        row.status = (
            SubscriptionStatus.INCOMPLETE
            if incomplete
            else SubscriptionStatus.TRIALING
            if trial_end is not None
            else SubscriptionStatus.ACTIVE
        )
        row.schedule()
        if incomplete:
            row.incomplete_until = at + timedelta(hours=self._settings.rebills.incomplete_ttl_h)
            row.next_at = row.incomplete_until
        discounted = asks and trial_end is None and row.discounted
        coupon_id = row.coupon_id if discounted else None
        if discounted and row.discount_periods_left is not None:
            row.discount_periods_left -= 1
        await SubscriptionRows(session).add(row)
        session.add_all(items)
        await session.flush()
        await self._record(session, caller, row, "subscription.created", status=row.status)
        if asks:
            invoice_id = clock.new_uuid()
            document = self._document(caller, now, at) | {"collect": "decide" if consent is None else None}
            await self._invoice(
                session, row, document, invoice_id, "first", lines, billed, coupon_id, "held" if held else "automatic"
            )
        if trial_end is not None:
            await self._trial_notice(session, caller, row, now, at)
        await self._card_notice(session, caller, row, at)

    async def _card_notice(self, session: AsyncSession, caller: Caller, row: Subscription, at: datetime) -> None:
        """Tell the customer in time if the card expires within the period."""
        document = self._document(caller, clock.now(), at) | {"subscription_id": row.id}
        await session.execute(
            text(f"SELECT {sqlbundle.name('card_notice_of')}(CAST(:document AS jsonb))"),
            {"document": msgspec.json.encode(document).decode()},
        )

    async def _trial_notice(
        self, session: AsyncSession, caller: Caller, row: Subscription, now: datetime, at: datetime
    ) -> None:
        assert row.trial_end_at is not None
        due_at = max(at, row.trial_end_at - timedelta(days=TRIAL_NOTICE_D))
        await session.execute(
            text(
                f"SELECT {sqlbundle.name('notice_queue')}(CAST(:document AS jsonb), 'trial_ending', :customer, :subscription,"
                " NULL, :dedupe, :due_at, :clock)"
            ),
            {
                "document": msgspec.json.encode(self._document(caller, now, at)).decode(),
                "customer": row.customer_id,
                "subscription": row.id,
                "dedupe": f"trial_ending:{row.id}:{row.trial_end_at.isoformat()}",
                "due_at": due_at,
                "clock": row.test_clock_id,
            },
        )

    async def _first_charge(self, caller: Caller, subscription_id: UUID, return_url: str | None) -> ProblemOut | None:
        """What the customer who subscribes is charged: the first invoice, or nothing, to confirm the mandate."""
        async with self._db.begin(caller.scope) as session:
            around = Neighbours(session, caller.scope)
            row = await SubscriptionRows(session).require(caller.scope, subscription_id)
            invoice = await around.first_invoice(subscription_id)
            clock_at = await around.clock(row.test_clock_id)
            verified = await around.payment_exists(verification_of(subscription_id))
        if row.payment_method_id is None or row.mandate_id is None or row.status != SubscriptionStatus.INCOMPLETE:
            return None
        if invoice is not None and invoice.status == "open" and invoice.collection == "automatic":
            return await self._charge(caller, row, invoice, clock_at, return_url)
        payment_id = verification_of(subscription_id)
        if verified:
            return await self._attempt(self._payments.resume_charge(caller, payment_id, _customers_try(payment_id)))
        verification = Verification(
            payment_id=payment_id,
            operation_id=_customers_try(payment_id),
            currency=row.currency,
            customer_id=row.customer_id,
            payment_method_id=row.payment_method_id,
            mandate_id=row.mandate_id,
            psp_account_id=row.psp_account_id,
            clock_at=clock_at,
            return_url=return_url,
        )
        return await self._attempt(self._payments.verify(caller, verification))

    async def _charge(
        self, caller: Caller, row: Subscription, invoice: Invoice, clock_at: datetime | None, return_url: str | None
    ) -> ProblemOut | None:
        payment_id = payment_of(invoice.invoice_id)
        operation_id = _customers_try(payment_id)
        if invoice.payment_id is not None:
            return await self._attempt(self._payments.resume_charge(caller, invoice.payment_id, operation_id))
        assert row.payment_method_id is not None
        charge = InvoiceCharge(
            invoice_id=invoice.invoice_id,
            number=invoice.number or "",
            payment_id=payment_id,
            opened=False,
            operation_id=operation_id,
            amount_minor=invoice.due_minor - invoice.credited_minor,
            currency=invoice.currency,
            customer_id=row.customer_id,
            payment_method_id=row.payment_method_id,
            customer_present=True,
            mandate_id=row.mandate_id,
            psp_account_id=row.psp_account_id,
            clock_at=clock_at,
            description=row.description,
            return_url=return_url,
        )
        return await self._attempt(self._payments.collect(caller, charge))

    async def _attempt(self, charging: Any) -> ProblemOut | None:
        """The subscription is there; that its charge is refused is part of the answer."""
        try:
            await charging
        except DatabaseUnavailable as error:
            raise OutcomeNotStored from error
        except InProgress:
            raise
        except DomainError as refusal:
            return ProblemOut(code=refusal.code, detail=refusal.detail)
        return None

    # -- read -------------------------------------------------------------------------------------------------------

    async def get(self, scope: Scope, subscription_id: UUID) -> SubscriptionOut:
        """One subscription with its newest invoice.

        Raises:
            NotFound: no such subscription.
        """
        async with self._db.begin(scope) as session:
            row = await SubscriptionRows(session).require(scope, subscription_id)
            items = (await ItemRows(session).by_subscription(scope, [subscription_id])).get(subscription_id, [])
            invoice = await Neighbours(session, scope).invoice(subscription_id)
        verification = verification_of(subscription_id)
        wanted = [verification] if invoice is None or invoice.payment_id is None else [verification, invoice.payment_id]
        found = await self._payments.render_many(scope, wanted)
        paid = found.get(invoice.payment_id) if invoice is not None and invoice.payment_id is not None else None
        verified = found.get(verification)
        return msgspec.structs.replace(
            subscription_out(row, items),
            latest_invoice=None
            if invoice is None
            else invoice_out(invoice, None if paid is None else msgspec.convert(paid, PaymentOut)),
            verification=None if verified is None else msgspec.convert(verified, PaymentOut),
        )

    async def list(
        self, scope: Scope, filters: SubscriptionFilters, limit: int, cursor: str | None
    ) -> SubscriptionList:
        """Subscriptions, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: list[ColumnElement[bool]] = []
        if filters.customer_id is not None:
            conditions.append(Subscription.customer_id == filters.customer_id)
        if filters.status is not None:
            conditions.append(Subscription.status == filters.status)
        if filters.reference is not None:
            conditions.append(Subscription.reference == filters.reference)
        if filters.plan_id is not None:
            conditions.append(
                Subscription.id.in_(
                    select(Item.subscription_id).where(
                        Item.tenant_id == scope.tenant_id, Item.live.is_(scope.live), Item.plan_id == filters.plan_id
                    )
                )
            )
        if filters.created_after is not None:
            conditions.append(Subscription.created_at > filters.created_after)
        if filters.created_before is not None:
            conditions.append(Subscription.created_at < filters.created_before)
        if filters.metadata:
            conditions.append(Subscription.metadata_.contains(filters.metadata))
        async with self._db.begin(scope) as session:
            page = await SubscriptionRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            items = await ItemRows(session).by_subscription(scope, [row.id for row in page.rows])
        return subscription_list([subscription_out(row, items.get(row.id, [])) for row in page.rows], page.next_cursor)

    async def render(self, scope: Scope, subscription_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Subscriptions for the event feed."""
        async with self._db.begin(scope) as session:
            rows = await SubscriptionRows(session).among(scope, subscription_ids)
            items = await ItemRows(session).by_subscription(scope, [row.id for row in rows])
        return {row.id: msgspec.to_builtins(subscription_out(row, items.get(row.id, []))) for row in rows}

    # -- update -----------------------------------------------------------------------------------------------------

    async def update(self, caller: Caller, subscription_id: UUID, body: SubscriptionUpdate) -> SubscriptionOut:
        """Change what the body names. Another payment method comes with an active mandate for it.

        Raises:
            NotFound: no such subscription.
            SubscriptionCanceled, and the refusals of mandates, methods and coupons.
        """
        scope = caller.scope
        given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}
        async with self._db.begin(scope) as session:
            now = clock.now()
            around = Neighbours(session, scope)
            known = await SubscriptionRows(session).require(scope, subscription_id)
            consent = None
            if given.keys() & {"payment_method", "mandate"}:  # The mandate before the subscription.
                if "mandate" not in given:
                    raise MandateMissing
                consent = await self._agreed(around, given["mandate"], given.get("payment_method"), known.customer_id)
                if consent.status != "active":
                    raise MandateNotActive(mandate_status=consent.status)
            row = await self._lock(session, scope, subscription_id)
            at = await around.clock(row.test_clock_id) or now
            if consent is not None:
                row.payment_method_id, row.mandate_id = consent.payment_method_id, consent.mandate_id
                row.psp_account_id = consent.psp_account_id or row.psp_account_id
            if "dunning_plan" in given:
                row.dunning_plan_id = await self._dunning_plan(around, given["dunning_plan"])
            if "coupon" in given:
                row.coupon_id = row.discount_periods_left = None
                if given["coupon"] is not None:
                    await self._redeem(session, caller, row, given["coupon"], at)
            row.description = given.get("description", row.description)
            row.metadata_ = given.get("metadata", row.metadata_)
            if given:
                await self._changed(session, caller, row, "subscription.updated", at, changed=sorted(given))
            if consent is not None:  # What waited for the customer can be tried anew.
                await session.flush()
                document = {
                    "tenant_id": scope.tenant_id,
                    "live": scope.live,
                    "subscription_id": subscription_id,
                    "at": at,
                }
                await run(session, "rebills_wake_of", document)
        return await self.get(scope, subscription_id)

    # -- change -----------------------------------------------------------------------------------------------------

    async def preview(self, scope: Scope, subscription_id: UUID, body: SubscriptionPreview) -> PreviewOut:
        """What a change would do.

        Raises:
            as ``change``.
        """
        async with self._db.begin(scope) as session:
            row = await self._lock(session, scope, subscription_id)
            change = await self._plan_change(session, row, body)
        made = change.totals
        return PreviewOut(
            object="change_preview",
            at=change.at,
            effective_at=change.effective_at,
            currency=row.currency,
            lines=[
                ChangeLineOut(
                    plan=ids.encode("plan", line.plan_id),
                    description=line.description,
                    quantity=line.quantity,
                    amount_minor=share.amount_minor,
                    tax_minor=share.tax_minor,
                )
                for line, share in zip(change.lines, made.lines, strict=True)
            ],
            subtotal_minor=made.subtotal_minor,
            tax_minor=made.tax_minor,
            total_minor=made.total_minor,
            credit_used_minor=made.credit_used_minor,
            due_minor=max(0, made.due_minor),
            credit_added_minor=change.credit_added_minor,
            period=PeriodOut(start=change.starts, end=change.ends),
        )

    async def change(
        self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID, body: SubscriptionChange
    ) -> Answer:
        """Other items, now or at the period's end.

        Raises:
            KeyMissing, NotFound, SubscriptionCanceled, SubscriptionState, ChargeUnderWay, ChargeUnknown, and those of plans.
        """
        if key is None:
            raise KeyMissing
        invoice_id = clock.new_uuid()
        async with self._db.begin(caller.scope) as session:
            claimed = await claim(session, caller.scope, key, invoice_id, self._lease_until())
            if claimed is None:
                await self._change(session, caller, subscription_id, invoice_id, body)
        if claimed is not None and claimed.replay is not None:
            return claimed.replay
        if claimed is not None and claimed.resume is not None:
            invoice_id = claimed.resume
        problem = None
        if body.customer_present:
            async with self._db.begin(caller.scope) as session:
                around = Neighbours(session, caller.scope)
                row = await SubscriptionRows(session).require(caller.scope, subscription_id)
                invoice = await around.invoice(subscription_id, invoice_id)
                clock_at = await around.clock(row.test_clock_id)
            if invoice is not None and invoice.status == "open" and row.payment_method_id is not None:
                problem = await self._charge(caller, row, invoice, clock_at, body.return_url)
        return await self._answer(caller, key, 200, subscription_id, problem)

    async def _change(
        self, session: AsyncSession, caller: Caller, subscription_id: UUID, invoice_id: UUID, body: SubscriptionChange
    ) -> None:
        scope, now = caller.scope, clock.now()
        row = await self._lock(session, scope, subscription_id)
        at = await Neighbours(session, scope).clock(row.test_clock_id) or now
        change = await self._plan_change(session, row, body)
        if change.pending:
            row.pending_change = {"items": [_stored(item) for item in change.items]}
            if change.restarts:
                row.pending_change |= {"interval_unit": change.interval[0], "interval_count": change.interval[1]}
        else:
            row.pending_change = None
            await ItemRows(session).replace(scope, row.id, change.items)
            row.interval_unit, row.interval_count = change.interval
            row.anchor_local, row.period_no = change.anchor_local, change.period_no
            row.current_period_start, row.current_period_end = change.starts, change.ends
            row.schedule()
            if change.restarts and change.coupon_id is not None and row.discount_periods_left is not None:
                row.discount_periods_left -= 1
            row.credit_minor += change.credit_added_minor - change.totals.credit_used_minor
        await self._changed(
            session,
            caller,
            row,
            "subscription.changed",
            at,
            effective_at=change.effective_at,
            total_minor=change.totals.total_minor,
            credit_added_minor=change.credit_added_minor,
            currency=row.currency,
        )
        if change.totals.total_minor > 0:
            by_customer = body.customer_present and row.payment_method_id is not None
            document = self._document(caller, now, at) | {
                "collect": "waiting" if by_customer else "due" if row.mandate_id is not None else "decide",
                "collect_at": at + timedelta(hours=CUSTOMER_H) if by_customer else at,
                "psp_account_id": row.psp_account_id,
            }
            period = (change.at, change.ends)
            await self._invoice(
                session,
                row,
                document,
                invoice_id,
                "change",
                change.lines,
                change.totals,
                change.coupon_id,
                period=period,
            )

    async def _plan_change(self, session: AsyncSession, row: Subscription, body: SubscriptionPreview) -> _Change:
        scope = row.scope
        around = Neighbours(session, scope)
        now = await around.clock(row.test_clock_id) or clock.now()
        if row.status not in _LIVE:
            raise errors.SubscriptionState(subscription_status=row.status)
        match await around.locked_payment(row.id):
            case None:
                pass
            case "unknown":
                raise errors.ChargeUnknown
            case _:
                raise errors.ChargeUnderWay
        if row.current_period_end <= now:
            raise errors.SubscriptionState(
                "The period has just ended and the next one is being billed: repeat the request in a moment.",
                subscription_status=row.status,
            )
        at = in_utc("at", body.at) or now
        if not max(row.current_period_start, now - timedelta(days=PREVIEW_D)) <= at <= now:
            raise _invalid("at", "at is the one that a preview answered, at most a day ago and within the period.")
        old = (await ItemRows(session).by_subscription(scope, [row.id])).get(row.id, [])
        plans = await self._plans(session, scope, body.items, kept={item.plan_id for item in old})
        interval = _interval(plans)
        new = _items(scope, row.id, body.items, plans, _currency(plans, row.currency))
        restarts = interval != (row.interval_unit, row.interval_count)
        change = _Change(
            at=at,
            effective_at=at,
            items=new,
            lines=[],
            totals=totals([], None, 0),
            interval=interval,
            anchor_local=row.anchor_local,
            period_no=row.period_no,
            starts=row.current_period_start,
            ends=row.current_period_end,
            pending=False,
            restarts=restarts,
            coupon_id=None,
        )
        coupon = await self._coupon(session, scope, row.coupon_id) if row.discounted else None
        self._check_amounts(new, coupon, row.currency)
        if body.proration == "at_period_end":
            return msgspec.structs.replace(change, effective_at=row.current_period_end, pending=True)
        if row.status == SubscriptionStatus.TRIALING:
            k = period_of(row.anchor_local, row.time_zone, *interval, row.current_period_end)
            return msgspec.structs.replace(change, period_no=k - 1)
        if body.proration == "none":
            if restarts:
                raise _invalid("proration", "Another interval begins a new period: use now or at_period_end.")
            return change
        zone = row.time_zone
        begun = period_start(row.anchor_local, zone, _unit(row), row.interval_count, row.period_no)
        unused = Share(part=row.current_period_end - at, whole=row.current_period_end - begun)
        billed_with = await around.period_coupon(row.id, row.current_period_end)
        old_coupon = await self._coupon(session, scope, billed_with) if billed_with is not None else None
        rest, new_coupon = unused, old_coupon
        if restarts:
            rest, new_coupon = WHOLE, coupon
            anchor = wall_anchor(at, zone, *interval)
            ends = period_start(anchor, zone, *interval, 1)
            change = msgspec.structs.replace(change, anchor_local=anchor, period_no=0, starts=at, ends=ends)
        shares = exchanged(
            [item.priced for item in old],
            _discount(old_coupon, row.currency),
            unused,
            [item.priced for item in new],
            _discount(new_coupon, row.currency),
            rest,
        )
        kind = "period" if restarts else "proration"
        lines = [_line("proration", item, share) for item, share in zip(old, shares, strict=False)]
        lines += [_line(kind, item, share) for item, share in zip(new, shares[len(old) :], strict=True)]
        lines = _without_pairs(lines)
        made = totals([line.priced for line in lines], None, row.credit_minor)
        coupon_id = None if new_coupon is None else new_coupon.id
        return msgspec.structs.replace(change, coupon_id=coupon_id, lines=lines, totals=made)

    # -- pause, resume, cancel --------------------------------------------------------------------------------------

    async def pause(
        self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID, body: SubscriptionPause
    ) -> Answer:
        """Bill nothing until it is resumed. Open invoices are collected as before.

        Raises:
            NotFound, SubscriptionCanceled, SubscriptionState; and as ``once``.
        """
        resume_at = in_utc("resume_at", body.resume_at)

        async def work(session: AsyncSession, row: Subscription, at: datetime) -> None:
            if row.status not in _LIVE:
                raise errors.SubscriptionState(subscription_status=row.status)
            if resume_at is not None and resume_at <= at:
                raise _invalid("resume_at", "resume_at lies in the past.")
            row.status_before_pause = row.status
            row.status = SubscriptionStatus.PAUSED
            row.paused_at, row.resume_at = at, resume_at
            row.schedule()
            await self._changed(
                session,
                caller,
                row,
                "subscription.paused",
                at,
                status_before=row.status_before_pause,
                reason="merchant",
            )

        return await self._once(caller, key, subscription_id, work)

    async def resume(self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID) -> Answer:
        """Go on: billed again from the next period on; those that began during the pause are not.

        Raises:
            NotFound, SubscriptionCanceled, SubscriptionState, MandateMissing, MandateNotActive; and as ``once``.
        """

        async def work(session: AsyncSession, row: Subscription, at: datetime) -> None:
            if row.status != SubscriptionStatus.PAUSED:
                raise errors.SubscriptionState(subscription_status=row.status)
            around = Neighbours(session, caller.scope)
            if row.payment_method_id is not None:
                consent = None if row.mandate_id is None else await around.mandate(row.mandate_id)
                if consent is None:
                    raise MandateMissing
                if consent.status != "active":
                    raise MandateNotActive(mandate_status=consent.status)
            if row.trial_end_at is not None and row.trial_end_at > at:
                row.status = SubscriptionStatus.TRIALING
            elif await around.owes(row.id):
                row.status = SubscriptionStatus.PAST_DUE
            else:
                row.status = SubscriptionStatus.ACTIVE
            row.paused_at = row.resume_at = row.status_before_pause = None
            if row.current_period_end <= at:  # The scheduler was not there to pass over the periods of the pause.
                place = (row.anchor_local, row.time_zone, _unit(row), row.interval_count)
                row.period_no = period_of(*place, at)
                row.current_period_start = period_start(*place, row.period_no)
                row.current_period_end = period_start(*place, row.period_no + 1)
            row.schedule()
            await self._changed(session, caller, row, "subscription.resumed", at, status=row.status)

        return await self._once(caller, key, subscription_id, work)

    async def cancel(
        self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID, body: SubscriptionCancel
    ) -> Answer:
        """End it: now, at the end of the period, or at a moment. No later invoice, retry or reminder.

        Raises:
            NotFound, SubscriptionCanceled, SubscriptionState; and as ``once``.
        """
        if body.at != "now" and body.invoices is not None:
            raise _invalid("invoices", "invoices goes with at = now.")
        moment = None if body.at in ("now", "period_end") else _moment("at", body.at)

        async def now_(session: AsyncSession) -> Answer:
            scope = caller.scope
            known = await SubscriptionRows(session).require(scope, subscription_id)
            if known.ended_at is not None:
                raise errors.SubscriptionCanceled
            now = clock.now()
            at = await Neighbours(session, scope).clock(known.test_clock_id) or now
            waits = known.status == SubscriptionStatus.INCOMPLETE
            document = self._document(caller, now, at) | {
                "subscription_id": subscription_id,
                "reason": body.reason,
                "invoices": body.invoices or ("void" if waits else "keep"),
            }
            if not await run(session, "subscriptions_cancel", document):
                raise errors.SubscriptionCanceled
            await session.refresh(known)
            return await self._plain_answer(session, known)

        async def later(session: AsyncSession, row: Subscription, at: datetime) -> None:
            if row.status == SubscriptionStatus.INCOMPLETE:
                raise errors.SubscriptionState(subscription_status=row.status)
            if moment is not None and moment <= at:
                raise _invalid("at", "at lies in the past; use now.")
            row.cancel_at, row.cancel_at_period_end = moment, moment is None
            row.canceled_at, row.cancellation_reason = at, body.reason
            row.schedule()
            await self._changed(session, caller, row, "subscription.updated", at, changed=["cancel_at"])

        if body.at == "now":
            return await once(self._db, caller.scope, key, now_)
        return await self._once(caller, key, subscription_id, later)

    async def uncancel(self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID) -> Answer:
        """Do not end it after all.

        Raises:
            NotFound, SubscriptionCanceled, SubscriptionState: no cancellation is scheduled; and as ``once``.
        """

        async def work(session: AsyncSession, row: Subscription, at: datetime) -> None:
            if row.ends_at is None:
                raise errors.SubscriptionState(
                    "No cancellation of this subscription is scheduled.", subscription_status=row.status
                )
            row.cancel_at, row.cancel_at_period_end = None, False
            row.canceled_at = row.cancellation_reason = None
            row.schedule()
            await self._changed(session, caller, row, "subscription.updated", at, changed=["cancel_at"])

        return await self._once(caller, key, subscription_id, work)

    async def end_of_customer(self, session: AsyncSession, caller: Caller, customer_id: UUID) -> None:
        """A customer is being deleted: nothing is billed or charged any more, and open invoices are void."""
        now = clock.now()
        at = await Neighbours(session, caller.scope).clock_of_customer(customer_id) or now
        document = self._document(caller, now, at) | {
            "customer_id": customer_id,
            "reason": "customer_deleted",
            "invoices": "void",
        }
        await run(session, "subscriptions_cancel", document)

    # -- pieces -----------------------------------------------------------------------------------------------------

    async def _once(self, caller: Caller, key: IdempotencyKey | None, subscription_id: UUID, work: Any) -> Answer:
        async def locked(session: AsyncSession) -> Answer:
            row = await self._lock(session, caller.scope, subscription_id)
            at = await Neighbours(session, caller.scope).clock(row.test_clock_id) or clock.now()
            await work(session, row, at)
            await session.flush()
            return await self._plain_answer(session, row)

        return await once(self._db, caller.scope, key, locked)

    async def _plain_answer(self, session: AsyncSession, row: Subscription) -> Answer:
        items = (await ItemRows(session).by_subscription(row.scope, [row.id])).get(row.id, [])
        return Answer(200, msgspec.json.encode(subscription_out(row, items)))

    async def _answer(
        self, caller: Caller, key: IdempotencyKey, status: int, subscription_id: UUID, problem: ProblemOut | None
    ) -> Answer:
        try:
            out = await self.get(caller.scope, subscription_id)
            payments = [out.verification or None]
            if isinstance(out.latest_invoice, msgspec.Struct):
                payments.append(out.latest_invoice.payment)
            if any(payment is not None and payment.status == "processing" for payment in payments):
                status = 202
            if problem is not None:
                out = msgspec.structs.replace(out, problem=problem)
            return await finish(self._db, caller.scope, key, Answer(status, msgspec.json.encode(out)))
        except DatabaseUnavailable as error:
            raise OutcomeNotStored from error

    async def _lock(self, session: AsyncSession, scope: Scope, subscription_id: UUID) -> Subscription:
        row = await SubscriptionRows(session).require(scope, subscription_id, lock=True)
        await session.refresh(row)  # It may have been read before it was locked.
        if row.ended_at is not None:
            raise errors.SubscriptionCanceled
        return row

    def _lease_until(self) -> datetime:
        return clock.now() + timedelta(seconds=self._settings.idempotency.lease_s)

    def _document(self, caller: Caller, now: datetime, at: datetime) -> dict[str, Any]:
        return {
            "tenant_id": caller.scope.tenant_id,
            "live": caller.scope.live,
            "now": now,
            "at": at,
            "actor_type": caller.actor_type,
            "actor_id": caller.actor_id,
            "request_id": caller.request_id,
        }

    async def _invoice(
        self,
        session: AsyncSession,
        row: Subscription,
        document: dict[str, Any],
        invoice_id: UUID,
        reason: str,
        lines: Sequence[_Line],
        made: Totals,
        coupon_id: UUID | None,
        collection: str = "automatic",
        *,
        period: tuple[datetime, datetime] | None = None,
    ) -> None:
        await session.flush()
        starts, ends = period or (row.current_period_start, row.current_period_end)
        document |= {
            "invoice": {
                "invoice_id": invoice_id,
                "customer_id": row.customer_id,
                "subscription_id": row.id,
                "reason": reason,
                "collection": collection,
                "currency": row.currency,
                "period_start": starts,
                "period_end": ends,
                "subtotal_minor": made.subtotal_minor,
                "discount_minor": made.discount_minor,
                "tax_minor": made.tax_minor,
                "tax_added_minor": made.tax_added_minor,
                "total_minor": made.total_minor,
                "credit_used_minor": made.credit_used_minor,
                "due_minor": made.due_minor,
                "coupon_id": coupon_id,
                "test_clock_id": row.test_clock_id,
            },
            "lines": [
                {
                    "kind": line.kind,
                    "plan_id": line.plan_id,
                    "description": line.description,
                    "quantity": line.quantity,
                    "unit_amount_minor": line.unit_amount_minor,
                    "amount_minor": share.amount_minor,
                    "discount_minor": share.discount_minor,
                    "tax_name": None if line.priced.tax is None else line.priced.tax.name,
                    "tax_rate_bp": None if line.priced.tax is None else line.priced.tax.rate_bp,
                    "tax_inclusive": True if line.priced.tax is None else line.priced.tax.inclusive,
                    "tax_minor": share.tax_minor,
                    "period_start": starts,
                    "period_end": ends,
                }
                for line, share in zip(lines, made.lines, strict=True)
            ],
        }
        await run(session, "subscription_invoice", document)

    async def _plans(
        self, session: AsyncSession, scope: Scope, items: Sequence[ItemIn], kept: set[UUID] | None = None
    ) -> dict[str, Plan]:
        wanted = {item.plan: decode("plan", item.plan, errors.PlanMissing) for item in items}
        found = {plan.id: plan for plan in await PlanRows(session).among(scope, set(wanted.values()))}
        plans: dict[str, Plan] = {}
        for name, plan_id in wanted.items():
            plan = found.get(plan_id)
            if plan is None:
                raise errors.PlanMissing
            if plan.status == "archived" and plan_id not in (kept or set()):
                raise errors.PlanArchived
            plans[name] = plan
        return plans

    async def _consent(
        self, around: Neighbours, body: SubscriptionCreate, customer_id: UUID, now: datetime
    ) -> Consent | None:
        """The mandate that the subscription rests on: one there is, or one that the customer gave just now."""
        if body.mandate is None:
            if body.payment_method is not None:
                raise MandateMissing(
                    "A subscription with a payment method needs the customer's consent to later charges: send mandate."
                )
            return None
        if isinstance(body.mandate, str):
            return await self._agreed(around, body.mandate, body.payment_method, customer_id)
        if body.payment_method is None:
            raise _invalid("payment_method", "A new mandate is for a payment method: send payment_method.")
        return await self._agree(around, body.mandate, body.payment_method, customer_id, now)

    async def _agreed(self, around: Neighbours, mandate: str, payment_method: str | None, customer_id: UUID) -> Consent:
        consent = await around.mandate(decode("man", mandate, MandateMissing))
        if consent is None:
            raise MandateMissing
        if payment_method is not None:
            method_id = decode("pm", payment_method, MethodMissing)
            await _check_method(around, method_id, customer_id)
            if consent.payment_method_id != method_id:
                raise errors.MandateNotFitting
        if consent.customer_id != customer_id or consent.purpose != "recurring":
            raise errors.MandateNotFitting
        if consent.status not in ("pending", "active"):
            raise MandateNotActive(mandate_status=consent.status)
        await _check_method(around, consent.payment_method_id, customer_id)
        return consent

    async def _agree(
        self, around: Neighbours, mandate: MandateIn, payment_method: str, customer_id: UUID, now: datetime
    ) -> Consent:
        method_id = decode("pm", payment_method, MethodMissing)
        await _check_method(around, method_id, customer_id)
        accepted_at = in_utc("accepted_at", mandate.accepted_at) or now
        if accepted_at > now + timedelta(minutes=5):
            raise _invalid("$.mandate.accepted_at", "accepted_at lies in the future.")
        consent = Consent(
            mandate_id=clock.new_uuid(),
            customer_id=customer_id,
            payment_method_id=method_id,
            purpose="recurring",
            status="pending",
            psp_account_id=None,
        )
        await around.new_mandate(
            mandate_id=consent.mandate_id,
            customer_id=customer_id,
            payment_method_id=method_id,
            text_version=mandate.text_version,
            accepted_at=accepted_at,
            now=now,
        )
        return consent

    async def _dunning_plan(self, around: Neighbours, wanted: str | None) -> UUID | None:
        if wanted is None:
            return None
        dunning_plan_id = decode("dun", wanted, errors.DunningPlanMissing)
        if not await around.dunning_plan(dunning_plan_id):
            raise errors.DunningPlanMissing
        return dunning_plan_id

    async def _coupon(self, session: AsyncSession, scope: Scope, coupon_id: UUID | None) -> Coupon | None:
        return None if coupon_id is None else await CouponRows(session).require(scope, coupon_id)

    async def _redeem(
        self, session: AsyncSession, caller: Caller, row: Subscription, wanted: str, at: datetime
    ) -> Coupon:
        """Put a coupon on a subscription and count it; the column's CHECK stands behind the limit."""
        scope, rows = caller.scope, CouponRows(session)
        coupon_id = _maybe("cpn", wanted)
        found = await rows.find(scope, coupon_id) if coupon_id is not None else await rows.by_code(scope, wanted)
        if found is None:
            raise errors.CouponMissing
        coupon = await rows.require(scope, found.id, lock=True)
        await session.refresh(coupon)
        if coupon.status != "active":
            raise errors.CouponArchived
        if coupon.redeem_by is not None and coupon.redeem_by <= at:
            raise errors.CouponExpired(redeem_by=coupon.redeem_by.isoformat())
        if coupon.redemptions_max is not None and coupon.redemptions >= coupon.redemptions_max:
            raise errors.CouponExhausted
        if coupon.amounts is not None and row.currency not in coupon.amounts:
            raise errors.CouponOfAnotherCurrency
        coupon.redemptions += 1
        coupon.sequence += 1
        coupon.updated_at = clock.now()
        row.coupon_id, row.discount_periods_left = coupon.id, coupon.periods_left
        await record_coupon(session, caller, coupon, "coupon.redeemed", ["redemptions"])
        return coupon

    def _check_amounts(
        self, items: Sequence[Item], coupon: Coupon | None, currency: str, first: Totals | None = None
    ) -> None:
        """Nothing is agreed that could not be charged."""
        period = totals([item.priced for item in items], _discount(coupon, currency), 0)
        most = min(AMOUNT_MAX_MINOR, self._settings.payments.amount_max_minor)
        if max(period.subtotal_minor, period.total_minor, first.total_minor if first is not None else 0) > most:
            raise errors.NotPriceable

    async def _changed(
        self, session: AsyncSession, caller: Caller, row: Subscription, event: str, at: datetime, **told: Any
    ) -> None:
        row.touch(at)
        await self._record(session, caller, row, event, **told)
        await session.flush()
        await self._card_notice(session, caller, row, at)

    async def _record(self, session: AsyncSession, caller: Caller, row: Subscription, event: str, **told: Any) -> None:
        await journal.record(
            session,
            caller,
            type=event,
            subject_type="subscription",
            subject_id=row.id,
            sequence=row.sequence,
            customer_id=row.customer_id,
            data=told,
        )


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _unit(row: Subscription) -> Unit:
    return cast(Unit, row.interval_unit)


def _interval(plans: Mapping[str, Plan]) -> tuple[Unit, int]:
    found = {plan.interval for plan in plans.values()}
    if len(found) != 1:
        raise errors.PlansDoNotFit
    unit, count = found.pop()
    return cast(Unit, unit), count


def _currency(plans: Mapping[str, Plan], wanted: str | None) -> str:
    if wanted is not None and wanted not in CURRENCIES:
        raise UnsupportedCurrency
    common = set.intersection(*(set(plan.amounts) for plan in plans.values()))
    if wanted is not None:
        if wanted not in common:
            raise errors.PlansDoNotFit
        return wanted
    if len(common) > 1:
        raise _invalid("currency", f"The plans have amounts in {', '.join(sorted(common))}: say which.")
    if not common:
        raise errors.PlansDoNotFit
    return common.pop()


def _items(
    scope: Scope, subscription_id: UUID, given: Sequence[ItemIn], plans: Mapping[str, Plan], currency: str
) -> list[Item]:
    return [
        Item(
            tenant_id=scope.tenant_id,
            live=scope.live,
            subscription_id=subscription_id,
            id=clock.new_uuid(),
            position=position,
            plan_id=plans[item.plan].id,
            description=plans[item.plan].name,
            quantity=item.quantity,
            unit_amount_minor=plans[item.plan].amounts[currency],
            tax=plans[item.plan].tax,
        )
        for position, item in enumerate(given, 1)
    ]


def _stored(item: Item) -> dict[str, Any]:
    """An item as ``pending_change`` keeps it; plan.sql reads it."""
    return {
        "item_id": str(item.id),
        "plan_id": str(item.plan_id),
        "description": item.description,
        "quantity": item.quantity,
        "unit_amount_minor": item.unit_amount_minor,
        "tax": item.tax,
    }


def _line(kind: str, item: Item, priced: Priced) -> _Line:
    return _Line(
        kind=kind,
        plan_id=item.plan_id,
        description=item.description,
        quantity=item.quantity,
        unit_amount_minor=item.unit_amount_minor,
        priced=priced,
    )


def _without_pairs(lines: Sequence[_Line]) -> list[_Line]:
    """Without lines that give back exactly what another one takes."""
    left: list[_Line] = []
    for line in lines:
        for other in left:
            same = (line.plan_id, line.quantity, line.unit_amount_minor, line.priced.tax)
            if same == (other.plan_id, other.quantity, other.unit_amount_minor, other.priced.tax) and (
                line.priced.amount_minor == -other.priced.amount_minor
            ):
                left.remove(other)
                break
        else:
            left.append(line)
    return left


def _fees(items: Sequence[Item], plans: Mapping[str, Plan], currency: str) -> list[_Line]:
    by_id = {plan.id: plan for plan in plans.values()}
    found = []
    for item in items:
        fee = by_id[item.plan_id].setup_fees.get(currency, 0)
        if fee:
            tax = None if item.tax is None else Tax(**item.tax)
            found.append(
                _Line(
                    kind="setup_fee",
                    plan_id=item.plan_id,
                    description=item.description,
                    quantity=item.quantity,
                    unit_amount_minor=fee,
                    priced=Priced(amount_minor=item.quantity * fee, tax=tax),
                )
            )
    return found


def _discount(coupon: Coupon | None, currency: str) -> Discount | None:
    return None if coupon is None else coupon.discount(currency)


def _begin(body: SubscriptionCreate, plans: Mapping[str, Plan], at: datetime) -> tuple[datetime, datetime | None]:
    """Start and end of the trial."""
    start = in_utc("start_at", body.start_at)
    end = in_utc("trial_end", body.trial_end)
    if body.trial_days is not None and end is not None:
        raise _invalid("trial_end", "Send trial_days or trial_end, not both.")
    if start is not None and start < at:
        if body.backdate is None:
            raise _invalid("backdate", "start_at lies in the past: say whether what was missed is billed.")
        if end is not None or body.trial_days:
            raise _invalid("start_at", "A subscription that began in the past has no trial.")
        return start, None
    if start is not None and start > at:
        raise _invalid("start_at", "start_at lies in the future; a subscription may begin with a trial instead.")
    if body.backdate is not None:
        raise _invalid("backdate", "backdate goes with a start_at in the past.")
    if end is not None:
        if not at < end <= at + timedelta(days=1096):
            raise _invalid("trial_end", "trial_end lies in the future, at most 1095 days from now.")
        return at, end
    days = body.trial_days if body.trial_days is not None else max(plan.trial_days for plan in plans.values())
    if days == 0:
        return at, None
    local = wall_anchor(at, body.time_zone, "day", days)
    return at, period_start(local, body.time_zone, "day", days, 1)


def _anchor(body: SubscriptionCreate, start: datetime, unit: Unit, count: int) -> datetime:
    if body.anchor is None:
        return wall_anchor(start, body.time_zone, unit, count)
    if unit in ("day", "week"):
        raise _invalid("anchor", "A day of the month goes with intervals of months or years.")
    try:
        return wall_anchor(start, body.time_zone, unit, count, body.anchor.day_of_month, body.anchor.month_of_year)
    except ValueError:
        raise errors.NoSuchDate from None


async def _check_method(around: Neighbours, method_id: UUID, customer_id: UUID) -> None:
    method = await around.method(method_id)
    if method is None:
        raise MethodMissing
    if method.status != "active":
        raise MethodDetached
    if method.customer_id is not None and method.customer_id != customer_id:
        raise MethodOfAnother


def _maybe(prefix: str, text: str) -> UUID | None:
    try:
        return ids.decode(prefix, text)
    except ids.InvalidId:
        return None


def _moment(path: str, given: str) -> datetime:
    try:
        return in_utc(path, msgspec.convert(given, datetime))
    except msgspec.ValidationError:
        raise _invalid(path, f"{path} is now, period_end or a moment such as 2030-01-01T00:00:00Z.") from None


def _invalid(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": f"$.{path}", "message": message}])
