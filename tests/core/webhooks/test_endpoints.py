"""Webhook endpoints: made, changed, and their secrets seen once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from standardwebhooks.webhooks import Webhook
from tests.core.webhooks.conftest import Consumer, Happen, NewHook, Works
from tests.shop import code, new_key

if TYPE_CHECKING:
    from tests.conftest import Merchant

ENDPOINTS = "/v1/webhook-endpoints"


async def test_a_new_endpoint_is_shown_with_its_secret_once(
    client: httpx.AsyncClient, consumer: Consumer, superuser: asyncpg.Connection[asyncpg.Record], merchant: Merchant
) -> None:
    body = {"url": f"{consumer.url}/hook/x", "events": ["payment.*", "refund.succeeded"], "description": "shop"}
    key = {"Idempotency-Key": new_key()}
    made = await client.post(ENDPOINTS, json=body, headers=key)
    assert made.status_code == 201, made.text
    endpoint = made.json()
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_")
    assert endpoint["id"].startswith("we_")
    assert {name: endpoint[name] for name in body} == body
    assert (endpoint["status"], endpoint["api_version"], endpoint["sequence"]) == ("enabled", "v1", 1)

    again = await client.post(ENDPOINTS, json=body, headers=key)
    assert again.json() == endpoint | {"secret": None}
    await client.patch(f"{ENDPOINTS}/{endpoint['id']}", json={"description": "web shop"})
    everywhere = ""
    for path in (f"{ENDPOINTS}/{endpoint['id']}", ENDPOINTS, "/v1/events", "/v1/audit"):
        everywhere += (await client.get(path)).text
    assert "web shop" in everywhere
    assert "whsec_" not in everywhere
    assert secret.removeprefix("whsec_") not in everywhere
    stored = await superuser.fetch(
        "SELECT e::text AS row FROM webhook_endpoints e WHERE tenant_id = $1 UNION ALL"
        " SELECT encode(body, 'escape') FROM idempotency_keys WHERE tenant_id = $1",
        merchant.caller.scope.tenant_id,
    )
    assert len(stored) >= 2
    assert not any("whsec_" in (row["row"] or "") for row in stored)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://shop.example/hook", "https"),
        ("https://10.0.0.1/hook", "public internet"),
        ("https://169.254.169.254/latest", "public internet"),
        ("https://user:secret@93.184.216.34/", "credentials"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://93.184.216.34:22/", "port 22"),
    ],
)
async def test_an_address_inside_is_refused_when_made_and_when_changed(
    client: httpx.AsyncClient, new_hook: NewHook, url: str, words: str
) -> None:
    hook = await new_hook()
    made = await client.post(ENDPOINTS, json={"url": url, "events": ["*"]})
    for answer in (made, await hook.patch(url=url)):
        assert code(answer) == (422, "webhook_url_refused")
        assert words in answer.json()["detail"]


@pytest.mark.parametrize("events", [[], ["payment"], ["payment."], ["*.captured"], ["Payment.*"], ["payment.*\n"], [1]])
async def test_what_is_no_pattern_of_types_is_refused(
    client: httpx.AsyncClient, consumer: Consumer, events: Any
) -> None:
    answer = await client.post(ENDPOINTS, json={"url": f"{consumer.url}/hook/x", "events": events})
    assert code(answer) == (422, "invalid_request")


async def test_there_are_at_most_twenty_of_them_also_when_all_are_made_at_once(
    client: httpx.AsyncClient, live_client: httpx.AsyncClient, consumer: Consumer
) -> None:
    body = {"url": f"{consumer.url}/hook/x", "events": ["*"]}
    answers = await asyncio.gather(*(client.post(ENDPOINTS, json=body) for _ in range(24)))
    assert sorted(answer.status_code for answer in answers) == [201] * 20 + [409] * 4
    assert code(next(one for one in answers if one.status_code == 409)) == (409, "too_many_webhook_endpoints")
    assert (await live_client.post(ENDPOINTS, json=body)).status_code == 201, "each mode has its own"
    gone = next(one for one in answers if one.status_code == 201).json()["id"]
    assert (await client.delete(f"{ENDPOINTS}/{gone}")).json()["status"] == "deleted"
    assert (await client.post(ENDPOINTS, json=body)).status_code == 201


async def test_a_deleted_endpoint_is_gone_and_nothing_is_sent_there(
    client: httpx.AsyncClient, new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant
) -> None:
    hook = await new_hook(500)
    await happen(merchant.caller)
    await works.run()
    assert (await client.delete(f"{ENDPOINTS}/{hook.id}")).status_code == 200
    await happen(merchant.caller)
    await works.later()
    await works.run()
    assert len(await hook.received()) == 1
    assert [one["state"] for one in await hook.log()] == ["canceled"]
    for answer in (
        await hook.patch(status="enabled"),
        await hook.post("rotate-secret"),
        await hook.post("test"),
    ):
        assert code(answer) == (409, "webhook_endpoint_deleted")
    assert (await client.delete(f"{ENDPOINTS}/{hook.id}")).json() == await hook.get()
    assert (await hook.get())["status"] == "deleted"
    assert (await client.get(ENDPOINTS)).json()["data"] == []
    (delivery,) = await hook.log()
    assert code(await client.post(f"/v1/webhook-deliveries/{delivery['id']}/replay")) == (
        409,
        "webhook_endpoint_not_enabled",
    )


async def test_after_a_rotation_both_secrets_verify_until_the_overlap_ends(
    new_hook: NewHook,
    happen: Happen,
    works: Works,
    merchant: Merchant,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:
    hook = await new_hook()
    key = {"Idempotency-Key": new_key()}
    rotated = await hook.http.post(f"{ENDPOINTS}/{hook.id}/rotate-secret", json={}, headers=key)
    assert rotated.status_code == 200
    new = rotated.json()["secret"]
    assert new.startswith("whsec_")
    assert new != hook.secret
    again = await hook.http.post(f"{ENDPOINTS}/{hook.id}/rotate-secret", json={}, headers=key)
    assert again.json() == rotated.json() | {"secret": None}

    async def signed_with() -> list[bool]:
        await happen(merchant.caller)
        await works.run()
        last = (await hook.received())[-1]
        found = []
        for secret in (hook.secret, new):
            try:
                Webhook(secret).verify(last["body"], last["headers"])
                found.append(True)
            except Exception:  # noqa: BLE001  (the library's own class; what counts is whether)
                found.append(False)
        return found

    assert await signed_with() == [True, True]
    # The old one ends with the overlap, 24 hours later.
    end = "UPDATE webhook_endpoints SET previous_until = previous_until - interval '23 hours 59 minutes' WHERE tenant_id = $1"
    await superuser.execute(end, merchant.caller.scope.tenant_id)
    assert await signed_with() == [True, True]
    await superuser.execute(end, merchant.caller.scope.tenant_id)
    assert await signed_with() == [False, True]
    assert (await hook.post("rotate-secret", overlap_h=0)).status_code == 200
    assert await signed_with() == [False, False]


async def test_a_test_sends_one_event_and_tells_what_the_consumer_said(
    client: httpx.AsyncClient, new_hook: NewHook, works: Works
) -> None:
    hook, other = await new_hook(418, 200, 200), await new_hook(events=["*"])
    await works.run()
    before = len(await other.received())
    key = {"Idempotency-Key": new_key()}
    first = await client.post(f"{ENDPOINTS}/{hook.id}/test", headers=key)
    assert first.status_code == 200, first.text
    told = first.json()
    assert (told["type"], told["state"], told["attempts"]) == ("webhook_endpoint.test", "failed", 1)
    assert (told["log"][0]["status"], told["log"][0]["answer"]) == (418, '{"you said": 418}')
    assert (await client.post(f"{ENDPOINTS}/{hook.id}/test", headers=key)).content == first.content
    assert (await hook.patch(status="disabled")).status_code == 200
    second = (await hook.post("test")).json()
    assert (second["state"], second["log"][0]["status"]) == ("delivered", 200)
    received = await hook.received()
    assert len(received) == 2, "sent once each, the repetition not at all"
    assert Webhook(hook.secret).verify(received[1]["body"], received[1]["headers"])["type"] == "webhook_endpoint.test"
    assert (await hook.get())["failing_since"] is None, "a test says nothing about the endpoint"
    await works.later()
    await works.run()
    assert len(await hook.received()) == 2
    bodies = [one["body"] for one in (await other.received())[before:]]
    assert not any("webhook_endpoint.test" in body for body in bodies), "nobody else is told of a test"


async def test_who_lacks_the_scope_may_not(
    new_merchant: Any, new_client: Any, consumer: Consumer, new_hook: NewHook
) -> None:
    hook = await new_hook()
    reader = await new_client(await new_merchant(scopes=frozenset({"webhook_endpoints:read"})))
    assert code(await reader.post(ENDPOINTS, json={"url": f"{consumer.url}/hook/x", "events": ["*"]})) == (
        403,
        "scope_missing",
    )
    nobody = await new_client(await new_merchant(scopes=frozenset({"payments:read"})))
    assert code(await nobody.get(ENDPOINTS)) == (403, "scope_missing")
    assert (await reader.get(f"{ENDPOINTS}/{hook.id}")).status_code == 404, "another tenant's"
