"""Requests and answers of the PSP accounts API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from clearspan.platform import ids

Config = Annotated[
    dict[str, Any],
    Meta(
        max_length=50,
        description="The adapter's settings; sealed on arrival and never shown again.",
        examples=[{"url": "http://127.0.0.1:8081", "api_key": "sk_sandbox_alpha"}],
    ),
]
Priority = Annotated[int, Meta(ge=0, le=10_000, description="Lower is tried first.", examples=[10])]


class PspAccountCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add an account at a PSP."""

    psp: Annotated[str, Meta(min_length=1, max_length=40, description="The adapter's name.", examples=["sandbox"])]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(?!\s)$", examples=["alpha"])]
    config: Config
    priority: Priority = 100


class PspAccountUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change an account; what is left out stays."""

    priority: Priority | None = None
    status: Literal["enabled", "disabled"] | None = None
    config: Config | None = None


class PspAccountOut(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP account, without its settings."""

    id: str
    object: Literal["psp_account"]
    live: bool
    psp: str
    name: str
    priority: int
    status: Literal["enabled", "disabled"]
    config_version: int
    sequence: int
    created_at: datetime
    updated_at: datetime
    health: Annotated[
        dict[str, Literal["closed", "open", "half_open"]],
        Meta(
            description="By kind of call, as the answering process sees it: closed (calls are made), open (they are not), "
            "half_open (one tries). Each process counts for itself.",
            examples=[{"charge": "closed", "refund": "open"}],
        ),
    ] = {}

    @classmethod
    def of(cls, row: Any) -> PspAccountOut:
        """From the columns of ``psp_accounts``."""
        return cls(
            id=ids.encode("acct", row.psp_account_id),
            object="psp_account",
            live=row.live,
            psp=row.psp,
            name=row.name,
            priority=row.priority,
            status=row.status,
            config_version=row.config_version,
            sequence=row.sequence,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class PspAccountList(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts of a mode."""

    object: Literal["list"]
    data: list[PspAccountOut]
