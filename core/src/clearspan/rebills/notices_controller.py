"""``/v1/notices``: what customers were mailed, and what waits to be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Meta
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.orm import Repository, Scoped
from clearspan.platform.problems import InvalidRequest
from clearspan.platform.replies import problems

STATES = ("queued", "sent", "failed", "dropped")
_FILTERS = frozenset({"limit", "cursor", "invoice", "customer", "state"})
Id = Annotated[str | None, QueryParameter(max_length=90)]


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


class NoticeController(Controller):
    """Notices."""

    path = "/notices"
    tags = ("Invoices",)

    @get(opt={"scope": "invoices:read"}, responses=problems(ids.InvalidId))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        db: NamedDependency[Database],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
        invoice: Id = None,
        customer: Id = None,
        wanted: Annotated[
            str | None,
            QueryParameter(name="state", pattern="^[a-z_]{1,40}$", description=f"One of {', '.join(STATES)}."),
        ] = None,
    ) -> NoticeList:
        """Mails to customers, newest first: sent, waiting, given up, or not sent and why."""
        for name in request.query_params:
            if name not in _FILTERS:
                raise InvalidRequest(
                    f"There is no filter {name[:40]!r}; there are {', '.join(sorted(_FILTERS))}.",
                    errors=[{"path": name[:40], "message": "unknown query parameter"}],
                )
        if wanted is not None and wanted not in STATES:
            raise InvalidRequest(
                f"state is one of {', '.join(STATES)}.", errors=[{"path": "state", "message": "unknown"}]
            )
        conditions: Sequence[ColumnElement[bool]] = [
            *([] if invoice is None else [NoticeRow.invoice_id == ids.decode("inv", invoice)]),
            *([] if customer is None else [NoticeRow.customer_id == ids.decode("cus", customer)]),
            *([] if wanted is None else [NoticeRow.state == wanted]),
        ]
        async with db.begin(caller.scope) as session:
            page = await NoticeRows(session).page(caller.scope, *conditions, limit=limit, cursor=cursor)
        data = [
            NoticeOut(
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
            for row in page.rows
        ]
        return NoticeList(object="list", data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)
