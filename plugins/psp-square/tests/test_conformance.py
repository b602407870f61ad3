"""Square's adapter under the conformance kit, judged by Square's own description."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import clearspan.sdk as sdk
from clearspan.sdk.testing import Delivery, Description, Exchange, PspConformance, Script
from clearspan_psp_square import SquarePsp
from clearspan_psp_square.refusals import REFUSALS

URL = "https://pay.example/webhooks/square"
SECRET = "square_signature_key_conformance_1"
CHARGE = "R2B3Z8WMVt3EAmzYWLZvz7Y69EbZY"
LOCATION = "L88917AVBK2S5"


def payment(status: str = "COMPLETED", total: str = "<amount>", **fields: Any) -> dict[str, Any]:
    """As Square shows a payment; ``total`` is what is charged."""
    own = {
        "id": CHARGE,
        "status": f"<status:{status}>",
        "amount_money": total,
        "total_money": total,
        "approved_money": total,
        "location_id": LOCATION,
        "reference_id": "<reference>",
        "source_type": "CARD",
        "created_at": "2026-11-23T11:59:00.000Z",
    }
    return {"payment": own | fields}


def changed(status: str, **fields: Any) -> dict[str, Any]:
    """The same after a capture or a void, which have no reference of their own."""
    return payment(status, id="<charge_ref>", reference_id="op_of_the_charge", **fields)


def refund(status: str, **fields: Any) -> dict[str, Any]:
    own = {
        "id": f"{CHARGE}_refund",
        "status": f"<status:{status}>",
        "amount_money": "<amount>",
        "payment_id": "<charge_ref>",
        "location_id": LOCATION,
        "reason": "<reference> late",
    }
    return {"refund": own | fields}


def errors(code: str, category: str = "PAYMENT_METHOD_ERROR", status: int = 400) -> Exchange:
    return Exchange(
        status, {"errors": [{"category": category, "code": f"<code:{code}>", "detail": "<message>"}]}, described=False
    )


def seen(**fields: Any) -> Exchange:
    """What is read before a capture."""
    return Exchange(
        200, payment("APPROVED", reference_id="op_of_the_charge", **fields), path="GET /v2/payments/*", prepares=True
    )


MORE = {"amount": 99999, "currency": "EUR"}
LOWERED = Exchange(200, payment("APPROVED", reference_id="op_of_the_charge"), path="PUT /v2/payments/*")
KEPT = [
    Exchange(200, {"customer": {"id": "CUSTOMER1"}}, path="POST /v2/customers", prepares=True),
    Exchange(200, {"card": {"id": "ccof:kept"}}, path="POST /v2/cards", prepares=True),
]


class TestSquare(PspConformance):
    adapter = SquarePsp
    description = Description(Path(__file__).parent / "spec" / "api.subset.json")
    refusals = REFUSALS
    currencies = ("EUR", "JPY", "USD")
    charge_ref = CHARGE
    psp_ref = CHARGE
    token = "cnon:card-nonce-ok"
    stored_token = "ccof:kept|CUSTOMER1"
    unreferenced = frozenset({"continue_intent", "capture", "cancel"})
    unkeyed = frozenset({"continue_intent", "capture", "cancel"})
    scenarios = {
        "approved": Script(Exchange(200, payment())),
        "approved_by_token": Script(Exchange(200, payment())),
        "authorized": Script(Exchange(200, payment("APPROVED"))),
        "declined": Script(errors("INSUFFICIENT_FUNDS"), code="insufficient_funds"),
        "pending": Script(Exchange(200, payment("PENDING"))),
        "first_credential": Script(Exchange(200, payment()), *KEPT, speaks_of_amount=False),
        "merchant_initiated": Script(Exchange(200, payment())),
        # A whole capture names no amount: see test_square.py. Lowering it first is what carries one.
        "captured": Script(seen(total=MORE), LOWERED, Exchange(200, changed("COMPLETED"))),
        "partially_captured": Script(seen(total=MORE), LOWERED, Exchange(200, changed("COMPLETED"))),
        "canceled": Script(Exchange(200, changed("CANCELED"))),
        "refunded": Script(Exchange(200, refund("COMPLETED"))),
        "partially_refunded": Script(Exchange(200, refund("COMPLETED"))),
        "refund_declined": Script(errors("REFUND_AMOUNT_INVALID", "REFUND_ERROR"), code="invalid_amount"),
        "retrieved": Script(Exchange(200, payment())),
        "retrieved_by_reference": Script(Exchange(200, {"payments": [payment()["payment"]]})),
        "not_found": Script(Exchange(200, {})),
        "retrieved_capture": Script(Exchange(200, changed("COMPLETED"))),
        "retrieved_void": Script(Exchange(200, changed("CANCELED"))),
        "retrieved_refund": Script(Exchange(200, refund("COMPLETED"))),
    }

    def config(self, url: str) -> Mapping[str, Any]:
        return {
            "access_token": "EAAAconformance_access_token",
            "location_id": LOCATION,
            "webhook_signature_key": SECRET,
            "notification_url": URL,
            "url": url,
        }

    def amount_as_sent(self, money: sdk.Money) -> Any:
        return {"amount": money.amount_minor, "currency": money.currency}

    webhook_secret = SECRET
    foreign_secret = "square_signature_key_conformance_2"
    signs_time = False
    webhook_body = json.dumps(
        {
            "merchant_id": "MLEFBHHSJGVHD",
            "type": "payment.updated",
            "event_id": "6a8f5f28-54a1-4eb0-a98a-3111513fd4fc",
            "data": {
                "type": "payment",
                "object": {
                    "payment": payment(total={"amount": 12347, "currency": "EUR"})["payment"]  # type: ignore[arg-type]
                    | {"status": "COMPLETED", "reference_id": "op_1"}
                },
            },
        }
    ).encode()
    webhooks = [
        # Square's own vector: the tests of its Python SDK.
        Delivery(
            b'{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification","event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f",'
            b'"created_at":"2022-07-13T20:30:59.037339943Z","data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}',
            {"x-square-hmacsha256-signature": "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4="},
            config={
                "webhook_signature_key": "Ibxx_5AKakO-3qeNVR61Dw",
                "notification_url": "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9",
            },
        )
    ]

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:  # noqa: ARG002
        signed = hmac.new(secret.encode(), URL.encode() + body, hashlib.sha256).digest()
        return Delivery(body, {"x-square-hmacsha256-signature": base64.b64encode(signed).decode()})
