"""The log of plugins: which ran, in which version, since when. It is the installation's, since a plugin runs for all tenants."""

from __future__ import annotations

from datetime import datetime

import msgspec
from packaging.specifiers import SpecifierSet

from clearspan.platform import clock
from clearspan.platform.db import Database
from clearspan.platform.plugins import PluginError, Plugins, distribution_of, installed
from clearspan.settings import PluginsSettings

_PROBLEM_MAX = 2_000


class PluginChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change.

    Attributes:
        type: ``plugin.enabled``, ``plugin.disabled``, ``plugin.updated`` or ``plugin.failed``.
        name: of the plugin.
        distribution, version: what ran, or was left out; of ``plugin.disabled`` what ran before.
        problem: why it was left out.
        process: which kind of process found it.
    """

    at: datetime
    type: str
    name: str
    distribution: str
    version: str
    problem: str
    process: str


_CHANGES = msgspec.json.Decoder(list[PluginChange])


async def seen(db: Database, plugins: Plugins, process: str, *, why: str = "") -> list[PluginChange]:
    """Compare what was loaded with what was known; answers what is new, and is in the log now.

    Args:
        why: why nothing else is loaded.
    """
    found = [
        {
            "name": one.name,
            "distribution": one.distribution,
            "version": one.version,
            "problem": one.problem.replace("\0", "")[:_PROBLEM_MAX],
        }
        for one in plugins.loaded
    ]
    document = {"now": clock.now(), "process": process, "plugins": found} | ({"why": why} if why else {})
    return _CHANGES.decode(await db.call("plugins_seen", document))


async def history(db: Database, name: str, most: int = 20) -> list[PluginChange]:
    """What is known of a plugin, newest first."""
    return _CHANGES.decode(await db.call("plugins_history", {"name": name, "most": most}))


class PluginState(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as this process sees it.

    Attributes:
        state: ``enabled`` (it runs), ``failed`` (left out, ``problem`` says why), ``available`` (installed and not listed),
            ``safe_mode`` (listed, and nothing is loaded), ``restart`` (listed or installed since this process began).
        allowed: the versions that the settings allow, "" for all; ``None`` when it is not listed.
        brings: what it hands over, in words.
    """

    name: str
    state: str
    distribution: str
    version: str
    allowed: str | None
    brings: list[str]
    problem: str = ""


class PluginDesk:
    """What there is to know about plugins, for people. It loads none: what ran at start is what runs.

    Args:
        db: with the log.
        plugins: as they were loaded.
        settings: which are listed.
    """

    def __init__(self, db: Database, plugins: Plugins, settings: PluginsSettings) -> None:
        self._db = db
        self._plugins = plugins
        self._settings = settings

    @property
    def safe_mode(self) -> bool:
        """Whether this process loaded none on purpose."""
        return self._settings.safe_mode

    def all(self) -> list[PluginState]:
        """Every plugin that is installed or listed: those that failed first, then those that run, then the rest, by name."""
        try:
            points = installed()
        except PluginError:  # Installed since: two of one name. The next start says so.
            points = {}
        loaded = {one.name: one for one in self._plugins.loaded}
        found = []
        for name in points.keys() | self._settings.enabled.keys() | loaded.keys():
            distribution, version = distribution_of(points[name]) if name in points else ("", "")
            one = loaded.get(name)
            if one is not None:
                state = "failed" if one.problem else "enabled"
            elif name not in self._settings.enabled:
                state = "available"
            else:
                state = "safe_mode" if self.safe_mode else "restart"
            found.append(
                PluginState(
                    name=name,
                    state=state,
                    distribution=one.distribution if one else distribution,
                    version=one.version if one else version,
                    allowed=self._settings.enabled.get(name),
                    brings=self._plugins.provides(name),
                    problem=one.problem if one else "",
                )
            )
        order = ("failed", "restart", "enabled", "safe_mode", "available")
        return sorted(found, key=lambda one: (order.index(one.state), one.name))

    def enabling(self, name: str) -> str:
        """The lines of the settings file that list this plugin besides those listed now.

        The table replaces the default one as a whole, so it names them all.
        """
        listed = dict(self._settings.enabled)
        if name not in listed:
            version = next((one.version for one in self.all() if one.name == name), "")
            listed[name] = (
                f">={version}" if version and SpecifierSet(f">={version}").contains(version, prereleases=True) else ""
            )
        return "\n".join(["[plugins.enabled]", *(f'{each} = "{allowed}"' for each, allowed in listed.items())])

    async def history(self, name: str) -> list[PluginChange]:
        """What is known of a plugin, newest first."""
        return await history(self._db, name)

    async def database(self) -> str:
        """The version of the database server, in its own words.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        return await self._db.fetch_text("SHOW server_version")
