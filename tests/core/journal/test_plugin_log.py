"""Which plugins ran is known since when: told once per change, by whichever process finds it, and never rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import asyncpg
import pytest
from tests.conftest import connected

from clearspan.journal import plugins as plugin_log
from clearspan.platform.db import Database
from clearspan.platform.plugins import LoadedPlugin, Plugins
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Urls


@pytest.fixture(scope="module")
def own(databases: Callable[[], Urls]) -> Urls:
    return databases()


@pytest.fixture
async def own_db(own: Urls, settings: Settings) -> AsyncIterator[Database]:
    database = Database(own.app, settings.database)
    await database.open()
    yield database
    await database.close()


def running(*plugins: LoadedPlugin) -> Plugins:
    found = Plugins()
    found.loaded += plugins
    return found


ACME = LoadedPlugin("psp-acme", "clearspan-psp-acme", "1.0")
NEWER = LoadedPlugin("psp-acme", "clearspan-psp-acme", "1.1")
BROKEN = LoadedPlugin("psp-acme", "clearspan-psp-acme", "1.1", problem="RuntimeError: boom")


async def test_each_change_is_told_once(own_db: Database, own: Urls) -> None:
    told = []
    for plugins, why in (
        (running(ACME), ""), (running(ACME), ""), (running(NEWER), ""), (running(BROKEN), ""), (running(BROKEN), ""),
        (running(NEWER), ""), (running(), "safe mode"), (running(), ""), (running(ACME), ""),
    ):  # fmt: skip
        told.append(
            [(one.type, one.version, one.problem) for one in await plugin_log.seen(own_db, plugins, "web", why=why)]
        )
    enabled, updated = ("plugin.enabled", "1.0", ""), ("plugin.updated", "1.1", "")
    failed, again = ("plugin.failed", "1.1", "RuntimeError: boom"), ("plugin.enabled", "1.1", "")
    disabled = ("plugin.disabled", "1.1", "safe mode")
    assert told == [[enabled], [], [updated], [failed], [], [again], [disabled], [], [enabled]]
    history = await plugin_log.history(own_db, "psp-acme")
    assert [one.type for one in history[:2]] == ["plugin.enabled", "plugin.disabled"]
    assert {one.process for one in history} == {"web"}
    async with connected(own.superuser) as connection:
        for change in ("UPDATE plugin_log SET version = '9'", "DELETE FROM plugin_log", "TRUNCATE plugin_log"):
            with pytest.raises(asyncpg.PostgresError, match="append-only"):
                await connection.execute(change)


async def test_processes_that_start_at_once_tell_it_once(own_db: Database) -> None:
    other = running(LoadedPlugin("vault-acme", "clearspan-vault-acme", "3"))
    await asyncio.gather(*(plugin_log.seen(own_db, other, f"worker {number}") for number in range(5)))
    assert [one.type for one in await plugin_log.history(own_db, "vault-acme")] == ["plugin.enabled"]
