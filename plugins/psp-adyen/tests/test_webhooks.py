"""Adyen's messages: signed per item, by Adyen's own vectors; every published example is read; each event code means one thing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import clearspan.sdk as sdk
from clearspan_psp_adyen import AdyenConfig, webhooks

from .conftest import KEY, delivery

if TYPE_CHECKING:
    from .conftest import World

SPEC = Path(__file__).parent / "spec"
DESCRIBED = json.loads((SPEC / "Webhooks-v1.json").read_text())
VECTORS = json.loads((SPEC / "hmac_vectors.json").read_text())
EXAMPLES = {
    f"{code.strip('/')} {name}": value
    for code, hook in DESCRIBED["webhooks"].items()
    for name, ref in hook["post"]["requestBody"]["content"]["application/json"].get("examples", {}).items()
    for value in [ref.get("value") or DESCRIBED["components"]["examples"][ref["$ref"].split("/")[-1]]["value"]]
}
NEWS = {
    "AUTHORISATION": "charge Approved",
    "CANCELLATION": "void Approved",
    "CANCEL_OR_REFUND": "void Approved",
    "CAPTURE": "capture Approved",
    "CAPTURE_FAILED": "capture Declined",
    "CHARGEBACK": "needs_response",
    "CHARGEBACK_REVERSED": "won",
    "DISPUTE_DEFENSE_PERIOD_ENDED": "lost",
    "INFORMATION_SUPPLIED": "under_review",
    "ISSUER_RESPONSE_TIMEFRAME_EXPIRED": "won",
    "NOTIFICATION_OF_CHARGEBACK": "needs_response",
    "OFFER_CLOSED": "charge Declined",
    "PREARBITRATION_LOST": "lost",
    "PREARBITRATION_WON": "won",
    "REFUND": "refund Declined",  # the published example is of one that failed
    "REFUNDED_REVERSED": "refund Declined",
    "REFUND_FAILED": "refund Declined",
    "REQUEST_FOR_INFORMATION": "inquiry",
    "SECOND_CHARGEBACK": "lost",
    "TECHNICAL_CANCEL": "void Approved",
}


def settings(**fields: Any) -> AdyenConfig:
    return AdyenConfig(**({"api_key": "k", "merchant_account": "TestMerchant", "hmac_key": KEY} | fields))


def signed(item: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    """The item with the signature that Adyen would give it."""
    signature = sdk.hmac_base64(bytes.fromhex(key), webhooks.signed_text(item).encode())
    return item | {"additionalData": item.get("additionalData", {}) | {"hmacSignature": signature}}


def message(*items: dict[str, Any], live: str = "false") -> dict[str, Any]:
    return {"live": live, "notificationItems": [{"NotificationRequestItem": one} for one in items]}


def item(event: str = "AUTHORISATION", **fields: Any) -> dict[str, Any]:
    given = {
        "pspReference": "7914073381342284",
        "merchantReference": "op_1",
        "merchantAccountCode": "TestMerchant",
        "amount": {"currency": "EUR", "value": 1130},
        "eventCode": event,
        "success": "true",
        "eventDate": "2019-05-06T17:15:34.121+02:00",
        "paymentMethod": "visa",
    }
    return given | fields


def read(*items: dict[str, Any], **fields: Any) -> list[sdk.WebhookEvent]:
    return webhooks.events(delivery(message(*map(signed, items))), settings(**fields), live=False)


def word(news: sdk.News | None) -> str | None:
    if isinstance(news, sdk.OperationNews):
        return f"{news.kind} {type(news.outcome).__name__}"
    return news.status.value if isinstance(news, sdk.DisputeNews) else None


# -- signatures ------------------------------------------------------------------------------------------------------------------


def test_the_published_vector_holds() -> None:
    # adyen-python-api-library, test/UtilTest.py
    signed_item = item(merchantReference="TestPayment-1407325143704", operations=["CANCEL", "CAPTURE", "REFUND"])
    text = webhooks.signed_text(signed_item)
    assert text == "7914073381342284::TestMerchant:TestPayment-1407325143704:1130:EUR:AUTHORISATION:true"
    assert sdk.hmac_base64(bytes.fromhex(KEY), text.encode()) == "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="


@pytest.mark.parametrize("name", VECTORS["notificationRequestItems"])
def test_signed_notifications_of_adyens_library_are_read(name: str) -> None:
    vector = VECTORS["notificationRequestItems"][name]
    config = settings(hmac_key=VECTORS["hmacKeyHex"], merchant_account=vector["merchantAccountCode"])
    [event] = webhooks.events(delivery(message(vector)), config, live=False)
    assert isinstance(event.news, sdk.OperationNews)
    assert event.news.reference == vector["merchantReference"]
    assert isinstance(event.news.outcome, sdk.Approved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pspReference", "7914073381342285"),
        ("originalReference", "x"),
        ("merchantReference", "op_2"),
        ("amount", {"currency": "EUR", "value": 1131}),
        ("amount", {"currency": "USD", "value": 1130}),
        ("eventCode", "CAPTURE"),
        ("success", "false"),
    ],
)
def test_a_changed_field_breaks_the_signature(field: str, value: Any) -> None:
    with pytest.raises(sdk.WebhookRejected):
        webhooks.events(delivery(message(signed(item()) | {field: value})), settings(), live=False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"live": "false", "notificationItems": []}',
        json.dumps(message(item())).encode(),
        json.dumps(message(item(additionalData={"hmacSignature": "x"}))).encode(),
        json.dumps(message(signed(item(), "00" * 32))).encode(),
        json.dumps(message(signed(item()), item())).encode(),  # one of two is not signed
        json.dumps(message(signed(item()), live="true")).encode(),
        json.dumps(message(signed(item(merchantAccountCode="Other")))).encode(),
        json.dumps(message(item(amount="x", additionalData={"hmacSignature": "x"}))).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_not_signed_for_this_account_is_not_believed(body: bytes) -> None:
    with pytest.raises(sdk.WebhookRejected):
        webhooks.events(delivery(body), settings(), live=False)


def test_the_published_vector_of_a_message_signed_as_a_whole_holds() -> None:
    # adyen-python-api-library, test/UtilTest.py
    vector = json.loads((SPEC / "payload_vector.json").read_text())
    body, signature = vector["body"].encode(), vector["signature"]
    [event] = webhooks.events(
        delivery(body, hmacsignature=signature), settings(hmac_key=vector["hmacKeyHex"]), live=False
    )
    assert event.type == "merchant.created"
    with pytest.raises(sdk.WebhookRejected):
        webhooks.events(delivery(body + b" ", hmacsignature=signature), settings(), live=False)
    with pytest.raises(sdk.WebhookRejected):
        webhooks.events(delivery(body, hmacsignature=signature), settings(), live=True)


def test_basic_authentication_is_demanded_when_it_is_set_up() -> None:
    config, body = settings(webhook_username="adyen", webhook_password="pässword"), message(signed(item()))
    right = "Basic " + base64.b64encode("adyen:pässword".encode()).decode()
    assert len(webhooks.events(delivery(body, authorization=right), config, live=False)) == 1
    for wrong in ("", "Basic YWR5ZW46eA=="):
        with pytest.raises(sdk.WebhookRejected):
            webhooks.events(delivery(body, authorization=wrong), config, live=False)


# -- what they say ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_published_example_is_read(name: str) -> None:
    """The examples' signatures are ellipses, so they are signed here with a key of ours."""
    example = EXAMPLES[name]
    if "notificationItems" not in example:  # signed as a whole
        raw = json.dumps(example).encode()
        headers = {"hmacsignature": sdk.hmac_base64(bytes.fromhex(KEY), raw)}
        [event] = webhooks.events(delivery(raw, **headers), settings(), live=False)
        assert (event.type, event.news) == (example["type"], None)
        return
    items = [wrapper["NotificationRequestItem"] for wrapper in example["notificationItems"]]
    config = settings(merchant_account=items[0]["merchantAccountCode"])
    body = message(*map(signed, items), live=example["live"])
    [event] = webhooks.events(delivery(body), config, live=example["live"] == "true")
    assert event.type == items[0]["eventCode"]
    assert word(event.news) == NEWS.get(event.type)


