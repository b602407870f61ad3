"""Dunning plans and rebills over the API, and what a plan changes; the command line tells the same."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.core.payments.conftest import approve, unclear
from tests.core.rebills.conftest import START, Desk, declined
from tests.shop import code, new_key

from clearspan.platform import ids
from clearspan.rebills.plans import BUILT_IN

DAY = timedelta(days=1)


async def post(desk: Desk, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
    """With a key."""
    return await desk.http.post(path, json=body or {}, headers={"Idempotency-Key": key or new_key()})


async def made_plan(desk: Desk, **plan: Any) -> dict[str, Any]:
    """A plan of the merchant's."""
    answer = await post(desk, "/v1/dunning-plans", {"name": "Strict", "plan": plan})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of(invoice: UUID) -> str:
    return f"/v1/rebills/{ids.encode('inv', invoice)}"


# -- Plans ------------------------------------------------------------------------------------------------------------------


async def test_a_plan_has_versions_that_never_change(wall: Desk) -> None:
    plan = await made_plan(wall, soft_days=[2])
    assert plan["version"] == 1
    assert plan["plan"]["soft_days"] == [2]
    assert plan["plan"]["final_day"] == 21, "what is left out is the built-in plan's"
    path = f"/v1/dunning-plans/{plan['id']}"
    second = await post(wall, f"{path}/versions", {"plan": {"soft_days": [3]}})
    assert (second.status_code, second.json()["version"], second.json()["name"]) == (201, 2, "Strict")
    assert (await wall.http.get(path)).json() == second.json()
    assert (await wall.http.get(path, params={"version": 1})).json() == plan
    assert code(await wall.http.get(path, params={"version": 3})) == (404, "dunning_plan_not_found")
    listed = (await wall.http.get("/v1/dunning-plans")).json()["data"]
    assert [(one["id"], one["version"]) for one in listed] == [(plan["id"], 2), (None, 1)]


async def test_a_plan_that_contradicts_itself_is_refused_with_every_reason(wall: Desk) -> None:
    answer = await post(wall, "/v1/dunning-plans", {"name": "x", "plan": {"soft_days": [5, 3], "grace_days": 40}})
    assert code(answer) == (422, "invalid_request")
    assert [one["path"] for one in answer.json()["errors"]] == ["$.plan.soft_days", "$.plan.grace_days"]
    assert code(await post(wall, "/v1/dunning-plans", {"name": "x", "plan": {"generic_tries": 9}}))[0] == 422


async def test_a_rebill_goes_by_the_version_of_its_first_decision(desk: Desk) -> None:
    plan = await made_plan(desk, soft_days=[2, 4], holdout_bp=0, jitter_h=0)
    plan_id = ids.decode("dun", plan["id"])
    deal = await desk.deal(dunning_plan_id=plan_id)
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("limit_exceeded")
    await desk.collect(START)
    assert (await desk.rebill(invoice))["next_at"] == START + 2 * DAY
    await post(desk, f"/v1/dunning-plans/{plan['id']}/versions", {"plan": {"soft_days": [9], "holdout_bp": 0}})
    await desk.collect(START + 2 * DAY)
    rebill = await desk.rebill(invoice)
    assert (rebill["dunning_plan_id"], rebill["dunning_version"]) == (plan_id, 1)
    assert rebill["next_at"] == START + 4 * DAY
    other = await desk.invoice(deal, 1900, at=START + 2 * DAY)
    await desk.collect(START + 2 * DAY)
    assert (await desk.rebill(other))["dunning_version"] == 2


async def test_the_tenants_plan_is_the_default(desk: Desk) -> None:
    plan = await made_plan(desk, final_action="unpaid", soft_days=[], holdout_bp=0, reminder_days=[])
    await desk.sql.execute(
        "UPDATE billing_settings SET dunning_plan_id = $2 WHERE tenant_id = $1",
        desk.scope.tenant_id,
        ids.decode("dun", plan["id"]),
    )
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    tries = await desk.run_through(invoice, START + 30 * DAY)
    assert len(tries) == 1, "a plan may be stricter: no retry at all"
    assert await desk.status(deal) == "unpaid"
    assert (await desk.rebill(invoice))["state"] == "exhausted"


