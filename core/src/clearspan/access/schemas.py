"""Requests and answers of the API keys' API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from clearspan.access.keys import SCOPES
from clearspan.access.models import ApiKey
from clearspan.platform import clock, ids
from clearspan.platform.orm import Page

ScopeName = Annotated[str, Meta(pattern=f"^({'|'.join(SCOPES)})$(?!\\n)", examples=["payments:read"])]
Scopes = Annotated[
    list[ScopeName],
    Meta(
        min_length=1,
        max_length=len(SCOPES),
        description="What the key may do; at most what the key that makes it may do.",
        examples=[["payments:read", "payments:write"]],
    ),
]
ExpiresAt = Annotated[
    datetime, Meta(tz=True, description="ISO 8601 with its offset, in the future.", examples=["2030-01-01T00:00:00Z"])
]


class ApiKeyCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make an API key."""

    # PostgreSQL stores every character but NUL.
    name: Annotated[
        str, Meta(max_length=200, pattern=r"^[^\x00]+$", description="For people.", examples=["shop backend"])
    ]
    scopes: Scopes
    expires_at: ExpiresAt | None = None


class ApiKeyOut(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"]
    live: bool
    name: str
    prefix: Annotated[str, Meta(description="How the key begins, to recognise it by.", examples=["csk_test_4f7zk2m9"])]
    scopes: list[str]
    status: Literal["active", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Meta(description="To the minute, about.")]
    rotated_from: Annotated[str | None, Meta(description="The key that this one replaces.")]

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Its state at this moment."""
        return cls(
            id=ids.encode("key", key.id),
            object="api_key",
            live=key.live,
            name=key.name,
            prefix=f"csk_{'live' if key.live else 'test'}_{key.prefix}",
            scopes=sorted(key.scopes),
            status=key.status(clock.now()),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
            rotated_from=ids.encode_optional("key", key.rotated_from),
        )


class ApiKeyCreatedOut(ApiKeyOut, frozen=True, kw_only=True):
    """A new API key, with its secret."""

    secret: Annotated[
        str | None,
        Meta(
            description=(
                "The key itself, shown once and stored nowhere. null when this answer repeats an earlier one with the same"
                " Idempotency-Key: if the first answer got lost, rotate or revoke the key."
            )
        ),
    ]

    @classmethod
    def issued(cls, key: ApiKey, secret: str | None) -> Self:
        """The one answer with a secret, or its repetition without."""
        return cls(**msgspec.structs.asdict(ApiKeyOut.of(key)), secret=secret)


class ApiKeyList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of API keys, newest first."""

    object: Literal["list"]
    data: list[ApiKeyOut]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[ApiKey]) -> Self:
        """Render a page."""
        return cls(
            object="list",
            data=[ApiKeyOut.of(key) for key in page.rows],
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )
