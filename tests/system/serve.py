"""Gateways and workers that may be killed at any instant: ``python -m tests.system.serve``.

Standard input tells in JSON (``Task``) what to serve.

The parent imports everything once, listens, and forks a child per socket and one per worker; a child that ends is forked again at
once. It prints ``<number> <pid> <end>`` for every child, gateways first; ``end`` is the signal that ended the one before, or 0.
Clients keep waiting in the socket's queue while nobody is there to accept them.

A file named ``<point>-<verb>-<amount>`` in the folder ``doom`` makes the child that comes by take the file away and kill itself:

=========================  =========================================================================================
``reserved``               the operation is stored, the PSP is not called yet (also when it is sent again)
``answered``               the PSP has answered, nothing of it is stored
``settled``                the outcome is stored, nobody is told
``retrieve`` as the verb   the same points around recovery's lookup
``stored-webhook-0``       a message of the PSP is committed, the PSP is not answered yet
``told-webhook-0``         it is told to its payment, and still due in the inbox
=========================  =========================================================================================
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import socket
import ssl
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Never

import httpx
import msgspec
import uvicorn
import uvloop
from sqlalchemy.orm import configure_mappers
from tests.conftest import lifespan

import clearspan.app
import clearspan.worker
from clearspan.app import Gateway, create_app
from clearspan.payments import recovery
from clearspan.payments.service import Payments
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.runtime import Runtime, with_public_url
from clearspan.platform.telemetry import configure_logging
from clearspan.psps.webhooks import PspWebhooks
from clearspan.sdk import Outcome, PspAdapter
from clearspan.settings import DataSettings, load

AGAIN_S = 0.2
"""Between two lives when one could not even begin."""


class Task(msgspec.Struct, frozen=True):
    """What to serve.

    Attributes:
        url: the application's database.
        master: the master key in hex.
        folder: for files of its own.
        plugin: the plugins' settings.
        payments, idempotency: settings that differ from the defaults.
        sockets: listening sockets, inherited.
        shared: one more, where every gateway listens; -1: none.
        public_url: where PSPs send their messages; empty: nowhere.
        workers: how many of them besides the gateways.
        redis_url: their queue.
        tables: settings of further tables; table -> name -> value.
        delays_s: other distances between the looks of recovery than the real ones.
    """

    url: str
    master: str
    folder: str
    plugin: dict[str, dict[str, Any]]
    payments: dict[str, float | str]
    idempotency: dict[str, int]
    sockets: list[int]
    shared: int = -1
    public_url: str = ""
    workers: int = 0
    redis_url: str = ""
    tables: dict[str, dict[str, Any]] = {}
    delays_s: list[float] = []


def die(doom: Path, point: str, verb: str, amount_minor: int) -> None:
    """Kill this process if the test wants it here."""
    try:
        (doom / f"{point}-{verb}-{amount_minor}").unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def doomed(kind: type[PspAdapter], doom: Path) -> type[PspAdapter]:
    """The adapter with the first two points around each verb that moves money, and around the lookup."""

    async def around(self: Any, verb: str, request: Any) -> Outcome:
        die(doom, "reserved", verb, request.amount.amount_minor)
        outcome: Outcome = await getattr(kind, verb)(self, request)
        die(doom, "answered", verb, request.amount.amount_minor)
        return outcome

    def wrapped(verb: str) -> Any:
        async def call(self: Any, request: Any) -> Outcome:
            return await around(self, verb, request)

        return call

    verbs = ("create_intent", "capture", "cancel", "refund", "retrieve")
    return type(kind.__name__, (kind,), {verb: wrapped(verb) for verb in verbs})


async def rehearse(application: Any) -> None:
    """A whole life without a client."""
    async with lifespan(application), httpx.AsyncClient(transport=httpx.ASGITransport(app=application)) as http:
        for path in ("/health/ready", "/v1/payments"):
            await http.get(f"http://gateway.test{path}")


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
        plugin=task.plugin,
        payments=msgspec.structs.replace(defaults.payments, **task.payments),
        idempotency=msgspec.structs.replace(defaults.idempotency, **task.idempotency),
        **{
            table: msgspec.structs.replace(getattr(defaults, table), **changes)
            for table, changes in task.tables.items()
        },
    )
    if task.public_url:
        settings = with_public_url(settings, task.public_url)
    if task.delays_s:
        setattr(recovery, "DELAYS_S", tuple(task.delays_s))  # noqa: B010  (a constant otherwise)
    configure_logging("warning", "json")
    loaded = plugins.load({"psp-sandbox": "", "vault-sandbox": ""})
    loaded.psps["sandbox"] = doomed(loaded.psps["sandbox"], doom)
    verbs = {"authorize": "create_intent", "purchase": "create_intent", "void": "cancel"}

    class DoomedPayments(Payments):
        async def _settle(self, caller: Any, key: Any, opened: Any, *given: Any, **more: Any) -> Any:
            settled = await super()._settle(caller, key, opened, *given, **more)
            kind = opened.operation.kind
            die(doom, "settled", verbs.get(kind, kind), opened.operation.amount_minor)
            return settled

        async def tell(self, *given: Any, **more: Any) -> Any:
            told = await super().tell(*given, **more)
            die(doom, "told", "webhook", 0)
            return told

    class DoomedWebhooks(PspWebhooks):
        async def _keep(self, *given: Any, **more: Any) -> Any:
            fresh = await super()._keep(*given, **more)
            die(doom, "stored", "webhook", 0)
            return fresh

    # The composition root makes one of each.
    setattr(clearspan.app, "Payments", DoomedPayments)  # noqa: B010
    setattr(clearspan.app, "PspWebhooks", DoomedWebhooks)  # noqa: B010
    master = MasterKey(bytes.fromhex(task.master))
    # Made once and opened by each child: a life begins in milliseconds.
    application: Any = create_app(Gateway(settings, task.url, master, loaded))
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, loop="uvloop", http="httptools", ws="none"
    )

    runtime = Runtime(
        settings=settings,
        master=master,
        plugins=loaded,
        owner_url="",
        app_url=task.url,
        redis_url=task.redis_url,
        servers=None,
    )
    (settings.data_dir / "run").mkdir(exist_ok=True)
    shared = [socket.socket(fileno=task.shared)] if task.shared >= 0 else []

    def serve(listener: socket.socket) -> None:
        server = uvicorn.Server(config)
        server.run(sockets=[listener, *shared])
        if not server.started:
            raise ConnectionError("the database is away")

    def work() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(clearspan.worker._work(runtime))

    # What each life would do again: read the certificates, which takes longest, import what is imported late.
    setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))  # noqa: B010
    config.load()
    configure_mappers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(rehearse(create_app(Gateway(settings, task.url, master, loaded))))
    # Pages that the collector writes to would be copied.
    gc.collect()
    gc.freeze()

    listeners = [socket.socket(fileno=number) for number in task.sockets]
    children: dict[int, int] = {}

    def fork(index: int, end: int = 0) -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                serve(listeners[index]) if index < len(listeners) else work()
            except BaseException:  # noqa: BLE001  (a database that is away at the start, for instance; the parent tries again)
                traceback.print_exc()
                time.sleep(AGAIN_S)
                os._exit(1)
            os._exit(0)
        children[pid] = index
        print(index, pid, end, flush=True)  # noqa: T201

    def stop(*_: Any) -> Never:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    for index in range(len(listeners) + task.workers):
        fork(index)
    while True:
        pid, status = os.wait()
        fork(children.pop(pid), os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


if __name__ == "__main__":
    main()
