"""What is a person's own: name, language, theme, password, second factor, open sessions."""

from __future__ import annotations

import re
from functools import cache
from typing import Final
from uuid import UUID
from zoneinfo import available_timezones

import segno
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.errors import CodeWrong, OperatorChanged, PasswordRefused, StepUpRequired
from clearspan.access.guard import ANY
from clearspan.access.operators import Operators
from clearspan.access.roles import STRONG_ROLES
from clearspan.access.sessions import Sessions
from clearspan.access.signing import Signing
from clearspan_admin import web
from clearspan_admin.pages.signing import REFUSALS, id_of, typed_twice
from clearspan_admin.web import Http
from clearspan_admin.words import mark

LOCALES: Final = {
    "en_US": "English (United States)",
    "en_GB": "English (United Kingdom)",
    "en_IE": "English (Ireland)",
    "de_DE": "Deutsch (Deutschland)",
    "de_AT": "Deutsch (Österreich)",
    "de_CH": "Deutsch (Schweiz)",
    "fr_FR": "Français (France)",
    "fr_BE": "Français (Belgique)",
    "fr_CH": "Français (Suisse)",
    "fr_CA": "Français (Canada)",
    "es_ES": "Español (España)",
    "es_MX": "Español (México)",
}
"""Language with the way numbers and dates are written."""
_LOCALE_OF: Final = {"en": "en_US", "de": "de_DE", "fr": "fr_FR", "es": "es_ES"}
THEMES: Final = {"auto": mark("As the system"), "light": mark("Light"), "dark": mark("Dark")}
_BROWSERS: Final = (
    ("Firefox", r"Firefox/"), ("Edge", r"Edg/"), ("Opera", r"OPR/"), ("Chrome", r"Chrome/|CriOS/"), ("Safari", r"Safari/"),
)  # fmt: skip
_SYSTEMS: Final = (
    ("Android", r"Android"), ("iOS", r"iPhone|iPad"), ("Windows", r"Windows"), ("macOS", r"Mac OS X"), ("Linux", r"Linux"),
)  # fmt: skip


