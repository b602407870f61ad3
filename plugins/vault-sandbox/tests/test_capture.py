"""The hosted page takes published test cards; whatever else is typed is refused and kept nowhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from clearspan.sdk import VaultContext, VaultError
from clearspan_vault_sandbox import SandboxVault, SandboxVaultConfig
from clearspan_vault_sandbox.cards import CARDS, TestCard

if TYPE_CHECKING:
    from conftest import Running

RETURN_URL = "https://shop.example/back?cart=7#pay"
GOOD = {"number": "4242 4242 4242 4242", "expiry": "12/40", "cvc": "123", "name": "Ada"}
FOREIGN = "4111111111111111"  # a well-known number, but not one of this vault


async def submit(http: httpx.AsyncClient, provider: SandboxVault, **changes: str) -> httpx.Response:
    page = (await provider.create_session(RETURN_URL)).url
    return await http.post(page, data=GOOD | changes)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
async def test_a_test_card_becomes_a_token(http: httpx.AsyncClient, provider: SandboxVault, card: TestCard) -> None:
    answer = await submit(http, provider, number=card.spaced, cvc=card.cvc, expiry="1 / 2039")
    assert answer.status_code == 303
    location = urlsplit(answer.headers["Location"])
    assert (location.netloc, location.path, location.fragment) == ("shop.example", "/back", "pay")
    query = parse_qs(location.query)
    assert query["cart"] == ["7"]
    described = await provider.describe(query["token"][0])
    well_known = await provider.describe(card.token)
    assert (described.exp_month, described.exp_year) == (1, 2039)
    assert (described.brand, described.last4, described.funding) == (card.brand, card.number[-4:], card.funding)
    assert described.fingerprint == well_known.fingerprint


async def test_the_same_kind_of_card_of_another_holder_is_another_card(provider: SandboxVault) -> None:
    """So that what is counted by card can be tried with many customers."""
    own, hers, his = [await provider.describe(token) for token in ("tok_visa", "tok_visa__ada1", "tok_visa__bob")]
    assert len({own.fingerprint, hers.fingerprint, his.fingerprint}) == 3
    assert (own.last4, own.brand, own.funding) == (hers.last4, hers.brand, hers.funding)
    for wrong in ("tok_visa__Ada", "tok_nothing__ada", "tok_visa__ada__bob"):
        with pytest.raises(VaultError, match="404 unknown_token"):
            await provider.describe(wrong)


async def test_fingerprints_tell_cards_apart(provider: SandboxVault) -> None:
    fingerprints = {(await provider.describe(card.token)).fingerprint for card in CARDS}
    assert len(fingerprints) == len(CARDS)


@pytest.mark.parametrize("field", ["number", "expiry", "cvc", "name"])
async def test_a_number_that_is_no_test_card_is_neither_kept_nor_shown(
    http: httpx.AsyncClient, provider: SandboxVault, vault: Running, field: str
) -> None:
    typed = "4929 4212 3460 0821"
    answer = await submit(http, provider, **{"number": FOREIGN, field: typed})
    assert answer.status_code == 422
    assert "This is a sandbox: use a test card." in answer.text
    written = vault.text()
    for number in (FOREIGN, typed, typed.replace(" ", "")):
        assert number not in answer.text
        assert number not in str(answer.headers)
        assert number not in written


@pytest.mark.parametrize(
    "changes",
    [
        {"number": ""},
        {"number": "4242"},
        {"number": "４２４２４２４２４２４２４２４２"},
        {"number": "<script>alert(1)</script>"},
        {"expiry": "13/40"},
        {"expiry": "01/20"},
        {"expiry": "soon"},
        {"cvc": "1234"},
        {"cvc": ""},
        {"name": " "},
    ],
)
async def test_each_mistake_is_named_at_its_field(
    http: httpx.AsyncClient, provider: SandboxVault, changes: dict[str, str]
) -> None:
    answer = await submit(http, provider, **changes)
    assert answer.status_code == 422
    ((field, typed),) = changes.items()
    assert re.findall(r'<input id="(\w+)"[^>]* aria-invalid="true"', answer.text) == [field]
    assert f'href="#{field}"' in answer.text
    assert f'id="{field}-error"' in answer.text
    assert "<title>Error: " in answer.text
    assert "<script" not in answer.text
    assert not typed.strip() or typed not in re.sub(r"<code>.*?</code>", "", answer.text).replace(
        "4242 4242 4242 4242", ""
    )


async def test_the_page_fills_in_a_chosen_card_without_script(http: httpx.AsyncClient, provider: SandboxVault) -> None:
    page = (await provider.create_session(RETURN_URL)).url
    plain = await http.get(page)
    assert 'name="number" value=""' in plain.text
    assert 'href="?card=amex"' in plain.text
    chosen = await http.get(f"{page}?card=amex")
    assert 'name="number" value="3782 822463 10005"' in chosen.text
    assert 'name="cvc" value="1234"' in chosen.text


async def test_the_page_allows_itself_nothing_but_its_style_and_the_way_back(
    http: httpx.AsyncClient, provider: SandboxVault
) -> None:
    page = await http.get((await provider.create_session(RETURN_URL)).url)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self' https://shop.example;" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "<script" not in page.text
    assert " style=" not in page.text


@pytest.mark.parametrize("session_id", ["nonsense", "e30.AAAA", "%2e%2e", "é"])
async def test_a_session_that_this_vault_did_not_open_is_refused(http: httpx.AsyncClient, session_id: str) -> None:
    for answer in (await http.get(f"/capture/{session_id}"), await http.post(f"/capture/{session_id}", data=GOOD)):
        assert answer.status_code == 410
        assert "This page has expired" in answer.text


async def test_a_changed_session_is_refused(http: httpx.AsyncClient, provider: SandboxVault) -> None:
    page = (await provider.create_session(RETURN_URL)).url
    payload, signature = page.rsplit(".", 1)
    assert (await http.get(f"{payload}A.{signature}")).status_code == 410


@pytest.mark.parametrize(
    "return_url",
    [
        "javascript:alert(1)",
        "/relative",
        "ftp://shop.example/",
        "https://user@shop.example/",
        "https://shop.example;script-src *",
        "https://shop.example/" + "x" * 2000,
    ],
)
async def test_a_return_url_that_is_no_web_address_is_refused(provider: SandboxVault, return_url: str) -> None:
    with pytest.raises(VaultError, match="422 invalid_return_url"):
        await provider.create_session(return_url)


async def test_the_payer_sees_the_public_address(http: httpx.AsyncClient, vault: Running) -> None:
    config = SandboxVaultConfig(url=vault.url, public_url="https://vault.example/")
    session = await SandboxVault(config, VaultContext(http)).create_session(RETURN_URL)
    assert session.url.startswith("https://vault.example/capture/")
    assert session.expires_at.utcoffset() is not None


async def test_a_token_survives_a_kill_and_no_number_is_on_disk(own_vault: Running) -> None:
    async with httpx.AsyncClient() as http:
        provider = SandboxVault(SandboxVaultConfig(url=own_vault.url), VaultContext(http))
        page = (await provider.create_session(RETURN_URL)).url
        location = (await http.post(page, data=GOOD)).headers["Location"]
        token = parse_qs(urlsplit(location).query)["token"][0]
        before = await provider.describe(token)
        own_vault.kill()
        with (own_vault.folder / "data" / "tokens.jsonl").open("ab") as file:
            file.write(b'{"token":"tok_torn","ca')
        own_vault.start()
        assert await provider.describe(token) == before
        assert (await http.get(page)).status_code == 200  # the payer's open page works on
        await provider.delete(token)
        own_vault.kill()
        own_vault.start()
        with pytest.raises(VaultError, match="404 unknown_token"):
            await provider.describe(token)
    written = own_vault.text()
    assert '"card":"visa"' in written
    assert not [card for card in CARDS if card.number in written]


async def test_deleting_is_forgiving(provider: SandboxVault) -> None:
    await provider.delete("tok_unknown")
    await provider.delete("tok_visa")
    assert (await provider.describe("tok_visa")).last4 == "4242"


async def test_the_api_wants_its_key(http: httpx.AsyncClient, vault: Running) -> None:
    for method, path in (("POST", "/sessions"), ("GET", "/tokens/tok_visa"), ("DELETE", "/tokens/tok_visa")):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.headers["X-Vault-Error"]) == (401, "unauthorized")
    wrong = SandboxVault(SandboxVaultConfig(url=vault.url, api_key="wrong"), VaultContext(http))
    with pytest.raises(VaultError, match="401 unauthorized"):
        await wrong.describe("tok_visa")


async def test_a_vault_that_does_not_answer_is_an_error_of_the_vault(own_vault: Running) -> None:
    own_vault.kill()
    async with httpx.AsyncClient() as http:
        provider = SandboxVault(SandboxVaultConfig(url=own_vault.url), VaultContext(http))
        with pytest.raises(VaultError, match="could not be reached"):
            await provider.describe("tok_visa")
