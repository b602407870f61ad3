"""Nothing is charged twice and nothing after it was stopped, whenever a worker dies and whenever somebody cancels."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from tests.core.payments.conftest import approve, later, unclear
from tests.core.rebills.conftest import START, Deal, Desk, declined

from clearspan.app import Gateway
from clearspan.payments.service import Payments
from clearspan.platform import clock, sqlbundle
from clearspan.rebills.service import _Run

DAY = timedelta(days=1)


async def cancel(desk: Desk, deal: Deal) -> None:
    """What canceling a subscription does, in the transaction of its own."""
    document = {
        "tenant_id": desk.scope.tenant_id,
        "live": False,
        "now": clock.now(),
        "actor_type": "system",
        "actor_id": "test",
        "request_id": "req_test",
    }
    async with desk.gateway.db.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "SELECT set_config('app.tenant', $1, true), set_config('app.live', 'f', true)", str(desk.scope.tenant_id)
        )
        await connection.fetchval(
            f"SELECT {sqlbundle.name('subscription_end')}($1::jsonb, s, 'canceled', $3, 'test') FROM"
            " (SELECT * FROM subscriptions WHERE subscription_id = $2 FOR NO KEY UPDATE) AS s",
            msgspec.json.encode(document).decode(),
            deal.subscription,
            START,
        )


async def calm(desk: Desk, invoice: UUID, calls: int) -> None:
    """However often the collector comes back, nothing more is charged."""
    for day in range(0, 40, 5):
        await desk.collect(START + timedelta(days=day))
    assert len(desk.puppet.calls) == calls
    assert (await desk.rebill(invoice))["next_at"] is None


@pytest.mark.parametrize("instant", ["due", "claimed", "reserving", "sending", "settling", "decided"])
@pytest.mark.parametrize("retry", [False, True], ids=["first", "retry"])
async def test_after_a_cancellation_at_any_instant_nothing_is_charged(
    desk: Desk, instant: str, retry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation is committed between two steps of one try; a charge that is at the PSP already ends as it ends."""
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    refuse = declined("limit_exceeded")
    desk.puppet.does = refuse
    at = START
    if retry:
        await desk.collect(START)
        at = (await desk.rebill(invoice))["next_at"]
    before = len(desk.puppet.calls)
    canceled = asyncio.Event()

    async def once() -> None:
        if not canceled.is_set():
            canceled.set()
            await cancel(desk, deal)

    def interleave(owner: type, name: str, *, after: bool = False) -> None:
        real = getattr(owner, name)

        async def stepped(self: Any, *arguments: Any, **more: Any) -> Any:
            if after:
                answer = await real(self, *arguments, **more)
                await once()
                return answer
            await once()
            return await real(self, *arguments, **more)

        monkeypatch.setattr(owner, name, stepped)

    async def refuse_later(verb: str, request: Any) -> Any:
        await once()
        return refuse(verb, request)

    match instant:
        case "due":
            await once()
        case "claimed":
            interleave(_Run, "claim", after=True)
        case "reserving":
            interleave(Payments, "collect")
        case "sending":
            desk.puppet.does = refuse_later
        case "settling":
            interleave(Payments, "settle")
        case "decided":
            interleave(_Run, "store", after=True)
    await desk.collect(at)
    assert canceled.is_set()
    monkeypatch.undo()
    sent = before + (instant in ("sending", "settling", "decided"))
    assert len(desk.puppet.calls) == sent
    assert (await desk.rebill(invoice))["state"] == "stopped"
    desk.puppet.does = approve
    await calm(desk, invoice, sent)
    assert await desk.status(deal) == "canceled"


async def test_a_worker_that_dies_between_claim_and_reserve_leaves_it_to_the_next(
    desk: Desk, collecting: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)

    async def die(*_: Any, **__: Any) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(Payments, "collect", die)
    with pytest.raises(asyncio.CancelledError):
        await desk.collect(START)
    monkeypatch.undo()
    assert (await desk.rebill(invoice))["state"] == "claimed"
    assert await desk.collect(START) == 0, "the lease holds"
    lease = collecting.settings.rebills.lease_s
    assert await desk.collect(START + timedelta(seconds=lease)) == 1
    assert len(desk.puppet.calls) == 1
    assert (await desk.rebill(invoice))["state"] == "settled"


