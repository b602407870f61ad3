"""The vaults of this installation: one provider per enabled vault plugin, each with an HTTP client of its own."""

from __future__ import annotations

import contextlib

import httpx
import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.platform import outbound
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.plugins import Plugins
from clearspan.sdk import CaptureSession, VaultCard, VaultContext, VaultError, VaultProvider
from clearspan.sdk import VaultUnavailable as VaultAway
from clearspan.settings import Settings, SettingsError
from clearspan.vaults.errors import VaultTokenInvalid, VaultUnavailable, VaultUnknown
from clearspan.vaults.schemas import CaptureSessionCreate, CaptureSessionOut

log = structlog.get_logger("clearspan.vaults")


class Vaults:
    """Providers by name.

    Args:
        plugins: what brings the vaults.
        settings: each plugin's table holds its vault's settings.

    Raises:
        SettingsError: a vault's settings are wrong; all of them at once.
    """

    def __init__(self, plugins: Plugins, settings: Settings) -> None:
        configs: dict[str, msgspec.Struct] = {}
        problems: list[str] = []
        for name, kind in plugins.vaults.items():
            plugin = plugins.plugin_of_vault[name]
            try:
                # Not strict: what comes from the environment is text.
                configs[name] = msgspec.convert(dict(settings.plugin.get(plugin, {})), kind.config_type, strict=False)
            except msgspec.ValidationError as error:
                problems.append(f"plugin.{plugin}: {error}")
        if problems:
            raise SettingsError(problems)
        self._clients: list[httpx.AsyncClient] = []
        self._providers: dict[str, VaultProvider] = {}
        for name, config in configs.items():
            http = outbound.client(settings.payments.psp_connect_timeout_s, settings.payments.psp_timeout_s)
            self._clients.append(http)
            self._providers[name] = plugins.vaults[name](config, VaultContext(http))

    async def close(self) -> None:
        """Close every HTTP pool."""
        for http in self._clients:
            await http.aclose()

    def get(self, name: str) -> VaultProvider:
        """One provider.

        Raises:
            VaultUnknown: no enabled plugin brings it.
        """
        provider = self._providers.get(name)
        if provider is None:
            raise VaultUnknown(f"No enabled plugin brings a vault named {name!r}. There are: {self._names()}.")
        return provider

    def default(self) -> str:
        """The name of the only vault.

        Raises:
            VaultUnknown: there is none, or more than one.
        """
        if len(self._providers) != 1:
            raise VaultUnknown(f"Name the vault. There are: {self._names()}.")
        return next(iter(self._providers))

    async def describe(self, name: str, token: str) -> VaultCard:
        """What may be known of the card behind a token; a network call.

        Raises:
            VaultUnknown, VaultTokenInvalid, VaultUnavailable.
        """
        provider = self.get(name)
        try:
            return await provider.describe(token)
        except VaultAway as error:
            raise _unavailable(name, error) from error
        except VaultError as error:
            raise VaultTokenInvalid(f"{error}. {VaultTokenInvalid.advice}") from error

    async def capture_session(
        self, db: Database, caller: Caller, key: IdempotencyKey | None, body: CaptureSessionCreate
    ) -> Answer:
        """Open a page on which the payer types the card.

        Raises:
            VaultUnknown, VaultUnavailable; and as ``once``.
        """
        name = body.vault or self.default()
        provider = self.get(name)
        opened: CaptureSession | None = None

        async def work(_: AsyncSession) -> Answer:
            if opened is None:
                raise _NotAskedYet
            out = CaptureSessionOut(
                object="capture_session",
                live=caller.scope.live,
                vault=name,
                url=opened.url,
                expires_at=opened.expires_at,
            )
            return Answer(201, msgspec.json.encode(out))

        # The vault is asked between two transactions: the first finds out whether the answer is kept already.
        with contextlib.suppress(_NotAskedYet):
            return await once(db, caller.scope, key, work)
        try:
            opened = await provider.create_session(body.return_url)
        except VaultError as error:
            raise _unavailable(name, error) from error
        return await once(db, caller.scope, key, work)

    def _names(self) -> str:
        return ", ".join(sorted(self._providers)) or "none"


class _NotAskedYet(Exception):
    """Rolls the claim of the idempotency key back: the network comes before the transaction that keeps the answer."""


def _unavailable(name: str, error: VaultError) -> VaultUnavailable:
    # The message may name an address inside the operator's network: it is for the log, not for the client.
    log.error("vault cannot be used", vault=name, error=str(error))
    return VaultUnavailable()
