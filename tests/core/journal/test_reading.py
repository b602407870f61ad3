"""Reading the journal in order: positions, pages, bounds, epochs; and that nobody can change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from sqlalchemy import text

from clearspan.journal import repository
from clearspan.journal.errors import CursorUnknown
from clearspan.journal.models import Position, Slice
from clearspan.journal.service import entries_for, record
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings

INSERT = """
    INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, actor_type, actor_id, request_id,
                         data, at)
    VALUES ($1, $2, $3, 'payment.created', 'payment', $3, 1, 'cli', 'tests', 'req_tests', '{}', now())
"""


async def enter(connection: asyncpg.Connection[asyncpg.Record], caller: Caller) -> None:
    await connection.execute(
        "SELECT set_config('app.tenant', $1, true), set_config('app.live', $2, true)",
        str(caller.scope.tenant_id),
        str(caller.scope.live),
    )


async def attempt(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> None:
    """Within the open transaction, which a failure leaves usable."""
    async with connection.transaction():
        await connection.execute(statement)


async def test_a_record_says_who_did_what_under_which_request(db: Database, tenant: Caller) -> None:
    subject_id, customer_id = clock.new_uuid(), clock.new_uuid()
    before = clock.now()
    async with db.begin(tenant.scope) as session:
        event_id = await record(
            session,
            tenant,
            type="payment_method.updated",
            subject_type="payment_method",
            subject_id=subject_id,
            sequence=4,
            customer_id=customer_id,
            data={"changed": ["exp_month"], "psp_account_id": subject_id},
        )
        entry = await repository.find(session, tenant.scope, event_id)
    assert entry is not None
    assert (entry.type, entry.subject_type, entry.subject_id) == (
        "payment_method.updated",
        "payment_method",
        subject_id,
    )
    assert (entry.sequence, entry.customer_id) == (4, customer_id)
    assert (entry.actor_type, entry.actor_id, entry.request_id) == ("api_key", tenant.actor_id, "req_tests")
    assert entry.data == {"changed": ["exp_month"], "psp_account_id": str(subject_id)}
    assert before <= entry.at <= clock.now()
    assert event_id.version == 7


async def test_a_record_of_a_change_that_is_rolled_back_never_was(db: Database, tenant: Caller) -> None:
    async with db.begin(tenant.scope) as session:
        event_id = await record(
            session,
            tenant,
            type="customer.created",
            subject_type="customer",
            subject_id=clock.new_uuid(),
            sequence=1,
            data={},
        )
        await session.rollback()
    async with db.begin(tenant.scope) as session:
        assert await repository.find(session, tenant.scope, event_id) is None


@pytest.mark.parametrize("who", ["app", "owner", "superuser"])
@pytest.mark.parametrize(
    "statement", ["UPDATE journal SET type = 'payment.forged'", "DELETE FROM journal", "TRUNCATE journal"]
)
async def test_nobody_changes_or_removes_what_happened(
    urls: Any, tenant: Caller, happen: Any, who: str, statement: str
) -> None:
    await happen(tenant)
    connection = await asyncpg.connect(getattr(urls, who))
    try:
        refusal = asyncpg.InsufficientPrivilegeError if who == "app" else asyncpg.PostgresError
        async with connection.transaction():
            await enter(connection, tenant)
            with pytest.raises(refusal) as refused:
                await attempt(connection, statement)
        if who != "app":
            assert refused.value.sqlstate == "CS900"
    finally:
        await connection.close()


async def test_even_with_the_right_to_update_the_application_cannot(
    urls: Any, superuser: asyncpg.Connection[asyncpg.Record], tenant: Caller, happen: Any
) -> None:
    """The trigger stands behind the missing right."""
    await happen(tenant)
    role = urls.app.partition("//")[2].partition(":")[0]
    async with superuser.transaction():
        await superuser.execute(f"GRANT UPDATE, DELETE, TRUNCATE ON journal TO {role}; SET LOCAL ROLE {role}")
        await enter(superuser, tenant)
        for statement in ("UPDATE journal SET sequence = 9", "DELETE FROM journal", "TRUNCATE journal"):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await attempt(superuser, statement)
            assert refused.value.sqlstate == "CS900"
        await superuser.execute(f"RESET ROLE; REVOKE UPDATE, DELETE, TRUNCATE ON journal FROM {role}")


async def test_a_row_is_read_only_when_everything_older_is_decided(urls: Any, db: Database, tenant: Caller) -> None:
    """The second of two transactions commits first: following the sequence steps over the first one, the horizon does not."""
    first, second = await asyncpg.connect(urls.app), await asyncpg.connect(urls.app)
    early, late = clock.new_uuid(), clock.new_uuid()
    naive: list[UUID] = []
    naive_last = 0

    async def look() -> list[UUID]:
        nonlocal naive_last
        async with second.transaction():
            await enter(second, tenant)
            for row in await second.fetch("SELECT event_id, seq FROM journal WHERE seq > $1 ORDER BY seq", naive_last):
                naive.append(row["event_id"])
                naive_last = row["seq"]
        return [entry.event_id for entry in (await repository.page(db, tenant.scope, after=None, most=100)).entries]

    try:
        await look()
        naive.clear()
        open_ended = first.transaction()
        await open_ended.start()
        await enter(first, tenant)
        await first.execute(INSERT, tenant.scope.tenant_id, False, early)
        async with second.transaction():
            await enter(second, tenant)
            await second.execute(INSERT, tenant.scope.tenant_id, False, late)
        assert late not in await look()
        await open_ended.commit()
        await clock.sleep(0)
        read: list[UUID] = []
        while late not in read:  # Whatever else runs on the server may hold the horizon for a moment.
            read = await look()
        assert read[-2:] == [early, late]
        assert late in naive
        assert early not in naive, "the reader of the sequence was meant to miss it"
    finally:
        await first.close()
        await second.close()


async def test_from_an_event_above_the_horizon_only_what_stands_after_it_is_read(
    urls: Any, db: Database, tenant: Caller, happen: Any
) -> None:
    """Its id may come from the audit trail, which shows an entry at once."""
    other = await asyncpg.connect(urls.app)
    try:
        open_ended = other.transaction()
        await open_ended.start()
        await other.fetchval("SELECT pg_current_xact_id()")
        async with db.begin(tenant.scope) as session:
            known = await record(
                session,
                tenant,
                type="payment.created",
                subject_type="payment",
                subject_id=clock.new_uuid(),
                sequence=1,
                data={},
            )
            entry = await repository.find(session, tenant.scope, known)
        assert entry is not None
        held = await repository.page(db, tenant.scope, after=known, most=10)
        assert (held.entries, held.upto, held.more) == ([], entry.position, False)
        await open_ended.commit()
        later = await happen(tenant)
        for after in (known, held.upto):
            found = await repository.page(db, tenant.scope, after=after, most=10)
            assert [entry.event_id for entry in found.entries] == [later]
    finally:
        await other.close()


async def test_pages_go_on_where_the_last_one_ended(db: Database, tenant: Caller, happen: Any) -> None:
    before = (await repository.page(db, tenant.scope, after=None, most=100)).upto
    written = [await happen(tenant) for _ in range(5)]
    read: list[UUID] = []
    sizes: list[tuple[int, bool]] = []
    position = before
    more = True
    while more:
        found = await repository.page(db, tenant.scope, after=position, most=2)
        read += [entry.event_id for entry in found.entries]
        sizes.append((len(found.entries), found.more))
        position, more = found.upto, found.more
    assert read == written
    assert sizes == [(2, True), (2, True), (1, False)]
    again = await repository.page(db, tenant.scope, after=position, most=2)
    assert (again.entries, again.more, again.last) == ([], False, None)
    assert again.upto >= position


async def test_a_full_last_page_says_that_there_is_no_more(db: Database, tenant: Caller, happen: Any) -> None:
    start = await happen(tenant)
    for _ in range(2):
        await happen(tenant)
    found = await repository.page(db, tenant.scope, after=start, most=2)
    assert (len(found.entries), found.more) == (2, False)


async def test_a_page_ends_at_the_position_it_is_told(db: Database, tenant: Caller, happen: Any) -> None:
    start = await happen(tenant)
    inside = await happen(tenant)
    async with db.begin(tenant.scope) as session:
        entry = await repository.find(session, tenant.scope, inside)
    assert entry is not None
    await happen(tenant)
    found = await repository.page(db, tenant.scope, after=start, until=entry.position, most=10)
    assert [entry.event_id for entry in found.entries] == [inside]
    assert (found.more, found.upto) == (False, entry.position)


async def test_a_rare_type_is_searched_in_bounded_steps(
    db: Database, tenant: Caller, happen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "LOOK_MAX", 3)
    position: Position | UUID = await happen(tenant)
    for _ in range(7):
        await happen(tenant, "payment.created")
    rare = await happen(tenant, "payment.captured")
    steps: list[Slice] = []
    while not steps or steps[-1].more:
        steps.append(await repository.page(db, tenant.scope, after=position, types=["payment.captured"], most=2))
        position = steps[-1].upto
    assert [[entry.event_id for entry in step.entries] for step in steps] == [[], [], [rare]]
    assert all(step.last is not None for step in steps), "a client can name where each step ended"


async def test_of_the_wanted_type_a_page_holds_what_fits(db: Database, tenant: Caller, happen: Any) -> None:
    start = await happen(tenant)
    wanted = []
    for _ in range(3):
        await happen(tenant, "payment.created")
        wanted.append(await happen(tenant, "payment.captured"))
    found = await repository.page(db, tenant.scope, after=start, types=["payment.captured"], most=2)
    assert ([entry.event_id for entry in found.entries], found.more) == (wanted[:2], True)
    assert found.last == wanted[1]
    found = await repository.page(db, tenant.scope, after=found.upto, types=["payment.captured"], most=2)
    assert ([entry.event_id for entry in found.entries], found.more) == (wanted[2:], False)


async def test_another_tenants_or_modes_event_is_no_place_to_go_on_from(
    db: Database, tenant: Caller, other_tenant: Caller, live_merchant: Any, happen: Any
) -> None:
    for stranger in (other_tenant, live_merchant.caller):
        with pytest.raises(CursorUnknown):
            await repository.page(db, tenant.scope, after=await happen(stranger), most=1)


async def test_the_tail_gives_only_what_is_asked_for_and_its_place_moves_past_the_rest(
    db: Database, tenant: Caller, other_tenant: Caller, happen: Any
) -> None:
    start = (await repository.tail(db, None, None, 10)).upto
    mine, theirs = await happen(tenant), await happen(other_tenant)
    only_mine = await repository.tail(db, start, {tenant.scope}, 10_000)
    assert [entry.event_id for entry in only_mine.entries] == [mine]
    everything = [entry.event_id for entry in (await repository.tail(db, start, None, 10_000)).entries]
    assert everything.index(mine) < everything.index(theirs)
    assert (await repository.tail(db, only_mine.upto, {tenant.scope, other_tenant.scope}, 10)).entries == []
    one = await repository.tail(db, start, {other_tenant.scope}, 1)
    assert one.more, "one row at a time is looked at, wanted or not"
    assert one.upto < only_mine.upto


async def test_the_tail_is_closed_to_a_role_that_is_not_the_owner_s_function(
    urls: Any, tenant: Caller, happen: Any
) -> None:
    """Naming oneself the system opens nothing: the policy is the owner's."""
    await happen(tenant)
    connection = await asyncpg.connect(urls.app)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.system', 'on', true)")
            assert await connection.fetchval("SELECT count(*) FROM journal") == 0
    finally:
        await connection.close()


