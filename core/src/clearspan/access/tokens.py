"""Access tokens: JWTs by RFC 9068 that this installation signs for itself, for a few minutes each.

Ed25519, with a key derived from the master key: every process has the same one, and no other secret has to be kept. Reading is
strict, since nobody but us makes these tokens: the one algorithm, exactly the three header fields that we write (so ``jwk``,
``jku``, ``x5u``, ``x5c`` and ``crit`` are refused, not ignored), exactly our claims with their types, our issuer and audience.

A token that reads well is not yet a caller: it says which API key or session it was made for, and ``access.guard`` asks whether
that still stands.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.platform.problems import DomainError

ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"
LEEWAY_S: Final = 5
TEXT_MAX: Final = 4096
_HEADER: Final = frozenset({"alg", "typ", "kid"})


class AccessTokenInvalid(DomainError):
    """An access token is malformed, not ours, too old, or what stands behind it has ended."""

    code = "access_token_invalid"
    status = 401
    title = "The access token is wrong, expired or revoked"
    advice = "Get a new one at /oauth/token: with the refresh token, or as you got this one."

    def headers(self) -> dict[str, str]:
        """RFC 6750, 3: clients take it for the sign to refresh."""
        return {"WWW-Authenticate": 'Bearer realm="clearspan", error="invalid_token"'}


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token says.

    Attributes:
        iss, aud, exp, iat, jti: as RFC 7519 has them; times in seconds since 1970.
        sub: ``key_…`` or ``opr_…``.
        client_id: the API key; for people, who have no client of their own, again who they are.
        tenant: the tenant's slug.
        live: the mode.
        scope: scopes, between blanks.
        sid: ``ses_…``, the session behind a person's token; empty for a key's.
    """

    iss: str
    aud: str
    sub: str
    client_id: str
    exp: int
    iat: int
    jti: str
    tenant: str
    live: bool
    scope: str
    sid: str = ""

    @property
    def scopes(self) -> frozenset[str]:
        """Each of them."""
        return frozenset(self.scope.split())


class AccessTokens:
    """Makes and reads access tokens.

    Args:
        master: the installation's.
        public_url: names the issuer.
        ttl_s: how long a token works.
    """

    def __init__(self, master: MasterKey, public_url: str, ttl_s: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(master.derive("access-token"))
        self._public = self._private.public_key()
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])
        self.issuer = public_url
        self.audience = f"{public_url}/v1"
        self.ttl_s = ttl_s
        x = _base64url(self._public.public_bytes_raw())
        # RFC 7638 and RFC 8037: the thumbprint names the key.
        thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
        self.kid = _base64url(thumbprint)
        self._jwk = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "use": "sig", "alg": ALGORITHM}

    def jwks(self) -> dict[str, Any]:
        """The public key, for whoever wants to check a token elsewhere."""
        return {"keys": [self._jwk]}

    def issue(
        self, *, subject: str, tenant: str, live: bool, scopes: frozenset[str], session: str = "", ttl_s: int = 0
    ) -> str:
        """A new token.

        Args:
            subject: ``key_…`` or ``opr_…``.
            tenant: the tenant's slug.
            live: the mode.
            scopes: what it may do.
            session: ``ses_…`` for a person's.
            ttl_s: less than usual, when what stands behind it ends sooner.
        """
        now = int(clock.now().timestamp())
        claims = Claims(
            iss=self.issuer,
            aud=self.audience,
            sub=subject,
            client_id=subject,
            exp=now + min(ttl_s or self.ttl_s, self.ttl_s),
            iat=now,
            jti=clock.new_uuid().hex,
            tenant=tenant,
            live=live,
            scope=" ".join(sorted(scopes)),
            sid=session,
        )
        header = {"typ": TYPE, "kid": self.kid}
        return jwt.PyJWS().encode(msgspec.json.encode(claims), self._private, algorithm=ALGORITHM, headers=header)

    def read(self, text: str) -> Claims:
        """What a token says that this installation signed and whose time has not passed.

        Raises:
            AccessTokenInvalid: it is anything else; which of it, nobody is told.
        """
        if len(text) > TEXT_MAX:
            raise AccessTokenInvalid
        try:
            found = self._jws.decode_complete(text, key=self._public, algorithms=[ALGORITHM])
            header: dict[str, Any] = found["header"]
            claims = msgspec.json.decode(found["payload"], type=Claims)
        except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError):
            raise AccessTokenInvalid from None
        now = clock.now().timestamp()
        if (
            header.keys() != _HEADER
            or header["typ"] != TYPE
            or header["kid"] != self.kid
            or claims.iss != self.issuer
            or claims.aud != self.audience
            or claims.exp <= now - LEEWAY_S
            or claims.iat > now + LEEWAY_S
        ):
            raise AccessTokenInvalid
        return claims


def looks_like_one(text: str) -> bool:
    """Whether a bearer's text is meant as a token: a JWT begins with ``{"`` in base64url."""
    return text.startswith("eyJ")


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
