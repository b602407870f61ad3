"""The scheduler's SQL makes of a subscription what the pure model says: the same dates, lines, sums and next date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.core.planning.conftest import Register

from clearspan.platform import clock, sqlbundle
from clearspan.subscriptions.models import Discount, Priced, Tax, period_of, period_start, totals

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
)
ANCHORS = st.datetimes(datetime(2015, 1, 1), datetime(2032, 12, 31))  # noqa: DTZ001  (wall times have no zone)
PERIODS = st.tuples(st.sampled_from(["day", "week", "month", "year"]), st.integers(1, 13))
TAXES = st.one_of(
    st.none(),
    st.fixed_dictionaries({"name": st.just("VAT"), "rate_bp": st.integers(0, 3000), "inclusive": st.booleans()}),
)
ITEMS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 99_999), TAXES), min_size=1, max_size=4)
COUPONS = st.one_of(
    st.none(),
    st.fixed_dictionaries({"percent_bp": st.integers(1, 10_000)}),
    st.fixed_dictionaries({"amount_minor": st.integers(1, 200_000)}),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANCHORS, st.sampled_from(ZONES), PERIODS, st.integers(-40, 400))
@example(datetime(2026, 1, 31, 2, 30), "Europe/Berlin", ("month", 1), 14)  # noqa: DTZ001
@example(datetime(2026, 3, 29, 2, 30), "Europe/Berlin", ("day", 1), 0)  # noqa: DTZ001  (this wall time does not exist)
@example(datetime(2026, 10, 25, 2, 30), "Europe/Berlin", ("day", 1), 0)  # noqa: DTZ001  (and this one comes twice)
@example(datetime(2024, 2, 29, 12, 0), "America/New_York", ("year", 1), 3)  # noqa: DTZ001
async def test_database_and_model_agree_when_a_period_begins(
    owner: asyncpg.Connection[asyncpg.Record], anchor: datetime, zone: str, period: tuple[Any, int], k: int
) -> None:
    unit, count = period
    function = sqlbundle.name("subscription_period")
    said = await owner.fetchval(f"SELECT {function}($1, $2, $3, $4, $5)", anchor, zone, unit, count, k)
    assert said == period_start(anchor, zone, unit, count, k)


@settings(max_examples=300, deadline=None)
@given(ANCHORS, st.sampled_from(ZONES), PERIODS, st.datetimes(datetime(2014, 1, 1), datetime(2034, 1, 1)))  # noqa: DTZ001
def test_each_moment_lies_in_exactly_one_period(
    anchor: datetime, zone: str, period: tuple[Any, int], at: datetime
) -> None:
    unit, count = period
    moment = at.replace(tzinfo=UTC)
    k = period_of(anchor, zone, unit, count, moment)
    assert period_start(anchor, zone, unit, count, k) <= moment < period_start(anchor, zone, unit, count, k + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ITEMS, COUPONS, st.integers(0, 300_000), st.sampled_from(ZONES), PERIODS)
async def test_database_and_model_agree_on_every_amount(
    register: Register, items: list[Any], coupon: dict[str, int] | None, credit: int, zone: str, period: tuple[Any, int]
) -> None:
    unit, count = period
    columns: dict[str, Any] = {"credit_minor": credit}
    now = clock.now()
    if coupon is not None:
        columns["coupon_id"] = clock.new_uuid()
        columns["discount_periods_left"] = 1
        await register.store(
            "coupons",
            coupon_id=columns["coupon_id"],
            code=f"C{clock.random_bytes(6).hex()}",
            name="Coupon",
            percent_bp=coupon.get("percent_bp"),
            amounts=f'{{"EUR": {coupon["amount_minor"]}}}' if "amount_minor" in coupon else None,
            duration="once",
            created_at=now,
            updated_at=now,
        )
    anchor = datetime(2026, 1, 31, 8, 15)  # noqa: DTZ001
    subscription = await register.subscription(anchor=anchor, zone=zone, unit=unit, count=count, items=items, **columns)
    before = await register.read(subscription)
    await register.run(before["next_at"])
    after = await register.read(subscription)
    await register.change(subscription, next_at=None)  # one merchant serves all examples

    lines = [
        Priced(amount_minor=quantity * price, tax=None if tax is None else Tax(**tax)) for quantity, price, tax in items
    ]
    expected = totals(lines, None if coupon is None else Discount(**coupon), credit)
    (invoice,) = await register.invoices(subscription)
    for name in ("subtotal", "discount", "tax", "tax_added", "total", "credit_used", "due"):
        assert invoice[f"{name}_minor"] == getattr(expected, f"{name}_minor"), name
    assert invoice["status"] == ("open" if expected.due_minor else "paid")
    rows = await register.ask(
        "SELECT * FROM invoice_lines WHERE invoice_id = $1 ORDER BY position", invoice["invoice_id"]
    )
    assert [(row["amount_minor"], row["discount_minor"], row["tax_minor"]) for row in rows] == [
        (line.amount_minor, line.discount_minor, line.tax_minor) for line in expected.lines
    ]
    assert after["credit_minor"] == credit - expected.credit_used_minor
    assert after["next_at"] == period_start(anchor, zone, unit, count, 2)
    assert (invoice["period_start"], invoice["period_end"]) == (before["next_at"], after["next_at"])
    assert after["discount_periods_left"] == (None if coupon is None else 0)
    rebills = await register.ask("SELECT state FROM rebills WHERE invoice_id = $1", invoice["invoice_id"])
    # Without a mandate nothing can be charged: the dunning plan decides at once.
    assert [row["state"] for row in rebills] == (["decide"] if expected.due_minor else [])


@pytest.mark.parametrize(
    ("anchor", "zone", "unit", "starts"),
    [
        ("2026-01-31 00:00", "UTC", "month", ["01-31", "02-28", "03-31", "04-30", "05-31"]),
        ("2024-01-30 00:00", "UTC", "month", ["01-30", "02-29", "03-30"]),
        ("2024-02-29 00:00", "UTC", "year", ["02-29", "02-28", "02-28", "02-28", "02-29"]),
        # 02:30 does not exist on 29 March 2026 and comes twice on 25 October.
        ("2026-03-28 02:30", "Europe/Berlin", "day", ["03-28T01:30", "03-29T01:30", "03-30T00:30"]),
        ("2026-10-24 02:30", "Europe/Berlin", "day", ["10-24T00:30", "10-25T01:30", "10-26T01:30"]),
        ("2026-03-07 02:30", "America/New_York", "day", ["03-07T07:30", "03-08T07:30", "03-09T06:30"]),
        ("2026-10-31 01:30", "America/New_York", "day", ["10-31T05:30", "11-01T06:30", "11-02T06:30"]),
    ],
)
def test_ends_of_months_leap_days_and_both_daylight_saving_nights(
    anchor: str, zone: str, unit: Any, starts: list[str]
) -> None:
    made = [period_start(datetime.fromisoformat(anchor), zone, unit, 1, k) for k in range(len(starts))]
    assert [moment.isoformat()[5 : 5 + len(start)] for moment, start in zip(made, starts, strict=True)] == starts


async def test_missed_periods_get_an_invoice_each_and_only_the_newest_is_charged(register: Register) -> None:
    subscription = await register.subscription(anchor=datetime(2026, 1, 31))  # noqa: DTZ001
    assert await register.run(datetime(2026, 6, 15, tzinfo=UTC)) == 4
    invoices = await register.invoices(subscription)
    assert [one["period_start"].strftime("%m-%d") for one in invoices] == ["02-28", "03-31", "04-30", "05-31"]
    assert [one["collection"] for one in invoices] == ["held", "held", "held", "automatic"]
    rebills = await register.ask("SELECT invoice_id FROM rebills WHERE subscription_id = $1", subscription)
    assert [one["invoice_id"] for one in rebills] == [invoices[-1]["invoice_id"]]
    assert await register.run(datetime(2026, 6, 15, tzinfo=UTC)) == 0


async def test_a_tenant_may_choose_that_all_missed_periods_are_charged(register: Register) -> None:
    await register.store("billing_settings", catch_up="all", updated_at=clock.now())
    subscription = await register.subscription(anchor=datetime(2026, 1, 31))  # noqa: DTZ001
    await register.run(datetime(2026, 6, 15, tzinfo=UTC))
    assert {one["collection"] for one in await register.invoices(subscription)} == {"automatic"}


async def test_numbers_have_no_gaps_and_follow_the_order_of_the_periods(register: Register) -> None:
    for day in (3, 1, 2):
        await register.subscription(anchor=datetime(2026, 1, day))  # noqa: DTZ001
    await register.run(datetime(2026, 3, 31, tzinfo=UTC))
    rows = await register.ask("SELECT number, period_start FROM invoices ORDER BY number")
    assert [row["number"] for row in rows] == [f"INV-{number:06d}" for number in range(1, 7)]
    assert rows[0]["period_start"] < rows[1]["period_start"] < rows[2]["period_start"]


async def test_the_millionth_number_has_seven_digits_and_is_new(register: Register) -> None:
    one, other = [await register.subscription(anchor=datetime(2026, 1, day)) for day in (5, 6)]  # noqa: DTZ001
    await register.ask(
        "INSERT INTO billing_settings (tenant_id, live, invoice_next, updated_at) VALUES ($1, $2, 999999, $3)"
        " ON CONFLICT (tenant_id, live) DO UPDATE SET invoice_next = 999999",
        register.scope.tenant_id,
        register.scope.live,
        clock.now(),
    )
    for month in (2, 3):
        await register.run(datetime(2026, month, 10, tzinfo=UTC))
    numbers = [row["number"] for each in (one, other) for row in await register.invoices(each)]
    assert numbers == ["INV-999999", "INV-1000001", "INV-1000000", "INV-1000002"]


async def test_what_ends_pauses_resumes_or_waits_for_a_change_is_billed_accordingly(register: Register) -> None:
    anchor, at = datetime(2026, 1, 15), datetime(2026, 4, 20, tzinfo=UTC)  # noqa: DTZ001
    ending = await register.subscription(anchor=anchor, cancel_at_period_end=True)
    cut = await register.subscription(anchor=anchor, cancel_at=datetime(2026, 3, 1, tzinfo=UTC))
    paused = await register.subscription(
        anchor=anchor,
        status="paused",
        paused_at=at,
        status_before_pause="active",
        next_at=datetime(2026, 2, 15, tzinfo=UTC),
    )
    back = await register.subscription(
        anchor=anchor,
        status="paused",
        paused_at=at,
        status_before_pause="active",
        resume_at=datetime(2026, 3, 20, tzinfo=UTC),
    )
    unpaid = await register.subscription(anchor=anchor, status="unpaid")
    plus = {"item_id": clock.new_uuid(), "plan_id": register.plan, "description": "Plus", "quantity": 2}
    plus |= {"unit_amount_minor": 700, "tax": None}
    changed = await register.subscription(
        anchor=anchor,
        pending_change=msgspec.json.encode({"items": [plus]}).decode(),
    )
    await register.run(at)

    async def billed(subscription: Any) -> list[tuple[str, int]]:
        return [
            (one["period_start"].strftime("%m-%d"), one["total_minor"]) for one in await register.invoices(subscription)
        ]

    assert await billed(ending) == []
    assert (await register.read(ending))["status"] == "canceled"
    assert await billed(cut) == [("02-15", 900)]
    assert (await register.read(cut))["ended_at"] == datetime(2026, 3, 1, tzinfo=UTC)
    assert await billed(paused) == []
    assert await billed(back) == [("04-15", 900)]
    assert (await register.read(back))["status"] == "active"
    assert await billed(unpaid) == []
    assert (await register.read(unpaid))["period_no"] == 3
    assert await billed(changed) == [("02-15", 1400), ("03-15", 1400), ("04-15", 1400)]


async def test_a_trial_ends_in_the_first_invoice(register: Register) -> None:
    anchor = datetime(2026, 2, 1)  # noqa: DTZ001
    subscription = await register.subscription(
        anchor=anchor,
        status="trialing",
        begins=datetime(2026, 1, 10, tzinfo=UTC),
        trial_end_at=datetime(2026, 2, 1, tzinfo=UTC),
        mandate_id=None,
    )
    await register.run(datetime(2026, 2, 1, tzinfo=UTC) - timedelta(microseconds=1))
    assert await register.invoices(subscription) == []
    await register.run(datetime(2026, 2, 1, tzinfo=UTC))
    (invoice,) = await register.invoices(subscription)
    assert (invoice["period_start"], invoice["period_end"]) == (
        datetime(2026, 2, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
    )
    assert (await register.read(subscription))["status"] == "active"
    events = await register.ask("SELECT type FROM journal WHERE subject_id = $1", subscription)
    assert [one["type"] for one in events] == ["subscription.activated"]


async def test_what_hangs_on_a_test_clock_is_planned_by_that_clock_only(register: Register) -> None:
    clock_id, at = clock.new_uuid(), datetime(2026, 3, 1, tzinfo=UTC)
    await register.store("test_clocks", test_clock_id=clock_id, name="A year", now_at=at, created_at=at, updated_at=at)
    subscription = await register.subscription(anchor=datetime(2026, 1, 31), test_clock_id=clock_id)  # noqa: DTZ001
    assert await register.run(datetime(2030, 1, 1, tzinfo=UTC)) == 0
    assert await register.run(at, test_clock_id=clock_id) == 1
    assert len(await register.invoices(subscription)) == 1
