"""Recomputing every payment from what is append-only, and saying where the stored copy differs.

Facts make the states of operations (``models.next_state``), operations and disputes make the payment (``models.derive``),
the payment's totals make its ledger; every change has an event. Nothing is repaired: whoever finds a difference looks for
its cause first (docs/runbooks/ledger-difference.md).

Two things are not in the facts. Whether an observer still held its lease: one that did not may not say *unknown* or *not
sent*, so such a fact may have had an effect or none. And the PSP's own order of its news: a webhook may have been older
than what was known. A state is accepted when some reading of the facts leads to it, together with the events, which do say
which way it went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text

from clearspan.ledger import service as ledger
from clearspan.payments.models import CHARGES, Dispute, Operation, OperationState, Payment, derive, next_state
from clearspan.platform import ids, sqlbundle
from clearspan.platform.context import Scope
from clearspan.platform.db import Database

PAYMENTS_AT_ONCE = 200
ROWS_AT_ONCE = 5_000
CLOCKS_DIFFER = timedelta(minutes=2)
"""Facts carry the time at which their writer began; two writers may have waited for the lock in the other order."""
READINGS_MAX = 5_000
"""Ways to read one operation's facts that are tried before it is left alone."""
ADOPTED = "adopted"
"""In ``operations.routing``: taken in from the PSP."""

