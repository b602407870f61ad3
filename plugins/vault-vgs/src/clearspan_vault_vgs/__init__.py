"""VGS: aliases, Collect.js on the gateway's page, and the outbound proxy.

Facts are from https://docs.verygoodsecurity.com/vault (read 2026-11; ``/...`` below is a page there) and the published
description of the Vault HTTP API 1.0.0.

**What a token is.** VGS knows aliases, not cards: nobody who holds an alias learns brand, digits or date of it, and the call
that reveals it would bring the number here. So the capture page puts what Collect.js says of the card beside the aliases, and
all of it is our token: ``<alias of the number>.<alias of the security code>.<MMYYYY>.<brand>.<last four>``. It comes by way of
the payer's browser. Brand and last four are for showing only; who forges them deceives nobody but himself. The date is the one
that goes to the PSP, as it was typed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import timedelta
from importlib import resources
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import msgspec

import clearspan.sdk as sdk
from clearspan_vault_vgs.settings import COLLECT_HOST, VgsConfig

__all__ = ["VgsConfig", "VgsVault", "clearspan_vaults", "requires_sdk"]
requires_sdk = ">=1.3,<2"
PAGE_LASTS = timedelta(hours=1)
"""The page holds no session, ids only; the time is ours."""
# /vault/tokens, aliases of format UUID: tok_<environment>_<base58>.
_ALIAS = r"tok_[a-z0-9-]{1,20}_[A-Za-z0-9]{10,60}"
_TOKEN = re.compile(rf"({_ALIAS})\.({_ALIAS})\.(0[1-9]|1[0-2])(20[0-9]{{2}})\.([a-z]{{1,20}})\.([0-9]{{4}})")
# Card types of Collect.js -> ours, where they differ; not confirmed, and for showing only.
_BRANDS = {"americanexpress": "amex", "dinersclub": "diners", "dinersclubinternational": "diners"}
_UPSTREAM = "VGS-Upstream-Status-Code"
_CLASSIFIER = "card-number"
_CHANGE = {"data": {"classifiers": [_CLASSIFIER]}}
_NO_ALIAS = "tok_{}_1111111111111111111111"


class _Parts(msgspec.Struct, frozen=True):
    number: str
    cvc: str
    exp_month: str
    exp_year: str
    brand: str
    last4: str


class _Errors(msgspec.Struct):
    errors: list[dict[str, Any]]


class VgsVault:
    """See ``VaultProvider``, ``ChecksConnection`` and ``TunnelsRequests``."""

    name: ClassVar[str] = "vgs"
    config_type: ClassVar[type[msgspec.Struct]] = VgsConfig
    capture_module: ClassVar[str] = resources.files(__name__).joinpath("capture.js").read_text(encoding="utf-8")

    def __init__(self, config: Any, context: sdk.VaultContext) -> None:
        self._config: VgsConfig = config
        self._context = context
        own = f"https://api.{self._config.environment}.verygoodvault.com"
        self._url = (self._config.url or own).rstrip("/")

    async def create_session(self, return_url: str) -> sdk.CapturePage:  # noqa: ARG002  (the gateway's page leads back)
        """See ``VaultProvider.create_session``. No call: Collect.js needs the ids of vault and route, which are public."""
        config = self._config
        host = (config.collect_url or COLLECT_HOST).rstrip("/")
        address = f"{host}/vgs-collect/{config.collect_version}/vgs-collect.js"
        # The fields send; that the page's script speaks to the vault's inbound host and to VGS's metrics is not confirmed.
        inbound = f"https://{config.vault_id}.{config.environment}.verygoodproxy.com"
        return sdk.CapturePage(
            expires_at=self._context.now() + PAGE_LASTS,
            scripts=[sdk.VaultScript(address, config.collect_integrity)],
            frames=[host],
            connections=[host] if config.collect_url else [host, inbound],
            data={"vault_id": config.vault_id, "environment": config.environment, "route_id": config.route_id},
        )

    async def describe(self, token: str) -> sdk.VaultCard:
        """See ``VaultProvider.describe``: what the capture page said, after the vault has said that it has the alias.

        Asked with ``PUT /aliases/{alias}``, which changes the value's classifiers and reveals nothing.

        The fingerprint is a digest of the alias. VGS gives one value one alias per format while fingerprinting is switched on
        for the vault (``/vault-api-reference``, scope aliases:write); without it each capture has another fingerprint.
        """
        parts = _parts(token)
        answer = await self._call("PUT", parts.number, _CHANGE)
        if answer.status_code != 204:
            raise _refused(answer)
        digest = hashlib.sha256(f"{self._config.vault_id}/{parts.number}".encode()).hexdigest()
        return sdk.VaultCard(
            brand=_BRANDS.get(parts.brand, parts.brand),
            last4=parts.last4,
            exp_month=int(parts.exp_month),
            exp_year=int(parts.exp_year),
            fingerprint=digest[:40],
        )

    def placeholder(self, token: str, field: str) -> str:
        """See ``VaultProvider.placeholder``: an alias stands for itself, and is plain text in JSON and in forms."""
        value: str = getattr(_parts(token), field)
        return value

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:  # noqa: ARG002  (the aliases stand in the body)
        """See ``VaultProvider.proxy``: the request stays as it is and goes through the tunnel."""
        return request

    def tunnel(self) -> sdk.Tunnel:
        """See ``TunnelsRequests.tunnel``: ``/http-proxy/outbound-connection``."""
        config = self._config
        own = f"https://{config.vault_id}.{config.environment}.verygoodproxy.com:8443"
        return sdk.Tunnel(config.proxy_url or own, config.username, config.password, config.ca)

    def check(self, response: httpx.Response) -> None:
        """See ``VaultProvider.check``. ``/http-proxy/identifying-upstream-status-codes``: VGS adds to what the PSP answered the
        status it had. Without it, or with another, an answer is VGS's own; whether it had sent the request is not said."""
        status, upstream = response.status_code, response.headers.get(_UPSTREAM)
        if status == 407:
            # RFC 9110, 15.5.8: of a proxy, for itself.
            raise sdk.PspMisconfigured("not sent: the vault's proxy refuses our user name or password (407)")
        if upstream is None and status >= 400:
            raise sdk.OutcomeUnknown(f"the vault's proxy answered {status} itself: it may have sent the request")
        if upstream is not None and upstream != str(status):
            raise sdk.OutcomeUnknown(f"the vault's proxy answered {status} where the PSP had answered {upstream[:9]}")

    async def delete(self, token: str) -> None:
        """See ``VaultProvider.delete``: both aliases; the security code's is gone after an hour by itself."""
        parts = _parts(token)
        for alias in (parts.number, parts.cvc):
            answer = await self._call("DELETE", alias)
            if answer.status_code not in (204, 404):
                raise _refused(answer)

    async def check_connection(self) -> None:
        """See ``ChecksConnection.check_connection``: the call of ``describe`` for an alias that does not exist, so that nothing
        changes; the answer is 404. The proxy's way is not tried: there is no call that ends in it."""
        answer = await self._call("PUT", _NO_ALIAS.format(self._config.environment), _CHANGE)
        if answer.status_code != 404:
            raise _refused(answer)
        try:
            msgspec.json.decode(answer.content, type=_Errors)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise sdk.VaultUnavailable("VGS's answer is not as documented") from error

    async def _call(self, method: str, alias: str, body: object = None) -> httpx.Response:
        url = f"{self._url}/aliases/{quote(alias, safe='')}"
        try:
            return await self._context.http.request(
                method, url, json=body, auth=(self._config.username, self._config.password)
            )
        except httpx.TransportError as error:
            raise sdk.VaultUnavailable(f"VGS could not be reached at {self._url}: {type(error).__name__}") from error


def _parts(token: str) -> _Parts:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise sdk.VaultError("this is no token of the VGS capture page; capture the card again")
    return _Parts(*match.groups())


def _refused(response: httpx.Response) -> sdk.VaultError:
    if response.status_code == 404:
        return sdk.VaultError("VGS does not know this alias; capture the card again")
    hint = {401: ": check user name and password", 403: ": the credentials may not do this"}
    return sdk.VaultUnavailable(f"VGS refused: {response.status_code}{hint.get(response.status_code, '')}")


@sdk.hookimpl
def clearspan_vaults() -> Sequence[type[sdk.VaultProvider]]:
    """The provider."""
    return [VgsVault]
