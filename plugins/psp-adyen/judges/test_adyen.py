"""Adyen's Python library against the simulator, and Prism with Adyen's description against the adapter."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import Adyen
import pytest
from Adyen.exceptions import AdyenAPIUnprocessableEntity
from Adyen.util import is_valid_hmac_notification
from providers.judging import http

SPEC = "plugins/psp-adyen/tests/spec/CheckoutService-v72.subset.json"
HMAC_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
MERCHANT = "ClearspanECOM"
CARD = {"type": "scheme", "number": "4242424242424242", "expiryMonth": "03", "expiryYear": "2030", "cvc": "737"}
EUR = {"value": 1099, "currency": "EUR"}
SETTINGS = {"api_key": "adyen_test_api_key", "merchant_account": MERCHANT, "hmac_key": HMAC_KEY}


def client(url: str) -> Any:
    """Adyen's library, pointed at the simulator."""
    library = Adyen.Adyen()
    library.client.xapikey = "adyen_test_api_key"
    library.client.platform = "test"
    for api in ("payments_api", "modifications_api"):
        getattr(library.checkout, api).baseUrl = f"{url}/v72"
    return library.checkout


def payment(**fields: Any) -> dict[str, Any]:
    given = {"amount": EUR, "reference": "order-1", "paymentMethod": CARD, "returnUrl": "https://shop.example/"}
    return given | {"merchantAccount": MERCHANT} | fields


def test_the_library_pays_captures_refunds_and_cancels(simulator: Any) -> None:
    sim = simulator("psp-adyen")
    checkout = client(sim.url)
    held = checkout.payments_api.payments(
        payment(additionalData={"manualCapture": "true"}), idempotency_key="k1"
    ).message
    assert held["resultCode"] == "Authorised"
    again = checkout.payments_api.payments(
        payment(additionalData={"manualCapture": "true"}), idempotency_key="k1"
    ).message
    assert again["pspReference"] == held["pspReference"]
    ref = held["pspReference"]
    body = {"merchantAccount": MERCHANT, "amount": EUR, "reference": "change-1"}
    captured = checkout.modifications_api.capture_authorised_payment(body, ref).message
    assert (captured["status"], captured["paymentPspReference"]) == ("received", ref)
    refund = body | {"amount": EUR | {"value": 99}}
    assert checkout.modifications_api.refund_captured_payment(refund, ref).message["status"] == "received"
    other = checkout.payments_api.payments(
        payment(reference="order-2", additionalData={"manualCapture": "true"})
    ).message
    cancel = {"merchantAccount": MERCHANT}
    done = checkout.modifications_api.cancel_authorised_payment_by_psp_reference(cancel, other["pspReference"]).message
    assert done["status"] == "received"
    by_reference = {"merchantAccount": MERCHANT, "paymentReference": "order-2"}
    assert checkout.modifications_api.cancel_authorised_payment(by_reference).message["status"] == "received"
    book = {one["reference"]: one for one in sim.charges}
    assert (book["order-1"]["captured_minor"], book["order-1"]["refunded_minor"]) == (1099, 99)
    assert book["order-2"]["status"] == "canceled"
    assert sim.problems == []


def test_the_library_sees_refusals_and_errors(simulator: Any) -> None:
    checkout = client(simulator("psp-adyen").url)
    poor = payment(paymentMethod=CARD | {"number": "4000000000009995"})
    refused = checkout.payments_api.payments(poor).message
    assert (refused["resultCode"], refused["refusalReasonCode"]) == ("Refused", "12")
    with pytest.raises(AdyenAPIUnprocessableEntity):
        checkout.payments_api.payments(payment(paymentMethod=CARD | {"number": "1"}))


def test_the_library_follows_a_redirect(simulator: Any) -> None:
    checkout = client(simulator("psp-adyen").url)
    challenge = payment(
        paymentMethod=CARD | {"number": "4000002500003155"},
        authenticationData={"threeDSRequestData": {"nativeThreeDS": "disabled"}},
    )
    asked = checkout.payments_api.payments(challenge).message
    assert asked["resultCode"] == "RedirectShopper"
    token = asked["action"]["url"].rsplit("/", 1)[1]
    done = checkout.payments_api.payments_details({"details": {"redirectResult": f"{token}!approve"}}).message
    assert done["resultCode"] == "Authorised"


def test_the_library_believes_what_the_simulator_signs_and_nothing_changed(simulator: Any) -> None:
    sim = simulator("psp-adyen")
    checkout = client(sim.url)
    ref = checkout.payments_api.payments(payment(reference="a:b\\c/d")).message["pspReference"]
    checkout.modifications_api.refund_captured_payment({"merchantAccount": MERCHANT, "amount": EUR}, ref)
    sim.control("POST", "event", {"charge": ref, "event": "CHARGEBACK"})
    messages = [json.loads(one["body"]) for one in sim.webhooks]
    codes = [one["notificationItems"][0]["NotificationRequestItem"]["eventCode"] for one in messages]
    assert codes == ["AUTHORISATION", "REFUND", "CHARGEBACK"]
    for message in messages:
        assert is_valid_hmac_notification(message, HMAC_KEY)
        forged = copy.deepcopy(message)
        forged["notificationItems"][0]["NotificationRequestItem"]["amount"]["value"] += 1
        assert not is_valid_hmac_notification(forged, HMAC_KEY)


