"""What is no page of its own: static files, reports of policy violations, switching tenant and mode."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import structlog
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from clearspan.access.guard import ANY, PUBLIC
from clearspan.access.sessions import Sessions
from clearspan.platform.problems import NotFound
from clearspan_admin import web
from clearspan_admin.web import Http

log = structlog.get_logger("clearspan.admin")
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "woff2": "font/woff2"}
_REPORT_MAX = 2_000


class ShellController(Controller):
    """See the module's docstring."""

    @get("/static/{version:str}/{name:path}", opt={"scope": PUBLIC})
    async def asset(self, request: Http, version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
        """A static file; its address changes with its content."""
        found = web.assets().get(name.lstrip("/"))
        if found is None or version != web.assets_version():
            raise NotFoundException
        plain, packed = found
        gzipped = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
        return Response(packed if gzipped else plain, media_type=kind, headers=headers)

    @post("/csp-reports", opt={"scope": PUBLIC}, status_code=204)
    async def report(self, request: Http) -> None:
        """A browser found something on a page that the policy forbids: log it, cut to a bound."""
        body = await request.body()
        try:
            said: Any = msgspec.json.decode(body[:_REPORT_MAX])
        except msgspec.DecodeError:
            said = {}
        inside = said.get("csp-report", {}) if isinstance(said, dict) else {}
        log.warning(
            "csp_violation",
            directive=str(inside.get("violated-directive", ""))[:100] if isinstance(inside, dict) else "",
            blocked=str(inside.get("blocked-uri", ""))[:200] if isinstance(inside, dict) else "",
        )

    @get("/{path:path}", opt={"scope": ANY, "session": True, "half": True})
    async def missing(self, request: Http, path: FromPath[str]) -> Response[bytes]:  # noqa: ARG002
        """There is no such page."""
        raise NotFound(web.say(request, "There is no page at this address."))

    @post("/look-at", opt={"scope": ANY, "session": True, "half": True}, status_code=303)
    async def look_at(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """Switch to another tenant or mode, and begin at its home."""
        form = await web.form_of(request)
        tenant, mode = form.text("tenant"), form.text("mode")
        wanted = next((one.tenant_id for one in web.who(request).operator.memberships if one.slug == tenant), None)
        await sessions.look_at(
            web.who(request), tenant_id=UUID(str(wanted)) if wanted else None, live=mode == "live" if mode else None
        )
        return web.go(request, "/")
