"""The contract of ``Idempotency-Key``: the same bytes for the same key, and nothing done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
import pytest
from tests.core.payments.conftest import Puppet, approve
from tests.shop import Json, Shop, code, new_key, succeeded, until

from clearspan.platform import clock
from clearspan.sdk import Approved, Declined, OutcomeUnknown

if TYPE_CHECKING:
    from tests.conftest import Merchant

Call = tuple[str, Json]
"""A path and a body."""


async def create(shop: Shop) -> Call:
    return "/v1/payments", {"amount_minor": 1099, "currency": "EUR", "metadata": {"b": "1", "a": "2"}}


async def create_and_confirm(shop: Shop) -> Call:
    path, body = await create(shop)
    return path, body | {"payment_method": await shop.card(), "confirm": True}


async def declined(shop: Shop) -> Call:
    path, body = await create_and_confirm(shop)
    return path, body | {"amount_minor": 9001}


async def pending(shop: Shop) -> Call:
    path, body = await create_and_confirm(shop)
    return path, body | {"amount_minor": 9052}


async def challenge(shop: Shop) -> Call:
    path, body = await create_and_confirm(shop)
    return path, body | {"payment_method": await shop.card("tok_3ds_challenge")}


async def confirm(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.ready())['id']}/confirm", {}


async def confirm_declined(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.ready(9002))['id']}/confirm", {}


async def continue_early(shop: Shop) -> Call:
    payment = (await shop.pay(1000, "tok_3ds_challenge")).json()
    return f"/v1/payments/{payment['id']}/continue", {"params": {"a": "b"}}


async def continue_after_the_challenge(shop: Shop) -> Call:
    payment = (await shop.pay(1000, "tok_3ds_challenge")).json()
    await shop.answer_challenge(payment, "approve")
    return f"/v1/payments/{payment['id']}/continue", {}


async def capture(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.paid(1000, capture_method='manual'))['id']}/capture", {"amount_minor": 300}


async def cancel_unconfirmed(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.ready())['id']}/cancel", {"reason": "no more"}


async def cancel_authorized(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.paid(1000, capture_method='manual'))['id']}/cancel", {}


async def refund(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.paid(1000))['id']}/refunds", {"amount_minor": 100, "metadata": {"x": "y"}}


async def refund_refused_by_the_psp(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.paid(10_000))['id']}/refunds", {"amount_minor": 9070}


async def refund_pending(shop: Shop) -> Call:
    return f"/v1/payments/{(await shop.paid(10_000))['id']}/refunds", {"amount_minor": 9052}


CALLS: list[tuple[Callable[[Shop], Awaitable[Call]], int]] = [
    (create, 201),
    (create_and_confirm, 201),
    (declined, 201),
    (pending, 202),
    (challenge, 201),
    (confirm, 200),
    (confirm_declined, 200),
    (continue_early, 200),
    (continue_after_the_challenge, 200),
    (capture, 200),
    (cancel_unconfirmed, 200),
    (cancel_authorized, 200),
    (refund, 201),
    (refund_refused_by_the_psp, 201),
    (refund_pending, 202),
]
every_call = pytest.mark.parametrize(("prepare", "status"), CALLS, ids=[one.__name__ for one, _ in CALLS])


def rewritten(body: Json) -> bytes:
    """The same JSON with other white space, the keys in the other order and one letter escaped."""
    backwards = {name: body[name] for name in reversed(body)}
    text = msgspec.json.format(msgspec.json.encode(backwards), indent=3).decode()
    return ("\n" + text.replace('"currency"', '"c\\u0075rrency"') + " \t").encode()


async def same(first: httpx.Response, second: httpx.Response) -> None:
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


@every_call
async def test_a_repeated_call_is_answered_with_the_same_bytes_and_does_nothing(
    shop: Shop, prepare: Callable[[Shop], Awaitable[Call]], status: int
) -> None:
    path, body = await prepare(shop)
    key = new_key()
    first = await shop.post(path, body, key)
    assert first.status_code == status, first.text
    book, listed = await shop.book(), (await shop.http.get("/v1/payments")).content
    await same(first, await shop.post(path, body, key))
    await same(first, await shop.post(path, rewritten(body), key))
    assert await shop.book() == book
    assert (await shop.http.get("/v1/payments")).content == listed


@every_call
async def test_a_key_with_another_request_is_refused(
    shop: Shop, prepare: Callable[[Shop], Awaitable[Call]], status: int
) -> None:
    path, body = await prepare(shop)
    key = new_key()
    first = await shop.post(path, body, key)
    assert first.status_code == status
    other: Json = {"reference": "another"} if path == "/v1/payments" else {}
    other |= {"params": {"c": "d"}} if path.endswith("continue") else {}
    other |= {"reason": "another"} if path.endswith(("cancel", "refunds")) else {}
    other |= {"amount_minor": 77} if path.endswith("capture") else {}
    other |= {"return_url": "https://shop.example/x"} if path.endswith("confirm") else {}
    assert code(await shop.post(path, body | other, key)) == (422, "idempotency_key_reused")
    await same(first, await shop.post(path, body, key))


async def test_a_key_is_of_one_payment(shop: Shop) -> None:
    one, two = await shop.ready(), await shop.ready()
    key = new_key()
    assert (await shop.act(one, "confirm", key=key)).status_code == 200
    assert code(await shop.act(two, "confirm", key=key)) == (422, "idempotency_key_reused")
    assert len(await shop.book()) == 1


async def test_no_body_is_the_same_request_as_an_empty_object(shop: Shop) -> None:
    payment = await shop.ready()
    path, key = f"/v1/payments/{payment['id']}/confirm", new_key()
    first = await shop.post(path, b"", key)
    assert first.status_code == 200, first.text
    await same(first, await shop.post(path, b"{}", key))


@pytest.mark.parametrize("path", ["/v1/payments", "confirm", "continue", "capture", "cancel", "refunds"])
async def test_a_call_that_can_move_money_needs_a_key(shop: Shop, path: str) -> None:
    body = {"amount_minor": 1, "currency": "EUR"} if path == "/v1/payments" else {}
    if path != "/v1/payments":
        path = f"/v1/payments/{(await shop.ready())['id']}/{path}"
    assert code(await shop.http.post(path, json=body)) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "k" * 256, "ké", "ключ"])
async def test_a_malformed_key_is_refused(shop: Shop, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    body = {"amount_minor": 1, "currency": "EUR"}
    assert code(await shop.http.post("/v1/payments", json=body, headers=headers)) == (400, "idempotency_key_malformed")


@pytest.mark.parametrize("key", ["k", "k" * 255, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
async def test_every_other_key_is_good(shop: Shop, key: str) -> None:
    first = await shop.create(key=key)
    assert first.status_code == 201, first.text
    await same(first, await shop.create(key=key))


async def test_the_same_key_elsewhere_is_another_key(shop: Shop, other_shop: Shop, live_shop: Shop) -> None:
    """On another route, of another tenant, in the other mode."""
    key = new_key()
    made = [await one.pay(1000, key=key) for one in (shop, other_shop, live_shop)]
    assert len({answer.json()["id"] for answer in made}) == 3
    assert [answer.json()["live"] for answer in made] == [False, False, True]
    assert (await shop.act(made[0].json(), "refunds", key=key)).status_code == 201
    for one in (shop, other_shop, live_shop):
        assert len(succeeded(await one.book())) == 1


async def test_a_second_request_while_the_first_is_under_way_is_told_to_wait(shop: Shop) -> None:
    key = new_key()
    await shop.card("tok_slow")
    first = asyncio.create_task(shop.pay(1001, "tok_slow", key=key))
    await shop.under_way()
    early = await shop.pay(1001, "tok_slow", key=key)
    assert code(early) == (409, "idempotency_key_in_flight")
    assert 1 <= int(early.headers["retry-after"]) <= 5
    assert code(await shop.pay(1002, "tok_slow", key=key)) == (422, "idempotency_key_reused")
    answer = await first
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    await same(answer, await shop.pay(1001, "tok_slow", key=key))
    assert len(await shop.book()) == 1


async def test_a_spent_key_whose_answer_is_forgotten_stays_spent(
    shop: Shop, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    path, body = await create_and_confirm(shop)
    calls = [(path, body, new_key())]
    payment = (await shop.post(*calls[0])).json()
    calls += [(f"/v1/payments/{payment['id']}/refunds", {"amount_minor": 1}, new_key())]
    ready = await shop.ready()
    calls += [(f"/v1/payments/{ready['id']}/cancel", {}, new_key())]
    for call in calls[1:]:
        assert (await shop.post(*call)).status_code in (200, 201)
    await superuser.execute(
        "UPDATE idempotency_keys SET state = 'expired', status_code = NULL, body = NULL WHERE tenant_id = $1",
        merchant.caller.scope.tenant_id,
    )
    book = await shop.book()
    for call in calls:
        assert code(await shop.post(*call)) == (422, "idempotency_key_expired")
    assert await shop.book() == book


async def test_keys_expire_by_age_and_not_before(
    shop: Shop, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    from clearspan.payments.jobs import expire_keys
    from clearspan.platform.db import Database
    from clearspan.settings import Settings

    old, young = new_key(), new_key()
    for key in (old, young):
        assert (await shop.create(key=key)).status_code == 201
    scope = merchant.caller.scope
    rows = await superuser.fetch(
        "SELECT key_hash FROM idempotency_keys WHERE tenant_id = $1 ORDER BY created_at", scope.tenant_id
    )
    await superuser.execute(
        "UPDATE idempotency_keys SET created_at = $2 WHERE tenant_id = $1 AND key_hash = $3",
        scope.tenant_id,
        clock.now() - timedelta(days=30, minutes=1),
        rows[0]["key_hash"],
    )
    database: Any = shop.http._transport.app._app.state.gateway.db  # type: ignore[attr-defined]
    assert isinstance(database, Database)
    settings: Settings = shop.http._transport.app._app.state.gateway.settings  # type: ignore[attr-defined]
    purged = await expire_keys({"db": database, "settings": settings}, tenant_id=str(scope.tenant_id), live=False)
    assert purged == 1
    assert code(await shop.create(key=old)) == (422, "idempotency_key_expired")
    assert (await shop.create(key=young)).status_code == 201


# -- What keeps nothing ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_keeps_nothing_so_the_same_call_succeeds_once_the_reason_is_gone(shop: Shop) -> None:
    payment = await shop.paid(1000, capture_method="manual")
    path, key = f"/v1/payments/{payment['id']}/refunds", new_key()
    assert code(await shop.post(path, {"amount_minor": 400}, key)) == (409, "payment_not_refundable")
    await shop.act(payment, "capture", {"amount_minor": 300})
    assert code(await shop.post(path, {"amount_minor": 400}, key)) == (422, "amount_above_refundable")
    await shop.act(payment, "capture")
    assert (await shop.post(path, {"amount_minor": 400}, key)).status_code == 201
    assert len(succeeded(await shop.book(), "refund")) == 1


async def test_a_missing_account_keeps_nothing(shop: Shop) -> None:
    key = new_key()
    assert code(await shop.pay(psp_account="gamma", key=key)) == (422, "no_psp_account")
    await shop.add_account("gamma", 5)
    assert (await shop.pay(psp_account="gamma", key=key)).json()["status"] == "succeeded"


async def test_a_refused_confirmation_keeps_nothing(shop: Shop) -> None:
    payment, key = (await shop.create()).json(), new_key()
    assert code(await shop.act(payment, "confirm", key=key)) == (422, "payment_method_missing")
    assert code(await shop.act(payment, "confirm", {"payment_method": "pm_x"}, key)) == (
        404,
        "payment_method_not_found",
    )
    body = {"payment_method": await shop.card()}
    assert (await shop.act(payment, "confirm", body, key)).json()["status"] == "succeeded"


async def test_a_refused_cancel_keeps_nothing(theatre: Shop, puppet: Puppet) -> None:
    hold = asyncio.Event()

    async def slowly(verb: str, request: Any) -> Any:
        await hold.wait()
        return approve(verb, request)

    puppet.does = slowly
    charge = asyncio.create_task(theatre.pay(capture_method="manual"))

    async def processing() -> Json | None:
        return next(iter((await theatre.http.get("/v1/payments")).json()["data"]), None)

    payment, key = await until(processing), new_key()
    assert code(await theatre.act(payment, "cancel", key=key)) == (409, "payment_in_progress")
    hold.set()
    await charge

    async def settled() -> bool | None:
        return (await theatre.get(payment))["status"] == "requires_capture" or None

    await until(settled)
    assert (await theatre.act(payment, "cancel", key=key)).json()["status"] == "canceled"


# -- Answers that cross ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "status"), [("approved", "succeeded"), ("declined", "requires_payment_method")])
async def test_an_answer_that_comes_after_another_look_changes_nothing_that_was_told(
    theatre: Shop,
    puppet: Puppet,
    superuser: asyncpg.Connection[asyncpg.Record],
    merchant: Merchant,
    kind: str,
    status: str,
) -> None:
    """The charge is settled by a lookup under the same key while its own answer is still on the way."""
    hold, asked = asyncio.Event(), asyncio.Event()

    async def act(verb: str, request: Any) -> Any:
        if verb == "create_intent":
            asked.set()
            await hold.wait()
        if kind == "declined":
            return Declined(code="do_not_honor", psp_ref=f"ref-{request.operation_id}")
        return approve(verb, request)

    puppet.does = act
    payment, key = await theatre.ready(), new_key()
    first = asyncio.create_task(theatre.act(payment, "confirm", key=key))
    await asked.wait()
    for table in ("idempotency_keys", "operations"):
        await superuser.execute(
            f"UPDATE {table} SET lease_until = created_at WHERE tenant_id = $1 AND payment_id IS NOT NULL",
            merchant.caller.scope.tenant_id,
        )
    second = await theatre.act(payment, "confirm", key=key)
    assert (second.status_code, second.json()["status"]) == (200, status)
    hold.set()
    late = await first
    assert (late.status_code, late.content) == (second.status_code, second.content)
    operation = (await theatre.get(payment))["operations"][0]
    assert [one["source"] for one in operation["observations"]] == ["lookup", "response"]


async def test_a_late_writer_may_not_say_that_it_does_not_know(
    theatre: Shop, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record], merchant: Merchant
) -> None:
    hold, asked = asyncio.Event(), asyncio.Event()

    async def act(verb: str, request: Any) -> Any:
        if verb != "create_intent":
            return Approved(psp_ref="ref", amount=request.amount)
        asked.set()
        await hold.wait()
        raise OutcomeUnknown("late")

    puppet.does = act
    payment, key = await theatre.ready(), new_key()
    first = asyncio.create_task(theatre.act(payment, "confirm", key=key))
    await asked.wait()
    for table in ("idempotency_keys", "operations"):
        await superuser.execute(
            f"UPDATE {table} SET lease_until = created_at WHERE tenant_id = $1 AND payment_id IS NOT NULL",
            merchant.caller.scope.tenant_id,
        )
    second = await theatre.act(payment, "confirm", key=key)
    hold.set()
    late = await first
    assert late.content == second.content
    assert (await theatre.get(payment))["status"] == "succeeded"
