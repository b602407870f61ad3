"""The simulator keeps its own books: what they forbid is refused, what happened can be found, and no card number is in them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from clearspan.sdk import (
    Approved,
    CancelRequest,
    CaptureRequest,
    Declined,
    Money,
    NotFound,
    Outcome,
    OutcomeUnknown,
    Pending,
    PspMisconfigured,
    RefundRequest,
    RetrieveRequest,
)
from clearspan_psp_sandbox.cards import CARDS

if TYPE_CHECKING:
    from conftest import Eventually, OpenShop, Running, Shop

ALPHA = {"Authorization": "Bearer sk_sandbox_alpha"}
CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}


class Till:
    """A charge and what may follow."""

    def __init__(self, shop: Shop, charge: Outcome) -> None:
        assert charge.psp_ref
        self.psp, self.ref = shop.psp, charge.psp_ref

    async def capture(self, amount_minor: int, *, final: bool = False) -> Outcome:
        operation_id = str(uuid4())
        return await self.psp.capture(
            CaptureRequest(operation_id, operation_id, Money(amount_minor, "EUR"), self.ref, final)
        )

    async def void(self, amount_minor: int = 1000) -> Outcome:
        operation_id = str(uuid4())
        return await self.psp.cancel(CancelRequest(operation_id, operation_id, Money(amount_minor, "EUR"), self.ref))

    async def refund(self, amount_minor: int) -> Outcome:
        operation_id = str(uuid4())
        return await self.psp.refund(RefundRequest(operation_id, operation_id, Money(amount_minor, "EUR"), self.ref))


async def open_till(shop: Shop, amount_minor: int = 1000, *, capture: bool = False) -> Till:
    charge = await shop.psp.create_intent(shop.request(amount_minor=amount_minor, capture=capture))
    assert isinstance(charge, Approved)
    return Till(shop, charge)


def refused(outcome: Outcome, raw_code: str) -> bool:
    return isinstance(outcome, Declined) and outcome.raw_code == raw_code and outcome.code != "unmapped"


async def test_several_captures_reach_the_authorised_amount_and_not_more(shop: Shop) -> None:
    till = await open_till(shop)
    assert isinstance(await till.capture(400), Approved)
    assert refused(await till.capture(601), "amount_exceeds_authorized")
    assert isinstance(await till.capture(600), Approved)
    assert refused(await till.capture(1), "already_captured")


async def test_a_final_capture_releases_the_rest(shop: Shop) -> None:
    till = await open_till(shop)
    outcome = await till.capture(400, final=True)
    assert isinstance(outcome, Approved)
    assert (outcome.amount, outcome.raw["released"]) == (Money(400, "EUR"), 600)
    assert refused(await till.capture(1), "already_captured")


async def test_a_voided_charge_cannot_be_captured_voided_or_refunded(shop: Shop) -> None:
    till = await open_till(shop)
    voided = await till.void()
    assert isinstance(voided, Approved)
    assert voided.amount == Money(1000, "EUR")
    assert refused(await till.capture(1), "charge_voided")
    assert refused(await till.void(), "charge_voided")
    assert refused(await till.refund(1), "charge_not_captured")


async def test_a_captured_charge_cannot_be_voided(shop: Shop) -> None:
    assert refused(await (await open_till(shop, capture=True)).void(), "already_captured")


async def test_a_void_after_a_partial_capture_releases_the_rest(shop: Shop) -> None:
    till = await open_till(shop)
    await till.capture(400)
    voided = await till.void(600)
    assert isinstance(voided, Approved)
    assert voided.amount == Money(600, "EUR")
    assert isinstance(await till.refund(400), Approved)


async def test_refunds_reach_the_captured_amount_and_not_more(shop: Shop) -> None:
    till = await open_till(shop, capture=True)
    assert isinstance(await till.refund(700), Approved)
    assert refused(await till.refund(301), "amount_exceeds_captured")
    assert isinstance(await till.refund(300), Approved)
    assert refused(await till.refund(1), "amount_exceeds_captured")


async def test_a_declined_charge_cannot_be_captured(shop: Shop) -> None:
    declined = await shop.psp.create_intent(shop.request("tok_decline_lost_card"))
    till = Till(shop, declined)
    assert refused(await till.capture(1), "charge_not_authorized")
    assert refused(await till.void(), "charge_not_authorized")
    assert refused(await till.refund(1), "charge_not_captured")


async def test_captures_at_once_never_exceed_the_authorisation(shop: Shop) -> None:
    till = await open_till(shop)
    outcomes = await asyncio.gather(*(till.capture(300) for _ in range(20)))
    assert sum(isinstance(outcome, Approved) for outcome in outcomes) == 3


async def test_refunds_at_once_never_exceed_the_capture(shop: Shop) -> None:
    till = await open_till(shop, capture=True)
    outcomes = await asyncio.gather(*(till.refund(300) for _ in range(20)))
    assert sum(isinstance(outcome, Approved) for outcome in outcomes) == 3


async def test_a_pending_refund_holds_its_amount_and_gives_it_back_when_declined(
    shop: Shop, eventually: Eventually
) -> None:
    till = await open_till(shop, 10_000, capture=True)
    request = RefundRequest(str(uuid4()), str(uuid4()), Money(9051, "EUR"), till.ref)
    assert isinstance(await shop.psp.refund(request), Pending)
    assert refused(await till.refund(950), "amount_exceeds_captured")
    lookup = RetrieveRequest(request.operation_id, request.key, "refund", request.amount, charge_ref=till.ref)

    async def ended() -> Outcome | NotFound | None:
        found = await shop.psp.retrieve(lookup)
        return None if isinstance(found, Pending) else found

    outcome = await eventually(ended)
    assert isinstance(outcome, Declined)
    assert isinstance(await till.refund(950), Approved)


async def test_a_charge_of_another_account_does_not_exist(open_shop: OpenShop) -> None:
    till = await open_till(open_shop("alpha"))
    till.psp = open_shop("beta").psp
    with pytest.raises(PspMisconfigured, match="charge_not_found"):
        await till.capture(1)


@pytest.mark.parametrize("kind", ["purchase", "authorize", "capture", "void", "refund"])
async def test_an_operation_is_found_by_our_reference(shop: Shop, kind: str) -> None:
    request = shop.request(amount_minor=1000, capture=kind in ("purchase", "refund"))
    charge = await shop.psp.create_intent(request)
    assert isinstance(charge, Approved)
    amount = Money(1000, "EUR")
    operation_id = str(uuid4())
    made: Outcome
    match kind:
        case "capture":
            made = await shop.psp.capture(
                CaptureRequest(operation_id, operation_id, amount, charge.psp_ref, final=True)
            )
        case "void":
            made = await shop.psp.cancel(CancelRequest(operation_id, operation_id, amount, charge.psp_ref))
        case "refund":
            made = await shop.psp.refund(RefundRequest(operation_id, operation_id, amount, charge.psp_ref))
        case _:
            made, operation_id = charge, request.operation_id
    found = await shop.psp.retrieve(RetrieveRequest(operation_id, "", kind, amount))
    assert isinstance(found, Approved)
    assert (found.psp_ref, found.amount) == (made.psp_ref, amount)


async def test_an_unknown_reference_is_not_found(shop: Shop) -> None:
    request = RetrieveRequest(str(uuid4()), "", "purchase", Money(1, "EUR"))
    assert isinstance(await shop.psp.retrieve(request), NotFound)


async def test_two_charges_with_one_reference_are_not_guessed_about(shop: Shop) -> None:
    request = shop.request()
    await shop.psp.create_intent(request)
    fields = {field: getattr(request, field) for field in request.__struct_fields__}
    await shop.psp.create_intent(type(request)(**fields | {"key": "another"}))
    with pytest.raises(OutcomeUnknown, match="2 operations"):
        await shop.psp.retrieve(RetrieveRequest(request.operation_id, "", "purchase", request.amount))


async def test_the_totals_are_the_same_after_a_restart(own_simulator: Running, eventually: Eventually) -> None:
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=ALPHA) as api:
        charge_ids = []
        for amount in (10_000, 10_000, 9050):
            body = {"reference": str(uuid4()), "amount": amount, "currency": "EUR", "capture": False, "card": CARD}
            charge_ids.append((await api.post("/v1/charges", json=body)).json()["id"])
        first = f"/v1/charges/{charge_ids[0]}"
        await api.post(f"{first}/captures", json={"reference": "c1", "amount": 9051})
        await api.post(f"{first}/captures", json={"reference": "c2", "amount": 100, "final": True})
        await api.post(f"{first}/refunds", json={"reference": "r1", "amount": 9050})
        await api.post(f"{first}/refunds", json={"reference": "r2", "amount": 9})
        await api.post(f"/v1/charges/{charge_ids[1]}/voids", json={"reference": "v1"})

        async def settled() -> dict[str, Any] | None:
            book: dict[str, Any] = (await api.get("/v1/book")).json()
            return None if any(one["status"] == "pending" for one in book["operations"]) else book

        before = await eventually(settled)
        own_simulator.kill()
        own_simulator.start()
        assert (await api.get("/v1/book")).json() == before
    totals = {field: before["operations"][0][field] for field in ("captured", "voided", "refunded")}
    assert totals == {"captured": 9151, "voided": 849, "refunded": 9059}


async def test_a_merchant_initiated_charge_without_a_card_uses_the_one_of_the_first_payment(
    api: httpx.AsyncClient,
) -> None:
    card = CARD | {"number": "4000000000000341"}
    body = {"reference": "one", "amount": 500, "currency": "EUR", "card": card}
    first = (await api.post("/v1/charges", json=body)).json()
    again = body | {
        "reference": "two",
        "customer_present": False,
        "network_transaction_id": first["network_transaction_id"],
    }
    del again["card"]
    answer = await api.post("/v1/charges", json=again)
    assert answer.status_code == 402
    assert answer.json()["card"] == {"brand": "visa", "last4": "0341"}


async def test_a_card_past_its_expiry_is_declined(api: httpx.AsyncClient) -> None:
    body = {"reference": "old", "amount": 500, "currency": "EUR", "card": CARD | {"exp_month": "1", "exp_year": "2020"}}
    assert (await api.post("/v1/charges", json=body)).json()["code"] == "3001"


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": -1},
        {"amount": "1099"},
        {"amount": 10**12 + 1},
        {"currency": "eur"},
        {"surprise": 1},
        {"reference": ""},
        {"return_url": "javascript:alert(1)"},
        {"return_url": "https://shop.example;script-src"},
    ],
)
async def test_a_malformed_request_is_refused_and_not_booked(api: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    body = {"reference": "r", "amount": 1099, "currency": "EUR", "card": CARD} | changes
    answer = await api.post("/v1/charges", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert (await api.get("/v1/book")).json()["operations"] == []


async def test_a_wrong_api_key_is_refused(simulator: Running) -> None:
    async with httpx.AsyncClient(base_url=simulator.url) as api:
        assert (await api.get("/v1/book")).status_code == 401
        assert (await api.get("/v1/book", headers={"Authorization": "Bearer sk_live_alpha"})).status_code == 401


async def test_a_body_that_is_too_large_is_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v1/charges", content=b" " * 200_000)).status_code == 413


@pytest.mark.parametrize("place", ["card", "metadata"])
async def test_a_card_number_is_in_no_file(own_simulator: Running, place: str) -> None:
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=ALPHA) as api:
        foreign = "4111111111111111"  # a test number, but not one of this sandbox
        for number in [*(card.number for card in CARDS if not card.slow), foreign]:
            reference = str(uuid4())
            body = {"reference": reference, "amount": 1099, "currency": "EUR", "card": CARD | {"number": number}}
            if place == "metadata":
                body["metadata"] = {"note": f"paid with {number}"}
            answer = await api.post("/v1/charges", json=body, headers={"Idempotency-Key": reference})
            if place == "metadata" or number == foreign:
                assert answer.status_code in (400, 422)
            assert number not in answer.text
    written = own_simulator.text()
    assert ('"last4":"4242"' in written) == (place == "card")
    for number in [*(card.number for card in CARDS), foreign]:
        assert number not in written
