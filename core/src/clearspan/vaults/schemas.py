"""Requests and answers of the capture sessions' API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

WEB_ADDRESS = r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#][!-~]*)?(?!\s)$"
"""An address that browsers, vaults and PSPs all take: visible ASCII, everything else percent-encoded."""

VaultName = Annotated[
    str,
    Meta(min_length=1, max_length=60, description="Which vault; default: the only enabled one.", examples=["sandbox"]),
]


class CaptureSessionCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open a page on which the payer types the card."""

    return_url: Annotated[
        str,
        Meta(
            max_length=2000,
            pattern=WEB_ADDRESS,
            description="Where the payer's browser goes afterwards, with `token=` added to its query.",
            examples=["https://shop.example/card-saved"],
        ),
    ]
    vault: VaultName | None = None


class CaptureSessionOut(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted page of the vault: the card goes there and never comes here."""

    object: Literal["capture_session"]
    live: bool
    vault: str
    url: Annotated[str, Meta(description="Send the payer's browser here.")]
    expires_at: datetime
