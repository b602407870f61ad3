"""Adyen's adapter under the conformance kit, judged by Adyen's published description."""

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
from clearspan_psp_adyen import Adyen
from clearspan_psp_adyen.refusals import REFUSALS

SPEC = Path(__file__).parent / "spec"
REF = "993617895204576J"
EXTRA = {"networkTxReference": "483297487231504", "refusalReasonRaw": "AUTHORISED"}
BROWSER = sdk.Browser(ip_address="198.51.100.7", user_agent="Mozilla/5.0", accept_header="text/html", language="de")


def paid(**fields: Any) -> Exchange:
    body = {
        "resultCode": "<status:Authorised>",
        "pspReference": REF,
        "merchantReference": "<reference>",
        "amount": "<amount>",
    }
    return Exchange(200, body | {"additionalData": EXTRA} | fields)


def refused() -> Exchange:
    words = {"refusalReason": "<message>", "refusalReasonCode": "<code:12>"}
    return Exchange(
        200, {"resultCode": "<status:Refused>", "pspReference": REF, "merchantReference": "<reference>"} | words
    )


def received(*, amount: bool = True) -> Exchange:
    body = {"merchantAccount": "ClearspanECOM", "paymentPspReference": "<charge_ref>", "reference": "<reference>"}
    body |= {"pspReference": "993617894906488A", "status": "<status:received>"} | (
        {"amount": "<amount>"} if amount else {}
    )
    return Exchange(201, body)


ACTION = {
    "type": "redirect",
    "method": "GET",
    "url": "https://checkoutshopper-test.adyen.com/x",
    "paymentMethodType": "scheme",
}

ITEM = {
    "additionalData": {"networkTxReference": "483297487231504"},
    "amount": {"currency": "EUR", "value": 12347},
    "eventCode": "AUTHORISATION",
    "eventDate": "2026-11-23T13:00:00+01:00",
    "merchantAccountCode": "ClearspanECOM",
    "merchantReference": "op_1",
    "paymentMethod": "visa",
    "pspReference": REF,
    "success": "true",
}


class TestAdyen(PspConformance):
    adapter = Adyen
    description = Description(SPEC / "CheckoutService-v72.subset.json")
    refusals = REFUSALS
    charge_ref = psp_ref = REF
    token = "8415718415172204"
    return_params = {"redirectResult": "X6XtfGC3!Y"}
    currencies = ("EUR", "JPY", "KWD", "CLP", "ISK", "IDR", "CVE")
    amounts = {"CVE": 12300}
    unkeyed: frozenset[str] = frozenset()
    hosts = ("https://checkout-test.adyen.com", "https://1797a841-shop-checkout-live.adyenpayments.com")
    webhook_body = json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": ITEM}]}).encode()
    webhook_secret = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
    foreign_secret = "74F490DD33F7327BAECC88B2947C011FC02D014A473AAA33A8EC93E4DC069174"
    signs_time = signs_bytes = False
    scenarios = {
        "approved": Script(paid(), browser=BROWSER),
        "authorized": Script(paid(), browser=BROWSER),
        "approved_by_token": Script(paid(), customer="cus_1"),
        "declined": Script(refused(), code="insufficient_funds"),
        "pending": Script(
            Exchange(200, {"resultCode": "<status:Pending>", "pspReference": REF, "merchantReference": "<reference>"})
        ),
        "action_required": Script(
            Exchange(200, {"resultCode": "<status:RedirectShopper>", "action": ACTION}), browser=BROWSER
        ),
        "continued": Script(paid()),
        "continue_declined": Script(refused(), code="insufficient_funds"),
        "first_credential": Script(paid(), browser=BROWSER),
        "merchant_initiated": Script(paid()),
        "verified": Script(paid()),
        "captured": Script(received()),
        "partially_captured": Script(received()),
        "canceled": Script(received(amount=False), speaks_of_amount=False),
        "refunded": Script(received()),
        "partially_refunded": Script(received()),
    }

    def config(self, url: str) -> Mapping[str, Any]:
        return {
            "api_key": "AQE_conformance_api_key_that_is_secret",
            "merchant_account": "ClearspanECOM",
            "hmac_key": self.webhook_secret,
            "live_prefix": "1797a841-shop",
            "url": url,
        }

    def amount_as_sent(self, money: sdk.Money) -> Any:
        # https://docs.adyen.com/development-resources/currency-codes: CLP and ISK with two decimals, CVE and IDR with none.
        factor = {"CLP": 100, "ISK": 100}.get(money.currency, 1)
        if money.currency in ("CVE", "IDR"):
            if money.amount_minor % 100:
                return None
            return {"value": money.amount_minor // 100, "currency": money.currency}
        return {"value": money.amount_minor * factor, "currency": money.currency}

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:
        # https://docs.adyen.com/development-resources/webhooks/verify-hmac-signatures: each item over eight fields, no time.
        try:
            message = json.loads(body)
            for wrapper in message["notificationItems"]:
                item = wrapper["NotificationRequestItem"]
                names = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
                fields = [item.get(name, "") for name in names]
                fields += [str(item["amount"]["value"]), item["amount"]["currency"], item["eventCode"], item["success"]]
                digest = hmac.new(bytes.fromhex(secret), ":".join(fields).encode(), hashlib.sha256).digest()
                item["additionalData"] = item["additionalData"] | {"hmacSignature": base64.b64encode(digest).decode()}
        except (ValueError, KeyError, TypeError, RecursionError):
            return Delivery(body, at=at)
        return Delivery(json.dumps(message).encode(), at=at)

    def unsigned(self, signed: Delivery) -> Delivery:
        return Delivery(self.webhook_body, at=signed.at)

    def tampered(self, signed: Delivery) -> Delivery:
        return Delivery(signed.body.replace(b"12347", b"123477"), at=signed.at)
