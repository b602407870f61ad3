"""``docs/roles.md``: every role with every route, of the API and of the cockpit, as the guard decides.

The routes are those of an application that is built as the server builds it, with the cockpit found through its entry
point and no database behind it; so a route that is added, or that asks for another scope, changes the page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from clearspan.access.guard import ANY, PUBLIC
from clearspan.access.keys import SCOPES
from clearspan.access.roles import ROLES, STRONG_ROLES
from clearspan.app import Gateway, litestar_app
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.settings import load

PAGE = "docs/roles.md"
_NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
_MARK = "✓"
_HEAD = """# Roles

<!-- Made by `python -m clearspan.docs_gen` from clearspan/access/roles.py and the routes; edit those instead. -->

A person is a member of a tenant with one role. A role is a set of scopes, the same that API keys have, and nothing else: a page
of the cockpit asks for the scope that a call of the API would need. `tests/admin/test_role_matrix.py` tries each page with each
role, `tests/core/access/test_authentication.py` each call of the API with keys that lack its scope.

These roles must have a second factor: {strong}. Without one, nothing but its set-up opens. An owner differs from an admin in
one thing: only owners make, change and remove owners.
"""


class Route(msgspec.Struct, frozen=True, order=True):
    """A method of a path.

    Attributes:
        path: ``/v1/payments/{payment_id}``.
        method: of HTTP.
        scope: what it asks for, ``any`` for whoever is known, ``public`` for everybody.
        session: whether it is a page for people.
        step_up: whether it asks for a second factor given a moment ago.
    """

    path: str
    method: str
    scope: str
    session: bool
    step_up: bool

    def allows(self, role: str) -> bool:
        """Whether people with the role may."""
        return self.scope in (ANY, PUBLIC) or self.scope in ROLES[role]


def render() -> str:
    """The page."""
    found = routes()
    pages = [one for one in found if one.session]
    calls = [one for one in found if not one.session and one.scope != PUBLIC]
    public = [one for one in found if one.scope == PUBLIC]
    return "\n".join(
        [
            _HEAD.format(strong=", ".join(role for role in ROLES if role in STRONG_ROLES)),
            *_scopes(),
            "## Pages of the cockpit",
            "",
            "*Any*: whoever is signed in. *Asks again*: wants a second factor given a moment ago.",
            "",
            *_table(pages),
            "## Calls of the API",
            "",
            "With a key that has the role's scopes, or an access token of a person with the role.",
            "",
            *_table(calls),
            "## Open to everybody",
            "",
            "Health, documentation, static files, pages that a secret link opens, and what signs people in.",
            "",
            *(f"- `{one.method} {one.path}`" for one in public),
            "",
        ]
    )


def routes() -> list[Route]:
    """Of the application with the cockpit and no other plugin, in the order of their paths."""
    settings = load(Path(os.devnull), environ={})
    gateway = Gateway(settings, _NO_DATABASE, MasterKey(bytes(32)), plugins.load({"admin": ""}))
    return sorted(
        Route(
            path=route.path_format,
            method=method,
            scope=handler.opt["scope"],
            session=bool(handler.opt.get("session")),
            step_up=bool(handler.opt.get("step_up")),
        )
        for route in litestar_app(gateway).routes
        for handler in getattr(route, "route_handlers", [])
        for method in handler.http_methods - {"OPTIONS"}
    )


def _scopes() -> Iterator[str]:
    yield "## Scopes"
    yield ""
    yield from _columns(["Scope", "Allows"])
    for scope, meaning in SCOPES.items():
        yield _row([f"`{scope}`", meaning], (scope in scopes for scopes in ROLES.values()))
    yield ""


def _table(found: Iterable[Route]) -> Iterator[str]:
    yield from _columns(["Route", "Scope"])
    for one in found:
        asks = " Asks again." if one.step_up else ""
        yield _row([f"`{one.method} {one.path}`", f"`{one.scope}`{asks}"], (one.allows(role) for role in ROLES))
    yield ""


def _columns(first: list[str]) -> Iterator[str]:
    yield "| " + " | ".join([*first, *(role.title() for role in ROLES)]) + " |"
    yield "|" + "---|" * len(first) + ":-:|" * len(ROLES)


def _row(first: list[str], marks: Iterable[bool]) -> str:
    return "| " + " | ".join([*first, *(_MARK if mark else "–" for mark in marks)]) + " |"
