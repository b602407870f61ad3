"""The simulator's process: ``python -m clearspan_psp_sandbox.simulator --port 8081 --data-dir DIR [--seed N]``.

=========================================  =====================================================================
``POST /v1/charges``                       authorise or purchase (``bank.ChargeIn``)
``POST /v1/charges/{id}/continue``         go on after the payer's challenge
``POST /v1/charges/{id}/captures``         ``bank.CaptureIn``
``POST /v1/charges/{id}/voids``            ``bank.VoidIn``
``POST /v1/charges/{id}/refunds``          ``bank.RefundIn``
``GET /v1/charges/{id}``                   the charge with its totals
``GET /v1/operations?reference=``          every operation with the merchant's reference; an empty list when unknown
``GET /v1/book``                           everything the account ever did, in its present state
``GET, POST /challenge/{id}``              the payer's page
``GET /health``                            200 once it listens
=========================================  =====================================================================

``Authorization: Bearer sk_sandbox_alpha`` or ``..._beta`` chooses the account; any other name opens one. An operation
(``bank.Operation``, without the fields that are empty) is answered with 200, a declined one with 402, a broken rule with 4xx and
``{"error": {"code", "message"}}``. ``Idempotency-Key``: the same key and request answer the same for 24 hours, errors included;
another request with the key gets 422, and while the first runs 409.

``build`` is the seam: what stands between the network and the simulated acquirer wraps the application it returns.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from clearspan_psp_sandbox.api import Api
from clearspan_psp_sandbox.book import Book


def build(data_dir: Path, seed: str, now: Callable[[], float] = time.time) -> Api:
    """The ASGI application over the book in ``data_dir``."""
    return Api(Book(data_dir), seed, now)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="clearspan_psp_sandbox.simulator", description="The sandbox PSP of Clearspan."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", default="", help="makes ids repeatable; default: a random one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
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
