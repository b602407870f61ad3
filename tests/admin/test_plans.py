"""The pages of plans and coupons: made with amounts as people write them, archived, and not by everybody."""

from __future__ import annotations

import pytest
from tests.admin.billing import ESCAPED, HOSTILE, followed, get, page_of, plan, said
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan_admin.billing import major_of, minor_of

PLAN = {"name": "Basic", "currency": "eur", "amount": "12,50", "unit": "month", "count": "1", "trial_days": "14"}
COUPON = {
    "code": "SPRING",
    "name": "Spring",
    "kind": "percent",
    "percent": "12.5",
    "duration": "once",
    "currency": "EUR",
}


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("12.50", "EUR", 1250), ("12,5", "EUR", 1250), ("12", "EUR", 1200), ("1200", "JPY", 1200), ("1.234", "KWD", 1234),
     ("0", "EUR", 0), ("1,234.50", "EUR", None), ("1.234", "EUR", None), ("12.5", "JPY", None), ("-1", "EUR", None),
     ("1e3", "EUR", None), ("", "EUR", None), ("٣", "EUR", None), ("12", "XXQ", None)],
)  # fmt: skip
def test_amounts_are_read_as_written_or_not_at_all(text: str, currency: str, minor: int | None) -> None:
    assert minor_of(text, currency) == minor
    if minor is not None:
        assert minor_of(major_of(minor, currency), currency) == minor


async def test_a_plan_is_made_and_archived(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    tax = {"tax_name": "VAT", "tax_rate": "19", "tax_inclusive": "yes", "setup_fee": "5"}
    text = said(await followed(person, await person.post("/plans/new", **PLAN | tax)))
    assert "€12.50 per month" in text
    assert "VAT 19.00% (contained)" in text
    made = (await get(shop, "plans"))["data"][0]
    assert (made["amounts"], made["setup_fees"], made["trial_days"]) == ({"EUR": 1250}, {"EUR": 500}, 14)
    assert made["tax"] == {"name": "VAT", "rate_bp": 1900, "inclusive": True}
    path = f"/plans/{made['id']}"
    assert "Archived" in await followed(person, await person.post(f"{path}/status", path, status="archived"))
    assert made["id"] not in await page_of(person, "/plans")
    assert made["id"] in await page_of(person, "/plans?status=archived")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"amount": "1.234,50"}, "Write an amount such as 12.50"), ({"currency": "EURO"}, "no currency of ISO 4217"),
     ({"name": ""}, "A name has 1 to 200 characters."), ({"trial_days": "-1"}, "From 0 to 1095 days."),
     ({"count": "0"}, "From 1 to 366."), ({"tax_rate": "119", "tax_name": "VAT"}, "Write a rate such as 19")],
)  # fmt: skip
async def test_mistakes_are_said_at_their_field(people: NewPerson, changed: dict[str, str], message: str) -> None:
    answer = await (await people("finance")).post("/plans/new", **PLAN | changed)
    assert answer.status_code == 422
    assert message in answer.text
    assert f'value="{(PLAN | changed)["amount"]}"' in answer.text


async def test_a_reference_that_is_taken_is_refused_as_the_core_says_it(people: NewPerson, shop: Shop) -> None:
    await plan(shop, reference="basic")
    answer = await (await people("finance")).post("/plans/new", **PLAN | {"reference": "basic"})
    assert answer.status_code == 409
    assert "plan_reference_taken" in answer.text


async def test_pressing_twice_makes_one_plan(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    answers = [await person.post("/plans/new", **PLAN | {"key": "same-key-of-one-page-0001"}) for _ in range(2)]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    assert len((await get(shop, "plans"))["data"]) == 1


async def test_coupons_are_made_and_archived(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    text = said(await followed(person, await person.post("/plans/coupons/new", **COUPON)))
    assert "SPRING Spring 12.50% one period 0" in text
    off = {
        "code": "FIVE",
        "kind": "amount",
        "amount": "5",
        "duration": "repeating",
        "periods": "3",
        "redemptions_max": "10",
    }
    await followed(person, await person.post("/plans/coupons/new", **COUPON | off))
    made = (await get(shop, "coupons?code=FIVE"))["data"][0]
    assert (made["amounts"], made["periods"], made["redemptions_max"]) == ({"EUR": 500}, 3, 10)
    path = f"/plans/coupons/{made['id']}/status"
    await followed(person, await person.post(path, "/plans/coupons", status="archived"))
    assert "FIVE" not in await page_of(person, "/plans/coupons")
    again = await person.post("/plans/coupons/new", **COUPON)
    assert (again.status_code, "coupon_code_taken" in again.text) == (409, True)
    wrong = await person.post("/plans/coupons/new", **COUPON | {"code": "a b"})
    assert (wrong.status_code, "letters, digits" in wrong.text) == (422, True)
    wrong = await person.post("/plans/coupons/new", **COUPON | {"percent": "120"})
    assert (wrong.status_code, "up to 100" in wrong.text) == (422, True)


async def test_hostile_names_are_text(people: NewPerson, shop: Shop) -> None:
    made = await plan(shop, name=HOSTILE)
    coupon = {"code": "X", "name": HOSTILE, "percent_bp": 100, "duration": "once"}
    assert (await shop.post("/v1/coupons", coupon)).status_code == 201
    person = await people("auditor")
    for path in ("/plans", f"/plans/{made}", "/plans/coupons", "/dunning"):
        assert ESCAPED in await page_of(person, path)


@pytest.mark.parametrize("role", ["support", "auditor"])
async def test_who_only_reads_makes_and_archives_nothing(people: NewPerson, shop: Shop, role: str) -> None:
    person, made = await people(role), await plan(shop)
    for path in ("/plans", f"/plans/{made}", "/plans/coupons"):
        text = await page_of(person, path)
        assert "/plans/new" not in text
        assert "/plans/coupons/new" not in text
        assert "/status" not in text
    for path in ("/plans/new", "/plans/coupons/new", f"/plans/{made}/status"):
        assert (await person.post(path, "/plans", status="archived")).status_code == 403


async def test_another_tenants_plan_is_not_there(people: NewPerson, shop: Shop, other_merchant: Merchant) -> None:
    made = await plan(shop)
    stranger = await people("owner", of=other_merchant)
    assert (await stranger.get(f"/plans/{made}")).status_code == 404
    assert (await stranger.post(f"/plans/{made}/status", "/plans", status="archived")).status_code == 404
    assert (await get(shop, f"plans/{made}"))["status"] == "active"


async def test_plans_in_a_browser(tabs: Tabs, served: Served) -> None:
    made = await plan(served.shop, name="Basic", trial_days=14, tax={"name": "VAT", "rate_bp": 1900, "inclusive": True})
    coupon = {"code": "SPRING", "name": "Spring sale", "percent_bp": 2500, "duration": "once"}
    assert (await served.shop.post("/v1/coupons", coupon)).status_code == 201
    for name, options in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open("finance", **options)  # type: ignore[arg-type]
        for path, picked in {
            "/plans": "plans",
            f"/plans/{made}": "plan",
            "/plans/coupons": "coupons",
            "/plans/new": "plan-new",
        }.items():
            await page.goto(f"{served.url}/admin{path}")
            assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            await picture(page, f"{picked}-{name}")
