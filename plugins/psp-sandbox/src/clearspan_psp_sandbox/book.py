"""The book: one append-only file of JSON lines. What was added before ``settled`` returns is on the disk.

Lines that arrive together share one ``fsync``. A line holds the effect and the remembered answer to its idempotency key, so that
a kill at any instant keeps both or neither. Half a line at the end (a kill while writing) is cut off at the next start; a broken
line anywhere else stops the start. ``MemoryBook`` is the same without a disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

_sync = getattr(os, "fdatasync", os.fsync)
logger = logging.getLogger(__name__)


class Line(msgspec.Struct, omit_defaults=True):
    """One line.

    Attributes:
        at: seconds since 1970.
        account: whose.
        operation: the operation in its new state (``bank.Operation``), when the line books one.
        dispute: the same of a dispute (``disputes.Dispute``).
        error: the answer, when a rule was broken.
        key, digest, status: the idempotency key, the hash of what was sent with it, and the HTTP status of the answer.
        promise: what will happen by itself (``desk.Promise``).
        kept: id of the promise that this line keeps.
        lie: a message about nothing that happened (``webhooks.Lie``).
        attempt: how the delivery of a message went (``webhooks.Attempt``).
        faults, endpoint: the account's new settings (``faults.State``, ``webhooks.Endpoint``).
        offset: seconds by which the simulator's clock is ahead from here on.
    """

    at: float
    account: str
    operation: msgspec.Raw = msgspec.Raw()
    dispute: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    key: str = ""
    digest: str = ""
    status: int = 0
    promise: msgspec.Raw = msgspec.Raw()
    kept: str = ""
    lie: msgspec.Raw = msgspec.Raw()
    attempt: msgspec.Raw = msgspec.Raw()
    faults: msgspec.Raw = msgspec.Raw()
    endpoint: msgspec.Raw = msgspec.Raw()
    offset: float | None = None

    @property
    def answer(self) -> bytes:
        """The bytes that were answered."""
        return bytes(self.operation) or bytes(self.error)


class Books(Protocol):
    """What the simulator needs of a book."""

    def read(self) -> Iterator[Line]:
        """Every line, oldest first; before the first ``add``."""
        ...

    def add(self, line: Line) -> None:
        """Queue a line, in the order of the decisions."""
        ...

    async def settled(self) -> None:
        """Return when every line so far is safe."""
        ...

    async def close(self) -> None:
        """The last thing."""
        ...


class MemoryBook:
    """A book for a simulation in process: no file, no thread. Given to a new simulator, that one goes on where the old one was.

    Attributes:
        lines: the lines as they would be on the disk.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def read(self) -> Iterator[Line]:
        """See ``Books``."""
        decoder = msgspec.json.Decoder(Line)
        return map(decoder.decode, tuple(self.lines))

    def add(self, line: Line) -> None:
        """See ``Books``."""
        self.lines.append(msgspec.json.encode(line))

    async def settled(self) -> None:
        """At once."""

    async def close(self) -> None:
        """Nothing to do."""


class _Batch:
    """Lines that share one write."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Book:
    """One process at a time may hold a book."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._file = (data_dir / "book.jsonl").open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SystemExit(
                f"{data_dir} belongs to a running simulator: stop it or choose another --data-dir"
            ) from None
        self._gathering: _Batch | None = None
        self._writing: _Batch | None = None
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="book")

    def read(self) -> Iterator[Line]:
        """Every line, oldest first; before the first ``add``."""
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            logger.warning("the last line of the book was cut off (%d bytes)", len(content) - complete)
            self._file.truncate(complete)
        decoder = msgspec.json.Decoder(Line)
        for text in content[:complete].splitlines():
            yield decoder.decode(text)

    def add(self, line: Line) -> None:
        """Queue a line, in the order of the decisions; ``settled`` says when it is on the disk."""
        if self._gathering is None:
            self._gathering = _Batch()
        self._gathering.lines.append(msgspec.json.encode(line) + b"\n")
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def settled(self) -> None:
        """Return when every line so far is on the disk: nobody is told what a kill could still undo."""
        if batch := self._gathering or self._writing:
            await asyncio.shield(batch.done)

    async def close(self) -> None:
        """Finish writing and give the folder free."""
        await self.settled()
        self._thread.shutdown()
        self._file.close()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._gathering:
            self._gathering, self._writing = None, batch
            await loop.run_in_executor(self._thread, self._write, b"".join(batch.lines))
            self._writing = None
            batch.done.set_result(None)
        self._writer = None

    def _write(self, content: bytes) -> None:
        try:
            while content:
                content = content[self._file.write(content) :]
            _sync(self._file.fileno())
        except OSError:
            # The state in memory is ahead of the disk now, and no answer may show it.
            logger.exception("the book cannot be written: the simulator stops")
            os._exit(1)
