"""API keys in the cockpit: within one's own role, and seen once."""

from __future__ import annotations

import re

import httpx
import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture
from tests.conftest import Merchant, NewMerchant

from clearspan.access.roles import ROLES
from clearspan.app import Gateway
from clearspan.platform.context import Caller

SECRET = re.compile(r"csk_(?:test|live)_[0-9a-hjkmnp-tv-z]{47}")
HOSTILE = "<script>alert(1)</script>"


async def made(person: Person, **fields: object) -> tuple[str, str]:
    """A new key: its path and the key itself."""
    given = {"name": "shop backend", "lasts": "90", "scopes": ["payments:read"]} | fields
    answer = await person.post("/settings/api-keys/new", **given)
    assert answer.status_code == 200, answer.text
    secret, path = SECRET.search(answer.text), re.search(r"/settings/api-keys/key_\w+", answer.text)
    assert secret is not None, answer.text
    assert path is not None
    return path[0], secret[0]


async def test_a_key_is_seen_once_and_works(people: NewPerson, anonymous: httpx.AsyncClient) -> None:
    person = await people("developer")
    page = (await person.get("/settings/api-keys/new")).text
    hidden = dict(re.findall(r'name="(csrf|key)" value="([^"]+)"', page.split('class="form')[1]))
    fields = hidden | {"name": "shop backend", "lasts": "90", "scopes": ["payments:read", "events:read"]}
    first = await person.http.post("/admin/settings/api-keys/new", data=fields)
    again = await person.http.post("/admin/settings/api-keys/new", data=fields)
    secret = SECRET.search(first.text)
    assert secret is not None
    assert first.headers["cache-control"] == "no-store"
    assert "set-cookie" not in first.headers
    assert "content-encoding" not in first.headers
    assert again.status_code == 200
    assert not SECRET.search(again.text), "reloading shows it no more"
    path = re.search(r"/settings/api-keys/key_\w+", first.text)
    assert path is not None
    for each in ("/settings/api-keys", path[0]):
        assert not SECRET.search((await person.get(each)).text)
    assert (await person.get("/settings/api-keys")).text.count("shop backend") == 1
    used = await anonymous.get("/v1/payments", headers={"Authorization": f"Bearer {secret[0]}"})
    assert used.status_code == 200


async def test_a_person_gives_no_scope_that_their_role_lacks(people: NewPerson) -> None:
    person = await people("developer")
    form = (await person.get("/settings/api-keys/new?preset=shop")).text
    assert re.search(r'value="payments:write"[^>]* disabled', form)
    assert not re.search(r'value="payments:write" checked', form)
    answer = await person.post("/settings/api-keys/new", name="more", lasts="30", scopes=["payments:write"])
    assert answer.status_code == 403
    assert "api_key_scopes_exceeded" in answer.text
    assert "payments:write" in answer.text


async def test_a_person_rotates_no_key_that_may_do_more(people: NewPerson, merchant: Merchant) -> None:
    person = await people("developer")
    path = f"/settings/api-keys/{merchant.caller.actor_id}"
    answer = await person.post(f"{path}/rotate", path)
    assert (answer.status_code, "api_key_scopes_exceeded" in answer.text) == (403, True)


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_the_service_itself_asks_what_the_role_has(gateway: Gateway, merchant: Merchant, role: str) -> None:
    scopes = ROLES[role]
    caller = Caller(merchant.caller.scope, "operator", "opr_01h455vb4pex5vsknk084sn02q", "req_tests", scopes)
    made, _ = await gateway.api_keys.create(caller, "all of it", scopes)
    assert set(made.scopes) == scopes
    lacking = ROLES["owner"] - scopes
    if lacking:
        with pytest.raises(Exception, match="Your key or role lacks"):
            await gateway.api_keys.create(caller, "more", {min(lacking)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "Give it a name"),
        ({"name": "x" * 201}, "Give it a name"),
        ({"scopes": []}, "Choose at least one scope."),
        ({"scopes": ["payments:steal"]}, "Choose at least one scope."),
        ({"lasts": "-1"}, "Choose how long it lives."),
    ],
)
async def test_what_is_wrong_stands_beside_its_field(people: NewPerson, fields: dict[str, object], said: str) -> None:
    person = await people("developer")
    given = {"name": "kept", "lasts": "30", "scopes": ["events:read"]} | fields
    answer = await person.post("/settings/api-keys/new", **given)
    assert (answer.status_code, said in answer.text) == (422, True)
    if "scopes" not in fields:
        assert 'value="events:read" checked' in answer.text, "what was ticked stays"


