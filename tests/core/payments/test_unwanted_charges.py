"""A charge that nobody wants any more is given back: canceled while its outcome was open, or arrived after it was given up."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.payments.conftest import Puppet, Recovery, approve, in_doubt, later, nothing_found, status, unclear
from tests.shop import Shop, code, new_key

from clearspan.sdk import ActionRequired, Approved, Declined, OperationNews, OutcomeUnknown, RedirectAction


async def canceled_while_unknown(shop: Shop, puppet: Puppet, **fields: Any) -> dict[str, Any]:
    """A payment whose charge got no clear answer, and whose cancellation was asked for then."""
    payment = await in_doubt(shop, puppet, **fields)
    canceled = await shop.act(payment, "cancel", {"reason": "changed my mind"})
    assert canceled.status_code == 202
    body: dict[str, Any] = canceled.json()
    assert (body["status"], body["outcome"]) == ("processing", "unknown")
    assert body["cancel_requested_at"] is not None
    assert body["canceled_at"] is None
    return body


async def kinds(shop: Shop, payment: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["state"]) for one in (await shop.get(payment))["operations"]]


@pytest.mark.parametrize(
    ("method", "after", "expected"),
    [
        ("automatic", "succeeded", [("purchase", "succeeded"), ("refund", "succeeded")]),
        ("manual", "canceled", [("authorize", "succeeded"), ("void", "succeeded")]),
    ],
)
async def test_a_charge_that_turns_out_approved_after_its_cancellation_is_given_back(
    theatre: Shop, puppet: Puppet, recover: Recovery, method: str, after: str, expected: list[tuple[str, str]]
) -> None:
    payment = await canceled_while_unknown(theatre, puppet, capture_method=method)
    puppet.does = approve
    with later(seconds=3):
        assert await recover.run() == 1
        assert await recover.unwind() == 1
        assert await recover.unwind() == 0, "it is given back once"
    found = await theatre.get(payment)
    assert (found["status"], found["cancellation_reason"]) == (after, "changed my mind")
    assert await kinds(theatre, payment) == expected
    assert found["operations"][1]["routing"] == {"rule": "unwind", "because": "cancel_requested"}
    assert found["amounts"]["captured_minor"] == found["amounts"]["refunded_minor"]


async def test_nothing_is_given_back_while_a_capture_is_undecided(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await canceled_while_unknown(theatre, puppet, capture_method="manual")
    puppet.does = approve
    with later(seconds=3):
        assert await recover.run() == 1
        # The merchant captures what he cancelled, for good, and hears nothing.
        puppet.does = unclear
        assert (await theatre.act(payment, "capture", {"amount_minor": 400, "final": True})).status_code in (200, 202)
        puppet.does = approve
        assert await recover.unwind() == 0, "the capture may have released the rest"
    with later(seconds=10):
        assert await recover.run() == 1
        assert await recover.unwind() == 1
    assert await kinds(theatre, payment) == [
        ("authorize", "succeeded"),
        ("capture", "succeeded"),
        ("refund", "succeeded"),
    ]
    assert "cancel" not in puppet.verbs


async def test_a_charge_that_turns_out_declined_after_its_cancellation_leaves_the_payment_canceled(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await canceled_while_unknown(theatre, puppet)
    puppet.does = lambda *_: Declined(code="do_not_honor", raw_code="05")
    with later(seconds=3):
        await recover.run()
        assert await recover.unwind() == 0
    found = await theatre.get(payment)
    assert (found["status"], found["canceled_at"]) == ("canceled", found["cancel_requested_at"])
    assert code(await theatre.act(payment, "confirm")) == (409, "payment_not_confirmable")


async def test_a_charge_that_turns_out_to_wait_for_the_payer_is_given_up_at_the_psp(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await canceled_while_unknown(theatre, puppet)
    puppet.does = lambda *_: ActionRequired(psp_ref="ref-1", action=RedirectAction("https://psp.test/c"))
    with later(seconds=3):
        await recover.run()
        puppet.does = approve
        assert await recover.unwind() == 1
    assert await status(theatre, payment) == ("canceled", None)
    assert await kinds(theatre, payment) == [("purchase", "expired"), ("void", "succeeded")]


async def test_a_canceled_charge_is_never_sent_again(keyed: Shop, puppet: Puppet, recover: Recovery) -> None:
    payment = await canceled_while_unknown(keyed, puppet)
    puppet.does = nothing_found
    with later(seconds=3):
        await recover.run()
    assert puppet.verbs.count("create_intent") == 1
    with later(minutes=30):
        await recover.run()
    assert await status(keyed, payment) == ("canceled", None), "proof that nothing was executed ends it"


async def test_a_repeated_cancellation_is_answered_alike_and_a_second_one_changes_nothing(
    theatre: Shop, puppet: Puppet
) -> None:
    payment = await in_doubt(theatre, puppet)
    key = new_key()
    first = await theatre.act(payment, "cancel", {"reason": "first"}, key)
    assert (await theatre.act(payment, "cancel", {"reason": "first"}, key)).content == first.content
    second = await theatre.act(payment, "cancel", {"reason": "second"})
    assert second.json()["cancel_requested_at"] == first.json()["cancel_requested_at"]
    assert second.json()["cancellation_reason"] == "first"


async def given_up(shop: Shop, puppet: Puppet, **fields: Any) -> dict[str, Any]:
    """A payment whose charge was declined."""
    puppet.does = lambda _, request: Declined(code="do_not_honor", raw_code="05", psp_ref=f"ref-{request.operation_id}")
    payment: dict[str, Any] = (await shop.pay(**fields)).json()
    assert payment["status"] == "requires_payment_method"
    return payment


def approval(payment: dict[str, Any], shop_payment: dict[str, Any]) -> OperationNews:
    """What the PSP says later about the first charge of a payment."""
    from clearspan.sdk import Money

    reference = shop_payment["operations"][0]["id"]
    amount = Money(payment["amount_minor"], payment["currency"])
    return OperationNews(
        kind="charge", reference=reference, outcome=Approved(psp_ref=f"ref-{reference}", amount=amount), amount=amount
    )


@pytest.mark.parametrize(("method", "back"), [("automatic", "refund"), ("manual", "void")])
async def test_a_late_approval_is_a_surplus_with_an_incident_and_is_given_back(
    theatre: Shop, puppet: Puppet, recover: Recovery, method: str, back: str
) -> None:
    payment = await given_up(theatre, puppet, capture_method=method)
    puppet.does = approve
    again = (await theatre.act(payment, "confirm")).json()
    assert again["status"] in ("succeeded", "requires_capture")
    detailed = await theatre.get(payment)
    account = detailed["psp"]["account_id"]
    told = await recover.hear(account, approval(payment, detailed))
    assert told is not None
    held = await theatre.get(payment)
    assert held["amounts"]["surplus_minor"] == payment["amount_minor"]
    assert held["status"] == again["status"], "the charge that counts still counts"
    assert await recover.unwind() == 1
    after = await theatre.get(payment)
    assert after["amounts"]["surplus_minor"] == 0
    assert after["amounts"]["refunded_minor"] == 0, "what is given back was never the payment's own"
    assert (after["operations"][-1]["kind"], after["operations"][-1]["state"]) == (back, "succeeded")
    types = [entry["type"] for entry in after["audit"]]
    assert "incident.opened" in types
    assert "payment.surplus" in types


async def test_a_late_approval_of_the_only_charge_is_given_back_and_nothing_is_left_to_do(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await given_up(theatre, puppet)
    puppet.does = approve
    detailed = await theatre.get(payment)
    account = (await theatre.http.get("/v1/psp-accounts")).json()["data"][0]["id"]
    await recover.hear(account, approval(payment, detailed))
    assert (await theatre.get(payment))["amounts"]["surplus_minor"] == payment["amount_minor"]
    assert await recover.unwind() == 1
    with later(days=2):
        assert await recover.unwind() == 0
    after = await theatre.get(payment)
    assert (after["status"], after["amounts"]["surplus_minor"]) == ("requires_payment_method", 0)
    assert [one["state"] for one in after["operations"]] == ["surplus", "succeeded"]


async def test_a_refused_unwinding_is_tried_again_later_with_an_incident_each_time(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await canceled_while_unknown(theatre, puppet)
    puppet.does = lambda verb, request: (
        approve(verb, request) if verb == "retrieve" else Declined(code="generic_decline", raw_code="no")
    )
    with later(seconds=3):
        await recover.run()
        await recover.unwind()
        assert await recover.unwind() == 0, "not at once"
    with later(seconds=70):
        assert await recover.unwind() == 1
    puppet.does = approve
    with later(hours=1):
        assert await recover.unwind() == 1
    found = await theatre.get(payment)
    assert [one["state"] for one in found["operations"]] == ["succeeded", "declined", "declined", "succeeded"]
    assert len({request.key for verb, request in puppet.calls if verb == "refund"}) == 3, (
        "a refused try was not executed"
    )
    assert [entry["type"] for entry in found["audit"]].count("incident.opened") == 2


async def test_an_unwinding_without_an_answer_is_found_out_and_not_doubled(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await canceled_while_unknown(theatre, puppet)

    def lost(verb: str, request: Any) -> Any:
        if verb == "refund":
            raise OutcomeUnknown("sent, no answer")
        return approve(verb, request)

    puppet.does = lost
    with later(seconds=3):
        await recover.run()
        assert await recover.unwind() == 1
        assert await recover.unwind() == 0
    with later(hours=2):
        assert await recover.unwind() == 0, "while nobody knows, nothing more is sent"
        await recover.run()
        assert await recover.unwind() == 0
    assert puppet.verbs.count("refund") == 1
    assert (await theatre.get(payment))["amounts"]["refunded_minor"] == payment["amount_minor"]


async def test_a_surplus_can_be_released_by_hand_and_only_when_there_is_one(theatre: Shop, puppet: Puppet) -> None:
    puppet.does = approve
    payment = (await theatre.pay()).json()
    assert code(await theatre.act(payment, "release-surplus", {"reason": "charged twice"})) == (
        409,
        "payment_without_surplus",
    )
