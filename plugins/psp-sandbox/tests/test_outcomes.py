"""Every test card and every magic amount has its outcome, seen through the adapter and a real vault."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace

from clearspan.sdk import (
    ActionRequired,
    Approved,
    Capability,
    CaptureRequest,
    ChargeRequest,
    ContinueRequest,
    Declined,
    Money,
    NotFound,
    Outcome,
    OutcomeUnknown,
    Pending,
    RefundRequest,
    RetrieveRequest,
    StoredCredential,
)
from clearspan_psp_sandbox import SandboxPsp, cards
from clearspan_psp_sandbox.bank import BY_TRACE, CardOut
from clearspan_psp_sandbox.refusals import REFUSALS

if TYPE_CHECKING:
    from conftest import Eventually, OpenShop, Running, Shop, World

APPROVED = [
    *("visa", "visa_debit", "visa_de", "visa_fr", "visa_gb", "mastercard", "mastercard_debit", "mastercard_prepaid"),
    *("amex", "discover", "diners", "jcb", "unionpay", "3ds_frictionless", "rebill_declined"),
    *("rebill_recovers", "expires", "revokes_third", "advice_24", "advice_25", "advice_02", "advice_03"),
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


# -- Stored credentials ---------------------------------------------------------------------------------------------------------


class Agreement:
    """A mandate of a card at an account, from its first payment on."""

    def __init__(self, shop: Shop, name: str) -> None:
        self._shop, self._token, self.mandate = shop, f"tok_{name}", f"man_{uuid4().hex}"
        self.network_transaction_id: str | None = None

    async def begin(self, amount_minor: int = 1099, *, capture: bool = True) -> Outcome:
        request = self._shop.request(self._token, amount_minor, capture=capture)
        outcome = await self._shop.psp.create_intent(
            replace(request, credential=self._credential("customer", first=True))
        )
        if isinstance(outcome, ActionRequired):
            async with httpx.AsyncClient() as browser:
                await browser.post(outcome.action.url, data={"result": "approve"})
            going_on = ContinueRequest(request.operation_id, request.key, request.amount, capture, outcome.psp_ref)
            outcome = await self._shop.psp.continue_intent(going_on)
        if isinstance(outcome, Approved):
            self.network_transaction_id = outcome.network_transaction_id
        return outcome

    async def rebill(self, amount_minor: int = 700) -> Outcome:
        request = self._shop.request(self._token, amount_minor, customer_present=False)
        return await self._shop.psp.create_intent(replace(request, credential=self._credential("merchant")))

    async def rebilled(self, amount_minor: int = 700) -> str:
        """``approved``, or the code and advice of the decline."""
        outcome = await self.rebill(amount_minor)
        if isinstance(outcome, Declined):
            return f"{outcome.code} {outcome.advice}" if outcome.advice else outcome.code
        assert isinstance(outcome, Approved)
        return "approved"

    def _credential(self, initiator: str, *, first: bool = False) -> StoredCredential:
        return StoredCredential(
            initiator=initiator,
            purpose="recurring",
            first=first,
            mandate=self.mandate,
            network_transaction_id=self.network_transaction_id,
        )


@pytest.mark.parametrize("name", ["visa_de", "visa_fr"])
async def test_the_first_payment_of_a_mandate_with_a_european_card_is_challenged(shop: Shop, name: str) -> None:
    agreement = Agreement(shop, name)
    assert await agreement.rebilled() == "authentication_required", "nobody was ever challenged"
    first = await agreement.begin()
    assert isinstance(first, Approved)
    assert first.authentication is not None
    assert (first.authentication.challenged, first.authentication.version) == (True, "2.2.0")
    assert first.authentication.eci == "05"
    assert first.authentication.ds_transaction_id
    assert await agreement.rebilled() == "approved"
    known, agreement.network_transaction_id = agreement.network_transaction_id, "nti_of_nobody"
    assert await agreement.rebilled() == "authentication_required"
    other = Agreement(shop, "visa_fr" if name == "visa_de" else "visa_de")
    other.network_transaction_id = known
    assert await other.rebilled() == "authentication_required", "it was another card that was challenged"


async def test_who_was_let_through_was_not_challenged(shop: Shop) -> None:
    outcome = await shop.psp.create_intent(shop.request("tok_3ds_frictionless"))
    assert isinstance(outcome, Approved)
    assert outcome.authentication is not None
    assert outcome.authentication.challenged is False
    plain = await shop.psp.create_intent(shop.request("tok_visa"))
    assert isinstance(plain, Approved)
    assert plain.authentication is None


@pytest.mark.parametrize("name", ["visa", "visa_de"])
async def test_a_charge_of_nothing_verifies_the_card(shop: Shop, name: str) -> None:
    agreement = Agreement(shop, name)
    outcome = await agreement.begin(0, capture=False)
    assert isinstance(outcome, Approved)
    assert outcome.amount == Money(0, "EUR")
    assert await agreement.rebilled() == "approved"
    taken = await shop.psp.create_intent(shop.request("tok_visa", 0))
    assert isinstance(taken, Declined)
    assert taken.code == "invalid_amount"


async def test_a_card_recovers_after_two_tries_of_each_amount(shop: Shop) -> None:
    agreement, other = Agreement(shop, "rebill_recovers"), Agreement(shop, "rebill_recovers")
    for one in (agreement, other):
        assert isinstance(await one.begin(), Approved)
    no = "insufficient_funds"
    assert [await agreement.rebilled(700) for _ in range(4)] == [no, no, "approved", no]
    assert [await agreement.rebilled(800) for _ in range(3)] == [no, no, "approved"]
    assert await agreement.rebilled(700) == no
    assert await agreement.rebilled(700) == "approved"
    assert await other.rebilled(700) == no, "another mandate begins at the beginning"


@pytest.mark.parametrize("advice", ["24", "25", "02"])
async def test_an_issuer_advises_when_to_try_again(shop: Shop, advice: str) -> None:
    agreement = Agreement(shop, f"advice_{advice}")
    assert isinstance(await agreement.begin(), Approved)
    assert [await agreement.rebilled() for _ in range(2)] == [f"insufficient_funds {advice}", "approved"]


async def test_an_issuer_advises_never_to_try_again(shop: Shop) -> None:
    agreement = Agreement(shop, "advice_03")
    assert isinstance(await agreement.begin(), Approved)
    assert [await agreement.rebilled() for _ in range(3)] == ["do_not_honor 03"] * 3


async def test_a_consent_is_revoked_at_the_third_rebill(shop: Shop) -> None:
    agreement = Agreement(shop, "revokes_third")
    assert isinstance(await agreement.begin(), Approved)
    said = [await agreement.rebilled(700 + number) for number in range(4)]
    assert said == ["approved", "approved", "consent_revoked 21", "consent_revoked 21"]


async def test_a_card_of_a_customer_with_a_test_clock_expires_by_that_clock(world: World) -> None:
    card = {"number": "4000000000088171", "exp_month": 12, "exp_year": 2040}
    agreement = {"initiator": "merchant", "purpose": "recurring", "mandate": "man_2"}

    async def charge(at: str, **more: object) -> str:
        body = {
            "reference": f"op_{at}",
            "amount": 700,
            "currency": "EUR",
            "card": card,
            "metadata": {"clearspan_clock": at},
        }
        return str((await world.api.post("/v1/charges", json=body | more)).json()["status"])

    first = agreement | {"initiator": "customer", "first": True}
    later_on = {"customer_present": False, "stored_credential": agreement}
    assert await charge("2026-01-01T00:00:00+00:00", stored_credential=first) == "succeeded"
    assert await charge("2026-02-01T00:00:00+00:00", **later_on) == "succeeded"
    assert await charge("2026-02-15T00:00:00+00:00", **later_on) == "declined"


async def test_a_card_expires_by_the_simulators_clock(world: World) -> None:
    card = {"number": "4000000000088171", "exp_month": 12, "exp_year": 2040}
    agreement = {"initiator": "merchant", "purpose": "recurring", "mandate": "man_1"}

    async def charge(number: int, **more: object) -> tuple[str, str | None]:
        body = {"reference": f"op_{number}", "amount": 700, "currency": "EUR", "card": card} | more
        found = (await world.api.post("/v1/charges", json=body)).json()
        return found["status"], found.get("code")

    first = agreement | {"initiator": "customer", "first": True}
    assert await charge(1, stored_credential=first) == ("succeeded", None)
    await world.api.post("/v1/clock", json={"advance_s": 44 * 86_400})
    later_on = {"customer_present": False, "stored_credential": agreement}
    assert await charge(2, **later_on) == ("succeeded", None)
    await world.api.post("/v1/clock", json={"advance_s": 86_400})
    assert await charge(3, **later_on) == ("declined", "3001")
    world = await world.restarted()
    assert await charge(4, **later_on) == ("declined", "3001"), "a restart forgets nothing"
