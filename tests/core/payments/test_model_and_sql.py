"""The SQL of the money path does what the pure model says, for whatever sequence of observations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearspan.payments.errors import MovedOn
from clearspan.payments.models import (
    CHARGES,
    HOLDS_THE_PLACE,
    LIVE,
    TRANSITIONS,
    Operation,
    OperationState,
    derive,
    next_state,
)
from clearspan.payments.recovery import unwinding
from clearspan.platform import clock
from clearspan.platform.problems import DomainError
from clearspan.sdk import DisputeStatus

OBSERVED = st.sampled_from(
    [
        "succeeded",
        "declined",
        "requires_action",
        "pending",
        "unknown",
        "not_sent",
        "expired",
        "not_charged",
        "needs_review",
    ]
)
STEP = st.one_of(
    st.tuples(st.just("charge"), st.just(0), st.booleans()),
    st.tuples(st.sampled_from(["capture", "refund"]), st.integers(1, 1200), st.booleans()),
    st.tuples(st.just("void"), st.just(0), st.booleans()),
    st.tuples(st.just("observe"), st.integers(0, 5), OBSERVED),
    st.tuples(st.just("hear"), st.integers(0, 5), OBSERVED),
    st.tuples(st.sampled_from(["unwind", "cancel"]), st.just(0), st.booleans()),
    st.tuples(st.just("dispute"), st.integers(1, 1200), st.sampled_from([one.value for one in DisputeStatus])),
)


async def test_the_database_knows_the_same_transitions_as_the_model(owner: asyncpg.Connection[asyncpg.Record]) -> None:
    for before in OperationState:
        for after in OperationState:
            said = await owner.fetchval("SELECT operation_may_become($1, $2)", before.value, after.value)
            assert said == (after in TRANSITIONS[before]), (before, after)


async def step(money: Any, payment_id: UUID, one: tuple[str, int, Any]) -> None:
    """Do one thing to a payment, or be refused and change nothing."""
    kind, number, extra = one
    before = await money.read(payment_id)
    try:
        if kind == "charge":
            await money.operate(payment_id, "charge")
        elif kind in ("capture", "refund"):
            await money.operate(payment_id, kind, amount_minor=number, final=bool(extra) and kind == "capture")
        elif kind == "void":
            await money.operate(payment_id, "void")
        elif kind == "unwind":
            await money.unwind(payment_id)
        elif kind == "cancel":
            await money.close(payment_id, "cancel")
        elif kind == "dispute":
            charges = [one for one in before.operations if one.kind in CHARGES]
            if charges:
                await money.dispute(charges[-1], extra, number, number % 2)
        elif kind == "hear" and before.operations:
            target = before.operations[number % len(before.operations)]
            await money.settle(target, extra, fenced=True, source="webhook")
        elif kind == "observe" and before.operations:
            target = before.operations[number % len(before.operations)]
            await money.settle(target, extra, fenced=False)
    except (
        DomainError,
        asyncpg.UniqueViolationError,
    ):  # The merchant's void and ours: one_void_per_charge lets one in.
        after = await money.read(payment_id)
        assert after == before, "a refusal changes nothing"


@given(manual=st.booleans(), steps=st.lists(STEP, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_history_leaves_the_same_payment_in_sql_and_in_the_model(
    money: Any, *, manual: bool, steps: list[tuple[str, int, Any]]
) -> None:
    payment_id = await money.open(1000, manual=manual)
    for one in steps:
        await step(money, payment_id, one)
        after = await money.read(payment_id)
        model = derive(after.payment, after.operations, await money.disputes(payment_id))
        assert model == after.payment
        assert sum(one.kind in CHARGES and one.state in HOLDS_THE_PLACE for one in after.operations) <= 1
        money.check_amounts(after.payment)
        if unwinding(after.payment, after.operations) is not None and not unwinding_under_way(after.operations):
            assert after.payment.unwind_at is not None, "what must be given back is due"
        plan = unwinding(after.payment, after.operations)
        of_surplus = plan is not None and plan.because == "surplus"
        assert of_surplus <= (after.payment.surplus_minor > 0) <= (plan is not None), "they agree on what is left"


def unwinding_under_way(operations: list[Operation]) -> bool:
    return any(one.routing.get("rule") == "unwind" and one.state in LIVE for one in operations)


@given(first=OBSERVED, second=OBSERVED, fenced=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_an_observation_leads_where_the_model_says(money: Any, first: str, second: str, *, fenced: bool) -> None:
    payment_id = await money.open(1000, manual=False)
    charge = await money.operate(payment_id, "charge")
    one = await money.settle(charge, first, fenced=False)
    assert one.state is next_state(charge.state, OperationState(first))
    two = await money.settle(one, second, fenced=fenced)
    assert two.state is next_state(one.state, OperationState(second), fenced=fenced)


async def test_the_trigger_refuses_a_transition_that_is_not_listed(
    money: Any, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    payment_id = await money.open(1000, manual=False)
    charge = await money.operate(payment_id, "charge")
    await money.settle(charge, "succeeded", fenced=False)
    with pytest.raises(asyncpg.PostgresError, match="cannot go from succeeded to declined"):
        await superuser.execute("UPDATE operations SET state = 'declined' WHERE operation_id = $1", charge.operation_id)


@pytest.mark.parametrize("column", ["amount_minor", "currency", "payment_id", "kind"])
async def test_what_an_operation_is_for_never_changes(
    money: Any, superuser: asyncpg.Connection[asyncpg.Record], column: str
) -> None:
    payment_id = await money.open(1000, manual=False)
    charge = await money.operate(payment_id, "charge")
    value = {"amount_minor": "2000", "currency": "'USD'", "payment_id": f"'{clock.new_uuid()}'", "kind": "'refund'"}[
        column
    ]
    with pytest.raises(asyncpg.PostgresError, match="does not change"):
        await superuser.execute(
            f"UPDATE operations SET {column} = {value} WHERE operation_id = $1", charge.operation_id
        )


async def test_a_second_charge_is_impossible_even_for_a_superuser(
    money: Any, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    payment_id = await money.open(1000, manual=False)
    charge = await money.operate(payment_id, "charge")
    copy = "SELECT (o).* FROM (SELECT jsonb_populate_record(o, $2) AS o FROM operations o WHERE operation_id = $1) AS x"
    changes = msgspec.json.encode({"operation_id": clock.new_uuid(), "psp_key": str(clock.new_uuid())}).decode()
    with pytest.raises(asyncpg.UniqueViolationError, match="one_charge_per_payment"):
        await superuser.execute(f"INSERT INTO operations {copy}", charge.operation_id, changes)


async def test_a_late_approval_after_a_decline_is_stored_as_surplus_and_reported(
    money: Any, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    payment_id = await money.open(1000, manual=False)
    first = await money.settle(await money.operate(payment_id, "charge"), "declined", fenced=False)
    second = await money.settle(await money.operate(payment_id, "charge"), "succeeded", fenced=False)
    late = await money.settle(first, "succeeded", fenced=False)
    after = await money.read(payment_id)
    assert (late.state, second.state) == (OperationState.SURPLUS, OperationState.SUCCEEDED)
    assert (after.payment.captured_minor, after.payment.surplus_minor) == (1000, 1000)
    types = [row["type"] for row in await superuser.fetch("SELECT type FROM journal WHERE subject_id = $1", payment_id)]
    assert "incident.opened" in types


async def test_a_reference_of_another_operation_proves_nothing(money: Any) -> None:
    one = await money.operate(await money.open(1000, manual=False), "charge")
    two = await money.operate(await money.open(1000, manual=False), "charge")
    await money.settle(one, "succeeded", fenced=False, psp_ref="ch_1")
    settled = await money.settle(two, "succeeded", fenced=False, psp_ref="ch_1")
    assert (settled.state, settled.code) == (OperationState.UNKNOWN, "psp_reference_reused")


async def test_an_unknown_outcome_stays_unknown_however_old_it_gets(money: Any) -> None:
    payment_id = await money.open(1000, manual=False)
    charge = await money.settle(await money.operate(payment_id, "charge"), "unknown", fenced=False)
    with pytest.raises(DomainError) as refusal:
        await money.operate(payment_id, "charge", now=clock.now() + timedelta(days=400))
    assert refusal.value.code == "operation_outcome_unknown"
    with pytest.raises(DomainError) as kept:
        await money.close(payment_id, "expire", now=clock.now() + timedelta(days=400))
    assert kept.value.code == "payment_has_charge"
    assert (await money.operation(payment_id, charge.operation_id)).state is OperationState.UNKNOWN


async def test_two_partial_refunds_in_flight_never_exceed_what_was_captured(money: Any) -> None:
    payment_id = await money.open(1000, manual=False)
    await money.settle(await money.operate(payment_id, "charge"), "succeeded", fenced=False)
    await money.operate(payment_id, "refund", amount_minor=600)
    with pytest.raises(DomainError) as refusal:
        await money.operate(payment_id, "refund", amount_minor=600)
    assert (refusal.value.code, refusal.value.fields["available_minor"]) == ("amount_above_refundable", 400)


async def refunding(money: Any) -> Operation:
    """A refund that was sent, of a payment that succeeded."""
    payment_id = await money.open(1000, manual=False)
    charge = await money.operate(payment_id, "charge")
    await money.settle(charge, "succeeded", fenced=False, psp_ref=f"ch_{charge.operation_id}")
    return await money.operate(payment_id, "refund", amount_minor=400)


async def test_news_that_was_judged_against_an_older_state_is_judged_again(money: Any) -> None:
    """Two messages of a PSP, each judged while the refund was still open: the later one contradicts the earlier."""
    refund = await refunding(money)
    done = await money.settle(refund, "succeeded", fenced=True, psp_ref="re_1", source="webhook", judged="submitted")
    assert done.state is OperationState.SUCCEEDED
    with pytest.raises(MovedOn):
        await money.settle(refund, "declined", fenced=True, psp_ref="re_1", source="webhook", judged="submitted")
    rows = (await money.read(refund.payment_id)).operations
    assert next(one.state for one in rows if one.operation_id == refund.operation_id) is OperationState.SUCCEEDED


async def test_an_answer_that_contradicts_a_failure_heard_before_is_looked_up(money: Any) -> None:
    """Either the refund failed after it had succeeded, or the news lied: the PSP's own record decides."""
    for record, state, refunded in (
        ("declined", OperationState.REVERSED, 0),
        ("succeeded", OperationState.SURPLUS, 400),
    ):
        refund = await refunding(money)
        reference = f"re_{refund.operation_id}"
        heard = await money.settle(refund, "declined", fenced=True, psp_ref=reference, source="webhook", psp_sequence=2)
        assert heard.state is OperationState.DECLINED
        with pytest.raises(MovedOn):
            await money.settle(refund, "succeeded", fenced=False, psp_ref=reference)
        told = {"looked_up": True, "taken_back": record == "declined"}
        known = await money.settle(refund, record, fenced=False, psp_ref=reference, source="lookup", **told)
        assert known.state is state
        payment = (await money.read(refund.payment_id)).payment
        assert (payment.refunded_minor, payment.captured_minor) == (refunded, 1000)
