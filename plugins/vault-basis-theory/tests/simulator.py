"""Basis Theory in a process of its own: ``python simulator.py --port N`` prints ``ready http://127.0.0.1:N`` and serves.

A subset of the API, each request and answer checked against the published description beside it, and the ephemeral proxy as
the documentation has it (``clearspan_vault_basis_theory`` names the pages). What is not documented is the simulator's own:
what the proxy answers when the destination cannot be reached (500 with ``proxy_error``).

``POST /_control/next {"fault": ...}`` for the next proxied request: ``hang_after`` (sent, no answer), ``error_before``,
``error_after`` (500 before or after sending), ``timeout_after`` (408 after sending). ``GET /_control/problems``: requests and
answers that the description does not allow.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import jsonschema_rs
from aiohttp import ClientError, ClientSession, TCPConnector, web
from yarl import URL

PRIVATE, PUBLIC, WEAK, REVEALING = "key_private", "key_public", "key_weak", "key_revealing"
"""Keys: with every permission; public; without token:use; with the transform ``reveal``."""
TENANT = "7d2f3a51-3f0c-4f5b-9d4b-0a1d3a1c9a10"
BINS = {"4": "VISA", "5": "MASTERCARD", "3": "AMERICAN EXPRESS"}
_EXPRESSION = re.compile(
    r"\{\{\s*([A-Za-z0-9_-]+)\s*(?:\|\s*(?:json:\s*'\$\.([a-z_]+)'|card_exp:\s*'(MM|YYYY)')\s*)?\}\}"
)
_NOT_FORWARDED = {
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "accept-encoding",
    "user-agent",
}


class Description:
    """The published description, ready to check bodies with."""

    def __init__(self, path: Path) -> None:
        self._raw = json.loads(path.read_text())
        schemas = {name: _plain(one) for name, one in self._raw["components"]["schemas"].items()}
        self._schemas = {"components": {"schemas": schemas}}
        self._made: dict[str, Any] = {}

    def problem(self, path: str, method: str, status: int | None, body: Any) -> str:
        """What is wrong with a request (``status`` is ``None``) or an answer; nothing when it is as described."""
        operation = self._raw["paths"][path][method]
        part = operation["requestBody"] if status is None and "requestBody" in operation else None
        if status is not None:
            part = operation["responses"].get(str(status))
            if part is None:
                return f"{method} {path}: the status {status} is not described"
        if part is None or "content" not in part:
            return "" if body is None else f"{method} {path}: a body is not described"
        schema = part["content"]["application/json"]["schema"]
        key = json.dumps(schema)
        if key not in self._made:
            self._made[key] = jsonschema_rs.validator_for(_plain(schema) | self._schemas, validate_formats=True)
        errors = [f"{error.instance_path}: {error.message}" for error in self._made[key].iter_errors(body)]
        return f"{method} {path} {status or 'request'}: {errors}" if errors else ""


def _plain(schema: Any) -> Any:
    """OAS 3.0 as JSON Schema: ``nullable``, and the boolean ``exclusiveMinimum``."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _plain(one) for name, one in schema.items() if name not in ("nullable", "exclusiveMinimum")}
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") is True and made else made


