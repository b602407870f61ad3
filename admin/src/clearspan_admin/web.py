"""What every page shares: how it is rendered, which headers it has, how forms are read and refused, how errors look.

- **Policy.** ``default-src 'none'``; scripts and styles carry a nonce that is new with each answer, nothing is inline,
  nothing comes from another host. Violations are reported to ``/admin/csp-reports`` and logged.
- **Forms.** A POST is refused unless the browser says that it comes from this origin (``Sec-Fetch-Site``, ``Origin``) *and* it
  carries the session's token, masked anew in each page so that compression tells nothing about it. Litestar's own
  double-submit cookie is not bound to the session; this is.
- **Idempotency.** A form that acts carries ``key``, random and new with each page: the service sees it as an ``Idempotency-Key``,
  so a double click acts once and shows the same result twice.
- **After a POST** comes a redirect (303) with a message, so that reloading repeats nothing.
- **Under a prefix** (``server.public_url = "https://x.example/gateway"``) every link begins with it, the proxy takes it off.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import html
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import jinja2
import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from markupsafe import Markup

from clearspan.access.errors import FormRefused, SignInRequired
from clearspan.access.sessions import Sessions, Signed
from clearspan.platform import clock
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
    locale = signed.operator.locale if signed else _asked_language(request)
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
    salt = clock.random_bytes(_SALT_BYTES).hex()
    return f"{salt}.{_masked(secret, salt)}"


async def check_form(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """The guard of every page: what changes something must come from one of our own pages.

    Raises:
        FormRefused: another origin, no token, or another session's.
    """
    if connection.scope.get("method") in ("GET", "HEAD", "OPTIONS") or not isinstance(connection, Request):
        return
    if connection.headers.get("sec-fetch-site") not in (None, "same-origin"):
        raise FormRefused("Another site sent this form. Nothing was done.")
    origin = connection.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc not in _own_hosts(connection):
        raise FormRefused("Another site sent this form. Nothing was done.")
    if connection.scope["path"] == f"{PATH}/csp-reports":
        return
    given = connection.headers.get("x-csrf-token") or Form(_pairs(await connection.body())).text("csrf")
    salt, _dot, token = given.partition(".")
    secret = _csrf_secret(connection)
    if not secret or not hmac.compare_digest(_masked(secret, salt), token):
        raise FormRefused


def _masked(secret: str, salt: str) -> str:
    return hmac.digest(secret.encode(), salt.encode(), hashlib.sha256).hex()


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
    return clock.random_bytes(16).hex()


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
    language = words.language_of(signed.operator.locale if signed else _asked_language(request))
    said: str = words.translations(language).gettext(text)
    return said % values if values else said


def _flash_cookie(request: Http) -> str:
    return f"{request.app.state.sessions.cookie}-said"


def _take_flash(request: Http) -> tuple[str, str] | None:
    from urllib.parse import unquote  # noqa: PLC0415

    tone, _, message = unquote(request.cookies.get(_flash_cookie(request), "")).partition(":")
    return (tone, message) if tone in _TONES and message else None


# -- Errors ---------------------------------------------------------------------------------------------------------------------


def refused(request: Http, error: DomainError) -> Response[bytes]:
    """A refusal as a page; inside of a page as a message at its top. Somebody who is not signed in is sent to sign in."""
    if isinstance(error, SignInRequired) and request.method == "GET":
        back = (request.scope["path"].removeprefix(PATH) or "/") + (
            f"?{request.url.query}" if request.url.query else ""
        )
        where = url(request, "/sign-in", next=back if back != "/" else "")
        if is_fragment(request):
            return Response(b"", status_code=200, headers={"HX-Redirect": where})
        return Response(b"", status_code=303, headers={"Location": where, "Cache-Control": "no-store"})
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
    return page(request, "error.html", status=error.status, problem=document)


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

    # Jinja takes what these give for safe markup. No text of ours is markup, so nothing that is handed to ``_()`` becomes any.
    def gettext(text: str) -> str:
        return _unmarked(translations.gettext(text))

    def ngettext(one: str, many: str, count: int) -> str:
        return _unmarked(translations.ngettext(one, many, count))

    made.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.filters |= shown.filters() | {"slug_words": lambda text: str(text).replace("_", " ").replace(".", " ")}
    made.globals |= {"icon": icon, "LANGUAGES": words.LANGUAGES, "now": clock.now}
    return made


def _unmarked(text: str) -> str:
    return html.escape(text, quote=False).replace('"', "&#34;")


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


def _asked_language(request: Http) -> str:
    from clearspan.platform.locales import accepted  # noqa: PLC0415

    return accepted(request.headers.get("accept-language", ""))
