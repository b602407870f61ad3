"""Stripe's adapter under the conformance kit, judged by Stripe's own description and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import clearspan.sdk as sdk
from clearspan.sdk.testing import NOW, Delivery, Description, Exchange, PspConformance, Script
from clearspan_psp_stripe import StripePsp
from clearspan_psp_stripe.refusals import REFUSALS

SPEC = Path(__file__).parent / "spec"
SAMPLES = json.loads((SPEC / "fixtures3.subset.json").read_text())["resources"]
SECRET = "whsec_conformance_1_long_enough"
CHARGE, REFUND, SETUP = "pi_conformance", "re_conformance", "seti_conformance"
INTENTS = "/v1/payment_intents"


def intent(status: str = "succeeded", *, manual: bool = False, **fields: Any) -> dict[str, Any]:
    """A payment intent as Stripe answers."""
    got = {"amount_received": "<amount>"} if status == "succeeded" else {}
    held = {"amount_capturable": "<amount>"} if status == "requires_capture" else {}
    return {
        **SAMPLES["payment_intent"],
        "id": CHARGE,
        "status": f"<status:{status}>",
        "amount": "<charge_amount>",
        "currency": "<currency>",
        "capture_method": "manual" if manual else "automatic",
        "metadata": {"operation_id": "<reference>"},
        "payment_method": "pm_conformance",
        "canceled_at": None,
        "created": int(NOW.timestamp()),
        **got,
        **held,
        **fields,
    }


def charged(**card: Any) -> dict[str, Any]:
    """The charge of an intent, shown in full."""
    details = {"type": "card", "card": {**SAMPLES["charge"]["payment_method_details"]["card"], **card}}
    balance = {**SAMPLES["balance_transaction"], "fee": 47, "currency": "eur", "net": 53}
    return {"latest_charge": {**SAMPLES["charge"], "payment_method_details": details, "balance_transaction": balance}}


def setup(status: str, **fields: Any) -> dict[str, Any]:
    own = {"id": SETUP, "status": f"<status:{status}>", "metadata": {"operation_id": "<reference>"}}
    return {**SAMPLES["setup_intent"], **own, "payment_method": "pm_conformance", **fields}


def refund(status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    own = {"id": REFUND, "status": f"<status:{status}>", "amount": "<amount>", "currency": "<currency>"}
    about = {"payment_intent": "<charge_ref>", "metadata": {"operation_id": "<reference>"}}
    return {**SAMPLES["refund"], **own, **about, **fields}


def error(code: str, decline_code: str | None = None, **fields: Any) -> dict[str, Any]:
    why = {"decline_code": decline_code} if decline_code else {}
    return {"error": {"type": "card_error", "code": code, "message": "<message>", **why, **fields}}


def captured(**fields: Any) -> dict[str, Any]:
    tags = {"operation_id": "op_of_the_charge", "capture_operation_id": "<reference>"}
    return intent(id="<charge_ref>", manual=True, metadata=tags, **charged(), **fields)


def canceled() -> dict[str, Any]:
    """Stripe's answer to a cancel cannot speak of the void's own reference."""
    tags = {"operation_id": "op_of_the_charge"}
    return intent("canceled", id="<charge_ref>", amount="<amount>", manual=True, metadata=tags)


def listed(*objects: dict[str, Any], path: str) -> Exchange:
    body = {"object": "list", "url": path, "has_more": False, "data": list(objects)}
    return Exchange(200, body, path=f"GET {path}", repeats=not objects)


METHOD = Exchange(
    200,
    {**SAMPLES["payment_method"], "id": "pm_conformance"},
    path="POST /v1/payment_methods",
    prepares=True,
)
CUSTOMER = Exchange(200, {**SAMPLES["customer"], "id": "cus_conformance"}, path="POST /v1/customers", prepares=True)
THREE_DS = {"authentication_flow": "challenge", "result": "authenticated", "result_reason": None, "version": "2.2.0"}
REDIRECT = {
    "next_action": {
        "type": "redirect_to_url",
        "redirect_to_url": {"url": "https://hooks.stripe.com/redirect/1", "return_url": "https://shop.example/back"},
    }
}
STORED = {"customer": "cus_conformance", "setup_future_usage": "off_session"}
DECLINED = error(
    "card_declined",
    "<code:insufficient_funds>",
    payment_intent=intent("requires_payment_method", last_payment_error=error("card_declined")["error"]),
)


class TestStripePsp(PspConformance):
    adapter = StripePsp
    description = Description(SPEC / "spec3.subset.json")
    refusals = REFUSALS
    charge_ref = psp_ref = CHARGE
    token = "pm_conformance"
    stored_token = "cus_conformance/pm_conformance"
    method = "ideal"
    unreferenced = frozenset({"continue_intent", "cancel"})
    return_params = {"payment_intent": CHARGE, "redirect_status": "succeeded"}
    currencies = ("EUR", "JPY", "KWD", "BHD", "MGA", "ISK", "UGX", "HUF", "TWD", "IQD")
    amounts = {"MGA": 12300, "KWD": 12350, "BHD": 12350}
    hosts = ("https://api.stripe.com", "https://api.stripe.com")
    scenarios = {
        "approved": Script(METHOD, Exchange(200, intent(**charged()))),
        "authorized": Script(METHOD, Exchange(200, intent("requires_capture", manual=True))),
        "approved_by_token": Script(Exchange(200, intent(**charged()))),
        "redirected": Script(Exchange(200, intent("requires_action", **REDIRECT))),
        "declined": Script(METHOD, Exchange(402, DECLINED), code="insufficient_funds"),
        "pending": Script(METHOD, Exchange(200, intent("processing"))),
        "action_required": Script(METHOD, Exchange(200, intent("requires_action", **REDIRECT))),
        "continued": Script(Exchange(200, intent(**charged(three_d_secure=THREE_DS)))),
        "continue_declined": Script(
            Exchange(
                200,
                intent(
                    "requires_payment_method",
                    last_payment_error=error("<code:payment_intent_authentication_failure>")["error"],
                ),
            ),
            code="authentication_required",
        ),
        "first_credential": Script(METHOD, CUSTOMER, Exchange(200, intent(**charged(), **STORED))),
        "merchant_initiated": Script(Exchange(200, intent(**charged())), source=sdk.SourceKind.TOKEN),
        "merchant_initiated_card": Script(
            METHOD,
            Exchange(200, intent(**charged())),
            verb="create_intent",
            expects=sdk.Approved,
            customer_present=False,
        ),
        "verified": Script(METHOD, Exchange(200, setup("succeeded")), speaks_of_amount=False),
        "verification_declined": Script(
            METHOD,
            Exchange(402, error("card_declined", "<code:do_not_honor>", setup_intent=setup("requires_payment_method"))),
            verb="create_intent",
            expects=sdk.Declined,
            code="do_not_honor",
            capture=False,
            zero=True,
            speaks_of_amount=False,
        ),
        "captured": Script(Exchange(200, captured())),
        "partially_captured": Script(Exchange(200, captured())),
        "capture_declined": Script(Exchange(400, error("<code:charge_expired_for_capture>")), code="not_permitted"),
        "canceled": Script(Exchange(200, canceled())),
        "cancel_declined": Script(
            Exchange(
                400, error("payment_intent_unexpected_state", payment_intent=intent(id="<charge_ref>", manual=True))
            ),
            code="not_permitted",
        ),
        "refunded": Script(Exchange(200, refund())),
        "partially_refunded": Script(Exchange(200, refund())),
        "refund_declined": Script(Exchange(400, error("<code:charge_disputed>")), code="not_permitted"),
        "retrieved": Script(Exchange(200, intent(**charged()))),
        "retrieved_by_reference": Script(listed(intent(**charged()), path=INTENTS)),
        "not_found": Script(listed(path=INTENTS)),
        "retrieved_capture": Script(Exchange(200, captured())),
        "retrieved_void": Script(Exchange(200, canceled())),
        "retrieved_refund": Script(Exchange(200, refund()), psp_ref=REFUND),
    }

    def config(self, url: str) -> Mapping[str, Any]:
        return {"api_key": "sk_test_conformance_long_enough", "webhook_secret": SECRET, "url": url}

    def amount_as_sent(self, money: sdk.Money) -> Any:
        # https://docs.stripe.com/currencies, by hand.
        if money.currency in ("UGX", "IQD", "LYD"):
            return None
        if money.currency == "ISK":
            return money.amount_minor * 100
        if money.currency == "MGA":
            return money.amount_minor // 100
        return money.amount_minor

    def currency_as_sent(self, currency: str) -> str:
        return currency.lower()

    webhook_secret = SECRET
    foreign_secret = "whsec_conformance_2_long_enough"
    webhook_body = json.dumps(
        {
            **SAMPLES["event"],
            "id": "evt_conformance",
            "type": "payment_intent.succeeded",
            "api_version": "2023-08-16",
            "created": int(NOW.timestamp()),
            "request": {"id": "req_1", "idempotency_key": "key_1"},
            "data": {
                "object": intent()
                | {"status": "succeeded", "amount": 12347, "amount_received": 12347, "currency": "eur"}
                | {"metadata": {"operation_id": "op_1"}, "latest_charge": "ch_conformance"}
            },
        },
        indent=2,
    ).encode()

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:
        return self.sign_twice(body, secrets=[secret], at=at)

    def sign_twice(self, body: bytes, *, secrets: Sequence[str], at: datetime) -> Delivery:
        seconds = int(at.timestamp())
        values = [sdk.hmac_hex(one.encode(), f"{seconds}.".encode() + body) for one in secrets]
        return Delivery(
            body, {"Stripe-Signature": ",".join([f"t={seconds}", *(f"v1={one}" for one in values), "v0=1"])}
        )

    webhooks = [
        Delivery(
            webhook_body,
            {
                "stripe-signature": f"t={int(NOW.timestamp())},v1="
                + sdk.hmac_hex(SECRET.encode(), f"{int(NOW.timestamp())}.".encode() + webhook_body)
            },
            news=[sdk.OperationNews],
        )
    ]
