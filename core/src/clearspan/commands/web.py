"""``clearspan web``: uvicorn around the application."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop

from clearspan.app import Gateway, create_app
from clearspan.commands.listening import bound, taken, with_own_url
from clearspan.commands.start import gateway, keep_clock, note_plugins
from clearspan.platform import memory
from clearspan.platform.runtime import Runtime, opened, publish, require_schema, withdraw
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings


def run(settings: Settings) -> int:
    """Serve until told to stop.

    Raises:
        OperatorError: the port is in use, or the database is away or not at this release.
    """
    configure_logging(settings.log.level, settings.log.format)
    with bound(settings.server) as listener, opened(settings) as runtime:
        settings = with_own_url(runtime.settings, listener)
        if runtime.servers is not None:
            publish(runtime, "web", settings.server.public_url)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(runtime, settings, listener))
        finally:
            withdraw(settings, "web")
    return 0


async def _serve(runtime: Runtime, settings: Settings, listener: socket.socket) -> None:
    await require_schema(runtime)
    async with gateway(runtime) as made:  # It connects, and the master key fits: better now than in a log.
        await note_plugins(made, "web")
    server = WebServer(Gateway(settings, runtime.app_url, runtime.master, runtime.plugins, runtime.redis_url))
    memory.settle()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve_on(listener)


class WebServer(uvicorn.Server):
    """Uvicorn with the gateway's own stop: streams end first, then requests, then calls to PSPs, then connections."""

    def __init__(self, made: Gateway) -> None:
        self._gateway = made
        server = made.settings.server
        super().__init__(
            uvicorn.Config(
                create_app(made),
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,  # The gate writes one line per request.
                server_header=False,
                proxy_headers=bool(server.trusted_proxies),
                forwarded_allow_ips=list(server.trusted_proxies),
                timeout_graceful_shutdown=server.drain_timeout_s,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the caller's."""
        yield

    def stop(self) -> None:
        """Stop gracefully; called again, stop at once."""
        self.force_exit = self.should_exit
        if self.force_exit:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # It would show what was cut off as faults.
        self.should_exit = True

    async def serve_on(self, listener: socket.socket) -> None:
        """Serve until ``stop``.

        Raises:
            OperatorError: another program began to listen on the port meanwhile.
        """
        clock_keeper = asyncio.create_task(keep_clock(self._gateway))
        try:
            await self.serve([listener])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise taken(self._gateway.settings.server) from error
        finally:
            clock_keeper.cancel()
            await asyncio.gather(clock_keeper, return_exceptions=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See ``uvicorn.Server``; it waits for open answers, so the endless ones are ended first."""
        await self._gateway.feed.stop()
        await super().shutdown(sockets)
