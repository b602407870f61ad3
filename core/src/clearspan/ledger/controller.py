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
from clearspan.platform.moments import in_utc
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
        at = in_utc("before", before)
        return await service.balances(db, caller.scope, currency=currency, psp_account=psp_account, before=at)

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
        query = EntryQuery(
            payment=payment,
            account=account,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
        )
        return await service.entries(db, caller.scope, query, limit=limit, cursor=cursor)
