"""PostgreSQL: one asyncpg pool for the money path, one SQLAlchemy engine for everything else.

The money path calls SQL functions, one round trip each (``Database.call``). The rest opens a session with
``Database.begin(scope)``, which names tenant and mode for row security. Both connect as the application's role, which
owns nothing and cannot bypass it.

Nothing may set session state: connections go back to the pool without a reset query, which would cost a third of a
simple insert. ``set_config(..., true)`` and ``SET LOCAL`` end with their transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.problems import DatabaseUnavailable, from_refusal
from clearspan.settings import DatabaseSettings

REFUSAL = "CS001"
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query on a connection that the server has just ended
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
)
"""What asyncpg raises when the server is away, restarting, full, read-only or too slow."""

SESSION = {"timezone": "UTC", "application_name": "clearspan"}
_ENCODER = msgspec.json.Encoder()


class Database:
    """Both doors to one PostgreSQL. ``open`` before use, ``close`` at the end."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._url = url
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self.engine: AsyncEngine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=settings.orm_pool_size,
            max_overflow=0,
            hide_parameters=True,  # Values belong into no error and no log.
            pool_timeout=settings.connect_timeout_s,
            connect_args={"server_settings": self._session(), "timeout": settings.connect_timeout_s},
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    def _session(self) -> dict[str, str]:
        return SESSION | {"statement_timeout": str(self._settings.statement_timeout_ms)}

    async def open(self) -> None:
        """Connect and take the database's clock.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=self._settings.pool_size,
                timeout=self._settings.connect_timeout_s,
                server_settings=self._session(),
                reset=_keep,
            )
            await self.synchronise_clock()
        except UNREACHABLE as error:
            raise DatabaseUnavailable(f"The database cannot be reached: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Give all connections back."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()
        await self.engine.dispose()

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The money path's connections."""
        assert self._pool is not None, "open() first"
        return self._pool

    async def synchronise_clock(self) -> None:
        """Correct this process's clock to the database's."""
        clock.synchronise(await self.pool.fetchval("SELECT clock_timestamp()"))

    async def call(self, function: str, document: dict[str, Any]) -> str:
        """Call one SQL function of this release with a JSON document: one round trip, one transaction.

        Returns:
            the JSON text it answered.

        Raises:
            DomainError: the function refused.
            DatabaseUnavailable: the connection failed; whether it was committed is not known.
        """
        return await self.fetch_text(
            f"SELECT {sqlbundle.name(function)}($1::jsonb)",
            _ENCODER.encode(document).decode(),
        )

    async def fetch_text(self, sql: str, *arguments: Any) -> str:
        """One value, as text. Raises as ``call`` does."""
        try:
            async with self.pool.acquire(timeout=self._settings.connect_timeout_s) as connection:
                value: str = await connection.fetchval(sql, *arguments)
                return value
        except asyncpg.PostgresError as error:
            if error.sqlstate == REFUSAL:
                raise from_refusal(
                    str(error.args[0]), msgspec.json.decode(getattr(error, "detail", None) or "{}")
                ) from None
            if isinstance(error, UNREACHABLE):
                raise DatabaseUnavailable from error
            raise
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error

    @asynccontextmanager
    async def begin(self, scope: Scope | None) -> AsyncIterator[AsyncSession]:
        """A transaction in which only ``scope``'s rows exist; it commits when the block ends.

        ``None`` opens one without a tenant, for the functions that work across tenants.

        Raises:
            DatabaseUnavailable: the server is away or has no connection left.
        """
        try:
            async with self._sessions.begin() as session:
                if scope is not None:
                    await session.execute(
                        text("SELECT set_config('app.tenant', :tenant, true), set_config('app.live', :live, true)"),
                        {"tenant": str(scope.tenant_id), "live": "t" if scope.live else "f"},
                    )
                yield session
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            if isinstance(cause, asyncpg.PostgresError) and cause.sqlstate == REFUSAL:
                raise from_refusal(
                    str(cause.args[0]), msgspec.json.decode(getattr(cause, "detail", None) or "{}")
                ) from None
            if isinstance(cause, UNREACHABLE):
                raise DatabaseUnavailable from error
            raise
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error


async def _keep(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Hand a connection back as it is; see the module's docstring."""