def test_the_adapter_at_the_simulator_ends_where_the_library_sees_it(simulator: Any, adapter: Any) -> None:
    sim = simulator("psp-adyen")
    charge = {
        "amount": {"amount_minor": 1099, "currency": "EUR"},
        "capture": False,
        "source": {"card": {"number": CARD["number"]}},
    }
    [done] = adapter("psp-adyen", SETTINGS | {"url": sim.url}, ("create_intent", charge))
    assert done["outcome"] == "approved"
    body = {"merchantAccount": MERCHANT, "amount": EUR}
    captured = client(sim.url).modifications_api.capture_authorised_payment(body, done["psp_ref"]).message
    assert captured["paymentPspReference"] == done["psp_ref"]
    message = {"headers": {}, "body": sim.webhooks[-1]["body"]}
    [read] = adapter("psp-adyen", SETTINGS | {"url": sim.url}, ("verify_webhook", message))
    news = read["events"][0]["news"]
    assert (news["kind"], news["charge_ref"], news["psp_ref"]) == ("capture", done["psp_ref"], captured["pspReference"])
    assert sim.problems == []


@contextlib.contextmanager
def onward(url: str) -> Iterator[tuple[str, list[tuple[str, dict[str, Any], int, Any]]]]:
    """A server that sends what it gets to Prism, which knows no ``/v72``, and keeps what Prism says."""
    seen: list[tuple[str, dict[str, Any], int, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/v72")
            headers = {name: self.headers[name] for name in ("X-API-Key", "Idempotency-Key") if name in self.headers}
            status, said = http("POST", url + path, body, headers)
            seen.append((path, body, status, said))
            answer = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prism_takes_every_request_of_the_adapter_and_none_that_is_broken(prism: Any, adapter: Any) -> None:
    url = prism(SPEC)
    money = {"amount_minor": 1099, "currency": "EUR"}
    base = {
        "amount": money,
        "source": {"card": {"number": CARD["number"]}},
        "customer": "cus_1",
        "metadata": {"order": "7"},
    }
    browser = {"ip_address": "198.51.100.7", "user_agent": "Mozilla/5.0", "accept_header": "text/html"}
    first = {"initiator": "customer", "purpose": "recurring", "first": True, "mandate": "m"}
    later = {
        "initiator": "merchant",
        "purpose": "unscheduled",
        "first": False,
        "mandate": "m",
        "network_transaction_id": "1234",
    }
    blob = json.dumps({"encryptedCardNumber": "a", "encryptedExpiryMonth": "b", "encryptedExpiryYear": "c"})
    calls = [
        ("create_intent", base),
        ("create_intent", base | {"capture": False, "browser": browser, "return_url": "https://shop.example/back"}),
        ("create_intent", base | {"credential": first, "browser": browser}),
        ("create_intent", base | {"credential": later, "customer_present": False}),
        ("create_intent", base | {"source": {"token": "8415718415172204", "stored": True}, "customer_present": False}),
        ("create_intent", base | {"source": {"token": blob}, "credential": first}),
        ("create_intent", base | {"amount": {"amount_minor": 0, "currency": "EUR"}, "capture": False}),
        ("continue_intent", {"amount": money, "psp_ref": "", "params": {"redirectResult": "X6XtfGC3!Y"}}),
        ("capture", {"amount": money, "charge_ref": "993617894903480A"}),
        ("cancel", {"amount": money, "charge_ref": "993617894903480A"}),
        ("cancel", {"amount": money, "charge_ref": "", "charge_operation_id": "op_1"}),
        ("refund", {"amount": money, "charge_ref": "993617894903480A"}),
        ("check_account", None),
    ]
    with onward(url) as (address, seen):
        adapter("psp-adyen", SETTINGS | {"url": address}, *calls)
    assert len(seen) == len(calls)
    assert [(path, status, said) for path, _, status, said in seen if status >= 300] == []
    key = {"X-API-Key": "k"}
    for path, body, _, _ in seen:
        for broken in (body | {"noSuchField": 1}, body | {"merchantAccount": {"no": "text"}}):
            assert http("POST", url + path, broken, key)[0] == 422, path
    for name in ("amount", "merchantAccount", "paymentMethod", "reference", "returnUrl"):
        without = {field: value for field, value in seen[0][1].items() if field != name}
        assert http("POST", url + "/payments", without, key)[0] == 422, name
    assert http("POST", url + "/payments", seen[0][1])[0] == 401
