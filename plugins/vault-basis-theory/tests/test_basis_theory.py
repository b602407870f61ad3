"""Basis Theory: the gateway never sees a card, the PSP gets the true one, and the vault's own answers are told from the PSP's."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan.platform import outbound
from clearspan_vault_basis_theory import BasisTheoryConfig, BasisTheoryVault

NUMBER = "4242424242424242"
Psp = Any  # Of conftest.py.


def config(url: str, key: str = "key_private") -> BasisTheoryConfig:
    return BasisTheoryConfig(private_key=key, public_key="key_public", url=url)


async def card(url: str, number: str = NUMBER, month: int = 3) -> str:
    """A token, as the payer's browser makes it."""
    data = {"number": number, "expiration_month": month, "expiration_year": 2031, "cvc": "737"}
    async with httpx.AsyncClient(trust_env=False) as browser:
        made = await browser.post(
            f"{url}/tokens", json={"type": "card", "data": data}, headers={"BT-API-KEY": "key_private"}
        )
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def charge(vault: BasisTheoryVault, token: str) -> dict[str, str]:
    return {field: vault.placeholder(token, field) for field in ("number", "exp_month", "exp_year", "cvc")}


def request(client: httpx.AsyncClient, psp: Psp, token: str, **body: Any) -> httpx.Request:
    return client.build_request("POST", f"{psp.url}/v1/charges?expand=payer", extensions={"vault_token": token}, **body)


async def fault(url: str, name: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as control:
        await control.post(f"{url}/_control/next", json={"fault": name})


@pytest.fixture(autouse=True)
async def as_described(url: str) -> Any:
    """No test may send what the published description does not allow."""
    yield
    async with httpx.AsyncClient(trust_env=False) as control:
        assert (await control.get(f"{url}/_control/problems")).json() == []


async def test_a_payers_session_may_create_tokens_and_nothing_else(vault: BasisTheoryVault, url: str) -> None:
    page = await vault.create_session("https://shop.example/back")
    assert page.scripts[0].url == "https://js.basistheory.com/web-elements/2.14.0/index.js"
    assert page.scripts[0].integrity.startswith("sha384-")
    assert set(page.data) == {"session_key", "environment"}
    headers = {"BT-API-KEY": page.data["session_key"]}
    data = {"number": NUMBER, "expiration_month": 3, "expiration_year": 2031, "cvc": "737"}
    async with httpx.AsyncClient(trust_env=False, base_url=url, headers=headers) as browser:
        made = await browser.post("/tokens", json={"type": "card", "data": data})
        assert made.status_code == 201
        assert (await browser.get(f"/tokens/{made.json()['id']}")).status_code == 403
        assert (await browser.delete(f"/tokens/{made.json()['id']}")).status_code == 403


async def test_a_card_is_described_without_its_number(vault: BasisTheoryVault, url: str) -> None:
    first, second = await card(url), await card(url)
    found = await vault.describe(first)
    assert (found.brand, found.last4, found.exp_month, found.exp_year) == ("visa", "4242", 3, 2031)
    assert (found.funding, found.issuer_country) == ("credit", "US")
    assert found.fingerprint == (await vault.describe(second)).fingerprint
    assert found.fingerprint != (await vault.describe(await card(url, "5555555555554444"))).fingerprint
    assert NUMBER not in repr(found)


async def test_a_key_that_sees_whole_numbers_is_refused_and_the_number_is_not_repeated(
    url: str, http: httpx.AsyncClient
) -> None:
    vault = BasisTheoryVault(config(url, "key_revealing"), sdk.VaultContext(http))
    with pytest.raises(sdk.VaultUnavailable, match="transform 'mask'") as caught:
        await vault.describe(await card(url))
    assert NUMBER not in str(caught.value)


@pytest.mark.parametrize("kind", ["json", "form"])
async def test_the_psp_gets_the_true_card_in_json_and_in_forms(
    vault: BasisTheoryVault, through: httpx.AsyncClient, psp: Psp, url: str, kind: str
) -> None:
    token = await card(url)
    fields = charge(vault, token)
    if kind == "json":
        sent = request(through, psp, token, json={"amount": 1099, "card": fields})
    else:
        body = urlencode({f"card[{name}]": value for name, value in fields.items()})
        form = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Idempotency-Key": "k1",
            "Authorization": "Bearer s",
        }
        sent = request(through, psp, token, content=body, headers=form)
    assert NUMBER.encode() not in sent.read()
    answer = await sdk.send(through, sent)
    assert answer.body == {"id": "ch1"}
    head, body = psp.received[0]
    assert head.startswith("POST /v1/charges?expand=payer HTTP/1.1")
    assert "key_private" not in head
    assert "BT-" not in head.upper().replace("ABT-", "")
    true = {"number": NUMBER, "exp_month": "03", "exp_year": "2031", "cvc": "737"}
    if kind == "json":
        assert json.loads(body) == {"amount": 1099, "card": true}
    else:
        assert "idempotency-key: k1" in head.lower()
        assert {name: values[0] for name, values in parse_qs(body).items()} == {
            f"card[{name}]": value for name, value in true.items()
        }


