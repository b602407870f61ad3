"""Over the API: checkpoints and proofs that the offline verifier believes, for one's own events and nobody else's."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from tests.core.journal.trail import settle

from clearspan.app import Gateway
from clearspan.journal import verifier
from clearspan.journal.seal import Sealer
from clearspan.platform import clock, ids

if TYPE_CHECKING:
    from tests.conftest import NewClient, NewMerchant


def b64(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


class Log:
    """Seals and signs, as the worker does."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        settings = msgspec.structs.replace(gateway.settings.audit, checkpoint_interval_s=0)
        self._sealer = Sealer(gateway.db, gateway.proofs, gateway.audit_key, settings)

    async def seal(self) -> None:
        await settle(self._gateway.db)
        await self._sealer.seal()

    async def sign(self) -> None:
        await self.seal()
        await self._sealer.sign()


@pytest.fixture
def log(app: Any, gateway: Gateway) -> Log:
    """Of the shared application."""
    return Log(gateway)


async def event_of(client: httpx.AsyncClient) -> str:
    """Something that happened to this tenant just now."""
    made = await client.post("/v1/customers", json={}, headers={"Idempotency-Key": clock.new_uuid().hex})
    assert made.status_code == 201, made.text
    found = await client.get("/v1/audit", params={"subject": made.json()["id"]})
    return str(found.json()["data"][0]["id"])


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_event_is_proven_against_the_last_checkpoint(client: httpx.AsyncClient, log: Log) -> None:
    event = await event_of(client)
    await log.sign()
    proof = await get(client, f"/v1/audit/{event}/proof")
    key = (await get(client, "/v1/audit/key"))["verifier_key"]
    checkpoint = verifier.open_checkpoint(proof["checkpoint"], key)
    assert checkpoint.size == proof["tree_size"]
    assert base64.b64encode(checkpoint.root).decode() == proof["root"]
    leaf = verifier.sha(b"\x00", proof["leaf"].encode())
    assert base64.b64encode(leaf).decode() == proof["leaf_hash"]
    assert verifier.includes(leaf, proof["leaf_index"], checkpoint.size, b64(proof["proof"]), checkpoint.root)
    row = msgspec.json.decode(proof["leaf"])
    assert ids.encode("evt", msgspec.convert(row["event_id"], type=UUID)) == event
    assert row["type"] == "customer.created"
    latest = await get(client, "/v1/audit/checkpoint")
    assert latest["note"] == proof["checkpoint"]
    assert (await get(client, "/v1/audit/checkpoints", limit=1))["data"] == [latest]


async def test_an_event_is_proven_in_the_tree_of_a_given_size(client: httpx.AsyncClient, log: Log) -> None:
    event = await event_of(client)
    await log.sign()
    first = await get(client, f"/v1/audit/{event}/proof")
    await event_of(client)
    await log.seal()
    grown = first["tree_size"] + 1
    later = await get(client, f"/v1/audit/{event}/proof", size=grown)
    assert (later["tree_size"], later["checkpoint"], later["leaf"]) == (grown, None, first["leaf"])
    root = base64.b64decode(later["root"])
    leaf = base64.b64decode(later["leaf_hash"])
    assert verifier.includes(leaf, later["leaf_index"], grown, b64(later["proof"]), root)
    between = await get(client, "/v1/audit/consistency", **{"from": first["tree_size"], "to": grown})
    roots = b64([between["from_root"], between["to_root"]])
    assert [between["from_root"], between["to_root"]] == [first["root"], later["root"]]
    assert verifier.extends(first["tree_size"], grown, b64(between["proof"]), *roots)
    for size in (grown + 10**6, first["leaf_index"] + 10**9):
        answer = await client.get(f"/v1/audit/{event}/proof", params={"size": size})
        assert (answer.status_code, answer.json()["code"]) == (422, "tree_size_unknown")


