"""The real PostgreSQL under a simulated run.

Connections live on a loop of their own, which runs only while the simulation waits for it: a call is carried out to the end
between two steps of the virtual loop. So the order of everything depends on the seed alone.

Two calls that wait at the same time may *overlap*: the first has done its work and not yet committed when the second begins.
The second then either waits for a lock or finishes on what it saw before, as it would in production; both are decided by the
code under test and not by the machine's speed.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy.exc import InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from tests.torture.loop import PROCESS

from clearspan.platform import schema
from clearspan.platform.db import SESSION, Database
from clearspan.settings import DatabaseSettings

if TYPE_CHECKING:
    from tests.torture.world import World

T = TypeVar("T")
PATIENCE_MS = "20000"
"""Real time. A call that takes longer waits for a lock that nobody gives back: a bug of the code or of the bench."""
PASSWORD = "of-the-tests-only"


class Urls(msgspec.Struct, frozen=True):
    """How to reach one migrated database."""

    superuser: str
    app: str


def prepare(superuser_url: str, name: str) -> Urls:
    """A database of this release, new or emptied, which forgets a crash's last transactions (nothing here survives one)."""
    from tests.conftest import execute, url

    owner, app = f"{name}_owner", f"{name}_app"
    execute(
        superuser_url,
        f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
        f"DROP ROLE IF EXISTS {owner}",
        f"DROP ROLE IF EXISTS {app}",
        f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'",
        f"CREATE DATABASE {name} OWNER {owner}",
    )
    schema.migrate(url(superuser_url, name, owner), app_role=app, app_password=PASSWORD)
    execute(superuser_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    return Urls(superuser=url(superuser_url, name), app=url(superuser_url, name, app))


def drop(superuser_url: str, name: str) -> None:
    """Undo ``prepare``."""
    from tests.conftest import execute

    execute(
        superuser_url,
        f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
        f"DROP ROLE IF EXISTS {name}_app",
        f"DROP ROLE IF EXISTS {name}_owner",
    )


class Server:
    """Connections of the simulation; use as a context manager. One per process of the machine, for many runs."""

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # The answer to a dead process.
        self.first, self.second, self._watch = (self.run(self._connect(urls.app)) for _ in range(3))
        self.superuser = self.run(self._connect(urls.superuser))
        self._engine = create_async_engine(
            urls.app.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=2,
            max_overflow=0,
            connect_args={"server_settings": SESSION | {"lock_timeout": PATIENCE_MS, "statement_timeout": PATIENCE_MS}},
        )
        self.sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._tables: list[str] = [
            row["name"]
            for row in self.run(
                self.superuser.fetch(
                    "SELECT c.table_name AS name FROM information_schema.columns c JOIN pg_tables t ON t.tablename = c.table_name"
                    " WHERE t.schemaname = 'public' AND c.table_schema = 'public' AND c.column_name = 'tenant_id' ORDER BY 1"
                )
            )
        ]

    async def _connect(self, url: str) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            url, server_settings=SESSION | {"lock_timeout": PATIENCE_MS, "statement_timeout": PATIENCE_MS}
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out ``work`` on the private loop, to its end, whatever loop is running here."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return self._loop.run_until_complete(work)
        finally:
            asyncio._set_running_loop(outer)

    def overlapped(
        self, one: Callable[[Any], Awaitable[Any]], other: Callable[[Any], Awaitable[Any]]
    ) -> tuple[Any, Any]:
        """Both, each in a transaction; ``one`` commits after ``other`` has ended or waits. Gives results or exceptions."""
        return self.run(self._overlapped(one, other))

    async def _overlapped(
        self, one: Callable[[Any], Awaitable[Any]], other: Callable[[Any], Awaitable[Any]]
    ) -> tuple[Any, Any]:
        opened = self.first.transaction()
        await opened.start()
        (came,) = await asyncio.gather(one(self.first), return_exceptions=True)

        async def beside() -> Any:
            async with self.second.transaction():
                return await other(self.second)

        second = asyncio.create_task(beside())
        while True:
            done, _ = await asyncio.wait({second}, timeout=0.003)
            if done or await self._watch.fetchval(
                "SELECT $2 = ANY (pg_blocking_pids($1))", self.second.get_server_pid(), self.first.get_server_pid()
            ):
                break
        if isinstance(came, BaseException):
            await opened.rollback()
        else:
            await opened.commit()
        (went,) = await asyncio.gather(second, return_exceptions=True)
        return came, went

    def clean(self, tenants: list[UUID]) -> None:
        """Remove tenants with all they had, past every trigger: the next run may bear the same names."""

        async def remove() -> None:
            async with self.superuser.transaction():
                await self.superuser.execute("SET LOCAL session_replication_role = replica")
                for table in self._tables:
                    await self.superuser.execute(f'DELETE FROM "{table}" WHERE tenant_id = ANY ($1)', tenants)

        self.run(remove())

    def close(self) -> None:
        """Give everything back."""

        async def close() -> None:
            await self._engine.dispose()
            for connection in (self.first, self.second, self._watch, self.superuser):
                await connection.close()

        self.run(close())
        self._loop.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_PAYMENT = re.compile(r'"payment_id":"([0-9a-f-]{36})"')
_READS = frozenset({"due_work", "payment_read", "payments_by_id", "refund_list", "payment_list", "idempotency_peek"})
"""They lock nothing, so no deadlock can meet them."""


_CHANGES = frozenset(
    {"operation_open", "operation_settle", "operation_lease", "payment_close", "unwinding_set", "dispute_apply"}
)


class _Call(msgspec.Struct, eq=False):
    """A call that waits for the database."""

    name: str
    work: Callable[[Any], Awaitable[Any]]
    answer: asyncio.Future[Any]
    owner: Any
    payment: str = ""
    patient: bool = False


class Faults(msgspec.Struct, kw_only=True):
    """How often what goes wrong, each as a share of all calls.

    Attributes:
        lost_before: the connection breaks and nothing was done.
        lost_after: it was committed and the answer is lost.
        refused: the transaction was rolled back (deadlock, serialisation).
        slow: seconds that some calls take longer.
        overlap: of two calls that wait together, how often they overlap.
    """

    lost_before: float = 0.0
    lost_after: float = 0.0
    refused: float = 0.0
    slow: float = 0.0
    overlap: float = 0.4


class Desk:
    """Where all simulated processes bring their calls; it answers in the seed's order."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._waiting: list[_Call] = []
        self.faults = Faults()
        self.calls = 0
        self.overlaps = 0

    async def call(self, name: str, work: Callable[[Any], Awaitable[Any]], payment: str = "") -> Any:
        """Have ``work`` done with a connection, some moment; ``payment`` is the one it is about."""
        loop = self._world.loop
        call = _Call(name, work, loop.create_future(), PROCESS.get(), payment)
        self._waiting.append(call)
        delay = self._chance.uniform(0.0003, 0.004)
        if self.faults.slow and self._chance.random() < 0.05:
            delay += self._chance.uniform(0, self.faults.slow)
        if payment and name in _CHANGES and self._chance.random() < 0.15:
            # It takes so long to commit that another change of the same payment may begin meanwhile.
            call.patient = True
            delay += self._chance.uniform(0, 0.4)
        loop.call_later(delay, self._serve, call, context=self._world.outside)
        return await call.answer

    def _serve(self, due: _Call) -> None:
        if due not in self._waiting:
            return  # It overlapped with another one.
        others = [one for one in self._waiting if not one.patient or one is due]
        call = self._chance.choice(others)
        self._waiting.remove(call)
        if call is not due:
            self._world.loop.call_later(0.0005, self._serve, due, context=self._world.outside)
        if call.answer.cancelled() and self._chance.random() < 0.5:
            return  # The client's cancellation was in time.
        if call.owner is not None and not call.owner.alive and self._chance.random() < 0.5:
            return  # The process died before it had written.
        beside = [one for one in self._waiting if one.payment and one.payment == call.payment]
        if not beside and self._chance.random() < self.faults.overlap:
            beside = [one for one in self._waiting if not one.patient]
        if beside:
            other = self._chance.choice(beside)
            self._waiting.remove(other)
            self.overlaps += 1
            self.calls += 2
            self._world.note(f"db {call.name} | {other.name}")
            one, two = self._world.server.overlapped(call.work, other.work)
            self._tell(call, one)
            self._tell(other, two)
            return
        self.calls += 1
        fate = self._chance.random()
        if fate < self.faults.lost_before:
            self._tell(call, asyncpg.ConnectionDoesNotExistError("simulated: lost before"))
            return
        if fate < self.faults.lost_before + self.faults.refused and call.name not in _READS:
            self._tell(call, asyncpg.DeadlockDetectedError("simulated: deadlock"))
            return
        self._world.note(f"db {call.name}")
        try:
            came = self._world.server.run(_once(call.work, self._world.server.first))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            came = error
        if fate > 1 - self.faults.lost_after:
            came = asyncpg.ConnectionDoesNotExistError("simulated: lost after")
        self._tell(call, came)

    def _tell(self, call: _Call, came: Any) -> None:
        if isinstance(came, str) and came.startswith("[{"):
            # What is due at the same moment comes in the order in which it lies in the table, which no seed decides.
            came = msgspec.json.encode(sorted(msgspec.json.decode(came), key=repr)).decode()
        said = f"{type(came).__name__} {came}" if isinstance(came, BaseException) else str(came)[:2000]
        self._world.note(f"db {call.name} -> {said}")
        if call.answer.done():
            return
        if isinstance(came, BaseException):
            call.answer.set_exception(came)
        else:
            call.answer.set_result(came)

    # -- the door of everything that is not the money path ----------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """A session whose every step is carried out at once: nobody else runs while it is open."""
        await self._turn()
        server = self._world.server
        opened = server.sessions.begin()
        session = server.run(_entered(opened))
        self.calls += 1
        try:
            yield _Session(session, server)
        except BaseException as error:
            server.run(_left(opened, error))
            raise
        fate = self._chance.random()
        if fate < self.faults.lost_before:
            lost = InterfaceError("COMMIT", {}, asyncpg.ConnectionDoesNotExistError("simulated: lost before"))
            server.run(_left(opened, lost))
            raise lost
        server.run(_left(opened, None))
        self._world.note("db session")
        await self._turn()
        if fate > 1 - self.faults.lost_after:
            raise InterfaceError("COMMIT", {}, asyncpg.ConnectionDoesNotExistError("simulated: lost after"))

    async def _turn(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.0003, 0.004))


async def _once(work: Callable[[Any], Awaitable[Any]], connection: Any) -> Any:
    return await work(connection)


async def _entered(opened: Any) -> Any:
    return await opened.__aenter__()


async def _left(opened: Any, error: BaseException | None) -> None:
    await opened.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)


class _Session:
    """An ``AsyncSession`` on the private loop."""

    def __init__(self, session: AsyncSession, server: Server) -> None:
        self._session = session
        self._server = server

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if not callable(found):
            return found

        def called(*arguments: Any, **named: Any) -> Any:
            made = found(*arguments, **named)
            if asyncio.iscoroutine(made):
                return self._now(made)
            if hasattr(made, "__aenter__"):
                return _Nested(made, self._server)
            return made

        return called

    async def _now(self, work: Coroutine[Any, Any, T]) -> T:
        return self._server.run(work)


class _Nested:
    """A savepoint on the private loop."""

    def __init__(self, opened: Any, server: Server) -> None:
        self._opened = opened
        self._server = server

    async def __aenter__(self) -> Any:
        return self._server.run(_entered(self._opened))

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._server.run(_left(self._opened, error))


class _Connection:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        name = sql.removeprefix("SELECT ").partition("(")[0].rpartition("_")[0]
        found = _PAYMENT.search(arguments[0]) if name in _CHANGES else None
        return await self._desk.call(
            name, lambda connection: connection.fetchval(sql, *arguments), found[1] if found else ""
        )


class _Pool:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @asynccontextmanager
    async def acquire(self, *, timeout: float) -> AsyncIterator[_Connection]:  # noqa: ARG002, ASYNC109
        yield _Connection(self._desk)


class _Sessions:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def begin(self) -> Any:
        return self._desk.session()


class SimulatedDatabase(Database):
    """The gateway's own ``Database``, whose connections lead to the desk; what it makes of their errors is its own."""

    desk: Desk
    """Of the run that is going on."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:  # noqa: ARG002  (the desk has the connections)
        self._settings = settings
        self._pool = _Pool(self.desk)  # type: ignore[assignment]
        self._sessions = _Sessions(self.desk)  # type: ignore[assignment]

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""
