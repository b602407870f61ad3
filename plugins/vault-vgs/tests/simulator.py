"""VGS in a process of its own: ``python simulator.py --port N --proxy-port M`` prints ``ready http://127.0.0.1:N`` and serves.
Port 0, which both have when nothing is said, takes one that is free; ``GET /_control/proxy`` says the proxy's.

On N the aliases API, each request and answer checked against the published description beside it. On M the outbound proxy:
TLS, ``CONNECT`` with a user name and password, the inner TLS opened with certificates of an authority made at start
(``GET /_control/ca``), aliases in bodies replaced, and the request sent on; ``http`` targets without ``CONNECT``. An alias
nobody knows stays as it is, as at VGS.

``POST /_control/next {"fault": ...}``: ``refuse_connect`` (502 to CONNECT), ``drop_connect`` and ``hang_connect`` before there
is a tunnel; ``error_before``, ``error_after``, ``hang_after``, ``drop_after`` around sending; ``other_status`` answers 200
where the PSP said otherwise. ``GET /_control/problems``: what the description does not allow.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime as dt
import hashlib
import ipaddress
import json
import re
import ssl
import tempfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml
from aiohttp import ClientError, ClientSession, TCPConnector, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USERNAME, PASSWORD = "USsandbox", "7d2f3a51-sandbox"
_ALIAS = re.compile(r"tok_sandbox_[A-Za-z0-9]{10,60}")
_HOP = {"host", "content-length", "transfer-encoding", "connection", "proxy-authorization", "accept-encoding"}
_BASIC = "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()


class Authority:
    """Signs for any name, like the certificate a customer of VGS has to trust."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VGS simulator")])
        self._cert = self._sign(self._name, self._key.public_key(), None)
        self.pem = self._cert.public_bytes(serialization.Encoding.PEM).decode()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def context(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
            cert = self._sign(name, key.public_key(), host)
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile() as file:
                file.write(
                    key.private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    )
                    + cert.public_bytes(serialization.Encoding.PEM)
                )
                file.flush()
                made.load_cert_chain(file.name)
            self._contexts[host] = made
        return self._contexts[host]

    def _sign(self, subject: x509.Name, public: ec.EllipticCurvePublicKey, host: str | None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            try:
                alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                alternative = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Description:
    """The published description, ready to check bodies with."""

    def __init__(self, path: Path) -> None:
        self._raw = yaml.safe_load(path.read_text())
        self._components = {"components": self._raw["components"]}

    def problem(self, path: str, method: str, status: int | None, body: Any) -> str:
        operation = self._raw["paths"][path][method]
        part = operation.get("requestBody")
        if status is not None:
            part = operation["responses"].get(str(status)) or operation["responses"]["default"]
            if "$ref" in part:
                part = self._raw["components"]["responses"][part["$ref"].rsplit("/", 1)[1]]
        if part is None or "content" not in part:
            return "" if body is None else f"{method} {path}: a body is not described"
        validator = jsonschema_rs.validator_for(part["content"]["application/json"]["schema"] | self._components)
        errors = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)]
        return f"{method} {path} {status or 'request'}: {errors}" if errors else ""


