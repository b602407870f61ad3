"""PayPal's messages: who signed them, and what they say.

``PAYPAL-TRANSMISSION-SIG`` is RSA-SHA256 over ``<transmission id>|<transmission time>|<webhook id>|<CRC-32 of the raw body>``
(https://developer.paypal.com/api/rest/webhooks/rest, 2026-06). The certificate is fetched from ``PAYPAL-CERT-URL`` and only
believed when it comes from PayPal's own host, is valid for a name under paypal.com and chains to a public root; PayPal's SDK
asks for the same (paypalrestsdk 1.13.3, notifications.py). Checked here rather than by ``verify-webhook-signature``: that call
would make every stranger's POST a request of ours to PayPal, and a message lost whenever PayPal's API is slow.

A CRC is no hash: whoever has seen one signed message can make another body with the same CRC. What keeps that from mattering is
TLS on the way here, the webhook id, and that a claim against what is known is looked up by the core before it counts.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

import certifi
import httpx
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

import clearspan.sdk as sdk
from clearspan.sdk.signatures import TOLERANCE_S
from clearspan_psp_paypal import answers

REPEATED_FOR = timedelta(days=3)
"""PayPal repeats an unanswered message up to 25 times in three days (same page). Whether a repetition carries a new time is not
confirmed, so the first one's must do. Older ones are refused."""
AHEAD_MAX = timedelta(seconds=TOLERANCE_S)
_CERTIFICATE_PATH = re.compile(r"/v1/notifications/certs/[A-Za-z0-9_-]{1,200}")
_CERTIFICATES_MAX_BYTES = 65_536
_CACHED_MAX = 8


class Signatures:
    """Checks signatures for one account.

    Args:
        roots: PEM; empty: the public ones.
        url: the API's address when it is not PayPal's own: its certificates are then served there.
    """

    def __init__(self, http: httpx.AsyncClient, webhook_id: str, *, roots: str, url: str) -> None:
        self._http = http
        self._webhook_id = webhook_id
        self._pem = roots.encode()
        self._roots: Store | None = None
        self._origin = urlsplit(url)[:2] if url else None
        self._cached: dict[str, list[x509.Certificate]] = {}

    async def check(self, delivery: sdk.WebhookDelivery) -> None:
        """Do nothing when the message is PayPal's, for this webhook, and not too old.

        Raises:
            WebhookRejected: it is not.
            PspUnavailable: the certificate could not be had; PayPal sends the message again.
        """
        said = {name: delivery.headers.get(f"paypal-{name}", "") for name in _HEADERS}
        if not all(said.values()) or said["auth-algo"] != "SHA256withRSA":
            raise sdk.WebhookRejected("a signature header is missing or names another algorithm")
        _check_time(said["transmission-time"], delivery.received_at)
        chain = await self._chain(said["cert-url"])
        key = self._believed(chain, delivery.received_at).public_key()
        signed = "|".join(
            [said["transmission-id"], said["transmission-time"], self._webhook_id, str(crc32(delivery.body))]
        )
        try:
            if not isinstance(key, RSAPublicKey):
                raise sdk.WebhookRejected("the certificate holds no RSA key")
            signature = base64.b64decode(said["transmission-sig"], validate=True)
            key.verify(signature, signed.encode(), PKCS1v15(), SHA256())
        except (InvalidSignature, binascii.Error, ValueError):
            raise sdk.WebhookRejected("the signature does not hold") from None

    async def _chain(self, url: str) -> list[x509.Certificate]:
        found = self._cached.get(url)
        if found is None:
            at = urlsplit(url)
            own = at[:2] == self._origin if self._origin else at.scheme == "https" and _paypal(at.hostname, at.netloc)
            if not own or not _CERTIFICATE_PATH.fullmatch(at.path) or at.query or at.fragment:
                raise sdk.WebhookRejected("the certificate's address is not one of PayPal's")
            try:
                answer = await self._http.get(url, follow_redirects=False)
            except httpx.HTTPError as error:
                raise sdk.PspUnavailable(f"the certificate could not be fetched: {type(error).__name__}") from error
            if answer.status_code >= 500:
                raise sdk.PspUnavailable(f"the certificate could not be fetched: {answer.status_code}")
            pem = answer.content if answer.status_code == 200 else b""
            try:
                found = x509.load_pem_x509_certificates(pem if len(pem) <= _CERTIFICATES_MAX_BYTES else b"")
            except ValueError:
                raise sdk.WebhookRejected("there is no certificate at its address") from None
            if len(self._cached) >= _CACHED_MAX:
                self._cached.clear()
            self._cached[url] = found
        return found

    def _believed(self, chain: Sequence[x509.Certificate], at: datetime) -> x509.Certificate:
        """The signer's certificate, valid at that time for a name under paypal.com."""
        self._roots = self._roots or _store(self._pem or certifi.contents().encode())
        leaf, *between = chain
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            name = next(one for one in names.get_values_for_type(x509.DNSName) if _paypal(one, one))
            policy = PolicyBuilder().store(self._roots)
            policy.time(at.astimezone(UTC).replace(tzinfo=None)).build_server_verifier(x509.DNSName(name)).verify(
                leaf, between
            )
        except (VerificationError, x509.ExtensionNotFound, StopIteration, ValueError) as error:
            raise sdk.WebhookRejected(f"the certificate is not PayPal's: {type(error).__name__}") from None
        return leaf


