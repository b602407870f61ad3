"""Square's own SDK is at home at our simulator, agrees with our signatures, and reads back what our adapter did."""

from __future__ import annotations

from typing import Any

import pytest
from providers.judging import http
from square import Square
from square.core.api_error import ApiError
from square.environment import SquareEnvironment
from square.utils.webhooks_helper import verify_signature

LOCATION = "LEUR0000MAIN1"
TOKEN = "EAAAjudge_access_token"
SPEC = "plugins/psp-square/tests/spec/api.subset.json"
EUROS = {"amount_minor": 12347, "currency": "EUR"}
REFERENCE = "op_01h455vb4pex5vsknk084sn02q"


def config(url: str, **more: str) -> dict[str, str]:
    return {"access_token": TOKEN, "location_id": LOCATION, "url": url, **more}


def sdk(url: str) -> Square:
    return Square(token=TOKEN, base_url=url, environment=SquareEnvironment.SANDBOX)


def test_the_sdk_pays_captures_cancels_refunds_and_lists(simulator: Any) -> None:
    sim = simulator("psp-square")
    client = sdk(sim.url)
    paid = client.payments.create(
        source_id="cnon:card-nonce-ok",
        idempotency_key="judge-1",
        amount_money={"amount": 1000, "currency": "EUR"},
        location_id=LOCATION,
        reference_id="order-1",
    ).payment
    assert paid is not None and paid.status == "COMPLETED" and paid.reference_id == "order-1"
    held = client.payments.create(
        source_id="cnon:card-nonce-ok",
        idempotency_key="judge-2",
        amount_money={"amount": 900, "currency": "EUR"},
        autocomplete=False,
        location_id=LOCATION,
    ).payment
    assert held is not None and held.id is not None and held.status == "APPROVED"
    client.payments.update(
        held.id, idempotency_key="judge-3", payment={"amount_money": {"amount": 400, "currency": "EUR"}}
    )
    done = client.payments.complete(held.id).payment
    assert (
        done is not None
        and done.status == "COMPLETED"
        and done.total_money is not None
        and done.total_money.amount == 400
    )
    refund = client.refunds.refund_payment(
        idempotency_key="judge-4", payment_id=paid.id, amount_money={"amount": 300, "currency": "EUR"}, reason="judged"
    ).refund
    assert refund is not None and refund.status == "PENDING"
    assert client.refunds.get(refund.id).refund == refund
    customer = client.customers.create(idempotency_key="judge-5", given_name="judge").customer
    card = client.cards.create(
        idempotency_key="judge-6", source_id=paid.id or "", card={"customer_id": customer.id}
    ).card
    assert card is not None and card.id is not None and card.id.startswith("ccof:")
    assert {one.id for one in client.payments.list(location_id=LOCATION)} == {paid.id, held.id}
    assert sim.problems == []


def test_the_sdk_reads_payouts_and_their_entries(simulator: Any) -> None:
    sim = simulator("psp-square")
    client = sdk(sim.url)
    paid = client.payments.create(
        source_id="cnon:card-nonce-ok",
        idempotency_key="judge-8",
        amount_money={"amount": 1000, "currency": "EUR"},
        location_id=LOCATION,
    ).payment
    assert paid is not None
    made = sim.control("POST", "payout")
    (payout,) = client.payouts.list(location_id=LOCATION)
    assert payout.id == made["id"] and payout.type == "BATCH"
    assert payout.amount_money is not None and payout.amount_money.amount == 980
    (entry,) = client.payouts.list_entries(payout.id)
    assert entry.type == "CHARGE" and entry.type_charge_details is not None
    assert entry.type_charge_details.payment_id == paid.id
    assert entry.fee_amount_money is not None and entry.fee_amount_money.amount == 20
    assert sim.problems == []


def test_the_sdk_meets_a_decline_as_square_words_it(simulator: Any) -> None:
    sim = simulator("psp-square")
    with pytest.raises(ApiError) as refused:
        sdk(sim.url).payments.create(
            source_id="cnon:card-nonce-declined",
            idempotency_key="judge-7",
            amount_money={"amount": 1000, "currency": "EUR"},
            location_id=LOCATION,
        )
    assert refused.value.status_code == 400
    assert refused.value.body["errors"][0]["code"] == "GENERIC_DECLINE"


