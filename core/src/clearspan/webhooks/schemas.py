"""Requests and answers of the webhooks' API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clearspan.platform import ids
from clearspan.platform.orm import Page
from clearspan.webhooks.models import Attempt, Delivery, Endpoint

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2048,
        description="https, on the public internet.",
        examples=["https://shop.example/hooks/clearspan"],
    ),
]
Pattern = Annotated[
    str,
    Meta(pattern=r"^(\*|[a-z_]{1,40}\.(\*|[a-z_]{1,40}))$(?!\n)", examples=["payment.*"]),
]
Patterns = Annotated[
    list[Pattern],
    Meta(
        min_length=1,
        max_length=100,
        description="Types such as `payment.captured`, all of a kind with `payment.*`, everything with `*`.",
        examples=[["payment.*", "refund.succeeded"]],
    ),
]
# PostgreSQL stores every character but NUL.
Description = Annotated[
    str, Meta(max_length=500, pattern=r"^[^\x00]*$", description="For people.", examples=["web shop"])
]
Moment = Annotated[datetime, Meta(tz=True, examples=["2030-01-01T00:00:00Z"])]


class EndpointCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add an endpoint. It is told what happens from now on."""

    url: Url
    events: Patterns
    description: Description | None = None
    status: Literal["enabled", "disabled"] = "enabled"
    api_version: Annotated[
        Literal["v1"], Meta(description="The shape of events this endpoint gets.", examples=["v1"])
    ] = "v1"


class EndpointUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change an endpoint: what is left out stays."""

    url: Url | UnsetType = UNSET
    events: Patterns | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    status: Annotated[Literal["enabled", "disabled"], Meta(examples=["disabled"])] | UnsetType = UNSET
    api_version: Annotated[Literal["v1"], Meta(examples=["v1"])] | UnsetType = UNSET


class SecretRotate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a new secret."""

    overlap_h: Annotated[
        int,
        Meta(ge=0, le=168, description="Hours in which the old secret signs too. 0 ends it at once.", examples=[24]),
    ] = 24


