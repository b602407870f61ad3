"""Signing in and out, confirming that it is oneself, and one-time links.

Nothing here is behind a session but what ends one. A form that was sent when the session was over, or before a factor was given,
comes along as ``carried`` and is offered again at the end.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.errors import (
    CodeWrong,
    LinkGone,
    NoTenant,
    PasswordRefused,
    PasswordsOff,
    SignInExpired,
    SignInFailed,
    TooManyTries,
)
from clearspan.access.guard import ANY, PUBLIC
from clearspan.access.operators import Operators
from clearspan.access.sessions import Operator, Sessions
from clearspan.access.signing import Link, Signing
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.tenants.service import Tenants
from clearspan_admin import web
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

REFUSALS = {
    SignInFailed: mark("The e-mail address or the password is wrong."),
    CodeWrong: mark("This code is wrong or was used before. Wait for the next one."),
    SignInExpired: mark("That took too long. Begin again with your password."),
}
SAID_BY_THE_CORE = (
    mark("Give 12 characters or more; a few words that you can remember are good."),
    mark("Give 200 characters at most."),
    mark("Your e-mail address is the first thing that others try. Take something else."),
    mark("Many people use this password or one like it, so it is tried first. Take something else."),
    mark("Give an e-mail address, such as ada@example.com."),
    mark("Give a name of 1 to 200 characters."),
)
"""What these pages show of refusals, to be translated."""


class SigningController(Controller):
    """``/admin/sign-in``, ``/admin/sign-out`` and ``/admin/confirm``."""

    @get("/sign-in", opt={"scope": PUBLIC})
    async def form(
        self, request: Http, sessions: NamedDependency[Sessions], operators: NamedDependency[Operators]
    ) -> Response[bytes]:
        """E-mail address and password; whoever is signed in goes on."""
        wanted = web.own_path(request.query_params.get("next", ""))
        if await member_of(request, sessions) is not None:
            return web.go(request, wanted)
        return _with_visit(request, "signing/sign_in.html", next=wanted, nobody=not await operators.count())

    @post("/sign-in", opt={"scope": PUBLIC}, status_code=200)
    async def sign_in(
        self, request: Http, signing: NamedDependency[Signing], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """The password is looked at; then a code is asked for, or the session begins."""
        if request.app.state.gateway.settings.oidc.require:
            raise PasswordsOff
        form = await web.form_of(request)
        kept = _kept(form) | {"email": form.text("email")[:254]}
        try:
            operator = await signing.by_password(
                form.text("email"), form.raw("password"), ip=address_of(request), request_id=id_of(request)
            )
        except (SignInFailed, TooManyTries) as error:
            return _again(request, "signing/sign_in.html", error, **kept)
        if operator.has_second_factor:
            step = signing.step(operator, request.cookies.get(web.visit_cookie(request), ""))
            return web.page(request, "signing/code.html", **_kept(form), step=step)
        return await enter(request, signing, sessions, operator, form)

    @post("/sign-in/code", opt={"scope": PUBLIC}, status_code=200)
    async def code(
        self, request: Http, signing: NamedDependency[Signing], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """The second factor."""
        form = await web.form_of(request)
        try:
            operator = await signing.by_code(
                form.text("step"),
                form.text("code"),
                visit=request.cookies.get(web.visit_cookie(request), ""),
                ip=address_of(request),
                request_id=id_of(request),
            )
        except SignInExpired as error:
            return _again(request, "signing/sign_in.html", error, **_kept(form))
        except (CodeWrong, TooManyTries) as error:
            return _again(request, "signing/code.html", error, **_kept(form), step=form.text("step"))
        return await enter(request, signing, sessions, operator, form, second_factor=True)

    @post("/sign-out", opt={"scope": ANY, "session": True, "half": True}, status_code=303)
    async def sign_out(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """End this session, or with ``everywhere`` all of the person's."""
        signed, form = web.who(request), await web.form_of(request)
        await sessions.end(
            signed.operator.operator_id,
            session_id=None if form.has("everywhere") else signed.session.session_id,
            why="signed_out",
        )
        answer = web.go(request, "/sign-in", web.say(request, "You are signed out."))
        web.set_cookie(request, answer, sessions.cookie, "", max_age=0)
        return answer

    @get("/confirm", opt={"scope": ANY, "session": True, "half": True})
    async def ask(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """Ask for a factor again, before a page that needs one given a moment ago."""
        wanted = web.own_path(request.query_params.get("next", ""))
        if sessions.is_strong(web.who(request)):
            return web.go(request, wanted)
        return web.page(request, "signing/confirm.html", next=wanted)

    @post("/confirm", opt={"scope": ANY, "session": True, "half": True}, status_code=200)
    async def confirm(
        self, request: Http, signing: NamedDependency[Signing], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """A code, or the password where there is no second factor; then the action goes on."""
        form, signed = await web.form_of(request), web.who(request)
        given = form.text("code") if signed.operator.has_second_factor else form.raw("password")
        try:
            await signing.confirm(signed, given, ip=address_of(request), request_id=id_of(request))
        except (CodeWrong, SignInFailed, TooManyTries) as error:
            return _again(request, "signing/confirm.html", error, **_kept(form))
        return await _go_on(request, sessions, form)


class LinkController(Controller):
    """``/admin/link/{token}``: what somebody was sent, or the first owner found at the start."""

    path = "/link"

    @get("/{token:str}", opt={"scope": PUBLIC})
    async def show(
        self,
        request: Http,
        token: FromPath[str],
        signing: NamedDependency[Signing],
        sessions: NamedDependency[Sessions],
        tenants: NamedDependency[Tenants],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """What the link is for, and the form for it."""
        try:
            link = await signing.link(token)
        except LinkGone as error:
            return _gone(request, error)
        return await _link_page(request, link, token, signing, sessions, tenants, operators)

    @post("/{token:str}", opt={"scope": PUBLIC}, status_code=303)
    async def use(
        self,
        request: Http,
        token: FromPath[str],
        signing: NamedDependency[Signing],
        sessions: NamedDependency[Sessions],
        tenants: NamedDependency[Tenants],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """Use it."""
        form = await web.form_of(request)
        try:
            link = await signing.link(token)
            if link.purpose == "invitation" and not await signing.is_new(link):
                return await self._join(request, token, link, signing, sessions, operators)
            typed_twice(request, form)
            operator = await self._take(request, link, token, form, signing)
        except LinkGone as error:
            return _gone(request, error)
        except (PasswordRefused, InvalidRequest) as error:
            place = error.fields["errors"][0]["path"] if error.fields.get("errors") else "password"
            return await _link_page(
                request, link, token, signing, sessions, tenants, operators, form, {place: error.detail}
            )
        if link.purpose == "password":
            answer = web.go(request, "/sign-in", web.say(request, "Your password is changed. Sign in with it."))
            web.set_cookie(request, answer, sessions.cookie, "", max_age=0)
            return answer
        return await enter(request, signing, sessions, operator, form)

    async def _take(self, request: Http, link: Link, token: str, form: Form, signing: Signing) -> Operator:
        password, request_id = form.raw("password"), id_of(request)
        if link.purpose == "password":
            return await signing.take_password(token, password, request_id)
        name, locale = form.text("name"), web.asked_language(request)
        if not name:
            said = web.say(request, "Give your name.")
            raise InvalidRequest(said, errors=[{"path": "name", "message": said}])
        if link.purpose == "invitation":
            return await signing.take_invitation(
                token, name=name, password=password, locale=locale, request_id=request_id
            )
        return await signing.take_first_owner(
            token,
            email=form.text("email"),
            name=name,
            password=password,
            tenant_name=form.text("tenant"),
            locale=locale,
            request_id=request_id,
        )

    async def _join(
        self, request: Http, token: str, link: Link, signing: Signing, sessions: Sessions, operators: Operators
    ) -> Response[bytes]:
        me = await member_of(request, sessions)
        if me is None:
            return web.go(request, "/sign-in", next=f"/link/{token}")
        await signing.join_by_link(token, await operators.get(me), id_of(request))
        signed = await sessions.of_request(request)
        if signed is not None:
            await sessions.look_at(signed, tenant_id=link.tenant_id)
        return web.go(request, "/", web.say(request, "You have joined."))


# -- What both share ------------------------------------------------------------------------------------------------------------


async def enter(
    request: Http,
    signing: Signing,
    sessions: Sessions,
    operator: Operator,
    form: Form,
    *,
    second_factor: bool = False,
) -> Response[bytes]:
    """Begin the session, and go where the person wanted to be.

    Args:
        request, form: what they sent, with ``next`` and ``carried``.
        signing, sessions: the services.
        operator: who has shown who they are.
        second_factor: whether that included one.
    """
    made = await signing.begin(
        operator,
        second_factor=second_factor,
        ip=address_of(request),
        agent=request.headers.get("user-agent", "")[:300],
        request_id=id_of(request),
        previous=await sessions.owner(request),
    )
    try:
        signed = await sessions.find(made.token)
    except NoTenant:  # They may be about to follow an invitation.
        signed = None
    if signed is None:
        answer = web.go(request, web.own_path(form.text("next")))
    else:
        request.scope["state"]["signed"] = signed
        answer = await _go_on(request, sessions, form)
    web.set_cookie(request, answer, sessions.cookie, made.token)
    web.set_cookie(request, answer, web.visit_cookie(request), "", max_age=0, strict=True)
    return answer


async def _go_on(request: Http, sessions: Sessions, form: Form) -> Response[bytes]:
    """Offer the form that was sent before; without one, go where they wanted."""
    signed, sealed = web.who(request), form.text("carried")
    carried = web.carried_of(request, sealed, signed)
    if carried is None:
        lost = web.say(request, "What was typed before could not be kept. Please do it again.") if sealed else ""
        return web.go(request, web.own_path(form.text("next")), lost, "info")
    if (carried.tenant_id, carried.live) != (signed.membership.tenant_id, signed.session.live):
        await sessions.look_at(signed, tenant_id=carried.tenant_id, live=carried.live)
        again = await sessions.find_by_id(signed.session.session_id)
        assert again is not None
        if (again.membership.tenant_id, again.session.live) != (carried.tenant_id, carried.live):
            said = web.say(request, "What was typed before belongs to a tenant that you are no longer a member of.")
            return web.go(request, "/", said, "info")
        request.scope["state"]["signed"] = msgspec.structs.replace(again, csrf=signed.csrf)
    return web.page(request, "signing/continue.html", carried=carried, back=web.own_path(form.text("next")))


async def member_of(request: Http, sessions: Sessions) -> UUID | None:
    """Who is signed in here, be it as a member of no tenant yet."""
    try:
        signed = await sessions.of_request(request)
    except NoTenant:
        owner = await sessions.owner(request)
        return owner.operator_id if owner else None
    return signed.operator.operator_id if signed else None


def address_of(request: Http) -> str:
    """The address that the request came from, as ``server.trusted_proxies`` lets it be known."""
    return request.client.host if request.client else ""


def id_of(request: Http) -> str:
    """The request's id."""
    found: str = request.scope["state"]["request_id"]
    return found


def why_refused(request: Http, error: DomainError) -> str:
    """A refusal of a password or code in the person's words."""
    if isinstance(error, TooManyTries):
        wait = int(error.fields["retry_after_s"])
        return web.say(request, "Too many failed tries. Try again in %(minutes)s min.", minutes=-(-wait // 60))
    return web.say(request, REFUSALS[type(error)])


def typed_twice(request: Http, form: Form) -> None:
    """A new password is typed twice.

    Raises:
        PasswordRefused: differently.
    """
    if form.raw("password") != form.raw("again"):
        raise PasswordRefused(web.say(request, "The two passwords differ. Type the same one twice."))


def _kept(form: Form) -> dict[str, Any]:
    return {"next": web.own_path(form.text("next")), "carried": form.text("carried")}


def _again(
    request: Http, template: str, error: SignInFailed | CodeWrong | SignInExpired | TooManyTries, **context: Any
) -> Response[bytes]:
    return web.page(
        request, template, status=error.status, headers=error.headers(), error=why_refused(request, error), **context
    )


def _with_visit(request: Http, template: str, *, status: int = 200, **context: Any) -> Response[bytes]:
    visit = web.begin_visit(request)
    answer = web.page(request, template, status=status, **context)
    if visit:
        web.set_cookie(request, answer, web.visit_cookie(request), visit, strict=True)
    return answer


def _gone(request: Http, error: LinkGone) -> Response[bytes]:
    return web.page(request, "signing/gone.html", status=error.status)


async def _link_page(
    request: Http,
    link: Link,
    token: str,
    signing: Signing,
    sessions: Sessions,
    tenants: Tenants,
    operators: Operators,
    form: Form | None = None,
    errors: dict[str, str] | None = None,
) -> Response[bytes]:
    new = link.purpose != "invitation" or await signing.is_new(link)
    me = None if new else await member_of(request, sessions)
    mine = me is not None and (await operators.get(me)).email == link.email
    return _with_visit(
        request,
        "signing/link.html",
        status=422 if errors else 200,
        link=link,
        token=token,
        new=new,
        mine=mine,
        other=me is not None and not mine,
        tenant=(await tenants.get(link.tenant_id)).name if link.tenant_id else "",
        needs_tenant=link.purpose == "first_owner" and not await tenants.all(),
        typed=form or Form([]),
        errors=errors or {},
    )
