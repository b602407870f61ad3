"""The sealer puts each row of the journal into the tree exactly once and in order, whoever dies, races or commits late."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from tests.core.journal.trail import Trail, settle
from tests.shop import until

from clearspan.journal import merkle, seal
from clearspan.journal.canonical import COLUMNS, Leaf, canonical, of_record
from clearspan.journal.models import journal
from clearspan.journal.seal import TreeTampered
from clearspan.platform import clock, sqlbundle

INSERT = """
    INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, actor_type, actor_id, request_id,
                         data, at)
    VALUES ($1, $2, $3, 'payment.created', 'payment', $3, 1, 'cli', 'tests', 'req_tests', $4::text::jsonb, $5)
"""


async def in_order(trail: Trail) -> list[bytes]:
    """The hash of every row in the journal's order, made here and not by the sealer."""
    rows = await trail.superuser.fetch(f"SELECT {COLUMNS} FROM journal ORDER BY epoch, journal.xid, seq")
    return [merkle.leaf_hash(canonical(of_record(dict(row)))) for row in rows]


async def sealed(trail: Trail) -> list[bytes]:
    return [row["hash"] for row in await trail.superuser.fetch("SELECT hash FROM journal_leaves ORDER BY leaf_index")]


async def insert(trail: Trail, connection: Any, data: str = "{}") -> None:
    scope = trail.scopes[0]
    await connection.execute(INSERT, scope.tenant_id, scope.live, clock.new_uuid(), data, clock.now())


async def all_sealed(trail: Trail, count: int) -> bool | None:
    return len(await sealed(trail)) >= count or None


# -- The canonical form ---------------------------------------------------------------------------------------------------------


async def test_the_canonical_form_has_every_column_of_the_journal(trail: Trail) -> None:
    columns = await trail.superuser.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'journal'"
    )
    # A new column needs a new version of the form, or what it holds would not be protected.
    assert {row["column_name"] for row in columns} == set(Leaf.__struct_fields__) - {"v"}
    assert set(Leaf.__struct_fields__) - {"v"} == set(journal.c.keys())
    assert list(Leaf.__struct_fields__) == sorted(Leaf.__struct_fields__)


async def test_the_canonical_form_is_exactly_as_documented(trail: Trail) -> None:
    scope = trail.scopes[0]
    subject = clock.new_uuid()
    # 2026-03-29T01:02:03.000045Z: summer time begins in between, and the fraction ends in no zero.
    await trail.superuser.execute(
        INSERT.replace("'tests'", "'Zoë \"q\" \\ \u2028 ' || chr(9) || chr(31) || chr(127)"),
        *(scope.tenant_id, scope.live, subject, '{"b": 1.50, "a": ["\\u00e9", null, {}], "aa": 1e2}'),
        datetime(2026, 3, 29, 1, 2, 3, 45, tzinfo=UTC),
    )
    row = await trail.superuser.fetchrow(f"SELECT {COLUMNS} FROM journal")
    assert row is not None
    text = canonical(of_record(dict(row))).decode()
    assert text == (
        '{"actor_id":"Zoë \\"q\\" \\\\ \u2028 \\t\\u001f\x7f","actor_type":"cli","at":1774746123000045,"customer_id":null,'
        '"data":{"a": ["é", null, {}], "b": 1.50, "aa": 100},"epoch":1,'
        f'"event_id":"{subject}","live":false,"request_id":"req_tests","seq":{row["seq"]},"sequence":1,'
        f'"subject_id":"{subject}","subject_type":"payment","tenant_id":"{scope.tenant_id}","type":"payment.created","v":1,'
        f'"xid":{row["xid"]}}}'
    )
    # All but data is what any JSON library writes.
    plain = json.loads(text)
    del plain["data"]
    again = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again == text.replace('"data":{"a": ["é", null, {}], "b": 1.50, "aa": 100},', "")


async def test_the_sealer_hashes_what_the_examination_hashes(trail: Trail) -> None:
    chance = random.Random(1)  # noqa: S311
    for number in range(40):
        data = {
            "text": "".join(chr(chance.choice((9, 34, 92, 127, 233, 0x2028, 0x1F600, 97))) for _ in range(number)),
            "number": chance.choice((0, -1, 2**63, -(2**70), 1.5, 1e-9, 1e30)),
            "deep": {"b": [[], {}, [None, True]], "": chance.random(), "longer": 1},
        }
        await insert(trail, trail.superuser, json.dumps(data))
    await insert(trail, trail.superuser, '{"n": 1.10, "m": 1e400, "o": 0.000000000000000000000000000001, "p": -0}')
    await settle(trail.db)
    await trail.sealer.seal()
    assert await sealed(trail) == await in_order(trail)
    assert (await trail.examine()).findings == []