def test_there_are_forty_two_examples_and_every_event_code_is_known() -> None:
    codes = {code.strip("/") for code in DESCRIBED["webhooks"]}
    assert len(EXAMPLES) == 42
    assert set(NEWS) <= codes
    assert set(webhooks.DISPUTES) | set(webhooks.MODIFICATIONS) <= codes


def test_one_message_may_hold_several_items() -> None:
    refund = item("REFUND", pspReference="ref2", originalReference="ref1", merchantReference="op_2")
    first, second = read(item(), refund)
    assert (first.event_id, second.event_id) == ("AUTHORISATION/7914073381342284/true", "REFUND/ref2/true")
    assert isinstance(second.news, sdk.OperationNews)
    assert (second.news.charge_ref, second.news.psp_ref) == ("ref1", "ref2")


def test_a_refused_authorisation_is_normalised_by_its_words() -> None:
    extra = {"refusalReasonRaw": "51 : Insufficient funds", "merchantAdviceCode": "24 : Retry after 1 hour"}
    [event] = read(item(success="false", reason="Not enough balance", additionalData=extra))
    assert isinstance(event.news, sdk.OperationNews)
    assert isinstance(event.news.outcome, sdk.Declined)
    said = event.news.outcome
    assert (said.code, said.network_code, said.advice) == ("insufficient_funds", "51", "24")


