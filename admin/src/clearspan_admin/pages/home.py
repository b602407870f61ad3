"""Home: what happens now."""

from __future__ import annotations

from litestar import Controller, Response, get

from clearspan_admin import web
from clearspan_admin.web import Http


class HomeController(Controller):
    """``/admin/``."""

    @get("/", opt={"scope": "payments:read", "session": True})
    async def show(self, request: Http) -> Response[bytes]:
        """The first page after signing in."""
        return web.page(request, "home/home.html")
