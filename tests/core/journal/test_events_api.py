"""``/v1/events`` and ``/v1/audit``: what happened, told and searched through the API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clearspan.platform import clock, ids
from clearspan.platform.context import Caller


def evt(event_id: Any) -> str:
    return ids.encode("evt", event_id)


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


# -- Events ---------------------------------------------------------------------------------------------------------------------


async def test_an_event_looks_as_documented(client: httpx.AsyncClient, tenant: Caller, happen: Any) -> None:
    operation_id, payment_id = clock.new_uuid(), clock.new_uuid()
    event_id = await happen(
        tenant,
        "operation.submitted",
        subject_type="operation",
        subject_id=operation_id,
        sequence=2,
        data={"payment_id": payment_id, "psp_account_id": payment_id, "amount_minor": 1099, "customer_id": None},
    )
    event = await get(client, f"/v1/events/{evt(event_id)}")
    created_at = event.pop("created_at")
    assert created_at.endswith("Z")
    assert event == {
        "id": evt(event_id),
        "object": "event",
        "type": "operation.submitted",
        "live": False,
        "sequence": 2,
        "subject": {"type": "operation", "id": ids.encode("op", operation_id)},
        "request_id": "req_tests",
        "data": {
            "payment_id": ids.encode("pay", payment_id),
            "psp_account_id": ids.encode("acct", payment_id),
            "amount_minor": 1099,
            "customer_id": None,
            "object": None,
        },
    }


async def test_an_event_shows_its_subject_as_it_is_now(client: httpx.AsyncClient, tenant: Caller, happen: Any) -> None:
    start = await happen(tenant)
    customer = (await client.post("/v1/customers", json={"reference": "crm-1"})).json()
    await client.patch(f"/v1/customers/{customer['id']}", json={"reference": "crm-2"})
    await happen(tenant)
    created, updated, _ = (await get(client, "/v1/events", after=evt(start)))["data"]
    assert (created["type"], updated["type"]) == ("customer.created", "customer.updated")
    assert created["sequence"] < updated["sequence"]
    assert created["data"]["object"] == updated["data"]["object"]
    assert created["data"]["object"]["reference"] == "crm-2"
    assert created["data"]["object"]["id"] == created["subject"]["id"] == customer["id"]


async def test_the_feed_is_followed_page_by_page_and_goes_on_later(
    client: httpx.AsyncClient, tenant: Caller, happen: Any
) -> None:
    start = await happen(tenant)
    written = [evt(await happen(tenant)) for _ in range(5)]
    read: list[str] = []
    page: dict[str, Any] = {"next_cursor": evt(start), "has_more": True}
    while page["has_more"]:
        page = await get(client, "/v1/events", after=page["next_cursor"], limit=2)
        read += [event["id"] for event in page["data"]]
    assert read == written
    idle = await get(client, "/v1/events", after=page["next_cursor"])
    assert idle == {"object": "list", "data": [], "next_cursor": written[-1], "has_more": False}
    later = evt(await happen(tenant))
    assert [event["id"] for event in (await get(client, "/v1/events", after=idle["next_cursor"]))["data"]] == [later]


async def test_without_a_cursor_the_feed_begins_at_the_beginning(
    client: httpx.AsyncClient, tenant: Caller, happen: Any
) -> None:
    await happen(tenant)
    everything = await get(client, "/v1/events", limit=100)
    assert everything["data"][0]["type"] == "api_key.created", "a tenant's first event in this mode"


@pytest.mark.parametrize("query", ["type=payment.captured,refund.created", "type=payment.captured&type=refund.created"])
async def test_the_feed_is_filtered_by_type(client: httpx.AsyncClient, tenant: Caller, happen: Any, query: str) -> None:
    await happen(tenant, "payment.created")
    captured = evt(await happen(tenant, "payment.captured"))
    refund = evt(await happen(tenant, "refund.created", subject_type="refund"))
    answer = await client.get(f"/v1/events?{query}")
    assert [event["id"] for event in answer.json()["data"]] == [captured, refund]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("after=evt_00000000000000000000000000", 422, "event_cursor_unknown"),
        ("after=pay_01h455vb4pex5vsknk084sn02q", 422, "event_cursor_unknown"),
        ("limit=0", 422, "invalid_request"),
        ("limit=1001", 422, "invalid_request"),
        ("limit=101", 422, "invalid_request"),
        ("limit=x", 422, "invalid_request"),
        ("type=Payment", 422, "invalid_request"),
        ("type=a.b,,c.d", 422, "invalid_request"),
        (f"type={','.join(f'a.{chr(97 + n // 26)}{chr(97 + n % 26)}' for n in range(51))}", 422, "invalid_request"),
    ],
)
async def test_a_wrong_question_is_refused(client: httpx.AsyncClient, query: str, status: int, code: str) -> None:
    answer = await client.get(f"/v1/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_another_tenants_event_is_as_unknown_as_none(
    client: httpx.AsyncClient, other_tenant: Caller, happen: Any
) -> None:
    theirs, none = evt(await happen(other_tenant)), evt(clock.new_uuid())
    answers = [await client.get(f"/v1/events/{event_id}") for event_id in (theirs, none)]
    assert [answer.status_code for answer in answers] == [404, 404]
    first, second = ({**answer.json(), "request_id": ""} for answer in answers)
    assert first == second
    answers = [await client.get("/v1/events", params={"after": event_id}) for event_id in (theirs, none)]
    assert {answer.json()["code"] for answer in answers} == {"event_cursor_unknown"}


@pytest.mark.parametrize(
    ("path", "scope"),
    [("/v1/events", "audit:read"), ("/v1/events/stream", "audit:read"), ("/v1/audit", "events:read")],
)
async def test_a_key_needs_the_scope(new_client: Any, new_merchant: Any, path: str, scope: str) -> None:
    client = await new_client(await new_merchant(scopes=frozenset({scope})))
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


async def test_a_stream_that_cannot_begin_is_refused_with_a_problem(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/events/stream", headers={"Last-Event-ID": "evt_00000000000000000000000000"})
    assert (answer.status_code, answer.json()["code"]) == (422, "event_cursor_unknown")
    assert answer.headers["content-type"] == "application/problem+json"


# -- The audit trail ------------------------------------------------------------------------------------------------------------


async def test_an_audit_entry_looks_as_documented(client: httpx.AsyncClient, tenant: Caller, happen: Any) -> None:
    customer_id, method_id = clock.new_uuid(), clock.new_uuid()
    event_id = await happen(
        tenant,
        "payment_method.updated",
        subject_type="payment_method",
        subject_id=method_id,
        sequence=3,
        customer_id=customer_id,
        data={"changed": ["exp_month"], "customer_id": customer_id},
    )
    entry = (await get(client, "/v1/audit", limit=1))["data"][0]
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "id": evt(event_id),
        "object": "audit_entry",
        "type": "payment_method.updated",
        "actor": {"type": "api_key", "id": tenant.actor_id},
        "subject": {"type": "payment_method", "id": ids.encode("pm", method_id)},
        "customer": ids.encode("cus", customer_id),
        "request_id": "req_tests",
        "sequence": 3,
        "data": {"changed": ["exp_month"], "customer_id": ids.encode("cus", customer_id)},
    }


async def test_the_trail_is_searched_by_everything_it_tells(
    client: httpx.AsyncClient, tenant: Caller, other_tenant: Caller, happen: Any
) -> None:
    customer_id, subject_id = clock.new_uuid(), clock.new_uuid()
    await happen(tenant, subject_id=clock.new_uuid())
    before = clock.now()
    wanted = evt(
        await happen(tenant, "refund.created", subject_type="refund", subject_id=subject_id, customer_id=customer_id)
    )
    after = clock.now()
    await happen(tenant, "payment.created")
    await happen(other_tenant, "refund.created", subject_type="refund", subject_id=subject_id, customer_id=customer_id)
    for filters in (
        {"customer": ids.encode("cus", customer_id)},
        {"subject": ids.encode("re", subject_id)},
        {"subject": ids.encode("op", subject_id)},
        {"subject_type": "refund"},
        {"type": "refund.created"},
        {"created_after": before.isoformat(), "created_before": after.isoformat()},
        {"type": "refund.created", "actor": tenant.actor_id, "request_id": "req_tests"},
    ):
        assert [entry["id"] for entry in (await get(client, "/v1/audit", **filters))["data"]] == [wanted], filters
    for filters in (
        {"customer": ids.encode("cus", subject_id)},
        {"subject": ids.encode("pay", customer_id)},
        {"type": "refund.created", "actor": "recovery"},
        {"type": "refund.created", "request_id": "req_other"},
        {"type": "refund.created", "created_before": before.isoformat()},
        {"type": "refund.created", "created_after": after.isoformat()},
    ):
        assert (await get(client, "/v1/audit", **filters))["data"] == [], filters


async def test_the_trail_is_read_newest_first_page_by_page(
    client: httpx.AsyncClient, tenant: Caller, happen: Any
) -> None:
    customer_id = clock.new_uuid()
    written = [evt(await happen(tenant, customer_id=customer_id)) for _ in range(5)]
    filters = {"customer": ids.encode("cus", customer_id), "limit": 2}
    read: list[str] = []
    page = await get(client, "/v1/audit", **filters)
    read += [entry["id"] for entry in page["data"]]
    await happen(tenant, customer_id=customer_id)  # What comes meanwhile stands in front and moves nothing.
    while page["has_more"]:
        page = await get(client, "/v1/audit", **filters, cursor=page["next_cursor"])
        read += [entry["id"] for entry in page["data"]]
    assert read == written[::-1]
    assert page["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("cursor=x", 422, "invalid_request"),
        ("cursor=W10", 422, "invalid_request"),
        ("cursor=WzEsMSw5OTk5OTk5OTk5OTk5OTk5OTk5OV0", 422, "invalid_request"),
        ("created_after=2030-01-01T00:00:00", 422, "invalid_request"),
        ("created_after=yesterday", 422, "invalid_request"),
        ("customer=pay_01h455vb4pex5vsknk084sn02q", 404, "invalid_id"),
        ("subject=evt_01h455vb4pex5vsknk084sn02q", 404, "invalid_id"),
        ("subject=pay_x", 404, "invalid_id"),
        ("limit=101", 422, "invalid_request"),
    ],
)
async def test_a_wrong_search_is_refused(client: httpx.AsyncClient, query: str, status: int, code: str) -> None:
    answer = await client.get(f"/v1/audit?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
