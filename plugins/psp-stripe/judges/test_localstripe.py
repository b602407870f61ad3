"""localstripe, somebody else's Stripe: the adapter's plain path must work there too.

It knows no keys, no return address and no limits of refunds, so it judges no rule about money. By itself it listens on every
address of the machine; started by the launcher below it listens on 127.0.0.1.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from providers.judging import Process, free_port, http

LAUNCHER = """
import socket, sys, types
from localstripe import server

class Loopback(socket.socket):
    def __init__(self, family, kind):
        super().__init__(socket.AF_INET, kind)
    def bind(self, address):
        super().bind(("127.0.0.1", address[1]))
    def listen(self, backlog=128):
        super().listen(backlog)

server.socket = types.SimpleNamespace(**{**vars(socket), "socket": Loopback})
server.start()
"""


@pytest.fixture
def localstripe() -> Iterator[str]:
    """Its address."""
    port = free_port()
    argv = [sys.executable, "-c", LAUNCHER, "--port", str(port), "--from-scratch"]
    process = Process(argv, "Running on", os.environ | {"PYTHONUNBUFFERED": "1"})
    yield f"http://127.0.0.1:{port}"
    process.stop()


@pytest.fixture
def inbox() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], str]]]]:
    """Where messages may be sent, and what came."""
    got: queue.Queue[tuple[dict[str, str], str]] = queue.Queue()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            got.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    server.server_close()


def test_the_adapters_plain_path_works_at_somebody_elses_stripe(localstripe: str, adapter: Any) -> None:
    # Without the payer: localstripe knows neither return_url nor error_on_requires_action. It does not tell what was held or
    # received, so the amounts of charges are not judged, and it takes no metadata with a capture, so there is none.
    config = {"api_key": "sk_test_12345", "url": localstripe}
    charge = {"amount": {"amount_minor": 1099, "currency": "EUR"}, "customer_present": False}
    card = {"number": "4000000000000341", "exp_month": "12", "exp_year": "2030", "cvc": "123"}
    headers = {"Authorization": "Bearer sk_test_12345"}
    _, made = http("POST", f"{localstripe}/v1/payment_methods", {"type": "card", "card": card}, headers)
    good, bad = {"source": {"token": "pm_card_visa"}}, {"source": {"token": made["id"]}}
    held, paid, refused = adapter(
        "psp-stripe",
        config,
        ("create_intent", charge | good | {"operation_id": "op_1", "key": "k1", "capture": False}),
        ("create_intent", charge | good | {"operation_id": "op_2", "key": "k2"}),
        ("create_intent", charge | bad | {"operation_id": "op_3", "key": "k3"}),
    )
    assert [one.get("outcome") for one in (held, paid, refused)] == ["approved", "approved", "declined"], (
        held,
        paid,
        refused,
    )
    voided, refunded = adapter(
        "psp-stripe",
        config,
        ("cancel", {"operation_id": "op_4", "key": "k4", "amount": charge["amount"], "charge_ref": held["psp_ref"]}),
        ("refund", {"operation_id": "op_5", "key": "k5", "amount": charge["amount"], "charge_ref": paid["psp_ref"]}),
    )
    assert [one.get("outcome") for one in (voided, refunded)] == ["approved", "approved"], (voided, refunded)
    assert [one["amount"]["amount_minor"] for one in (voided, refunded)] == [1099, 1099]


def test_the_adapter_believes_what_localstripe_signs(localstripe: str, adapter: Any, inbox: Any) -> None:
    url, got = inbox
    http("POST", f"{localstripe}/_config/webhooks/ours", {"url": url, "secret": "whsec_somebody"})
    config = {"api_key": "sk_test_12345", "url": localstripe, "webhook_secret": "whsec_somebody"}
    charge = {"amount": {"amount_minor": 1099, "currency": "EUR"}, "customer_present": False, "operation_id": "op_1"}
    adapter("psp-stripe", config, ("create_intent", charge | {"source": {"token": "pm_card_visa"}}))
    told = []
    while not told or told[-1]["type"] != "payment_intent.succeeded":
        headers, body = got.get(timeout=20)
        (answer,) = adapter("psp-stripe", config, ("verify_webhook", {"headers": headers, "body": body}))
        told += answer["events"]
    # Its events are of version 2017-08-15, so the adapter takes no more from them than what to look up.
    news = told[-1]["news"]
    assert (news["type"], news["kind"], news["reference"]) == ("hint", "charge", "op_1")
    (wrong,) = adapter(
        "psp-stripe", config | {"webhook_secret": "whsec_x"}, ("verify_webhook", {"headers": headers, "body": body})
    )
    assert wrong["raised"] == "WebhookRejected"
