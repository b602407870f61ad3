"""The 3-D Secure challenge: a page with two buttons, and a charge that waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from clearspan.sdk import (
    ActionRequired,
    Approved,
    CancelRequest,
    ChargeRequest,
    ContinueRequest,
    Declined,
    Outcome,
    RetrieveRequest,
)

if TYPE_CHECKING:
    from conftest import OpenShop, Running, Shop


async def challenged(
    shop: Shop, card: str = "3ds_challenge", amount_minor: int = 1099
) -> tuple[ChargeRequest, ContinueRequest, str]:
    request = shop.request(f"tok_{card}", amount_minor, return_url="https://shop.example/back?cart=7")
    outcome = await shop.psp.create_intent(request)
    assert isinstance(outcome, ActionRequired)
    go_on = ContinueRequest(request.operation_id, request.key, request.amount, request.capture, outcome.psp_ref)
    return request, go_on, outcome.action.url


async def press(url: str, result: str) -> httpx.Response:
    async with httpx.AsyncClient() as browser:
        return await browser.post(url, data={"result": result})


async def test_the_page_shows_the_amount_and_two_buttons_and_runs_no_script(shop: Shop) -> None:
    _, _, url = await challenged(shop, amount_minor=123_456)
    async with httpx.AsyncClient() as browser:
        page = await browser.get(url)
    assert page.status_code == 200
    assert "1234.56 EUR" in page.text
    assert 'value="approve"' in page.text
    assert 'value="fail"' in page.text
    assert "<script" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self' https://shop.example;" in policy


async def test_an_approved_challenge_returns_the_payer_and_the_charge_goes_on(shop: Shop) -> None:
    request, go_on, url = await challenged(shop)
    answer = await press(url, "approve")
    assert answer.status_code == 303
    assert (
        answer.headers["Location"]
        == f"https://shop.example/back?cart=7&charge={go_on.psp_ref}&authentication=authenticated"
    )
    outcome = await shop.psp.continue_intent(go_on)
    assert isinstance(outcome, Approved)
    assert outcome.amount == request.amount
    assert outcome.raw["captured"] == request.amount.amount_minor


async def test_nothing_is_charged_before_the_shop_goes_on(shop: Shop) -> None:
    request, _, url = await challenged(shop)
    await press(url, "approve")
    found = await shop.psp.retrieve(RetrieveRequest(request.operation_id, "", "purchase", request.amount))
    assert isinstance(found, ActionRequired)


async def test_a_failed_challenge_is_declined(shop: Shop) -> None:
    _, go_on, url = await challenged(shop)
    answer = await press(url, "fail")
    assert answer.headers["Location"].endswith("&authentication=failed")
    outcome = await shop.psp.continue_intent(go_on)
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.raw_code) == ("authentication_required", "2007")


async def test_going_on_too_early_asks_for_the_action_again(shop: Shop) -> None:
    _, go_on, url = await challenged(shop)
    outcome = await shop.psp.continue_intent(go_on)
    assert isinstance(outcome, ActionRequired)
    assert outcome.action.url == url


async def test_going_on_twice_charges_once(shop: Shop) -> None:
    _, go_on, url = await challenged(shop)
    await press(url, "approve")
    outcomes: list[Outcome] = [await shop.psp.continue_intent(go_on) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], Approved)


async def test_the_first_button_counts(shop: Shop) -> None:
    _, go_on, url = await challenged(shop)
    await press(url, "fail")
    again = await press(url, "approve")
    assert again.headers["Location"].endswith("&authentication=failed")
    assert isinstance(await shop.psp.continue_intent(go_on), Declined)


async def test_another_button_changes_nothing(shop: Shop) -> None:
    _, _, url = await challenged(shop)
    answer = await press(url, "maybe")
    assert answer.status_code == 200
    assert 'value="approve"' in answer.text


async def test_the_issuer_can_decline_after_an_approved_challenge(shop: Shop) -> None:
    _, go_on, url = await challenged(shop, "3ds_challenge_declined")
    await press(url, "approve")
    outcome = await shop.psp.continue_intent(go_on)
    assert isinstance(outcome, Declined)
    assert outcome.code == "generic_decline"


async def test_magic_amounts_work_after_a_challenge(shop: Shop) -> None:
    _, go_on, url = await challenged(shop, amount_minor=9012)
    await press(url, "approve")
    outcome = await shop.psp.continue_intent(go_on)
    assert isinstance(outcome, Declined)
    assert outcome.code == "lost_card"


async def test_a_charge_that_waits_for_its_payer_can_be_given_up(shop: Shop) -> None:
    request, go_on, url = await challenged(shop)
    given_up = await shop.psp.cancel(CancelRequest("give-up", "give-up", request.amount, go_on.psp_ref))
    assert isinstance(given_up, Approved)
    await press(url, "approve")
    for outcome in (
        await shop.psp.continue_intent(go_on),
        await shop.psp.retrieve(RetrieveRequest(request.operation_id, "", "purchase", request.amount)),
    ):
        assert isinstance(outcome, Declined)
        assert outcome.raw_code == "2008"


@pytest.mark.parametrize("path", ["/challenge/ch_unknown", "/challenge/%3Cscript%3E"])
async def test_an_unknown_challenge_is_not_found(simulator: Running, path: str) -> None:
    async with httpx.AsyncClient() as browser:
        page = await browser.get(simulator.url + path)
    assert page.status_code == 404
    assert "There is no challenge at this address" in page.text
    assert "<script" not in page.text


async def test_a_challenge_survives_a_kill(own_simulator: Running, open_shop: OpenShop) -> None:
    shop = open_shop(psp=own_simulator)
    _, go_on, url = await challenged(shop)
    await press(url, "approve")
    own_simulator.kill()
    own_simulator.start()
    assert isinstance(await shop.psp.continue_intent(go_on), Approved)
