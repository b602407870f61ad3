"""The log of plugins: which ran, in which version, since when. It is the installation's, since a plugin runs for all tenants."""

from __future__ import annotations

from datetime import datetime

import msgspec

from clearspan.platform import clock
from clearspan.platform.db import Database
from clearspan.platform.plugins import Plugins

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
