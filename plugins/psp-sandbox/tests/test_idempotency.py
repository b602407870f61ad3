"""One key, one effect, one answer: under races, errors, kills, and until the window ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from clearspan.sdk import Approved, OutcomeUnknown, RetrieveRequest
from clearspan_psp_sandbox.keys import WINDOW_S
from clearspan_psp_sandbox.simulator import build

if TYPE_CHECKING:
    from conftest import Eventually, Running, Shop

CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}


def body(**changes: object) -> dict[str, Any]:
    return {"reference": str(uuid4()), "amount": 1099, "currency": "EUR", "card": CARD} | changes


async def booked(api: httpx.AsyncClient, reference: str) -> list[dict[str, Any]] | None:
    """The operations with a reference, as the account's book has them, or ``None``."""
    book = (await api.get("/v1/book")).json()["operations"]
    return [operation for operation in book if operation["reference"] == reference] or None


async def booked_once(api: httpx.AsyncClient, reference: str) -> bool:
    return len(await booked(api, reference) or []) == 1


async def test_the_same_key_and_body_answer_the_same_bytes(api: httpx.AsyncClient) -> None:
    charge, headers = body(), {"Idempotency-Key": "k1"}
    first = await api.post("/v1/charges", json=charge, headers=headers)
    again = await api.post("/v1/charges", json=charge, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await booked_once(api, charge["reference"])


async def test_the_same_key_with_another_body_is_refused(api: httpx.AsyncClient) -> None:
    charge, headers = body(), {"Idempotency-Key": "k1"}
    await api.post("/v1/charges", json=charge, headers=headers)
    other = await api.post("/v1/charges", json=charge | {"amount": 1100}, headers=headers)
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert await booked_once(api, charge["reference"])


async def test_the_adapter_does_not_know_the_outcome_when_its_key_came_with_another_body(shop: Shop) -> None:
    request = shop.request()
    other = type(request)(
        **{field: getattr(request, field) for field in request.__struct_fields__} | {"capture": False}
    )
    await shop.psp.create_intent(other)
    with pytest.raises(OutcomeUnknown, match="idempotency_key_reused"):
        await shop.psp.create_intent(request)


async def test_a_key_of_another_account_is_another_key(simulator: Running) -> None:
    charge = body()
    async with httpx.AsyncClient(base_url=simulator.url) as api:
        answers = [
            await api.post(
                "/v1/charges",
                json=charge,
                headers={"Authorization": f"Bearer sk_sandbox_{account}", "Idempotency-Key": "shared"},
            )
            for account in ("one", "two")
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["id"] != answers[1].json()["id"]


@pytest.mark.parametrize(
    ("changes", "status"), [({"amount": 9001}, 402), ({"card": None, "network_transaction_id": "unknown"}, 422)]
)
async def test_errors_are_replayed_too(api: httpx.AsyncClient, changes: dict[str, Any], status: int) -> None:
    charge, headers = body(**changes), {"Idempotency-Key": "k1"}
    first = await api.post("/v1/charges", json=charge, headers=headers)
    again = await api.post("/v1/charges", json=charge, headers=headers)
    assert first.status_code == again.status_code == status
    assert first.content == again.content
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_while_the_first_request_runs_the_key_is_in_flight(
    api: httpx.AsyncClient, eventually: Eventually
) -> None:
    charge, headers = body(amount=1002, card=CARD | {"number": "4000000000088007"}), {"Idempotency-Key": "k1"}
    first = asyncio.create_task(api.post("/v1/charges", json=charge, headers=headers))
    await eventually(lambda: booked(api, charge["reference"]))
    meanwhile = await api.post("/v1/charges", json=charge, headers=headers)
    assert meanwhile.status_code == 409
    assert meanwhile.json()["error"]["code"] == "idempotency_key_in_flight"
    answer = await first
    replayed = await api.post("/v1/charges", json=charge, headers=headers)
    assert replayed.content == answer.content


async def test_fifty_posts_at_once_with_one_key_book_one_charge(api: httpx.AsyncClient) -> None:
    charge, headers = body(), {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(api.post("/v1/charges", json=charge, headers=headers) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert await booked_once(api, charge["reference"])


async def test_fifty_charges_at_once_through_the_vault_book_one(shop: Shop) -> None:
    request = shop.request()
    outcomes = await asyncio.gather(*(shop.psp.create_intent(request) for _ in range(50)), return_exceptions=True)
    approved = {outcome.psp_ref for outcome in outcomes if isinstance(outcome, Approved)}
    assert len(approved) == 1
    assert all(isinstance(outcome, Approved | OutcomeUnknown) for outcome in outcomes)
    found = await shop.psp.retrieve(RetrieveRequest(request.operation_id, request.key, "purchase", request.amount))
    assert isinstance(found, Approved)
    assert found.psp_ref in approved


async def test_a_kill_keeps_the_book_and_the_keys(own_simulator: Running) -> None:
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    charges = {f"k{n}": body() for n in range(300)}
    answered: dict[str, bytes] = {}
    enough = asyncio.Event()

    async def post(api: httpx.AsyncClient, key: str) -> None:
        answer = await api.post("/v1/charges", json=charges[key], headers={"Idempotency-Key": key})
        answered[key] = answer.content
        if len(answered) == 100:
            enough.set()

    async with httpx.AsyncClient(base_url=own_simulator.url, headers=headers) as api:
        posts = [asyncio.create_task(post(api, key)) for key in charges]
        await enough.wait()
        own_simulator.kill()
        await asyncio.gather(*posts, return_exceptions=True)
    before = dict(answered)
    assert 100 <= len(before) < 300
    own_simulator.start()
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=headers) as api:
        for key in charges:
            await post(api, key)
        assert {key: answered[key] for key in before} == before
        book = (await api.get("/v1/book")).json()["operations"]
    assert sorted(operation["reference"] for operation in book) == sorted(
        charge["reference"] for charge in charges.values()
    )


async def test_half_a_line_at_the_end_of_the_book_is_cut_off(own_simulator: Running) -> None:
    headers = {"Authorization": "Bearer sk_sandbox_alpha", "Idempotency-Key": "k1"}
    charge = body()
    async with httpx.AsyncClient(base_url=own_simulator.url, headers=headers) as api:
        first = await api.post("/v1/charges", json=charge)
        own_simulator.kill()
        with (own_simulator.folder / "data" / "book.jsonl").open("ab") as book:
            book.write(b'{"at":1795377185.26,"account":"alpha","operation":{"id":"ch_torn"')
        own_simulator.start()
        again = await api.post("/v1/charges", json=charge)
        assert again.content == first.content
        own_simulator.kill()
        own_simulator.start()
        assert len((await api.get("/v1/book")).json()["operations"]) == 1


async def test_a_second_simulator_on_the_same_book_does_not_start(own_simulator: Running) -> None:
    with pytest.raises(SystemExit, match="running simulator"):
        build(own_simulator.folder / "data", "seed")


async def test_a_key_is_forgotten_after_its_window(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    app = build(tmp_path, "seed", lambda: now)
    headers = {"Authorization": "Bearer sk_sandbox_alpha", "Idempotency-Key": "k1"}
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(base_url="http://psp", headers=headers, transport=transport) as api:
        first = (await api.post("/v1/charges", json=(charge := body()))).json()
        now += WINDOW_S - 1
        assert (await api.post("/v1/charges", json=charge)).json() == first
        now += 1
        assert (await api.post("/v1/charges", json=charge)).json()["id"] != first["id"]
    await app.close()


async def test_a_seed_makes_ids_repeatable(tmp_path: Path) -> None:
    ids = []
    for folder in ("one", "two"):
        app = build(tmp_path / folder, "7", lambda: 1_800_000_000.0)
        headers = {"Authorization": "Bearer sk_sandbox_alpha"}
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(base_url="http://psp", headers=headers, transport=transport) as api:
            ids.append([(await api.post("/v1/charges", json=body())).json()["id"] for _ in range(3)])
        await app.close()
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
