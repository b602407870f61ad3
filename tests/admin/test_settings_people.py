"""People and roles in the cockpit: what each role may do, who may change it, and that it holds at once."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture, signed_in
from tests.conftest import NewMerchant

from clearspan.access.keys import SCOPES
from clearspan.access.roles import ROLES
from clearspan.app import Gateway
from clearspan.platform import clock

HOSTILE = "<script>alert(1)</script>"


def at(person: Person, verb: str = "") -> str:
    """The page of somebody."""
    return f"/settings/people/{person.operator.public_id}{verb}"


async def role_of(gateway: Gateway, person: Person) -> str:
    """What somebody is in their only tenant; nothing when they are none."""
    found = await gateway.operators.get(person.operator.operator_id)
    return found.memberships[0].role if found.memberships else ""


async def test_members_are_listed_with_role_and_factor(people: NewPerson) -> None:
    owner, support = await people(), await people("support", strong=False)
    listed = (await owner.get("/settings/people")).text
    for one in (owner, support):
        assert one.operator.email in listed
    assert "Set up" in listed
    shown = (await owner.get(at(support))).text
    assert "127.0.0.1" in shown
    assert "tests" in shown


async def test_a_role_is_changed_and_holds_at_once(people: NewPerson, gateway: Gateway) -> None:
    owner, other = await people(), await people("support")
    assert (await other.get("/settings/api-keys")).status_code == 403
    assert (await owner.post(at(other, "/role"), at(other), role="developer")).status_code == 303
    assert "holds at once" in (await owner.get(at(other))).text
    assert (await other.get("/settings/api-keys")).status_code == 200, "in the session that was open"
    assert (await owner.post(at(other, "/role"), at(other), role="god")).status_code == 422
    assert await role_of(gateway, other) == "developer"


@pytest.mark.parametrize("verb", ["role", "remove", "end-sessions"])
async def test_an_admin_does_not_touch_owners(people: NewPerson, gateway: Gateway, verb: str) -> None:
    owner, admin = await people(), await people("admin")
    shown = (await admin.get(at(owner))).text
    assert "Only owners change, sign out or remove owners." in shown
    assert f'action="/admin{at(owner, f"/{verb}")}"' not in shown
    answer = await admin.post(at(owner, f"/{verb}"), at(owner), role="support")
    assert (answer.status_code, "role_too_high" in answer.text) == (403, True)
    assert await role_of(gateway, owner) == "owner"


async def test_an_admin_makes_no_owner(people: NewPerson, gateway: Gateway) -> None:
    admin, other = await people("admin"), await people("support")
    assert 'value="owner"' not in (await admin.get(at(other))).text
    assert (await admin.post(at(other, "/role"), at(other), role="owner")).status_code == 403
    assert await role_of(gateway, other) == "support"


async def test_the_last_owner_stays(people: NewPerson, gateway: Gateway) -> None:
    owner = await people()
    for verb in ("role", "remove"):
        answer = await owner.post(at(owner, f"/{verb}"), at(owner), role="admin")
        assert (answer.status_code, "last_owner" in answer.text) == (409, True)
    assert await role_of(gateway, owner) == "owner"


async def test_somebody_removed_sees_nothing_any_more(people: NewPerson, gateway: Gateway) -> None:
    owner, other = await people(), await people("finance")
    assert (await owner.post(at(other, "/remove"), at(other))).status_code == 303
    assert other.operator.email not in (await owner.get("/settings/people")).text
    assert (await other.get("/")).status_code == 303, "to the page for signing in"
    assert await role_of(gateway, other) == ""
    assert (await owner.post(at(other, "/remove"), "/")).status_code == 404


async def test_open_sessions_are_ended(people: NewPerson) -> None:
    owner, other = await people(), await people("support")
    await owner.post(at(other, "/end-sessions"), at(other))
    assert "1 sessions ended" in (await owner.get(at(other))).text
    assert (await other.get("/")).status_code == 303


async def test_two_clicks_remove_once_and_change_once(people: NewPerson, gateway: Gateway) -> None:
    owner, other = await people(), await people("support")
    for _ in range(2):
        assert (await owner.post(at(other, "/role"), at(other), role="auditor")).status_code == 303
    member = await gateway.operators.member(
        (await gateway.sessions.find(owner.session.token)).caller("r").scope,  # type: ignore[union-attr]
        other.operator.operator_id,
    )
    assert (member.role, member.version) == ("auditor", 2)


async def test_roles_and_people_want_a_second_factor_given_just_now(people: NewPerson, gateway: Gateway) -> None:
    owner, other = await people(), await people("support")
    session = await gateway.sessions.open(
        owner.operator, method="password", strong=False, ip="127.0.0.1", agent="tests"
    )
    owner.http.cookies.set(gateway.sessions.cookie, session.token)
    for verb in ("role", "remove", "reset"):
        answer = await owner.post(at(other, f"/{verb}"), at(other), role="admin")
        assert answer.status_code in (303, 403), verb
    assert await role_of(gateway, other) == "support"


@pytest.mark.parametrize(("role", "sees"), [("auditor", 200), ("finance", 403), ("developer", 403), ("support", 403)])
async def test_roles_see_people_as_they_may(people: NewPerson, gateway: Gateway, role: str, sees: int) -> None:
    owner, person = await people(), await people(role)
    for path in ("/settings/people", "/settings/people/roles", at(owner), "/settings/tenant"):
        assert (await person.get(path)).status_code == sees, path
    for verb in ("role", "remove", "end-sessions", "reset"):
        assert (await person.post(at(owner, f"/{verb}"), "/", role="auditor")).status_code == 403, verb
    assert (await person.get("/settings/people/invite")).status_code == 403
    assert await role_of(gateway, owner) == "owner"


async def test_people_of_others_do_not_exist(people: NewPerson, new_merchant: NewMerchant, gateway: Gateway) -> None:
    owner, stranger = await people(), await people(of=await new_merchant())
    assert owner.operator.email not in (await stranger.get("/settings/people")).text
    assert (await stranger.get(at(owner))).status_code == 404
    for verb in ("role", "remove", "end-sessions", "reset"):
        assert (await stranger.post(at(owner, f"/{verb}"), "/", role="auditor")).status_code == 404, verb
    assert await role_of(gateway, owner) == "owner"
    assert (await owner.get("/")).status_code == 200, "and the session is open"


async def test_the_table_of_roles_is_what_the_guard_asks(people: NewPerson) -> None:
    text = (await (await people()).get("/settings/people/roles")).text
    for scope in SCOPES:
        row = re.search(rf"<tr><th scope=\"row\"><code>{scope}</code>.*?</tr>", text, re.DOTALL)
        assert row is not None, scope
        assert row[0].count('aria-label="yes"') == sum(scope in scopes for scopes in ROLES.values()), scope


async def test_a_hostile_name_is_shown_as_text(people: NewPerson, gateway: Gateway) -> None:
    owner, other = await people(), await people("support")
    await gateway.operators.change(other.operator, name=HOSTILE)
    for path in ("/settings/people", at(other)):
        shown = (await owner.get(path)).text
        assert HOSTILE not in shown
        assert "&lt;script&gt;" in shown


async def test_an_invitation_is_shown_once_and_can_be_withdrawn(people: NewPerson) -> None:
    pytest.importorskip("clearspan.access.signing")
    owner = await people()
    email = f"{clock.random_bytes(4).hex()}@example.com"
    made = await owner.post("/settings/people/invite", email=email, role="finance")
    link = re.search(r'id="once"[^>]* value="([^"]+)"', made.text)
    assert link is not None, made.text
    assert "set-cookie" not in made.headers
    assert made.headers["cache-control"] == "no-store"
    listed = (await owner.get("/settings/people/invite")).text
    assert email in listed
    assert link[1] not in listed
    withdraw = re.search(r"/settings/people/invite/[0-9a-f-]+/withdraw", listed)
    assert withdraw is not None
    assert (await owner.post(withdraw[0], "/settings/people/invite")).status_code == 303
    assert email not in (await owner.get("/settings/people/invite")).text


async def test_what_is_wrong_with_an_invitation_stands_beside_its_field(people: NewPerson) -> None:
    pytest.importorskip("clearspan.access.signing")
    admin = await people("admin")
    for fields, said in (
        ({"email": "nobody", "role": "support"}, "e-mail address"),
        ({"email": admin.operator.email, "role": "support"}, "They are a member of this tenant."),
        ({"email": "ada@example.com", "role": "owner"}, "Only owners make owners."),
    ):
        answer = await admin.post("/settings/people/invite", **fields)
        assert (answer.status_code, said in answer.text) == (422, True), fields
        assert f'value="{fields["email"]}"' in answer.text


async def test_a_link_for_a_lost_password_is_shown_once_and_not_for_owners_of_others(
    people: NewPerson, gateway: Gateway, new_merchant: NewMerchant
) -> None:
    pytest.importorskip("clearspan.access.signing")
    owner, other = await people(), await people("support")
    made = await owner.post(at(other, "/reset"), at(other))
    assert re.search(r'id="once"[^>]* value="http', made.text), made.text
    elsewhere = await new_merchant()
    await gateway.operators.join(elsewhere.caller, other.operator.operator_id, "owner")
    refused = await owner.post(at(other, "/reset"), at(other))
    assert refused.status_code >= 400, "whoever sets their password would own the other tenant"
    assert 'id="once"' not in refused.text


async def test_a_role_changed_in_one_browser_holds_in_the_other(tabs: Tabs) -> None:
    served = tabs._served
    other, session = await signed_in(served.gateway, served.merchant, "support")
    theirs = await tabs.open(None)
    await theirs.context.add_cookies(
        [{"name": served.gateway.sessions.cookie, "value": session.token, "url": served.url}]
    )
    await theirs.goto(f"{served.url}/admin/")
    assert await theirs.locator("#menu a", has_text="PSP accounts").count() == 0
    for dark, width in ((True, 1280), (False, 390), (False, 1280)):
        look = f"{'dark' if dark else 'light'}-{width}"
        page = await tabs.open(dark=dark, width=width)
        for name in ("people", "people/roles", "plugins", "plugins/psp-sandbox", "tenant", "tenant/billing"):
            await page.goto(f"{served.url}/admin/settings/{name}")
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
            await picture(page, f"{name.replace('/', '-')}-{look}")
        await page.goto(f"{served.url}/admin/settings/people/{other.public_id}")
        await picture(page, f"person-{look}")
    await page.get_by_label("Developer").check()
    await page.get_by_role("button", name="Change the role").click()
    await page.locator("#confirm button[value=yes]").click()
    await page.get_by_text("The new role holds at once").wait_for()
    await theirs.reload()
    assert await theirs.locator("#menu a", has_text="PSP accounts").count() == 1
