"""Disputes: which want an answer and until when, and what is known about each."""

from __future__ import annotations

from typing import Final

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.payments.service import Payments
from clearspan.platform import clock
from clearspan_admin import web
from clearspan_admin.web import Http

PAGE: Final = 50
STATUSES: Final = (
    "needs_response", "inquiry", "pre_arbitration", "under_review", "won", "lost", "accepted", "expired", "inquiry_closed",
    "prevented", "returned",
)  # fmt: skip
OPEN: Final = ("needs_response", "inquiry", "pre_arbitration")
SOON: Final = clock.seconds(3 * 86_400)


class DisputesController(Controller):
    """``/admin/disputes``."""

    path = "/disputes"

    @get("/", opt={"scope": "payments:read", "session": True})
    async def list(self, request: Http, payments: NamedDependency[Payments]) -> Response[bytes]:
        """Those that want an answer, the next deadline first; or all of a status, newest first."""
        caller = web.caller_of(request)
        show, status = request.query_params.get("show", ""), request.query_params.get("status", "")
        status = status if status in STATUSES else ""
        every = show == "all" or bool(status)
        cursor = request.query_params.get("cursor") or None
        if every:
            found = await payments.list_disputes(caller, None, status or None, PAGE, cursor)
            rows, following = found.data, found.next_cursor
        else:
            due = await payments.disputes_to_answer(caller.scope, PAGE, cursor)
            rows, following = due[:PAGE], due[PAGE - 1].id if len(due) > PAGE else None
        here = {"show": "all" if every else "", "status": status}
        return web.page(
            request,
            "disputes/list.html",
            rows=rows,
            every=every,
            wanted=status,
            statuses=STATUSES,
            soon=clock.now() + SOON,
            open_statuses=OPEN,
            next_href=web.url(request, "/disputes", cursor=following, **here) if following else "",
            first_href=web.url(request, "/disputes", **here) if cursor else "",
        )

    @get("/{dispute_id:str}", opt={"scope": "payments:read", "session": True})
    async def show(
        self, request: Http, dispute_id: FromPath[str], payments: NamedDependency[Payments]
    ) -> Response[bytes]:
        """One dispute, with its payment."""
        caller = web.caller_of(request)
        one = await payments.get_dispute(caller, dispute_id)
        payment = await payments.get(caller, one.payment)
        return web.page(
            request,
            "disputes/dispute.html",
            one=one,
            payment=payment,
            wants=one.status in OPEN,
            soon=clock.now() + SOON,
        )
