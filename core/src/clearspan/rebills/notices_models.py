"""Mails to customers as they are stored."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Repository, Scoped


class NoticeRow(Scoped):
    """A notice."""

    __tablename__ = "notices"

    id: Mapped[UUID] = mapped_column("notice_id", primary_key=True)
    kind: Mapped[str]
    customer_id: Mapped[UUID]
    subscription_id: Mapped[UUID | None]
    invoice_id: Mapped[UUID | None]
    credit_note_id: Mapped[UUID | None]
    state: Mapped[str]
    due_at: Mapped[datetime | None]
    tries: Mapped[int]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class NoticeRows(Repository[NoticeRow]):
    """Notices."""

    model_type = NoticeRow
    noun = "notice"
