"""``/v1/ledger``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from clearspan.ledger import service
from clearspan.ledger.schemas import Account, BalanceList, EntryList
from clearspan.ledger.service import EntryQuery
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.problems import InvalidRequest
from clearspan.platform.replies import problems

SCOPE = "ledger:read"


class LedgerController(Controller):
    """Double entry over all payments."""

    path = "/ledger"
    tags = ("Ledger",)

    @get("/balances", summary="List balances", opt={"scope": SCOPE}, responses=problems(ids.InvalidId))
    async def balances(
        self,
        caller: NamedDependency[Caller],
        db: NamedDependency[Database],
        currency: Annotated[str | None, QueryParameter(pattern=r"^[A-Z]{3}$", description="Only this one.")] = None,
        psp_account: Annotated[
            str | None, QueryParameter(max_length=90, description="Only what happened at this PSP account.")
        ] = None,
        before: Annotated[datetime | None, QueryParameter(description="As it stood at this moment.")] = None,
    ) -> BalanceList:
        """What stands on each account, by currency. Debits are positive, credits negative, and a currency sums to zero."""
        _zoned(before=before)
        return await service.balances(db, caller.scope, currency=currency, psp_account=psp_account, before=before)

    @get("/entries", summary="List entries", opt={"scope": SCOPE}, responses=problems(ids.InvalidId))
    async def entries(
        self,
        caller: NamedDependency[Caller],
        db: NamedDependency[Database],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
        payment: Annotated[str | None, QueryParameter(max_length=90, description="Of this payment.")] = None,
        account: Annotated[Account | None, QueryParameter(description="On this account.")] = None,
        created_after: Annotated[datetime | None, QueryParameter(description="At this moment or later.")] = None,
        created_before: Annotated[datetime | None, QueryParameter(description="Before this moment.")] = None,
    ) -> EntryList:
        """Entries, newest first. Those with the same `transfer` belong together and sum to zero; none ever changes."""
        _zoned(created_after=created_after, created_before=created_before)
        query = EntryQuery(payment=payment, account=account, created_after=created_after, created_before=created_before)
        return await service.entries(db, caller.scope, query, limit=limit, cursor=cursor)


def _zoned(**moments: datetime | None) -> None:
    for name, moment in moments.items():
        if moment is not None and moment.tzinfo is None:
            message = f"{name} needs a time zone, such as 2030-01-01T00:00:00Z."
            raise InvalidRequest(message, errors=[{"path": name, "message": message}])
