"""Stripe's own SDK judges: it works against our simulator, believes what that signs, and knows what our adapter sends."""

from __future__ import annotations

import collections.abc
import re
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl

import pytest
import stripe
import typing_extensions

CONFIG = {"api_key": "sk_test_simulator", "webhook_secret": "whsec_simulator"}
EUR = "EUR"
KEPT = {"initiator": "customer", "purpose": "recurring", "first": True, "mandate": "mdt_1"}


def client(sim: Any) -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_simulator", base_addresses={"api": sim.url}, stripe_version="2023-08-16", max_network_retries=0
    )


def money(minor: int) -> dict[str, Any]:
    return {"amount_minor": minor, "currency": EUR}


def test_the_sdk_pays_captures_cancels_and_refunds(simulator: Any) -> None:
    sim = simulator("psp-stripe")
    api = client(sim).v1
    params = {"amount": 2000, "currency": "eur", "payment_method": "pm_card_visa", "payment_method_types": ["card"]}
    held = api.payment_intents.create({**params, "confirm": True, "capture_method": "manual"})
    assert held.status == "requires_capture"
    taken = api.payment_intents.capture(held.id, {"amount_to_capture": 1500})
    assert (taken.status, taken.amount_received) == ("succeeded", 1500)
    refund = api.refunds.create({"payment_intent": held.id, "amount": 500})
    assert (refund.status, refund.amount) == ("succeeded", 500)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.payment_intents.cancel(held.id)
    assert caught.value.code == "payment_intent_unexpected_state"
    other = api.payment_intents.create({**params, "confirm": True, "capture_method": "manual"})
    assert api.payment_intents.cancel(other.id).status == "canceled"
    listed = [one.id for one in api.payment_intents.list({"limit": 1}).auto_paging_iter()]
    assert listed == [other.id, held.id]
    shown = api.payment_intents.retrieve(held.id, {"expand": ["latest_charge.balance_transaction"]})
    assert shown.latest_charge.balance_transaction.fee == 73
    assert [one.type for one in api.balance_transactions.list().data] == ["refund", "charge"]
    assert sim.problems == []


def test_the_sdk_meets_declines_keys_and_wrong_keys(simulator: Any) -> None:
    sim = simulator("psp-stripe")
    api = client(sim).v1
    params = {"amount": 2000, "currency": "eur", "confirm": True, "payment_method_types": ["card"]}
    with pytest.raises(stripe.CardError) as caught:
        api.payment_intents.create({**params, "payment_method": "pm_card_visa_chargeDeclined"})
    assert caught.value.error.decline_code == "generic_decline"
    assert caught.value.error.payment_intent.status == "requires_payment_method"
    key = {"idempotency_key": "key_1"}
    first = api.payment_intents.create({**params, "payment_method": "pm_card_visa"}, key)
    again = api.payment_intents.create({**params, "payment_method": "pm_card_visa"}, key)
    assert first.id == again.id
    with pytest.raises(stripe.IdempotencyError):
        api.payment_intents.create({**params, "payment_method": "pm_card_visa", "amount": 1}, key)
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient("wrong", base_addresses={"api": sim.url}).v1.payment_intents.list()
    with pytest.raises(stripe.PermissionError):
        stripe.StripeClient("rk_test_forbidden", base_addresses={"api": sim.url}).v1.payment_intents.list()


