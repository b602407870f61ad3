"""What was delivered, lost or given up can be sent again, one or many, under the ids it had."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from tests.core.webhooks.conftest import Happen, NewHook, Works
from tests.shop import code, new_key

from clearspan.platform import clock, ids

if TYPE_CHECKING:
    from tests.conftest import Merchant

Connection = asyncpg.Connection


def ago(**span: float) -> str:
    return (clock.now() - timedelta(**span)).isoformat()


async def test_one_delivery_is_sent_again_under_its_id_with_all_its_tries(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant
) -> None:
    hook = await new_hook(*[500] * 10, 500, 200)
    event = await happen(merchant.caller)
    for _ in range(10):
        await works.run()
        await works.later()
    (delivery,) = await hook.log()
    assert delivery["state"] == "failed"
    key = {"Idempotency-Key": new_key()}
    replayed = await hook.http.post(f"/v1/webhook-deliveries/{delivery['id']}/replay", headers=key)
    assert (replayed.status_code, replayed.json()["state"], replayed.json()["replays"]) == (200, "pending", 1)
    again = await hook.http.post(f"/v1/webhook-deliveries/{delivery['id']}/replay", headers=key)
    assert again.content == replayed.content
    await works.run()
    await works.later(6)
    await works.run()
    assert await hook.ids() == [event] * 12
    (delivery,) = await hook.log()
    assert (delivery["state"], delivery["attempts"], delivery["replays"]) == ("delivered", 12, 1)
    assert [one["number"] for one in await hook.attempts(delivery["id"])] == list(range(1, 13))


async def test_a_range_is_sent_again_in_order_also_what_was_never_told(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, client: httpx.AsyncClient
) -> None:
    subject = clock.new_uuid()
    before = [await happen(merchant.caller, subject=subject, sequence=number) for number in (1, 2)]
    refund = await happen(merchant.caller, "refund.failed")
    hook = await new_hook()
    after = [await happen(merchant.caller, subject=subject, sequence=number) for number in (3, 4)]
    await works.run()
    assert await hook.ids() == after
    answer = await hook.post("replay", since=ago(hours=1))
    assert answer.json() == {"object": "webhook_replay", "endpoint": hook.id, "deliveries": 4}
    await works.run()
    assert (await hook.ids())[2:] == before + after
    assert (await hook.post("replay", since=ago(hours=1), events=["refund.*"])).json()["deliveries"] == 1
    await works.run()
    assert (await hook.ids())[6:] == [refund]
    (entry, *_) = (await client.get("/v1/audit", params={"type": "webhook_endpoint.replayed"})).json()["data"]
    assert (entry["subject"]["id"], entry["data"]["deliveries"]) == (hook.id, 1)


async def test_only_what_was_given_up_when_that_is_asked_for(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, superuser: Connection[Any]
) -> None:
    hook = await new_hook()
    events = [await happen(merchant.caller) for _ in range(3)]
    await works.run()
    await superuser.execute(
        "UPDATE webhook_deliveries SET state = 'failed' WHERE tenant_id = $1 AND event_type = 'payment.created'"
        " AND event_id = $2",
        merchant.caller.scope.tenant_id,
        ids.decode("evt", events[1]),
    )
    assert (await hook.post("replay", since=ago(hours=1), only_failed=True)).json()["deliveries"] == 1
    await works.run()
    assert (await hook.ids())[3:] == [events[1]]


async def test_a_range_has_its_bounds(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = await new_hook()
    await happen(merchant.caller)
    await happen(merchant.caller)
    await works.run()
    assert (await hook.post("replay", since=ago(hours=2), until=ago(hours=1))).json()["deliveries"] == 0
    assert code(await hook.post("replay", since=ago(days=31))) == (422, "invalid_request")
    assert code(await hook.post("replay", since=ago(hours=1), until=ago(hours=2))) == (422, "invalid_request")
    assert code(await hook.post("replay", since="2026-11-22T10:00:00")) == (422, "invalid_request")
    monkeypatch.setattr("clearspan.webhooks.service.REPLAY_MAX", 1)
    refused = await hook.post("replay", since=ago(hours=1))
    assert code(refused) == (422, "webhook_replay_too_large")
    assert refused.json()["deliveries_max"] == 1
    await works.run()
    assert len(await hook.ids()) == 2
    await hook.patch(status="disabled")
    assert code(await hook.post("replay", since=ago(hours=1))) == (409, "webhook_endpoint_not_enabled")


async def test_the_log_is_searched_by_endpoint_event_and_state_page_by_page(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, client: httpx.AsyncClient
) -> None:
    good, bad = await new_hook(), await new_hook(500)
    for _ in range(5):
        await happen(merchant.caller)
    await works.run()
    events = [one["event"] for one in await good.log()]
    assert len(events) == 5
    assert {one["event"] for one in await bad.log(state="pending")} == set(events)
    assert await good.log(state="pending") == []
    both = (await client.get("/v1/webhook-deliveries", params={"event": events[2]})).json()["data"]
    assert {one["endpoint"] for one in both} == {good.id, bad.id}
    found: list[str] = []
    params = {"endpoint": good.id, "limit": "2"}
    for _ in range(3):
        page = (await client.get("/v1/webhook-deliveries", params=params)).json()
        found += [one["event"] for one in page["data"]]
        params["cursor"] = page["next_cursor"]
    assert page["has_more"] is False
    assert found == events[::-1]
    for wrong in ({"endpoint": "pay_1"}, {"event": "x"}):
        assert code(await client.get("/v1/webhook-deliveries", params=wrong)) == (404, "invalid_id")


async def test_deliveries_are_forgotten_after_their_time_with_their_attempts(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, superuser: Connection[Any]
) -> None:
    hook = await new_hook()
    old, young = await happen(merchant.caller), await happen(merchant.caller)
    await works.run()
    tenant = merchant.caller.scope.tenant_id
    await superuser.execute(
        "UPDATE webhook_deliveries SET created_at = created_at - interval '31 days' WHERE tenant_id = $1 AND event_id = $2",
        tenant,
        ids.decode("evt", old),
    )
    await works.dispatcher.step(None)
    assert [one["event"] for one in await hook.log()] == [young]
    assert await superuser.fetchval("SELECT count(*) FROM webhook_attempts WHERE tenant_id = $1", tenant) == 1
    await works.run()
    assert sorted(await hook.ids()) == sorted([old, young]), "what is forgotten is not told anew"


async def test_an_endpoint_whose_secret_does_not_open_holds_up_no_other(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, superuser: Connection[Any]
) -> None:
    broken, sound = await new_hook(), await new_hook()
    tenant = merchant.caller.scope.tenant_id
    spoil = "UPDATE webhook_endpoints SET secret = $3 WHERE tenant_id = $1 AND webhook_endpoint_id = $2"
    row = ids.decode("we", broken.id)
    secret = await superuser.fetchval("SELECT secret FROM webhook_endpoints WHERE webhook_endpoint_id = $1", row)
    await superuser.execute(spoil, tenant, row, b"spoilt")
    event = await happen(merchant.caller)
    await works.run()
    assert (await broken.ids(), await sound.ids()) == ([], [event])
    assert [one["state"] for one in await broken.log()] == ["pending"]
    await superuser.execute(spoil, tenant, row, secret)
    await works.later()
    await works.run()
    assert await broken.ids() == [event]
