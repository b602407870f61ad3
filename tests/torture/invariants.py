"""What must hold after every run, whatever went wrong in it: our database, the PSP's own book and what clients were told.

All tiers of the bench use this one module. ``read`` takes the rows as a superuser, ``check`` looks at them. Each rule is a
function of its own; its code (``I1`` ...) is the one of the fault model in docs/reliability.md. The rules are written against
the tables and the book and not with the gateway's own functions, so that a mistake there is not repeated here; ``derived`` is
the exception and says so.

    ours = await read(connection, tenants)
    broken = check(ours, {psp_account_id: book, ...}, answers) + await canaries(connection, tenants, needles)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import msgspec

from clearspan.payments.models import Dispute, Operation, Payment, derive
from clearspan.platform import ids

Json = dict[str, Any]
Books = Mapping[str, Sequence[Json]]
"""PSP account id (a UUID's text) -> everything in the PSP's book for it, as ``GET /v1/book`` lists it."""

CHARGES = ("authorize", "purchase")
TOOK_EFFECT = ("succeeded", "surplus")
FINAL = frozenset({"succeeded", "declined", "expired", "not_charged", "not_sent", "surplus", "reversed"})
TRANSITIONS = {
    "prepared": {"submitted", "not_sent", "unknown"},
    "submitted": {"not_sent", "succeeded", "declined", "requires_action", "pending", "unknown"},
    "requires_action": {"succeeded", "declined", "expired", "pending", "unknown"},
    "pending": {"succeeded", "declined", "expired", "unknown"},
    "unknown": {"succeeded", "declined", "pending", "requires_action", "expired", "not_charged", "needs_review"},
    "needs_review": {"succeeded", "declined", "not_charged"},
    "succeeded": {"reversed"},
    "declined": {"surplus", "reversed"},
    "expired": {"surplus"},
    "not_charged": {"surplus"},
    "not_sent": {"surplus"},
}
"""The table of docs/concepts.md, written down a second time on purpose."""
BROKEN_RULES = frozenset(
    {"amount_exceeds_authorized", "amount_exceeds_captured", "already_captured", "charge_voided", "charge_not_captured"}
)
"""Refusals of the sandbox that say: the amount is not there."""
_TABLES = {
    "payments": "payment_intents",
    "operations": "operations",
    "facts": "facts",
    "keys": "idempotency_keys",
    "disputes": "disputes",
    "journal": "journal",
}


class Violation(msgspec.Struct, frozen=True):
    """One rule that does not hold. ``code`` is I1 to I11, or ``lost``."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a client was told once.

    Attributes:
        tenant_id: whose client.
        route: method and path template; with ``key`` it names the request.
        key: the client's idempotency key.
        request: path and body, or a hash of them; another one under the same key must be refused.
        status, body: the answer.
        request_id: of the answer, when it is known.
    """

    tenant_id: str
    route: str
    key: str
    request: str
    status: int
    body: str
    request_id: str = ""


class Ours(msgspec.Struct, frozen=True):
    """The rows of our database as JSON objects; bytes are ``\\x`` and hexadecimal digits."""

    payments: list[Json]
    operations: list[Json]
    facts: list[Json]
    keys: list[Json]
    disputes: list[Json]
    journal: list[Json]

    def by_payment(self) -> dict[str, list[Json]]:
        """Operations of each payment, oldest first."""
        found: dict[str, list[Json]] = defaultdict(list)
        for operation in sorted(self.operations, key=lambda one: (one["created_at"], one["operation_id"])):
            found[operation["payment_id"]].append(operation)
        return found

    def by_reference(self) -> dict[str, Json]:
        """Operations by what the PSP knows them as."""
        return {reference(one["operation_id"]): one for one in self.operations}


def reference(operation_id: str) -> str:
    """The reference under which an operation goes to a PSP."""
    return ids.encode("op", UUID(operation_id))


async def read(connection: asyncpg.Connection[asyncpg.Record], tenants: Sequence[UUID] | None = None) -> Ours:
    """All rows that the rules look at.

    Args:
        connection: a superuser's; anyone else sees no rows.
        tenants: only theirs; ``None`` takes all.
    """
    found = {}
    for name, table in _TABLES.items():
        order = " ORDER BY t.epoch, t.xid, t.seq" if name == "journal" else ""
        rows = await connection.fetch(
            f"SELECT to_jsonb(t)::text AS row FROM {table} t WHERE $1::uuid[] IS NULL OR tenant_id = ANY ($1){order}",
            tenants,
        )
        found[name] = [msgspec.json.decode(row["row"]) for row in rows]
    return Ours(**found)


def check(ours: Ours, books: Books, answers: Iterable[Answered] = (), *, settled: bool = True) -> list[Violation]:
    """Every rule over rows, books and answers.

    Args:
        ours: from ``read``.
        books: of *all* PSP accounts that ``ours`` has used.
        answers: what clients got, in any order.
        settled: the run had its time to come to rest; without it, what may still be found out is no violation.
    """
    kept = list(answers)
    found = [
        *one_charge_per_intent(ours, books, settled=settled),
        *charged_there_is_known_here(ours, books, settled=settled),
        *succeeded_here_is_true_there(ours, books, settled=settled),
        *only_listed_transitions(ours),
        *one_answer_per_key(ours, kept),
        *one_event_per_transition(ours),
        *totals_agree(ours, books, settled=settled),
        *asked_for_what_was_there(ours, books),
        *derived(ours),
        *nothing_crosses_tenants(ours, books, kept),
        *nothing_is_lost(ours),
    ]
    return [*found, *comes_to_rest(ours), *canceled_is_given_back(ours, books)] if settled else found


# -- I1, I2, I3: the money ------------------------------------------------------------------------------------------------------


def holds(charge: Json) -> int:
    """What a charge in the PSP's book still holds of the payer's money, in minor units: not given back."""
    if charge["status"] not in ("succeeded", "pending"):
        return 0
    captured, voided, refunded = (charge.get(name, 0) for name in ("captured", "voided", "refunded"))
    if charge["status"] == "pending":
        return int(charge["amount"])
    return int((charge["amount"] - captured - voided) + (captured - refunded))


def lapsed(books: Books) -> set[str]:
    """The PSP's ids of authorisations that took effect and ran out, all or what was left: nobody asked for that."""
    released: Counter[str] = Counter()
    for book in books.values():
        for one in book:
            released[one.get("charge") or ""] += one.get("released", 0)
    return {
        one["id"]
        for one in _booked(books, "charge")
        if one.get("network_transaction_id")
        and (one["status"] == "expired" or one.get("voided", 0) > released[one["id"]])
    }


def one_charge_per_intent(ours: Ours, books: Books, *, settled: bool = True) -> Iterator[Violation]:
    """I1: of all charges that the PSPs booked for an intent, at most one still holds money.

    Before everything has come to rest a second one may exist if we know it as surplus.
    """
    ops = ours.by_reference()
    holding: dict[str, list[tuple[Json, Json]]] = defaultdict(list)
    for charge in _booked(books, "charge"):
        operation = ops.get(charge["reference"])
        if operation is not None and holds(charge) > 0:
            holding[operation["payment_id"]].append((operation, charge))
    for payment_id, charges in holding.items():
        stuck = {one["parent_id"] for one in ours.operations if _refused_to_return(one)}
        counted = [
            one for one in charges if one[0]["state"] != "surplus" or (settled and one[0]["operation_id"] not in stuck)
        ]
        if len(counted) > 1:
            told = ", ".join(f"{charge['id']} ({op['state']}, holds {holds(charge)})" for op, charge in charges)
            yield Violation("I1", f"payment {payment_id} was charged {len(counted)} times: {told}")
    for reference_, count in Counter(
        charge["reference"] for charge in _booked(books, "charge") if charge["status"] in ("succeeded", "pending")
    ).items():
        if count > 1:
            yield Violation("I1", f"the PSP executed {count} charges for the one operation {reference_}")


def charged_there_is_known_here(ours: Ours, books: Books, *, settled: bool = True) -> Iterator[Violation]:
    """I2: what took effect at a PSP is known here, as succeeded or as surplus; and we asked for all of it."""
    ops = ours.by_reference()
    given_up = {ids.encode("op", uuid5(UUID(one["operation_id"]), "give up")) for one in ours.operations}
    for account, book in books.items():
        for booked in book:
            operation = ops.get(booked.get("reference", ""))
            if booked["kind"] not in ("charge", "capture", "void", "refund"):
                continue
            if operation is None:
                if not (booked["kind"] == "void" and booked["reference"] in given_up):
                    yield Violation("I2", f"{booked['id']} is in the PSP's book and unknown here: {booked}")
                continue
            if operation["psp_account_id"] != account:
                yield Violation("I2", f"{_named(operation)} went to account {account}")
            if booked["status"] == "succeeded" and operation["state"] not in ("succeeded", "surplus"):
                # A void may meet the charge a moment after it went through: it is taken back, and ended here as given up.
                taken_back = operation["state"] == "expired" and holds(booked) == 0
                if (operation["state"] in FINAL or settled) and not taken_back:
                    yield Violation("I2", f"{_named(operation)} took effect at the PSP as {booked['id']}")
            elif booked["status"] == "pending" and operation["state"] in FINAL - {"succeeded", "surplus"}:
                yield Violation("I2", f"{_named(operation)} is still pending at the PSP as {booked['id']}")


def succeeded_here_is_true_there(ours: Ours, books: Books, *, settled: bool = True) -> Iterator[Violation]:
    """I3: what we call succeeded (or surplus) is in the PSP's book: same amount, same currency, same account.

    What a human decided without the PSP's reference is the human's word.
    """
    booked = {(account, one["reference"], one["kind"]): one for account, book in books.items() for one in _best(book)}
    gone = lapsed(books)
    human = {fact["operation_id"] for fact in ours.facts if fact["source"] == "human"}
    for operation in ours.operations:
        if operation["state"] not in ("succeeded", "surplus") or operation["operation_id"] in human:
            continue
        kind = "charge" if operation["kind"] in CHARGES else operation["kind"]
        found = booked.get((operation["psp_account_id"], reference(operation["operation_id"]), kind))
        if found is None:
            yield Violation("I3", f"{_named(operation)} is not in the PSP's book")
        elif found["status"] == "failed" and not settled:
            continue  # A refund that failed after all; the news is on its way.
        elif found["status"] != "succeeded" and found["id"] not in gone:
            yield Violation("I3", f"{_named(operation)} is {found['status']} in the PSP's book")
        elif (found["amount"], found["currency"]) != (operation["amount_minor"], operation["currency"]):
            yield Violation("I3", f"{_named(operation)}: the PSP booked {found['amount']} {found['currency']}")
        elif operation["psp_ref"] != found["id"]:
            yield Violation(
                "I3", f"{_named(operation)} has the reference {operation['psp_ref']}, the PSP's is {found['id']}"
            )

    amounts = {one["operation_id"]: (one["amount_minor"], one["currency"]) for one in ours.operations}
    for fact in ours.facts:
        said, asked = (fact["amount_minor"], fact["currency"]), amounts[fact["operation_id"]]
        if fact["observed"] == "succeeded" and said[0] is not None and said != asked:
            yield Violation(
                "I3", f"{reference(fact['operation_id'])}: a success over {said} was believed, asked was {asked}"
            )


def canceled_is_given_back(ours: Ours, books: Books) -> Iterator[Violation]:
    """I1, of what was cancelled while its outcome was open: no charge of it holds money, unless the PSP refused."""
    booked = {one["reference"]: one for one in _booked(books, "charge")}
    ops = ours.by_payment()
    for payment in ours.payments:
        mine = ops[payment["payment_id"]]
        if payment["cancel_requested_at"] is None or any(_refused_to_return(one) for one in mine):
            continue
        for charge in mine:
            there = booked.get(reference(charge["operation_id"]))
            if charge["kind"] in CHARGES and there is not None and holds(there) > 0:
                yield Violation("I1", f"{_named(charge)} was cancelled, and the PSP still holds {holds(there)}")


# -- I4, I6: the record ---------------------------------------------------------------------------------------------------------


def only_listed_transitions(ours: Ours) -> Iterator[Violation]:
    """I4: the journal of each operation is a walk along the table, and it ends where the operation stands."""
    for operation, steps in _walks(ours):
        for before, after in steps:
            if after not in TRANSITIONS.get(before, ()):
                yield Violation("I4", f"{_named(operation)} went from {before} to {after}")
        if operation["state"] == "reversed" and operation["kind"] != "refund":
            yield Violation("I4", f"{_named(operation)}: only a refund can be reversed")


def one_event_per_transition(ours: Ours) -> Iterator[Violation]:
    """I6: each step of an operation has one event, in order, and none is missing; sequences of a payment have no gap."""
    for operation, steps in _walks(ours):
        adopted = operation["routing"].get("rule") == "adopted"
        state = steps[0][0] if adopted and steps else "submitted"
        for before, after in steps:
            if before != state:
                yield Violation("I6", f"{_named(operation)}: an event tells of {before} -> {after} when it was {state}")
            state = after
        if state != operation["state"]:
            yield Violation("I6", f"{_named(operation)}: the last event says {state}")
    twice = Counter(
        (event["data"]["payment_id"], event["sequence"]) for event in ours.journal if "operation_after" in event["data"]
    )
    for (payment_id, sequence), count in twice.items():
        if count > 1:
            yield Violation(
                "I6", f"payment {payment_id}: {count} changes have the sequence {sequence}, a consumer drops one"
            )
    told: dict[str, set[int]] = defaultdict(set)
    for event in ours.journal:
        if event["subject_type"] in ("payment", "operation", "refund"):  # A dispute counts for itself.
            payment_id = event["subject_id"] if event["subject_type"] == "payment" else event["data"].get("payment_id")
            told[payment_id].add(event["sequence"])
    for payment in ours.payments:
        missing = set(range(1, payment["sequence"] + 1)) - told[payment["payment_id"]]
        if (
            missing and payment["disputed_minor"] + payment["returned_minor"] == 0
        ):  # A dispute's event has its own sequence.
            yield Violation("I6", f"payment {payment['payment_id']}: no event for the sequences {sorted(missing)}")
        if told[payment["payment_id"]] - set(range(1, payment["sequence"] + 1)):
            yield Violation("I6", f"payment {payment['payment_id']}: events beyond the sequence {payment['sequence']}")
    for operation in ours.operations:
        submitted = [
            event
            for event in ours.journal
            if event["subject_id"] == operation["operation_id"]
            and event["type"] in ("operation.submitted", "operation.adopted", "refund.created")
        ]
        if len(submitted) != 1:
            yield Violation("I6", f"{_named(operation)}: {len(submitted)} events of its submission")


def _walks(ours: Ours) -> Iterator[tuple[Json, list[tuple[str, str]]]]:
    """Each operation with its steps as the journal tells them."""
    steps: dict[str, list[tuple[str, str]]] = defaultdict(list)
    voided: set[str] = set()
    ops = {one["operation_id"]: one for one in ours.operations}
    for event in ours.journal:
        data = event["data"]
        if "operation_after" not in data or data.get("operation_id") not in ops:
            continue
        steps[data["operation_id"]].append((data["operation_before"], data["operation_after"]))
        operation = ops[data["operation_id"]]
        if operation["kind"] == "void" and data["operation_after"] == "succeeded" and operation["parent_id"]:
            voided.add(operation["parent_id"])
    for operation in ours.operations:
        walk = steps[operation["operation_id"]]
        if operation["operation_id"] in voided and operation["kind"] in CHARGES:
            # The void's own event tells that the charge which waited for its payer has ended with it.
            before = [after for _, after in walk]
            ended = next((index for index, step in enumerate(walk) if step[0] == "expired"), len(walk))
            last = before[ended - 1] if ended else "submitted"
            if last in ("requires_action", "pending"):
                walk = [*walk[:ended], (last, "expired"), *walk[ended:]]
        yield operation, walk


# -- I5: what clients were told -------------------------------------------------------------------------------------------------


def one_answer_per_key(ours: Ours, answers: Sequence[Answered]) -> Iterator[Violation]:
    """I5: a client key has one answer, the same bytes whenever it is repeated, and another request under it is refused."""
    told: dict[tuple[str, str, str], list[Answered]] = defaultdict(list)
    for answer in answers:
        if 200 <= answer.status < 300:
            told[answer.tenant_id, answer.route, answer.key].append(answer)
    for (_, route, key), same in told.items():
        if len({(one.status, one.body) for one in same}) > 1:
            yield Violation("I5", f"{route} with key {key} was answered in {len(set(same))} ways: {_difference(same)}")
        if len({one.request for one in same}) > 1:
            yield Violation("I5", f"{route} with key {key} was accepted with another payload")
    stored = {
        bytes.fromhex(row["body"][2:]).decode()
        for row in ours.keys
        if row["state"] == "done" and row["body"] is not None
    }
    expired = any(row["state"] == "expired" for row in ours.keys)
    for same in told.values():
        if not expired and same[0].body not in stored:
            yield Violation("I5", f"{same[0].route} with key {same[0].key} was answered with bytes that nobody kept")


def _difference(same: Sequence[Answered]) -> str:
    first = same[0]
    other = next(one for one in same if (one.status, one.body) != (first.status, first.body))
    if first.status != other.status:
        return f"status {first.status} and {other.status}"
    one, two = msgspec.json.decode(first.body), msgspec.json.decode(other.body)
    return ", ".join(
        f"{name}: {one.get(name)!r} and {two.get(name)!r}" for name in one if one.get(name) != two.get(name)
    )


# -- I7: the totals -------------------------------------------------------------------------------------------------------------


def totals_agree(ours: Ours, books: Books, *, settled: bool = True) -> Iterator[Violation]:
    """I7, as far as payments go: the amounts on an intent are the sums of its operations, and those of the PSP's book."""
    ops = ours.by_payment()
    booked = {
        (account, one["reference"]): one
        for account, book in books.items()
        for one in _best(book)
        if one["kind"] == "charge"
    }
    gone = lapsed(books)
    for payment in ours.payments:
        mine = ops[payment["payment_id"]]

        def total(kind: str, *, of: list[Json] = mine) -> int:
            return sum(one["amount_minor"] for one in of if one["kind"] == kind and one["state"] in TOOK_EFFECT)

        if payment["captured_minor"] + payment["voided_minor"] > payment["authorized_minor"]:
            yield Violation("I7", f"payment {payment['payment_id']}: more captured and voided than authorised")
        if payment["refunded_minor"] + payment["returned_minor"] > payment["captured_minor"]:
            yield Violation("I7", f"payment {payment['payment_id']}: more given back than captured")
        charge = next((one for one in mine if one["kind"] in CHARGES and one["state"] == "succeeded"), None)
        expected = {"authorized_minor": charge["amount_minor"] if charge else 0}
        if charge is not None:
            expected["captured_minor"] = charge["amount_minor"] if charge["kind"] == "purchase" else total("capture")
        surplus = {
            one["operation_id"]: one["amount_minor"]
            for one in mine
            if one["kind"] in CHARGES and one["state"] == "surplus"
        }
        returned = sum(
            one["amount_minor"]
            for one in mine
            if one["kind"] in ("void", "refund") and one["state"] in TOOK_EFFECT and one["parent_id"] in surplus
        )
        expected["surplus_minor"] = sum(surplus.values()) - returned
        for name, amount in expected.items():
            if payment[name] != amount:
                yield Violation(
                    "I7", f"payment {payment['payment_id']}: {name} is {payment[name]}, its operations say {amount}"
                )
        if charge is None or not settled:
            continue
        there = booked.get((charge["psp_account_id"], reference(charge["operation_id"])))
        if there is None or there["id"] in gone:
            continue  # I3 tells; and that an authorisation lapsed is the PSP's to know, until somebody captures.
        for name, minor in (("captured", "captured_minor"), ("voided", "voided_minor"), ("refunded", "refunded_minor")):
            if there.get(name, 0) != payment[minor]:
                yield Violation(
                    "I7",
                    f"payment {payment['payment_id']}: {minor} is {payment[minor]}, the PSP's book says {there.get(name, 0)}",
                )


def asked_for_what_was_there(ours: Ours, books: Books) -> Iterator[Violation]:
    """I7: nothing was asked of a PSP that it had to refuse because the amount was not there: the totals here forbid it before."""
    gone = lapsed(books)
    charges = {one["operation_id"]: one["psp_ref"] for one in ours.operations}
    # The payer may finish in the moment in which the merchant gives up.
    waited = {one["subject_id"] for one in ours.journal if one["data"].get("status_before") == "requires_action"}
    # Who was told something false before does not know what there is.
    misled = {one["payment_id"] for one in ours.operations if one["state"] == "surplus"}
    for operation in ours.operations:
        refused = operation["state"] == "declined" and operation["raw_code"] in BROKEN_RULES
        if (
            refused
            and operation["payment_id"] not in misled
            and charges.get(operation["parent_id"]) not in gone
            and operation["operation_id"] not in waited
        ):
            yield Violation("I7", f"{_named(operation)}: the PSP refused it with {operation['raw_code']}")


def derived(ours: Ours) -> Iterator[Violation]:
    """I7: the stored status is what the pure function of ``payments.models`` makes of the operations."""
    ops = ours.by_payment()
    for row in ours.payments:
        payment = msgspec.convert(row, Payment, strict=False)
        mine = [msgspec.convert(one, Operation, strict=False) for one in ops[row["payment_id"]]]
        disputes = [
            msgspec.convert(one, Dispute, strict=False)
            for one in ours.disputes
            if one["payment_id"] == row["payment_id"]
        ]
        again = derive(payment, mine, disputes)
        if again != payment:
            wrong = [name for name in Payment.__struct_fields__ if getattr(again, name) != getattr(payment, name)]
            told = ", ".join(
                f"{name} is {getattr(payment, name)!r} and should be {getattr(again, name)!r}" for name in wrong
            )
            yield Violation("I7", f"payment {row['payment_id']}: {told}")


# -- I9, I10, I11 ---------------------------------------------------------------------------------------------------------------


def nothing_is_lost(ours: Ours) -> Iterator[Violation]:
    """Every operation without an outcome is looked at again, or waits for a human; at no moment may it be otherwise."""
    for operation in ours.operations:
        if operation["state"] not in FINAL | {"needs_review"} and operation["sweep_at"] is None:
            yield Violation("lost", f"{_named(operation)}: nobody will ever look at it again")


def comes_to_rest(ours: Ours) -> Iterator[Violation]:
    """I9: at the end no outcome is open but for those that wait for a human."""
    for operation in ours.operations:
        if operation["state"] not in FINAL | {"needs_review"}:
            yield Violation(
                "I9", f"{_named(operation)}: its outcome is still open, after {operation['sweep_step']} looks"
            )


def nothing_crosses_tenants(ours: Ours, books: Books, answers: Sequence[Answered]) -> Iterator[Violation]:
    """I10: what a tenant's clients were told, and what its PSP accounts were sent, is its own."""
    owner = {one["payment_id"]: one["tenant_id"] for one in ours.payments}
    owner |= {one["operation_id"]: one["tenant_id"] for one in ours.operations}
    for operation in ours.operations:
        if owner.get(operation["payment_id"]) != operation["tenant_id"]:
            yield Violation("I10", f"{_named(operation)} belongs to another tenant's payment")
    accounts: dict[str, set[str]] = defaultdict(set)
    ops = ours.by_reference()
    for account, book in books.items():
        accounts[account] |= {ops[one["reference"]]["tenant_id"] for one in book if one.get("reference") in ops}
    for account, tenants in accounts.items():
        if len(tenants) > 1:
            yield Violation("I10", f"{len(tenants)} tenants sent to the PSP account {account}")
    for answer in answers:
        if not 200 <= answer.status < 300:
            continue
        told = msgspec.json.decode(answer.body)
        prefix, _, _ = str(told.get("id", "")).partition("_")
        if prefix in ("pay", "re"):
            known = owner.get(str(ids.decode(prefix, told["id"])))
            if known is None:
                yield Violation("I5", f"{answer.route} told a client of {told['id']}, which does not exist")
            elif known != answer.tenant_id:
                yield Violation("I10", f"a client of {answer.tenant_id} was told of {told['id']}")


async def canaries(
    connection: asyncpg.Connection[asyncpg.Record], tenants: Sequence[UUID] | None, needles: Iterable[str]
) -> list[Violation]:
    """I11: no table holds one of ``needles`` (card numbers, keys) in any column, as text or as bytes."""
    found = []
    tables = await connection.fetch(
        "SELECT table_name AS name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'tenant_id'"
        " AND table_name IN (SELECT tablename FROM pg_tables WHERE schemaname = 'public') ORDER BY 1"
    )
    words = [*needles]
    patterns = [*words, *(word.encode().hex() for word in words)]
    for table in tables:
        rows = await connection.fetch(
            f'SELECT t::text AS row FROM "{table["name"]}" t WHERE ($1::uuid[] IS NULL OR tenant_id = ANY ($1))',
            tenants,
        )
        for row in rows:
            found += [
                Violation("I11", f"a row of {table['name']} holds {patterns[index % len(words)][:6]}...")
                for index, pattern in enumerate(patterns)
                if pattern in row["row"]
            ]
    return found


# -- Pieces ---------------------------------------------------------------------------------------------------------------------


def _refused_to_return(operation: Json) -> bool:
    """Whether the gateway tried to give a charge back and the PSP would not: an incident, tried again daily."""
    return operation["routing"].get("rule") == "unwind" and operation["state"] in ("declined", "needs_review")


def _booked(books: Books, kind: str) -> Iterator[Json]:
    return (one for book in books.values() for one in book if one["kind"] == kind)


def _best(book: Sequence[Json]) -> Iterable[Json]:
    """Of several entries with one reference the one that took effect, else the newest."""
    best: dict[tuple[str, str], Json] = {}
    rank: Callable[[Json], int] = lambda one: ("declined", "canceled", "requires_action", "pending", "succeeded").index(
        one["status"]
        if one["status"] in ("declined", "canceled", "requires_action", "pending", "succeeded")
        else "canceled"
    )
    for one in book:
        place = (one.get("reference", ""), one["kind"])
        if place not in best or rank(one) >= rank(best[place]):
            best[place] = one
    return best.values()


def _named(operation: Json) -> str:
    return (
        f"{operation['kind']} {reference(operation['operation_id'])} of {operation['amount_minor']} {operation['currency']}"
        f" ({operation['state']}{', ' + operation['code'] if operation['code'] else ''})"
    )
