"""The API keys' routes: what they take, and what they show of a key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from clearspan.access.keys import SCOPES

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewClient, NewMerchant

BODY: dict[str, Any] = {"name": "shop backend", "scopes": ["payments:read", "customers:read"]}


async def made(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/api-keys", json=BODY | body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def bearer(key: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['secret']}"}


async def test_a_made_key_works_and_its_secret_is_never_shown_again(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    key = await made(client, expires_at="2099-01-01T00:00:00+01:00")
    assert key["scopes"] == ["customers:read", "payments:read"]
    assert (key["object"], key["live"], key["status"], key["expires_at"]) == (
        "api_key",
        False,
        "active",
        "2098-12-31T23:00:00Z",
    )
    assert (await anonymous.get("/v1/customers", headers=bearer(key))).status_code == 200
    assert (await anonymous.post("/v1/customers", json={}, headers=bearer(key))).status_code == 403
    shown = {name: value for name, value in key.items() if name != "secret"}
    assert (await client.get(f"/v1/api-keys/{key['id']}")).json() == shown
    assert shown in (await client.get("/v1/api-keys")).json()["data"]
    assert key["secret"] not in (await client.get("/v1/api-keys")).text


async def test_a_repeated_creation_has_no_secret(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "make-key"}
    answers = await asyncio.gather(*(client.post("/v1/api-keys", json=BODY, headers=headers) for _ in range(5)))
    bodies = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {201}
    assert len({body["id"] for body in bodies}) == 1
    assert [body["secret"] is None for body in bodies].count(False) == 1


async def test_rotation_hands_over_to_a_new_key(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    old = await made(client)
    answer = await client.post(f"/v1/api-keys/{old['id']}/rotate", headers={"Idempotency-Key": "rotate"})
    assert answer.status_code == 201
    new = answer.json()
    assert (new["rotated_from"], new["name"], new["scopes"]) == (old["id"], old["name"], old["scopes"])
    for key in (old, new):
        assert (await anonymous.get("/v1/customers", headers=bearer(key))).status_code == 200
    assert (await client.get(f"/v1/api-keys/{old['id']}")).json()["expires_at"] is not None
    again = await client.post(f"/v1/api-keys/{old['id']}/rotate", headers={"Idempotency-Key": "rotate"})
    assert again.json() == new | {"secret": None}
    twice = await client.post(f"/v1/api-keys/{old['id']}/rotate", headers={"Idempotency-Key": "rotate-again"})
    assert (twice.status_code, twice.json()["code"]) == (409, "api_key_already_rotated")


async def test_revocation_is_immediate_and_repeatable(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    key = await made(client)
    assert (await anonymous.get("/v1/customers", headers=bearer(key))).status_code == 200
    revoked = await client.delete(f"/v1/api-keys/{key['id']}")
    assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
    assert (await anonymous.get("/v1/customers", headers=bearer(key))).status_code == 401
    assert (await client.delete(f"/v1/api-keys/{key['id']}")).json() == revoked.json()
    rotated = await client.post(f"/v1/api-keys/{key['id']}/rotate")
    assert (rotated.status_code, rotated.json()["code"]) == (409, "api_key_not_active")


async def test_a_key_can_revoke_itself(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    key = await made(client, scopes=["api_keys:write"])
    assert (await anonymous.delete(f"/v1/api-keys/{key['id']}", headers=bearer(key))).status_code == 200
    assert (await anonymous.delete(f"/v1/api-keys/{key['id']}", headers=bearer(key))).status_code == 401


async def test_a_key_gives_no_scope_that_it_lacks(
    merchant: Merchant, new_merchant: NewMerchant, new_client: NewClient, client: httpx.AsyncClient
) -> None:
    weak = await new_client(await new_merchant(of=merchant, scopes=frozenset({"api_keys:write", "payments:read"})))
    assert (await weak.post("/v1/api-keys", json=BODY | {"scopes": ["payments:read"]})).status_code == 201
    strong = await made(client, scopes=list(SCOPES))
    for refused in (
        await weak.post("/v1/api-keys", json=BODY),
        await weak.post(f"/v1/api-keys/{strong['id']}/rotate"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (403, "api_key_scopes_exceeded")
        assert "customers:read" in refused.json()["scopes"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"name": "n"}, "$"),
        (BODY | {"scopes": []}, "$.scopes"),
        (BODY | {"scopes": ["payments:everything"]}, "$.scopes[0]"),
        (BODY | {"scopes": ["payments:read\n"]}, "$.scopes[0]"),
        (BODY | {"scopes": "payments:read"}, "$.scopes"),
        (BODY | {"scopes": ["payments:read"] * (len(SCOPES) + 1)}, "$.scopes"),
        (BODY | {"name": ""}, "$.name"),
        (BODY | {"name": "n" * 201}, "$.name"),
        (BODY | {"name": "a\x00b"}, "$.name"),
        (BODY | {"expires_at": "2020-01-01T00:00:00Z"}, "$.expires_at"),
        (BODY | {"expires_at": "2099-01-01T00:00:00"}, "$.expires_at"),
        (BODY | {"expires_at": "tomorrow"}, "$.expires_at"),
        (BODY | {"expires_at": 4070908800}, "$.expires_at"),
        (BODY | {"live": True}, "$"),
    ],
)
async def test_a_wrong_field_is_named_and_makes_no_key(
    client: httpx.AsyncClient, body: dict[str, Any], path: str
) -> None:
    refused = await client.post("/v1/api-keys", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
    assert refused.json()["errors"][0]["path"] == path
    assert len((await client.get("/v1/api-keys")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b'{"name": "a",}', "application/json", 400, "malformed_json"),
        (b"\xff", "application/json", 400, "malformed_json"),
        (b"", "application/json", 422, "invalid_request"),
        (b"null", "application/json", 422, "invalid_request"),
        (b"name=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
    ],
)
async def test_what_is_not_json_is_refused(
    client: httpx.AsyncClient, content: bytes, content_type: str, status: int, code: str
) -> None:
    refused = await client.post("/v1/api-keys", content=content, headers={"Content-Type": content_type})
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


@pytest.mark.parametrize(
    "key_id",
    ["key_", "nonsense", "pay_01h455vb4pex5vsknk084sn02q", "key_01h455vb4pex5vsknk084sn02q", "key_" + "z" * 26],
)
async def test_an_id_of_no_key_is_not_found(client: httpx.AsyncClient, key_id: str) -> None:
    for refused in (
        await client.get(f"/v1/api-keys/{key_id}"),
        await client.post(f"/v1/api-keys/{key_id}/rotate"),
        await client.delete(f"/v1/api-keys/{key_id}"),
    ):
        assert refused.status_code == 404, refused.text


@pytest.mark.parametrize("key", ["", " ", "two words", "k" * 256, "clé"])
async def test_a_malformed_idempotency_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    refused = await client.post("/v1/api-keys", json=BODY, headers={b"Idempotency-Key": key.encode()})
    assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_malformed")
