"""Subscribing a customer: the first invoice, its charge, the verification of a mandate, and what is refused."""

from __future__ import annotations

from tests.core.subscriptions.conftest import Sales


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
    mandates = await sales.rows("SELECT * FROM mandates JOIN subscriptions USING (mandate_id) WHERE subscription_id = $1", made)
    assert [row["activated_at"] is not None for row in mandates] == [True]
    assert await sales.events(made) == ["subscription.created", "subscription.activated"]
    assert [line["kind"] for line in await sales.lines(made)] == ["period", "setup_fee"]