class Vault:
    """The tokens, and who may do what."""

    def __init__(self, upstream: ssl.SSLContext | None) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.remembered: dict[str, tuple[int, Any]] = {}
        self.problems: list[str] = []
        self.fault = ""
        self.description = Description(Path(__file__).parent / "spec" / "swagger.subset.json")
        self._upstream = upstream

    def may(self, key: str, permission: str) -> bool:
        if key in (PRIVATE, REVEALING):
            return True
        if key == WEAK:
            return permission in ("token:read", "token:create")
        session = self.sessions.get(key)
        return session is not None and permission in session["permissions"] and session["expires_at"] > _now()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/_control/"):
            return await self._control(request)
        if request.path == "/proxy" or request.path.startswith("/proxy/"):
            return await self._proxy(request)
        raw = await request.read()
        body = json.loads(raw) if raw else None
        path = re.sub(r"^/tokens/[^/]+$", "/tokens/{id}", request.path)
        method = request.method.lower()
        if method not in self.description._raw["paths"].get(path, {}):
            return _error(404, "no such operation")
        wrong = self.description.problem(path, method, None, body)
        if wrong:
            self.problems.append(wrong)
            return _error(400, wrong)
        key = request.headers.get("BT-API-KEY", "")
        if key not in (PRIVATE, PUBLIC, WEAK, REVEALING) and key not in self.sessions:
            status, answer = 401, _problem(401, "A missing or invalid BT-API-KEY was provided")
        else:
            status, answer = self._operate(method, path, request, key, body)
        wrong = self.description.problem(path, method, status, answer)
        if wrong:
            self.problems.append(wrong)
        return web.json_response(answer, status=status) if answer is not None else web.Response(status=status)

    def _operate(self, method: str, path: str, request: web.Request, key: str, body: Any) -> tuple[int, Any]:
        match method, path:
            case "post", "/sessions":
                return self._open_session(key)
            case "post", "/sessions/authorize":
                return self._authorize(key, body)
            case "post", "/tokens":
                return self._create(request, key, body)
            case "get", "/tokens/{id}":
                return self._get(request.path.rsplit("/", 1)[1], key)
            case "delete", "/tokens/{id}":
                if not self.may(key, "token:delete"):
                    return 403, _problem(403, "Forbidden")
                gone = self.tokens.pop(request.path.rsplit("/", 1)[1], None)
                return (204, None) if gone else (404, _problem(404, "Not Found"))
        return 404, _problem(404, "Not Found")

    def _open_session(self, key: str) -> tuple[int, Any]:
        if key != PUBLIC:
            return 403, _problem(403, "Sessions are made with a public application's key")
        session_key = f"key_sess_{secrets.token_hex(12)}"
        expires_at = _now() + timedelta(minutes=3)
        nonce = secrets.token_hex(11)
        self.sessions[session_key] = {"nonce": nonce, "permissions": [], "expires_at": expires_at}
        return 201, {"session_key": session_key, "nonce": nonce, "expires_at": expires_at.isoformat()}

    def _authorize(self, key: str, body: Any) -> tuple[int, Any]:
        if key != PRIVATE:
            return 403, _problem(403, "Sessions are authorized with a private application's key")
        session = next((one for one in self.sessions.values() if one["nonce"] == body["nonce"]), None)
        if session is None:
            return 404, _problem(404, "Not Found")
        session["nonce"] = None
        session["permissions"] = body.get("permissions") or []
        if body.get("expires_at"):
            session["expires_at"] = datetime.fromisoformat(body["expires_at"])
        return 200, None

    def _create(self, request: web.Request, key: str, body: Any) -> tuple[int, Any]:
        if not self.may(key, "token:create"):
            return 403, _problem(403, "Forbidden")
        once = request.headers.get("BT-IDEMPOTENCY-KEY", "")
        if once in self.remembered:
            return self.remembered[once]
        data = body.get("data") or {}
        number = str(data.get("number", ""))
        if body.get("type") != "card" or not _luhn(number) or not 1 <= data.get("expiration_month", 0) <= 12:
            return 400, _problem(400, "One or more validation errors occurred.") | {"errors": {"data": ["is invalid"]}}
        made = {"id": str(uuid4()), "data": data, "created_at": _now().isoformat()}
        self.tokens[made["id"]] = made
        answer = 201, self._shown(made, key)
        if once:
            self.remembered[once] = answer
        return answer

    def _get(self, token: str, key: str) -> tuple[int, Any]:
        if not self.may(key, "token:read"):
            return 403, _problem(403, "Forbidden")
        found = self.tokens.get(token)
        return (200, self._shown(found, key)) if found else (404, _problem(404, "Not Found"))

    def _shown(self, made: dict[str, Any], key: str) -> dict[str, Any]:
        number: str = made["data"]["number"]
        shown = number if key == REVEALING else "X" * (len(number) - 4) + number[-4:]
        data = {"number": shown} | {name: made["data"][name] for name in ("expiration_month", "expiration_year")}
        return {
            "id": made["id"],
            "type": "card",
            "tenant_id": TENANT,
            "data": data,
            "created_at": made["created_at"],
            "fingerprint": hashlib.sha256(f"{TENANT}{number}".encode()).hexdigest()[:44],
            "fingerprint_expression": "{{ data.number }}",
            "containers": ["/pci/high/"],
            "enrichments": {
                "bin_details": {
                    "card_brand": BINS.get(number[0]),
                    "type": "CREDIT",
                    "prepaid": False,
                    "country": {"alpha2": "US"},
                },
                "card_details": {"bin": number[:8], "last4": number[-4:]},
            },
        }

    async def _control(self, request: web.Request) -> web.Response:
        if request.path == "/_control/next":
            self.fault = (await request.json())["fault"]
            return web.json_response({})
        return web.json_response(self.problems)

    # -- The proxy --------------------------------------------------------------------------------------------------------------

    async def _proxy(self, request: web.Request) -> web.StreamResponse:
        fault, self.fault = self.fault, ""
        key, base = request.headers.get("BT-API-KEY", ""), request.headers.get("BT-PROXY-URL", "")
        if key not in (PRIVATE, WEAK, REVEALING):
            return _proxy_error(401, "Invalid API key")
        if not self.may(key, "token:use"):
            return _proxy_error(403, "Forbidden")
        parts = urlsplit(base)
        if not parts.hostname or (parts.scheme != "https" and parts.hostname != "127.0.0.1"):
            return _proxy_error(400, "The destination must use HTTPS with DNS as the host")
        if "BT-IDEMPOTENCY-KEY" in request.headers:
            self.problems.append("proxy requests do not support idempotency")
        try:
            body = self._filled(await request.read(), request.headers.get("Content-Type", ""))
        except (LookupError, ValueError) as error:
            return _proxy_error(400, f"Failed to detokenize some tokens: {error}")
        if fault == "error_before":
            return _proxy_error(500, "Something went wrong")
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_FORWARDED and not name.lower().startswith("bt-")
        }
        target = URL(base.rstrip("/") + request.raw_path.removeprefix("/proxy"), encoded=True)
        connector = TCPConnector(ssl=self._upstream) if self._upstream else None
        try:
            async with (
                ClientSession(connector=connector, auto_decompress=False) as http,
                http.request(
                    request.method, target, data=body or None, headers=headers, allow_redirects=False
                ) as response,
            ):
                answer, status = await response.read(), response.status
                kept = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_FORWARDED}
        except (ClientError, OSError):
            return _proxy_error(500, "Something went wrong")
        if fault == "hang_after":
            await asyncio.sleep(60)
        if fault == "error_after":
            return _proxy_error(500, "Something went wrong")
        if fault == "timeout_after":
            return _proxy_error(408, "Request Timeout")
        return web.Response(status=status, body=answer, headers=kept | {"BT-PROXY-DESTINATION-STATUS": str(status)})

    def _filled(self, raw: bytes, content_type: str) -> bytes:
        """The body with the cards in it: JSON and forms field by field, anything else as text.

        Raises:
            LookupError, ValueError: an expression cannot be evaluated.
        """
        if not raw:
            return raw
        if "json" in content_type:
            return json.dumps(self._walk(json.loads(raw))).encode()
        if "x-www-form-urlencoded" in content_type:
            pairs = parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True)
            return urlencode([(name, self._text(value)) for name, value in pairs]).encode()
        return self._text(raw.decode()).encode()

    def _walk(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._walk(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._walk(one) for one in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, value: str) -> str:
        def fill(match: re.Match[str]) -> str:
            token, path, exp = match.groups()
            data = self.tokens[token]["data"]
            if exp:
                return f"{data['expiration_month']:02}" if exp == "MM" else str(data["expiration_year"])
            return str(data[path]) if path else json.dumps(data)

        filled = _EXPRESSION.sub(fill, value)
        if "{{" in filled:
            raise ValueError(filled[:40])
        return filled


def _now() -> datetime:
    return datetime.now(UTC)


def _luhn(number: str) -> bool:
    if not re.fullmatch(r"[0-9]{13,19}", number):
        return False
    digits = [int(digit) for digit in reversed(number)]
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0


def _problem(status: int, title: str) -> dict[str, Any]:
    return {"title": title, "status": status}


def _error(status: int, title: str) -> web.Response:
    return web.json_response(_problem(status, title), status=status)


def _proxy_error(status: int, detail: str) -> web.Response:
    error = {"errors": {}, "title": "Invalid proxy request", "status": status, "detail": detail}
    return web.json_response({"proxy_error": error}, status=status)


async def _main(port: int, upstream_ca: str) -> None:
    vault = Vault(ssl.create_default_context(cafile=upstream_ca) if upstream_ca else None)
    app = web.Application(client_max_size=1_000_000)
    app.router.add_route("*", "/{tail:.*}", vault.serve)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(f"ready http://127.0.0.1:{port}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream-ca", default="")
    options = parser.parse_args()
    asyncio.run(_main(options.port, options.upstream_ca))
