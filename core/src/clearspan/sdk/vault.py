"""Vault providers: where card data lives. The gateway only ever holds tokens.

A provider opens a capture page, describes a token, sends a request so that the *vault* fills in the card on its way to the
PSP, and deletes a token.

The card is typed on a page of the vault's (``CaptureSession``), or into the vault's own fields on a page of the gateway
(``CapturePage``). It gets to the PSP in a request that is addressed to the vault (``proxy``), or in one that the vault's
forward proxy opens on its way (``TunnelsRequests``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
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


class VaultScript(msgspec.Struct, frozen=True):
    """A script that the vault serves.

    Attributes:
        url: of a fixed version.
        integrity: ``sha384-...``, where the vault publishes it; empty: the browser takes what comes.
    """

    url: str
    integrity: str = ""


class CapturePage(msgspec.Struct, frozen=True, kw_only=True):
    """What a page of the gateway needs to show the vault's own fields; the card is typed into these and comes nowhere else.

    The gateway shows the page under a policy that allows what is named here and nothing more, loads ``scripts`` in order
    and then the provider's ``capture_module`` (see ``CapturesOnOurPage``).

    Attributes:
        expires_at: aware UTC; after it ``data`` is good for nothing, and the page is loaded anew.
        scripts: the vault's.
        frames: origins of the fields (``https://js.vault.example``).
        connections: origins that scripts in the page speak to; the fields speak for themselves.
        data: what the module gets, public from here on: a session key, the vault's id, an environment.
    """

    expires_at: datetime
    scripts: Sequence[VaultScript]
    frames: Sequence[str]
    connections: Sequence[str] = ()
    data: Mapping[str, str] = {}


class Tunnel(msgspec.Struct, frozen=True):
    """A forward proxy of the vault's (HTTP CONNECT) that opens the TLS inside and fills in the card.

    Attributes:
        url: ``https://host:port`` or ``http://host:port``, without credentials.
        username, password: for the proxy.
        ca: PEM of the certificates that sign for the PSPs' names inside; trusted besides the system's, in this tunnel only.
    """

    url: str
    username: str
    password: str
    ca: str


class VaultContext(msgspec.Struct, frozen=True):
    """What the core hands to a provider.

    Attributes:
        http: a client with the core's limits.
        now: the time, aware UTC; never ask the system's clock.
    """

    http: httpx.AsyncClient
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class VaultProvider(Protocol):
    """One vault. Instances are made once per process from the operator's settings."""

    name: ClassVar[str]
    config_type: ClassVar[type[msgspec.Struct]]

    def __init__(self, config: msgspec.Struct, context: VaultContext) -> None:
        """Keep both; no I/O here."""
        ...

    async def create_session(self, return_url: str) -> CaptureSession | CapturePage:
        """Open a page; it sends the payer back to ``return_url`` with ``token=`` added to its query.

        A provider without a page of its own returns a ``CapturePage``: it is asked once when the session is opened and again
        whenever the payer loads the gateway's page, and opens a session of the vault's each time.

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


class CapturesOnOurPage(Protocol):
    """A provider whose ``create_session`` returns a ``CapturePage``.

    Attributes:
        capture_module: the text of an ES module without imports, served from the gateway's own origin. It exports
            ``async mount({data, fields, text, style})``, which returns ``{submit}``. ``fields`` has the selectors of empty
            elements for ``number``, ``expiry`` and ``cvc``; ``text`` their labels in the payer's language, for screen
            readers; ``style`` has ``color``, ``placeholder`` and ``fontSize`` as the page shows text. ``submit()`` makes a
            token: it resolves to ``{token}``, or to ``{invalid: ["number", ...]}`` when the payer must put something
            right, and rejects when the vault does not answer.
    """

    capture_module: ClassVar[str]


class ChecksConnection(Protocol):
    """A provider that can be asked whether its settings work. Optional, since 1.4: implement the method besides the others."""

    async def check_connection(self) -> None:
        """Make a call with the operator's settings that changes nothing and reads no card; return when the vault took them.

        Raises:
            VaultUnavailable: the vault could not be reached or refused us; the message says which and what to do.
        """
        ...


class TunnelsRequests(Protocol):
    """A provider that is a forward proxy. Optional: implement the method besides the others; ``proxy`` still gets to rewrite."""

    def tunnel(self) -> Tunnel:
        """Where requests with a card go through. Asked once for every HTTP pool. No I/O."""
        ...
