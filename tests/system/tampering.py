"""A database superuser who changes the past: at random, with every trick, and each time the examination must find it.

    python -m tests.system.tampering --count 10000 --seed 1

One small journal is sealed and signed once. Then each attack runs in a transaction with all triggers off (it is a replica's), is
examined on the same connection against the checkpoint held outside, and is rolled back. An attack is one to three changes, and a
cover-up: none; leaves made to fit the rows again; the whole tree made anew; even every checkpoint signed anew with the real key,
under the old times. Attack number N of a seed is the same attack on every run: ``--only N`` replays it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
from tests.conftest import PASSWORD, Urls, execute, url
from tests.core.journal.trail import Trail, new_trail

from clearspan.journal import merkle
from clearspan.journal.canonical import COLUMNS, canonical, of_record
from clearspan.journal.examine import Report, examine
from clearspan.platform import schema
from clearspan.platform.crypto import MasterKey
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.settings import Settings, load

_TYPES = {
    "tenant_id": "uuid",
    "live": "boolean",
    "epoch": "integer",
    "xid": "xid8",
    "seq": "bigint",
    "event_id": "uuid",
    "type": "text",
    "subject_type": "text",
    "subject_id": "uuid",
    "sequence": "integer",
    "customer_id": "uuid",
    "actor_type": "text",
    "actor_id": "text",
    "request_id": "text",
    "data": "jsonb",
    "at": "timestamptz",
}
"""Every column of the journal."""
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_ROW = ", ".join(name + ("::text" if kind in ("xid8", "timestamptz") else "") for name, kind in _TYPES.items())
_LEAF = "tenant_id, live, event_id, epoch, xid::text, seq, hash"
_FINGERPRINT = """
    SELECT md5(concat((SELECT string_agg(j::text, ' ' ORDER BY event_id) FROM journal j), '|',
                      (SELECT string_agg(l::text, ' ' ORDER BY leaf_index) FROM journal_leaves l), '|',
                      (SELECT string_agg(n::text, ' ' ORDER BY level, index) FROM journal_nodes n), '|',
                      (SELECT string_agg(c::text, ' ' ORDER BY size) FROM checkpoints c)))
