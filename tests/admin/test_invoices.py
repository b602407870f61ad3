"""The pages of invoices: what was asked for, tried and mailed, what comes next, and stepping in."""

from __future__ import annotations

import re

import asyncpg
import pytest
from tests.admin.billing import ESCAPED, HOSTILE, failing, followed, get, page_of, said, subscribed
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import Merchant
from tests.core.invoices.billing import draft, opened
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import ids


async def test_invoices_are_found_by_status_number_customer_and_overdue(
    people: NewPerson, shop: Shop, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    person = await people("support")
    old, young, first = await opened(shop), await opened(shop), await draft(shop)
    await superuser.execute(
        "UPDATE invoices SET opened_at = opened_at - interval '8 days' WHERE invoice_id = $1",
        ids.decode("inv", old["id"]),
    )
    for query, found in {
        "": {old["id"], young["id"], first["id"]},
        "status=open": {old["id"], young["id"]},
        "status=overdue": {old["id"]},
        "status=draft": {first["id"]},
        f"q={young['number']}": {young["id"]},
        f"customer={first['customer']}": {first["id"]},
    }.items():
        text = await page_of(person, f"/invoices?{query}")
        assert {one["id"] for one in (old, young, first) if one["id"] in text} == found, query
    assert "Nothing fits" in await page_of(person, "/invoices?q=INV-4711")


async def test_a_declined_invoice_says_what_was_tried_and_what_comes_next(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    _, invoice = await failing(shop, gateway, merchant.caller.scope)
    text = said(await page_of(await people("support"), f"/invoices/{invoice['id']}"))
    assert "What comes next" in text
    assert re.search(r"The next charge is due on \w+ \d+, |The customer is asked to act", text), text
    explained = await get(shop, f"rebills/{invoice['id']}")
    assert explained["charges"][0]["code"] in text
    assert "Declined" in text
    assert "Copy the link to pay" in text


async def test_pressing_charge_now_twice_charges_once(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    person = await people("finance")
    scope = merchant.caller.scope
    _, invoice = await failing(shop, gateway, scope)
    path = f"/invoices/{invoice['id']}"
    text = await page_of(person, path)
    tries = len((await get(shop, f"rebills/{invoice['id']}"))["charges"])
    fields = {"csrf": re.findall(r'name="csrf" value="([^"]+)"', text)[-1], "key": "same-key-of-one-page-0001"}
    answers = [await person.http.post(f"/admin{path}/charge", data=fields) for _ in range(2)]
    if answers[0].status_code == 303:
        assert answers[1].status_code == 303
        await gateway.collector.collect(scope, "req_collect")
        await gateway.collector.collect(scope, "req_collect")
        assert len((await get(shop, f"rebills/{invoice['id']}"))["charges"]) == tries + 1
    else:  # The schemes' limit forbids it, and is shown.
        assert "retry_cap_reached" in answers[0].text or "card_stopped" in answers[0].text


async def test_collection_is_stopped_with_a_reason(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    person = await people("finance")
    _, invoice = await failing(shop, gateway, merchant.caller.scope)
    path = f"/invoices/{invoice['id']}"
    empty = await person.post(f"{path}/stop", path, reason="")
    assert (empty.status_code, "Say why" in empty.text) == (422, True)
    text = said(await followed(person, await person.post(f"{path}/stop", path, reason="Paid by bank transfer.")))
    assert "collection was stopped" in text
    assert "Paid by bank transfer." in text
    again = await person.post(f"{path}/stop", path, reason="Once more")
    assert (again.status_code, "rebill_not_open" in again.text) == (409, True)


async def test_a_draft_is_opened_sent_credited_and_made_void(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await draft(shop, 5000)
    path = f"/invoices/{one['id']}"
    assert "INV-" in await followed(person, await person.post(f"{path}/open", path))
    text = said(await followed(person, await person.post(f"{path}/send", path)))
    assert "Waiting to be sent" in text
    wrong = await person.post(f"{path}/credit", amount="1,234.50", reason="", settled_by="reduction")
    assert wrong.status_code == 422
    assert "Write an amount such as 12.50" in wrong.text
    assert 'value="1,234.50"' in wrong.text
    above = await person.post(f"{path}/credit", amount="60", reason="Too much", settled_by="reduction")
    assert (above.status_code, "credit_note_above_invoice" in above.text) == (422, True), said(above.text)
    text = said(
        await followed(
            person, await person.post(f"{path}/credit", amount="12,50", reason="Outage", settled_by="reduction")
        )
    )
    assert "€37.50" in text
    assert (await get(shop, f"invoices/{one['id']}"))["left_minor"] == 3750
    assert "Void" in await followed(person, await person.post(f"{path}/void", path))
    late = await person.post(f"{path}/uncollectible", "/invoices", key="k" * 32)
    assert late.status_code == 409


async def test_the_pdf_is_streamed_to_whoever_reads_invoices(people: NewPerson, shop: Shop) -> None:
    one = await opened(shop)
    answer = await (await people("auditor")).get(f"/invoices/{one['id']}/pdf")
    assert answer.status_code == 200
    assert answer.content.startswith(b"%PDF")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["cache-control"] == "no-store"


async def test_hostile_lines_and_reasons_are_text(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    lines = [{"description": HOSTILE, "unit_amount_minor": 900}]
    one = await opened(shop, lines=lines, description=HOSTILE, metadata={"x": HOSTILE[:40]})
    await followed(
        person,
        await person.post(f"/invoices/{one['id']}/credit", amount="1", reason=HOSTILE, settled_by="reduction"),
    )
    text = await page_of(person, f"/invoices/{one['id']}")
    assert text.count(ESCAPED) >= 3
    assert "<script>alert" not in text


ACTIONS = ("charge", "stop", "release", "open", "send", "void", "uncollectible", "credit")


@pytest.mark.parametrize(("role", "forbidden"), [("auditor", ACTIONS), ("support", ("charge", "stop", "release"))])
async def test_roles_see_and_do_what_the_api_allows_them(
    people: NewPerson, shop: Shop, role: str, forbidden: tuple[str, ...]
) -> None:
    person = await people(role)
    one = await opened(shop)
    path = f"/invoices/{one['id']}"
    text = await page_of(person, path)
    for action in forbidden:
        assert f"{path}/{action}" not in text
        assert (await person.post(f"{path}/{action}", path)).status_code == 403
    assert (await get(shop, f"invoices/{one['id']}"))["status"] == "open"


async def test_another_tenants_invoice_is_not_there(people: NewPerson, shop: Shop, other_merchant: Merchant) -> None:
    one = await opened(shop)
    stranger = await people("owner", of=other_merchant)
    path = f"/invoices/{one['id']}"
    for asked in (path, f"{path}/pdf", f"{path}/credit"):
        assert (await stranger.get(asked)).status_code == 404
    for action in ACTIONS:
        fields = {"key": "k" * 32, "reason": "mine", "amount": "1", "settled_by": "reduction"}
        assert (await stranger.post(f"{path}/{action}", "/invoices", **fields)).status_code == 404, action
    assert one["id"] not in await page_of(stranger, "/invoices")


async def test_invoices_in_a_browser(tabs: Tabs, served: Served) -> None:
    _, invoice = await failing(served.shop, served.gateway, served.merchant.caller.scope)
    await subscribed(served.shop)
    for name, options in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open("finance", **options)  # type: ignore[arg-type]
        await page.goto(f"{served.url}/admin/invoices")
        await picture(page, f"invoices-{name}")
        await page.goto(f"{served.url}/admin/invoices/{invoice['id']}")
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        await picture(page, f"invoice-{name}")
    await page.goto(f"{served.url}/admin/invoices/{invoice['id']}/credit")
    await picture(page, "credit-phone")
