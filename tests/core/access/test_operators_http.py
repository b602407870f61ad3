"""``/v1/operators``: who may sign in, changed by a key with an admin's rank."""

from __future__ import annotations

import httpx
import pytest
from tests.conftest import Merchant, NewClient, NewMerchant

from clearspan.access.sessions import Operator
from clearspan.app import Gateway
from clearspan.platform import clock


async def member(gateway: Gateway, merchant: Merchant, role: str) -> Operator:
    """Somebody new of the merchant's tenant."""
    one = await gateway.operators.create(f"{clock.random_bytes(6).hex()}@example.com", f"{role} of tests")
    await gateway.operators.join(merchant.caller, one.operator_id, role)
    return one


@pytest.fixture
async def live(new_merchant: NewMerchant, new_client: NewClient, merchant: Merchant) -> httpx.AsyncClient:
    """A key of live mode in the merchant's tenant."""
    return await new_client(await new_merchant(live=True, of=merchant))


async def test_members_are_listed_without_what_signs_them_in(
    gateway: Gateway, client: httpx.AsyncClient, merchant: Merchant
) -> None:
    one = await member(gateway, merchant, "support")
    one = await gateway.operators.change(one, password_hash="$argon2id$never-shown", totp_secret=b"secret".hex())
    listed = await client.get("/v1/operators")
    assert "argon2" not in listed.text
    assert b"secret".hex() not in listed.text
    (shown,) = [each for each in listed.json()["data"] if each["id"] == one.public_id]
    assert (shown["role"], shown["second_factor"], shown["single_sign_on"]) == ("support", True, False)
    assert (await client.get(f"/v1/operators/{one.public_id}")).json() == shown


async def test_a_role_is_changed_and_told_in_the_live_journal(
    gateway: Gateway, live: httpx.AsyncClient, merchant: Merchant
) -> None:
    one = await member(gateway, merchant, "support")
    changed = await live.patch(f"/v1/operators/{one.public_id}", json={"role": "finance"})
    assert (changed.status_code, changed.json()["role"], changed.json()["version"]) == (200, "finance", 2)
    gone = await live.delete(f"/v1/operators/{one.public_id}")
    assert gone.json() == {"id": one.public_id, "object": "operator", "removed": True}
    assert (await live.get(f"/v1/operators/{one.public_id}")).status_code == 404
    told = (await live.get("/v1/audit", params={"subject": one.public_id})).json()["data"]
    assert [entry["type"] for entry in told] == ["operator.left", "operator.role_changed", "operator.joined"]
    assert one.email not in str(told)


async def test_a_key_of_test_mode_changes_nobody(
    gateway: Gateway, client: httpx.AsyncClient, merchant: Merchant
) -> None:
    one = await member(gateway, merchant, "support")
    for answer in (
        await client.patch(f"/v1/operators/{one.public_id}", json={"role": "admin"}),
        await client.delete(f"/v1/operators/{one.public_id}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "live_key_required")
    assert (await client.get(f"/v1/operators/{one.public_id}")).json()["role"] == "support"


async def test_a_key_touches_no_owner_and_makes_none(
    gateway: Gateway, live: httpx.AsyncClient, merchant: Merchant
) -> None:
    owner, other = await member(gateway, merchant, "owner"), await member(gateway, merchant, "admin")
    for answer in (
        await live.patch(f"/v1/operators/{owner.public_id}", json={"role": "support"}),
        await live.delete(f"/v1/operators/{owner.public_id}"),
        await live.patch(f"/v1/operators/{other.public_id}", json={"role": "owner"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "role_too_high")


async def test_an_unknown_role_is_refused(gateway: Gateway, live: httpx.AsyncClient, merchant: Merchant) -> None:
    one = await member(gateway, merchant, "support")
    answer = await live.patch(f"/v1/operators/{one.public_id}", json={"role": "god"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