def test_the_sdk_reads_back_what_the_adapter_did(simulator: Any, adapter: Any) -> None:
    sim = simulator("psp-square")
    first = {"initiator": "customer", "purpose": "unscheduled", "first": True, "mandate": "mandate_1"}
    nonce = {"token": "cnon:card-nonce-ok"}
    (paid,) = adapter(
        "psp-square",
        config(sim.url),
        ("create_intent", {"amount": EUROS, "source": nonce, "credential": first, "customer": "cus_1"}),
    )
    assert paid["outcome"] == "approved", paid
    refund, later = adapter(
        "psp-square",
        config(sim.url),
        (
            "refund",
            {"operation_id": "op_r", "key": "k2", "amount": EUROS, "charge_ref": paid["psp_ref"], "reason": "late"},
        ),
        (
            "create_intent",
            {
                "operation_id": "op_l",
                "key": "k3",
                "amount": EUROS,
                "capture": False,
                "customer_present": False,
                "source": {"token": paid["stored_token"], "stored": True},
            },
        ),
    )
    client = sdk(sim.url)
    seen = client.payments.get(paid["psp_ref"]).payment
    assert seen is not None and seen.reference_id == REFERENCE and seen.status == "COMPLETED"
    back = client.refunds.get(refund["psp_ref"]).refund
    assert back is not None and back.reason == "op_r late" and back.amount_money.amount == EUROS["amount_minor"]
    on_file = client.payments.get(later["psp_ref"]).payment
    assert (
        on_file is not None
        and on_file.status == "APPROVED"
        and on_file.customer_id == paid["stored_token"].split("|")[1]
    )
    assert sim.problems == []


def test_the_sdk_believes_the_simulators_messages_and_the_adapter_does_too(simulator: Any, adapter: Any) -> None:
    sim = simulator("psp-square")
    url, secret = "https://gateway.example/webhooks/abc", "judges_signature_key"
    sim.control("POST", "webhook", {"url": url, "secret": secret})
    keys = config(sim.url, webhook_signature_key=secret, notification_url=url)
    adapter("psp-square", keys, ("create_intent", {"amount": EUROS, "source": {"token": "cnon:card-nonce-ok"}}))
    (message,) = sim.webhooks
    signature = message["headers"]["x-square-hmacsha256-signature"]
    for body, truth in ((message["body"], True), (message["body"].replace("12347", "12348"), False)):
        said = verify_signature(
            request_body=body, signature_header=signature, signature_key=secret, notification_url=url
        )
        assert said is truth
        (ours,) = adapter("psp-square", keys, ("verify_webhook", {"headers": message["headers"], "body": body}))
        assert ("events" in ours) is truth, ours
        assert truth or ours["raised"] == "WebhookRejected"


EXAMPLE = "R2B3Z8WMVt3EAmzYWLZvz7Y69EbZY"
CALLS: list[tuple[str, dict[str, Any] | None]] = [
    (
        "create_intent",
        {"amount": EUROS, "source": {"token": "cnon:card-nonce-ok|verf:abc"}, "description": "two shirts"},
    ),
    ("create_intent", {"amount": EUROS, "capture": False, "source": {"token": "ccof:card|CUSTOMER", "stored": True}}),
    ("capture", {"amount": EUROS, "charge_ref": EXAMPLE}),
    ("cancel", {"amount": EUROS, "charge_ref": EXAMPLE}),
    ("refund", {"amount": EUROS, "charge_ref": EXAMPLE, "reason": "late"}),
    ("retrieve", {"kind": "purchase", "amount": EUROS, "created_at": "2026-11-23T12:00:00Z"}),
    ("retrieve", {"kind": "refund", "amount": EUROS, "charge_ref": EXAMPLE}),
    ("retrieve", {"kind": "capture", "amount": EUROS, "charge_ref": EXAMPLE}),
    ("check_account", None),
]


def test_prism_takes_every_request_of_the_adapter(prism: Any, adapter: Any) -> None:
    """Prism answers with Square's examples, which are about other payments: what counts is that it never answered 4xx."""
    for call, said in zip(CALLS, adapter("psp-square", config(prism(SPEC)), *CALLS), strict=True):
        assert said.get("raised") in (None, "OutcomeUnknown"), (call, said)
        assert "answered 4" not in said.get("message", ""), (call, said)
        assert "as documented" not in said.get("message", ""), (call, said)


def test_prism_refuses_what_is_not_as_described(prism: Any) -> None:
    body = {"source_id": "cnon:card-nonce-ok", "idempotency_key": "k" * 46}
    status, said = http("POST", f"{prism(SPEC)}/v2/payments", body, {"Authorization": "Bearer x"})
    assert (status, said["validation"][0]["code"]) == (422, "maxLength")
