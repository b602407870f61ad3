"""The mapped test clock."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.context import Scope
from clearspan.platform.orm import Repository, Scoped


class TestClock(Scoped):
    """A clock that moves only when it is told to. SQL moves it (``sql/clocks.sql``)."""

    __test__ = False  # pytest: not a test class
    __tablename__ = "test_clocks"

    id: Mapped[UUID] = mapped_column("test_clock_id", primary_key=True)
    name: Mapped[str]
    covers: Mapped[str]
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

    async def covering(self, scope: Scope) -> TestClock | None:
        """The clock that covers the tenant, locked; whoever asks comes one after the other, also while there is none."""
        await self.session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant || ' test clock', 0))"),
            {"tenant": str(scope.tenant_id)},
        )
        found: TestClock | None = await self.session.scalar(
            select(TestClock)
            .where(TestClock.tenant_id == scope.tenant_id, TestClock.live.is_(scope.live), TestClock.covers == "tenant")
            .with_for_update()
        )
        return found
