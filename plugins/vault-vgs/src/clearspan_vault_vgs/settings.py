"""Settings of the VGS vault."""

from __future__ import annotations

import ssl
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, Secret

COLLECT_VERSION = "3.2.2"
"""The version in VGS's guide to Collect.js with the Vault API (read 2026-11)."""
COLLECT_HOST = "https://js.verygoodvault.com"


class VgsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings."""

    vault_id: Annotated[
        str, Meta(title="Vault", description="Begins with tnt.", pattern=r"^tnt[a-z0-9]+$", examples=["tntsfeqzp4a"])
    ]
    username: Annotated[str, Meta(title="User name of the access credentials", min_length=1)]
    password: Annotated[Secret, Meta(title="Password of the access credentials")]
    ca: Annotated[
        str,
        Meta(
            title="Certificate of the outbound proxy",
            description="The PEM that VGS shows for the environment under 'Code snippets'.",
            pattern=r"^\s*-----BEGIN CERTIFICATE-----",
        ),
    ]
    route_id: Annotated[
        str,
        Meta(
            title="Inbound route",
            description="Id of the inbound route whose upstream is the Vault API: Collect.js sends the card to it.",
            min_length=1,
            pattern=r"^[A-Za-z0-9-]+$",
        ),
    ]
    environment: Annotated[Literal["sandbox", "live", "live-eu-1"], Meta(title="Environment")] = "sandbox"
    collect_version: Annotated[
        str, Meta(title="Version of Collect.js", description="Fixed.", pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    ] = COLLECT_VERSION
    collect_integrity: Annotated[
        str,
        Meta(
            title="Integrity of Collect.js",
            description="sha384-... of that version's file, made by you (see the README); empty: not checked.",
        ),
    ] = ""
    url: Annotated[Host, Meta(title="Vault API", description="Leave it empty for VGS's own.")] = ""
    proxy_url: Annotated[Host, Meta(title="Outbound proxy", description="Leave it empty for the vault's own.")] = ""
    collect_url: Annotated[Host, Meta(title="Collect.js", description="Leave it empty for VGS's own.")] = ""

    def __post_init__(self) -> None:
        """Refuse at the start what would fail at the first payment."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=self.ca)
        except (ssl.SSLError, ValueError):
            raise ValueError("ca is no certificate in PEM: copy it whole, with its first and last line") from None
