"""Answers of events and audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.journal.models import Entry
from clearspan.platform import ids

SUBJECTS = {
    "payment": "pay",
    "refund": "re",
    "operation": "op",
    "dispute": "dp",
    "customer": "cus",
    "payment_method": "pm",
    "psp_account": "acct",
    "api_key": "key",
    "webhook_endpoint": "we",
    "tenant": "ten",
}
"""What an entry can be about, with the prefix of its public id."""

_REFERENCES = {
    "payment_id": "pay",
    "refund_id": "re",
    "operation_id": "op",
    "dispute_id": "dp",
    "psp_account_id": "acct",
    "customer_id": "cus",
    "payment_method_id": "pm",
    "key_id": "key",
    "tenant_id": "ten",
}
"""Keys of ``data`` that hold the id of something else."""


class Subject(msgspec.Struct, frozen=True):
    """What it is about."""

    type: Annotated[str, Meta(examples=["payment"])]
    id: Annotated[str, Meta(examples=["pay_01h455vb4pex5vsknk084sn02q"])]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """With its public id. One that only a newer release knows keeps its plain UUID."""
        prefix = SUBJECTS.get(entry.subject_type)
        text = ids.encode(prefix, entry.subject_id) if prefix else str(entry.subject_id)
        return cls(type=entry.subject_type, id=text)


class Actor(msgspec.Struct, frozen=True):
    """Who did it."""

    type: Annotated[str, Meta(description="api_key, operator, system, cli or psp.", examples=["api_key"])]
    id: Annotated[str, Meta(description="The key's or person's id, or a part of the system.", examples=["recovery"])]


class EventOut(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. The same in the feed and on the stream."""

    id: Annotated[str, Meta(examples=["evt_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["event"] = msgspec.field(default="event")
    type: Annotated[str, Meta(examples=["payment.captured"])]
    live: bool
    created_at: datetime
    sequence: Annotated[int, Meta(description="Of the subject; grows. Drop an event with a lower one than you have.")]
    subject: Subject
    request_id: Annotated[str, Meta(description="Of the request that caused it.")]
    data: Annotated[
        dict[str, Any],
        Meta(description="What changed then; `object` is the subject as it is now, null when it is not rendered."),
    ]

    @classmethod
    def of(cls, entry: Entry, rendered: Mapping[str, Any] | None) -> Self:
        """The event with the current state of its subject."""
        return cls(
            id=ids.encode("evt", entry.event_id),
            type=entry.type,
            live=entry.live,
            created_at=entry.at,
            sequence=entry.sequence,
            subject=Subject.of(entry),
            request_id=entry.request_id,
            data=_public(entry.data) | {"object": rendered},
        )


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Events, oldest first."""

    object: Literal["list"] = "list"
    data: list[EventOut]
    next_cursor: Annotated[
        str | None, Meta(description="Send it as `after`, now or later. It is there even when there is no more yet.")
    ]
    has_more: bool


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to what, when, and in which request."""

    id: Annotated[str, Meta(examples=["evt_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["audit_entry"] = "audit_entry"
    type: Annotated[str, Meta(examples=["api_key.revoked"])]
    at: datetime
    actor: Actor
    subject: Subject
    customer: str | None
    request_id: str
    sequence: int
    data: dict[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The entry with public ids."""
        return cls(
            id=ids.encode("evt", entry.event_id),
            type=entry.type,
            at=entry.at,
            actor=Actor(type=entry.actor_type, id=entry.actor_id),
            subject=Subject.of(entry),
            customer=ids.encode_optional("cus", entry.customer_id),
            request_id=entry.request_id,
            sequence=entry.sequence,
            data=_public(entry.data),
        )


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """Audit entries, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditEntry]
    next_cursor: str | None
    has_more: bool


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: ids.encode(_REFERENCES[name], UUID(value)) if name in _REFERENCES and value is not None else value
        for name, value in data.items()
    }