async def test_after_a_restore_the_order_goes_on_in_a_new_epoch(
    databases: Callable[[], Any], settings: Settings
) -> None:
    """Rows of the old cluster have transaction numbers that the new one has yet to reach."""
    urls = await asyncio.to_thread(databases)
    db = Database(urls.app, settings.database)
    await db.open()
    owner = await asyncpg.connect(urls.owner)
    try:
        caller = Caller(
            scope=Scope(tenant_id=clock.new_uuid(), live=False),
            actor_type="cli",
            actor_id="tests",
            request_id="req_tests",
        )
        old, new = [clock.new_uuid() for _ in range(2)], [clock.new_uuid() for _ in range(2)]
        async with owner.transaction():
            await enter(owner, caller)
            await owner.execute(
                "INSERT INTO tenants VALUES ($1, 'restored', 'Restored', 'active', '', now())", caller.scope.tenant_id
            )
            for event_id in old:
                await owner.execute(
                    INSERT.replace("at)", "at, epoch, xid)").replace("now())", "now(), 1, $4::text::xid8)"),
                    caller.scope.tenant_id,
                    False,
                    event_id,
                    str(10**12),
                )
        follower = await repository.tail(db, None, None, 10)
        assert (await repository.page(db, caller.scope, after=None, most=10)).entries == []
        await owner.execute(
            "CREATE OR REPLACE FUNCTION journal_epoch() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE RETURN 2"
        )
        for event_id in new:
            async with owner.transaction():
                await enter(owner, caller)
                await owner.execute(INSERT, caller.scope.tenant_id, False, event_id)
        found = await repository.page(db, caller.scope, after=None, most=10)
        while len(found.entries) < 4:
            found = await repository.page(db, caller.scope, after=None, most=10)
        assert [entry.event_id for entry in found.entries] == old + new
        assert [entry.epoch for entry in found.entries] == [1, 1, 2, 2]
        rest = await repository.page(db, caller.scope, after=old[1], most=10)
        assert [entry.event_id for entry in rest.entries] == new
        tail = await repository.tail(db, follower.upto, {caller.scope}, 10)
        assert [entry.event_id for entry in tail.entries] == old + new
    finally:
        await owner.close()
        await db.close()


