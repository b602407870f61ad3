"""What every page shares: how it is rendered, which headers it has, how forms are read and refused, how errors look.

- **Policy.** ``default-src 'none'``; scripts and styles carry a nonce that is new with each answer, nothing is inline,
  nothing comes from another host. Violations are reported to ``/admin/csp-reports`` and logged.
- **Forms.** A POST is refused unless the browser says that it comes from this origin (``Sec-Fetch-Site``, ``Origin``) *and* it
  carries the session's token, masked anew in each page so that compression tells nothing about it. Litestar's own
  double-submit cookie is not bound to the session; this is. It also says who looked in which tenant and mode: a page that was
  opened in another one, before somebody switched in another tab, acts no more.
- **Idempotency.** A form that acts carries ``key``, random and new with each page: the service sees it as an ``Idempotency-Key``,
  so a double click acts once and shows the same result twice.
- **A session that is over** loses nothing: the form that came too late goes through signing in, sealed for the person whose it
  was, and is offered again, with the key that it had, so that it acts once. The same where an action asks for a factor first.
- **After a POST** comes a redirect (303) with a message, so that reloading repeats nothing.
- **Under a prefix** (``server.public_url = "https://x.example/gateway"``) every link begins with it, the proxy takes it off.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from uuid import UUID

import jinja2
import msgspec
from babel.support import NullTranslations
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from markupsafe import Markup, escape

from clearspan.access.errors import (
    FormRefused,
    FormStale,
    NoTenant,
    SecondFactorRequired,
    SignInRequired,
    StepUpRequired,
)
from clearspan.access.sessions import Owner, Sessions, Signed
from clearspan.access.signing import Signing
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import Answer, IdempotencyKey, read_key
from clearspan.platform.problems import DomainError
from clearspan_admin import nav, shown, words
from clearspan_admin.shown import Shown

PATH: Final = "/admin"
Http = Request[Any, Any, Any]

_SALT_BYTES = 12
_FIELDS_MAX = 2_000
_COMPRESS_FROM = 1_000
_TONES: Final = ("good", "info", "bad")
_CARRIED_MAX = 46_000
"""Bytes of a form that is carried on; sealed and as text it is a third longer, 64 KB at most."""
_CARRIED_S = 2 * 3600
_NEVER_CARRIED: Final = ("password", "secret", "code")
_NEXT_MAX = 2_000
_ANYWHERE: Final = (f"{PATH}/look-at", f"{PATH}/sign-out")
"""What means the same wherever the page was opened."""


# -- Rendering ------------------------------------------------------------------------------------------------------------------


def page(
    request: Http,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    compress: bool = True,
    **context: Any,
) -> Response[bytes]:
    """A page, or a fragment of one, as the operator's locale and zone want it.

    Args:
        request: asked for it.
        template: below ``templates/``.
        status: of the answer.
        headers: besides the usual ones.
        compress: not for what streams.
        context: for the template, besides what ``base.html`` needs.
    """
    nonce = clock.random_bytes(16).hex()
    signed = signed_in(request)
    locale = signed.operator.locale if signed else asked_language(request)
    if not shown.known_locale(locale):
        locale = "en"
    zone = signed.operator.timezone if signed else "UTC"
    environment = _environment(words.language_of(locale))
    text = environment.get_template(template).render(
        {
            "request": request,
            "signed": signed,
            "nonce": nonce,
            "shown": Shown(locale, zone),
            "language": words.language_of(locale),
            "root": root(request),
            "here": request.url.path.removeprefix(PATH) or "/",
            "asset": lambda name: f"{root(request)}/static/{assets_version()}/{name}",
            "csrf_value": csrf_token(request),
            "new_key": _new_key,
            "flash": _take_flash(request),
            "menu": nav.menu(signed.scopes) if signed else [],
            "theme": signed.operator.preferences.get("theme", "auto") if signed else "auto",
            "openid": request.app.state.gateway.openid,
            "passwords": not request.app.state.gateway.settings.oidc.require,
            "may": (lambda scope: scope in signed.scopes) if signed else (lambda _: False),
            **context,
        }
    )
    body = text.encode()
    sent = {
        "Content-Security-Policy": policy(request, nonce),
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "Vary": "Cookie, HX-Request",
        "X-Robots-Tag": "noindex",
        **(headers or {}),
    }
    if compress and len(body) > _COMPRESS_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 5)
        sent["Content-Encoding"] = "gzip"
    answer = Response(body, status_code=status, media_type="text/html; charset=utf-8", headers=sent)
    if request.cookies.get(_flash_cookie(request)):
        answer.delete_cookie(_flash_cookie(request), path="/")
    return answer


def macros(template: str, *, locale: str, zone: str, root: str) -> Any:
    """The macros of a template, for what is rendered without a request and shown to many: streams.

    Args:
        template: below ``templates/``; it may use ``ui.html``, but nothing that belongs to one person or answer.
        locale, zone: how amounts and moments are written, and in which language.
        root: where the cockpit stands, see ``root``.
    """
    found = _environment(words.language_of(locale)).get_template(template)
    return found.make_module({"shown": Shown(locale, zone), "root": root})


def policy(request: Http, nonce: str) -> str:
    """The content security policy of one answer."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self';"
        f" form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; manifest-src 'self';"
        f" report-uri {root(request)}/csp-reports"
    )


