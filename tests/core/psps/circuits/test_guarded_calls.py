"""A PSP that fails or hangs is left alone: clients hear at once that nothing was sent, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from tests.core.payments.conftest import Puppet, approve
from tests.core.psps.circuits.conftest import RULES, Stage, later
from tests.shop import Json, new_key, until

from clearspan.payments import recovery
from clearspan.platform import clock
from clearspan.sdk import Declined, OutcomeUnknown, Pending, PspMisconfigured, PspUnavailable, send

if TYPE_CHECKING:
    from clearspan.app import Gateway


def unclear(*_: Any) -> Any:
    raise OutcomeUnknown("sent, no answer")


def accepted(_: str, request: Any) -> Any:
    return Pending(psp_ref=f"ref-{request.operation_id}")


async def fail(stage: Stage, times: int = RULES.breaker_calls_min, does: Any = unclear) -> list[Json]:
    """Payments at the first account that its PSP does not answer clearly; after so many its circuit is open."""
    stage.first.does = does
    made = [(await stage.pay(psp_account="first")).json() for _ in range(times)]
    stage.first.calls.clear()
    return made


def refused(payment: Json) -> bool:
    return (payment["last_error"] or {}).get("code") == "psp_circuit_open"


async def test_an_open_circuit_sends_nothing_says_so_and_another_account_may_be_taken_at_once(stage: Stage) -> None:
    await fail(stage)
    key = new_key()
    answer = await stage.pay(psp_account="first", key=key)
    assert answer.status_code == 201
    payment = answer.json()
    assert (payment["status"], payment["outcome"]) == ("requires_confirmation", None)
    assert refused(payment)
    assert stage.first.verbs == []
    found = await stage.get(payment)
    assert [one["state"] for one in found["operations"]] == ["not_sent"]
    assert (await stage.pay(psp_account="first", key=key)).content == answer.content
    again = await stage.act(payment, "confirm", {"psp_account": "second"})
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")


async def test_routing_passes_over_an_account_whose_circuit_is_open_and_stores_why(stage: Stage) -> None:
    await fail(stage)
    payment = await stage.paid()
    (operation,) = (await stage.get(payment))["operations"]
    assert operation["routing"] == {
        "rule": "priority",
        "account": "second",
        "priority": "2",
        "passed_over": "first: circuit open",
    }
    assert stage.first.verbs == []


async def test_when_no_other_account_fits_the_open_one_is_taken_and_nothing_is_sent(stage: Stage) -> None:
    await fail(stage)
    listed = (await stage.http.get("/v1/psp-accounts")).json()["data"]
    second = next(one["id"] for one in listed if one["name"] == "second")
    assert (await stage.http.patch(f"/v1/psp-accounts/{second}", json={"status": "disabled"})).status_code == 200
    assert refused((await stage.pay()).json())


async def test_after_a_while_one_payment_tries_and_its_success_closes_the_circuit(stage: Stage) -> None:
    await fail(stage)
    assert await stage.health("first") == {
        "charge": "open",
        "continue": "closed",
        "capture": "closed",
        "void": "closed",
        "refund": "closed",
        "lookup": "closed",
    }
    release = asyncio.Event()

    async def slow(verb: str, request: Any) -> Any:
        await release.wait()
        return approve(verb, request)

    stage.first.does = slow
    with later(RULES.breaker_open_s):
        assert (await stage.health("first"))["charge"] == "half_open"
        trying = asyncio.create_task(stage.pay(psp_account="first"))
        await until(lambda: asked(stage.first, "create_intent"))
        assert refused((await stage.pay(psp_account="first")).json()), "only one tries"
        release.set()
        assert (await trying).json()["status"] == "succeeded"
        assert (await stage.health("first"))["charge"] == "closed"
        await stage.paid(psp_account="first")


async def test_a_change_is_journalled_once_however_many_calls_meet_it(stage: Stage) -> None:
    await fail(stage)
    for _ in range(5):
        await stage.pay(psp_account="first")
    (opened,) = await until(lambda: told(stage, "circuit_opened"))
    assert opened["actor"] == {"type": "system", "id": "psps"}
    assert opened["data"] == {"psp": "puppet", "name": "first", "verb": "charge", "failed": 4, "calls": 4}
    stage.first.does = approve
    with later(RULES.breaker_open_s):
        await stage.paid(psp_account="first")
    (closed,) = await until(lambda: told(stage, "circuit_closed"))
    assert closed["data"] == {"psp": "puppet", "name": "first", "verb": "charge"}
    assert len(await stage.told("circuit_opened")) == 1


async def test_metrics_tell_what_is_open_and_what_was_not_sent(stage: Stage, house: Gateway) -> None:
    await fail(stage)
    await stage.pay(psp_account="first")
    account = (await stage.http.get("/v1/psp-accounts")).json()["data"][0]["id"]
    text = house.metrics.render().decode()
    labels = f'account="{account}",psp="puppet",'
    assert f'psp_circuit_state{{{labels}verb="charge"}} 2.0' in text
    assert f'psp_calls_rejected_total{{{labels}reason="psp_circuit_open",verb="charge"}} 1.0' in text


async def test_declines_and_wrong_credentials_open_nothing_and_lost_connections_do(stage: Stage) -> None:
    def misconfigured(*_: Any) -> Any:
        raise PspMisconfigured("401")

    def away(*_: Any) -> Any:
        raise PspUnavailable("refused")

    stage.first.does = lambda *_: Declined(code="insufficient_funds")
    for _ in range(5):
        await stage.pay(psp_account="first")
    await fail(stage, 5, misconfigured)
    assert (await stage.health("first"))["charge"] == "closed"
    await fail(stage, 10, away)
    assert (await stage.health("first"))["charge"] == "open"


async def test_a_psp_that_asks_for_rest_gets_it(stage: Stage) -> None:
    def busy(*_: Any) -> Any:
        raise OutcomeUnknown("429", retry_after_s=120)

    await fail(stage, does=busy)
    stage.first.does = approve
    with later(119):
        assert refused((await stage.pay(psp_account="first")).json())
    with later(121):
        await stage.paid(psp_account="first")


async def test_a_refused_capture_can_be_made_again(stage: Stage) -> None:
    payments = [await stage.paid(capture_method="manual", psp_account="first") for _ in range(5)]
    stage.first.does = unclear
    for payment in payments[:4]:
        await stage.act(payment, "capture")
    stage.first.calls.clear()
    answer = await stage.act(payments[4], "capture")
    assert (answer.status_code, answer.json()["status"], stage.first.verbs) == (200, "requires_capture", [])
    stage.first.does = approve
    with later(RULES.breaker_open_s):
        assert (await stage.act(payments[4], "capture")).json()["status"] == "succeeded"


# -- Recovery -------------------------------------------------------------------------------------------------------------------


async def test_recovery_goes_on_while_charges_are_refused(stage: Stage) -> None:
    doubtful = await fail(stage)
    stage.first.does = approve
    with later(3):
        assert await stage.recover() == len(doubtful)
        assert refused((await stage.pay(psp_account="first")).json()), "what lookups meet says nothing about charges"
    assert {(await stage.get(one))["status"] for one in doubtful} == {"succeeded"}


async def test_while_lookups_fail_one_operation_per_account_is_asked_about_every_ten_seconds(stage: Stage) -> None:
    doubtful = await fail(stage)
    with later(3):
        assert await stage.recover() == 4
    assert (await stage.health("first"))["lookup"] == "open"
    stage.first.calls.clear()
    for seconds, looks in ((14, 1), (20, 1), (25, 2), (34, 2), (36, 3)):
        with later(seconds):
            await stage.recover()
        assert stage.first.verbs == ["retrieve"] * looks, seconds
    stage.first.does = approve
    with later(120):
        assert await stage.recover() == len(doubtful), "the first that is found out makes room for the others"
    assert {(await stage.get(one))["status"] for one in doubtful} == {"succeeded"}


async def test_what_nobody_could_ask_about_stays_due_and_unknown(stage: Stage) -> None:
    await fail(stage)
    with later(3):
        await stage.recover()
    (payment,) = await fail(stage, 1)  # refused: nothing was sent, nothing is to be found out
    with later(14):
        assert await stage.recover() == 1
        assert await stage.recover() == 0, "no second one within ten seconds"
    assert refused(await stage.get(payment))


async def test_a_psp_that_hangs_does_not_delay_what_is_found_out_at_another(stage: Stage) -> None:
    stage.first.does = stage.second.does = accepted
    hanging = [(await stage.pay(psp_account="first")).json() for _ in range(recovery.PER_ACCOUNT + 4)]
    others = [(await stage.pay(psp_account="second")).json() for _ in range(recovery.PER_ACCOUNT + 4)]
    stage.second.does = approve
    async with hung(stage.first) as release:
        with later(3):
            looked = await stage.recover()
        assert looked == 2 * recovery.PER_ACCOUNT + 4, "all of the second account, and of the first what fits"
        assert {(await stage.get(one))["status"] for one in others} == {"succeeded"}
        stage.second.does = accepted
        late = (await stage.pay(psp_account="second")).json()
        stage.second.does = approve
        with later(7):
            assert await stage.recover() == 1, "and of the first no more than it has under way"
        assert (await stage.get(late))["status"] == "succeeded"
        release.set()
        await until(lambda: settled(stage, hanging[0]))
    with later(60):
        await stage.recover()
    assert {(await stage.get(one))["status"] for one in hanging} == {"succeeded"}


async def test_a_look_is_done_before_its_lease_ends(
    stage: Stage, house: Gateway, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    stage.first.does = accepted
    await stage.pay(psp_account="first")
    async with hung(stage.first) as release:
        with later(3):
            looking = asyncio.create_task(stage.recover())
            await until(lambda: asked(stage.first, "retrieve"))
            lease_s = await superuser.fetchval(
                "SELECT extract(epoch FROM lease_until - $2) FROM operations WHERE tenant_id = $1",
                stage.scope.tenant_id,
                clock.now(),
            )
        payments = house.settings.payments
        assert float(lease_s) > recovery.CALLS * payments.psp_timeout_s
        release.set()
        await looking


# -- Bulkhead -------------------------------------------------------------------------------------------------------------------


async def test_when_too_many_calls_hang_the_next_is_refused_at_once_and_no_connection_is_held(
    stage: Stage, house: Gateway, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    held = house.settings.database.pool_size + house.settings.database.orm_pool_size
    assert held < RULES.calls_max, "or a call could hold a connection unnoticed"
    async with hung(stage.first) as release:
        waiting = [asyncio.create_task(stage.pay(psp_account="first")) for _ in range(RULES.calls_max)]
        await until(lambda: asked(stage.first, "create_intent", RULES.calls_max))
        answer = await stage.pay(psp_account="first")
        payment = answer.json()
        assert (answer.status_code, payment["status"], payment["outcome"]) == (201, "requires_confirmation", None)
        assert payment["last_error"]["code"] == "psp_busy"
        assert len(stage.first.calls) == RULES.calls_max
        await stage.paid(psp_account="second")
        sleeping = await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'clearspan' AND state LIKE 'idle in transaction%'"
        )
        assert sleeping == 0
        release.set()
        ended = [one.json()["status"] for one in await asyncio.gather(*waiting)]
    assert ended == ["succeeded"] * RULES.calls_max
    assert (await stage.act(payment, "confirm", {"psp_account": "first"})).json()["status"] == "succeeded"


# -- Retry-After ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "9" * 40}, 999_999_999.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:29 GMT"}, 30.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_how_long_a_psp_asks_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(429, headers=headers))
    async with httpx.AsyncClient(transport=transport) as http:
        with pytest.raises(OutcomeUnknown) as caught:
            await send(http, http.build_request("POST", "https://psp.test/charges"))
    assert caught.value.retry_after_s == seconds


# -- Waiting --------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def hung(puppet: Puppet) -> AsyncIterator[asyncio.Event]:
    """Its calls hang until the event; then they succeed. Nobody is left waiting."""
    release = asyncio.Event()

    async def hang(verb: str, request: Any) -> Any:
        await release.wait()
        return approve(verb, request)

    puppet.does = hang
    try:
        yield release
    finally:
        release.set()
        puppet.does = approve


async def asked(puppet: Puppet, verb: str, times: int = 1) -> bool | None:
    return True if puppet.verbs.count(verb) >= times else None


async def told(stage: Stage, kind: str) -> list[Json] | None:
    return await stage.told(kind) or None


async def settled(stage: Stage, payment: Json) -> bool | None:
    return True if (await stage.get(payment))["status"] == "succeeded" else None