async def test_the_entries_of_a_payment_include_those_of_its_operations(
    db: Database, owner: asyncpg.Connection[asyncpg.Record], tenant: Caller, other_tenant: Caller, happen: Any
) -> None:
    payment_id, operation_id, other_payment_id = clock.new_uuid(), clock.new_uuid(), clock.new_uuid()
    async with owner.transaction():
        await enter(owner, tenant)
        await insert_payment(owner, tenant, payment_id, operation_id)
    created = await happen(tenant, "payment.created", subject_id=payment_id)
    submitted = await happen(
        tenant,
        "operation.submitted",
        subject_type="operation",
        subject_id=operation_id,
        data={"payment_id": payment_id, "kind": "purchase"},
    )
    await happen(tenant, "payment.created", subject_id=other_payment_id)
    await happen(other_tenant, "payment.created", subject_id=payment_id)
    async with db.begin(tenant.scope) as session:
        found = await entries_for(session, tenant.scope, [payment_id, clock.new_uuid()])
    assert [entry.id for entry in found.pop(payment_id)] == [ids.encode("evt", each) for each in (created, submitted)]
    assert list(found.values()) == [[]]


async def insert_payment(
    connection: asyncpg.Connection[asyncpg.Record], caller: Caller, payment_id: UUID, operation_id: UUID
) -> None:
    """The rows alone, without what they would tell."""
    scope = (caller.scope.tenant_id, caller.scope.live)
    account_id = clock.new_uuid()
    await connection.execute(
        "INSERT INTO psp_accounts (tenant_id, live, psp_account_id, psp, name, config, created_at, updated_at)"
        " VALUES ($1, $2, $3, 'sandbox', 'alpha', '', now(), now())",
        *scope,
        account_id,
    )
    await connection.execute(
        "INSERT INTO payment_intents (tenant_id, live, payment_id, amount_minor, currency, capture_method, customer_present,"
        " created_at, expires_at, updated_at, status)"
        " VALUES ($1, $2, $3, 100, 'EUR', 'automatic', true, now(), now(), now(), 'processing')",
        *scope,
        payment_id,
    )
    await connection.execute(
        "INSERT INTO operations (tenant_id, live, operation_id, payment_id, kind, state, amount_minor, currency,"
        " psp_account_id, psp_key, created_at, sent_at, updated_at)"
        " VALUES ($1, $2, $3, $4, 'purchase', 'submitted', 100, 'EUR', $5, 'key', now(), now(), now())",
        *scope,
        operation_id,
        payment_id,
        account_id,
    )


