"""Every change of a payment's totals is posted, sums to zero, and cannot be taken back by anybody."""

from __future__ import annotations

from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.ledger.conftest import Books
from tests.core.payments.test_model_and_sql import STEP, step

from clearspan.ledger.models import ACCOUNTS, expected
from clearspan.platform import clock

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@given(manual=st.booleans(), steps=st.lists(STEP, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_after_any_history_the_ledger_says_what_the_payment_says(
    money: Any, books: Books, *, manual: bool, steps: list[tuple[str, int, Any]]
) -> None:
    payment_id = await money.open(1000, manual=manual)
    for one in steps:
        await step(money, payment_id, one)
        details = await money.read(payment_id)
        fees = sum(operation.fee_minor or 0 for operation in details.operations)
        assert await books.of(payment_id) == expected(details.payment, fees)
    for kind, amounts in await books.transfers(payment_id):
        assert sum(amounts.values()) == 0, kind


async def charged(money: Any, *, manual: bool = False, fee_minor: int | None = None) -> tuple[UUID, Any]:
    payment_id = await money.open(1000, manual=manual)
    charge = await money.settle(
        await money.operate(payment_id, "charge"), "succeeded", fenced=False, fee_minor=fee_minor
    )
    return payment_id, charge


async def test_a_purchase_is_owed_by_the_psp_less_its_fee(money: Any, books: Books) -> None:
    payment_id, _ = await charged(money, fee_minor=29)
    assert await books.transfers(payment_id) == [("purchase", {"captured": -1000, "fees": 29, "in_transit": 971})]


async def test_an_authorisation_is_held_then_taken_and_the_rest_let_go(money: Any, books: Books) -> None:
    payment_id, _ = await charged(money, manual=True)
    capture = await money.operate(payment_id, "capture", amount_minor=400)
    await money.settle(capture, "succeeded", fenced=False)
    await money.settle(await money.operate(payment_id, "void"), "succeeded", fenced=False)
    assert await books.transfers(payment_id) == [
        ("authorize", {"authorized": 1000, "payer_commitment": -1000}),
        ("capture", {"authorized": -400, "payer_commitment": 400, "in_transit": 400, "captured": -400}),
        ("void", {"authorized": -600, "released": 600}),
    ]


async def test_a_refund_that_fails_after_it_succeeded_is_posted_back(money: Any, books: Books) -> None:
    payment_id, _ = await charged(money)
    refund = await money.settle(await money.operate(payment_id, "refund", amount_minor=300), "succeeded", fenced=False)
    after = await money.settle(refund, "declined", fenced=True, source="webhook")
    assert after.state == "reversed"
    assert (await books.transfers(payment_id))[1:] == [
        ("refund", {"refunded": 300, "in_transit": -300}),
        ("reversal", {"refunded": -300, "in_transit": 300}),
    ]
    assert await books.of(payment_id) == {"captured": -1000, "in_transit": 1000}


async def test_a_dispute_withholds_the_amount_until_it_is_won(money: Any, books: Books, superuser: Connection) -> None:
    payment_id, charge = await charged(money)
    await money.dispute(charge, "inquiry", 500, 1)
    assert len(await books.transfers(payment_id)) == 1, "an inquiry takes nothing"
    await money.dispute(charge, "needs_response", 500, 1)
    await money.dispute(charge, "won", 500, 1)
    assert (await books.transfers(payment_id))[1:] == [
        ("dispute", {"disputed": 500, "in_transit": -500}),
        ("dispute", {"disputed": -500, "in_transit": 500}),
    ]
    disputes = await superuser.fetch("SELECT dispute_id FROM disputes WHERE payment_id = $1", payment_id)
    named = await superuser.fetch(
        "SELECT DISTINCT dispute_id, operation_id FROM ledger_entries WHERE payment_id = $1 AND kind = 'dispute'",
        payment_id,
    )
    assert [tuple(row) for row in named] == [(disputes[0]["dispute_id"], None)], "entries name the dispute that is held"


async def test_a_dispute_that_is_lost_and_a_direct_debit_that_comes_back_stay(money: Any, books: Books) -> None:
    payment_id, charge = await charged(money)
    await money.dispute(charge, "needs_response", 200, 1)
    await money.dispute(charge, "lost", 200, 1)
    await money.dispute(charge, "returned", 300, 2)
    assert await books.of(payment_id) == {"captured": -1000, "disputed": 200, "returned": 300, "in_transit": 500}


async def test_a_fee_that_is_told_later_is_posted_alone(money: Any, books: Books) -> None:
    payment_id, charge = await charged(money)
    await money.settle(charge, "succeeded", fenced=True, source="webhook", fee_minor=31)
    await money.settle(charge, "succeeded", fenced=True, source="webhook", fee_minor=31)
    assert (await books.transfers(payment_id))[1:] == [("fee", {"fees": 31, "in_transit": -31})]


@pytest.mark.parametrize(("manual", "account"), [(False, "in_transit"), (True, "authorized")], ids=["taken", "held"])
async def test_a_surplus_is_owed_to_the_payer_until_it_is_given_back(
    money: Any, books: Books, *, manual: bool, account: str
) -> None:
    payment_id = await money.open(1000, manual=manual)
    late = await money.settle(await money.operate(payment_id, "charge"), "declined", fenced=False)
    charge = await money.operate(payment_id, "charge")
    await money.settle(charge, "succeeded", fenced=False)
    before = await books.of(payment_id)
    await money.settle(late, "succeeded", fenced=True, source="webhook")
    assert (await books.transfers(payment_id))[-1] == ("surplus", {"surplus": -1000, account: 1000})
    await money.unwind(payment_id)
    back = next(one for one in (await money.read(payment_id)).operations if one.parent_id == late.operation_id)
    await money.settle(back, "succeeded", fenced=False)
    assert (await books.transfers(payment_id))[-1] == (back.kind, {"surplus": 1000, account: -1000})
    assert await books.of(payment_id) == before


async def test_a_refusal_and_an_unknown_outcome_post_nothing(money: Any, books: Books) -> None:
    payment_id = await money.open(1000, manual=False)
    await money.settle(await money.operate(payment_id, "charge"), "declined", fenced=False)
    await money.settle(await money.operate(payment_id, "charge"), "unknown", fenced=False)
    assert await books.transfers(payment_id) == []


async def test_the_transfer_carries_the_id_of_the_event_that_told_it(money: Any, superuser: Connection) -> None:
    payment_id, charge = await charged(money)
    entries = await superuser.fetch("SELECT * FROM ledger_entries WHERE payment_id = $1", payment_id)
    event = await superuser.fetchval(
        "SELECT event_id FROM journal WHERE subject_id = $1 AND type = 'payment.succeeded'", payment_id
    )
    assert {row["transfer_id"] for row in entries} == {event}
    assert {(row["operation_id"], row["psp_account_id"]) for row in entries} == {
        (charge.operation_id, charge.psp_account_id)
    }


def test_every_account_that_a_payment_can_stand_on_is_in_the_chart() -> None:
    class Everything:
        capture_method = "automatic"
        authorized_minor, captured_minor, voided_minor, refunded_minor = 1000, 700, 200, 60
        disputed_minor, returned_minor, surplus_minor = 50, 40, 30

    balances = expected(Everything(), 7)
    assert balances.keys() == ACCOUNTS.keys()
    assert sum(balances.values()) == 0


# -- Nobody changes what was posted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount_minor = 1 WHERE payment_id = $1",
        "DELETE FROM ledger_entries WHERE payment_id = $1",
        "TRUNCATE ledger_entries",
    ],
    ids=["update", "delete", "truncate"],
)
async def test_entries_stay_even_for_a_superuser(money: Any, superuser: Connection, statement: str) -> None:
    payment_id, _ = await charged(money)
    with pytest.raises(asyncpg.PostgresError, match="ledger_entries is append-only"):
        await superuser.execute(statement, *([payment_id] if "$1" in statement else []))


