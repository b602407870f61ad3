"""Endpoints, deliveries, attempts; when a failed delivery is tried again."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform import clock
from clearspan.platform.orm import Base, Scoped

ENDPOINTS_MAX = 20
"""Per tenant and mode."""
DELAYS_S = (5, 60, 300, 1_800, 7_200, 21_600, 43_200, 86_400, 108_000)
"""From one failed try to the next: ten tries over 74.6 hours."""
JITTER = 0.1
"""At most so much of a delay is added to it, so that what failed together does not come back together."""
RETRY_AFTER_S_MAX = 86_400


class Endpoint(Scoped):
    """Where a tenant wants its events. The cursor columns belong to the SQL functions."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[UUID] = mapped_column("webhook_endpoint_id", primary_key=True)
    url: Mapped[str]
    description: Mapped[str | None]
    events: Mapped[list[str]]
    api_version: Mapped[str]
    status: Mapped[str]
    disabled_reason: Mapped[str | None]
    disabled_at: Mapped[datetime | None]
    secret: Mapped[bytes]
    previous_secret: Mapped[bytes | None]
    previous_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def changed(self) -> None:
        """Count a change."""
        self.sequence += 1
        self.updated_at = clock.now()

    def enable(self) -> None:
        """Go on where it stopped; earlier failures count no longer."""
        self.status, self.disabled_reason, self.disabled_at, self.failing_since = "enabled", None, None, None

    def disable(self) -> None:
        """On somebody's word; one that is disabled already keeps its reason."""
        if self.status == "enabled":
            self.status, self.disabled_reason, self.disabled_at = "disabled", "manual", clock.now()

    def rotate(self, sealed: bytes, overlap_h: int) -> None:
        """Take a new secret; the old one signs too until the overlap ends."""
        # Both columns are sealed for the same place, so the old one moves as it is.
        self.previous_secret, self.previous_until = self.secret, clock.now() + clock.seconds(overlap_h * 3600)
        self.secret = sealed


class Delivery(Scoped):
    """An event for an endpoint. The position columns belong to the SQL functions."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column("delivery_id", primary_key=True)
    webhook_endpoint_id: Mapped[UUID]
    event_id: Mapped[UUID]
    event_type: Mapped[str]
    state: Mapped[str]
    due_at: Mapped[datetime | None]
    lease_token: Mapped[UUID | None]
    tries: Mapped[int]
    attempts: Mapped[int]
    replays: Mapped[int]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    def replay(self) -> None:
        """Try again now, from the first try on; one that is being tried stays as it is."""
        if self.lease_token is None:
            self.state, self.due_at, self.tries = "pending", clock.now(), 0
            self.replays += 1
            self.updated_at = clock.now()


class Attempt(Base):
    """One try, and what the consumer said."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "live", "delivery_id"],
            ["webhook_deliveries.tenant_id", "webhook_deliveries.live", "webhook_deliveries.delivery_id"],
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    live: Mapped[bool] = mapped_column(primary_key=True)
    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    duration_ms: Mapped[int]
    status: Mapped[int | None]
    error: Mapped[str | None]
    answer: Mapped[str]


def retry_at(failures: int, now: datetime, retry_after_s: int | None) -> datetime | None:
    """When to try again, or ``None`` when that was the last try.

    Args:
        failures: tries so far, all of them failed, 1 or more.
        now: an aware UTC moment.
        retry_after_s: how long the consumer asked to be left alone; never sooner than the schedule, at most a day.
    """
    if failures > len(DELAYS_S):
        return None
    chance = int.from_bytes(clock.random_bytes(4), "big") / 2**32
    delay_s = DELAYS_S[failures - 1] * (1 + JITTER * chance)
    return now + clock.seconds(max(delay_s, min(retry_after_s or 0, RETRY_AFTER_S_MAX)))


def read_retry_after(text: str | None, now: datetime) -> int | None:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3): a number or a date; ``None`` for anything else."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0, int((until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()))
