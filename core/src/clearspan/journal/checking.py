"""Checking the proof of the trail while it runs, as far as the application may see: for people who look, now and again.

What is asked: the *checkpoint* was signed by this installation's key (which is not in the database) and is in its place; the
stored *tree* has the root that was signed; it begins with the whole tree of the checkpoint that this person *held* from the last
time; and each *row* of the tenant is, byte for byte, in that tree, none is gone and none was put in. The rows of other tenants,
and every node of the tree, are ``journal.examine``'s (``clearspan audit verify``).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from clearspan.journal import merkle, service, verifier
from clearspan.journal.canonical import canonical
from clearspan.journal.checkpoint import EPOCH, Checkpoint, SigningKey
from clearspan.journal.errors import EventNotFound, NotSealedYet
from clearspan.journal.proofs import PAGE, Proofs, Sealed
from clearspan.journal.schemas import AuditEntry, AuditList, CheckpointOut, InclusionProof
from clearspan.journal.service import AuditQuery
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database

TROUBLES_MAX: Final = 20
SPELL_S: Final = 8.0
"""One check reads rows for so long; what is left is checked by the next one, which goes on there."""
LEAVES: Final = 20_000


class Place(msgspec.Struct, frozen=True):
    """Where a check goes on: behind this position among the rows, and this event among the leaves."""

    epoch: int = 0
    xid: int = 0
    seq: int = 0
    event: str = "00000000-0000-0000-0000-000000000000"
    rows: int = 0
    whole: bool = True


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was signed.

    Attributes:
        kind: of the last checkpoint ``signature`` (our key did not sign it), ``place`` (it was renumbered, or its time changed),
            ``shorter`` (the tree has fewer entries than were signed) and ``root`` (the stored tree is not the signed one); of the
            checkpoint held from the last time ``held_signature``, ``held_shorter`` and ``held_differs``; of rows ``row_changed``,
            ``row_missing`` and ``row_inserted``.
        event: public id, of a row.
        index: of its leaf.
        detail: the verifier's words, of a signature.
    """

    kind: str
    event: str | None = None
    index: int | None = None
    detail: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        at: when it was looked.
        checkpoint: the last one; ``None`` while nothing was signed.
        number: of that checkpoint.
        key: the verifier key.
        tree_size: leaves there are, signed or not.
        unsealed_at: when the oldest event happened that has no leaf yet.
        behind_at: the same of the oldest leaf that no checkpoint covers.
        held_size: of the checkpoint that was held; ``None``: none was.
        rows: of the tenant and mode that were compared, with those of earlier parts of the same check.
        next: where the next part goes on; empty at the end.
        troubles: at most ``TROUBLES_MAX``; none is good.
    """

    at: datetime
    checkpoint: CheckpointOut | None
    number: int
    key: str
    tree_size: int
    unsealed_at: datetime | None
    behind_at: datetime | None
    held_size: int | None
    rows: int
    next: str
    troubles: list[Trouble]


class Trail:
    """See the module's docstring.

    Args:
        db: of the application.
        proofs: of the same log.
        key: the log's.
    """

    def __init__(self, db: Database, proofs: Proofs, key: SigningKey) -> None:
        self._db = db
        self._proofs = proofs
        self._key = key

    async def search(self, scope: Scope, query: AuditQuery, *, limit: int = 50, cursor: str | None = None) -> AuditList:
        """See ``service.search``."""
        return await service.search(self._db, scope, query, limit=limit, cursor=cursor)

    async def find(self, scope: Scope, event_id: UUID) -> AuditEntry:
        """One entry.

        Raises:
            EventNotFound: there is none in the scope.
        """
        found = await service.find(self._db, scope, event_id)
        if found is None:
            raise EventNotFound
        return found

    async def check(self, scope: Scope, *, held: str = "", after: str = "") -> Check:
        """Check the last checkpoint, the tree, what was held, and the scope's rows.

        Args:
            scope: whose rows.
            held: the note of the checkpoint that the person saw last; empty for none.
            after: ``next`` of the part before.

        Raises:
            DatabaseUnavailable.
        """
        state = await self._proofs.state()
        last = state.checkpoint
        troubles: list[Trouble] = []
        held_size = None
        place = _read(after)
        if last is None:
            # A tree whose every checkpoint is gone is caught by whoever holds one.
            if held:
                troubles.append(Trouble(kind="held_shorter"))
        else:
            root = self._check_checkpoint(last, troubles)
            if last.size > state.size:
                troubles.append(Trouble(kind="shorter"))
            else:
                await self._check_tree(last, root, troubles)
                if held:
                    held_size = await self._check_held(held, last, root, troubles)
                place = await self._check_rows(scope, place, last.size, root, troubles)
        return Check(
            at=clock.now(),
            checkpoint=CheckpointOut.of(last) if last is not None else None,
            number=last.number if last is not None else 0,
            key=self._key.verifier_key,
            tree_size=state.size,
            unsealed_at=state.unsealed_at,
            behind_at=state.behind_at,
            held_size=held_size,
            rows=place.rows,
            next="" if place.whole else _write(place),
            troubles=troubles[:TROUBLES_MAX],
        )

    async def export(self, scope: Scope, event_id: UUID, held: str = "") -> str:
        """The proof of one event as ``verifier.py`` takes it: an export that holds this one entry.

        Args:
            held: a checkpoint that the proof is to continue; empty for none.

        Raises:
            EventNotFound, NotSealedYet.
        """
        proof = await self._proofs.of_event(scope, event_id, None)
        if proof.checkpoint is None:
            raise NotSealedYet
        since = proof.tree_size
        if held:
            try:
                since = min(since, self._key.open(held).size)
            except verifier.Wrong:
                since = proof.tree_size
        head = {
            "tenant_id": str(scope.tenant_id),
            "live": scope.live,
            "entries": 1,
            "exported_at": clock.now(),
            "verifier_key": self._key.verifier_key,
            "checkpoint": proof.checkpoint,
            "consistency": [_base64(one) for one in await self._proofs.consistency(since, proof.tree_size)],
        }
        entry = {"index": proof.leaf_index, "leaf": proof.leaf, "proof": proof.proof}
        return "".join(msgspec.json.encode(line).decode() + "\n" for line in (head, entry))

    async def proof(self, scope: Scope, event_id: UUID) -> tuple[InclusionProof, bool]:
        """The proof of one event, and whether it holds when it is verified here.

        Raises:
            EventNotFound, NotSealedYet.
        """
        proof = await self._proofs.of_event(scope, event_id, None)
        if proof.checkpoint is None:
            raise NotSealedYet
        try:
            signed = self._key.open(proof.checkpoint)
        except verifier.Wrong:
            return proof, False
        path = [base64.b64decode(one) for one in proof.proof]
        leaf = merkle.leaf_hash(proof.leaf.encode())
        return proof, verifier.includes(leaf, proof.leaf_index, signed.size, path, signed.root)

    def _check_checkpoint(self, last: Checkpoint, troubles: list[Trouble]) -> bytes:
        """Its signature and its place; answers the root that was signed, or stands in the row when nothing was."""
        stored = bytes.fromhex(last.root)
        try:
            opened = self._key.open(last.note)
        except verifier.Wrong as error:
            troubles.append(Trouble(kind="signature", detail=str(error)))
            return stored
        if (opened.size, opened.root) != (last.size, stored):
            troubles.append(Trouble(kind="signature", detail="the row says something else than the note"))
        micros = round((last.created_at - EPOCH).total_seconds() * 1_000_000)
        if self._key.mac(last.number, str(micros), last.note) != last.mac:
            troubles.append(Trouble(kind="place"))
        return opened.root

    async def _check_tree(self, last: Checkpoint, root: bytes, troubles: list[Trouble]) -> None:
        if await self._proofs.root(last.size) != root:
            troubles.append(Trouble(kind="root"))

    async def _check_held(self, held: str, last: Checkpoint, root: bytes, troubles: list[Trouble]) -> int | None:
        try:
            opened = self._key.open(held)
        except verifier.Wrong as error:
            troubles.append(Trouble(kind="held_signature", detail=str(error)))
            return None
        if opened.size > last.size:
            troubles.append(Trouble(kind="held_shorter"))
        else:
            proof = await self._proofs.consistency(opened.size, last.size)
            if not verifier.extends(opened.size, last.size, proof, opened.root, root):
                troubles.append(Trouble(kind="held_differs"))
        return opened.size

    async def _check_rows(self, scope: Scope, place: Place, size: int, root: bytes, troubles: list[Trouble]) -> Place:
        ends_at = clock.monotonic() + SPELL_S
        position, rows = (place.epoch, place.xid, place.seq), place.rows
        whole = False
        unsealed: list[str] = []
        while not whole and clock.monotonic() < ends_at and len(troubles) < TROUBLES_MAX:
            batch = await self._proofs.page(scope, position)
            for one in batch:
                if one.index is None:
                    unsealed = [*unsealed, one.row.event_id][:TROUBLES_MAX]
                elif unsealed:  # What is sealed later stands above them, so that they were put in below it.
                    inserted, unsealed = unsealed, []
                    troubles += [
                        Trouble(kind="row_inserted", event=ids.encode("evt", UUID(event))) for event in inserted
                    ]
            await self._check_batch(batch, size, root, troubles)
            rows += sum(one.index is not None and one.index < size for one in batch)
            if batch:
                position = batch[-1].row.position
            whole = len(batch) < PAGE
        event = place.event
        leaves_done = False
        while whole and not leaves_done and clock.monotonic() < ends_at and len(troubles) < TROUBLES_MAX:
            event, leaves_done = await self._missing(scope, event, size, troubles)
        return Place(*position, event=event, rows=rows, whole=(whole and leaves_done) or len(troubles) >= TROUBLES_MAX)

    async def _check_batch(self, batch: Sequence[Sealed], size: int, root: bytes, troubles: list[Trouble]) -> None:
        sealed = [one for one in batch if one.index is not None and one.index < size]
        paths = await self._proofs.inclusions([one.index for one in sealed if one.index is not None], size)
        wrong = [
            one
            for one, path in zip(sealed, paths, strict=True)
            if not verifier.includes(merkle.leaf_hash(canonical(one.row)), one.index or 0, size, path, root)
        ]
        leaves = await self._proofs.leaves([one.index or 0 for one in wrong])
        for one, leaf in zip(wrong, leaves, strict=True):
            if merkle.leaf_hash(canonical(one.row)) != leaf:
                event = ids.encode("evt", UUID(one.row.event_id))
                troubles.append(Trouble(kind="row_changed", event=event, index=one.index))
            elif not any(trouble.kind == "root" for trouble in troubles):
                troubles.append(
                    Trouble(kind="root")
                )  # The row is its leaf; what stands around that leaf is not the tree.

    async def _missing(self, scope: Scope, event: str, size: int, troubles: list[Trouble]) -> tuple[str, bool]:
        """Leaves whose row is gone, among the next so many."""
        async with self._db.begin(scope) as session:
            found = (
                await session.execute(
                    text(
                        "WITH next AS MATERIALIZED (SELECT event_id, leaf_index FROM journal_leaves WHERE tenant_id = :tenant"
                        " AND live = :live AND event_id > CAST(:event AS uuid) ORDER BY event_id LIMIT :most)"
                        " SELECT (SELECT max(event_id::text) FROM next) AS last, (SELECT count(*) FROM next) AS looked,"
                        " ARRAY(SELECT n.leaf_index || ' ' || n.event_id FROM next n WHERE n.leaf_index < :size AND NOT EXISTS ("
                        "  SELECT FROM journal j WHERE j.tenant_id = :tenant AND j.live = :live AND j.event_id = n.event_id)"
                        "  ORDER BY n.leaf_index LIMIT :most_missing) AS missing"
                    ),
                    {
                        "tenant": scope.tenant_id,
                        "live": scope.live,
                        "event": event,
                        "most": LEAVES,
                        "size": size,
                        "most_missing": TROUBLES_MAX,
                    },
                )
            ).one()
        for each in found.missing:
            index, _, gone = each.partition(" ")
            troubles.append(Trouble(kind="row_missing", event=ids.encode("evt", UUID(gone)), index=int(index)))
        return found.last or event, found.looked < LEAVES


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _write(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _read(after: str) -> Place:
    """Where to go on; what is none of ours begins at the beginning, which leaves nothing out."""
    try:
        given: Any = base64.urlsafe_b64decode(after.encode() + b"=" * (-len(after) % 4))
        found = msgspec.json.decode(given, type=Place)
        UUID(found.event)
    except (ValueError, msgspec.DecodeError):
        return Place()
    return found
