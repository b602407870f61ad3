"""Bulk runs: many rows at once in the background, each once, whoever dies over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.core.desk.stuck import failed_mails
from tests.factories import Connection, insert

from clearspan.desk.errors import BulkRunEmpty, BulkRunOver, BulkRunUnderWay
from clearspan.desk.models import Narrowed
from clearspan.desk.service import ERRORS_MAX, LEASE, STEP
from clearspan.platform import clock
from clearspan.platform.context import Caller
from clearspan.platform.problems import Forbidden, InvalidRequest, NotFound
from clearspan.worker import JOBS

if TYPE_CHECKING:
    from tests.conftest import Merchant

    from clearspan.app import Gateway
    from clearspan.desk.models import BulkRun
    from clearspan.platform.gate import AsgiApp

WHY = "the mail server was away"


async def states(sql: Connection, caller: Caller) -> dict[str, int]:
    """Notices of the tenant by state."""
    rows = await sql.fetch(
        "SELECT state, count(*) AS n FROM notices WHERE tenant_id = $1 AND live = $2 GROUP BY state",
        caller.scope.tenant_id,
        caller.scope.live,
    )
    return {row["state"]: row["n"] for row in rows}


async def journal(sql: Connection, caller: Caller, like: str) -> list[Any]:
    """What the trail tells of it."""
    return list(
        await sql.fetch(
            "SELECT type, actor_id, data FROM journal WHERE tenant_id = $1 AND type LIKE $2 ORDER BY epoch, xid, seq",
            caller.scope.tenant_id,
            like,
        )
    )


@pytest.fixture
async def person(gateway: Gateway, app: AsgiApp, merchant: Merchant) -> Caller:
    """Somebody of finance."""
    return Caller(
        scope=merchant.caller.scope,
        actor_type="operator",
        actor_id="opr_01h455vb4pex5vsknk084sn02q",
        request_id="req_desk",
        scopes=merchant.caller.scopes,
        tenant=merchant.caller.tenant,
    )


async def start(gateway: Gateway, caller: Caller, queue: str = "notices", **narrowed: Any) -> BulkRun:
    """A run."""
    return await gateway.desk.start(caller, None, queue, Narrowed(**narrowed), "retry", WHY)


async def work(gateway: Gateway, caller: Caller) -> int:
    """As the worker's job does it."""
    given = {"desk": gateway.desk, "request_id": "req_worker"}
    scope = caller.scope
    return await JOBS["work_bulk_runs"](given, tenant_id=str(scope.tenant_id), live=scope.live)


async def test_ten_thousand_rows_are_retried_each_once(gateway: Gateway, person: Caller, superuser: Connection) -> None:
    await failed_mails(superuser, person, 10_050)
    run = await start(gateway, person)
    assert (run.total, run.total_is_more, run.state, run.done) == (10_050, False, "waiting", 0)
    await work(gateway, person)
    run = (await gateway.desk.runs(person, "notices"))[0]
    assert (run.state, run.done, run.failed, run.left) == ("done", 10_050, 0, 0)
    assert await states(superuser, person) == {"queued": 10_050}
    told = await journal(superuser, person, "notice.retried")
    assert len(told) == 10_050
    assert {row["actor_id"] for row in told} == {person.actor_id}
    assert [row["type"] for row in await journal(superuser, person, "bulk_run.%")] == [
        "bulk_run.started",
        "bulk_run.ended",
    ]


async def test_the_sweep_finds_a_run_that_waits(gateway: Gateway, person: Caller, superuser: Connection) -> None:
    from clearspan.platform import sqlbundle

    await failed_mails(superuser, person, 1)
    await start(gateway, person)
    due = await superuser.fetchval(f"SELECT {sqlbundle.name('due_work')}($1, 1000)", clock.now())
    assert str(person.scope.tenant_id) in due
    assert "work_bulk_runs" in due


