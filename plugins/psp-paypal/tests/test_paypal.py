"""The adapter against the simulator, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan_psp_paypal import PayPal, PayPalConfig

NUMBERS = {"good": "4242424242424242", "broke": "4000000000009995", "no": "4000000000000002", "3ds": "4000002500003155"}
RETURN = "https://shop.example/return?payment=1"
_IDS: Iterator[int] = count(1)


def eur(minor: int) -> sdk.Money:
    return sdk.Money(minor, "EUR")


def card(name: str = "good") -> sdk.CardSource:
    """The numbers stand where a vault would put them."""
    return sdk.CardSource("tok_1", NUMBERS[name], "12", "2031", "123")


def charge(source: sdk.Source | None = None, **fields: Any) -> sdk.ChargeRequest:
    number = next(_IDS)
    usual = {"amount": eur(10_00), "capture": True, "return_url": RETURN, "description": "Order 1"}
    return sdk.ChargeRequest(
        operation_id=f"op_{number}", key=f"key{number}", source=source or card(), **(usual | fields)
    )


def going_on(request: sdk.ChargeRequest, ref: str, **params: str) -> sdk.ContinueRequest:
    return sdk.ContinueRequest(request.operation_id, request.key, request.amount, request.capture, ref, params)


def looking(request: Any, kind: str, ref: str | None = None, charge_ref: str | None = None) -> sdk.RetrieveRequest:
    return sdk.RetrieveRequest(request.operation_id, request.key, kind, request.amount, ref, charge_ref)


def follow(kind: type, ref: str, minor: int, **more: Any) -> Any:
    number = next(_IDS)
    return kind(operation_id=f"op_{number}", key=f"key{number}", amount=eur(minor), charge_ref=ref, **more)


def booked(simulator: Any, request: Any) -> list[dict[str, Any]]:
    return [one for one in simulator.control("charges") if one["reference"] == request.operation_id]


async def test_a_card_is_charged_once_however_often_the_key_is_sent(paypal: PayPal, simulator: Any) -> None:
    request = charge()
    first, again = await paypal.create_intent(request), await paypal.create_intent(request)
    assert isinstance(first, sdk.Approved)
    assert isinstance(again, sdk.Approved)
    assert (first.amount, first.fee, first.psp_ref) == (eur(10_00), eur(30), again.psp_ref)
    assert first.network_transaction_id
    assert [one["captured_minor"] for one in booked(simulator, request)] == [10_00]


@pytest.mark.parametrize(
    ("name", "code", "raw_code"), [("broke", "insufficient_funds", "5120"), ("no", "generic_decline", "5100")]
)
@pytest.mark.parametrize("capture", [True, False])
async def test_the_processors_refusal_is_a_decline(
    paypal: PayPal, name: str, code: str, raw_code: str, capture: bool
) -> None:
    outcome = await paypal.create_intent(charge(card(name), capture=capture))
    assert isinstance(outcome, sdk.Declined)
    assert (outcome.code, outcome.raw_code) == (code, raw_code)


async def test_a_refusal_as_422_is_a_decline(paypal: PayPal) -> None:
    outcome = await paypal.create_intent(charge(sdk.TokenSource("paypal:declined")))
    assert isinstance(outcome, sdk.Declined)
    assert (outcome.code, outcome.raw_code) == ("generic_decline", "INSTRUMENT_DECLINED")


async def test_a_pending_capture_stays_pending_until_looked_up_otherwise(paypal: PayPal) -> None:
    request = charge(sdk.TokenSource("paypal:pending"))
    outcome = await paypal.create_intent(request)
    assert isinstance(outcome, sdk.Pending)
    assert isinstance(await paypal.retrieve(looking(request, "purchase", outcome.psp_ref)), sdk.Pending)


@pytest.mark.parametrize("capture", [True, False])
async def test_the_wallet_is_approved_on_paypals_page_and_keeps_its_reference(
    paypal: PayPal, simulator: Any, capture: bool
) -> None:
    request = charge(sdk.RedirectSource("paypal"), capture=capture)
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    early = await paypal.continue_intent(going_on(request, asked.psp_ref))
    assert isinstance(early, sdk.ActionRequired)
    params = simulator.page(asked.action.url, "approve")
    assert params == {"payment": "1", "token": asked.psp_ref, "PayerID": "QYR5Z8XDVJNXQ"}
    waits = await paypal.retrieve(looking(request, "purchase" if capture else "authorize", asked.psp_ref))
    assert isinstance(waits, sdk.ActionRequired)
    assert waits.action.url.endswith(f"/checkoutnow?token={asked.psp_ref}")
    done = await paypal.continue_intent(going_on(request, asked.psp_ref, **params))
    again = await paypal.continue_intent(going_on(request, asked.psp_ref, **params))
    assert isinstance(done, sdk.Approved)
    assert isinstance(again, sdk.Approved)
    assert {done.psp_ref, again.psp_ref} == {asked.psp_ref}
    assert "payer@example.com" not in repr(done)
    assert booked(simulator, request)[0]["status"] == ("captured" if capture else "authorized")


async def test_a_payer_who_gives_up_is_declined_and_nothing_is_taken(paypal: PayPal, simulator: Any) -> None:
    request = charge(sdk.RedirectSource())
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    params = simulator.page(asked.action.url, "refuse")
    outcome = await paypal.continue_intent(going_on(request, asked.psp_ref, **params))
    assert isinstance(outcome, sdk.Declined)
    assert outcome.raw_code == "PAYER_CANCELED"
    assert booked(simulator, request)[0]["status"] == "pending"


async def test_who_says_canceled_after_paying_has_paid(paypal: PayPal, simulator: Any) -> None:
    request = charge(sdk.RedirectSource())
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    simulator.page(asked.action.url, "approve")
    assert isinstance(await paypal.continue_intent(going_on(request, asked.psp_ref)), sdk.Approved)
    late = await paypal.continue_intent(going_on(request, asked.psp_ref, clearspan="canceled"))
    assert isinstance(late, sdk.Approved)


async def test_an_order_captured_behind_our_back_is_read(paypal: PayPal, simulator: Any) -> None:
    request = charge(sdk.RedirectSource())
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    simulator.page(asked.action.url, "approve")
    answer = sdk.Answer(422, {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": "ORDER_ALREADY_CAPTURED"}]})
    original = paypal._call

    async def taken(method: str, path: str, *rest: Any, **more: Any) -> sdk.Answer:
        said = await original(method, path, *rest, **more)
        return answer if path.endswith("/capture") else said

    paypal._call = taken  # type: ignore[method-assign]
    assert isinstance(await paypal.continue_intent(going_on(request, asked.psp_ref)), sdk.Approved)


@pytest.mark.parametrize(("outcome", "expected"), [("approve", sdk.Approved), ("refuse", sdk.Declined)])
async def test_three_d_secure_decides(paypal: PayPal, simulator: Any, outcome: str, expected: type) -> None:
    request = charge(card("3ds"))
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    params = simulator.page(asked.action.url, outcome)
    done = await paypal.continue_intent(going_on(request, asked.psp_ref, **params))
    assert isinstance(done, expected)
    if isinstance(done, sdk.Declined):
        assert (done.code, done.raw_code) == ("authentication_required", "3DS_Y_N_NO")
        assert booked(simulator, request)[0]["captured_minor"] == 0
    else:
        assert isinstance(done, sdk.Approved)
        assert done.authentication is not None


async def test_the_first_wallet_payment_stores_and_the_next_needs_no_payer(paypal: PayPal, simulator: Any) -> None:
    first = sdk.StoredCredential(initiator="customer", purpose="recurring", first=True, mandate="mdt_1")
    request = charge(sdk.RedirectSource(), credential=first)
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    simulator.page(asked.action.url, "approve")
    done = await paypal.continue_intent(going_on(request, asked.psp_ref))
    assert isinstance(done, sdk.Approved)
    assert done.stored_token is not None
    later = msgspec.structs.replace(first, initiator="merchant", first=False)
    source = sdk.TokenSource(done.stored_token, stored=True)
    paid = await paypal.create_intent(charge(source, credential=later, customer_present=False, return_url=None))
    assert isinstance(paid, sdk.Approved)


async def test_a_card_is_charged_again_on_its_network_transaction(paypal: PayPal) -> None:
    first = sdk.StoredCredential(initiator="customer", purpose="unscheduled", first=True, mandate="mdt_1")
    done = await paypal.create_intent(charge(credential=first))
    assert isinstance(done, sdk.Approved)
    later = msgspec.structs.replace(
        first, initiator="merchant", first=False, network_transaction_id=done.network_transaction_id
    )
    request = charge(card("3ds"), credential=later, customer_present=False, return_url=None)
    assert isinstance(await paypal.create_intent(request), sdk.Approved)


async def test_an_authorisation_is_captured_in_parts_and_the_rest_let_go(paypal: PayPal, simulator: Any) -> None:
    request = charge(capture=False)
    held = await paypal.create_intent(request)
    assert isinstance(held, sdk.Approved)
    part = follow(sdk.CaptureRequest, held.psp_ref, 4_00, final=False)
    first, again = await paypal.capture(part), await paypal.capture(part)
    assert isinstance(first, sdk.Approved)
    assert isinstance(again, sdk.Approved)
    assert (first.amount, first.psp_ref) == (eur(4_00), again.psp_ref)
    for ref in (first.psp_ref, None):
        assert isinstance(await paypal.retrieve(looking(part, "capture", ref, held.psp_ref)), sdk.Approved)
    void = follow(sdk.CancelRequest, held.psp_ref, 6_00)
    gone, twice = await paypal.cancel(void), await paypal.cancel(void)
    assert gone == msgspec.structs.replace(twice, raw=gone.raw)
    assert isinstance(gone, sdk.Approved)
    assert (gone.psp_ref, gone.amount) == (f"{held.psp_ref}/void", eur(6_00))
    assert isinstance(await paypal.retrieve(looking(void, "void", gone.psp_ref, held.psp_ref)), sdk.Approved)
    assert isinstance(await paypal.retrieve(looking(request, "authorize", held.psp_ref)), sdk.Approved)
    late = await paypal.capture(follow(sdk.CaptureRequest, held.psp_ref, 1_00, final=True))
    assert isinstance(late, sdk.Declined)
    assert booked(simulator, request)[0]["captured_minor"] == 4_00


async def test_refunds_find_a_capture_with_enough_and_are_made_once(paypal: PayPal, simulator: Any) -> None:
    request = charge(capture=False)
    held = await paypal.create_intent(request)
    assert isinstance(held, sdk.Approved)
    for minor in (3_00, 7_00):
        await paypal.capture(follow(sdk.CaptureRequest, held.psp_ref, minor, final=False))
    small, large = (
        follow(sdk.RefundRequest, held.psp_ref, 2_00, reason="wrong size"),
        follow(sdk.RefundRequest, held.psp_ref, 5_00),
    )
    for back in (small, large, small, large):
        done = await paypal.refund(back)
        assert isinstance(done, sdk.Approved)
        assert isinstance(await paypal.retrieve(looking(back, "refund", done.psp_ref, held.psp_ref)), sdk.Approved)
        assert isinstance(await paypal.retrieve(looking(back, "refund", None, held.psp_ref)), sdk.Approved)
    assert booked(simulator, request)[0]["refunded_minor"] == 7_00
    too_much = await paypal.refund(follow(sdk.RefundRequest, held.psp_ref, 3_00))
    assert isinstance(too_much, sdk.Declined)
    assert too_much.raw_code == "NO_CAPTURE_HAS_SO_MUCH"


async def test_an_order_nobody_approved_is_given_up_and_one_captured_is_not(paypal: PayPal) -> None:
    asked = await paypal.create_intent(charge(sdk.RedirectSource()))
    assert isinstance(asked, sdk.ActionRequired)
    gone = await paypal.cancel(follow(sdk.CancelRequest, asked.psp_ref, 10_00))
    assert isinstance(gone, sdk.Approved)
    paid = await paypal.create_intent(charge())
    assert isinstance(paid, sdk.Approved)
    assert isinstance(await paypal.cancel(follow(sdk.CancelRequest, paid.psp_ref, 10_00)), sdk.Declined)


@pytest.mark.parametrize("fault", ["error_after", "error_before", "garbage_after"])
async def test_after_a_lost_answer_the_same_key_charges_once(paypal: PayPal, simulator: Any, fault: str) -> None:
    request = charge()
    simulator.control("next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await paypal.create_intent(request)
    assert isinstance(await paypal.create_intent(request), sdk.Approved)
    assert [one["captured_minor"] for one in booked(simulator, request)] == [10_00]


async def test_a_capture_whose_answer_is_lost_is_found_by_its_order(paypal: PayPal, simulator: Any) -> None:
    request = charge(sdk.RedirectSource())
    asked = await paypal.create_intent(request)
    assert isinstance(asked, sdk.ActionRequired)
    simulator.page(asked.action.url, "approve")
    simulator.control("next", {"fault": "error_after"})
    with pytest.raises(sdk.OutcomeUnknown):
        await paypal.continue_intent(going_on(request, asked.psp_ref))
    assert isinstance(await paypal.retrieve(looking(request, "purchase", asked.psp_ref)), sdk.Approved)


async def test_the_simulators_messages_are_believed_and_name_what_was_done(
    paypal: PayPal, simulator: Any, clock: Any
) -> None:
    request = charge(capture=False)
    held = await paypal.create_intent(request)
    assert isinstance(held, sdk.Approved)
    part = follow(sdk.CaptureRequest, held.psp_ref, 4_00, final=True)
    taken = await paypal.capture(part)
    assert isinstance(taken, sdk.Approved)
    back = follow(sdk.RefundRequest, held.psp_ref, 1_00)
    await paypal.refund(back)
    told = []
    for one in simulator.control("webhooks")[-3:]:
        message = sdk.WebhookDelivery(headers=one["headers"], body=one["body"].encode(), query={}, received_at=clock())
        [event] = await paypal.verify_webhook(message)
        assert isinstance(event.news, sdk.OperationNews)
        told.append((event.news.kind, event.news.reference, event.news.outcome.psp_ref))
    assert told[:2] == [
        ("charge", request.operation_id, held.psp_ref),
        ("capture", part.operation_id, taken.psp_ref),
    ]
    assert told[2][:2] == ("refund", back.operation_id)


@pytest.mark.parametrize(
    ("minor", "currency", "raises"),
    [(1234, "JPY", None), (1234_00, "HUF", None), (1234_50, "HUF", sdk.NotSupported), (900_00, "TWD", None)],
)
async def test_amounts_go_as_paypal_counts(
    paypal: PayPal, minor: int, currency: str, raises: type[Exception] | None
) -> None:
    request = charge(amount=sdk.Money(minor, currency))
    if raises is not None:
        with pytest.raises(raises):
            await paypal.create_intent(request)
        return
    outcome = await paypal.create_intent(request)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.amount == request.amount


async def test_the_access_token_is_kept_until_shortly_before_its_end(paypal: PayPal, clock: Any) -> None:
    await paypal.check_account()
    kept = paypal._token
    clock.forward(timedelta(hours=8, minutes=54))
    await paypal.create_intent(charge())
    assert paypal._token == kept
    clock.forward(timedelta(minutes=2))
    await paypal.create_intent(charge())
    assert paypal._token != kept


async def test_a_revoked_token_charges_nothing_and_the_next_call_logs_in_again(paypal: PayPal, simulator: Any) -> None:
    await paypal.check_account()
    simulator.control("revoke", {})
    request = charge()
    with pytest.raises(sdk.PspMisconfigured):
        await paypal.create_intent(request)
    assert booked(simulator, request) == []
    assert isinstance(await paypal.create_intent(request), sdk.Approved)


@pytest.mark.parametrize("wrong", [{"client_secret": "wrong"}, {"webhook_id": "9XL90610J3647323C"}])
async def test_settings_that_do_not_work_are_told(settings: dict[str, Any], wrong: dict[str, str]) -> None:
    async with httpx.AsyncClient() as http:
        context = sdk.PspContext(http=http, vault_http=http)
        with pytest.raises(sdk.PspMisconfigured):
            await PayPal(msgspec.convert(settings | wrong, PayPalConfig), context).check_account()


async def test_without_an_access_token_nothing_was_sent(settings: dict[str, Any]) -> None:
    async with httpx.AsyncClient(timeout=0.2) as http:
        config = msgspec.convert(settings | {"url": "http://127.0.0.1:9"}, PayPalConfig)
        with pytest.raises(sdk.PspUnavailable):
            await PayPal(config, sdk.PspContext(http=http, vault_http=http)).create_intent(charge())


async def test_a_foreign_order_is_not_believed(paypal: PayPal) -> None:
    paid = await paypal.create_intent(charge())
    assert isinstance(paid, sdk.Approved)
    with pytest.raises(sdk.OutcomeUnknown):
        await paypal.retrieve(looking(charge(), "purchase", paid.psp_ref))


async def test_what_paypal_does_not_know_is_not_found(paypal: PayPal) -> None:
    request = charge()
    assert isinstance(await paypal.retrieve(looking(request, "purchase", "0AB")), sdk.NotFound)
    assert isinstance(await paypal.retrieve(looking(request, "refund", "0AB")), sdk.NotFound)
    assert isinstance(await paypal.retrieve(looking(request, "purchase")), sdk.NotFound)


async def test_hosts_follow_the_mode() -> None:
    config = PayPalConfig(client_id="a", client_secret="b", webhook_id="W")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(500)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        for live in (True, False):
            with pytest.raises(sdk.PspUnavailable):
                await PayPal(config, sdk.PspContext(http=http, vault_http=http, live=live)).create_intent(charge())
    assert seen == ["api-m.paypal.com", "api-m.sandbox.paypal.com"]
    assert datetime.now(UTC)
