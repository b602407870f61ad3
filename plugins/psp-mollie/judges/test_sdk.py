"""Mollie's own SDK, mollie-api-py (BSD-2), as a judge: of the adapter's requests by its models, of the simulator by its client.

Its models drop names that they do not know, so that a body counts as understood when it comes back unchanged.
"""

from __future__ import annotations

from typing import Any

import pytest
from mollie import ClientSDK, models

KEY = "test_dHar4XY7LxsDOtmnkVtjNVWXLSlXsM"
EUR = {"amount_minor": 1050, "currency": "EUR"}
BACK = {"return_url": "https://shop.example/back", "webhook_url": "https://pay.example/webhooks/abc"}
FIRST = {"initiator": "customer", "purpose": "unscheduled", "first": True, "mandate": "man_1"}
LATER = {"initiator": "merchant", "purpose": "unscheduled", "first": False, "mandate": "man_1"}
MODELS = {
    "payments": models.PaymentRequest,
    "customers": models.EntityCustomer,
    "captures": models.EntityCapture,
    "refunds": models.RefundRequest,
    "release-authorization": models.ReleaseAuthorizationRequestBody,
}


class Shop:
    """The simulator, our adapter and Mollie's client in front of it."""

    def __init__(self, simulator: Any, adapter: Any) -> None:
        self.simulator = simulator("psp-mollie")
        self._adapter = adapter
        self.client = ClientSDK(security=models.Security(api_key=KEY), server_url=self.simulator.url)
        self._made = 0

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """One call of our adapter."""
        self._made += 1
        own = {"operation_id": f"op_{self._made}", "key": f"key-{self._made}", "amount": EUR}
        answers = self._adapter("psp-mollie", {"api_key": KEY, "url": self.simulator.url}, (verb, own | request))
        assert "raised" not in answers[0], answers[0]
        found: dict[str, Any] = answers[0]
        return found


@pytest.fixture
def shop(simulator: Any, adapter: Any) -> Shop:
    return Shop(simulator, adapter)


