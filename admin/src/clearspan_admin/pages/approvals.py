"""What one person asked for and another has to allow."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.operators import Operators
from clearspan.payments import errors
from clearspan.payments.approvals import REASON_MAX, Approvals, Request
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan_admin import web
from clearspan_admin.pages.payment import names, said_of, shown_to
from clearspan_admin.web import Http


class ApprovalController(Controller):
    """Refunds above the limit of one person. Whoever reads payments sees them, ``payments:decide`` decides."""

    path = "/approvals"

    @get(opt={"scope": "payments:read", "session": True})
    async def page(
        self, request: Http, approvals: NamedDependency[Approvals], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """What waits, and what was decided."""
        decided = request.query_params.get("show") == "decided"
        cursor = request.query_params.get("cursor") or None
        found = await approvals.page(web.caller_of(request).scope, open_=not decided, cursor=cursor)
        return web.page(
            request,
            "approvals/list.html",
            found=found,
            decided=decided,
            cursor=cursor,
            names=await names(operators, request),
            limit=approvals.alone_up_to_minor,
        )

    @get("/{approval_id:str}", opt={"scope": "payments:read", "session": True})
    async def show(
        self,
        request: Http,
        approval_id: FromPath[str],
        approvals: NamedDependency[Approvals],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """One request beside the payment as it stands."""
        asked = await approvals.get(web.caller_of(request).scope, approval_id)
        return await _page(request, asked, operators)

    @post(
        "/{approval_id:str}/approve",
        opt={"scope": "payments:decide", "session": True, "step_up": True},
        status_code=200,
    )
    async def approve(
        self,
        request: Http,
        approval_id: FromPath[str],
        approvals: NamedDependency[Approvals],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """Allow it: the refund is made with it."""
        form, caller = await web.form_of(request), web.caller_of(request)
        reason = form.text("reason")
        asked = await approvals.get(caller.scope, approval_id)
        if len(reason) > REASON_MAX:
            return await _page(request, asked, operators, _too_long(request), reason)
        try:
            asked, refund = await approvals.approve(caller, approval_id, reason)
        except errors.ApprovalDecided:
            return await _late(request, approvals, approval_id, operators)
        except DomainError as refused:
            return await _page(request, asked, operators, said_of(request, refused), reason)
        if asked.decided_by != caller.actor_id:
            return await _late(request, approvals, approval_id, operators)
        amount = shown_to(request).money(refund.amount_minor, refund.currency)
        if refund.status == "succeeded":
            return web.go(
                request,
                f"/payments/{asked.payment}",
                web.say(request, "Approved, and %(amount)s refunded.", amount=amount),
            )
        if refund.status in ("failed", "canceled"):
            text = "Approved, but the PSP did not refund %(amount)s. Look at the payment for why."
            return web.go(request, f"/payments/{asked.payment}", web.say(request, text, amount=amount), "bad")
        text = "Approved. The PSP has not said yet whether %(amount)s are refunded."
        return web.go(request, f"/payments/{asked.payment}", web.say(request, text, amount=amount), "info")

    @post("/{approval_id:str}/reject", opt={"scope": "payments:decide", "session": True}, status_code=200)
    async def reject(
        self,
        request: Http,
        approval_id: FromPath[str],
        approvals: NamedDependency[Approvals],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """Say no, and why."""
        form, caller = await web.form_of(request), web.caller_of(request)
        asked = await approvals.get(caller.scope, approval_id)
        if len(form.text("reason")) > REASON_MAX:
            return await _page(request, asked, operators, _too_long(request), form.text("reason"))
        try:
            await approvals.reject(caller, approval_id, form.text("reason"))
        except errors.ApprovalDecided:
            return await _late(request, approvals, approval_id, operators)
        except (InvalidRequest, errors.OwnApproval) as refused:
            return await _page(request, asked, operators, said_of(request, refused), form.text("reason"))
        return web.go(request, "/approvals", web.say(request, "Rejected. Nothing is refunded."))

    @post("/{approval_id:str}/withdraw", opt={"scope": "payments:write", "session": True}, status_code=303)
    async def withdraw(
        self,
        request: Http,
        approval_id: FromPath[str],
        approvals: NamedDependency[Approvals],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """Take one's own request back."""
        try:
            asked = await approvals.withdraw(web.caller_of(request), approval_id)
        except errors.ApprovalDecided:
            return await _late(request, approvals, approval_id, operators)
        return web.go(request, f"/payments/{asked.payment}", web.say(request, "The request is withdrawn."))


async def _page(
    request: Http, asked: Request, operators: Operators, problem: str = "", reason: str = ""
) -> Response[bytes]:
    context: dict[str, Any] = {
        "asked": asked,
        "names": await names(operators, request),
        "problem": problem,
        "reason": reason,
    }
    mine = asked.asked_by == web.caller_of(request).actor_id
    return web.page(request, "approvals/one.html", status=422 if problem else 200, mine=mine, **context)


async def _late(request: Http, approvals: Approvals, approval_id: str, operators: Operators) -> Response[bytes]:
    """Somebody was faster, or time was: say who and what."""
    asked = await approvals.get(web.caller_of(request).scope, approval_id)
    if asked.decided_by is None:
        text, who = "The request has expired; it may be asked for again. Nothing was changed.", ""
    else:
        who = (await names(operators, request)).get(asked.decided_by, asked.decided_by)
        text = {
            "approved": "%(who)s approved it already. It is refunded once.",
            "rejected": "%(who)s rejected it already. Nothing was changed.",
        }.get(asked.status, "%(who)s withdrew it. Nothing was changed.")
    return web.go(request, f"/approvals/{approval_id}", web.say(request, text, who=who), "info")


def _too_long(request: Http) -> str:
    return web.say(request, "A reason has %(most)s characters at most.", most=REASON_MAX)
