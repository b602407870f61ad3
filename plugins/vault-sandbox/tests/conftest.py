"""The vault as a process of its own, the provider in front of it, and a target behind it that says what it received."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from clearspan.sdk import VaultContext
from clearspan_vault_sandbox import SandboxVault, SandboxVaultConfig

KEY = {"Authorization": "Bearer vk_sandbox"}


class Running:
    """The vault, which can be killed and started again on the same port and folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._argv = [sys.executable, "-m", "clearspan_vault_sandbox.server", "--port", str(port)]
        self._argv += ["--data-dir", str(folder / "data"), *arguments]
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log)
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/health").raise_for_status()
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self._argv} does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def text(self) -> str:
        """Everything the process has written to disk."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in files)


class Target:
    """A PSP that keeps what it received, byte for byte, and answers ``answer``; ``None`` hangs, empty hangs up."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, bytes]] = []
        self.answer: bytes | None = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        self.received.append((head, body))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("vault"), "--read-timeout-s", "0.5")
    yield running
    running.stop()


@pytest.fixture
def own_vault(tmp_path: Path) -> Iterator[Running]:
    """One that the test may kill, and that forwards to one origin only."""
    running = Running(tmp_path / "vault", "--allow", "http://127.0.0.1:9")
    yield running
    running.stop()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    await target.open()
    yield target
    await target.close()


@pytest.fixture
async def http(vault: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=vault.url, timeout=30) as client:
        yield client


@pytest.fixture
def provider(http: httpx.AsyncClient, vault: Running) -> SandboxVault:
    return SandboxVault(SandboxVaultConfig(url=vault.url), VaultContext(http))
