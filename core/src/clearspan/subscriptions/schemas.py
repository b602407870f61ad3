"""Requests and answers about plans, coupons, settings and subscriptions. Amounts in the currency's smallest unit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clearspan.payments.schemas import AMOUNT_MAX_MINOR, Account, Currency, MethodId, PaymentOut, Url
from clearspan.platform import ids
from clearspan.subscriptions.repository import Invoice
from clearspan.subscriptions.rows import BillingSettings, Coupon, Item, Plan, Subscription

# PostgreSQL stores every character but NUL.
_TEXT = r"^[^\x00]+$"
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX_MINOR, examples=[900])]
Amounts = Annotated[
    dict[Currency, Amount],
    Meta(min_length=1, max_length=160, description="By currency, smallest unit.", examples=[{"EUR": 900}]),
]
Name = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=_TEXT, description="Stands on invoices.", examples=["Basic"])
]
Reference = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=_TEXT, description="Your own id.", examples=["basic-monthly"])
]
Words = Annotated[
    str,
    Meta(
        min_length=1, max_length=500, pattern=_TEXT, description="For people; no personal data.", examples=["Two seats"]
    ),
]
Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=40, pattern=_TEXT)],
        Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")],
    ],
    Meta(max_length=50, description="Your own short strings; no personal data.", examples=[{"tier": "gold"}]),
]
PlanId = Annotated[str, Meta(max_length=90, examples=["plan_01h455vb4pex5vsknk084sn02q"])]
CustomerId = Annotated[str, Meta(max_length=90, examples=["cus_01h455vb4pex5vsknk084sn02q"])]
MandateId = Annotated[str, Meta(max_length=90, examples=["man_01h455vb4pex5vsknk084sn02q"])]
DunningPlanId = Annotated[str, Meta(max_length=90, examples=["dun_01h455vb4pex5vsknk084sn02q"])]
CouponName = Annotated[
    str, Meta(min_length=1, max_length=90, description="A coupon's code or id.", examples=["SPRING"])
]
Status = Annotated[Literal["active", "archived"], Meta(examples=["archived"])]
Moment = Annotated[datetime, Meta(examples=["2030-01-01T00:00:00Z"])]
Unit = Literal["day", "week", "month", "year"]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: unknown fields are refused."""


# -- Plans ----------------------------------------------------------------------------------------------------------------------


class Interval(_Body, frozen=True, kw_only=True):
    """How long a period is."""

    unit: Unit
    count: Annotated[int, Meta(ge=1, le=366)] = 1


class TaxRate(_Body, frozen=True, kw_only=True):
    """A tax as you say it is: Clearspan computes with it and does not know tax law."""

    name: Annotated[str, Meta(min_length=1, max_length=60, pattern=_TEXT, examples=["VAT"])]
    rate_bp: Annotated[int, Meta(ge=0, le=10_000, description="Basis points: 2000 is 20 %.", examples=[2000])]
    inclusive: Annotated[bool, Meta(description="Contained in the amounts; false: on top of them.")] = True


class PlanCreate(_Body, frozen=True, kw_only=True):
    """Make a plan. Amounts and interval stay what they are; a new price is a new plan."""

    name: Name
    amounts: Amounts
    interval: Interval
    setup_fees: Annotated[
        dict[Currency, Amount], Meta(max_length=160, description="Once, with the first invoice.", examples=[{}])
    ] = {}
    trial_days: Annotated[int, Meta(ge=0, le=1095, examples=[14])] = 0
    tax: TaxRate | None = None
    reference: Reference | None = None
    metadata: Metadata = {}


class PlanUpdate(_Body, frozen=True, kw_only=True):
    """Change what may change: what is left out stays."""

    name: Name | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class PlanOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is sold."""

    id: str
    object: Literal["plan"]
    live: bool
    name: str
    reference: str | None
    amounts: dict[str, int]
    setup_fees: dict[str, int]
    interval: Interval
    trial_days: int
    tax: TaxRate | None
    status: Literal["active", "archived"]
    metadata: dict[str, str]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime


class PlanList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of plans, newest first."""

    object: Literal["list"]
    data: list[PlanOut]
    has_more: bool
    next_cursor: str | None