def is_fragment(request: Http) -> bool:
    """Whether htmx asks for a part of a page; a restored history wants the whole."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-history-restore-request") != "true"


def root(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Where the cockpit stands, as browsers see it: ``/admin``, or ``/gateway/admin`` behind a prefix."""
    public: str = connection.app.state.gateway.settings.server.public_url
    return urlsplit(public).path.rstrip("/") + PATH


def url(request: Http, path: str, **query: Any) -> str:
    """A link inside the cockpit: ``url(request, "/payments", status="failed")``."""
    given = {name: value for name, value in query.items() if value not in (None, "", [])}
    return f"{root(request)}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any]) -> Signed | None:
    """Who looks, where somebody is signed in."""
    found: Signed | None = connection.scope["state"].get("signed")
    return found


def who(request: Http) -> Signed:
    """Who looks, on pages that only signed-in people see."""
    found = signed_in(request)
    assert found is not None
    return found


def caller_of(request: Http) -> Caller:
    """The same, for services."""
    found: Caller = request.scope["state"]["caller"]
    return found


# -- Forms ----------------------------------------------------------------------------------------------------------------------


class Form:
    """Fields of a form; ``text`` and ``many`` never raise, a page says itself what is missing."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = [(name, value) for name, value in pairs if "\0" not in name + value]

    def text(self, name: str, default: str = "") -> str:
        """The last value given, without white space around it."""
        return next((value.strip() for each, value in reversed(self.pairs) if each == name), default)

    def raw(self, name: str) -> str:
        """As typed: for passwords."""
        return next((value for each, value in reversed(self.pairs) if each == name), "")

    def many(self, name: str) -> list[str]:
        """Every value given."""
        return [value.strip() for each, value in self.pairs if each == name]

    def has(self, name: str) -> bool:
        """Whether a box was ticked or a button pressed."""
        return any(each == name for each, _ in self.pairs)


async def form_of(request: Http) -> Form:
    """The form that was sent."""
    return Form(_pairs(await request.body()))


def _pairs(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise FormRefused(f"A form has at most {_FIELDS_MAX} fields.") from None


def idempotency(request: Http, form: Form, *, route: str = "") -> IdempotencyKey:
    """The form's key as the services take it; a form without one is a mistake of ours.

    Args:
        request, form: what was sent.
        route: under which the key counts, the page's own by default; name it where two pages may do the same.
    """
    acts = urlencode([pair for pair in form.pairs if pair[0] not in ("csrf", "key")]).encode()
    found = read_key(
        form.text("key") or None,
        route=route or f"POST {request.scope['path_template']}",
        path=request.scope["path"],
        body=acts,
    )
    if found is None:
        raise FormRefused
    return found


def answered(answer: Answer) -> Any:
    """What a service answered, as plain values."""
    return msgspec.json.decode(answer.body) if answer.body else {}


def csrf_token(request: Http) -> str:
    """The token for forms of this page: the session's secret, masked."""
    secret = _csrf_secret(request)
    if not secret:
        return ""
    salt, signed = ids.letters(clock.random_bytes(_SALT_BYTES)), signed_in(request)
    sessions: Sessions = request.app.state.sessions
    return f"{salt}.{_masked(secret, salt)}.{sessions.place(signed, salt) if signed else ''}"


