"""The pages of subscriptions: found, shown, changed for the amounts that were shown, paused, canceled."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.admin.billing import HOSTILE, followed, get, page_of, plan, said, subscribed
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan.platform import ids


async def test_subscriptions_are_found_by_status_plan_customer_and_reference(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    gold = await plan(shop, 5000, name="Gold")
    one = await subscribed(shop, plan=gold, reference="s-77", metadata={"tier": "gold"})
    other = await subscribed(shop)
    for query in ("status=active", f"plan={gold}", f"customer={one['customer']}", "q=s-77", "q=tier%3Dgold"):
        text = await page_of(person, f"/subscriptions?{query}")
        assert one["id"] in text, query
        assert (other["id"] in text) == (query == "status=active")
    assert "No such subscription" in await page_of(person, "/subscriptions?status=paused")
    assert (await person.get(f"/subscriptions?q={one['id']}")).headers["location"].endswith(one["id"])


async def test_a_subscription_shows_the_next_date_here_and_in_its_own_zone(people: NewPerson, shop: Shop) -> None:
    one = await subscribed(shop, time_zone="Asia/Tokyo")
    text = said(await page_of(await people("finance"), f"/subscriptions/{one['id']}"))
    for expected in (
        "Basic",
        "€9.00 per month",
        "Next invoice",
        "in Asia/Tokyo",
        "Visa •••• 0000",
        "INV-",
        "Subscribed",
    ):
        assert expected in text


async def test_the_amounts_of_a_preview_are_those_of_the_change(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    bigger = await plan(shop, 4900, name="Bigger")
    one = await subscribed(shop)
    path = f"/subscriptions/{one['id']}"
    answer = await person.post(f"{path}/preview", f"{path}/change", plan=bigger, quantity="2", proration="now")
    assert answer.status_code == 200, said(answer.text)
    total = re.search(r"The customer is charged (€[\d.,]+) on the mandate", said(answer.text))
    assert total is not None
    fields = dict(
        re.findall(r'<input type="hidden" name="(plan|quantity|proration|at|csrf|key)" value="([^"]*)">', answer.text)
    )
    changed = await person.http.post(f"/admin{path}/change", data=fields)
    text = said(await followed(person, changed))
    assert "Bigger" in text
    invoice = (await get(shop, f"subscriptions/{one['id']}"))["latest_invoice"]
    assert f"€{invoice['due_minor'] / 100:.2f}" == total[1]
    again = await person.http.post(f"/admin{path}/change", data=fields)
    assert again.status_code == 303
    invoices = (await get(shop, f"invoices?subscription={one['id']}"))["data"]
    assert len(invoices) == 2


async def test_mistakes_in_a_change_are_said_beside_what_was_typed(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await subscribed(shop)
    path = f"/subscriptions/{one['id']}"
    answer = await person.post(f"{path}/preview", f"{path}/change", plan=one["items"][0]["plan"], quantity="a dozen")
    assert answer.status_code == 422
    assert 'value="a dozen"' in answer.text
    assert "whole number" in answer.text
    none = await person.post(f"{path}/preview", f"{path}/change", plan=one["items"][0]["plan"], quantity="0")
    assert "At least one item stays" in none.text
    strange = await person.post(f"{path}/preview", f"{path}/change", plan="plan_nothing", quantity="1")
    assert strange.status_code == 404
    assert "plan_not_found" in strange.text


async def test_a_change_is_refused_while_a_charge_is_unknown_and_keeps_what_was_typed(
    people: NewPerson, shop: Shop, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    person = await people("support")
    one = await subscribed(shop)
    path, gold = f"/subscriptions/{one['id']}", await plan(shop, 5000, name="Gold")
    payment = ids.decode("pay", one["latest_invoice"]["payment"]["id"])
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute("UPDATE invoices SET status = 'open', payment_locked = true WHERE payment_id = $1", payment)
    await superuser.execute("UPDATE payment_intents SET outcome = 'unknown' WHERE payment_id = $1", payment)
    for what in ("preview", "change"):
        answer = await person.post(f"{path}/{what}", f"{path}/change", plan=gold, quantity="3", key="k" * 32)
        assert answer.status_code == 409
        assert "subscription_charge_unknown" in answer.text
        assert 'value="3"' in answer.text
        assert f'value="{gold}" selected' in answer.text
    assert "A charge is under way" in await page_of(person, path)


async def test_a_subscription_is_paused_and_resumed(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await subscribed(shop)
    path = f"/subscriptions/{one['id']}"
    bad = await person.post(f"{path}/pause", resume_on="soon")
    assert (bad.status_code, "This is no date." in bad.text) == (422, True)
    past = await person.post(f"{path}/pause", resume_on="2020-01-01")
    assert past.status_code in (400, 422)
    assert "2020-01-01" in past.text
    until = (datetime.now(UTC) + timedelta(days=40)).date().isoformat()
    text = await followed(person, await person.post(f"{path}/pause", resume_on=until))
    assert "It resumes on" in text
    assert "Paused" in text
    text = await followed(person, await person.post(f"{path}/resume", path))
    assert "It resumes on" not in text
    assert (await get(shop, f"subscriptions/{one['id']}"))["status"] == "active"


async def test_a_subscription_is_canceled_at_the_end_or_now_with_what_becomes_of_invoices(
    people: NewPerson, shop: Shop
) -> None:
    person = await people("support")
    one = await subscribed(shop)
    path = f"/subscriptions/{one['id']}"
    text = await followed(person, await person.post(f"{path}/cancel", at="period_end", reason="too dear"))
    assert "It ends with its period" in text
    assert "It goes on after all." in await followed(person, await person.post(f"{path}/uncancel", path))
    assert "It ends with its period" not in await page_of(person, path)
    text = await followed(person, await person.post(f"{path}/cancel", at="now", invoices="void", reason="too dear"))
    assert "What has ended stays ended." in text
    assert "too dear" in text
    assert f"{path}/cancel" not in text
    late = await person.post(f"{path}/cancel", f"{path}/cancel", at="now")
    assert (late.status_code, "subscription_canceled" in late.text) == (409, True)


async def test_another_method_is_chosen_among_active_mandates(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await subscribed(shop)
    two = await subscribed(shop, "tok_mastercard", customer=one["customer"])
    path = f"/subscriptions/{one['id']}"
    assert "Mastercard •••• 4444" in said(await page_of(person, f"{path}/method"))
    await followed(person, await person.post(f"{path}/method", mandate=two["mandate"]))
    assert (await get(shop, f"subscriptions/{one['id']}"))["payment_method"] == two["payment_method"]
    refused = await person.post(f"{path}/method", mandate="man_nothing")
    assert refused.status_code == 409
    assert "mandate_" in refused.text


@pytest.mark.parametrize("role", ["auditor", "developer"])
async def test_who_only_reads_cannot_act(people: NewPerson, shop: Shop, role: str) -> None:
    person = await people(role)
    one = await subscribed(shop)
    path = f"/subscriptions/{one['id']}"
    text = await page_of(person, path)
    for what in ("change", "pause", "cancel", "method"):
        assert f"{path}/{what}" not in text
        assert (await person.get(f"{path}/{what}")).status_code == 403
        assert (await person.post(f"{path}/{what}", path)).status_code == 403
    for what in ("resume", "uncancel"):
        assert (await person.post(f"{path}/{what}", path)).status_code == 403


async def test_another_tenants_subscription_is_not_there(
    people: NewPerson, shop: Shop, other_merchant: Merchant
) -> None:
    one = await subscribed(shop, description=HOSTILE)
    stranger = await people("owner", of=other_merchant)
    path = f"/subscriptions/{one['id']}"
    for asked in (path, f"{path}/change", f"{path}/pause", f"{path}/cancel", f"{path}/method"):
        assert (await stranger.get(asked)).status_code == 404
    for what in ("change", "preview", "pause", "cancel", "method", "resume", "uncancel"):
        fields = {"plan": one["items"][0]["plan"], "quantity": "1", "mandate": one["mandate"], "key": "k" * 32}
        assert (await stranger.post(f"{path}/{what}", "/subscriptions", **fields)).status_code == 404
    assert one["id"] not in await page_of(stranger, "/subscriptions")
    assert (await get(shop, f"subscriptions/{one['id']}"))["status"] == "active"


async def test_subscriptions_in_a_browser(tabs: Tabs, served: Served) -> None:
    one = await subscribed(served.shop, time_zone="Asia/Tokyo")
    gold = await plan(served.shop, 4900, name="Gold with a rather long name that has to be cut somewhere")
    for name, options in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open("owner", **options)  # type: ignore[arg-type]
        await page.goto(f"{served.url}/admin/subscriptions")
        await picture(page, f"subscriptions-{name}")
        await page.goto(f"{served.url}/admin/subscriptions/{one['id']}")
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        await picture(page, f"subscription-{name}")
        await page.goto(f"{served.url}/admin/subscriptions/{one['id']}/change")
        await page.locator("#plan-1").select_option(gold)
        await page.get_by_role("button", name="Preview").click()
        await page.get_by_text("What this does").wait_for()
        await picture(page, f"change-{name}")
        await page.goto(f"{served.url}/admin/subscriptions/{one['id']}/cancel")
        await picture(page, f"cancel-{name}")
    await page.goto(f"{served.url}/admin/subscriptions/{one['id']}/change")
    await page.locator("#quantity-0").fill("3")
    await page.get_by_role("button", name="Preview").click()
    await page.get_by_role("button", name="Change for these amounts").click()
    await page.get_by_text("The items were changed.").wait_for()
