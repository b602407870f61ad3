"""Payments at Adyen: charged, refused, challenged, on file, captured, canceled, refunded, and not known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan_psp_adyen import Adyen, answers, requests

if TYPE_CHECKING:
    from .conftest import World


async def test_a_purchase_is_approved_with_the_network_transaction_id(world: World) -> None:
    request = world.charge()
    outcome = await world.psp.create_intent(request)
    assert isinstance(outcome, sdk.Approved)
    assert (outcome.amount, len(outcome.psp_ref), len(outcome.network_transaction_id or "")) == (request.amount, 16, 15)
    booked = await world.booked(request.operation_id)
    assert [(one["status"], one["captured_minor"]) for one in booked] == [("captured", 1099)]


async def test_the_card_is_a_placeholder_until_the_vault(world: World) -> None:
    await world.psp.create_intent(world.charge())
    sent = json.loads(world.vault.seen[-1])["paymentMethod"]
    assert sent["number"] == "{{number}}"
    assert sent["cvc"] == "{{cvc}}"


async def test_what_is_kept_of_an_answer_holds_no_card_data_and_no_cavv() -> None:
    extra = {
        "cardSummary": "1111",
        "expiryDate": "03/2030",
        "cavv": "AAAB",
        "refusalReasonRaw": "AUTHORISED",
        "ownerName": "J",
    }
    raw = {"resultCode": "Authorised", "threeDS2Result": {"authenticationValue": "AAAB"}, "additionalData": extra}
    assert answers.kept(raw) == {"resultCode": "Authorised", "additionalData": {"refusalReasonRaw": "AUTHORISED"}}


async def test_an_authorisation_waits_for_its_capture_and_the_capture_for_its_webhook(world: World) -> None:
    request = world.charge(capture=False)
    charge = await world.psp.create_intent(request)
    capture = world.follow_up(sdk.CaptureRequest, charge.psp_ref, 500)
    outcome = await world.psp.capture(capture)
    assert isinstance(outcome, sdk.Pending)
    [event] = await world.last_webhook()
    assert isinstance(event.news, sdk.OperationNews)
    assert (event.type, event.news.kind, event.news.psp_ref) == ("CAPTURE", "capture", outcome.psp_ref)
    assert event.news.charge_ref == charge.psp_ref
    assert event.news.outcome == sdk.Approved(
        psp_ref=outcome.psp_ref, amount=sdk.Money(500, "EUR"), raw=event.news.outcome.raw
    )


async def test_a_refund_in_part_a_second_and_one_too_many(world: World) -> None:
    charge = await world.psp.create_intent(world.charge())
    told = []
    for amount in (600, 499, 1):
        await world.psp.refund(world.follow_up(sdk.RefundRequest, charge.psp_ref, amount))
        [event] = await world.last_webhook()
        told.append(type(event.news.outcome).__name__)  # type: ignore[union-attr]
    assert told == ["Approved", "Approved", "Declined"]


async def test_a_cancellation_by_the_psp_reference(world: World) -> None:
    charge = await world.psp.create_intent(world.charge(capture=False))
    outcome = await world.psp.cancel(world.follow_up(sdk.CancelRequest, charge.psp_ref))
    [event] = await world.last_webhook()
    assert isinstance(outcome, sdk.Pending)
    assert (event.type, event.news.kind, event.news.psp_ref) == ("CANCELLATION", "void", outcome.psp_ref)  # type: ignore[union-attr]


async def test_a_charge_that_waits_for_its_payer_is_canceled_by_our_reference(world: World) -> None:
    request = world.charge("tok_3ds_challenge")
    waiting = await world.psp.create_intent(request)
    assert isinstance(waiting, sdk.ActionRequired)
    outcome = await world.psp.cancel(world.follow_up(sdk.CancelRequest, "", charge_operation_id=request.operation_id))
    [event] = await world.last_webhook()
    assert (event.type, event.news.psp_ref) == ("TECHNICAL_CANCEL", outcome.psp_ref)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("token", "code", "raw_code", "network"),
    [
        ("tok_decline_insufficient_funds", "insufficient_funds", "12", "51"),
        ("tok_decline_generic_decline", "do_not_honor", "2", "05"),
    ],
)
async def test_a_refusal_is_a_value(world: World, token: str, code: str, raw_code: str, network: str) -> None:
    outcome = await world.psp.create_intent(world.charge(token))
    assert isinstance(outcome, sdk.Declined)
    assert (outcome.code, outcome.raw_code, outcome.network_code, outcome.advice) == (code, raw_code, network, "02")


async def test_a_number_that_no_card_has_is_declined_and_not_a_fault_of_ours(world: World) -> None:
    outcome = await world.psp.create_intent(world.charge("tok_no_test_card"))
    assert isinstance(outcome, sdk.Declined)
    assert outcome.code == "invalid_number"


@pytest.mark.parametrize(("outcome", "expected"), [("approve", sdk.Approved), ("refuse", sdk.Declined)])
async def test_a_challenge_is_a_redirect_and_its_result_decides(world: World, outcome: str, expected: type) -> None:
    request = world.charge("tok_3ds_challenge")
    waiting = await world.psp.create_intent(request)
    assert isinstance(waiting, sdk.ActionRequired)
    assert waiting.psp_ref is None
    params = await world.visit(waiting.action.url, outcome)
    assert params["order"] == "7"
    again = sdk.ContinueRequest(request.operation_id, request.key, request.amount, request.capture, "", params)
    found = await world.psp.continue_intent(again)
    assert isinstance(found, expected)
    assert await world.psp.continue_intent(again) == found  # under its own key
    if isinstance(found, sdk.Approved):
        authentication = sdk.Authentication(
            challenged=True, version="2.2.0", eci="05", ds_transaction_id="a3b86754-444d-46ca-95a2-ada351d3f42c"
        )
        assert found.authentication == authentication
    assert len(await world.booked(request.operation_id)) == 1


async def test_a_payer_who_comes_back_with_nothing_leaves_the_outcome_unknown(world: World) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        await world.psp.continue_intent(sdk.ContinueRequest("op", "key", sdk.Money(1, "EUR"), True, "", {"order": "7"}))


async def test_the_first_payment_of_an_agreement_and_the_merchants_later_ones(world: World) -> None:
    first = sdk.StoredCredential(initiator="customer", purpose="recurring", first=True, mandate="man_1")
    done = await world.psp.create_intent(world.charge(credential=first))
    sent = json.loads(world.vault.seen[-1])
    assert (sent["shopperInteraction"], sent["recurringProcessingModel"]) == ("Ecommerce", "Subscription")
    assert sent["authenticationData"]["attemptAuthentication"] == "always"
    assert "storePaymentMethod" not in sent  # the card stays in the vault
    later = sdk.StoredCredential(
        initiator="merchant",
        purpose="recurring",
        first=False,
        mandate="man_1",
        network_transaction_id=done.network_transaction_id,
    )
    again = world.charge(credential=later, customer_present=False, browser=None, return_url=None)
    assert isinstance(await world.psp.create_intent(again), sdk.Approved)
    sent = json.loads(world.vault.seen[-1])
    assert (sent["shopperInteraction"], sent["recurringProcessingModel"]) == ("ContAuth", "Subscription")
    assert sent["additionalData"]["networkTxReference"] == done.network_transaction_id
    assert not {"cvc"} & set(sent["paymentMethod"])
    assert "authenticationData" not in sent


async def test_an_encrypted_card_is_stored_at_adyen_and_charged_again_as_a_token(world: World) -> None:
    blob = {
        "encryptedCardNumber": "test_4111111111111111",
        "encryptedExpiryMonth": "test_03",
        "encryptedExpiryYear": "test_2030",
    }
    blob |= {"encryptedSecurityCode": "test_737", "type": "scheme", "checkoutAttemptId": "a"}
    first = sdk.StoredCredential(initiator="customer", purpose="unscheduled", first=True, mandate="man_2")
    done = await world.psp.create_intent(world.charge(sdk.TokenSource(json.dumps(blob)), credential=first))
    assert isinstance(done, sdk.Approved)
    assert done.stored_token is not None
    later = world.charge(sdk.TokenSource(done.stored_token, stored=True), customer_present=False, browser=None)
    assert isinstance(await world.psp.create_intent(later), sdk.Approved)
    with pytest.raises(sdk.NotSupported):
        await world.psp.create_intent(world.charge(sdk.TokenSource(done.stored_token, stored=True), customer=None))
    stranger = world.charge(sdk.TokenSource(done.stored_token, stored=True), customer="cus_other")
    with pytest.raises(sdk.PspMisconfigured, match="803"):
        await world.psp.create_intent(stranger)


@pytest.mark.parametrize(
    "token",
    ['{"number": "4111111111111111"}', '{"encryptedCardNumber": "x", "cvc": "1"}', "{", '{"encryptedCardNumber": 1}'],
)
async def test_plain_card_data_in_a_token_is_never_sent(world: World, token: str) -> None:
    with pytest.raises(sdk.NotSupported):
        await world.psp.create_intent(world.charge(sdk.TokenSource(token)))


async def test_a_redirect_source_is_not_supported(world: World) -> None:
    with pytest.raises(sdk.NotSupported):
        await world.psp.create_intent(world.charge(sdk.RedirectSource("ideal")))


@pytest.mark.parametrize("fault", ["error_after", "garbage_after", "error_before"])
async def test_after_an_unclear_answer_the_same_key_charges_once(world: World, fault: str) -> None:
    request = world.charge()
    await world.control("next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await world.psp.create_intent(request)
    assert isinstance(await world.psp.create_intent(request), sdk.Approved)
    assert len(await world.booked(request.operation_id)) == 1


async def test_the_same_key_answers_the_same_for_a_capture(world: World) -> None:
    charge = await world.psp.create_intent(world.charge(capture=False))
    request = world.follow_up(sdk.CaptureRequest, charge.psp_ref)
    await world.control("next", {"fault": "error_after"})
    with pytest.raises(sdk.OutcomeUnknown):
        await world.psp.capture(request)
    first = await world.psp.capture(request)
    assert await world.psp.capture(request) == first


async def test_nothing_can_be_looked_up(world: World) -> None:
    assert Adyen.facts.lookup == sdk.Lookup(by_psp_ref=False)
    with pytest.raises(sdk.OutcomeUnknown, match="no lookup"):
        await world.psp.retrieve(sdk.RetrieveRequest("op", "key", "purchase", sdk.Money(1, "EUR"), psp_ref="ref"))


async def test_wrong_credentials_and_a_wrong_merchant_account_are_told_to_the_operator(world: World) -> None:
    await world.psp.check_account()
    for changes in ({"api_key": "wrong"}, {"merchant_account": "Nobody"}):
        with pytest.raises(sdk.PspMisconfigured):
            await world.adapter(**changes).check_account()


async def test_an_unknown_charge_reference_was_not_executed(world: World) -> None:
    with pytest.raises(sdk.PspMisconfigured, match="167"):
        await world.psp.refund(world.follow_up(sdk.RefundRequest, "UNKNOWN000000000"))


async def test_a_server_that_is_not_there_got_nothing(world: World) -> None:
    with pytest.raises(sdk.PspUnavailable):
        await world.adapter(url="http://127.0.0.1:9").create_intent(world.charge())


@pytest.mark.parametrize(
    ("currency", "minor", "value"),
    [
        ("EUR", 1099, 1099),
        ("JPY", 500, 500),
        ("KWD", 1234, 1234),
        ("CLP", 500, 50000),
        ("ISK", 12, 1200),
        ("IDR", 500, 5),
        ("CVE", 700, 7),
    ],
)
async def test_amounts_are_sent_in_adyens_units(world: World, currency: str, minor: int, value: int) -> None:
    request = world.charge(amount=minor, currency=currency)
    outcome = await world.psp.create_intent(request)
    assert json.loads(world.vault.seen[-1])["amount"] == {"value": value, "currency": currency}
    assert outcome.amount == request.amount


async def test_an_amount_finer_than_adyens_unit_is_not_sent(world: World) -> None:
    with pytest.raises(sdk.NotSupported):
        await world.psp.create_intent(world.charge(amount=501, currency="IDR"))


def answer(**fields: Any) -> dict[str, Any]:
    return {"pspReference": "993617895204576J", "merchantReference": "op_1"} | fields


ASKED = sdk.Money(1000, "EUR")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(resultCode="Authorised"), sdk.Approved),
        (answer(resultCode="Refused", refusalReasonCode="6"), sdk.Declined),
        (answer(resultCode="Cancelled"), sdk.Declined),
        (answer(resultCode="Error", refusalReasonCode="4"), sdk.Declined),
        (answer(resultCode="Pending"), sdk.Pending),
        (answer(resultCode="Received"), sdk.Pending),
        (
            answer(resultCode="RedirectShopper", action={"type": "redirect", "url": "https://x", "method": "GET"}),
            sdk.ActionRequired,
        ),
        (answer(resultCode="PartiallyAuthorised", amount={"value": 400, "currency": "EUR"}), sdk.Approved),
        (answer(resultCode="PartiallyAuthorised"), None),
        (answer(resultCode="RedirectShopper", action={"type": "redirect", "url": "https://x", "method": "POST"}), None),
        (answer(resultCode="RedirectShopper"), None),
        (answer(resultCode="IdentifyShopper"), None),
        (answer(resultCode="ChallengeShopper"), None),
        (answer(resultCode="PresentToShopper"), None),
        (answer(resultCode="AuthenticationFinished"), None),
        (answer(resultCode="AuthenticationNotRequired"), None),
        (answer(resultCode="Success"), None),
        (answer(resultCode="Unheard"), None),
        (answer(), None),
        (answer(resultCode="Authorised", merchantReference="op_2"), None),
        ({"resultCode": "Authorised"}, None),
        ({"resultCode": "Pending"}, None),
    ],
)
def test_every_result_code_means_one_thing(said: dict[str, Any], kind: type | None) -> None:
    if kind is None:
        with pytest.raises(sdk.OutcomeUnknown):
            answers.charged(said, "op_1", ASKED)
    else:
        assert isinstance(answers.charged(said, "op_1", ASKED), kind)


def test_another_amount_is_told_as_it_was_said() -> None:
    outcome = answers.charged(answer(resultCode="Authorised", amount={"value": 999, "currency": "EUR"}), "op_1", ASKED)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.amount == sdk.Money(999, "EUR")


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        ({"errorCode": "14_030", "errorType": "validation"}, {}, sdk.PspMisconfigured),
        ({"errorCode": "905", "errorType": "configuration"}, {}, sdk.PspMisconfigured),
        ({"errorCode": "704", "errorType": "validation"}, {}, sdk.OutcomeUnknown),
        ({"errorCode": "1", "errorType": "internal"}, {}, sdk.OutcomeUnknown),
        ({"errorCode": "1", "errorType": "validation"}, {"transient-error": "true"}, sdk.OutcomeUnknown),
        ({}, {}, sdk.OutcomeUnknown),
    ],
)
def test_an_error_is_ours_only_when_it_says_so(body: dict[str, Any], headers: dict[str, str], error: type) -> None:
    assert isinstance(answers.refused(sdk.Answer(422, body, headers)), error)


def test_metadata_that_adyen_would_refuse_is_left_out(world: World) -> None:
    labels = {"order": "7", "a name of more than twenty": "x", "long": "x" * 81}
    body = requests.charge_body(world.charge(metadata=labels), world.psp._config)
    assert body["metadata"] == {"order": "7"}


async def test_live_accounts_speak_to_their_own_prefix(world: World) -> None:
    seen = []

    async def note(request: httpx.Request) -> None:
        seen.append(str(request.url))
        raise httpx.ConnectError("not in a test")

    async with httpx.AsyncClient(event_hooks={"request": [note]}) as http:
        settings = world.adapter(url="", live_prefix="1797a841fbb37ca7-Shop")._config
        for live in (True, False):
            psp = Adyen(settings, sdk.PspContext(http=http, vault_http=http, live=live))
            with pytest.raises(sdk.PspUnavailable):
                await psp.check_account()
    assert seen == [
        "https://1797a841fbb37ca7-shop-checkout-live.adyenpayments.com/checkout/v72/paymentMethods",
        "https://checkout-test.adyen.com/v72/paymentMethods",
    ]
    assert settings.problem(live=True) == ""
    assert "live_prefix" in world.adapter(url="")._config.problem(live=True)
    assert "hexadecimal" in world.adapter(hmac_key="no hex")._config.problem(live=False)
