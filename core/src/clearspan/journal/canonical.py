"""The one form of a journal row that is hashed: every column, always the same bytes for the same row. docs/audit.md defines it.

It does not depend on what produced the row, only on what PostgreSQL stores: ``data`` goes in byte for byte as PostgreSQL prints
the ``jsonb``, whose print is a fixed point (printed, read and printed again it is the same), so that dump and restore keep it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Leaf(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row of ``journal``. The fields stand in the order in which they are written, the alphabet's.

    Attributes:
        at: microseconds since 1970-01-01T00:00:00Z; PostgreSQL's word for what is no moment (``infinity``).
        data: JSON as PostgreSQL prints it.
        v: the version of this form.
    """

    actor_id: str
    actor_type: str
    at: int | str
    customer_id: str | None
    data: msgspec.Raw
    epoch: int
    event_id: str
    live: bool
    request_id: str
    seq: int
    sequence: int
    subject_id: str
    subject_type: str
    tenant_id: str
    type: str
    v: int = 1
    xid: int

    @property
    def position(self) -> tuple[int, int, int]:
        """Epoch, xid, seq."""
        return self.epoch, self.xid, self.seq

    @property
    def event(self) -> tuple[str, bool, str]:
        """What names the event: tenant, mode, id."""
        return self.tenant_id, self.live, self.event_id


_ENCODER = msgspec.json.Encoder()


def canonical(leaf: Leaf) -> bytes:
    """The bytes: JSON without white space, UTF-8, fields in the alphabet's order, only what must be escaped escaped."""
    return _ENCODER.encode(leaf)


def micros(column: str) -> str:
    """SQL for a time as text: microseconds since 1970, or PostgreSQL's word (``infinity``)."""
    number = f"trunc(extract(epoch FROM {column}) * 1000000)"
    return f"CASE WHEN isfinite({column}) THEN {number}::text ELSE {column}::text END AS {column}"


COLUMNS = f"""
    actor_id, actor_type, {micros("at")}, customer_id::text, data::text, epoch, event_id::text, live, request_id, seq, sequence,
    subject_id::text, subject_type, tenant_id::text, type, xid::text
"""
"""Of a SELECT from ``journal``, for ``of_record``. ``audit_row`` in sql/seal.sql gives the same as JSON."""


def of_record(row: dict[str, Any]) -> Leaf:
    """What a SELECT of ``COLUMNS`` gave."""
    at = row["at"]
    return Leaf(
        **row
        | {
            "at": int(at) if at.lstrip("-").isdecimal() else at,
            "data": msgspec.Raw(row["data"].encode()),
            "xid": int(row["xid"]),
        }
    )
