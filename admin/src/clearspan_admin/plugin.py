"""The operator's cockpit, a plugin like any other: pages at ``/admin``, each with the scope that a call of the API would need."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Router

from clearspan.platform.problems import DomainError
from clearspan.sdk import RouteSet, hookimpl
from clearspan_admin import pages, web


@hookimpl
def clearspan_routes() -> Sequence[RouteSet]:
    """Every page."""
    router = Router(
        path="/",
        route_handlers=list(pages.handlers()),
        guards=[web.check_form],
        exception_handlers={DomainError: web.refused},
        include_in_schema=False,
    )
    return [RouteSet(path=web.PATH, handlers=[router])]
