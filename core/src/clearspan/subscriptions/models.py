"""Periods and amounts: pure functions, the specification that the SQL of ``plan.sql`` is held against.

Periods. Period ``k`` runs from ``period_start(k)`` to ``period_start(k + 1)``. Each start is computed from the
anchor, a wall-clock time in the subscription's zone, never from the period before: an anchor on the 31st gives 28
February and again 31 March. A wall time that a daylight-saving night skips is taken as if the clock had not been put
forward (02:30 is 03:30), one that comes twice is the second of the two, as PostgreSQL's ``AT TIME ZONE`` does.

Amounts are integers in the currency's smallest unit. Each is rounded once, half away from zero, where it is made;
sums are sums of rounded amounts.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

Unit = Literal["day", "week", "month", "year"]


class SubscriptionStatus(StrEnum):
    """Where a subscription stands; docs/subscriptions.md draws the transitions."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"


def rounded(exact: Fraction) -> int:
    """To the nearest integer, halves away from zero, as PostgreSQL's ``round(numeric)``."""
    whole = (abs(exact) * 2 + 1) // 2
    return int(whole if exact >= 0 else -whole)


def period_start(anchor: datetime, zone: str, unit: Unit, count: int, k: int) -> datetime:
    """Where period ``k`` begins, aware UTC.

    Args:
        anchor: naive wall time of period 0 in ``zone``.
        zone: IANA name.
        unit, count: a period is ``count`` times ``unit`` long.
        k: any integer; negative ones lie before the anchor.
    """
    local = anchor
    if unit in ("day", "week"):
        local += timedelta(days=count * k * (7 if unit == "week" else 1))
    else:
        month = anchor.year * 12 + anchor.month - 1 + count * k * (12 if unit == "year" else 1)
        year, month = month // 12, month % 12 + 1
        local = anchor.replace(year=year, month=month, day=min(anchor.day, calendar.monthrange(year, month)[1]))
    # The later of the two readings is the one of PostgreSQL, in the hour that is skipped and in the one that comes twice.
    there = ZoneInfo(zone)
    return max(local.replace(tzinfo=there, fold=fold).astimezone(UTC) for fold in (0, 1))


