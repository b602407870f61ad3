"""The pay page: a customer pays an invoice with its link, once, whatever is clicked, and sees what is true."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from tests.conftest import Merchant
from tests.core.invoices.billing import act, customer, draft, look, opened, subscribed
from tests.core.invoices.paying import browser, card, follow, pay_by_card, place, refresh_of
from tests.core.payments.conftest import Puppet, unclear
from tests.shop import Shop, succeeded

from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey
from clearspan.subscriptions.pay_links import PayLinks

Connection = asyncpg.Connection


async def page_of(shop: Shop, invoice: dict[str, Any], path: str = "") -> httpx.Response:
    async with browser(shop) as client:
        return await client.get(place((await look(shop, invoice))["pay_url"]) + path)


async def charges(shop: Shop) -> list[dict[str, Any]]:
    return succeeded(await shop.book())


async def test_a_failed_invoice_is_paid_from_the_link_to_the_thanks_without_javascript(
    shop: Shop, merchant: Merchant, superuser: Connection, gateway: Gateway
) -> None:
    """Every page and form of the way, at the sandbox vault and PSP, with 3-D Secure and with the card kept."""
    who = await customer(shop, language="de")
    subscription_id, invoice_id = await subscribed(superuser, merchant.caller.scope, who)
    made = {"id": invoice_id}
    assert await pay_by_card(shop, made, "tok_decline_do_not_honor") == "declined"
    url = (await look(shop, made))["pay_url"]
    async with browser(shop) as client, httpx.AsyncClient(trust_env=False) as outside:
        page = await client.get(place(url))
        assert "9,00\u00a0€" in page.text
        assert 'type="checkbox"' in page.text
        leaving = await client.post(place(url), data={"keep": "yes"})
        vault = await outside.get(refresh_of(leaving))
        action = re.search(r'<form method="post" action="([^"]+)"', vault.text)
        assert action
        number = {"number": "4000002500003155", "expiry": "12/40", "cvc": "123", "name": "Ada"}
        captured = await outside.post(f"{vault.url.scheme}://{vault.url.netloc.decode()}{action[1]}", data=number)
        assert captured.status_code == 303, captured.text
        back = captured.headers["location"]
        assert parse_qs(urlsplit(back).query)["keep"] == ["yes"]
        bank = refresh_of(await client.get(place(back)))
        waiting = await client.get(place(url))
        assert "Weiter zu Ihrer Bank" in waiting.text
        assert "<form" not in waiting.text
        answered = await outside.post(bank, data={"result": "approve"})
        assert answered.status_code in (302, 303), answered.text
        assert urlsplit(answered.headers["location"]).path == f"{place(url)}/return"
        thanks = await follow(client, await client.get(place(answered.headers["location"])))
        assert "Vielen Dank, die Rechnung ist bezahlt" in thanks.text
        again = await follow(client, await client.get(place(back)))
        assert "Vielen Dank, die Rechnung ist bezahlt" in again.text
    assert (await look(shop, made))["status"] == "paid"
    assert len(await charges(shop)) == 1
    row = await superuser.fetchrow(
        "SELECT s.status, s.payment_method_id, m.status AS mandate, m.text_version, m.authenticated, p.status AS method"
        " FROM subscriptions s JOIN mandates m USING (tenant_id, live, mandate_id)"
        " JOIN payment_methods p ON p.payment_method_id = s.payment_method_id WHERE s.subscription_id = $1",
        subscription_id,
    )
    assert (row["status"], row["mandate"], row["method"]) == ("active", "active", "active")
    assert (row["text_version"], row["authenticated"]) == ("pay-page-1-de", True)


async def test_without_the_tick_the_card_is_not_kept(shop: Shop, merchant: Merchant, superuser: Connection) -> None:
    who = await customer(shop)
    subscription_id, invoice_id = await subscribed(superuser, merchant.caller.scope, who)
    assert await pay_by_card(shop, {"id": invoice_id}) == "paid"
    kept = "SELECT payment_method_id, mandate_id FROM subscriptions WHERE subscription_id = $1"
    assert tuple(await superuser.fetchrow(kept, subscription_id)) == (None, None)
    methods = (await shop.http.get("/v1/payment-methods", params={"customer": who})).json()["data"]
    assert [method["status"] for method in methods] == ["detached"]
    tenant = merchant.caller.scope.tenant_id
    assert await superuser.fetchval("SELECT count(*) FROM mandates WHERE tenant_id = $1", tenant) == 0


async def test_one_offs_do_not_offer_to_keep_the_card_and_do_not_keep_it(shop: Shop) -> None:
    made = await opened(shop)
    assert "checkbox" not in (await page_of(shop, made)).text
    assert await pay_by_card(shop, made, keep=True) == "paid"
    methods = (await shop.http.get("/v1/payment-methods", params={"customer": made["customer"]})).json()["data"]
    assert [method["status"] for method in methods] == ["detached"]


async def test_many_clicks_and_tabs_charge_once(shop: Shop) -> None:
    made = await opened(shop)
    async with browser(shop) as client:
        url = made["pay_url"]
        same = [card(client, url, "tok_visa") for _ in range(4)]
        others = [card(client, url, token) for token in ("tok_mastercard", "tok_amex", "tok_visa_debit")]
        answers = await asyncio.gather(*same, *others)
    assert {answer.status_code for answer in answers} == {303}
    assert len(await charges(shop)) == 1
    assert (await look(shop, made))["status"] == "paid"


async def test_a_reload_after_a_decline_is_no_second_try_and_another_card_is(shop: Shop) -> None:
    made = await opened(shop)
    for _ in range(3):
        assert await pay_by_card(shop, made, "tok_decline_do_not_honor") == "declined"
    assert len([one for one in await shop.book() if one["kind"] == "charge"]) == 1
    page = await page_of(shop, made, "?e=declined")
    assert "The card was declined" in page.text
    assert 'role="alert"' in page.text
    assert await pay_by_card(shop, made) == "paid"
    methods = (await shop.http.get("/v1/payment-methods", params={"customer": made["customer"]})).json()["data"]
    assert len(methods) == 2


async def test_while_a_payment_is_unknown_nobody_can_pay_again(theatre: Shop, puppet: Puppet) -> None:
    made = await opened(theatre)
    puppet.does = unclear
    assert await pay_by_card(theatre, made) == "open"
    page = await page_of(theatre, made)
    assert "A payment is being made" in page.text
    assert "<form" not in page.text
    calls = len(puppet.calls)
    async with browser(theatre) as client:
        assert (await client.post(place(made["pay_url"]))).status_code == 303
        assert (await card(client, made["pay_url"], "tok_mastercard")).status_code == 303
    assert len(puppet.calls) == calls
    assert (await act(theatre, made, "void")).json()["code"] == "invoice_payment_locked"


async def test_a_bank_that_refuses_after_the_challenge_lets_the_customer_try_again(shop: Shop) -> None:
    made = await opened(shop)
    async with browser(shop) as client, httpx.AsyncClient(trust_env=False) as outside:
        bank = refresh_of(await card(client, made["pay_url"], "tok_3ds_challenge"))
        answered = await outside.post(bank, data={"result": "fail"})
        page = await follow(client, await client.get(place(answered.headers["location"])))
        assert "The card was declined" in page.text
        assert "<form" in page.text
    assert await pay_by_card(shop, made) == "paid"


@pytest.mark.parametrize("end", ["void", "paid"])
async def test_what_needs_no_payment_says_so_and_takes_none(shop: Shop, end: str) -> None:
    made = await opened(shop)
    if end == "void":
        await act(shop, made, "void")
    else:
        await pay_by_card(shop, made)
    before = len(await shop.book())
    async with browser(shop) as client:
        path = place(made["pay_url"])
        page = await client.get(path)
        assert page.status_code == 200
        assert {"void": "was cancelled", "paid": "is paid"}[end] in page.text
        assert "<form" not in page.text
        assert (await client.post(path)).status_code == 303
        assert (await card(client, made["pay_url"], "tok_mastercard")).status_code == 303
        assert (await client.get(f"{path}/return")).status_code == 303
    assert len(await shop.book()) == before


async def test_wrong_links_lead_nowhere_and_ask_the_database_nothing(
    shop: Shop, master: MasterKey, gateway: Gateway, merchant: Merchant
) -> None:
    made = await opened(shop)
    token = made["pay_url"].rpartition("/")[2]
    raw = base64.urlsafe_b64decode(token + "==")
    links = PayLinks(master.derive("pay-link"), "https://pay.test")
    assert links.read(token) == (merchant.caller.scope, ids.decode("inv", made["id"]))
    wrong = ["x", token[:-1], token + "A", "a" * 5000, "%2e%2e", token.swapcase()]
    for place_ in range(len(raw)):
        turned = bytearray(raw)
        turned[place_] ^= 1
        wrong.append(base64.urlsafe_b64encode(bytes(turned)).decode().rstrip("="))
    assert all(links.read(each) is None for each in wrong)
    other = PayLinks(bytes(32), "https://pay.test")
    assert other.read(token) is None
    async with browser(shop) as client:
        for each in [*wrong[:8], ids.encode("inv", clock.new_uuid())]:
            for method, path in (
                ("GET", ""),
                ("POST", ""),
                ("GET", "/card?token=tok_visa"),
                ("GET", "/return"),
                ("GET", "/pdf"),
            ):
                answer = await client.request(
                    method, f"/pay/{each}{path}", headers={"Accept-Language": "fr-CH, en;q=0.5"}
                )
                assert answer.status_code == 404, (each, path)
                assert "Ce lien ne fonctionne pas" in answer.text


async def test_a_draft_has_no_page(shop: Shop, gateway: Gateway, merchant: Merchant) -> None:
    made = await draft(shop)
    url = gateway.invoices._links.url(merchant.caller.scope, ids.decode("inv", made["id"]))
    async with browser(shop) as client:
        assert (await client.get(place(url))).status_code == 404
        assert (await client.get(f"{place(url)}/pdf")).status_code == 404


async def test_a_card_the_vault_does_not_know_charges_nothing(shop: Shop) -> None:
    made = await opened(shop)
    assert await pay_by_card(shop, made, "tok_nobody") == "card_refused"
    assert await shop.book() == []
    async with browser(shop) as client:
        assert (await client.get(f"{place(made['pay_url'])}/card")).status_code == 303
        assert (await card(client, made["pay_url"], "x" * 501)).status_code == 303


async def test_every_page_is_strict_about_scripts_caches_and_search_engines(shop: Shop) -> None:
    made = await opened(shop, customer=await customer(shop))
    pages = [await page_of(shop, made), await page_of(shop, made, "x")]
    async with browser(shop) as client:
        pages.append(await client.post(place(made["pay_url"])))
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "noindex" in page.headers["x-robots-tag"]
        assert '<meta name="robots" content="noindex' in page.text
        assert "<script" not in page.text
        assert not re.search(r"\son[a-z]+=|style=\"", page.text)
        assert page.headers["content-type"] == "text/html; charset=utf-8"


async def test_words_of_tenants_are_text_on_the_page(shop: Shop, merchant: Merchant, superuser: Connection) -> None:
    made = await opened(shop)
    await superuser.execute(
        "UPDATE billing_settings SET seller = $2 WHERE tenant_id = $1",
        merchant.caller.scope.tenant_id,
        '{"name": "<b>Eve</b> & {x} \\u202e", "address": ["1 Road"]}',
    )
    page = await page_of(shop, made)
    assert "&lt;b&gt;Eve&lt;/b&gt; &amp; {x}" in page.text
    assert "\u202e" not in page.text


async def test_the_page_gives_the_document(shop: Shop) -> None:
    made = await opened(shop)
    answer = await page_of(shop, made, "/pdf")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.content.startswith(b"%PDF")
    assert answer.headers["cache-control"] == "no-store"
