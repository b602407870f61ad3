"""What the journal holds: entries and the order in which they are read."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, ColumnElement, DateTime, Integer, MetaData, Table, Text, Uuid, cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

from clearspan.platform.context import Scope


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in the journal's total order; followers go on after it.

    Attributes:
        epoch: grows when the data moves to a cluster whose transaction counter is behind.
        xid: the writing transaction (``xid8``).
        seq: within it, from 1.
    """

    epoch: int
    xid: int
    seq: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``journal``: something that happened."""

    tenant_id: UUID
    live: bool
    epoch: int
    xid: int
    seq: int
    event_id: UUID
    type: str
    subject_type: str
    subject_id: UUID
    sequence: int
    customer_id: UUID | None
    actor_type: str
    actor_id: str
    request_id: str
    data: dict[str, Any]
    at: datetime

    @property
    def scope(self) -> Scope:
        """Whose it is."""
        return Scope(tenant_id=self.tenant_id, live=self.live)

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(self.epoch, self.xid, self.seq)


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Some entries in order.

    Attributes:
        entries: oldest first.
        upto: everything up to here was looked at.
        more: there was more to look at.
        last: the event a client names to go on from ``upto``, when one was looked at.
    """

    entries: list[Entry]
    upto: Position
    more: bool
    last: UUID | None = None


class Xid8(UserDefinedType[int]):
    """``xid8`` as an integer. PostgreSQL has no cast to a number, hence the text between."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[int]:
        return cast(cast(column, Text), BigInteger)

    def bind_expression(self, bindvalue: Any) -> ColumnElement[Any]:
        return cast(cast(cast(bindvalue, BigInteger), Text), self)


journal = Table(
    "journal",
    MetaData(),
    Column("tenant_id", Uuid, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("xid", Xid8, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject_type", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("customer_id", Uuid),
    Column("actor_type", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)
"""The table. epoch, xid and seq are the database's to give; as the primary key they would be asked for at every insert."""
