"""What a process needs before it can be a gateway: master key, plugins, and the addresses of PostgreSQL and Redis.

An address comes from the settings; where there is none, from the process on this machine that runs the embedded servers
(it publishes them below ``run`` in the data directory); and where none runs, the servers are started here, for as
long as this process needs them.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import structlog
from alembic.script import ScriptDirectory

from clearspan.platform import crypto, plugins, schema, sqlbundle
from clearspan.platform.crypto import MasterKey
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.embedded_redis import EmbeddedRedis
from clearspan.platform.plugins import Plugins
from clearspan.platform.processes import EmbeddedServerError, reserved_port, write_private
from clearspan.settings import Settings

DATABASE = "clearspan"
OWNER = "clearspan_owner"
COMMANDS = ("up", "web", "worker")
"""Those that stay, and may run the embedded servers for the others."""
log = structlog.get_logger("clearspan.runtime")


class OperatorError(Exception):
    """Something that the operator can put right; ``str()`` says what happened and what to do."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a running Clearspan tells other commands on its machine.

    Attributes:
        command: one of ``COMMANDS``.
        pid, born: its process; ``born`` tells it from a later one that was given the same pid.
        owner_url, redis_url: of the embedded servers it runs; empty for those it does not.
        url: where it serves; empty while it does not.
    """

    command: str
    pid: int
    born: str
    owner_url: str = ""
    redis_url: str = ""
    url: str = ""


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring.

    Attributes:
        settings: with ``server.public_url`` of the running server, when the settings leave it open.
        master: the installation's master key.
        plugins: loaded and checked.
        owner_url: who migrates; empty when only ``database.app_url`` is set.
        app_url: how the application connects.
        redis_url: the queue; empty when it was not asked for.
        servers: those that this process runs.
    """

    settings: Settings
    master: MasterKey
    plugins: Plugins
    owner_url: str
    app_url: str
    redis_url: str
    servers: EmbeddedServers | None


class EmbeddedServers:
    """The embedded servers that the settings leave to this process, on ports that stay theirs while it lives."""

    def __init__(self, settings: Settings, master: MasterKey, *, postgres: bool, redis: bool) -> None:
        self._settings = settings
        self._password = master.derive("owner-password").hex()
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedRedis | None = None
        if postgres:
            self._postgres = EmbeddedPostgres(settings.data_dir / "postgres", port=_port(settings.database.port))
        if redis:
            self._redis = EmbeddedRedis(settings.data_dir / "redis", port=_port(settings.redis.port))
        self.owner_url = ""
        self.redis_url = ""

    def start(self) -> None:
        """Start both, and make owner and database where they are missing.

        Raises:
            EmbeddedServerError: see there.
        """
        with ThreadPoolExecutor(2) as pool:
            steps = [pool.submit(self._start_postgres), pool.submit(self._start_redis)]
        for step in steps:
            step.result()

    def revive(self) -> None:
        """Start again what has ended without being told to; nothing happens to what runs."""
        for server in (self._postgres, self._redis):
            if server is not None:
                try:
                    server.start()
                except EmbeddedServerError as error:
                    log.warning("an embedded server does not start again", problem=str(error))

    def stop(self) -> None:
        """End both, the queue first; may be called again."""
        for server in (self._redis, self._postgres):
            if server is not None:
                server.stop()

    def _start_postgres(self) -> None:
        if self._postgres is None:
            return
        self._postgres.start()
        superuser_url = self._postgres.superuser_url
        asyncio.run(_make_database(superuser_url, self._password))
        host = urlsplit(superuser_url).netloc.rpartition("@")[2]
        self.owner_url = f"postgresql://{OWNER}:{self._password}@{host}/{DATABASE}"

    def _start_redis(self) -> None:
        if self._redis is not None:
            self._redis.start()
            self.redis_url = self._redis.url


def _port(wanted: int) -> int:
    """A fixed port, so that a server that has to be started again is found where it was."""
    if wanted:
        return wanted
    with reserved_port(0) as port:
        return port


async def _make_database(superuser_url: str, password: str) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", OWNER)
        # The password is hexadecimal, and set anew each time: it follows the master key.
        await connection.execute(
            f"{'ALTER' if exists else 'CREATE'} ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{password}'"
        )
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
    finally:
        await connection.close()


