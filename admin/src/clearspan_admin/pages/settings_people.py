"""People and roles: who may sign in to the tenant, as what; inviting them, and ending it."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.errors import MemberAlready, RoleTooHigh
from clearspan.access.keys import SCOPES
from clearspan.access.operators import Operators
from clearspan.access.roles import RANK, ROLES, STRONG_ROLES, may_give
from clearspan.access.sessions import Sessions
from clearspan.platform import ids
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan_admin import filled, web
from clearspan_admin.pages.settings_api_keys import grouped
from clearspan_admin.web import Http
from clearspan_admin.words import mark

READ = {"scope": "operators:read", "session": True}
WRITE = {"scope": "operators:write", "session": True}
FRESH = WRITE | {"step_up": True}
ABOUT: Final = {
    "owner": mark("Everything, and alone makes, changes and removes owners."),
    "admin": mark("Everything but what concerns owners: settings, keys, people."),
    "finance": mark("Money: charge, refund, decide, invoices, dunning, plans. Reads all but people."),
    "support": mark("Customers: look up, charge, refund, mandates, subscriptions, invoices. No settings."),
    "developer": mark("Integration: PSP messages, webhooks, API keys, test clocks. Moves no money."),
    "auditor": mark("Reads everything, changes nothing."),
}
"""A sentence for each role."""


class PeopleController(Controller):
    """``/admin/settings/people``."""

    path = "/settings/people"

    @get("/", opt=READ)
    async def list(self, request: Http, operators: NamedDependency[Operators]) -> Response[bytes]:
        """Everybody who may sign in to this tenant."""
        members = await operators.members(web.caller_of(request).scope)
        return web.page(request, "settings/people.html", members=members, strong=STRONG_ROLES)

    @get("/roles", opt=READ)
    async def roles(self, request: Http) -> Response[bytes]:
        """Role by scope."""
        return web.page(
            request,
            "settings/roles.html",
            roles=tuple(reversed(RANK)),
            scopes_of=ROLES,
            about=ABOUT,
            groups=grouped(),
            sentences=SCOPES,
            strong=STRONG_ROLES,
        )

    @get("/invite", opt=FRESH)
    async def begin(self, request: Http) -> Response[bytes]:
        """The form of an invitation, and those that are open."""
        return await _invite(request, {"email": "", "role": "support"}, {})

    @post("/invite", opt=FRESH, status_code=200)
    async def invite(self, request: Http) -> Response[bytes]:
        """Make an invitation and show its link in this answer only."""
        form = await web.form_of(request)
        typed = {"email": form.text("email"), "role": form.text("role")}
        signing = request.app.state.gateway.signing
        try:
            link = await signing.invite(
                web.caller_of(request), web.who(request).membership.role, typed["email"], typed["role"]
            )
        except InvalidRequest as error:
            return await _invite(request, typed, filled.refusal(error, ("email", "role")))
        except MemberAlready:
            return await _invite(request, typed, {"email": web.say(request, "They are a member of this tenant.")})
        except RoleTooHigh:
            return await _invite(request, typed, {"role": web.say(request, "Only owners make owners.")})
        return _link(request, link, "invitation", typed["email"], "/settings/people")

    @post("/invite/{invitation:str}/withdraw", opt=WRITE, status_code=303)
    async def withdraw(self, request: Http, invitation: FromPath[str]) -> Response[bytes]:
        """End an invitation."""
        signing = request.app.state.gateway.signing
        try:
            identity = UUID(invitation)
        except ValueError:
            raise NotFound from None
        await signing.withdraw(web.caller_of(request), identity)
        return web.go(
            request, "/settings/people/invite", web.say(request, "Withdrawn: the link opens nothing any more.")
        )

    @get("/{operator_id:str}", opt=READ)
    async def show(
        self,
        request: Http,
        operator_id: FromPath[str],
        operators: NamedDependency[Operators],
        sessions: NamedDependency[Sessions],
    ) -> Response[bytes]:
        """One member with their open sessions."""
        member = await operators.member(web.caller_of(request).scope, ids.decode("opr", operator_id))
        own = web.who(request).membership.role
        return web.page(
            request,
            "settings/person.html",
            member=member,
            sessions=await sessions.of_operator(member.operator_id),
            roles=_givable(own),
            reach=may_give(own, member.role),
            myself=member.operator_id == web.who(request).operator.operator_id,
            about=ABOUT,
            strong=STRONG_ROLES,
        )

    @post("/{operator_id:str}/role", opt=FRESH, status_code=303)
    async def change_role(
        self, request: Http, operator_id: FromPath[str], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """Give another role; it holds from the next click on."""
        form = await web.form_of(request)
        await operators.change_role(
            web.caller_of(request),
            ids.decode("opr", operator_id),
            form.text("role"),
            own_role=web.who(request).membership.role,
        )
        words = web.say(request, "The new role holds at once, also where they are signed in.")
        return web.go(request, f"/settings/people/{operator_id}", words)

    @post("/{operator_id:str}/remove", opt=FRESH, status_code=303)
    async def remove(
        self, request: Http, operator_id: FromPath[str], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """End the membership."""
        await operators.leave(
            web.caller_of(request), ids.decode("opr", operator_id), own_role=web.who(request).membership.role
        )
        return web.go(
            request, "/settings/people", web.say(request, "Removed: they see nothing of this tenant any more.")
        )

    @post("/{operator_id:str}/end-sessions", opt=WRITE, status_code=303)
    async def end_sessions(
        self, request: Http, operator_id: FromPath[str], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """Sign them out everywhere."""
        ended = await operators.end_sessions(
            web.caller_of(request), ids.decode("opr", operator_id), own_role=web.who(request).membership.role
        )
        words = web.say(request, "Signed out everywhere: %(count)s sessions ended.", count=ended)
        return web.go(request, f"/settings/people/{operator_id}", words)

    @post("/{operator_id:str}/reset", opt=FRESH, status_code=200)
    async def reset(
        self, request: Http, operator_id: FromPath[str], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """Make a link for another password, shown in this answer only."""
        caller, identity = web.caller_of(request), ids.decode("opr", operator_id)
        member = await operators.member(caller.scope, identity)
        signing = request.app.state.gateway.signing
        link = await signing.reset_link(caller, web.who(request).membership.role, identity)
        return _link(request, link, "password", member.email, f"/settings/people/{operator_id}")


def _givable(own: str) -> list[str]:
    return [role for role in reversed(RANK) if may_give(own, role)]


def _link(request: Http, link: str, purpose: str, email: str, back: str) -> Response[bytes]:
    # Not compressed: what is secret and what others chose must not share a compressed body.
    return web.page(
        request, "settings/link.html", link=link, purpose=purpose, email=email, back_to=back, compress=False
    )


async def _invite(request: Http, typed: dict[str, Any], errors: dict[str, str]) -> Response[bytes]:
    signing = request.app.state.gateway.signing
    return web.page(
        request,
        "settings/invite.html",
        status=422 if errors else 200,
        typed=typed,
        errors=errors,
        roles=_givable(web.who(request).membership.role),
        about=ABOUT,
        invitations=await signing.invitations(web.caller_of(request).scope),
    )