class ProfileController(Controller):
    """``/admin/profile``."""

    path = "/profile"

    @get("/", opt={"scope": ANY, "session": True, "half": True})
    async def show(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """Everything on one page."""
        return await _profile(request, sessions, {})

    @post("/", opt={"scope": ANY, "session": True}, status_code=303)
    async def save(
        self, request: Http, operators: NamedDependency[Operators], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """Name, locale, zone and theme."""
        form, operator = await web.form_of(request), web.who(request).operator
        errors = {}
        if not 1 <= len(form.text("name")) <= 200:
            errors["name"] = web.say(request, "Give a name of 1 to 200 characters.")
        if form.text("locale") not in LOCALES:
            errors["locale"] = web.say(request, "Choose one of the list.")
        if form.text("timezone") not in zones():
            errors["timezone"] = web.say(request, "Choose one of the list.")
        if form.text("theme") not in THEMES:
            errors["theme"] = web.say(request, "Choose one of the list.")
        if errors:
            typed = {name: form.text(name) for name in ("name", "locale", "timezone", "theme")}
            return await _profile(request, sessions, errors, typed)
        await operators.change(
            operator,
            name=form.text("name"),
            locale=form.text("locale"),
            timezone=form.text("timezone"),
            preferences={**operator.preferences, "theme": form.text("theme")},
        )
        return web.go(request, "/profile", web.say(request, "Saved."))

    @get("/password", opt={"scope": ANY, "session": True})
    async def password(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """The form for another password."""
        _need_factor(request, sessions)
        return web.page(request, "profile/password.html")

    @post("/password", opt={"scope": ANY, "session": True, "step_up": True}, status_code=303)
    async def change_password(self, request: Http, signing: NamedDependency[Signing]) -> Response[bytes]:
        """Another password; every other session ends."""
        form = await web.form_of(request)
        try:
            typed_twice(request, form)
            await signing.change_password(web.who(request), form.raw("password"), id_of(request))
        except PasswordRefused as error:
            return web.page(request, "profile/password.html", status=error.status, error=error.detail)
        said = web.say(request, "Your password is changed, and every other session of yours has ended.")
        return web.go(request, "/profile", said)

    @get("/second-factor", opt={"scope": ANY, "session": True, "half": True})
    async def second_factor(
        self, request: Http, signing: NamedDependency[Signing], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """An authenticator to set up, the first or another."""
        if web.who(request).operator.has_second_factor:
            _need_factor(request, sessions)
        return await _set_up(request, signing)

    @post("/second-factor", opt={"scope": ANY, "session": True, "half": True}, status_code=200)
    async def set_second_factor(
        self, request: Http, signing: NamedDependency[Signing], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """The authenticator works: here are the recovery codes, this once."""
        if web.who(request).operator.has_second_factor:
            _need_factor(request, sessions)
        form = await web.form_of(request)
        try:
            codes = await signing.set_second_factor(web.who(request), form.text("code"), id_of(request))
        except CodeWrong as error:
            return await _set_up(request, signing, web.say(request, REFUSALS[CodeWrong]), error.status)
        return web.page(request, "profile/recovery_codes.html", codes=codes, begun=True)

    @post("/second-factor/remove", opt={"scope": ANY, "session": True, "step_up": True}, status_code=303)
    async def remove_second_factor(self, request: Http, signing: NamedDependency[Signing]) -> Response[bytes]:
        """Go on with the password alone, where the role allows it."""
        await signing.remove_second_factor(web.who(request).operator, id_of(request))
        return web.go(request, "/profile", web.say(request, "Your second factor is removed."))

    @post("/recovery-codes", opt={"scope": ANY, "session": True, "step_up": True}, status_code=200)
    async def renew_recovery_codes(self, request: Http, signing: NamedDependency[Signing]) -> Response[bytes]:
        """New recovery codes; the old ones end."""
        codes = await signing.renew_recovery_codes(web.who(request), id_of(request))
        return web.page(request, "profile/recovery_codes.html", codes=codes, begun=False)

    @post("/sessions/{session_id:uuid}/end", opt={"scope": ANY, "session": True, "half": True}, status_code=303)
    async def end_session(
        self, request: Http, session_id: FromPath[UUID], sessions: NamedDependency[Sessions]
    ) -> Response[bytes]:
        """End one of one's own sessions."""
        await sessions.end(web.who(request).operator.operator_id, session_id=session_id, why="revoked")
        return web.go(request, "/profile", web.say(request, "The session has ended."))

    @post("/sessions/end-others", opt={"scope": ANY, "session": True, "half": True}, status_code=303)
    async def end_others(self, request: Http, sessions: NamedDependency[Sessions]) -> Response[bytes]:
        """End every session but this one."""
        signed = web.who(request)
        await sessions.end(signed.operator.operator_id, keep=signed.session.session_id, why="revoked")
        return web.go(request, "/profile", web.say(request, "Every other session has ended."))


def _need_factor(request: Http, sessions: Sessions) -> None:
    """What ``step_up`` does for the POSTs of people who have a factor, for the rest of the pages about it."""
    if not sessions.is_strong(web.who(request)):
        raise StepUpRequired


async def _profile(
    request: Http, sessions: Sessions, errors: dict[str, str], typed: dict[str, str] | None = None
) -> Response[bytes]:
    signed = web.who(request)
    operator = signed.operator
    return web.page(
        request,
        "profile/profile.html",
        status=422 if errors else 200,
        errors=errors,
        values={
            "name": operator.name,
            "locale": operator.locale if operator.locale in LOCALES else _LOCALE_OF.get(operator.locale, "en_US"),
            "timezone": operator.timezone,
            "theme": operator.preferences.get("theme", "auto"),
        }
        | (typed or {}),
        locales=list(LOCALES.items()),
        zones=[(zone, zone.replace("_", " ")) for zone in zones()],
        themes=[(value, web.say(request, text)) for value, text in THEMES.items()],
        must=any(one.role in STRONG_ROLES for one in operator.memberships),
        sessions=[(one, device(one.agent)) for one in await sessions.of_operator(operator.operator_id)],
    )


async def _set_up(request: Http, signing: Signing, error: str = "", status: int = 200) -> Response[bytes]:
    operator = web.who(request).operator
    try:
        secret, address = await signing.offer_second_factor(operator)
    except OperatorChanged:  # Two tabs at once: the other one's offer is taken.
        operator = await request.app.state.gateway.operators.get(operator.operator_id)
        secret, address = await signing.offer_second_factor(operator)
    shape, size = qr(address)
    grouped = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return web.page(
        request, "profile/second_factor.html", status=status, secret=grouped, shape=shape, size=size, error=error
    )


def qr(text: str) -> tuple[str, int]:
    """A QR code as the path of an SVG, and how many units it is wide, its quiet border included."""
    rows = [bytes(row) for row in segno.make(text, error="m", micro=False).matrix_iter(border=4)]
    runs = (
        f"M{match.start()} {y}h{match.end() - match.start()}v1h-{match.end() - match.start()}z"
        for y, row in enumerate(rows)
        for match in re.finditer(rb"\x01+", row)
    )
    return "".join(runs), len(rows)


@cache
def zones() -> tuple[str, ...]:
    """Time zones by place, and UTC."""
    regions = ("Africa/", "America/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
    return ("UTC", *sorted(zone for zone in available_timezones() if zone.startswith(regions)))


def device(agent: str) -> str:
    """``Firefox, Linux`` of what a browser calls itself; the beginning of that when we do not know it."""
    browser = next((name for name, sign in _BROWSERS if re.search(sign, agent)), "")
    system = next((name for name, sign in _SYSTEMS if re.search(sign, agent)), "")
    return ", ".join(part for part in (browser, system) if part) or agent[:60]
