"""The sealer: appends what was written to the journal to the tree, and signs a checkpoint of it every while.

Any number of workers may try. A round is one transaction under an advisory lock: it reads the next rows below the horizon (see
sql/journal.sql: nothing can still appear below it), hashes them and appends their leaves. So a worker that dies in the middle has
done nothing, and the tree's order is the journal's.
"""

from __future__ import annotations

import msgspec
import structlog
from sqlalchemy import text

from clearspan.journal import merkle, verifier
from clearspan.journal.canonical import Leaf, canonical
from clearspan.journal.checkpoint import Checkpoint, SigningKey
from clearspan.journal.proofs import Proofs
from clearspan.platform import clock, sqlbundle
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.settings import AuditSettings

BATCH = 1000
log = structlog.get_logger("clearspan.journal.seal")


class _Next(msgspec.Struct, frozen=True):
    size: int = 0
    edge: list[list[str]] = []
    rows: list[Leaf] = []


_NEXT = msgspec.json.Decoder(_Next)
_ENCODER = msgspec.json.Encoder()


class TreeTampered(Exception):
    """The stored tree does not continue the last checkpoint: nothing is signed any more until a person has looked."""


class Sealer:
    """See the module's docstring.

    Args:
        db: of the application.
        proofs: of the same tree.
        key: signs.
        settings: how often.
    """

    def __init__(self, db: Database, proofs: Proofs, key: SigningKey, settings: AuditSettings) -> None:
        self._db = db
        self._proofs = proofs
        self._key = key
        self._settings = settings
        self._signed: Checkpoint | None = None
        self._sign_at = 0.0

    async def run(self) -> None:
        """Seal and sign until cancelled."""
        while True:
            try:
                await self.seal()
                if clock.monotonic() >= self._sign_at:
                    await self.sign()
            except DatabaseUnavailable as error:
                log.warning("nothing is sealed: the database is away", error=str(error.__cause__ or error))
            except TreeTampered as error:
                self._sign_at = clock.monotonic() + self._settings.checkpoint_interval_s
                log.critical("nothing is signed: run 'clearspan audit verify'", problem=str(error))
            except Exception:  # An edge: the same worker looks after payments, whatever was done to the tree.
                log.exception("nothing is sealed: run 'clearspan audit verify'")
            await clock.sleep(self._settings.seal_interval_s)

    async def seal(self) -> int:
        """Seal everything that is below the horizon now; returns how many rows that were.

        Raises:
            DatabaseUnavailable: what was sealed so far stays.
        """
        total = 0
        while True:
            done = await self.round()
            total += done
            if done < BATCH:
                return total

    async def round(self, most: int = BATCH) -> int:
        """Seal the next rows; 0 also when another worker is at it.

        Raises:
            DatabaseUnavailable: nothing was sealed, or all of it was and the answer got lost.
        """
        async with self._db.begin(None) as session:
            asked = text(f"SELECT {sqlbundle.name('seal_next')}(CAST(:p AS jsonb))::text")
            found = _NEXT.decode(await session.scalar(asked, {"p": f'{{"most": {most}}}'}) or "{}")
            if not found.rows:
                return 0
            tree = merkle.Growing(found.size, ([bytes.fromhex(one) for one in level] for level in found.edge))
            leaves, nodes = [], []
            for row in found.rows:
                leaf = merkle.leaf_hash(canonical(row))
                nodes += [
                    {"level": node.level, "index": node.place, "hash": value.hex()} for node, value in tree.append(leaf)
                ]
                leaves.append(
                    {"tenant_id": row.tenant_id, "live": row.live, "event_id": row.event_id, "epoch": row.epoch}
                    | {"xid": row.xid, "seq": row.seq, "hash": leaf.hex()}
                )
            document = _ENCODER.encode({"size": found.size, "leaves": leaves, "nodes": nodes}).decode()
            await session.execute(text(f"SELECT {sqlbundle.name('seal_append')}(CAST(:p AS jsonb))"), {"p": document})
            return len(leaves)

    async def sign(self) -> Checkpoint | None:
        """Sign the tree when it grew and the interval is over; returns the checkpoint when one was made.

        Raises:
            TreeTampered: the tree does not begin with the one of the last checkpoint.
            DatabaseUnavailable: nothing was signed.
        """
        state = await self._proofs.state()
        last = state.checkpoint
        now = clock.now()
        if last is not None:
            age_s = (now - last.created_at).total_seconds()
            if age_s < self._settings.checkpoint_interval_s:
                self._sign_at = clock.monotonic() + self._settings.checkpoint_interval_s - age_s
                return None
        if self._signed is not None and (last is None or last.number < self._signed.number):
            raise TreeTampered(f"the checkpoint of {self._signed.size} entries that was signed here is gone")
        if state.size == (last.size if last is not None else 0):
            return None
        root = await self._proofs.root(state.size)
        if last is not None:
            await self._check_extends(last, state.size, root)
        made = self._key.checkpoint(last.number + 1 if last is not None else 1, state.size, root, now)
        kept = await self._db.call("checkpoint_add", msgspec.to_builtins(made))
        self._sign_at = clock.monotonic() + self._settings.checkpoint_interval_s
        if kept != "true":  # Another worker was first.
            return None
        self._signed = made
        log.info("checkpoint", size=made.size, root=made.root)
        return made

    async def _check_extends(self, last: Checkpoint, size: int, root: bytes) -> None:
        """A log must not sign what contradicts an earlier checkpoint; it could only after somebody changed the tree."""
        try:
            held = self._key.open(last.note)
        except verifier.Wrong as error:
            raise TreeTampered(f"the last checkpoint: {error}") from error
        if held.size > size:
            raise TreeTampered(f"the tree has {size} entries, the last checkpoint {held.size}")
        if not verifier.extends(held.size, size, await self._proofs.consistency(held.size, size), held.root, root):
            raise TreeTampered(
                f"the tree of {size} entries does not begin with that of the last checkpoint ({held.size})"
            )