# -- Coupons --------------------------------------------------------------------------------------------------------------------


class CouponCreate(_Body, frozen=True, kw_only=True):
    """Make a coupon: a share (``percent_bp``) or an amount off each invoice, one of the two."""

    code: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]{1,60}$", description="What customers type in.", examples=["SPRING"])
    ]
    name: Name
    percent_bp: (
        Annotated[int, Meta(ge=1, le=10_000, description="Basis points: 2500 is 25 %.", examples=[2500])] | None
    ) = None
    amounts: Amounts | None = None
    duration: Literal["once", "repeating", "forever"]
    periods: (
        Annotated[int, Meta(ge=1, le=1000, description="With repeating: for so many periods.", examples=[3])] | None
    ) = None
    redeem_by: Annotated[Moment, Meta(description="Not redeemed at or after this moment.")] | None = None
    redemptions_max: Annotated[int, Meta(ge=1, le=1_000_000_000, examples=[100])] | None = None
    metadata: Metadata = {}


class CouponUpdate(_Body, frozen=True, kw_only=True):
    """Change what may change: what is left out stays."""

    name: Name | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class CouponOut(msgspec.Struct, frozen=True, kw_only=True):
    """A discount."""

    id: str
    object: Literal["coupon"]
    live: bool
    code: str
    name: str
    percent_bp: int | None
    amounts: dict[str, int] | None
    duration: Literal["once", "repeating", "forever"]
    periods: int | None
    redeem_by: datetime | None
    redemptions_max: int | None
    redemptions: int
    status: Literal["active", "archived"]
    metadata: dict[str, str]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime


class CouponList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of coupons, newest first."""

    object: Literal["list"]
    data: list[CouponOut]
    has_more: bool
    next_cursor: str | None


# -- Settings -------------------------------------------------------------------------------------------------------------------


class Seller(_Body, frozen=True, kw_only=True):
    """Who sells, as it stands on invoices."""

    name: Annotated[str, Meta(max_length=200, pattern=_TEXT)] | None = None
    address: Annotated[list[Annotated[str, Meta(max_length=200, pattern=_TEXT)]], Meta(max_length=8)] = []
    tax_id: Annotated[str, Meta(max_length=60, pattern=_TEXT)] | None = None
    email: Annotated[str, Meta(max_length=254, pattern=r"^[^\s@]+@[^\s@]+$")] | None = None


Prefix = Annotated[str, Meta(max_length=20, pattern=r"^[A-Za-z0-9/._-]*$", examples=["INV-2026-"])]


class BillingSettingsUpdate(_Body, frozen=True, kw_only=True):
    """Change how you bill: what is left out stays. ``seller`` is replaced as a whole."""

    seller: Seller | UnsetType = UNSET
    language: Annotated[Literal["en", "fr", "de", "es"], Meta(examples=["fr"])] | UnsetType = UNSET
    invoice_prefix: Prefix | UnsetType = UNSET
    credit_note_prefix: Prefix | UnsetType = UNSET
    catch_up: (
        Annotated[
            Literal["newest", "all"],
            Meta(
                description="Of periods missed in a downtime, charge the newest, or all. All are billed.",
                examples=["all"],
            ),
        ]
        | UnsetType
    ) = UNSET
    mails: Annotated[bool, Meta(examples=[True])] | UnsetType = UNSET
    dunning_plan: DunningPlanId | UnsetType | None = UNSET


class BillingSettingsOut(msgspec.Struct, frozen=True, kw_only=True):
    """How you bill in this mode."""

    object: Literal["billing_settings"]
    live: bool
    seller: Seller
    language: Literal["en", "fr", "de", "es"]
    invoice_prefix: str
    credit_note_prefix: str
    catch_up: Literal["newest", "all"]
    mails: bool
    dunning_plan: str | None
    sequence: int
    updated_at: datetime


# -- Subscriptions: requests ----------------------------------------------------------------------------------------------------


class ItemIn(_Body, frozen=True, kw_only=True):
    """So many of a plan."""

    plan: PlanId
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


Items = Annotated[
    list[ItemIn],
    Meta(min_length=1, max_length=20, examples=[[{"plan": "plan_01h455vb4pex5vsknk084sn02q", "quantity": 1}]]),
]


class MandateIn(_Body, frozen=True, kw_only=True):
    """What the customer agreed to on your page just now."""

    text_version: Annotated[
        str, Meta(min_length=1, max_length=100, pattern=_TEXT, description="Of the text shown.", examples=["2026-01"])
    ]
    accepted_at: Annotated[datetime, Meta(description="Default: now.")] | None = None


class AnchorIn(_Body, frozen=True, kw_only=True):
    """On which day periods begin."""

    day_of_month: Annotated[int, Meta(ge=1, le=31, description="29 to 31: a shorter month's last day.")]
    month_of_year: Annotated[int, Meta(ge=1, le=12)] | None = None


class SubscriptionCreate(_Body, frozen=True, kw_only=True):
    """Subscribe a customer."""

    customer: CustomerId
    items: Items
    currency: Annotated[Currency, Meta(description="Default: the plans' only one.", examples=["EUR"])] | None = None
    payment_method: MethodId | None = None
    mandate: Annotated[
        MandateId | MandateIn | None,
        Meta(
            description="The consent that later charges rest on; required with payment_method.",
            examples=[{"text_version": "2026-01"}],
        ),
    ] = None
    psp_account: Account | None = None
    coupon: CouponName | None = None
    trial_days: (
        Annotated[int, Meta(ge=0, le=1095, description="Default: the plans' longest.", examples=[14])] | None
    ) = None
    trial_end: Moment | None = None
    time_zone: Annotated[str, Meta(max_length=64, examples=["Europe/Berlin"])] = "UTC"
    anchor: AnchorIn | None = None
    start_at: Annotated[Moment, Meta(description="In the past; needs backdate.")] | None = None
    backdate: (
        Annotated[
            Literal["none", "bill"],
            Meta(
                description="none: what lies before the next period was paid elsewhere; bill: all of it is billed.",
                examples=["bill"],
            ),
        ]
        | None
    ) = None
    dunning_plan: DunningPlanId | None = None
    description: Words | None = None
    reference: Reference | None = None
    metadata: Metadata = {}
    return_url: Url | None = None


class SubscriptionUpdate(_Body, frozen=True, kw_only=True):
    """Change what is not billed: what is left out stays, null clears."""

    description: Words | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET
    payment_method: MethodId | UnsetType = UNSET
    mandate: MandateId | UnsetType = UNSET
    dunning_plan: DunningPlanId | UnsetType | None = UNSET
    coupon: CouponName | UnsetType | None = UNSET


class SubscriptionPreview(_Body, frozen=True, kw_only=True):
    """Other items: what would be billed?"""

    items: Items
    proration: Annotated[
        Literal["now", "at_period_end", "none"],
        Meta(
            description="now: the rest of the period is exchanged; at_period_end: items change then; none: now, unbilled.",
            examples=["now"],
        ),
    ] = "now"
    at: (
        Annotated[
            datetime,
            Meta(
                description="`at` of a preview, at most a day old: the same moment, so the same amounts.",
                examples=["2030-01-01T00:00:00Z"],
            ),
        ]
        | None
    ) = None


class SubscriptionChange(SubscriptionPreview, frozen=True, kw_only=True):
    """Other items."""

    customer_present: Annotated[
        bool, Meta(description="The customer is at the screen: charge at once, with an action of his if need be.")
    ] = False
    return_url: Url | None = None


class SubscriptionPause(_Body, frozen=True, kw_only=True):
    """Bill nothing for a while."""

    resume_at: Moment | None = None


class SubscriptionResume(_Body, frozen=True, kw_only=True):
    """Go on."""


class SubscriptionCancel(_Body, frozen=True, kw_only=True):
    """End it."""

    at: Annotated[str, Meta(max_length=40, description="now, period_end or a moment.", examples=["period_end"])] = (
        "period_end"
    )
    invoices: (
        Annotated[
            Literal["void", "keep"], Meta(description="With now: what becomes of open invoices.", examples=["void"])
        ]
        | None
    ) = None
    reason: Annotated[str, Meta(min_length=1, max_length=200, pattern=_TEXT, examples=["too dear"])] | None = None


class SubscriptionUncancel(_Body, frozen=True, kw_only=True):
    """Do not end it after all."""


# -- Subscriptions: answers -----------------------------------------------------------------------------------------------------


class ItemOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is billed each period."""

    id: str
    plan: str
    description: str
    quantity: int
    unit_amount_minor: int
    tax: TaxRate | None


