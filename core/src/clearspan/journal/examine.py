"""Examining the whole trail: every row of the journal against its leaf, leaves against the tree, the tree against checkpoints.

It asks tables and no functions of the database, since whoever can change rows can change functions too. Memory is bounded: rows
and leaves stream in their order, and of the tree only its right edge is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import msgspec

from clearspan.journal import merkle, verifier
from clearspan.journal.canonical import COLUMNS, Leaf, canonical, micros, of_record
from clearspan.journal.checkpoint import SigningKey, open_checkpoint

BATCH = 2000
FINDINGS_MAX = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = 253_402_300_800_000_000
_EVENT = "tenant_id = $1::text::uuid AND live = $2 AND event_id = $3::text::uuid"
Event = tuple[str, bool, str]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is not as it was sealed.

    Attributes:
        kind: ``row_changed``, ``row_missing``, ``row_inserted``, ``row_moved``, ``leaf_missing``, ``leaf_changed``,
            ``node_changed``; of checkpoints ``checkpoint_changed``, ``checkpoint_missing``, ``stored_differs`` and
            ``stored_longer`` (than the tree); of those from outside ``held_differs``, ``held_longer``, ``held_missing``,
            ``held_invalid``.
        says: a sentence for people.
        leaf_index: where in the tree.
        event: of a row: tenant, mode, event id.
        size: of a checkpoint.
    """

    kind: str
    says: str
    leaf_index: int | None = None
    event: Event | None = None
    size: int | None = None


class Report(msgspec.Struct, kw_only=True):
    """What was looked at, and what was found.

    Attributes:
        rows: of the journal.
        size: leaves of the tree.
        root: of the tree, hexadecimal.
        unsealed: rows younger than the last leaf.
        oldest_unsealed_at: when the first of them happened.
        checkpoints: that are stored.
        held: sizes of the checkpoints held outside that were compared.
        findings: at most ``FINDINGS_MAX``.
    """

    rows: int = 0
    size: int = 0
    root: str = ""
    unsealed: int = 0
    oldest_unsealed_at: datetime | None = None
    checkpoints: int = 0
    held: list[int] = []
    findings: list[Finding] = []


class _Leaf(msgspec.Struct, frozen=True):
    index: int
    event: Event
    position: tuple[int, int, int]
    hash: bytes


class _Enough(Exception):
    """There are so many findings that more would tell nothing."""


async def examine(connection: Connection, key: SigningKey, held: Iterable[str] = (), held_key: str = "") -> Report:
    """Look at everything.

    Args:
        connection: in a transaction that sees one state (REPEATABLE READ) and all rows.
        key: of the log.
        held: checkpoint notes from outside.
        held_key: who must have signed them; empty for ``key``.
    """
    return await _Examination(connection, key, held, held_key).run()