@pytest.mark.parametrize("look_up", ["payment", "feed", "type", "audit", "tail", "idle tail"])
async def test_reading_touches_few_rows_however_much_others_write(
    databases: Callable[[], Any], settings: Settings, look_up: str
) -> None:
    """A tenant that fell silent is not made to read what the others wrote since.

    Under row security an index serves only what cannot leak, and the tail's index must not lend its order to a tenant's query.
    """
    urls = await asyncio.to_thread(databases)
    superuser = await asyncpg.connect(urls.superuser)
    db = Database(urls.app, settings.database)
    await db.open()
    try:
        tenants = [clock.new_uuid() for _ in range(9)]
        for number, tenant_id in enumerate(tenants):
            await superuser.execute(
                "INSERT INTO tenants VALUES ($1, $2, 'T', 'active', '', now())", tenant_id, f"tenant-{number}"
            )
            # Each writes after the one before has stopped.
            await superuser.execute(
                "INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, actor_type, actor_id,"
                " request_id, data, at) SELECT $1, false, gen_random_uuid(), 'payment.created', 'payment', gen_random_uuid(),"
                " 1, 'cli', 'tests', 'req_tests', '{}', now() FROM generate_series(1, 2000)",
                tenant_id,
            )
        await superuser.execute("VACUUM ANALYZE journal")
        row = await superuser.fetchrow(
            "SELECT event_id, subject_id FROM journal WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1", tenants[0]
        )
        assert row is not None
        scope = Scope(tenant_id=tenants[0], live=False)
        of_tenant = {
            "tenant_id": scope.tenant_id,
            "live": False,
            "after_event": row["event_id"],
            "most": 20,
            "look": 100,
        }
        documents: dict[str, tuple[str, dict[str, Any]]] = {
            "feed": ("journal_page", of_tenant),
            "type": ("journal_page", of_tenant | {"types": ["payment.captured"]}),
            "tail": ("journal_tail", {"after": Position(1, 1, 0), "scopes": [scope], "most": 20}),
            "idle tail": ("journal_tail", {"after": (await repository.tail(db, None, None, 1)).upto, "most": 20}),
        }
        async with db.begin(scope) as session:
            for _ in range(8):  # After the fifth time a prepared plan may become a general one.
                if look_up == "payment":
                    found = await entries_for(session, scope, [row["subject_id"]])
                    assert len(found[row["subject_id"]]) == 1
                elif look_up == "audit":
                    assert len(await repository.search(session, scope, [], before=None, most=20)) == 20
                else:
                    function, document = documents[look_up]
                    given = {"document": msgspec.json.encode(document).decode()}
                    await session.execute(text(f"SELECT {sqlbundle.name(function)}(CAST(:document AS jsonb))"), given)
            touched: int = (
                await session.execute(
                    text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'journal'")
                )
            ).scalar_one()
        assert touched <= 8 * 21
    finally:
        await superuser.close()
        await db.close()
