"""Dates and amounts of subscriptions: the pure rules, against independent ones and at the corners of the calendar."""

# ruff: noqa: DTZ001  (anchors are wall times)
from __future__ import annotations

import calendar
import itertools
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearspan.subscriptions.models import (
    Discount,
    Priced,
    Share,
    Tax,
    Unit,
    exchanged,
    net_of,
    period_of,
    period_start,
    prorated,
    rounded,
    taxed,
    totals,
    wall_anchor,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
moments = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
units = st.sampled_from(["day", "week", "month", "year"])
amounts = st.integers(0, 10**12)
taxes = st.none() | st.builds(Tax, name=st.just("VAT"), rate_bp=st.integers(0, 10_000), inclusive=st.booleans())
priced = st.builds(Priced, amount_minor=st.integers(0, 10**10), tax=taxes)
discounts = (
    st.none()
    | st.builds(Discount, percent_bp=st.integers(1, 10_000))
    | st.builds(Discount, amount_minor=st.integers(0, 10**10))
)


def local(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


# -- Dates ----------------------------------------------------------------------------------------------------------------------


def test_the_31st_is_cut_in_short_months_and_comes_back() -> None:
    anchor = datetime(2027, 1, 31, 10)
    starts = [period_start(anchor, "UTC", "month", 1, k) for k in range(14)]
    assert [(start.month, start.day) for start in starts] == [
        (1, 31), (2, 28), (3, 31), (4, 30), (5, 31), (6, 30), (7, 31), (8, 31), (9, 30), (10, 31), (11, 30), (12, 31),
        (1, 31), (2, 29),
    ]  # fmt: skip


def test_29_february_comes_every_year_and_in_leap_years_on_its_day() -> None:
    starts = [period_start(datetime(2024, 2, 29), "UTC", "year", 1, k) for k in range(6)]
    assert [(start.year, start.month, start.day) for start in starts] == [
        (2024, 2, 29), (2025, 2, 28), (2026, 2, 28), (2027, 2, 28), (2028, 2, 29), (2029, 2, 28),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "anchor", "skipped", "after"),
    [
        ("Europe/Berlin", datetime(2027, 2, 28, 2, 30), datetime(2027, 3, 28, 1, 30, tzinfo=UTC), 3),
        ("America/New_York", datetime(2027, 2, 14, 2, 30), datetime(2027, 3, 14, 7, 30, tzinfo=UTC), 3),
    ],
)
def test_a_time_that_a_spring_night_skips_is_an_hour_later_on_that_day_only(
    zone: str, anchor: datetime, skipped: datetime, after: int
) -> None:
    starts = [period_start(anchor, zone, "month", 1, k) for k in range(3)]
    assert starts[1] == skipped
    assert [local(start, zone).hour for start in starts] == [2, after, 2]


@pytest.mark.parametrize(
    ("zone", "anchor", "second"),
    [
        ("Europe/Berlin", datetime(2027, 9, 30, 2, 30), datetime(2027, 10, 31, 1, 30, tzinfo=UTC)),
        ("America/New_York", datetime(2027, 10, 7, 1, 30), datetime(2027, 11, 7, 6, 30, tzinfo=UTC)),
    ],
)
def test_a_time_that_an_autumn_night_repeats_is_the_second_of_the_two(
    zone: str, anchor: datetime, second: datetime
) -> None:
    day = anchor.replace(day=second.astimezone(ZoneInfo(zone)).day, month=anchor.month if anchor.day == 7 else 8)
    starts = [period_start(day, zone, "month", 1, k) for k in range(4)]
    assert second in starts


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["day", "week", "month", "year"])
def test_over_400_days_periods_meet_and_none_is_missed(zone: str, unit: Unit) -> None:
    anchor = datetime(2026, 12, 31, 2, 30)
    starts = [period_start(anchor, zone, unit, 1, k) for k in range(401)]
    assert all(a < b for a, b in itertools.pairwise(starts))
    moment, ends, seen = starts[0], starts[0] + timedelta(days=400), set()
    while moment < ends:
        k = period_of(anchor, zone, unit, 1, moment)
        assert starts[k] <= moment < starts[k + 1]
        seen.add(k)
        moment += timedelta(hours=11)
    assert seen == set(range(max(seen) + 1))
    if unit == "day":
        # Two nights a year have 23 or 25 hours where clocks change; the wall clock says the same each day but one.
        odd = [start for start in starts if local(start, zone).time() != anchor.time()]
        assert len(odd) <= 1


