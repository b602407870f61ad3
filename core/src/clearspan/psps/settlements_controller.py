"""``/v1/psp-accounts/{account}/settlements``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from clearspan.platform import clock
from clearspan.platform.context import Caller
from clearspan.platform.moments import in_utc
from clearspan.platform.replies import problems
from clearspan.psps.service import AccountNotFound, UnknownPsp
from clearspan.psps.settlements import (
    SettlementOut,
    Settlements,
    SettlementsNotSupported,
    SettlementsUnavailable,
    SettlementUnreadable,
)

REPORT_MAX_BYTES = 64 * 2**20


class SettlementController(Controller):
    """What PSPs pay out."""

    path = "/psp-accounts/{account_id:str}/settlements"
    tags = ["Configuration"]

    @get(
        opt={"scope": "ledger:read"},
        responses=problems(AccountNotFound, UnknownPsp, SettlementsNotSupported, SettlementsUnavailable),
    )
    async def fetch(
        self,
        account_id: FromPath[str],
        caller: NamedDependency[Caller],
        settlements: NamedDependency[Settlements],
        since: Annotated[
            datetime | None, QueryParameter(description="From then on; default: a week before `until`.")
        ] = None,
        until: Annotated[
            datetime | None, QueryParameter(description="Before then, 93 days after `since` at most; default: now.")
        ] = None,
    ) -> SettlementOut:
        """What the PSP booked for an account in a span of time. The PSP is asked; nothing is stored."""
        end = clock.now() if until is None else in_utc("until", until)
        begin = end - clock.seconds(7 * 86_400) if since is None else in_utc("since", since)
        return await settlements.fetch(caller.scope, account_id, begin, end)

    @post(
        "/read",
        status_code=200,
        opt={"scope": "ledger:read"},
        request_max_body_size=REPORT_MAX_BYTES,
        responses=problems(AccountNotFound, UnknownPsp, SettlementsNotSupported, SettlementUnreadable),
    )
    async def read(
        self,
        account_id: FromPath[str],
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        settlements: NamedDependency[Settlements],
    ) -> SettlementOut:
        """The lines of a settlement report that the PSP published: the file as it is, `Content-Type: text/csv`."""
        return await settlements.read(caller.scope, account_id, await request.body())
