"""Every test card and every magic amount has its outcome, seen through the adapter and a real vault."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from clearspan.sdk import (
    ActionRequired,
    Approved,
    Capability,
    CaptureRequest,
    ChargeRequest,
    Declined,
    Money,
    NotFound,
    Outcome,
    OutcomeUnknown,
    Pending,
    RefundRequest,
    RetrieveRequest,
)
from clearspan_psp_sandbox import SandboxPsp, cards
from clearspan_psp_sandbox.bank import BY_TRACE, CardOut
from clearspan_psp_sandbox.refusals import REFUSALS

if TYPE_CHECKING:
    from conftest import Eventually, OpenShop, Running, Shop

APPROVED = [
    *("visa", "visa_debit", "visa_de", "visa_fr", "visa_gb", "mastercard", "mastercard_debit", "mastercard_prepaid"),
    *("amex", "discover", "diners", "jcb", "unionpay", "3ds_frictionless", "rebill_declined"),
]
CODES = list(cards.REFUSALS)[:27]


def lookup(request: ChargeRequest) -> RetrieveRequest:
    return RetrieveRequest(request.operation_id, request.key, "purchase", request.amount)


async def final(shop: Shop, eventually: Eventually, request: RetrieveRequest) -> Outcome | NotFound:
    """What a pending operation ends as."""

    async def ended() -> Outcome | NotFound | None:
        found = await shop.psp.retrieve(request)
        return None if isinstance(found, Pending) else found

    return await eventually(ended)


@pytest.mark.parametrize("name", APPROVED)
async def test_an_approved_card_is_charged(shop: Shop, name: str) -> None:
    outcome = await shop.psp.create_intent(shop.request(f"tok_{name}", 1099))
    assert isinstance(outcome, Approved)
    assert outcome.amount == Money(1099, "EUR")
    assert outcome.network_transaction_id
    assert outcome.raw["captured"] == 1099


@pytest.mark.parametrize("code", [code for code in CODES if code != "duplicate"])
async def test_a_declined_card_gives_its_normalised_code(shop: Shop, code: str) -> None:
    outcome = await shop.psp.create_intent(shop.request(f"tok_decline_{code}"))
    assert isinstance(outcome, Declined)
    assert outcome.code == code
    assert outcome.raw_code == cards.REFUSALS[code].code
    assert outcome.network_code == cards.REFUSALS[code].network_code
    assert outcome.advice == cards.REFUSALS[code].advice
    assert outcome.psp_ref


@pytest.mark.parametrize(
    ("amount_minor", "code"), [pair for pair in cards.DECLINED_AMOUNTS.items() if pair[1] != "duplicate"]
)
async def test_a_declined_amount_gives_its_normalised_code(shop: Shop, amount_minor: int, code: str) -> None:
    outcome = await shop.psp.create_intent(shop.request(amount_minor=amount_minor))
    assert isinstance(outcome, Declined)
    assert outcome.code == code


async def test_a_suspected_duplicate_is_unknown_until_it_is_looked_up(shop: Shop) -> None:
    request = shop.request("tok_decline_duplicate")
    with pytest.raises(OutcomeUnknown, match="duplicate"):
        await shop.psp.create_intent(request)
    found = await shop.psp.retrieve(lookup(request))
    assert isinstance(found, Declined)
    assert found.code == "duplicate"


async def test_every_code_of_the_refusal_table_is_answered_by_the_simulator() -> None:
    assert {refusal.code for refusal in cards.REFUSALS.values()} - set(REFUSALS) == {"9999"}
    assert set(REFUSALS) <= {refusal.code for refusal in cards.REFUSALS.values()}


async def test_every_card_of_the_simulator_has_a_token_in_the_vault(shop: Shop) -> None:
    special = ["slow", "3ds_challenge", "3ds_failed", "3ds_challenge_declined"]
    reached = set()
    for name in [*APPROVED, *special, *(f"decline_{code}" for code in CODES)]:
        request = shop.request(f"tok_{name}", 1001)
        with contextlib.suppress(OutcomeUnknown):
            await shop.psp.create_intent(request)
        outcome = await shop.psp.retrieve(lookup(request))
        reached.add(CardOut(**outcome.raw["card"]))
    assert reached == set(BY_TRACE)
    assert len(BY_TRACE) == len(cards.CARDS)  # brand and last four digits tell the cards apart


async def test_a_failed_authentication_is_declined(shop: Shop) -> None:
    outcome = await shop.psp.create_intent(shop.request("tok_3ds_failed"))
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.raw_code) == ("authentication_required", "2007")
    assert outcome.raw["three_ds"] == {"flow": "frictionless", "result": "failed", "version": "2.2.0"}


async def test_a_frictionless_authentication_is_told(shop: Shop) -> None:
    outcome = await shop.psp.create_intent(shop.request("tok_3ds_frictionless"))
    assert outcome.raw["three_ds"] == {"flow": "frictionless", "result": "authenticated", "version": "2.2.0"}


async def test_a_merchant_initiated_charge_needs_no_challenge_when_the_first_payment_is_named(shop: Shop) -> None:
    without = await shop.psp.create_intent(shop.request("tok_3ds_challenge", customer_present=False))
    assert isinstance(without, Declined)
    assert without.code == "authentication_required"
    request = shop.request("tok_3ds_challenge", customer_present=False, network_transaction_id="nti_from_another_psp")
    assert isinstance(await shop.psp.create_intent(request), Approved)


async def test_a_rebill_of_the_rebill_card_is_declined(shop: Shop) -> None:
    first = await shop.psp.create_intent(shop.request("tok_rebill_declined"))
    assert isinstance(first, Approved)
    again = shop.request(
        "tok_rebill_declined", customer_present=False, network_transaction_id=first.network_transaction_id
    )
    outcome = await shop.psp.create_intent(again)
    assert isinstance(outcome, Declined)
    assert outcome.code == "insufficient_funds"


async def test_an_authorisation_is_not_captured(shop: Shop) -> None:
    outcome = await shop.psp.create_intent(shop.request(capture=False))
    assert isinstance(outcome, Approved)
    assert "captured" not in outcome.raw


async def test_a_pending_charge_succeeds_later(shop: Shop, eventually: Eventually) -> None:
    request = shop.request(amount_minor=9050)
    assert isinstance(await shop.psp.create_intent(request), Pending)
    outcome = await final(shop, eventually, lookup(request))
    assert isinstance(outcome, Approved)
    assert outcome.raw["captured"] == 9050


async def test_a_pending_charge_is_declined_later(shop: Shop, eventually: Eventually) -> None:
    request = shop.request(amount_minor=9051)
    assert isinstance(await shop.psp.create_intent(request), Pending)
    outcome = await final(shop, eventually, lookup(request))
    assert isinstance(outcome, Declined)
    assert outcome.code == "insufficient_funds"


async def test_a_charge_can_stay_pending_for_ever(shop: Shop) -> None:
    request = shop.request(amount_minor=9052)
    outcome = await shop.psp.create_intent(request)
    assert isinstance(outcome, Pending)
    assert "settles_at" not in outcome.raw


@pytest.mark.parametrize(
    ("token", "amount_minor", "code"), [("tok_amex", 1099, "not_permitted"), ("tok_visa", 9060, "do_not_honor")]
)
async def test_beta_declines_two_things_that_alpha_takes(
    open_shop: OpenShop, token: str, amount_minor: int, code: str
) -> None:
    alpha, beta = open_shop("alpha"), open_shop("beta")
    assert isinstance(await alpha.psp.create_intent(alpha.request(token, amount_minor)), Approved)
    outcome = await beta.psp.create_intent(beta.request(token, amount_minor))
    assert isinstance(outcome, Declined)
    assert outcome.code == code


@pytest.mark.parametrize(("account", "fee"), [("alpha", 25 + 15), ("beta", 10 + 10), ("third", 25 + 15)])
async def test_every_charge_is_booked_with_the_fee_of_its_account(open_shop: OpenShop, account: str, fee: int) -> None:
    shop = open_shop(account)
    outcome = await shop.psp.create_intent(shop.request(amount_minor=1099))  # 1.4 % is 15.386, 0.9 % is 9.891
    assert outcome.raw["fee"] == fee


@pytest.mark.parametrize("kind", ["capture", "refund"])
async def test_a_follow_up_of_the_magic_amount_is_refused(shop: Shop, kind: str) -> None:
    charge = await shop.psp.create_intent(shop.request(amount_minor=9070, capture=kind == "refund"))
    assert isinstance(charge, Approved)
    amount = Money(9070, "EUR")
    if kind == "capture":
        outcome = await shop.psp.capture(CaptureRequest(f"{charge.psp_ref}-x", "", amount, charge.psp_ref, final=True))
    else:
        outcome = await shop.psp.refund(RefundRequest(f"{charge.psp_ref}-x", "", amount, charge.psp_ref))
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.raw_code) == ("not_permitted", "8006")


async def test_the_facts_promise_what_the_simulator_does() -> None:
    assert SandboxPsp.facts.capabilities == frozenset(Capability)
    assert SandboxPsp.facts.idempotency.payload_check
    assert SandboxPsp.facts.lookup.by_reference


async def test_a_challenge_card_asks_for_an_action(shop: Shop, simulator: Running) -> None:
    outcome = await shop.psp.create_intent(shop.request("tok_3ds_challenge"))
    assert isinstance(outcome, ActionRequired)
    assert outcome.action.url == f"{simulator.url}/challenge/{outcome.psp_ref}"