async def check_form(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """The guard of every page: what changes something must come from one of our own pages.

    Raises:
        FormRefused: another origin, no token, or another session's.
        FormStale: the page was opened in another tenant, mode or session of the same person.
    """
    if connection.scope.get("method") in ("GET", "HEAD", "OPTIONS") or not isinstance(connection, Request):
        return
    _check_origin(connection)
    if connection.scope["path"] == f"{PATH}/csp-reports":
        return
    typed = await connection.body()
    connection.scope["state"]["typed"] = typed
    salt, token, place = _token_of(connection, typed)
    signed = signed_in(connection)
    sessions: Sessions = connection.app.state.sessions
    secret = _csrf_secret(connection)
    in_place = signed is not None and hmac.compare_digest(sessions.place(signed, salt).encode(), place.encode())
    if not secret or not hmac.compare_digest(_masked(secret, salt).encode(), token.encode()):
        # Somebody who signed in again in another tab: the browser says that the form is ours, and its token that it is theirs.
        if in_place and connection.headers.get("sec-fetch-site") == "same-origin":
            raise FormStale
        raise FormRefused
    if signed is not None and not in_place and connection.scope["path"] not in _ANYWHERE:
        raise FormStale


def _check_origin(request: Http) -> None:
    if request.headers.get("sec-fetch-site") not in (None, "same-origin"):
        raise FormRefused("Another site sent this form. Nothing was done.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc not in _own_hosts(request):
        raise FormRefused("Another site sent this form. Nothing was done.")


def _token_of(request: Http, typed: bytes) -> tuple[str, str, str]:
    given = (request.headers.get("x-csrf-token") or Form(_pairs(typed)).text("csrf")).split(".")
    salt, token, place, *_ = [*given, "", "", ""]
    return salt, token, place


def _masked(secret: str, salt: str) -> str:
    return ids.letters(hmac.digest(secret.encode(), salt.encode(), hashlib.sha256))


def _csrf_secret(request: Http) -> str:
    signed = signed_in(request)
    if signed is not None:
        return signed.csrf
    visit = request.scope["state"].get("visit") or request.cookies.get(visit_cookie(request), "")
    sessions: Sessions = request.app.state.sessions
    return sessions.csrf(visit) if visit else ""


def visit_cookie(request: Http) -> str:
    """The cookie of somebody who is not signed in yet: it only binds the sign-in form to this browser."""
    return f"{request.app.state.sessions.cookie}-visit"


def begin_visit(request: Http) -> str | None:
    """Make sure that forms of this page have something to be bound to; the new cookie's value, when one is needed."""
    if request.cookies.get(visit_cookie(request)):
        return None
    value = clock.random_bytes(16).hex()
    request.scope["state"]["visit"] = value
    return value


def set_cookie(
    request: Http, answer: Response[Any], name: str, value: str, *, max_age: int | None = None, strict: bool = False
) -> None:
    """A cookie that scripts cannot read and other sites cannot send along with a form."""
    answer.set_cookie(
        name,
        value,
        max_age=max_age,
        path="/",
        secure=request.app.state.sessions.secure,
        httponly=True,
        samesite="strict" if strict else "lax",
    )


def _own_hosts(connection: ASGIConnection[Any, Any, Any, Any]) -> set[str]:
    public = urlsplit(connection.app.state.gateway.settings.server.public_url).netloc
    return {public, connection.headers.get("host", "")} - {""}


def _new_key() -> str:
    return ids.letters(clock.random_bytes(16))


# -- After a POST ---------------------------------------------------------------------------------------------------------------


def go(request: Http, path: str, message: str = "", tone: str = "good", **query: Any) -> Response[bytes]:
    """Redirect to a page of ours, which then says ``message`` once.

    Args:
        request: what was done.
        path: below the cockpit, such as ``/payments/pay_…``.
        message: in the operator's language already.
        tone: ``good``, ``info`` or ``bad``.
        query: of the address.
    """
    assert tone in _TONES, tone
    answer = Response(
        b"", status_code=303, headers={"Location": url(request, path, **query), "Cache-Control": "no-store"}
    )
    if is_fragment(request):
        answer = Response(b"", status_code=200, headers={"HX-Location": url(request, path, **query)})
    if message:
        set_cookie(request, answer, _flash_cookie(request), quote(f"{tone}:{message[:600]}"), max_age=60)
    return answer


def say(request: Http, text: str, **values: Any) -> str:
    """A text in the operator's language, for ``go`` and for errors: ``say(request, "%(count)s retried", count=3)``."""
    signed = signed_in(request)
    language = words.language_of(signed.operator.locale if signed else asked_language(request))
    said: str = words.translations(language).gettext(text)
    return said % values if values else said


def _flash_cookie(request: Http) -> str:
    return f"{request.app.state.sessions.cookie}-said"


def _take_flash(request: Http) -> tuple[str, str] | None:
    tone, _, message = unquote(request.cookies.get(_flash_cookie(request), "")).partition(":")
    return (tone, message) if tone in _TONES and message else None


# -- Going on after signing in --------------------------------------------------------------------------------------------------


class Carried(msgspec.Struct, frozen=True):
    """A form that was sent and not acted on.

    Attributes:
        path: below the cockpit, with its query.
        fields: what was typed, and the form's ``key``.
        left_out: names of fields that are typed again: passwords, secrets, codes.
        tenant_id, live: what was looked at.
    """

    path: str
    fields: list[tuple[str, str]]
    left_out: list[str]
    tenant_id: UUID
    live: bool


def own_path(text: str) -> str:
    """``text`` when it is a path of the cockpit, such as a ``next`` asks for; home when it is anything else."""
    path = unquote(unquote(text)).partition("?")[0]
    if (
        len(text) > _NEXT_MAX
        or not text.startswith("/")
        or "\\" in path
        or ".." in path.split("/")
        or any(not each.isprintable() for each in text + path)
        or path.startswith(("//", "/sign-", "/confirm"))
    ):
        return "/"
    return quote(text, safe="/?#[]@!$&'()*+,;=:%~")


def signing_of(request: Http) -> Signing:
    """The service, where nothing is injected."""
    found: Signing = request.app.state.gateway.signing
    return found


def carried_of(request: Http, sealed: str, signed: Signed) -> Carried | None:
    """The form that this person sent before; ``None`` when there is none, or it is another's or too old."""
    return signing_of(request).unseal("form", sealed, Carried, str(signed.operator.operator_id)) if sealed else None


def _carry(request: Http) -> str:
    """The form of a refused POST, sealed; nothing when it does not come from a page of ours, or is not to be kept."""
    state = request.scope["state"]
    signed, owner = signed_in(request), state.get("owner")
    sessions: Sessions = request.app.state.sessions
    try:
        # The session may be over, and still only its own pages know the token of its forms.
        _check_origin(request)
        salt, token, _ = _token_of(request, state.get("typed", b""))
    except FormRefused:
        return ""
    secret = sessions.csrf(request.cookies.get(sessions.cookie, ""))
    if not hmac.compare_digest(_masked(secret, salt).encode(), token.encode()):
        return ""
    if request.scope["path"] == f"{PATH}/confirm":  # The form that waits for the code waits on.
        return Form(_pairs(state["typed"])).text("carried")
    if signed is not None:
        who_it_is, tenant_id, live = signed.operator.operator_id, signed.membership.tenant_id, signed.session.live
    elif isinstance(owner, Owner) and owner.tenant_id is not None:
        who_it_is, tenant_id, live = owner.operator_id, owner.tenant_id, owner.live
    else:
        return ""
    carried = _sent(request, tenant_id, live=live)
    return "" if carried is None else signing_of(request).seal("form", carried, _CARRIED_S, str(who_it_is))


def _sent(request: Http, tenant_id: UUID, *, live: bool) -> Carried | None:
    """The form that was sent, when it can be kept."""
    typed: bytes = request.scope["state"].get("typed", b"")
    urlencoded = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    if not urlencoded or len(typed) > _CARRIED_MAX:
        return None
    pairs = Form(_pairs(typed)).pairs
    secret = {name for name, _ in pairs if any(word in name.lower() for word in _NEVER_CARRIED)}
    query = request.scope["query_string"].decode("latin-1")
    carried = Carried(
        path=request.scope["path"].removeprefix(PATH) + (f"?{query}" if query else ""),
        fields=[pair for pair in pairs if pair[0] != "csrf" and pair[0] not in secret],
        left_out=sorted(secret),
        tenant_id=tenant_id,
        live=live,
    )
    return carried if len(msgspec.json.encode(carried)) <= _CARRIED_MAX else None


def _page_before(request: Http) -> str:
    """The page that a form or a fragment was asked from, as a ``next``."""
    given = urlsplit(request.headers.get("hx-current-url") or request.headers.get("referer") or "")
    if given.netloc not in _own_hosts(request) or not given.path.startswith(root(request) + "/"):
        return "/"
    return own_path(given.path.removeprefix(root(request)) + (f"?{given.query}" if given.query else ""))


def _first(request: Http, error: DomainError) -> Response[bytes]:
    """Sign in, confirm, or set up a second factor first; then go on where it was."""
    there = {SignInRequired: "/sign-in", StepUpRequired: "/confirm", SecondFactorRequired: "/profile/second-factor"}
    where = there[type(error)]
    path = request.scope["path"].removeprefix(PATH) or "/"
    if request.method in ("GET", "HEAD") and not is_fragment(request):
        back = path + (f"?{request.url.query}" if request.url.query else "")
    else:
        back = _page_before(request)
    address = url(request, where, next=back if back != "/" else "")
    if is_fragment(request):
        return Response(b"", status_code=200, headers={"HX-Redirect": address})
    if request.method != "POST" or where == "/profile/second-factor" or path in ("/sign-out", "/look-at"):
        return Response(b"", status_code=303, headers={"Location": address, "Cache-Control": "no-store"})
    visit = begin_visit(request)
    template = "signing/sign_in.html" if isinstance(error, SignInRequired) else "signing/confirm.html"
    answer = page(request, template, status=error.status, carried=_carry(request), next=back, late=True)
    if visit:
        set_cookie(request, answer, visit_cookie(request), visit, strict=True)
    return answer


# -- Errors ---------------------------------------------------------------------------------------------------------------------


def refused(request: Http, error: DomainError) -> Response[bytes]:
    """A refusal as a page; inside of a page as a message at its top. Somebody who is not signed in is sent to sign in.

    What scripts ask for (``opt={"stream": True}``) gets the problem itself: an ``EventSource`` would follow a redirect for ever.
    """
    if request.route_handler.opt.get("stream"):
        return Response(
            msgspec.json.encode(error.document() | {"request_id": request.scope["state"]["request_id"]}),
            status_code=error.status,
            media_type="application/problem+json",
            headers={"Cache-Control": "no-store", **error.headers()},
        )
    if isinstance(error, SignInRequired | StepUpRequired | SecondFactorRequired):
        return _first(request, error)
    if isinstance(error, FormStale) and not is_fragment(request):
        place = _token_of(request, request.scope["state"]["typed"])
        signed = who(request)
        sent = _sent(request, signed.membership.tenant_id, live=signed.session.live)
        sessions: Sessions = request.app.state.sessions
        if (
            sent is not None and sessions.place(signed, place[0]) == place[2]
        ):  # The same tenant and mode, another session.
            return page(request, "signing/continue.html", status=error.status, carried=sent, back=_page_before(request))
    # Looked up here and not by ``_()`` in a template, which takes what it is given for safe markup.
    document = error.document() | {"request_id": request.scope["state"]["request_id"]}
    document |= {name: say(request, document[name]) for name in ("title", "detail")}
    if is_fragment(request):
        return page(
            request,
            "message.html",
            status=error.status,
            headers={"HX-Retarget": "#messages", "HX-Reswap": "beforeend"},
            problem=document,
        )
    answer = page(request, "error.html", status=error.status, headers=error.headers(), problem=document)
    if isinstance(error, NoTenant):
        set_cookie(request, answer, request.app.state.sessions.cookie, "", max_age=0)
    return answer


# -- The environment ------------------------------------------------------------------------------------------------------------


@cache
def _environment(language: str) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("clearspan_admin"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
    )
    translations = words.translations(language)
    made.install_gettext_callables(translations.gettext, translations.ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.filters |= shown.filters() | {"slug_words": lambda text: str(text).replace("_", " ").replace(".", " ")}
    made.globals |= {"gettext": _texts(translations), "ngettext": _plurals(translations)}
    made.globals |= {"icon": icon, "LANGUAGES": words.LANGUAGES, "now": clock.now}
    return made


def _texts(translations: NullTranslations) -> Callable[..., Markup]:
    """``_()`` of templates. Jinja's own takes every text that it is given for safe markup, a PSP's or a customer's as well."""

    def text(message: str, /, **values: Any) -> Markup:
        return _filled(translations.gettext(message), values)

    return text


def _plurals(translations: NullTranslations) -> Callable[..., Markup]:
    """``ngettext()`` of templates, likewise; ``%(num)s`` is the number."""

    def text(singular: str, plural: str, number: int, /, **values: Any) -> Markup:
        return _filled(translations.ngettext(singular, plural, number), {"num": number, **values})

    return text


def _filled(text: str, values: Mapping[str, Any]) -> Markup:
    """Escaped but for the apostrophe, which means nothing in our attributes: they all stand in double quotes."""
    safe = Markup(str(escape(text)).replace("&#39;", "'"))  # noqa: S704  (just escaped)
    if not values and "%%" not in text:
        return safe
    try:
        return safe % values
    except (KeyError, TypeError, ValueError):  # No text of ours: somebody else's per cent sign.
        return safe


@cache
def _icons() -> Mapping[str, str]:
    return tomllib.loads(resources.files(__package__).joinpath("icons.toml").read_text("utf-8"))


def icon(name: str, label: str = "", size: int = 16) -> Markup:
    """An icon as SVG: hidden from screen readers unless it has a label."""
    described = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup(
        '<svg class="icon" width="{0}" height="{0}" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2"'
        ' stroke-linecap="round" stroke-linejoin="round" {1}>{2}</svg>'
    ).format(size, described, Markup(_icons()[name]))  # noqa: S704  (our own file)


@cache
def assets() -> Mapping[str, tuple[bytes, bytes]]:
    """Every static file by its path, as it is and gzipped."""
    found: dict[str, tuple[bytes, bytes]] = {}
    base = resources.files(__package__).joinpath("static")
    for folder in (base, base.joinpath("vendor")):
        for entry in folder.iterdir():
            if entry.is_file() and entry.name.endswith((".css", ".js", ".svg", ".woff2")):
                name = entry.name if folder is base else f"vendor/{entry.name}"
                content = entry.read_bytes()
                found[name] = content, gzip.compress(content, 9, mtime=0)
    return found


@cache
def assets_version() -> str:
    """Changes when any of them does, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for name, (content, _) in sorted(assets().items()):
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:12]


def asked_language(request: Http) -> str:
    """The language that a browser asks for, of those we speak."""
    from clearspan.platform.locales import accepted  # noqa: PLC0415

    return accepted(request.headers.get("accept-language", ""))
