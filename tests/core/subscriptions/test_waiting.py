"""What waits for the customer: a first payment that is under way, and an unpaid invoice when there is a new card."""

from __future__ import annotations

from datetime import timedelta

from tests.core.subscriptions.conftest import Sales, challenge

from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.subscriptions.schedule import Scheduler


async def test_a_subscription_whose_first_payment_is_under_way_does_not_expire(
    sales: Sales, scheduler: Scheduler
) -> None:
    sales.puppet.does = challenge
    made = (await sales.subscribe(return_url="https://shop.example/thanks")).json()
    assert made["status"] == "incomplete"
    scope: Scope = sales.of.caller.scope
    later = clock.now() + timedelta(days=2)
    await scheduler.plan(scope, "req_of_the_tests", at=later)
    assert (await sales.get(made))["status"] == "incomplete"
    await sales.run(
        "UPDATE invoices SET payment_locked = false WHERE subscription_id = $1", ids.decode("sub", made["id"])
    )
    await scheduler.plan(scope, "req_of_the_tests", at=later + timedelta(hours=2))
    assert (await sales.get(made))["status"] == "incomplete_expired"
    assert [invoice["status"] for invoice in await sales.invoices(made)] == ["void"]


async def test_a_new_card_wakes_what_waits_for_the_customer(sales: Sales, scheduler: Scheduler) -> None:
    made = await sales.subscribed()
    subscription = ids.decode("sub", made["id"])
    await scheduler.plan(sales.of.caller.scope, "req_of_the_tests", at=clock.now() + timedelta(days=32))
    await sales.run("UPDATE rebills SET state = 'waiting', next_at = NULL WHERE subscription_id = $1", subscription)
    card = await sales.card()
    agreed = {"customer": sales.customer, "payment_method": card, "purpose": "recurring", "text_version": "2"}
    mandate = (await sales.shop.post("/v1/mandates", agreed)).json()["id"]
    await sales.run(
        "UPDATE mandates SET status = 'active', activated_at = created_at WHERE mandate_id = $1",
        ids.decode("man", mandate),
    )
    changed = await sales.shop.http.patch(
        f"/v1/subscriptions/{made['id']}", json={"payment_method": card, "mandate": mandate}
    )
    assert changed.status_code == 200, changed.text
    rows = await sales.rows("SELECT state FROM rebills WHERE subscription_id = $1", made)
    assert [row["state"] for row in rows] == ["decide"]
