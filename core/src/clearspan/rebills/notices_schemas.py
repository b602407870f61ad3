"""Answers of the API of mails to customers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.platform import ids
from clearspan.rebills.notices_models import NoticeRow


class NoticeFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What mails are searched by; all must hold."""

    invoice_id: UUID | None = None
    customer_id: UUID | None = None
    state: str | None = None


class NoticeOut(msgspec.Struct, frozen=True, kw_only=True):
    """A mail to a customer. Its text is made when it is sent and not kept."""

    id: str
    object: Literal["notice"]
    live: bool
    kind: str
    state: Literal["queued", "sent", "failed", "dropped"]
    customer: str
    subscription: str | None
    invoice: str | None
    credit_note: str | None
    due_at: Annotated[datetime | None, Meta(description="When it is tried next; null when it is done with.")]
    tries: int
    error: Annotated[str | None, Meta(description="Why the last try failed, or why it was dropped.")]
    created_at: datetime
    sent_at: datetime | None


class NoticeList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of notices, newest first."""

    object: Literal["list"]
    data: list[NoticeOut]
    has_more: bool
    next_cursor: str | None


def notice_out(row: NoticeRow) -> NoticeOut:
    """Render the current state."""
    return NoticeOut(
        id=ids.encode("ntc", row.id),
        object="notice",
        live=row.live,
        kind=row.kind,
        state=row.state,  # type: ignore[arg-type]  # the column's CHECK holds the words
        customer=ids.encode("cus", row.customer_id),
        subscription=ids.encode_optional("sub", row.subscription_id),
        invoice=ids.encode_optional("inv", row.invoice_id),
        credit_note=ids.encode_optional("cn", row.credit_note_id),
        due_at=row.due_at,
        tries=row.tries,
        error=row.error,
        created_at=row.created_at,
        sent_at=row.sent_at,
    )
