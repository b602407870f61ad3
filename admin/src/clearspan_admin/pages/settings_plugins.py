"""Vaults and plugins: what is installed, what runs, and what went wrong. The settings file decides, not the cockpit."""

from __future__ import annotations

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.journal.plugins import PluginDesk
from clearspan.platform.problems import NotFound
from clearspan.vaults.service import Vaults
from clearspan_admin import web
from clearspan_admin.web import Http

READ = {"scope": "psp_accounts:read", "session": True}


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
