"""Finding payments: every kind of search, every filter, columns, saved filters, the export, and who may not."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture
from tests.conftest import NewClient
from tests.shop import Json, Shop

from clearspan.payments.search import STATUSES
from clearspan_admin import typed

if TYPE_CHECKING:
    import httpx

    from clearspan.app import Gateway

LINK = re.compile(r'href="/admin/payments/(pay_[0-9a-z]{26})"')


async def found(person: Person, **filters: str) -> list[str]:
    """The ids of the payments that the list shows."""
    answer = await person.http.get("/admin/payments", params=filters)
    assert answer.status_code == 200, answer.text
    return LINK.findall(answer.text)


async def opened(person: Person, text: str) -> str:
    """Where a search for one id leads."""
    answer = await person.http.get("/admin/payments", params={"q": text})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].rpartition("/")[2]


async def test_the_newest_stand_first_and_pages_neither_skip_nor_repeat(
    people: NewPerson, shop: Shop, monkeypatch: Any
) -> None:
    monkeypatch.setattr("clearspan_admin.pages.payments.PAGE", 3)
    person = await people("support")
    made = [(await shop.create(100 + number)).json()["id"] for number in range(7)]
    seen, where = [], "/admin/payments"
    while where:
        page = (await person.http.get(where)).text
        seen.append(LINK.findall(page))
        following = re.search(r'<a class="button" rel="next" href="([^"]+)"', page)
        where = following[1].replace("&amp;", "&") if following else ""
    assert [len(page) for page in seen] == [3, 3, 1]
    assert [one for page in seen for one in page] == made[::-1]


async def test_a_payment_is_found_by_whatever_somebody_knows_of_it(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    customer = await shop.customer(name="Ada", email="Ada.Search@example.com")
    card = await shop.card("tok_mastercard", customer=customer)
    payment = await shop.get(
        (
            await shop.create(734_21, payment_method=card, customer=customer, confirm=True, reference="ORD-2026-0815")
        ).json()
    )
    refund = (await shop.act(payment, "refunds", {"amount_minor": 100})).json()
    await shop.paid(999)
    last4 = (await shop.http.get(f"/v1/payment-methods/{card}")).json()["card"]["last4"]
    mine = [payment["id"]]
    for text in (
        customer, "ada.search@EXAMPLE.com", "ORD-2026-0815", "ORD-2026", last4, "734.21", "73421",
        payment["psp"]["reference"], card,
    ):  # fmt: skip
        assert await found(person, q=text) == mine, text
    for text in (payment["id"], payment["id"].upper(), payment["operations"][0]["id"], refund["id"]):
        assert await opened(person, text) == payment["id"], text
    event = payment["audit"][0]["id"]
    assert await opened(person, event) == payment["id"]
    for text in (
        "nobody@example.com",
        "ORD-2027",
        "0000",
        "12.34",
        "pay_01h455vb4pex5vsknk084sn02q",
        "%",
        "' OR 1=1 --",
        "\u202e",
    ):
        assert await found(person, q=text) == [], text


async def test_an_invoice_leads_to_its_payment_and_the_page_says_what_was_searched(
    people: NewPerson, shop: Shop
) -> None:
    person = await people("support")
    await shop.paid(500)
    page = (await person.http.get("/admin/payments", params={"q": "4242"})).text
    assert "the last digits of a card" in page
    assert "an amount" in page
    page = (await person.http.get("/admin/payments", params={"q": "someone@example.com"})).text
    assert "e-mail address" in page


async def test_each_filter_alone_and_all_together(people: NewPerson, shop: Shop) -> None:
    person = await people("auditor")
    customer = await shop.customer()
    paid = await shop.paid(30_000, metadata={"order": "1", "shop": "a"}, reference="r-1")
    dollars = await shop.paid(200_00, currency="USD", psp_account="beta")
    yen = await shop.paid(5000, currency="JPY")
    declined = (await shop.pay(9001)).json()
    authorized = await shop.paid(500, capture_method="manual")
    bare = (await shop.create(700, customer=customer)).json()
    refunded = await shop.paid(1100)
    await shop.act(refunded, "refunds", {"amount_minor": 1})

    async def ids(**filters: str) -> set[str]:
        return set(await found(person, **filters))

    def those(*payments: Json) -> set[str]:
        return {one["id"] for one in payments}

    assert await ids(status="failed") == those(declined)
    assert await ids(status="authorized") == await ids(status="requires_capture") == those(authorized)
    assert await ids(status="succeeded") == those(paid, dollars, yen, refunded)
    assert await ids(status="captured") == those(paid, dollars, yen, refunded)
    assert await ids(status="refunded") == those(refunded)
    assert await ids(status="requires_payment_method") == those(declined, bare)
    for status in ("unknown", "disputed", "canceled", "expired", "processing"):
        assert await ids(status=status) == set(), status
    assert await ids(psp="beta") == those(dollars)
    assert await ids(currency="usd") == those(dollars)
    assert await ids(customer=customer) == those(bare)
    assert await ids(metadata="order=1") == those(paid)
    assert await ids(metadata="order=2") == set()
    # Major units, whatever the currency's decimals are: 5,000 yen, 300.00 euros, 200.00 dollars.
    assert await ids(amount_from="200", amount_to="5,000") == those(paid, dollars, yen)
    assert await ids(amount_from="200.01") == those(paid, yen)
    assert await ids(amount_to="5.00") == those(authorized)
    assert paid["id"] in await ids(**{"from": paid["created_at"][:10], "to": paid["created_at"][:10]})
    assert await ids(to="2020-01-01") == set()
    assert await ids(status="succeeded", currency="EUR", amount_from="300", metadata="shop=a", q="r-1") == those(paid)
    assert await ids(status="failed", q="r-1") == set()


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"status": "gone"}, "There is no such status"),
        ({"amount_from": "ten"}, "Give an amount such as 1234.50"),
        ({"amount_from": "10", "amount_to": "5"}, "The largest amount is below"),
        ({"from": "2026-02-30"}, "Give a day as"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "The last day is before"),
        ({"currency": "EURO"}, "three letters"),
        ({"psp": "nowhere"}, "no such PSP account"),
        ({"customer": "ada"}, "begins with cus_"),
        ({"metadata": "order"}, "key=value"),
        ({"q": "x" * 10_000}, "500 characters at most"),
        ({"cursor": "what"}, "start again"),
        ({"status": "<script>alert(1)</script>"}, "There is no such status"),
    ],
)
async def test_filters_that_make_no_sense_are_told_and_kept(
    people: NewPerson, shop: Shop, filters: dict[str, str], said: str
) -> None:
    person = await people("support")
    answer = await person.http.get("/admin/payments", params=filters | {"metadata": filters.get("metadata", "kept=1")})
    assert answer.status_code == 422
    assert said in answer.text
    assert filters.get("metadata", "kept=1") in answer.text
    assert "<script>alert" not in answer.text
    part = await person.get("/payments?" + str(answer.request.url).partition("?")[2], **{"HX-Request": "true"})
    assert (part.status_code, said in part.text, "<html" in part.text) == (200, True, False)


async def test_filters_change_the_list_and_the_address_without_a_new_page(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    await shop.paid(500)
    part = await person.get("/payments?status=succeeded&q=&from=", **{"HX-Request": "true"})
    assert part.headers["hx-push-url"] == "/admin/payments?status=succeeded"
    assert len(LINK.findall(part.text)) == 1
    assert "<html" not in part.text
    assert 'href="/admin/payments/export.csv?status=succeeded" id="export" hx-swap-oob="true"' in part.text


async def test_columns_are_chosen_and_kept(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    await shop.paid(500, description="Two coffees")
    assert "Two coffees" not in (await person.get("/payments")).text
    answer = await person.post(
        "/payments/columns", "/payments", column=["description", "id", "bogus"], query="status=succeeded"
    )
    assert answer.headers["location"] == "/admin/payments?status=succeeded"
    page = (await person.get("/payments")).text
    assert "Two coffees" in page
    assert re.findall(r'<td data-label="([^"]+)"', page) == ["Amount", "Description", "Id"]
    await person.post("/payments/columns", "/payments", default="yes")
    assert "Two coffees" not in (await person.get("/payments")).text


async def test_filters_are_saved_renamed_and_deleted_for_one_tenant_and_person(people: NewPerson, shop: Shop) -> None:
    person, other = await people("support"), await people("support")
    await person.post(
        "/payments/saved", "/payments", name="Big <b>ones</b>", query="amount_from=1000&evil=1&status=failed"
    )
    page = (await person.get("/payments")).text
    assert 'href="/admin/payments?amount_from=1000&amp;status=failed"' in page
    assert "Big &lt;b&gt;ones" in page
    assert "Big" not in (await other.get("/payments")).text
    taken = await person.post("/payments/saved", "/payments", name="Big <b>ones</b>", query="status=failed")
    assert taken.status_code == 303
    assert "of this name already" in (await person.get("/payments")).text
    await person.post("/payments/saved", "/payments", name="Large", old="Big <b>ones</b>", rename="yes")
    assert "Large" in (await person.get("/payments")).text
    await person.post("/payments/saved", "/payments", old="Large", delete="yes")
    await person.get("/payments")
    assert "Large" not in (await person.get("/payments")).text


async def test_there_is_a_bound_on_saved_filters(people: NewPerson, shop: Shop, monkeypatch: Any) -> None:
    monkeypatch.setattr("clearspan_admin.pages.payments.SAVED_MAX", 1)
    person = await people("support")
    await person.post("/payments/saved", "/payments", name="one", query="status=failed")
    answer = await person.post("/payments/saved", "/payments", name="two", query="status=failed")
    assert answer.status_code == 303
    assert "delete one first" in (await person.get("/payments")).text


async def test_the_export_holds_what_the_filters_find_and_no_formula(people: NewPerson, shop: Shop) -> None:
    person = await people("auditor")
    await shop.paid(1234, reference='=HYPERLINK("http://evil.example")', description='+1 @home, "quoted"')
    await shop.paid(500, currency="JPY")
    await shop.paid(1001, currency="KWD")
    answer = await person.get("/payments/export.csv?status=succeeded")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith('attachment; filename="payments-')
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["amount"], row["currency"]) for row in rows] == [("1.001", "KWD"), ("500", "JPY"), ("12.34", "EUR")]
    assert rows[2]["reference"] == '\'=HYPERLINK("http://evil.example")'
    assert rows[2]["description"] == '\'+1 @home, "quoted"'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", rows[0]["created_at"])
    assert (rows[0]["status"], rows[0]["last4"]) == ("succeeded", "4242")
    only = await person.get("/payments/export.csv?currency=JPY")
    assert len(list(csv.DictReader(io.StringIO(only.text)))) == 1
    wrong = await person.get("/payments/export.csv?currency=NOPE")
    assert wrong.headers["location"] == "/admin/payments?currency=NOPE"


async def test_another_tenants_payments_are_not_found_by_anything(
    people: NewPerson, shop: Shop, other_client: httpx.AsyncClient, psp_url: str
) -> None:
    person = await people("owner")
    theirs = await Shop.open(other_client, psp_url)
    payment = await theirs.paid(4711, reference="theirs-1")
    operation = (await theirs.get(payment))["operations"][0]["id"]
    for text in (payment["id"], operation, "theirs-1", "47.11", "4242", payment["psp"]["reference"]):
        assert await found(person, q=text) == [], text
    assert await found(person) == []
    assert payment["id"] not in (await person.get("/payments/export.csv")).text


async def test_nobody_looks_without_signing_in(new_client: NewClient) -> None:
    http = await new_client()
    for path in ("/admin/payments?q=1", "/admin/payments/export.csv"):
        answer = await http.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/admin/sign-in"), path


def test_every_status_has_a_word() -> None:
    from clearspan_admin import web

    template = web._environment("en").loader.get_source(web._environment("en"), "payments/words.html")[0]  # type: ignore[union-attr]
    assert all(f'"{status}": _(' in template for status in STATUSES)


@pytest.mark.parametrize(
    ("text", "locale", "amount"),
    [
        ("1234.50", "en", "1234.50"), ("1,234.50", "en", "1234.50"), ("1,234", "en", "1234"), ("1.5", "en", "1.5"),
        ("1.234,50", "de", "1234.50"), ("1234,5", "de", "1234.5"), ("1.234", "de", "1234"), ("12.34", "de", "12.34"),
        ("1 234,50", "fr", "1234.50"), ("1\u202f234,50", "fr", "1234.50"), ("1\u00a0234,5", "fr_FR", "1234.5"),
        ("1'234.50", "de_CH", "1234.50"), ("1’234.50", "de_CH", "1234.50"), ("1.234.567,89", "es", "1234567.89"),
        ("0", "en", "0"),
    ],
)  # fmt: skip
def test_amounts_are_read_as_the_locale_writes_them(text: str, locale: str, amount: str) -> None:
    assert str(typed.amount(text, locale)) == amount


@pytest.mark.parametrize(
    ("text", "locale"),
    [("", "en"), ("-5", "en"), ("1e3", "en"), ("ten", "en"), ("1,23,4", "en"), ("1.234,50", "en"), ("1,234.50", "de"),
     ("٣", "en"), ("1..2", "en"), ("€5", "en")],
)  # fmt: skip
def test_what_cannot_be_read_as_an_amount_is_refused(text: str, locale: str) -> None:
    with pytest.raises(typed.NotRead):
        typed.amount(text, locale)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("12.34", "EUR", 1234), ("500", "JPY", 500), ("1.234", "KWD", 1234), ("1.2", "KWD", 1200)],
)
def test_minor_units_follow_the_currency(text: str, currency: str, minor: int) -> None:
    assert typed.minor(text, currency, "en") == minor


@pytest.mark.parametrize(("text", "currency"), [("12.345", "EUR"), ("5.5", "JPY"), ("1.2345", "KWD")])
def test_more_decimals_than_the_currency_has_are_refused(text: str, currency: str) -> None:
    with pytest.raises(typed.NotRead):
        typed.minor(text, currency, "en")


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 390)])
async def test_the_list_in_a_browser(tabs: Tabs, dark: bool, width: int) -> None:
    shop = tabs._served.shop
    await shop.paid(12_300, reference="order-1042", customer=await shop.customer(name="Ada Lovelace"))
    (await shop.pay(9001)).raise_for_status()
    page = await tabs.open("support", dark=dark, width=width)
    await page.goto(f"{tabs._served.url}/admin/payments")
    await page.locator("#q").fill("order-10")
    await page.locator("#looked-for").wait_for()
    assert page.url.endswith("/admin/payments?q=order-10")
    assert await page.locator("tbody tr").count() == 1
    # What stands beside the list goes along with its filters.
    assert str(await page.locator("#export").get_attribute("href")).endswith("export.csv?q=order-10")
    assert await page.locator("#query-to-save").get_attribute("value") == "q=order-10"
    await page.goto(f"{tabs._served.url}/admin/payments")
    await picture(page, f"payments-{width}{'-dark' if dark else ''}")


@pytest.mark.parametrize(("locale", "words"), [("de", "Zahlungen"), ("fr", "Paiements"), ("es", "Pagos")])
async def test_the_pages_speak_the_operators_language(
    people: NewPerson, gateway: Gateway, shop: Shop, locale: str, words: str
) -> None:
    person = await people("support")
    await gateway.operators.change(person.operator, locale=locale)
    payment = await shop.paid(1234)
    assert f"<h1>{words}</h1>" in (await person.get("/payments")).text
    page = (await person.get(f"/payments/{payment['id']}")).text
    for english in (
        "Where the money is",
        "What happened",
        "At the PSP",
        "Details",
        "Left to refund",
        "Payment created",
    ):
        assert english not in page, english