async def test_an_event_that_is_not_sealed_yet_is_said_to_be_so(client: httpx.AsyncClient, log: Log) -> None:
    await event_of(client)
    await log.sign()
    young = await event_of(client)
    for step in ("not sealed", "sealed, not signed"):
        answer = await client.get(f"/v1/audit/{young}/proof")
        assert (answer.status_code, answer.json()["code"]) == (409, "event_not_sealed_yet"), step
        assert answer.headers["Retry-After"] == "10"
        await log.seal()
    await log.sign()
    assert (await client.get(f"/v1/audit/{young}/proof")).status_code == 200


async def test_a_tenant_learns_of_others_hashes_and_the_size_alone(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, live_client: httpx.AsyncClient, log: Log
) -> None:
    mine, theirs = await event_of(client), await event_of(other_client)
    await log.sign()
    for stranger in (other_client, live_client):
        answer = await stranger.get(f"/v1/audit/{mine}/proof")
        nobody = await stranger.get(f"/v1/audit/{ids.encode('evt', clock.new_uuid())}/proof")
        assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")
        assert answer.json()["title"] == nobody.json()["title"]
    proof = await get(client, f"/v1/audit/{mine}/proof")
    assert set(proof) == {
        "object",
        "event",
        "leaf_index",
        "leaf",
        "leaf_hash",
        "tree_size",
        "root",
        "proof",
        "checkpoint",
    }
    assert all(len(base64.b64decode(one)) == 32 for one in proof["proof"])
    assert theirs not in str(proof)


async def test_consistency_is_proven_from_every_size(client: httpx.AsyncClient, log: Log) -> None:
    await event_of(client)
    await log.sign()
    tip = await get(client, "/v1/audit/checkpoint")
    for old in {0, 1, 2, tip["size"] // 2, tip["size"] - 1, tip["size"]}:
        found = await get(client, "/v1/audit/consistency", **{"from": old})
        assert found["to_size"] == tip["size"]
        roots = b64([found["from_root"], found["to_root"]])
        assert verifier.extends(old, tip["size"], b64(found["proof"]), *roots)
    for params in ({"from": 2, "to": 1}, {"from": 0, "to": 10**12}, {"from": 10**12}):
        answer = await client.get("/v1/audit/consistency", params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "tree_size_unknown")


async def test_checkpoints_are_listed_newest_first_in_pages(client: httpx.AsyncClient, log: Log) -> None:
    for _ in range(3):
        await event_of(client)
        await log.sign()
    sizes: list[int] = []
    cursor: str | None = None
    for _ in range(100):
        page = await get(client, "/v1/audit/checkpoints", limit=2, **({"cursor": cursor} if cursor else {}))
        sizes += [one["size"] for one in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            break
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) >= 3
    answer = await client.get("/v1/audit/checkpoints", params={"cursor": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_it_takes_the_scope_for_the_audit_trail(new_client: NewClient, new_merchant: NewMerchant) -> None:
    poor = await new_client(await new_merchant(scopes=frozenset({"events:read"})))
    event = ids.encode("evt", clock.new_uuid())
    for path in ("key", "checkpoint", "checkpoints", "consistency?from=0", f"{event}/proof"):
        answer = await poor.get(f"/v1/audit/{path}")
        assert answer.status_code == 403, path


async def test_the_metrics_tell_how_the_tree_stands(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, log: Log
) -> None:
    await event_of(client)
    await log.sign()

    async def value(name: str) -> float:
        text = (await anonymous.get("/metrics")).text
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])

    size = (await get(client, "/v1/audit/checkpoint"))["size"]
    assert await value("audit_sealed_size") == size
    assert await value("audit_seal_lag_seconds") == 0
    assert await value("audit_checkpoint_age_seconds") == 0
    await event_of(client)
    assert await value("audit_seal_lag_seconds") > 0
    assert await value("audit_checkpoint_age_seconds") == 0
    await log.seal()
    assert await value("audit_seal_lag_seconds") == 0
    assert await value("audit_checkpoint_age_seconds") > 0
    assert await value("audit_sealed_size") > size