async def test_a_worker_that_dies_after_reserving_is_found_and_waited_for(
    desk: Desk, collecting: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge is committed and nothing is known of it: the same try is resolved by recovery, never made twice."""
    deal = await desk.deal()
    invoice = await desk.invoice(deal)

    async def die(*_: Any) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(Payments, "_send", die)
    await desk.collect(START)
    monkeypatch.undo()
    rebill = await desk.rebill(invoice)
    assert (rebill["state"], rebill["tries"], rebill["last_decision"]["reason"]) == ("waiting", 1, "outcome_unknown")
    assert desk.puppet.calls == []
    for minutes in range(0, 120, 10):
        await desk.collect(START + timedelta(minutes=minutes))
    assert desk.puppet.calls == [], "whatever became of it, nothing else is tried"
    with later(minutes=5):
        assert await collecting.payments.recover(desk.scope, "req_recover", 10) == 1
    assert await desk.operations(invoice) == ["succeeded"]
    assert (await desk.rebill(invoice))["state"] == "settled"
    assert await desk.value("SELECT operation_id FROM operations WHERE operation_id = $1", uuid5(invoice, "try 1"))


async def test_a_worker_that_dies_before_it_decides_leaves_the_decision_to_the_next(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")

    async def die(*_: Any) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(_Run, "store", die)
    with pytest.raises(asyncio.CancelledError):
        await desk.collect(START)
    monkeypatch.undo()
    assert (await desk.rebill(invoice))["state"] == "decide"
    assert await desk.collect(START) == 1
    assert await desk.decision(invoice) == ("retry_at", "soft")
    assert len(desk.puppet.calls) == 1


async def test_an_unknown_outcome_is_decided_as_soon_as_it_is_known(desk: Desk, collecting: Gateway) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = unclear
    await desk.collect(START)
    assert await desk.decision(invoice) == ("wait", "outcome_unknown")
    assert await desk.value("SELECT payment_locked FROM invoices WHERE invoice_id = $1", invoice)
    desk.puppet.does = declined("insufficient_funds")
    with later(minutes=1):
        await collecting.payments.recover(desk.scope, "req_recover", 10)
    assert (await desk.rebill(invoice))["state"] == "decide"
    await desk.collect(START)
    assert await desk.decision(invoice) == ("retry_at", "soft")


async def test_two_workers_at_once_charge_each_invoice_once(desk: Desk, collecting: Gateway) -> None:
    deals = [await desk.deal() for _ in range(12)]
    invoices = [await desk.invoice(deal) for deal in deals]
    done = await asyncio.gather(
        *(desk.gateway.collector.collect(desk.scope, "req", at=START, test_clock_id=desk.clock_id) for _ in range(3))
    )
    assert sum(done) == 12
    assert len(desk.puppet.calls) == 12
    assert {(await desk.rebill(invoice))["state"] for invoice in invoices} == {"settled"}


async def test_when_the_issuer_revokes_the_consent_everything_stops_at_once(desk: Desk) -> None:
    """Two invoices on one mandate: the decline of the first stops both, in the transaction that stores it."""
    deal = await desk.deal()
    first = await desk.invoice(deal)
    second = await desk.invoice(deal, 1900, at=START + DAY)
    desk.puppet.does = declined("consent_revoked")
    await desk.collect(START)
    for invoice in (first, second):
        rebill = await desk.rebill(invoice)
        assert (rebill["state"], rebill["stopped_because"]) == ("stopped", "mandate_revoked")
    assert await desk.status(deal) == "paused"
    assert await desk.value("SELECT status FROM mandates WHERE mandate_id = $1", deal.mandate) == "revoked"
    xids = await desk.sql.fetch(
        "SELECT DISTINCT xid FROM journal WHERE subject_id = ANY($1) AND type IN ('mandate.revoked', 'subscription.paused')",
        [deal.mandate, deal.subscription],
    )
    assert len(xids) == 1
    desk.puppet.does = approve
    await calm(desk, first, 1)


async def test_an_invoice_that_is_paid_meanwhile_is_not_charged(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    await desk.sql.execute("UPDATE invoices SET status = 'paid', paid_at = $2 WHERE invoice_id = $1", invoice, START)
    await desk.collect(START)
    assert desk.puppet.calls == []
    assert await desk.decision(invoice) == ("stop", "invoice_closed")


async def test_a_locked_invoice_is_left_alone_and_looked_at_again(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal, payment_locked=True)
    await desk.collect(START)
    assert await desk.decision(invoice) == ("wait", "payment_in_progress")
    await desk.sql.execute("UPDATE invoices SET payment_locked = false WHERE invoice_id = $1", invoice)
    assert desk.puppet.calls == []
    await desk.collect(START + timedelta(minutes=10))
    assert len(desk.puppet.calls) == 1
