"""What both embedded servers share: a directory of their own, a port, and a process that lives and dies with this one."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from clearspan.platform import clock

LOG_BYTES_MAX = 10_000_000
LOG_TAIL_LINES = 20
SHUTDOWN_WAIT_S = 30.0
_POLL_S = 0.02

# Fast shutdown, then PostgreSQL's immediate one (recovery at the next start), then no more questions.
_STOP_LADDER = ((signal.SIGINT, SHUTDOWN_WAIT_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


class EmbeddedServerError(Exception):
    """An embedded server cannot run; the message says what happened and what to do."""


class ServerProcess:
    """A server that gets SIGINT, its fast shutdown, when this process ends in whatever way, kill -9 included.

    That tie is Linux's parent death signal, set by util-linux's ``setpriv``. Where that is missing (macOS, busybox) the
    server still stops at a normal exit, but survives kill -9 of this process; its directory then stays locked.
    The environment is not passed on: it may hold credentials.
    """

    def __init__(
        self, command: Sequence[str], *, wrapper: Sequence[str], directory: Path, log: Path, lock: int
    ) -> None:
        """Start ``wrapper`` + ``command`` in ``directory``, output to ``log``; ``lock`` is a descriptor it inherits."""
        self._owner = os.getpid()
        self._log = log
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(f"{log.name}.1"))
        # Opened here and not by the server: it may run as a user who cannot write to the directory.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log_start = os.fstat(output).st_size
        started: Future[subprocess.Popen[bytes]] = Future()

        def keep() -> None:
            try:
                process = subprocess.Popen(  # noqa: S603
                    [*wrapper, *tied_to_this_process(command)],
                    cwd=directory,
                    env=server_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C at the terminal is for us; we stop the server when we have finished.
                    umask=0o077,
                )
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                started.set_exception(error)
                return
            started.set_result(process)
            process.wait()

        # The death signal comes when the *thread* that forked ends, so the thread that forks stays until the server ends.
        self._keeper = threading.Thread(target=keep, name=f"keeper of {log.stem}", daemon=True)
        self._keeper.start()
        try:
            self._process = started.result()
        except OSError as error:
            raise EmbeddedServerError(f"Cannot run {command[0]}: {error.strerror}. Reinstall the package.") from error
        finally:
            os.close(output)
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The server's pid: every wrapper in front of it has replaced itself."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs; never in a forked copy of this process, as threads are not copied.

        The kernel is asked, because the keeper hears of an end only when it is scheduled again.
        """
        if not self._keeper.is_alive():
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:  # the keeper has collected it
            return False

    @property
    def inherited(self) -> bool:
        """Whether this is a forked copy of the process that started the server, and has no say over it."""
        return os.getpid() != self._owner

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when ``ready()``.

        Raises:
            EmbeddedServerError: the server ended or took too long; the message ends with the last lines of its log.
        """
        # Counted, not timed: a simulated clock may stand still.
        for _ in range(int(timeout_s / _POLL_S)):
            if ready():
                return
            self._keeper.join(_POLL_S)
            if not self.alive:
                self._keeper.join()
                break
        what = f"is not ready after {timeout_s:.0f} s" if self.alive else f"ended with code {self._process.returncode}"
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            tail = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise EmbeddedServerError("\n".join([f"The server {what}. The end of {self._log}:", *tail]))

    def stop(self) -> None:
        """End the server, gently first; bounded, and may be called again."""
        atexit.unregister(self.stop)
        for signal_number, patience_s in _STOP_LADDER:
            if self.alive:
                self._process.send_signal(signal_number)
                self._keeper.join(patience_s)
        if self.alive:
            raise EmbeddedServerError(f"Process {self.pid} does not end even after SIGKILL. Is its disk hanging?")


def tied_to_this_process(command: Sequence[str]) -> list[str]:
    """The command with the parent death signal in front, or as it is where that does not exist.

    It must be the last wrapper: the kernel clears the signal when credentials change.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or not succeeds([setpriv, "--pdeathsig", "INT", "true"]):
        return list(command)
    # A parent that died before the signal was armed would never be missed, hence the look at who the parent is now.
    guard = 'test "$PPID" = "$0" || exit 1; exec "$@"'
    return [setpriv, "--pdeathsig", "INT", "/bin/sh", "-c", guard, str(os.getpid()), *command]


