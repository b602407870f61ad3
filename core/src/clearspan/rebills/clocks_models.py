"""The mapped test clock."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Repository, Scoped


class TestClock(Scoped):
    """A clock that moves only when it is told to. SQL moves it (``sql/clocks.sql``)."""

    __test__ = False  # pytest: not a test class
    __tablename__ = "test_clocks"

    id: Mapped[UUID] = mapped_column("test_clock_id", primary_key=True)
    name: Mapped[str]
    status: Mapped[str]
    now_at: Mapped[datetime]
    target_at: Mapped[datetime | None]
    steps: Mapped[int]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ClockRows(Repository[TestClock]):
    """Test clocks."""

    model_type = TestClock
    noun = "test clock"
