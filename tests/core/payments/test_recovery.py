"""The gateway finds out by itself what became of a payment: by lookup, by the same key again, by proof; never by age."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.payments.conftest import (
    Puppet,
    Recovery,
    approve,
    in_doubt,
    later,
    nothing_found,
    status,
    unclear,
)
from tests.shop import Shop, code, new_key

from clearspan.app import Gateway
from clearspan.payments import recovery
from clearspan.payments.models import Operation, OperationState, Payment, PaymentStatus
from clearspan.payments.recovery import NextStep
from clearspan.platform import clock
from clearspan.psps.calls import Observation
from clearspan.sdk import (
    ActionRequired,
    Declined,
    Idempotency,
    Lookup,
    NotFound,
    OutcomeUnknown,
    Pending,
    PspFacts,
    PspUnavailable,
    RedirectAction,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("found", "after"),
    [
        (approve, "succeeded"),
        (lambda *_: Declined(code="do_not_honor", raw_code="05"), "requires_payment_method"),
        (lambda *_: ActionRequired(psp_ref="r-1", action=RedirectAction("https://psp.test/c")), "requires_action"),
    ],
    ids=["approved", "declined", "action"],
)
async def test_a_lookup_decides_what_nobody_answered(
    theatre: Shop, puppet: Puppet, recover: Recovery, found: Callable[..., Any], after: str
) -> None:
    payment = await in_doubt(theatre, puppet)
    puppet.does = found
    with later(seconds=3):
        assert await recover.run() == 1
    assert await status(theatre, payment) == (after, None)
    assert puppet.verbs == ["create_intent", "retrieve"]
    assert [one["source"] for one in (await theatre.get(payment))["operations"][0]["observations"]] == [
        "response",
        "lookup",
    ]
    with later(seconds=60):
        assert await recover.run() == 0, "what is decided is not asked again"


async def test_nothing_found_is_no_proof_until_the_longest_late_effect_has_passed(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(theatre, puppet)
    puppet.does = nothing_found
    for hours in (0.1, 2, 20, 7 * 24 - 1):
        with later(hours=hours):
            await recover.run()
            found = await theatre.get(payment)
            assert found["outcome"] == "unknown", hours
            assert code(await theatre.act(payment, "confirm")) == (409, "operation_outcome_unknown")
    assert "create_intent" not in puppet.verbs[1:], "without keys nothing is ever sent again"


async def test_proof_that_nothing_was_executed_frees_the_payment(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(keyed, puppet)
    puppet.does = nothing_found
    with later(minutes=16):  # The customer has gone: the charge is not sent again.
        await recover.run()
        assert (await keyed.get(payment))["last_error"]["code"] == "not_found_in_time"
        puppet.does = approve
        again = await keyed.act(payment, "confirm")
        assert again.json()["status"] == "succeeded"
    keys = [request.key for verb, request in puppet.calls if verb == "create_intent"]
    assert len(set(keys)) == 2, "a proven non-execution may be followed by a new key"


async def test_what_the_psp_does_not_know_is_sent_again_under_the_same_key(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(keyed, puppet)

    def lost(verb: str, request: Any) -> Any:
        return NotFound() if verb == "retrieve" else approve(verb, request)

    puppet.does = lost
    with later(seconds=3):
        assert await recover.run() == 1
    assert await status(keyed, payment) == ("succeeded", None)
    sent = [request for verb, request in puppet.calls if verb == "create_intent"]
    assert len(sent) == 2
    assert sent[0] == sent[1], "the same key and the same bytes"


async def test_a_second_try_that_is_not_sent_leaves_the_first_unknown(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(keyed, puppet)

    def away(verb: str, _: Any) -> Any:
        if verb == "retrieve":
            return NotFound()
        raise PspUnavailable("connection refused")

    puppet.does = away
    with later(seconds=3):
        await recover.run()
    assert await status(keyed, payment) == ("processing", "unknown")


async def test_after_a_crash_too_a_second_try_that_is_not_sent_proves_nothing(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hang(verb: str, request: Any) -> Any:
        if verb == "retrieve":
            return NotFound()
        if asked.is_set():
            raise PspUnavailable("connection refused")
        asked.set()
        await release.wait()
        return approve(verb, request)

    puppet.does = hang
    paying = asyncio.create_task(keyed.pay())
    await asked.wait()
    with later(seconds=31):
        assert await recover.run() == 1
        listed = (await keyed.http.get("/v1/payments?status=unknown")).json()["data"]
    assert [one["outcome"] for one in listed] == ["unknown"]
    release.set()
    assert (await paying).json()["status"] == "succeeded", "what the first try brought is still a fact"


async def test_a_late_effect_is_counted_from_the_last_time_it_was_sent(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(keyed, puppet)
    puppet.does = nothing_found
    with later(minutes=14):
        await recover.run()  # sent again, and again without an answer
    assert puppet.verbs.count("create_intent") == 2
    with later(minutes=16):
        await recover.run()
        assert (await keyed.get(payment))["outcome"] == "unknown", (
            "two minutes after the second try it may still arrive"
        )
    with later(minutes=30):
        await recover.run()
        assert (await keyed.get(payment))["last_error"]["code"] == "not_found_in_time"


async def test_after_quarantine_a_human_decides_and_the_client_never_sees_a_failure(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(theatre, puppet)
    with later(hours=25):
        await recover.run()
        found = await theatre.get(payment)
        assert (found["status"], found["outcome"], found["last_error"]) == ("processing", "unknown", None)
        assert found["operations"][0]["state"] == "needs_review"
        assert code(await theatre.act(payment, "confirm")) == (409, "operation_outcome_unknown")
        assert await recover.run() == 0


async def test_a_call_cut_off_by_a_crash_is_found_and_the_late_writer_is_fenced(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hang(verb: str, request: Any) -> Any:
        if verb == "retrieve":
            return approve(verb, request)
        asked.set()
        await release.wait()
        raise OutcomeUnknown("the first caller gives up")

    puppet.does = hang
    paying = asyncio.create_task(theatre.pay())
    await asked.wait()
    with later(seconds=5):
        assert await recover.run() == 0, "while the lease holds, nobody else asks"
    with later(seconds=31):
        assert await recover.run() == 1
    release.set()
    answer = (await paying).json()
    assert answer["status"] == "succeeded"
    assert await status(theatre, answer) == ("succeeded", None)


async def test_a_pending_charge_is_followed_until_it_is_decided(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    puppet.does = lambda _, request: Pending(psp_ref=f"ref-{request.operation_id}")
    payment = (await theatre.pay()).json()
    assert (payment["status"], payment["outcome"]) == ("processing", "pending")
    with later(seconds=3):
        await recover.run()
    assert await status(theatre, payment) == ("processing", "pending")
    puppet.does = approve
    with later(minutes=5):
        await recover.run()
    assert await status(theatre, payment) == ("succeeded", None)


@pytest.mark.parametrize("what", ["capture", "refunds", "cancel"])
async def test_captures_refunds_and_voids_are_found_too(
    theatre: Shop, puppet: Puppet, recover: Recovery, what: str
) -> None:
    payment = await theatre.paid(1000, capture_method="manual")
    if what == "refunds":
        await theatre.act(payment, "capture")
    puppet.does = unclear
    await theatre.act(payment, what)
    puppet.does = approve
    with later(seconds=3):
        assert await recover.run() == 1
    amounts = (await theatre.get(payment))["amounts"]
    expected = {"capture": "captured_minor", "refunds": "refunded_minor", "cancel": "voided_minor"}[what]
    assert amounts[expected] == 1000


async def test_an_action_that_nobody_finished_is_given_up_at_the_psp(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    puppet.does = lambda _, request: ActionRequired(
        psp_ref=f"ref-{request.operation_id}", action=RedirectAction("https://psp.test/c")
    )
    payment = (await theatre.pay()).json()

    def waits(verb: str, request: Any) -> Any:
        if verb == "cancel":
            return approve(verb, request)
        return ActionRequired(psp_ref=request.psp_ref, action=RedirectAction("https://psp.test/c"))

    puppet.does = waits
    with later(minutes=61):
        assert await recover.run() == 1
    found = await theatre.get(payment)
    assert (found["status"], found["last_error"]["code"]) == ("requires_payment_method", "action_expired")
    assert puppet.verbs == ["create_intent", "retrieve", "cancel"]


async def test_two_workers_never_ask_about_the_same_operation(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    for _ in range(9):  # one more, and the account is not called any more
        await in_doubt(theatre, puppet)
    puppet.calls.clear()
    puppet.does = approve
    with later(seconds=3):
        looked = await asyncio.gather(*(recover.run() for _ in range(4)))
    assert sum(looked) == 9
    assert puppet.verbs == ["retrieve"] * 9


async def test_the_looks_get_rarer(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    await in_doubt(theatre, puppet)
    puppet.does = nothing_found
    looked = []
    for seconds in range(0, 120, 1):
        with later(seconds=seconds):
            if await recover.run():
                looked.append(seconds)
    assert 3 <= len(looked) <= 5
    gaps = [b - a for a, b in itertools.pairwise(looked)]
    assert gaps == sorted(gaps)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTES = st.integers(0, 60 * 24 * 30)


@given(
    age=MINUTES,
    since_sent=MINUTES,
    window=MINUTES,
    late=MINUTES,
    lag=st.integers(0, 600),
    by_reference=st.booleans(),
    present=st.booleans(),
    kind=st.sampled_from(["purchase", "authorize", "capture", "refund", "void"]),
    canceled=st.booleans(),
)
def test_the_rules_never_resend_into_the_dark_and_never_conclude_too_early(
    *,
    age: int,
    since_sent: int,
    window: int,
    late: int,
    lag: int,
    by_reference: bool,
    present: bool,
    kind: str,
    canceled: bool,
) -> None:
    since_sent = min(since_sent, age)
    facts = PspFacts(
        capabilities=frozenset(),
        idempotency=Idempotency(timedelta(minutes=window)),
        lookup=Lookup(by_reference=by_reference, lag_max=timedelta(minutes=lag)),
        max_late_effect=timedelta(minutes=late),
    )
    identity = clock.new_uuid()
    created = NOW - timedelta(minutes=age)
    operation = Operation(
        operation_id=identity,
        payment_id=identity,
        kind=kind,
        state=OperationState.UNKNOWN,
        amount_minor=1,
        currency="EUR",
        created_at=created,
        sent_at=NOW - timedelta(minutes=since_sent),
        updated_at=created,
        psp_account_id=identity,
        psp_key="k",
        merchant_initiated=not present,
    )
    payment = Payment(
        payment_id=identity,
        live=False,
        amount_minor=1,
        currency="EUR",
        capture_method="automatic",
        customer_present=present,
        created_at=created,
        expires_at=NOW + timedelta(days=1),
        updated_at=created,
        status=PaymentStatus.PROCESSING,
        canceled_at=NOW if canceled else None,
    )
    step = recovery.after_nothing_was_found(payment, operation, facts, NOW)
    if step is NextStep.RESEND:
        assert age < window, "the PSP still knows the key"
        assert kind not in ("purchase", "authorize") or not canceled, "and the charge is still wanted"
        assert kind not in ("purchase", "authorize") or not present or age <= 15
    if step is NextStep.NOT_CHARGED:
        assert by_reference, "somebody could have found it"
        assert since_sent > late + lag, "and it cannot arrive any more"


async def test_an_operation_whose_plugin_is_gone_holds_up_no_other(
    keyed: Shop, theatre: Shop, puppet: Puppet, recover: Recovery, worker: Gateway
) -> None:
    lost = await in_doubt(keyed, puppet, psp_account="keyed")
    other = await in_doubt(keyed, puppet, psp_account="puppet")
    puppet.does = approve
    gone = worker.plugins.psps.pop("keyed")
    try:
        with later(seconds=3):
            assert await recover.run() == 2
        assert await status(theatre, other) == ("succeeded", None)
        assert await status(theatre, lost) == ("processing", "unknown")
    finally:
        worker.plugins.psps["keyed"] = gone


async def test_a_psp_that_could_not_be_asked_for_hours_is_asked_again_soon(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(theatre, puppet)

    def away(*_: Any) -> Any:
        raise PspUnavailable("connection refused")

    puppet.does = away
    for minutes in range(1, 120, 15):  # too few to open the circuit
        with later(minutes=minutes):
            await recover.run()
    puppet.does = approve
    with later(minutes=107):
        assert await recover.run() == 1, "half a minute after the last look, however many there were"
    assert await status(theatre, payment) == ("succeeded", None)


async def test_a_look_that_dies_is_repeated_when_its_lease_ends(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(theatre, puppet)
    puppet.does = nothing_found
    for seconds in (3, 15, 80):
        with later(seconds=seconds):
            assert await recover.run() == 1
    asked = asyncio.Event()

    async def hang(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    puppet.does = hang
    with later(seconds=400):
        looking = asyncio.create_task(recover.run())
        await asked.wait()
        await looking
    for task in list(recover.under_way()):
        task.cancel()
    puppet.does = approve
    with later(seconds=460):
        assert await recover.run() == 1
    assert await status(theatre, payment) == ("succeeded", None)


async def cut_off(shop: Shop, puppet: Puppet, key: str) -> tuple[asyncio.Task[Any], asyncio.Event]:
    """A charge whose process dies while it sends: nobody will ever hear the answer."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any) -> Any:
        asked.set()
        await release.wait()
        raise OutcomeUnknown("the first caller is gone")

    puppet.does = hang
    paying = asyncio.create_task(shop.pay(key=key))
    await asked.wait()
    return paying, release


