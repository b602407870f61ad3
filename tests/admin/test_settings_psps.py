"""PSP accounts in the cockpit: forms made of the plugin's settings, secrets that never come back, and what the PSP says."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture
from tests.conftest import NewMerchant
from tests.shop import Shop

from clearspan.app import Gateway

SECRET = "sk_sandbox_never_to_be_seen"
HOSTILE = "<script>alert(1)</script>"


async def account_of(person: Person, name: str = "alpha") -> str:
    """The id of an account, from the list."""
    listed = (await person.get("/settings/psps")).text
    found = re.search(rf'/settings/psps/(acct_\w+)">{name}</a>', listed)
    assert found is not None, listed
    return found[1]


async def weak(gateway: Gateway, person: Person) -> Person:
    """The same person in a session whose second factor lies back."""
    session = await gateway.sessions.open(
        person.operator, method="password", strong=False, ip="127.0.0.1", agent="tests"
    )
    person.http.cookies.set(gateway.sessions.cookie, session.token)
    return person


@pytest.mark.parametrize("role", ["owner", "admin"])
async def test_an_account_is_added_with_a_form_made_of_the_plugins_settings(
    people: NewPerson, psp_url: str, role: str
) -> None:
    person = await people(role)
    form = (await person.get("/settings/psps/new/sandbox")).text
    assert 'name="secret-api_key" type="password"' in form
    assert "sk_sandbox_alpha" not in re.sub(r'<p class="hint".*?</p>', "", form), "the default of a secret is one"
    answer = await person.post(
        "/settings/psps/new/sandbox",
        **{"name": "cards", "priority": "5", "config-url": psp_url, "secret-api_key": SECRET},
    )
    assert answer.status_code == 303, answer.text
    shown = await person.get(answer.headers["location"].removeprefix("/admin"))
    assert "cards" in shown.text
    for path in ("/settings/psps", answer.headers["location"].removeprefix("/admin")):
        assert SECRET not in (await person.get(path)).text
    assert SECRET not in (await person.get(answer.headers["location"].removeprefix("/admin") + "/edit")).text
    assert re.search(r"http\S+/webhooks/whk_", shown.text)


async def test_what_is_wrong_stands_beside_its_field_and_typed_values_stay_but_secrets(
    people: NewPerson, psp_url: str
) -> None:
    person = await people()
    typed = {"name": "Not A Name", "priority": "9", "config-url": psp_url, "secret-api_key": SECRET}
    answer = await person.post("/settings/psps/new/sandbox", **typed)
    assert answer.status_code == 422
    assert 'id="name-error"' in answer.text
    assert 'value="Not A Name"' in answer.text
    assert psp_url in answer.text
    assert SECRET not in answer.text
    assert "Type the secrets again" in answer.text
    answer = await person.post("/settings/psps/new/sandbox", **(typed | {"name": "good", "priority": "many"}))
    assert 'id="priority-error"' in answer.text
    adyen = await person.post("/settings/psps/new/sandbox", **(typed | {"name": "x" * 80}))
    assert adyen.status_code == 422
    assert (await person.get("/settings/psps/new/nobody")).status_code == 422


async def test_two_clicks_add_one_account(people: NewPerson, psp_url: str) -> None:
    person = await people()
    page = (await person.get("/settings/psps/new/sandbox")).text
    hidden = dict(re.findall(r'name="(csrf|key)" value="([^"]+)"', page.split('class="form"')[1]))
    fields = hidden | {"name": "once", "priority": "1", "config-url": psp_url, "secret-api_key": SECRET}
    first, second = [await person.http.post("/admin/settings/psps/new/sandbox", data=fields) for _ in range(2)]
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    again = await person.post("/settings/psps/new/sandbox", **(fields | {"key": "another-key-of-a-form"}))
    assert again.status_code == 422
    assert "There is an account of this name" in again.text


async def test_an_empty_secret_keeps_what_is_stored_and_changes_nothing_else(
    people: NewPerson, shop: Shop, gateway: Gateway
) -> None:
    person = await people()
    account = await account_of(person)
    path = f"/settings/psps/{account}"
    form = (await person.get(f"{path}/edit")).text
    assert shop.keys["alpha"] not in form
    assert "It is set. Leave this empty to keep it." in form
    same = {"priority": "7", "config-url": shop.psp_url, "secret-api_key": "", "config-public_url": ""}
    assert (await person.post(f"{path}/edit", **same)).status_code == 303
    changed = (await shop.http.get(f"/v1/psp-accounts/{account}")).json()
    assert (changed["priority"], changed["config_version"]) == (7, 1)
    assert (await shop.paid())["status"] == "succeeded"
    await person.post(f"{path}/edit", **(same | {"secret-api_key": shop.keys["beta"]}))
    assert (await shop.http.get(f"/v1/psp-accounts/{account}")).json()["config_version"] == 2


async def test_what_the_psp_refused_is_shown_until_the_settings_change(people: NewPerson, shop: Shop) -> None:
    person = await people()
    account = await account_of(person)
    page = f"/settings/psps/{account}"
    wrong = {"priority": "10", "config-url": shop.psp_url, "secret-api_key": "sk_wrong", "config-public_url": ""}
    assert (await person.post(f"{page}/edit", **wrong)).status_code == 303
    tried = await shop.pay(psp_account="alpha")
    assert tried.json()["status"] != "succeeded", tried.text
    shown = (await person.get(page)).text
    assert "The PSP refuses this account's settings:" in shown
    assert "Misconfigured" in (await person.get("/settings/psps")).text
    assert "sk_wrong" not in shown
    await person.post(f"{page}/edit", **(wrong | {"secret-api_key": shop.keys["alpha"]}))
    assert "Misconfigured" not in (await person.get("/settings/psps")).text


async def test_a_check_says_in_words_what_came_of_it(people: NewPerson, shop: Shop) -> None:
    person = await people()
    page = f"/settings/psps/{await account_of(person)}"
    assert "Test connection" not in (await person.get(page)).text, "the simulator's plugin cannot be asked"
    await person.post(f"{page}/check", page)
    assert "This plugin cannot ask its PSP; the next payment will show." in (await person.get(page)).text


async def test_an_account_is_disabled_and_enabled_again(people: NewPerson, shop: Shop) -> None:
    person = await people()
    page = f"/settings/psps/{await account_of(person, 'beta')}"
    assert "captures, refunds, lookups and messages of the PSP go on" in (await person.get(page)).text
    await person.post(f"{page}/status", page, status="disabled")
    shown = (await person.get(page)).text
    assert "What is under way is finished." in shown
    assert "Disabled" in shown
    await person.post(f"{page}/status", page, status="enabled")
    assert "New payments may go there" not in (await person.get("/settings/psps")).text
    assert (await person.post(f"{page}/status", page, status="deleted")).status_code == 422


async def test_credentials_want_a_second_factor_given_just_now(people: NewPerson, shop: Shop, gateway: Gateway) -> None:
    person = await people()
    account = await account_of(person)
    await weak(gateway, person)
    for path in ("new/sandbox", f"{account}/edit"):
        answer = await person.post(f"/settings/psps/{path}", "/settings/psps", name="later", priority="1")
        assert answer.status_code in (303, 403)
        assert answer.headers.get("location", "").find("/settings/psps/acct") == -1
    names = [one["name"] for one in (await shop.http.get("/v1/psp-accounts")).json()["data"]]
    assert "later" not in names


@pytest.mark.parametrize(
    ("role", "sees", "changes"),
    [("finance", 200, 403), ("developer", 200, 403), ("auditor", 200, 403), ("support", 403, 403)],
)
async def test_roles_see_and_change_what_they_may(
    people: NewPerson, shop: Shop, role: str, sees: int, changes: int
) -> None:
    person, owner = await people(role), await people()
    account = await account_of(owner)
    for path in ("/settings/psps", f"/settings/psps/{account}", "/settings/psps/new", "/settings/plugins"):
        assert (await person.get(path)).status_code == sees, path
    for path in ("new/sandbox", f"{account}/edit", f"{account}/check", f"{account}/status"):
        answer = await person.post(f"/settings/psps/{path}", "/", status="disabled")
        assert answer.status_code == changes, path
    if sees == 200:
        shown = (await person.get(f"/settings/psps/{account}")).text
        assert "Disable" not in shown
        assert shop.psp_url not in shown, "values are for those who may change them"


async def test_accounts_of_others_do_not_exist(people: NewPerson, shop: Shop, new_merchant: NewMerchant) -> None:
    owner, stranger = await people(), await people(of=await new_merchant())
    account = await account_of(owner)
    assert "acct_" not in (await stranger.get("/settings/psps")).text
    for path in (f"/settings/psps/{account}", f"/settings/psps/{account}/edit"):
        assert (await stranger.get(path)).status_code == 404
    for verb in ("edit", "check", "status"):
        answer = await stranger.post(f"/settings/psps/{account}/{verb}", "/", status="disabled", priority="1")
        assert answer.status_code == 404, verb
    await owner.post("/look-at", "/", mode="live")
    assert (await owner.get(f"/settings/psps/{account}")).status_code == 404, "the other mode is another world"


async def test_hostile_text_is_shown_as_text(people: NewPerson, psp_url: str) -> None:
    person = await people()
    answer = await person.post(
        "/settings/psps/new/sandbox",
        **{"name": HOSTILE, "priority": HOSTILE, "config-url": HOSTILE, "secret-api_key": HOSTILE},
    )
    assert answer.status_code == 422
    assert HOSTILE not in answer.text
    fine = {"name": "odd", "priority": "1", "config-url": psp_url, "config-public_url": HOSTILE, "secret-api_key": "k"}
    made = await person.post("/settings/psps/new/sandbox", **fine)
    shown = (await person.get(made.headers["location"].removeprefix("/admin"))).text
    assert HOSTILE not in shown
    assert "&lt;script&gt;" in shown


async def test_the_pages_in_a_browser(tabs: Tabs) -> None:
    for dark, width in ((False, 1280), (True, 1280), (False, 390)):
        page = await tabs.open(dark=dark, width=width)
        look = f"{'dark' if dark else 'light'}-{width}"
        for name in ("psps", "psps/new", "psps/new/sandbox"):
            await page.goto(f"{tabs._served.url}/admin/settings/{name}")
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
            await picture(page, f"{name.replace('/', '-')}-{look}")
        await page.goto(f"{tabs._served.url}/admin/settings/psps")
        await page.get_by_role("link", name="alpha").click()
        await picture(page, f"psp-{look}")
    await page.get_by_role("button", name="Disable").click()
    await page.locator("#confirm button[value=yes]").click()
    await page.get_by_text("no new payment goes there").first.wait_for()