class _Examination:
    def __init__(self, connection: Connection, key: SigningKey, held: Iterable[str], held_key: str) -> None:
        self._connection = connection
        self._key = key
        self._held = list(held)
        self._held_key = held_key
        self._report = Report()
        self._tree = merkle.Growing()
        self._kept: list[tuple[merkle.Node, bytes]] = []
        self._nodes = 0
        self._roots: dict[int, bytes] = {0: merkle.EMPTY_ROOT}
        self._wanted: set[int] = set()
        """Sizes whose root is compared with something."""

    async def run(self) -> Report:
        try:
            stored = await self._checkpoints()
            held = self._open_held()
            self._wanted = {one.size for one in (*stored, *held)}
            await self._rows_and_leaves()
            await self._compare_nodes()
            await self._no_other_nodes()
            await self._no_hidden_rows()
            self._compare_roots(stored, held)
        except _Enough:
            pass
        self._report.size = self._tree.size
        self._report.root = self._tree.root().hex()
        return self._report

    def _found(self, kind: str, says: str, **where: Any) -> None:
        self._report.findings.append(Finding(kind=kind, says=says, **where))
        if len(self._report.findings) >= FINDINGS_MAX:
            raise _Enough

    # -- Checkpoints --------------------------------------------------------------------------------------------------------

    async def _checkpoints(self) -> list[verifier.Checkpoint]:
        """Those that are stored, each signed, in its place and at its time."""
        opened: list[verifier.Checkpoint] = []
        rows = self._connection.cursor(
            f"SELECT number, size, root, note, {micros('created_at')}, mac FROM checkpoints ORDER BY number, size",  # noqa: S608
            prefetch=BATCH,
        )
        async for row in rows:
            self._report.checkpoints += 1
            size = row["size"]
            if row["number"] != self._report.checkpoints:
                says = f"checkpoint {self._report.checkpoints} is gone; the next one has number {row['number']}"
                self._found("checkpoint_missing", says, size=size)
                self._report.checkpoints = row["number"]
            origin = row["note"].partition("\n")[0]
            mac = self._key.mac(row["number"], row["created_at"], row["note"])
            if (self._key.note(size, row["root"], origin), mac) != (row["note"], row["mac"].hex()):
                says = f"the checkpoint of {size} entries is not as it was signed: its note, number, size, root or time"
                self._found("checkpoint_changed", says, size=size)
            opened.append(verifier.Checkpoint(origin, size, row["root"]))
        return opened

    def _open_held(self) -> list[verifier.Checkpoint]:
        opened = []
        for note in self._held:
            try:
                opened.append(open_checkpoint(note, self._held_key) if self._held_key else self._key.open(note))
            except verifier.Wrong as error:
                self._found("held_invalid", f"a checkpoint that you hold is not one of this log: {error}")
        self._report.held = [one.size for one in opened]
        return opened

    def _compare_roots(self, stored: Sequence[verifier.Checkpoint], held: Sequence[verifier.Checkpoint]) -> None:
        size = self._tree.size
        for checkpoint, whose in [(one, "stored") for one in stored] + [(one, "held") for one in held]:
            name = f"the {whose} checkpoint of {checkpoint.size} entries"
            if checkpoint.size > size:
                self._found(f"{whose}_longer", f"{name}: the tree has only {size}", size=checkpoint.size)
            elif self._roots[checkpoint.size] != checkpoint.root:
                says = f"{name}: the first {checkpoint.size} entries are not those that were signed"
                self._found(f"{whose}_differs", says, size=checkpoint.size)
        sizes = {one.size for one in stored}
        for checkpoint in held:
            if checkpoint.size not in sizes:
                says = f"the checkpoint of {checkpoint.size} entries that you hold is not stored any more"
                self._found("held_missing", says, size=checkpoint.size)

    # -- Rows and leaves ----------------------------------------------------------------------------------------------------

    async def _rows(self) -> AsyncIterator[Leaf]:
        # One query and no pages: a page would have to begin after a position, and a forged row can share one.
        query = (
            f"SELECT {COLUMNS} FROM journal WHERE seq > 0 ORDER BY epoch, journal.xid, seq, tenant_id, live, event_id"  # noqa: S608
        )
        async for row in self._connection.cursor(query, prefetch=BATCH):
            yield of_record(dict(row))

    async def _leaves(self) -> AsyncIterator[_Leaf]:
        query = (
            "SELECT leaf_index, tenant_id::text, live, event_id::text, epoch, xid::text, seq, hash FROM journal_leaves"
            " ORDER BY leaf_index"
        )
        async for row in self._connection.cursor(query, prefetch=BATCH):
            event = (row["tenant_id"], row["live"], row["event_id"])
            yield _Leaf(row["leaf_index"], event, (row["epoch"], int(row["xid"]), row["seq"]), row["hash"])

    async def _rows_and_leaves(self) -> None:
        rows, leaves = self._rows(), self._leaves()
        row, leaf = await self._next_row(rows), await self._next_leaf(leaves)
        last: tuple[int, int, int] = (0, 0, 0)
        while row is not None or leaf is not None:
            if leaf is None:
                assert row is not None
                if row.position <= last:
                    self._row_found("row_inserted", row, "was put in below what is sealed")
                else:
                    self._unsealed(row)
                row = await self._next_row(rows)
                continue
            last = max(last, leaf.position)
            if row is not None and row.event == leaf.event:
                self._compare(row, leaf)
                row, leaf = await self._next_row(rows), await self._next_leaf(leaves)
            elif row is not None and not await self._exists("journal_leaves", row.event):
                self._row_found("row_inserted", row, "was put in below what is sealed")
                row = await self._next_row(rows)
            elif row is None or not await self._exists("journal", leaf.event):
                says = f"the row of leaf {leaf.index} is gone: event {leaf.event[2]}"
                self._found("row_missing", says, leaf_index=leaf.index, event=leaf.event)
                leaf = await self._next_leaf(leaves)
            else:
                says = f"leaf {leaf.index} is of event {leaf.event[2]}, in whose place stands {row.event_id}"
                self._found("row_moved", says, leaf_index=leaf.index, event=row.event)
                row, leaf = await self._next_row(rows), await self._next_leaf(leaves)

    async def _next_row(self, rows: AsyncIterator[Leaf]) -> Leaf | None:
        found = await anext(rows, None)
        self._report.rows += found is not None
        return found

    async def _next_leaf(self, leaves: AsyncIterator[_Leaf]) -> _Leaf | None:
        """The next leaf, in the tree already."""
        found = await anext(leaves, None)
        if found is None:
            return None
        if found.index != self._tree.size:
            self._found("leaf_missing", f"leaf {self._tree.size} is gone", leaf_index=self._tree.size)
        self._kept += self._tree.append(found.hash)
        if self._tree.size in self._wanted:
            self._roots[self._tree.size] = self._tree.root()
        if len(self._kept) >= BATCH:
            await self._compare_nodes()
        return found

    def _compare(self, row: Leaf, leaf: _Leaf) -> None:
        if merkle.leaf_hash(canonical(row)) != leaf.hash:
            self._row_found("row_changed", row, f"is not what was sealed as leaf {leaf.index}", leaf.index)
        elif row.position != leaf.position:
            says = f"leaf {leaf.index} names another place in the journal than its row has"
            self._found("leaf_changed", says, leaf_index=leaf.index, event=row.event)

    def _row_found(self, kind: str, row: Leaf, says: str, leaf_index: int | None = None) -> None:
        where = f"event {row.event_id} of tenant {row.tenant_id} at {row.epoch}/{row.xid}/{row.seq}"
        self._found(kind, f"{where} {says}", event=row.event, leaf_index=leaf_index)

    def _unsealed(self, row: Leaf) -> None:
        self._report.unsealed += 1
        if self._report.oldest_unsealed_at is None and isinstance(row.at, int) and 0 <= row.at < _YEAR_10000:
            self._report.oldest_unsealed_at = _EPOCH + timedelta(microseconds=row.at)

    async def _exists(self, table: str, event: Event) -> bool:
        query = f"SELECT EXISTS (SELECT FROM {table} WHERE {_EVENT})"  # noqa: S608
        return bool(await self._connection.fetchval(query, *event))

    async def _no_hidden_rows(self) -> None:
        """Rows without a place in the order: the sealer, and the walk above, go by an index that leaves them out."""
        query = f"SELECT {COLUMNS} FROM journal WHERE seq <= 0"  # noqa: S608
        async for row in self._connection.cursor(query, prefetch=BATCH):
            says = (
                f"event {row['event_id']} of tenant {row['tenant_id']} has a place that no row can have: {row['seq']}"
            )
            self._found("row_inserted", says, event=(row["tenant_id"], row["live"], row["event_id"]))

    # -- The stored tree ----------------------------------------------------------------------------------------------------

    async def _compare_nodes(self) -> None:
        if not self._kept:
            return
        nodes = [node for node, _ in self._kept]
        rows = await self._connection.fetch(
            "SELECT n.hash FROM unnest($1::integer[], $2::bigint[]) WITH ORDINALITY AS w (level, index, place)"
            " LEFT JOIN journal_nodes n ON n.level = w.level AND n.index = w.index ORDER BY w.place",
            [node.level for node in nodes],
            [node.place for node in nodes],
        )
        for (node, value), row in zip(self._kept, rows, strict=True):
            if row["hash"] != value:
                says = f"node {node.place} of level {node.level} is not the hash of what is below it"
                self._found("node_changed", says, leaf_index=node.place << node.level)
        self._nodes += len(nodes)
        self._kept.clear()

    async def _no_other_nodes(self) -> None:
        count = await self._connection.fetchval("SELECT count(*) FROM journal_nodes")
        if count != self._nodes:
            self._found(
                "node_changed", f"{count} nodes are stored where a tree of {self._tree.size} entries has {self._nodes}"
            )
