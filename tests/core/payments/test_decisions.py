"""What nobody could find out is decided by people, with a reason; above a limit by two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.core.payments.conftest import Puppet, Recovery, approve, in_doubt, later
from tests.shop import Shop, code, new_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Merchant, NewMerchant

REASON = "The PSP's statement of today shows it; ticket 4711."


@pytest.fixture
async def colleague(
    stage: Callable[[str], httpx.AsyncClient], new_merchant: NewMerchant, merchant: Merchant
) -> httpx.AsyncClient:
    """Another person of the same merchant."""
    return stage((await new_merchant(of=merchant)).key)


async def in_review(shop: Shop, puppet: Puppet, recover: Recovery, amount_minor: int = 1099) -> dict[str, Any]:
    """A payment whose charge nobody could find out."""
    payment = await in_doubt(shop, puppet, amount_minor=amount_minor)
    with later(hours=25):
        await recover.run()
    found = await shop.get(payment)
    assert found["operations"][0]["state"] == "needs_review"
    return found


async def decide(
    http: httpx.AsyncClient, payment: dict[str, Any], outcome: str, key: str | None = None, **fields: Any
) -> httpx.Response:
    path = f"/v1/payments/{payment['id']}/operations/{payment['operations'][0]['id']}/decision"
    body = {"outcome": outcome, "reason": REASON} | fields
    return await http.post(path, json=body, headers={"Idempotency-Key": key or new_key()})


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("succeeded", "succeeded"), ("declined", "requires_payment_method"), ("not_charged", "requires_confirmation")],
)
async def test_one_person_decides_a_small_amount_and_the_decision_is_a_fact(
    theatre: Shop, puppet: Puppet, recover: Recovery, outcome: str, status: str
) -> None:
    payment = await in_review(theatre, puppet, recover)
    key = new_key()
    answer = await decide(theatre.http, payment, outcome, key)
    assert (answer.status_code, answer.json()["state"]) == (200, "applied")
    assert (await decide(theatre.http, payment, outcome, key)).content == answer.content
    after = await theatre.get(payment)
    assert after["status"] == status
    (fact,) = [one for one in after["operations"][0]["observations"] if one["source"] == "human"]
    assert (fact["observed"], fact["raw"]["reason"]) == (outcome, REASON)
    assert "operation.decided" in [entry["type"] for entry in after["audit"]]


async def test_a_large_amount_takes_two_persons_who_say_the_same(
    theatre: Shop, puppet: Puppet, recover: Recovery, colleague: httpx.AsyncClient
) -> None:
    payment = await in_review(theatre, puppet, recover, 100_001)
    first = await decide(theatre.http, payment, "succeeded", psp_reference="ch_seen")
    assert (first.status_code, first.json()["state"]) == (202, "proposed")
    assert (await theatre.get(payment))["outcome"] == "unknown"
    assert code(await decide(theatre.http, payment, "succeeded", psp_reference="ch_seen")) == (
        409,
        "second_person_required",
    )
    assert code(await decide(colleague, payment, "declined")) == (409, "decision_conflict")
    second = await decide(colleague, payment, "succeeded", psp_reference="ch_seen")
    assert (second.status_code, second.json()["state"]) == (200, "applied")
    assert second.json()["proposed_by"] != second.json()["confirmed_by"]
    after = await theatre.get(payment)
    assert (after["status"], after["psp"]["reference"]) == ("succeeded", "ch_seen")


async def test_a_proposed_decision_can_be_taken_back(
    theatre: Shop, puppet: Puppet, recover: Recovery, colleague: httpx.AsyncClient
) -> None:
    payment = await in_review(theatre, puppet, recover, 100_001)
    assert code(await decide(theatre.http, payment, "withdraw")) == (404, "decision_not_found")
    assert (await decide(theatre.http, payment, "succeeded")).status_code == 202
    assert (await decide(colleague, payment, "withdraw")).json()["state"] == "withdrawn"
    assert (await decide(colleague, payment, "declined")).json()["state"] == "proposed"


async def test_what_is_not_in_review_is_not_decided(theatre: Shop, puppet: Puppet) -> None:
    puppet.does = approve
    payment = await theatre.get((await theatre.pay()).json())
    assert code(await decide(theatre.http, payment, "declined")) == (409, "operation_not_in_review")
    assert (await theatre.get(payment))["status"] == "succeeded"


@pytest.mark.parametrize("fields", [{"reason": "short"}, {"outcome": "failed"}, {"psp_reference": ""}])
async def test_a_decision_needs_a_reason_and_a_known_outcome(
    theatre: Shop, puppet: Puppet, recover: Recovery, fields: dict[str, Any]
) -> None:
    payment = await in_review(theatre, puppet, recover)
    outcome = fields.pop("outcome", "declined")
    assert code(await decide(theatre.http, payment, outcome, **fields))[0] == 422
    assert (await theatre.get(payment))["operations"][0]["state"] == "needs_review"


async def test_what_waits_for_a_decision_is_still_asked_about_daily_and_news_of_the_psp_counts(
    theatre: Shop, puppet: Puppet, recover: Recovery
) -> None:
    payment = await in_review(theatre, puppet, recover)
    puppet.does = approve
    with later(hours=50):
        assert await recover.run() == 1
    assert (await theatre.get(payment))["status"] == "succeeded"


async def test_a_key_without_the_scope_decides_nothing(
    theatre: Shop,
    puppet: Puppet,
    recover: Recovery,
    stage: Callable[[str], httpx.AsyncClient],
    new_merchant: NewMerchant,
    merchant: Merchant,
) -> None:
    payment = await in_review(theatre, puppet, recover)
    clerk = stage((await new_merchant(of=merchant, scopes=frozenset({"payments:read", "payments:write"}))).key)
    assert code(await decide(clerk, payment, "declined"))[0] == 403
