"""API keys: what they look like and how a secret is checked.

``csk_test_`` or ``csk_live_``, an 8-character lookup prefix, a 165-bit secret and a 6-character checksum, all in Crockford's
base32 (lower case). Regular expression for secret scanners: ``csk_(test|live)_[0-9a-hjkmnp-tv-z]{47}``. The database holds the
prefix and an HMAC-SHA-256 of the whole key under a pepper that is not in the database, so a dump cannot authenticate.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib

import msgspec

from clearspan.platform import clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PREFIX_LENGTH = 8
SECRET_LENGTH = 33
CHECK_LENGTH = 6
_SHAPE = re.compile(r"csk_(?P<mode>test|live)_(?P<prefix>[0-9a-hjkmnp-tv-z]{8})[0-9a-hjkmnp-tv-z]{39}")

SCOPES = {
    "payments:read": "Read payments and refunds.",
    "payments:write": "Create, confirm, capture, cancel and refund payments.",
    "payments:decide": "Decide what became of an operation that nobody could find out, and release a surplus.",
    "customers:read": "Read customers and payment methods.",
    "customers:write": "Create and change customers and payment methods.",
    "mandates:read": "Read mandates, with the address and browser of their acceptance.",
    "mandates:write": "Note, verify and revoke mandates.",
    "test_clocks:write": "Make test clocks, read and advance them (test mode).",
    "dunning:read": "Read dunning plans, rebills with their explanations, and the recovery report.",
    "dunning:write": "Create dunning plans; charge an invoice now, stop or release its collection.",
    "plans:read": "Read plans, coupons and billing settings.",
    "plans:write": "Create and change plans, coupons and billing settings.",
    "subscriptions:read": "Read subscriptions, and preview changes of them.",
    "subscriptions:write": "Create, change, pause and cancel subscriptions.",
    "invoices:read": "Read invoices, credit notes, their documents and what was mailed.",
    "invoices:write": "Make, open, send and void invoices, and credit them.",
    "events:read": "Read the event feed and the live stream.",
    "audit:read": "Read the audit trail.",
    "ledger:read": "Read balances and entries of the ledger.",
    "psp_accounts:read": "Read PSP accounts (never their credentials).",
    "psp_accounts:write": "Create and change PSP accounts.",
    "psp_webhooks:read": "Read the messages of PSPs and what became of them.",
    "psp_webhooks:write": "Retry and dismiss messages of PSPs.",
    "webhook_endpoints:read": "Read webhook endpoints (never their secrets) and the delivery log.",
    "webhook_endpoints:write": "Create and change webhook endpoints, test them, replay deliveries.",
    "api_keys:read": "Read API keys (never their secrets).",
    "api_keys:write": "Create, rotate and revoke API keys.",
    "operators:read": "Read who may sign in, with which role.",
    "operators:write": "Invite people, change their roles, end their sessions.",
}
"""Every scope with what it allows."""


class ParsedKey(msgspec.Struct, frozen=True):
    """A well-formed key; whether it exists is the database's to say."""

    text: str
    live: bool
    prefix: str


def new_key(*, live: bool) -> ParsedKey:
    """A fresh key."""
    body = "".join(ALPHABET[byte & 31] for byte in clock.random_bytes(PREFIX_LENGTH + SECRET_LENGTH))
    head = f"csk_{'live' if live else 'test'}_{body}"
    return ParsedKey(text=head + _checksum(head), live=live, prefix=body[:PREFIX_LENGTH])


def parse(text: str) -> ParsedKey | None:
    """Read a key; ``None`` when it is malformed or mistyped, without asking the database."""
    match = _SHAPE.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(text[:-CHECK_LENGTH]), text[-CHECK_LENGTH:]):
        return None
    return ParsedKey(text=text, live=match["mode"] == "live", prefix=match["prefix"])


def digest(pepper: bytes, text: str) -> bytes:
    """What is stored instead of the key. A fast hash is enough: the secret has 165 bits."""
    return hmac.digest(pepper, text.encode(), hashlib.sha256)


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode())
    return "".join(ALPHABET[(value >> shift) & 31] for shift in (27, 22, 17, 12, 7, 2))
