"""Adyen's adapter under the conformance kit, judged by Adyen's published description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clearspan.sdk as sdk
from clearspan.sdk.testing import Description, Exchange, PspConformance, Script
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
            "hmac_key": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
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
