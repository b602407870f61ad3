"""What a charge is paid with: a vault's card at any account, what a PSP holds at that account only, a payer on a PSP's pages."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.conftest import Merchant
from tests.core.payments.conftest import Puppet
from tests.shop import Json, Shop, code

from clearspan.sdk import ActionRequired, Approved, CardSource, RedirectAction, RedirectSource, TokenSource

pytestmark = pytest.mark.usefixtures("sandboxes")


@pytest.fixture
async def held(theatre: Shop, puppet: Puppet) -> Shop:
    """``puppet`` takes cards and comes first; ``holder`` takes what it holds itself."""
    await theatre.add_account("holder", 50, psp="holder", config={"name": puppet.name})
    return theatre


async def method(shop: Shop, **body: Any) -> Json:
    answer = await shop.http.post("/v1/payment-methods", json=body)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def keeps(_: str, request: Any) -> Any:
    return Approved(psp_ref=f"ref-{request.operation_id}", amount=request.amount, stored_token="cst_1/mdt_1")


TOLD = {"brand": "visa", "last4": "4242", "exp_month": 11, "exp_year": 2031}


async def test_a_psps_token_is_charged_at_its_own_account_whatever_comes_first(held: Shop, puppet: Puppet) -> None:
    made = await method(held, type="psp_token", psp_account="holder", token="cnon:1", card=TOLD)
    assert (made["type"], made["vault"], made["card"]["last4"]) == ("psp_token", None, "4242")
    answer = await held.create(payment_method=made["id"], confirm=True)
    assert answer.json()["status"] == "succeeded", answer.text
    assert [one["account"] for one in (await held.get(answer.json()))["operations"]] == ["holder"]
    _, request = puppet.calls[0]
    assert request.source == TokenSource("cnon:1")
    confirmed = (await held.create(payment_method=made["id"])).json()
    assert (await held.act(confirmed, "confirm")).json()["status"] == "succeeded"


async def test_a_card_never_goes_to_an_account_that_takes_none(held: Shop, puppet: Puppet) -> None:
    card = await held.card()
    refused = await held.create(payment_method=card, confirm=True, psp_account="holder")
    assert code(refused) == (422, "no_psp_account")
    because = {one["account"]: one["because"] for one in refused.json()["rejected"]}
    assert because["holder"] == "holder takes no card, only: redirect, token"
    assert puppet.calls == []


async def test_another_account_may_not_be_asked_to_charge_what_it_does_not_hold(held: Shop, puppet: Puppet) -> None:
    made = await method(held, type="psp_token", psp_account="holder", token="cnon:1")
    refused = await held.create(payment_method=made["id"], confirm=True, psp_account="puppet")
    assert code(refused) == (422, "payment_method_needs_account")
    assert refused.json()["psp_account"] == made["psp_account"]
    assert puppet.calls == []
    assert (await held.create(payment_method=made["id"], confirm=True, psp_account="holder")).status_code == 201


async def test_where_only_such_accounts_are_a_token_still_finds_its_own(theatre: Shop, puppet: Puppet) -> None:
    account = (await theatre.http.get("/v1/psp-accounts")).json()["data"][0]
    await theatre.http.patch(f"/v1/psp-accounts/{account['id']}", json={"status": "disabled"})
    await theatre.add_account("holder", 50, psp="holder", config={"name": puppet.name})
    made = await method(theatre, type="psp_token", psp_account="holder", token="cnon:1")
    assert (await theatre.create(payment_method=made["id"], confirm=True)).json()["status"] == "succeeded"
    refused = await theatre.create(payment_method=await theatre.card(), confirm=True)
    assert code(refused) == (422, "no_psp_account")


async def test_a_currency_the_account_does_not_take_is_refused_before_anything_is_sent(
    held: Shop, puppet: Puppet
) -> None:
    made = await method(held, type="psp_token", psp_account="holder", token="cnon:1")
    refused = await held.create(payment_method=made["id"], confirm=True, currency="USD")
    assert code(refused) == (422, "no_psp_account")
    assert {"account": "holder", "because": "holder does not take USD"} in refused.json()["rejected"]
    assert puppet.calls == []


async def test_a_redirect_sends_the_payer_away_and_what_is_kept_is_charged_later(held: Shop, puppet: Puppet) -> None:
    customer = await held.customer()
    made = await method(held, type="redirect", psp_account="holder", method="ideal", customer=customer)
    assert (made["type"], made["method"], made["card"]) == ("redirect", "ideal", None)
    mandate = await held.mandate(customer=customer, method=made["id"])
    puppet.does = lambda _, request: ActionRequired(
        psp_ref=f"ref-{request.operation_id}", action=RedirectAction("https://psp.example/pay")
    )
    given = {"customer": customer, "payment_method": made["id"], "mandate": mandate["id"]}
    waiting = (await held.create(confirm=True, return_url="https://shop.example/", **given)).json()
    assert waiting["next_action"]["url"] == "https://psp.example/pay"
    assert puppet.calls[0][1].source == RedirectSource("ideal")
    assert puppet.calls[0][1].customer == customer
    puppet.does = keeps
    assert (await held.act(waiting, "continue")).json()["status"] == "succeeded"
    assert (await held.mandate_of(mandate))["status"] == "active"
    charged = await held.create(confirm=True, customer_present=False, **given)
    assert charged.json()["status"] == "succeeded", charged.text
    assert puppet.calls[-1][1].source == TokenSource("cst_1/mdt_1", stored=True)
    assert puppet.calls[-1][1].credential.mandate == mandate["id"]


async def test_what_an_account_keeps_of_a_card_goes_along_to_that_account_only(held: Shop, puppet: Puppet) -> None:
    puppet.does = keeps
    card = await held.card()
    for _ in range(2):
        assert (await held.create(payment_method=card, confirm=True)).json()["status"] == "succeeded"
    first, second = (request.source for _, request in puppet.calls)
    assert isinstance(first, CardSource)
    assert (first.stored_token, second.stored_token) == (None, "cst_1/mdt_1")
    await held.add_account("alpha", 10)
    paid = await held.create(payment_method=card, confirm=True, psp_account="alpha")
    assert paid.json()["status"] == "succeeded", paid.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"type": "psp_token", "token": "x"}, "psp_account is missing"),
        ({"type": "psp_token", "psp_account": "holder"}, "token is missing"),
        ({"type": "redirect", "psp_account": "holder", "token": "x"}, "token does not belong to it"),
        ({"type": "card"}, "token is missing"),
        ({"token": "tok_visa", "method": "ideal"}, "method does not belong to it"),
    ],
)
async def test_fields_that_do_not_go_with_the_type_are_named(held: Shop, body: Json, said: str) -> None:
    refused = await held.http.post("/v1/payment-methods", json=body)
    assert code(refused) == (422, "invalid_request")
    assert said in refused.json()["detail"]


async def test_what_the_psp_does_not_take_is_refused_and_what_it_takes_is_named(held: Shop) -> None:
    refused = await held.http.post("/v1/payment-methods", json={"type": "redirect", "psp_account": "puppet"})
    assert code(refused) == (422, "payment_method_not_taken")
    assert "takes only: card" in refused.json()["detail"]
    refused = await held.http.post(
        "/v1/payment-methods", json={"type": "redirect", "psp_account": "holder", "method": "wero"}
    )
    assert code(refused) == (422, "payment_method_not_taken")
    assert "There are: ideal" in refused.json()["detail"]
    refused = await held.http.post("/v1/payment-methods", json={"type": "redirect", "psp_account": "nobody"})
    assert code(refused) == (422, "payment_method_account_missing")


async def test_anothers_account_is_not_there(held: Shop, other_shop: Shop) -> None:
    theirs = (await other_shop.http.get("/v1/psp-accounts")).json()["data"][0]["id"]
    refused = await held.http.post(
        "/v1/payment-methods", json={"type": "psp_token", "psp_account": theirs, "token": "x"}
    )
    assert code(refused) == (422, "payment_method_account_missing")


async def test_the_database_itself_keeps_kinds_apart(
    held: Shop, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    made = await method(held, type="psp_token", psp_account="holder", token="cnon:1")
    del made
    for change in ("vault_token = 'tok_visa'", "psp_account_id = NULL", "kind = 'card'", "psp_token = NULL"):
        with pytest.raises(asyncpg.CheckViolationError):
            await superuser.execute(
                f"UPDATE payment_methods SET {change} WHERE tenant_id = $1 AND kind = 'token'",
                merchant.caller.scope.tenant_id,
            )
