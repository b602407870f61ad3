"""Taking checkpoints off the host: what lies in the same database as the journal can be changed together with it.

Each target has a cursor of its own, so nothing is skipped while it is away, and whoever holds up a push holds up nothing else. A
checkpoint arrives at least once.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import msgspec
import structlog

from clearspan.journal.checkpoint import Checkpoint
from clearspan.platform import clock, outbound
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.settings import AuditSettings

MOST = 50
"""Checkpoints that are pushed before the cursor is stored."""
LEASE_S = 120
PAUSE_S = 5.0
PAUSE_S_MAX = 600.0
CONNECT_TIMEOUT_S = 3.0
TIMEOUT_S = 10.0
log = structlog.get_logger("clearspan.journal.push")
_CHECKPOINTS = msgspec.json.Decoder(list[Checkpoint])


class Pusher:
    """See the module's docstring.

    Args:
        db: of the application.
        settings: where to.
    """

    def __init__(self, db: Database, settings: AuditSettings) -> None:
        self._db = db
        self._targets = settings.push_to
        self._look_s = max(1.0, settings.seal_interval_s)

    async def run(self) -> None:
        """Push until cancelled, each target by itself."""
        async with asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(self._keep_pushing(target))
            await asyncio.Event().wait()

    async def _keep_pushing(self, target: str) -> None:
        while True:
            try:
                while await self.push(target) == MOST:
                    pass
            except DatabaseUnavailable as error:
                log.warning("nothing is pushed: the database is away", error=str(error.__cause__ or error))
            await clock.sleep(self._look_s)

    async def push(self, target: str) -> int:
        """Bring the next checkpoints to a target, unless another worker does; returns how many arrived.

        Raises:
            DatabaseUnavailable: some may have arrived, and will again.
        """
        now = clock.now()
        document = {"target": target, "now": now, "until": now + timedelta(seconds=LEASE_S), "most": MOST}
        found = _CHECKPOINTS.decode(await self._db.call("push_next", document))
        arrived, problem = 0, ""
        began = clock.monotonic()
        try:
            for one in found:
                if clock.monotonic() - began > LEASE_S - 2 * TIMEOUT_S:
                    break  # The rest after another look, under a lease of its own.
                await deliver(target, one)
                arrived += 1
        except Exception as error:  # noqa: BLE001  (an edge: whatever a target does, the worker does its other work)
            problem = f"{type(error).__name__}: {error}"
            log.warning("a checkpoint was not pushed", target=target, size=found[arrived].size, problem=problem)
        if found:
            pushed = found[arrived - 1].number if arrived else 0
            await self._db.call(
                "push_done",
                {
                    "target": target,
                    "pushed": pushed,
                    "failed": bool(problem),
                    "now": clock.now(),
                    "pause_s": PAUSE_S if problem else 0.0,
                }
                | {"pause_s_max": PAUSE_S_MAX},
            )
        return arrived


async def deliver(target: str, checkpoint: Checkpoint) -> None:
    """Bring one checkpoint to one target.

    Raises:
        OSError, httpx.HTTPError, httpx.InvalidURL: it may not have arrived.
    """
    if target.startswith("/"):
        await asyncio.to_thread(_write, target, checkpoint)
        return
    async with outbound.client(CONNECT_TIMEOUT_S, TIMEOUT_S) as client:
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        (await client.post(target, content=checkpoint.note.encode(), headers=headers)).raise_for_status()


def _write(target: str, checkpoint: Checkpoint) -> None:
    """On disk when it returns."""
    path = Path(target)
    if target.endswith("/"):
        path = path / f"{checkpoint.size:016d}-{checkpoint.root[:8]}.txt"
        if path.exists() and path.read_text() == checkpoint.note:
            return  # Storage that forbids overwriting would refuse a second time.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(handle, "ab") as file:
        # A file holds one note after the other, with a blank line between them.
        between = b"" if target.endswith("/") or file.tell() == 0 else b"\n"
        file.write(between + checkpoint.note.encode())
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