@settings(deadline=None)
@given(moments, st.sampled_from(ZONES), units, st.integers(1, 24), st.integers(-30, 60))
def test_the_period_of_its_start_is_itself(moment: datetime, zone: str, unit: Unit, count: int, k: int) -> None:
    anchor = local(moment, zone)
    start = period_start(anchor, zone, unit, count, k)
    assert period_of(anchor, zone, unit, count, start) == k
    assert period_of(anchor, zone, unit, count, start - timedelta(microseconds=1)) == k - 1


@settings(deadline=None)
@given(moments, st.sampled_from(ZONES), st.sampled_from(["month", "year"]), st.integers(1, 12), st.integers(1, 31))
def test_an_anchor_day_is_where_periods_begin(moment: datetime, zone: str, unit: Unit, count: int, day: int) -> None:
    anchor = wall_anchor(moment, zone, unit, count, day)
    begins = local(moment, zone)
    k = period_of(anchor, zone, unit, count, moment)
    following = local(period_start(anchor, zone, unit, count, k + 1), zone)
    last = calendar.monthrange(following.year, following.month)[1]
    assert following.day == min(day, last)
    if begins.day == day and unit == "month":
        # Who begins on the day itself has a whole period, at most an autumn hour longer.
        assert timedelta(0) <= moment - period_start(anchor, zone, unit, count, k) <= timedelta(hours=1)
    step = count * (12 if unit == "year" else 1)
    months = (following.year - begins.year) * 12 + following.month - begins.month
    assert 0 <= months <= step + 12


@settings(deadline=None)
@given(moments, st.integers(1, 31), st.integers(1, 12))
def test_an_anchor_in_a_month_begins_every_year_there(moment: datetime, day: int, month: int) -> None:
    if day > (29 if month == 2 else calendar.monthrange(2027, month)[1]):
        with pytest.raises(ValueError, match="there is no day"):
            wall_anchor(moment, "UTC", "year", 1, day, month)
        return
    anchor = wall_anchor(moment, "UTC", "year", 1, day, month)
    k = period_of(anchor, "UTC", "year", 1, moment)
    for years in (1, 2, 3, 4):
        start = period_start(anchor, "UTC", "year", 1, k + years)
        assert (start.month, start.day) == (month, min(day, calendar.monthrange(start.year, month)[1]))


@pytest.mark.parametrize(
    ("start", "count", "month", "anchor"),
    [
        (datetime(2027, 2, 28, 9, tzinfo=UTC), 1, None, datetime(2027, 1, 31, 9)),
        (datetime(2027, 4, 30, 9, tzinfo=UTC), 1, None, datetime(2027, 3, 31, 9)),
        (datetime(2027, 5, 3, 9, tzinfo=UTC), 1, None, datetime(2027, 5, 31, 9)),
        (datetime(2027, 5, 3, 9, tzinfo=UTC), 3, 1, datetime(2028, 1, 31, 9)),
    ],
)
def test_the_31st_as_an_anchor(start: datetime, count: int, month: int | None, anchor: datetime) -> None:
    assert wall_anchor(start, "UTC", "month", count, 31, month) == anchor


# -- Amounts --------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.fractions())
def test_halves_are_rounded_away_from_zero(exact: Fraction) -> None:
    made = rounded(exact)
    assert abs(made - exact) <= Fraction(1, 2)
    assert rounded(-exact) == -made
    if abs(made - exact) == Fraction(1, 2):
        assert abs(made) > abs(exact)


@settings(deadline=None)
@given(amounts, st.integers(1, 10**15), st.integers(0, 10**15))
def test_two_parts_of_a_period_are_the_whole_up_to_one_unit(amount: int, whole: int, part: int) -> None:
    part %= whole + 1
    us = timedelta(microseconds=1)
    shares = [prorated(amount, us * each, us * whole) for each in (part, whole - part)]
    assert abs(sum(shares) - amount) <= 1
    assert prorated(amount, us * whole, us * whole) == amount