class DiscountOut(msgspec.Struct, frozen=True, kw_only=True):
    """The coupon; ``periods_left`` is null when it counts for ever."""

    coupon: str
    periods_left: int | None


class PeriodOut(msgspec.Struct, frozen=True, kw_only=True):
    """From ``start`` up to ``end``."""

    start: datetime
    end: datetime


class PendingOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is billed from the next period on."""

    items: list[ItemOut]
    interval: Interval


class LatestInvoiceOut(msgspec.Struct, frozen=True, kw_only=True):
    """The newest invoice with its payment; ``GET /v1/invoices/{id}`` shows all of it."""

    id: str
    object: Literal["invoice"]
    number: str | None
    status: Literal["draft", "open", "paid", "void", "uncollectible"]
    reason: Literal["first", "cycle", "change", "manual"]
    collection: Literal["automatic", "held"]
    currency: str
    period: PeriodOut
    subtotal_minor: int
    discount_minor: int
    tax_minor: int
    total_minor: int
    credit_used_minor: int
    due_minor: int
    payment_locked: Annotated[bool, Meta(description="A charge is under way, or its outcome is unknown.")]
    payment: PaymentOut | None


class ProblemOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why the charge that was to be made was refused; nothing was sent."""

    code: str
    detail: str


class SubscriptionOut(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription."""

    id: str
    object: Literal["subscription"]
    live: bool
    status: Literal[
        "incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"
    ]
    customer: str
    currency: str
    items: list[ItemOut]
    interval: Interval
    time_zone: str
    current_period: PeriodOut
    next_invoice_at: Annotated[datetime | None, Meta(description="Null when no period will be billed as things are.")]
    started_at: datetime
    trial_end_at: datetime | None
    incomplete_until: datetime | None
    payment_method: str | None
    mandate: str | None
    psp_account: str | None
    dunning_plan: str | None
    discount: DiscountOut | None
    credit_minor: Annotated[int, Meta(description="Owed to the customer; the next invoices use it up.")]
    pending_change: PendingOut | None
    cancel_at: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    ended_at: datetime | None
    cancellation_reason: str | None
    paused_at: datetime | None
    resume_at: datetime | None
    description: str | None
    reference: str | None
    metadata: dict[str, str]
    test_clock: str | None
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime
    latest_invoice: LatestInvoiceOut | UnsetType | None = UNSET
    verification: Annotated[
        PaymentOut | UnsetType | None,
        Meta(description="A payment of nothing by which the customer confirms the mandate, when nothing is due yet."),
    ] = UNSET
    problem: ProblemOut | UnsetType = UNSET


class SubscriptionList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of subscriptions, newest first."""

    object: Literal["list"]
    data: list[SubscriptionOut]
    has_more: bool
    next_cursor: str | None


class ChangeLineOut(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a change; negative for what is given back."""

    plan: str
    description: str
    quantity: int
    amount_minor: int
    tax_minor: int


class PreviewOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a change does. An invoice is opened when ``total_minor`` is positive; a negative one becomes credit."""

    object: Literal["change_preview"]
    at: Annotated[datetime, Meta(description="Send it with the change, and these amounts hold.")]
    effective_at: Annotated[datetime, Meta(description="From when on the new items are billed.")]
    currency: str
    lines: list[ChangeLineOut]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    credit_used_minor: int
    due_minor: Annotated[int, Meta(description="What the customer is charged.")]
    credit_added_minor: Annotated[int, Meta(description="What the next invoices are reduced by.")]
    period: PeriodOut


# -- Rendering ------------------------------------------------------------------------------------------------------------------


def plan_out(plan: Plan) -> PlanOut:
    """Render the current state."""
    return PlanOut(
        id=ids.encode("plan", plan.id),
        object="plan",
        live=plan.live,
        name=plan.name,
        reference=plan.reference,
        amounts=plan.amounts,
        setup_fees=plan.setup_fees,
        interval=Interval(unit=plan.interval_unit, count=plan.interval_count),  # type: ignore[arg-type]  # the column's CHECK
        trial_days=plan.trial_days,
        tax=_tax(plan.tax),
        status=plan.status,  # type: ignore[arg-type]  # likewise
        metadata=plan.metadata_,
        sequence=plan.sequence,
        created_at=plan.created_at,
        updated_at=plan.updated_at,
    )


def plan_list(plans: Sequence[Plan], next_cursor: str | None) -> PlanList:
    """A page."""
    data = [plan_out(plan) for plan in plans]
    return PlanList(object="list", data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


def coupon_out(coupon: Coupon) -> CouponOut:
    """Render the current state."""
    return CouponOut(
        id=ids.encode("cpn", coupon.id),
        object="coupon",
        live=coupon.live,
        code=coupon.code,
        name=coupon.name,
        percent_bp=coupon.percent_bp,
        amounts=coupon.amounts,
        duration=coupon.duration,  # type: ignore[arg-type]  # the column's CHECK holds the words
        periods=coupon.periods,
        redeem_by=coupon.redeem_by,
        redemptions_max=coupon.redemptions_max,
        redemptions=coupon.redemptions,
        status=coupon.status,  # type: ignore[arg-type]  # likewise
        metadata=coupon.metadata_,
        sequence=coupon.sequence,
        created_at=coupon.created_at,
        updated_at=coupon.updated_at,
    )


def coupon_list(coupons: Sequence[Coupon], next_cursor: str | None) -> CouponList:
    """A page."""
    data = [coupon_out(coupon) for coupon in coupons]
    return CouponList(object="list", data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


def settings_out(own: BillingSettings) -> BillingSettingsOut:
    """Render the current state."""
    return BillingSettingsOut(
        object="billing_settings",
        live=own.live,
        seller=msgspec.convert(own.seller, Seller),
        language=own.language,  # type: ignore[arg-type]  # the column's CHECK holds the words
        invoice_prefix=own.invoice_prefix,
        credit_note_prefix=own.credit_note_prefix,
        catch_up=own.catch_up,  # type: ignore[arg-type]  # likewise
        mails=own.mails,
        dunning_plan=ids.encode_optional("dun", own.dunning_plan_id),
        sequence=own.sequence,
        updated_at=own.updated_at,
    )


def _tax(tax: dict[str, Any] | None) -> TaxRate | None:
    return None if tax is None else msgspec.convert(tax, TaxRate)


def item_out(item: Item) -> ItemOut:
    """Render an item."""
    return ItemOut(
        id=ids.encode("si", item.id),
        plan=ids.encode("plan", item.plan_id),
        description=item.description,
        quantity=item.quantity,
        unit_amount_minor=item.unit_amount_minor,
        tax=_tax(item.tax),
    )


def _pending(row: Subscription) -> PendingOut | None:
    if row.pending_change is None:
        return None
    items = [
        ItemOut(
            id=ids.encode("si", UUID(item["item_id"])),
            plan=ids.encode("plan", UUID(item["plan_id"])),
            description=item["description"],
            quantity=item["quantity"],
            unit_amount_minor=item["unit_amount_minor"],
            tax=_tax(item["tax"]),
        )
        for item in row.pending_change["items"]
    ]
    unit = row.pending_change.get("interval_unit", row.interval_unit)
    return PendingOut(
        items=items, interval=Interval(unit=unit, count=row.pending_change.get("interval_count", row.interval_count))
    )


def subscription_out(row: Subscription, items: Sequence[Item]) -> SubscriptionOut:
    """Render the current state."""
    ends_at = row.ends_at
    billed = row.billing and (ends_at is None or ends_at > row.current_period_end)
    return SubscriptionOut(
        id=ids.encode("sub", row.id),
        object="subscription",
        live=row.live,
        status=row.status,  # type: ignore[arg-type]  # the column's CHECK holds the words
        customer=ids.encode("cus", row.customer_id),
        currency=row.currency,
        items=[item_out(item) for item in items],
        interval=Interval(unit=row.interval_unit, count=row.interval_count),  # type: ignore[arg-type]  # likewise
        time_zone=row.time_zone,
        current_period=PeriodOut(start=row.current_period_start, end=row.current_period_end),
        next_invoice_at=row.current_period_end if billed else None,
        started_at=row.started_at,
        trial_end_at=row.trial_end_at,
        incomplete_until=row.incomplete_until,
        payment_method=ids.encode_optional("pm", row.payment_method_id),
        mandate=ids.encode_optional("man", row.mandate_id),
        psp_account=ids.encode_optional("acct", row.psp_account_id),
        dunning_plan=ids.encode_optional("dun", row.dunning_plan_id),
        discount=DiscountOut(coupon=ids.encode("cpn", row.coupon_id), periods_left=row.discount_periods_left)
        if row.coupon_id is not None
        else None,
        credit_minor=row.credit_minor,
        pending_change=_pending(row),
        cancel_at=row.cancel_at,
        cancel_at_period_end=row.cancel_at_period_end,
        canceled_at=row.canceled_at,
        ended_at=row.ended_at,
        cancellation_reason=row.cancellation_reason,
        paused_at=row.paused_at,
        resume_at=row.resume_at,
        description=row.description,
        reference=row.reference,
        metadata=row.metadata_,
        test_clock=ids.encode_optional("tc", row.test_clock_id),
        sequence=row.sequence,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def invoice_out(invoice: Invoice, payment: PaymentOut | None) -> LatestInvoiceOut:
    """Render the current state."""
    return LatestInvoiceOut(
        id=ids.encode("inv", invoice.invoice_id),
        object="invoice",
        number=invoice.number,
        status=invoice.status,  # type: ignore[arg-type]  # the column's CHECK holds the words
        reason=invoice.reason,  # type: ignore[arg-type]  # likewise
        collection=invoice.collection,  # type: ignore[arg-type]  # likewise
        currency=invoice.currency,
        period=PeriodOut(start=invoice.period_start, end=invoice.period_end),
        subtotal_minor=invoice.subtotal_minor,
        discount_minor=invoice.discount_minor,
        tax_minor=invoice.tax_minor,
        total_minor=invoice.total_minor,
        credit_used_minor=invoice.credit_used_minor,
        due_minor=invoice.due_minor,
        payment_locked=invoice.payment_locked,
        payment=payment,
    )


def subscription_list(data: Sequence[SubscriptionOut], next_cursor: str | None) -> SubscriptionList:
    """A page."""
    return SubscriptionList(object="list", data=list(data), has_more=next_cursor is not None, next_cursor=next_cursor)
