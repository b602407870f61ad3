"""``check.differences`` says nothing about an untouched database, and finds whatever a hand in the database changed."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.payments.test_model_and_sql import STEP, step

from clearspan.ledger import service as ledger
from clearspan.payments import check
from clearspan.payments.models import Operation, OperationState
from clearspan.platform import clock, ids
from clearspan.platform.db import Database

Found = list[check.Difference]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def look(db: Database, money: Any) -> Found:
    """Every difference of the money path's tenant."""
    return [one async for one in check.differences(db, money.scope)]


@given(manual=st.booleans(), steps=st.lists(STEP, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_after_any_history_nothing_differs(
    money: Any, db: Database, *, manual: bool, steps: list[tuple[str, int, Any]]
) -> None:
    payment_id = await money.open(1000, manual=manual)
    for one in steps:
        await step(money, payment_id, one)
    assert await look(db, money) == []


class Past(msgspec.Struct, frozen=True):
    """A payment that was declined, then charged with a fee, refunded in part and disputed."""

    payment_id: UUID
    declined: Operation
    charge: Operation
    refund: Operation


@pytest.fixture
async def past(money: Any, db: Database, clumsy: Connection) -> Past:
    payment_id = await money.open(1000, manual=False)
    declined = await money.settle(await money.operate(payment_id, "charge"), "declined", fenced=False)
    charge = await money.settle(await money.operate(payment_id, "charge"), "succeeded", fenced=False, fee_minor=29)
    refund = await money.settle(await money.operate(payment_id, "refund", amount_minor=300), "pending", fenced=False)
    await money.settle(refund, "succeeded", fenced=False, source="webhook")
    await money.dispute(charge, "needs_response", 500, 1)
    await clumsy.execute(
        "INSERT INTO idempotency_keys (tenant_id, live, key_hash, request_hash, state, lease_token, lease_until, payment_id,"
        " operation_id, created_at) VALUES ($1, $2, $3, '', 'done', $1, $4, $5, $6, $4)",
        money.scope.tenant_id, money.scope.live, clock.random_bytes(32), clock.now(), payment_id, charge.operation_id,
    )  # fmt: skip
    assert await look(db, money) == []
    return Past(payment_id, declined, charge, refund)


ENTRIES_OF_NOBODY = (
    "INSERT INTO ledger_entries SELECT tenant_id, live, at, {new}, account, amount_minor, currency, kind, {new}"
    " FROM ledger_entries e WHERE operation_id = {refund}"
)
BY_HAND = {
    "the state of an operation": (
        "UPDATE operations SET state = 'surplus' WHERE operation_id = {declined}",
        {"operation_state": "declined", "event": "declined", "payment": "payment"},
    ),
    "a state that nobody decided any more": (
        "UPDATE operations SET state = 'reversed' WHERE operation_id = {refund}",
        {"operation_state": "refund", "event": "refund", "payment": "payment"},
    ),
    "the amount of an operation": (
        "UPDATE operations SET amount_minor = 999 WHERE operation_id = {declined}",
        {"operation": "declined"},
    ),
    "the fee of an operation": (
        "UPDATE operations SET fee_minor = 30 WHERE operation_id = {charge}",
        {"ledger": "payment"},
    ),
    "an operation that is gone": (
        "DELETE FROM operations WHERE operation_id = {refund}",
        {"payment": "payment", "orphan": None},
    ),
    "the status of a payment": (
        "UPDATE payment_intents SET status = 'canceled' WHERE payment_id = {payment}",
        {"payment": "payment"},
    ),
    "what a payment is for": (
        "UPDATE payment_intents SET amount_minor = 1001 WHERE payment_id = {payment}",
        {"payment": "payment"},
    ),
    "what was refunded": (
        "UPDATE payment_intents SET refunded_minor = 0 WHERE payment_id = {payment}",
        {"payment": "payment", "ledger": "payment"},
    ),
    "a change that nobody told": (
        "UPDATE payment_intents SET sequence = sequence + 5 WHERE payment_id = {payment}",
        {"event": "payment"},
    ),
    "a payment that is behind its events": (
        "UPDATE payment_intents SET sequence = sequence - 2 WHERE payment_id = {payment}",
        {"event": "payment"},
    ),
    "a payment that is gone": (
        "DELETE FROM payment_intents WHERE payment_id = {payment}",
        {"orphan": "charge", "ledger": None},
    ),
    "the state of a dispute": (
        "UPDATE disputes SET status = 'won' WHERE payment_id = {payment}",
        {"payment": "payment"},
    ),
    "a fact that is gone": (
        "DELETE FROM facts WHERE operation_id = {charge}",
        {"operation_state": "charge"},
    ),
    "a fact that was changed": (
        "UPDATE facts SET observed = 'declined' WHERE operation_id = {charge}",
        {"operation_state": "charge"},
    ),
    "a fact of nothing": (
        "UPDATE facts SET operation_id = gen_random_uuid() WHERE operation_id = {declined}",
        {"orphan": None, "operation_state": "declined"},
    ),
    "an event that is gone": (
        "DELETE FROM journal WHERE data->>'operation_after' = 'pending' AND data->>'operation_id' = {refund}::text",
        {"event": "refund"},
    ),
    "the event that began an operation": (
        "DELETE FROM journal WHERE subject_id = {declined} AND type = 'operation.submitted'",
        {"event": "declined"},
    ),
    "an event of the future": (
        "UPDATE journal SET sequence = 77 WHERE subject_id = {payment} AND type = 'payment.succeeded'",
        {"event": "payment"},
    ),
    "an entry that is gone": (
        "DELETE FROM ledger_entries WHERE payment_id = {payment} AND account = 'refunded'",
        {"ledger": "payment"},
    ),
    "an entry that was changed": (
        "UPDATE ledger_entries SET amount_minor = amount_minor - 1 WHERE payment_id = {payment} AND account = 'captured'",
        {"ledger": "payment"},
    ),
    "a transfer that is gone": (
        "DELETE FROM ledger_entries WHERE operation_id = {refund}",
        {"ledger": "payment"},
    ),
    "a transfer that balances and belongs to no payment": (
        ENTRIES_OF_NOBODY,
        {"ledger": None},
    ),
    "a kept answer about nothing": (
        "UPDATE idempotency_keys SET payment_id = gen_random_uuid() WHERE payment_id = {payment}",
        {"orphan": None},
    ),
}
"""What a hand in the database does, and by the kinds of differences that must show it, of what (``None``: of something new)."""


@pytest.mark.parametrize("what", BY_HAND)
async def test_what_a_hand_in_the_database_changed_is_found(
    past: Past, money: Any, db: Database, clumsy: Connection, what: str
) -> None:
    statement, expected = BY_HAND[what]
    names = {
        "payment": past.payment_id,
        "declined": past.declined.operation_id,
        "charge": past.charge.operation_id,
        "refund": past.refund.operation_id,
        "new": clock.new_uuid(),
    }
    done = await clumsy.execute(statement.format(**{name: f"'{value}'" for name, value in names.items()}))
    assert not done.endswith(" 0"), "the statement meets its row"
    found = await look(db, money)
    public = {name: ids.encode("pay" if name == "payment" else "op", value) for name, value in names.items()}
    for kind, name in expected.items():
        about = [one for one in found if one.kind == kind]
        assert about, f"{kind} in {found}"
        if name is not None:
            assert public[name] in {each for one in about for each in (one.id, one.payment)}, about
    assert all(one.what and one.id for one in found)


async def test_all_tenants_are_looked_at_and_counted(money: Any, past: Past, db: Database, clumsy: Connection) -> None:
    await clumsy.execute("UPDATE payment_intents SET status = 'canceled' WHERE payment_id = $1", past.payment_id)
    looked = Counter[str]()
    found = [one async for one in check.differences(db, None, looked) if one.tenant_id == money.scope.tenant_id]
    assert [(one.kind, one.found) for one in found] == [("payment", "canceled")]
    assert looked["payments"] >= 1
    assert looked["operations"] >= 3
    assert looked["ledger entries"] >= 9


async def test_pages_smaller_than_the_data_see_all_of_it(
    money: Any, db: Database, clumsy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        payment_id = await money.open(1000, manual=True)
        await money.settle(await money.operate(payment_id, "charge"), "succeeded", fenced=False)
        await money.settle(await money.operate(payment_id, "capture", amount_minor=400), "succeeded", fenced=False)
    monkeypatch.setattr(check, "PAYMENTS_AT_ONCE", 2)
    monkeypatch.setattr(check, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr("clearspan.ledger.service.PAYMENTS_AT_ONCE", 2)
    monkeypatch.setattr("clearspan.ledger.service.ENTRIES_AT_ONCE", 11)
    looked = Counter[str]()
    assert [one async for one in check.differences(db, money.scope, looked)] == []
    assert (looked["payments"], looked["operations"], looked["ledger payments"]) == (7, 14, 7)
    assert looked["ledger entries"] == await clumsy.fetchval(
        "SELECT count(*) FROM ledger_entries WHERE tenant_id = $1", money.scope.tenant_id
    )
    await clumsy.execute("UPDATE payment_intents SET voided_minor = 1 WHERE payment_id = $1", payment_id)
    assert {one.kind for one in await look(db, money)} == {"payment", "ledger"}
    await clumsy.execute("DELETE FROM payment_intents WHERE tenant_id = $1", money.scope.tenant_id)
    found = await look(db, money)
    assert len([one for one in found if one.kind == "orphan"]) == 14
    assert len({one.id for one in found if one.kind == "ledger"}) == 14


async def test_the_ledger_alone_tells_what_is_wrong_with_it(
    past: Past, money: Any, db: Database, clumsy: Connection
) -> None:
    statement = "UPDATE ledger_entries SET amount_minor = -999 WHERE payment_id = $1 AND account = 'captured'"
    await clumsy.execute(statement, past.payment_id)
    found = [one async for one in ledger.differences(db, money.scope)]
    assert [(one.kind, one.account, one.expected, one.found) for one in found] == [
        ("balance", "captured", -1000, -999),
        ("transfer_not_zero", None, 0, 1),
        ("sum_not_zero", None, 0, 1),
    ]


# -- What facts can be read as --------------------------------------------------------------------------------------------------

NOON = clock.now()


def facts_of(*told: tuple[str, float, str]) -> list[check.Fact]:
    """Facts as (observed, seconds after noon, source)."""
    return [
        check.Fact(
            fact_id=clock.new_uuid(),
            operation_id=UUID(int=1),
            source=source,
            observed=observed,
            observed_at=NOON + timedelta(seconds=seconds),
        )
        for observed, seconds, source in told
    ]


def operation(state: str, kind: str = "purchase", rule: str = "priority") -> Operation:
    return Operation(
        operation_id=UUID(int=1),
        payment_id=UUID(int=2),
        kind=kind,
        state=OperationState(state),
        amount_minor=1000,
        currency="EUR",
        created_at=NOON,
        sent_at=NOON,
        updated_at=NOON,
        psp_account_id=UUID(int=3),
        psp_key="k",
        routing={"rule": rule},
    )


READ = [
    ("nothing was heard", "submitted", (), True),
    ("nothing was heard, and it succeeded", "succeeded", (), False),
    ("an answer", "succeeded", (("succeeded", 1, "response"),), True),
    ("an answer is no suggestion", "submitted", (("succeeded", 1, "response"),), False),
    ("who lost the lease knows nothing", "submitted", (("unknown", 1, "response"),), True),
    ("old news has no effect", "succeeded", (("succeeded", 1, "response"), ("declined", 9, "webhook")), True),
    ("late approval", "surplus", (("declined", 1, "response"), ("succeeded", 900, "lookup")), True),
    ("not just approved", "succeeded", (("declined", 1, "response"), ("succeeded", 900, "lookup")), False),
    ("two writers, the later one first", "succeeded", (("declined", 1, "lookup"), ("succeeded", 2, "response")), True),
    ("age alone decides nothing", "declined", (("unknown", 1, "response"), ("unknown", 99_999, "lookup")), False),
    ("a human's word", "not_charged", (("unknown", 1, "response"), ("needs_review", 90_000, "system"),
                                       ("not_charged", 99_000, "human")), True),
]  # fmt: skip


@pytest.mark.parametrize(("state", "told", "follows"), [one[1:] for one in READ], ids=[one[0] for one in READ])
def test_a_state_follows_from_the_facts_or_not(
    state: str, told: tuple[tuple[str, float, str], ...], *, follows: bool
) -> None:
    states = check.readings(operation(state), facts_of(*told))
    assert states is not None
    assert (OperationState(state) in states) is follows


def test_a_charge_that_waited_expires_by_its_void_only() -> None:
    waiting = facts_of(("requires_action", 1, "response"))
    assert OperationState.EXPIRED in (
        check.readings(operation("expired"), waiting, [NOON + timedelta(seconds=60)]) or ()
    )
    assert check.readings(operation("expired"), waiting) == {OperationState.REQUIRES_ACTION}


def test_only_a_refund_fails_after_it_succeeded() -> None:
    told = facts_of(("succeeded", 1, "response"), ("declined", 900, "lookup"))
    assert check.readings(operation("reversed", "refund"), told) == {OperationState.REVERSED}
    assert check.readings(operation("reversed"), told) == {OperationState.SUCCEEDED}


def test_what_was_taken_in_may_begin_as_not_sent() -> None:
    told = facts_of(("succeeded", 1, "lookup"))
    assert check.readings(operation("surplus", rule="adopted"), told) == {
        OperationState.SUCCEEDED,
        OperationState.SURPLUS,
    }
    assert check.readings(operation("surplus"), told) == {OperationState.SUCCEEDED}


def test_very_many_facts_close_together_are_left_alone() -> None:
    told = [
        (observed, number / 100, "webhook")
        for number, observed in enumerate(["pending", "unknown", "requires_action"] * 9)
    ]
    assert check.readings(operation("not_sent"), facts_of(*told)) is None
