"""Workers for webhooks that are killed all the time: ``python -m tests.system.webhook_workers``, told by JSON on standard input.

Each life is a fork that opens the database and runs the dispatcher. Half of them are killed from outside at a random instant,
half kill themselves at a point they come by: ``relayed``, ``claimed`` (committed, not sent), ``sent`` (answered, not settled),
``settled``. When there were enough kills a line of JSON says how many of each; then one worker lives until it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Never

import msgspec

from clearspan.app import Gateway
from clearspan.platform.crypto import MasterKey
from clearspan.platform.plugins import Plugins
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import DataSettings, load
from clearspan.webhooks import models
from clearspan.webhooks.dispatch import Deliveries, Dispatcher

POINTS = ["relayed", "claimed", "sent", "settled"]
PASSED = len(POINTS)
"""Said at every point: how much a life has done, whatever the machine's load."""
AFTER_S = 0.03
"""A life that is killed from outside ends within this time after the last point it was granted."""
PATIENCE_S = 3.0
"""Nobody lives longer."""
TIMEOUT_S = 0.5
LEASE_MARGIN_S = 0.25


class Task(msgspec.Struct, frozen=True):
    """What to do."""

    url: str
    master: str
    folder: str
    kills: int
    children: int
    seed: int


class Doom:
    """When this life ends itself.

    Args:
        point: of ``POINTS``, or empty.
        times: how often it comes by before.
        said: where it says so.
    """

    def __init__(self, point: str, times: int, said: int) -> None:
        self.point, self.times, self.said = point, times, said

    def say(self, number: int) -> None:
        os.write(self.said, struct.pack("<IB", os.getpid(), number))

    def pass_by(self, point: str) -> None:
        self.say(PASSED)
        if point == self.point:
            self.times -= 1
            if self.times <= 0:
                self.say(POINTS.index(point))
                os.kill(os.getpid(), signal.SIGKILL)


def doomed(gateway: Gateway, doom: Doom) -> Dispatcher:
    """A worker's loop with the points."""

    class DoomedDeliveries(Deliveries):
        async def attempt(self, *given: Any) -> Any:
            doom.pass_by("claimed")
            exchange = await super().attempt(*given)
            doom.pass_by("sent")
            return exchange

        async def settle(self, *given: Any, **named: Any) -> None:
            await super().settle(*given, **named)
            doom.pass_by("settled")

    class DoomedDispatcher(Dispatcher):
        async def _relay(self, due: Any) -> Any:
            relayed = await super()._relay(due)
            if relayed.made:
                doom.pass_by("relayed")
            return relayed

    made = DoomedDeliveries(
        gateway.db,
        gateway.tenants,
        gateway.feed,
        gateway.webhook_sender,
        gateway.settings.webhooks,
        gateway.metrics,
        LEASE_MARGIN_S,
    )
    return DoomedDispatcher(made, gateway.feed, 0)


async def live(gateway: Gateway, doom: Doom) -> None:
    """One life."""
    await gateway.db.open()
    await doomed(gateway, doom).run()


def main() -> Never:
    """Until killed."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    empty = Path(task.folder) / "clearspan.toml"
    empty.touch()
    defaults = load(empty, environ={})
    settings = msgspec.structs.replace(
        defaults,
        data=DataSettings(dir=task.folder),
        plugin={},
        outbound=msgspec.structs.replace(defaults.outbound, allow_internal=("127.0.0.1:*",)),
        webhooks=msgspec.structs.replace(defaults.webhooks, timeout_s=TIMEOUT_S),
        events=msgspec.structs.replace(defaults.events, poll_ms=50),
    )
    configure_logging("error", "json")
    # Ten tries as ever, only sooner.
    models.DELAYS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1, 0.1)  # type: ignore[assignment]
    gateway = Gateway(settings, task.url, MasterKey(bytes.fromhex(task.master)), Plugins())
    said, says = os.pipe()
    os.set_blocking(said, False)
    chance = random.Random(task.seed)  # noqa: S311
    killed_at: dict[int, float] = {}
    granted: dict[int, int] = {}
    points: Counter[str] = Counter()

    def fork(point: str) -> None:
        times = chance.randint(1, 3)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            asyncio.run(live(gateway, Doom(point, times, says)))
            os._exit(1)
        killed_at[pid] = time.monotonic() + PATIENCE_S
        granted[pid] = 0 if point else chance.randint(1, 8)

    def listen() -> None:
        with contextlib.suppress(BlockingIOError):
            for pid, number in struct.iter_unpack("<IB", os.read(said, 5 * 1000)):
                if number < PASSED:
                    points[POINTS[number]] += 1
                elif pid in killed_at:
                    granted[pid] -= 1
                    if granted[pid] == 0:
                        killed_at[pid] = time.monotonic() + chance.uniform(0, AFTER_S)

    def stop(*_: Any) -> Never:
        for pid in killed_at:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    kills, others = 0, 0
    while kills < task.kills:
        while len(killed_at) < task.children:
            fork(chance.choice(POINTS) if chance.random() < 0.5 else "")
        listen()
        for pid, at in killed_at.items():
            if time.monotonic() >= at:
                os.kill(pid, signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            del killed_at[pid], granted[pid]
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                kills += 1
            else:
                others += 1  # A bug: a life ends by being killed.
        else:
            time.sleep(0.001)
    for pid in killed_at:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
    listen()
    killed_at.clear()
    counted = {"kills": kills, "at random": kills - points.total(), **points, "ended otherwise": others}
    print(msgspec.json.encode(counted).decode(), flush=True)  # noqa: T201
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asyncio.run(live(gateway, Doom("", 0, says)))
        os._exit(1)
    killed_at[pid] = 0
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