async def test_a_key_is_rotated_and_revoked(people: NewPerson, anonymous: httpx.AsyncClient) -> None:
    person = await people("developer")
    path, first = await made(person)
    rotated = await person.post(f"{path}/rotate", path)
    second = SECRET.search(rotated.text)
    assert second is not None
    for key in (first, second[0]):
        used = await anonymous.get("/v1/tenant", headers={"Authorization": f"Bearer {key}"})
        assert used.status_code == 200, "both work for a while"
    assert (await person.post(f"{path}/rotate", path)).status_code == 409
    await person.post(f"{path}/revoke", path)
    assert "Revoked" in (await person.get(path)).text
    assert (await anonymous.get("/v1/tenant", headers={"Authorization": f"Bearer {first}"})).status_code == 401


async def test_keys_want_a_second_factor_given_just_now(people: NewPerson) -> None:
    person = await people("developer", strong=False)
    answer = await person.post("/settings/api-keys/new", "/", name="x", lasts="30", scopes=["events:read"])
    assert not SECRET.search(answer.text)
    assert answer.status_code in (303, 403)


@pytest.mark.parametrize(("role", "sees"), [("finance", 200), ("auditor", 200), ("support", 403)])
async def test_roles_see_and_make_what_they_may(people: NewPerson, role: str, sees: int) -> None:
    owner, person = await people(), await people(role)
    path, _ = await made(owner)
    for each in ("/settings/api-keys", path):
        shown = await person.get(each)
        assert (shown.status_code, "Make a key" in shown.text, "Revoke" in shown.text) == (sees, False, False)
    for each in ("/settings/api-keys/new", f"{path}/rotate", f"{path}/revoke"):
        assert (await person.post(each, "/")).status_code == 403


async def test_keys_of_others_do_not_exist(people: NewPerson, new_merchant: NewMerchant) -> None:
    owner, stranger = await people(), await people(of=await new_merchant())
    path, _ = await made(owner)
    assert (await stranger.get(path)).status_code == 404
    for verb in ("rotate", "revoke"):
        answer = await stranger.post(f"{path}/{verb}", "/", key="of-a-stranger")
        assert answer.status_code == 404, verb


async def test_a_hostile_name_is_shown_as_text(people: NewPerson) -> None:
    person = await people()
    path, _ = await made(person, name=HOSTILE)
    for each in ("/settings/api-keys", path):
        shown = (await person.get(each)).text
        assert HOSTILE not in shown
        assert "&lt;script&gt;" in shown


async def test_the_pages_in_a_browser(tabs: Tabs) -> None:
    for dark, width in ((False, 1280), (True, 1280), (False, 390)):
        page = await tabs.open(dark=dark, width=width)
        look = f"{'dark' if dark else 'light'}-{width}"
        await page.goto(f"{tabs._served.url}/admin/settings/api-keys/new?preset=read")
        await page.get_by_label("Name").fill("reports")
        await picture(page, f"api-key-form-{look}")
        await page.get_by_role("button", name="Make the key").click()
        await page.get_by_text("This is the only time").wait_for()
        assert SECRET.fullmatch(await page.get_by_label("The key").input_value())
        await picture(page, f"api-key-secret-{look}")
        await page.get_by_role("link", name="Continue to the key").click()
        await page.get_by_role("heading", name="What it may do").wait_for()
        await picture(page, f"api-key-{look}")
        await page.goto(f"{tabs._served.url}/admin/settings/api-keys")
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        await picture(page, f"api-keys-{look}")