"""
ROWS = 60
SEALED_AT = (23, 48, 60)
"""Sizes of the checkpoints; the last one is held outside."""


class Impossible(Exception):
    """This change cannot be made as things stand."""


class Attack:
    """One attack; ``did`` tells what it was.

    Args:
        connection: a superuser's, in a transaction, with all triggers off.
        trail: what is attacked.
        places: event -> its leaf before the attack.
        times: size -> when that checkpoint was made.
        chance: of this attack alone.
    """

    def __init__(
        self,
        connection: Connection,
        trail: Trail,
        places: dict[UUID, int],
        times: dict[int, datetime],
        chance: random.Random,
    ) -> None:
        self._connection = connection
        self._trail = trail
        self._places = places
        self._times = times
        self._chance = chance
        self.did: list[str] = []

    async def run(self) -> None:
        """Change something, then cover it up in one way or none."""
        wanted = self._chance.choice((1, 1, 1, 2, 3))
        for _ in range(100):
            await self._one(self._changes())
            if len(self.did) == wanted:
                break
        await self._one((self._cover_nothing, self._cover_leaves, self._cover_tree, self._cover_tree_and_signatures))

    async def _one(self, ways: tuple[Callable[[], Awaitable[str]], ...]) -> None:
        way = self._chance.choice(ways)
        try:
            async with self._connection.transaction():
                did = await way()
        except (Impossible, asyncpg.IntegrityConstraintViolationError):
            return
        self.did.append(f"{way.__name__.strip('_')} {did}".strip())

    async def _do(self, statement: str, *arguments: Any) -> None:
        """A change that must change something."""
        if (await self._connection.execute(statement, *arguments)).endswith(" 0"):
            raise Impossible

    def _changes(self) -> tuple[Callable[[], Awaitable[str]], ...]:
        return (
            *(self._change_a_column,) * 8,
            self._delete_rows,
            self._delete_row_and_leaf,
            self._insert_a_row,
            self._insert_a_row,
            self._swap_rows,
            self._truncate_the_tail,
            self._change_a_leaf,
            self._swap_leaves,
            self._drop_leaves,
            self._change_a_node,
            self._drop_or_add_a_node,
            self._drop_checkpoints,
            self._change_a_checkpoint,
        )

    # -- The journal --------------------------------------------------------------------------------------------------------

    async def _row(self) -> dict[str, Any]:
        """One of those that are left, by its place before the attack, so that a seed means the same on every run."""
        rows = [dict(row) for row in await self._connection.fetch(f"SELECT {_ROW} FROM journal")]
        if not rows:
            raise Impossible
        rows.sort(key=lambda row: (self._places.get(row["event_id"], ROWS), row["seq"]))
        return self._chance.choice(rows)

    async def _change_a_column(self) -> str:
        row = await self._row()
        column = self._chance.choice(sorted(_TYPES))
        if column == "at" and self._chance.random() < 0.9:
            shift = self._chance.choice(("-1 microsecond", "1 microsecond", "1 minute", "-1 day"))
            await self._do(
                "UPDATE journal SET at = at + $1::text::interval WHERE event_id = $2", shift, row["event_id"]
            )
            return f"at of {row['event_id']} by {shift}"
        value = self._other(column, row)
        await self._do(
            f"UPDATE journal SET {column} = $1::text::{_TYPES[column]} WHERE event_id = $2", value, row["event_id"]
        )
        return f"{column} of {row['event_id']} to {value[:60]!r}"

    def _other(self, column: str, row: dict[str, Any]) -> str:
        """Another value for a column, as text; the ones that are easy to overlook among them."""
        chance, old = self._chance, row[column]
        match _TYPES[column]:
            case "uuid" if column == "tenant_id":
                return str(chance.choice([one.tenant_id for one in self._trail.scopes if one.tenant_id != old]))
            case "uuid":
                return str(UUID(int=(old.int if old is not None else 0) ^ (1 << chance.randrange(122))))
            case "boolean":
                return "f" if old else "t"
            case "jsonb":
                return self._other_data(old)
            case "timestamptz":
                return str(chance.choice(("infinity", "-infinity", "0044-03-15 BC", "200000-01-01")))
            case "xid8":
                return str(max(1, int(old) + chance.choice((-5, -1, 1, 2, 1000, 2**63))))
            case "integer" | "bigint":
                return str(old + chance.choice((-1, 1, 7, -100, 1000)))
        if column == "type":
            return str(chance.choice(("payment.voided", "refund.created", old + "x")))
        if column == "actor_type":
            return str(chance.choice([one for one in ("api_key", "operator", "system", "psp") if one != old]))
        place = chance.randrange(len(old) + 1)
        return str(old[:place] + chance.choice('a \u00e9\u200b\n"\\') + old[place:])

    def _other_data(self, text: str) -> str:
        data = json.loads(text)
        match self._chance.randrange(5):
            case 0:
                return json.dumps(data | {"amount_minor": data["amount_minor"] + self._chance.choice((-1, 1, 10**9))})
            case 1:
                return json.dumps(data | {"more": None})
            case 2:
                return json.dumps({key: value for key, value in data.items() if key != "code"})
            case 3:
                # The same number written otherwise: PostgreSQL keeps the difference, so the proof does.
                return re.sub(r'"amount_minor": [0-9.]+', lambda it: it[0] + ("0" if "." in it[0] else ".0"), text)
            case _:
                return json.dumps(data | {"code": data.get("code", "") + "\u0301"})

    async def _delete_rows(self) -> str:
        row = await self._row()
        most = self._chance.randrange(1, 4)
        done = await self._connection.execute(
            "DELETE FROM journal WHERE seq >= $1 AND seq < $2", row["seq"], row["seq"] + most
        )
        return f"{done} from {row['seq']}"

    async def _delete_row_and_leaf(self) -> str:
        row = await self._row()
        await self._do("DELETE FROM journal WHERE event_id = $1", row["event_id"])
        await self._do("DELETE FROM journal_leaves WHERE event_id = $1", row["event_id"])
        if self._chance.random() < 0.5:
            leaves = await self._connection.fetch(f"SELECT {_LEAF} FROM journal_leaves ORDER BY leaf_index")
            await self._store_leaves([tuple(leaf) for leaf in leaves])
        return str(row["event_id"])

    async def _store_leaves(self, leaves: list[tuple[Any, ...]]) -> None:
        """In place of all others, closed up."""
        await self._connection.execute("DELETE FROM journal_leaves")
        await self._connection.executemany(
            "INSERT INTO journal_leaves VALUES ($1, $2, $3, $4, $5, $6::text::xid8, $7, $8)",
            [(index, *leaf) for index, leaf in enumerate(leaves)],
        )

    async def _insert_a_row(self) -> str:
        row = await self._row()
        # Into a transaction that was sealed, sharing another's place, or where no index looks. Not after the last sealed row:
        # that would be an event like any other, and no proof can tell who wrote it.
        seq = self._chance.choice((row["seq"], row["seq"] - 1, 0, -7))
        xid = max(1, int(row["xid"]) - self._chance.choice((0, 1, 10**6)))
        if self._places.get(row["event_id"], ROWS) >= ROWS - 1 and seq == row["seq"] and xid == int(row["xid"]):
            raise Impossible
        scope = self._chance.choice(self._trail.scopes)
        await self._do(
            "INSERT INTO journal (tenant_id, live, epoch, xid, seq, event_id, type, subject_type, subject_id, sequence,"
            " actor_type, actor_id, request_id, data, at) OVERRIDING SYSTEM VALUE VALUES ($1, $2, 1, $3::text::xid8, $4, $5,"
            " 'payment.captured', 'payment', $5, 1, 'cli', 'forged', 'req', '{\"amount_minor\": 1}', '2026-01-01Z')",
            *(scope.tenant_id, scope.live, str(xid), seq, UUID(int=self._chance.getrandbits(128))),
        )
        return f"at {xid}/{seq}"

    async def _swap_rows(self) -> str:
        one, other = await self._row(), await self._row()
        column = self._chance.choice(("xid", "at", "data", "subject_id", "request_id"))
        if one[column] == other[column]:
            raise Impossible
        await self._do(
            f"UPDATE journal j SET {column} = o.{column} FROM journal o"
            " WHERE (j.event_id, o.event_id) IN (($1, $2), ($2, $1))",
            one["event_id"],
            other["event_id"],
        )
        return f"{column} of {one['event_id']} and {other['event_id']}"

    async def _truncate_the_tail(self) -> str:
        keep = self._chance.randrange(ROWS)
        await self._connection.execute(
            "DELETE FROM journal WHERE event_id IN (SELECT event_id FROM journal_leaves WHERE leaf_index >= $1)", keep
        )
        await self._connection.execute("DELETE FROM journal_leaves WHERE leaf_index >= $1", keep)
        await self._connection.execute("DELETE FROM journal_nodes WHERE (index + 1) << level::integer > $1", keep)
        await self._connection.execute("DELETE FROM checkpoints WHERE size > $1", keep)
        return f"after {keep}"

    # -- The tree and the checkpoints ---------------------------------------------------------------------------------------

    async def _change_a_leaf(self) -> str:
        leaf = self._chance.randrange(ROWS)
        change = self._chance.choice(
            ("hash = sha256(hash)", "epoch = epoch + 1", "seq = seq + 1", "xid = '1'", "live = NOT live",
             "event_id = gen_random_uuid()")
        )  # fmt: skip
        await self._do(f"UPDATE journal_leaves SET {change} WHERE leaf_index = $1", leaf)
        return f"{leaf}: {change}"

    async def _swap_leaves(self) -> str:
        one, other = self._chance.sample(range(ROWS), 2)
        await self._do(
            "UPDATE journal_leaves a SET hash = b.hash FROM journal_leaves b"
            " WHERE (a.leaf_index, b.leaf_index) IN (($1, $2), ($2, $1))",
            one,
            other,
        )
        return f"{one} and {other}"

    async def _drop_leaves(self) -> str:
        first = self._chance.randrange(ROWS)
        last = first + self._chance.choice((0, 3, ROWS))
        await self._do("DELETE FROM journal_leaves WHERE leaf_index BETWEEN $1 AND $2", first, last)
        return f"{first} to {last}"

    async def _change_a_node(self) -> str:
        place = self._chance.randrange(3)
        await self._do("UPDATE journal_nodes SET hash = sha256(hash) WHERE index = $1", place)
        return str(place)

    async def _drop_or_add_a_node(self) -> str:
        if self._chance.random() < 0.5:
            await self._do("INSERT INTO journal_nodes VALUES (8, 0, sha256('x'))")
            return "added"
        place = self._chance.randrange(3)
        await self._do("DELETE FROM journal_nodes WHERE index = $1", place)
        return f"{place} dropped"

    async def _drop_checkpoints(self) -> str:
        sizes = self._chance.sample(SEALED_AT, self._chance.randrange(1, 4))
        await self._do("DELETE FROM checkpoints WHERE size = ANY ($1)", sizes)
        if self._chance.random() < 0.5:
            # The numbers closed up, as if nothing were missing.
            rows = await self._connection.fetch("SELECT size FROM checkpoints ORDER BY number")
            for number, row in enumerate(rows, 1):
                await self._connection.execute(
                    "UPDATE checkpoints SET number = $1 WHERE size = $2", number, row["size"]
                )
        return str(sizes)

    async def _change_a_checkpoint(self) -> str:
        size = self._chance.choice(SEALED_AT)
        change = self._chance.choice(
            ("root = sha256(root)", "created_at = created_at - interval '1 microsecond'", "created_at = 'infinity'",
             "note = replace(note, '/log', '/lag')", "note = note || note", "size = size + 100", "mac = sha256(mac)")
        )  # fmt: skip
        await self._do(f"UPDATE checkpoints SET {change} WHERE size = $1", size)
        return f"{size}: {change}"

    # -- Covering up --------------------------------------------------------------------------------------------------------

    async def _cover_nothing(self) -> str:
        return ""

    async def _cover_leaves(self) -> str:
        """Leaves fit their rows again; the nodes above do not."""
        await self._rehash(nodes=False)
        return ""

    async def _cover_tree(self) -> str:
        """The tree is made anew over whatever the journal holds now."""
        await self._rehash(nodes=True)
        return ""

    async def _cover_tree_and_signatures(self) -> str:
        """And every checkpoint is signed anew: with the real key, as if the master key had been stolen too."""
        hashes = await self._rehash(nodes=True)
        await self._connection.execute("DELETE FROM checkpoints")
        for number, size in enumerate((size for size in SEALED_AT if size <= len(hashes)), 1):
            tree = merkle.Growing()
            for one in hashes[:size]:
                list(tree.append(one))
            made = self._trail.key.checkpoint(number, size, tree.root(), self._times[size])
            await self._connection.execute(
                "INSERT INTO checkpoints VALUES ($1, $2, $3, $4, $5, $6)",
                *(number, size, bytes.fromhex(made.root), made.note, made.created_at, bytes.fromhex(made.mac)),
            )
        return ""

    async def _rehash(self, *, nodes: bool) -> list[bytes]:
        """Leaves made anew from the rows as they are."""
        rows = await self._connection.fetch(
            f"SELECT {COLUMNS} FROM journal WHERE seq > 0 ORDER BY epoch, journal.xid, seq"
        )
        found = [of_record(dict(row)) for row in rows]
        hashes = [merkle.leaf_hash(canonical(leaf)) for leaf in found]
        await self._store_leaves(
            [
                (leaf.tenant_id, leaf.live, leaf.event_id, leaf.epoch, str(leaf.xid), leaf.seq, value)
                for leaf, value in zip(found, hashes, strict=True)
            ]
        )
        if nodes:
            tree = merkle.Growing()
            kept = [(*node, value) for one in hashes for node, value in tree.append(one)]
            await self._connection.execute("DELETE FROM journal_nodes")
            await self._connection.executemany("INSERT INTO journal_nodes VALUES ($1, $2, $3)", kept)
        return hashes


async def prepare(trail: Trail) -> str:
    """A journal of ``ROWS`` rows with three checkpoints; returns the last one's note, to be held outside."""
    # What a superuser does first: else nobody could change a sequence number.
    await trail.superuser.execute("ALTER TABLE journal ALTER seq SET GENERATED BY DEFAULT")
    note, before = "", 0
    for size in SEALED_AT:
        await trail.happen(size - before)
        made = await trail.seal()
        assert made is not None
        assert made.size == size
        note, before = made.note, size
    return note