_HEADERS = ("transmission-id", "transmission-time", "transmission-sig", "cert-url", "auth-algo")


def _store(pem: bytes) -> Store:
    """Each root that can be read: some public ones are older than the rules, and one of them must not spoil the others."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL):
            with contextlib.suppress(ValueError):
                found.append(x509.load_pem_x509_certificate(one))
    return Store(found)


def _paypal(host: str | None, whole: str) -> bool:
    """A name under paypal.com, without port or user."""
    return host == whole.lower() and bool(re.fullmatch(r"([a-z0-9-]+\.)+paypal\.com", host or ""))


def _check_time(text: str, received_at: datetime) -> None:
    try:
        signed_at = datetime.fromisoformat(text)
        age = received_at - signed_at
    except (ValueError, TypeError):
        raise sdk.WebhookRejected("the transmission time is none") from None
    if not -AHEAD_MAX <= age <= REPEATED_FOR + AHEAD_MAX:
        raise sdk.WebhookRejected("the transmission time is too far from ours")


class _Event(msgspec.Struct, frozen=True):
    id: str
    event_type: str
    resource: dict[str, Any]


def events(body: bytes) -> list[sdk.WebhookEvent]:
    """What a message says whose signature is good. Names: https://developer.paypal.com/api/rest/webhooks/event-names/ (2026-06).

    Raises:
        OutcomeUnknown: it is not as documented, or a human must look at it.
    """
    try:
        found = msgspec.json.decode(body, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise sdk.OutcomeUnknown(f"the message is not as documented: {error}") from error
    return [sdk.WebhookEvent(event_id=found.id, type=found.event_type, news=_news(found.event_type, found.resource))]


def _news(kind: str, raw: dict[str, Any]) -> sdk.News | None:
    if kind.startswith("CUSTOMER.DISPUTE."):
        return _dispute(raw)
    if kind == "PAYMENT.CAPTURE.REVERSED":
        # PayPal took the money back, for a dispute (which has messages of its own) or for a bank's return (which has none).
        # The message does not say which: booking it might count the loss twice, and dropping it might lose it from sight.
        raise sdk.OutcomeUnknown(
            "PayPal took a capture back: compare with its disputes, then with the settlement report"
        )
    if kind.startswith("PAYMENT.AUTHORIZATION."):
        return _authorization(kind, sdk.read(raw, answers.Payment), raw)
    if kind == "PAYMENT.CAPTURE.REFUNDED" or kind.startswith("PAYMENT.REFUND."):
        return _refund(sdk.read(raw, answers.Payment), raw)
    if kind.startswith("PAYMENT.CAPTURE."):
        return _capture(sdk.read(raw, answers.Payment), raw)
    if kind.startswith("CHECKOUT.ORDER."):
        order = sdk.read(raw, answers.Order)
        return sdk.Hint(kind="charge", reference=order.custom_id, psp_ref=order.id)
    return None


def _authorization(kind: str, found: answers.Payment, raw: Mapping[str, Any]) -> sdk.News:
    order = found.supplementary_data.related_ids.order_id
    if kind == "PAYMENT.AUTHORIZATION.VOIDED" and order:
        # The amount is the authorisation's, not what was left of it: the lookup knows.
        return sdk.Hint(kind="void", psp_ref=f"{order}/void")
    if order is None:
        return sdk.Hint(kind="charge", reference=found.custom_id)
    outcome = answers.payment(found, raw, order, answers.AUTHORIZED, looked_up=True)
    return _told("charge", found, outcome, reference=found.custom_id, capture=False)


def _capture(found: answers.Payment, raw: Mapping[str, Any]) -> sdk.News:
    related = found.supplementary_data.related_ids
    if related.authorization_id:
        outcome = answers.payment(found, raw, found.id, answers.CAPTURED, looked_up=True)
        return _told("capture", found, outcome, reference=found.reference, charge_ref=related.order_id)
    if related.order_id is None:
        return sdk.Hint(kind="charge", reference=found.custom_id)
    outcome = answers.payment(found, raw, related.order_id, answers.CAPTURED, looked_up=True)
    return _told("charge", found, outcome, reference=found.custom_id, capture=True)


def _refund(found: answers.Payment, raw: Mapping[str, Any]) -> sdk.News:
    outcome = answers.payment(found, raw, found.id, frozenset({"COMPLETED"}), looked_up=True)
    charge_ref = found.supplementary_data.related_ids.order_id
    return _told("refund", found, outcome, reference=found.reference, charge_ref=charge_ref)


def _told(kind: str, found: answers.Payment, outcome: sdk.Outcome, **rest: Any) -> sdk.OperationNews:
    return sdk.OperationNews(kind=kind, outcome=outcome, amount=found.amount.money(), **rest)


class _Disputed(msgspec.Struct, frozen=True):
    custom: str | None = None


class _DisputeOutcome(msgspec.Struct, frozen=True):
    outcome_code: str | None = None


class _Dispute(msgspec.Struct, frozen=True):
    """``dispute`` of "Customer Disputes" 1.10 (2024-02)."""

    dispute_id: str
    status: str
    dispute_amount: answers.Amount
    dispute_life_cycle_stage: str = ""
    reason: str | None = None
    external_reason_code: str | None = None
    dispute_outcome: _DisputeOutcome = _DisputeOutcome()
    disputed_transactions: Sequence[_Disputed] = ()
    seller_response_due_date: datetime | None = None


_S = sdk.DisputeStatus
OUTCOMES = {
    "RESOLVED_BUYER_FAVOUR": _S.LOST,
    "RESOLVED_SELLER_FAVOUR": _S.WON,
    "RESOLVED_WITH_PAYOUT": _S.WON,  # PayPal's protection paid: nothing is taken from the merchant
    "CANCELED_BY_BUYER": _S.WON,
    "ACCEPTED": _S.ACCEPTED,
    "DENIED": _S.WON,
    "NONE": _S.INQUIRY_CLOSED,  # closed without a decision; another dispute about the payment goes on
}
"""``dispute_outcome.outcome_code`` of a RESOLVED dispute."""
STAGES = {
    "INQUIRY": dict.fromkeys(
        ("OPEN", "WAITING_FOR_BUYER_RESPONSE", "WAITING_FOR_SELLER_RESPONSE", "UNDER_REVIEW", "OTHER"), _S.INQUIRY
    ),
    "CHARGEBACK": {
        "OPEN": _S.NEEDS_RESPONSE,
        "WAITING_FOR_SELLER_RESPONSE": _S.NEEDS_RESPONSE,
        "WAITING_FOR_BUYER_RESPONSE": _S.UNDER_REVIEW,
        "UNDER_REVIEW": _S.UNDER_REVIEW,
        "OTHER": _S.UNDER_REVIEW,
    },
    "PRE_ARBITRATION": dict.fromkeys(
        ("OPEN", "WAITING_FOR_BUYER_RESPONSE", "WAITING_FOR_SELLER_RESPONSE", "UNDER_REVIEW", "OTHER"),
        _S.PRE_ARBITRATION,
    ),
    "ARBITRATION": dict.fromkeys(
        ("OPEN", "WAITING_FOR_BUYER_RESPONSE", "WAITING_FOR_SELLER_RESPONSE", "UNDER_REVIEW", "OTHER"), _S.UNDER_REVIEW
    ),
}
"""``dispute_life_cycle_stage`` and ``status`` of one that goes on. An inquiry takes no money; a chargeback does."""


def _dispute(raw: dict[str, Any]) -> sdk.DisputeNews:
    found = sdk.read(raw, _Dispute)
    stage, code = found.dispute_life_cycle_stage, found.dispute_outcome.outcome_code
    status = OUTCOMES.get(code or "") if found.status == "RESOLVED" else STAGES.get(stage, {}).get(found.status)
    if status is None:
        raise sdk.OutcomeUnknown(f"undocumented state of a dispute: {found.status!r} {stage!r} {code!r}")
    if status is _S.WON and stage == "INQUIRY":
        status = _S.INQUIRY_CLOSED
    due = found.seller_response_due_date
    return sdk.DisputeNews(
        dispute_ref=found.dispute_id,
        status=status,
        amount=found.dispute_amount.money(),
        reference=next((one.custom for one in found.disputed_transactions if one.custom), None),
        reason=found.reason,
        network_code=found.external_reason_code,
        evidence_due_at=due if due and due.tzinfo else None,
        raw={name: raw.get(name) for name in ("dispute_id", "status", "dispute_life_cycle_stage", "dispute_outcome")},
    )
