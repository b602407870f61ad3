"""Processes that ``clearspan up`` runs beside itself: they end with it, and are started again when they end alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import structlog

from clearspan.platform import clock
from clearspan.platform.processes import tied_to_this_process
from clearspan.platform.runtime import OperatorError

POLL_S = 0.1
READY_S = 30.0
BACKOFF_S_MAX = 30.0
STEADY_S = 60.0
"""A process that lived so long has started well: the next pause before a start is short again."""
log = structlog.get_logger("clearspan.up")


class Child:
    """One process: ``python`` with ``argv``.

    Args:
        name: shown in logs.
        argv: after the interpreter.
        environ: its whole environment.
        ready_url: answers 200 when it is up; empty when nobody waits for it.
        quiet: drop what it says, instead of passing it on to our stderr.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environ: Mapping[str, str], ready_url: str = "", *, quiet: bool = False
    ) -> None:
        self.name = name
        self._argv = [sys.executable, *argv]
        self._environ = environ
        self._ready_url = ready_url
        # Not our stdout, which is for what people asked for.
        self._output = subprocess.DEVNULL if quiet else sys.stderr.fileno()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause_s = 0.5

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it. From the main thread: the process ends when the thread does that started it."""
        self._started = clock.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  (ours, or a plugin's that the operator enabled)
            tied_to_this_process(self._argv),
            env=dict(self._environ),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C is for us: we end it when its turn comes.
        )

    def check_port(self) -> None:
        """Refuse a port that is in use: whoever listens there would be taken for this process.

        Raises:
            OperatorError: it is.
        """
        address = urlsplit(self._ready_url)
        with socket.socket(socket.AF_INET6 if ":" in (address.hostname or "") else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.hostname, address.port or 80))
            except OSError as error:
                raise OperatorError(
                    f"{self.name} cannot listen on {address.netloc}: {error.strerror}. Stop the program that does, set"
                    f" plugin.{self.name}.url to another port, or set sandbox.companions = false and run it yourself."
                ) from error

    async def ready(self) -> None:
        """Return when it answers.

        Raises:
            OperatorError: it ended, or did not answer in time.
        """
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            for _ in range(int(READY_S / POLL_S)):
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(self._ready_url)).status_code == httpx.codes.OK:
                        return
                if not self.alive:
                    raise OperatorError(f"{self.name} ended while it started; what it said stands above.")
                await clock.sleep(POLL_S)
        raise OperatorError(f"{self.name} does not answer at {self._ready_url} after {READY_S:.0f} s.")

    async def keep(self) -> None:
        """Start it again whenever it ends, with growing pauses, until cancelled."""
        while True:
            await clock.sleep(POLL_S)
            if self.alive:
                continue
            assert self._process is not None
            if clock.monotonic() - self._started > STEADY_S:
                self._pause_s = 0.5
            log.warning("started again", process=self.name, code=self._process.returncode, pause_s=self._pause_s)
            await clock.sleep(self._pause_s)
            self._pause_s = min(BACKOFF_S_MAX, self._pause_s * 2)
            self.start()

    async def stop(self, patience_s: float) -> None:
        """End it, gently first."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        for _ in range(int(patience_s / POLL_S)):
            if not self.alive:
                return
            await clock.sleep(POLL_S)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def without_our_settings() -> dict[str, str]:
    """The environment for processes of plugins: our settings hold credentials, and are none of their business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")}


def own_command(config: Path | None, *, safe_mode: bool, command: Sequence[str]) -> list[str]:
    """``clearspan`` itself, with the options that this process was given."""
    options = ["--config", str(config.absolute())] if config is not None else []
    return ["-m", "clearspan.cli", *options, *(["--safe-mode"] if safe_mode else []), *command]
