"""Vaults and plugins: what is installed, what runs, and what went wrong. The settings file decides, not the cockpit."""

from __future__ import annotations

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.journal.plugins import PluginDesk
from clearspan.platform.problems import NotFound
from clearspan.vaults.service import Vaults
from clearspan_admin import web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

READ = {"scope": "psp_accounts:read", "session": True}
WRITE = {"scope": "psp_accounts:write", "session": True}
SAID = {
    "ok": ("good", mark("The vault takes these settings.")),
    "unavailable": ("bad", mark("The vault could not be used with these settings.")),
    "unclear": ("bad", mark("No clear answer came.")),
    "not_supported": ("info", mark("This plugin cannot ask its vault; the next card will show.")),
}
"""What a check found: tone and words."""


class PluginsController(Controller):
    """``/admin/settings/plugins``."""

    path = "/settings/plugins"

    @get("/", opt=READ)
    async def list(
        self, request: Http, plugin_desk: NamedDependency[PluginDesk], vaults: NamedDependency[Vaults]
    ) -> Response[bytes]:
        """Every plugin, and every vault."""
        return web.page(
            request,
            "settings/plugins.html",
            plugins=plugin_desk.all(),
            safe_mode=plugin_desk.safe_mode,
            vaults=vaults.described(),
        )

    @get("/{name:str}", opt=READ)
    async def show(
        self, request: Http, name: FromPath[str], plugin_desk: NamedDependency[PluginDesk]
    ) -> Response[bytes]:
        """One plugin with its history, and how it is enabled."""
        found = next((one for one in plugin_desk.all() if one.name == name), None)
        if found is None:
            raise NotFound(web.say(request, "No such plugin is installed or listed."))
        return web.page(
            request,
            "settings/plugin.html",
            plugin=found,
            history=await plugin_desk.history(name),
            lines=plugin_desk.enabling(name),
            safe_mode=plugin_desk.safe_mode,
        )

    @post("/vaults/{vault:str}/check", opt=WRITE, status_code=303)
    async def check(self, request: Http, vault: FromPath[str], vaults: NamedDependency[Vaults]) -> Response[bytes]:
        """Ask a vault whether it takes the settings; nothing is stored."""
        if vault not in {one.name for one in vaults.described()}:
            raise NotFound(web.say(request, "There is no such vault."))
        found = await vaults.check(vault)
        tone, words = SAID[found.status]
        return web.go(request, "/settings/plugins", f"{web.say(request, words)} {found.message}".strip(), tone)
