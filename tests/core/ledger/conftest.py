"""The money path of the payments' tests, and looking at the ledger behind the application's back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest
from tests.conftest import connected
from tests.core.payments.conftest import MoneyPath, money

if TYPE_CHECKING:
    from tests.conftest import Urls

__all__ = ["MoneyPath", "money"]

Balances = dict[str, int]


class Books:
    """What stands in the ledger, read as a superuser."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def of(self, payment_id: UUID) -> Balances:
        """Each account of a payment that is not zero."""
        rows = await self._connection.fetch(
            "SELECT account, sum(amount_minor)::bigint AS balance FROM ledger_entries WHERE payment_id = $1 GROUP BY account",
            payment_id,
        )
        return {row["account"]: row["balance"] for row in rows if row["balance"]}

    async def transfers(self, payment_id: UUID) -> list[tuple[str, Balances]]:
        """The transfers of a payment in the order they were posted: kind, and amounts by account."""
        rows = await self._connection.fetch(
            "SELECT at, transfer_id, kind, account, amount_minor FROM ledger_entries WHERE payment_id = $1"
            " ORDER BY at, transfer_id",
            payment_id,
        )
        found: dict[tuple[object, object, str], Balances] = defaultdict(dict)
        for row in rows:
            found[row["at"], row["transfer_id"], row["kind"]][row["account"]] = row["amount_minor"]
        return [(key[2], amounts) for key, amounts in found.items()]


@pytest.fixture
async def books(superuser: asyncpg.Connection[asyncpg.Record]) -> Books:
    """The ledger."""
    return Books(superuser)


@pytest.fixture
async def clumsy(urls: Urls) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser for whom no trigger and no foreign key works: the hand in the database."""
    async with connected(urls.superuser) as connection:
        await connection.execute("SET session_replication_role = replica")
        yield connection
