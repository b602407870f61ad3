"""API keys: made within the scopes of one's own role, and seen once."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.keys import SCOPES
from clearspan.access.schemas import ApiKeyCreate
from clearspan.access.service import ApiKeys
from clearspan.platform import clock, ids
from clearspan.platform.problems import InvalidRequest
from clearspan_admin import filled, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

READ = {"scope": "api_keys:read", "session": True}
WRITE = {"scope": "api_keys:write", "session": True}
FRESH = WRITE | {"step_up": True}
GROUPS: Final = (
    (mark("Money"), ("payments",)),
    (mark("Customers"), ("customers", "mandates")),
    (mark("Subscriptions"), ("plans", "subscriptions", "invoices", "dunning", "test_clocks")),
    (mark("Events and books"), ("events", "audit", "ledger")),
    (mark("Settings"), ("psp_accounts", "psp_webhooks", "webhook_endpoints", "api_keys", "operators")),
)
"""Scopes by what they are about; the part before the colon."""
_SHOP = {"payments:read", "payments:write", "customers:read", "customers:write", "mandates:read", "mandates:write"}
_SHOP |= {"plans:read", "subscriptions:read", "subscriptions:write", "invoices:read", "events:read"}
PRESETS: Final = {
    "shop": (mark("Shop backend"), frozenset(_SHOP)),
    "read": (mark("Read only"), frozenset(one for one in SCOPES if one.endswith(":read"))),
    "events": (mark("Follow events"), frozenset({"events:read"})),
    "finance": (mark("Reports"), frozenset({"payments:read", "invoices:read", "ledger:read", "dunning:read"})),
    "none": (mark("Nothing yet"), frozenset[str]()),
}
"""Where to begin: name -> title and scopes."""
LASTS: Final = {
    "30": mark("30 days"),
    "90": mark("90 days"),
    "365": mark("A year"),
    "": mark("Until it is revoked"),
}
"""How long a key may live, in days."""


def grouped() -> list[tuple[str, list[str]]]:
    """Every scope, in groups; one that no group names stands in the last."""
    named = {area for _, areas in GROUPS for area in areas}
    found = []
    for number, (title, areas) in enumerate(GROUPS, 1):
        scopes = [scope for area in areas for scope in SCOPES if scope.partition(":")[0] == area]
        if number == len(GROUPS):
            scopes += [scope for scope in SCOPES if scope.partition(":")[0] not in named]
        found.append((title, scopes))
    return found


class ApiKeysController(Controller):
    """``/admin/settings/api-keys``."""

    path = "/settings/api-keys"

    @get("/", opt=READ)
    async def list(self, request: Http, api_keys: NamedDependency[ApiKeys]) -> Response[bytes]:
        """Keys of the mode, newest first."""
        found = await api_keys.list(web.caller_of(request).scope, 50, request.query_params.get("cursor"))
        return web.page(request, "settings/api_keys.html", keys=found)

    @get("/new", opt=FRESH)
    async def begin(self, request: Http) -> Response[bytes]:
        """The form, with a preset's scopes ticked."""
        preset = request.query_params.get("preset", "shop")
        scopes = PRESETS.get(preset, PRESETS["none"])[1]
        return _form(request, {"name": "", "lasts": "365"}, scopes, {}, preset)

    @post("/new", opt=FRESH, status_code=200)
    async def add(self, request: Http, api_keys: NamedDependency[ApiKeys]) -> Response[bytes]:
        """Make a key and show it in this answer only."""
        form = await web.form_of(request)
        typed = {"name": form.text("name"), "lasts": form.text("lasts")}
        scopes, errors = list(dict.fromkeys(form.many("scopes"))), {}
        given: dict[str, Any] = {"name": typed["name"], "scopes": scopes}
        if typed["lasts"] not in LASTS:
            errors["lasts"] = web.say(request, "Choose how long it lives.")
        elif typed["lasts"]:
            given["expires_at"] = clock.now() + timedelta(days=int(typed["lasts"]))
        body, wrong = filled.struct_of(ApiKeyCreate, given)
        errors |= {name: _words(request, name, said) for name, said in wrong.items()}
        if body is not None and not errors:
            try:
                answer = await api_keys.issue(web.caller_of(request), web.idempotency(request, form), body)
                return _secret(request, web.answered(answer))
            except InvalidRequest as error:
                errors = filled.refusal(error, ("name", "scopes"))
        return _form(request, typed, scopes, errors)

    @get("/{key_id:str}", opt=READ)
    async def show(self, request: Http, key_id: FromPath[str], api_keys: NamedDependency[ApiKeys]) -> Response[bytes]:
        """One key, without its secret."""
        key = await api_keys.get(web.caller_of(request).scope, ids.decode("key", key_id))
        return web.page(request, "settings/api_key.html", one=key, sentences=SCOPES)

    @post("/{key_id:str}/rotate", opt=FRESH, status_code=200)
    async def rotate(self, request: Http, key_id: FromPath[str], api_keys: NamedDependency[ApiKeys]) -> Response[bytes]:
        """Make a successor and show it in this answer only."""
        form = await web.form_of(request)
        answer = await api_keys.rotate(
            web.caller_of(request), web.idempotency(request, form), ids.decode("key", key_id)
        )
        return _secret(request, web.answered(answer))

    @post("/{key_id:str}/revoke", opt=WRITE, status_code=303)
    async def revoke(self, request: Http, key_id: FromPath[str], api_keys: NamedDependency[ApiKeys]) -> Response[bytes]:
        """End a key at once."""
        await api_keys.revoke(web.caller_of(request), ids.decode("key", key_id))
        return web.go(request, f"/settings/api-keys/{key_id}", web.say(request, "Revoked: it works no more."))


def _secret(request: Http, key: dict[str, Any]) -> Response[bytes]:
    # Not compressed: what is secret and what others chose must not share a compressed body.
    return web.page(request, "settings/api_key_secret.html", made=key, compress=False)


def _words(request: Http, name: str, said: str) -> str:
    words = {
        "name": web.say(request, "Give it a name of 1 to 200 characters."),
        "scopes": web.say(request, "Choose at least one scope."),
    }
    return words.get(name, said)


def _form(
    request: Http, typed: dict[str, str], scopes: Collection[str], errors: dict[str, str], preset: str = ""
) -> Response[bytes]:
    return web.page(
        request,
        "settings/api_key_form.html",
        status=422 if errors else 200,
        typed=typed,
        scopes=scopes,
        errors=errors,
        preset=preset,
        presets=PRESETS,
        groups=grouped(),
        sentences=SCOPES,
        lasts=LASTS,
    )
