"""Signatures over raw bytes, certificates that lead to a root, and what each message says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from described import SPEC, schemas
from simulator import Signer, certificate

import clearspan.sdk as sdk
from clearspan_psp_paypal import webhooks
from clearspan_psp_paypal.webhooks import Signatures

NOW = datetime.now(UTC)
URL = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77"
WEBHOOK = "4JH86294D6297924G"
S = sdk.DisputeStatus


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    return Signer()


def delivery(signer: Signer, body: bytes = b"{}", at: datetime = NOW, **changed: str) -> sdk.WebhookDelivery:
    """A message as PayPal signs it; ``changed`` headers after that."""
    time = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {
        "paypal-transmission-id": "69cd13f0-d67a-11e5-baa3-778b53f4ae55",
        "paypal-transmission-time": time,
        "paypal-transmission-sig": signer.sign(f"69cd13f0-d67a-11e5-baa3-778b53f4ae55|{time}|{WEBHOOK}|{crc32(body)}"),
        "paypal-cert-url": URL,
        "paypal-auth-algo": "SHA256withRSA",
    }
    headers |= {f"paypal-{name.replace('_', '-')}": value for name, value in changed.items()}
    return sdk.WebhookDelivery(headers=headers, body=body, query={}, received_at=NOW)


class Certificates:
    """A host of certificates."""

    def __init__(self, pem: bytes, status: int = 200) -> None:
        self.asked: list[str] = []
        self.pem, self.status = pem, status

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        return httpx.Response(self.status, content=self.pem)


def checked(certificates: Any, roots: bytes, webhook: str = WEBHOOK, url: str = "") -> Signatures:
    http = httpx.AsyncClient(transport=httpx.MockTransport(certificates))
    return Signatures(http, webhook, roots=roots.decode(), url=url)


async def test_a_message_is_believed_and_its_certificate_kept(signer: Signer) -> None:
    certificates = Certificates(signer.chain)
    signatures = checked(certificates, signer.roots)
    for body in (b'{"id": "WH-1"}', '{"id": "WH-2", "name": "Zoë \\u00eb"}'.encode()):
        await signatures.check(delivery(signer, body))
    assert certificates.asked == [URL]


@pytest.mark.parametrize(
    "changed",
    [
        {"transmission_sig": "AAAA"},
        {"transmission_sig": "not base64!"},
        {"transmission_sig": ""},
        {"transmission_id": "another"},
        {"transmission_time": (NOW - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")},
        {"transmission_time": "yesterday"},
        {"transmission_time": "2026-11-23T12:00:00"},
        {"auth_algo": "SHA1withRSA"},
        {"cert_url": ""},
    ],
    ids=lambda changed: "-".join(f"{name}={value[:12]}" for name, value in changed.items()),
)
async def test_a_changed_header_is_refused(signer: Signer, changed: dict[str, str]) -> None:
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(signer.chain), signer.roots).check(delivery(signer, **changed))


async def test_another_body_or_webhook_is_refused(signer: Signer) -> None:
    message = delivery(signer)
    other = sdk.WebhookDelivery(headers=message.headers, body=b"{ }", query={}, received_at=NOW)
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(signer.chain), signer.roots).check(other)
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(signer.chain), signer.roots, "9XL90610J3647323C").check(message)


@pytest.mark.parametrize(
    ("away", "good"),
    [
        (timedelta(days=-3), True),  # PayPal still repeats it
        (timedelta(days=-3, minutes=-6), False),
        (timedelta(minutes=4), True),
        (timedelta(minutes=6), False),
    ],
)
async def test_old_and_future_messages_are_refused(signer: Signer, away: timedelta, good: bool) -> None:
    signatures = checked(Certificates(signer.chain), signer.roots)
    if good:
        await signatures.check(delivery(signer, at=NOW + away))
    else:
        with pytest.raises(sdk.WebhookRejected):
            await signatures.check(delivery(signer, at=NOW + away))


@pytest.mark.parametrize(
    "address",
    [
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1",
        "https://evilpaypal.com/v1/notifications/certs/CERT-1",
        "https://paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://user@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../webhooks",
        "https://api.paypal.com/v1/notifications/certs/CERT-1?next=https://evil.example",
        "https://api.paypal.com/cgi-bin/webscr",
        "file:///etc/passwd",
    ],
)
async def test_no_other_address_is_asked_for_a_certificate(signer: Signer, address: str) -> None:
    certificates = Certificates(signer.chain)
    with pytest.raises(sdk.WebhookRejected):
        await checked(certificates, signer.roots).check(delivery(signer, cert_url=address))
    assert certificates.asked == []


async def test_a_chain_to_another_root_is_refused(signer: Signer) -> None:
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(signer.chain), Signer().roots).check(delivery(signer))


async def test_the_public_roots_do_not_vouch_for_a_stranger(signer: Signer) -> None:
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(signer.chain), b"").check(delivery(signer))


@pytest.mark.parametrize(("name", "days"), [("messages.paypal.com.evil.example", 30), ("messages.paypal.com", 0)])
async def test_a_certificate_for_another_name_or_time_is_refused(signer: Signer, name: str, days: int) -> None:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    root = certificate("Root", root_key.public_key(), "Root", root_key, NOW, authority=True)
    leaf = certificate(name, key.public_key(), "Root", root_key, NOW - timedelta(minutes=1), days=days)
    signer = Signer.__new__(Signer)
    signer.key = key
    pem = leaf.public_bytes(Encoding.PEM)
    with pytest.raises(sdk.WebhookRejected):
        await checked(Certificates(pem), root.public_bytes(Encoding.PEM)).check(delivery(signer))


async def test_without_the_certificate_the_message_must_come_again(signer: Signer) -> None:
    with pytest.raises(sdk.PspUnavailable):
        await checked(Certificates(b"", 503), signer.roots).check(delivery(signer))
    for pem, status in ((b"", 404), (b"no PEM", 200), (signer.chain + b"\n" * 65_536, 200)):
        with pytest.raises(sdk.WebhookRejected):
            await checked(Certificates(pem, status), signer.roots).check(delivery(signer))


async def test_the_signed_text_is_the_published_one() -> None:
    """Only the certificate of the published vector is missing: ours, of that year, signs the text that the vector names."""
    vector = json.loads((SPEC / "webhook_vector.json").read_text())
    at = datetime(2015, 5, 18, 15, 46, tzinfo=UTC)
    signer = Signer(at)
    headers = {
        "paypal-transmission-id": vector["transmission_id"],
        "paypal-transmission-time": vector["transmission_time"],
        "paypal-transmission-sig": signer.sign(vector["signed_string"]),
        "paypal-cert-url": URL,
        "paypal-auth-algo": "SHA256withRSA",
    }
    message = sdk.WebhookDelivery(headers=headers, body=vector["body"].encode(), query={}, received_at=at)
    await checked(Certificates(signer.chain), signer.roots, vector["webhook_id"]).check(message)
    [event] = webhooks.events(message.body)  # a sale of the first payments API: none of ours
    assert (event.event_id, event.news) == ("WH-0G2756385H040842W-5Y612302CV158622M", None)


def told(kind: str, resource: dict[str, Any]) -> Any:
    [event] = webhooks.events(json.dumps({"id": "WH-1", "event_type": kind, "resource": resource}).encode())
    return event.news


def payment(status: str, order: str | None = "ORDER1", authorization: str | None = None, **more: Any) -> dict[str, Any]:
    related = {"order_id": order, "authorization_id": authorization}
    return {
        "id": "PAY1",
        "status": status,
        "amount": {"currency_code": "EUR", "value": "10.00"},
        "custom_id": "op_charge",
        "invoice_id": "op_charge",
        "supplementary_data": {"related_ids": {name: ref for name, ref in related.items() if ref}},
    } | more


@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [
        ("PAYMENT.CAPTURE.COMPLETED", "COMPLETED", sdk.Approved),
        ("PAYMENT.CAPTURE.PENDING", "PENDING", sdk.Pending),
        ("PAYMENT.CAPTURE.DENIED", "DECLINED", sdk.Declined),
        ("PAYMENT.CAPTURE.DECLINED", "DECLINED", sdk.Declined),
        ("PAYMENT.AUTHORIZATION.CREATED", "CREATED", sdk.Approved),
    ],
)
def test_a_charge_is_told_by_its_order(kind: str, status: str, outcome: type) -> None:
    news = told(kind, payment(status))
    assert isinstance(news, sdk.OperationNews)
    assert (news.kind, news.reference, news.outcome.psp_ref) == ("charge", "op_charge", "ORDER1")
    assert isinstance(news.outcome, outcome)
    assert news.capture is ("CAPTURE" in kind)


def test_a_capture_of_an_authorisation_is_told_by_its_own_id() -> None:
    ours = told("PAYMENT.CAPTURE.COMPLETED", payment("COMPLETED", "ORDER1", "AUTH1", invoice_id="op_capture"))
    assert (ours.kind, ours.reference, ours.charge_ref) == ("capture", "op_capture", "ORDER1")
    assert ours.outcome.psp_ref == "PAY1"
    dashboard = told("PAYMENT.CAPTURE.COMPLETED", payment("COMPLETED", "ORDER1", "AUTH1"))
    assert dashboard.reference is None  # it has inherited the charge's ids, and is not the charge


@pytest.mark.parametrize(
    ("kind", "status"), [("PAYMENT.CAPTURE.REFUNDED", "COMPLETED"), ("PAYMENT.REFUND.FAILED", "FAILED")]
)
def test_a_refund_is_told(kind: str, status: str) -> None:
    news = told(kind, payment(status, None, invoice_id="op_refund"))
    assert (news.kind, news.reference, news.outcome.psp_ref) == ("refund", "op_refund", "PAY1")
    assert isinstance(news.outcome, sdk.Approved if status == "COMPLETED" else sdk.Declined)


def test_what_does_not_say_enough_is_looked_up() -> None:
    assert told("CHECKOUT.ORDER.APPROVED", {"id": "O1", "status": "APPROVED"}) == sdk.Hint(kind="charge", psp_ref="O1")
    assert told("PAYMENT.AUTHORIZATION.VOIDED", payment("VOIDED")) == sdk.Hint(kind="void", psp_ref="ORDER1/void")
    assert told("PAYMENT.CAPTURE.COMPLETED", payment("COMPLETED", None)) == sdk.Hint(
        kind="charge", reference="op_charge"
    )
    assert told("BILLING.PLAN.CREATED", {}) is None


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"id": "WH-1"}', b"\xff"])
def test_a_signed_message_that_cannot_be_read_is_kept(body: bytes) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        webhooks.events(body)


def test_money_taken_back_waits_for_a_human() -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        told("PAYMENT.CAPTURE.REVERSED", payment("COMPLETED", None))


def dispute(status: str, stage: str = "CHARGEBACK", code: str | None = None) -> dict[str, Any]:
    return {
        "dispute_id": "PP-D-27803",
        "status": status,
        "dispute_life_cycle_stage": stage,
        "dispute_outcome": {"outcome_code": code} if code else {},
        "dispute_amount": {"currency_code": "EUR", "value": "10.00"},
        "reason": "UNAUTHORISED",
        "external_reason_code": "10.4",
        "seller_response_due_date": "2026-12-01T00:00:00.000Z",
        "disputed_transactions": [{"seller_transaction_id": "PAY1", "custom": "op_charge"}],
    }


def test_every_documented_state_of_a_dispute_has_a_meaning() -> None:
    found = schemas("customer_disputes_v1")
    for stage in found["dispute_lifecycle_stage"]["enum"]:
        for status in set(found["status"]["enum"]) - {"RESOLVED"}:
            assert isinstance(told("CUSTOMER.DISPUTE.UPDATED", dispute(status, stage)), sdk.DisputeNews)
        for code in found["dispute_outcome"]["properties"]["outcome_code"]["enum"]:
            assert isinstance(told("CUSTOMER.DISPUTE.RESOLVED", dispute("RESOLVED", stage, code)), sdk.DisputeNews)


@pytest.mark.parametrize(
    ("status", "stage", "code", "expected"),
    [
        ("OPEN", "INQUIRY", None, S.INQUIRY),
        ("WAITING_FOR_SELLER_RESPONSE", "CHARGEBACK", None, S.NEEDS_RESPONSE),
        ("UNDER_REVIEW", "CHARGEBACK", None, S.UNDER_REVIEW),
        ("OPEN", "PRE_ARBITRATION", None, S.PRE_ARBITRATION),
        ("RESOLVED", "INQUIRY", "CANCELED_BY_BUYER", S.INQUIRY_CLOSED),
        ("RESOLVED", "CHARGEBACK", "RESOLVED_SELLER_FAVOUR", S.WON),
        ("RESOLVED", "CHARGEBACK", "RESOLVED_WITH_PAYOUT", S.WON),
        ("RESOLVED", "CHARGEBACK", "RESOLVED_BUYER_FAVOUR", S.LOST),
        ("RESOLVED", "CHARGEBACK", "ACCEPTED", S.ACCEPTED),
    ],
)
def test_a_dispute_is_told(status: str, stage: str, code: str | None, expected: S) -> None:
    news = told("CUSTOMER.DISPUTE.UPDATED", dispute(status, stage, code))
    assert (news.status, news.reference, news.network_code) == (expected, "op_charge", "10.4")
    assert news.evidence_due_at == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("said", [("SLEEPING", "CHARGEBACK"), ("OPEN", "LIMBO"), ("RESOLVED", "CHARGEBACK", "TIED")])
def test_an_undocumented_state_of_a_dispute_is_kept(said: tuple[str, ...]) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        told("CUSTOMER.DISPUTE.UPDATED", dispute(*said))