def period_of(anchor: datetime, zone: str, unit: Unit, count: int, moment: datetime) -> int:
    """The period that holds an aware moment: ``period_start(k) <= moment < period_start(k + 1)``."""
    days = {"day": 1.0, "week": 7.0, "month": 30.436875, "year": 365.2425}[unit] * count
    local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    k = int((local - anchor).total_seconds() // (days * 86_400))
    while period_start(anchor, zone, unit, count, k) > moment:
        k -= 1
    while period_start(anchor, zone, unit, count, k + 1) <= moment:
        k += 1
    return k


class Tax(msgspec.Struct, frozen=True, kw_only=True):
    """A tax as the merchant gave it: basis points of the net amount, contained in the price or on top of it."""

    name: str
    rate_bp: int
    inclusive: bool = True


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """A line before discount and tax."""

    amount_minor: int
    tax: Tax | None = None


class Discount(msgspec.Struct, frozen=True, kw_only=True):
    """A coupon on one invoice: a share of it or an amount off it, one of the two."""

    percent_bp: int | None = None
    amount_minor: int | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line's share of discount and tax."""

    amount_minor: int
    discount_minor: int
    tax_minor: int
    tax_added_minor: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice's sums: total = subtotal - discount + tax added; due = total - credit used."""

    lines: tuple[Line, ...]
    subtotal_minor: int
    discount_minor: int
    tax_minor: int
    tax_added_minor: int
    total_minor: int
    credit_used_minor: int
    due_minor: int


def prorated(amount_minor: int, part: timedelta, whole: timedelta) -> int:
    """The share of an amount for a part of a period, to the microsecond."""
    return rounded(Fraction(amount_minor * (part // timedelta(microseconds=1)), whole // timedelta(microseconds=1)))


def taxed(net_minor: int, tax: Tax | None) -> int:
    """The tax in, or on top of, an amount."""
    if tax is None:
        return 0
    return rounded(Fraction(net_minor * tax.rate_bp, 10_000 + (tax.rate_bp if tax.inclusive else 0)))


def wall_anchor(
    start: datetime, zone: str, unit: Unit, count: int, day: int | None = None, month: int | None = None
) -> datetime:
    """The naive wall time from which periods are counted, at the time of day of the start.

    Without a day it is the start itself. With one, periods begin on that day of the month: the first one on or after the
    start, in the named month if there is one. It may lie before the start (the 31st in the latest month that has one).

    Args:
        start: aware.
        zone: IANA name.
        unit, count: a period is so long; ``day`` and ``month`` go with months and years.
        day: 1..31; in shorter months the last one.
        month: 1..12.

    Raises:
        ValueError: no calendar has that day in that month.
    """
    local = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if day is None:
        return local
    if month is not None and day > (29 if month == 2 else calendar.monthrange(2027, month)[1]):
        raise ValueError(f"there is no day {day} in month {month}")
    step = count * (12 if unit == "year" else 1)

    def on(months: int) -> tuple[datetime, bool]:
        last = calendar.monthrange(months // 12, months % 12 + 1)[1]
        return local.replace(year=months // 12, month=months % 12 + 1, day=min(day, last)), day <= last

    first = local.year * 12 + local.month - 1
    while (month is not None and first % 12 + 1 != month) or on(first)[0] < local:
        first += 1
    # Counted from a month that has the day, so that the others are cut and this one is not.
    for _ in range(12 if month is None else 1):
        back = next((found for k in range(13) for found, whole in [on(first - k * step)] if whole), None)
        if back is not None:
            return back
        first += 1
    return on(first)[0]


def net_of(lines: Sequence[Priced], discount: Discount | None) -> list[Priced]:
    """The lines after their share of a discount."""
    made = totals(lines, discount, 0).lines
    return [
        Priced(amount_minor=line.amount_minor - share.discount_minor, tax=line.tax)
        for line, share in zip(lines, made, strict=True)
    ]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a period: ``part`` of ``whole``."""

    part: timedelta
    whole: timedelta

    def of(self, line: Priced) -> Priced:
        """The line's share."""
        return Priced(amount_minor=prorated(line.amount_minor, self.part, self.whole), tax=line.tax)


WHOLE = Share(part=timedelta(1), whole=timedelta(1))


def exchanged(
    old: Sequence[Priced],
    old_discount: Discount | None,
    unused: Share,
    new: Sequence[Priced],
    new_discount: Discount | None,
    rest: Share,
) -> list[Priced]:
    """What changing items in the middle of a period is billed: the unused share of the old ones back, then the new ones' share.

    Amounts are those of whole periods. What is given back is what was paid, so both sides are taken after their discount; a
    change and its reversal at the same moment add up to nothing.
    """
    back = [unused.of(line) for line in net_of(old, old_discount)]
    return [
        *(Priced(amount_minor=-line.amount_minor, tax=line.tax) for line in back),
        *(rest.of(line) for line in net_of(new, new_discount)),
    ]


def totals(lines: Sequence[Priced], discount: Discount | None, credit_minor: int) -> Totals:
    """What an invoice over these lines asks for.

    Lines of a change may be negative and then have no discount; a negative total is what is owed to the customer.
    """
    whole = sum(line.amount_minor for line in lines)
    made: list[Line] = []
    upto = 0
    for line in lines:
        before, upto = upto, upto + line.amount_minor
        off = 0
        if discount is not None and whole > 0:
            if discount.percent_bp is not None:
                off = rounded(Fraction(line.amount_minor * discount.percent_bp, 10_000))
            else:
                most = min(discount.amount_minor or 0, whole)
                off = most * upto // whole - most * before // whole
        tax = taxed(line.amount_minor - off, line.tax)
        added = tax if line.tax is not None and not line.tax.inclusive else 0
        made.append(Line(amount_minor=line.amount_minor, discount_minor=off, tax_minor=tax, tax_added_minor=added))
    discounted = sum(line.discount_minor for line in made)
    tax_added = sum(line.tax_added_minor for line in made)
    total = whole - discounted + tax_added
    credit = min(credit_minor, max(total, 0))
    return Totals(
        lines=tuple(made),
        subtotal_minor=whole,
        discount_minor=discounted,
        tax_minor=sum(line.tax_minor for line in made),
        tax_added_minor=tax_added,
        total_minor=total,
        credit_used_minor=credit,
        due_minor=total - credit,
    )
