"""Charges, captures, voids and refunds against the simulator, which checks each request against Stripe's description."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan.sdk import Money

APPROVED, POOR, REFUSED, CHALLENGED = "4242424242424242", "4000000000009995", "4000000000000002", "4000002500003155"


def agreement(**changes: Any) -> sdk.StoredCredential:
    fields: dict[str, Any] = {"initiator": "customer", "purpose": "recurring", "first": True, "mandate": "mdt_1"}
    return sdk.StoredCredential(**fields | changes)


async def test_a_purchase_is_approved_with_its_fee_and_keeps_no_secret(shop: Any) -> None:
    request = shop.request(metadata={"clearspan_payment": "pay_1"}, description="Order 7")
    outcome = await shop.approved(request)
    assert (outcome.amount, outcome.fee) == (Money(1099, "EUR"), Money(61, "EUR"))
    assert outcome.stored_token is None
    assert "secret" not in str(outcome.raw)
    sent = await shop.sent(request.key)
    fields = parse_qs(sent["body"])
    assert sent["version"] == "2023-08-16"
    assert fields["metadata[operation_id]"] == [request.operation_id]
    assert fields["metadata[clearspan_payment]"] == ["pay_1"]
    assert APPROVED not in sent["body"]


async def test_the_card_goes_to_a_payment_method_under_a_key_of_its_own(shop: Any) -> None:
    request = shop.request()
    await shop.approved(request)
    made = await shop.sent(f"{request.key}-method")
    assert made["path"] == "/v1/payment_methods"
    assert parse_qs(made["body"])["card[number]"] == [APPROVED]


async def test_an_authorisation_is_captured_in_part_and_the_rest_is_released(shop: Any) -> None:
    authorised = await shop.approved(shop.request(capture=False))
    assert authorised.amount == Money(1099, "EUR")
    request = sdk.CaptureRequest("op_capture_1", "key_capture_1", Money(500, "EUR"), authorised.psp_ref, final=True)
    outcome = await shop.psp.capture(request)
    assert isinstance(outcome, sdk.Approved)
    assert (outcome.psp_ref, outcome.amount) == (f"{authorised.psp_ref}/capture", Money(500, "EUR"))
    assert outcome.fee == Money(44, "EUR")
    (row,) = [one for one in await shop.control("charges") if one["id"] == authorised.psp_ref]
    assert (row["status"], row["captured_minor"]) == ("captured", 500)
    again = await shop.psp.capture(msgspec.structs.replace(request, operation_id="op_capture_2", key="key_capture_2"))
    assert (again.code, again.raw_code) == ("not_permitted", "payment_intent_unexpected_state")
    found = await shop.psp.retrieve(shop.retrieve(request, "capture"))
    assert isinstance(found, sdk.Approved)
    other = shop.retrieve(request, "capture", operation_id="op_capture_2")
    assert isinstance(await shop.psp.retrieve(other), sdk.NotFound)


async def test_a_capture_that_had_happened_is_approved_when_its_key_is_forgotten(shop: Any) -> None:
    authorised = await shop.approved(shop.request(capture=False))
    request = sdk.CaptureRequest("op_capture_3", "key_capture_3", Money(1099, "EUR"), authorised.psp_ref, final=True)
    await shop.psp.capture(request)
    outcome = await shop.psp.capture(msgspec.structs.replace(request, key="key_capture_3_forgotten"))
    assert isinstance(outcome, sdk.Approved)


async def test_a_void_releases_and_the_authorisation_stays_a_fact(shop: Any) -> None:
    request = shop.request(capture=False)
    authorised = await shop.approved(request)
    void = sdk.CancelRequest("op_void_1", "key_void_1", Money(1099, "EUR"), authorised.psp_ref)
    assert isinstance(await shop.psp.retrieve(shop.retrieve(void, "void")), sdk.NotFound)
    outcome = await shop.psp.cancel(void)
    assert isinstance(outcome, sdk.Approved)
    assert (outcome.psp_ref, outcome.amount) == (f"{authorised.psp_ref}/void", Money(1099, "EUR"))
    assert isinstance(await shop.psp.retrieve(shop.retrieve(void, "void")), sdk.Approved)
    assert isinstance(await shop.psp.retrieve(shop.retrieve(request, "authorize")), sdk.Approved)
    late = sdk.CaptureRequest("op_capture_4", "key_capture_4", Money(1099, "EUR"), authorised.psp_ref, final=True)
    assert isinstance(await shop.psp.capture(late), sdk.Declined)


async def test_what_is_captured_cannot_be_voided(shop: Any) -> None:
    charge = await shop.approved(shop.request())
    outcome = await shop.psp.cancel(sdk.CancelRequest("op_void_2", "key_void_2", Money(1099, "EUR"), charge.psp_ref))
    assert (outcome.code, outcome.raw_code) == ("not_permitted", "payment_intent_unexpected_state")


@pytest.mark.parametrize(
    ("number", "code", "raw_code"),
    [
        (POOR, "insufficient_funds", "insufficient_funds"),
        (REFUSED, "generic_decline", "generic_decline"),
        ("4000000000009987", "lost_card", "lost_card"),
        ("4000000000000069", "expired_card", "expired_card"),
        ("4000000000000127", "invalid_cvc", "incorrect_cvc"),
        ("4000000000000119", "processing_error", "processing_error"),
    ],
)
async def test_a_decline_is_a_value(shop: Any, number: str, code: str, raw_code: str) -> None:
    request = shop.request(number)
    outcome = await shop.psp.create_intent(request)
    assert isinstance(outcome, sdk.Declined)
    assert (outcome.code, outcome.raw_code) == (code, raw_code)
    assert outcome.psp_ref is not None
    assert "secret" not in str(outcome.raw)
    found = await shop.psp.retrieve(shop.retrieve(request, "purchase"))
    assert (found.code, found.psp_ref) == (code, outcome.psp_ref)


async def test_a_number_that_is_none_is_declined_before_there_is_a_charge(shop: Any) -> None:
    request = shop.request("42")
    outcome = await shop.psp.create_intent(request)
    assert (outcome.code, outcome.psp_ref) == ("invalid_number", None)
    assert isinstance(await shop.psp.retrieve(shop.retrieve(request, "purchase")), sdk.NotFound)


async def pay(shop: Any, action: sdk.ActionRequired, outcome: str) -> dict[str, str]:
    """What the payer comes back with."""
    answer = await shop.api.get(action.action.url, params={"outcome": outcome})
    assert answer.status_code == 302
    back = urlsplit(answer.headers["location"])
    assert back.netloc == "shop.example"
    return {name: values[0] for name, values in parse_qs(back.query).items()}


@pytest.mark.parametrize("capture", [True, False])
async def test_a_challenge_that_is_passed_charges(shop: Any, capture: bool) -> None:
    request = shop.request(CHALLENGED, capture=capture)
    action = await shop.psp.create_intent(request)
    assert isinstance(action, sdk.ActionRequired)
    params = await pay(shop, action, "approve")
    assert params["cart"] == "7"
    going_on = sdk.ContinueRequest(
        request.operation_id, request.key, request.amount, capture, action.psp_ref, params=params
    )
    outcome = await shop.psp.continue_intent(going_on)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.authentication == sdk.Authentication(challenged=True, version="2.2.0")


async def test_a_challenge_that_is_failed_declines(shop: Any) -> None:
    request = shop.request(CHALLENGED)
    action = await shop.psp.create_intent(request)
    await pay(shop, action, "refuse")
    going_on = sdk.ContinueRequest(request.operation_id, request.key, request.amount, True, action.psp_ref)
    outcome = await shop.psp.continue_intent(going_on)
    assert (outcome.code, outcome.raw_code) == ("authentication_required", "payment_intent_authentication_failure")


async def test_a_challenge_that_is_given_up_is_voided_and_the_charge_declined(shop: Any) -> None:
    request = shop.request(CHALLENGED)
    action = await shop.psp.create_intent(request)
    void = sdk.CancelRequest("op_void_3", "key_void_3", request.amount, action.psp_ref)
    assert isinstance(await shop.psp.cancel(void), sdk.Approved)
    found = await shop.psp.retrieve(shop.retrieve(request, "purchase"))
    assert (found.code, found.raw_code) == ("authentication_required", "canceled")


async def test_without_an_address_to_return_to_no_challenge_is_asked_for(shop: Any) -> None:
    outcome = await shop.psp.create_intent(shop.request(CHALLENGED, return_url=None))
    assert (outcome.code, outcome.raw_code) == ("authentication_required", "authentication_required")


@pytest.mark.parametrize("number", [APPROVED, CHALLENGED])
async def test_a_card_kept_in_the_first_payment_is_charged_without_its_holder(shop: Any, number: str) -> None:
    request = shop.request(number, credential=agreement(), customer="cust_1")
    first = await shop.psp.create_intent(request)
    if isinstance(first, sdk.ActionRequired):
        await pay(shop, first, "approve")
        going_on = sdk.ContinueRequest(request.operation_id, request.key, request.amount, True, first.psp_ref)
        first = await shop.psp.continue_intent(going_on)
    assert isinstance(first, sdk.Approved)
    assert first.stored_token is not None
    assert first.stored_token.startswith("cus_")
    later = shop.request(
        source=sdk.TokenSource(first.stored_token, stored=True),
        customer_present=False,
        credential=agreement(initiator="merchant", first=False),
    )
    outcome = await shop.approved(later)
    assert outcome.amount == Money(1099, "EUR")
    fields = parse_qs((await shop.sent(later.key))["body"])
    assert fields["off_session"] == ["true"]
    assert f"{fields['customer'][0]}/{fields['payment_method'][0]}" == first.stored_token


async def test_a_merchant_initiated_charge_of_a_vault_card_says_so_and_sends_no_cvc(shop: Any) -> None:
    fields = {"customer_present": False, "credential": agreement(initiator="merchant", first=False)}
    request = shop.request(**fields)
    await shop.approved(request)
    assert parse_qs((await shop.sent(request.key))["body"])["off_session"] == ["true"]
    assert "cvc" not in (await shop.sent(f"{request.key}-method"))["body"]
    outcome = await shop.psp.create_intent(shop.request(CHALLENGED, **fields))
    assert (outcome.code, outcome.raw_code) == ("authentication_required", "authentication_required")


async def test_a_payment_method_made_in_the_browser_is_charged(shop: Any) -> None:
    request = shop.request(source=sdk.TokenSource("pm_card_visa"))
    await shop.approved(request)
    kept = await shop.approved(shop.request(source=sdk.TokenSource("pm_card_visa"), credential=agreement()))
    assert kept.stored_token is not None


@pytest.mark.parametrize("source", [sdk.TokenSource("cus_1/pm_1"), sdk.TokenSource("pm_1", stored=True)])
async def test_a_customer_is_named_by_stored_tokens_only(shop: Any, source: sdk.TokenSource) -> None:
    with pytest.raises(sdk.NotSupported):
        await shop.psp.create_intent(shop.request(source=source))


@pytest.mark.parametrize(("outcome", "expected"), [("approve", sdk.Approved), ("refuse", sdk.Declined)])
async def test_a_payer_is_sent_to_his_bank(shop: Any, outcome: str, expected: type) -> None:
    request = shop.request(source=sdk.RedirectSource("ideal"))
    action = await shop.psp.create_intent(request)
    assert isinstance(action, sdk.ActionRequired)
    await pay(shop, action, outcome)
    going_on = sdk.ContinueRequest(request.operation_id, request.key, request.amount, True, action.psp_ref)
    assert isinstance(await shop.psp.continue_intent(going_on), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": sdk.RedirectSource()},
        {"source": sdk.RedirectSource("ideal"), "capture": False},
        {"source": sdk.RedirectSource("ideal"), "credential": agreement()},
        {"amount": Money(0, "EUR"), "capture": False, "return_url": None},
        {"amount": Money(100, "UGX")},
    ],
    ids=["no method", "manual capture", "stored", "check without address", "currency"],
)
async def test_what_stripe_cannot_take_is_refused_before_anything_is_sent(shop: Any, changes: dict[str, Any]) -> None:
    request = shop.request(**changes)
    with pytest.raises(sdk.NotSupported):
        await shop.psp.create_intent(request)
    assert not [one for one in await shop.control("requests") if (one["key"] or "").startswith(request.key)]


async def test_a_card_is_checked_without_an_amount(shop: Any) -> None:
    request = shop.request(minor=0, capture=False, credential=agreement())
    outcome = await shop.approved(request)
    assert (outcome.amount, outcome.psp_ref[:5]) == (Money(0, "EUR"), "seti_")
    assert outcome.stored_token is not None
    found = await shop.psp.retrieve(shop.retrieve(request, "authorize"))
    assert found.psp_ref == outcome.psp_ref
    declined = await shop.psp.create_intent(shop.request(POOR, minor=0, capture=False))
    assert declined.code == "insufficient_funds"


async def test_a_check_may_ask_for_a_challenge_and_be_given_up(shop: Any) -> None:
    request = shop.request(CHALLENGED, minor=0, capture=False)
    action = await shop.psp.create_intent(request)
    assert isinstance(action, sdk.ActionRequired)
    await pay(shop, action, "approve")
    going_on = sdk.ContinueRequest(request.operation_id, request.key, request.amount, False, action.psp_ref)
    assert isinstance(await shop.psp.continue_intent(going_on), sdk.Approved)
    other = await shop.psp.create_intent(shop.request(CHALLENGED, minor=0, capture=False))
    void = sdk.CancelRequest("op_void_4", "key_void_4", request.amount, other.psp_ref)
    assert isinstance(await shop.psp.cancel(void), sdk.Approved)


async def test_a_charge_is_refunded_in_parts_and_no_further(shop: Any) -> None:
    charge = await shop.approved(shop.request())
    request = sdk.RefundRequest("op_refund_1", "key_refund_1", Money(1000, "EUR"), charge.psp_ref, reason="he asked")
    outcome = await shop.psp.refund(request)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.amount == Money(1000, "EUR")
    assert "reason" not in parse_qs((await shop.sent(request.key))["body"])
    by_reference = await shop.psp.retrieve(shop.retrieve(request, "refund"))
    by_ref = await shop.psp.retrieve(shop.retrieve(request, "refund", psp_ref=outcome.psp_ref))
    assert by_reference.psp_ref == by_ref.psp_ref == outcome.psp_ref
    with pytest.raises(sdk.PspMisconfigured, match="amount"):
        await shop.psp.refund(sdk.RefundRequest("op_refund_2", "key_refund_2", Money(100, "EUR"), charge.psp_ref))
    rest = await shop.psp.refund(sdk.RefundRequest("op_refund_3", "key_refund_3", Money(99, "EUR"), charge.psp_ref))
    assert isinstance(rest, sdk.Approved)
    none = await shop.psp.refund(sdk.RefundRequest("op_refund_4", "key_refund_4", Money(1, "EUR"), charge.psp_ref))
    assert (none.code, none.raw_code) == ("not_permitted", "charge_already_refunded")


@pytest.mark.parametrize(("status", "expected"), [("pending", sdk.Pending), ("failed", sdk.Declined)])
async def test_a_refund_may_come_later_or_fail(shop: Any, status: str, expected: type) -> None:
    charge = await shop.approved(shop.request())
    request = sdk.RefundRequest(f"op_refund_{status}", f"key_refund_{status}", Money(100, "EUR"), charge.psp_ref)
    outcome = await shop.psp.refund(request)
    await shop.control("refund", {"refund": outcome.psp_ref, "status": status})
    assert isinstance(await shop.psp.retrieve(shop.retrieve(request, "refund")), expected)
