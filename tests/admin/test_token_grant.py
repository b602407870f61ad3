"""Whoever signs in to the cockpit gets tokens for the API with the same password and code, under the same limits."""

from __future__ import annotations

import httpx
from tests.admin.test_signing import PASSWORD, Someone, someone
from tests.conftest import Merchant, NewClient

from clearspan.app import Gateway


async def ask(http: httpx.AsyncClient, who: Someone, password: str = PASSWORD, code: str = "") -> httpx.Response:
    """The password grant."""
    return await http.post(
        "/oauth/token",
        data={"grant_type": "password", "username": who.operator.email, "password": password, "otp": code},
    )


async def test_password_and_code_give_a_token_that_does_what_the_role_may(
    gateway: Gateway, merchant: Merchant, new_client: NewClient
) -> None:
    who, http = await someone(gateway, merchant, "finance", codes=True), await new_client()
    code = who.code()
    given = await ask(http, who, code=code)
    assert given.status_code == 200, given.text
    token = given.json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert (await http.get("/v1/payments", headers=headers)).status_code == 200
    assert (await http.get("/v1/api-keys", headers=headers)).status_code == 200
    refused = await http.post("/v1/api-keys", headers=headers, json={"name": "x", "scopes": ["payments:read"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert (await ask(http, who, code=code)).json()["error"] == "invalid_grant", "a code works once"


async def test_without_the_code_or_with_a_wrong_password_there_is_none(
    gateway: Gateway, merchant: Merchant, new_client: NewClient
) -> None:
    who, http = await someone(gateway, merchant, "support", codes=True), await new_client()
    for answer in (await ask(http, who), await ask(http, who, "another password", who.code())):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert (await ask(http, who, code=who.code())).status_code == 200


async def test_the_limit_of_the_sign_in_page_holds_here_too(
    gateway: Gateway, merchant: Merchant, new_client: NewClient
) -> None:
    who, http = await someone(gateway, merchant), await new_client()
    for _ in range(gateway.settings.access.sign_in_tries_max):
        await ask(http, who, "wrong")
    locked = await ask(http, who)
    assert locked.status_code == 429
    assert int(locked.headers["retry-after"]) > 0
