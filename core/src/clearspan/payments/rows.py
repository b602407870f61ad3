"""What the SQL functions of the money path answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from clearspan.payments.models import Operation, Payment
from clearspan.platform.idempotency import Answer
from clearspan.psps.service import Sending


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What a reserving SQL function answers; exactly one of ``payment``, ``replay`` and ``resume``."""

    payment: Payment | None = None
    operation: Operation | None = None
    sending: Sending | None = None
    operations: list[Operation] = []
    replay: Kept | None = None
    resume: Resume | None = None
    decision: Decision | None = None


class Kept(msgspec.Struct, frozen=True):
    status: int
    body: str

    def answer(self) -> Answer:
        return Answer(self.status, self.body.encode())


class Resume(msgspec.Struct, frozen=True):
    payment_id: UUID
    operation_id: UUID | None = None


class Settled(msgspec.Struct, frozen=True):
    """What ``operation_settle`` answers."""

    payment: Payment
    operation: Operation
    kept: bool


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """A payment with everything about it."""

    payment: Payment
    operations: list[Operation]
    facts: list[dict[str, Any]] = []
    audit: list[dict[str, Any]] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``decisions``."""

    decision_id: UUID
    outcome: str
    reason: str
    state: str
    proposed_by: str
    proposed_at: datetime
    psp_ref: str | None = None
    confirmed_by: str | None = None
    confirmed_at: datetime | None = None


class Stale(msgspec.Struct, frozen=True):
    payment_id: UUID
    status: str
    operation_id: UUID | None = None
