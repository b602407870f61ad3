"""The tenant: how it bills, and facts about the installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency

from clearspan.journal.plugins import PluginDesk
from clearspan.platform import ids
from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.rebills.dunning import DunningPlans
from clearspan.settings import Settings
from clearspan.subscriptions.catalogue import Billing
from clearspan.subscriptions.errors import DunningPlanMissing
from clearspan.subscriptions.schemas import BillingSettingsOut, BillingSettingsUpdate
from clearspan.tenants.errors import TenantInvalid
from clearspan.tenants.service import Tenants
from clearspan_admin import filled, web
from clearspan_admin.web import Form, Http

READ = {"scope": "operators:read", "session": True}
BILLING = {"scope": "plans:write", "session": True}
NAME = {"scope": "operators:write", "session": True}
_SELLER = ("seller_name", "seller_address", "seller_tax_id", "seller_email")


class TenantController(Controller):
    """``/admin/settings/tenant``."""

    path = "/settings/tenant"

    @get("/", opt=READ)
    async def show(
        self,
        request: Http,
        tenants: NamedDependency[Tenants],
        billing: NamedDependency[Billing],
        plugins: NamedDependency[Plugins],
        plugin_desk: NamedDependency[PluginDesk],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Name, modes, billing, installation."""
        scope = web.caller_of(request).scope
        tenant = await tenants.get(scope.tenant_id)
        try:
            database = await plugin_desk.database()
        except DatabaseUnavailable:
            database = ""
        return web.page(
            request,
            "settings/tenant.html",
            tenant=tenant,
            tenant_id=ids.encode("ten", tenant.tenant_id),
            billing=await billing.get(scope),
            version=_version(),
            running=sum(not one.problem for one in plugins.loaded),
            failed=sum(bool(one.problem) for one in plugins.loaded),
            database=database,
            public_url=settings.server.public_url,
        )

    @get("/name", opt=NAME)
    async def ask_name(self, request: Http, tenants: NamedDependency[Tenants]) -> Response[bytes]:
        """The form of the name."""
        tenant = await tenants.get(web.caller_of(request).scope.tenant_id)
        return web.page(request, "settings/tenant_name.html", name=tenant.name, slug=tenant.slug, errors={})

    @post("/name", opt=NAME, status_code=303)
    async def rename(self, request: Http, tenants: NamedDependency[Tenants]) -> Response[bytes]:
        """Give it another name; the audit trail has both."""
        caller, name = web.caller_of(request), (await web.form_of(request)).text("name").strip()
        try:
            await tenants.rename(caller, name)
        except TenantInvalid:
            errors = {"name": web.say(request, "A tenant's name has 1 to 200 characters, on one line.")}
            slug = (await tenants.get(caller.scope.tenant_id)).slug
            return web.page(request, "settings/tenant_name.html", status=422, name=name, slug=slug, errors=errors)
        return web.go(request, "/settings/tenant", web.say(request, "Saved."))

    @get("/billing", opt=BILLING)
    async def edit(
        self, request: Http, billing: NamedDependency[Billing], dunning_plans: NamedDependency[DunningPlans]
    ) -> Response[bytes]:
        """The form of the billing settings."""
        found = await billing.get(web.caller_of(request).scope)
        return await _form(request, dunning_plans, _shown(found), {})

    @post("/billing", opt=BILLING, status_code=303)
    async def change(
        self, request: Http, billing: NamedDependency[Billing], dunning_plans: NamedDependency[DunningPlans]
    ) -> Response[bytes]:
        """Change what differs; the audit trail tells what."""
        caller, typed = web.caller_of(request), _typed(await web.form_of(request))
        before = msgspec.to_builtins(await billing.get(caller.scope))
        given = _given(typed)
        changed = {name: value for name, value in given.items() if value != before[name]}
        body, errors = filled.struct_of(BillingSettingsUpdate, changed)
        if body is not None:
            try:
                if changed:
                    await billing.update(caller, body)
                words = web.say(request, "Saved. What is billed from now on goes by it.")
                # Finance may change it and has no right to see the page of the tenant.
                sees = READ["scope"] in web.who(request).scopes
                return web.go(request, "/settings/tenant" if sees else "/settings/tenant/billing", words)
            except DunningPlanMissing:
                errors = {"dunning_plan": web.say(request, "There is no such dunning plan.")}
        return await _form(request, dunning_plans, typed, errors)


def _version() -> str:
    try:
        return version("clearspan")
    except PackageNotFoundError:
        return "?"


def _shown(found: BillingSettingsOut) -> dict[str, Any]:
    return {
        "seller_name": found.seller.name or "",
        "seller_address": "\n".join(found.seller.address),
        "seller_tax_id": found.seller.tax_id or "",
        "seller_email": found.seller.email or "",
        "language": found.language,
        "invoice_prefix": found.invoice_prefix,
        "credit_note_prefix": found.credit_note_prefix,
        "catch_up": found.catch_up,
        "mails": found.mails,
        "dunning_plan": found.dunning_plan or "",
    }


def _typed(form: Form) -> dict[str, Any]:
    names = (*_SELLER, "language", "invoice_prefix", "credit_note_prefix", "catch_up", "dunning_plan")
    return {name: form.text(name).replace("\r\n", "\n") for name in names} | {"mails": form.has("mails")}


def _given(typed: dict[str, Any]) -> dict[str, Any]:
    lines = [line.strip() for line in typed["seller_address"].split("\n")]
    seller = {
        "name": typed["seller_name"] or None,
        "address": [line for line in lines if line],
        "tax_id": typed["seller_tax_id"] or None,
        "email": typed["seller_email"] or None,
    }
    own = {name: value for name, value in typed.items() if name not in _SELLER}
    return own | {"seller": seller, "dunning_plan": typed["dunning_plan"] or None}


async def _form(
    request: Http, dunning_plans: DunningPlans, typed: dict[str, Any], errors: dict[str, str]
) -> Response[bytes]:
    plans = await dunning_plans.list(web.caller_of(request).scope, 100, None)
    return web.page(
        request, "settings/billing.html", status=422 if errors else 200, typed=typed, errors=errors, plans=plans.data
    )
