"""The signature of a message: ``Sandbox-Signature: t=<unix>,v1=<hex>[,v1=<hex>...]``.

``v1`` is HMAC-SHA256 over ``<t>.<body>`` with the account's secret. While a secret is being changed a message carries one ``v1``
for each; any valid one counts. ``t`` may be five minutes off, both ways.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

HEADER = "sandbox-signature"
TOLERANCE_S = 300
_SHAPE = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64}){1,8})")


class BadSignature(Exception):
    """``str()`` says what is wrong with it, for operators."""


def default_secret(account: str) -> str:
    """What signs an account's messages until it sets something else."""
    return f"whsec_sandbox_{account}"


def sign(body: bytes, secrets: Iterable[str], at: float) -> str:
    """The header's value, with one ``v1`` for each secret."""
    return ",".join([f"t={int(at)}", *(f"v1={_mac(secret, str(int(at)), body)}" for secret in secrets)])


def verify(body: bytes, header: str | None, secret: str, now: float) -> None:
    """Check the header over the raw bytes, in constant time.

    Raises:
        BadSignature: it is missing, malformed, not by this secret, too old or from the future.
    """
    if not header:
        raise BadSignature("the message is not signed")
    found = _SHAPE.fullmatch(header)
    if found is None:
        raise BadSignature("the signature is malformed")
    expected = _mac(secret, found[1], body)
    # All are compared, so that the time tells nothing about which one fits.
    if not sum([hmac.compare_digest(expected, given[3:]) for given in found[2].split(",")[1:]]):
        raise BadSignature("the signature is not by this account's secret")
    if abs(now - int(found[1])) > TOLERANCE_S:
        raise BadSignature(f"the signature's time is more than {TOLERANCE_S} seconds off")


def _mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
