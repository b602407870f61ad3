"""Basis Theory: tokens, Web Elements on the gateway's page, and the ephemeral proxy.

Facts are from https://developers.basistheory.com/docs (read 2026-11) and the published description (API v1, 2024-12).
``/docs/api/...`` below is a page there. The proxy takes no idempotency key (``/docs/api/idempotency``): repeating a charge is
safe by the PSP's key alone, and that header passes through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib import resources
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import httpx
import msgspec

import clearspan.sdk as sdk
from clearspan_vault_basis_theory.settings import ELEMENTS_HOST, HOSTS, BasisTheoryConfig

__all__ = ["BasisTheoryConfig", "BasisTheoryVault", "clearspan_vaults", "requires_sdk"]
requires_sdk = ">=1.3,<2"
T = TypeVar("T")
SESSION_LASTS = timedelta(minutes=15)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
# /docs/expressions/detokenization: the token's id, then filters. /docs/expressions/filters: MM is two digits, YYYY four.
_EXPRESSIONS = {
    "number": "{{ %s | json: '$.number' }}",
    "exp_month": "{{ %s | card_exp: 'MM' }}",
    "exp_year": "{{ %s | card_exp: 'YYYY' }}",
    "cvc": "{{ %s | json: '$.cvc' }}",
}
# /docs/api/tokens, card brands; upper case and blanks are those of bin_details.
_BRANDS = {"american-express": "amex", "diners-club": "diners", "diners-club-international": "diners"}
_SEEN_MAX = 12
"""Digits of a masked number: at most the first eight and the last four (PCI DSS 4.0.1, 3.4.1)."""
_STATUS = "BT-PROXY-DESTINATION-STATUS"
_NOBODY = "00000000-0000-0000-0000-000000000000"


class _Session(msgspec.Struct):
    session_key: str
    nonce: str
    expires_at: datetime


class _Country(msgspec.Struct):
    alpha2: str | None = None


class _Bin(msgspec.Struct):
    card_brand: str | None = None
    type: str | None = None
    prepaid: bool | None = None
    country: _Country | None = None


class _Enrichments(msgspec.Struct):
    bin_details: _Bin | None = None


class _Card(msgspec.Struct):
    brand: str | None = None
    funding: str | None = None
    issuer_country: _Country | None = None


class _Data(msgspec.Struct):
    number: str
    expiration_month: int
    expiration_year: int


class _Token(msgspec.Struct):
    id: str
    type: str
    data: _Data
    fingerprint: str | None = None
    enrichments: _Enrichments | None = None
    card: _Card | None = None


class _Problem(msgspec.Struct):
    title: str
    status: int


class BasisTheoryVault:
    """See ``VaultProvider`` and ``ChecksConnection``."""

    name: ClassVar[str] = "basis_theory"
    config_type: ClassVar[type[msgspec.Struct]] = BasisTheoryConfig
    capture_module: ClassVar[str] = resources.files(__name__).joinpath("capture.js").read_text(encoding="utf-8")

    def __init__(self, config: Any, context: sdk.VaultContext) -> None:
        self._config: BasisTheoryConfig = config
        self._context = context
        self._url = (self._config.url or HOSTS[self._config.tenant]).rstrip("/")

    async def create_session(self, return_url: str) -> sdk.CapturePage:  # noqa: ARG002  (the gateway's page leads back)
        """See ``VaultProvider.create_session``: a session key that may create tokens for a quarter of an hour.

        ``/docs/api/applications/sessions``: made with the public key, authorised with the private one.
        """
        expires_at = self._context.now() + SESSION_LASTS
        session = _read(await self._call("POST", "/sessions", key=self._config.public_key), 201, _Session)
        grant = {
            "nonce": session.nonce,
            "permissions": ["token:create"],
            "expires_at": expires_at.isoformat(timespec="seconds"),
        }
        authorised = await self._call("POST", "/sessions/authorize", grant)
        if authorised.status_code != 200:
            raise _refused(authorised)
        if authorised.content:  # described without a body; a page of somebody between us is no authorisation
            _read(authorised, 200, dict)
        host = (self._config.elements_url or ELEMENTS_HOST).rstrip("/")
        address = f"{host}/web-elements/{self._config.elements_version}/index.js"
        # /docs/sdks/web/web-elements/troubleshooting lists *.basistheory.com for scripts, frames and connections.
        own = [host] if self._config.elements_url else ["https://*.basistheory.com"]
        return sdk.CapturePage(
            expires_at=expires_at,
            scripts=[sdk.VaultScript(address, self._config.elements_integrity)],
            frames=own,
            connections=own,
            data={"session_key": session.session_key, "environment": self._config.tenant},
        )

    async def describe(self, token: str) -> sdk.VaultCard:
        """See ``VaultProvider.describe``: ``GET /tokens/{id}`` as the key's ``mask`` transform shows it."""
        found = _read(await self._call("GET", f"/tokens/{_id(token)}"), 200, _Token)
        if found.type != "card":
            raise sdk.VaultError(f"the token is of type {found.type}, not a card; capture the card again")
        # /docs/api/tokens/token-types: the default mask of a card reveals the last four digits.
        last4 = found.data.number[-4:]
        seen = len(re.sub(r"\D", "", found.data.number))
        if seen > _SEEN_MAX or not re.fullmatch(r"[0-9]{4}", last4):
            raise sdk.VaultUnavailable(
                "the private key sees whole card numbers or none: give its token:read the transform 'mask'"
            )
        card = found.card or _from_bin(found.enrichments)
        return sdk.VaultCard(
            brand=_brand(card.brand),
            last4=last4,
            exp_month=found.data.expiration_month,
            exp_year=found.data.expiration_year,
            # Equal for equal numbers: /docs/api/tokens/token-types, default fingerprint expression of a card.
            fingerprint=found.fingerprint or found.id,
            funding=card.funding if card.funding in ("credit", "debit", "prepaid") else "unknown",
            issuer_country=card.issuer_country.alpha2 if card.issuer_country else None,
        )

    def placeholder(self, token: str, field: str) -> str:
        """See ``VaultProvider.placeholder``. Single quotes, so that it stands in JSON as it is; forms carry it percent-encoded
        (``/docs/guides/share/process-card-payments``, Stripe)."""
        return _EXPRESSIONS[field] % _id(token)

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:  # noqa: ARG002  (the placeholders name the token)
        """See ``VaultProvider.proxy``: ``/docs/api/proxies/ephemeral-proxy``. The method stays; what follows ``/proxy`` is
        appended to ``BT-PROXY-URL``, from whose end slashes are taken away, so it holds the origin only."""
        headers = request.headers.copy()
        headers["Host"] = httpx.URL(self._url).netloc.decode()
        headers["BT-API-KEY"] = self._config.private_key
        headers["BT-PROXY-URL"] = f"{request.url.scheme}://{request.url.netloc.decode()}"
        return httpx.Request(
            request.method,
            f"{self._url}/proxy{request.url.raw_path.decode()}",
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def check(self, response: httpx.Response) -> None:
        """See ``VaultProvider.check``. ``/docs/api/proxies/proxy-errors``: the destination's answers carry ``_STATUS``; without
        it the answer is Basis Theory's own, 4xx for a request it did not send on, 5xx for trouble of its own."""
        status = response.status_code
        if _STATUS in response.headers or status < 400:
            return
        if status == 408 or status >= 500:
            # /docs/api/proxies, destination URLs: 408 when the destination took more than 25 seconds.
            raise sdk.OutcomeUnknown(f"the vault's proxy answered {status}: it may have sent the request")
        if status == 429:
            raise sdk.PspUnavailable("not sent: the vault limits our requests")
        reason = {
            400: "does not know the card's token, or cannot read the request; the card must be captured again",
            401: "refuses our private key",
            403: "does not let our private key use this token: it needs token:use or proxy:invoke on /pci/",
        }.get(status, "refused the request")
        raise sdk.PspMisconfigured(f"not sent: the vault's proxy {reason} ({status})")

    async def delete(self, token: str) -> None:
        """See ``VaultProvider.delete``."""
        response = await self._call("DELETE", f"/tokens/{_id(token)}")
        if response.status_code not in (204, 404):
            raise _refused(response)

    async def check_connection(self) -> None:
        """See ``ChecksConnection.check_connection``: ``GET /tokens/{id}`` of an id that no token has. It needs the permission
        that ``describe`` needs, and the answer is 404."""
        answer = await self._call("GET", f"/tokens/{_NOBODY}")
        if answer.status_code != 404:
            raise _refused(answer)
        _read(answer, 404, _Problem)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str = ""
    ) -> httpx.Response:
        headers = {"BT-API-KEY": key or self._config.private_key}
        try:
            return await self._context.http.request(method, self._url + path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise sdk.VaultUnavailable(
                f"Basis Theory could not be reached at {self._url}: {type(error).__name__}"
            ) from error


def _id(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise sdk.VaultError("this is no token of Basis Theory; capture the card again")
    return quote(token, safe="")


def _from_bin(enrichments: _Enrichments | None) -> _Card:
    """Older tenants have ``enrichments.bin_details`` instead of ``card`` (``/docs/api/tokens/token-enrichments``)."""
    found = enrichments.bin_details if enrichments else None
    if found is None:
        return _Card()
    funding = "prepaid" if found.prepaid else (found.type or "").lower()
    return _Card(brand=found.card_brand, funding=funding, issuer_country=found.country)


def _brand(said: str | None) -> str:
    name = (said or "unknown").lower().replace(" ", "-")
    return _BRANDS.get(name, name)


def _read(response: httpx.Response, status: int, kind: type[T]) -> T:
    if response.status_code != status:
        raise _refused(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Not the error's own words: they may quote the answer.
        raise sdk.VaultUnavailable("Basis Theory's answer is not as documented") from error


def _refused(response: httpx.Response) -> sdk.VaultError:
    """``/docs/api/errors``."""
    if response.status_code == 404:
        return sdk.VaultError("Basis Theory does not know this token; capture the card again")
    hint = {401: ": check the keys", 403: ": check the applications' permissions"}.get(response.status_code, "")
    return sdk.VaultUnavailable(f"Basis Theory refused: {response.status_code}{hint}")


@sdk.hookimpl
def clearspan_vaults() -> Sequence[type[sdk.VaultProvider]]:
    """The provider."""
    return [BasisTheoryVault]