@pytest.mark.parametrize(("action", "status"), [("cancel", "canceled"), ("pause", "paused")])
async def test_the_final_action_is_the_plans(desk: Desk, action: str, status: str) -> None:
    plan = await made_plan(
        desk, final_action=action, final_day=5, soft_days=[1], control_days=[1], reminder_days=[0, 3], grace_days=5
    )
    deal = await desk.deal(dunning_plan_id=ids.decode("dun", plan["id"]))
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("expired_card")
    await desk.run_through(invoice, START + 30 * DAY)
    assert await desk.status(deal) == status
    kinds = [kind for kind, _ in await desk.notices(invoice)]
    assert sorted(kinds) == ["action_needed", "reminder"]


# -- Rebills ----------------------------------------------------------------------------------------------------------------


async def test_a_rebill_is_explained_in_sentences(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds", advice="26")
    await desk.collect(START)
    found = (await desk.http.get(of(invoice))).json()
    assert (found["state"], found["plan"], found["tries"]) == ("due", {"id": None, "version": 1}, 1)
    assert found["charges"][0]["code"] == "insufficient_funds"
    assert found["decisions"][0]["sentence"] == (
        "The issuer said when to try again (code insufficient_funds, advice 26)."
        " The next charge is due on 2026-03-04 09:30 UTC. Declined so far: 1."
    )
    assert "2026-03-04 09:30 UTC" in found["next_step"]
    assert found["grace_until"] == (START + BUILT_IN.grace_days * DAY).isoformat().replace("+00:00", "Z")


async def test_the_list_is_searched_by_state_subscription_and_time(desk: Desk) -> None:
    deal, other = await desk.deal(), await desk.deal()
    first, second = await desk.invoice(deal), await desk.invoice(other, at=START + DAY)

    async def listed(**params: Any) -> list[str]:
        answer = await desk.http.get("/v1/rebills", params=params)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    both = [ids.encode("inv", second), ids.encode("inv", first)]
    assert await listed() == both
    assert await listed(state="due") == both
    assert await listed(state="settled") == []
    assert await listed(subscription=ids.encode("sub", deal.subscription)) == both[1:]
    assert await listed(due_before=(START + timedelta(hours=1)).isoformat()) == both[1:]
    page = (await desk.http.get("/v1/rebills", params={"limit": 1})).json()
    assert page["has_more"]
    assert await listed(cursor=page["next_cursor"]) == both[1:]


async def test_a_retry_by_hand_is_charged_next_unless_a_limit_forbids_it(desk: Desk) -> None:
    deal = await desk.deal(card={"brand": "amex"})
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    await desk.collect(START)
    refused = await post(desk, f"{of(invoice)}/retry")
    assert code(refused) == (409, "retry_cap_reached")
    assert refused.json()["rule"] == "any_card"
    await desk.collect(START + DAY)
    desk.puppet.does = approve
    await desk.sql.execute(
        "UPDATE test_clocks SET now_at = $2 WHERE test_clock_id = $1", desk.clock_id, START + 3 * DAY
    )
    assert code(await desk.http.post(f"{of(invoice)}/retry")) == (400, "idempotency_key_missing")
    answer = await post(desk, f"{of(invoice)}/retry")
    assert answer.status_code == 200, answer.text
    assert answer.json()["decision"]["reason"] == "asked_for"
    await desk.collect(START + 3 * DAY)
    assert (await desk.rebill(invoice))["state"] == "settled"
    assert code(await post(desk, f"{of(invoice)}/retry")) == (409, "rebill_not_open")


async def test_nothing_is_retried_by_hand_while_an_outcome_is_open_or_on_a_card_that_is_stopped(desk: Desk) -> None:
    open_, stopped = await desk.invoice(await desk.deal()), await desk.invoice(await desk.deal(), at=START + DAY)
    desk.puppet.does = unclear
    await desk.collect(START)
    assert code(await post(desk, f"{of(open_)}/retry")) == (409, "payment_in_progress")
    desk.puppet.does = declined("lost_card")
    await desk.collect(START + DAY)
    # The decline suspended the mandate as well; with that mended, the card itself still stands in the way.
    assert code(await post(desk, f"{of(stopped)}/retry")) == (409, "mandate_not_active")
    await desk.sql.execute("UPDATE mandates SET status = 'active' WHERE tenant_id = $1", desk.scope.tenant_id)
    assert code(await post(desk, f"{of(stopped)}/retry")) == (409, "card_stopped")


async def test_a_person_stops_the_collection(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    await desk.collect(START)
    answer = await post(desk, f"{of(invoice)}/stop", {"reason": "paid by transfer"})
    assert (answer.status_code, answer.json()["state"]) == (200, "stopped")
    assert answer.json()["stopped_because"] == "paid by transfer"
    await desk.collect(START + 30 * DAY)
    assert len(desk.puppet.calls) == 1
    assert all(state == "dropped" for _, state in await desk.notices(invoice))
    assert await desk.status(deal) == "past_due", "what becomes of the subscription is not decided with it"
    assert code(await post(desk, f"{of(invoice)}/stop", {"reason": "again"})) == (409, "rebill_not_open")


async def test_a_held_invoice_is_collected_when_it_is_released(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal, collection="held")
    assert await desk.collect(START) == 0
    key = new_key()
    answer = await post(desk, f"{of(invoice)}/release", key=key)
    assert (answer.status_code, answer.json()["state"]) == (200, "due")
    assert (await post(desk, f"{of(invoice)}/release", key=key)).content == answer.content
    await desk.collect(START)
    assert (await desk.rebill(invoice))["state"] == "settled"
    assert code(await post(desk, f"{of(invoice)}/release")) == (409, "invoice_not_held")


async def test_a_backup_is_charged_with_the_customers_consent_and_paid(desk: Desk) -> None:
    deal = await desk.deal()
    without, agreed = await desk.card(deal.customer), await desk.card(deal.customer)
    await desk.mandate(deal.customer, without)
    await desk.mandate(deal.customer, agreed, backup=True)
    invoice = await desk.invoice(deal)

    def answer(verb: str, request: Any) -> Any:
        return approve(verb, request) if len(desk.puppet.calls) > 1 else declined("expired_card")(verb, request)

    desk.puppet.does = answer
    await desk.collect(START)
    used = await desk.sql.fetch(
        "SELECT o.payment_method_id FROM rebill_tries t JOIN operations o USING (tenant_id, live, operation_id)"
        " WHERE t.invoice_id = $1 ORDER BY try",
        invoice,
    )
    assert agreed in {row["payment_method_id"] for row in used}
    assert without not in {row["payment_method_id"] for row in used}
    assert (await desk.rebill(invoice))["state"] == "settled"


async def test_a_card_that_expires_before_the_next_charge_is_told_about(desk: Desk) -> None:
    deal = await desk.deal(card={"exp_month": 3, "exp_year": 2026})
    await desk.invoice(deal)
    await desk.collect(START)
    row = await desk.sql.fetchrow(
        "SELECT kind, due_at FROM notices WHERE subscription_id = $1 AND kind = 'card_expiring'", deal.subscription
    )
    assert row is not None
    assert row["due_at"].isoformat() == "2026-03-28T22:00:00+00:00", "three days before 1 April in Berlin"


async def test_a_card_that_is_not_charged_yet_is_told_about_too_and_no_more_when_it_was_replaced(desk: Desk) -> None:
    deal = await desk.deal(card={"exp_month": 3, "exp_year": 2026})
    changed = await desk.http.patch(
        f"/v1/subscriptions/{ids.encode('sub', deal.subscription)}", json={"description": "x"}
    )
    assert changed.status_code == 200, changed.text
    row = await desk.sql.fetchrow(
        "SELECT notice_id, due_at FROM notices WHERE subscription_id = $1 AND kind = 'card_expiring'", deal.subscription
    )
    assert row is not None
    assert row["due_at"].isoformat() == "2026-03-28T22:00:00+00:00"
    assert await desk.sql.fetchval("SELECT count(*) FROM rebills WHERE subscription_id = $1", deal.subscription) == 0


def test_the_database_and_the_built_in_plan_agree_how_early_a_card_is_told_about() -> None:
    text = (resources.files("clearspan") / "rebills/sql/notices.sql").read_text()
    assert f"'card_expiring_days')::integer, {BUILT_IN.card_expiring_days});" in text


async def test_the_report_counts_what_was_recovered_and_holds_the_plan_against_the_control(desk: Desk) -> None:
    paid_by_try, lost = await desk.deal(), await desk.deal()
    first = await desk.invoice(paid_by_try)
    desk.puppet.does = declined("limit_exceeded")
    await desk.collect(START)
    desk.puppet.does = approve
    await desk.run_through(first, START + 30 * DAY)
    desk.puppet.does = declined("lost_card")
    at = START + 10 * DAY
    second = await desk.invoice(lost, at=at)
    await desk.collect(at)
    await desk.sql.execute(
        "UPDATE rebills SET held_out = (invoice_id = $1) WHERE invoice_id = ANY($2)", second, [first, second]
    )
    span = {"since": START.isoformat(), "until": (START + 60 * DAY).isoformat()}
    found = (await desk.http.get("/v1/rebills/recovery", params=span)).json()
    groups = {one["group"]: one for one in found["groups"]}
    assert (groups["plan"]["failed"], groups["plan"]["recovered"], groups["plan"]["recovered_bp"]) == (1, 1, 10_000)
    assert (groups["control"]["failed"], groups["control"]["recovered"], groups["control"]["open"]) == (1, 0, 1)
    assert [(one["try"], one["tries"], one["recovered"]) for one in found["by_try"] if one["group"] == "plan"] == [
        (1, 1, 0),
        (2, 1, 1),
    ]
    assert found["by_code"] == [
        {"tries": 1, "recovered": 1, "try": None, "group": None, "code": "limit_exceeded", "from_h": None}
    ]
    assert sum(one["recovered"] for one in found["by_delay"]) == 1
    wrong = await desk.http.get("/v1/rebills/recovery", params={"since": span["until"], "until": span["since"]})
    assert code(wrong) == (422, "invalid_request")


async def test_a_subscription_without_a_mandate_asks_its_customer(desk: Desk) -> None:
    deal = await desk.deal(mandated=False)
    invoice = await desk.invoice(deal, state="decide")
    await desk.collect(START)
    assert await desk.decision(invoice) == ("ask_customer", "no_mandate")
    rebill = await desk.rebill(invoice)
    assert rebill["next_at"] == rebill["final_at"]
    mandate = await desk.mandate(deal.customer, deal.method)
    await desk.sql.execute(
        "UPDATE subscriptions SET mandate_id = $2 WHERE subscription_id = $1", deal.subscription, mandate
    )
    answer = await post(desk, f"{of(invoice)}/retry")
    assert answer.status_code == 200, answer.text
    await desk.collect(START)
    assert (await desk.rebill(invoice))["state"] == "settled"


async def test_the_journal_holds_the_decision_and_nobodys_name(desk: Desk) -> None:
    deal = await desk.deal()
    invoice = await desk.invoice(deal)
    desk.puppet.does = declined("insufficient_funds")
    await desk.collect(START)
    row = await desk.sql.fetchrow(
        "SELECT type, data::text AS data, customer_id FROM journal WHERE subject_id = $1 AND type = 'rebill.decided'",
        invoice,
    )
    assert row is not None
    assert '"reason": "soft"' in row["data"]
    assert row["customer_id"] == deal.customer