S = OperationState


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something stored that does not follow from the rest.

    Attributes:
        tenant_id, live: where.
        kind: ``operation_state``, ``operation``, ``payment``, ``event``, ``orphan`` or ``ledger``.
        id: public id of what differs; of a key its hash.
        payment: public id of the payment it belongs to.
        what: in words.
        expected, found: what should stand there and what does.
    """

    tenant_id: UUID
    live: bool
    kind: str
    id: str
    what: str
    payment: str | None = None
    expected: str = ""
    found: str = ""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``facts``, as far as it decides about a state."""

    fact_id: UUID
    operation_id: UUID
    source: str
    observed: str
    observed_at: datetime
    amount_minor: int | None = None
    currency: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``journal`` about a payment, one of its operations or disputes. ``before`` and ``after`` are an operation's."""

    type: str
    subject_type: str
    subject_id: UUID
    sequence: int
    operation_id: UUID | None = None
    before: str | None = None
    after: str | None = None
    kind: str | None = None
    amount_minor: int | None = None
    currency: str | None = None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A payment and everything that says how it must stand; facts and events in their order."""

    payment: Payment
    operations: list[Operation]
    disputes: list[Dispute]
    facts: list[Fact]
    events: list[Event]


class _Page(msgspec.Struct, frozen=True):
    payments: list[Story]
    next: tuple[str, UUID] | None = None


class _Orphan(msgspec.Struct, frozen=True):
    id: str
    payment_id: UUID | None = None


class _Orphans(msgspec.Struct, frozen=True):
    looked: int
    next: str | None
    orphans: list[_Orphan]


class _Found(msgspec.Struct, frozen=True):
    """A difference within one payment."""

    kind: str
    id: str
    what: str
    expected: object = ""
    found: object = ""


LOOKED_AT = ("payments", "operations", "facts", "events", "idempotency keys", "ledger payments", "ledger entries")
"""What ``differences`` counts."""
_PAGE = msgspec.json.Decoder(_Page)
_ORPHANS = msgspec.json.Decoder(_Orphans)
_OPENING = frozenset({"operation.submitted", "operation.adopted", "refund.created"})
_DERIVED = (
    "status",
    "outcome",
    "charge_operation_id",
    "psp_account_id",
    "next_action",
    "last_error",
    "authorized_minor",
    "captured_minor",
    "capture_pending_minor",
    "voided_minor",
    "refunded_minor",
    "refund_pending_minor",
    "disputed_minor",
    "returned_minor",
    "surplus_minor",
)


async def differences(
    db: Database, scope: Scope | None, looked: Counter[str] | None = None
) -> AsyncIterator[Difference]:
    """Compare everything; in batches, with bounded memory, while payments go on.

    Args:
        scope: one tenant and mode; ``None`` is all of them.
        looked: counts what was looked at, by kind of row.

    Raises:
        DatabaseUnavailable: the server is away.
    """
    counted = Counter[str]() if looked is None else looked
    for one in [scope] if scope is not None else await scopes(db):
        async for found in _payments(db, one, counted):
            yield found
        for table in ("operations", "facts", "keys"):
            async for found in _orphans(db, one, table, counted):
                yield found
        async for wrong in ledger.differences(db, one, counted):
            yield _in_ledger(one, wrong)


async def scopes(db: Database) -> list[Scope]:
    """Every tenant in both modes."""
    async with db.begin(None) as session:
        everybody = text(f"SELECT tenant_id FROM {sqlbundle.name('tenants_all')}()")  # noqa: S608
        tenants = (await session.scalars(everybody)).all()
    return [Scope(tenant_id=tenant, live=live) for tenant in tenants for live in (False, True)]


async def _payments(db: Database, scope: Scope, looked: Counter[str]) -> AsyncIterator[Difference]:
    after: tuple[str, UUID] | None = None
    while True:
        document = _place(scope) | {"limit": PAYMENTS_AT_ONCE, "after": after}
        page = _PAGE.decode(await db.call("payments_check", document))
        for story in page.payments:
            looked["payments"] += 1
            looked["operations"] += len(story.operations)
            looked["facts"] += len(story.facts)
            looked["events"] += len(story.events)
            payment = ids.encode("pay", story.payment.payment_id)
            for found in examine(story):
                yield Difference(
                    tenant_id=scope.tenant_id,
                    live=scope.live,
                    kind=found.kind,
                    id=found.id,
                    payment=payment,
                    what=found.what,
                    expected=_shown(found.expected),
                    found=_shown(found.found),
                )
        after = page.next
        if after is None:
            return


async def _orphans(db: Database, scope: Scope, table: str, looked: Counter[str]) -> AsyncIterator[Difference]:
    prefix, what = {
        "operations": ("op", "this operation's payment does not exist"),
        "facts": ("fact", "this fact's operation does not exist"),
        "keys": (
            "",
            "the answer kept under this idempotency key is about a payment or an operation that does not exist",
        ),
    }[table]
    after: str | None = None
    while True:
        document = _place(scope) | {"limit": ROWS_AT_ONCE, "table": table, "after": after}
        page = _ORPHANS.decode(await db.call("orphans_check", document))
        if table == "keys":
            looked["idempotency keys"] += page.looked
        for orphan in page.orphans:
            yield Difference(
                tenant_id=scope.tenant_id,
                live=scope.live,
                kind="orphan",
                id=ids.encode(prefix, UUID(orphan.id)) if prefix else orphan.id,
                payment=ids.encode_optional("pay", orphan.payment_id),
                what=what,
            )
        after = page.next
        if after is None:
            return


def _in_ledger(scope: Scope, wrong: ledger.LedgerDifference) -> Difference:
    payment = ids.encode_optional("pay", wrong.payment_id)
    transfer = ids.encode_optional("trf", wrong.transfer_id)
    what = {
        "balance": f"the account {wrong.account} of this payment does not have the balance that its totals and fees say",
        "transfer_not_zero": "the entries of this transfer do not sum to zero",
        "payment_missing": "the payment of this transfer does not exist in its currency",
        "sum_not_zero": "the ledger in this currency does not sum to zero",
    }[wrong.kind]
    return Difference(
        tenant_id=scope.tenant_id,
        live=scope.live,
        kind="ledger",
        id=transfer or payment or wrong.currency,
        payment=payment,
        what=what,
        expected=f"{wrong.expected} {wrong.currency}",
        found=f"{wrong.found} {wrong.currency}",
    )


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


# -- One payment, without I/O ---------------------------------------------------------------------------------------------------


def examine(story: Story) -> Iterator[_Found]:
    """Everything about one payment that does not follow from the rest."""
    yield from _states(story)
    yield from _totals(story)
    yield from _events(story)


def _states(story: Story) -> Iterator[_Found]:
    facts: dict[UUID, list[Fact]] = {}
    for fact in story.facts:
        facts.setdefault(fact.operation_id, []).append(fact)
    for operation in story.operations:
        public = ids.encode("op", operation.operation_id)
        own = facts.get(operation.operation_id, [])
        voids = [
            _first(facts.get(other.operation_id, ()), "succeeded")
            for other in story.operations
            if other.kind == "void" and other.parent_id == operation.operation_id
        ]
        states = readings(operation, own, [moment for moment in voids if moment is not None])
        if states is not None and operation.state not in states:
            said = " or ".join(sorted(states))
            yield _Found("operation_state", public, "the state does not follow from the facts", said, operation.state)
        approved = next((one for one in own if one.observed == "succeeded" and one.amount_minor is not None), None)
        if approved is not None and (approved.amount_minor, approved.currency) != (
            operation.amount_minor,
            operation.currency,
        ):
            yield _Found(
                "operation",
                public,
                f"the PSP approved another amount (fact {ids.encode('fact', approved.fact_id)})",
                f"{approved.amount_minor} {approved.currency}",
                f"{operation.amount_minor} {operation.currency}",
            )


def _first(facts: Sequence[Fact], observed: str) -> datetime | None:
    return next((fact.observed_at for fact in facts if fact.observed == observed), None)


class _Step(msgspec.Struct, frozen=True):
    """A moment at which the state may have changed."""

    at: datetime
    observed: str
    surely: bool
    answered: bool


def readings(operation: Operation, facts: Sequence[Fact], voided_at: Sequence[datetime] = ()) -> set[S] | None:
    """The states that an operation may be in after these facts; ``None`` when there are too many ways to read them.

    Args:
        operation: whose; its kind, and whether news of it came in the PSP's order, matter.
        facts: all of it, in the order of time.
        voided_at: when a void of it took effect: a charge that still waited has expired by that.
    """
    start = {S.SUBMITTED, S.NOT_SENT} if operation.routing.get("rule") == ADOPTED else {S.SUBMITTED}
    steps = [
        _Step(
            fact.observed_at,
            fact.observed,
            surely=fact.source != "webhook"
            and not (fact.source == "lookup" and operation.psp_sequence is not None)
            and fact.observed not in (S.UNKNOWN, S.NOT_SENT),
            answered=fact.source == "response",
        )
        for fact in facts
    ]
    steps += [_Step(moment, "voided", surely=False, answered=True) for moment in voided_at]
    steps.sort(key=lambda one: one.at)
    states = _fold(operation.kind, steps, start)
    if operation.state in states:
        return states
    return _fold_in_any_order(operation.kind, steps, start)


def _next(kind: str, state: S, step: _Step) -> set[S]:
    if step.observed == "voided":
        return {state, S.EXPIRED} if state in (S.REQUIRES_ACTION, S.PENDING) else {state}
    try:
        observed = S(step.observed)
    except ValueError:
        return {state}
    after = next_state(state, observed, kind=kind, answered=step.answered)
    return {after} if step.surely else {after, state}


def _fold(kind: str, steps: Sequence[_Step], start: set[S]) -> set[S]:
    states = start
    for step in steps:
        states = {after for state in states for after in _next(kind, state, step)}
    return states


def _fold_in_any_order(kind: str, steps: Sequence[_Step], start: set[S]) -> set[S] | None:
    """As ``_fold``, with steps that are close in time in whatever order."""
    ends: set[S] = set()
    seen: set[tuple[int, S]] = set()
    stack = [(0, state) for state in start]
    everything = (1 << len(steps)) - 1
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > READINGS_MAX:
            return None
        done, state = place
        if done == everything:
            ends.add(state)
            continue
        left = [number for number in range(len(steps)) if not done >> number & 1]
        for number in left:
            if steps[number].at - steps[left[0]].at > CLOCKS_DIFFER:
                break
            stack += [(done | 1 << number, after) for after in _next(kind, state, steps[number])]
    return ends


def _totals(story: Story) -> Iterator[_Found]:
    stored = story.payment
    derived = derive(stored, story.operations, story.disputes)
    public = ids.encode("pay", stored.payment_id)
    for name in _DERIVED:
        if getattr(derived, name) != getattr(stored, name):
            what = f"{name} does not follow from the operations and disputes"
            yield _Found("payment", public, what, getattr(derived, name), getattr(stored, name))


def _events(story: Story) -> Iterator[_Found]:
    payment = story.payment
    public = ids.encode("pay", payment.payment_id)
    created = next((event for event in story.events if event.type == "payment.created"), None)
    if created is not None and (created.amount_minor, created.currency) != (payment.amount_minor, payment.currency):
        yield _Found(
            "payment",
            public,
            "the amount is not the one it was created with",
            f"{created.amount_minor} {created.currency}",
            f"{payment.amount_minor} {payment.currency}",
        )
    for operation in story.operations:
        yield from _events_of(story, operation)
    yield from _sequences(story)


def _events_of(story: Story, operation: Operation) -> Iterator[_Found]:
    public = ids.encode("op", operation.operation_id)
    opened = next(
        (one for one in story.events if one.subject_id == operation.operation_id and one.type in _OPENING), None
    )
    if opened is None:
        yield _Found("event", public, "no event says that this operation was made", "operation.submitted")
    elif (opened.kind, opened.amount_minor, opened.currency) != (
        operation.kind,
        operation.amount_minor,
        operation.currency,
    ):
        yield _Found(
            "operation",
            public,
            "it is not for what it was made for",
            f"{opened.kind} {opened.amount_minor} {opened.currency}",
            f"{operation.kind} {operation.amount_minor} {operation.currency}",
        )
    adopted = operation.routing.get("rule") == ADOPTED
    state: str | None = None if adopted else S.SUBMITTED
    for event in story.events:
        if event.operation_id != operation.operation_id or event.after is None:
            continue
        if state is not None and event.before != state:
            what = f"no event tells how the operation came from {state} to {event.before}"
            yield _Found("event", public, what, state, event.before)
        state = event.after
    if state is None:  # taken in, and nothing was heard of it since
        return
    by_void = (
        operation.state is S.EXPIRED
        and state in (S.REQUIRES_ACTION, S.PENDING)
        and any(
            other.kind == "void" and other.parent_id == operation.operation_id and other.state is S.SUCCEEDED
            for other in story.operations
        )
    )
    if state != operation.state and not by_void:
        what = f"no event tells how the operation came from {state} to {operation.state}"
        yield _Found("event", public, what, state, operation.state)


def _sequences(story: Story) -> Iterator[_Found]:
    """Each number of a payment was told by an event of its own or of one of its operations, each of a dispute by its own.

    A dispute that changes the payment's amounts gives the payment a number that no event carries; a payment that was taken in
    begins with its first operation.
    """
    payment = story.payment
    public = ids.encode("pay", payment.payment_id)
    disputes = Counter(event.subject_id for event in story.events if event.subject_type == "dispute")
    told = {event.sequence for event in story.events if event.subject_type != "dispute"}
    missing = [number for number in range(1, payment.sequence + 1) if number not in told]
    if missing[:1] == [1] and any(
        operation.routing.get("rule") == ADOPTED and operation.kind in CHARGES for operation in story.operations
    ):
        missing = missing[1:]
    if len(missing) > disputes.total():
        yield _Found(
            "event", public, "changes of the payment were told by no event: their numbers", missing, sorted(told)
        )
    above = sorted(number for number in told if number > payment.sequence)
    if above:
        yield _Found("event", public, "events are ahead of the payment", payment.sequence, above)
    for dispute in story.disputes:
        numbers = {event.sequence for event in story.events if event.subject_id == dispute.dispute_id}
        if numbers != set(range(1, dispute.sequence + 1)):
            name = ids.encode("dp", dispute.dispute_id)
            what = "the events of the dispute do not have the numbers 1 to its own"
            yield _Found("event", name, what, dispute.sequence, sorted(numbers))
