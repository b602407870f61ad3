"""The vaults of this installation: one provider per enabled vault plugin, each with an HTTP client of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from datetime import datetime, timedelta
from importlib import resources
from typing import Literal

import httpx
import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.platform import clock, outbound
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.pan import mask_pan
from clearspan.platform.plugins import Plugins
from clearspan.sdk import CapturePage, CaptureSession, VaultCard, VaultContext, VaultError, VaultProvider
from clearspan.sdk import VaultUnavailable as VaultAway
from clearspan.settings import Settings, SettingsError
from clearspan.vaults.errors import VaultTokenInvalid, VaultUnavailable, VaultUnknown
from clearspan.vaults.links import Captured, CaptureLinks
from clearspan.vaults.schemas import CaptureSessionCreate, CaptureSessionOut

log = structlog.get_logger("clearspan.vaults")
LINK_LASTS = timedelta(hours=1)
"""How long a link to a capture page of ours can be opened. The session of the vault behind it begins when it is."""
_ORIGIN = re.compile(r"https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_SCRIPT = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/@%?=&+-]*")
_INTEGRITY = re.compile(r"(sha(256|384|512)-[A-Za-z0-9+/]+={0,2})?")


class VaultFacts(msgspec.Struct, frozen=True):
    """A vault, as operators see it.

    Attributes:
        settings: name -> whether it is set; otherwise its default holds.
        checks: whether its plugin can ask the vault whether these settings work.
    """

    name: str
    plugin: str
    settings: dict[str, bool]
    checks: bool


class VaultCheck(msgspec.Struct, frozen=True):
    """What came of asking a vault.

    Attributes:
        status: ``ok``: it takes the settings; ``unavailable``: it could not be reached or refused us; ``unclear``: no answer in
            time, or the plugin failed; ``not_supported``: the plugin cannot ask.
        message: the provider's words, without card numbers; empty when all is well.
    """

    status: Literal["ok", "unavailable", "unclear", "not_supported"]
    message: str = ""


class Vaults:
    """Providers by name.

    Args:
        plugins: what brings the vaults.
        settings: each plugin's table holds its vault's settings.
        links: to capture pages of ours.

    Attributes:
        scripts: what the capture pages load from our own origin, by a name that changes with the text. The same in every
            process, so that any of them can serve what another one's page asks for.

    Raises:
        SettingsError: a vault's settings are wrong; all of them at once.
    """

    def __init__(self, plugins: Plugins, settings: Settings, links: CaptureLinks) -> None:
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
        self._plugins = plugins
        self._settings = settings
        self._links = links
        self._clients: list[httpx.AsyncClient] = []
        self._providers: dict[str, VaultProvider] = {}
        for name, config in configs.items():
            http = outbound.client(settings.payments.psp_connect_timeout_s, settings.payments.psp_timeout_s)
            self._clients.append(http)
            self._providers[name] = plugins.vaults[name](config, VaultContext(http, clock.now))
        modules = [getattr(provider, "capture_module", "") for provider in self._providers.values()]
        self.scripts = {script_name(text): text for text in [PAGE_SCRIPT, *modules] if text}

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

    def described(self) -> list[VaultFacts]:
        """Every vault with its settings: which are set, never to what."""
        found = []
        for name in sorted(self._providers):
            plugin = self._plugins.plugin_of_vault[name]
            given = self._settings.plugin.get(plugin, {})
            fields = msgspec.structs.fields(self._plugins.vaults[name].config_type)
            found.append(
                VaultFacts(name, plugin, {field.name: field.name in given for field in fields}, self._checks(name))
            )
        return found

    async def check(self, name: str) -> VaultCheck:
        """Ask a vault whether it takes our settings; nothing is stored and no card is read. A network call.

        Raises:
            VaultUnknown: no enabled plugin brings it.
        """
        ask = getattr(self.get(name), "check_connection", None)
        if ask is None:
            return VaultCheck("not_supported")
        timeout_s = self._settings.payments.psp_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await ask()
        except VaultError as error:
            log.warning("vault check", vault=name, error=str(error))
            return VaultCheck("unavailable", mask_pan(str(error))[:500])
        except TimeoutError:
            return VaultCheck("unclear", f"No answer came within {timeout_s:g} seconds.")
        except Exception as error:  # A plugin's bug says nothing about the settings.
            log.exception("provider raised", vault=name, verb="check_connection")
            return VaultCheck("unclear", f"The plugin failed ({type(error).__name__}); the gateway's log says where.")
        return VaultCheck("ok")

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
        opened: CaptureSession | CapturePage | None = None

        async def work(_: AsyncSession) -> Answer:
            if opened is None:
                raise _NotAskedYet
            url, expires_at = self._where(caller, name, body.return_url, opened)
            out = CaptureSessionOut(
                object="capture_session", live=caller.scope.live, vault=name, url=url, expires_at=expires_at
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

    async def page(self, captured: Captured) -> CapturePage:
        """Open a session of the vault for a payer who loads our page.

        Raises:
            VaultUnavailable: the vault is away, is not enabled any more, or asks for what the page's policy cannot say.
        """
        provider = self._providers.get(captured.vault)
        try:
            if provider is None:
                raise VaultAway("no enabled plugin brings it")
            page = await provider.create_session(captured.return_url)
            if not isinstance(page, CapturePage) or not _safe(page):
                raise VaultAway("what it says of its capture page cannot be used")
        except VaultError as error:
            raise _unavailable(captured.vault, error) from error
        return page

    def _checks(self, name: str) -> bool:
        return hasattr(self._providers[name], "check_connection")

    def module_of(self, name: str) -> str:
        """The name of a vault's own script, in ``scripts``."""
        return script_name(getattr(self._providers[name], "capture_module", ""))

    def _where(
        self, caller: Caller, name: str, return_url: str, opened: CaptureSession | CapturePage
    ) -> tuple[str, datetime]:
        if isinstance(opened, CaptureSession):
            return opened.url, opened.expires_at
        expires_at = clock.now() + LINK_LASTS
        captured = Captured(scope=caller.scope, vault=name, return_url=return_url, expires_at=expires_at)
        return self._links.url(captured), expires_at

    def _names(self) -> str:
        return ", ".join(sorted(self._providers)) or "none"


class _NotAskedYet(Exception):
    """Rolls the claim of the idempotency key back: the network comes before the transaction that keeps the answer."""


def script_name(text: str) -> str:
    """What a script is called in an address: a digest of it, so that an old one is never taken for a new one."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.js"


PAGE_SCRIPT = resources.files("clearspan.vaults").joinpath("static", "capture.js").read_text(encoding="utf-8")


def _safe(page: CapturePage) -> bool:
    """Whether what a provider says can stand in a policy: a blank or a semicolon would say something else there."""
    return (
        all(_ORIGIN.fullmatch(source) for source in (*page.frames, *page.connections))
        and all(_SCRIPT.fullmatch(one.url) and _INTEGRITY.fullmatch(one.integrity) for one in page.scripts)
        and bool(page.scripts)
    )


def _unavailable(name: str, error: VaultError) -> VaultUnavailable:
    # The message may name an address inside the operator's network: it is for the log, not for the client.
    log.error("vault cannot be used", vault=name, error=str(error))
    return VaultUnavailable()
