"""PSP accounts: which there are, how they are, and their settings, which nobody sees again once they are stored."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import InvalidRequest
from clearspan.psps import catalogue
from clearspan.psps.catalogue import PspOut
from clearspan.psps.schemas import PspAccountCreate, PspAccountOut, PspAccountUpdate
from clearspan.psps.service import AccountNameTaken, KnownSettings, PspAccounts, UnknownPsp
from clearspan_admin import filled, web
from clearspan_admin.filled import Filled
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

READ = {"scope": "psp_accounts:read", "session": True}
WRITE = {"scope": "psp_accounts:write", "session": True}
FRESH = WRITE | {"step_up": True}
SAID = {
    "ok": ("good", mark("The PSP takes these settings.")),
    "misconfigured": ("bad", mark("The PSP refuses these settings.")),
    "unreachable": ("bad", mark("The PSP could not be reached; nothing was sent.")),
    "unclear": ("bad", mark("No clear answer came.")),
    "not_supported": ("info", mark("This plugin cannot ask its PSP; the next payment will show.")),
}
"""What a check found: tone and words."""


def state_of(account: PspAccountOut) -> str:
    """One word for how an account is."""
    if account.status == "disabled":
        return "disabled"
    if account.problem:
        return "misconfigured"
    return "unhealthy" if any(state != "closed" for state in account.health.values()) else "healthy"


class PspAccountsController(Controller):
    """``/admin/settings/psps``."""

    path = "/settings/psps"

    @get("/", opt=READ)
    async def list(
        self, request: Http, psps: NamedDependency[PspAccounts], plugins: NamedDependency[Plugins]
    ) -> Response[bytes]:
        """All accounts of the mode, by priority."""
        accounts = await psps.all(web.caller_of(request).scope)
        brought = {one.name: one for one in catalogue.psps(plugins).data}
        return web.page(request, "settings/psps.html", accounts=accounts, brought=brought, state_of=state_of)

    @get("/new", opt=READ)
    async def choose(self, request: Http, plugins: NamedDependency[Plugins]) -> Response[bytes]:
        """PSPs that an account can be added for, with what each can do."""
        return web.page(request, "settings/psp_choose.html", psps=catalogue.psps(plugins).data)

    @get("/new/{psp:str}", opt=FRESH)
    async def begin(self, request: Http, psp: FromPath[str], plugins: NamedDependency[Plugins]) -> Response[bytes]:
        """The form of a new account."""
        found = _psp(plugins, psp)
        return _form(request, found, typed={"name": psp, "priority": "100"}, entered=_defaults(found))

    @post("/new/{psp:str}", opt=FRESH, status_code=303)
    async def add(
        self,
        request: Http,
        psp: FromPath[str],
        plugins: NamedDependency[Plugins],
        psps: NamedDependency[PspAccounts],
    ) -> Response[bytes]:
        """Add an account."""
        found, form = _psp(plugins, psp), await web.form_of(request)
        entered = filled.settings_of(request, form, found.settings)
        errors = dict(entered.errors)
        given = {"psp": psp, "name": form.text("name"), "config": entered.values}
        body, wrong = filled.struct_of(PspAccountCreate, given | _priority(form))
        errors |= _own_words(request, wrong)
        if body is not None and not errors:
            try:
                made = web.answered(await psps.create(web.caller_of(request), web.idempotency(request, form), body))
                return web.go(
                    request,
                    f"/settings/psps/{made['id']}",
                    web.say(
                        request, "The account is there. Enter its webhook address at the PSP, then test the connection."
                    ),
                )
            except InvalidRequest as error:
                errors = filled.refusal(error, _names(found))
            except AccountNameTaken:
                errors = {"name": web.say(request, "There is an account of this name.")}
        entered.errors = errors
        return _form(request, found, typed=_typed(form), entered=entered)

    @get("/{account_id:str}", opt=READ)
    async def show(
        self,
        request: Http,
        account_id: FromPath[str],
        psps: NamedDependency[PspAccounts],
        plugins: NamedDependency[Plugins],
    ) -> Response[bytes]:
        """One account."""
        scope = web.caller_of(request).scope
        account = await psps.get(scope, account_id)
        found = next((one for one in catalogue.psps(plugins).data if one.name == account.psp), None)
        known = await psps.known_settings(scope, account_id) if found else KnownSettings({}, frozenset())
        return web.page(request, "settings/psp.html", account=account, psp=found, known=known, state=state_of(account))

    @get("/{account_id:str}/edit", opt=FRESH)
    async def edit(
        self,
        request: Http,
        account_id: FromPath[str],
        psps: NamedDependency[PspAccounts],
        plugins: NamedDependency[Plugins],
    ) -> Response[bytes]:
        """The form with what may be shown of its settings."""
        scope = web.caller_of(request).scope
        account = await psps.get(scope, account_id)
        known = await psps.known_settings(scope, account_id)
        found = _psp(plugins, account.psp)
        entered = _defaults(found)
        entered.typed |= known.values
        return _form(
            request,
            found,
            typed={"name": account.name, "priority": str(account.priority)},
            entered=entered,
            account=account,
            known=known,
        )

    @post("/{account_id:str}/edit", opt=FRESH, status_code=303)
    async def change(
        self,
        request: Http,
        account_id: FromPath[str],
        psps: NamedDependency[PspAccounts],
        plugins: NamedDependency[Plugins],
    ) -> Response[bytes]:
        """Change settings and priority; secrets left empty stay."""
        caller, form = web.caller_of(request), await web.form_of(request)
        account = await psps.get(caller.scope, account_id)
        known = await psps.known_settings(caller.scope, account_id)
        found = _psp(plugins, account.psp)
        entered = filled.settings_of(request, form, found.settings, known.secrets)
        body, wrong = filled.struct_of(PspAccountUpdate, _priority(form))
        errors = entered.errors | _own_words(request, wrong)
        if body is not None and not errors:
            try:
                priority = account.priority if body.priority is None else body.priority
                await psps.revise(caller, account_id, entered.values, entered.keep, priority)
                return web.go(
                    request,
                    f"/settings/psps/{account_id}",
                    web.say(request, "Saved. Test the connection to see whether the PSP takes it."),
                )
            except InvalidRequest as error:
                errors = filled.refusal(error, _names(found))
        entered.errors = errors
        typed = _typed(form) | {"name": account.name}
        return _form(request, found, typed=typed, entered=entered, account=account, known=known)

    @post("/{account_id:str}/check", opt=WRITE, status_code=303)
    async def check(
        self, request: Http, account_id: FromPath[str], psps: NamedDependency[PspAccounts]
    ) -> Response[bytes]:
        """Ask the PSP; nothing moves."""
        found = await psps.check(web.caller_of(request).scope, account_id)
        tone, words = SAID[found.status]
        said = web.say(request, words)
        if found.status in ("misconfigured", "unreachable", "unclear"):
            said = f"{said} {found.message}"
        return web.go(request, f"/settings/psps/{account_id}", said, tone)

    @post("/{account_id:str}/status", opt=WRITE, status_code=303)
    async def switch(
        self, request: Http, account_id: FromPath[str], psps: NamedDependency[PspAccounts]
    ) -> Response[bytes]:
        """Enable or disable."""
        form = await web.form_of(request)
        body, _ = filled.struct_of(PspAccountUpdate, {"status": form.text("status")})
        if body is None:
            raise InvalidRequest("An account is enabled or disabled.")
        await psps.update(web.caller_of(request), account_id, body)
        words = (
            web.say(request, "Enabled: new payments may go there.")
            if body.status == "enabled"
            else web.say(request, "Disabled: no new payment goes there. What is under way is finished.")
        )
        return web.go(request, f"/settings/psps/{account_id}", words)


def _psp(plugins: Plugins, name: str) -> PspOut:
    for one in catalogue.psps(plugins).data:
        if one.name == name:
            return one
    raise UnknownPsp(f"No enabled plugin brings a PSP named {name[:40]!r}.")


def _names(psp: PspOut) -> set[str]:
    return {field.name for field in psp.settings}


def _defaults(psp: PspOut) -> Filled:
    return Filled(typed={field.name: field.default for field in psp.settings if field.default is not None})


def _priority(form: Form) -> dict[str, Any]:
    text = form.text("priority")
    return {"priority": int(text) if text.isdecimal() and len(text) < 9 else -1}


def _typed(form: Form) -> dict[str, str]:
    return {"name": form.text("name"), "priority": form.text("priority")}


def _own_words(request: Http, wrong: dict[str, str]) -> dict[str, str]:
    words = {
        "name": web.say(
            request, "Lower-case letters, digits, - and _, at most 63; the first one is a letter or digit."
        ),
        "priority": web.say(request, "A whole number from 0 to 10000."),
    }
    return {name: words.get(name, said) for name, said in wrong.items()}


def _form(
    request: Http,
    psp: PspOut,
    *,
    typed: dict[str, str],
    entered: Filled,
    account: PspAccountOut | None = None,
    known: KnownSettings | None = None,
) -> Response[bytes]:
    return web.page(
        request,
        "settings/psp_form.html",
        status=422 if entered.errors else 200,
        psp=psp,
        typed=typed,
        entered=entered,
        errors=entered.errors,
        account=account,
        secrets=known.secrets if known else frozenset(),
        name_of=filled.name_of,
    )
