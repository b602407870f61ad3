"""The collector charges what is due once, and what follows from a decline is stored in one transaction."""

from __future__ import annotations

import itertools
from datetime import timedelta
from uuid import uuid5

import msgspec
from tests.core.payments.conftest import approve
from tests.core.rebills.conftest import START, Desk, declined

from clearspan.platform import clock, sqlbundle
from clearspan.sdk import PspUnavailable
from clearspan.worker import Due, Jobs


async def test_a_due_invoice_is_charged_and_paid(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    assert await desk.collect(START) == 1
    assert (await desk.rebill(invoice))["state"] == "settled"
    assert await desk.value("SELECT status FROM invoices WHERE invoice_id = $1", invoice) == "paid"
    ((_, request),) = desk.puppet.calls
    assert not request.customer_present
    assert await desk.value("SELECT operation_id FROM rebill_tries WHERE invoice_id = $1", invoice) == uuid5(
        invoice, "try 1"
    )
    assert await desk.value("SELECT payment_id FROM invoices WHERE invoice_id = $1", invoice) == uuid5(
        invoice, "payment"
    )
    assert await desk.collect(START) == 0


async def test_a_soft_decline_is_tried_again_on_the_days_of_the_plan_and_ends_on_its_last(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    await desk.collect(START)
    assert await desk.status(deal) == "past_due"
    assert await desk.decision(invoice) == ("retry_at", "soft")
    tries = await desk.run_through(invoice, START + timedelta(days=30))
    assert len(tries) == 7
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert min(gaps) >= timedelta(hours=20)
    rebill = await desk.rebill(invoice)
    assert (rebill["state"], rebill["last_decision"]["action"]) == ("exhausted", "final")
    assert await desk.status(deal) == "canceled"
    assert await desk.value("SELECT status FROM invoices WHERE invoice_id = $1", invoice) == "uncollectible"
    assert "rebill.exhausted" in await desk.events(invoice)
    assert "queued" not in {state for _, state in await desk.notices(invoice)}


async def test_a_retry_that_succeeds_brings_the_subscription_back(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    await desk.collect(START)
    assert ("payment_failed", "queued") in await desk.notices(invoice)
    desk.puppet.does = approve
    await desk.run_through(invoice, START + timedelta(days=30))
    assert (await desk.rebill(invoice))["state"] == "settled"
    assert await desk.status(deal) == "active"
    assert ("payment_failed", "dropped") in await desk.notices(invoice)


async def test_what_was_not_sent_is_tried_again_in_minutes_and_does_not_count(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)

    def away(*_: object) -> None:
        raise PspUnavailable("refused")

    desk.puppet.does = away
    await desk.collect(START)
    rebill = await desk.rebill(invoice)
    assert rebill["last_decision"]["reason"] == "not_sent"
    assert timedelta(0) < rebill["next_at"] - START <= timedelta(minutes=5)
    assert rebill["first_failed_at"] is None
    assert await desk.status(deal) == "active"
    assert await desk.notices(invoice) == []
    desk.puppet.does = approve
    await desk.collect(rebill["next_at"])
    assert (await desk.rebill(invoice))["state"] == "settled"


async def test_the_sweep_finds_what_is_due_and_the_job_does_it(wall: Desk) -> None:
    invoice = await wall.invoice(await wall.deal(), at=clock.now())
    held = await wall.invoice(await wall.deal(), at=clock.now() + timedelta(hours=1))
    found = await wall.gateway.db.fetch_text(f"SELECT {sqlbundle.name('due_work')}($1, 100, NULL)", clock.now())
    (due,) = [
        one
        for one in msgspec.json.decode(found, type=list[Due])
        if (one.tenant_id, one.job) == (str(wall.scope.tenant_id), "collect_invoices")
    ]
    assert due.rows == 1
    assert await Jobs(wall.gateway).run(due.job, {"tenant_id": due.tenant_id, "live": due.live})
    assert (await wall.rebill(invoice))["state"] == "settled"
    assert (await wall.rebill(held))["state"] == "due"
