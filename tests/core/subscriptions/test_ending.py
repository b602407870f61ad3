"""Pausing, resuming and canceling: what is billed, charged, voided and given back afterwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.core.payments.conftest import approve, later, unclear
from tests.core.subscriptions.conftest import Sales, challenge, decline
from tests.shop import Json, code

from clearspan.platform import clock, ids

if TYPE_CHECKING:
    from clearspan.app import Gateway


async def renew(sales: Sales, worker: Gateway, days: int) -> None:
    """The scheduler, so many days from now."""
    with later(days=days):
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")


async def test_a_pause_bills_nothing_and_skipped_periods_stay_free(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed()
    paused = (await sales.act(made, "pause")).json()
    assert (paused["status"], paused["next_invoice_at"]) == ("paused", None)
    await renew(sales, worker, 70)
    assert len(await sales.invoices(made)) == 1
    with later(days=70):
        resumed = (await sales.act(made, "resume")).json()
    assert resumed["status"] == "active"
    assert datetime.fromisoformat(resumed["next_invoice_at"]) > clock.now() + timedelta(days=70)
    await renew(sales, worker, 100)
    assert len(await sales.invoices(made)) == 2


async def test_a_resume_bills_no_period_that_the_scheduler_had_not_passed_over_yet(
    sales: Sales, worker: Gateway
) -> None:
    made = await sales.subscribed()
    await sales.act(made, "pause")
    with later(days=70):
        await sales.act(made, "resume")
        await worker.scheduler.plan(sales.of.caller.scope, "req_plan")
    assert len(await sales.invoices(made)) == 1


async def test_a_pause_ends_by_itself(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed()
    until = (clock.now() + timedelta(days=5)).isoformat()
    assert code(await sales.act(made, "pause", resume_at="2020-01-01T00:00:00Z")) == (422, "invalid_request")
    await sales.act(made, "pause", resume_at=until)
    await renew(sales, worker, 6)
    assert (await sales.get(made))["status"] == "active"
    assert await sales.events(made) == [
        "subscription.created",
        "subscription.activated",
        "subscription.paused",
        "subscription.resumed",
    ]


async def test_a_resume_needs_the_mandate(sales: Sales) -> None:
    made = await sales.subscribed()
    await sales.act(made, "pause")
    assert code(await sales.act(made, "pause")) == (409, "subscription_status")
    await sales.run(
        "UPDATE mandates SET status = 'revoked', revoked_at = activated_at, revoked_because = 'customer' WHERE mandate_id = $1",
        ids.decode("man", made["mandate"]),
    )
    assert code(await sales.act(made, "resume")) == (409, "mandate_not_active")


async def test_canceling_at_the_periods_end_bills_nothing_more(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed()
    asked = (await sales.act(made, "cancel", reason="too dear")).json()
    assert (asked["status"], asked["cancel_at_period_end"], asked["next_invoice_at"]) == ("active", True, None)
    await renew(sales, worker, 32)
    found = await sales.get(made)
    assert (found["status"], found["cancellation_reason"]) == ("canceled", "too dear")
    assert found["ended_at"] == made["current_period"]["end"]
    assert len(await sales.invoices(made)) == 1


async def test_a_cancellation_can_be_taken_back_until_it_took_effect(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed()
    assert code(await sales.act(made, "uncancel")) == (409, "subscription_status")
    moment = (clock.now() + timedelta(days=3)).isoformat()
    asked = (await sales.act(made, "cancel", at=moment)).json()
    assert datetime.fromisoformat(asked["cancel_at"]) == datetime.fromisoformat(moment)
    back = (await sales.act(made, "uncancel")).json()
    assert (back["cancel_at"], back["canceled_at"]) == (None, None)
    await sales.act(made, "cancel", at=moment)
    await renew(sales, worker, 4)
    assert (await sales.get(made))["status"] == "canceled"
    assert code(await sales.act(made, "cancel", at="2020-01-01T00:00:00Z")) == (409, "subscription_canceled")


async def owing(sales: Sales, worker: Gateway) -> Json:
    """One with an open invoice that is to be charged, and a reminder."""
    made = await sales.subscribed()
    await renew(sales, worker, 32)
    found = await sales.get(made)
    assert found["latest_invoice"]["status"] == "open"
    return found


@pytest.mark.parametrize(("invoices", "status"), [("void", "void"), ("keep", "open")])
async def test_canceling_now_stops_retries_and_settles_what_becomes_of_invoices(
    sales: Sales, worker: Gateway, invoices: str, status: str
) -> None:
    made = await owing(sales, worker)
    ended = (await sales.act(made, "cancel", at="now", invoices=invoices)).json()
    assert (ended["status"], ended["ended_at"] is not None) == ("canceled", True)
    rebills = await sales.rows("SELECT state, stopped_because FROM rebills WHERE subscription_id = $1", made)
    assert [tuple(row.values()) for row in rebills] == [("stopped", "subscription_canceled")]
    assert [row["status"] for row in await sales.invoices(made)] == ["paid", status]
    notices = await sales.rows(
        "SELECT kind FROM notices WHERE subscription_id = $1 AND state = 'queued' ORDER BY kind", made
    )
    assert [row["kind"] for row in notices] == ["receipt", "subscription_canceled"]
    await renew(sales, worker, 100)
    assert len(await sales.invoices(made)) == 2


async def test_a_late_success_of_a_void_invoice_is_given_back(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed()
    sales.puppet.does = unclear
    items = [{"plan": await sales.plan(amounts={"EUR": 90_000})}]
    changed = (await sales.act(made, "change", items=items, customer_present=True)).json()
    payment = changed["latest_invoice"]["payment"]
    await sales.act(made, "cancel", at="now", invoices="void")
    found = await sales.get(made)
    assert (found["latest_invoice"]["status"], found["status"]) == ("void", "canceled")
    assert found["latest_invoice"]["payment"]["cancel_requested_at"] is not None
    sales.puppet.does = approve
    with later(minutes=10):
        await worker.payments.recover(sales.of.caller.scope, "req_recover", 10)
        await worker.payments.unwind(sales.of.caller.scope, "req_unwind", 10)
    after = await sales.shop.get(payment)
    assert after["amounts"]["refunded_minor"] == payment["amount_minor"], after
    assert (await sales.get(made))["latest_invoice"]["status"] == "void"


async def test_a_payment_that_waits_for_the_customer_is_given_up_with_its_invoice(
    sales: Sales, worker: Gateway
) -> None:
    sales.puppet.does = challenge
    made = (await sales.subscribe()).json()
    await sales.act(made, "cancel", at="now")
    found = await sales.get(made)
    assert (found["status"], found["latest_invoice"]["status"]) == ("canceled", "void")
    sales.puppet.does = approve
    await worker.payments.unwind(sales.of.caller.scope, "req_unwind", 10)
    payment = (await sales.get(made))["latest_invoice"]["payment"]
    assert payment["status"] == "canceled"
    assert sales.puppet.verbs == ["create_intent", "cancel"]


async def test_a_declined_payment_of_a_void_invoice_cannot_be_confirmed(sales: Sales) -> None:
    sales.puppet.does = decline
    made = (await sales.subscribe()).json()
    await sales.act(made, "cancel", at="now")
    payment = (await sales.get(made))["latest_invoice"]["payment"]
    assert payment["status"] == "canceled"
    assert code(await sales.shop.act(payment, "confirm"))[0] == 409


async def test_credit_of_a_void_invoice_is_kept(sales: Sales, worker: Gateway) -> None:
    made = await sales.subscribed(await sales.plan(amounts={"EUR": 9000}))
    cheap = await sales.plan(amounts={"EUR": 6000})
    at = made["current_period"]["start"]
    await sales.act(made, "change", items=[{"plan": cheap}], at=at)
    await renew(sales, worker, 32)
    assert (await sales.invoices(made))[-1]["credit_used_minor"] == 3000
    ended = (await sales.act(made, "cancel", at="now", invoices="void")).json()
    assert ended["credit_minor"] == 3000


async def test_the_subscriptions_of_a_deleted_customer_end(sales: Sales, worker: Gateway) -> None:
    first, second = await owing(sales, worker), await sales.subscribed()
    answer = await sales.shop.http.delete(f"/v1/customers/{sales.customer}")
    assert answer.status_code == 200, answer.text
    for made in (first, second):
        found = await sales.get(made)
        assert (found["status"], found["cancellation_reason"]) == ("canceled", "customer_deleted")
    assert (await sales.get(first))["latest_invoice"]["status"] == "void"
    assert code(await sales.subscribe()) == (404, "customer_not_found")
    await renew(sales, worker, 100)
    assert len(await sales.invoices(second)) == 1


async def test_ending_twice_with_one_key_answers_the_same(sales: Sales) -> None:
    made = await sales.subscribed()
    first = await sales.act(made, "cancel", at="now", key="k-1")
    assert (await sales.act(made, "cancel", at="now", key="k-1")).content == first.content
    assert await sales.events(made) == ["subscription.created", "subscription.activated", "subscription.canceled"]


async def test_what_invoices_become_is_asked_with_now_only(sales: Sales) -> None:
    made = await sales.subscribed()
    assert code(await sales.act(made, "cancel", invoices="void")) == (422, "invalid_request")
