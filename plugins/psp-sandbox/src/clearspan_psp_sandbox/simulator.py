"""The simulator's process: ``python -m clearspan_psp_sandbox.simulator --port 8081 --data-dir DIR [--seed N]``.

=========================================  =====================================================================
``POST /v1/charges``                       authorise or purchase (``bank.ChargeIn``)
``POST /v1/charges/{id}/continue``         go on after the payer's challenge
``POST /v1/charges/{id}/captures``         ``bank.CaptureIn``
``POST /v1/charges/{id}/voids``            ``bank.VoidIn``
``POST /v1/charges/{id}/refunds``          ``bank.RefundIn``
``GET /v1/charges/{id}``                   the charge with its totals
``GET /v1/operations?reference=``          every operation with the merchant's reference; an empty list when unknown
``GET /v1/activity?since=&until=``         what was made or changed in a span of time, oldest first (seconds since 1970)
``GET /v1/book``                           everything the account ever did, and its disputes, in the present state
``GET, PUT /v1/faults``                    what goes wrong by chance (``faults.Rates``)
``POST /v1/faults/scripts``                what goes wrong next (``faults.Script``)
``GET, POST /v1/clock``                    the simulator's time, and ``{"advance_s": 3600}``
``GET, PUT /v1/webhooks``                  every message with its attempts; where they go (``webhooks.Endpoint``)
``POST /v1/webhooks/send``                 send messages again (``webhooks.Sending``)
``POST /v1/events``                        disputes and other things that no request asked for (``desk.Event``)
``GET, POST /challenge/{id}``              the payer's page
``GET /health``                            200 once it listens
=========================================  =====================================================================

``Authorization: Bearer sk_sandbox_alpha`` or ``..._beta`` chooses the account; any other name opens one. An operation
(``bank.Operation``, without the fields that are empty) is answered with 200, a declined one with 402, a broken rule with 4xx and
``{"error": {"code", "message"}}``. ``Idempotency-Key``: the same key and request answer the same for 24 hours, errors included;
another request with the key gets 422, and while the first runs 409. Lists come in pages: ``next`` is the next one's ``cursor``.
Everything an account sets concerns that account only, except the clock, which is everybody's.

``build`` and ``build_in_memory`` give the application itself, which takes no time, sleep or network but what it is given. In
process an answer that never comes is ``faults.Cut``. Over plain HTTP neither TLS nor DNS can fail: ``--tls-port`` opens a second
listener that breaks every TLS handshake; for DNS configure a name that does not resolve.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx
import uvicorn

from clearspan_psp_sandbox.api import Api
from clearspan_psp_sandbox.book import Book, MemoryBook
from clearspan_psp_sandbox.clock import Clock, Sleep
from clearspan_psp_sandbox.webhooks import Deliver

_DELIVERY_S = 10.0


def build(
    data_dir: Path,
    seed: str,
    now: Callable[[], float] = time.time,
    sleep: Sleep = asyncio.sleep,
    deliver: Deliver | None = None,
) -> Api:
    """The ASGI application over the book in ``data_dir``.

    Args:
        seed: ids are a function of it.
        now: seconds since 1970.
        deliver: sends a message; by default with HTTP.
    """
    return Api(Book(data_dir), seed, Clock(now, sleep), deliver or _post)


def build_in_memory(
    seed: str, *, now: Callable[[], float], sleep: Sleep, deliver: Deliver, book: MemoryBook | None = None
) -> Api:
    """The same without file, thread, clock or network of its own: from one seed and the same requests, always the same.

    Args:
        book: of a simulator before this one, whose work goes on.
    """
    return Api(book or MemoryBook(), seed, Clock(now, sleep), deliver)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def _post(url: str, headers: dict[str, str], body: bytes) -> int:
    try:
        async with httpx.AsyncClient(timeout=_DELIVERY_S, trust_env=False, verify=_tls()) as http:
            return (await http.post(url, headers=headers, content=body)).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0


def _break_handshakes(host: str, port: int) -> None:
    """Listen, and close every connection at its first bytes."""
    listener = socket.create_server((host, port))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    connection.recv(1)

    threading.Thread(target=serve, name="broken-tls", daemon=True).start()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="clearspan_psp_sandbox.simulator", description="The sandbox PSP of Clearspan."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", default="", help="makes ids repeatable; default: a random one")
    parser.add_argument("--tls-port", type=int, help="a second listener, which breaks every TLS handshake")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.tls_port is not None:
        _break_handshakes(options.host, options.tls_port)
    uvicorn.run(
        build(options.data_dir, options.seed or secrets.token_hex(16)),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # longer than any client keeps a connection
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
