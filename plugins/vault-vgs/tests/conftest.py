"""The simulator in a process of its own, the provider in front of it through the core's client, and a PSP behind its tunnel."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clearspan.platform import outbound
from clearspan.sdk import VaultContext
from clearspan_vault_vgs import VgsConfig, VgsVault

SIMULATOR = Path(__file__).parent / "simulator.py"


class Vgs(NamedTuple):
    """Where the simulator serves, and the certificate of its proxy."""

    url: str
    proxy_url: str
    ca: str

    def config(self, **changes: str) -> VgsConfig:
        known = {"vault_id": "tntsandbox", "username": "USsandbox", "password": "7d2f3a51-sandbox", "route_id": "r1"}
        return VgsConfig(**(known | {"url": self.url, "proxy_url": self.proxy_url, "ca": self.ca} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, for the PSP on 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "psp")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("psp") / "psp.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + cert.public_bytes(pem)
    )
    return path


@pytest.fixture(scope="session")
def vgs(identity: Path) -> Iterator[Vgs]:
    """The simulator."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        port, proxy_port = (each.getsockname()[1] for each in sockets)
    argv = [sys.executable, str(SIMULATOR), "--port", str(port), "--proxy-port", str(proxy_port)]
    process = subprocess.Popen([*argv, "--upstream-ca", str(identity)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    url = f"http://127.0.0.1:{port}"
    ca = httpx.get(f"{url}/_control/ca", trust_env=False).text
    yield Vgs(url, f"https://127.0.0.1:{proxy_port}", ca)
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The core's client."""
    async with outbound.client(2, 5) as client:
        yield client


@pytest.fixture
def vault(vgs: Vgs, http: httpx.AsyncClient) -> VgsVault:
    return VgsVault(vgs.config(), VaultContext(http))


@pytest.fixture
async def through(vault: VgsVault) -> AsyncIterator[httpx.AsyncClient]:
    """The core's client of a PSP account that uses the vault."""
    async with outbound.client(0.7, 1, vault=vault) as client:
        yield client


class Psp:
    """A PSP with TLS that keeps what it received, byte for byte, and answers ``answer``."""

    def __init__(self, identity: Path) -> None:
        self.received: list[tuple[str, str]] = []
        self.answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"id": "ch1"}'
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(identity)

    async def open(self, *, tls: bool) -> str:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls if tls else None)
        self._servers.append(server)
        return f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    _servers: list[asyncio.Server]

    async def start(self) -> None:
        self._servers = []
        self.url = await self.open(tls=True)
        self.plain_url = await self.open(tls=False)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        body = (await reader.readexactly(int(length[0].split(":")[1]))).decode() if length else ""
        self.received.append((head, body))
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def psp(identity: Path) -> AsyncIterator[Psp]:
    made = Psp(identity)
    await made.start()
    yield made
    made.close()
