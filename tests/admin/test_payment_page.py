"""One payment: the story that its page tells, and what can be done about it by whom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.admin.conftest import NewPerson, Person, Served, Tabs, picture
from tests.conftest import lifespan
from tests.core.payments.conftest import Puppet, PuppetPsp, approve, later, unclear
from tests.shop import Json, Shop, succeeded

from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.sdk import Declined, NotFound
from clearspan.webhooks.dispatch import Dispatcher

if TYPE_CHECKING:
    import httpx
    from tests.conftest import Merchant, Urls

    from clearspan.platform.crypto import MasterKey
    from clearspan.platform.gate import AsgiApp
    from clearspan.settings import Settings

REASON = "The PSP's statement of today shows it; ticket 4711."


@pytest.fixture(scope="module")
def gateway(urls: Urls, cockpit_settings: Settings, master: MasterKey) -> Gateway:
    """Besides the sandbox, a PSP that does what a test says; a refund of up to 50.00 needs nobody else."""
    loaded = plugins.load(cockpit_settings.plugins.enabled)
    loaded.psps[PuppetPsp.name] = PuppetPsp
    loaded.plugin_of_psp[PuppetPsp.name] = "puppet"
    payments = msgspec.structs.replace(
        cockpit_settings.payments,
        refund_second_person_above_minor=5000,
        refund_step_up_above_minor=2000,
        wait_budget_s=20,
    )
    return Gateway(msgspec.structs.replace(cockpit_settings, payments=payments), urls.app, master, loaded)


@pytest.fixture(scope="module")
async def app(gateway: Gateway) -> AsyncIterator[AsgiApp]:
    """The application around it."""
    application = create_app(gateway)
    async with lifespan(application):
        yield application


@pytest.fixture
def puppet() -> Any:
    """A PSP on strings."""
    made = Puppet()
    yield made
    del Puppet.strings[made.name]


@pytest.fixture
async def theatre(client: httpx.AsyncClient, puppet: Puppet, psp_url: str) -> Shop:
    """``merchant`` with the puppet as its only PSP."""
    shop = Shop(client, psp_url)
    await shop.add_account("puppet", 1, psp="puppet", config={"name": puppet.name})
    return shop


async def said(person: Person, answer: httpx.Response) -> str:
    """What the page says after a redirect."""
    assert answer.status_code == 303, answer.text
    page = await person.http.get(answer.headers["location"])
    assert page.status_code == 200, page.text
    found = re.search(r'<div id="messages"[^>]*>\s*<div class="alert [a-z]+">.*?<div>(.*?)</div>', page.text, re.DOTALL)
    assert found is not None, page.text
    return found[1]


async def refund(person: Person, payment: Json, amount: str, **fields: str) -> httpx.Response:
    path = f"/payments/{payment['id']}/refund"
    key = {"key": clock.random_bytes(8).hex()} | fields
    return await person.post(path, amount=amount, sure="yes", **key)


# -- The story ------------------------------------------------------------------------------------------------------------------


async def test_the_page_tells_both_sides_of_every_operation(people: NewPerson, shop: Shop) -> None:
    person = await people("auditor")
    customer = await shop.customer(name="Ada Lovelace", email="ada@example.com")
    card = await shop.card("tok_visa", customer=customer)
    made = await shop.create(
        5000,
        payment_method=card,
        customer=customer,
        confirm=True,
        reference="order-7",
        description="Tea",
        capture_method="manual",
    )
    payment = made.json()
    await shop.act(payment, "capture", {"amount_minor": 3000})
    await shop.act(payment, "refunds", {"amount_minor": 1000, "reason": "broken cup"})
    page = (await person.get(f"/payments/{payment['id']}")).text
    for words in (
        "€50.00", "Ada Lovelace", "ada@example.com", "order-7", "Tea", "Authorisation", "Capture", "Refund", "broken cup",
        "At the PSP", "Here",
        "the first by priority that could take it", "What it said", "Left to capture", "Left to refund", "API key",
        payment["psp"]["reference"], "Ledger", "In transit", "Webhooks sent", "Webhooks of the PSP",
    ):  # fmt: skip
        assert words in page, words
    assert page.count('class="operation"') == 3
    # An auditor looks and does nothing.
    assert "/refund" not in page
    assert "/capture" not in page


async def test_a_decline_says_what_it_means_and_what_to_do(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    payment = (await shop.pay(900, "tok_decline_lost_card")).json()
    page = (await person.get(f"/payments/{payment['id']}")).text
    assert "The card was reported lost." in page
    assert "This card will never work" in page
    assert "Failed" in page


async def test_hostile_text_is_shown_as_text(people: NewPerson, theatre: Shop, puppet: Puppet) -> None:
    person = await people("support")
    evil = '<img src=x onerror="alert(1)">'
    puppet.does = lambda *_: Declined(code="do_not_honor", message=f"no {evil}", raw={"said": evil})
    made = await theatre.create(
        500, payment_method=await theatre.card(), confirm=True, reference=evil, description=evil,
        metadata={"<script>alert(1)</script>": evil, "javascript:alert(1)": "{{ 7*7 }}"},
    )  # fmt: skip
    page = (await person.get(f"/payments/{made.json()['id']}")).text
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "{{ 7*7 }}" in page
    assert "&lt;img src=x onerror=" in page
    assert evil not in (await person.get("/payments")).text


async def test_another_tenants_payment_is_not_there(
    people: NewPerson, other_client: httpx.AsyncClient, psp_url: str, shop: Shop
) -> None:
    person = await people("owner")
    mine = await shop.paid(500)
    theirs = await (await Shop.open(other_client, psp_url)).paid(4711)
    operation = (await (Shop(other_client, psp_url)).get(theirs))["operations"][0]["id"]
    for path in ("", "/refund", "/capture", "/cancel", "/release", f"/decide/{operation}"):
        assert (await person.get(f"/payments/{theirs['id']}{path}")).status_code == 404, path
    for path in (
        "/refund",
        "/capture",
        "/cancel",
        "/release",
        f"/look/{operation}",
        f"/decide/{operation}",
        "/resend/wd_1",
    ):
        answer = await person.post(
            f"/payments/{theirs['id']}{path}", f"/payments/{mine['id']}/cancel",
            amount="1.00", sure="yes", reason=REASON, outcome="declined",
        )  # fmt: skip
        assert answer.status_code == 404, path
    assert (await person.get("/payments/pay_x")).status_code == 404
    # An operation of another payment is not one of this.
    own = (await shop.get(await shop.paid(1)))["operations"][0]["id"]
    assert (await person.get(f"/payments/{mine['id']}/decide/{own}")).status_code == 404


@pytest.mark.parametrize("role", ["auditor", "developer"])
async def test_who_may_only_look_has_no_button_and_is_refused(people: NewPerson, shop: Shop, role: str) -> None:
    person = await people(role)
    payment = await shop.paid(500)
    page = await person.get(f"/payments/{payment['id']}")
    assert page.status_code == 200
    for what in ("refund", "capture", "cancel", "release"):
        assert f"/payments/{payment['id']}/{what}" not in page.text
        assert (await person.get(f"/payments/{payment['id']}/{what}")).status_code == 403
        answer = await person.post(f"/payments/{payment['id']}/{what}", "/payments", amount="1", sure="yes", key="k1")
        assert answer.status_code == 403, what
    assert (await shop.get(payment))["amounts"]["refunded_minor"] == 0


async def test_support_decides_no_outcomes(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    payment = await shop.get(await shop.paid(500))
    path = f"/payments/{payment['id']}/decide/{payment['operations'][0]['id']}"
    assert (await person.get(path)).status_code == 403
    assert (await person.post(path, "/payments", outcome="declined", reason=REASON, key="k")).status_code == 403


# -- Refunds, captures, cancellations -------------------------------------------------------------------------------------------


async def test_a_refund_is_shown_before_it_is_made_and_a_double_click_makes_it_once(
    people: NewPerson, shop: Shop
) -> None:
    person = await people("support")
    payment = await shop.paid(5000)
    path = f"/payments/{payment['id']}/refund"
    shown = await person.post(path, amount="12.34", reason="returned goods")
    assert shown.status_code == 200
    assert "Refund €12.34 of €50.00 that are left?" in shown.text
    assert (await shop.get(payment))["amounts"]["refunded_minor"] == 0
    hidden = dict(
        re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', shown.text.partition('class="actions"')[2])
    )
    answers = await asyncio.gather(*(person.http.post(f"/admin{path}", data=hidden) for _ in range(2)))
    # The second of two simultaneous clicks may be told that the first one is under way.
    assert all(answer.status_code in (303, 422) for answer in answers)
    again = await person.http.post(f"/admin{path}", data=hidden)
    assert "Refunded €12.34." in await said(person, again)
    after = await shop.get(payment)
    assert after["amounts"]["refunded_minor"] == 1234
    refunds = [one for one in after["operations"] if one["kind"] == "refund"]
    assert len(refunds) == len(succeeded(await shop.book(), "refund")) == 1
    created = next(entry for entry in after["audit"] if entry["type"] == "refund.created")
    assert (created["actor_type"], created["actor_id"]) == ("operator", person.operator.public_id)


@pytest.mark.parametrize(
    ("locale", "currency", "amount_minor", "typed", "refunded"),
    [
        ("de_AT", "EUR", 200_000, "12,5", 1250), ("de", "EUR", 200_000, "0.05", 5), ("fr", "EUR", 200_000, "1\u202f2,00", 1200),
        ("fr", "EUR", 200_000, "10,00", 1000), ("en", "JPY", 5000, "1,500", 1500), ("en", "JPY", 5000, "15.5", None),
        ("de", "KWD", 5000, "1,234", 1234), ("en", "KWD", 5000, "1.2345", None), ("en", "EUR", 5000, "-5", None),
        ("en", "EUR", 5000, "0", None), ("en", "EUR", 5000, "five", None),
        ("en", "EUR", 1000, "10.01", None), ("en", "EUR", 5000, "", None),
    ],
)  # fmt: skip
async def test_amounts_are_typed_as_the_locale_writes_them(
    people: NewPerson, gateway: Gateway, shop: Shop, locale: str, currency: str, amount_minor: int,
    typed: str, refunded: int | None,
) -> None:  # fmt: skip
    person = await people("support")
    await gateway.operators.change(person.operator, locale=locale)
    payment = await shop.paid(amount_minor, currency=currency)
    answer = await person.post(f"/payments/{payment['id']}/refund", amount=typed, reason="kept")
    if refunded is None:
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.text
        assert 'value="kept"' in answer.text
        return
    assert answer.status_code == 200, answer.text
    await refund(person, payment, typed)
    assert (await shop.get(payment))["amounts"]["refunded_minor"] == refunded


async def test_never_more_than_is_left_even_when_the_page_is_old(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    payment = await shop.paid(2000)
    await shop.act(payment, "refunds", {"amount_minor": 1500})
    answer = await refund(person, payment, "10.00")
    assert answer.status_code == 422
    assert "Left: €5.00" in answer.text
    await refund(person, payment, "5.00")
    page = await person.get(f"/payments/{payment['id']}/refund")
    assert "Nothing is left to refund." in page.text
    assert f"/payments/{payment['id']}/refund" not in (await person.get(f"/payments/{payment['id']}")).text


async def test_a_refund_above_a_limit_needs_a_factor_given_a_moment_ago(people: NewPerson, shop: Shop) -> None:
    person = await people("support", strong=False)
    payment = await shop.paid(5000)
    assert (await refund(person, payment, "20.00")).status_code == 303
    answer = await refund(person, payment, "20.01")
    assert answer.status_code in (303, 403)
    assert answer.status_code == 403 or "/payments" not in answer.headers["location"].partition("?")[0]
    assert (await shop.get(payment))["amounts"]["refunded_minor"] == 2000


async def test_what_is_authorised_is_captured_in_part_and_the_rest_released(people: NewPerson, shop: Shop) -> None:
    person = await people("finance")
    payment = await shop.paid(5000, capture_method="manual")
    path = f"/payments/{payment['id']}/capture"
    shown = await person.post(path, amount="30")
    assert "Capture €30.00 of €50.00 that are left?" in shown.text
    assert "Captured €30.00." in await said(person, await person.post(path, amount="30", sure="yes", key="cap1"))
    await person.post(path, f"/payments/{payment['id']}/cancel", amount="30", sure="yes", key="cap1")
    released = await person.post(f"/payments/{payment['id']}/cancel", reason="sold out")
    assert "Released what was authorised: €20.00." in await said(person, released)
    amounts = (await shop.get(payment))["amounts"]
    assert (amounts["captured_minor"], amounts["voided_minor"]) == (3000, 2000)
    too_much = await person.post(path, f"/payments/{payment['id']}/cancel", amount="30", sure="yes", key="cap2")
    assert too_much.status_code == 422


async def test_a_payment_without_a_charge_is_closed(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    payment = await shop.ready(800)
    assert "The payment is canceled." in await said(person, await person.post(f"/payments/{payment['id']}/cancel"))
    assert (await shop.get(payment))["status"] == "canceled"
    again = await person.post(f"/payments/{payment['id']}/cancel")
    assert again.status_code == 422


# -- What nobody knows ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def doubtful(theatre: Shop, puppet: Puppet) -> Json:
    """A payment whose charge got no clear answer."""
    puppet.does = unclear
    payment = (await theatre.pay(1099)).json()
    assert payment["outcome"] == "unknown"
    return await theatre.get(payment)


async def test_an_unknown_outcome_is_no_failure_and_the_psp_is_asked_when_somebody_wants_to_know(
    people: NewPerson, theatre: Shop, puppet: Puppet, doubtful: Json
) -> None:
    person = await people("support")
    page = (await person.get(f"/payments/{doubtful['id']}")).text
    assert "Nobody knows yet whether the money moved." in page
    assert "Failed" not in page
    look = f"/payments/{doubtful['id']}/look/{doubtful['operations'][0]['id']}"
    assert "has nothing new" in await said(person, await person.post(look, f"/payments/{doubtful['id']}"))
    puppet.does = approve
    assert "known better now" in await said(person, await person.post(look, f"/payments/{doubtful['id']}"))
    assert (await theatre.get(doubtful))["status"] == "succeeded"
    assert puppet.verbs.count("create_intent") == 1, "it was looked up, not charged again"
    assert "outcome of this operation is known" in await said(
        person, await person.post(look, f"/payments/{doubtful['id']}")
    )
    told = [entry for entry in (await theatre.get(doubtful))["audit"] if entry["type"] == "operation.lookup_requested"]
    assert [entry["actor_id"] for entry in told] == [person.operator.public_id] * 2


async def test_a_payers_action_is_looked_up_and_left_to_the_payer(people: NewPerson, shop: Shop) -> None:
    person = await people("support")
    payment = await shop.get((await shop.pay(400, "tok_3ds_challenge", return_url="https://shop.example/")).json())
    look = f"/payments/{payment['id']}/look/{payment['operations'][0]['id']}"
    assert "has nothing new" in await said(person, await person.post(look, f"/payments/{payment['id']}"))
    after = await shop.get(payment)
    assert (after["status"], after["next_action"]) == ("requires_action", payment["next_action"])
    assert (await shop.challenged(after))["status"] == "succeeded"


@pytest.fixture
async def in_review(gateway: Gateway, theatre: Shop, puppet: Puppet, doubtful: Json, merchant: Merchant) -> Json:
    """The same a day later: nobody could find it out."""
    puppet.does = lambda verb, request: NotFound() if verb == "retrieve" else unclear(verb, request)
    with later(hours=25):
        await gateway.payments.recover(merchant.caller.scope, "req_test", 10)
    found = await theatre.get(doubtful)
    assert found["operations"][0]["state"] == "needs_review"
    return found


async def test_a_person_decides_what_nobody_could_find_out(people: NewPerson, theatre: Shop, in_review: Json) -> None:
    person = await people("finance")
    path = f"/payments/{in_review['id']}/decide/{in_review['operations'][0]['id']}"
    assert path in (await person.get(f"/payments/{in_review['id']}")).text
    for fields, field in (
        ({"reason": REASON}, "Say what became of it."), ({"outcome": "failed", "reason": REASON}, "Say what became of it."),
        ({"outcome": "succeeded", "reason": "short"}, "Say in 10 to 1000 characters"),
        ({"outcome": "succeeded", "reason": REASON, "psp_reference": "x" * 501}, "too long"),
    ):  # fmt: skip
        answer = await person.post(path, **fields)
        assert (answer.status_code, field in answer.text) == (422, True), fields
    answer = await person.post(path, outcome="succeeded", reason=REASON, psp_reference="ch_seen")
    assert "The outcome is decided." in await said(person, answer)
    after = await theatre.get(in_review)
    assert (after["status"], after["psp"]["reference"]) == ("succeeded", "ch_seen")
    page = (await person.get(f"/payments/{in_review['id']}")).text
    assert "a person's word" in page
    assert person.operator.name in page


async def test_two_who_decide_at_once_are_one_and_the_other_is_told(
    people: NewPerson, theatre: Shop, in_review: Json
) -> None:
    ada, bob = await people("finance"), await people("admin")
    path = f"/payments/{in_review['id']}/decide/{in_review['operations'][0]['id']}"
    adas, bobs = await ada.hidden(path), await bob.hidden(path)
    answers = await asyncio.gather(
        ada.send(path, adas, outcome="not_charged", reason=REASON),
        bob.send(path, bobs, outcome="succeeded", reason=REASON),
    )
    texts = [await said(person, answer) for person, answer in zip((ada, bob), answers, strict=True)]
    assert sorted("The outcome is decided." in text for text in texts) == [False, True]
    loser = next(text for text in texts if "The outcome is decided." not in text)
    assert "decided it a moment ago" in loser
    assert "Nothing was changed" in loser
    facts = [one for one in (await theatre.get(in_review))["operations"][0]["observations"] if one["source"] == "human"]
    assert len(facts) == 1


async def test_above_the_limit_a_second_person_must_say_the_same(
    people: NewPerson, gateway: Gateway, theatre: Shop, puppet: Puppet, merchant: Merchant
) -> None:
    puppet.does = unclear
    payment = (await theatre.pay(100_001)).json()
    puppet.does = lambda verb, request: NotFound() if verb == "retrieve" else unclear(verb, request)
    with later(hours=25):
        await gateway.payments.recover(merchant.caller.scope, "req_test", 10)
    operation = (await theatre.get(payment))["operations"][0]["id"]
    ada, bob = await people("finance"), await people("finance")
    path = f"/payments/{payment['id']}/decide/{operation}"
    first = await ada.post(path, outcome="succeeded", reason=REASON, psp_reference="ch_1")
    assert "A second person must say the same" in await said(ada, first)
    own = await ada.post(path, outcome="succeeded", reason=REASON, psp_reference="ch_1")
    assert (own.status_code, "A second person must confirm" in own.text) == (422, True)
    page = (await bob.get(path)).text
    assert REASON.replace("'", "&#39;") in page
    assert 'value="ch_1"' in page
    other = await bob.post(path, outcome="succeeded", reason=REASON, psp_reference="ch_2")
    assert (other.status_code, "Another outcome was proposed" in other.text) == (422, True)
    assert "The outcome is decided." in await said(
        bob, await bob.post(path, outcome="succeeded", reason=REASON, psp_reference="ch_1")
    )
    assert (await theatre.get(payment))["status"] == "succeeded"


async def test_a_webhook_of_this_payment_is_sent_again_and_of_another_not(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    person, support = await people("admin"), await people("support")
    made = await shop.http.post(
        "/v1/webhook-endpoints", json={"url": "http://127.0.0.1:9/hook", "events": ["payment.succeeded"]}
    )
    assert made.status_code == 201, made.text
    payment, other = await shop.paid(500), await shop.paid(600)
    dispatcher = Dispatcher(gateway.webhook_deliveries, gateway.feed, 5)
    for _ in range(20):
        await dispatcher.step({merchant.caller.scope})
        await dispatcher.drain()
        pages = [(await person.get(f"/payments/{one['id']}")).text for one in (payment, other)]
        if all("http://127.0.0.1:9/hook" in page for page in pages):
            break
    view = await gateway.payment_search.view(merchant.caller.scope, payment["id"])
    (mine,) = view.deliveries
    (others,) = (await gateway.payment_search.view(merchant.caller.scope, other["id"])).deliveries
    path = f"/payments/{payment['id']}/resend/"
    assert (await person.post(path + others.id, f"/payments/{payment['id']}")).status_code == 404
    assert "sent again" in await said(
        person, await person.post(path + mine.id, f"/payments/{payment['id']}", key="again")
    )
    assert (await support.post(path + mine.id, "/payments", key="again")).status_code == 403
    assert "resend" not in (await support.get(f"/payments/{payment['id']}")).text


# -- In a browser ---------------------------------------------------------------------------------------------------------------


async def test_found_by_last4_opened_refunded_and_the_timeline_shows_it(tabs: Tabs, served: Served) -> None:
    shop = served.shop
    customer = await shop.customer(name="Ada Lovelace", email="ada@example.com")
    card = await shop.card("tok_mastercard", customer=customer)
    more: Json = {"reference": "order-1042", "metadata": {"shop": "a"}, "customer": customer}
    made = await shop.create(12_300, payment_method=card, confirm=True, **more)
    last4 = (await shop.http.get(f"/v1/payment-methods/{card}")).json()["card"]["last4"]
    await shop.paid(999)
    page = await tabs.open("support")
    await page.goto(f"{served.url}/admin/")
    await page.keyboard.press("/")
    await page.locator("#find").fill(last4)
    await page.keyboard.press("Enter")
    await page.locator("tbody tr a").first.click()
    await page.locator("#timeline").wait_for()
    assert page.url.endswith(made.json()["id"])
    await page.get_by_role("link", name="Refund", exact=True).click()
    await picture(page, "refund")
    await page.locator("#amount").fill("23.00")
    await page.locator("#reason").fill("returned goods")
    await page.get_by_role("button", name="Continue").click()
    await picture(page, "refund-sure")
    await page.get_by_role("button", name="Refund €23.00").click()
    await page.get_by_text("Refunded €23.00.").wait_for()
    assert await page.locator("li.operation").count() == 2
    assert "returned goods" in await page.locator("#timeline").inner_text()
    await page.locator("details.more summary").first.click()
    await picture(page, "payment")
    for dark, width in ((True, 1280), (False, 390)):
        other = await tabs.open("finance", dark=dark, width=width)
        await other.goto(page.url)
        await picture(other, f"payment-{width}{'-dark' if dark else ''}")
        assert await other.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
