"""The simulator in a process of its own, the provider in front of it through the core's client, and a PSP behind it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from clearspan.platform import outbound
from clearspan.sdk import VaultContext
from clearspan_vault_basis_theory import BasisTheoryConfig, BasisTheoryVault

SIMULATOR = Path(__file__).parent / "simulator.py"


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where the simulator serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SIMULATOR), "--port", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The core's client."""
    async with outbound.client(2, 5) as client:
        yield client


@pytest.fixture
def vault(url: str, http: httpx.AsyncClient) -> BasisTheoryVault:
    """The provider with a key that may do everything."""
    settings = BasisTheoryConfig(private_key="key_private", public_key="key_public", url=url)
    return BasisTheoryVault(settings, VaultContext(http))


@pytest.fixture
async def through(vault: BasisTheoryVault) -> AsyncIterator[httpx.AsyncClient]:
    """The core's client of a PSP account that uses the vault."""
    async with outbound.client(2, 1, vault=vault) as client:
        yield client


class Psp:
    """A PSP that keeps what it received, byte for byte, and answers ``answer``; an empty one hangs up."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        self.answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"id": "ch1"}'

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        body = (await reader.readexactly(int(length[0].split(":")[1]))).decode() if length else ""
        self.received.append((head, body))
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def psp() -> AsyncIterator[Psp]:
    made = Psp()
    await made.open()
    yield made
    made.close()
