"""The sandbox vault: a real vault in its own process that takes published test cards only.

The provider (this module) talks to ``clearspan_vault_sandbox.server``, whose docstring describes the interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from clearspan.sdk import (
    CaptureSession,
    Companion,
    OutcomeUnknown,
    PspMisconfigured,
    PspUnavailable,
    Secret,
    VaultCard,
    VaultContext,
    VaultError,
    VaultProvider,
    VaultUnavailable,
    hookimpl,
)

requires_sdk = ">=1.2,<2"
T = TypeVar("T")
_SENT = frozenset({"target_timeout", "target_broken"})
"""The vault's own answers after it had sent something to the PSP."""


class SandboxVaultConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings.

    Attributes:
        url: where this gateway reaches the vault.
        public_url: where payers' browsers reach it; empty: ``url``.
        api_key: the key the vault was started with.
        allow: further origins a started vault may forward to, besides the sandbox PSP.
    """

    url: str = "http://127.0.0.1:8082"
    public_url: str = ""
    api_key: Secret = "vk_sandbox"
    allow: tuple[str, ...] = ()


class _Session(msgspec.Struct):
    id: str
    expires_at: datetime


class SandboxVault:
    """See ``VaultProvider``."""

    name: ClassVar[str] = "sandbox"
    config_type: ClassVar[type[msgspec.Struct]] = SandboxVaultConfig

    def __init__(self, config: Any, context: VaultContext) -> None:
        self._config: SandboxVaultConfig = config
        self._http = context.http
        self._url = self._config.url.rstrip("/")

    async def create_session(self, return_url: str) -> CaptureSession:
        """See ``VaultProvider.create_session``."""
        response = await self._call("POST", "/sessions", {"return_url": return_url})
        session = _read(response, 201, _Session)
        page = f"{(self._config.public_url or self._config.url).rstrip('/')}/capture/{quote(session.id)}"
        return CaptureSession(url=page, expires_at=session.expires_at)

    async def describe(self, token: str) -> VaultCard:
        """See ``VaultProvider.describe``."""
        return _read(await self._call("GET", f"/tokens/{quote(token, safe='')}"), 200, VaultCard)

    def placeholder(self, token: str, field: str) -> str:
        """See ``VaultProvider.placeholder``."""
        return f"{{{{{token}.{field}}}}}"

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:  # noqa: ARG002  (the placeholders name the token)
        """See ``VaultProvider.proxy``: the target and the vault's key travel in headers that the vault takes away."""
        headers = request.headers.copy()
        headers["Host"] = urlsplit(self._url).netloc
        headers["X-Vault-Target"] = str(request.url)
        headers["X-Vault-Authorization"] = f"Bearer {self._config.api_key}"
        return httpx.Request(
            request.method,
            f"{self._url}/forward",
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def check(self, response: httpx.Response) -> None:
        """See ``VaultProvider.check``: the vault marks answers of its own with ``X-Vault-Error``."""
        code = response.headers.get("X-Vault-Error", "")
        if code == "target_unreachable":
            raise PspUnavailable("not sent: the vault could not reach the PSP")
        if code in _SENT:
            raise OutcomeUnknown(f"sent, the vault answered {code}")
        if code == "unknown_token":
            raise PspMisconfigured(
                "not sent: the vault does not know the card's token; the card must be captured again"
            )
        if code:
            raise PspMisconfigured(f"not sent: the vault refused with {code}")

    async def delete(self, token: str) -> None:
        """See ``VaultProvider.delete``."""
        response = await self._call("DELETE", f"/tokens/{quote(token, safe='')}")
        if response.status_code != 204:
            raise _refused(response)

    async def check_connection(self) -> None:
        """See ``ChecksConnection.check_connection``: asks for a token that nobody has."""
        response = await self._call("GET", "/tokens/tok_nobody_has")
        if response.status_code != 404 or response.headers.get("X-Vault-Error") != "unknown_token":
            raise VaultUnavailable(str(_refused(response)))

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._config.api_key}"}
        try:
            return await self._http.request(method, self._url + path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise VaultUnavailable(f"the vault could not be reached at {self._url}: {type(error).__name__}") from error


def _read(response: httpx.Response, status: int, kind: type[T]) -> T:
    if response.status_code != status:
        raise _refused(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VaultUnavailable("the vault's answer is unreadable") from error


def _refused(response: httpx.Response) -> VaultError:
    code = response.headers.get("X-Vault-Error", "no code")
    kind = VaultError if response.status_code in (404, 422) else VaultUnavailable
    return kind(f"the vault refused: {response.status_code} {code}")


@hookimpl
def clearspan_vaults() -> Sequence[type[VaultProvider]]:
    """The provider."""
    return [SandboxVault]


@hookimpl
def clearspan_companions(config: dict[str, Any], data_dir: str) -> Sequence[Companion]:
    """The vault's process, unless the settings name one on another machine."""
    settings = msgspec.convert(config.get("vault-sandbox", {}), SandboxVaultConfig)
    address = urlsplit(settings.url)
    if address.hostname not in ("127.0.0.1", "localhost", "::1"):
        return []
    allow = [url for url in (config.get("psp-sandbox", {}).get("url"), *settings.allow) if url]
    argv = ["-m", "clearspan_vault_sandbox.server", "--host", address.hostname, "--port", str(address.port or 80)]
    argv += ["--data-dir", f"{data_dir}/vault-sandbox", "--api-key", settings.api_key]
    argv += [argument for origin in allow for argument in ("--allow", origin)]
    return [Companion(name="vault-sandbox", argv=argv, ready_url=f"{settings.url.rstrip('/')}/health")]
