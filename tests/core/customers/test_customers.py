"""Customers: personal data is sealed, findable by its owner and gone after deletion."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import httpx
import msgspec
import pytest
from tests.factories import CustomerFactory

from clearspan.customers.pii import COUNTRIES
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller
from clearspan.platform.crypto import KeyProblem

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewClient

    from clearspan.app import Gateway

PERSONAL = ("Ada Lovelace", "ada@example.com", "+44 20 7946 0018", "12 St James's Square", "SW1Y 4JH")
ADA = {
    "name": PERSONAL[0],
    "email": PERSONAL[1],
    "phone": PERSONAL[2],
    "address": {"line1": PERSONAL[3], "city": "London", "postal_code": PERSONAL[4], "country": "GB"},
}

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def made(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/customers", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def found(client: httpx.AsyncClient, **filters: Any) -> list[str]:
    answer = await client.get("/v1/customers", params=filters)
    assert answer.status_code == 200, answer.text
    return [customer["id"] for customer in answer.json()["data"]]


def uuid_of(customer: dict[str, Any]) -> Any:
    return ids.decode("cus", customer["id"])


async def dump(superuser: Superuser, tenant: Caller) -> str:
    """Everything the database holds of a tenant, as text, bytes in both readings."""
    tables = await superuser.fetch(
        "SELECT table_name AS tablename FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'tenant_id'"
    )
    texts = []
    for table in tables:
        for row in await superuser.fetch(
            f"SELECT * FROM {table['tablename']} WHERE tenant_id = $1", tenant.scope.tenant_id
        ):
            texts += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row.values()]
    return "\n".join(texts)


async def test_what_is_made_is_what_is_read(client: httpx.AsyncClient) -> None:
    body = msgspec.to_builtins(CustomerFactory.build())
    customer = await made(client, **body)
    assert customer["object"] == "customer"
    assert customer["live"] is False
    assert {name: customer[name] for name in body} == body
    assert (await client.get(f"/v1/customers/{customer['id']}")).json() == customer
    assert (await client.get("/v1/customers")).json()["data"] == [customer]


async def test_everything_is_optional(client: httpx.AsyncClient) -> None:
    customer = await made(client)
    for name in ("reference", "name", "email", "phone", "address", "deleted_at"):
        assert customer[name] is None
    assert customer["metadata"] == {}
    assert customer["sequence"] == 1


async def test_the_database_holds_no_personal_data_in_clear(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    answer = await client.post("/v1/customers", json=ADA | {"reference": "c-1042"}, headers={"Idempotency-Key": "ada"})
    customer = answer.json()
    await client.patch(f"/v1/customers/{customer['id']}", json={"name": "Ada King"})
    everything = await dump(superuser, tenant)
    assert "c-1042" in everything
    for secret in (*PERSONAL, "Ada King", "London"):
        assert secret not in everything


async def test_sealed_data_moved_to_another_customer_does_not_open(
    client: httpx.AsyncClient, gateway: Gateway, tenant: Caller, superuser: Superuser
) -> None:
    ada, eve = await made(client, **ADA), await made(client, name="Eve")
    await superuser.execute(
        "UPDATE customer_pii SET (wrapped_key, body) = (SELECT wrapped_key, body FROM customer_pii WHERE customer_id = $1)"
        " WHERE customer_id = $2",
        uuid_of(ada),
        uuid_of(eve),
    )
    with pytest.raises(KeyProblem):
        await gateway.customers.get(tenant.scope, uuid_of(eve))


async def test_two_people_have_two_keys(client: httpx.AsyncClient, superuser: Superuser) -> None:
    both = [await made(client, **ADA), await made(client, **ADA)]
    rows = await superuser.fetch(
        "SELECT * FROM customer_pii WHERE customer_id = ANY($1)", [uuid_of(each) for each in both]
    )
    assert len({row["wrapped_key"] for row in rows}) == 2
    assert len({row["body"] for row in rows}) == 2
    assert len({row["email_index"] for row in rows}) == 1


async def test_the_index_of_an_address_differs_between_tenants_and_modes(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, live_client: httpx.AsyncClient, superuser: Superuser
) -> None:
    everywhere = [await made(each, email="ada@example.com") for each in (client, other_client, live_client)]
    rows = await superuser.fetch(
        "SELECT email_index FROM customer_pii WHERE customer_id = ANY($1)", [uuid_of(each) for each in everywhere]
    )
    assert len({row["email_index"] for row in rows}) == 3


async def test_a_customer_is_found_by_email_reference_and_time(client: httpx.AsyncClient) -> None:
    ada = await made(client, reference="c-1", **ADA)
    bob = await made(client, reference="c-2", email="bob@example.com")
    assert await found(client) == [bob["id"], ada["id"]]
    assert await found(client, email="ADA@Example.COM") == [ada["id"]]
    assert await found(client, email="eve@example.com") == []
    assert await found(client, reference="c-2") == [bob["id"]]
    assert await found(client, reference="c-2", email="ada@example.com") == []
    assert await found(client, created_after=ada["created_at"]) == [bob["id"]]
    assert await found(client, created_before=bob["created_at"]) == [ada["id"]]
    tomorrow = (datetime.fromisoformat(ada["created_at"]) + timedelta(days=1)).isoformat()
    assert await found(client, created_after=tomorrow) == []


async def test_pages_hold_every_customer_once(client: httpx.AsyncClient) -> None:
    expected = [(await made(client, reference=f"c-{number}"))["id"] for number in range(5)][::-1]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/customers", params={"limit": "2"} | cursor)).json()
        seen += [customer["id"] for customer in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == expected


async def test_an_update_changes_what_it_names_and_nothing_else(client: httpx.AsyncClient) -> None:
    customer = await made(client, reference="c-1", metadata={"tier": "gold"}, **ADA)
    place = f"/v1/customers/{customer['id']}"
    updated = (await client.patch(place, json={"email": "king@example.com", "phone": None})).json()
    assert updated["sequence"] == 2
    assert updated["updated_at"] > customer["updated_at"]
    changed = {"email": "king@example.com", "phone": None, "sequence": 2, "updated_at": updated["updated_at"]}
    assert updated == customer | changed
    assert (await client.get(place)).json() == updated
    assert await found(client, email="ada@example.com") == []
    assert await found(client, email="king@example.com") == [customer["id"]]
    replaced = (await client.patch(place, json={"metadata": {"tier": "none"}, "reference": None})).json()
    assert (replaced["metadata"], replaced["reference"], replaced["name"]) == ({"tier": "none"}, None, ADA["name"])
    assert (await client.patch(place, json={})).json() == replaced


async def test_personal_data_can_come_later(client: httpx.AsyncClient) -> None:
    customer = await made(client)
    updated = (await client.patch(f"/v1/customers/{customer['id']}", json=ADA)).json()
    assert updated["email"] == ADA["email"]
    assert await found(client, email="ada@example.com") == [customer["id"]]


async def test_updates_at_once_are_all_kept(client: httpx.AsyncClient) -> None:
    customer = await made(client, **ADA)
    place = f"/v1/customers/{customer['id']}"
    bodies: list[dict[str, Any]] = [
        {"name": "Ada King"},
        {"email": "king@example.com"},
        {"phone": "+33 1 23 45"},
        {"metadata": {"a": "b"}},
    ]
    await asyncio.gather(*(client.patch(place, json=body) for body in bodies))
    after = (await client.get(place)).json()
    for body in bodies:
        assert body.items() <= after.items()
    assert after["sequence"] == 5


async def test_a_reference_names_one_customer(client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
    first = await made(client, reference="c-1")
    second = await made(client)
    await made(other_client, reference="c-1")
    for refused in (
        await client.post("/v1/customers", json={"reference": "c-1"}),
        await client.patch(f"/v1/customers/{second['id']}", json={"reference": "c-1"}),
    ):
        assert refused.status_code == 409
        assert refused.json()["code"] == "customer_reference_taken"
    assert await found(client) == [second["id"], first["id"]]


async def test_the_same_key_makes_one_customer(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "make-ada"}
    answers = await asyncio.gather(*(client.post("/v1/customers", json=ADA, headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    reused = await client.post("/v1/customers", json={"name": "Eve"}, headers=key)
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await found(client)) == 1


async def test_a_refused_creation_leaves_its_key_usable(client: httpx.AsyncClient) -> None:
    first = await made(client, reference="c-1")
    key = {"Idempotency-Key": "second-try"}
    assert (await client.post("/v1/customers", json={"reference": "c-1"}, headers=key)).status_code == 409
    await client.delete(f"/v1/customers/{first['id']}")
    assert (await client.post("/v1/customers", json={"reference": "c-1"}, headers=key)).status_code == 201


async def test_deleting_erases_everything_that_tells_who_it_was(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    request: dict[str, Any] = {
        "json": ADA | {"reference": "c-1042", "metadata": {"nick": "ada"}},
        "headers": {"Idempotency-Key": "ada"},
    }
    made_once = await client.post("/v1/customers", **request)
    assert (await client.post("/v1/customers", **request)).content == made_once.content
    place = f"/v1/customers/{made_once.json()['id']}"
    deleted = await client.delete(place)
    assert deleted.status_code == 200
    body = deleted.json()
    assert body["deleted_at"] is not None
    for name in ("reference", "name", "email", "phone", "address"):
        assert body[name] is None
    assert body["metadata"] == {}
    assert (await client.get(place)).json() == body
    assert (await client.delete(place)).json() == body
    assert (await client.post("/v1/customers", **request)).json() == body, "a kept answer is erased as well"
    assert await found(client) == []
    assert await found(client, email="ada@example.com") == []
    assert (
        await superuser.fetchval("SELECT count(*) FROM customer_pii WHERE tenant_id = $1", tenant.scope.tenant_id) == 0
    )
    everything = await dump(superuser, tenant)
    for secret in (*PERSONAL, "c-1042", "nick"):
        assert secret not in everything


async def test_a_deleted_customer_cannot_be_changed(client: httpx.AsyncClient) -> None:
    customer = await made(client, **ADA)
    await client.delete(f"/v1/customers/{customer['id']}")
    for refused in (
        await client.patch(f"/v1/customers/{customer['id']}", json={"name": "Ada"}),
        await client.post("/v1/payment-methods", json={"token": "tok_visa", "customer": customer["id"]}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "customer_deleted")


async def test_every_change_is_journalled_with_names_of_fields_only(
    client: httpx.AsyncClient, tenant: Caller, superuser: Superuser
) -> None:
    customer = await made(client, reference="c-1", **ADA)
    await client.patch(f"/v1/customers/{customer['id']}", json={"email": None, "metadata": {}})
    await client.delete(f"/v1/customers/{customer['id']}")
    entries = await superuser.fetch(
        "SELECT type, sequence, customer_id, actor_id, data FROM journal WHERE tenant_id = $1 AND subject_id = $2"
        " ORDER BY xid, seq",
        tenant.scope.tenant_id,
        uuid_of(customer),
    )
    assert [(entry["type"], entry["sequence"], msgspec.json.decode(entry["data"])["changed"]) for entry in entries] == [
        ("customer.created", 1, ["address", "email", "name", "phone", "reference"]),
        ("customer.updated", 2, ["email", "metadata"]),
        ("customer.deleted", 3, []),
    ]
    assert {(entry["customer_id"], entry["actor_id"]) for entry in entries} == {(uuid_of(customer), tenant.actor_id)}


async def test_the_event_feed_shows_customers_without_personal_data(
    client: httpx.AsyncClient, gateway: Gateway, tenant: Caller
) -> None:
    customer = await made(client, reference="c-1", **ADA)
    rendered = await gateway.customers.render_many(tenant.scope, [uuid_of(customer), clock.new_uuid()])
    assert list(rendered) == [uuid_of(customer)]
    body = rendered[uuid_of(customer)]
    assert body == {name: value for name, value in customer.items() if name not in ADA}
    assert body["reference"] == "c-1"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"nmae": "Ada"}, "$"),
        ({"email": "no address"}, "$.email"),
        ({"email": "ada@example"}, "$.email"),
        ({"email": "@example.com"}, "$.email"),
        ({"email": 1}, "$.email"),
        ({"email": "ada@example.com\n"}, "$.email"),
        ({"phone": "call me"}, "$.phone"),
        ({"phone": "+44 20 7946\n"}, "$.phone"),
        ({"name": ""}, "$.name"),
        ({"name": "n" * 201}, "$.name"),
        ({"reference": ""}, "$.reference"),
        ({"reference": "c\x00"}, "$.reference"),
        ({"metadata": {"k": 1}}, "$.metadata[...]"),
        ({"metadata": {"k" * 41: "v"}}, "$.metadata"),
        ({"metadata": {"": "v"}}, "$.metadata"),
        ({"metadata": {"k": "v\x00"}}, "$.metadata[...]"),
        ({"metadata": {str(n): "v" for n in range(51)}}, "$.metadata"),
        ({"metadata": None}, "$.metadata"),
        ({"address": {"line1": "a", "city": "b", "country": "XX"}}, "$.address"),
        ({"address": {"line1": "a", "city": "b", "country": "gb"}}, "$.address.country"),
        ({"address": {"line1": "a", "country": "GB"}}, "$.address"),
        ({"address": {"line1": "a", "city": "b", "country": "GB", "planet": "Earth"}}, "$.address"),
        ([], "$"),
        ("text", "$"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_stored(client: httpx.AsyncClient, body: Any, path: str) -> None:
    refused = await client.post("/v1/customers", json=body)
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert problem["code"] == "invalid_request"
    assert problem["errors"][0]["path"].endswith(path)
    assert refused.headers["content-type"] == "application/problem+json"
    assert await found(client) == []


async def test_all_countries_are_taken(client: httpx.AsyncClient) -> None:
    assert len(COUNTRIES) == 249
    for country in ("FR", "US", "ZW", "AD"):
        address = {"line1": "1", "city": "x", "country": country}
        assert (await made(client, address=address))["address"]["country"] == country


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=ten",
        "cursor=nonsense",
        "created_after=yesterday",
        "created_after=2026-01-01T00:00:00",
        "reference=a%00",
        "reference=",
    ],
)
async def test_a_wrong_filter_is_refused(client: httpx.AsyncClient, query: str) -> None:
    refused = await client.get(f"/v1/customers?{query}")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_customers_of_another_tenant_or_mode_do_not_exist(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, live_client: httpx.AsyncClient
) -> None:
    customer = await made(client, reference="c-1", **ADA)
    for stranger in (other_client, live_client):
        for refused in (
            await stranger.get(f"/v1/customers/{customer['id']}"),
            await stranger.patch(f"/v1/customers/{customer['id']}", json={"name": "Mallory"}),
            await stranger.delete(f"/v1/customers/{customer['id']}"),
            await stranger.post("/v1/payment-methods", json={"token": "tok_visa", "customer": customer["id"]}),
        ):
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert await found(stranger) == []
        assert await found(stranger, email="ada@example.com") == []
        assert await found(stranger, reference="c-1") == []
    assert (await client.get(f"/v1/customers/{customer['id']}")).json() == customer


async def test_a_key_with_another_scope_is_refused(
    new_client: NewClient, new_merchant: Any, merchant: Merchant
) -> None:
    reader: Merchant = await new_merchant(of=merchant, scopes=frozenset({"customers:read"}))
    client = await new_client(reader)
    assert (await client.get("/v1/customers")).status_code == 200
    refused = await client.post("/v1/customers", json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
