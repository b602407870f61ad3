"""Every component and status on one page, for whoever builds pages, and for the tests of colour, width and accessibility."""

from __future__ import annotations

from datetime import timedelta

from litestar import Controller, Response, get

from clearspan.access.guard import ANY
from clearspan.platform import clock
from clearspan_admin import web
from clearspan_admin.web import Http


class StyleGuideController(Controller):
    """``/admin/style-guide``."""

    @get("/style-guide", opt={"scope": ANY, "session": True, "half": True})
    async def show(self, request: Http) -> Response[bytes]:
        """The components, each as a page would use it. It stands in no menu."""
        now = clock.now()
        return web.page(
            request, "style_guide/style_guide.html", at=now - timedelta(minutes=7), before=now - timedelta(days=400)
        )
