"""``clearspan migrate``."""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from clearspan.commands.start import require_key
from clearspan.platform import schema
from clearspan.platform.runtime import OperatorError, Runtime, app_password, connect, opened
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings


def run(settings: Settings) -> int:
    """Bring the database to this release; safe to repeat, and to start on several machines at once."""
    configure_logging("warning", "console")
    with opened(settings, create_key=True) as runtime:
        report = bring_up_to_date(runtime)
    if report.revision_before is None:
        print(f"The database is made, at revision {report.revision}.")
    elif report.revision_before != report.revision:
        print(f"The database went from revision {report.revision_before} to {report.revision}.")
    else:
        print(f"The database is at revision {report.revision}, as it was.")
    return 0


async def _check_master_key(runtime: Runtime) -> None:
    """Before anything is changed: a key that was made just now is right for an empty database only.

    Raises:
        OperatorError: tenants are there, and another key wrapped theirs.
    """
    connection = await connect(runtime.owner_url)
    try:
        if await connection.fetchval("SELECT to_regclass('public.tenants')") is None:
            return
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.system', 'on', true)")
            row = await connection.fetchrow("SELECT tenant_id, data_key FROM tenants LIMIT 1")
    finally:
        await connection.close()
    if row is not None:
        require_key(runtime, row["tenant_id"], row["data_key"])


def bring_up_to_date(runtime: Runtime) -> schema.Report:
    """Migrate as the owner.

    Raises:
        SchemaError: see ``schema.migrate``.
        OperatorError: another master key sealed what is there, nobody said who the owner is, or it lacks a right.
    """
    settings = runtime.settings
    if not runtime.owner_url:
        raise OperatorError(
            "database.app_url is set and database.url is not: set database.url to the URL of the role that owns the database."
        )
    asyncio.run(_check_master_key(runtime))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return schema.migrate(
            runtime.owner_url,
            app_role=settings.database.app_role,
            app_password=app_password(runtime.master),
            app_url=settings.database.app_url.reveal(),
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise OperatorError(
            f"The owner of the database lacks a right: {error}. Let an administrator make it the owner of the database."
        ) from error