@contextmanager
def opened(
    settings: Settings, *, create_key: bool = False, database: bool = True, redis: bool = False
) -> Iterator[Runtime]:
    """A runtime for as long as the block lasts; servers that were started for it end with it.

    Args:
        settings: of this installation.
        create_key: make the master key when there is none: first starts only, because a new key opens nothing of old data.
        database: whether PostgreSQL is needed.
        redis: whether Redis is needed.

    Raises:
        OperatorError, KeyProblem, PluginError, EmbeddedServerError: see there.
    """
    prepare_data_dir(settings)
    master = crypto.load_master_key(settings.master_key_path, create=create_key)
    loaded = plugins.load(settings.plugins.enabled, safe_mode=settings.plugins.safe_mode)
    found = published(settings.data_dir)
    postgres = database and embeds_postgres(settings) and not (found is not None and found.owner_url)
    own_redis = redis and embeds_redis(settings) and not (found is not None and found.redis_url)
    if not (postgres or own_redis):
        yield resolve(settings, master, loaded, found, None)
        return
    servers = EmbeddedServers(settings, master, postgres=postgres, redis=own_redis)
    try:
        servers.start()
        yield resolve(settings, master, loaded, found, servers)
    finally:
        servers.stop()


def resolve(
    settings: Settings, master: MasterKey, loaded: Plugins, found: Published | None, servers: EmbeddedServers | None
) -> Runtime:
    """Put together what the settings, a running Clearspan and this process's own servers say."""
    owner_url = _checked_url("database.url", settings.database.url.reveal())
    app_url = _checked_url("database.app_url", settings.database.app_url.reveal())
    redis_url = settings.redis.url.reveal()
    if embeds_postgres(settings):
        owner_url = servers.owner_url if servers is not None and servers.owner_url else found.owner_url if found else ""
    if not app_url and owner_url:
        app_url = schema.derive_app_url(owner_url, settings.database.app_role, app_password(master))
    if embeds_redis(settings):
        redis_url = servers.redis_url if servers is not None and servers.redis_url else found.redis_url if found else ""
    if found is not None and found.url and not settings.server.public_url:
        settings = with_public_url(settings, found.url)
    return Runtime(
        settings=settings,
        master=master,
        plugins=loaded,
        owner_url=owner_url,
        app_url=app_url,
        redis_url=redis_url,
        servers=servers,
    )


def app_password(master: MasterKey) -> str:
    """The password of ``database.app_role`` when no administrator gave it one."""
    return master.derive("app-password").hex()


def embeds_postgres(settings: Settings) -> bool:
    """Whether no PostgreSQL is named."""
    return not settings.database.url and not settings.database.app_url


def embeds_redis(settings: Settings) -> bool:
    """Whether no Redis is named."""
    return not settings.redis.url


def with_public_url(settings: Settings, url: str) -> Settings:
    """The same settings, serving at ``url``."""
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, public_url=url))


def prepare_data_dir(settings: Settings) -> None:
    """Make the data directory (0700) and its ``run``.

    Raises:
        OperatorError: it cannot be written to.
    """
    directory = settings.data_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_dir(settings).mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OperatorError(
            f"The data directory {directory} cannot be written to: {error.strerror}. Make it writable for the user who"
            " starts Clearspan, or set data.dir (CLEARSPAN_DATA_DIR) to another one."
        ) from error


def run_dir(settings: Settings) -> Path:
    """Where running processes leave their notes."""
    return settings.data_dir / "run"


# -- What a running Clearspan publishes -----------------------------------------------------------------------------------------


def publish(runtime: Runtime, command: str, url: str = "") -> None:
    """Tell other commands on this machine where the embedded servers and this process are. Only its user may read it."""
    servers = runtime.servers
    note = Published(
        command=command,
        pid=os.getpid(),
        born=_born(os.getpid()) or "",
        owner_url=servers.owner_url if servers is not None else "",
        redis_url=servers.redis_url if servers is not None else "",
        url=url,
    )
    write_private(_note(runtime.settings.data_dir, command), msgspec.json.encode(note).decode() + "\n")


def withdraw(settings: Settings, command: str) -> None:
    """Take the note of this process away."""
    found = _read_note(settings.data_dir, command)
    if found is not None and found.pid == os.getpid():
        _note(settings.data_dir, command).unlink(missing_ok=True)


