"""The table of API keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Base, Scoped

CREATED, ROTATED, REVOKED = 1, 2, 3
"""``sequence`` in the journal: what a key can go through, in this order."""


class ApiKey(Scoped):
    """An API key; the secret itself is nowhere."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column("key_id", primary_key=True)
    prefix: Mapped[str]
    secret_hmac: Mapped[bytes]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    rotated_from: Mapped[UUID | None]

    def status(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Whether it works."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def successor_expires_at(self, now: datetime) -> datetime | None:
        """A successor lives as long as this one was made to live."""
        return None if self.expires_at is None else now + (self.expires_at - self.created_at)

    def retire(self, now: datetime, overlap: timedelta) -> None:
        """Work beside the successor for ``overlap``, and never longer than before."""
        end = now + overlap
        self.expires_at = end if self.expires_at is None else min(self.expires_at, end)


class MembershipRow(Base):
    """A person in a tenant, in both modes."""

    __tablename__ = "memberships"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    operator_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    version: Mapped[int]
