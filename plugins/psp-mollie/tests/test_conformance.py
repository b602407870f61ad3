"""The adapter under the conformance kit. Mollie's description may not be copied: the simulator's structs judge its requests."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan.sdk.testing import Delivery, Exchange, PspConformance, Request, Script
from clearspan_psp_mollie import Mollie
from clearspan_psp_mollie.refusals import CARD

from . import simulator

PAYMENT = "tr_conformance"
LINKS = {"self": {"href": "https://api.mollie.com/v2/payments/tr_conformance", "type": "application/hal+json"}}
CHECKOUT = {"checkout": {"href": "https://www.mollie.com/checkout/select-method/conformance", "type": "text/html"}}
BODIES: dict[str, Any] = {
    "POST /v2/payments": simulator.PaymentIn,
    "POST /v2/customers": simulator.CustomerIn,
    "POST /v2/payments/[^/]+/(captures|refunds)": simulator.PartIn,
    "POST /v2/payments/[^/]+/release-authorization": simulator.Nothing,
    "(GET|DELETE) /v2/payments/[^/]+": None,
    "GET /v2/payments(/[^/]+/(captures|refunds))?": None,
}


def payment(status: str = "paid", **fields: Any) -> dict[str, Any]:
    """As Mollie answers."""
    return {
        "resource": "payment",
        "id": PAYMENT,
        "mode": "test",
        "createdAt": "2026-11-23T12:00:00+00:00",
        "amount": "<amount>",
        "description": "Order",
        "method": "creditcard",
        "metadata": {"operation_id": "<reference>"},
        "status": f"<status:{status}>",
        "profileId": "pfl_v9hTwCvYqw",
        "sequenceType": "oneoff",
        "_links": LINKS,
        **fields,
    }


def part(kind: str, status: str, **fields: Any) -> dict[str, Any]:
    """A capture or refund."""
    return {
        "resource": kind,
        "id": f"{kind[:2]}_conformance",
        "mode": "test",
        "createdAt": "2026-11-23T12:00:00+00:00",
        "amount": "<amount>",
        "status": f"<status:{status}>",
        "paymentId": PAYMENT,
        "metadata": {"operation_id": "<reference>"},
        "_links": LINKS,
        **fields,
    }


def listed(name: str, *items: dict[str, Any]) -> Exchange:
    links = {"self": LINKS["self"], "previous": None, "next": None}
    return Exchange(200, {"count": len(items), "_embedded": {name: list(items)}, "_links": links})


def error(status: int, detail: str, **fields: Any) -> Exchange:
    return Exchange(status, {"status": status, "title": "Error", "detail": detail, "_links": {}, **fields})


HELD = payment("authorized", captureMode="manual", authorizedAt="2026-11-23T12:00:00+00:00")
BEFORE = HELD | {"metadata": {"operation_id": "op_of_the_charge"}, "amount": "<charge_amount>", "status": "authorized"}
RELEASED = BEFORE | {"status": "<status:canceled>", "canceledAt": "2026-11-23T12:00:01+00:00", "amount": "<amount>"}
DECLINED = payment("failed", details={"failureReason": "<code:insufficient_funds>", "failureMessage": "<message>"})
FIRST = payment(sequenceType="first", customerId="cst_conformance", mandateId="mdt_conformance")
CUSTOMER = Exchange(201, {"resource": "customer", "id": "cst_conformance", "_links": {}}, prepares=True)

EVENT = msgspec.json.encode(
    {
        "resource": "event",
        "id": "event_1",
        "type": "payment.paid",
        "entityId": PAYMENT,
        "createdAt": "2026-11-23T12:00:00Z",
    }
)
CHARGEBACK = {
    "resource": "chargeback",
    "id": "chb_1",
    "amount": {"currency": "EUR", "value": "1.00"},
    "paymentId": PAYMENT,
}
CHARGED_BACK = msgspec.json.encode(
    {"resource": "event", "id": "event_2", "type": "chargeback.received", "entityId": "chb_1"}
    | {"_embedded": {"entity": CHARGEBACK | {"createdAt": "2026-11-23T12:00:00+00:00"}}}
)


def signature(body: bytes, secret: str) -> str:
    """Source: https://docs.mollie.com/reference/webhooks-best-practices"""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class TestMollie(PspConformance):
    adapter = Mollie
    description = None
    refusals = CARD
    charge_ref = PAYMENT
    psp_ref = PAYMENT
    token = "tkn_conformance"
    stored_token = "cst_conformance/mdt_conformance"
    method = "ideal"
    currencies = ("EUR", "JPY", "ISK", "HUF", "KWD")
    # Both ask by the payment's id alone.
    unreferenced = frozenset({"cancel", "continue_intent"})
    scenarios = {
        "approved": Script(Exchange(201, payment())),
        "authorized": Script(Exchange(201, HELD)),
        "approved_by_token": Script(Exchange(201, payment())),
        "redirected": Script(Exchange(201, payment("open", method="ideal", _links=LINKS | CHECKOUT))),
        "declined": Script(Exchange(201, DECLINED), code="insufficient_funds"),
        "pending": Script(Exchange(201, payment("pending"))),
        "action_required": Script(Exchange(201, payment("open", _links=LINKS | CHECKOUT))),
        "continued": Script(Exchange(200, payment())),
        "continue_declined": Script(Exchange(200, DECLINED), code="insufficient_funds"),
        "first_credential": Script(CUSTOMER, Exchange(201, FIRST)),
        "merchant_initiated": Script(Exchange(201, payment(sequenceType="recurring"))),
        "captured": Script(Exchange(201, part("capture", "succeeded"))),
        "partially_captured": Script(Exchange(201, part("capture", "succeeded"))),
        "capture_declined": Script(error(422, "The payment is not authorized"), code="not_permitted"),
        "canceled": Script(Exchange(200, BEFORE, prepares=True), Exchange(202, b""), Exchange(200, RELEASED)),
        "cancel_declined": Script(
            Exchange(200, BEFORE | {"status": "paid", "amountCaptured": "<charge_amount>"}, prepares=True),
            code="not_permitted",
        ),
        "refunded": Script(Exchange(201, part("refund", "refunded"))),
        "partially_refunded": Script(Exchange(201, part("refund", "pending"))),
        "refund_declined": Script(error(422, "Too much", field="amount"), code="invalid_amount"),
        "retrieved": Script(Exchange(200, payment())),
        "retrieved_by_reference": Script(listed("payments", payment())),
        "not_found": Script(listed("payments")),
        "retrieved_capture": Script(listed("captures", part("capture", "succeeded")), psp_ref="ca_conformance"),
        "retrieved_void": Script(Exchange(200, RELEASED), psp_ref=f"{PAYMENT}/void"),
        "retrieved_refund": Script(listed("refunds", part("refund", "refunded")), psp_ref="re_conformance"),
    }

    def config(self, url: str) -> Mapping[str, Any]:
        return {
            "api_key": "test_conformance_dHar4XY7LxsDOtmnkVtjNVWXLSlXsM",
            "organization_token": "access_conformance_Wwvjgs9a3vXKPWKe",
            "webhook_secret": "conformance_secret_of_events",
            "url": url,
        }

    webhook_secret = "conformance_secret_of_events"
    foreign_secret = "another_secret_of_events"
    webhook_body = EVENT
    signs_time = False  # Mollie signs the body and nothing else.
    webhooks = (
        Delivery(b"id=tr_conformance", {"Content-Type": "application/x-www-form-urlencoded"}, news=[sdk.Hint]),
        Delivery(EVENT, {"X-Mollie-Signature": signature(EVENT, webhook_secret)}, news=[sdk.Hint]),
        Delivery(CHARGED_BACK, {"X-Mollie-Signature": signature(CHARGED_BACK, webhook_secret)}, news=[sdk.DisputeNews]),
    )

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:  # noqa: ARG002
        return Delivery(body, {"X-Mollie-Signature": signature(body, secret)})

    def sign_twice(self, body: bytes, *, secrets: Sequence[str], at: datetime) -> Delivery:  # noqa: ARG002
        both = ", ".join(signature(body, secret) for secret in secrets)
        return Delivery(body, {"X-Mollie-Signature": both})

    def amount_as_sent(self, money: sdk.Money) -> dict[str, str] | None:
        if money.currency not in Mollie.facts.currencies:
            return None
        whole = str(money.amount_minor)
        value = whole if money.currency in ("JPY", "ISK") else f"{whole[:-2]}.{whole[-2:]}"
        return {"currency": money.currency, "value": value}

    def request_errors(self, request: Request) -> list[str]:
        line = f"{request.method} {request.path}"
        kind = next((kind for pattern, kind in BODIES.items() if re.fullmatch(pattern, line)), UNKNOWN)
        if kind is UNKNOWN:
            return [f"{line} is none of Mollie's"]
        if kind is None:
            return ["a body where none is taken"] if request.body else []
        try:
            msgspec.json.decode(request.body, type=kind)
        except msgspec.ValidationError as wrong:
            return [str(wrong)]
        return []


UNKNOWN = object()
