"""Signing in and out."""

from __future__ import annotations

from litestar import Controller, Response, get

from clearspan.access.guard import PUBLIC
from clearspan_admin import web
from clearspan_admin.web import Http


class SigningController(Controller):
    """``/admin/sign-in``."""

    @get("/sign-in", opt={"scope": PUBLIC})
    async def form(self, request: Http) -> Response[bytes]:
        """E-mail address and password."""
        visit = web.begin_visit(request)
        answer = web.page(request, "signing/sign_in.html", next=request.query_params.get("next", ""))
        if visit:
            web.set_cookie(request, answer, web.visit_cookie(request), visit, strict=True)
        return answer