async def test_a_run_whose_worker_died_goes_on_behind_its_last_row(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    await failed_mails(superuser, person, 2 * STEP + 5)
    await start(gateway, person)
    held = await gateway.desk.claim(person.scope)
    assert held is not None
    assert await gateway.desk.step(person.scope, held, "req_1")
    # It dies here. Nobody else takes the run up before the lease has ended.
    assert await gateway.desk.claim(person.scope) is None
    await superuser.execute(
        "UPDATE bulk_runs SET due_at = due_at - $2::interval WHERE bulk_run_id = $1", held.bulk_run_id, LEASE
    )
    assert await work(gateway, person) == 2
    # The first was not dead after all: its next step does nothing.
    assert not await gateway.desk.step(person.scope, held, "req_1")
    run = (await gateway.desk.runs(person, "notices"))[0]
    assert (run.state, run.done) == ("done", 2 * STEP + 5)
    assert len(await journal(superuser, person, "notice.retried")) == 2 * STEP + 5


async def test_a_step_that_is_rolled_back_has_done_nothing(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    await failed_mails(superuser, person, 3)
    await start(gateway, person)
    held = await gateway.desk.claim(person.scope)
    assert held is not None
    await superuser.execute("ALTER TABLE notices ADD CONSTRAINT no_more CHECK (state <> 'queued') NOT VALID")
    try:
        with pytest.raises(Exception, match="no_more"):
            await gateway.desk.step(person.scope, held, "req_1")
    finally:
        await superuser.execute("ALTER TABLE notices DROP CONSTRAINT no_more")
    run = (await gateway.desk.runs(person, "notices"))[0]
    assert (run.state, run.done, run.failed) == ("running", 0, 0)
    assert await states(superuser, person) == {"failed": 3}


async def test_a_canceled_run_stops_and_what_it_did_stays(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    await failed_mails(superuser, person, STEP + 5)
    run = await start(gateway, person)
    held = await gateway.desk.claim(person.scope)
    assert held is not None
    await gateway.desk.step(person.scope, held, "req_1")
    from clearspan.platform import ids

    public = ids.encode("bulk", run.bulk_run_id)
    canceled = await gateway.desk.cancel(person, public)
    assert (canceled.state, canceled.done, canceled.left) == ("canceled", STEP, 0)
    assert not await gateway.desk.step(person.scope, held, "req_1")
    assert await work(gateway, person) == 0
    assert await states(superuser, person) == {"queued": STEP, "failed": 5}
    with pytest.raises(BulkRunOver):
        await gateway.desk.cancel(person, public)


async def test_two_runs_of_a_queue_do_not_collide(gateway: Gateway, person: Caller, superuser: Connection) -> None:
    await failed_mails(superuser, person, 2)
    await start(gateway, person)
    with pytest.raises(BulkRunUnderWay):
        await start(gateway, person)
    await work(gateway, person)
    with pytest.raises(BulkRunEmpty):
        await start(gateway, person, state="failed")


async def test_what_comes_back_into_the_queue_is_not_retried_for_ever(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    await failed_mails(superuser, person, STEP + 1)
    await start(gateway, person)
    held = await gateway.desk.claim(person.scope)
    assert held is not None
    for _ in range(2):
        assert await gateway.desk.step(person.scope, held, "req_1")
        await superuser.execute(
            "UPDATE notices SET state = 'failed', due_at = NULL WHERE tenant_id = $1", person.scope.tenant_id
        )
    assert not await gateway.desk.step(person.scope, held, "req_1")
    assert len(await journal(superuser, person, "notice.retried")) == STEP + 1


async def test_what_came_after_it_was_asked_for_is_not_a_part_of_it(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    await failed_mails(superuser, person, 1)
    await start(gateway, person)
    await failed_mails(superuser, person, 1)
    await superuser.execute(
        "UPDATE notices SET created_at = $2 WHERE tenant_id = $1 AND notice_id ="
        " (SELECT notice_id FROM notices WHERE tenant_id = $1 ORDER BY customer_id DESC LIMIT 1)",
        person.scope.tenant_id,
        clock.now() + clock.seconds(5),
    )
    await work(gateway, person)
    assert (await states(superuser, person)) == {"queued": 1, "failed": 1}


async def test_a_row_that_refuses_is_counted_and_holds_up_nobody(
    gateway: Gateway, person: Caller, superuser: Connection
) -> None:
    """Deliveries to an endpoint that is disabled cannot be replayed, those to an enabled one can."""
    scope, now = person.scope, clock.now()
    place = {"tenant_id": scope.tenant_id, "live": scope.live}
    for status, reason in (("enabled", None), ("disabled", "manual")):
        endpoint = clock.new_uuid()
        row = {
            "url": "https://shop.example/hook",
            "events": ["*"],
            "api_version": "v1",
            "status": status,
            "secret": b"sealed",
            "disabled_reason": reason,
            "disabled_at": now if reason else None,
            "created_at": now,
            "updated_at": now,
        }
        await insert(superuser, "webhook_endpoints", {**place, "webhook_endpoint_id": endpoint, **row})
        await superuser.execute(
            "INSERT INTO webhook_deliveries (tenant_id, live, delivery_id, webhook_endpoint_id, event_id, event_type,"
            " subject_id, epoch, xid, seq, state, last_error, created_at, updated_at)"
            " SELECT $1, $2, gen_random_uuid(), $3, gen_random_uuid(),"
            " 'payment.captured', gen_random_uuid(), 1, '1', n, 'failed', 'timeout', $4, $4 FROM generate_series(1, 60) AS n",
            scope.tenant_id,
            scope.live,
            endpoint,
            now,
        )
    await start(gateway, person, "deliveries")
    await work(gateway, person)
    run = (await gateway.desk.runs(person, "deliveries"))[0]
    assert (run.state, run.done, run.failed) == ("done", 60, 60)
    assert len(run.errors) == ERRORS_MAX
    assert {each.code for each in run.errors} == {"webhook_endpoint_not_enabled"}
    # So that no other test's worker sends them.
    await superuser.execute(
        "UPDATE webhook_deliveries SET state = 'canceled', due_at = NULL WHERE tenant_id = $1", scope.tenant_id
    )


async def test_a_run_needs_a_reason_a_right_and_rows_of_ones_own(
    gateway: Gateway, person: Caller, superuser: Connection, other_merchant: Merchant
) -> None:
    from clearspan.platform import ids

    await failed_mails(superuser, person, 1)
    with pytest.raises(InvalidRequest, match="why"):
        await gateway.desk.start(person, None, "notices", Narrowed(), "retry", "")
    with pytest.raises(InvalidRequest, match="500"):
        await gateway.desk.start(person, None, "notices", Narrowed(), "retry", "x" * 501)
    with pytest.raises(InvalidRequest, match="cannot be done"):
        await gateway.desk.start(person, None, "notices", Narrowed(), "dismiss", WHY)
    with pytest.raises(InvalidRequest, match="Select"):
        await gateway.desk.start(person, None, "notices", Narrowed(ids=[]), "retry", WHY)
    with pytest.raises(Forbidden):
        await gateway.desk.start(
            Caller(scope=person.scope, actor_type="operator", actor_id="opr_x", request_id="req_x"),
            *(None, "notices", Narrowed(), "retry", WHY),
        )
    stranger = other_merchant.caller
    with pytest.raises(BulkRunEmpty):
        await gateway.desk.start(stranger, None, "notices", Narrowed(), "retry", WHY)
    run = await start(gateway, person)
    with pytest.raises(NotFound):
        await gateway.desk.run(stranger, ids.encode("bulk", run.bulk_run_id))
    with pytest.raises(NotFound):
        await gateway.desk.cancel(stranger, ids.encode("bulk", run.bulk_run_id))


async def test_counts_stop_counting(gateway: Gateway, person: Caller, superuser: Connection) -> None:
    await failed_mails(superuser, person, 1_500)
    assert (await gateway.desk.counts(person.scope, person.scopes))["notices"] == 1_001
    assert "notices" not in await gateway.desk.counts(person.scope, {"payments:read"})
