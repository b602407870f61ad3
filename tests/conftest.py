"""Real parts for every test: one PostgreSQL per session, tenants with keys, and the application around them.

The server is the embedded one; ``CLEARSPAN_TEST_DATABASE_URL``, a superuser's URL, names another (PostgreSQL 15 or newer).
A template database is migrated once, every database of the session is a copy of it. Two pools cannot share a rollback, so
nothing is cleaned up between tests: each takes tenants of its own, and row security keeps them apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import asyncpg
import httpx
import msgspec
import pytest

from clearspan.access.keys import SCOPES
from clearspan.platform import clock, ids, schema
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.sdk import Companion
from clearspan.settings import DataSettings, Settings, load

if TYPE_CHECKING:
    from clearspan.access.service import ApiKeys
    from clearspan.app import Gateway
    from clearspan.platform.gate import AsgiApp
    from clearspan.tenants.service import Tenants

BASE_URL = "http://gateway.test"
ALL_SCOPES = frozenset(SCOPES)
PASSWORD = "of-the-tests-only"


class Urls(msgspec.Struct, frozen=True):
    """How to reach one migrated database.

    Attributes:
        superuser: sees and may do everything.
        owner: owns the tables and is no superuser, so row security binds it.
        app: what the application uses.
    """

    superuser: str
    owner: str
    app: str


class Merchant(msgspec.Struct, frozen=True):
    """A tenant of the tests: who calls, and the API key that says so."""

    caller: Caller
    key: str


# -- Settings -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def master() -> MasterKey:
    """The installation's master key."""
    return MasterKey(bytes(range(32)))


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The defaults with both sandboxes on ports of their own, whatever stands in the environment or a ``clearspan.toml``."""
    home = tmp_path_factory.mktemp("clearspan")
    empty = home / "clearspan.toml"
    empty.touch()
    defaults = load(empty, environ={})
    vault_port, psp_port = free_ports(2)
    return msgspec.structs.replace(
        defaults,
        data=DataSettings(dir=str(home / "data")),
        # Providers and consumers of the tests listen where they find a port.
        outbound=msgspec.structs.replace(defaults.outbound, allow_internal=("127.0.0.1:*",)),
        plugins=msgspec.structs.replace(defaults.plugins, enabled={"psp-sandbox": "", "vault-sandbox": ""}),
        plugin={
            "psp-sandbox": {"url": f"http://127.0.0.1:{psp_port}"},
            "vault-sandbox": {"url": f"http://127.0.0.1:{vault_port}"},
        },
    )


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on, below those that systems give to outgoing connections.

    A port picked by binding to 0 may be somebody's outgoing connection a moment later; one of these is not.
    """
    found: list[int] = []
    while len(found) < count:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


