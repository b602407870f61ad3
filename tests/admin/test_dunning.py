"""The dunning board and the dunning plans: who stands where and why, and plans that people can read and make."""

from __future__ import annotations

import re

import pytest
from tests.admin.billing import ESCAPED, HOSTILE, failing, followed, get, page_of, plan, said
from tests.admin.conftest import NewPerson, Person, Served, Tabs, picture
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan.access.roles import ROLES
from clearspan.app import Gateway
from clearspan.sdk import DECLINES, DeclineClass
from clearspan_admin import billing


async def lane(person: Person, column: str, query: str = "") -> str:
    """The words of one column."""
    text = await page_of(person, f"/dunning?{query}")
    found = re.search(rf'<section class="lane {column}".*?</section>', text, re.DOTALL)
    assert found is not None
    return said(found[0])


async def test_a_failed_invoice_goes_from_recovering_to_lost(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    person = await people("finance")
    _, invoice = await failing(shop, gateway, merchant.caller.scope, 2000)
    card = await lane(person, "recovering")
    for words in ("Ada Lovelace", invoice["number"], "€20.00", "invoices: 1", "The next charge is due on", "try 1 of ",
                  "Not enough money on the account."):  # fmt: skip
        assert words in card
    assert "whose first charge failed in the last 30 days: 1. Paid by now: 0 (0.0%)" in said(
        await page_of(person, "/dunning")
    )
    path = f"/invoices/{invoice['id']}"
    await followed(person, await person.post(f"{path}/stop", path, reason="Paid in cash"))
    assert "Nothing here." in await lane(person, "recovering")
    lost = await lane(person, "lost")
    assert "Paid in cash" in lost
    assert "€20.00" in lost


async def test_the_board_is_filtered_by_decline_and_plan(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    person = await people("support")
    one, invoice = await failing(shop, gateway, merchant.caller.scope)
    unused = await plan(shop, name="Unused")
    for query, shown in {
        "kind=soft": True, "kind=fraud": False, f"plan={one['items'][0]['plan']}": True, f"plan={unused}": False,
        "dunning_plan=clearspan": True, "days=7": True, "kind=nonsense": True,
    }.items():  # fmt: skip
        assert (invoice["number"] in await lane(person, "recovering", query)) == shown, query
    assert (await person.get("/dunning?plan=plan_nothing")).status_code == 404


async def test_more_of_a_column_comes_page_by_page(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearspan_admin.pages.dunning._CARDS", 1)
    person = await people("support")
    numbers = {(await failing(shop, gateway, merchant.caller.scope))[1]["number"] for _ in range(2)}
    text = await page_of(person, "/dunning")
    more = re.search(r'hx-get="/admin(/dunning\?[^"]+)"', text)
    assert more is not None
    part = await person.get(more[1].replace("&amp;", "&"), **{"HX-Request": "true"})
    assert "<html" not in part.text
    seen = set(re.findall(r"INV-\d+", text)) | set(re.findall(r"INV-\d+", part.text))
    assert seen == numbers
    whole = await page_of(person, more[1].replace("&amp;", "&"))
    assert "<h1>Recovering</h1>" in whole


async def test_another_tenants_board_is_empty(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant, other_merchant: Merchant
) -> None:
    _, invoice = await failing(shop, gateway, merchant.caller.scope)
    stranger = await people("owner", of=other_merchant)
    assert invoice["id"] not in await page_of(stranger, "/dunning")


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_who_may_see_the_board(people: NewPerson, role: str) -> None:
    status = 200 if "dunning:read" in ROLES[role] else 403
    assert (await (await people(role)).get("/dunning")).status_code == status


# -- Plans ----------------------------------------------------------------------------------------------------------------------


async def test_the_plan_that_comes_with_clearspan_is_a_readable_schedule(people: NewPerson) -> None:
    text = said(await page_of(await people("auditor"), "/dunning/plans/clearspan"))
    for words in ("Again on days 1, 3, 5, 8, 11, 14 after the first failure", "at the hour of the last paid charge",
                  "Tries in all: 3, each at another time of day", "Day 21 : the subscription is canceled",
                  "Day 0 : the first charge fails; mail with a link to pay", "Friday"):  # fmt: skip
        assert words in text
    assert "New version" not in text


def fields(**changed: str) -> dict[str, str]:
    """A whole form."""
    return {
        "name": "Patient", "soft_days": "2, 5, 9", "technical_h": "1, 6", "generic_tries": "2", "restricted_tries": "1",
        "payday": "", "weekday": "", "hour": "7", "jitter_h": "0", "reminder_days": "0, 5", "card_expiring_days": "7",
        "other_method": "yes", "grace_days": "10", "final_day": "20", "final_action": "pause", "holdout": "0",
        "control_days": "",
    } | changed  # fmt: skip


async def test_a_plan_and_its_next_version_are_made_by_form(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    text = said(await followed(person, await person.post("/dunning/plans/new", **fields())))
    assert "Again on days 2, 5, 9 after the first failure" in text
    assert "the subscription is paused" in text
    made = (await get(shop, "dunning-plans"))["data"][0]
    assert made["plan"]["payday"] is None
    assert (made["plan"]["hour"], made["plan"]["pay_link"], made["plan"]["other_method"]) == (7, False, True)
    path = f"/dunning/plans/{made['id']}"
    text = await followed(person, await person.post(f"{path}/version", **fields(soft_days="4", name="Very patient")))
    assert "Very patient" in text
    assert "Version 2" in text
    assert "Again on days 2, 5, 9" in said(await page_of(person, f"{path}?version=1"))
    assert "Very patient" in await page_of(person, "/dunning/plans")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"soft_days": "5, 3"}, "soft_days must grow"),
        ({"soft_days": "soon"}, "Write days such as 1, 3, 5"),
        ({"final_day": "5"}, "must lie before final_day"),
        ({"generic_tries": "9"}, "From 1 to 3."),
        ({"holdout": "80"}, "From 0 to 50 percent."),
        ({"name": ""}, "A plan needs a name"),
        ({"grace_days": "30"}, "cannot outlast final_day"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused_at_its_field(
    people: NewPerson, changed: dict[str, str], message: str
) -> None:
    person = await people("finance")
    answer = await person.post("/dunning/plans/new", **fields(**changed))
    assert answer.status_code == 422
    assert message in said(answer.text)
    assert 'value="Patient"' in answer.text or changed.get("name") == ""


async def test_hostile_names_of_plans_are_text(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    await followed(person, await person.post("/dunning/plans/new", **fields(name=HOSTILE)))
    for path in ("/dunning/plans", "/dunning"):
        assert ESCAPED in await page_of(person, path)


@pytest.mark.parametrize("role", ["support", "auditor"])
async def test_who_only_reads_makes_no_plans(people: NewPerson, role: str) -> None:
    person = await people(role)
    assert "/dunning/plans/new" not in await page_of(person, "/dunning/plans")
    assert (await person.get("/dunning/plans/new")).status_code == 403
    assert (await person.post("/dunning/plans/new", "/dunning/plans", **fields())).status_code == 403


async def test_another_tenants_plan_is_not_there(people: NewPerson, shop: Shop, other_merchant: Merchant) -> None:
    made = await shop.post("/v1/dunning-plans", {"name": "Mine"})
    stranger = await people("owner", of=other_merchant)
    path = f"/dunning/plans/{made.json()['id']}"
    for asked in (path, f"{path}/version"):
        assert (await stranger.get(asked)).status_code in (404, 422)
    answer = await stranger.post(f"{path}/version", "/dunning/plans", **fields(), key="k" * 32)
    assert answer.status_code in (404, 422)
    assert (await get(shop, f"dunning-plans/{made.json()['id']}"))["version"] == 1


def test_every_code_and_reason_has_words() -> None:
    assert billing.DECLINED.keys() >= DECLINES.keys()
    assert billing.KINDS.keys() == {kind.value for kind in DeclineClass}
    assert all(billing.DECLINED[code] == DECLINES[code].meaning for code in DECLINES)


def test_every_reason_of_a_decision_has_words() -> None:
    from clearspan.rebills.models import REASONS

    assert billing.REASONS.keys() == REASONS.keys()


async def test_the_board_in_a_browser(tabs: Tabs, served: Served) -> None:
    scope = served.merchant.caller.scope
    for amount in (2000, 4900):
        await failing(served.shop, served.gateway, scope, amount)
    _, invoice = await failing(served.shop, served.gateway, scope, 1200)
    stopped = await served.shop.post(f"/v1/rebills/{invoice['id']}/stop", {"reason": "Paid by bank transfer."})
    assert stopped.status_code == 200, stopped.text
    for name, options in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open("finance", **options)  # type: ignore[arg-type]
        await page.goto(f"{served.url}/admin/dunning")
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        await picture(page, f"dunning-{name}")
        await page.goto(f"{served.url}/admin/dunning/plans/clearspan")
        await picture(page, f"dunning-plan-{name}")
    await page.goto(f"{served.url}/admin/dunning/plans")
    await picture(page, "dunning-plans-phone")
    await page.goto(f"{served.url}/admin/dunning/plans/new")
    await picture(page, "dunning-plan-new-phone")
