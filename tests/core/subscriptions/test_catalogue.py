"""Plans, coupons and billing settings over the API."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.shop import Json, code

from clearspan.platform import clock

PLAN: Json = {"name": "Basic", "amounts": {"EUR": 900, "JPY": 1200}, "interval": {"unit": "month"}}
COUPON: Json = {"code": "SPRING", "name": "Spring", "percent_bp": 1000, "duration": "once"}


async def make(client: httpx.AsyncClient, path: str, body: Json, **fields: Any) -> Json:
    answer = await client.post(path, json=body | fields)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def test_a_plan_is_what_it_was_made_as(client: httpx.AsyncClient) -> None:
    tax = {"name": "VAT", "rate_bp": 1900, "inclusive": False}
    fields = {"setup_fees": {"EUR": 100}, "trial_days": 14, "tax": tax, "reference": "basic", "metadata": {"a": "b"}}
    made = await make(client, "/v1/plans", PLAN, **fields)
    assert made["interval"] == {"unit": "month", "count": 1}
    assert {name: made[name] for name in fields} == fields
    assert (await client.get(f"/v1/plans/{made['id']}")).json() == made
    assert code(await client.post("/v1/plans", json=PLAN | {"reference": "basic"})) == (409, "plan_reference_taken")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"amounts": {"XXA": 1}}, "unknown_currency"),
        ({"setup_fees": {"EUR": 1, "XXA": 1}}, "unknown_currency"),
        ({"setup_fees": {"USD": 1}}, "invalid_request"),
        ({"amounts": {}}, "invalid_request"),
        ({"amounts": {"EUR": -1}}, "invalid_request"),
        ({"amounts": {"EUR": 9.5}}, "invalid_request"),
        ({"amounts": {"EUR": "900"}}, "invalid_request"),
        ({"interval": {"unit": "month", "count": 0}}, "invalid_request"),
        ({"interval": {"unit": "month", "count": -1}}, "invalid_request"),
        ({"interval": {"unit": "century"}}, "invalid_request"),
        ({"trial_days": -1}, "invalid_request"),
        ({"tax": {"name": "VAT", "rate_bp": 10_001}}, "invalid_request"),
        ({"name": ""}, "invalid_request"),
        ({"colour": "red"}, "invalid_request"),
    ],
    ids=str,
)
async def test_a_bad_plan_is_refused(client: httpx.AsyncClient, fields: Json, refusal: str) -> None:
    assert code(await client.post("/v1/plans", json=PLAN | fields)) == (422, refusal)
    assert (await client.get("/v1/plans")).json()["data"] == []


@pytest.mark.parametrize("field", ["amounts", "interval", "trial_days", "tax", "setup_fees"])
async def test_what_customers_agreed_to_does_not_change(client: httpx.AsyncClient, field: str) -> None:
    made = await make(client, "/v1/plans", PLAN)
    answer = await client.patch(f"/v1/plans/{made['id']}", json={field: made[field]})
    assert code(answer) == (422, "invalid_request")


async def test_a_plan_is_renamed_archived_and_found(client: httpx.AsyncClient) -> None:
    made = await make(client, "/v1/plans", PLAN, reference="r-1")
    other = await make(client, "/v1/plans", PLAN)
    changed = (await client.patch(f"/v1/plans/{made['id']}", json={"name": "New", "status": "archived"})).json()
    assert (changed["name"], changed["status"], changed["sequence"]) == ("New", "archived", 2)
    for query, found in (({"status": "archived"}, made), ({"reference": "r-1"}, made), ({"status": "active"}, other)):
        listed = (await client.get("/v1/plans", params=query)).json()["data"]
        assert [row["id"] for row in listed] == [found["id"]], query
    first = (await client.get("/v1/plans", params={"limit": 1})).json()
    assert [first["data"][0]["id"], first["has_more"]] == [other["id"], True]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"percent_bp": None}, "invalid_request"),
        ({"amounts": {"EUR": 100}}, "invalid_request"),
        ({"percent_bp": None, "amounts": {"XXA": 1}}, "unknown_currency"),
        ({"percent_bp": 10_001}, "invalid_request"),
        ({"percent_bp": 0}, "invalid_request"),
        ({"duration": "repeating"}, "invalid_request"),
        ({"periods": 3}, "invalid_request"),
        ({"redemptions_max": 0}, "invalid_request"),
        ({"redeem_by": "2030-01-01T00:00:00"}, "invalid_request"),
        ({"code": "no spaces"}, "invalid_request"),
    ],
    ids=str,
)
async def test_a_bad_coupon_is_refused(client: httpx.AsyncClient, fields: Json, refusal: str) -> None:
    body = {name: value for name, value in (COUPON | fields).items() if value is not None}
    assert code(await client.post("/v1/coupons", json=body)) == (422, refusal)


async def test_a_coupons_code_is_taken_once(client: httpx.AsyncClient) -> None:
    made = await make(client, "/v1/coupons", COUPON)
    answers = await asyncio.gather(*(client.post("/v1/coupons", json=COUPON) for _ in range(3)))
    assert {code(answer) for answer in answers} == {(409, "coupon_code_taken")}
    changed = (await client.patch(f"/v1/coupons/{made['id']}", json={"status": "archived", "name": "Old"})).json()
    assert (changed["status"], changed["name"]) == ("archived", "Old")
    assert code(await client.post("/v1/coupons", json=COUPON)) == (409, "coupon_code_taken")
    assert (await client.get("/v1/coupons", params={"code": "SPRING"})).json()["data"] == [changed]


async def test_settings_are_there_before_they_are_changed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/billing-settings")).json()["catch_up"] == "newest"
    seller = {"name": "Acme", "address": ["1 Road", "Paris"], "tax_id": "FR1", "email": "a@acme.example"}
    body = {"seller": seller, "language": "fr", "invoice_prefix": "F-", "catch_up": "all", "mails": False}
    changed = await client.patch("/v1/billing-settings", json=body)
    assert changed.status_code == 200, changed.text
    found = (await client.get("/v1/billing-settings")).json()
    assert {name: found[name] for name in body} == body
    for wrong in ({"language": "xx"}, {"invoice_prefix": "x" * 21}, {"invoice_next": 5}):
        assert code(await client.patch("/v1/billing-settings", json=wrong)) == (422, "invalid_request")
    missing = {"dunning_plan": "dun_01h455vb4pex5vsknk084sn02q"}
    assert code(await client.patch("/v1/billing-settings", json=missing)) == (404, "dunning_plan_not_found")


async def test_a_repeated_request_makes_one_plan(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": clock.new_uuid().hex}
    answers = [await client.post("/v1/plans", json=PLAN, headers=headers) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert len((await client.get("/v1/plans")).json()["data"]) == 1


async def test_other_tenants_and_modes_see_nothing(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, live_client: httpx.AsyncClient
) -> None:
    plan, coupon = await make(client, "/v1/plans", PLAN), await make(client, "/v1/coupons", COUPON)
    for stranger in (other_client, live_client):
        for path in (f"/v1/plans/{plan['id']}", f"/v1/coupons/{coupon['id']}"):
            assert code(await stranger.get(path)) == (404, "not_found")
            assert code(await stranger.patch(path, json={"name": "x"})) == (404, "not_found")
        assert (await stranger.get("/v1/plans")).json()["data"] == []
