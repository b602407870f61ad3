"""Invoices: drafts, numbers without gaps, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.conftest import Merchant
from tests.core.invoices.billing import act, customer, draft, look, opened, subscribed
from tests.shop import Shop, code

from clearspan.platform import ids, sqlbundle
from clearspan.platform.db import Database

Connection = asyncpg.Connection


async def test_a_draft_adds_up_given_and_computed_taxes(shop: Shop) -> None:
    lines: list[dict[str, Any]] = [
        {"description": "Setup", "unit_amount_minor": 5000, "tax_minor": 798},
        {"description": "Hours", "quantity": 3, "unit_amount_minor": 1000,
         "tax": {"name": "VAT", "rate_bp": 1900, "inclusive": False}},
        {"description": "Book", "unit_amount_minor": 1070, "tax": {"name": "VAT", "rate_bp": 700}},
    ]  # fmt: skip
    made = await draft(shop, lines=lines)
    assert (made["status"], made["number"], made["pay_url"]) == ("draft", None, None)
    assert (made["subtotal_minor"], made["tax_minor"]) == (9070, 798 + 570 + 70)
    assert (made["total_minor"], made["due_minor"]) == (9070 + 570, 9070 + 570)
    assert [(tax["name"], tax["tax_minor"], tax["inclusive"]) for tax in made["taxes"]] == [
        (None, 798, True),
        ("VAT", 570, False),
        ("VAT", 70, True),
    ]
    assert await look(shop, made) == made


async def test_opening_gives_a_number_once_however_often_it_is_asked_for(shop: Shop) -> None:
    made = await draft(shop)
    first = await act(shop, made, "open", key="open-once")
    assert first.json()["number"] == "INV-000001"
    assert first.json()["status"] == "open"
    assert "/pay/" in first.json()["pay_url"]
    assert (await act(shop, made, "open", key="open-once")).content == first.content
    assert code(await act(shop, made, "open")) == (409, "invoice_not_in_status")
    assert (await opened(shop))["number"] == "INV-000002"


async def test_an_invoice_over_nothing_is_paid_when_it_is_opened(shop: Shop) -> None:
    made = await opened(shop, 0)
    assert (made["status"], made["pay_url"], made["number"]) == ("paid", None, "INV-000001")


async def test_numbers_have_no_gap_and_no_double_under_concurrency_and_rollbacks(
    shop: Shop, db: Database, merchant: Merchant
) -> None:
    who = await customer(shop)
    drafts = [await draft(shop, customer=who) for _ in range(24)]
    scope = merchant.caller.scope
    document = {
        "tenant_id": str(scope.tenant_id), "live": scope.live, "now": "2026-01-01T00:00:00Z", "actor_type": "system",
        "actor_id": "tests", "request_id": "req_tests",
    }  # fmt: skip

    class Undone(Exception):
        pass

    async def undone(invoice: dict[str, Any]) -> None:
        """Takes a number and gives it back."""
        from clearspan.subscriptions.invoices import _call

        with contextlib.suppress(Undone):
            async with db.begin(scope) as session:
                await _call(session, "invoice_open", document | {"invoice_id": ids.decode("inv", invoice["id"])})
                await asyncio.sleep(0.005)
                raise Undone

    never = [await draft(shop, customer=who) for _ in range(8)]
    works = [
        work
        for n in range(8)
        for work in (
            act(shop, drafts[3 * n], "open"),
            undone(never[n]),
            act(shop, drafts[3 * n + 1], "open"),
            act(shop, drafts[3 * n + 2], "open"),
        )
    ]
    await asyncio.gather(*works)
    assert {(await look(shop, each))["status"] for each in never} == {"draft"}
    numbers = sorted([(await look(shop, each))["number"] for each in drafts])
    assert numbers == [f"INV-{n:06}" for n in range(1, 25)]


async def test_a_void_invoice_asks_for_nothing_and_its_rebill_and_mails_stop(
    shop: Shop, merchant: Merchant, superuser: Connection
) -> None:
    who = await customer(shop)
    subscription_id, invoice_id = await subscribed(superuser, merchant.caller.scope, who)
    uuid = ids.decode("inv", invoice_id)
    await superuser.execute(
        "INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, invoice_id, dedupe, due_at, created_at, updated_at)"
        " SELECT tenant_id, live, gen_random_uuid(), k, customer_id, invoice_id, k, created_at, created_at, created_at"
        " FROM invoices, unnest(ARRAY['reminder', 'receipt']) AS k WHERE invoice_id = $1",
        uuid,
    )
    answer = await act(shop, {"id": invoice_id}, "void")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["left_minor"], answer.json()["pay_url"]) == ("void", 0, None)
    rebill = await superuser.fetchrow("SELECT state, stopped_because, next_at FROM rebills WHERE invoice_id = $1", uuid)
    assert tuple(rebill) == ("stopped", "invoice_void", None)
    notices = dict(await superuser.fetch("SELECT kind, state FROM notices WHERE invoice_id = $1", uuid))
    assert notices == {"reminder": "dropped", "receipt": "queued"}
    status = "SELECT status FROM subscriptions WHERE subscription_id = $1"
    assert await superuser.fetchval(status, subscription_id) == "active"  # It was past due for this one only.
    events = (await shop.http.get("/v1/audit", params={"limit": 50})).json()["data"]
    assert {"invoice.voided", "subscription.recovered"} <= {event["type"] for event in events}
    assert code(await act(shop, {"id": invoice_id}, "void")) == (409, "invoice_not_in_status")


async def test_a_draft_may_be_void_and_never_has_a_number(shop: Shop) -> None:
    made = await draft(shop)
    voided = (await act(shop, made, "void")).json()
    assert (voided["status"], voided["number"]) == ("void", None)
    assert code(await shop.http.get(f"/v1/invoices/{made['id']}/pdf")) == (409, "invoice_is_draft")
    assert (await opened(shop))["number"] == "INV-000001"


async def test_an_uncollectible_invoice_can_still_be_paid_or_voided(shop: Shop) -> None:
    made = await opened(shop)
    given_up = (await act(shop, made, "mark-uncollectible")).json()
    assert (given_up["status"], given_up["left_minor"]) == ("uncollectible", 1200)
    assert given_up["pay_url"]
    assert (await act(shop, made, "void")).json()["status"] == "void"


@pytest.mark.parametrize("what", ["void", "mark-uncollectible"])
async def test_nothing_ends_an_invoice_while_a_payment_of_it_is_unknown(
    shop: Shop, superuser: Connection, what: str
) -> None:
    made = await opened(shop)
    await superuser.execute(
        "UPDATE invoices SET payment_locked = true WHERE invoice_id = $1", ids.decode("inv", made["id"])
    )
    assert code(await act(shop, made, what)) == (409, "invoice_payment_locked")
    reduction = {"amount_minor": 1, "settled_by": "reduction", "reason": "x"}
    assert code(await act(shop, made, "credit-notes", reduction)) == (409, "invoice_payment_locked")
    assert (await look(shop, made))["status"] == "open"


async def test_invoices_are_found_by_what_people_know(shop: Shop, merchant: Merchant, superuser: Connection) -> None:
    who = await customer(shop)
    mine = await opened(shop, customer=who)
    other = await draft(shop)
    subscription_id, of_subscription = await subscribed(superuser, merchant.caller.scope, who)

    async def found(**params: Any) -> set[str]:
        answer = await shop.http.get("/v1/invoices", params=params)
        assert answer.status_code == 200, answer.text
        return {each["id"] for each in answer.json()["data"]}

    assert await found() == {mine["id"], other["id"], of_subscription}
    assert await found(customer=who) == {mine["id"], of_subscription}
    assert await found(subscription=ids.encode("sub", subscription_id)) == {of_subscription}
    assert await found(status="draft") == {other["id"]}
    assert await found(number=mine["number"]) == {mine["id"]}
    assert await found(due="true") == {mine["id"], of_subscription}
    assert await found(due="false") == {other["id"]}
    assert await found(created_after="2100-01-01T00:00:00Z") == set()
    assert await found(created_before="2100-01-01T00:00:00+14:00") == {mine["id"], other["id"], of_subscription}
    first = (await shop.http.get("/v1/invoices", params={"limit": 2})).json()
    assert first["has_more"]
    assert len(first["data"]) == 2
    assert len(await found(cursor=first["next_cursor"])) == 1


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"status": "lost"}, (400, "invalid_request")),
        ({"state": "open"}, (400, "invalid_request")),
        ({"customer": "pay_01h455vb4pex5vsknk084sn02q"}, (404, "invalid_id")),
        ({"created_after": "2026-01-01T00:00:00"}, (400, "invalid_request")),
        ({"cursor": "none"}, (400, "invalid_request")),
    ],
)
async def test_an_unknown_filter_is_refused_instead_of_finding_everything(
    shop: Shop, params: dict[str, str], problem: tuple[int, str]
) -> None:
    answer = await shop.http.get("/v1/invoices", params=params)
    assert (answer.status_code, answer.json()["code"]) in [problem, (422, problem[1])], answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"lines": []},
        {"lines": [{"description": "x", "unit_amount_minor": 1}] * 501},
        {"lines": [{"description": "x" * 10_000, "unit_amount_minor": 1}]},
        {"lines": [{"description": "x", "unit_amount_minor": -1}]},
        {"lines": [{"description": "x", "unit_amount_minor": 1, "quantity": 0}]},
        {"lines": [{"description": "x", "unit_amount_minor": 10**12, "quantity": 2}]},
        {"lines": [{"description": "x", "unit_amount_minor": 5, "tax_minor": 6}]},
        {"lines": [{"description": "x", "unit_amount_minor": 5, "tax_minor": 1, "tax": {"name": "V", "rate_bp": 1}}]},
        {"lines": [{"description": "x", "unit_amount_minor": "5"}]},
        {"currency": "XXX"},
        {"description": "a\u0007b"},
        {"discount": 5},
    ],
    ids=[
        "no lines", "501 lines", "10,000 characters", "negative", "no quantity", "too much", "tax above amount", "two taxes",
        "text for a number", "no currency", "control character", "unknown field",
    ],
)  # fmt: skip
async def test_bad_drafts_are_refused_and_nothing_is_made(shop: Shop, change: dict[str, Any]) -> None:
    body = {
        "customer": await customer(shop),
        "currency": "EUR",
        "lines": [{"description": "x", "unit_amount_minor": 1}],
    }
    answer = await shop.post("/v1/invoices", body | change)
    assert answer.status_code in (400, 422), answer.text
    assert (await shop.http.get("/v1/invoices")).json()["data"] == []


async def test_nobody_is_billed_who_is_deleted_or_somebody_elses(shop: Shop) -> None:
    lines = [{"description": "x", "unit_amount_minor": 1}]
    stranger = ids.encode("cus", UUID(int=7 << 76 | 1 << 63))
    assert (
        await shop.post("/v1/invoices", {"customer": stranger, "currency": "EUR", "lines": lines})
    ).status_code == 404
    gone = await customer(shop)
    await shop.http.delete(f"/v1/customers/{gone}")
    answer = await shop.post("/v1/invoices", {"customer": gone, "currency": "EUR", "lines": lines})
    assert code(answer) == (409, "customer_deleted")


async def test_the_largest_amounts_are_kept_to_the_unit(shop: Shop) -> None:
    line = {"description": "Plant", "unit_amount_minor": 999_999_999_999, "tax_minor": 99_999_999_999}
    made = await opened(shop, lines=[line])
    assert (made["due_minor"], made["tax_minor"]) == (999_999_999_999, 99_999_999_999)
    assert made["lines"][0]["amount_minor"] == 999_999_999_999


async def test_five_hundred_lines_are_taken(shop: Shop) -> None:
    lines = [{"description": f"Line {n}", "unit_amount_minor": 1} for n in range(500)]
    made = await opened(shop, lines=lines)
    assert (len(made["lines"]), made["due_minor"]) == (500, 500)
    assert [line["description"] for line in made["lines"][:2]] == ["Line 0", "Line 1"]


async def test_every_change_is_told_and_the_feed_shows_the_invoice_without_its_link(shop: Shop) -> None:
    made = await opened(shop)
    await act(shop, made, "void")
    events = (await shop.http.get("/v1/events", params={"limit": 100})).json()["data"]
    mine = [event for event in events if event["subject"]["id"] == made["id"]]
    assert [event["type"] for event in mine] == ["invoice.created", "invoice.opened", "invoice.voided"]
    assert [event["sequence"] for event in mine] == [1, 2, 3]
    assert mine[-1]["data"]["object"]["status"] == "void"
    assert all(event["data"]["object"]["pay_url"] is None for event in mine)
    assert sqlbundle.version() not in str(events)
