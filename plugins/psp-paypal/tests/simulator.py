"""PayPal as its descriptions and pages say, in a process of its own: ``python simulator.py --port N``.

Orders, authorisations, captures, refunds, the approval page and the signing certificate, with a book of its own. Every request
and every answer is checked against ``spec/``; what does not fit stands in ``/_control/problems``. It obeys these card numbers:
4000000000009995 (5120), 4000000000000002 (5100), 4000002500003155 (3-D Secure), others are approved; of PayPal's vault the ids
``declined`` (422 INSTRUMENT_DECLINED) and ``pending``; others are approved.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from zlib import crc32

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

sys.path.insert(0, str(Path(__file__).parent))
import described

from clearspan.sdk import from_decimal

PROCESSOR = {"4000000000009995": "5120", "4000000000000002": "5100"}
CHALLENGED = "4000002500003155"
WEBHOOK_ID = "4JH86294D6297924G"
NO_DECIMALS = {"HUF", "JPY", "TWD"}
HANG_S = 60
CERTIFICATE = "/v1/notifications/certs/CERT-simulator"


ERRORS = {
    400: ("INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    404: ("RESOURCE_NOT_FOUND", "The specified resource does not exist."),
    422: (
        "UNPROCESSABLE_ENTITY",
        "The requested action could not be performed, semantically incorrect, or failed business validation.",
    ),
}


class Refused(Exception):
    """An error of PayPal's."""

    def __init__(self, status: int, issue: str, field: str | None = None) -> None:
        super().__init__(issue)
        self.status, self.issue, self.field = status, issue, field

    def body(self, path: str) -> dict[str, Any]:
        """As described for that path."""
        name, message = ERRORS[self.status]
        orders = "/checkout/" in path
        words = described.words(described.PAYMENTS[not orders], path.rsplit("/", 1)[-1])
        detail = {"issue": self.issue, "description": words.get(self.issue, self.issue)}
        if self.field is not None and not (orders and self.status == 422):  # which describes no field
            detail["field"] = self.field
        return {"name": name, "message": message, "debug_id": "90957fca61718", "details": [detail]}


