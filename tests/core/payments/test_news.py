"""What PSPs say unasked: believed when it moves an operation on, looked up when it contradicts, taken in when they alone know."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.core.payments.conftest import Puppet, Recovery, approve, in_doubt, status
from tests.shop import Shop, code

from clearspan.payments import errors
from clearspan.platform import clock, ids
from clearspan.sdk import (
    Approved,
    Declined,
    DisputeNews,
    DisputeStatus,
    Hint,
    Money,
    OperationNews,
    OutcomeUnknown,
    Pending,
)

EUR = "EUR"


def operation_of(payment: dict[str, Any], number: int = 0) -> str:
    identity: str = payment["operations"][number]["id"]
    return identity


async def account_of(shop: Shop) -> str:
    listed = await shop.http.get("/v1/psp-accounts")
    identity: str = listed.json()["data"][0]["id"]
    return identity


def approved(reference: str, amount_minor: int = 1099, currency: str = EUR, kind: str = "charge") -> OperationNews:
    amount = Money(amount_minor, currency)
    return OperationNews(kind=kind, reference=reference, outcome=Approved(psp_ref=f"ref-{reference}", amount=amount))


def declined(reference: str, kind: str = "charge") -> OperationNews:
    return OperationNews(
        kind=kind,
        reference=reference,
        outcome=Declined(code="do_not_honor", raw_code="05", psp_ref=f"ref-{reference}"),
    )


async def test_news_settles_what_nobody_answered(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    account = await account_of(theatre)
    assert await recover.hear(account, approved(operation_of(payment))) is not None
    assert await status(theatre, payment) == ("succeeded", None)
    assert puppet.verbs == ["create_intent"], "signed and full: no lookup is needed"


async def test_the_same_news_told_twice_is_one_fact(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    account, fact = await account_of(theatre), clock.new_uuid()
    for _ in range(3):
        await recover.hear(account, approved(operation_of(payment)), fact_id=fact)
    observations = (await theatre.get(payment))["operations"][0]["observations"]
    assert [one["source"] for one in observations] == ["response", "webhook"]


async def test_news_that_comes_before_the_answer_counts_and_the_client_still_gets_one(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(verb: str, request: Any) -> Any:
        asked.set()
        await release.wait()
        return approve(verb, request)

    puppet.does = slow
    paying = asyncio.create_task(theatre.pay())
    await asked.wait()
    (_, request), account = puppet.calls[0], await account_of(theatre)
    assert await recover.hear(account, approved(request.operation_id)) is not None
    release.set()
    answer = await paying
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    found = await theatre.get(answer.json())
    assert [one["source"] for one in found["operations"][0]["observations"]] == ["webhook", "response"]


@pytest.mark.parametrize("about", ["nothing", "another account", "another kind"])
async def test_news_that_matches_nothing_is_not_told(
    theatre: Shop, puppet: Puppet, recover: Recovery, about: str
) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    account = await account_of(theatre)
    if about == "another account":
        account = (await theatre.add_account("other", 9, psp="puppet", config={"name": puppet.name}))["id"]
    reference = ids.encode("op", clock.new_uuid()) if about == "nothing" else operation_of(payment)
    kind = "refund" if about == "another kind" else "charge"
    assert await recover.hear(account, declined(reference, kind)) is None
    assert await recover.hear(account, Hint(kind=kind, reference=reference)) is None or about == "another account"
    assert await status(theatre, payment) == ("processing", "unknown")


@pytest.mark.parametrize(("amount_minor", "currency"), [(1098, EUR), (1100, EUR), (1099, "USD")])
async def test_news_of_another_amount_or_currency_is_never_success_and_opens_an_incident(
    theatre: Shop, puppet: Puppet, recover: Recovery, amount_minor: int, currency: str
) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    await recover.hear(await account_of(theatre), approved(operation_of(payment), amount_minor, currency))
    found = await theatre.get(payment)
    assert (found["status"], found["outcome"]) == ("processing", "unknown")
    assert "incident.opened" in [entry["type"] for entry in found["audit"]]


@pytest.mark.parametrize("truth", ["approved", "declined", "unclear"])
async def test_a_contradiction_is_looked_up_before_it_is_believed(
    theatre: Shop, puppet: Puppet, recover: Recovery, truth: str
) -> None:
    puppet.does = lambda _, request: Declined(code="do_not_honor", raw_code="05", psp_ref=f"ref-{request.operation_id}")
    payment = await theatre.get((await theatre.pay()).json())
    account = await account_of(theatre)
    news = approved(operation_of(payment))
    if truth == "approved":
        puppet.does = approve
    if truth == "unclear":

        def unclear(*_: Any) -> Any:
            raise OutcomeUnknown("no answer")

        puppet.does = unclear
        with pytest.raises(errors.StillOpen):
            await recover.hear(account, news)
    else:
        await recover.hear(account, news)
    found = await theatre.get(payment)
    expected = {"approved": ("surplus", 1099), "declined": ("declined", 0), "unclear": ("declined", 0)}[truth]
    assert (found["operations"][0]["state"], found["amounts"]["surplus_minor"]) == expected
    assert puppet.verbs[1:] == ["retrieve"]


async def test_success_is_final_and_a_contradiction_that_the_lookup_confirms_is_an_incident(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await theatre.get(await theatre.paid())
    puppet.does = lambda _, request: Declined(code="do_not_honor", raw_code="05", psp_ref=f"ref-{request.operation_id}")
    await recover.hear(await account_of(theatre), declined(operation_of(payment)))
    found = await theatre.get(payment)
    assert found["status"] == "succeeded"
    assert "incident.opened" in [entry["type"] for entry in found["audit"]]


async def test_a_refund_that_fails_after_it_succeeded_is_reversed_and_can_be_made_again(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await theatre.paid()
    refund = (await theatre.act(payment, "refunds")).json()
    assert refund["status"] == "succeeded"
    detailed = await theatre.get(payment)
    puppet.does = lambda _, request: Declined(
        code="generic_decline", raw_code="x", psp_ref=f"ref-{request.operation_id}"
    )
    await recover.hear(await account_of(theatre), declined(operation_of(detailed, 1), "refund"))
    after = await theatre.get(payment)
    assert (after["amounts"]["refunded_minor"], after["amounts"]["refundable_minor"]) == (0, 1099)
    assert (await theatre.http.get(f"/v1/refunds/{refund['id']}")).json()["status"] == "failed"
    puppet.does = approve
    assert (await theatre.act(payment, "refunds")).json()["status"] == "succeeded"


async def test_the_psps_own_order_counts(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    account, reference = await account_of(theatre), operation_of(payment)
    pending = OperationNews(kind="charge", reference=reference, outcome=Pending(psp_ref=f"ref-{reference}"))
    await recover.hear(account, pending, sequence=5)
    await recover.hear(account, declined(reference), sequence=4)
    assert await status(theatre, payment) == ("processing", "pending")
    await recover.hear(account, approved(reference), sequence=6)
    assert await status(theatre, payment) == ("succeeded", None)


async def test_a_hint_is_looked_up(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await in_doubt(theatre, puppet))
    puppet.does = approve
    await recover.hear(await account_of(theatre), Hint(reference=operation_of(payment)))
    assert await status(theatre, payment) == ("succeeded", None)
    assert puppet.verbs == ["create_intent", "retrieve"]


async def test_a_refund_made_by_hand_at_the_psp_is_taken_in(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await theatre.paid())
    news = OperationNews(
        kind="refund",
        reference="made-by-hand",
        charge_ref=payment["psp"]["reference"],
        outcome=Approved(psp_ref="re_by_hand", amount=Money(99, EUR)),
    )
    account = await account_of(theatre)
    assert await recover.hear(account, news) is not None
    assert await recover.hear(account, news) is not None, "again, with another fact"
    found = await theatre.get(payment)
    assert found["amounts"]["refunded_minor"] == 99
    assert [one["kind"] for one in found["operations"]] == ["purchase", "refund"]
    assert "operation.adopted" in [entry["type"] for entry in found["audit"]]


def dispute(payment: dict[str, Any], state: DisputeStatus, amount_minor: int = 500, currency: str = EUR) -> DisputeNews:
    return DisputeNews(
        dispute_ref=f"dp-{payment['id']}",
        charge_ref=payment["psp"]["reference"],
        status=state,
        amount=Money(amount_minor, currency),
        reason="fraudulent",
    )


async def test_a_dispute_moves_only_the_disputed_amount(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await theatre.paid())
    account = await account_of(theatre)
    amounts = []
    for state in ("inquiry", "needs_response", "under_review", "won", "lost"):
        told = await recover.hear(account, dispute(payment, DisputeStatus(state)))
        assert told is not None
        found = await theatre.get(payment)
        assert found["status"] == "succeeded"
        amounts.append((found["amounts"]["disputed_minor"], found["amounts"]["refundable_minor"]))
    assert amounts == [(0, 1099), (500, 599), (500, 599), (0, 1099), (500, 599)]
    listed = (await theatre.http.get("/v1/disputes", params={"payment": payment["id"]})).json()["data"]
    assert [(one["status"], one["amount_minor"]) for one in listed] == [("lost", 500)]
    one = await theatre.http.get(f"/v1/disputes/{listed[0]['id']}")
    assert one.json() == listed[0]


async def test_old_news_of_a_dispute_changes_nothing(theatre: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await theatre.get(await theatre.paid())
    account = await account_of(theatre)
    for state, sequence in (("lost", 3), ("needs_response", 1), ("under_review", 2)):
        await recover.hear(account, dispute(payment, DisputeStatus(state)), sequence=sequence)
    (held,) = (await theatre.http.get("/v1/disputes")).json()["data"]
    assert held["status"] == "lost"
    for state in ("needs_response", "inquiry"):
        await recover.hear(account, dispute(payment, DisputeStatus(state)))
    (held,) = (await theatre.http.get("/v1/disputes")).json()["data"]
    assert held["status"] == "lost"


async def test_a_return_after_a_refund_takes_no_more_than_was_left(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await theatre.get(await theatre.paid())
    await theatre.act(payment, "refunds", {"amount_minor": 1000})
    await recover.hear(await account_of(theatre), dispute(payment, DisputeStatus.RETURNED, 1099))
    amounts = (await theatre.get(payment))["amounts"]
    assert (amounts["refunded_minor"], amounts["returned_minor"], amounts["refundable_minor"]) == (1000, 99, 0)
    assert code(await theatre.act(payment, "refunds", {"amount_minor": 1})) == (422, "amount_above_refundable")


async def test_a_dispute_of_an_unknown_charge_waits_and_one_in_another_currency_is_refused(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await theatre.get(await theatre.paid())
    account = await account_of(theatre)
    unknown = payment | {"psp": {"reference": "ch_nobody"}}
    assert await recover.hear(account, dispute(unknown, DisputeStatus.NEEDS_RESPONSE)) is None
    with pytest.raises(errors.DisputeCurrencyMismatch):
        await recover.hear(account, dispute(payment, DisputeStatus.NEEDS_RESPONSE, 500, "USD"))
    assert (await theatre.http.get("/v1/disputes")).json()["data"] == []
