"""Queues of work that waits for people, and bulk runs over them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

COUNT_MAX: Final = 1_001
"""Rows of a queue are counted up to here; one less is shown as "1,000+"."""
TOTAL_MAX: Final = 100_001
"""The same for a bulk run at its start. It works on all that matches, however many that is."""
REASON_MAX: Final = 500
IDS_MAX: Final = 1_000
"""Rows that can be named one by one."""


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """One queue.

    Attributes:
        name: as in addresses.
        reads: the scope for looking.
        acts: the scope for doing something.
        prefix: of the public ids of its rows.
        states: it can be narrowed to.
        dismisses: whether its rows can be dismissed, too.
    """

    name: str
    reads: str
    acts: str
    prefix: str
    states: tuple[str, ...] = ()
    dismisses: bool = False


QUEUES: Final[Mapping[str, Queue]] = {
    queue.name: queue
    for queue in (
        Queue(
            name="unknown",
            reads="payments:read",
            acts="payments:write",
            prefix="op",
            states=("unknown", "needs_review"),
        ),
        Queue(
            name="webhooks",
            reads="psp_webhooks:read",
            acts="psp_webhooks:write",
            prefix="whi",
            states=("parked", "needs_attention"),
            dismisses=True,
        ),
        Queue(name="deliveries", reads="webhook_endpoints:read", acts="webhook_endpoints:write", prefix="wd"),
        Queue(
            name="notices",
            reads="invoices:read",
            acts="invoices:write",
            prefix="ntc",
            states=("failed", "retrying", "undeliverable"),
        ),
        Queue(
            name="rebills",
            reads="dunning:read",
            acts="dunning:write",
            prefix="inv",
            states=("needs_review", "blocked", "held"),
        ),
    )
}
"""Those whose rows stand in the database."""
JOBS_READ: Final = "payments:read"
JOBS_ACT: Final = "psp_webhooks:write"
"""Who may wake a worker: a job only says that there is work, and moves no money that its rows do not."""


class Narrowed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of a queue is meant; all that is given must hold.

    Attributes:
        ids: exactly these rows.
        state: one of the queue's.
        account: of this PSP account.
        endpoint: to this webhook endpoint.
        kind: of operation, message, event or mail, as the queue shows it.
        before: there since before this moment.
    """

    ids: list[UUID] | None = None
    state: str | None = None
    account: UUID | None = None
    endpoint: UUID | None = None
    kind: str | None = None
    before: datetime | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a queue.

    Attributes:
        id: of the row.
        kind: what it is, in the words of its own table.
        state: why it waits.
        since: when it began.
        next_at: the next automatic try; ``None``: only a person moves it.
        code: of the last error, normalised.
        note: of the last error, in the other side's words.
        about: ids and amounts of what it belongs to; differs per queue.
    """

    id: UUID
    kind: str
    state: str
    since: datetime
    next_at: datetime | None
    code: str | None
    note: str | None
    about: dict[str, Any]


class WorkPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows in the order of ids; ``total`` of what matches is counted up to ``COUNT_MAX``."""

    rows: list[Item]
    total: int


class Refusal(msgspec.Struct, frozen=True):
    """A row that a run could do nothing about."""

    id: UUID
    code: str


class BulkRun(msgspec.Struct, frozen=True, kw_only=True):
    """See the table ``bulk_runs``."""

    bulk_run_id: UUID
    queue: str
    action: str
    filter: dict[str, Any]
    reason: str
    state: str
    total: int
    total_is_more: bool
    done: int
    failed: int
    errors: list[Refusal]
    asked_by: str
    lease_token: UUID | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done."""
        return self.state in ("done", "canceled")

    @property
    def left(self) -> int:
        """At least so many are still to come; rows that others have dealt with meanwhile are not."""
        return 0 if self.is_over else max(0, self.total - self.done - self.failed)
