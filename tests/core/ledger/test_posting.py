"""Every change of a payment's totals is posted, sums to zero, and cannot be taken back by anybody."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.ledger.conftest import Books
from tests.core.payments.test_model_and_sql import STEP, step
from tests.factories import insert, rows

from clearspan.ledger.models import ACCOUNTS, expected
from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.db import Database

Connection = Any


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
