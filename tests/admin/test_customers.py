"""The pages of customers: who is found, what stands there, and what may be changed by whom."""

from __future__ import annotations

import pytest
from tests.admin.billing import ESCAPED, HOSTILE, followed, get, page_of, said, subscribed
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import Merchant
from tests.shop import Shop


async def test_a_customer_is_found_by_id_by_whole_address_and_by_reference(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await shop.customer(name="Ada Lovelace", email="Ada@example.com", reference="c-1042")
    await shop.customer(name="Somebody Else")
    assert "Somebody Else" in await page_of(person, "/customers")
    for query in ("ada@example.com", "c-1042"):
        text = await page_of(person, f"/customers?q={query}")
        assert one in text
        assert "Somebody Else" not in text
    assert (await person.get(f"/customers?q={one}")).headers["location"] == f"/admin/customers/{one}"
    assert "Nobody found" in await page_of(person, "/customers?q=ada%40exam.ple")


async def test_a_customers_page_shows_what_belongs_to_them(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    one = await subscribed(shop)
    text = said(await page_of(person, f"/customers/{one['customer']}"))
    for expected in ("Ada Lovelace", "Visa •••• 0000", "Basic", "€9.00", "INV-", "Paid", "Mandates", "Subscribed"):
        assert expected in text


async def test_hostile_names_are_text_everywhere(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    customer = await shop.customer(name=HOSTILE, metadata={"note": HOSTILE[:40]})
    one = await subscribed(shop, customer=customer, description=HOSTILE)
    own, sub = f"/customers/{customer}", f"/subscriptions/{one['id']}"
    invoice = f"/invoices/{one['latest_invoice']['id']}"
    for path in ("/customers", own, f"{own}/edit", f"{own}/delete", sub, "/subscriptions", "/invoices", invoice):
        text = await page_of(person, path)
        assert ESCAPED in text, path
        assert "<script>alert" not in text
        assert "{{7*7}}" in text


async def test_a_change_is_stored_and_a_mistake_keeps_what_was_typed(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await shop.customer(name="Ada", email="ada@example.com", phone="+44 20 7946 0018")
    fields = {
        "name": "Ada King",
        "email": "ada@",
        "phone": "",
        "reference": "",
        "language": "fr",
        "metadata": "tier = gold",
    }
    refused = await person.post(f"/customers/{one}/edit", **fields)
    assert refused.status_code == 422
    for kept in ("Ada King", "ada@", "tier = gold", "This is no e-mail address."):
        assert kept in refused.text
    assert (await get(shop, f"customers/{one}"))["name"] == "Ada"
    text = await followed(person, await person.post(f"/customers/{one}/edit", **fields | {"email": "ada@example.org"}))
    assert "The customer was changed." in text
    now = await get(shop, f"customers/{one}")
    assert (now["name"], now["email"], now["phone"], now["language"]) == ("Ada King", "ada@example.org", None, "fr")
    assert now["metadata"] == {"tier": "gold"}


async def test_a_reference_that_is_taken_is_refused_as_the_core_says_it(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    await shop.customer(reference="c-1")
    one = await shop.customer(name="Ada")
    refused = await person.post(f"/customers/{one}/edit", name="Typed", reference="c-1")
    assert refused.status_code == 409
    assert "There is a customer of this reference" in refused.text
    assert "Typed" in refused.text


async def test_a_method_is_detached_and_a_mandate_revoked_with_its_reason(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    one = await subscribed(shop)
    path = f"/customers/{one['customer']}"
    mandate = f"{path}/mandates/{one['mandate']}"
    assert "2026-01" in await page_of(person, mandate)
    text = said(await followed(person, await person.post(f"{mandate}/revoke", mandate, because="customer")))
    assert "by the customer" in text
    assert (await get(shop, f"subscriptions/{one['id']}"))["status"] == "paused"
    text = await followed(person, await person.post(f"{path}/methods/{one['payment_method']}/detach", path))
    assert "Detached" in text
    assert f"/methods/{one['payment_method']}/detach" not in text


async def test_the_evidence_of_a_mandate_is_shown_to_those_who_read_mandates(people: NewPerson, shop: Shop) -> None:
    mandate = await shop.mandate(accepted_ip="203.0.113.7", user_agent="Netscape <b>4</b>")
    path = f"/customers/{mandate['customer']}/mandates/{mandate['id']}"
    text = await page_of(await people("auditor"), path)
    assert "203.0.113.7" in text
    assert "Netscape &lt;b&gt;4" in text
    assert "/revoke" not in text
    assert (await (await people("developer")).get(path)).status_code == 403


async def test_deleting_says_what_ends_and_ends_it(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    one = await subscribed(shop)
    path = f"/customers/{one['customer']}"
    before = said(await page_of(person, f"{path}/delete"))
    for line in ("Subscriptions that end: 1", "Mandates that are revoked: 1", "Payment methods that are detached: 1"):
        assert line in before
    text = await followed(person, await person.post(f"{path}/delete"))
    assert "Ada Lovelace" not in text
    assert "was deleted" in text
    assert (await get(shop, f"subscriptions/{one['id']}"))["status"] == "canceled"


async def test_deleting_asks_for_a_second_factor_given_just_now(people: NewPerson, shop: Shop) -> None:
    person = await people("support", strong=False)
    one = await shop.customer(name="Ada")
    answer = await person.post(f"/customers/{one}/delete")
    assert answer.status_code == 403 or "/customers" not in answer.headers["location"].partition("?")[0]
    assert (await get(shop, f"customers/{one}"))["name"] == "Ada"


@pytest.mark.parametrize("role", ["auditor", "developer"])
async def test_who_only_reads_has_no_buttons_and_cannot_act(people: NewPerson, shop: Shop, role: str) -> None:
    person = await people(role)
    one = await subscribed(shop)
    path = f"/customers/{one['customer']}"
    text = await page_of(person, path)
    for action in ("/edit", "/delete", "/detach"):
        assert f"{path}{action}" not in text
        assert action not in text
    for attempt in (f"{path}/edit", f"{path}/delete", f"{path}/methods/{one['payment_method']}/detach"):
        assert (await person.post(attempt, path)).status_code == 403
    assert (await get(shop, f"customers/{one['customer']}"))["name"] == "Ada Lovelace"


async def test_another_tenants_customer_is_not_there(people: NewPerson, shop: Shop, other_merchant: Merchant) -> None:
    one = await subscribed(shop)
    mine = await people("owner")
    stranger = await people("owner", of=other_merchant)
    path = f"/customers/{one['customer']}"
    for asked in (path, f"{path}/edit", f"{path}/delete", f"{path}/mandates/{one['mandate']}"):
        assert (await mine.get(asked)).status_code == 200
        assert (await stranger.get(asked)).status_code == 404
    assert one["customer"] not in await page_of(stranger, "/customers")
    assert (await stranger.post(f"{path}/delete", "/customers")).status_code == 404
    detach = f"{path}/methods/{one['payment_method']}/detach"
    assert (await stranger.post(detach, "/customers")).status_code == 404


async def test_customers_in_a_browser(tabs: Tabs, served: Served) -> None:
    one = await subscribed(served.shop)
    await shop_card_that_expires(served.shop, one["customer"])
    for name, options in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open("owner", **options)  # type: ignore[arg-type]
        await page.goto(f"{served.url}/admin/customers")
        await picture(page, f"customers-{name}")
        await page.goto(f"{served.url}/admin/customers/{one['customer']}")
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        await picture(page, f"customer-{name}")
    await page.goto(f"{served.url}/admin/customers/{one['customer']}/mandates/{one['mandate']}")
    await picture(page, "mandate-phone")
    await page.get_by_role("button", name="Revoke").click()
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Revoke").click()
    await page.locator("#confirm button[value=yes]").click()
    await page.get_by_text("The mandate was revoked.").wait_for()


async def shop_card_that_expires(shop: Shop, customer: str) -> None:
    """A backup that was agreed to, on a card that ends soon."""
    await shop.mandate("tok_expires", customer=customer, backup=True)