class Vault:
    def __init__(self, upstream: ssl.SSLContext | None) -> None:
        self.authority = Authority()
        self.values: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self.fault = ""
        self.proxy_port = 0
        self.description = Description(Path(__file__).parent / "spec" / "api.yaml")
        self._upstream = upstream

    # -- The aliases API --------------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/_control/ca":
            return web.Response(text=self.authority.pem)
        if request.path == "/_control/proxy":
            return web.json_response({"url": f"https://127.0.0.1:{self.proxy_port}"})
        if request.path == "/_control/next":
            self.fault = (await request.json())["fault"]
            return web.json_response({})
        if request.path == "/_control/problems":
            return web.json_response(self.problems)
        raw = await request.read()
        body = json.loads(raw) if raw else None
        method = request.method.lower()
        path = "/aliases" if request.path == "/aliases" else "/aliases/{alias}"
        if request.headers.get("Authorization") != _BASIC:
            return self._answer(path, method, 401, _errors(401, "Unauthorized"))
        wrong = self.description.problem(path, method, None, body)
        if wrong:
            self.problems.append(wrong)
            return self._answer(path, method, 400, _errors(400, wrong))
        return self._answer(path, method, *self._operate(method, path, request, body))

    def _answer(self, path: str, method: str, status: int, body: Any) -> web.Response:
        wrong = self.description.problem(path, method, status, body)
        if wrong:
            self.problems.append(wrong)
        return web.json_response(body, status=status) if body is not None else web.Response(status=status)

    def _operate(self, method: str, path: str, request: web.Request, body: Any) -> tuple[int, Any]:
        if path == "/aliases" and method == "post":
            return 201, {"data": [self._create(one) for one in body["data"]]}
        if path == "/aliases":
            # Described as ``q``; the official client of 2024 says ``aliases``.
            asked = request.query.get("q") or request.query.get("aliases", "")
            found = {alias: self.values[alias] for alias in asked.split(",") if alias in self.values}
            return (200, {"data": found}) if found else (404, _errors(404, "Not found"))
        alias = request.path.rsplit("/", 1)[1]
        if alias not in self.values:
            return 404, _errors(404, "Not found")
        if method == "get":
            return 200, {"data": [self.values[alias]]}
        if method == "put":
            self.values[alias]["classifiers"] = body["data"]["classifiers"]
        else:
            del self.values[alias]
        return 204, None

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        value, storage = str(asked["value"]), asked.get("storage", "PERSISTENT")
        # Fingerprinting is on: one value, one alias for each format.
        digest = hashlib.sha256(f"{value}/{asked['format']}/{storage}".encode()).hexdigest()
        alias = f"tok_sandbox_{digest[:22]}"
        self.values[alias] = {
            "value": value,
            "classifiers": asked.get("classifiers", []),
            "aliases": [{"alias": alias, "format": asked["format"]}],
            "created_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "storage": storage,
        }
        return self.values[alias]

    # -- The outbound proxy -----------------------------------------------------------------------------------------------------

    async def proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._proxied(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _proxied(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers, body = await _request(reader)
        method, target, _ = line.split(" ", 2)
        if headers.get("proxy-authorization") != _BASIC:
            await _send(writer, 407, b"", {"Proxy-Authenticate": 'Basic realm="VGS"'})
            return
        if method != "CONNECT":
            if await self._forward(writer, method, target, headers, body):
                await self._proxied(reader, writer)
            return
        fault = self.fault
        if fault in ("refuse_connect", "drop_connect", "hang_connect"):
            self.fault = ""
            if fault == "refuse_connect":
                await _send(writer, 502, b"no")
            elif fault == "hang_connect":
                await asyncio.sleep(60)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        host, _, port = target.rpartition(":")
        await writer.start_tls(self.authority.context(host.strip("[]")))
        while True:
            line, headers, body = await _request(reader)
            method, path, _ = line.split(" ", 2)
            if not await self._forward(writer, method, f"https://{host}:{port}{path}", headers, body):
                return

    async def _forward(
        self, writer: asyncio.StreamWriter, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> bool:
        fault, self.fault = self.fault, ""
        if fault == "error_before":
            await _send(writer, 500, b"{}")
            return True
        text = _ALIAS.sub(lambda found: self.values.get(found[0], {"value": found[0]})["value"], body.decode())
        kept = {name: value for name, value in headers.items() if name not in _HOP}
        connector = TCPConnector(ssl=self._upstream) if self._upstream else None
        try:
            async with (
                ClientSession(connector=connector, auto_decompress=False) as http,
                http.request(method, url, data=text.encode() or None, headers=kept, allow_redirects=False) as response,
            ):
                answer, status = await response.read(), response.status
                back = {name: value for name, value in response.headers.items() if name.lower() not in _HOP}
        except (ClientError, OSError):
            await _send(writer, 502, b"{}")
            return True
        if fault == "hang_after":
            await asyncio.sleep(60)
        if fault == "drop_after":
            return False
        if fault == "error_after":
            await _send(writer, 502, b"{}")
            return True
        shown = 200 if fault == "other_status" else status
        await _send(writer, shown, answer, back | {"VGS-Upstream-Status-Code": str(status)})
        return True


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers, await reader.readexactly(int(headers.get("content-length", "0")))


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body)
    await writer.drain()


def _errors(status: int, title: str) -> dict[str, Any]:
    return {"errors": [{"status": status, "title": title, "detail": title, "href": "/aliases"}]}


async def _main(port: int, proxy_port: int, upstream_ca: str) -> None:
    vault = Vault(ssl.create_default_context(cafile=upstream_ca) if upstream_ca else None)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", vault.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    proxy = await asyncio.start_server(vault.proxy, "127.0.0.1", proxy_port, ssl=vault.authority.context("127.0.0.1"))
    vault.proxy_port = proxy.sockets[0].getsockname()[1]
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--proxy-port", type=int, default=0)
    parser.add_argument("--upstream-ca", default="")
    options = parser.parse_args()
    asyncio.run(_main(options.port, options.proxy_port, options.upstream_ca))
