"""Authlib, an OAuth client that we did not write, gets, uses, refreshes and revokes tokens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from authlib.deprecate import AuthlibDeprecationWarning
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from tests.conftest import BASE_URL
from tests.core.access.persons import PASSWORD, Door, code_of, person

from clearspan.platform import ids

with warnings.catch_warnings():
    # It would rather have a successor of httpx.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.base_client.errors import OAuthError
    from authlib.integrations.httpx_client import AsyncOAuth2Client

if TYPE_CHECKING:
    from tests.conftest import Merchant

    from clearspan.app import Gateway
    from clearspan.platform.gate import AsgiApp

TOKEN = f"{BASE_URL}/oauth/token"


def client(app: AsgiApp, **given: Any) -> AsyncOAuth2Client:
    return AsyncOAuth2Client(transport=httpx.ASGITransport(app=app), base_url=BASE_URL, token_endpoint=TOKEN, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post"])
async def test_client_credentials(app: AsgiApp, merchant: Merchant, way: str) -> None:
    assert merchant.caller.key_id is not None
    name = ids.encode("key", merchant.caller.key_id)
    async with client(app, client_id=name, client_secret=merchant.key, token_endpoint_auth_method=way) as http:
        token = await http.fetch_token(TOKEN, grant_type="client_credentials", scope="payments:read")
        assert (token["scope"], token["token_type"]) == ("payments:read", "Bearer")
        assert (await http.get("/v1/payments")).status_code == 200
        assert (await http.get("/v1/invoices")).status_code == 403
    async with client(app, client_id=name, client_secret=merchant.key + "x", token_endpoint_auth_method=way) as http:
        with pytest.raises(OAuthError, match="invalid_client"):
            await http.fetch_token(TOKEN, grant_type="client_credentials")


async def test_password_refresh_and_revocation(app: AsgiApp, merchant: Merchant, gateway: Gateway) -> None:
    gateway.oauth.people = Door(gateway.operators)
    finance = await person(gateway.operators, merchant.caller, "finance")
    async with client(app, client_id="my-script", token_endpoint_auth_method="none") as http:
        first = await http.fetch_token(TOKEN, username=finance.email, password=PASSWORD, otp=code_of(finance))
        assert (await http.get("/v1/payments")).status_code == 200
        second = await http.refresh_token(TOKEN, refresh_token=first["refresh_token"])
        assert second["refresh_token"] != first["refresh_token"]
        # By itself, when the token has expired.
        http.token = dict(second) | {"expires_at": 1, "expires_in": -1}
        assert (await http.get("/v1/payments")).status_code == 200
        assert http.token["refresh_token"] != second["refresh_token"]
        answer = await http.revoke_token(f"{BASE_URL}/oauth/revoke", token=http.token["refresh_token"])
        assert answer.status_code == 200
        gateway.authenticator.forget()
        assert (await http.get("/v1/payments")).status_code == 401
        with pytest.raises(OAuthError, match="invalid_grant"):
            await http.refresh_token(TOKEN, refresh_token=http.token["refresh_token"])


async def test_the_metadata_is_valid(app: AsgiApp, anonymous: httpx.AsyncClient) -> None:
    found = (await anonymous.get("/.well-known/oauth-authorization-server")).json()
    # The tests' gateway has no TLS, which the standard demands and a proxy brings.
    text = {
        name: value.replace("http:", "https:") if isinstance(value, str) else value for name, value in found.items()
    }
    # There is no authorization endpoint, so no response type; Authlib takes an empty list for a missing one.
    assert text.pop("response_types_supported") == []
    AuthorizationServerMetadata(text | {"response_types_supported": ["none"]}).validate()
