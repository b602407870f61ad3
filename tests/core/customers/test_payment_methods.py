"""Payment methods: a vault's token becomes a card's description, and nothing more is ever stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import httpx
import pytest

from clearspan.platform import clock, ids
from clearspan.platform.context import Caller

if TYPE_CHECKING:
    from clearspan.app import Gateway

pytestmark = pytest.mark.usefixtures("sandboxes")
Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def made(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/payment-methods", json={"token": "tok_visa_de"} | body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def customer_of(client: httpx.AsyncClient) -> str:
    return str((await client.post("/v1/customers", json={})).json()["id"])


async def test_a_token_becomes_the_description_of_its_card(client: httpx.AsyncClient) -> None:
    customer = await customer_of(client)
    method = await made(client, token="tok_mastercard_debit", customer=customer)
    assert (method["object"], method["live"], method["status"], method["vault"]) == (
        "payment_method",
        False,
        "active",
        "sandbox",
    )
    assert method["customer"] == customer
    card = method["card"]
    assert (card["brand"], card["last4"], card["funding"], card["issuer_country"]) == (
        "mastercard",
        "8210",
        "debit",
        "US",
    )
    assert (card["exp_month"], card["exp_year"]) == (12, 2040)
    assert card["fingerprint"]
    assert (await client.get(f"/v1/payment-methods/{method['id']}")).json() == method


async def test_the_same_card_has_the_same_fingerprint(client: httpx.AsyncClient) -> None:
    one, again, other = [
        (await made(client, token=f"tok_{name}"))["card"] for name in ("visa_de", "visa_de", "visa_fr")
    ]
    assert one["fingerprint"] == again["fingerprint"] != other["fingerprint"]


async def test_the_vault_can_be_named(client: httpx.AsyncClient) -> None:
    assert (await made(client, vault="sandbox"))["vault"] == "sandbox"
    refused = await client.post("/v1/payment-methods", json={"token": "tok_visa", "vault": "elsewhere"})
    assert (refused.status_code, refused.json()["code"]) == (422, "vault_unknown")
    assert "sandbox" in refused.json()["detail"]


async def test_a_token_the_vault_does_not_know_stores_nothing(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    key = {"Idempotency-Key": "try-1"}
    for token in ("tok_nobody", "../tokens/tok_visa", "tok_visa?x=y", "tok visa", "ü"):
        refused = await client.post("/v1/payment-methods", json={"token": token}, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "vault_token_invalid"), token
    for table in ("payment_methods", "idempotency_keys"):
        assert (
            await superuser.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant.scope.tenant_id) == 0
        )
    assert (await client.post("/v1/payment-methods", json={"token": "tok_visa"}, headers=key)).status_code == 201


async def test_an_unknown_customer_is_refused_before_the_vault_is_asked(client: httpx.AsyncClient) -> None:
    stranger = ids.encode("cus", clock.new_uuid())
    refused = await client.post("/v1/payment-methods", json={"token": "tok_nobody", "customer": stranger})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


async def test_the_same_key_makes_one_method(client: httpx.AsyncClient) -> None:
    request: dict[str, Any] = {"json": {"token": "tok_visa"}, "headers": {"Idempotency-Key": "once"}}
    answers = await asyncio.gather(*(client.post("/v1/payment-methods", **request) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len((await client.get("/v1/payment-methods")).json()["data"]) == 1
    reused = await client.post("/v1/payment-methods", json={"token": "tok_amex"}, headers=request["headers"])
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


async def test_methods_are_listed_by_customer_newest_first(client: httpx.AsyncClient) -> None:
    customer = await customer_of(client)
    alone = await made(client)
    theirs = [await made(client, token=token, customer=customer) for token in ("tok_visa", "tok_amex", "tok_jcb")]
    page = (await client.get("/v1/payment-methods", params={"customer": customer, "limit": "2"})).json()
    assert page["data"] == [theirs[2], theirs[1]]
    assert page["has_more"] is True
    rest = (
        await client.get(
            "/v1/payment-methods", params={"customer": customer, "limit": "2", "cursor": page["next_cursor"]}
        )
    ).json()
    assert rest == {"object": "list", "data": [theirs[0]], "has_more": False, "next_cursor": None}
    assert (await client.get("/v1/payment-methods")).json()["data"] == [*reversed(theirs), alone]
    nobody = ids.encode("cus", clock.new_uuid())
    assert (await client.get("/v1/payment-methods", params={"customer": nobody})).json()["data"] == []


async def test_detaching_is_final_and_repeatable(client: httpx.AsyncClient) -> None:
    method = await made(client)
    place = f"/v1/payment-methods/{method['id']}"
    detached = await client.post(f"{place}/detach", headers={"Idempotency-Key": "detach"})
    assert detached.status_code == 200
    body = detached.json()
    assert (body["status"], body["sequence"]) == ("detached", 2)
    assert (await client.post(f"{place}/detach", headers={"Idempotency-Key": "detach"})).content == detached.content
    assert (await client.post(f"{place}/detach")).json() == body
    assert (await client.get(place)).json() == body


async def test_deleting_a_customer_detaches_the_methods(client: httpx.AsyncClient) -> None:
    customer = await customer_of(client)
    methods = [await made(client, customer=customer) for _ in range(3)]
    other = await made(client)
    await client.delete(f"/v1/customers/{customer}")
    for method in methods:
        assert (await client.get(f"/v1/payment-methods/{method['id']}")).json()["status"] == "detached"
    assert (await client.get(f"/v1/payment-methods/{other['id']}")).json()["status"] == "active"


async def test_every_change_is_journalled_under_the_customer(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    customer = await customer_of(client)
    method = await made(client, customer=customer)
    for _ in range(2):
        await client.post(f"/v1/payment-methods/{method['id']}/detach")
    entries = await superuser.fetch(
        "SELECT * FROM journal WHERE tenant_id = $1 AND subject_type = 'payment_method' ORDER BY xid, seq",
        tenant.scope.tenant_id,
    )
    assert [(entry["type"], entry["sequence"]) for entry in entries] == [
        ("payment_method.created", 1),
        ("payment_method.detached", 2),
    ]
    assert {ids.encode("cus", entry["customer_id"]) for entry in entries} == {customer}


async def test_the_event_feed_shows_methods(client: httpx.AsyncClient, gateway: Gateway, tenant: Caller) -> None:
    method = await made(client)
    method_id = ids.decode("pm", method["id"])
    assert await gateway.customers.render_methods(tenant.scope, [method_id]) == {method_id: method}


async def test_methods_of_another_tenant_or_mode_do_not_exist(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, live_client: httpx.AsyncClient
) -> None:
    method = await made(client)
    for stranger in (other_client, live_client):
        for refused in (
            await stranger.get(f"/v1/payment-methods/{method['id']}"),
            await stranger.post(f"/v1/payment-methods/{method['id']}/detach"),
        ):
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert (await stranger.get("/v1/payment-methods")).json()["data"] == []
    assert (await client.get(f"/v1/payment-methods/{method['id']}")).json() == method


async def test_a_card_number_instead_of_a_token_never_gets_in(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    refused = await client.post("/v1/payment-methods", json={"token": "4242424242424242"})
    assert (refused.status_code, refused.json()["code"]) == (422, "pan_detected")
    assert (
        await superuser.fetchval("SELECT count(*) FROM payment_methods WHERE tenant_id = $1", tenant.scope.tenant_id)
        == 0
    )


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": None}, {"token": 1}, {"token": "tok_visa", "card": {}}, {"token": "t" * 501}]
)
async def test_a_wrong_body_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    refused = await client.post("/v1/payment-methods", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "customer", ["cus_", "nonsense", "pay_01h455vb4pex5vsknk084sn02q", "cus_01H455VB4PEX5VSKNK084SN02Q"]
)
async def test_a_customer_id_that_is_none_is_refused(client: httpx.AsyncClient, customer: str) -> None:
    refused = await client.post("/v1/payment-methods", json={"token": "tok_visa", "customer": customer})
    assert refused.status_code == 404
