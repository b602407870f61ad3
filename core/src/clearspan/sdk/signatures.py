"""Checking who sent a message: over the raw bytes, in constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

from clearspan.sdk.errors import WebhookRejected

TOLERANCE_S = 300
"""How far a signed time may lie from ours. Not more: an old message could be sent again by whoever saw it."""


def hmac_hex(key: bytes, message: bytes) -> str:
    """HMAC-SHA256, lower-case hexadecimal."""
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def hmac_base64(key: bytes, message: bytes) -> str:
    """HMAC-SHA256, base64 with padding."""
    return base64.b64encode(hmac.digest(key, message, "sha256")).decode()


def same(given: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def check_time(signed_at: int, received_at: datetime, tolerance_s: int = TOLERANCE_S) -> None:
    """Refuse an old message, and one from the future.

    Args:
        signed_at: seconds since 1970.
        received_at: ``WebhookDelivery.received_at``.

    Raises:
        WebhookRejected: it is too far away.
    """
    try:
        away_s = abs((received_at - datetime.fromtimestamp(signed_at, UTC)).total_seconds())
    except (OverflowError, ValueError, OSError):
        raise WebhookRejected("the signed time is none") from None
    if away_s > tolerance_s:
        raise WebhookRejected("the signed time is too far from ours")