async def test_the_print_of_jsonb_is_a_fixed_point(trail: Trail) -> None:
    """So dump and restore keep the canonical form."""
    for text in ('{"b":1.50,"a":1e2,"a":2}', '[1e400, 0.10, -0, "\\u00e9\\t"]', '{"é":{"":[]}}'):
        once = await trail.superuser.fetchval("SELECT $1::text::jsonb::text", text)
        assert await trail.superuser.fetchval("SELECT $1::text::jsonb::text", once) == once


# -- Exactly once, in order -----------------------------------------------------------------------------------------------------


async def test_every_row_is_sealed_once_and_in_order(trail: Trail) -> None:
    sizes = []
    for count in (1, 0, 14, 1, 1, 30, 250):
        if count:
            await trail.happen(count)
        await trail.sealer.seal()
        sizes.append(len(await sealed(trail)))
    assert sizes == [1, 1, 15, 16, 17, 47, 297]
    assert await sealed(trail) == await in_order(trail)
    assert (await trail.examine()).findings == []


async def test_a_round_is_bounded_and_the_next_goes_on(trail: Trail) -> None:
    await trail.happen(50)
    done = [await trail.sealer.round(most=7) for _ in range(9)]
    assert done == [7] * 7 + [1, 0]
    assert await sealed(trail) == await in_order(trail)
    assert (await trail.examine()).findings == []


async def test_a_transaction_that_commits_late_is_not_skipped(trail: Trail) -> None:
    late = await asyncpg.connect(trail.urls.superuser)
    try:
        await trail.happen(5)
        transaction = late.transaction()
        await transaction.start()
        await insert(trail, late)  # It has its place in the order now, and nobody sees it.
        for _ in range(5):
            await insert(trail, trail.superuser)
        await insert(trail, late)  # A later sequence number, and still an earlier place.
        await trail.sealer.seal()
        assert len(await sealed(trail)) == 5, "what was committed after it has to wait"
        report = await trail.examine()
        assert (report.findings, report.unsealed) == ([], 5)
        assert report.oldest_unsealed_at is not None
        await transaction.commit()
        await settle(trail.db)
        assert [await trail.sealer.round(most=2) for _ in range(5)] == [2, 2, 2, 1, 0]
        assert await sealed(trail) == await in_order(trail)
        assert (await trail.examine()).findings == []
    finally:
        await late.close()


