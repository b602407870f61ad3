"""Whoever has no valid key, or a key without the scope, gets nothing but a refusal, on every route there is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.conftest import Route, routes_of

from clearspan.access.keys import SCOPES, new_key
from clearspan.platform import clock, ids

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewClient, NewMerchant

    from clearspan.access.service import ApiKeys
    from clearspan.app import Gateway
    from clearspan.platform.gate import AsgiApp

NOBODY = "01h455vb4pex5vsknk084sn02q"


def guarded(app: AsgiApp) -> list[Route]:
    routes = [route for route in routes_of(app) if route.scope != "public"]
    assert len(routes) >= 28
    return routes


async def ask(client: httpx.AsyncClient, route: Route, **headers: str) -> httpx.Response:
    path = route.template.format(**dict.fromkeys(route.names, f"x_{NOBODY}"))
    body = b"{}" if route.takes_body else None
    headers |= {"Content-Type": "application/json", "Idempotency-Key": clock.new_uuid().hex}
    return await client.request(route.method, path, headers=headers, content=body)


def mistyped(key: str) -> str:
    """One character of the secret is another."""
    return key[:30] + ("0" if key[30] != "0" else "1") + key[31:]


@pytest.fixture
async def bad_authorizations(
    merchant: Merchant, new_merchant: NewMerchant, api_keys: ApiKeys, superuser: Any
) -> dict[str, str]:
    """Headers that are no key, or not any more."""
    expiring = await new_merchant(of=merchant, expires_at=clock.now() + timedelta(hours=1))
    await superuser.execute(
        "UPDATE api_keys SET expires_at = $1 WHERE key_id = $2", clock.now(), expiring.caller.key_id
    )
    revoked = await new_merchant(of=merchant)
    assert revoked.caller.key_id is not None
    await api_keys.revoke(merchant.caller, revoked.caller.key_id)
    suspended = await new_merchant()
    await superuser.execute(
        "UPDATE tenants SET status = 'suspended' WHERE tenant_id = $1", suspended.caller.scope.tenant_id
    )
    key = merchant.key
    return {
        "none": "",
        "no scheme": key,
        "another scheme": f"Basic {key}",
        "nothing behind the scheme": "Bearer",
        "a typo": f"Bearer {mistyped(key)}",
        "cut short": f"Bearer {key[:-1]}",
        "in capitals": f"Bearer {key.upper()}",
        "of the other mode": f"Bearer {key.replace('csk_test_', 'csk_live_')}",
        "made up": f"Bearer {new_key(live=False).text}",
        "two keys": f"Bearer {key} {key}",
        "expired": f"Bearer {expiring.key}",
        "revoked": f"Bearer {revoked.key}",
        "of a suspended tenant": f"Bearer {suspended.key}",
        "very long": "Bearer " + "a" * 5000,
    }


async def test_without_a_valid_key_every_route_answers_401(
    app: AsgiApp, anonymous: httpx.AsyncClient, bad_authorizations: dict[str, str]
) -> None:
    for route in guarded(app):
        for what, authorization in bad_authorizations.items():
            answer = await ask(anonymous, route, **({"Authorization": authorization} if authorization else {}))
            assert (answer.status_code, answer.json()["code"]) == (401, "api_key_invalid"), f"{what} on {route}"
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"


async def test_all_refusals_of_a_key_look_the_same(
    anonymous: httpx.AsyncClient, bad_authorizations: dict[str, str]
) -> None:
    """Nobody learns which part of a key was right."""
    problems = []
    for authorization in bad_authorizations.values():
        answer = await anonymous.get("/v1/tenant", headers={"Authorization": authorization} if authorization else {})
        problems.append({name: value for name, value in answer.json().items() if name != "request_id"})
    assert [problem for problem in problems if problem != problems[0]] == []


async def test_without_its_scope_a_key_gets_403_on_every_route(
    app: AsgiApp, merchant: Merchant, new_merchant: NewMerchant, new_client: NewClient
) -> None:
    routes = [route for route in guarded(app) if route.scope != "any"]
    for scope in {route.scope for route in routes}:
        client = await new_client(await new_merchant(of=merchant, scopes=frozenset(SCOPES) - {scope}))
        for route in routes:
            answer = await ask(client, route) if route.scope == scope else None
            assert answer is None or (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), route
            assert answer is None or scope in answer.json()["detail"]


async def test_every_scope_opens_some_route(app: AsgiApp) -> None:
    assert {route.scope for route in guarded(app)} == {*SCOPES, "any"}


async def test_a_key_in_the_url_is_refused_before_it_is_looked_at(
    client: httpx.AsyncClient, merchant: Merchant
) -> None:
    for query in (f"api_key={merchant.key}", f"{merchant.key}", f"limit=1&x=a{mistyped(merchant.key)}"):
        answer = await client.get(f"/v1/tenant?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "api_key_in_url")


async def test_the_scheme_may_be_written_in_any_case(anonymous: httpx.AsyncClient, merchant: Merchant) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await anonymous.get("/v1/tenant", headers={"Authorization": f"{scheme} {merchant.key}"})
        assert answer.status_code == 200


async def test_a_key_tells_whose_it_is(
    client: httpx.AsyncClient, live_client: httpx.AsyncClient, merchant: Merchant
) -> None:
    for each, live in ((client, False), (live_client, True)):
        tenant = (await each.get("/v1/tenant")).json()
        assert tenant["id"] == ids.encode("ten", merchant.caller.scope.tenant_id)
        assert (tenant["object"], tenant["slug"], tenant["live"]) == ("tenant", merchant.caller.tenant, live)
        assert tenant["status"] == "active"


async def test_when_a_key_was_last_used_is_stored_outside_the_request(
    gateway: Gateway, client: httpx.AsyncClient, merchant: Merchant
) -> None:
    fresh = (await client.get(f"/v1/api-keys/{merchant.caller.actor_id}")).json()
    await gateway.authenticator.write_uses()
    used = (await client.get(f"/v1/api-keys/{merchant.caller.actor_id}")).json()
    assert fresh["last_used_at"] is None
    assert used["last_used_at"] is not None