def test_the_sdk_keeps_a_card_and_charges_it_later(simulator: Any) -> None:
    sim = simulator("psp-stripe")
    api = client(sim).v1
    customer = api.customers.create({"name": "Someone"})
    setup = api.setup_intents.create(
        {"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True, "payment_method_types": ["card"]}
    )
    assert setup.status == "succeeded"
    later = api.payment_intents.create(
        {
            "amount": 700,
            "currency": "eur",
            "customer": customer.id,
            "payment_method": setup.payment_method,
            "confirm": True,
            "off_session": True,
            "payment_method_types": ["card"],
        }
    )
    assert later.status == "succeeded"
    assert [one.id for one in api.customers.payment_methods.list(customer.id).data] == [setup.payment_method]
    assert sim.problems == []


def test_the_sdk_believes_what_the_simulator_signs_and_reads_the_events(simulator: Any) -> None:
    sim = simulator("psp-stripe")
    api = client(sim).v1
    api.payment_intents.create(
        {
            "amount": 700,
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "payment_method_types": ["card"],
        }
    )
    types = []
    for message in sim.webhooks:
        signature = message["headers"]["stripe-signature"]
        event = stripe.Webhook.construct_event(message["body"], signature, "whsec_simulator")
        types.append(event.type)
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.WebhookSignature.verify_header(message["body"] + " ", signature, "whsec_simulator", 300)
    assert types == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    assert [one.type for one in api.events.list().data] == types[::-1]


def test_the_sdk_reads_back_what_the_adapter_did(simulator: Any, adapter: Any) -> None:
    sim = simulator("psp-stripe")
    card = {"card": {"number": "4242424242424242"}}
    charge = {"operation_id": "op_1", "amount": money(1099), "source": card, "return_url": "https://shop.example/back"}
    kept, held, refused, challenged = adapter(
        "psp-stripe",
        CONFIG | {"url": sim.url},
        ("create_intent", charge | {"credential": KEPT, "customer": "cust_1"}),
        ("create_intent", charge | {"operation_id": "op_2", "capture": False, "key": "k2"}),
        (
            "create_intent",
            charge | {"operation_id": "op_3", "key": "k3", "source": {"token": "pm_card_chargeDeclined"}},
        ),
        ("create_intent", charge | {"operation_id": "op_4", "key": "k4", "source": {"redirect": "ideal"}}),
    )
    assert [one["outcome"] for one in (kept, held, refused, challenged)] == [
        "approved",
        "approved",
        "declined",
        "action_required",
    ]
    captured, refunded = adapter(
        "psp-stripe",
        CONFIG | {"url": sim.url},
        ("capture", {"operation_id": "op_5", "key": "k5", "amount": money(1000), "charge_ref": held["psp_ref"]}),
        ("refund", {"operation_id": "op_6", "key": "k6", "amount": money(99), "charge_ref": kept["psp_ref"]}),
    )
    assert (captured["outcome"], refunded["outcome"]) == ("approved", "approved")
    api = client(sim).v1
    paid = api.payment_intents.retrieve(kept["psp_ref"])
    assert (paid.status, paid.amount_received, paid.metadata["operation_id"]) == ("succeeded", 1099, "op_1")
    assert f"{paid.customer}/{paid.payment_method}" == kept["stored_token"]
    assert api.payment_methods.retrieve(paid.payment_method).customer == paid.customer
    taken = api.payment_intents.retrieve(held["psp_ref"])
    assert (taken.amount_received, taken.metadata["capture_operation_id"]) == (1000, "op_5")
    given = api.refunds.retrieve(refunded["psp_ref"])
    assert (given.amount, given.metadata["operation_id"]) == (99, "op_6")
    assert api.payment_intents.retrieve(challenged["psp_ref"]).next_action.redirect_to_url.url
    assert sim.problems == []
    assert unknown_to_the_newest_version(sim.control("GET", "requests")) == []


# The parameters of the newest API version, as the SDK's types name them.
PARAMS = {
    ("POST", r"/v1/payment_methods"): stripe.params.PaymentMethodCreateParams,
    ("POST", r"/v1/customers"): stripe.params.CustomerCreateParams,
    ("POST", r"/v1/payment_intents"): stripe.params.PaymentIntentCreateParams,
    ("POST", r"/v1/setup_intents"): stripe.params.SetupIntentCreateParams,
    ("POST", r"/v1/payment_intents/[^/]+/capture"): stripe.params.PaymentIntentCaptureParams,
    ("POST", r"/v1/payment_intents/[^/]+/cancel"): stripe.params.PaymentIntentCancelParams,
    ("POST", r"/v1/refunds"): stripe.params.RefundCreateParams,
}

# Gone in 2026-10-28.endive, which takes a payment_method_configuration or excluded types instead. In the pinned version, where
# redirects would be offered without it, the adapter must send it.
GONE = "payment_method_types"


def unknown_to_the_newest_version(requests: list[dict[str, Any]]) -> list[str]:
    """Parameters the adapter sent that the SDK's types do not have, or with values that are not among theirs."""
    wrong = []
    for request in requests:
        for (method, pattern), kind in PARAMS.items():
            if request["method"] == method and re.fullmatch(pattern, request["path"]) and request["version"]:
                for name, value in parse_qsl(request["body"]):
                    path = re.findall(r"[^\[\]]+", name)
                    if path[0] == GONE:
                        continue
                    wrong += [f"{request['path']} {name}: {one}" for one in unknown(path, value, kind)]
    return wrong


def unknown(path: list[str], value: str, kind: Any) -> list[str]:
    """What is wrong with one parameter by one type; empty when any arm of it takes it."""
    origin = get_origin(kind)
    if typing_extensions.is_typeddict(kind):
        names = {"StripeContext": object, "Mapping": collections.abc.Mapping}
        hints = typing_extensions.get_type_hints(kind, localns=names)
        return unknown(path[1:], value, hints[path[0]]) if path and path[0] in hints else [f"no {path[:1]}"]
    if origin in (typing_extensions.NotRequired, typing_extensions.Required):
        return unknown(path, value, get_args(kind)[0])
    if origin is Literal:
        return [] if not path and value in get_args(kind) else [f"{value!r} is not among {get_args(kind)}"]
    if origin in (list, collections.abc.Sequence):
        return unknown(path[1:], value, get_args(kind)[0]) if path else ["is no list"]
    if origin in (dict, collections.abc.Mapping):
        return [] if len(path) == 1 else ["is a flat object"]
    if arms := [one for one in get_args(kind) if one is not type(None)]:
        # The newest types add "or any text" to closed lists of values: the list is what counts.
        closed = [one for one in arms if get_origin(one) is Literal]
        judged = [unknown(path, value, one) for one in arms if not (closed and one is str)]
        return [] if [] in judged else judged[0]
    if kind is bool:
        return [] if value in ("true", "false") and not path else [f"{value!r} is no boolean"]
    if kind is int:
        return [] if re.fullmatch(r"-?[0-9]+", value) and not path else [f"{value!r} is no integer"]
    return [] if not path else [f"{kind} has no {path}"]


def test_the_walker_over_the_types_finds_faults() -> None:
    create = stripe.params.PaymentIntentCreateParams
    assert unknown(["no_such_thing"], "1", create) != []
    assert unknown(["capture_method"], "sometimes", create) != []
    assert unknown(["amount"], "ten", create) != []
    assert unknown(["payment_method_options", "card", "network"], "visa", create) == []
