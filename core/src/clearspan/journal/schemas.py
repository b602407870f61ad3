"""Answers of events and audit trail."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.journal.checkpoint import Checkpoint
from clearspan.journal.models import Entry
from clearspan.platform import ids

SUBJECTS = {
    "payment": "pay",
    "refund": "re",
    "operation": "op",
    "dispute": "dp",
    "customer": "cus",
    "payment_method": "pm",
    "mandate": "man",
    "test_clock": "tc",
    "plan": "plan",
    "coupon": "cpn",
    "subscription": "sub",
    "invoice": "inv",
    "credit_note": "cn",
    "psp_account": "acct",
    "webhook": "whi",
    "api_key": "key",
    "webhook_endpoint": "we",
    "tenant": "ten",
    "rebill": "inv",
    "dunning_plan": "dun",
    "operator": "opr",
    "approval": "apv",
    "notice": "ntc",
    "bulk_run": "bulk",
}
"""What an entry can be about, with the prefix of its public id."""

_REFERENCES = {
    "payment_id": "pay",
    "refund_id": "re",
    "operation_id": "op",
    "dispute_id": "dp",
    "subscription_id": "sub",
    "invoice_id": "inv",
    "mandate_id": "man",
    "psp_account_id": "acct",
    "customer_id": "cus",
    "payment_method_id": "pm",
    "credit_note_id": "cn",
    "key_id": "key",
    "tenant_id": "ten",
    "bulk_run_id": "bulk",
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


class AuditKey(msgspec.Struct, frozen=True, kw_only=True):
    """What checkpoints are verified with."""

    object: Literal["audit_key"] = "audit_key"
    origin: Annotated[str, Meta(description="The log's name, and the key's.")]
    algorithm: Literal["ed25519"] = "ed25519"
    public_key: Annotated[str, Meta(description="32 bytes in base64.")]
    verifier_key: Annotated[str, Meta(description="The same as `name+hash+base64` (c2sp.org/signed-note).")]


class CheckpointOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was signed."""

    object: Literal["audit_checkpoint"] = "audit_checkpoint"
    size: Annotated[int, Meta(description="Entries in the tree.")]
    root: Annotated[str, Meta(description="Root hash of the tree, in base64.")]
    note: Annotated[str, Meta(description="The signed note (c2sp.org/tlog-checkpoint), byte for byte.")]
    created_at: datetime

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """As it is stored."""
        root = base64.b64encode(bytes.fromhex(checkpoint.root)).decode()
        return cls(size=checkpoint.size, root=root, note=checkpoint.note, created_at=checkpoint.created_at)


class CheckpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoints, newest first."""

    object: Literal["list"] = "list"
    data: list[CheckpointOut]
    next_cursor: str | None
    has_more: bool


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True):
    """That an event is in the tree (RFC 6962, section 2.1.1); hashes in base64."""

    object: Literal["audit_proof"] = "audit_proof"
    event: Annotated[str, Meta(examples=["evt_01h455vb4pex5vsknk084sn02q"])]
    leaf_index: int
    leaf: Annotated[str, Meta(description="What was hashed: the event in its canonical form, see docs/audit.md.")]
    leaf_hash: str
    tree_size: int
    root: str
    proof: Annotated[list[str], Meta(description="Sibling hashes, the leaf's own first.")]
    checkpoint: Annotated[str | None, Meta(description="The signed note, when the last checkpoint has this size.")]


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """That the tree only grew (RFC 6962, section 2.1.2); hashes in base64."""

    object: Literal["audit_consistency"] = "audit_consistency"
    from_size: int
    to_size: int
    from_root: str
    to_root: str
    proof: list[str]


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: ids.encode(_REFERENCES[name], UUID(value)) if name in _REFERENCES and value is not None else value
        for name, value in data.items()
    }
