"""Requests and answers of the API of dunning plans and rebills."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.platform import ids
from clearspan.rebills.models import Decision, sentence
from clearspan.rebills.plans import BUILT_IN, BUILT_IN_NAME, BUILT_IN_VERSION, DunningPlan, tries_planned
from clearspan.sdk import DECLINES, DeclineClass

State = Literal["due", "claimed", "decide", "waiting", "settled", "exhausted", "stopped"]
Text = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00]+$", examples=["Paid by bank transfer."])]


class DunningPlanCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new plan. What ``plan`` leaves out is as in the plan that comes with Clearspan."""

    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+$", examples=["Patient"])]
    plan: DunningPlan = BUILT_IN


class DunningPlanVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next version of a plan, whole: nothing is taken over from the one before but, if it is left out, the name."""

    plan: DunningPlan
    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+$", examples=["Patient"])] | None = None


class DunningPlanOut(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a plan; it never changes. ``id`` is null for the one that comes with Clearspan."""

    id: Annotated[str, Meta(examples=["dun_01h455vb4pex5vsknk084sn02q"])] | None
    object: Literal["dunning_plan"] = "dunning_plan"
    live: bool
    name: str
    version: int
    plan: DunningPlan
    created_at: datetime | None
    created_by: str | None


class DunningPlanList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of each plan, newest plan first; the one that comes with Clearspan is the last."""

    object: Literal["list"] = "list"
    data: list[DunningPlanOut]
    has_more: bool
    next_cursor: str | None


class PlanUsed(msgspec.Struct, frozen=True, kw_only=True):
    """Which plan a rebill goes by, from its first decision on."""

    id: str | None
    version: int


class DecisionShown(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what it says in words."""

    action: str
    reason: str
    at: datetime | None
    decided_at: datetime | None
    by: Annotated[str | None, Meta(description="system, or who asked for it.")]
    sentence: str


class TryOut(msgspec.Struct, frozen=True, kw_only=True):
    """One charge that the gateway made of an invoice."""

    number: int
    at: datetime
    reason: Annotated[str, Meta(description="Of the decision that led to it.")]
    delay_s: Annotated[int, Meta(description="Since the first failure.")]
    payment: str
    operation: str
    payment_method: str | None
    psp_account: str
    state: str
    code: str | None
    raw_code: str | None
    advice: str | None
    network_code: str | None


