"""Plans, coupons, settings, subscriptions and their items, as they are stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Base, Scoped
from clearspan.subscriptions.models import Discount, Priced, SubscriptionStatus, Tax

_JSON = JSONB(none_as_null=True)
"""``None`` is NULL; SQL tells it from JSON's null."""


class Plan(Scoped):
    """What is sold."""

    __tablename__ = "plans"

    id: Mapped[UUID] = mapped_column("plan_id", primary_key=True)
    name: Mapped[str]
    reference: Mapped[str | None]
    amounts: Mapped[dict[str, Any]]
    setup_fees: Mapped[dict[str, Any]]
    interval_unit: Mapped[str]
    interval_count: Mapped[int]
    trial_days: Mapped[int]
    tax: Mapped[dict[str, Any] | None] = mapped_column(_JSON)
    status: Mapped[str]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def interval(self) -> tuple[str, int]:
        """Unit and count."""
        return self.interval_unit, self.interval_count


class Coupon(Scoped):
    """A discount that subscriptions take."""

    __tablename__ = "coupons"

    id: Mapped[UUID] = mapped_column("coupon_id", primary_key=True)
    code: Mapped[str]
    name: Mapped[str]
    percent_bp: Mapped[int | None]
    amounts: Mapped[dict[str, Any] | None] = mapped_column(_JSON)
    duration: Mapped[str]
    periods: Mapped[int | None]
    redeem_by: Mapped[datetime | None]
    redemptions_max: Mapped[int | None]
    redemptions: Mapped[int]
    status: Mapped[str]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def periods_left(self) -> int | None:
        """For how many periods a fresh redemption counts; ``None`` for ever."""
        return 1 if self.duration == "once" else self.periods

    def discount(self, currency: str) -> Discount:
        """What it takes off an invoice in this currency."""
        return Discount(percent_bp=self.percent_bp, amount_minor=(self.amounts or {}).get(currency))


class BillingSettings(Base):
    """How a tenant bills in one mode."""

    __tablename__ = "billing_settings"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    live: Mapped[bool] = mapped_column(primary_key=True)
    seller: Mapped[dict[str, Any]]
    language: Mapped[str]
    invoice_prefix: Mapped[str]
    invoice_next: Mapped[int]
    credit_note_prefix: Mapped[str]
    credit_note_next: Mapped[int]
    catch_up: Mapped[str]
    mails: Mapped[bool]
    dunning_plan_id: Mapped[UUID | None]
    sequence: Mapped[int]
    updated_at: Mapped[datetime]


class Subscription(Scoped):
    """A subscription; the columns are explained in the migration."""

    __tablename__ = "subscriptions"

    id: Mapped[UUID] = mapped_column("subscription_id", primary_key=True)
    customer_id: Mapped[UUID]
    status: Mapped[str]
    currency: Mapped[str]
    interval_unit: Mapped[str]
    interval_count: Mapped[int]
    time_zone: Mapped[str]
    anchor_local: Mapped[datetime] = mapped_column(DateTime(timezone=False))
    period_no: Mapped[int]
    current_period_start: Mapped[datetime]
    current_period_end: Mapped[datetime]
    next_at: Mapped[datetime | None]
    started_at: Mapped[datetime]
    trial_end_at: Mapped[datetime | None]
    incomplete_until: Mapped[datetime | None]
    payment_method_id: Mapped[UUID | None]
    mandate_id: Mapped[UUID | None]
    psp_account_id: Mapped[UUID | None]
    dunning_plan_id: Mapped[UUID | None]
    coupon_id: Mapped[UUID | None]
    discount_periods_left: Mapped[int | None]
    credit_minor: Mapped[int]
    pending_change: Mapped[dict[str, Any] | None] = mapped_column(_JSON)
    cancel_at: Mapped[datetime | None]
    cancel_at_period_end: Mapped[bool]
    canceled_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    cancellation_reason: Mapped[str | None]
    paused_at: Mapped[datetime | None]
    resume_at: Mapped[datetime | None]
    status_before_pause: Mapped[str | None]
    description: Mapped[str | None]
    reference: Mapped[str | None]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    test_clock_id: Mapped[UUID | None]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def discounted(self) -> bool:
        """Whether the next period is billed with the coupon."""
        return self.coupon_id is not None and (self.discount_periods_left is None or self.discount_periods_left > 0)

    @property
    def billing(self) -> bool:
        """Whether periods that begin are billed."""
        return self.status in (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE)

    @property
    def ends_at(self) -> datetime | None:
        """When it ends by a cancellation that was asked for."""
        return self.current_period_end if self.cancel_at_period_end else self.cancel_at

    def schedule(self) -> None:
        """When the scheduler looks at it next: its period's end, or before that the end of it or of its pause."""
        moments = [self.current_period_end, self.cancel_at, self.resume_at]
        self.next_at = None if self.ended_at is not None else min(moment for moment in moments if moment is not None)

    def touch(self, now: datetime) -> None:
        """Note a change that a client can see."""
        self.sequence += 1
        self.updated_at = now


class Item(Scoped):
    """What a subscription bills each period."""

    __tablename__ = "subscription_items"

    subscription_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column("item_id", primary_key=True)
    position: Mapped[int]
    plan_id: Mapped[UUID]
    description: Mapped[str]
    quantity: Mapped[int]
    unit_amount_minor: Mapped[int]
    tax: Mapped[dict[str, Any] | None] = mapped_column(_JSON)

    @property
    def priced(self) -> Priced:
        """A whole period of it."""
        tax = None if self.tax is None else Tax(**self.tax)
        return Priced(amount_minor=self.quantity * self.unit_amount_minor, tax=tax)
