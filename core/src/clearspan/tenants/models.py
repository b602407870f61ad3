"""The table of tenants."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Base


class Tenant(Base):
    """A merchant with everything that is theirs. It has no mode: its test and live data are both its own."""

    __tablename__ = "tenants"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    status: Mapped[str]
    data_key: Mapped[bytes]
    created_at: Mapped[datetime]
