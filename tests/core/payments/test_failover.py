"""A charge goes over to the next account only when it certainly was not made at the first, and another may do better."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.core.payments.conftest import Puppet, approve
from tests.shop import Json, Shop, code, new_key

from clearspan.sdk import Declined, OutcomeUnknown, Pending, PspMisconfigured, PspUnavailable

pytestmark = pytest.mark.usefixtures("sandboxes")


def raises(error: Exception) -> Any:
    def do(*_: Any) -> Any:
        raise error

    return do


def declines(normalised: str) -> Any:
    return lambda *_: Declined(code=normalised, raw_code="17")


@pytest.fixture
async def two(theatre: Shop) -> Shop:
    """The puppet first, then the simulator."""
    await theatre.add_account("alpha", 10)
    return theatre


def told(payment: Json) -> list[tuple[str, str, str]]:
    """Account, state and rule of each operation."""
    return [(one["account"], one["state"], one["routing"]["rule"]) for one in payment["operations"]]


@pytest.mark.parametrize(
    ("does", "state"),
    [
        (declines("do_not_honor"), "declined"),
        (declines("generic_decline"), "declined"),
        (declines("issuer_unavailable"), "declined"),
        (declines("invalid_merchant"), "declined"),
        (raises(PspUnavailable("no connection")), "not_sent"),
        (raises(PspMisconfigured("wrong key")), "not_sent"),
    ],
)
async def test_a_decline_that_another_may_not_share_goes_over_with_the_same_card(
    two: Shop, puppet: Puppet, does: Any, state: str
) -> None:
    puppet.does = does
    key = new_key()
    answer = await two.pay(failover=True, key=key)
    assert answer.status_code == 201, answer.text
    payment = await two.get(answer.json())
    assert payment["status"] == "succeeded"
    assert told(payment) == [("puppet", state, "priority"), ("alpha", "succeeded", "failover")]
    assert payment["operations"][1]["routing"]["after"].startswith(f"puppet: {state}")
    assert [one["amount"] for one in await two.charged(payment)] == [1099]
    assert (await two.pay(failover=True, key=key)).content == answer.content
    assert puppet.verbs == ["create_intent"]


@pytest.mark.parametrize(
    "normalised",
    [
        "insufficient_funds",
        "lost_card",
        "suspected_fraud",
        "psp_risk_blocked",
        "consent_revoked",
        "unmapped",
        "duplicate",
    ],
)
async def test_what_the_card_or_its_holder_is_the_reason_for_stays(two: Shop, puppet: Puppet, normalised: str) -> None:
    puppet.does = declines(normalised)
    payment = (await two.pay(failover=True)).json()
    assert payment["status"] == "requires_payment_method"
    assert [account for account, _, _ in told(await two.get(payment))] == ["puppet"]
    assert await two.charged(payment) == []


@pytest.mark.parametrize(
    "does",
    [raises(OutcomeUnknown("lost")), raises(RuntimeError("bug")), lambda *_: Pending(psp_ref="later"), lambda *_: None],
)
async def test_never_from_an_unknown_outcome(two: Shop, puppet: Puppet, does: Any) -> None:
    puppet.does = does
    answer = await two.pay(failover=True)
    assert answer.json()["status"] == "processing"
    payment = await two.get(answer.json())
    assert [account for account, _, _ in told(payment)] == ["puppet"]
    assert await two.charged(payment) == []


async def test_only_when_it_is_asked_for_and_no_account_is_named(two: Shop, puppet: Puppet) -> None:
    puppet.does = declines("do_not_honor")
    for fields in ({}, {"failover": False}, {"failover": True, "psp_account": "puppet"}):
        payment = (await two.pay(**fields)).json()
        assert payment["status"] == "requires_payment_method"
        assert len((await two.get(payment))["operations"]) == 1


async def test_a_confirmation_fails_over_too_and_the_second_decline_is_the_answer(two: Shop, puppet: Puppet) -> None:
    puppet.does = declines("do_not_honor")
    made = (await two.create(payment_method=await two.card("tok_decline_insufficient_funds"))).json()
    answer = await two.act(made, "confirm", {"failover": True})
    assert answer.status_code == 200, answer.text
    payment = await two.get(made)
    assert (payment["status"], payment["last_error"]["code"]) == ("requires_payment_method", "insufficient_funds")
    assert [state for _, state, _ in told(payment)] == ["declined", "declined"]


async def test_many_requests_under_one_key_fail_over_once(two: Shop, puppet: Puppet) -> None:
    puppet.does = declines("do_not_honor")
    key = new_key()
    card = await two.card()
    answers = await asyncio.gather(*(two.pay(failover=True, key=key) for _ in range(6)))
    assert card
    done = [answer for answer in answers if answer.status_code == 201]
    assert done
    assert {code(answer) for answer in answers if answer.status_code != 201} <= {(409, "idempotency_key_in_flight")}
    payment = await two.get(done[0].json())
    assert len(payment["operations"]) == 2
    assert len(await two.charged(payment)) == 1


async def test_without_a_second_account_the_first_answer_stands(theatre: Shop, puppet: Puppet) -> None:
    puppet.does = declines("do_not_honor")
    payment = (await theatre.pay(failover=True)).json()
    assert (payment["status"], payment["last_error"]["code"]) == ("requires_payment_method", "do_not_honor")
    puppet.does = approve
    assert (await theatre.act(payment, "confirm", {"failover": True})).json()["status"] == "succeeded"


async def test_the_browser_goes_to_the_psp_and_is_stored_nowhere(
    theatre: Shop, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    browser = {"ip_address": "203.0.113.77", "user_agent": "Agent of the tests/9", "screen_width": 1920}
    assert (await theatre.pay(browser=browser)).status_code == 201
    _, request = puppet.calls[0]
    assert (request.browser.ip_address, request.browser.user_agent) == ("203.0.113.77", "Agent of the tests/9")
    tables = await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for table in tables:
        found = await superuser.fetchval(
            f"SELECT count(*) FROM {table['tablename']} AS one WHERE one::text LIKE ANY (ARRAY['%203.0.113.77%', '%tests/9%'])"
        )
        assert found == 0, table["tablename"]
