"""The judges' fixtures: simulators and adapters in the product's interpreter, Prism beside them. A pytest plugin."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
START_MAX_S = 30
_SOURCES = [ROOT / "core" / "src", ROOT / "admin" / "src", *sorted(ROOT.glob("plugins/*/src"))]


def product_environment() -> dict[str, str]:
    """For processes of the product: this checkout's code, whatever else is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _SOURCES)), "PYTHONUNBUFFERED": "1"}


def product_python() -> str:
    """The product's interpreter."""
    return os.environ.get("CLEARSPAN_PYTHON", sys.executable)


def free_port() -> int:
    """One that nobody listens on, below those that systems give to outgoing connections."""
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def http(method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """One plain call: the status, and the JSON (else the text) of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, said = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read().decode()
    with contextlib.suppress(ValueError):
        return status, json.loads(said)
    return status, said


class Process:
    """A server of ours or another's, stopped by its id. It is ready when it prints a line that holds ``ready``."""

    def __init__(self, argv: Sequence[str | Path], ready: str, env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.said: list[str] = []
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()
        self.line = ""
        while ready not in self.line:
            try:
                self.line = lines.get(timeout=START_MAX_S)
            except queue.Empty:
                self.line = ""
            if not self.line:
                self.stop()
                pytest.fail(f"{Path(argv[1]).name} did not start:\n{''.join(self.said)[-3000:]}", pytrace=False)

    def _read(self, lines: queue.Queue[str]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line)
            lines.put(line)
        lines.put("")

    def stop(self) -> None:
        """End it and whatever it started: a launcher's child would keep the pipe open."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
                break
        self._reader.join(timeout=5)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()


class Simulator:
    """A plugin's simulator in its own process, and its control."""

    def __init__(self, plugin: str) -> None:
        script = ROOT / "plugins" / plugin / "tests" / "simulator.py"
        argv = [product_python(), str(script), "--port", str(free_port())]
        self.process = Process(argv, "ready http", product_environment())
        self.url = self.process.line.split()[1].rstrip("/")

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """``GET charges``, ``POST next {"fault": ..}``, ``POST webhook {..}``, ``GET webhooks``, ``GET problems``."""
        status, said = http(method, f"{self.url}/_control/{path}", body)
        assert status < 300, (status, said)
        return said

    @property
    def problems(self) -> list[str]:
        """Requests that were not as the provider's description wants them."""
        return list(self.control("GET", "problems"))

    @property
    def charges(self) -> list[dict[str, Any]]:
        """The simulator's own book."""
        return list(self.control("GET", "charges"))

    @property
    def webhooks(self) -> list[dict[str, Any]]:
        """Every message so far: ``headers`` and ``body``."""
        return list(self.control("GET", "webhooks"))


@pytest.fixture
def simulator() -> Iterator[Callable[[str], Simulator]]:
    """``simulator("psp-acme")`` starts ``plugins/psp-acme/tests/simulator.py``, fresh for this test."""
    with contextlib.ExitStack() as stack:

        def start(plugin: str) -> Simulator:
            started = Simulator(plugin)
            stack.callback(started.process.stop)
            return started

        yield start


@pytest.fixture(scope="session")
def prism() -> Iterator[Callable[[str], str]]:
    """``prism("plugins/psp-acme/tests/spec/api.json")`` serves a description (OpenAPI 2, 3.0, 3.1): the URL of a server that
    answers 4xx, with ``type`` ending in ``#UNPROCESSABLE_ENTITY`` or the like, to what is not as described."""
    running: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def start(description: str) -> str:
            if description not in running:
                tool, port = Path(os.environ["CLEARSPAN_TOOLS"]) / "prism", free_port()
                argv = [
                    os.environ["CLEARSPAN_NODE"],
                    tool,
                    "mock",
                    str(ROOT / description),
                    "-h",
                    "127.0.0.1",
                    "-p",
                    str(port),
                ]
                process = Process(argv, "is listening", dict(os.environ))
                stack.callback(process.stop)
                running[description] = f"http://127.0.0.1:{port}"
            return running[description]

        yield start


@pytest.fixture
def adapter() -> Callable[..., list[dict[str, Any]]]:
    """``adapter("psp-acme", {"url": .., "api_key": ..}, ("create_intent", {...}), ...)``: what each call came to, in the JSON of
    ``providers.run_adapter``. All calls of one ``adapter`` go through one instance, in order."""

    def call(
        plugin: str, config: Mapping[str, Any], *calls: tuple[str, Mapping[str, Any] | None], live: bool = False
    ) -> list[dict[str, Any]]:
        asked = {
            "plugin": plugin,
            "config": dict(config),
            "live": live,
            "calls": [{"verb": verb, "request": request} for verb, request in calls],
        }
        done = subprocess.run(
            [product_python(), ROOT / "providers" / "run_adapter.py"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env=product_environment(),
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers

    return call


@pytest.fixture
def stripe_cli() -> str:
    """The Stripe CLI's path; skips where its npm package has no binary for this machine."""
    tool = Path(os.environ["CLEARSPAN_TOOLS"]).parent / "@stripe" / "cli-linux-x64" / "bin" / "stripe"
    asked = (
        subprocess.run([tool, "version"], capture_output=True, text=True, timeout=30, check=False)
        if tool.exists()
        else None
    )
    if asked is None or asked.returncode != 0:
        pytest.skip("the Stripe CLI has no binary for this machine")
    return str(tool)
