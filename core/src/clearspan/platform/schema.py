"""Bringing a database to this release: version check, application role, migrations, SQL functions, journal epoch.

Run by ``clearspan migrate`` and ``clearspan up`` with the *owner's* connection; the application itself never has
these rights. Safe to run twice, and at once from several machines (an advisory lock lets one go first).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import msgspec
from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.extensions.litestar import AlembicAsyncConfig, SQLAlchemyAsyncConfig

from clearspan import migrations
from clearspan.platform import sqlbundle

OLDEST_POSTGRES = 15
LOCK = 0x636C6561  # "clea": the advisory lock of migrations
VERSION_TABLE = "clearspan_version"


class SchemaError(Exception):
    """The database cannot be brought to this release; ``str()`` says why and what to do."""


class Report(msgspec.Struct, frozen=True):
    """What was done.

    Attributes:
        revision_before: of the schema, or ``None`` for an empty database.
        revision: now.
        app_url: how the application connects.
    """

    revision_before: str | None
    revision: str
    app_url: str


def migrate(owner_url: str, *, app_role: str, app_password: str, app_url: str = "") -> Report:
    """Bring the database at ``owner_url`` to this release.

    Args:
        owner_url: ``postgresql://``; the role owns the database and may create roles (or ``app_role`` exists already).
        app_role: the application's role.
        app_password: set on the role when ``app_url`` is empty.
        app_url: how the application connects, when an administrator manages its role; empty to derive it.

    Raises:
        SchemaError: unreachable, too old, or rights are missing.
    """
    return asyncio.run(_migrate(owner_url, app_role, app_password, app_url))


async def _migrate(owner_url: str, app_role: str, app_password: str, app_url: str) -> Report:
    if app_url:
        app_role = urlsplit(app_url).username or app_role
    async with _connection(owner_url) as connection:
        await check_server(connection)
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        if not app_url:
            await _ensure_role(connection, app_role, app_password)
            app_url = derive_app_url(owner_url, app_role, app_password)
        before = await revision(connection)
        token = migrations.app_role.set(app_role)
        try:
            await asyncio.to_thread(_upgrade, owner_url)
        finally:
            migrations.app_role.reset(token)
        async with connection.transaction():
            await connection.execute(sqlbundle.installation())
            await _check_epoch(connection)
        after = await revision(connection)
        assert after is not None
        return Report(revision_before=before, revision=after, app_url=app_url)


def derive_app_url(owner_url: str, app_role: str, app_password: str) -> str:
    """The owner's URL with the application's name and password in it."""
    parts = urlsplit(owner_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(app_role, safe='')}:{quote(app_password, safe='')}@{host}"))


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    try:
        connection = await asyncpg.connect(url, timeout=10, server_settings={"timezone": "UTC"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise SchemaError(
            f"PostgreSQL at {safe_url(url)} cannot be reached: {type(error).__name__}: {error}. "
            "Check database.url, or leave it empty to use the embedded server."
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


async def check_server(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Refuse a server that is too old or would lose committed payments.

    Raises:
        SchemaError: which it is, and what to do.
    """
    number = int(await connection.fetchval("SHOW server_version_num"))
    if number // 10_000 < OLDEST_POSTGRES:
        raise SchemaError(f"PostgreSQL {number // 10_000} is too old: Clearspan needs {OLDEST_POSTGRES} or newer.")
    for setting in ("fsync", "full_page_writes"):
        if await connection.fetchval(f"SHOW {setting}") != "on":
            raise SchemaError(f"The server runs with {setting}=off and can lose committed payments: turn it on.")
    if await connection.fetchval("SHOW synchronous_commit") == "off":
        raise SchemaError("The server runs with synchronous_commit=off and can lose committed payments: turn it on.")


async def revision(connection: asyncpg.Connection[asyncpg.Record]) -> str | None:
    """The schema's revision, or ``None`` when there is none."""
    if await connection.fetchval("SELECT to_regclass($1)", f"public.{VERSION_TABLE}") is None:
        return None
    value: str | None = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return value


async def _ensure_role(connection: asyncpg.Connection[asyncpg.Record], role: str, password: str) -> None:
    exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    verb = "ALTER" if exists else "CREATE"
    statement = await connection.fetchval(
        f"SELECT format('{verb} ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD %L', $1::text, $2::text)",
        role,
        password,
    )
    plain = await connection.fetchval(
        "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", role, password
    )
    try:
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            # Only a superuser may name SUPERUSER or BYPASSRLS, even to refuse them; a new role has neither.
            await connection.execute(plain if exists else plain.replace("ALTER", "CREATE", 1))
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(
            f"The owner of the database may not create the role {role}. Let an administrator run "
            f"CREATE ROLE {role} LOGIN PASSWORD '...'; and set database.app_url."
        ) from error


def _upgrade(owner_url: str) -> None:
    config = SQLAlchemyAsyncConfig(
        connection_string=owner_url.replace("postgresql://", "postgresql+asyncpg://", 1),
        alembic_config=AlembicAsyncConfig(
            script_location=str(resources.files("clearspan").joinpath("migrations")), version_table_name=VERSION_TABLE
        ),
    )
    AlembicCommands(sqlalchemy_config=config).upgrade()


async def _check_epoch(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """After a restore into a cluster whose transaction counter is behind, the journal goes on in a new epoch."""
    await connection.execute("SELECT set_config('app.system', 'on', true)")
    epoch = await connection.fetchval(
        "SELECT journal_epoch() FROM journal WHERE epoch = journal_epoch() AND xid >= pg_current_xact_id() LIMIT 1"
    )
    if epoch is not None:
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION journal_epoch() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE RETURN {epoch + 1}"
        )


def safe_url(url: str) -> str:
    """The URL without its password, for messages."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{host}" if user else host, query=""))
