"""The adapter against the simulator: what a merchant can do with Mollie, and what is believed of what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import clearspan.sdk as sdk
from clearspan_psp_mollie import Mollie, MollieConfig

if TYPE_CHECKING:
    from conftest import World

FIRST = sdk.StoredCredential(initiator="customer", purpose="unscheduled", first=True, mandate="man_1")
LATER = sdk.StoredCredential(initiator="merchant", purpose="unscheduled", first=False, mandate="man_1")


async def test_a_card_token_is_charged_and_the_book_agrees(world: World) -> None:
    request = world.charge(amount=sdk.Money(12345, "EUR"))
    found = await world.adapter.create_intent(request)
    assert isinstance(found, sdk.Approved)
    assert found.amount == request.amount
    booked = await world.booked(request.operation_id)
    assert [(one["id"], one["amount_minor"], one["status"]) for one in booked] == [(found.psp_ref, 12345, "captured")]


@pytest.mark.parametrize(
    ("token", "code"), [("tkn_insufficient_funds", "insufficient_funds"), ("tkn_declined", "generic_decline")]
)
async def test_a_refused_card_is_a_decline(world: World, token: str, code: str) -> None:
    found = await world.adapter.create_intent(world.charge(token))
    assert isinstance(found, sdk.Declined)
    assert found.code == code
    assert found.psp_ref is not None


async def test_an_unknown_card_token_is_a_decline_and_a_wrong_request_names_its_field(world: World) -> None:
    found = await world.adapter.create_intent(world.charge("tkn_nobody"))
    assert isinstance(found, sdk.Declined)
    assert (found.code, found.raw_code) == ("invalid_number", "422 cardToken")
    with pytest.raises(sdk.PspMisconfigured, match="description"):
        await world.adapter.create_intent(world.charge(description="x" * 256))
    problems = await world.control("GET problems")
    assert len(problems) == 1
    problems = await world.http.post(f"{world.url}/_control/forget")
    assert problems.status_code == 200


@pytest.mark.parametrize("method", ["ideal", None])
async def test_a_redirect_ends_as_the_payer_decides_and_mollie_is_asked(world: World, method: str | None) -> None:
    for choice, expected in (("approve", sdk.Approved), ("refuse", sdk.Declined)):
        request = world.charge(sdk.RedirectSource(method))
        asked = await world.adapter.create_intent(request)
        assert isinstance(asked, sdk.ActionRequired)
        assert asked.expires_at is not None
        # Whatever a browser brings back, the payment decides.
        early = await world.adapter.continue_intent(world.continued(request, asked.psp_ref, status="paid"))
        assert isinstance(early, sdk.ActionRequired)
        assert await world.visit(asked, choice) == "https://shop.example/back"
        found = await world.adapter.continue_intent(world.continued(request, asked.psp_ref))
        assert isinstance(found, expected)
        if isinstance(found, sdk.Declined):
            assert (found.code, found.raw_code) == ("authentication_required", "canceled")


async def test_a_card_challenge_may_fail(world: World) -> None:
    request = world.charge("tkn_challenge")
    asked = await world.adapter.create_intent(request)
    await world.visit(asked, "refuse")
    assert isinstance(asked, sdk.ActionRequired)
    found = await world.adapter.continue_intent(world.continued(request, asked.psp_ref))
    assert isinstance(found, sdk.Declined)
    assert (found.code, found.raw_code) == ("authentication_required", "authentication_failed")


async def test_a_payment_of_another_operation_is_never_believed(world: World) -> None:
    mine, foreign = world.charge(), await world.approved()
    with pytest.raises(sdk.OutcomeUnknown, match="another operation"):
        await world.adapter.continue_intent(world.continued(mine, foreign.psp_ref))
    with pytest.raises(sdk.OutcomeUnknown, match="another operation"):
        await world.adapter.retrieve(world.lookup(mine, "purchase", psp_ref=foreign.psp_ref))


async def test_a_hold_is_captured_in_part_and_the_rest_is_released(world: World) -> None:
    request = world.charge(capture=False)
    held = await world.adapter.create_intent(request)
    assert isinstance(held, sdk.Approved)
    capture = world.part(sdk.CaptureRequest, held.psp_ref, 400, final=True)
    found = await world.adapter.capture(capture)
    assert isinstance(found, sdk.Approved)
    assert found.psp_ref.startswith("cpt_")
    assert found.amount == sdk.Money(400, "EUR")
    book = (await world.booked(request.operation_id))[0]
    assert (book["status"], book["captured_minor"]) == ("captured", 400)
    assert await world.adapter.capture(capture) == found
    # The charge is still what it was: an authorisation of all.
    again = await world.adapter.retrieve(world.lookup(request, "authorize", psp_ref=held.psp_ref))
    assert isinstance(again, sdk.Approved)
    assert again.amount == sdk.Money(1000, "EUR")
    void = await world.adapter.cancel(world.part(sdk.CancelRequest, held.psp_ref, 600))
    assert isinstance(void, sdk.Approved)
    assert (void.amount, void.psp_ref) == (sdk.Money(600, "EUR"), f"{held.psp_ref}/void")


async def test_a_hold_that_is_released_stays_an_authorisation_that_took_effect(world: World) -> None:
    request = world.charge(capture=False)
    held = await world.adapter.create_intent(request)
    assert isinstance(held, sdk.Approved)
    void = world.part(sdk.CancelRequest, held.psp_ref)
    assert await world.adapter.retrieve(world.lookup(void, "void", charge_ref=held.psp_ref)) == sdk.NotFound()
    found = await world.adapter.cancel(void)
    assert isinstance(found, sdk.Approved)
    assert found.psp_ref == f"{held.psp_ref}/void"
    assert isinstance(await world.adapter.cancel(void), sdk.Approved)
    assert isinstance(
        await world.adapter.retrieve(world.lookup(request, "authorize", psp_ref=held.psp_ref)), sdk.Approved
    )
    late = await world.adapter.capture(world.part(sdk.CaptureRequest, held.psp_ref, final=True))
    assert isinstance(late, sdk.Declined)
    assert late.code == "not_permitted"


async def test_a_release_captures_and_refunds_that_wait_are_pending_until_they_are_done(world: World) -> None:
    await world.control("POST pace", {"releases": "pending", "refunds": "pending", "captures": "pending"})
    held = [await world.approved(capture=False) for _ in range(2)]
    paid = await world.approved()
    void = world.part(sdk.CancelRequest, held[0].psp_ref)
    capture = world.part(sdk.CaptureRequest, held[1].psp_ref, final=True)
    refund = world.part(sdk.RefundRequest, paid.psp_ref, 100)
    answers = [
        await world.adapter.cancel(void),
        await world.adapter.capture(capture),
        await world.adapter.refund(refund),
    ]
    assert all(isinstance(one, sdk.Pending) for one in answers)
    await world.control("POST pace", {})
    looked = [
        await world.adapter.retrieve(
            world.lookup(void, "void", charge_ref=held[0].psp_ref, psp_ref=f"{held[0].psp_ref}/void")
        ),
        await world.adapter.retrieve(world.lookup(capture, "capture", charge_ref=held[1].psp_ref)),
        await world.adapter.retrieve(world.lookup(refund, "refund", charge_ref=paid.psp_ref)),
    ]
    assert all(isinstance(one, sdk.Approved) for one in looked)


async def test_a_charge_that_waits_for_its_payer_is_given_up_where_mollie_lets_it(world: World) -> None:
    waiting = await world.adapter.create_intent(world.charge(sdk.RedirectSource("paypal")))
    assert isinstance(waiting, sdk.ActionRequired)
    assert isinstance(await world.adapter.cancel(world.part(sdk.CancelRequest, waiting.psp_ref)), sdk.Approved)
    waiting = await world.adapter.create_intent(world.charge(sdk.RedirectSource("ideal")))
    assert isinstance(waiting, sdk.ActionRequired)
    found = await world.adapter.cancel(world.part(sdk.CancelRequest, waiting.psp_ref))
    assert isinstance(found, sdk.Declined)
    assert found.raw_code == "open"


async def test_refunds_in_part_never_exceed_the_payment(world: World) -> None:
    paid = await world.approved()
    first, second = (world.part(sdk.RefundRequest, paid.psp_ref, 600, reason="returned") for _ in range(2))
    found = await world.adapter.refund(first)
    assert isinstance(found, sdk.Approved)
    assert found.psp_ref.startswith("re_")
    refused = await world.adapter.refund(second)
    assert isinstance(refused, sdk.Declined)
    assert refused.code == "invalid_amount"
    looked = await world.adapter.retrieve(world.lookup(first, "refund", charge_ref=paid.psp_ref))
    assert looked == found
    assert await world.adapter.retrieve(world.lookup(second, "refund", charge_ref=paid.psp_ref)) == sdk.NotFound()


@pytest.mark.parametrize("source", ["tkn_visa", sdk.RedirectSource("creditcard")])
async def test_a_first_payment_leaves_what_later_charges_rest_on(world: World, source: sdk.Source | str) -> None:
    request = world.charge(source, credential=FIRST, customer="cus_42")
    found = await world.adapter.create_intent(request)
    if isinstance(found, sdk.ActionRequired):
        await world.visit(found, "approve")
        found = await world.adapter.continue_intent(world.continued(request, found.psp_ref))
    assert isinstance(found, sdk.Approved)
    assert found.stored_token is not None
    stored = sdk.TokenSource(found.stored_token, stored=True)
    later = await world.adapter.create_intent(
        world.charge(stored, credential=LATER, customer_present=False, return_url=None)
    )
    assert isinstance(later, sdk.Approved)
    assert later.stored_token is None
    # With the customer present he confirms himself.
    present = await world.adapter.create_intent(world.charge(stored))
    assert isinstance(present, sdk.ActionRequired)


async def test_a_direct_debit_is_pending_for_days_and_may_fail(world: World) -> None:
    request = world.charge(sdk.RedirectSource("ideal"), credential=FIRST)
    asked = await world.adapter.create_intent(request)
    await world.visit(asked, "approve")
    assert isinstance(asked, sdk.ActionRequired)
    first = await world.adapter.continue_intent(world.continued(request, asked.psp_ref))
    assert isinstance(first, sdk.Approved)
    stored = sdk.TokenSource(first.stored_token or "", stored=True)
    debit = world.charge(stored, credential=LATER, customer_present=False)
    waiting = await world.adapter.create_intent(debit)
    assert isinstance(waiting, sdk.Pending)
    await world.control("POST payment", {"id": waiting.psp_ref, "status": "failed", "bank": "AM04"})
    failed = await world.adapter.retrieve(world.lookup(debit, "purchase"))
    assert isinstance(failed, sdk.Declined)
    assert (failed.code, failed.raw_code) == ("insufficient_funds", "AM04")


async def test_a_later_charge_may_be_refused_and_a_lost_mandate_is_a_decline(world: World) -> None:
    first = await world.approved("tkn_later_insufficient_funds", credential=FIRST)
    stored = sdk.TokenSource(first.stored_token or "", stored=True)
    refused = await world.adapter.create_intent(world.charge(stored, credential=LATER, customer_present=False))
    assert isinstance(refused, sdk.Declined)
    assert refused.code == "insufficient_funds"
    customer = (first.stored_token or "").partition("/")[0]
    gone = sdk.TokenSource(f"{customer}/mdt_gone", stored=True)
    refused = await world.adapter.create_intent(world.charge(gone, credential=LATER, customer_present=False))
    assert isinstance(refused, sdk.Declined)
    assert refused.code == "not_permitted"


@pytest.mark.parametrize("fault", ["hang_after", "error_after", "garbage_after"])
async def test_what_was_charged_without_an_answer_is_found_by_our_reference(world: World, fault: str) -> None:
    request = world.charge()
    await world.control("POST next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await world.adapter.create_intent(request)
    found = await world.adapter.retrieve(world.lookup(request, "purchase"))
    assert isinstance(found, sdk.Approved)
    # The same key again is the same payment.
    assert await world.adapter.create_intent(request) == found
    assert len(await world.booked(request.operation_id)) == 1


@pytest.mark.parametrize("fault", ["hang_before", "error_before"])
async def test_what_was_never_charged_is_not_found(world: World, fault: str) -> None:
    request = world.charge()
    await world.control("POST next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await world.adapter.create_intent(request)
    assert await world.adapter.retrieve(world.lookup(request, "purchase")) == sdk.NotFound()


async def test_a_lost_void_and_a_lost_refund_are_found_again(world: World) -> None:
    held, paid = await world.approved(capture=False), await world.approved()
    void, refund = world.part(sdk.CancelRequest, held.psp_ref), world.part(sdk.RefundRequest, paid.psp_ref, 1)
    for request, verb in ((void, world.adapter.cancel), (refund, world.adapter.refund)):
        await world.control("POST next", {"fault": "error_after"})
        with pytest.raises(sdk.OutcomeUnknown):
            await verb(request)
    assert isinstance(await world.adapter.retrieve(world.lookup(void, "void", charge_ref=held.psp_ref)), sdk.Approved)
    assert isinstance(
        await world.adapter.retrieve(world.lookup(refund, "refund", charge_ref=paid.psp_ref)), sdk.Approved
    )


async def test_a_lookup_reads_all_pages_and_ends_before_the_operation_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearspan_psp_mollie._PAGE", 2)
    request = world.charge()
    await world.adapter.create_intent(request)
    for _ in range(5):
        await world.approved()
    assert isinstance(await world.adapter.retrieve(world.lookup(request, "purchase")), sdk.Approved)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await world.adapter.retrieve(world.lookup(request, "purchase", created_at=later)) == sdk.NotFound()


async def test_wrong_keys_are_a_matter_of_settings_and_a_good_account_is_good(world: World) -> None:
    await world.adapter.check_account()
    with pytest.raises(sdk.PspMisconfigured):
        await world.another(api_key="wrong").check_account()
    with pytest.raises(sdk.PspMisconfigured, match="live mode"):
        await world.another(api_key="live_dHar4XY7LxsDOtmnkVtjNVWXLSlXsM").check_account()


@pytest.mark.parametrize(
    ("config", "live", "problem"),
    [
        ({"api_key": "test_a"}, False, ""),
        ({"api_key": "live_a"}, True, ""),
        ({"api_key": "live_a"}, False, "live mode"),
        ({"api_key": "test_a"}, True, "test mode"),
        ({"api_key": "a"}, True, "does not begin"),
        ({"api_key": "test_a", "organization_token": "a"}, False, "access_"),
    ],
)
def test_keys_tell_their_mode(config: dict[str, Any], live: bool, problem: str) -> None:
    found = MollieConfig(**config).problem(live)
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": sdk.RedirectSource("ideal"), "capture": False}, "holds an amount"),
        ({"source": sdk.RedirectSource(None), "capture": False}, "holds an amount"),
        ({"source": sdk.RedirectSource("ideal"), "return_url": None}, "return_url"),
        ({"source": sdk.TokenSource("tkn_visa", stored=True)}, "stored token"),
        ({"source": sdk.CardSource("t", "n", "m", "y", "c")}, "no cards"),
    ],
)
async def test_what_mollie_cannot_take_is_refused_before_anything_is_sent(
    world: World, fields: dict[str, Any], words: str
) -> None:
    request = world.charge(**fields)
    with pytest.raises(sdk.NotSupported, match=words):
        await world.adapter.create_intent(request)
    assert await world.booked(request.operation_id) == []


@pytest.mark.parametrize(
    ("minor", "currency", "value"),
    [(1000, "EUR", "10.00"), (5, "HUF", "0.05"), (500, "JPY", "500"), (7, "TWD", "0.07")],
)
async def test_amounts_have_the_decimals_that_mollie_documents(
    world: World, minor: int, currency: str, value: str
) -> None:
    found = await world.approved(amount=sdk.Money(minor, currency))
    assert found.amount == sdk.Money(minor, currency)
    assert found.raw["amount"] == {"currency": currency, "value": value}


def test_every_currency_of_the_facts_has_mollies_decimals() -> None:
    digits = {currency: sdk.exponent(currency) for currency in Mollie.facts.currencies}
    assert {currency for currency, count in digits.items() if count != 2} == {"ISK", "JPY"}
    assert {digits["ISK"], digits["JPY"]} == {0}


async def test_nothing_personal_is_kept_of_an_answer(world: World) -> None:
    found = await world.adapter.create_intent(world.charge("tkn_declined"))
    assert "T. TEST" not in str(found)


async def test_metadata_that_would_not_fit_never_drops_our_reference(world: World) -> None:
    request = world.charge(metadata={"order": "7", "long": "x" * 900, "longer": "y" * 900})
    found = await world.adapter.create_intent(request)
    assert found.raw["metadata"] == {"operation_id": request.operation_id, "order": "7", "long": "x" * 900}