@settings(deadline=None)
@given(st.lists(priced, max_size=6), discounts, st.integers(0, 10**11))
def test_an_invoice_adds_up(lines: list[Priced], discount: Discount | None, credit: int) -> None:
    made = totals(lines, discount, credit)
    assert made.subtotal_minor == sum(line.amount_minor for line in lines)
    assert made.discount_minor == sum(line.discount_minor for line in made.lines)
    assert made.tax_minor == sum(line.tax_minor for line in made.lines)
    assert made.total_minor == made.subtotal_minor - made.discount_minor + made.tax_added_minor
    assert 0 <= made.credit_used_minor <= min(credit, made.total_minor)
    assert made.due_minor == made.total_minor - made.credit_used_minor
    assert all(0 <= line.discount_minor <= line.amount_minor for line in made.lines)
    if discount is not None and discount.amount_minor is not None:
        assert made.discount_minor == min(discount.amount_minor, made.subtotal_minor), "its shares add up to it"


@settings(deadline=None)
@given(st.integers(-(10**10), 10**10), st.integers(0, 10_000))
def test_a_contained_tax_and_the_net_amount_are_the_price(price: int, rate_bp: int) -> None:
    inside = taxed(price, Tax(name="VAT", rate_bp=rate_bp, inclusive=True))
    on_top = taxed(price - inside, Tax(name="VAT", rate_bp=rate_bp, inclusive=False))
    assert abs(inside - on_top) <= 1
    assert taxed(-price, Tax(name="VAT", rate_bp=rate_bp)) == -inside
    assert taxed(price, None) == 0


@pytest.mark.parametrize(
    ("amount", "rate_bp", "inclusive", "tax"),
    [(11_900, 1900, True, 1900), (10_000, 1900, False, 1900), (1235, 1000, False, 124), (1235, 1000, True, 112)],
)
def test_taxes_by_hand(amount: int, rate_bp: int, inclusive: bool, tax: int) -> None:
    assert taxed(amount, Tax(name="VAT", rate_bp=rate_bp, inclusive=inclusive)) == tax


@settings(deadline=None)
@given(
    st.lists(priced, min_size=1, max_size=4), discounts, st.lists(priced, min_size=1, max_size=4), discounts,
    st.integers(0, 10**13), st.integers(1, 10**13),
)  # fmt: skip
def test_a_change_and_its_reversal_cancel(
    old: list[Priced], was: Discount | None, new: list[Priced], now: Discount | None, part: int, whole: int
) -> None:
    us = timedelta(microseconds=1)
    share = Share(part=us * (part % (whole + 1)), whole=us * whole)
    there = totals(exchanged(old, was, share, new, now, share), None, 0)
    back = totals(exchanged(new, now, share, old, was, share), None, 0)
    assert there.total_minor + back.total_minor == 0
    assert there.tax_minor + back.tax_minor == 0
    assert there.subtotal_minor + back.subtotal_minor == 0


@settings(deadline=None)
@given(st.lists(priced, min_size=1, max_size=4), discounts)
def test_giving_back_a_whole_period_gives_back_what_it_cost(lines: list[Priced], discount: Discount | None) -> None:
    whole = Share(part=timedelta(days=30), whole=timedelta(days=30))
    cost = totals(lines, discount, 0)
    given_back = totals(exchanged(lines, discount, whole, [], None, whole), None, 0)
    assert given_back.total_minor == -cost.total_minor
    assert sum(line.amount_minor for line in net_of(lines, discount)) == cost.subtotal_minor - cost.discount_minor


@settings(deadline=None)
@given(priced, st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_no_road_of_changes_makes_money(line: Priced, cuts: list[int]) -> None:
    """Changing to and fro all period long costs what staying costs, up to the rounding of each change."""
    us, whole = timedelta(microseconds=1), 10**9
    total = totals([line], None, 0).total_minor
    for cut in cuts:
        share = Share(part=us * cut, whole=us * whole)
        for old, new in (([line], [Priced(amount_minor=0)]), ([Priced(amount_minor=0)], [line])):
            total += totals(exchanged(old, None, share, new, None, share), None, 0).total_minor
    assert total == totals([line], None, 0).total_minor
