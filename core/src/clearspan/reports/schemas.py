"""What is reported. Amounts are minor units of their currency and never summed across currencies."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

import msgspec

from clearspan.platform import ids


class Tally(msgspec.Struct, frozen=True):
    """How payments stand that were tried.

    Attributes:
        tried: a charge was asked for.
        succeeded: authorised or captured.
        declined: declined, or never reached the PSP; another try may follow.
        unclear: nobody knows yet: neither a success nor a failure.
    """

    tried: int = 0
    succeeded: int = 0
    declined: int = 0
    unclear: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.tried + other.tried,
            self.succeeded + other.succeeded,
            self.declined + other.declined,
            self.unclear + other.unclear,
        )

    @property
    def rate(self) -> float | None:
        """Successes among what was decided, 0 to 1; ``None`` when nothing was."""
        decided = self.succeeded + self.declined
        return self.succeeded / decided if decided else None


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """Money of one currency.

    Attributes:
        captured_minor: today so far.
        before_minor: yesterday until the same time.
        refunded_minor: today; a refund that failed after it had succeeded is taken off.
        refunds: how many succeeded today.
        hours: captured per hour of today, up to now.
    """

    currency: str
    captured_minor: int
    before_minor: int
    refunded_minor: int
    refunds: int
    hours: list[int]


class Queue(msgspec.Struct, frozen=True):
    """What waits.

    Attributes:
        count: how much, at most ``COUNT_MAX``, which means so many or more.
        since: the oldest of it; of disputes to answer, when the first is due.
    """

    count: int = 0
    since: datetime | None = None


class AccountHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP account today.

    Attributes:
        id: ``acct_…``.
        blocked_because: the code with which it refused the merchant, while no rebill goes there.
        tally: of payments made today whose last charge went there.
        circuits: group of verbs -> ``closed``, ``half_open`` or ``open``; what this process alone has seen.
        problem: why the PSP does not take the settings; what this process alone has seen.
    """

    id: str
    psp: str
    name: str
    enabled: bool
    blocked_until: datetime | None
    blocked_because: str | None
    tally: Tally
    circuits: dict[str, str]
    problem: str | None

    @property
    def open_circuits(self) -> list[str]:
        """The groups that are not called now."""
        return sorted(group for group, state in self.circuits.items() if state != "closed")

    @property
    def state(self) -> str:
        """``disabled``, ``misconfigured``, ``unhealthy`` or ``healthy``."""
        if not self.enabled:
            return "disabled"
        if self.problem or self.blocked_because:
            return "misconfigured"
        return "unhealthy" if self.open_circuits else "healthy"


class RebillsToday(msgspec.Struct, frozen=True, kw_only=True):
    """Rebills of a day.

    Attributes:
        due: still to be charged before the day ends, with the periods that end before it does.
        charged: paid by their first try today.
        recovered: paid today by a later one.
        failed: tries of today that were declined.
        open: tries of today without an outcome yet.
    """

    due: int
    charged: int
    recovered: int
    failed: int
    open: int


class Today(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's day in a zone, up to ``at``.

    Attributes:
        hours: the beginnings of today's hours up to now; 23 to 25 a day.
        payments, before: of today, and of yesterday until the same time.
        tried_by_hour: payments tried per hour.
        endpoints_off: webhook endpoints that were switched off because they failed.
        approvals: refunds and decisions that wait for a second person.
    """

    day: date
    at: datetime
    hours: list[datetime]
    volumes: list[Volume]
    payments: Tally
    before: Tally
    tried_by_hour: list[int]
    declined_by_hour: list[int]
    rebills: RebillsToday
    accounts: list[AccountHealth]
    unknown: Queue
    needs_review: Queue
    parked: Queue
    deliveries: Queue
    endpoints_off: int
    notices: Queue
    disputes: Queue
    disputes_to_answer: Queue
    approvals: Queue

    @property
    def refunds(self) -> int:
        """How many, in all currencies."""
        return sum(one.refunds for one in self.volumes)


class PaymentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as a list shows it.

    Attributes:
        sequence: grows with each change; of two copies the higher one is newer.
        code: why the last charge was declined.
        account: the PSP account's name.
        kind, brand, last4: of the payment method.
    """

    payment_id: UUID
    sequence: int
    created_at: datetime
    updated_at: datetime
    amount_minor: int
    currency: str
    status: str
    outcome: str | None
    captured_minor: int
    refunded_minor: int
    disputed_minor: int
    code: str | None
    reference: str | None
    account: str | None
    kind: str | None
    brand: str | None
    last4: str | None

    @property
    def id(self) -> str:
        """``pay_…``."""
        return ids.encode("pay", self.payment_id)

    @property
    def state(self) -> str:
        """One word for people: unknown before anything else, then what was given back, then the status."""
        if self.outcome is not None:
            return self.outcome
        if self.captured_minor and self.refunded_minor:
            return "refunded" if self.refunded_minor >= self.captured_minor else "partially_refunded"
        if self.status == "requires_payment_method" and self.code is not None:
            return "failed"
        return self.status


class Rows(msgspec.Struct, frozen=True):
    """Payments, newest first.

    Attributes:
        cursor: an event; whatever comes after it is not (or maybe) in the rows. ``None``: nothing has happened yet.
    """

    rows: list[PaymentRow]
    cursor: UUID | None = None
