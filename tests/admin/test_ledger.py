"""The ledger in the cockpit: balances with their meaning, the entries behind them, and a check that finds what does not agree."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import NewMerchant
from tests.factories import Connection
from tests.shop import Shop

from clearspan.platform import ids


async def test_balances_and_entries_of_a_payment(people: NewPerson, shop: Shop) -> None:
    payment = await shop.paid(1099)
    await shop.act(payment, "refunds", {"amount_minor": 99})
    other = await shop.paid(500)
    person = await people("auditor")
    page = (await person.get("/ledger")).text
    assert "What PSPs owe you" in page
    assert "€15.99" in page
    assert "Sum: €0.00" in page
    mine = (await person.get(f"/ledger?payment={payment['id']}")).text
    entries = mine.split(">Entries</h2>")[1]
    assert "€10.99" in entries
    assert "€0.99" in entries
    assert other["id"][:12] not in entries or payment["id"][:12] == other["id"][:12]
    assert "€5.00" not in entries
    account = (await person.get("/ledger?account=refunded")).text.split(">Entries</h2>")[1]
    assert account.count("<tr>") == 2  # the head and one entry


async def test_pages_filters_and_nonsense(people: NewPerson, shop: Shop) -> None:
    for _ in range(3):
        await shop.paid()
    person = await people("finance")
    assert "Nothing is booked" in (await person.get("/ledger?before=2020-01-01")).text
    assert "No entry matches" in (await person.get("/ledger?after=2099-01-01")).text
    for nonsense in (
        "payment=nonsense",
        "after=nonsense",
        "cursor=nonsense",
        "psp_account=nonsense",
        "after=9999-12-31&before=9999-12-31",
    ):
        answer = await person.get(f"/ledger?{nonsense}")
        assert answer.status_code == 422, nonsense
        assert 'class="alert bad"' in answer.text


async def test_the_check_agrees_and_finds_what_does_not(people: NewPerson, shop: Shop, superuser: Connection) -> None:
    payment = await shop.paid(1234)
    person = await people("finance")
    fine = await person.post("/ledger/check", "/ledger")
    assert fine.status_code == 200, fine.text
    assert re.search(r"All agrees. Compared: payments 1, entries \d+", fine.text)
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute(
        "UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE account = 'captured' AND payment_id = $1",
        ids.decode("pay", payment["id"]),
    )
    wrong = (await person.post("/ledger/check", "/ledger")).text
    assert "The ledger does not agree" in wrong
    assert 'role="alert"' in wrong
    assert f"/payments/{payment['id']}" in wrong
    assert "docs/runbooks/ledger-difference.md" in wrong
    assert "All agrees" not in wrong


@pytest.mark.parametrize("role", ["support", "developer"])
async def test_who_may_not(people: NewPerson, role: str) -> None:
    person = await people(role)
    assert (await person.get("/ledger")).status_code == 403
    assert (await person.post("/ledger/check", "/work")).status_code == 403


async def test_anothers_entries_are_not_there(people: NewPerson, shop: Shop, new_merchant: NewMerchant) -> None:
    payment = await shop.paid()
    stranger = await people("finance", of=await new_merchant())
    assert (
        payment["id"][:12]
        not in (await stranger.get(f"/ledger?payment={payment['id']}")).text.split(">Entries</h2>")[1]
    )
    assert "Nothing is booked" in (await stranger.get("/ledger")).text


async def test_in_a_browser(tabs: Tabs, served: Served) -> None:
    payment = await served.shop.paid()
    await served.shop.act(payment, "refunds", {"amount_minor": 99})
    page = await tabs.open("finance")
    await page.goto(f"{served.url}/admin/ledger")
    await page.get_by_role("button", name="Check now").click()
    await page.get_by_text("All agrees").wait_for()
    await picture(page, "ledger")
    phone = await tabs.open("auditor", dark=True, width=390)
    await phone.goto(f"{served.url}/admin/ledger")
    await picture(phone, "ledger-phone-dark")