@pytest.mark.parametrize(
    ("status", "raised"),
    [(402, None), (400, None), (401, sdk.PspMisconfigured), (500, sdk.OutcomeUnknown), (429, sdk.OutcomeUnknown)],
)
async def test_what_the_psp_answers_is_the_psps_answer(
    vault: BasisTheoryVault, through: httpx.AsyncClient, psp: Psp, url: str, status: int, raised: type[Exception] | None
) -> None:
    psp.answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    token = await card(url)
    sent = request(through, psp, token, json=charge(vault, token))
    if raised is None:
        assert (await sdk.send(through, sent)).status == status
    else:
        with pytest.raises(raised, match="the PSP answered"):
            await sdk.send(through, sent)
    assert len(psp.received) == 1


async def test_an_unknown_token_is_not_sent(
    vault: BasisTheoryVault, through: httpx.AsyncClient, psp: Psp, url: str
) -> None:
    nobody = "815029c2-29ec-4fc2-8cd4-99feb3ee582c"
    with pytest.raises(sdk.VaultError, match="does not know this token"):
        await vault.describe(nobody)
    with pytest.raises(sdk.PspMisconfigured, match="not sent: the vault's proxy does not know"):
        await sdk.send(through, request(through, psp, nobody, json=charge(vault, nobody)))
    assert psp.received == []


@pytest.mark.parametrize(("key", "says"), [("key_wrong", "refuses our private key"), ("key_weak", "token:use")])
async def test_a_wrong_key_is_not_sent_and_says_what_to_do(
    url: str, http: httpx.AsyncClient, psp: Psp, key: str, says: str
) -> None:
    vault = BasisTheoryVault(config(url, key), sdk.VaultContext(http))
    token = await card(url)
    async with outbound.client(2, 2, vault=vault) as through:
        with pytest.raises(sdk.PspMisconfigured, match=says) as caught:
            await sdk.send(through, request(through, psp, token, json=charge(vault, token)))
    assert key not in str(caught.value)
    assert psp.received == []
    with pytest.raises(sdk.VaultUnavailable):
        await vault.create_session("https://shop.example/back")


@pytest.mark.parametrize(
    ("name", "sent"), [("error_before", 0), ("error_after", 1), ("timeout_after", 1), ("hang_after", 1)]
)
async def test_trouble_of_the_vaults_own_leaves_the_outcome_unknown(
    vault: BasisTheoryVault, through: httpx.AsyncClient, psp: Psp, url: str, name: str, sent: int
) -> None:
    token = await card(url)
    await fault(url, name)
    with pytest.raises(sdk.OutcomeUnknown):
        await sdk.send(through, request(through, psp, token, json=charge(vault, token)))
    assert len(psp.received) == sent


def test_a_rate_limit_of_the_vaults_is_not_sent(vault: BasisTheoryVault) -> None:
    with pytest.raises(sdk.PspUnavailable, match="not sent"):
        vault.check(httpx.Response(429))
    vault.check(httpx.Response(429, headers={"BT-PROXY-DESTINATION-STATUS": "429"}))


async def test_a_vault_that_is_away_is_not_sent(http: httpx.AsyncClient, psp: Psp) -> None:
    vault = BasisTheoryVault(config("http://127.0.0.1:1"), sdk.VaultContext(http))
    async with outbound.client(2, 2, vault=vault) as through:
        with pytest.raises(sdk.PspUnavailable):
            await sdk.send(through, request(through, psp, "tok", json={}))
    with pytest.raises(sdk.VaultUnavailable, match="could not be reached"):
        await vault.describe("tok")


async def test_deleting_twice_is_no_error(vault: BasisTheoryVault, url: str) -> None:
    token = await card(url)
    await vault.delete(token)
    await vault.delete(token)
    with pytest.raises(sdk.VaultError):
        await vault.describe(token)


@pytest.mark.parametrize("token", ["", "a b", "x }} {{ y", "../tokens", "a" * 201])
async def test_what_cannot_be_a_token_reaches_no_address_and_no_body(vault: BasisTheoryVault, token: str) -> None:
    with pytest.raises(sdk.VaultError):
        vault.placeholder(token, "number")
    with pytest.raises(sdk.VaultError):
        await vault.describe(token)


@pytest.mark.parametrize(
    ("shown", "brand", "funding"),
    [
        ({"card": {"brand": "american-express", "funding": "debit"}}, "amex", "debit"),
        ({"enrichments": {"bin_details": {"card_brand": "DINERS CLUB", "prepaid": True}}}, "diners", "prepaid"),
        ({"enrichments": {}}, "unknown", "unknown"),
        ({}, "unknown", "unknown"),
    ],
)
async def test_a_card_is_read_as_new_and_as_older_tenants_show_it(
    shown: dict[str, Any], brand: str, funding: str
) -> None:
    data = {"number": "XXXXXXXXXXX0005", "expiration_month": 12, "expiration_year": 2030}
    body = {"id": "t1", "type": "card", "data": data} | shown
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    async with httpx.AsyncClient(transport=transport) as client:
        found = await BasisTheoryVault(config("https://bt.example"), sdk.VaultContext(client)).describe("t1")
    assert (found.brand, found.funding, found.last4, found.fingerprint) == (brand, funding, "0005", "t1")
