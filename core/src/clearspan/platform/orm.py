"""What mapped models and their repositories share: composite keys, and queries that take a scope first.

The database's schema is written in SQL (``clearspan.migrations``); models only name the columns. Row security stands
behind every query here and does not replace the scope in it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import ARRAY, ColumnElement, DateTime, LargeBinary, Text, Uuid, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from clearspan.platform.context import Scope
from clearspan.platform.problems import InvalidRequest, NotFound


class Base(DeclarativeBase):
    """The base of every mapped model."""

    type_annotation_map = {
        UUID: Uuid(),
        str: Text(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text()),
        dict[str, str]: JSONB(),
        dict[str, Any]: JSONB(),
    }


class Scoped(Base):
    """A row of one tenant in one mode.

    A model names its own id: ``id: Mapped[UUID] = mapped_column("customer_id", primary_key=True)``.
    """

    __abstract__ = True

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    live: Mapped[bool] = mapped_column(primary_key=True, sort_order=-1)
    id: Mapped[UUID]

    @property
    def scope(self) -> Scope:
        """Whose row it is."""
        return Scope(tenant_id=self.tenant_id, live=self.live)


T = TypeVar("T", bound=Scoped)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows, newest first; ``next_cursor`` asks for those after them and is ``None`` at the end."""

    rows: Sequence[T]
    next_cursor: str | None


class Repository(SQLAlchemyAsyncRepository[T]):
    """Rows of one model. Ids are UUIDv7, so the order of ids is the order of creation."""

    noun = "object"
    """For messages."""

    def __init__(self, session: AsyncSession) -> None:
        # Errors stay SQLAlchemy's: Database.begin reads them, and so does ``violated``.
        super().__init__(session=session, auto_refresh=False, wrap_exceptions=False)

    def of(self, scope: Scope) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """The first two conditions of every query."""
        return self.model_type.tenant_id == scope.tenant_id, self.model_type.live.is_(scope.live)

    async def find(self, scope: Scope, row_id: UUID, *, lock: bool = False) -> T | None:
        """One row, locked until the end of the transaction when asked."""
        statement = select(self.model_type).where(*self.of(scope), self.model_type.id == row_id)
        # Keys never change: rows that refer to a locked one may be written meanwhile.
        return await self.session.scalar(statement.with_for_update(key_share=True) if lock else statement)

    async def require(self, scope: Scope, row_id: UUID, *, lock: bool = False) -> T:
        """The same.

        Raises:
            NotFound: there is none in this scope.
        """
        row = await self.find(scope, row_id, lock=lock)
        if row is None:
            raise self.missing()
        return row

    async def among(self, scope: Scope, row_ids: Iterable[UUID]) -> Sequence[T]:
        """Those of the rows that exist, in no order."""
        return (
            await self.session.scalars(
                select(self.model_type).where(*self.of(scope), self.model_type.id.in_(list(row_ids)))
            )
        ).all()

    async def page(self, scope: Scope, *conditions: ColumnElement[bool], limit: int, cursor: str | None) -> Page[T]:
        """Newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        statement = select(self.model_type).where(*self.of(scope), *conditions)
        if cursor is not None:
            statement = statement.where(self.model_type.id < read_cursor(cursor))
        rows = (await self.session.scalars(statement.order_by(self.model_type.id.desc()).limit(limit + 1))).all()
        more = len(rows) > limit
        return Page(rows=rows[:limit], next_cursor=write_cursor(rows[limit - 1].id) if more else None)

    def missing(self) -> NotFound:
        """The refusal for an id that does not exist, or belongs to another tenant or mode."""
        return NotFound(
            f"There is no such {self.noun}. Check the id, and that the key is of the same tenant and mode (test or live)."
        )


def write_cursor(last: UUID) -> str:
    """The opaque text that continues a list after this row."""
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(cursor: str) -> UUID:
    """The row after which a list continues.

    Raises:
        InvalidRequest: the cursor is none of ours.
    """
    try:
        last = UUID(bytes=base64.b64decode(cursor.encode() + b"==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        last = None
    if last is None or write_cursor(last) != cursor:
        message = "This is no cursor of a list: take next_cursor from the page before, unchanged."
        raise InvalidRequest(message, errors=[{"path": "cursor", "message": message}])
    return last


def violated(error: IntegrityError) -> str | None:
    """The name of the constraint that refused."""
    cause = error.orig.__cause__ if error.orig is not None else None
    name: str | None = getattr(cause, "constraint_name", None)
    return name
