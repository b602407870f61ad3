"""Proofs from the tree: that an event is in it, that it only grew. Of others a tenant gets hashes and the tree's size."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from clearspan.journal import merkle
from clearspan.journal.canonical import Leaf, canonical
from clearspan.journal.checkpoint import Checkpoint, SigningKey
from clearspan.journal.errors import CheckpointNotFound, EventNotFound, NotSealedYet, TreeSizeUnknown
from clearspan.journal.schemas import AuditKey, CheckpointList, CheckpointOut, ConsistencyProof, InclusionProof
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable, InvalidRequest
from clearspan.platform.telemetry import Metrics

PAGE = 200


class Push(msgspec.Struct, frozen=True):
    """How far a target has got: the number of the last checkpoint that arrived, and tries since that failed."""

    target: str
    pushed: int
    failures: int


class State(msgspec.Struct, frozen=True):
    """How the tree stands.

    Attributes:
        size: leaves.
        unsealed_at: when the oldest event happened that has no leaf.
        behind_at: the same of the oldest leaf that no checkpoint covers.
        checkpoint: the last one.
        pushes: per target there ever was.
    """

    size: int
    unsealed_at: datetime | None
    behind_at: datetime | None
    checkpoint: Checkpoint | None
    pushes: list[Push]


class Sealed(msgspec.Struct, frozen=True):
    """A row, and where it stands in the tree; ``None`` while it is not sealed."""

    index: int | None
    row: Leaf


_STATE = msgspec.json.Decoder(State)
_SEALED = msgspec.json.Decoder(list[Sealed])
_HASHES = msgspec.json.Decoder(list[str | None])
_CHECKPOINTS = msgspec.json.Decoder(list[Checkpoint])


class Proofs:
    """See the module's docstring.

    Args:
        db: of the application.
        key: the log's.
        metrics: of this process.
        targets: the pushes that matter now.
    """

    def __init__(self, db: Database, key: SigningKey, metrics: Metrics, targets: Iterable[str]) -> None:
        self._db = db
        self._key = key
        self._metrics = metrics
        self._targets = set(targets)

    # -- For the API --------------------------------------------------------------------------------------------------------

    def key(self) -> AuditKey:
        """The public key."""
        return AuditKey(
            origin=self._key.name,
            public_key=base64.b64encode(self._key.public).decode(),
            verifier_key=self._key.verifier_key,
        )

    async def latest(self) -> CheckpointOut:
        """The last checkpoint.

        Raises:
            CheckpointNotFound: there is none yet.
        """
        return CheckpointOut.of(await self._last())

    async def checkpoints(self, *, limit: int, cursor: str | None) -> CheckpointList:
        """Checkpoints, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        document: dict[str, Any] = {"most": limit + 1}
        if cursor is not None:
            if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
                message = "This is no cursor of a list: take next_cursor from the page before, unchanged."
                raise InvalidRequest(message, errors=[{"path": "cursor", "message": message}])
            document["before"] = int(cursor)
        found = _CHECKPOINTS.decode(await self._db.call("audit_checkpoints", document))
        rows, more = found[:limit], len(found) > limit
        return CheckpointList(
            data=[CheckpointOut.of(one) for one in rows],
            next_cursor=str(rows[-1].number) if more else None,
            has_more=more,
        )

    async def of_event(self, scope: Scope, event_id: UUID, size: int | None) -> InclusionProof:
        """That an event is in the tree of this size, by default of the last checkpoint.

        Raises:
            EventNotFound: there is no such event in the scope.
            NotSealedYet: it stands above that size.
            TreeSizeUnknown: the tree never had that size.
        """
        document = {"tenant_id": scope.tenant_id, "live": scope.live, "event_id": event_id}
        found = _SEALED.decode(await self._db.call("audit_leaf", document))
        if not found:
            raise EventNotFound
        state = await self.state()
        if size is None:
            size = state.checkpoint.size if state.checkpoint is not None else 0
        elif size > state.size:
            raise TreeSizeUnknown(f"The tree has {state.size} entries so far.")
        index, row = found[0].index, found[0].row
        if index is None or index >= size:
            raise NotSealedYet
        of_checkpoint = state.checkpoint if state.checkpoint is not None and state.checkpoint.size == size else None
        entry = canonical(row)
        return InclusionProof(
            event=ids.encode("evt", event_id),
            leaf_index=index,
            leaf=entry.decode(),
            leaf_hash=_text(merkle.leaf_hash(entry)),
            tree_size=size,
            root=_text(await self.root(size)),
            proof=[_text(one) for one in await self.inclusion(index, size)],
            checkpoint=of_checkpoint.note if of_checkpoint is not None else None,
        )

    async def between(self, old: int, new: int | None) -> ConsistencyProof:
        """That the tree only grew between two sizes; the newer is by default that of the last checkpoint.

        Raises:
            TreeSizeUnknown: the tree never had such a size, or they stand the wrong way round.
            CheckpointNotFound: no newer size was given, and there is no checkpoint yet.
        """
        if new is None:
            new = (await self._last()).size
        state = await self.state()
        if not old <= new <= state.size:
            raise TreeSizeUnknown(f"from is at most to, and to at most the tree's size, {state.size} so far.")
        proof = await self.consistency(old, new)
        return ConsistencyProof(
            from_size=old,
            to_size=new,
            from_root=_text(await self.root(old)),
            to_root=_text(await self.root(new)),
            proof=[_text(one) for one in proof],
        )

    # -- Raw ----------------------------------------------------------------------------------------------------------------

    async def state(self) -> State:
        """See ``State``."""
        return _STATE.decode(await self._db.call("audit_state", {}))

    async def rows(self, scope: Scope, size: int) -> AsyncIterator[Sealed]:
        """The scope's rows in the tree of this size, in order."""
        after = {"epoch": 0, "xid": "0", "seq": 0}
        while True:
            document = {"tenant_id": scope.tenant_id, "live": scope.live, "after": after, "most": PAGE}
            found = _SEALED.decode(await self._db.call("audit_leaves", document))
            for sealed in found:
                if sealed.index is None or sealed.index >= size:
                    return
                yield sealed
            if len(found) < PAGE:
                return
            last = found[-1].row
            after = {"epoch": last.epoch, "xid": str(last.xid), "seq": last.seq}

    async def page(self, scope: Scope, after: tuple[int, int, int]) -> list[Sealed]:
        """The next ``PAGE`` rows of the scope after a position, sealed or not, in order."""
        place = {"epoch": after[0], "xid": str(after[1]), "seq": after[2]}
        document = {"tenant_id": scope.tenant_id, "live": scope.live, "after": place, "most": PAGE}
        return _SEALED.decode(await self._db.call("audit_leaves", document))

    async def inclusions(self, indices: Sequence[int], size: int) -> list[list[bytes]]:
        """The audit paths of many leaves, in one round trip."""
        proofs = [merkle.inclusion(index, size) for index in indices]
        known = await self._known({node for proof in proofs for node in proof.nodes})
        return [proof.hashes(known) for proof in proofs]

    async def leaves(self, indices: Sequence[int]) -> list[bytes]:
        """The hashes of leaves as they are stored."""
        nodes = [merkle.Node(0, index) for index in indices]
        known = await self._known(nodes)
        return [known[node] for node in nodes]

    async def root(self, size: int) -> bytes:
        """Of the tree when it had this size."""
        nodes = list(merkle.subtrees(0, size))
        known = await self._known(nodes)
        return merkle.fold([known[node] for node in nodes])

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of a leaf."""
        proof = merkle.inclusion(index, size)
        return proof.hashes(await self._known(proof.nodes))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of the new size begins with the old one."""
        proof = merkle.consistency(old, new)
        return proof.hashes(await self._known(proof.nodes))

    async def _known(self, nodes: Iterable[merkle.Node]) -> dict[merkle.Node, bytes]:
        parts = merkle.stored(nodes)
        wanted = [part for made_of in parts.values() for part in made_of]
        if not wanted:
            return {}
        found = _HASHES.decode(await self._db.call("audit_nodes", {"nodes": wanted}))
        hashes = {part: bytes.fromhex(value or "") for part, value in zip(wanted, found, strict=True)}
        return {node: merkle.full_root([hashes[part] for part in made_of]) for node, made_of in parts.items()}

    async def _last(self) -> Checkpoint:
        found = (await self.state()).checkpoint
        if found is None:
            raise CheckpointNotFound
        return found

    async def measure(self) -> None:
        """Bring the metrics up to date; they keep their values while the database is away."""
        try:
            state = await self.state()
        except DatabaseUnavailable:
            return
        self._metrics.audit(
            size=state.size,
            unsealed_at=state.unsealed_at,
            behind_at=state.behind_at,
            failures={push.target: push.failures for push in state.pushes if push.target in self._targets},
        )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
