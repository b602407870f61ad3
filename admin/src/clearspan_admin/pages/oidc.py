"""Signing in at an OpenID provider: there, and back. What is checked is ``clearspan.access.oidc``."""

from __future__ import annotations

from litestar import Controller, Response, get
from litestar.di import NamedDependency

from clearspan.access.errors import NoTenant
from clearspan.access.guard import PUBLIC
from clearspan.access.oidc import FLOW_S, OpenId
from clearspan.access.sessions import Sessions, Signed
from clearspan.platform.problems import DomainError
from clearspan_admin import web
from clearspan_admin.web import Http


class OidcController(Controller):
    """``/admin/oidc``."""

    path = "/oidc"

    @get("/start", opt={"scope": PUBLIC})
    async def start(self, request: Http, openid: NamedDependency[OpenId]) -> Response[bytes]:
        """To the provider. ``next`` says where to go afterwards, ``again=1`` that it has to ask who it is once more."""
        query = request.query_params
        try:
            begun = await openid.begin(query.get("next", "/"), again=query.get("again") == "1")
        except DomainError as error:
            return _refused(request, error)
        answer = Response(b"", status_code=303, headers={"Location": begun.url, "Cache-Control": "no-store"})
        web.set_cookie(request, answer, _cookie(request), begun.cookie, max_age=FLOW_S)
        return answer

    @get("/callback", opt={"scope": PUBLIC})
    async def callback(
        self, request: Http, openid: NamedDependency[OpenId], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """Back from the provider, with its answer."""
        try:
            signed_in = await openid.finish(
                dict(request.query_params),
                request.cookies.get(_cookie(request), ""),
                ip=request.client.host if request.client else "",
                agent=request.headers.get("user-agent", ""),
                request_id=request.scope["state"]["request_id"],
                previous=await _previous(request, sessions),
            )
        except DomainError as error:
            return _refused(request, error)
        answer = web.go(request, signed_in.next)
        web.set_cookie(request, answer, sessions.cookie, signed_in.session.token)
        answer.delete_cookie(_cookie(request), path="/")
        return answer


async def _previous(request: Http, sessions: Sessions) -> Signed | None:
    try:
        return await sessions.of_request(request)
    except NoTenant:
        return None


def _refused(request: Http, error: DomainError) -> Response[bytes]:
    """Why not, and the way back. A cookie is good for one answer, whatever it was."""
    problem = {
        "code": error.code,
        "title": web.say(request, error.title),
        "detail": web.say(request, error.detail),
        "request_id": request.scope["state"]["request_id"],
    }
    answer = web.page(request, "oidc/refused.html", status=error.status, problem=problem)
    answer.delete_cookie(_cookie(request), path="/")
    return answer


def _cookie(request: Http) -> str:
    name: str = request.app.state.sessions.cookie
    return f"{name}-oidc"
