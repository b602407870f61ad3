"""Gateways that may be killed at any instant: ``python -m tests.system.serve``, told by JSON on standard input what to serve.

The parent imports everything once, listens, and forks a child per socket; a child that dies is forked again at once. It prints
``<socket> <pid>`` for every child. Clients keep waiting in the socket's queue while nobody is there to accept them.

A file named ``<point>-<verb>-<amount>`` in the folder ``doom`` makes the child that comes by take the file away and kill itself:
``reserved`` before the PSP is called, ``answered`` when it has answered, ``settled`` when the outcome is stored.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Never

import msgspec
import uvicorn

import clearspan.app
from clearspan.app import Gateway, create_app
from clearspan.payments.service import Payments
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.telemetry import configure_logging
from clearspan.sdk import Outcome, PspAdapter
from clearspan.settings import DataSettings, load


class Task(msgspec.Struct, frozen=True):
    """What to serve.

    Attributes:
        url: the application's database.
        master: the master key in hex.
        folder: for files of its own.
        plugin: the plugins' settings.
        payments, idempotency: settings that differ from the defaults.
        sockets: listening sockets, inherited.
    """

    url: str
    master: str
    folder: str
    plugin: dict[str, dict[str, Any]]
    payments: dict[str, float | str]
    idempotency: dict[str, int]
    sockets: list[int]


def die(doom: Path, point: str, verb: str, amount_minor: int) -> None:
    """Kill this process if the test wants it here."""
    try:
        (doom / f"{point}-{verb}-{amount_minor}").unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def doomed(kind: type[PspAdapter], doom: Path) -> type[PspAdapter]:
    """The adapter with the first two points around each verb that moves money."""

    async def around(self: Any, verb: str, request: Any) -> Outcome:
        die(doom, "reserved", verb, request.amount.amount_minor)
        outcome: Outcome = await getattr(kind, verb)(self, request)
        die(doom, "answered", verb, request.amount.amount_minor)
        return outcome

    def wrapped(verb: str) -> Any:
        async def call(self: Any, request: Any) -> Outcome:
            return await around(self, verb, request)

        return call

    return type(
        kind.__name__, (kind,), {verb: wrapped(verb) for verb in ("create_intent", "capture", "cancel", "refund")}
    )


def main() -> Never:
    """Until killed."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    folder = Path(task.folder)
    empty, doom = folder / "clearspan.toml", folder / "doom"
    empty.touch()
    doom.mkdir(exist_ok=True)
    defaults = load(empty, environ={})
    settings = msgspec.structs.replace(
        defaults,
        data=DataSettings(dir=str(folder)),
        outbound=msgspec.structs.replace(defaults.outbound, allow_internal=("127.0.0.1:*",)),
        plugin=task.plugin,
        payments=msgspec.structs.replace(defaults.payments, **task.payments),
        idempotency=msgspec.structs.replace(defaults.idempotency, **task.idempotency),
    )
    configure_logging("warning", "json")
    loaded = plugins.load({"psp-sandbox": "", "vault-sandbox": ""})
    loaded.psps["sandbox"] = doomed(loaded.psps["sandbox"], doom)
    verbs = {"authorize": "create_intent", "purchase": "create_intent", "void": "cancel"}

    class DoomedPayments(Payments):
        async def _settle(self, caller: Any, key: Any, opened: Any, observation: Any, render: Any) -> Any:
            settled = await super()._settle(caller, key, opened, observation, render)
            kind = opened.operation.kind
            die(doom, "settled", verbs.get(kind, kind), opened.operation.amount_minor)
            return settled

    setattr(clearspan.app, "Payments", DoomedPayments)  # noqa: B010  (the composition root makes one)
    # Made once and opened by each child: a life begins in milliseconds.
    application: Any = create_app(Gateway(settings, task.url, MasterKey(bytes.fromhex(task.master)), loaded))
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, loop="uvloop", http="httptools", ws="none"
    )

    def serve(listener: socket.socket) -> Never:
        uvicorn.Server(config).run(sockets=[listener])
        os._exit(0)

    listeners = [socket.socket(fileno=number) for number in task.sockets]
    children: dict[int, int] = {}

    def fork(index: int) -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            serve(listeners[index])
        children[pid] = index
        print(index, pid, flush=True)  # noqa: T201

    def stop(*_: Any) -> Never:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    for index in range(len(listeners)):
        fork(index)
    while True:
        pid, _ = os.wait()
        fork(children.pop(pid))


if __name__ == "__main__":
    main()
