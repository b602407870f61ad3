"""What commands that work with the gateway's services share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import structlog
from sqlalchemy import text

from clearspan.app import Gateway
from clearspan.journal import plugins as plugin_log
from clearspan.platform import clock, sqlbundle
from clearspan.platform.crypto import KeyProblem
from clearspan.platform.db import UNREACHABLE
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.platform.runtime import OperatorError, Runtime, opened, require_schema
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings

CLOCK_EVERY_S = 60
log = structlog.get_logger("clearspan.start")


def with_gateway(settings: Settings, work: Callable[[Gateway], Awaitable[int]]) -> int:
    """Run ``work`` with the services of this installation; returns its exit code.

    Raises:
        OperatorError, and what ``runtime.opened`` and ``work`` raise.
    """
    configure_logging("warning", "console")

    async def run(runtime: Runtime) -> int:
        await require_schema(runtime)
        async with gateway(runtime) as opened_gateway:
            return await work(opened_gateway)

    with opened(settings) as runtime:
        return asyncio.run(run(runtime))


@asynccontextmanager
async def gateway(runtime: Runtime) -> AsyncIterator[Gateway]:
    """The services, connected, and sure that the master key is this database's.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be reached.
        OperatorError: another master key sealed what is in the database.
    """
    made = Gateway(runtime.settings, runtime.app_url, runtime.master, runtime.plugins)
    await made.open()
    try:
        await check_master_key(runtime, made)
        yield made
    finally:
        await made.close()


async def check_master_key(runtime: Runtime, made: Gateway) -> None:
    """Refuse to work with another key than the one that wrapped the tenants' keys.

    Raises:
        OperatorError: it is another one.
    """
    async with made.db.begin(None) as session:
        some = text(f"SELECT tenant_id, data_key FROM {sqlbundle.name('tenants_all')}() LIMIT 1")  # noqa: S608
        row = (await session.execute(some)).first()
    if row is not None:
        require_key(runtime, row.tenant_id, row.data_key)


def require_key(runtime: Runtime, tenant_id: UUID, data_key: bytes) -> None:
    """The master key must open a tenant's.

    Another one would read nothing, and worse: ids of operations are derived from it, so a repeated request would not meet its
    first charge.

    Raises:
        OperatorError: it does not.
    """
    try:
        runtime.master.unwrap(data_key, str(tenant_id))
    except KeyProblem as error:
        raise OperatorError(
            f"The master key in {runtime.settings.master_key_path} is not the one this database was made with. Restore that"
            " one from your backup, or set security.master_key_file; with another key nothing in the database can be read."
        ) from error


async def note_plugins(made: Gateway, process: str) -> None:
    """Put into the installation's log which plugins run now, if that is news.

    Raises:
        DatabaseUnavailable.
    """
    safe_mode = made.settings.plugins.safe_mode
    for change in await plugin_log.seen(made.db, made.plugins, process, why="safe mode" if safe_mode else ""):
        log.info(change.type, plugin=change.name, version=change.version, problem=change.problem)


async def keep_clock(made: Gateway) -> None:
    """Once a minute, until cancelled: take the database's time, store when keys were last used, measure the inbox."""
    while True:
        await clock.sleep(CLOCK_EVERY_S)
        try:
            await made.db.synchronise_clock()
            await made.authenticator.write_uses()
            await made.psp_webhooks.measure()
        except (*UNREACHABLE, DatabaseUnavailable) as error:
            log.warning("the clock keeps its last correction", error=type(error).__name__)
