"""Links to the pay page: they carry everything, so none is stored, and a wrong one costs no query.

base64url of tenant id (16 bytes), mode (1), invoice id (16) and the first 16 bytes of an HMAC-SHA-256 over them under a
key of the installation. Who has a link can see and pay that one invoice, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from uuid import UUID

from clearspan.platform.context import Scope

_ID = 16
_MAC = 16
_LENGTH = _ID + 1 + _ID + _MAC


class PayLinks:
    """Makes and reads the tokens.

    Args:
        secret: 32 bytes.
        public_url: of the installation, without a slash at its end.
    """

    def __init__(self, secret: bytes, public_url: str) -> None:
        self._secret = secret
        self._public_url = public_url

    def token(self, scope: Scope, invoice_id: UUID) -> str:
        """The token of an invoice; always the same."""
        plain = scope.tenant_id.bytes + (b"\1" if scope.live else b"\0") + invoice_id.bytes
        return base64.urlsafe_b64encode(plain + self._mac(plain)).decode().rstrip("=")

    def url(self, scope: Scope, invoice_id: UUID) -> str:
        """Where the customer pays."""
        return f"{self._public_url}/pay/{self.token(scope, invoice_id)}"

    def read(self, token: str) -> tuple[Scope, UUID] | None:
        """Whose invoice a token names; ``None`` when it is none of ours."""
        try:
            raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != _LENGTH or raw[_ID] > 1 or not hmac.compare_digest(raw[-_MAC:], self._mac(raw[:-_MAC])):
            return None
        scope = Scope(tenant_id=UUID(bytes=raw[:_ID]), live=bool(raw[_ID]))
        return scope, UUID(bytes=raw[_ID + 1 : -_MAC])

    def _mac(self, plain: bytes) -> bytes:
        return hmac.digest(self._secret, plain, hashlib.sha256)[:_MAC]
