"""What happens when a subscription ends or changes while its invoice is being charged."""

from __future__ import annotations

import asyncio

from tests.core.payments.conftest import approve
from tests.core.subscriptions.conftest import Sales
from tests.shop import Json, code

from clearspan.platform import clock


async def test_canceling_while_charges_are_made_never_keeps_money_of_a_void_invoice(sales: Sales) -> None:
    """Each round the charge is reserved before or after the cancellation; either it is refused or its money goes back."""
    dear = [{"plan": await sales.plan(amounts={"EUR": 90_000})}]

    async def round_(made: Json, wait: float) -> None:
        charging = asyncio.create_task(sales.act(made, "change", items=dear, customer_present=True))
        await clock.sleep(wait)
        canceled = await sales.act(made, "cancel", at="now", invoices="void")
        assert canceled.status_code == 200, canceled.text
        answer = await charging
        assert answer.status_code in (200, 202) or code(answer)[1] == "subscription_canceled", answer.text

    for number in range(6):
        made = await sales.subscribed_with(approve)
        await round_(made, number * 0.02)
        found = await sales.get(made)
        assert found["status"] == "canceled"
        for invoice in await sales.invoices(made):
            assert not invoice["payment_locked"]
            payments = await sales.rows(
                "SELECT p.* FROM payment_intents p JOIN invoices i USING (tenant_id, live, invoice_id)"
                " WHERE i.subscription_id = $1 AND i.status = 'void'",
                made,
            )
            assert all(
                row["captured_minor"] == 0 or (row["cancel_requested_at"] is not None and row["unwind_at"] is not None)
                for row in payments
            )


async def test_many_subscriptions_of_one_customer_are_made_and_deleted_at_once(sales: Sales) -> None:
    plan = await sales.plan()
    making = [asyncio.create_task(sales.subscribe(plan)) for _ in range(6)]
    await clock.sleep(0.1)
    answer = await sales.shop.http.delete(f"/v1/customers/{sales.customer}")
    assert answer.status_code == 200, answer.text
    for made in await asyncio.gather(*making):
        if made.is_success:
            found = await sales.get(made.json())
            assert found["status"] == "canceled", "one that was made before the deletion ended with it"
        else:
            assert code(made) == (404, "customer_not_found")
