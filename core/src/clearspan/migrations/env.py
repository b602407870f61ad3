"""Alembic's environment: online only, one transaction per revision, on the engine advanced-alchemy made."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from alembic import context
from sqlalchemy.engine import Connection

config = cast("Any", context.config)  # advanced_alchemy.alembic.commands.AlembicCommandConfig


def _run(connection: Connection) -> None:
    context.configure(connection=connection, version_table=config.version_table_name, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _main() -> None:
    async with config.engine.connect() as connection:
        await connection.run_sync(_run)
    await config.engine.dispose()


asyncio.run(_main())
