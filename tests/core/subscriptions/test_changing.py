"""Changing items: proration to the microsecond, what is charged or credited, and when a change is refused."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.payments.conftest import approve, later, unclear
from tests.core.subscriptions.conftest import Sales, challenge, decline
from tests.shop import Json, code

from clearspan.platform import clock, ids
from clearspan.subscriptions.models import rounded

if TYPE_CHECKING:
    from clearspan.app import Gateway


def rest(subscription: Json, at: str) -> Fraction:
    """The unused share of the period."""
    period = subscription["current_period"]
    starts, ends = datetime.fromisoformat(period["start"]), datetime.fromisoformat(period["end"])
    us = timedelta(microseconds=1)
    return Fraction((ends - datetime.fromisoformat(at)) // us, (ends - starts) // us)


async def test_an_upgrade_bills_the_difference_for_the_rest_of_the_period(sales: Sales) -> None:
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 3000}))
    await sales.shift(made, "10 days 3 hours")
    made = await sales.get(made)
    items = [{"plan": await sales.plan(amounts={"EUR": 9000}, name="Pro")}]
    preview = (await sales.act(made, "preview", items=items)).json()
    share = rest(made, preview["at"])
    assert [line["amount_minor"] for line in preview["lines"]] == [-rounded(3000 * share), rounded(9000 * share)]
    assert preview["total_minor"] == preview["due_minor"] == rounded(9000 * share) - rounded(3000 * share)
    answer = await sales.act(made, "change", items=items, at=preview["at"])
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert changed["latest_invoice"]["reason"] == "change"
    assert changed["latest_invoice"]["due_minor"] == preview["due_minor"]
    assert changed["items"][0]["unit_amount_minor"] == 9000
    assert changed["current_period"] == made["current_period"]
    rebills = await sales.rows("SELECT state FROM rebills WHERE subscription_id = $1", made)
    assert [row["state"] for row in rebills] == ["due"], "the collector charges it under the mandate"
    assert sales.puppet.verbs == ["create_intent"]
    assert [line["amount_minor"] for line in await sales.lines(made)][1:] == [
        line["amount_minor"] for line in preview["lines"]
    ]


async def test_a_customer_who_is_present_is_charged_at_once(sales: Sales) -> None:
    made = await sales.subscribed()
    items = [{"plan": await sales.plan(amounts={"EUR": 90_000})}]
    sales.puppet.does = challenge
    answer = await sales.act(made, "change", items=items, customer_present=True, key="k-1")
    payment = answer.json()["latest_invoice"]["payment"]
    assert payment["status"] == "requires_action", answer.text
    assert sales.puppet.calls[-1][1].customer_present
    assert (await sales.act(made, "change", items=items, customer_present=True, key="k-1")).content == answer.content
    assert len(sales.puppet.calls) == 2
    sales.puppet.does = approve
    await sales.shop.act(payment, "continue")
    found = await sales.get(made)
    assert (found["latest_invoice"]["status"], found["status"]) == ("paid", "active")
    rebills = await sales.rows("SELECT state FROM rebills WHERE subscription_id = $1", made)
    assert [row["state"] for row in rebills] == ["settled"]


async def test_what_a_customer_could_not_pay_himself_is_collected_later(sales: Sales) -> None:
    made = await sales.subscribed()
    sales.puppet.does = decline
    items = [{"plan": await sales.plan(amounts={"EUR": 90_000})}]
    answer = await sales.act(made, "change", items=items, customer_present=True)
    assert answer.json()["latest_invoice"]["payment"]["last_error"]["code"] == "do_not_honor"
    (rebill,) = await sales.rows("SELECT state, next_at FROM rebills WHERE subscription_id = $1", made)
    assert rebill["state"] == "waiting"
    assert rebill["next_at"] > clock.now()


async def test_a_downgrade_becomes_credit_and_the_next_invoice_uses_it_up(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 9000}))
    items = [{"plan": await sales.plan(amounts={"EUR": 3000}), "quantity": 1}]
    preview = (await sales.act(made, "preview", items=items)).json()
    assert (preview["total_minor"], preview["due_minor"]) == (-preview["credit_added_minor"], 0)
    changed = (await sales.act(made, "change", items=items, at=preview["at"])).json()
    assert changed["credit_minor"] == preview["credit_added_minor"] >= 5999
    assert changed["latest_invoice"]["reason"] == "first"
    with later(days=63):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    invoices = (await sales.invoices(made))[1:]
    assert [row["credit_used_minor"] for row in invoices][:2] == [3000, changed["credit_minor"] - 3000]
    assert (await sales.get(made))["credit_minor"] == 0


async def test_a_change_and_its_reversal_at_one_moment_cancel(sales: Sales) -> None:
    tax = {"name": "VAT", "rate_bp": 1900, "inclusive": False}
    low, high = await sales.plan(amounts={"EUR": 3333}, tax=tax), await sales.plan(amounts={"EUR": 7777}, tax=tax)
    made = await sales.subscribed(high, coupon=await sales.coupon(percent_bp=3333, duration="forever"))
    await sales.shift(made, "7 days 5 hours 11.123457 seconds")
    down = (await sales.act(made, "change", items=[{"plan": low}])).json()
    assert down["credit_minor"] > 0
    (event,) = await sales.rows(
        "SELECT data FROM journal WHERE subject_id = $1 AND type = 'subscription.changed'", made
    )
    at = (
        await sales.rows(
            "SELECT data->>'effective_at' AS at FROM journal WHERE subject_id = $1 AND type = 'subscription.changed'",
            made,
        )
    )[0]["at"]
    back = (await sales.act(made, "preview", items=[{"plan": high}], at=at)).json()
    assert back["total_minor"] == back["credit_used_minor"] == down["credit_minor"], event
    assert back["due_minor"] == 0
    again = (await sales.act(made, "change", items=[{"plan": high}], at=at)).json()
    assert again["credit_minor"] == 0
    assert again["latest_invoice"]["status"] == "paid"


async def test_what_is_given_back_is_what_was_paid(sales: Sales) -> None:
    half = await sales.coupon(percent_bp=5000)
    tax = {"name": "VAT", "rate_bp": 2000, "inclusive": False}
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 10_000}, tax=tax), coupon=half)
    assert made["latest_invoice"]["total_minor"] == 6000
    nothing = await sales.plan(amounts={"EUR": 0})
    preview = (await sales.act(made, "preview", items=[{"plan": nothing}], at=made["current_period"]["start"])).json()
    assert preview["credit_added_minor"] == 6000


async def test_more_of_the_same_bills_what_comes_on_top(sales: Sales) -> None:
    base, seat = await sales.plan(), await sales.plan(amounts={"EUR": 1000}, name="Seat")
    made = await sales.subscribed(items=[{"plan": base}, {"plan": seat}])
    items = [{"plan": base}, {"plan": seat, "quantity": 3}]
    preview = (await sales.act(made, "preview", items=items, at=made["current_period"]["start"])).json()
    assert [line["amount_minor"] for line in preview["lines"]] == [-1000, 3000], "what stays is not shown"


async def test_another_interval_begins_its_period_now(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 3000}))
    await sales.shift(made, "15 days")
    made = await sales.get(made)
    items = [{"plan": await sales.plan(amounts={"EUR": 30_000}, interval={"unit": "year"})}]
    preview = (await sales.act(made, "preview", items=items)).json()
    assert preview["total_minor"] == 30_000 - rounded(3000 * rest(made, preview["at"]))
    changed = (await sales.act(made, "change", items=items, at=preview["at"])).json()
    assert changed["interval"] == {"unit": "year", "count": 1}
    starts = datetime.fromisoformat(preview["at"])
    assert changed["current_period"]["start"] == preview["at"]
    assert datetime.fromisoformat(changed["current_period"]["end"]) == starts.replace(year=starts.year + 1)
    with later(days=400):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    assert [row["total_minor"] for row in await sales.invoices(made)][-1] == 30_000
    assert len(await sales.invoices(made)) == 3


@pytest.mark.parametrize("unit", ["month", "year"])
async def test_a_change_at_the_periods_end_waits_for_it(sales: Sales, worker: Gateway, unit: str) -> None:
    made = await sales.subscribed()
    items = [{"plan": await sales.plan(amounts={"EUR": 100}, interval={"unit": unit})}]
    changed = (await sales.act(made, "change", items=items, proration="at_period_end")).json()
    assert changed["items"] == made["items"]
    assert changed["pending_change"]["items"][0]["unit_amount_minor"] == 100
    assert changed["pending_change"]["interval"]["unit"] == unit
    with later(days=32):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
        found = await sales.get(made)
    assert (found["pending_change"], found["interval"]["unit"]) == (None, unit)
    assert [row["total_minor"] for row in await sales.invoices(made)] == [900, 100]
    ends = datetime.fromisoformat(found["current_period"]["end"])
    assert (ends - datetime.fromisoformat(found["current_period"]["start"]) > timedelta(days=300)) == (unit == "year")


async def test_without_proration_nothing_is_billed_now(sales: Sales) -> None:
    made = await sales.subscribed()
    year = await sales.plan(interval={"unit": "year"})
    refused = await sales.act(made, "change", items=[{"plan": year}], proration="none")
    assert code(refused) == (422, "invalid_request")
    items = [{"plan": await sales.plan(amounts={"EUR": 5000})}]
    changed = (await sales.act(made, "change", items=items, proration="none")).json()
    assert (changed["items"][0]["unit_amount_minor"], changed["credit_minor"]) == (5000, 0)
    assert len(await sales.invoices(made)) == 1


async def test_a_trial_changes_for_nothing(sales: Sales, worker: Gateway) -> None:
    made = (await sales.subscribe(trial_days=10)).json()
    items = [{"plan": await sales.plan(amounts={"EUR": 5000}, interval={"unit": "year"})}]
    changed = (await sales.act(made, "change", items=items)).json()
    assert (changed["status"], changed["latest_invoice"]) == ("trialing", None)
    with later(days=11):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    (invoice,) = await sales.invoices(made)
    assert invoice["total_minor"] == 5000
    assert invoice["period_end"] - invoice["period_start"] > timedelta(days=364)


async def test_taxes_of_both_sides_are_kept_apart(sales: Sales) -> None:
    on_top = {"name": "VAT", "rate_bp": 2500, "inclusive": False}
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 10_000}))
    items = [{"plan": await sales.plan(amounts={"EUR": 9000}, tax=on_top)}]
    at = made["current_period"]["start"]
    changed = (await sales.act(made, "change", items=items, at=at)).json()
    invoice = changed["latest_invoice"]
    assert (invoice["subtotal_minor"], invoice["tax_minor"], invoice["total_minor"]) == (-1000, 2250, 1250)


async def test_a_change_while_a_charge_is_under_way_or_unknown_is_refused(sales: Sales) -> None:
    made = await sales.subscribed()
    items = [{"plan": await sales.plan(amounts={"EUR": 90_000})}]
    sales.puppet.does = unclear
    answer = await sales.act(made, "change", items=items, customer_present=True)
    assert answer.status_code == 202
    for what in ("change", "preview"):
        assert code(await sales.act(made, what, items=items)) == (409, "subscription_charge_unknown")
    other = await sales.subscribed_with(approve)
    sales.puppet.does = challenge
    await sales.act(other, "change", items=items, customer_present=True)
    assert code(await sales.act(other, "change", items=items)) == (409, "subscription_charge_in_progress")


@pytest.mark.parametrize("what", ["change", "preview", "pause", "cancel", "uncancel", "resume"])
async def test_on_a_canceled_subscription_everything_is_refused(sales: Sales, what: str) -> None:
    made = await sales.subscribed()
    await sales.act(made, "cancel", at="now")
    fields: dict[str, Any] = {"items": [{"plan": await sales.plan()}]} if what in ("change", "preview") else {}
    assert code(await sales.act(made, what, **fields)) == (409, "subscription_canceled")


async def test_an_incomplete_or_paused_one_does_not_change(sales: Sales) -> None:
    plan = await sales.plan()
    paused = await sales.subscribed(plan)
    await sales.act(paused, "pause")
    sales.puppet.does = decline
    incomplete = (await sales.subscribe(plan)).json()
    for made in (paused, incomplete):
        assert code(await sales.act(made, "change", items=[{"plan": plan}])) == (409, "subscription_status")


async def test_a_moment_outside_the_period_is_refused(sales: Sales) -> None:
    made, plan = await sales.subscribed(), await sales.plan()
    for at in (clock.now() + timedelta(minutes=5), clock.now() - timedelta(days=1)):
        refused = await sales.act(made, "preview", items=[{"plan": plan}], at=at.isoformat())
        assert code(refused) == (422, "invalid_request")


async def test_two_changes_at_once_happen_one_after_the_other(sales: Sales) -> None:
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 9000}))
    cheap = await sales.plan(amounts={"EUR": 1000})
    at = made["current_period"]["start"]
    answers = await asyncio.gather(*(sales.act(made, "change", items=[{"plan": cheap}], at=at) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert (await sales.get(made))["credit_minor"] == 8000


async def test_updates_change_what_is_not_billed(sales: Sales) -> None:
    made = await sales.subscribed(description="a", metadata={"a": "1"})
    path = f"/v1/subscriptions/{made['id']}"
    found = (await sales.shop.http.patch(path, json={"description": None, "metadata": {"b": "2"}})).json()
    assert (found["description"], found["metadata"]) == (None, {"b": "2"})
    coupon = await sales.coupon(duration="forever")
    assert (await sales.shop.http.patch(path, json={"coupon": coupon})).json()["discount"]["periods_left"] is None
    assert (await sales.shop.http.patch(path, json={"coupon": None})).json()["discount"] is None
    card = await sales.card()
    refused = await sales.shop.http.patch(path, json={"payment_method": card})
    assert code(refused) == (409, "mandate_missing")
    refused = await sales.shop.http.patch(path, json={"payment_method": card, "mandate": made["mandate"]})
    assert code(refused) == (409, "mandate_not_fitting")
    other = await sales.subscribed(payment_method=card)
    found = (await sales.shop.http.patch(path, json={"mandate": other["mandate"]})).json()
    assert (found["payment_method"], found["mandate"]) == (card, other["mandate"])
    assert ids.decode("sub", found["id"])