def test_an_authorisation_tells_what_later_payments_rest_on() -> None:
    extra = {
        "networkTxReference": "483297487231504",
        "tokenization.storedPaymentMethodId": "M5N7TQ4TG5PFWR50",
        "metadata.clearspan_payment": "pay_1",
    }
    [event] = read(item(additionalData=extra))
    assert isinstance(event.news, sdk.OperationNews)
    assert isinstance(event.news.outcome, sdk.Approved)
    assert event.news.outcome.network_transaction_id == "483297487231504"
    assert event.news.outcome.stored_token == "M5N7TQ4TG5PFWR50"
    assert event.news.metadata == {"clearspan_payment": "pay_1"}
    assert event.news.at is not None
    assert event.news.at.isoformat() == "2019-05-06T15:15:34.121000+00:00"


@pytest.mark.parametrize(
    ("event", "fields", "said"),
    [
        ("CAPTURE", {"success": "false"}, "capture Declined"),
        ("CANCELLATION", {"success": "false"}, "void Declined"),
        ("REFUND", {}, "refund Approved"),
        ("CANCEL_OR_REFUND", {"additionalData": {"modification.action": "refund"}}, "refund Approved"),
        ("CHARGEBACK", {"additionalData": {"disputeStatus": "Lost"}}, "lost"),
        ("CHARGEBACK", {"additionalData": {"disputeStatus": "Undefended"}}, "needs_response"),
        ("NOTIFICATION_OF_CHARGEBACK", {"additionalData": {"disputeStatus": "Pending"}}, "under_review"),
        ("DISPUTE_DEFENSE_PERIOD_ENDED", {}, "expired"),
        ("PREARBITRATION_OPEN", {}, "pre_arbitration"),
        ("REPORT_AVAILABLE", {}, None),
        ("NOTIFICATION_OF_FRAUD", {}, None),
        ("AN_EVENT_OF_NEXT_YEAR", {}, None),
    ],
)
def test_what_an_event_means(event: str, fields: dict[str, Any], said: str | None) -> None:
    assert word(read(item(event, **fields))[0].news) == said


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("AUTHORISATION", {"success": "perhaps"}),
        ("CAPTURE_FAILED", {"success": "false"}),
        ("CHARGEBACK", {"success": "false"}),
        ("CANCEL_OR_REFUND", {}),
        ("REFUND", {"amount": {"currency": "XTS", "value": 1}}),
        ("REFUND", {"amount": {"currency": "CLP", "value": 1}}),
        ("REFUND", {"amount": {"currency": "EUR", "value": "1"}}),
    ],
)
def test_what_is_signed_and_not_documented_is_kept_for_a_human(event: str, fields: dict[str, Any]) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        read(item(event, **fields))


def test_a_dispute_holds_its_reason_and_its_deadline() -> None:
    example = next(one for name, one in EXAMPLES.items() if name.startswith("CHARGEBACK "))
    [wrapper] = example["notificationItems"]
    [event] = read(wrapper["NotificationRequestItem"], merchant_account="YOUR_MERCHANT_ACCOUNT")
    found = event.news
    assert isinstance(found, sdk.DisputeNews)
    assert (found.dispute_ref, found.charge_ref, found.network_code) == ("QFQTPCQ8HXSKGK82", "9913140798220028", "4853")
    assert found.evidence_due_at is not None
    assert found.evidence_due_at.isoformat() == "2021-07-31T01:03:07+00:00"


async def test_what_the_simulator_sends_is_believed_and_says_what_was_answered(world: World) -> None:
    request = world.charge(metadata={"order": "7"})
    outcome = await world.psp.create_intent(request)
    [event] = await world.last_webhook()
    assert isinstance(event.news, sdk.OperationNews)
    assert isinstance(event.news.outcome, sdk.Approved)
    assert (event.news.reference, event.news.psp_ref) == (request.operation_id, outcome.psp_ref)
    assert event.news.outcome.network_transaction_id == outcome.network_transaction_id
    assert event.news.metadata == {"order": "7"}


@pytest.mark.parametrize(
    ("event", "said"),
    [("CHARGEBACK", "needs_response"), ("REQUEST_FOR_INFORMATION", "inquiry"), ("REFUND_FAILED", "refund Declined")],
)
async def test_what_nobody_asked_for_is_told_too(world: World, event: str, said: str) -> None:
    charge = await world.psp.create_intent(world.charge())
    await world.control("event", {"charge": charge.psp_ref, "event": event})
    [found] = await world.last_webhook()
    assert word(found.news) == said