class Signer:
    """A root, an intermediate and a certificate for PayPal's signing name."""

    def __init__(self, now: datetime | None = None) -> None:
        now = now or datetime.now(UTC)
        root_key, middle_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        root = certificate("Test Root", root_key.public_key(), "Test Root", root_key, now, authority=True)
        middle = certificate("Test Middle", middle_key.public_key(), "Test Root", root_key, now, authority=True)
        name = "messageverificationcerts.sandbox.paypal.com"
        leaf = certificate(name, self.key.public_key(), "Test Middle", middle_key, now)
        self.roots = root.public_bytes(Encoding.PEM)
        self.chain = leaf.public_bytes(Encoding.PEM) + middle.public_bytes(Encoding.PEM)

    def sign(self, text: str) -> str:
        return base64.b64encode(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()


def certificate(
    name: str, key: Any, issuer: str, issuer_key: Any, now: datetime, *, authority: bool = False, days: int = 30
) -> x509.Certificate:
    """One valid from yesterday on."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_usage(authority), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


class PayPalBook:
    """What this PayPal knows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.signer = Signer()
        self.webhook_id = WEBHOOK_ID
        self.orders: dict[str, dict[str, Any]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.keys: dict[tuple[str, str], tuple[str, Any]] = {}
        self.tokens: set[str] = set()
        self.webhooks: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.fault: str | None = None
        self.count = 0

    # -- orders ---------------------------------------------------------------------------------------------------

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        unit = body["purchase_units"][0]
        self.amount(unit["amount"])
        source = body.get("payment_source", {})
        order_id = self.new_id("ORDER")
        order = {
            "id": order_id,
            "intent": body["intent"],
            "status": "CREATED",
            "purchase_units": [{"reference_id": "default", **unit}],
            "create_time": self.time(),
        }
        order["links"] = [self.link("self", f"/v2/checkout/orders/{order_id}", "GET")]
        self.cards[order_id] = source
        card, wallet = source.get("card"), source.get("paypal")
        if card is not None:
            agreement = card.get("stored_credential", {})
            merchant = agreement.get("payment_initiator") == "MERCHANT"
            if merchant and "security_code" in card:
                raise Refused(422, "MERCHANT_INITIATED_WITH_SECURITY_CODE", "/payment_source/card/security_code")
            if not merchant and "previous_network_transaction_reference" in agreement:
                raise Refused(422, "INCOMPATIBLE_PARAMETER_VALUE", "/payment_source/card/stored_credential")
            if card.get("expiry", "9999-12") < datetime.now(UTC).strftime("%Y-%m"):
                raise Refused(422, "CARD_EXPIRED", "/payment_source/card/expiry")
            order["payment_source"] = {"card": {"last_digits": card.get("number", "1111")[-4:], "brand": "VISA"}}
            if card.get("number") == CHALLENGED and not merchant:
                order["status"] = "PAYER_ACTION_REQUIRED"
                order["links"].append(self.link("payer-action", f"/checkoutnow?token={order_id}", "GET"))
            else:
                self.pay(order)
        elif wallet is not None and "vault_id" in wallet:
            if wallet["vault_id"] == "declined":
                raise Refused(422, "INSTRUMENT_DECLINED", "/payment_source/paypal")
            order["payment_source"] = {"paypal": {"account_id": "QYR5Z8XDVJNXQ", "email_address": "payer@example.com"}}
            self.pay(order)
        elif wallet is not None:
            if "return_url" not in wallet.get("experience_context", {}):
                raise Refused(422, "RETURN_URL_REQUIRED", "/payment_source/paypal/experience_context/return_url")
            order["payment_source"] = {"paypal": {}}
            order["status"] = "PAYER_ACTION_REQUIRED"
            order["links"].append(self.link("payer-action", f"/checkoutnow?token={order_id}", "GET"))
        self.orders[order_id] = order
        return order

    def pay(self, order: dict[str, Any]) -> None:
        """Capture or authorise the whole order."""
        unit, source = order["purchase_units"][0], self.cards[order["id"]]
        refused = PROCESSOR.get(source.get("card", {}).get("number", ""))
        pending = source.get("paypal", {}).get("vault_id") == "pending"
        if order["intent"] == "CAPTURE":
            status = "DECLINED" if refused else "PENDING" if pending else "COMPLETED"
            made = self.payment("captures", unit, unit["amount"], status, {"order_id": order["id"]})
            made["final_capture"] = True
        else:
            made = self.payment(
                "authorizations", unit, unit["amount"], "DENIED" if refused else "CREATED", {"order_id": order["id"]}
            )
        if refused:
            made["processor_response"] = {"response_code": refused, "avs_code": "A", "cvv_code": "M"}
        elif pending:
            made["status_details"] = {"reason": "PENDING_REVIEW"}
        if source.get("card") is not None and not refused:
            made["network_transaction_reference"] = {"id": f"NT{made['id']}", "network": "VISA"}
        order["status"] = "COMPLETED"
        instruction = source.get("paypal", {}).get("attributes", {}).get("vault")
        if instruction is not None:
            customer = {"id": "customer_4029352050"}
            stored = {"id": f"8kk{len(self.orders):05}", "status": "VAULTED", "customer": customer}
            order["payment_source"]["paypal"]["attributes"] = {"vault": stored}
        resource = made | {"supplementary_data": {"related_ids": {"order_id": order["id"]}}}
        word = {"COMPLETED": "COMPLETED", "DECLINED": "DENIED", "PENDING": "PENDING"}.get(made["status"], "CREATED")
        if not (refused and order["intent"] == "AUTHORIZE"):
            self.tell(f"PAYMENT.{'CAPTURE' if order['intent'] == 'CAPTURE' else 'AUTHORIZATION'}.{word}", resource)

    def payment(
        self, kind: str, unit: dict[str, Any], amount: dict[str, Any], status: str, related: dict[str, str]
    ) -> dict[str, Any]:
        """Add an authorisation, capture or refund to an order's unit."""
        made: dict[str, Any] = {"id": self.new_id(kind), "status": status}
        made |= {"amount": {name: amount[name] for name in ("currency_code", "value")}}
        made |= {name: unit[name] for name in ("custom_id", "invoice_id") if name in unit}
        made |= {"create_time": self.time(), "update_time": self.time()}
        if kind == "captures" and status == "COMPLETED":
            minor = self.amount(amount)
            fee = {"currency_code": amount["currency_code"], "value": self.text(minor * 3 // 100, amount)}
            made["seller_receivable_breakdown"] = {"gross_amount": made["amount"], "paypal_fee": fee}
        if kind == "authorizations":
            made["expiration_time"] = self.time(days=29)
        made["links"] = [self.link("self", f"/v2/payments/{kind}/{made['id']}", "GET")]
        unit.setdefault("payments", {}).setdefault(kind, []).append(made)
        del related
        return made

    def finish(self, order_id: str, verb: str) -> dict[str, Any]:
        order = self.order(order_id)
        if (order["intent"] == "CAPTURE") != (verb == "capture"):
            raise Refused(422, "ACTION_DOES_NOT_MATCH_INTENT")
        if order["purchase_units"][0].get("payments"):
            raise Refused(422, "ORDER_ALREADY_CAPTURED" if verb == "capture" else "ORDER_ALREADY_AUTHORIZED")
        if order["status"] == "PAYER_ACTION_REQUIRED":
            raise Refused(422, "PAYER_ACTION_REQUIRED" if "card" in order["payment_source"] else "ORDER_NOT_APPROVED")
        if order["status"] != "APPROVED":
            raise Refused(422, "ORDER_NOT_APPROVED")
        self.pay(order)
        return order

    def act(self, order_id: str, outcome: str) -> str:
        """The payer on his page; where he is sent then."""
        order, source = self.orders[order_id], self.cards[order_id]
        where = next(iter(source.values()))["experience_context"]
        if "card" in source:
            good = outcome == "approve"
            order["payment_source"]["card"]["authentication_result"] = {
                "liability_shift": "POSSIBLE" if good else "NO",
                "three_d_secure": {"authentication_status": "Y" if good else "N", "enrollment_status": "Y"},
            }
            if good:
                order["status"] = "APPROVED"
            return joined(where["return_url"], token=order_id)
        if outcome != "approve":
            return joined(where["cancel_url"], token=order_id)
        if order["status"] == "PAYER_ACTION_REQUIRED":
            order["status"] = "APPROVED"
            order["links"] = [one for one in order["links"] if one["rel"] == "self"]
            order["payer"] = {"email_address": "payer@example.com", "payer_id": "QYR5Z8XDVJNXQ"}
            self.tell("CHECKOUT.ORDER.APPROVED", order)
        return joined(where["return_url"], token=order_id, PayerID="QYR5Z8XDVJNXQ")

    # -- authorisations, captures, refunds ------------------------------------------------------------------------

    def capture(self, held_id: str, body: dict[str, Any]) -> dict[str, Any]:
        order, held = self.find("authorizations", held_id)
        unit = order["purchase_units"][0]
        if held["status"] == "VOIDED":
            raise Refused(422, "AUTHORIZATION_VOIDED")
        if held["status"] not in ("CREATED", "PARTIALLY_CAPTURED"):
            raise Refused(422, "AUTHORIZATION_ALREADY_CAPTURED")
        amount = body.get("amount", held["amount"])
        taken = sum(self.amount(one["amount"]) for one in unit["payments"].get("captures", ()))
        if taken + self.amount(amount) > self.amount(held["amount"]) * 115 // 100:
            raise Refused(422, "MAX_CAPTURE_AMOUNT_EXCEEDED", "/amount")
        invoice = body.get("invoice_id", unit.get("invoice_id"))
        if any(one.get("invoice_id") == invoice for one in unit["payments"].get("captures", ())):
            raise Refused(422, "DUPLICATE_INVOICE_ID", "/invoice_id")
        made = self.payment("captures", unit | {"invoice_id": invoice}, amount, "COMPLETED", {})
        made["final_capture"] = body.get("final_capture", False)
        made["links"].append(self.link("up", f"/v2/payments/authorizations/{held_id}", "GET"))
        whole = made["final_capture"] or taken + self.amount(amount) >= self.amount(held["amount"])
        held["status"] = "CAPTURED" if whole else "PARTIALLY_CAPTURED"
        related = {"order_id": order["id"], "authorization_id": held_id}
        self.tell("PAYMENT.CAPTURE.COMPLETED", made | {"supplementary_data": {"related_ids": related}})
        return made

    def void(self, held_id: str) -> dict[str, Any]:
        order, held = self.find("authorizations", held_id)
        if held["status"] == "VOIDED":
            raise Refused(422, "PREVIOUSLY_VOIDED")
        if held["status"] == "CAPTURED":
            raise Refused(422, "PREVIOUSLY_CAPTURED")
        held["status"] = "VOIDED"
        related = {"order_id": order["id"]}
        self.tell("PAYMENT.AUTHORIZATION.VOIDED", held | {"supplementary_data": {"related_ids": related}})
        return held

    def refund(self, capture_id: str, body: dict[str, Any]) -> dict[str, Any]:
        order, capture = self.find("captures", capture_id)
        unit, amount = order["purchase_units"][0], body.get("amount", capture["amount"])
        up = f"/v2/payments/captures/{capture_id}"
        before = [
            one
            for one in unit["payments"].get("refunds", ())
            if any(link["href"].endswith(up) for link in one["links"])
        ]
        if capture["status"] == "PENDING":
            raise Refused(422, "PENDING_CAPTURE")
        if capture["status"] == "REFUNDED":
            raise Refused(422, "CAPTURE_FULLY_REFUNDED")
        if any(one.get("invoice_id") == body.get("invoice_id", "") for one in before):
            raise Refused(422, "DUPLICATE_INVOICE_ID", "/invoice_id")
        back = sum(self.amount(one["amount"]) for one in before) + self.amount(amount)
        if back > self.amount(capture["amount"]):
            raise Refused(422, "REFUND_AMOUNT_EXCEEDED", "/amount/value")
        ids = {name: body[name] for name in ("custom_id", "invoice_id") if name in body}
        bare = {"payments": unit["payments"]} | ids
        made = self.payment("refunds", bare, amount, "COMPLETED", {})
        made["links"].append(self.link("up", up, "GET"))
        if "note_to_payer" in body:
            made["note_to_payer"] = body["note_to_payer"]
        capture["status"] = "REFUNDED" if back == self.amount(capture["amount"]) else "PARTIALLY_REFUNDED"
        self.tell("PAYMENT.CAPTURE.REFUNDED", made)
        return made

    # -- what all need --------------------------------------------------------------------------------------------

    def order(self, order_id: str) -> dict[str, Any]:
        if order_id not in self.orders:
            raise Refused(404, "INVALID_RESOURCE_ID")
        return self.orders[order_id]

    def find(self, kind: str, wanted: str) -> tuple[dict[str, Any], dict[str, Any]]:
        for order in self.orders.values():
            for one in order["purchase_units"][0].get("payments", {}).get(kind, ()):
                if one["id"] == wanted:
                    return order, one
        raise Refused(404, "INVALID_RESOURCE_ID")

    def amount(self, money: dict[str, str]) -> int:
        """In the gateway's minor units."""
        text, currency = money["value"], money["currency_code"]
        if currency in NO_DECIMALS and "." in text:
            raise Refused(422, "DECIMALS_NOT_SUPPORTED", "/amount/value")
        if "." in text and len(text.split(".")[1]) > 2:
            raise Refused(422, "DECIMAL_PRECISION", "/amount/value")
        minor = from_decimal(text, currency).amount_minor
        if minor <= 0:
            raise Refused(422, "CANNOT_BE_ZERO_OR_NEGATIVE", "/amount/value")
        return minor

    def text(self, minor: int, money: dict[str, str]) -> str:
        whole = from_decimal("1", money["currency_code"]).amount_minor
        if money["currency_code"] in NO_DECIMALS:
            return str(minor // whole)
        return f"{minor // whole}.{minor % whole:02}"

    def new_id(self, kind: str) -> str:
        self.count += 1
        return hashlib.sha256(f"{kind} {self.count}".encode()).hexdigest()[:17].upper()

    def time(self, days: int = 0) -> str:
        return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def link(self, rel: str, path: str, method: str) -> dict[str, str]:
        return {"rel": rel, "href": self.url + path, "method": method}

    def tell(self, kind: str, resource: dict[str, Any]) -> None:
        """Sign a message."""
        number = len(self.webhooks) + 1
        event = {
            "id": f"WH-{number:09}",
            "event_version": "1.0",
            "create_time": self.time(),
            "resource_type": kind.split(".")[1].lower(),
            "event_type": kind,
            "summary": kind,
            "resource": resource,
        }
        body = json.dumps(event)
        transmission, at = f"69cd13f0-{number:04}", self.time()
        signed = f"{transmission}|{at}|{self.webhook_id}|{crc32(body.encode())}"
        headers = {
            "content-type": "application/json",
            "paypal-transmission-id": transmission,
            "paypal-transmission-time": at,
            "paypal-transmission-sig": self.signer.sign(signed),
            "paypal-cert-url": self.url + CERTIFICATE,
            "paypal-auth-algo": "SHA256withRSA",
        }
        self.webhooks.append({"headers": headers, "body": body})

    def charges(self) -> list[dict[str, Any]]:
        return [self.charge(order) for order in self.orders.values()]

    def charge(self, order: dict[str, Any]) -> dict[str, Any]:
        unit = order["purchase_units"][0]
        payments = unit.get("payments", {})
        good = ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED")
        taken = sum(self.amount(one["amount"]) for one in payments.get("captures", ()) if one["status"] in good)
        held = [one["status"] for one in payments.get("authorizations", ())]
        statuses = held + [one["status"] for one in payments.get("captures", ())]
        if taken:
            status = "captured"
        elif "VOIDED" in held:
            status = "canceled"
        elif "CREATED" in held:
            status = "authorized"
        else:
            status = "declined" if {"DECLINED", "DENIED"} & set(statuses) else "pending"
        return {
            "id": order["id"],
            "reference": unit.get("custom_id"),
            "amount_minor": self.amount(unit["amount"]),
            "currency": unit["amount"]["currency_code"],
            "status": status,
            "captured_minor": taken,
            "refunded_minor": sum(self.amount(one["amount"]) for one in payments.get("refunds", ())),
        }


def joined(url: str, **query: str) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}"


Reply = tuple[int, Any]


class Simulator:
    """The ASGI application."""

    def __init__(self, url: str) -> None:
        self.book = PayPalBook(url)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        if path.startswith("/_control/"):
            await reply(send, *self.control(method, path.removeprefix("/_control/"), body))
            return
        if path == CERTIFICATE:
            await reply(send, 200, self.book.signer.chain, "text/plain")
            return
        if path == "/checkoutnow":
            await self.page(send, query)
            return
        moves = self.moves(method, path, body)
        fault, self.book.fault = (self.book.fault, None) if moves else (None, self.book.fault)
        if fault and fault.endswith("_before"):
            answer: Reply = (0, None)
        else:
            answer = self.answer(method, path, headers, body)
        if fault and fault.startswith("hang"):
            await hang(receive)
            return
        if fault and fault.startswith("error"):
            answer = (500, {"name": "INTERNAL_SERVER_ERROR", "message": "An error occurred", "debug_id": "1"})
        if fault and fault.startswith("garbage"):
            await reply(send, 200, b"<html><body>Sorry</body></html>", "text/html")
            return
        await reply(send, *answer)

    def moves(self, method: str, path: str, body: bytes) -> bool:
        """Whether a request would move money."""
        if method != "POST" or not path.startswith("/v2/"):
            return False
        if path != "/v2/checkout/orders":
            return True
        source = json.loads(body or b"{}").get("payment_source", {})
        return "card" in source or "vault_id" in source.get("paypal", {})

    def answer(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        if path == "/v1/oauth2/token":
            return self.token(headers, raw)
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.book.tokens:
            return 401, {"error": "invalid_token", "error_description": "Token signature verification failed"}
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return 400, Refused(400, "MALFORMED_REQUEST_JSON").body(path)
        faults = described.DESCRIPTION.request_errors(method, path, headers, raw)
        if faults:
            self.book.problems += [f"{method} {path}: {fault}" for fault in faults]
            return 400, Refused(400, "INVALID_PARAMETER_SYNTAX", faults[0].split(":")[0]).body(path)
        key = headers.get("paypal-request-id", "")
        try:
            status, found = self.once(method, path, body or {}, key)
        except Refused as refused:
            status, found = refused.status, refused.body(path)
        wrong = described.DESCRIPTION.response_errors(method, path, status, found)
        self.book.problems += [f"answer {method} {path} {status}: {fault}" for fault in wrong]
        minimal = headers.get("prefer") != "return=representation" and method == "POST" and status < 300
        return status, minimal_of(found) if minimal else found

    def once(self, method: str, path: str, body: dict[str, Any], key: str) -> Reply:
        """A key that is known is answered with what its request made, as that stands now."""
        if method != "POST":
            return self.route(method, path, body)
        if key and (path, key) in self.book.keys:
            kind, wanted = self.book.keys[path, key]
            found = self.book.order(wanted) if kind == "orders" else self.book.find(kind, wanted)[1]
            return 200 if kind == "orders" else 201, found
        if path == "/v2/checkout/orders" and body.get("payment_source") and not key:
            raise Refused(400, "PAYPAL_REQUEST_ID_REQUIRED", "PayPal-Request-Id")
        status, found = self.route(method, path, body)
        if key and isinstance(found, dict):
            kind = "orders" if path.startswith("/v2/checkout") else "refunds" if path.endswith("refund") else "captures"
            if not path.endswith("/void"):
                self.book.keys[path, key] = (kind, found["id"])
        return status, found

    def route(self, method: str, path: str, body: dict[str, Any]) -> Reply:
        book, parts = self.book, path.strip("/").split("/")
        match (method, *parts):
            case ("POST", "v2", "checkout", "orders"):
                return 201, book.create(body)
            case ("GET", "v2", "checkout", "orders", order_id):
                return 200, book.order(order_id)
            case ("POST", "v2", "checkout", "orders", order_id, ("capture" | "authorize") as verb):
                return 201, book.finish(order_id, verb)
            case ("POST", "v2", "payments", "authorizations", held_id, "capture"):
                return 201, book.capture(held_id, body)
            case ("POST", "v2", "payments", "authorizations", held_id, "void"):
                return 200, book.void(held_id)
            case ("POST", "v2", "payments", "captures", capture_id, "refund"):
                return 201, book.refund(capture_id, body)
            case ("GET", "v2", "payments", ("authorizations" | "captures" | "refunds") as kind, wanted):
                return 200, book.find(kind, wanted)[1]
            case ("GET", "v1", "notifications", "webhooks", webhook_id):
                if webhook_id != book.webhook_id:
                    return 404, {"name": "INVALID_RESOURCE_ID", "message": "Resource not found", "debug_id": "1"}
                return 200, {"id": webhook_id, "url": "https://gateway.example/webhooks/1", "event_types": []}
        raise Refused(404, "INVALID_RESOURCE_ID")

    def token(self, headers: dict[str, str], raw: bytes) -> Reply:
        scheme, _, basic = headers.get("authorization", "").partition(" ")
        client, _, secret = base64.b64decode(basic).decode().partition(":")
        if scheme != "Basic" or not client or not secret or "wrong" in secret:
            return 401, {"error": "invalid_client", "error_description": "Client Authentication failed"}
        if parse_qs(raw.decode()) != {"grant_type": ["client_credentials"]}:
            self.book.problems.append("oauth2/token: not a client credentials grant")
            return 400, {"error": "unsupported_grant_type", "error_description": "unsupported grant_type"}
        token = f"A21AA{len(self.book.tokens):012}"
        self.book.tokens.add(token)
        return 200, {
            "scope": "https://uri.paypal.com/services/payments/payment",
            "access_token": token,
            "token_type": "Bearer",
            "app_id": "APP-80W284485P519543T",
            "expires_in": 32400,
            "nonce": "2026-01-01T00:00:00Z",
        }

    async def page(self, send: Any, query: dict[str, str]) -> None:
        order_id, outcome = query.get("token", ""), query.get("outcome")
        if order_id not in self.book.orders:
            await reply(send, 404, b"no such order", "text/plain")
        elif outcome in ("approve", "refuse"):
            location = self.book.act(order_id, outcome)
            await send({"type": "http.response.start", "status": 302, "headers": [(b"location", location.encode())]})
            await send({"type": "http.response.body", "body": b""})
        else:
            links = "".join(f'<a href="?token={order_id}&outcome={one}">{one}</a> ' for one in ("approve", "refuse"))
            await reply(send, 200, links.encode(), "text/html")

    def control(self, method: str, what: str, raw: bytes) -> Reply:
        body = json.loads(raw) if raw else {}
        match (method, what):
            case ("POST", "next"):
                self.book.fault = body["fault"]
            case ("POST", "webhook"):
                self.book.webhook_id = body.get("secret") or WEBHOOK_ID
            case ("POST", "revoke"):
                self.book.tokens.clear()
            case ("POST", "tell"):
                self.book.tell(body["event_type"], body["resource"])
            case ("GET", "charges"):
                return 200, self.book.charges()
            case ("GET", "webhooks"):
                return 200, self.book.webhooks
            case ("GET", "problems"):
                return 200, self.book.problems
            case ("GET", "roots"):
                return 200, {"pem": self.book.signer.roots.decode()}
            case _:
                return 404, {}
        return 200, {}


def minimal_of(found: Any) -> Any:
    """``Prefer: return=minimal``."""
    return {name: found[name] for name in ("id", "status", "links", "payment_source") if name in found}


async def hang(receive: Any) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone(), HANG_S)


async def reply(send: Any, status: int, body: Any, content_type: str = "application/json") -> None:
    encoded = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(encoded)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": encoded})


async def serve(port: int) -> None:
    server = uvicorn.Server(
        uvicorn.Config(Simulator(f"http://127.0.0.1:{port}"), host="127.0.0.1", port=port, log_level="error")
    )
    task = asyncio.create_task(server.serve())
    while not server.started and not task.done():  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    sys.stdout.write(f"ready http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    await task


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