def succeeds(command: Sequence[str]) -> bool:
    """Whether the command runs and ends with 0; its output is dropped."""
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0  # noqa: S603


def server_environment() -> dict[str, str]:
    """What a server needs of our environment: no credentials, no PGDATA, messages in English for ``EmbeddedServerError``."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ} | {"LC_ALL": "C"}


@contextmanager
def locked_directory(directory: Path, server: str) -> Iterator[int]:
    """Create the directory (0700) and lock it for ``server``; yields the descriptor of the lock file.

    The server inherits the descriptor and we close ours, so the directory is locked exactly as long as one of the
    server's processes lives, also in the eyes of another container that shares the volume.

    Raises:
        EmbeddedServerError: in use, or not writable.
    """
    path = directory / f"{server}.lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EmbeddedServerError(
            f"Cannot write to the data directory {directory}: {error.strerror}. "
            "Make it writable for the user who starts Clearspan, or choose another directory."
        ) from error
    try:
        _take_lock(lock, directory)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _take_lock(lock: int, directory: Path) -> None:
    # The starter's pid is in the file. While it lives the directory is taken; when it died, its server is shutting down.
    # Dying takes a moment too, so a living starter is asked about again for half a second.
    for attempt in range(int(SHUTDOWN_WAIT_S / _POLL_S)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            starter = os.pread(lock, 20, 0).decode().strip()
            if attempt * _POLL_S >= 0.5 and starter and _is_alive(int(starter)):
                break
            threading.Event().wait(_POLL_S)
        except OSError as error:
            raise EmbeddedServerError(
                f"Cannot lock the data directory {directory}: {error.strerror}. Choose one on a local disk."
            ) from error
        else:
            return
    raise EmbeddedServerError(
        f"The data directory {directory} is in use by a running server"
        f"{f' that process {starter} started' if starter else ''}. Stop that one first, or choose another directory."
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A container's first process may never collect its dead, and a zombie still takes signals.
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except ProcessLookupError:
        return False
    except OSError:
        return True


@contextmanager
def reserved_port(port: int) -> Iterator[int]:
    """A TCP port of 127.0.0.1 that nobody else listens on; 0 picks a free one.

    On Linux the port stays bound, without listening, until the server listens: with SO_REUSEADDR on both sockets the
    server may bind it too, and nobody is handed the port in between. BSD's rules forbid that, so elsewhere it is let go.

    Raises:
        EmbeddedServerError: the port is in use, or not ours to bind.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reservation.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is in use by another program" if error.errno == errno.EADDRINUSE else f"fails: {error.strerror}"
            raise EmbeddedServerError(
                f"Port {port} of 127.0.0.1 {why}. Stop that program or choose another port; 0 picks a free one."
            ) from error
        chosen: int = reservation.getsockname()[1]
        if sys.platform != "linux":
            reservation.close()
        yield chosen


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read (0600); after a crash it is there whole or as it was before."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace_durably(temporary, path)


def replace_durably(source: Path, target: Path) -> None:
    """Rename, and make the rename itself survive a power cut."""
    source.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def stored_password(path: Path) -> str:
    """The password in the file, which is made with a random one (192 bits, hexadecimal) when it is not there."""
    if not path.exists():
        write_private(path, clock.random_bytes(24).hex() + "\n")
    return path.read_text(encoding="utf-8").strip()


__all__ = [
    "EmbeddedServerError",
    "ServerProcess",
    "locked_directory",
    "replace_durably",
    "reserved_port",
    "server_environment",
    "stored_password",
    "succeeds",
    "tied_to_this_process",
    "write_private",
]
