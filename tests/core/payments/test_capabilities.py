"""What a PSP cannot do is refused before anything is reserved or sent, and the refusal names it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.payments.conftest import Puppet
from tests.shop import Json, Shop, code

pytestmark = pytest.mark.usefixtures("sandboxes")


@pytest.fixture
async def few(theatre: Shop, puppet: Puppet) -> Shop:
    """``few`` does everything once and whole, ``once`` takes one capture."""
    for name in ("few", "once"):
        await theatre.add_account(name, 50, psp=name, config={"name": puppet.name})
    return theatre


async def authorised(shop: Shop, account: str) -> Json:
    return await shop.paid(psp_account=account, capture_method="manual")


@pytest.mark.parametrize(
    ("act", "body", "capability"),
    [("capture", {"amount_minor": 400}, "partial_capture"), ("cancel", {}, "void")],
)
async def test_an_authorisation_that_cannot_be_divided_or_released(
    few: Shop, puppet: Puppet, act: str, body: Json, capability: str
) -> None:
    payment = await authorised(few, "few")
    refused = await few.act(payment, act, body)
    assert code(refused) == (422, "not_offered_by_psp")
    assert refused.json()["capability"] == capability
    assert puppet.verbs == ["create_intent"]
    assert len((await few.get(payment))["operations"]) == 1
    assert (await few.act(payment, "capture")).json()["status"] == "succeeded"


async def test_a_refund_of_a_part_is_refused_and_of_the_whole_is_made(few: Shop, puppet: Puppet) -> None:
    payment = await few.paid(psp_account="few")
    refused = await few.act(payment, "refunds", {"amount_minor": 400})
    assert (code(refused), refused.json()["capability"]) == ((422, "not_offered_by_psp"), "partial_refund")
    assert (await few.act(payment, "refunds")).status_code == 201
    assert puppet.verbs == ["create_intent", "refund"]


async def test_where_one_capture_is_all_the_rest_is_released_with_it(few: Shop, puppet: Puppet) -> None:
    payment = await authorised(few, "once")
    captured: Any = (await few.act(payment, "capture", {"amount_minor": 400})).json()
    assert (captured["amounts"]["captured_minor"], captured["amounts"]["voided_minor"]) == (400, 699)
    assert puppet.calls[-1][1].final is True
    assert code(await few.act(payment, "capture", {"amount_minor": 1})) == (409, "payment_not_capturable")


async def test_a_charge_without_the_customer_goes_to_a_psp_that_takes_it(few: Shop) -> None:
    mandate = await few.consented(psp_account="once")
    refused = await few.rebill(mandate, psp_account="few")
    assert code(refused) == (422, "no_psp_account")
    because = {one["account"]: one["because"] for one in refused.json()["rejected"]}
    assert because["few"] == "few cannot merchant_initiated"
    assert (await few.rebill(mandate)).json()["status"] == "succeeded"
