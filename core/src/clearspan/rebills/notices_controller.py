"""``/v1/notices``: what customers were mailed, and what waits to be."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.problems import InvalidRequest
from clearspan.platform.replies import problems
from clearspan.rebills.notices import Notices
from clearspan.rebills.notices_schemas import NoticeFilters, NoticeList

STATES = ("queued", "sent", "failed", "dropped")
_FILTERS = frozenset({"limit", "cursor", "invoice", "customer", "state"})
Id = Annotated[str | None, QueryParameter(max_length=90)]


class NoticeController(Controller):
    """Notices."""

    path = "/notices"
    tags = ("Invoices",)

    @get(opt={"scope": "invoices:read"}, responses=problems(ids.InvalidId))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        notices: NamedDependency[Notices],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
        invoice: Id = None,
        customer: Id = None,
        wanted: Annotated[
            str | None,
            QueryParameter(name="state", pattern="^[a-z_]{1,40}$", description=f"One of {', '.join(STATES)}."),
        ] = None,
    ) -> NoticeList:
        """Mails to customers, newest first: sent, waiting, given up, or not sent and why."""
        for name in request.query_params:
            if name not in _FILTERS:
                raise InvalidRequest(
                    f"There is no filter {name[:40]!r}; there are {', '.join(sorted(_FILTERS))}.",
                    errors=[{"path": name[:40], "message": "unknown query parameter"}],
                )
        if wanted is not None and wanted not in STATES:
            raise InvalidRequest(
                f"state is one of {', '.join(STATES)}.", errors=[{"path": "state", "message": "unknown"}]
            )
        filters = NoticeFilters(
            invoice_id=None if invoice is None else ids.decode("inv", invoice),
            customer_id=None if customer is None else ids.decode("cus", customer),
            state=wanted,
        )
        return await notices.list(caller.scope, filters, limit, cursor)
