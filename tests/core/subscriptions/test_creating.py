"""Subscribing a customer: the first invoice, its charge, the verification of a mandate, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from tests.core.payments.conftest import approve, later, unclear
from tests.core.subscriptions.conftest import Sales, challenge, decline
from tests.shop import Shop, code

from clearspan.payments.service import Payments
from clearspan.platform import clock, ids
from clearspan.subscriptions.models import prorated

if TYPE_CHECKING:
    from clearspan.app import Gateway


async def test_the_first_invoice_is_charged_and_activates_subscription_and_mandate(sales: Sales) -> None:
    plan = await sales.plan(setup_fees={"EUR": 500})
    answer = await sales.subscribe(plan)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["status"], made["latest_invoice"]["status"]) == ("active", "paid")
    assert made["latest_invoice"]["reason"] == "first"
    assert made["latest_invoice"]["total_minor"] == 1400
    assert made["latest_invoice"]["payment"]["status"] == "succeeded"
    assert sales.puppet.verbs == ["create_intent"]
    assert sales.puppet.calls[0][1].customer_present
    mandates = await sales.rows(
        "SELECT * FROM mandates JOIN subscriptions USING (mandate_id) WHERE subscription_id = $1", made
    )
    assert [row["activated_at"] is not None for row in mandates] == [True]
    assert await sales.events(made) == ["subscription.created", "subscription.activated"]
    assert [line["kind"] for line in await sales.lines(made)] == ["period", "setup_fee"]


async def test_a_declined_first_charge_leaves_it_incomplete_and_says_so(sales: Sales) -> None:
    sales.puppet.does = decline
    made = (await sales.subscribe()).json()
    assert (made["status"], made["latest_invoice"]["status"]) == ("incomplete", "open")
    assert made["latest_invoice"]["payment"]["last_error"]["code"] == "do_not_honor"
    assert made["incomplete_until"] is not None
    assert made["next_invoice_at"] is None


async def test_an_incomplete_one_expires_and_its_invoice_is_void(sales: Sales, worker: Gateway) -> None:
    sales.puppet.does = decline
    made = (await sales.subscribe()).json()
    with later(days=3):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    found = await sales.get(made)
    assert (found["status"], found["latest_invoice"]["status"]) == ("incomplete_expired", "void")
    assert await sales.events(made) == ["subscription.created", "subscription.incomplete_expired"]


async def test_an_action_of_the_customer_is_in_the_answer(sales: Sales) -> None:
    sales.puppet.does = challenge
    made = (await sales.subscribe(return_url="https://shop.example/back")).json()
    payment = made["latest_invoice"]["payment"]
    assert (made["status"], payment["status"]) == ("incomplete", "requires_action")
    assert payment["next_action"]["url"] == "https://bank.test/"
    sales.puppet.does = approve
    done = await sales.shop.act(payment, "continue")
    assert done.json()["status"] == "succeeded", done.text
    assert (await sales.get(made))["status"] == "active"


async def test_an_unknown_outcome_answers_202_and_a_late_success_activates(sales: Sales) -> None:
    sales.puppet.does = unclear
    answer = await sales.subscribe()
    made = answer.json()
    assert answer.status_code == 202
    assert (made["status"], made["latest_invoice"]["payment_locked"]) == ("incomplete", True)
    assert made["latest_invoice"]["payment"]["outcome"] == "unknown"


async def test_the_same_key_gives_the_same_bytes_and_one_charge(sales: Sales) -> None:
    plan = await sales.plan()
    first = await sales.subscribe(plan, key="k-1")
    again = await sales.subscribe(plan, key="k-1")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert sales.puppet.verbs == ["create_intent"]
    other = await sales.subscribe(plan, key="k-1", description="another")
    assert code(other) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("died", ["before the charge", "in the charge"])
async def test_a_repetition_after_a_crash_goes_on_and_nothing_is_charged_twice(sales: Sales, died: str) -> None:
    plan = await sales.plan()
    if died == "before the charge":

        async def never(*_: Any) -> Any:
            raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Payments, "collect", never)
            with pytest.raises(asyncio.CancelledError):
                await sales.subscribe(plan, key="k-2")
    else:
        sales.puppet.does = unclear
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clearspan.subscriptions.service.finish", _dead)
            with pytest.raises(asyncio.CancelledError):
                await sales.subscribe(plan, key="k-2")
    assert code(await sales.subscribe(plan, key="k-2")) == (409, "idempotency_key_in_flight")
    sales.puppet.does = approve
    with later(minutes=2):
        answer = await sales.subscribe(plan, key="k-2")
        assert answer.status_code in (201, 202), answer.text
        again = await sales.subscribe(plan, key="k-2")
    assert again.content == answer.content
    made = answer.json()
    assert len(await sales.rows("SELECT 1 FROM invoices WHERE subscription_id = $1", made)) == 1
    assert sales.puppet.verbs.count("create_intent") == 1
    listed = (await sales.shop.http.get("/v1/subscriptions")).json()
    assert len(listed["data"]) == 1


async def _dead(*_: Any) -> Any:
    raise asyncio.CancelledError


async def test_a_trial_is_confirmed_by_a_payment_of_nothing(sales: Sales) -> None:
    plan = await sales.plan(trial_days=14)
    made = (await sales.subscribe(plan)).json()
    assert made["status"] == "trialing", made
    assert made["latest_invoice"] is None
    assert (made["verification"]["amount_minor"], made["verification"]["status"]) == (0, "succeeded")
    assert [request.amount.amount_minor for _, request in sales.puppet.calls] == [0]
    assert not sales.puppet.calls[0][1].capture
    assert made["next_invoice_at"] == made["trial_end_at"]
    notices = await sales.rows("SELECT kind, due_at FROM notices WHERE subscription_id = $1", made)
    assert [row["kind"] for row in notices] == ["trial_ending"]
    assert notices[0]["due_at"] == datetime.fromisoformat(made["trial_end_at"]) - timedelta(days=3)


async def test_a_trial_whose_verification_is_declined_does_not_begin(sales: Sales) -> None:
    sales.puppet.does = decline
    made = (await sales.subscribe(trial_days=7)).json()
    assert (made["status"], made["verification"]["last_error"]["code"]) == ("incomplete", "do_not_honor")


async def test_a_trial_that_waits_for_the_bank_begins_with_its_answer(sales: Sales) -> None:
    sales.puppet.does = challenge
    made = (await sales.subscribe(trial_days=7)).json()
    assert (made["status"], made["verification"]["status"]) == ("incomplete", "requires_action")
    sales.puppet.does = approve
    await sales.shop.act(made["verification"], "continue")
    assert (await sales.get(made))["status"] == "trialing"


async def test_setup_fees_are_charged_before_the_trial(sales: Sales) -> None:
    plan = await sales.plan(trial_days=14, setup_fees={"EUR": 500})
    made = (await sales.subscribe(plan)).json()
    assert (made["status"], made["latest_invoice"]["total_minor"]) == ("trialing", 500)
    assert made["verification"] is None


async def test_after_the_trial_the_first_period_is_billed_in_full(sales: Sales, worker: Gateway) -> None:
    made = (await sales.subscribe(trial_days=14)).json()
    with later(days=14, minutes=1):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    found = await sales.get(made)
    assert (found["status"], found["latest_invoice"]["total_minor"]) == ("active", 900)
    assert found["current_period"]["start"] == made["trial_end_at"]


async def test_without_a_payment_method_the_invoice_waits_for_the_customer(sales: Sales) -> None:
    answer = await sales.subscribe(payment_method=None, mandate=None)
    made = answer.json()
    assert (answer.status_code, made["status"]) == (201, "active")
    assert (made["latest_invoice"]["status"], made["latest_invoice"]["payment"]) == ("open", None)
    assert [row["state"] for row in await sales.rows("SELECT state FROM rebills WHERE subscription_id = $1", made)] == [
        "decide"
    ]
    assert sales.puppet.calls == []


async def test_an_active_mandate_is_used_again(sales: Sales) -> None:
    first = await sales.subscribed()
    second = (await sales.subscribe(mandate=first["mandate"])).json()
    assert (second["status"], second["mandate"]) == ("active", first["mandate"])
    third = (await sales.subscribe(mandate=first["mandate"], payment_method=None, trial_days=3)).json()
    assert (third["status"], third["payment_method"], third["verification"]) == ("trialing", sales.method, None)


async def test_an_anchor_makes_a_prorated_first_period(sales: Sales) -> None:
    plan = await sales.plan(amounts={"EUR": 31_000})
    now = clock.now()
    day = (now + timedelta(days=10)).day
    made = await sales.subscribed(plan, anchor={"day_of_month": day})
    ends = datetime.fromisoformat(made["current_period"]["end"])
    starts = datetime.fromisoformat(made["current_period"]["start"])
    assert ends.day == day
    assert timedelta(days=9) < ends - starts < timedelta(days=11)
    assert 9_000 <= made["latest_invoice"]["total_minor"] <= 12_000
    whole = ends - (ends.replace(year=ends.year - (ends.month == 1), month=(ends.month - 2) % 12 + 1))
    assert made["latest_invoice"]["total_minor"] == prorated(31_000, ends - starts, whole)


@pytest.mark.parametrize(("catch_up", "held"), [("newest", 3), ("all", 0)])
async def test_a_backdated_start_bills_what_was_missed_by_the_catch_up_rule(
    sales: Sales, worker: Gateway, catch_up: str, held: int
) -> None:
    await sales.shop.http.patch("/v1/billing-settings", json={"catch_up": catch_up})
    plan = await sales.plan(interval={"unit": "day", "count": 10})
    start = clock.now() - timedelta(days=35)
    answer = await sales.subscribe(plan, start_at=start.isoformat(), backdate="bill")
    assert answer.json()["status"] == "active", answer.text
    await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    invoices = await sales.invoices(answer.json())
    assert len(invoices) == 4
    assert [row["collection"] for row in invoices].count("held") == held
    assert {row["total_minor"] for row in invoices} == {900}
    starts = sorted(row["period_start"] for row in invoices)
    assert starts[0] == start
    assert {b - a for a, b in itertools.pairwise(starts)} == {timedelta(days=10)}


async def test_a_start_that_was_paid_elsewhere_bills_from_the_next_period_on(sales: Sales) -> None:
    plan = await sales.plan(interval={"unit": "day", "count": 10})
    start = clock.now() - timedelta(days=35)
    made = (await sales.subscribe(plan, start_at=start.isoformat(), backdate="none")).json()
    assert (made["status"], made["latest_invoice"], made["verification"]["amount_minor"]) == ("active", None, 0)
    assert datetime.fromisoformat(made["next_invoice_at"]) == start + timedelta(days=40)


async def test_a_coupon_is_taken_off_once(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed(coupon=await sales.coupon())
    assert (made["latest_invoice"]["discount_minor"], made["latest_invoice"]["due_minor"]) == (450, 450)
    assert made["discount"]["periods_left"] == 0
    with later(days=32):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    assert [row["due_minor"] for row in await sales.invoices(made)] == [450, 900]


async def test_a_coupon_that_pays_for_everything_needs_a_verification(sales: Sales) -> None:
    made = (await sales.subscribe(coupon=await sales.coupon(percent_bp=10_000))).json()
    assert (made["status"], made["latest_invoice"]["status"], made["latest_invoice"]["due_minor"]) == (
        "active",
        "paid",
        0,
    )
    assert made["verification"]["status"] == "succeeded"


async def test_a_coupon_is_never_redeemed_more_often_than_it_may_be(sales: Sales) -> None:
    coupon, plan = await sales.coupon(redemptions_max=3, duration="forever"), await sales.plan()
    answers = await asyncio.gather(*(sales.subscribe(plan, coupon=coupon) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5
    assert {code(answer) for answer in answers if answer.status_code == 409} == {(409, "coupon_exhausted")}
    found = (await sales.shop.http.get("/v1/coupons", params={"code": coupon})).json()["data"][0]
    assert found["redemptions"] == 3
    with pytest.raises(asyncpg.CheckViolationError):
        await sales.run("UPDATE coupons SET redemptions = 4 WHERE code = $1", coupon)


async def test_yen_have_no_decimals_and_taxes_come_on_top(sales: Sales) -> None:
    tax = {"name": "CT", "rate_bp": 1000, "inclusive": False}
    made = await sales.subscribed(await sales.plan(amounts={"JPY": 1235}, tax=tax))
    invoice = made["latest_invoice"]
    assert (invoice["subtotal_minor"], invoice["tax_minor"], invoice["total_minor"]) == (1235, 124, 1359)
    assert sales.puppet.calls[0][1].amount.amount_minor == 1359


async def test_several_items_are_one_invoice(sales: Sales) -> None:
    seat, base = await sales.plan(name="Seat", amounts={"EUR": 300}), await sales.plan()
    made = await sales.subscribed(items=[{"plan": base}, {"plan": seat, "quantity": 4}])
    assert made["latest_invoice"]["total_minor"] == 900 + 1200
    assert [item["quantity"] for item in made["items"]] == [1, 4]


async def test_lists_find_what_is_asked_for(sales: Sales) -> None:
    plan = await sales.plan()
    made = await sales.subscribed(plan, reference="r-1", metadata={"tier": "gold"})
    other = await sales.subscribed()
    ask = sales.shop.http.get
    for query in (
        {"plan": plan},
        {"reference": "r-1"},
        {"metadata[tier]": "gold"},
        {"created_before": other["created_at"]},
    ):
        found = (await ask("/v1/subscriptions", params=query)).json()["data"]
        assert [row["id"] for row in found] == [made["id"]], query
    assert len((await ask("/v1/subscriptions", params={"customer": sales.customer})).json()["data"]) == 2
    assert (await ask("/v1/subscriptions", params={"status": "canceled"})).json()["data"] == []
    assert code(await ask("/v1/subscriptions", params={"colour": "red"}))[0] == 422


BAD: list[tuple[str, dict[str, Any], tuple[int, str]]] = [
    ("no such plan", {"items": [{"plan": "plan_01h455vb4pex5vsknk084sn02q"}]}, (404, "plan_not_found")),
    ("no items", {"items": []}, (422, "invalid_request")),
    (
        "quantity zero",
        {"items": [{"plan": "plan_01h455vb4pex5vsknk084sn02q", "quantity": 0}]},
        (422, "invalid_request"),
    ),
    ("unknown zone", {"time_zone": "Mars/Olympus"}, (422, "unknown_time_zone")),
    ("a path as a zone", {"time_zone": "../../etc/passwd"}, (422, "unknown_time_zone")),
    ("31 February", {"anchor": {"day_of_month": 31, "month_of_year": 2}}, (422, "no_such_date")),
    ("30 February", {"anchor": {"day_of_month": 30, "month_of_year": 2}}, (422, "no_such_date")),
    ("day 32", {"anchor": {"day_of_month": 32}}, (422, "invalid_request")),
    ("unknown currency", {"currency": "XXA"}, (422, "unknown_currency")),
    ("a currency the plan has not", {"currency": "USD"}, (422, "plans_do_not_fit")),
    ("no mandate", {"mandate": None}, (409, "mandate_missing")),
    ("no such mandate", {"mandate": "man_01h455vb4pex5vsknk084sn02q"}, (409, "mandate_missing")),
    ("no such method", {"payment_method": "pm_01h455vb4pex5vsknk084sn02q"}, (404, "payment_method_not_found")),
    ("no such coupon", {"coupon": "NOPE"}, (404, "coupon_not_found")),
    ("no such account", {"psp_account": "nope"}, (409, "psp_account_unavailable")),
    ("no such customer", {"customer": "cus_01h455vb4pex5vsknk084sn02q"}, (404, "customer_not_found")),
    ("no such dunning plan", {"dunning_plan": "dun_01h455vb4pex5vsknk084sn02q"}, (404, "dunning_plan_not_found")),
    ("two trial ends", {"trial_days": 3, "trial_end": "2099-01-01T00:00:00Z"}, (422, "invalid_request")),
    ("a trial that ended", {"trial_end": "2020-01-01T00:00:00Z"}, (422, "invalid_request")),
    ("a start to come", {"start_at": "2099-01-01T00:00:00Z"}, (422, "invalid_request")),
    ("a past start without backdate", {"start_at": "2026-01-01T00:00:00Z"}, (422, "invalid_request")),
    ("too long ago", {"start_at": "1900-01-01T00:00:00Z", "backdate": "bill"}, (422, "invalid_request")),
    ("a moment without a zone", {"trial_end": "2099-01-01T00:00:00"}, (422, "invalid_request")),
    ("an unknown field", {"colour": "red"}, (422, "invalid_request")),
]


@pytest.mark.parametrize(("fields", "refusal"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_input_is_refused_and_nothing_is_made(
    sales: Sales, fields: dict[str, Any], refusal: tuple[int, str]
) -> None:
    assert code(await sales.subscribe(**fields)) == refusal
    assert (await sales.shop.http.get("/v1/subscriptions")).json()["data"] == []
    assert sales.puppet.calls == []


async def test_a_key_is_required(sales: Sales) -> None:
    answer = await sales.shop.http.post("/v1/subscriptions", json=sales.body(await sales.plan()))
    assert code(answer) == (400, "idempotency_key_missing")


async def test_methods_and_mandates_of_others_are_refused(sales: Sales, other_shop: Shop) -> None:
    other = await sales.new_customer()
    theirs = await sales.card(other)
    assert code(await sales.subscribe(payment_method=theirs)) == (409, "payment_method_of_another_customer")
    foreign = await other_shop.card("tok_visa_gb")
    assert code(await sales.subscribe(payment_method=foreign)) == (404, "payment_method_not_found")
    mine = await sales.subscribed()
    refused = await sales.subscribe(customer=other, payment_method=theirs, mandate=mine["mandate"])
    assert code(refused) == (409, "mandate_not_fitting")
    await sales.run(
        "UPDATE mandates SET status = 'revoked', revoked_at = activated_at, revoked_because = 'customer' WHERE mandate_id = $1",
        ids.decode("man", mine["mandate"]),
    )
    assert code(await sales.subscribe(mandate=mine["mandate"])) == (409, "mandate_not_active")
    await sales.shop.post(f"/v1/payment-methods/{sales.method}/detach")
    assert code(await sales.subscribe()) == (409, "payment_method_detached")


async def test_plans_of_different_intervals_or_currencies_do_not_fit(sales: Sales) -> None:
    month, year = await sales.plan(), await sales.plan(interval={"unit": "year"})
    dollars, both = await sales.plan(amounts={"USD": 1000}), await sales.plan(amounts={"EUR": 1, "USD": 1})
    for pair in ((month, year), (month, dollars)):
        refused = await sales.subscribe(items=[{"plan": plan} for plan in pair])
        assert code(refused) == (422, "plans_do_not_fit")
    assert code(await sales.subscribe(both)) == (422, "invalid_request")
    await sales.shop.http.patch(f"/v1/plans/{month}", json={"status": "archived"})
    assert code(await sales.subscribe(month)) == (409, "plan_archived")
    dear = await sales.plan(amounts={"EUR": 1_000_000_000_000})
    assert code(await sales.subscribe(items=[{"plan": dear, "quantity": 1000}])) == (422, "amount_too_large")


async def test_coupons_that_cannot_be_redeemed_say_why(sales: Sales) -> None:
    past = (clock.now() - timedelta(hours=1)).isoformat()
    assert code(await sales.subscribe(coupon=await sales.coupon(redeem_by=past))) == (409, "coupon_expired")
    dollars = await sales.coupon(amounts={"USD": 100})
    assert code(await sales.subscribe(coupon=dollars)) == (422, "coupon_of_another_currency")
    coupon = await sales.coupon()
    found = (await sales.shop.http.get("/v1/coupons", params={"code": coupon})).json()["data"][0]
    await sales.shop.http.patch(f"/v1/coupons/{found['id']}", json={"status": "archived"})
    assert code(await sales.subscribe(coupon=found["id"])) == (409, "coupon_archived")
