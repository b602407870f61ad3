"""The dunning board: in which column an unpaid invoice stands, in which order, and what the columns add up to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from tests.core.payments.conftest import approve
from tests.core.rebills.conftest import START, Desk, declined

from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.problems import InvalidRequest
from clearspan.rebills.desk import BOARD
from clearspan.rebills.plans import DunningPlan, tries_planned
from clearspan.rebills.schemas import BoardFilters
from clearspan.sdk import DeclineClass

ALL = BoardFilters()
LONG_AGO = START - timedelta(days=1)


async def columns(desk: Desk, filters: BoardFilters = ALL, scope: Scope | None = None) -> dict[str, set[str]]:
    """Which invoices stand where."""
    found: dict[str, set[str]] = {}
    for column in BOARD:
        page = await desk.gateway.rebills.board(scope or desk.scope, column, LONG_AGO, filters, 50, None)
        if page.cards:
            found[column] = {card.id for card in page.cards}
    return found


async def failed(desk: Desk, code: str, amount_minor: int = 900) -> str:
    """An invoice whose first charge was declined."""
    desk.puppet.does = declined(code)
    invoice = await desk.invoice(await desk.deal(), amount_minor)
    await desk.collect(START)
    return ids.encode("inv", invoice)


async def test_an_invoice_goes_from_column_to_column(desk: Desk) -> None:
    soft, asked = await failed(desk, "insufficient_funds"), await failed(desk, "expired_card")
    assert await columns(desk) == {"recovering": {soft}, "at_risk": {asked}}
    desk.puppet.does = approve
    await desk.collect(START + timedelta(days=12))
    assert await columns(desk) == {"recovered": {soft}, "at_risk": {asked}}
    await desk.collect(START + timedelta(days=30))
    assert await columns(desk) == {"recovered": {soft}, "lost": {asked}}


async def test_what_never_failed_and_what_was_taken_back_is_not_on_the_board(desk: Desk) -> None:
    taken_back = await failed(desk, "expired_card")
    await desk.invoice(await desk.deal())
    await desk.sql.execute(
        "UPDATE rebills SET state = 'stopped', next_at = NULL WHERE invoice_id = $1", ids.decode("inv", taken_back)
    )
    assert await columns(desk) == {"lost": {taken_back}}
    await desk.sql.execute("UPDATE invoices SET status = 'void' WHERE invoice_id = $1", ids.decode("inv", taken_back))
    assert await columns(desk) == {}


async def test_filters_by_class_of_the_decline_and_by_plan(desk: Desk) -> None:
    soft, asked = await failed(desk, "insufficient_funds"), await failed(desk, "expired_card")
    assert await columns(desk, BoardFilters(kind=DeclineClass.SOFT)) == {"recovering": {soft}}
    assert await columns(desk, BoardFilters(kind=DeclineClass.FRAUD)) == {}
    assert await columns(desk, BoardFilters(built_in=True)) == {"recovering": {soft}, "at_risk": {asked}}
    assert await columns(desk, BoardFilters(dunning_plan_id=UUID(int=7))) == {}
    assert await columns(desk, BoardFilters(plan_id=UUID(int=7))) == {}


async def test_pages_continue_where_they_ended_with_and_without_filters(desk: Desk) -> None:
    made = {await failed(desk, "insufficient_funds") for _ in range(5)}
    for filters in (ALL, BoardFilters(kind=DeclineClass.SOFT)):
        seen: list[str] = []
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            page = await desk.gateway.rebills.board(desk.scope, "recovering", LONG_AGO, filters, 2, cursor)
            seen += [card.id for card in page.cards]
            cursor, pages = page.next_cursor, pages + 1
        assert pages == 3
        assert len(seen) == 5
        assert set(seen) == made


async def test_totals_are_those_of_the_columns(desk: Desk) -> None:
    for amount in (900, 1100):
        await failed(desk, "insufficient_funds", amount)
    await failed(desk, "expired_card", 500)
    totals = await desk.gateway.rebills.board_totals(desk.scope, LONG_AGO, ALL)
    assert {(one.column, one.currency, one.invoices, one.amount_minor) for one in totals} == {
        ("recovering", "EUR", 2, 2000),
        ("at_risk", "EUR", 1, 500),
    }


async def test_another_tenants_board_is_empty(desk: Desk, other_tenant: object) -> None:
    await failed(desk, "insufficient_funds")
    scope: Scope = other_tenant.scope  # type: ignore[attr-defined]
    assert await columns(desk, scope=scope) == {}
    assert await desk.gateway.rebills.board_totals(scope, LONG_AGO, ALL) == []


ORDERS = {
    "rebills_at_risk": "state IN ('decide', 'waiting') AND (COALESCE(next_at, 'infinity'::timestamptz), invoice_id) > (now(), $2)"
    " ORDER BY COALESCE(next_at, 'infinity'::timestamptz), invoice_id",
    "rebills_recovering": "state IN ('due', 'claimed') AND (next_at, invoice_id) > (now(), $2) ORDER BY next_at, invoice_id",
    "rebills_recovered": "state = 'settled' AND (updated_at, invoice_id) < (now(), $2) ORDER BY updated_at DESC, invoice_id DESC",
    "rebills_lost": "state IN ('exhausted', 'stopped') AND (updated_at, invoice_id) < (now(), $2)"
    " ORDER BY updated_at DESC, invoice_id DESC",
}


@pytest.mark.parametrize("index", ORDERS)
async def test_each_column_is_read_off_its_index_in_order(desk: Desk, index: str) -> None:
    async with desk.sql.transaction():
        await desk.sql.execute("SET LOCAL enable_seqscan = off")
        statement = (
            "EXPLAIN SELECT * FROM rebills WHERE tenant_id = $1 AND NOT live AND first_failed_at IS NOT NULL AND "
        )
        rows = await desk.sql.fetch(statement + ORDERS[index] + " LIMIT 13", desk.scope.tenant_id, UUID(int=0))
    plan = "\n".join(row[0] for row in rows)
    assert f"using {index}" in plan
    assert "Sort" not in plan


@pytest.mark.parametrize("cursor", ["x", "%%%", "bm90aGluZw"])
async def test_a_cursor_that_is_none_is_refused(desk: Desk, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await desk.gateway.rebills.board(desk.scope, "lost", LONG_AGO, ALL, 2, cursor)


@pytest.mark.parametrize(
    ("code", "held_out", "tries"),
    [("insufficient_funds", False, 7), ("insufficient_funds", True, 3), ("do_not_honor", False, 3),
     ("restricted_card", False, 2)],
)  # fmt: skip
def test_how_many_tries_a_plan_has(code: str, held_out: bool, tries: int) -> None:
    assert tries_planned(DunningPlan(), code, held_out=held_out) == tries