async def test_the_application_may_only_read_and_add(superuser: Connection, urls: Any) -> None:
    role = urls.app.split("//")[1].split(":")[0]
    rights = await superuser.fetch(
        "SELECT privilege_type FROM information_schema.role_table_grants WHERE table_name = 'ledger_entries' AND grantee = $1",
        role,
    )
    assert {row["privilege_type"] for row in rights} == {"SELECT", "INSERT"}


COPY = (
    "INSERT INTO ledger_entries (tenant_id, live, at, transfer_id, account, amount_minor, currency, kind, payment_id)"
    " SELECT tenant_id, live, at, {transfer}, '{account}', {amount}, '{currency}', kind, payment_id FROM ledger_entries"
    " WHERE payment_id = $1 AND account = 'captured'"
)


@pytest.mark.parametrize(
    "legs",
    [
        [("$2", "surplus", -5, "EUR")],
        [("$2", "surplus", -5, "EUR"), ("$2", "in_transit", 4, "EUR")],
        [("$2", "surplus", -5, "EUR"), ("$2", "in_transit", 5, "USD")],
        [("transfer_id", "fees", 5, "EUR")],
    ],
    ids=["one leg", "legs that differ", "two currencies", "one more leg on a transfer that was whole"],
)
async def test_an_unbalanced_transfer_does_not_commit_even_for_a_superuser(
    money: Any, superuser: Connection, legs: list[tuple[str, str, int, str]]
) -> None:
    payment_id, _ = await charged(money)
    transfer = clock.new_uuid()
    transaction = superuser.transaction()
    await transaction.start()
    for place, account, amount, currency in legs:
        statement = COPY.format(transfer=place, account=account, amount=amount, currency=currency)
        await superuser.execute(statement, payment_id, *([transfer] if place == "$2" else []))
    with pytest.raises(asyncpg.PostgresError, match="does not sum to zero"):
        await transaction.commit()
    count = "SELECT count(*) FROM ledger_entries WHERE payment_id = $1"
    assert await superuser.fetchval(count, payment_id) == 2


async def test_a_balanced_transfer_commits(money: Any, superuser: Connection) -> None:
    payment_id, _ = await charged(money)
    transfer = clock.new_uuid()
    async with superuser.transaction():
        for account, amount in (("fees", 5), ("in_transit", -5)):
            statement = COPY.format(transfer="$2", account=account, amount=amount, currency="EUR")
            await superuser.execute(statement, payment_id, transfer)


async def test_entries_of_a_payment_that_does_not_exist_are_refused(money: Any, superuser: Connection) -> None:
    payment_id, _ = await charged(money)
    statement = COPY.format(transfer="$2", account="fees", amount=5, currency="EUR").replace(
        "kind, payment_id FROM", "kind, $2 FROM"
    )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await superuser.execute(statement, payment_id, clock.new_uuid())