# -- PostgreSQL -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def superuser_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser of a running PostgreSQL."""
    given = os.environ.get("CLEARSPAN_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with EmbeddedPostgres(tmp_path_factory.mktemp("server") / "postgres") as server:
        # A session keeps many gateways open, each with a pool of its own; the number takes effect at the next start.
        execute(server.superuser_url, "ALTER SYSTEM SET max_connections = 400")
        server.stop()
        server.start()
        yield server.superuser_url


@pytest.fixture(scope="session")
def databases(superuser_url: str) -> Iterator[Callable[[], Urls]]:
    """Makes empty, migrated databases; all are dropped at the end."""
    # Several sessions may share one server: each has names of its own.
    name = f"cs_test_{clock.random_bytes(4).hex()}"
    owner, app = f"{name}_owner", f"{name}_app"
    made = [name]

    def urls(database: str) -> Urls:
        return Urls(
            superuser=url(superuser_url, database),
            owner=url(superuser_url, database, owner),
            app=url(superuser_url, database, app),
        )

    def copy() -> Urls:
        database = f"{name}_{len(made)}"
        execute(superuser_url, f"CREATE DATABASE {database} TEMPLATE {name} OWNER {owner}")
        made.append(database)
        return urls(database)

    execute(superuser_url, f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
    execute(superuser_url, f"CREATE DATABASE {name} OWNER {owner}")
    schema.migrate(urls(name).owner, app_role=app, app_password=PASSWORD)
    yield copy
    execute(superuser_url, *(f"DROP DATABASE {database} WITH (FORCE)" for database in made))
    execute(superuser_url, f"DROP ROLE {app}", f"DROP ROLE {owner}")


@pytest.fixture(scope="session")
def urls(databases: Callable[[], Urls]) -> Urls:
    """The database that the tests of the session share. Its commits do not wait for the disk: none of them crashes the server."""
    shared = databases()
    execute(
        shared.superuser, f"ALTER DATABASE {urlsplit(shared.superuser).path.strip('/')} SET synchronous_commit = off"
    )
    return shared


@pytest.fixture(scope="session")
async def db(urls: Urls, settings: Settings) -> AsyncIterator[Database]:
    """The shared database as the application sees it."""
    database = Database(urls.app, settings.database)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def owner(urls: Urls) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection as the owner of the tables, whom row security binds too; to look at rows use ``superuser``."""
    async with connected(urls.owner) as connection:
        yield connection


@pytest.fixture
async def superuser(urls: Urls) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that sees all rows of all tenants."""
    async with connected(urls.superuser) as connection:
        yield connection


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of its own."""
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        yield connection
    finally:
        await connection.close()


def url(superuser_url: str, database: str, role: str = "") -> str:
    """Of a database, for the superuser or a role of the tests."""
    parts = urlsplit(superuser_url)
    netloc = f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}" if role else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


def execute(url: str, *statements: str) -> None:
    """Run statements, each by itself; not from within a loop."""

    async def run() -> None:
        async with connected(url) as connection:
            for statement in statements:
                await connection.execute(statement)

    asyncio.run(run())


# -- Tenants --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tenants(db: Database, master: MasterKey) -> Tenants:
    """The service."""
    from clearspan.tenants.service import Tenants

    return Tenants(db, master)


@pytest.fixture(scope="session")
def api_keys(db: Database, master: MasterKey, settings: Settings) -> ApiKeys:
    """The service, with an authenticator of its own."""
    from clearspan.access.guard import Authenticator
    from clearspan.access.service import ApiKeys

    pepper = master.derive("api-key-pepper")
    return ApiKeys(db, pepper, settings.access, Authenticator(db, pepper, settings.access))


NewMerchant = Callable[..., Awaitable[Merchant]]


@pytest.fixture(scope="session")
def new_merchant(tenants: Tenants, api_keys: ApiKeys) -> NewMerchant:
    """Makes a tenant with a key: ``await new_merchant(live=..., scopes=..., of=..., expires_at=...)``.

    ``of`` is a merchant whose tenant gets another key, for instance one of the other mode.
    """

    async def make(
        *,
        live: bool = False,
        scopes: frozenset[str] = ALL_SCOPES,
        of: Merchant | None = None,
        expires_at: datetime | None = None,
    ) -> Merchant:
        if of is None:
            slug = f"t-{clock.random_bytes(8).hex()}"
            tenant_id = (await tenants.create(slug, f"Tenant {slug}")).tenant_id
        else:
            slug, tenant_id = of.caller.tenant, of.caller.scope.tenant_id
        scope = Scope(tenant_id=tenant_id, live=live)
        cli = Caller(scope=scope, actor_type="cli", actor_id="tests", request_id="req_tests", tenant=slug)
        key, secret = await api_keys.create(cli, "tests", scopes, expires_at)
        caller = Caller(
            scope=scope,
            actor_type="api_key",
            actor_id=key.id,
            request_id="req_tests",
            scopes=scopes,
            key_id=ids.decode("key", key.id),
            tenant=slug,
        )
        return Merchant(caller, secret)

    return make


@pytest.fixture
async def merchant(new_merchant: NewMerchant) -> Merchant:
    """A fresh tenant in test mode, and a key with every scope."""
    return await new_merchant()


@pytest.fixture
async def other_merchant(new_merchant: NewMerchant) -> Merchant:
    """Another one."""
    return await new_merchant()


@pytest.fixture
async def live_merchant(new_merchant: NewMerchant, merchant: Merchant) -> Merchant:
    """The tenant of ``merchant`` in live mode."""
    return await new_merchant(live=True, of=merchant)


@pytest.fixture
def tenant(merchant: Merchant) -> Caller:
    """The caller of ``merchant``."""
    return merchant.caller


@pytest.fixture
def other_tenant(other_merchant: Merchant) -> Caller:
    """The caller of ``other_merchant``."""
    return other_merchant.caller


# -- The application ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sandboxes(settings: Settings) -> Iterator[None]:
    """The simulators of PSP and vault run, as ``clearspan up`` would start them."""
    from clearspan.platform import plugins

    companions = plugins.load(settings.plugins.enabled).companions(settings.plugin, str(settings.data_dir))
    with running(companions, settings.data_dir):
        yield


@contextmanager
def running(companions: Sequence[Companion], home: Path) -> Iterator[None]:
    """Processes of plugins, each until the end."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for companion in companions:
            log = home / f"{companion.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                processes.append(
                    subprocess.Popen([sys.executable, *companion.argv], stdout=output, stderr=subprocess.STDOUT)
                )
            _wait_until_ready(processes[-1], companion.ready_url, log)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    patience = iter(range(300))
    while process.poll() is None and next(patience, None) is not None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    pytest.fail(f"{url} does not get ready:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="session")
def gateway(urls: Urls, settings: Settings, master: MasterKey) -> Gateway:
    """Every service of the application; open while ``app`` is."""
    from clearspan.app import Gateway
    from clearspan.platform import plugins

    loaded = plugins.load(settings.plugins.enabled)
    broken = {plugin.name: plugin.problem for plugin in loaded.loaded if plugin.problem}
    assert not broken
    return Gateway(settings, urls.app, master, loaded)


@pytest.fixture(scope="session")
async def app(gateway: Gateway) -> AsyncIterator[AsgiApp]:
    """The application between start-up and shutdown, as a server runs it."""
    from clearspan.app import create_app

    application = create_app(gateway)
    async with lifespan(application):
        yield application


_APPLICATIONS: WeakKeyDictionary[Gateway, AsgiApp] = WeakKeyDictionary()


def app_of(gateway: Gateway) -> AsgiApp:
    """The application around an open gateway, made once: wiring its routes takes longer than most tests."""
    from clearspan.app import create_app

    return _APPLICATIONS.get(gateway) or _APPLICATIONS.setdefault(gateway, create_app(gateway))


@asynccontextmanager
async def lifespan(application: AsgiApp) -> AsyncIterator[None]:
    """Start an ASGI application and stop it again; whatever it raises meanwhile reaches the test."""
    asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(_run_lifespan(application, scope, asked, told))

    async def step(name: str) -> None:
        await asked.put({"type": f"lifespan.{name}"})
        answer = await told.get()
        if isinstance(answer, BaseException):
            raise answer
        assert answer["type"] == f"lifespan.{name}.complete", answer.get("message")

    try:
        await step("startup")
        yield
        await step("shutdown")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run_lifespan(
    application: AsgiApp, scope: dict[str, Any], asked: asyncio.Queue[dict[str, Any]], told: asyncio.Queue[Any]
) -> None:
    try:
        await application(scope, asked.get, told.put)
    except Exception as error:  # noqa: BLE001  (handed to the test)
        await told.put(error)


class NewClient:
    """Makes HTTP clients of the application; they share the test's loop."""

    def __init__(self, application: AsgiApp, stack: AsyncExitStack) -> None:
        self._application = application
        self._stack = stack

    async def __call__(self, merchant: Merchant | None = None, **headers: str) -> httpx.AsyncClient:
        """A client with the merchant's key, or without any."""
        if merchant is not None:
            headers["Authorization"] = f"Bearer {merchant.key}"
        transport = httpx.ASGITransport(app=self._application)
        return await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers)
        )


