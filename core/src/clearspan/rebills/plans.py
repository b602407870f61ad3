"""A dunning plan: what a tenant may tune about failed charges, as data.

A plan can only make the gateway more careful. It cannot retry what the schemes, the issuer or the class of a decline
forbid (``rebills.models.decide``), and the caps of ``payments.caps`` are counted whatever it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.sdk import DECLINES, DeclineClass

Day = Annotated[int, Meta(ge=1, le=60)]
BUILT_IN_VERSION = 1
"""Of the plan that comes with Clearspan; a release that changes it counts on."""


class Payday(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When people are paid: a retry for lack of money on a debit or prepaid card waits for the next such day."""

    days: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=31)], ...],
        Meta(max_length=5, description="Of the month; in a shorter month its last day."),
    ] = (1, 15, 25)
    weekday: (
        Annotated[int, Meta(ge=0, le=6, description="Weekly payday, 0 is Monday; null: none.", examples=[4])] | None
    ) = 4


class DunningPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out has the value of the plan that comes with Clearspan."""

    soft_days: Annotated[
        tuple[Day, ...],
        Meta(max_length=8, description="Retries after so many days since the first failure, in the customer's zone."),
    ] = (1, 3, 5, 8, 11, 14)
    technical_h: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=72)], ...],
        Meta(max_length=3, description="After technical declines in a row: hours to the next try."),
    ] = (1, 6, 24)
    generic_tries: Annotated[int, Meta(ge=1, le=3, description="Tries in all when the issuer gives no reason.")] = 3
    restricted_tries: Annotated[int, Meta(ge=1, le=2, description="Tries in all of a restricted card.")] = 2
    payday: Payday | None = Payday()
    hour: Annotated[
        Literal["last_success"] | Annotated[int, Meta(ge=0, le=23)],
        Meta(description="Hour of the day for retries, in the customer's zone; last_success: of the last paid charge."),
    ] = "last_success"
    jitter_h: Annotated[int, Meta(ge=0, le=3, description="Retries are spread by up to so many hours either way.")] = 2
    reminder_days: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=60)], ...],
        Meta(max_length=8, description="Mails after so many days since the first failure; 0 is the failure itself."),
    ] = (0, 3, 8, 14)
    card_expiring_days: Annotated[
        int, Meta(ge=0, le=60, description="A mail so many days before a card expires; 0: none.")
    ] = 3
    other_method: Annotated[
        bool, Meta(description="Charge another stored method that the customer gave as a backup.")
    ] = True
    pay_link: Annotated[bool, Meta(description="Mails carry a link to pay.")] = True
    grace_days: Annotated[int, Meta(ge=0, le=60, description="For your application: keep the service for so long.")] = (
        14
    )
    final_day: Annotated[
        int, Meta(ge=1, le=60, description="The final action, so many days after the first failure.")
    ] = 21
    final_action: Literal["cancel", "unpaid", "pause"] = "cancel"
    holdout_bp: Annotated[
        int, Meta(ge=0, le=5000, description="So many of 10,000 invoices go by control_days instead, to compare.")
    ] = 1000
    control_days: Annotated[tuple[Day, ...], Meta(max_length=8, description="Retries of the control group.")] = (7, 14)


BUILT_IN = DunningPlan()
BUILT_IN_NAME = "Clearspan"


def problems(plan: DunningPlan) -> Iterator[tuple[str, str]]:
    """What the types cannot say: the field's path and what is wrong with it, nothing for a good plan."""
    for name in ("soft_days", "control_days", "reminder_days"):
        days: tuple[int, ...] = getattr(plan, name)
        if list(days) != sorted(set(days)):
            yield f"$.plan.{name}", f"{name} must grow from one to the next; these are {list(days)}."
        elif days and days[-1] >= plan.final_day:
            yield (
                f"$.plan.{name}",
                f"{name} must lie before final_day ({plan.final_day}); day {days[-1]} would never come.",
            )
    if list(plan.technical_h) != sorted(plan.technical_h):
        yield "$.plan.technical_h", f"technical_h must not shrink; these are {list(plan.technical_h)}."
    if plan.payday is not None and not plan.payday.days and plan.payday.weekday is None:
        yield "$.plan.payday", "A payday needs days of the month or a weekday; null turns it off."
    if plan.payday is not None and list(plan.payday.days) != sorted(set(plan.payday.days)):
        yield "$.plan.payday.days", f"The days must grow from one to the next; these are {list(plan.payday.days)}."
    if plan.grace_days > plan.final_day:
        yield (
            "$.plan.grace_days",
            f"grace_days ({plan.grace_days}) cannot outlast final_day ({plan.final_day}): the subscription has ended then.",
        )


def held_out(plan: DunningPlan, invoice_id: UUID) -> bool:
    """Whether an invoice is in the control group: by a hash of its id, so the same wherever it is asked."""
    return int.from_bytes(hashlib.sha256(b"holdout" + invoice_id.bytes).digest()[:8], "big") % 10_000 < plan.holdout_bp


def tries_planned(plan: DunningPlan, code: str | None, *, held_out: bool) -> int:
    """How many charges of one card the plan allows in all after a decline with this code, the first one included.

    Technical tries come on top and the schemes' limits may allow less: it is for people to see how far along they are.
    """
    most = 1 + len(plan.control_days if held_out else plan.soft_days)
    found = DECLINES.get(code or "")
    if found is not None and found.kind is DeclineClass.GENERIC:
        return min(most, plan.generic_tries)
    return min(most, plan.restricted_tries) if code == "restricted_card" else most