def published(data_dir: Path) -> Published | None:
    """What the living processes on this data directory say together, or ``None`` when there is none.

    Raises:
        OperatorError: a note is another user's, or others can write it: the addresses in it would be believed.
    """
    notes = [note for command in COMMANDS if (note := _read_note(data_dir, command)) is not None]
    if not notes:
        return None
    return msgspec.structs.replace(
        notes[0],
        owner_url=next((note.owner_url for note in notes if note.owner_url), ""),
        redis_url=next((note.redis_url for note in notes if note.redis_url), ""),
        url=next((note.url for note in notes if note.url), ""),
    )


def _note(data_dir: Path, command: str) -> Path:
    return data_dir / "run" / f"{command}.json"


def _read_note(data_dir: Path, command: str) -> Published | None:
    path = _note(data_dir, command)
    try:
        status = path.stat()
        if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise OperatorError(f"{path} is not private to this user: stop Clearspan and delete the file.")
        note = msgspec.json.decode(path.read_bytes(), type=Published)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise OperatorError(f"{path} cannot be read: run this command as the user who started Clearspan.") from error
    except (OSError, msgspec.DecodeError):
        return None
    return note if _born(note.pid) == note.born else None


def _born(pid: int) -> str | None:
    """What tells a process from another one with the same pid, or ``None`` when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return ""
    # 22nd field, the start time; a zombie only waits to be collected.
    return None if fields[0] == "Z" else fields[19]


# -- The database's state -------------------------------------------------------------------------------------------------------


class SchemaState(msgspec.Struct, frozen=True):
    """How a database compares with this release.

    Attributes:
        revision: of the schema, ``None`` without one, empty when this role may not read it.
        behind: the schema is older than this release needs.
        functions: this release's SQL functions are installed.
    """

    revision: str | None
    behind: bool
    functions: bool

    @property
    def ready(self) -> bool:
        """Whether this release can run on it."""
        return not self.behind and self.functions


async def schema_state(connection: asyncpg.Connection[asyncpg.Record]) -> SchemaState:
    """Compare. A schema of a *newer* release is fine: releases run side by side during an upgrade."""
    functions = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_proc WHERE proname = $1)", sqlbundle.name("payment_open")
    )
    if await connection.fetchval("SELECT to_regclass($1)", f"public.{schema.VERSION_TABLE}") is None:
        return SchemaState(None, behind=True, functions=functions)
    if not await connection.fetchval("SELECT has_table_privilege($1, 'SELECT')", f"public.{schema.VERSION_TABLE}"):
        return SchemaState("", behind=False, functions=functions)
    revision = await schema.revision(connection)
    scripts = ScriptDirectory(str(resources.files("clearspan").joinpath("migrations")))
    known = {script.revision for script in scripts.walk_revisions()}
    return SchemaState(revision, behind=revision in known - {scripts.get_current_head()}, functions=functions)


async def require_schema(runtime: Runtime) -> None:
    """Refuse a database that this release cannot run on.

    Raises:
        OperatorError: it cannot be reached, or ``clearspan migrate`` has to run first.
    """
    # As the application too: a wrong password is better told now.
    for url in dict.fromkeys((runtime.app_url, runtime.owner_url or runtime.app_url)):
        connection = await connect(url)
        try:
            state = await schema_state(connection)
        finally:
            await connection.close()
    if not state.ready:
        what = "is empty" if state.revision is None else "is not at this release"
        raise OperatorError(f"The database {what}: run 'clearspan migrate' with the same settings first.")


async def connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection.

    Raises:
        OperatorError: with the address, without the password.
    """
    try:
        return await asyncpg.connect(url, timeout=10, server_settings={"timezone": "UTC"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise OperatorError(
            f"PostgreSQL at {schema.safe_url(url)} cannot be reached: {error or type(error).__name__}. Check that it runs, and"
            " database.url (or database.app_url) with its role and password."
        ) from error


def _checked_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise OperatorError(f"{name} is not a URL ({error}): postgresql://user:password@host:5432/database.") from None
    if url and not (parts.hostname or parts.query):
        raise OperatorError(f"{name} names no host: postgresql://user:password@host:5432/database.")
    return url