async def test_a_repetition_does_not_send_what_was_canceled_meanwhile(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    key = new_key()
    paying, release = await cut_off(keyed, puppet, key)
    (payment,) = (await keyed.http.get("/v1/payments")).json()["data"]
    puppet.does = nothing_found
    with later(seconds=31):
        assert (await keyed.act(payment, "cancel")).status_code == 202
        assert (await keyed.pay(key=key)).json()["status"] == "processing"
    assert puppet.verbs.count("create_intent") == 1
    with later(minutes=30):
        await recover.run()
        assert (await keyed.get(payment))["status"] == "canceled"
    release.set()
    await paying


async def test_what_a_dead_process_never_sent_is_concluded_in_one_look(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    paying, release = await cut_off(keyed, puppet, new_key())
    (payment,) = (await keyed.http.get("/v1/payments")).json()["data"]
    puppet.does = nothing_found
    with later(minutes=30):
        assert await recover.run() == 1
    found = await keyed.get(payment)
    assert (found["status"], found["last_error"]["code"]) == ("requires_confirmation", "not_found_in_time")
    assert [one["observed"] for one in found["operations"][0]["observations"]] == ["unknown", "not_charged"]
    release.set()
    await paying


def test_a_lookup_is_made_as_soon_as_it_can_be_a_proof() -> None:
    """Looks grow apart; whoever waits for proof that nothing was executed does not wait for the next of them."""
    sent = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    now = sent + timedelta(seconds=60)
    facts = PspFacts(
        capabilities=frozenset(),
        lookup=Lookup(by_reference=True, lag_max=timedelta(seconds=1)),
        max_late_effect=timedelta(seconds=60),
    )
    operation = Operation(
        operation_id=clock.new_uuid(), payment_id=clock.new_uuid(), kind="purchase", state=OperationState.UNKNOWN,
        amount_minor=100, currency="EUR", created_at=sent, sent_at=sent, updated_at=sent, psp_account_id=clock.new_uuid(),
        psp_key="k", sweep_step=4,
    )  # fmt: skip
    proof = recovery.proof_at(operation, facts)
    assert proof == sent + timedelta(seconds=62)
    nothing = Observation(observed="unknown", source="lookup", code="lookup_found_nothing")
    assert recovery.look_again(operation, nothing, now) == now + timedelta(seconds=900)
    told = Observation(observed="unknown", source="lookup", code="lookup_found_nothing", look_by=proof)
    assert recovery.look_again(operation, told, now) == proof
    assert recovery.look_again(operation, told, proof) == proof + timedelta(seconds=900)
    assert recovery.proof_at(operation, PspFacts(capabilities=frozenset())) is None
