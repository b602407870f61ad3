"""Each thing a merchant can do with a payment, at the simulator: what is answered, and what the PSP has in its book."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.shop import Json, Shop, code, state, succeeded, until

DECLINES = [
    "insufficient_funds",
    "limit_exceeded",
    "do_not_honor",
    "generic_decline",
    "issuer_unavailable",
    "processing_error",
    "authentication_required",
    "expired_card",
    "invalid_number",
    "invalid_cvc",
    "avs_mismatch",
    "lost_card",
    "stolen_card",
    "pickup_card",
    "closed_account",
    "no_such_issuer",
    "not_permitted",
    "restricted_card",
    "blocked_by_holder",
    "suspected_fraud",
    "psp_risk_blocked",
    "consent_revoked",
    "invalid_merchant",
    "invalid_currency",
    "invalid_amount",
    "duplicate",
    "unmapped",
]
"""In the order of the magic amounts 9001, 9002, ..."""


async def told(shop: Shop, answer: httpx.Response, status: int) -> Json:
    """The payment in an answer, which is the payment as it stands."""
    assert answer.status_code == status, answer.text
    payment: Json = answer.json()
    assert state(await shop.get(payment)) == payment
    return payment


def amounts(payment: Json) -> dict[str, int]:
    """The amounts that are not zero, without the ending."""
    return {name.removesuffix("_minor"): value for name, value in payment["amounts"].items() if value}


# -- Create and confirm ---------------------------------------------------------------------------------------------------------


async def test_a_created_payment_keeps_what_was_sent_and_charges_nothing(shop: Shop) -> None:
    fields: Json = {
        "reference": "order-1042",
        "description": "Two coffees",
        "return_url": "https://shop.example/thanks?order=1",
        "metadata": {"order": "o-1042", "a": "ä€🙂"},
        "customer_present": False,
        "capture_method": "manual",
    }
    payment = await told(shop, await shop.create(500, currency="JPY", **fields), 201)
    assert (payment["status"], payment["amount_minor"], payment["currency"]) == ("requires_payment_method", 500, "JPY")
    assert {name: payment[name] for name in fields} == fields
    assert payment["live"] is False
    assert amounts(payment) == {}
    assert await shop.book() == []


async def test_a_payment_with_a_method_waits_for_its_confirmation(shop: Shop) -> None:
    payment = await told(shop, await shop.create(payment_method=await shop.card()), 201)
    assert payment["status"] == "requires_confirmation"
    assert await shop.book() == []


async def test_create_and_confirm_charges_once(shop: Shop) -> None:
    payment = await told(shop, await shop.pay(1099), 201)
    assert payment["status"] == "succeeded"
    assert amounts(payment) == {"authorized": 1099, "captured": 1099, "refundable": 1099}
    (charge,) = await shop.book()
    assert (charge["status"], charge["amount"], charge["currency"]) == ("succeeded", 1099, "EUR")
    assert payment["psp"]["reference"] == charge["id"]
    assert (payment["psp"]["psp"], payment["psp"]["account"]) == ("sandbox", "alpha")


async def test_a_payment_shows_its_operations_with_the_psp_s_words_and_its_audit_entries(shop: Shop) -> None:
    payment = await shop.get(await shop.paid())
    (operation,) = payment["operations"]
    (observation,) = operation["observations"]
    assert (operation["kind"], operation["state"]) == ("purchase", "succeeded")
    assert operation["routing"] == {"rule": "priority", "account": "alpha", "priority": "10"}
    assert (observation["source"], observation["observed"]) == ("response", "succeeded")
    assert observation["raw"]["id"] == operation["psp_reference"]
    assert [entry["type"] for entry in payment["audit"]] == [
        "payment.created",
        "operation.submitted",
        "payment.succeeded",
    ]


async def test_a_confirmation_of_its_own_charges_once(shop: Shop) -> None:
    payment = await shop.ready()
    confirmed = await told(shop, await shop.act(payment, "confirm"), 200)
    assert confirmed["status"] == "succeeded"
    assert len(succeeded(await shop.book())) == 1


async def test_a_confirmation_may_bring_the_method_and_the_way_back(shop: Shop) -> None:
    payment = (await shop.create()).json()
    body = {"payment_method": await shop.card("tok_mastercard"), "return_url": "https://shop.example/late"}
    confirmed = await told(shop, await shop.act(payment, "confirm", body), 200)
    assert confirmed["status"] == "succeeded"
    assert {name: confirmed[name] for name in body} == body


async def test_a_payment_is_confirmed_only_once(shop: Shop) -> None:
    payment = await shop.paid()
    assert code(await shop.act(payment, "confirm")) == (409, "payment_not_confirmable")
    assert len(await shop.book()) == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["create", "confirm"])
async def test_charging_needs_a_method(shop: Shop, at_once: bool) -> None:
    refused = await shop.create(confirm=True) if at_once else await shop.act((await shop.create()).json(), "confirm")
    assert code(refused) == (422, "payment_method_missing")
    assert await shop.book() == []


async def test_every_decline_surfaces_as_an_answer(shop: Shop) -> None:
    method = await shop.card()
    cards = [code for code in DECLINES if code != "duplicate"]
    by_amount = await asyncio.gather(
        *(shop.create(9001 + n, payment_method=method, confirm=True) for n in range(len(DECLINES)))
    )
    by_card = await asyncio.gather(*(shop.pay(1000, f"tok_decline_{code}") for code in cards))
    for expected, answer in [*zip(DECLINES, by_amount, strict=True), *zip(cards, by_card, strict=True)]:
        if expected == "duplicate":
            continue
        payment = await told(shop, answer, 201)
        assert payment["status"] == "requires_payment_method", expected
        assert payment["last_error"]["code"] == expected
        assert payment["last_error"]["raw_code"]
        assert amounts(payment) == {}
    assert succeeded(await shop.book()) == []


@pytest.mark.parametrize("way", ["amount", "card"])
async def test_a_suspected_duplicate_is_unknown_and_not_declined(shop: Shop, way: str) -> None:
    answer = await (shop.pay(9026) if way == "amount" else shop.pay(1000, "tok_decline_duplicate"))
    payment = await told(shop, answer, 202)
    assert (payment["status"], payment["outcome"], payment["last_error"]) == ("processing", "unknown", None)
    assert code(await shop.act(payment, "confirm")) == (409, "operation_outcome_unknown")


async def test_after_a_decline_another_card_succeeds_and_is_charged_once(shop: Shop) -> None:
    payment = await told(shop, await shop.pay(1500, "tok_decline_insufficient_funds"), 201)
    assert payment["status"] == "requires_payment_method"
    again = await told(shop, await shop.act(payment, "confirm"), 200)
    assert again["last_error"]["code"] == "insufficient_funds"
    body = {"payment_method": await shop.card("tok_visa_debit")}
    paid = await told(shop, await shop.act(payment, "confirm", body), 200)
    assert (paid["status"], paid["last_error"]) == ("succeeded", None)
    states = [(one["kind"], one["state"]) for one in (await shop.get(payment))["operations"]]
    assert states == [("purchase", "declined"), ("purchase", "declined"), ("purchase", "succeeded")]
    book = await shop.book()
    assert len(book) == 3
    assert len(succeeded(book)) == 1
    assert len({one["reference"] for one in book}) == 3


# -- Capture --------------------------------------------------------------------------------------------------------------------


async def authorized(shop: Shop, amount_minor: int = 1000) -> Json:
    payment = await shop.paid(amount_minor, capture_method="manual")
    assert payment["status"] == "requires_capture"
    assert amounts(payment) == {"authorized": amount_minor, "capturable": amount_minor}
    return payment


async def test_everything_is_captured_by_default(shop: Shop) -> None:
    payment = await authorized(shop)
    captured = await told(shop, await shop.act(payment, "capture"), 200)
    assert captured["status"] == "succeeded"
    assert amounts(captured) == {"authorized": 1000, "captured": 1000, "refundable": 1000}
    (charge,) = succeeded(await shop.book())
    assert charge["captured"] == 1000


async def test_several_parts_are_captured_until_nothing_is_left(shop: Shop) -> None:
    payment = await authorized(shop)
    first = await told(shop, await shop.act(payment, "capture", {"amount_minor": 300}), 200)
    assert first["status"] == "partially_captured"
    assert amounts(first) == {"authorized": 1000, "captured": 300, "capturable": 700, "refundable": 300}
    second = await told(shop, await shop.act(payment, "capture", {"amount_minor": 200}), 200)
    assert second["amounts"]["capturable_minor"] == 500
    refused = await shop.act(payment, "capture", {"amount_minor": 501})
    assert code(refused) == (422, "amount_above_capturable")
    assert (refused.json()["available_minor"], refused.json()["currency"]) == (500, "EUR")
    last = await told(shop, await shop.act(payment, "capture"), 200)
    assert last["status"] == "succeeded"
    assert code(await shop.act(payment, "capture")) == (409, "payment_not_capturable")
    book = await shop.book()
    assert sorted(one["amount"] for one in succeeded(book, "capture")) == [200, 300, 500]


async def test_a_final_capture_releases_the_rest(shop: Shop) -> None:
    payment = await authorized(shop)
    captured = await told(shop, await shop.act(payment, "capture", {"amount_minor": 600, "final": True}), 200)
    assert captured["status"] == "partially_captured"
    assert amounts(captured) == {"authorized": 1000, "captured": 600, "voided": 400, "refundable": 600}
    assert code(await shop.act(payment, "capture", {"amount_minor": 1})) == (409, "payment_not_capturable")
    (charge,) = succeeded(await shop.book())
    assert (charge["captured"], charge["voided"]) == (600, 400)


async def test_more_than_authorised_is_never_captured(shop: Shop) -> None:
    payment = await authorized(shop)
    assert code(await shop.act(payment, "capture", {"amount_minor": 1001})) == (422, "amount_above_capturable")
    assert await shop.get(payment) == await shop.get(payment)
    assert (await shop.get(payment))["amounts"]["capturable_minor"] == 1000
    assert succeeded(await shop.book(), "capture") == []


async def test_a_capture_that_the_psp_refuses_leaves_the_authorisation(shop: Shop) -> None:
    payment = await authorized(shop, 10_000)
    refused = await told(shop, await shop.act(payment, "capture", {"amount_minor": 9070}), 200)
    assert refused["status"] == "requires_capture"
    assert amounts(refused) == {"authorized": 10_000, "capturable": 10_000}
    assert (await shop.get(payment))["operations"][1]["state"] == "declined"
    assert (await told(shop, await shop.act(payment, "capture"), 200))["status"] == "succeeded"


@pytest.mark.parametrize("which", ["automatic", "unconfirmed", "declined", "canceled"])
async def test_what_is_not_authorised_cannot_be_captured(shop: Shop, which: str) -> None:
    if which == "automatic":
        payment = await shop.paid()
    elif which == "unconfirmed":
        payment = await shop.ready(capture_method="manual")
    elif which == "declined":
        payment = (await shop.pay(9001, capture_method="manual")).json()
    else:
        payment = await authorized(shop)
        assert (await shop.act(payment, "cancel")).status_code == 200
    assert code(await shop.act(payment, "capture")) == (409, "payment_not_capturable")


# -- Cancel ---------------------------------------------------------------------------------------------------------------------


async def test_a_payment_is_canceled_before_it_is_charged(shop: Shop) -> None:
    payment = await shop.ready()
    canceled = await told(shop, await shop.act(payment, "cancel", {"reason": "changed their mind"}), 200)
    assert (canceled["status"], canceled["cancellation_reason"]) == ("canceled", "changed their mind")
    assert canceled["canceled_at"] is not None
    assert code(await shop.act(payment, "confirm")) == (409, "payment_not_confirmable")
    assert code(await shop.act(payment, "cancel")) == (409, "payment_not_cancelable")
    assert await shop.book() == []


async def test_a_declined_payment_is_canceled(shop: Shop) -> None:
    payment = (await shop.pay(9001)).json()
    canceled = await told(shop, await shop.act(payment, "cancel"), 200)
    assert (canceled["status"], canceled["last_error"]["code"]) == ("canceled", "insufficient_funds")
    assert len(await shop.book()) == 1


async def test_canceling_releases_an_authorisation(shop: Shop) -> None:
    payment = await authorized(shop)
    canceled = await told(shop, await shop.act(payment, "cancel", {"reason": "out of stock"}), 200)
    assert (canceled["status"], canceled["cancellation_reason"]) == ("canceled", "out of stock")
    assert amounts(canceled) == {"authorized": 1000, "voided": 1000}
    assert [one["amount"] for one in succeeded(await shop.book(), "void")] == [1000]


async def test_canceling_after_a_partial_capture_releases_the_rest(shop: Shop) -> None:
    payment = await authorized(shop)
    await shop.act(payment, "capture", {"amount_minor": 400})
    canceled = await told(shop, await shop.act(payment, "cancel"), 200)
    assert canceled["status"] == "partially_captured"
    assert amounts(canceled) == {"authorized": 1000, "captured": 400, "voided": 600, "refundable": 400}
    assert code(await shop.act(payment, "cancel")) == (409, "payment_not_cancelable")
    (charge,) = succeeded(await shop.book())
    assert (charge["captured"], charge["voided"]) == (400, 600)


async def test_a_payment_that_waits_for_the_payer_is_given_up(shop: Shop) -> None:
    payment = (await shop.pay(1000, "tok_3ds_challenge")).json()
    canceled = await told(shop, await shop.act(payment, "cancel", {"reason": "too slow"}), 200)
    assert (canceled["status"], canceled["next_action"]) == ("canceled", None)
    assert code(await shop.act(payment, "continue")) == (409, "payment_not_continuable")
    assert succeeded(await shop.book()) == []


async def test_a_captured_payment_is_refunded_and_not_canceled(shop: Shop) -> None:
    assert code(await shop.act(await shop.paid(), "cancel")) == (409, "payment_not_cancelable")


async def test_a_void_that_the_psp_refuses_leaves_the_authorisation(shop: Shop) -> None:
    payment = await authorized(shop, 9070)
    refused = await told(shop, await shop.act(payment, "cancel"), 200)
    assert refused["status"] == "requires_capture"
    assert refused["canceled_at"] is None


# -- Refund ---------------------------------------------------------------------------------------------------------------------


async def refund(shop: Shop, payment: Json, **body: object) -> httpx.Response:
    return await shop.act(payment, "refunds", body)


async def test_everything_is_refunded_by_default(shop: Shop) -> None:
    payment = await shop.paid(1000)
    made = await refund(shop, payment, reason="returned goods", reference="r-1", metadata={"a": "b"})
    assert made.status_code == 201
    given = made.json()
    assert (given["status"], given["amount_minor"], given["payment"]) == ("succeeded", 1000, payment["id"])
    assert (given["reason"], given["reference"], given["metadata"]) == ("returned goods", "r-1", {"a": "b"})
    assert (await shop.http.get(f"/v1/refunds/{given['id']}")).json() == given
    assert amounts(await shop.get(payment)) == {"authorized": 1000, "captured": 1000, "refunded": 1000}
    assert [one["id"] for one in succeeded(await shop.book(), "refund")] == [given["psp_reference"]]
    assert code(await refund(shop, payment)) == (422, "amount_above_refundable")


async def test_several_parts_are_refunded_and_never_more_than_was_captured(shop: Shop) -> None:
    payment = await shop.paid(1000, capture_method="manual")
    assert code(await refund(shop, payment)) == (409, "payment_not_refundable")
    await shop.act(payment, "capture", {"amount_minor": 700})
    made = [await refund(shop, payment, amount_minor=amount) for amount in (100, 250)]
    assert [one.status_code for one in made] == [201, 201]
    refused = await refund(shop, payment, amount_minor=351)
    assert code(refused) == (422, "amount_above_refundable")
    assert refused.json()["available_minor"] == 350
    assert (await refund(shop, payment)).json()["amount_minor"] == 350
    listed = (await shop.http.get("/v1/refunds", params={"payment": payment["id"]})).json()
    assert [one["amount_minor"] for one in listed["data"]] == [350, 250, 100]
    (charge,) = succeeded(await shop.book())
    assert charge["refunded"] == 700


async def test_a_refund_that_the_psp_refuses_failed_and_leaves_the_amount(shop: Shop) -> None:
    payment = await shop.paid(10_000)
    made = await refund(shop, payment, amount_minor=9070)
    assert (made.status_code, made.json()["status"]) == (201, "failed")
    assert made.json()["code"]
    assert (await shop.get(payment))["amounts"]["refundable_minor"] == 10_000
    assert (await refund(shop, payment)).json()["status"] == "succeeded"


async def test_a_pending_refund_counts_against_what_is_left(shop: Shop) -> None:
    payment = await shop.paid(10_000)
    made = await refund(shop, payment, amount_minor=9052)
    assert (made.status_code, made.json()["status"]) == (202, "pending")
    refused = await refund(shop, payment, amount_minor=949)
    assert (code(refused), refused.json()["available_minor"]) == ((422, "amount_above_refundable"), 948)
    assert (await refund(shop, payment, amount_minor=948)).json()["status"] == "succeeded"


@pytest.mark.parametrize("which", ["unconfirmed", "declined", "canceled", "waiting"])
async def test_what_was_not_captured_cannot_be_refunded(shop: Shop, which: str) -> None:
    if which == "unconfirmed":
        payment = await shop.ready()
    elif which == "declined":
        payment = (await shop.pay(9001)).json()
    elif which == "waiting":
        payment = (await shop.pay(1000, "tok_3ds_challenge")).json()
    else:
        payment = await authorized(shop)
        await shop.act(payment, "cancel")
    assert code(await refund(shop, payment)) == (409, "payment_not_refundable")


# -- 3-D Secure -----------------------------------------------------------------------------------------------------------------


async def challenged(shop: Shop, card: str = "tok_3ds_challenge", **fields: Any) -> Json:
    payment = await told(shop, await shop.pay(1000, card, return_url="https://shop.example/back?o=1", **fields), 201)
    assert payment["status"] == "requires_action"
    assert payment["next_action"]["type"] == "redirect"
    assert payment["next_action"]["url"].startswith(f"{shop.psp_url}/challenge/")
    return payment


@pytest.mark.parametrize(
    ("capture_method", "status"), [("automatic", "succeeded"), ("manual", "requires_capture")], ids=["now", "later"]
)
async def test_a_payer_who_approves_the_challenge_has_paid(shop: Shop, capture_method: str, status: str) -> None:
    payment = await challenged(shop, capture_method=capture_method)
    back = await shop.answer_challenge(payment, "approve")
    assert back.status_code == 303
    way_back = httpx.URL(back.headers["location"])
    assert way_back.copy_with(query=None) == httpx.URL("https://shop.example/back")
    assert way_back.params["o"] == "1"
    paid = await told(shop, await shop.act(payment, "continue", {"params": dict(way_back.params)}), 200)
    assert (paid["status"], paid["next_action"]) == (status, None)
    assert len(succeeded(await shop.book())) == 1
    assert code(await shop.act(payment, "continue")) == (409, "payment_not_continuable")


async def test_a_payer_who_fails_the_challenge_has_not_paid_and_may_try_another_card(shop: Shop) -> None:
    payment = await challenged(shop)
    await shop.answer_challenge(payment, "fail")
    failed = await told(shop, await shop.act(payment, "continue"), 200)
    assert failed["status"] == "requires_payment_method"
    assert failed["last_error"]["code"] == "authentication_required"
    paid = await told(shop, await shop.act(payment, "confirm", {"payment_method": await shop.card()}), 200)
    assert paid["status"] == "succeeded"
    assert len(succeeded(await shop.book())) == 1


async def test_a_challenge_may_be_followed_by_a_decline(shop: Shop) -> None:
    payment = await challenged(shop, "tok_3ds_challenge_declined")
    await shop.answer_challenge(payment, "approve")
    declined = await told(shop, await shop.act(payment, "continue"), 200)
    assert declined["status"] == "requires_payment_method"
    assert succeeded(await shop.book()) == []


async def test_continuing_too_early_goes_on_waiting(shop: Shop) -> None:
    payment = await challenged(shop)
    for _ in range(2):
        early = await told(shop, await shop.act(payment, "continue"), 200)
        assert (early["status"], early["next_action"]) == ("requires_action", payment["next_action"])
    await shop.answer_challenge(payment, "approve")
    assert (await told(shop, await shop.act(payment, "continue"), 200))["status"] == "succeeded"


async def test_a_waiting_payment_is_not_confirmed_again(shop: Shop) -> None:
    payment = await challenged(shop)
    body = {"payment_method": await shop.card()}
    assert code(await shop.act(payment, "confirm", body)) == (409, "payment_not_confirmable")
    assert len(await shop.book()) == 1


async def test_a_card_that_is_recognised_needs_no_challenge(shop: Shop) -> None:
    assert (await shop.paid(1000, "tok_3ds_frictionless"))["next_action"] is None


async def test_a_failed_authentication_without_a_challenge_is_a_decline(shop: Shop) -> None:
    payment = await told(shop, await shop.pay(1000, "tok_3ds_failed"), 201)
    assert payment["status"] == "requires_payment_method"
    assert payment["last_error"]["code"] == "authentication_required"


# -- Pending and slow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount_minor", [9050, 9051, 9052])
async def test_a_charge_that_the_psp_decides_later_is_processing_and_pending(shop: Shop, amount_minor: int) -> None:
    payment = await told(shop, await shop.pay(amount_minor), 202)
    assert (payment["status"], payment["outcome"], payment["last_error"]) == ("processing", "pending", None)
    for what in ("confirm", "capture", "refunds", "continue"):
        refused = await shop.act(payment, what)
        assert code(refused) == (409, "payment_in_progress"), what
        assert refused.headers["retry-after"] == "2"
    assert len(await shop.charged(payment)) == 1


async def test_an_answer_beyond_the_wait_budget_is_202_and_succeeds_later(hasty: Shop) -> None:
    slow = await hasty.pay(1001, "tok_slow", key="slow")
    assert slow.status_code == 202
    assert (slow.json()["status"], slow.json()["outcome"]) == ("processing", None)

    async def done() -> Json | None:
        payment = await hasty.get(slow.json())
        return payment if payment["status"] != "processing" else None

    assert (await until(done))["status"] == "succeeded"
    again = await hasty.pay(1001, "tok_slow", key="slow")
    assert (again.status_code, again.content) == (202, slow.content), "the same key answers the same for ever"
    assert len(await hasty.book()) == 1


# -- Which account --------------------------------------------------------------------------------------------------------------


async def test_the_account_is_chosen_by_priority_or_by_name_or_by_id(shop: Shop) -> None:
    by_priority = await shop.paid()
    by_name = await shop.paid(psp_account="beta")
    by_id = await shop.paid(psp_account=by_name["psp"]["account_id"])
    assert [one["psp"]["account"] for one in (by_priority, by_name, by_id)] == ["alpha", "beta", "beta"]
    (operation,) = (await shop.get(by_name))["operations"]
    assert operation["routing"] == {"rule": "asked_for", "account": "beta", "priority": "20"}
    assert len(await shop.book()) == 1


async def test_a_declined_payment_may_go_to_another_account(shop: Shop) -> None:
    payment = await told(shop, await shop.pay(9060, psp_account="beta"), 201)
    assert (payment["status"], payment["last_error"]["code"]) == ("requires_payment_method", "do_not_honor")
    assert payment["psp"]["account"] == "beta"
    paid = await told(shop, await shop.act(payment, "confirm", {"psp_account": "alpha"}), 200)
    assert (paid["status"], paid["psp"]["account"]) == ("succeeded", "alpha")
    assert len(await shop.charged(payment)) == 1


async def test_a_change_of_priority_moves_the_next_payment(shop: Shop) -> None:
    beta = (await shop.paid(psp_account="beta"))["psp"]["account_id"]
    changed = await shop.http.patch(f"/v1/psp-accounts/{beta}", json={"priority": 1})
    assert changed.status_code == 200
    assert (await shop.paid())["psp"]["account"] == "beta"


async def test_captures_and_refunds_stay_with_the_account_of_the_charge(shop: Shop) -> None:
    payment = await shop.paid(1000, capture_method="manual", psp_account="beta")
    account = payment["psp"]["account_id"]
    await shop.http.patch(f"/v1/psp-accounts/{account}", json={"status": "disabled"})
    captured = await told(shop, await shop.act(payment, "capture"), 200)
    assert (captured["status"], captured["psp"]["account"]) == ("succeeded", "beta")
    assert (await refund(shop, payment)).json()["status"] == "succeeded"
    assert await shop.book("alpha") == []


async def test_an_account_that_does_not_exist_or_is_disabled_takes_nothing_and_the_answer_says_why(shop: Shop) -> None:
    unknown = await shop.pay(psp_account="gamma")
    assert code(unknown) == (422, "no_psp_account")
    because = "another account was asked for"
    assert unknown.json()["rejected"] == [{"account": name, "because": because} for name in ("alpha", "beta")]
    accounts = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    for account in accounts:
        await shop.http.patch(f"/v1/psp-accounts/{account['id']}", json={"status": "disabled"})
    for name in (None, "alpha"):
        assert code(await shop.pay(psp_account=name)) == (422, "no_psp_account")
    assert code(await shop.act(await shop.ready(), "confirm")) == (422, "no_psp_account")
    assert await shop.book() == []


async def test_a_new_account_takes_payments_at_once_in_every_process(shop: Shop, elsewhere: Shop) -> None:
    await elsewhere.paid()
    await shop.add_account("gamma", 5)
    assert (await elsewhere.paid(psp_account="gamma"))["psp"]["account"] == "gamma"


async def test_a_new_account_is_named_in_every_process(shop: Shop, elsewhere: Shop) -> None:
    await elsewhere.paid()
    await shop.add_account("gamma", 5)
    payment = await shop.paid(psp_account="gamma")
    filtered = (await elsewhere.http.get("/v1/payments", params={"psp": "gamma"})).json()["data"]
    listed = (await elsewhere.http.get("/v1/payments")).json()["data"]
    assert filtered[0]["psp"] == listed[0]["psp"] == (await elsewhere.get(payment))["psp"] == payment["psp"]


async def test_an_account_that_another_process_disabled_takes_nothing(shop: Shop, elsewhere: Shop) -> None:
    account = (await elsewhere.paid())["psp"]["account_id"]
    await shop.http.patch(f"/v1/psp-accounts/{account}", json={"status": "disabled"})
    assert code(await elsewhere.pay()) == (409, "psp_account_unavailable")
    assert len(await shop.book()) == 1


# -- What a payment refers to ---------------------------------------------------------------------------------------------------


async def test_a_method_of_a_customer_charges_that_customer_only(shop: Shop) -> None:
    ada, bob = [(await shop.post("/v1/customers", {"email": f"{name}@example.com"})).json() for name in ("ada", "bob")]
    method = await shop.card("tok_visa", customer=ada["id"])
    paid = await shop.create(payment_method=method, confirm=True, customer=ada["id"])
    assert (await told(shop, paid, 201))["customer"] == ada["id"]
    for fields in ({}, {"customer": bob["id"]}):
        refused = await shop.create(payment_method=method, confirm=True, **fields)
        assert code(refused) == (409, "payment_method_of_another_customer")
    assert len(await shop.book()) == 1


async def test_a_detached_method_charges_nothing(shop: Shop) -> None:
    payment = await shop.ready()
    assert (await shop.post(f"/v1/payment-methods/{payment['payment_method']}/detach")).status_code == 200
    assert code(await shop.act(payment, "confirm")) == (409, "payment_method_detached")
    refused = await shop.create(payment_method=payment["payment_method"], confirm=True)
    assert code(refused) == (409, "payment_method_detached")
    assert await shop.book() == []


async def test_what_belongs_to_another_tenant_or_mode_does_not_exist(
    shop: Shop, other_shop: Shop, live_shop: Shop
) -> None:
    payment = await shop.paid()
    given = (await refund(shop, payment, amount_minor=1)).json()
    method = await shop.card()
    customer = (await shop.post("/v1/customers", {})).json()["id"]
    for stranger in (other_shop, live_shop):
        for what in ("confirm", "continue", "capture", "cancel", "refunds"):
            assert code(await stranger.act(payment, what)) == (404, "payment_not_found"), what
        assert code(await stranger.http.get(f"/v1/payments/{payment['id']}")) == (404, "payment_not_found")
        assert code(await stranger.http.get(f"/v1/refunds/{given['id']}")) == (404, "refund_not_found")
        assert code(await stranger.create(payment_method=method)) == (404, "payment_method_not_found")
        assert code(await stranger.create(customer=customer)) == (404, "customer_not_found")
        own = await stranger.ready()
        assert code(await stranger.act(own, "confirm", {"payment_method": method})) == (404, "payment_method_not_found")
        assert await stranger.book() == []


async def test_the_network_s_reference_of_the_first_payment_goes_with_the_next(shop: Shop) -> None:
    """Without it the simulator wants the payer to authenticate a merchant-initiated charge of this card."""
    mandate = await shop.consented("tok_3ds_challenge")
    assert mandate["network_transaction_id"]
    later = await told(shop, await shop.rebill(mandate), 201)
    assert later["status"] == "succeeded"
    assert (await shop.charged(later))[0]["customer_present"] is False


async def test_a_description_of_full_length_reaches_the_psp(shop: Shop) -> None:
    payment = await shop.paid(description="d" * 500)
    assert payment["description"] == "d" * 500
