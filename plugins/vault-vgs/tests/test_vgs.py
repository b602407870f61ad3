"""VGS: the gateway sees no card, the PSP gets the true one through the tunnel; what fails before it is told from after."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan.platform import outbound
from clearspan_vault_vgs import VgsVault

NUMBER = "4242424242424242"
NOBODY = "tok_sandbox_nobodynobody11.tok_sandbox_nobodynobody22.032031.visa.4242"
Psp = Any  # Of conftest.py.
Vgs = Any


async def alias(vgs: Vgs, value: str, storage: str) -> str:
    credentials = ("USsandbox", "7d2f3a51-sandbox")
    body = {"data": [{"value": value, "format": "UUID", "storage": storage, "classifiers": []}]}
    async with httpx.AsyncClient(trust_env=False) as browser:
        made = await browser.post(f"{vgs.url}/aliases", json=body, auth=credentials)
    assert made.status_code == 201, made.text
    return str(made.json()["data"][0]["aliases"][0]["alias"])


async def card(vgs: Vgs, number: str = NUMBER, brand: str = "visa") -> str:
    """A token, as the capture page makes it."""
    first, second = await alias(vgs, number, "PERSISTENT"), await alias(vgs, "737", "VOLATILE")
    return f"{first}.{second}.032031.{brand}.{number[-4:]}"


def charge(vault: VgsVault, token: str) -> dict[str, str]:
    return {field: vault.placeholder(token, field) for field in ("number", "exp_month", "exp_year", "cvc")}


def request(client: httpx.AsyncClient, psp: Psp, token: str, **body: Any) -> httpx.Request:
    url = body.pop("url", psp.url)
    return client.build_request("POST", f"{url}/v1/charges", extensions={"vault_token": token}, **body)


async def fault(vgs: Vgs, name: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as control:
        await control.post(f"{vgs.url}/_control/next", json={"fault": name})


@pytest.fixture(autouse=True)
async def as_described(vgs: Vgs) -> Any:
    """No test may send what the published description does not allow."""
    yield
    async with httpx.AsyncClient(trust_env=False) as control:
        assert (await control.get(f"{vgs.url}/_control/problems")).json() == []


async def test_the_page_gets_ids_and_no_secret(vgs: Vgs, vault: VgsVault) -> None:
    page = await vault.create_session("https://shop.example/back")
    assert page.data == {"vault_id": "tntsandbox", "environment": "sandbox", "route_id": "r1"}
    assert page.scripts[0].url == "https://js.verygoodvault.com/vgs-collect/3.2.2/vgs-collect.js"
    assert page.frames == ["https://js.verygoodvault.com"]


async def test_a_card_is_described_from_the_token_once_the_vault_knows_the_alias(vgs: Vgs, vault: VgsVault) -> None:
    token = await card(vgs)
    found = await vault.describe(token)
    assert (found.brand, found.last4, found.exp_month, found.exp_year) == ("visa", "4242", 3, 2031)
    assert found.fingerprint == (await vault.describe(await card(vgs))).fingerprint
    other = await card(vgs, "378282246310005", "americanexpress")
    assert (await vault.describe(other)).brand == "amex"
    assert found.fingerprint != (await vault.describe(other)).fingerprint
    with pytest.raises(sdk.VaultError, match="does not know this alias"):
        await vault.describe(NOBODY)


@pytest.mark.parametrize("kind", ["json", "form", "without TLS"])
async def test_the_psp_gets_the_true_card_through_the_tunnel(
    vgs: Vgs, vault: VgsVault, through: httpx.AsyncClient, psp: Psp, kind: str
) -> None:
    token = await card(vgs)
    fields = charge(vault, token)
    assert NUMBER not in fields.values()
    true = {"number": NUMBER, "exp_month": "03", "exp_year": "2031", "cvc": "737"}
    for _ in range(2):  # The second goes over the same tunnel.
        if kind == "form":
            form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": "Bearer s"}
            sent = request(through, psp, token, content=urlencode(fields), headers=form)
        else:
            url = psp.plain_url if kind == "without TLS" else psp.url
            sent = request(through, psp, token, json=fields, url=url)
        assert (await sdk.send(through, sent)).body == {"id": "ch1"}
        head, body = psp.received.pop()
        assert head.startswith("POST /v1/charges HTTP/1.1")
        assert "proxy-authorization" not in head.lower()
        got = {name: one[0] for name, one in parse_qs(body).items()} if kind == "form" else json.loads(body)
        assert got == true
    assert psp.received == []


async def test_what_has_no_card_does_not_go_through_the_tunnel(vgs: Vgs, through: httpx.AsyncClient, psp: Psp) -> None:
    await fault(vgs, "refuse_connect")
    answer = await sdk.send(through, through.build_request("GET", f"{psp.plain_url}/v1/charges/1"))
    assert answer.status == 200
    await fault(vgs, "")


@pytest.mark.parametrize(
    ("status", "raised"),
    [(402, None), (400, None), (401, sdk.PspMisconfigured), (500, sdk.OutcomeUnknown), (502, sdk.OutcomeUnknown)],
)
async def test_what_the_psp_answers_is_the_psps_answer(
    vgs: Vgs, vault: VgsVault, through: httpx.AsyncClient, psp: Psp, status: int, raised: type[Exception] | None
) -> None:
    psp.answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    token = await card(vgs)
    sent = request(through, psp, token, json=charge(vault, token))
    if raised is None:
        assert (await sdk.send(through, sent)).status == status
    else:
        with pytest.raises(raised, match="the PSP answered"):
            await sdk.send(through, sent)
    assert len(psp.received) == 1


@pytest.mark.parametrize(
    ("name", "raised", "sent"),
    [
        ("refuse_connect", sdk.PspUnavailable, 0),
        ("drop_connect", sdk.PspUnavailable, 0),
        ("hang_connect", sdk.PspUnavailable, 0),
        ("error_before", sdk.OutcomeUnknown, 0),
        ("error_after", sdk.OutcomeUnknown, 1),
        ("other_status", sdk.OutcomeUnknown, 1),
        ("drop_after", sdk.OutcomeUnknown, 1),
        ("hang_after", sdk.OutcomeUnknown, 1),
    ],
)
async def test_before_the_tunnel_stands_nothing_was_sent_and_after_it_the_outcome_is_unknown(
    vgs: Vgs, vault: VgsVault, through: httpx.AsyncClient, psp: Psp, name: str, raised: type[Exception], sent: int
) -> None:
    psp.answer = b"HTTP/1.1 402 X\r\nContent-Length: 2\r\n\r\n{}"
    token = await card(vgs)
    await fault(vgs, name)
    with pytest.raises(raised):
        await sdk.send(through, request(through, psp, token, json=charge(vault, token)))
    assert len(psp.received) == sent


@pytest.mark.parametrize("kind", ["https", "http"])
async def test_a_wrong_password_is_not_sent_and_says_what_to_do(
    vgs: Vgs, http: httpx.AsyncClient, psp: Psp, kind: str
) -> None:
    vault = VgsVault(vgs.config(password="wrong-secret"), sdk.VaultContext(http))
    token = await card(vgs)
    async with outbound.client(2, 2, vault=vault) as through:
        url = psp.url if kind == "https" else psp.plain_url
        with pytest.raises(sdk.PspMisconfigured, match="407") as caught:
            await sdk.send(through, request(through, psp, token, json=charge(vault, token), url=url))
    assert "wrong-secret" not in repr(caught.value)
    assert psp.received == []
    with pytest.raises(sdk.VaultUnavailable, match="user name and password"):
        await vault.describe(token)
    with pytest.raises(sdk.VaultUnavailable):
        await vault.delete(token)


async def test_a_certificate_that_the_settings_do_not_name_is_not_trusted(
    vgs: Vgs, http: httpx.AsyncClient, psp: Psp, identity: Any
) -> None:
    pem = identity.read_text()
    other = pem[pem.index("-----BEGIN CERTIFICATE") :]
    vault = VgsVault(vgs.config(ca=other), sdk.VaultContext(http))
    token = await card(vgs)
    async with outbound.client(2, 2, vault=vault) as through:
        with pytest.raises(sdk.PspUnavailable, match="no tunnel"):
            await sdk.send(through, request(through, psp, token, json=charge(vault, token)))
    assert psp.received == []


def test_a_certificate_cut_short_is_refused_at_the_start(vgs: Vgs) -> None:
    with pytest.raises(ValueError, match="ca is no certificate"):
        vgs.config(ca=vgs.ca[:200])


async def test_a_vault_that_is_away_is_not_sent(vgs: Vgs, http: httpx.AsyncClient, psp: Psp) -> None:
    away = "http://127.0.0.1:1"
    vault = VgsVault(vgs.config(url=away, proxy_url=away), sdk.VaultContext(http))
    async with outbound.client(2, 2, vault=vault) as through:
        for url in (psp.url, psp.plain_url):
            with pytest.raises(sdk.PspUnavailable):
                await sdk.send(through, request(through, psp, NOBODY, json={}, url=url))
    with pytest.raises(sdk.VaultUnavailable, match="could not be reached"):
        await vault.describe(NOBODY)


async def test_an_alias_nobody_knows_reaches_the_psp_as_it_is_and_no_number(
    vault: VgsVault, through: httpx.AsyncClient, psp: Psp
) -> None:
    """VGS says nothing about it: the PSP refuses the number. Making the payment method has refused it before."""
    await sdk.send(through, request(through, psp, NOBODY, json=charge(vault, NOBODY)))
    assert json.loads(psp.received[0][1])["number"] == "tok_sandbox_nobodynobody11"


async def test_deleting_twice_is_no_error(vgs: Vgs, vault: VgsVault) -> None:
    token = await card(vgs, "5555555555554444", "mastercard")
    await vault.delete(token)
    await vault.delete(token)
    with pytest.raises(sdk.VaultError):
        await vault.describe(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "tok_visa",
        NUMBER,
        NOBODY.replace("032031", "132031"),
        NOBODY.replace("visa", "visa<"),
        f"{NOBODY}\n",
        f'{NOBODY}","a":"',
    ],
)
async def test_what_the_capture_page_never_made_reaches_no_address_and_no_body(vault: VgsVault, token: str) -> None:
    with pytest.raises(sdk.VaultError):
        vault.placeholder(token, "number")
    with pytest.raises(sdk.VaultError):
        await vault.describe(token)
