"""The proxy fills in the card, passes everything else on unchanged, and says exactly what happened when it cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from clearspan_vault_sandbox import SandboxVault

if TYPE_CHECKING:
    from conftest import Running, Target

KEY = {"X-Vault-Authorization": "Bearer vk_sandbox"}


def card_fields(provider: SandboxVault, token: str) -> dict[str, str]:
    return {field: provider.placeholder(token, field) for field in ("number", "exp_month", "exp_year", "cvc")}


async def test_the_card_is_filled_in_and_the_rest_is_unchanged(
    http: httpx.AsyncClient, provider: SandboxVault, target: Target
) -> None:
    sent = {"card": card_fields(provider, "tok_amex"), "note": "{{not.a.token}} é", "amount": 1099}
    request = http.build_request(
        "POST",
        f"{target.url}/v1/a%2Fb/%7Bc%7D?x=%7E1",
        json=sent,
        headers={"Authorization": "Bearer of the psp", "Idempotency-Key": "k1"},
    )
    answer = await http.send(provider.proxy(request, "tok_amex"))
    assert (answer.status_code, answer.content) == (200, b"ok")
    ((head, body),) = target.received
    card = {"number": "378282246310005", "exp_month": "12", "exp_year": "2040", "cvc": "1234"}
    assert json.loads(body) == sent | {"card": card}
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/a%2Fb/%7Bc%7D?x=%7E1 HTTP/1.1"
    assert "authorization: Bearer of the psp" in lines
    assert "idempotency-key: k1" in lines
    assert [line for line in lines if line.lower().startswith("host:")] == [
        f"Host: {target.url.removeprefix('http://')}"
    ]
    assert "x-vault" not in head.decode().lower()
    assert "vk_sandbox" not in head.decode()


async def test_numbers_and_forms_take_placeholders_too(
    http: httpx.AsyncClient, provider: SandboxVault, target: Target
) -> None:
    headers = KEY | {"X-Vault-Target": target.url}
    await http.post("/forward", content=b'{"m":{{tok_visa.exp_month}}}', headers=headers)
    await http.post("/forward", data={"card[number]": provider.placeholder("tok_visa", "number")}, headers=headers)
    assert [body for _, body in target.received] == [b'{"m":12}', b"card%5Bnumber%5D=4242424242424242"]


async def test_the_answer_comes_back_as_it_is(http: httpx.AsyncClient, provider: SandboxVault, target: Target) -> None:
    target.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nX-Request-Id: 7\r\nX-Vault-Error: forged\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    answer = await http.send(provider.proxy(http.build_request("GET", target.url), "tok_visa"))
    assert (answer.status_code, answer.content) == (302, b"abc")
    assert answer.headers["Location"] == "/elsewhere"
    assert answer.headers["X-Request-Id"] == "7"
    assert answer.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert "X-Vault-Error" not in answer.headers
    assert len(target.received) == 1  # the redirect was not followed


async def test_an_unknown_token_stops_the_request(
    http: httpx.AsyncClient, provider: SandboxVault, target: Target
) -> None:
    request = http.build_request("POST", target.url, json=card_fields(provider, "tok_forgotten"))
    answer = await http.send(provider.proxy(request, "tok_forgotten"))
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (422, "unknown_token")
    assert answer.json()["error"]["code"] == "unknown_token"
    assert target.received == []


async def test_a_refused_connection_is_unreachable(http: httpx.AsyncClient, target: Target) -> None:
    await target.close()
    answer = await http.post("/forward", content=b"{}", headers=KEY | {"X-Vault-Target": target.url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (502, "target_unreachable")


async def test_an_allowed_target_that_is_down_is_unreachable(own_vault: Running) -> None:
    headers = KEY | {"X-Vault-Target": "http://127.0.0.1:9/x"}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{own_vault.url}/forward", content=b"{}", headers=headers)
    assert answer.headers["X-Vault-Error"] == "target_unreachable"


async def test_no_answer_is_a_timeout(http: httpx.AsyncClient, target: Target) -> None:
    target.answer = None
    answer = await http.post("/forward", content=b"{}", headers=KEY | {"X-Vault-Target": target.url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (504, "target_timeout")
    assert len(target.received) == 1


async def test_a_connection_that_breaks_after_sending_is_not_called_unreachable(
    http: httpx.AsyncClient, target: Target
) -> None:
    target.answer = b""
    answer = await http.post("/forward", content=b"{}", headers=KEY | {"X-Vault-Target": target.url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (502, "target_broken")
    assert len(target.received) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_an_answer_that_breaks_off_breaks_off_for_the_caller(
    http: httpx.AsyncClient, target: Target, answer: bytes
) -> None:
    target.answer = answer
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post("/forward", content=b"{}", headers=KEY | {"X-Vault-Target": target.url})


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("", 400, "bad_request"),
        ("ftp://127.0.0.1/", 400, "bad_request"),
        ("http://user@127.0.0.1/", 400, "bad_request"),
        ("http://127.0.0.1:99999/", 400, "bad_request"),
        ("http://169.254.169.254/latest", 403, "target_not_allowed"),
        ("http://example.com/", 403, "target_not_allowed"),
        ("http://2130706433/", 403, "target_not_allowed"),
        ("http://127.0.0.1.example.com/", 403, "target_not_allowed"),
    ],
)
async def test_a_target_that_is_not_allowed_is_refused(
    http: httpx.AsyncClient, url: str, status: int, code: str
) -> None:
    answer = await http.post("/forward", content=b"{}", headers=KEY | {"X-Vault-Target": url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (status, code)


async def test_with_a_list_only_its_origins_are_allowed(own_vault: Running, target: Target) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{own_vault.url}/forward", headers=KEY | {"X-Vault-Target": target.url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (403, "target_not_allowed")
    assert target.received == []


async def test_forwarding_wants_the_vaults_key(http: httpx.AsyncClient, target: Target) -> None:
    headers = {"X-Vault-Target": target.url, "Authorization": "Bearer vk_sandbox"}
    answer = await http.post("/forward", headers=headers)
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (401, "unauthorized")
    assert target.received == []


async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient, target: Target) -> None:
    answer = await http.post("/forward", content=b"x" * 1_000_001, headers=KEY | {"X-Vault-Target": target.url})
    assert (answer.status_code, answer.headers["X-Vault-Error"]) == (413, "too_large")


async def test_a_proxied_request_keeps_its_time_limits(http: httpx.AsyncClient, provider: SandboxVault) -> None:
    request = http.build_request("POST", "http://psp.example/", content=b"{}", timeout=1.5)
    assert provider.proxy(request, "tok_visa").extensions == request.extensions
