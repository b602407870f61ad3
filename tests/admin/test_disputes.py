"""Disputes in the cockpit: the next deadline first, and each with its payment."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import NewMerchant
from tests.factories import Connection, insert
from tests.shop import Shop

from clearspan.platform import clock, ids

HOSTILE = "<script>alert(1)</script>"


async def dispute(sql: Connection, shop: Shop, days: float | None, status: str = "needs_response", **row: Any) -> str:
    """A dispute over a payment, to be answered in so many days; its public id."""
    payment = await shop.get(await shop.paid(2500))
    operation = await sql.fetchrow("SELECT * FROM operations WHERE payment_id = $1", ids.decode("pay", payment["id"]))
    assert operation is not None
    now, dispute_id = clock.now(), clock.new_uuid()
    given = {
        "tenant_id": operation["tenant_id"],
        "live": operation["live"],
        "dispute_id": dispute_id,
        "payment_id": operation["payment_id"],
        "operation_id": operation["operation_id"],
        "psp_account_id": operation["psp_account_id"],
        "psp_ref": f"dp_{dispute_id.hex}",
        "status": status,
        "amount_minor": 2500,
        "currency": "EUR",
        "reason": "fraudulent",
        "evidence_due_at": None if days is None else now + timedelta(days=days),
        "opened_at": now,
        "updated_at": now,
    }
    await insert(sql, "disputes", given | row)
    return ids.encode("dp", dispute_id)


async def test_the_next_deadline_comes_first(people: NewPerson, shop: Shop, superuser: Connection) -> None:
    late, none, soon, over = [await dispute(superuser, shop, days) for days in (30, None, 1, -1)]
    won = await dispute(superuser, shop, 5, "won", closed_at=clock.now())
    person = await people("support")
    page = (await person.get("/disputes")).text
    assert re.findall(r"/admin/disputes/(dp_\w+)", page) == [over, soon, late, none]
    assert ">over<" in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    every = (await person.get("/disputes?show=all")).text
    assert re.findall(r"/admin/disputes/(dp_\w+)", every)[0] == won
    assert re.findall(r"/admin/disputes/(dp_\w+)", (await person.get("/disputes?status=won")).text) == [won]
    assert "No dispute" in (await person.get("/disputes?status=lost")).text


async def test_pages_go_on_after_a_deadline_and_after_none(
    people: NewPerson, shop: Shop, superuser: Connection, monkeypatch: Any
) -> None:
    from clearspan_admin.pages import disputes

    monkeypatch.setattr(disputes, "PAGE", 2)
    made = [await dispute(superuser, shop, days) for days in (1, 2, 3, None, None)]
    person = await people("support")
    seen: list[str] = []
    path = "/disputes"
    while path:
        page = (await person.get(path)).text
        seen += re.findall(r"/admin/disputes/(dp_\w+)", page)
        following = re.search(r'rel="next" href="/admin([^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == made[:3] + sorted(made[3:])


async def test_one_with_its_payment_and_what_can_be_done(people: NewPerson, shop: Shop, superuser: Connection) -> None:
    found = await dispute(superuser, shop, 2, reason=HOSTILE, network_code="10.4")
    page = await (await people("support")).get(f"/disputes/{found}")
    assert page.status_code == 200, page.text
    assert "<script>alert" not in page.text
    assert "10.4" in page.text
    assert "€25.00" in page.text
    assert "Evidence is not sent through Clearspan" in page.text
    assert re.search(r"/admin/payments/pay_\w+", page.text)
    assert "/admin/ledger" not in page.text.split("<main", 1)[1], "support may not see the ledger"


async def test_what_is_anothers_or_nobodys_does_not_exist(
    people: NewPerson, shop: Shop, superuser: Connection, new_merchant: NewMerchant
) -> None:
    found = await dispute(superuser, shop, 2)
    stranger = await people("finance", of=await new_merchant())
    assert (await stranger.get(f"/disputes/{found}")).status_code == 404
    assert (await stranger.get(f"/disputes?cursor={found}")).status_code == 404
    assert (await stranger.get("/disputes/nonsense")).status_code == 404
    assert found not in (await stranger.get("/disputes")).text


async def test_in_a_browser(tabs: Tabs, served: Served, superuser: Connection) -> None:
    for days in (-1, 1, 20):
        found = await dispute(superuser, served.shop, days)
    page = await tabs.open("support")
    await page.goto(f"{served.url}/admin/disputes")
    await picture(page, "disputes")
    await page.goto(f"{served.url}/admin/disputes/{found}")
    await picture(page, "dispute")
    phone = await tabs.open("support", dark=True, width=390)
    await phone.goto(f"{served.url}/admin/disputes")
    await picture(phone, "disputes-phone-dark")
