"""Checkpoints leave the host: to files, directories and over HTTP, each at least once and in order, whoever is away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.core.journal.trail import Trail

from clearspan.commands.audit import notes_in
from clearspan.journal.push import Pusher
from clearspan.platform import clock


class Witness:
    """An HTTP server that keeps what it is sent; it answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[str] = []
        self.types: set[str] = set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = (await reader.readexactly(int(headers["content-length"]))).decode()
        if self.status == 200:
            self.got.append(body)
            self.types.add(headers["content-type"])
        writer.write(f"HTTP/1.1 {self.status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    found = Witness()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/checkpoints"
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()


def pusher(trail: Trail, *targets: str) -> Pusher:
    return Pusher(trail.db, msgspec.structs.replace(trail.settings, push_to=targets))


async def signed(trail: Trail, count: int) -> list[str]:
    notes = []
    for _ in range(count):
        await trail.happen(1)
        made = await trail.seal()
        assert made is not None
        notes.append(made.note)
    return notes


async def due_now(trail: Trail) -> None:
    await trail.superuser.execute("UPDATE checkpoint_pushes SET due_at = '2000-01-01'")


async def failures(trail: Trail, target: str) -> int:
    return int(await trail.superuser.fetchval("SELECT failures FROM checkpoint_pushes WHERE target = $1", target))


async def test_a_file_and_a_directory_get_every_checkpoint(trail: Trail, tmp_path: Path) -> None:
    file, folder = str(tmp_path / "checkpoints.txt"), f"{tmp_path}/each/"
    (tmp_path / "each").mkdir()
    notes = await signed(trail, 3)
    each = pusher(trail, file, folder)
    assert [await each.push(file), await each.push(folder)] == [3, 3]
    assert [await each.push(file), await each.push(folder)] == [0, 0]
    assert notes_in(Path(file)) == notes
    assert [path.read_text() for path in sorted((tmp_path / "each").iterdir())] == notes
    notes += await signed(trail, 1)
    assert await each.push(file) == 1
    assert notes_in(Path(file)) == notes
    assert (await trail.examine(*notes_in(Path(file)))).findings == []


async def test_nothing_is_skipped_while_a_target_is_away(trail: Trail, tmp_path: Path) -> None:
    file = str(tmp_path / "away" / "checkpoints.txt")
    async with witness() as other:
        each = pusher(trail, file, other.url)
        notes = await signed(trail, 2)
        assert await each.push(file) == 0
        assert await each.push(other.url) == 2, "one target does not wait for the other"
        assert await failures(trail, file) == 1
        assert await each.push(file) == 0, "it is given a pause"
        assert await failures(trail, file) == 1
        notes += await signed(trail, 1)
        (tmp_path / "away").mkdir()
        await due_now(trail)
        assert await each.push(file) == 3
        assert await failures(trail, file) == 0
        assert notes_in(Path(file)) == notes


async def test_a_witness_gets_the_note_by_post_and_again_until_it_takes_it(trail: Trail) -> None:
    async with witness() as there:
        each = pusher(trail, there.url)
        notes = await signed(trail, 2)
        for status in (500, 404, 302):
            there.status = status
            assert await each.push(there.url) == 0
            await due_now(trail)
        assert await failures(trail, there.url) == 3
        there.status = 200
        assert await each.push(there.url) == 2
        assert there.got == notes
        assert there.types == {"text/plain; charset=utf-8"}
    await signed(trail, 1)
    assert await each.push(there.url) == 0, "nobody listens any more"
    assert await failures(trail, there.url) == 1


async def test_the_pauses_grow_and_end_at_ten_minutes(trail: Trail, tmp_path: Path) -> None:
    file = str(tmp_path / "away" / "checkpoints.txt")
    await signed(trail, 1)
    pauses = []
    for _ in range(9):
        await pusher(trail, file).push(file)
        pauses.append(
            await trail.superuser.fetchval(
                "SELECT extract(epoch FROM due_at - updated_at)::float FROM checkpoint_pushes"
            )
        )
        await due_now(trail)
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600]


async def test_a_push_that_another_worker_has_in_hand_is_left_to_it(trail: Trail, tmp_path: Path) -> None:
    file = str(tmp_path / "checkpoints.txt")
    await signed(trail, 2)
    document = {"target": file, "now": clock.now(), "until": clock.now() + clock.seconds(60), "most": 9}
    assert len(msgspec.json.decode(await trail.db.call("push_next", document))) == 2
    assert await pusher(trail, file).push(file) == 0
    assert not Path(file).exists()
    # It died: when its time is over, the next one does it, all of it.
    await due_now(trail)
    assert await pusher(trail, file).push(file) == 2


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_pusher_of_a_worker_pushes_by_itself_and_ends_when_told(
    trail: Trail, tmp_path: Path, *, cancelled: bool
) -> None:
    file = str(tmp_path / "checkpoints.txt")
    running = asyncio.create_task(pusher(trail, *([] if cancelled else [file])).run())
    notes = await signed(trail, 2)
    if not cancelled:
        async with asyncio.timeout(20):
            while not Path(file).exists() or notes_in(Path(file)) != notes:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