def plain(model: Any) -> Any:
    """As it would be sent."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


def test_every_request_is_one_of_the_sdks_models_and_comes_back_unchanged(shop: Shop) -> None:
    shop.ask("create_intent", source={"redirect": "ideal"}, metadata={"order": "7"}, description="Order 7", **BACK)
    shop.ask("create_intent", source={"redirect": None}, **BACK)
    first = shop.ask("create_intent", source={"token": "tkn_visa"}, credential=FIRST, customer="cus_1", **BACK)
    stored = {"token": first["stored_token"], "stored": True}
    shop.ask("create_intent", source=stored, credential=LATER, customer_present=False)
    shop.ask("create_intent", source=stored, amount={"amount_minor": 500, "currency": "JPY"}, **BACK)
    held = [shop.ask("create_intent", source={"token": "tkn_visa"}, capture=False, **BACK) for _ in range(2)]
    captured = {"amount_minor": 400, "currency": "EUR"}
    shop.ask("capture", charge_ref=held[0]["psp_ref"], amount=captured)
    shop.ask("refund", charge_ref=held[0]["psp_ref"], amount=captured, reason="returned")
    shop.ask("cancel", charge_ref=held[1]["psp_ref"])
    assert shop.simulator.problems == []
    seen = set()
    for request in shop.simulator.control("GET", "requests"):
        kind, body = request["line"].rpartition("/")[2], request["body"]
        # The reference lets recurring payments go without an address; the model wants it to be said.
        nothing = {"redirectUrl": None} if body.get("sequenceType") == "recurring" else {}
        assert plain(MODELS[kind].model_validate(nothing | body)) == nothing | body
        seen.add(kind)
    assert seen == set(MODELS)


@pytest.mark.parametrize("wrong", [{"amount": {"currency": "EUR"}}, {"captureMode": 1}, {"description": None}])
def test_the_models_refuse_what_is_wrong(wrong: dict[str, Any]) -> None:
    good = {"amount": {"currency": "EUR", "value": "10.00"}, "description": "x", "redirectUrl": "https://shop.example"}
    assert plain(models.PaymentRequest.model_validate(good)) == good
    with pytest.raises(ValueError, match="validation error"):
        models.PaymentRequest.model_validate(good | wrong)


def test_the_sdk_reads_what_the_adapter_did(shop: Shop) -> None:
    made = shop.ask("create_intent", source={"token": "tkn_visa"}, capture=False, metadata={"order": "7"}, **BACK)
    payment = shop.client.payments.get(payment_id=made["psp_ref"])
    assert (payment.status, payment.amount.value, payment.capture_mode) == ("authorized", "10.50", "manual")
    captured = shop.ask("capture", charge_ref=made["psp_ref"])
    listed = shop.client.captures.list(payment_id=made["psp_ref"])
    assert [(one.id, one.status) for one in listed.result.embedded.captures] == [(captured["psp_ref"], "succeeded")]
    refunded = shop.ask("refund", charge_ref=made["psp_ref"], amount={"amount_minor": 50, "currency": "EUR"})
    refunds = shop.client.refunds.list(payment_id=made["psp_ref"])
    assert [(one.id, one.amount.value) for one in refunds.result.embedded.refunds] == [(refunded["psp_ref"], "0.50")]
    assert shop.client.payments.list(limit=1).result.embedded.payments[0].id == made["psp_ref"]


def test_the_sdks_client_works_against_the_simulator_and_the_adapter_reads_what_it_did(shop: Shop) -> None:
    request = {
        "amount": {"currency": "EUR", "value": "10.50"},
        "description": "By the SDK",
        "redirectUrl": "https://shop.example/back",
        "metadata": {"operation_id": "op_sdk"},
        "method": "creditcard",
        "cardToken": "tkn_visa",
        "captureMode": "manual",
    }
    model = models.PaymentRequest.model_validate(request)
    made = shop.client.payments.create(payment_request=model, idempotency_key="sdk-1")
    again = shop.client.payments.create(payment_request=model, idempotency_key="sdk-1")
    assert made.id == again.id
    own = {"operation_id": "op_sdk", "kind": "authorize"}
    assert shop.ask("retrieve", **own)["psp_ref"] == made.id
    shop.client.payments.release_authorization(payment_id=made.id)
    assert shop.client.payments.get(payment_id=made.id).status == "canceled"
    void = shop.ask("retrieve", kind="void", charge_ref=made.id)
    assert (void["outcome"], void["psp_ref"]) == ("approved", f"{made.id}/void")
    with pytest.raises(models.ErrorResponse) as refused:
        shop.client.captures.create(payment_id=made.id, entity_capture={"amount": {"currency": "EUR", "value": "1.00"}})
    assert refused.value.data.status == 422
    customer = shop.client.customers.create(entity_customer={"metadata": {"customer": "cus_1"}})
    assert customer.id.startswith("cst_")


def test_the_sdk_reads_settlements_and_chargebacks_of_the_simulator(shop: Shop) -> None:
    made = shop.ask("create_intent", source={"token": "tkn_visa"}, **BACK)
    shop.simulator.control("POST", "chargeback", {"payment": made["psp_ref"], "value": "1.00", "reason": "AC01"})
    shop.simulator.control("POST", "settle", {"at": "2026-11-23T12:00:00+00:00"})
    backs = shop.client.chargebacks.list(payment_id=made["psp_ref"])
    assert [one.amount.value for one in backs.result.embedded.chargebacks] == ["1.00"]
    books = ClientSDK(
        security=models.Security(advanced_access_token="access_Wwvjgs9a3vXKPWKe"), server_url=shop.simulator.url
    )
    settlement = books.settlements.list().result.embedded.settlements[0]
    listed = books.settlements.list_payments(settlement_id=settlement.id).result.embedded.payments
    assert [(one.id, one.settlement_amount.value) for one in listed] == [(made["psp_ref"], "10.50")]
