"""What Mollie did in a span of time, and what it paid out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import clearspan.sdk as sdk
from clearspan_psp_mollie import answers, settlements

if TYPE_CHECKING:
    from conftest import World

TOKEN = "access_Wwvjgs9a3vXKPWKe"


def span() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(hours=1), now + timedelta(hours=1)


async def test_the_activity_tells_charges_captures_voids_refunds_and_disputes(world: World) -> None:
    request = world.charge(capture=False, metadata={"order": "7"})
    held = await world.adapter.create_intent(request)
    assert isinstance(held, sdk.Approved)
    voided, paid = await world.approved(capture=False), await world.approved()
    capture = await world.adapter.capture(world.part(sdk.CaptureRequest, held.psp_ref, 300, final=True))
    void = await world.adapter.cancel(world.part(sdk.CancelRequest, voided.psp_ref))
    refund = await world.adapter.refund(world.part(sdk.RefundRequest, paid.psp_ref, 100))
    back = await world.control("POST chargeback", {"payment": paid.psp_ref, "value": "2.00", "reason": "AC01"})
    assert not isinstance(capture, sdk.ActionRequired)
    news = await world.adapter.activity(*span())
    told = {(one.kind, one.psp_ref): one for one in news if isinstance(one, sdk.OperationNews)}
    charge = told["charge", held.psp_ref]
    assert (charge.reference, charge.capture, charge.metadata["order"]) == (request.operation_id, False, "7")
    assert isinstance(charge.outcome, sdk.Approved)
    assert told["capture", capture.psp_ref].charge_ref == held.psp_ref
    assert told["void", void.psp_ref].charge_ref == voided.psp_ref
    assert told["refund", refund.psp_ref].amount == sdk.Money(100, "EUR")
    disputes = [one for one in news if isinstance(one, sdk.DisputeNews) and one.dispute_ref == back["id"]]
    assert [(one.status, one.reason) for one in disputes] == [(sdk.DisputeStatus.RETURNED, "AC01")]
    late = datetime.now(UTC) + timedelta(hours=2)
    assert await world.adapter.activity(late, late + timedelta(hours=1)) == []


async def test_a_payment_that_nobody_understands_is_a_hint_in_the_activity(world: World) -> None:
    paid = await world.approved()
    await world.control("POST payment", {"id": paid.psp_ref, "status": "unheard_of"})
    news = await world.adapter.activity(*span())
    assert sdk.Hint(kind="charge", psp_ref=paid.psp_ref) in news
    await world.control("POST payment", {"id": paid.psp_ref, "status": "paid"})


async def test_a_settlement_adds_up_to_what_was_paid_out(world: World) -> None:
    request = world.charge(amount=sdk.Money(2000, "EUR"))
    paid = await world.adapter.create_intent(request)
    assert isinstance(paid, sdk.Approved)
    refund = await world.adapter.refund(world.part(sdk.RefundRequest, paid.psp_ref, 500))
    await world.control("POST chargeback", {"payment": paid.psp_ref, "value": "3.00"})
    at = datetime.now(UTC).replace(microsecond=0)
    made = await world.control("POST settle", {"at": at.isoformat()})
    lines = await world.another(organization_token=TOKEN).fetch_settlements(
        at - timedelta(days=1), at + timedelta(days=1)
    )
    mine = [line for line in lines if line.batch == made["id"]]
    assert all(line.gross.amount_minor + line.fee.amount_minor == line.net.amount_minor for line in mine)
    assert sum(line.net.amount_minor for line in mine) == 0
    assert len({line.line_ref for line in mine}) == len(mine)
    by_ref = {line.psp_ref: line for line in mine if line.kind in ("charge", "refund")}
    assert (by_ref[paid.psp_ref].gross, by_ref[paid.psp_ref].reference) == (paid.amount, request.operation_id)
    assert by_ref[refund.psp_ref].gross == sdk.Money(-500, "EUR")
    assert {line.kind for line in mine} >= {"charge", "refund", "dispute", "fee", "payout"}
    assert all(line.booked_at == at for line in mine)
    assert (
        await world.another(organization_token=TOKEN).fetch_settlements(at + timedelta(days=1), at + timedelta(days=2))
        == []
    )


async def test_settlements_need_an_organization_token(world: World) -> None:
    with pytest.raises(sdk.PspMisconfigured, match="organization_token"):
        await world.adapter.fetch_settlements(*span())


@pytest.mark.parametrize(
    "amount", [answers.Amount("EUR", "1,00"), answers.Amount("EUR", "1.001"), answers.Amount("XXX", "1.00")]
)
def test_an_amount_that_is_none_is_unknown(amount: answers.Amount) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        answers.money(amount)


@pytest.mark.parametrize(
    ("values", "minor"), [(["2.5410"], -254), (["2.5410", "0.0040"], -255), ([], None), (["0.0049"], None)]
)
def test_fees_of_hundredths_of_a_cent_are_rounded_once(values: list[str], minor: int | None) -> None:
    costs = [{"description": "Cards", "amountGross": {"currency": "EUR", "value": value}} for value in values]
    raw = {"id": "stl_1", "amount": {"currency": "EUR", "value": "1.00"}, "periods": {"2026": {"11": {"costs": costs}}}}
    lines = settlements.totals(sdk.read(raw, settlements.Settlement), datetime.now(UTC))
    assert [line.fee.amount_minor for line in lines if line.kind == "fee"] == ([] if minor is None else [minor])


@pytest.mark.parametrize("value", ["", "NaN", "Infinity", "1,00", "one"])
def test_a_fee_that_is_no_amount_is_unknown(value: str) -> None:
    cost = {"description": "Cards", "amountGross": {"currency": "EUR", "value": value}}
    raw = {
        "id": "stl_1",
        "amount": {"currency": "EUR", "value": "1.00"},
        "periods": {"2026": {"11": {"costs": [cost]}}},
    }
    with pytest.raises(sdk.OutcomeUnknown):
        settlements.totals(sdk.read(raw, settlements.Settlement), datetime.now(UTC))
