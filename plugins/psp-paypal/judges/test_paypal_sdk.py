"""PayPal's own SDK against our simulator, and reading what our adapter did there."""

from __future__ import annotations

from typing import Any

import pytest
from paypalserversdk.configuration import Configuration, Environment
from paypalserversdk.exceptions.error_exception import ErrorException
from paypalserversdk.http.auth.o_auth_2 import ClientCredentialsAuthCredentials
from paypalserversdk.models.amount_with_breakdown import AmountWithBreakdown
from paypalserversdk.models.capture_request import CaptureRequest
from paypalserversdk.models.card_request import CardRequest
from paypalserversdk.models.checkout_payment_intent import CheckoutPaymentIntent
from paypalserversdk.models.money import Money
from paypalserversdk.models.order_request import OrderRequest
from paypalserversdk.models.payment_source import PaymentSource
from paypalserversdk.models.purchase_unit_request import PurchaseUnitRequest
from paypalserversdk.models.refund_request import RefundRequest
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient

WEBHOOK = "4JH86294D6297924G"


@pytest.fixture
def client(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, PaypalServersdkClient]:
    paypal = simulator("psp-paypal")
    places = dict.fromkeys(Configuration.environments[Environment.SANDBOX], paypal.url)
    monkeypatch.setitem(Configuration.environments, Environment.SANDBOX, places)
    credentials = ClientCredentialsAuthCredentials("simulator", "simulated")
    return paypal, PaypalServersdkClient(
        client_credentials_auth_credentials=credentials, environment=Environment.SANDBOX
    )


def ordered(intent: str, number: str = "4242424242424242") -> OrderRequest:
    amount = AmountWithBreakdown(currency_code="EUR", value="10.00")
    card = CardRequest(number=number, expiry="2031-12", security_code="123")
    unit = PurchaseUnitRequest(amount=amount, custom_id="op_1", invoice_id="op_1")
    return OrderRequest(
        intent=CheckoutPaymentIntent.CAPTURE if intent == "CAPTURE" else CheckoutPaymentIntent.AUTHORIZE,
        purchase_units=[unit],
        payment_source=PaymentSource(card=card),
    )


def full(body: Any, key: str) -> dict[str, Any]:
    return {"body": body, "paypal_request_id": key, "prefer": "return=representation"}


def test_the_sdk_charges_and_refunds(client: tuple[Any, PaypalServersdkClient]) -> None:
    paypal, sdk = client
    order = sdk.orders.create_order(full(ordered("CAPTURE"), "k1")).body
    [capture] = order.purchase_units[0].payments.captures
    assert (order.status, capture.status, capture.amount.value) == ("COMPLETED", "COMPLETED", "10.00")
    again = sdk.orders.create_order(full(ordered("CAPTURE"), "k1")).body
    assert again.id == order.id
    refund = sdk.payments.refund_captured_payment(
        full(RefundRequest(amount=Money("EUR", "4.00"), invoice_id="op_2"), "k2") | {"capture_id": capture.id}
    ).body
    assert sdk.payments.get_refund({"refund_id": refund.id}).body.status == "COMPLETED"
    assert [one["refunded_minor"] for one in paypal.charges] == [400]
    assert paypal.problems == []


def test_the_sdk_authorises_captures_and_voids(client: tuple[Any, PaypalServersdkClient]) -> None:
    paypal, sdk = client
    order = sdk.orders.create_order(full(ordered("AUTHORIZE"), "k1")).body
    [held] = order.purchase_units[0].payments.authorizations
    part = CaptureRequest(amount=Money("EUR", "4.00"), invoice_id="op_2", final_capture=False)
    capture = sdk.payments.capture_authorized_payment(full(part, "k2") | {"authorization_id": held.id}).body
    assert capture.status == "COMPLETED"
    voided = sdk.payments.void_payment({"authorization_id": held.id, "prefer": "return=representation"}).body
    assert voided.status == "VOIDED"
    assert paypal.problems == []


def test_the_sdk_sees_refusals(client: tuple[Any, PaypalServersdkClient]) -> None:
    _, sdk = client
    order = sdk.orders.create_order(full(ordered("CAPTURE", "4000000000009995"), "k1")).body
    [capture] = order.purchase_units[0].payments.captures
    assert (capture.status, capture.processor_response.response_code) == ("DECLINED", "5120")
    with pytest.raises(ErrorException) as refused:
        sdk.payments.refund_captured_payment(full(RefundRequest(), "k2") | {"capture_id": "0AB"})
    assert refused.value.response_code == 404


def test_the_sdk_reads_what_our_adapter_did(client: tuple[Any, PaypalServersdkClient], adapter: Any) -> None:
    paypal, sdk = client
    config = {"client_id": "a", "client_secret": "b", "webhook_id": WEBHOOK, "url": paypal.url}
    asked = {"operation_id": "op_1", "key": "key1", "amount": {"amount_minor": 1099, "currency": "EUR"}}
    card = {"card": {"number": "4242424242424242"}}
    [done] = adapter("psp-paypal", config, ("create_intent", asked | {"source": card, "capture": False}))
    assert done["outcome"] == "approved"
    again = {"operation_id": "op_2", "key": "key2", "amount": {"amount_minor": 500, "currency": "EUR"}}
    [taken] = adapter("psp-paypal", config, ("capture", again | {"charge_ref": done["psp_ref"], "final": True}))
    order = sdk.orders.get_order({"id": done["psp_ref"]}).body
    [held] = order.purchase_units[0].payments.authorizations
    [capture] = order.purchase_units[0].payments.captures
    assert (order.purchase_units[0].custom_id, held.amount.value, held.status) == ("op_1", "10.99", "CAPTURED")
    assert (capture.id, capture.invoice_id, capture.amount.value) == (taken["psp_ref"], "op_2", "5.00")
    assert paypal.problems == []
