"""The adapter under the conformance kit, judged by PayPal's descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zlib import crc32

from described import DESCRIPTION
from simulator import Signer

import clearspan.sdk as sdk
from clearspan.sdk.testing import Exchange, PspConformance, Script
from clearspan.sdk.testing.psp import REFERENCE
from clearspan.sdk.testing.webhooks import NOW, Delivery
from clearspan_psp_paypal import PayPal
from clearspan_psp_paypal.refusals import ISSUES, PROCESSOR

ORDER, AUTHORIZATION, CAPTURE, REFUND = (
    "5O190127TN364715T",
    "0AW2184448108334S",
    "3C679366HH908993F",
    "1JU08902781691411",
)
IDS = {"custom_id": "<reference>", "invoice_id": "<reference>"}
SIGNER = Signer(NOW)
CREATE, READ = "POST /v2/checkout/orders", f"GET /v2/checkout/orders/{ORDER}"


def payment(ref: str, status: str, amount: str = "<amount>", **more: Any) -> dict[str, Any]:
    return {"id": ref, "status": status, "amount": amount, **IDS, **more}


def order(status: str = "COMPLETED", source: Any = None, **payments: Any) -> dict[str, Any]:
    unit = {"reference_id": "default", "amount": "<charge_amount>", **IDS}
    paid = {"payments": {kind: [one] for kind, one in payments.items()}} if payments else {}
    found = {"id": ORDER, "intent": "CAPTURE", "status": status, "purchase_units": [unit | paid]}
    return found | ({"payment_source": source} if source else {})


def captured(status: str = "<status:COMPLETED>", **more: Any) -> dict[str, Any]:
    return order(captures=payment(CAPTURE, status, **more))


def waiting(source: dict[str, Any]) -> dict[str, Any]:
    link = {"rel": "payer-action", "method": "GET", "href": f"https://www.sandbox.paypal.com/checkoutnow?token={ORDER}"}
    return order("<status:PAYER_ACTION_REQUIRED>", source) | {"links": [link]}


def refusal(code: str) -> dict[str, Any]:
    message = "The requested action could not be performed, semantically incorrect, or failed business validation."
    return {"name": "UNPROCESSABLE_ENTITY", "message": message, "details": [{"issue": f"<code:{code}>"}]}


def read(found: dict[str, Any]) -> Exchange:
    """An order that is looked at first: that moves nothing."""
    return Exchange(200, found, path=READ, prepares=True)


# The charge's own operation is not the follow-up's.
OF_CHARGE = {"custom_id": "op_charge", "invoice_id": "op_charge"}
HELD = {"id": AUTHORIZATION, "status": "CREATED", "amount": "<charge_amount>", **OF_CHARGE}
TAKEN = {"id": CAPTURE, "status": "COMPLETED", "amount": "<charge_amount>", **OF_CHARGE}
AUTHORIZED = order(authorizations=HELD) | {"intent": "AUTHORIZE"}
PAID = order(captures=TAKEN)
for _found in (AUTHORIZED, PAID):
    _found["purchase_units"][0] |= OF_CHARGE
OWN = {"custom_id": "op_charge"}
AUTHENTICATED = {
    "card": {
        "authentication_result": {
            "liability_shift": "POSSIBLE",
            "three_d_secure": {"authentication_status": "Y", "enrollment_status": "Y"},
        }
    }
}


class TestPayPal(PspConformance):
    adapter = PayPal
    description = DESCRIPTION
    refusals = (ISSUES, PROCESSOR)
    currencies = ("EUR", "JPY", "HUF", "TWD")
    amounts = {"HUF": 12347_00, "TWD": 12347_00}
    charge_ref = psp_ref = ORDER
    token = "paypal:8kk845"
    method = "paypal"
    unreferenced = frozenset({"continue_intent", "cancel"})
    unkeyed = frozenset({"cancel"})
    prelude = (
        Exchange(
            200,
            {"access_token": "A21AAFEpH4PsADK7qSS7pSRsgz", "token_type": "Bearer", "expires_in": 32400},
            path="POST /v1/oauth2/token",
            described=False,
        ),
    )
    scenarios = {
        "approved": Script(Exchange(201, captured(), path=CREATE)),
        "authorized": Script(
            Exchange(201, order(authorizations=payment(AUTHORIZATION, "<status:CREATED>")), path=CREATE)
        ),
        "approved_by_token": Script(Exchange(201, captured(), path=CREATE)),
        "redirected": Script(Exchange(200, waiting({"paypal": {}}), path=CREATE)),
        "declined": Script(
            Exchange(201, captured("DECLINED", processor_response={"response_code": "<code:5120>"}), path=CREATE),
            code="insufficient_funds",
        ),
        "declined_as_422": Script(
            Exchange(422, refusal("INSTRUMENT_DECLINED"), path=CREATE),
            code="generic_decline",
            verb="create_intent",
            expects=sdk.Declined,
        ),
        "pending": Script(
            Exchange(201, captured("<status:PENDING>", status_details={"reason": "PENDING_REVIEW"}), path=CREATE)
        ),
        "action_required": Script(Exchange(201, waiting({"card": {"last_digits": "4242"}}), path=CREATE)),
        "continued": Script(
            read(order("APPROVED", AUTHENTICATED)),
            Exchange(
                201, captured() | {"payment_source": AUTHENTICATED}, path=f"POST /v2/checkout/orders/{ORDER}/capture"
            ),
        ),
        "continue_declined": Script(
            read(order("APPROVED", {"paypal": {}})),
            Exchange(422, refusal("PAYER_CANNOT_PAY"), path=f"POST /v2/checkout/orders/{ORDER}/capture"),
            code="generic_decline",
        ),
        "first_credential": Script(Exchange(201, captured(), path=CREATE)),
        "merchant_initiated": Script(Exchange(201, captured(), path=CREATE)),
        "captured": Script(
            read(AUTHORIZED),
            Exchange(
                201,
                payment(CAPTURE, "<status:COMPLETED>") | OWN,
                path=f"POST /v2/payments/authorizations/{AUTHORIZATION}/capture",
            ),
        ),
        "partially_captured": Script(
            read(AUTHORIZED),
            Exchange(
                201,
                payment(CAPTURE, "<status:COMPLETED>") | OWN,
                path=f"POST /v2/payments/authorizations/{AUTHORIZATION}/capture",
            ),
        ),
        "capture_declined": Script(
            read(AUTHORIZED),
            Exchange(
                422,
                refusal("AUTHORIZATION_EXPIRED"),
                path=f"POST /v2/payments/authorizations/{AUTHORIZATION}/capture",
            ),
            code="not_permitted",
        ),
        "canceled": Script(
            read(AUTHORIZED),
            Exchange(
                200,
                payment(AUTHORIZATION, "<status:VOIDED>") | OF_CHARGE,
                path=f"POST /v2/payments/authorizations/{AUTHORIZATION}/void",
            ),
        ),
        "cancel_declined": Script(
            read(AUTHORIZED),
            Exchange(
                422,
                refusal("PREVIOUSLY_CAPTURED"),
                path=f"POST /v2/payments/authorizations/{AUTHORIZATION}/void",
            ),
            code="not_permitted",
        ),
        "refunded": Script(
            read(PAID),
            Exchange(
                201, payment(REFUND, "<status:COMPLETED>") | OWN, path=f"POST /v2/payments/captures/{CAPTURE}/refund"
            ),
        ),
        "partially_refunded": Script(
            read(PAID),
            Exchange(
                201, payment(REFUND, "<status:COMPLETED>") | OWN, path=f"POST /v2/payments/captures/{CAPTURE}/refund"
            ),
        ),
        "refund_declined": Script(
            read(PAID),
            Exchange(
                422,
                refusal("REFUND_FAILED_INSUFFICIENT_FUNDS"),
                path=f"POST /v2/payments/captures/{CAPTURE}/refund",
            ),
            code="insufficient_funds",
        ),
        "retrieved": Script(Exchange(200, captured(), path=READ)),
        "not_found": Script(
            Exchange(404, {"name": "RESOURCE_NOT_FOUND", "message": "The specified resource does not exist."}),
            psp_ref=True,
        ),
        "retrieved_capture": Script(
            Exchange(200, payment(CAPTURE, "<status:COMPLETED>") | OWN, path=f"GET /v2/payments/captures/{CAPTURE}"),
            psp_ref=CAPTURE,
        ),
        "retrieved_refund": Script(
            Exchange(200, payment(REFUND, "<status:COMPLETED>") | OWN, path=f"GET /v2/payments/refunds/{REFUND}"),
            psp_ref=REFUND,
        ),
    }

    webhook_secret = "4JH86294D6297924G"
    foreign_secret = "9XL90610J3647323C"
    webhook_body = json.dumps(
        {
            "id": "WH-2WR32451HC0233532-67976317FL4543714",
            "event_type": "PAYMENT.CAPTURE.COMPLETED",
            "resource_type": "capture",
            "resource": {
                "id": CAPTURE,
                "status": "COMPLETED",
                "amount": {"currency_code": "EUR", "value": "123.47"},
                "custom_id": REFERENCE,
                "invoice_id": REFERENCE,
                "supplementary_data": {"related_ids": {"order_id": ORDER}},
            },
        }
    ).encode()
    webhook_exchanges = (
        Exchange(200, SIGNER.chain, path="GET /v1/notifications/certs/CERT-1", described=False, prepares=True),
    )
    signs_time = False  # It does, but PayPal repeats for three days: ``test_webhooks`` refuses what is older.

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:
        time = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        headers = {
            "PAYPAL-TRANSMISSION-ID": "69cd13f0-d67a-11e5-baa3-778b53f4ae55",
            "PAYPAL-TRANSMISSION-TIME": time,
            "PAYPAL-TRANSMISSION-SIG": SIGNER.sign(
                f"69cd13f0-d67a-11e5-baa3-778b53f4ae55|{time}|{secret}|{crc32(body)}"
            ),
            "PAYPAL-CERT-URL": "<url>/v1/notifications/certs/CERT-1",
            "PAYPAL-AUTH-ALGO": "SHA256withRSA",
        }
        return Delivery(body, headers, at=at, news=(sdk.OperationNews,))

    def config(self, url: str) -> Mapping[str, Any]:
        return {
            "webhook_roots": SIGNER.roots.decode(),
            "client_id": "client-of-the-conformance-kit",
            "client_secret": "EPayPalConformanceSecret0123456789",
            "webhook_id": "4JH86294D6297924G",
            "url": url,
        }

    def amount_as_sent(self, money: sdk.Money) -> Any:
        """https://developer.paypal.com/api/rest/reference/currency-codes/: HUF, JPY and TWD without decimals."""
        digits = money.amount_minor if money.currency == "JPY" else None
        if money.currency in ("HUF", "TWD"):
            digits = money.amount_minor // 100
        value = str(digits) if digits is not None else f"{money.amount_minor // 100}.{money.amount_minor % 100:02}"
        return {"currency_code": money.currency, "value": value}
