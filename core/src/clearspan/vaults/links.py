"""Links to the capture page: sealed, so that none is stored, nobody can make one up, and nobody can read one."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from uuid import UUID

import msgspec

from clearspan.platform import crypto
from clearspan.platform.context import Scope
from clearspan.platform.crypto import KeyProblem

_PLACE = "capture-link"
_LONGEST = 8_000


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """What a link holds.

    Attributes:
        scope: who opened the session.
        vault: which.
        return_url: where the payer goes afterwards.
        expires_at: aware UTC.
    """

    scope: Scope
    vault: str
    return_url: str
    expires_at: datetime


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    tenant_id: UUID
    live: bool
    vault: str
    return_url: str
    expires_at: datetime


class CaptureLinks:
    """Makes and reads links.

    Args:
        key: 32 bytes, of the installation.
        public_url: of the installation, without a slash at its end.
    """

    def __init__(self, key: bytes, public_url: str) -> None:
        self._key = key
        self._public_url = public_url

    def url(self, captured: Captured) -> str:
        """Where the payer types the card."""
        inner = _Sealed(
            captured.scope.tenant_id,
            captured.scope.live,
            captured.vault,
            captured.return_url,
            captured.expires_at,
        )
        sealed = crypto.seal(self._key, msgspec.json.encode(inner), _PLACE)
        return f"{self._public_url}/capture/{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def read(self, sealed: str) -> Captured | None:
        """What a link holds, expired or not; ``None`` when it is none of ours."""
        if len(sealed) > _LONGEST:
            return None
        try:
            raw = base64.b64decode(sealed.encode() + b"=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            inner = msgspec.json.decode(crypto.open_(self._key, raw, _PLACE), type=_Sealed)
        except (KeyProblem, binascii.Error, ValueError, msgspec.DecodeError):
            return None
        scope = Scope(tenant_id=inner.tenant_id, live=inner.live)
        return Captured(scope=scope, vault=inner.vault, return_url=inner.return_url, expires_at=inner.expires_at)
