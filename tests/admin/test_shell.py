"""The shell around every page: who may see it, what its policy is, and which forms it takes."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Tabs, picture
from tests.conftest import NewClient

from clearspan.platform import clock, ids
from clearspan.platform.pan import find_pan_in_text
from clearspan_admin import web


async def test_somebody_who_is_not_signed_in_is_sent_to_sign_in_and_back(new_client: NewClient) -> None:
    answer = await (await new_client()).get("/admin/?status=failed")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/admin/sign-in?next=%2F%3Fstatus%3Dfailed"


async def test_a_page_allows_nothing_but_what_carries_its_nonce(people: NewPerson) -> None:
    person = await people()
    first, second = await person.get("/"), await person.get("/")
    assert first.status_code == 200, first.text
    policies = [answer.headers["content-security-policy"] for answer in (first, second)]
    nonces = [re.findall(r"'nonce-([0-9a-f]{32})'", policy) for policy in policies]
    assert "default-src 'none'" in policies[0]
    assert "unsafe" not in policies[0]
    assert nonces[0][0] == nonces[0][1] != nonces[1][0]
    assert set(re.findall(r'nonce="([^"]+)"', first.text)) == {nonces[0][0]}
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", first.text)
    assert first.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
    ids=["origin", "cross-site", "same-site"],
)
async def test_a_form_from_elsewhere_is_refused_even_with_a_right_token(
    people: NewPerson, headers: dict[str, str]
) -> None:
    person = await people()
    person.http.headers.update(headers)
    answer = await person.post("/look-at", "/", mode="live")
    assert answer.status_code == 403
    assert "form_refused" in answer.text


async def test_a_form_without_a_token_or_with_anothers_is_refused(people: NewPerson) -> None:
    person, other = await people(), await people()
    theirs = re.search(r'name="csrf" value="([^"]+)"', (await other.get("/")).text)
    assert theirs is not None
    for fields in ({"mode": "live"}, {"mode": "live", "csrf": theirs[1]}, {"mode": "live", "csrf": "."}):
        assert (await person.http.post("/admin/look-at", data=fields)).status_code == 403
    assert (await person.post("/look-at", "/", mode="live")).status_code == 303


async def test_the_mode_is_switched_for_the_session(people: NewPerson) -> None:
    person = await people()
    assert 'class="test"' in (await person.get("/")).text
    await person.post("/look-at", "/", mode="live")
    assert 'class="live"' in (await person.get("/")).text


async def test_an_owner_without_a_second_factor_sees_nothing_before_there_is_one(people: NewPerson) -> None:
    person = await people("owner", strong=False)
    answer = await person.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/profile/second-factor")


async def test_home_in_a_real_browser(tabs: Tabs) -> None:
    page = await tabs.open()
    await page.goto(f"{tabs._served.url}/admin/")
    assert await page.locator("h1").inner_text() == "Home"
    await picture(page, "home")
    await page.keyboard.press("Control+k")
    await page.locator("#palette-find").fill("audit")
    assert await page.locator("#palette-list li").first.inner_text() == "Audit trail"
    await picture(page, "palette")


def test_a_foreign_text_is_no_markup_even_where_a_template_translates_it() -> None:
    shown = web._environment("de").from_string("{{ _(foreign) }} {{ _('%(who)s said', who=foreign) }}")
    evil = '<b title="x">100 %s</b>'
    told = "&lt;b title=&#34;x&#34;&gt;100 %s&lt;/b&gt;"
    assert shown.render(foreign=evil) == f"{told} {told} said"


async def test_nothing_random_that_pages_carry_can_be_taken_for_a_card_number(people: NewPerson) -> None:
    """One hexadecimal token in a few hundred would be refused by the guard against card numbers, and the form with it."""
    page = (await (await people()).get("/")).text
    carried = re.findall(r'name="(?:csrf|key)" value="([^"]+)"', page) + re.findall(r'"X-CSRF-Token": "([^"]+)"', page)
    assert len(carried) >= 3
    assert not any(re.search(r"[0-9]", each) for each in carried)
    assert all(find_pan_in_text(ids.letters(clock.random_bytes(96))) is None for _ in range(2_000))