async def attacks(trail: Trail, held: str, seed: int, numbers: range) -> AsyncIterator[tuple[int, list[str], Report]]:
    """Number, what was done, and what the examination said of it."""
    connection = trail.superuser
    rows = await connection.fetch("SELECT event_id, leaf_index FROM journal_leaves")
    places = {row["event_id"]: row["leaf_index"] for row in rows}
    times = {row["size"]: row["created_at"] for row in await connection.fetch("SELECT * FROM checkpoints")}
    untouched = await connection.fetchval(_FINGERPRINT)
    for number in numbers:
        chance = random.Random(f"{seed}/{number}")  # noqa: S311  (it has to be repeatable)
        while True:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute("SET LOCAL session_replication_role = replica")
                attack = Attack(connection, trail, places, times, chance)
                await attack.run()
                if await connection.fetchval(_FINGERPRINT) == untouched:
                    continue  # One change undid the other: that was no attack.
                report = await examine(connection, trail.key, [held])
            finally:
                await transaction.rollback()
            yield number, attack.did, report
            break


async def _main(urls: Urls, settings: Settings, seed: int, numbers: range) -> int:
    kinds: Counter[str] = Counter()
    covers: Counter[str] = Counter()
    missed = 0
    began = time.monotonic()
    async with new_trail(urls, settings, MasterKey(bytes(range(32)))) as trail:
        held = await prepare(trail)
        assert not (await trail.examine(held)).findings
        async for number, did, report in attacks(trail, held, seed, numbers):
            covers[did[-1].split()[0]] += 1
            kinds.update({one.split()[0] for one in did[:-1]})
            if not report.findings:
                missed += 1
                print(f"NOT FOUND: attack {number} of seed {seed}: {'; '.join(did)}")
            elif len(numbers) == 1:
                print(f"attack {number}: {'; '.join(did)}", *(one.says for one in report.findings), sep="\n  ")
        assert not (await trail.examine(held)).findings
    print(f"seed {seed}: {len(numbers)} attacks, {missed} not found, {time.monotonic() - began:.0f} s")
    print("changes:", ", ".join(f"{name} {count}" for name, count in kinds.most_common()))
    print("covered up by:", ", ".join(f"{name} {count}" for name, count in covers.most_common()))
    return 1 if missed else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Attack a journal as a superuser, and see whether it is found.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one attack by its number")
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else range(options.only, options.only + 1)
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        empty = Path(folder) / "clearspan.toml"
        empty.touch()
        with EmbeddedPostgres(Path(folder) / "postgres") as server:
            urls = database(server.superuser_url)
            return asyncio.run(_main(urls, load(empty, environ={}), options.seed, numbers))


def database(superuser_url: str) -> Urls:
    """An empty, migrated database."""
    names = {"superuser": "", "owner": "tampered_owner", "app": "tampered_app"}
    execute(superuser_url, f"CREATE ROLE tampered_owner LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
    execute(superuser_url, "CREATE DATABASE tampered OWNER tampered_owner")
    urls = Urls(**{name: url(superuser_url, "tampered", role) for name, role in names.items()})
    schema.migrate(urls.owner, app_role="tampered_app", app_password=PASSWORD)
    return urls


if __name__ == "__main__":
    sys.exit(main())
