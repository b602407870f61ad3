"""A PSP that cannot be asked: its webhooks and its memory of keys tell everything, and it is never asked in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.core.payments.conftest import Puppet, Recovery, approve, in_doubt, later, status

from clearspan.sdk import ActionRequired, Approved, Money, OperationNews, Pending, RedirectAction

if TYPE_CHECKING:
    from tests.shop import Shop


def waits(_: str, request: Any) -> Any:
    """Every operation is taken in and decided later."""
    return Pending(psp_ref=f"ref-{request.operation_id}")


def redirects(_: str, request: Any) -> Any:
    """The payer has to act, and the PSP does not say yet what it will call the charge."""
    return ActionRequired(psp_ref=None, action=RedirectAction("https://psp.test/c"))


async def account(shop: Shop) -> str:
    return str((await shop.http.get("/v1/psp-accounts")).json()["data"][0]["id"])


def news(
    kind: str, psp_ref: str, reference: str | None, amount: int = 1099, charge_ref: str | None = None
) -> OperationNews:
    money = Money(amount, "EUR")
    approved = Approved(psp_ref=psp_ref, amount=money)
    return OperationNews(
        kind=kind, outcome=approved, reference=reference, psp_ref=psp_ref, charge_ref=charge_ref, amount=money
    )


async def test_an_unclear_charge_is_sent_again_under_its_key_and_nothing_is_looked_up(
    mute: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_doubt(mute, puppet)
    puppet.does = approve
    with later(seconds=3):
        assert await recover.run() == 1
    assert await status(mute, payment) == ("succeeded", None)
    assert puppet.verbs == ["create_intent", "create_intent"]
    first, second = (request for _, request in puppet.calls)
    assert first.key == second.key


async def test_what_is_pending_stays_pending_for_as_long_as_no_webhook_comes(
    mute: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = (await mute.pay(capture_method="manual")).json()
    puppet.does = waits
    await mute.act(payment, "capture")
    for days in (1, 3, 10):
        with later(days=days):
            await recover.run()
    assert puppet.verbs == ["create_intent", "capture"]
    assert (await mute.get(payment))["amounts"]["captured_minor"] == 0


async def test_news_of_a_capture_may_carry_the_reference_of_its_charge(
    mute: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = (await mute.pay(capture_method="manual")).json()
    puppet.does = waits
    await mute.act(payment, "capture")
    charge, capture = (request.operation_id for _, request in puppet.calls)
    told = news("capture", f"ref-{capture}", charge, charge_ref=f"ref-{charge}")
    assert await recover.hear(await account(mute), told) is not None
    assert (await mute.get(payment))["amounts"]["captured_minor"] == 1099


async def test_a_reference_that_comes_after_the_action_is_taken(mute: Shop, puppet: Puppet) -> None:
    puppet.does = redirects
    payment = (await mute.pay()).json()
    assert payment["status"] == "requires_action"
    puppet.does = approve
    done = await mute.act(payment, "continue")
    assert done.json()["status"] == "succeeded"
    assert puppet.calls[-1][1].psp_ref == ""


async def test_an_action_that_nobody_finished_is_decided_by_the_psp_and_not_by_age(
    mute: Shop, puppet: Puppet, recover: Recovery
) -> None:
    puppet.does = redirects
    payment = (await mute.pay()).json()
    with later(minutes=61):
        assert await recover.run() == 1
    assert await status(mute, payment) == ("processing", "pending")
    assert puppet.verbs == ["create_intent"]
    charge = puppet.calls[0][1].operation_id
    assert await recover.hear(await account(mute), news("charge", "late", charge)) is not None
    assert (await mute.get(payment))["status"] == "succeeded"


async def test_a_charge_that_waits_for_its_payer_can_be_canceled_by_our_reference(mute: Shop, puppet: Puppet) -> None:
    puppet.does = redirects
    payment = (await mute.pay()).json()
    puppet.does = approve
    await mute.act(payment, "cancel")
    [cancel] = [request for verb, request in puppet.calls if verb == "cancel"]
    assert (cancel.charge_ref, cancel.charge_operation_id) == ("", puppet.calls[0][1].operation_id)