class RebillOut(msgspec.Struct, frozen=True, kw_only=True):
    """The collection of one invoice; it has the invoice's id."""

    id: Annotated[str, Meta(examples=["inv_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["rebill"] = "rebill"
    live: bool
    invoice: str
    number: str | None
    subscription: str
    customer: str
    amount_minor: int
    currency: str
    state: State
    payment_locked: Annotated[bool, Meta(description="A charge is under way or unknown: nothing else is tried.")]
    tries: int
    next_at: datetime | None
    plan: PlanUsed | None
    held_out: Annotated[bool, Meta(description="In the control group of the plan.")]
    first_failed_at: datetime | None
    grace_until: Annotated[datetime | None, Meta(description="Until when the plan advises to keep the service.")]
    final_at: Annotated[datetime | None, Meta(description="When the plan's final action is due.")]
    last_code: str | None
    decision: DecisionShown | None
    stopped_because: str | None
    created_at: datetime
    updated_at: datetime


class RebillExplained(RebillOut, frozen=True, kw_only=True):
    """A rebill with everything that happened to it, oldest first."""

    charges: list[TryOut]
    decisions: list[DecisionShown]
    next_step: str


class RebillList(msgspec.Struct, frozen=True, kw_only=True):
    """A page, newest invoice first."""

    object: Literal["list"] = "list"
    data: list[RebillOut]
    has_more: bool
    next_cursor: str | None


class BoardCard(RebillOut, frozen=True, kw_only=True):
    """An unpaid invoice on the dunning board.

    Attributes:
        what: names of what is subscribed.
        subscription_status: of the subscription.
        asked_minor: what the invoice asked for; ``amount_minor`` is what is left of it after credit notes.
        tries_planned: see ``plans.tries_planned``.
        final_action: of the dunning plan.
    """

    what: str | None
    subscription_status: str
    asked_minor: int
    tries_planned: int
    final_action: str


class BoardColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a column; with filters there may be few cards, even none, and more behind ``next_cursor``."""

    cards: list[BoardCard]
    next_cursor: str | None


class BoardTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Invoices of a column in one currency."""

    column: str
    currency: str
    invoices: int
    amount_minor: int


class BoardFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Which invoices stand on the board; all must hold.

    Attributes:
        plan_id: with an item of this plan.
        dunning_plan_id, built_in: that go by this dunning plan, or by the one that comes with Clearspan.
        kind: class of the last decline.
    """

    plan_id: UUID | None = None
    dunning_plan_id: UUID | None = None
    built_in: bool = False
    kind: DeclineClass | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As ``board.sql`` takes them."""
        found: dict[str, Any] = {"plan_id": self.plan_id, "dunning_plan_id": self.dunning_plan_id}
        if self.built_in:
            found["built_in"] = True
        if self.kind is not None:
            found["codes"] = [code for code, decline in DECLINES.items() if decline.kind is self.kind]
        return {name: value for name, value in found.items() if value is not None}


class RebillStop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an invoice is not collected any more."""

    reason: Text


class GroupOut(msgspec.Struct, frozen=True, kw_only=True):
    """Invoices whose first charge failed, of one group and currency."""

    group: Literal["plan", "control"]
    currency: str
    failed: int
    recovered: int
    by_customer: Annotated[int, Meta(description="Of the recovered ones: paid without a charge of the gateway's.")]
    open: int
    failed_minor: int
    recovered_minor: int
    recovered_bp: Annotated[int, Meta(description="Of 10,000 failed invoices.")]


class TriesOut(msgspec.Struct, frozen=True, kw_only=True):
    """Charges that got an answer, and how many of them were paid."""

    tries: int
    recovered: int
    try_: int | None = msgspec.field(default=None, name="try")
    group: Literal["plan", "control"] | None = None
    code: Annotated[str | None, Meta(description="Of the decline before.")] = None
    from_h: Annotated[int | None, Meta(description="So many hours or more after the first failure.")] = None


class RecoveryOut(msgspec.Struct, frozen=True, kw_only=True):
    """What became of invoices whose first charge failed in a span of time."""

    object: Literal["rebill_recovery"] = "rebill_recovery"
    live: bool
    since: datetime
    until: datetime
    groups: list[GroupOut]
    by_try: list[TriesOut]
    by_code: list[TriesOut]
    by_delay: list[TriesOut]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """``rebill_row`` of ``reads.sql``."""

    live: bool
    invoice_id: UUID
    subscription_id: UUID
    customer_id: UUID
    number: str | None = None
    amount_minor: int
    currency: str
    state: State
    payment_locked: bool
    tries: int
    next_at: datetime | None = None
    dunning_plan_id: UUID | None = None
    dunning_version: int
    held_out: bool
    grace_days: int | None = None
    first_failed_at: datetime | None = None
    final_at: datetime | None = None
    last_code: str | None = None
    last_decision: Decision | None = None
    stopped_because: str | None = None
    created_at: datetime
    updated_at: datetime


class BoardRow(Row, frozen=True, kw_only=True):
    """``rebill_board``."""

    what: str | None = None
    subscription_status: str
    asked_minor: int
    plan: DunningPlan | None = None


class TryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A try with its operation."""

    try_: int = msgspec.field(name="try")
    at: datetime
    reason: str
    delay_s: int
    operation_id: UUID
    payment_id: UUID
    payment_method_id: UUID | None = None
    psp_account_id: UUID
    state: str
    code: str | None = None
    raw_code: str | None = None
    advice: str | None = None
    network_code: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as the journal has it."""

    at: datetime
    by: str
    decision: Decision


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """``rebill_read``."""

    rebill: Row
    tries: list[TryRow]
    decisions: list[Told]


def shown(decision: Decision, by: str | None = None, told_at: datetime | None = None) -> DecisionShown:
    """A decision with its sentence."""
    return DecisionShown(
        action=decision.action,
        reason=decision.reason,
        at=decision.at,
        decided_at=decision.decided_at or told_at,
        by=by,
        sentence=sentence(decision),
    )


def _fields(row: Row) -> dict[str, Any]:
    grace = BUILT_IN.grace_days if row.grace_days is None else row.grace_days
    return {
        "id": ids.encode("inv", row.invoice_id),
        "live": row.live,
        "invoice": ids.encode("inv", row.invoice_id),
        "number": row.number,
        "subscription": ids.encode("sub", row.subscription_id),
        "customer": ids.encode("cus", row.customer_id),
        "amount_minor": row.amount_minor,
        "currency": row.currency,
        "state": row.state,
        "payment_locked": row.payment_locked,
        "tries": row.tries,
        "next_at": row.next_at,
        "plan": PlanUsed(id=ids.encode_optional("dun", row.dunning_plan_id), version=row.dunning_version)
        if row.dunning_version
        else None,
        "held_out": row.held_out,
        "first_failed_at": row.first_failed_at,
        "grace_until": row.first_failed_at and row.first_failed_at + timedelta(days=grace),
        "final_at": row.final_at,
        "last_code": row.last_code,
        "decision": row.last_decision and shown(row.last_decision),
        "stopped_because": row.stopped_because,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def rebill_out(row: Row) -> RebillOut:
    """As the API shows it."""
    return RebillOut(**_fields(row))


def board_card(row: BoardRow) -> BoardCard:
    """As the board shows it."""
    plan = row.plan or BUILT_IN
    return BoardCard(
        **_fields(row),
        what=row.what,
        subscription_status=row.subscription_status,
        asked_minor=row.asked_minor,
        tries_planned=tries_planned(plan, row.last_code, held_out=row.held_out),
        final_action=plan.final_action,
    )


def explained(read: Read) -> RebillExplained:
    """With its history and what comes next in words."""
    return RebillExplained(
        **_fields(read.rebill),
        charges=[
            TryOut(
                number=one.try_,
                at=one.at,
                reason=one.reason,
                delay_s=one.delay_s,
                payment=ids.encode("pay", one.payment_id),
                operation=ids.encode("op", one.operation_id),
                payment_method=ids.encode_optional("pm", one.payment_method_id),
                psp_account=ids.encode("acct", one.psp_account_id),
                state=one.state,
                code=one.code,
                raw_code=one.raw_code,
                advice=one.advice,
                network_code=one.network_code,
            )
            for one in read.tries
        ],
        decisions=[shown(one.decision, one.by, one.at) for one in read.decisions],
        next_step=_next_step(read.rebill),
    )


def _next_step(row: Row) -> str:
    when = f"{row.next_at:%Y-%m-%d %H:%M} UTC" if row.next_at else ""
    said = f" {sentence(row.last_decision)}" if row.last_decision else ""
    match row.state:
        case "due":
            return f"Charged at {when} or soon after, at the pace of its PSP account.{said}"
        case "claimed":
            return "It is being charged now." if row.payment_locked else f"A worker is about to charge it.{said}"
        case "decide":
            return "A decision about it is due now."
        case "waiting":
            return said.strip() or f"Looked at again at {when}."
        case "settled":
            return "Nothing: the invoice is paid."
        case "exhausted":
            return f"Nothing: the plan is used up.{said}"
        case "stopped":
            return f"Nothing: collection was stopped ({row.stopped_because})."


def recovery_out(
    found: Mapping[str, list[dict[str, Any]]], *, live: bool, since: datetime, until: datetime
) -> RecoveryOut:
    """The report as the API shows it."""

    def group(row: dict[str, Any]) -> Literal["plan", "control"]:
        return "control" if row.pop("held_out") else "plan"

    groups = [
        GroupOut(group=group(row), recovered_bp=row["recovered"] * 10_000 // row["failed"], **row)
        for row in found["groups"]
    ]
    return RecoveryOut(
        live=live,
        since=since,
        until=until,
        groups=groups,
        by_try=[TriesOut(group=group(row), try_=row.pop("try"), **row) for row in found["by_try"]],
        by_code=[TriesOut(**row) for row in found["by_code"]],
        by_delay=[TriesOut(**row) for row in found["by_delay"]],
    )


def built_in(*, live: bool) -> DunningPlanOut:
    """The plan that comes with Clearspan."""
    return DunningPlanOut(
        id=None,
        live=live,
        name=BUILT_IN_NAME,
        version=BUILT_IN_VERSION,
        plan=BUILT_IN,
        created_at=None,
        created_by=None,
    )