@pytest.fixture
async def new_client(app: AsgiApp) -> AsyncIterator[NewClient]:
    """Makes clients: ``await new_client(merchant)``."""
    async with AsyncExitStack() as stack:
        yield NewClient(app, stack)


@pytest.fixture
async def client(new_client: NewClient, merchant: Merchant) -> httpx.AsyncClient:
    """A client of ``merchant``."""
    return await new_client(merchant)


@pytest.fixture
async def other_client(new_client: NewClient, other_merchant: Merchant) -> httpx.AsyncClient:
    """A client of another tenant."""
    return await new_client(other_merchant)


@pytest.fixture
async def live_client(new_client: NewClient, live_merchant: Merchant) -> httpx.AsyncClient:
    """A client of the same tenant in live mode."""
    return await new_client(live_merchant)


@pytest.fixture
async def anonymous(new_client: NewClient) -> httpx.AsyncClient:
    """A client without a key."""
    return await new_client()


# -- Routes ---------------------------------------------------------------------------------------------------------------------


class Route(msgspec.Struct, frozen=True, order=True):
    """A method of a path.

    Attributes:
        template: ``/v1/customers/{customer_id}``.
        scope: what a key needs, or ``public`` or ``any``.
        names: the parameters in the path.
        takes_body: whether it declares one.
    """

    template: str
    method: str
    scope: str
    names: tuple[str, ...]
    takes_body: bool


def routes_of(application: AsgiApp) -> list[Route]:
    """Every route of the application, for tests that are generated from them."""
    return sorted(
        Route(
            template=route.path_format,
            method=method,
            scope=handler.opt["scope"],
            names=tuple(route.path_parameters),
            takes_body="data" in handler.parsed_fn_signature.parameters,
        )
        for route in application._app.routes  # type: ignore[attr-defined]  # the gate's inside
        for handler in getattr(route, "route_handlers", [])
        for method in handler.http_methods - {"OPTIONS"}
    )
