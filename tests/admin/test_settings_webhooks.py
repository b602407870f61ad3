"""Webhook endpoints in the cockpit: refused addresses say why, secrets are seen once, and deliveries are sent again."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture
from tests.conftest import NewMerchant

from clearspan.app import Gateway

NOBODY = "http://127.0.0.1:9/hook"
"""An address that the tests' settings allow, where nobody listens."""
HOSTILE = "<img src=x onerror=alert(1)>"
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]+")


async def made(person: Person, url: str = NOBODY, **fields: object) -> tuple[str, str]:
    """A new endpoint: its path and the secret."""
    answer = await person.post("/settings/webhooks/new", url=url, **({"events": ["payment.*"]} | fields))
    assert answer.status_code == 200, answer.text
    secret, path = SECRET.search(answer.text), re.search(r"/settings/webhooks/we_\w+", answer.text)
    assert secret is not None, answer.text
    assert path is not None
    return path[0], secret[0]


async def test_an_endpoint_is_made_and_its_secret_is_seen_once(people: NewPerson) -> None:
    person = await people("developer")
    page = (await person.get("/settings/webhooks/new")).text
    hidden = dict(re.findall(r'name="(csrf|key)" value="([^"]+)"', page.split('class="form"')[1]))
    fields = hidden | {"url": NOBODY, "events": ["payment.*", "refund.*"], "more": "dispute.opened, invoice.paid"}
    first = await person.http.post("/admin/settings/webhooks/new", data=fields)
    again = await person.http.post("/admin/settings/webhooks/new", data=fields)
    assert SECRET.search(first.text)
    assert first.headers["cache-control"] == "no-store"
    assert "set-cookie" not in first.headers
    assert "content-encoding" not in first.headers
    assert again.status_code == 200
    assert not SECRET.search(again.text), "reloading shows it no more"
    listed = (await person.get("/settings/webhooks")).text
    assert listed.count(NOBODY) == 1
    assert "payment.*, refund.*, dispute.opened, invoice.paid" in listed
    path = re.search(r"/settings/webhooks/we_\w+", first.text)
    assert path is not None
    for each in (path[0], f"{path[0]}/edit", "/settings/webhooks"):
        assert not SECRET.search((await person.get(each)).text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "http://169.254.169.254/latest/meta-data"}, "The URL cannot be used"),
        ({"url": "https://10.0.0.7/hook"}, "The URL cannot be used"),
        ({"url": "ftp://shop.example/hook"}, "The URL cannot be used"),
        ({"url": ""}, "url-error"),
        ({"url": NOBODY, "events": []}, "Choose at least one kind"),
        ({"url": NOBODY, "more": "Payment Captured!"}, "Choose at least one kind"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_its_reason(
    people: NewPerson, fields: dict[str, object], said: str
) -> None:
    person = await people("developer")
    given = {"events": ["payment.*"], "description": "kept while it is wrong"} | fields
    answer = await person.post("/settings/webhooks/new", **given)
    assert answer.status_code == 422
    assert said in answer.text
    assert 'value="kept while it is wrong"' in answer.text
    assert "we_" not in (await person.get("/settings/webhooks")).text


async def test_an_endpoint_is_changed_disabled_enabled_and_deleted(people: NewPerson) -> None:
    person = await people("developer")
    path, _ = await made(person)
    form = (await person.get(f"{path}/edit")).text
    assert 'value="payment.*" checked' in form
    refused = await person.post(f"{path}/edit", url="https://10.0.0.7/x", events=["refund.*"])
    assert (refused.status_code, "The URL cannot be used" in refused.text) == (422, True)
    changed = await person.post(f"{path}/edit", url=f"{NOBODY}/2", description="second", all="yes")
    assert changed.status_code == 303
    shown = (await person.get(path)).text
    assert f"{NOBODY}/2" in shown
    assert "second" in shown
    await person.post(f"{path}/status", path, status="disabled")
    assert "Disabled" in (await person.get(path)).text
    await person.post(f"{path}/status", path, status="enabled")
    assert (await person.post(f"{path}/delete", path)).status_code == 303
    assert path not in (await person.get("/settings/webhooks")).text


async def test_a_rotated_secret_is_seen_once_and_the_old_one_signs_on(people: NewPerson) -> None:
    person = await people("developer")
    path, first = await made(person)
    rotated = await person.post(f"{path}/rotate", path, overlap_h="24")
    second = SECRET.search(rotated.text)
    assert second is not None
    assert second[0] != first
    assert "The old secret signs until" in (await person.get(path)).text
    assert (await person.post(f"{path}/rotate", path, overlap_h="9999")).status_code == 422


async def test_a_test_event_shows_what_came_back_and_is_sent_again(people: NewPerson) -> None:
    person = await people("developer")
    path, _ = await made(person)
    sent = await person.post(f"{path}/test", path)
    where = sent.headers["location"].removeprefix("/admin")
    shown = (await person.get(where)).text
    assert "The endpoint did not take the test event" in shown
    assert "No answer: connect failed" in shown
    assert "webhook_endpoint.test" in (await person.get(path)).text
    assert "webhook_endpoint.test" not in (await person.get(f"{path}?state=delivered")).text
    other, _ = await made(person, f"{NOBODY}/other")
    elsewhere = where.replace(path, other)
    assert (await person.get(elsewhere)).status_code == 404, "a delivery of another endpoint"
    again = await person.post(f"{where}/replay", where)
    assert again.headers["location"] == f"/admin{where}"
    assert "It is sent again" in (await person.get(where)).text


async def test_a_range_is_replayed_in_the_persons_own_zone(people: NewPerson, gateway: Gateway) -> None:
    person = await people("developer")
    await gateway.operators.change(person.operator, timezone="Europe/Vienna")
    path, _ = await made(person)
    for fields, said in (
        ({"since": "yesterday"}, "Give a date and a time."),
        ({"since": "2020-01-01T00:00"}, "Deliveries are kept for"),
        ({"since": "2026-11-23T10:00", "until": "2026-11-23T09:00"}, "since"),
    ):
        answer = await person.post(f"{path}/replay", path, **fields)
        assert (answer.status_code, said in answer.text) == (422, True), fields
    answer = await person.post(f"{path}/replay", path, only_failed="yes")
    assert answer.status_code == 303
    assert "deliveries are sent again" in (await person.get(path)).text


@pytest.mark.parametrize(("role", "sees"), [("support", 200), ("finance", 200), ("auditor", 200)])
async def test_who_may_read_may_not_change(people: NewPerson, role: str, sees: int) -> None:
    owner, person = await people(), await people(role)
    path, _ = await made(owner)
    assert (await person.get("/settings/webhooks")).status_code == sees
    shown = await person.get(path)
    assert (shown.status_code, "Rotate the secret" in shown.text, "Delete" in shown.text) == (sees, False, False)
    assert (await person.get("/settings/webhooks/new")).status_code == 403
    for verb in ("edit", "status", "delete", "rotate", "test", "replay"):
        assert (await person.post(f"{path}/{verb}", "/")).status_code == 403, verb


async def test_endpoints_of_others_do_not_exist(people: NewPerson, new_merchant: NewMerchant) -> None:
    owner, stranger = await people(), await people(of=await new_merchant())
    path, _ = await made(owner)
    for each in (path, f"{path}/edit"):
        assert (await stranger.get(each)).status_code == 404
    for verb in ("edit", "status", "delete", "rotate", "test", "replay"):
        fields = {"status": "disabled", "overlap_h": "1", "url": NOBODY, "events": "payment.*", "key": "of-a-stranger"}
        answer = await stranger.post(f"{path}/{verb}", "/", **fields)
        assert answer.status_code == 404, f"{verb}: {answer.text}"


async def test_hostile_text_is_shown_as_text(people: NewPerson) -> None:
    person = await people("developer")
    path, _ = await made(person, description=HOSTILE)
    for each in ("/settings/webhooks", path, f"{path}/edit"):
        shown = (await person.get(each)).text
        assert HOSTILE not in shown, each
        assert "&lt;img" in shown, each


async def test_the_pages_in_a_browser(tabs: Tabs) -> None:
    for dark, width in ((False, 1280), (True, 1280), (False, 390)):
        page = await tabs.open("developer", dark=dark, width=width)
        look = f"{'dark' if dark else 'light'}-{width}"
        await page.goto(f"{tabs._served.url}/admin/settings/webhooks")
        await picture(page, f"webhooks-{look}")
        await page.get_by_role("link", name="Add an endpoint").first.click()
        await page.get_by_label("Address").fill(NOBODY)
        await picture(page, f"webhook-form-{look}")
        await page.get_by_role("button", name="Add the endpoint").click()
        await page.get_by_text("This is the only time").wait_for()
        await picture(page, f"webhook-secret-{look}")
        await page.get_by_role("link", name="Continue to the endpoint").click()
        await page.get_by_role("button", name="Send a test event").click()
        await page.get_by_text("did not take the test event").wait_for()
        await picture(page, f"delivery-{look}")
        await page.get_by_role("link", name="Endpoint", exact=True).click()
        await page.get_by_role("heading", name="Deliveries").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        await picture(page, f"webhook-{look}")
