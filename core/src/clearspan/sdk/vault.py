"""Vault providers: where card data lives. The gateway only ever holds tokens.

A provider opens a hosted capture page, describes a token, rewrites a request so that the *vault* fills in the card on its
way to the PSP, and deletes a token.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Protocol

import httpx
import msgspec


class VaultCard(msgspec.Struct, frozen=True):
    """What may be known about a card outside the vault.

    Attributes:
        brand: lower case scheme name (``visa``, ``mastercard``, ``amex`` ...), ``unknown`` when the vault does not say.
        last4: the last four digits.
        exp_month: 1 to 12.
        exp_year: four digits.
        fingerprint: equal for the same card number in the same vault account; not reversible.
        funding: ``credit``, ``debit``, ``prepaid`` or ``unknown``.
        issuer_country: ISO 3166-1 alpha-2 or ``None``.
    """

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str
    funding: str = "unknown"
    issuer_country: str | None = None


class CaptureSession(msgspec.Struct, frozen=True):
    """A hosted page on the vault's own origin, where the payer types the card.

    Attributes:
        url: where to send the payer's browser.
        expires_at: aware UTC; after it the page refuses.
    """

    url: str
    expires_at: datetime


class VaultContext(msgspec.Struct, frozen=True):
    """What the core hands to a provider: its own settings, and a client with the core's limits."""

    http: httpx.AsyncClient


class VaultProvider(Protocol):
    """One vault. Instances are made once per process from the operator's settings."""

    name: ClassVar[str]
    config_type: ClassVar[type[msgspec.Struct]]

    def __init__(self, config: msgspec.Struct, context: VaultContext) -> None:
        """Keep both; no I/O here."""
        ...

    async def create_session(self, return_url: str) -> CaptureSession:
        """Open a hosted page; it sends the payer back to ``return_url`` with ``token=`` added to its query.

        Raises:
            VaultError: the vault refused; the message says why.
        """
        ...

    async def describe(self, token: str) -> VaultCard:
        """What may be known of the card behind a token.

        Raises:
            VaultError: no such token.
            VaultUnavailable: the vault could not be reached or refused us.
        """
        ...

    def placeholder(self, token: str, field: str) -> str:
        """The text the vault replaces in a proxied request; ``field`` is number, exp_month, exp_year or cvc."""
        ...

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:
        """The same request, addressed to the vault, which fills in the card and forwards it. No I/O."""
        ...

    def check(self, response: httpx.Response) -> None:
        """Look at the head of an answer that came through the vault; let pass what the PSP answered. No I/O.

        Raises:
            PspUnavailable: the vault says it could not connect to the PSP, so nothing was sent.
            PspMisconfigured: the vault refused (unknown token, wrong key, forbidden target); nothing was sent to the PSP.
            OutcomeUnknown: the vault says it sent and got no clear answer.
        """
        ...

    async def delete(self, token: str) -> None:
        """Forget a card. Deleting an unknown token is no error."""
        ...
