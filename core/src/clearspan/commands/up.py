"""``clearspan up``: everything on one machine, from an empty directory to the first payment.

The embedded servers, the migration, the simulators and the worker are processes of their own, tied to this one: they end with it
even when it is killed. The web server runs in this process, which saves the import of the gateway a second time. What ends
without being told to is started again; the servers come back on the same ports, so nobody has to look for them.

A stop goes the way the work goes: web, worker, simulators, queue, database.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import uvloop

from clearspan.commands.children import Child, own_command, without_our_settings
from clearspan.commands.listening import bound, with_own_url
from clearspan.platform import clock, crypto, plugins
from clearspan.platform.processes import write_private
from clearspan.platform.runtime import (
    EmbeddedServers,
    OperatorError,
    Runtime,
    embeds_postgres,
    embeds_redis,
    prepare_data_dir,
    publish,
    published,
    require_schema,
    resolve,
    run_dir,
    withdraw,
)
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings

DEMO = "demo"
COMPANION_STOP_S = 5.0


def run(settings: Settings, config: Path | None) -> int:
    """Start everything, serve until told to stop, end everything.

    Raises:
        OperatorError, KeyProblem, PluginError, EmbeddedServerError, SchemaError: what has to be put right first.
    """
    began = clock.monotonic()
    configure_logging(settings.log.level, settings.log.format)
    # A shell starts background jobs with SIGINT ignored, which children would inherit: it is what ends them when we are killed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as ending:
            return _run(settings, config, began, ending)
    except KeyboardInterrupt:
        return 0  # Told to stop before it had started.


def _run(settings: Settings, config: Path | None, began: float, ending: ExitStack) -> int:
    prepare_data_dir(settings)
    other = published(settings.data_dir)
    if other is not None:
        raise OperatorError(
            f"Clearspan runs already in {settings.data_dir}: process {other.pid}, 'clearspan {other.command}'. Stop it first, or"
            " set data.dir to another directory."
        )
    # All ports first: nothing is made or started when one is taken.
    listener = ending.enter_context(bound(settings.server))
    settings = with_own_url(settings, listener)
    loaded = plugins.load(settings.plugins.enabled, safe_mode=settings.plugins.safe_mode)
    wanted = loaded.companions(settings.plugin, str(settings.data_dir)) if settings.sandbox.companions else []
    companions = [Child(one.name, one.argv, without_our_settings(), one.ready_url) for one in wanted]
    for child in companions:
        child.check_port()
    master = crypto.load_master_key(settings.master_key_path, create=True)
    servers = EmbeddedServers(settings, master, postgres=embeds_postgres(settings), redis=embeds_redis(settings))
    ending.callback(servers.stop)
    ending.callback(withdraw, settings, "up")
    for child in companions:
        ending.callback(child.kill)
        child.start()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(servers.start)
        # Meanwhile this process imports the gateway.
        import clearspan.commands.web  # noqa: F401
        from clearspan.commands.migrate import bring_up_to_date

        starting.result()
    runtime = resolve(settings, master, loaded, None, servers)
    if runtime.owner_url:
        bring_up_to_date(runtime)
    publish(runtime, "up")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Up(runtime, config, companions, listener, began).run())


class _Up:
    """The part that runs in the loop."""

    def __init__(
        self, runtime: Runtime, config: Path | None, companions: list[Child], listener: socket.socket, began: float
    ) -> None:
        from clearspan.app import Gateway
        from clearspan.commands.web import WebServer

        self._runtime = runtime
        self._settings = runtime.settings
        self._companions = companions
        self._listener = listener
        self._began = began
        self._server = WebServer(Gateway(runtime.settings, runtime.app_url, runtime.master, runtime.plugins))
        self._worker = Child(
            "worker",
            own_command(config, safe_mode=runtime.settings.plugins.safe_mode, command=["worker"]),
            os.environ | {"CLEARSPAN_SERVER_PUBLIC_URL": runtime.settings.server.public_url},
        )
        self._stopping = asyncio.Event()
        self._forced = False
        self._keepers: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Start, serve, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        working = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not self._server.started:
                working.cancel()  # Still starting: there is nothing to drain.
            (end,) = await asyncio.gather(working, return_exceptions=True)
            if isinstance(end, Exception):  # Not a cancellation, which is ours.
                raise end
        finally:
            stopped.cancel()
            # Each may still be at work for the one before it.
            await self._worker.stop(self._settings.server.drain_timeout_s)
            await asyncio.gather(*(child.stop(COMPANION_STOP_S) for child in self._companions))
        return 1 if self._forced else 0

    def _stop(self) -> None:
        """First signal: stop gracefully. Second: at once."""
        self._forced = self._stopping.is_set()
        self._stopping.set()
        self._server.stop()
        for keeper in self._keepers:
            keeper.cancel()  # What ends from now on stays so.
        if self._forced:
            for child in (self._worker, *self._companions):
                child.kill()
        else:
            _say("Stopping: requests and calls under way are finished first. Press Ctrl-C again to stop at once.")

    async def _work(self) -> None:
        await require_schema(self._runtime)
        self._worker.start()
        key, first_owner = await self._first_start()
        for child in self._companions:
            await child.ready()
        # Last, so that whoever finds the gateway ready finds everything ready.
        serving = asyncio.create_task(self._server.serve_on(self._listener))
        helpers: list[asyncio.Task[None]] = []
        try:
            while not (self._server.started or serving.done()):
                await clock.sleep(0.01)
            if self._server.started:
                publish(self._runtime, "up", self._settings.server.public_url)
                self._welcome(key, first_owner)
                self._keepers = [asyncio.create_task(child.keep()) for child in (self._worker, *self._companions)]
                helpers = [*self._keepers, asyncio.create_task(self._keep_servers())]
            # Until it is told to stop. A helper that ends is a bug, and ends everything.
            await asyncio.wait([serving, *helpers], return_when=asyncio.FIRST_COMPLETED)
            self._server.should_exit = True
            await serving
        finally:
            for helper in helpers:
                helper.cancel()
            ends = await asyncio.gather(*helpers, return_exceptions=True)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _keep_servers(self) -> None:
        servers = self._runtime.servers
        assert servers is not None
        while True:
            await clock.sleep(1)
            await asyncio.to_thread(servers.revive)

    async def _first_start(self) -> tuple[str, str]:
        """Make what is missing of the tenant ``demo``.

        Returns:
            its first key when it was made now, and the first owner's link while nobody can sign in.
        """
        from clearspan.access.keys import SCOPES
        from clearspan.commands.provision import add_test_accounts, by_command
        from clearspan.commands.start import gateway
        from clearspan.platform.problems import NotFound

        async with gateway(self._runtime) as opened:
            try:
                tenant = await opened.tenants.by_slug(DEMO)
            except NotFound:
                tenant = await opened.tenants.create(DEMO, "Demo shop")
            await add_test_accounts(opened, tenant)
            cockpit = any(routes.path == "/admin" for routes in self._runtime.plugins.routes)
            link = await opened.signing.first_owner_link() if cockpit else None
            caller = by_command(tenant, live=False)
            # No key at all, and not no tenant: a first start may have been interrupted between the two.
            if (await opened.api_keys.list(caller.scope, limit=1, cursor=None)).data:
                return "", link or ""
            _, secret = await opened.api_keys.create(caller, "first key", list(SCOPES))
            write_private(first_key_path(self._settings), secret + "\n")
            return secret, link or ""

    def _welcome(self, key: str, first_owner: str) -> None:
        url = self._settings.server.public_url
        kept = first_key_path(self._settings)
        if key:
            told = f"{key}\n{'':17}of tenant {DEMO}, shown this once; kept in {kept}"
        else:
            told = f"shown at the first start{f', kept in {kept}' if kept.exists() else ''}"
            told += f"\n{'':17}another: clearspan key create --tenant {DEMO}"
        lines = [f"Clearspan is ready after {clock.monotonic() - self._began:.1f} s.", ""]
        rows = [("API", url), ("Documentation", f"{url}/docs")]
        rows += [("Pages", url + routes.path) for routes in self._runtime.plugins.routes]
        if first_owner:
            rows.append(("First owner", f"{first_owner}\n{'':17}works once, for 24 hours; a new one at each start"))
        rows += [
            ("Test key", told),
            ("Data", str(self._settings.data_dir)),
            ("Try it", "clearspan demo"),
            ("Stop it", "Ctrl-C"),
        ]
        lines += [f"  {name:<15}{text}" for name, text in rows]
        _say("\n".join([*lines, ""]))


def first_key_path(settings: Settings) -> Path:
    """Where the first key is kept for ``clearspan demo``."""
    return run_dir(settings) / "first-key"


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
