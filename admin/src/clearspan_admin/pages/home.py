"""Home: what happens now, and what needs somebody. ``live.py`` keeps it up to date."""

from __future__ import annotations

from typing import Any, Final

from litestar import Controller, Response, get
from litestar.di import NamedDependency

from clearspan.access.errors import LooksElsewhere
from clearspan.platform import ids
from clearspan.reports.schemas import Queue, Today
from clearspan.reports.service import COUNT_MAX, Reports
from clearspan_admin import web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

ROWS_MAX: Final = 50
START: Final = "start"
"""Instead of an event, where nothing has happened yet: a stream goes on from the beginning."""

NEEDS: Final = (
    ("unknown", mark("Payments with an unknown outcome"), mark("The PSP is being asked. Nobody charges again meanwhile."),
     "/work?queue=unknown", "payments:read", "circle-help"),
    ("needs_review", mark("Outcomes that a person must decide"), mark("The PSP could not tell. Look there and decide."),
     "/work?queue=unknown", "payments:read", "eye"),
    ("disputes_to_answer", mark("Disputes to answer"), "", "/disputes", "payments:read", "gavel"),
    ("approvals", mark("Requests that wait for a second person"), "", "/approvals", "payments:decide", "shield-check"),
    ("parked", mark("PSP messages that could not be applied"), mark("They are kept; most apply by themselves later."),
     "/work?queue=webhooks", "payments:read", "inbox"),
    ("deliveries", mark("Webhook deliveries that failed"), mark("Your systems may lack these events."),
     "/work?queue=deliveries", "payments:read", "send"),
    ("notices", mark("Messages to customers that failed"), "", "/work?queue=notices", "payments:read", "triangle-alert"),
)  # fmt: skip
"""Attribute of ``Today``, title, what it means, where it is worked on, which scope that needs, icon."""


class HomeController(Controller):
    """``/admin/`` and the parts of it that are asked for again."""

    @get("/", opt={"scope": "payments:read", "session": True})
    async def show(self, request: Http, reports: NamedDependency[Reports]) -> Response[bytes]:
        """The first page after signing in."""
        signed = web.who(request)
        # The rows first: what happens while the figures are counted comes over the stream.
        newest = await reports.newest(web.caller_of(request).scope, ROWS_MAX)
        return web.page(
            request,
            "home/home.html",
            rows=newest.rows,
            after=ids.encode("evt", newest.cursor) if newest.cursor else START,
            of=looking_at(request),
            zone=signed.operator.timezone,
            **await _now(request, reports),
        )

    @get("/now", opt={"scope": "payments:read", "session": True, "quiet": True})
    async def now(self, request: Http, reports: NamedDependency[Reports]) -> Response[bytes]:
        """The figures, the list of what needs somebody and the PSP accounts, as a part of the page."""
        same_place(request)
        return web.page(
            request, "home/now.html", zone=web.who(request).operator.timezone, **await _now(request, reports)
        )

    @get("/newest", opt={"scope": "payments:read", "session": True, "quiet": True, "stream": True})
    async def newest(self, request: Http, reports: NamedDependency[Reports]) -> Response[bytes]:
        """The table's rows anew, for a page that was away for too long to be told everything."""
        same_place(request)
        newest = await reports.newest(web.caller_of(request).scope, ROWS_MAX)
        after = ids.encode("evt", newest.cursor) if newest.cursor else START
        return web.page(request, "home/newest.html", rows=newest.rows, after=after)


def looking_at(request: Http) -> str:
    """The tenant and mode that a page is made for: what it asks for later must be of the same."""
    signed = web.who(request)
    return f"{signed.membership.slug}.{'live' if signed.session.live else 'test'}"


def same_place(request: Http) -> None:
    """Refuse to mix two tenants on one page.

    Raises:
        LooksElsewhere: the query's ``of`` names another place; without ``of`` it is not looked at.
    """
    if request.query_params.get("of") not in (None, looking_at(request)):
        raise LooksElsewhere


async def _now(request: Http, reports: Reports) -> dict[str, Any]:
    signed = web.who(request)
    today = await reports.today(web.caller_of(request).scope, signed.operator.timezone)
    return {"today": today, "needs": _needs(today, signed.scopes), "count_max": COUNT_MAX}


def _needs(today: Today, scopes: frozenset[str]) -> list[dict[str, Any]]:
    """What waits for somebody; links only where the reader may go."""
    found: list[dict[str, Any]] = []
    for name, title, meaning, path, scope, icon in NEEDS:
        queue: Queue = getattr(today, name)
        if queue.count:
            way = path if scope in scopes else ""
            found.append({"name": name, "title": title, "meaning": meaning, "path": way, "icon": icon, "queue": queue})
    wrong = [one for one in today.accounts if one.state in ("misconfigured", "unhealthy")]
    if wrong:
        found.append(
            {
                "name": "accounts",
                "title": mark("PSP accounts that do not work"),
                "meaning": ", ".join(one.name for one in wrong),
                "path": "/settings/psps" if "psp_accounts:read" in scopes else "",
                "icon": "landmark",
                "queue": Queue(len(wrong)),
            }
        )
    if today.endpoints_off:
        found.append(
            {
                "name": "endpoints",
                "title": mark("Webhook endpoints that were switched off"),
                "meaning": mark("They failed for too long. Events wait there until they are switched on."),
                "path": "/settings/webhooks" if "webhook_endpoints:read" in scopes else "",
                "icon": "webhook",
                "queue": Queue(today.endpoints_off),
            }
        )
    return found