class RangeReplay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send again what happened in a time."""

    since: (
        Annotated[
            Moment,
            Meta(description="At this moment or later, at most as old as deliveries are kept; default: 24 hours ago."),
        ]
        | None
    ) = None
    until: Annotated[Moment, Meta(description="Before this moment; default: now.")] | None = None
    events: Annotated[Patterns, Meta(description="Only these; default: what the endpoint asks for.")] | None = None
    only_failed: Annotated[bool, Meta(description="Only what was given up.")] = False


class EndpointOut(msgspec.Struct, frozen=True, kw_only=True):
    """Where events are sent, without the secret."""

    id: Annotated[str, Meta(examples=["we_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["webhook_endpoint"]
    live: bool
    url: str
    events: list[str]
    description: str | None
    api_version: str
    status: Literal["enabled", "disabled", "deleted"]
    disabled_reason: Annotated[
        Literal["manual", "gone", "failing"] | None,
        Meta(description="manual: somebody did. gone: it answered 410. failing: nothing but failures for days."),
    ]
    disabled_at: datetime | None
    failing_since: Annotated[datetime | None, Meta(description="The first failure since the last success.")]
    previous_secret_until: Annotated[datetime | None, Meta(description="Until then the former secret signs too.")]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        """Its state."""
        return cls(
            id=ids.encode("we", endpoint.id),
            object="webhook_endpoint",
            live=endpoint.live,
            url=endpoint.url,
            events=endpoint.events,
            description=endpoint.description,
            api_version=endpoint.api_version,
            status=endpoint.status,  # type: ignore[arg-type]  # the column's CHECK holds the words
            disabled_reason=endpoint.disabled_reason,  # type: ignore[arg-type]  # likewise
            disabled_at=endpoint.disabled_at,
            failing_since=endpoint.failing_since,
            previous_secret_until=endpoint.previous_until,
            sequence=endpoint.sequence,
            created_at=endpoint.created_at,
            updated_at=endpoint.updated_at,
        )


class EndpointWithSecret(EndpointOut, frozen=True, kw_only=True):
    """An endpoint with its new secret."""

    secret: Annotated[
        str | None,
        Meta(
            description=(
                "`whsec_...`, shown once. null when this answer repeats an earlier one with the same Idempotency-Key: if the"
                " first answer got lost, rotate the secret."
            )
        ),
    ]

    @classmethod
    def issued(cls, endpoint: Endpoint, secret: str | None) -> Self:
        """The one answer with a secret, or its repetition without."""
        return cls(**msgspec.structs.asdict(EndpointOut.of(endpoint)), secret=secret)


class EndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """All endpoints of one mode, newest first."""

    object: Literal["list"]
    data: list[EndpointOut]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Endpoint]) -> Self:
        """Render a page."""
        return cls(
            object="list",
            data=[EndpointOut.of(one) for one in page.rows],
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )


class AttemptOut(msgspec.Struct, frozen=True, kw_only=True):
    """One try."""

    number: int
    at: datetime
    duration_ms: int
    status: Annotated[int | None, Meta(description="The HTTP status you answered; null when no answer came.")]
    error: Annotated[
        str | None,
        Meta(
            description=(
                "Why no answer came: `address_refused`, `connect_failed`, `tls_failed`, `timeout`, `connection_lost`,"
                " `not_rendered`."
            )
        ),
    ]
    answer: Annotated[str, Meta(description="The first kilobyte of your answer, card numbers masked.")]

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """As it was."""
        return cls(
            number=attempt.number,
            at=attempt.at,
            duration_ms=attempt.duration_ms,
            status=attempt.status,
            error=attempt.error,
            answer=attempt.answer,
        )


class DeliveryOut(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to an endpoint."""

    id: Annotated[str, Meta(examples=["wd_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["webhook_delivery"]
    live: bool
    endpoint: str
    event: Annotated[str, Meta(description="Also the message's `webhook-id`.")]
    type: str
    state: Literal["pending", "delivered", "failed", "canceled"]
    next_attempt_at: Annotated[
        datetime | None,
        Meta(description="About; an earlier event of the same object goes first. null while it is being tried."),
    ]
    attempts: int
    replays: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Its state."""
        return cls(
            id=ids.encode("wd", delivery.id),
            object="webhook_delivery",
            live=delivery.live,
            endpoint=ids.encode("we", delivery.webhook_endpoint_id),
            event=ids.encode("evt", delivery.event_id),
            type=delivery.event_type,
            state=delivery.state,  # type: ignore[arg-type]  # the column's CHECK holds the words
            next_attempt_at=delivery.due_at if delivery.lease_token is None else None,
            attempts=delivery.attempts,
            replays=delivery.replays,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            created_at=delivery.created_at,
            delivered_at=delivery.delivered_at,
        )


class DeliveryWithAttempts(DeliveryOut, frozen=True, kw_only=True):
    """A delivery and every try of it."""

    log: Annotated[list[AttemptOut], Meta(description="Every try, the first one first.")]

    @classmethod
    def with_log(cls, delivery: Delivery, attempts: Sequence[Attempt]) -> Self:
        """Both."""
        return cls(
            **msgspec.structs.asdict(DeliveryOut.of(delivery)), log=[AttemptOut.of(attempt) for attempt in attempts]
        )


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of deliveries, newest events first."""

    object: Literal["list"]
    data: list[DeliveryOut]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Delivery]) -> Self:
        """Render a page."""
        return cls(
            object="list",
            data=[DeliveryOut.of(one) for one in page.rows],
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )


class ReplayOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay began."""

    object: Literal["webhook_replay"]
    endpoint: str
    deliveries: Annotated[int, Meta(description="So many are sent again.")]