async def test_a_sealer_that_dies_anywhere_seals_each_row_exactly_once(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before and after each statement of the database, and in the middle of hashing."""
    chance = random.Random(5)  # noqa: S311
    execute, scalar = AsyncSession.execute, AsyncSession.scalar
    deadly = {"step": -1}

    class Killed(BaseException):
        """Not an error that anything would handle."""

    def step() -> None:
        deadly["step"] -= 1
        if deadly["step"] == 0:
            raise Killed

    async def killing_execute(self: AsyncSession, *arguments: Any, **named: Any) -> Any:
        step()
        found = await execute(self, *arguments, **named)
        step()
        return found

    async def killing_scalar(self: AsyncSession, *arguments: Any, **named: Any) -> Any:
        step()
        found = await scalar(self, *arguments, **named)
        step()
        return found

    def killing_canonical(leaf: Leaf) -> bytes:
        step()
        return canonical(leaf)

    deaths = 0
    for _ in range(40):
        await trail.happen(chance.randrange(1, 6))
        with monkeypatch.context() as patch:
            patch.setattr(AsyncSession, "execute", killing_execute)
            patch.setattr(AsyncSession, "scalar", killing_scalar)
            patch.setattr(seal, "canonical", killing_canonical)
            deadly["step"] = chance.randrange(1, 9)
            try:
                await trail.new_sealer().round(most=3)
            except Killed:
                deaths += 1
        before = await sealed(trail)
        assert before == (await in_order(trail))[: len(before)]
    assert deaths > 20
    await trail.sealer.seal()
    assert await sealed(trail) == await in_order(trail)
    assert (await trail.examine()).findings == []


async def test_workers_at_once_seal_each_row_exactly_once(trail: Trail) -> None:
    going = True

    async def work() -> int:
        mine, total = trail.new_sealer(), 0
        while going:
            total += await mine.round(most=5)
            await asyncio.sleep(0)
        return total

    workers = [asyncio.create_task(work()) for _ in range(3)]
    await trail.happen(150)
    await until(partial(all_sealed, trail, 150))
    going = False
    assert sum(await asyncio.gather(*workers)) == 150
    assert await sealed(trail) == await in_order(trail)
    assert (await trail.examine()).findings == []


async def test_the_tree_goes_on_in_a_new_epoch(trail: Trail) -> None:
    await trail.happen(20)
    assert await trail.seal() is not None
    await trail.superuser.execute(
        "CREATE OR REPLACE FUNCTION journal_epoch() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE RETURN 2"
    )
    await trail.happen(20)
    second = await trail.seal()
    assert second is not None
    assert second.size == 40
    report = await trail.examine(second.note)
    assert (report.findings, report.size, report.unsealed) == ([], 40, 0)
    # What now still appears in the old epoch stands below what is sealed: nobody but an intruder put it there.
    scope = trail.scopes[0]
    await trail.superuser.execute(
        INSERT.replace("data, at)", "data, at, epoch)").replace("$5)", "$5, 1)"),
        *(scope.tenant_id, scope.live, clock.new_uuid(), "{}", clock.now()),
    )
    assert [finding.kind for finding in (await trail.examine(second.note)).findings] == ["row_inserted"]
    assert await trail.sealer.seal() == 0


# -- Signing --------------------------------------------------------------------------------------------------------------------


async def test_a_checkpoint_is_signed_when_the_tree_grew_and_not_otherwise(trail: Trail) -> None:
    assert await trail.seal() is None
    await trail.happen(3)
    first = await trail.seal()
    assert first is not None
    assert (first.number, first.size) == (1, 3)
    assert await trail.seal() is None
    await trail.happen(1)
    trail.settings = msgspec.structs.replace(trail.settings, checkpoint_interval_s=3600)
    patient = trail.new_sealer()
    await patient.seal()
    assert await patient.sign() is None, "the interval is not over"
    second = await trail.seal()
    assert second is not None
    assert (second.number, second.size) == (2, 4)


async def test_two_workers_sign_one_checkpoint(trail: Trail) -> None:
    await trail.happen(10)
    await trail.sealer.seal()
    signed = await asyncio.gather(*(trail.new_sealer().sign() for _ in range(3)))
    assert len([one for one in signed if one is not None]) == 1
    assert await trail.superuser.fetchval("SELECT count(*) FROM checkpoints") == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE journal_leaves SET hash = sha256(hash) WHERE leaf_index = 18",
        "UPDATE journal_nodes SET hash = sha256(hash) WHERE index = 0",
        "UPDATE checkpoints SET note = replace(note, '20', '19')",
        "DELETE FROM checkpoints",
    ],
)
async def test_nothing_is_signed_over_a_tree_that_somebody_changed(trail: Trail, change: str) -> None:
    await trail.happen(20)
    assert await trail.seal() is not None
    await trail.superuser.execute(f"SET session_replication_role = replica; {change}; RESET session_replication_role")
    await trail.happen(20)
    with pytest.raises(TreeTampered):
        await trail.seal()
    assert await trail.superuser.fetchval("SELECT count(*) FROM checkpoints WHERE size > 20") == 0


# -- Who may do what ------------------------------------------------------------------------------------------------------------


async def test_the_application_cannot_write_or_change_the_tree(trail: Trail) -> None:
    await trail.happen(20)
    await trail.seal()
    app = await asyncpg.connect(trail.urls.app)
    owner = await asyncpg.connect(trail.urls.owner)
    try:
        for table in ("journal_leaves", "journal_nodes", "checkpoints", "checkpoint_pushes"):
            for statement in (
                f"UPDATE {table} SET hash = ''",
                f"DELETE FROM {table}",
                f"INSERT INTO {table} DEFAULT VALUES",
            ):
                with pytest.raises(asyncpg.PostgresError):
                    await app.execute(statement)
        for table in ("journal_leaves", "journal_nodes", "checkpoints"):
            for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
                with pytest.raises(asyncpg.PostgresError, match="append-only"):
                    # One script is one transaction.
                    await owner.execute(f"SELECT set_config('app.system', 'on', true); {statement}")
    finally:
        await app.close()
        await owner.close()


async def test_a_place_in_the_tree_is_taken_once(trail: Trail) -> None:
    await trail.happen(3)
    await trail.sealer.seal()
    leaf = {"tenant_id": clock.new_uuid(), "live": False, "event_id": clock.new_uuid(), "epoch": 1, "xid": 1, "seq": 1}
    document = msgspec.json.encode({"size": 2, "leaves": [leaf | {"hash": "00" * 32}], "nodes": []}).decode()
    with pytest.raises(asyncpg.UniqueViolationError):
        await trail.db.pool.execute(f"SELECT {sqlbundle.name('seal_append')}($1::text::jsonb)", document)
