"""``clearspan doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from clearspan.platform import clock, crypto, plugins, schema
from clearspan.platform.crypto import KeyProblem
from clearspan.platform.plugins import PluginError
from clearspan.platform.processes import EmbeddedServerError
from clearspan.platform.runtime import (
    OperatorError,
    Published,
    Runtime,
    connect,
    embeds_postgres,
    embeds_redis,
    opened,
    published,
    schema_state,
)
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import CONFIG_VARIABLE, Settings, SettingsError, load

PYTHON = ((3, 11), (3, 14))
SKEW_S_MAX = 5.0
_MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}


class Finding(msgspec.Struct, frozen=True):
    """One check's result: ``ok``, ``warning``, ``failed`` or ``skipped``."""

    check: str
    status: str
    detail: str
    remedy: str = ""


class Report:
    """The findings so far."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ok(self, check: str, detail: str) -> None:
        """As it should be."""
        self.findings.append(Finding(check, "ok", detail))

    def skip(self, check: str, detail: str) -> None:
        """Nothing to look at."""
        self.findings.append(Finding(check, "skipped", detail))

    def warn(self, check: str, detail: str, remedy: str) -> None:
        """It works, and better is possible."""
        self.findings.append(Finding(check, "warning", detail, remedy))

    def fail(self, check: str, detail: str, remedy: str) -> None:
        """Put this right."""
        self.findings.append(Finding(check, "failed", detail, remedy))

    def expect(self, check: str, holds: bool, detail: str, remedy: str) -> None:
        """``ok`` or ``failed``."""
        self.findings.append(Finding(check, "ok", detail) if holds else Finding(check, "failed", detail, remedy))

    @property
    def healthy(self) -> bool:
        """Nothing failed."""
        return not any(finding.status == "failed" for finding in self.findings)


def run(config: Path | None, *, safe_mode: bool, production: bool, as_json: bool) -> int:
    """Look at everything; 1 when something failed."""
    configure_logging("error", "console")
    report = Report()
    _examine(report, config, safe_mode=safe_mode, production=production)
    if as_json:
        document = {"ok": report.healthy, "checks": report.findings}
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        for finding in report.findings:
            print(f"{_MARKS[finding.status]} {finding.check}: {finding.detail}")
            if finding.remedy:
                print(f"    {finding.remedy}")
    return 0 if report.healthy else 1


def _examine(report: Report, config: Path | None, *, safe_mode: bool, production: bool) -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    report.expect(
        "Python",
        PYTHON[0] <= sys.version_info[:2] < PYTHON[1],
        version,
        "Clearspan runs on Python 3.11, 3.12 and 3.13.",
    )
    try:
        settings = load(config)
    except SettingsError as error:
        for problem in error.problems:
            report.fail("settings", problem, "Correct it; docs/configuration.md lists every setting.")
        return
    named = config or os.environ.get(CONFIG_VARIABLE) or "clearspan.toml, where there is one,"
    report.ok("settings", f"{named} and the environment are in order")
    if safe_mode:
        settings = msgspec.structs.replace(settings, plugins=msgspec.structs.replace(settings.plugins, safe_mode=True))
    try:
        running = published(settings.data_dir)
    except OperatorError as error:
        report.fail("running Clearspan", str(error), "Do that and ask again.")
        return
    first = _examine_files(report, settings)
    _examine_port(report, settings, running)
    _examine_plugins(report, settings, running)
    if production:
        _examine_production(report, settings)
    if first:
        report.skip("PostgreSQL, Redis", "nothing is made yet: the first 'clearspan up' or 'clearspan migrate' does it")
        return
    try:
        with ExitStack() as stack:
            runtime = stack.enter_context(opened(settings, redis=True))
            asyncio.run(_examine_servers(report, runtime))
    except (OperatorError, EmbeddedServerError) as error:
        report.fail("servers", str(error), "Do that and ask again.")
    except (KeyProblem, PluginError):
        report.skip("PostgreSQL, Redis", "not looked at before the above is put right")


# -- This machine ---------------------------------------------------------------------------------------------------------------


def _examine_files(report: Report, settings: Settings) -> bool:
    """Whether nothing was ever started in this data directory, and the settings name no database."""
    directory = settings.data_dir
    fresh = embeds_postgres(settings) and not (directory / "postgres" / "cluster").exists()
    nearest = directory
    while not nearest.exists():
        nearest = nearest.parent
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    report.expect(
        "data directory",
        writable,
        f"{directory}{'' if directory.exists() else ', not made yet'}",
        f"{nearest} is not a directory that this user can write to: change its owner, or set data.dir.",
    )
    path = settings.master_key_path
    if fresh and not path.exists():
        report.skip("master key", f"{path} is made by the first 'clearspan up' or 'clearspan migrate'")
        return True
    try:
        crypto.load_master_key(path, create=False)
        report.ok("master key", f"{path}, private to this user; keep a copy elsewhere")
    except KeyProblem as error:
        report.fail("master key", str(error), "Without the key, what is sealed in the database cannot be read.")
    return fresh


def _examine_port(report: Report, settings: Settings, running: Published | None) -> None:
    host, port = settings.server.host, settings.server.port
    if running is not None and running.url:
        report.ok("port", f"served by 'clearspan {running.command}', process {running.pid}, at {running.url}")
        return
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        report.ok("port", f"{port} of {host} is free" if port else "a free one is taken at each start")
    except OSError as error:
        report.fail(
            "port",
            f"{port} of {host} cannot be listened on: {error.strerror or error}",
            "Stop the program that does, or set server.host and server.port.",
        )


def _examine_plugins(report: Report, settings: Settings, running: Published | None) -> None:
    try:
        loaded = plugins.load(settings.plugins.enabled, safe_mode=settings.plugins.safe_mode)
    except PluginError as error:
        report.fail("plugins", str(error), "Do that and ask again.")
        return
    if settings.plugins.safe_mode:
        report.warn("plugins", "none, in safe mode", "Nothing can be charged without a provider's plugin.")
    for one in loaded.loaded:
        report.expect(
            f"plugin {one.name}",
            not one.problem,
            f"{one.distribution} {one.version}{f', left out: {one.problem}' if one.problem else ''}",
            "Install a version that loads, or take it out of plugins.enabled.",
        )
    for companion in loaded.companions(settings.plugin, str(settings.data_dir)):
        if running is None and settings.sandbox.companions:
            report.skip(companion.name, "runs beside 'clearspan up', which does not run")
            continue
        try:
            status = str(httpx.get(companion.ready_url, trust_env=False, timeout=3).status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
        report.expect(
            companion.name,
            status == "200",
            f"{companion.ready_url} answers {status}",
            f"See the log of 'clearspan up', or correct plugin.{companion.name}.url.",
        )


def _examine_production(report: Report, settings: Settings) -> None:
    simulators = [name for name in settings.plugins.enabled if name.endswith("-sandbox")]
    report.expect(
        "production: simulators",
        not simulators,
        ", ".join(simulators) or "none is enabled",
        "Take them out of plugins.enabled: they move no money.",
    )
    url = settings.server.public_url
    report.expect(
        "production: public address",
        url.startswith("https://"),
        url or "none",
        "Set server.public_url to the https:// address that clients use.",
    )
    report.expect(
        "production: log level",
        settings.log.level != "debug",
        settings.log.level,
        "Set log.level to info: debug writes far more than operation needs.",
    )
    for name, embedded, setting in (
        ("PostgreSQL", embeds_postgres(settings), "database.url"),
        ("Redis", embeds_redis(settings), "redis.url"),
    ):
        if embedded:
            report.warn(
                f"production: {name}",
                "embedded: one machine, no replica, backups are up to you",
                f"Set {setting} to a server that is replicated and backed up.",
            )
        else:
            report.ok(f"production: {name}", f"a server of yours, by {setting}")


# -- The servers ----------------------------------------------------------------------------------------------------------------


async def _examine_servers(report: Report, runtime: Runtime) -> None:
    try:
        connection = await connect(runtime.app_url)
    except OperatorError as error:
        report.fail("PostgreSQL", str(error), "Do that and ask again.")
    else:
        try:
            await _examine_postgres(report, runtime, connection)
        finally:
            await connection.close()
    await _examine_redis(report, runtime)


async def _examine_postgres(report: Report, runtime: Runtime, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    number = int(await connection.fetchval("SHOW server_version_num"))
    report.expect(
        "PostgreSQL",
        number // 10_000 >= schema.OLDEST_POSTGRES,
        f"{schema.safe_url(runtime.app_url)}, version {await connection.fetchval('SHOW server_version')}",
        f"Clearspan needs version {schema.OLDEST_POSTGRES} or newer.",
    )
    for setting, good in (("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on")):
        value = str(await connection.fetchval(f"SHOW {setting}"))
        report.expect(
            f"PostgreSQL {setting}",
            value == good or (setting == "synchronous_commit" and value != "off"),
            value,
            f"Set {setting} = on: without it a crash can lose payments that were answered as done.",
        )
    before = clock.now()
    database_now = await connection.fetchval("SELECT clock_timestamp()")
    skew_s = (database_now - before).total_seconds()
    report.expect(
        "clock",
        abs(skew_s) <= SKEW_S_MAX,
        f"this machine and the database differ by {abs(skew_s):.1f} s",
        "Let both follow a time server (chrony, systemd-timesyncd).",
    )
    await _examine_schema(report, runtime, connection)
    await _examine_walls(report, connection)


async def _examine_schema(report: Report, runtime: Runtime, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    remedy = "Run 'clearspan migrate' with the same settings."
    state = await schema_state(connection)
    if runtime.owner_url:
        # The owner may read the revision, too.
        owner = await connect(runtime.owner_url)
        try:
            state = await schema_state(owner)
        finally:
            await owner.close()
    report.expect(
        "schema", not state.behind, f"revision {state.revision or 'none, or not for this role to see'}", remedy
    )
    report.expect(
        "SQL functions",
        state.functions,
        "of this release" if state.functions else "those of this release are missing",
        remedy,
    )
    if state.ready:
        from clearspan.commands.start import gateway

        try:
            async with gateway(runtime):
                report.ok("master key", "it is the one this database was made with")
        except OperatorError as error:
            report.fail("master key", str(error), "Do that before anything else.")


async def _examine_walls(report: Report, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """What keeps tenants apart below the application."""
    role = await connection.fetchrow(
        "SELECT rolname, rolsuper, rolbypassrls, EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND pg_has_role(c.relowner, 'MEMBER')) AS owns"
        " FROM pg_roles WHERE rolname = current_user"
    )
    assert role is not None
    wrongs = [
        word
        for word, holds in (
            ("is a superuser", role["rolsuper"]),
            ("may bypass row security", role["rolbypassrls"]),
            ("owns tables", role["owns"]),
        )
        if holds
    ]
    report.expect(
        "application's role",
        not wrongs,
        f"{role['rolname']} {' and '.join(wrongs) or 'owns nothing and is bound by row security'}",
        "Let database.app_url name a role of its own without these rights, and leave the owner to database.url.",
    )
    rows = await connection.fetch(
        "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND a.attname = 'tenant_id' AND NOT a.attisdropped ORDER BY 1"
    )
    bare = ", ".join(row["relname"] for row in rows if not row["forced"])
    report.expect(
        "row security",
        bool(rows) and not bare,
        f"not forced on {bare}" if bare else f"forced on all {len(rows)} tables of tenants",
        "Run 'clearspan migrate'; for a table of your own, ALTER TABLE ... FORCE ROW LEVEL SECURITY.",
    )


async def _examine_redis(report: Report, runtime: Runtime) -> None:
    client = redis.from_url(runtime.redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=3, socket_connect_timeout=3)
    try:
        server = await client.info()
    except (RedisError, OSError) as error:
        report.fail(
            "Redis",
            f"{_place(runtime.redis_url)} cannot be reached: {error or type(error).__name__}",
            "Check that it runs, and redis.url. Until then sweeps do the work, later than usual; no payment depends on it.",
        )
        return
    finally:
        await client.aclose()
    version = server.get("valkey_version") or server.get("redis_version")
    report.ok("Redis", f"{_place(runtime.redis_url)}, version {version}")
    if server.get("aof_enabled") == 1:
        report.ok("Redis persistence", "append-only file")
    else:
        report.warn("Redis persistence", "no append-only file", "Set appendonly yes: a restart then wakes no sweep.")
    policy = server.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        report.ok("Redis eviction", policy)
    else:
        report.warn(
            "Redis eviction", str(policy), "Set maxmemory-policy noeviction: queued work must not be thrown away."
        )


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
