"""The token endpoint: OAuth 2.0 (RFC 6749) for programs, with access tokens of a few minutes.

- **client_credentials**: an API key, as ``client_id`` (``key_…``) and ``client_secret`` (the key itself), for a token with at
  most its scopes. For programs whose libraries know OAuth and not our keys, and to hand less than a key to somebody.
- **password**: a person with password and second factor, in one tenant and mode. RFC 9700 advises against this grant for third
  parties; here it is a person's own script. It opens a session of method ``token``, which the person sees and can end like any
  other, and gives a refresh token.
- **refresh_token**: rotated at each use. A used one that comes again means that two have it: the session ends, and with it
  every token of it. There is no period of grace: of two refreshes at once one wins, and then both have to sign in again.

What an access token may do is decided when it is used (``access.guard``): its scopes, and what its key or role allows by then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import unquote_plus
from uuid import UUID

import msgspec

from clearspan.access.errors import NoTenant
from clearspan.access.guard import Authenticator, KeyRow, holds
from clearspan.access.keys import SCOPES
from clearspan.access.operators import Operators
from clearspan.access.sessions import Operator, Sessions
from clearspan.access.tokens import AccessTokenInvalid, AccessTokens, looks_like_one
from clearspan.platform import clock, ids
from clearspan.platform.db import Database
from clearspan.platform.problems import DomainError
from clearspan.settings import Settings

GRANTS = ("client_credentials", "password", "refresh_token")
REFRESH_PREFIX = "csr_"
_REFRESH = re.compile(f"{REFRESH_PREFIX}{ids.LETTERS}{{64}}")
_SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")


class ChecksPassword(Protocol):
    """Who can tell whether a person is who they say: ``access.signing``. It counts what fails, together with the sign-in page."""

    async def verify(self, email: str, password: str, code: str, address: str, request_id: str) -> Operator:
        """The person with this e-mail address, password and, where they have a second factor, code.

        Args:
            email, password: as given.
            code: of the authenticator, or a recovery code; empty when none was given.
            address: where the request comes from.
            request_id: of the request, for the journal.

        Raises:
            DomainError: they are not, are disabled; or, with ``retry_after_s``, nobody may try for now.
        """
        ...


class SignsIn(Protocol):
    """What ``PasswordAndCode`` needs of ``access.signing.Signing``."""

    async def by_password(self, email: str, password: str, *, ip: str, request_id: str) -> Operator:
        """The person with this password."""
        ...

    def step(self, operator: Operator, visit: str) -> str:
        """What goes between password and code."""
        ...

    async def by_code(self, step: str, code: str, *, visit: str, ip: str, request_id: str) -> Operator:
        """The person of ``step``, who has given a code as well."""
        ...


class PasswordAndCode:
    """``ChecksPassword`` in one step, where the sign-in page takes two.

    Args:
        signing: knows the people, and counts what fails.
    """

    def __init__(self, signing: SignsIn) -> None:
        self._signing = signing

    async def verify(self, email: str, password: str, code: str, address: str, request_id: str) -> Operator:
        """See ``ChecksPassword``."""
        operator = await self._signing.by_password(email, password, ip=address, request_id=request_id)
        if not operator.has_second_factor:
            return operator
        visit = clock.random_bytes(16).hex()
        step = self._signing.step(operator, visit)
        return await self._signing.by_code(step, code, visit=visit, ip=address, request_id=request_id)


class OAuthRefused(Exception):
    """A refusal as RFC 6749, 5.2 has it.

    Args:
        error: the code.
        description: for people, ASCII.
        status: 400, or 401 for ``invalid_client``.
        retry_after_s: when waiting helps.
    """

    def __init__(self, error: str, description: str, status: int = 400, retry_after_s: int = 0) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.retry_after_s = retry_after_s


class TokenOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a grant."""

    access_token: str
    expires_in: int
    scope: str
    token_type: str = msgspec.field(default="Bearer")
    refresh_token: str | None = None

    def document(self) -> dict[str, Any]:
        """As it is sent: the token type stands in every answer."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return {"token_type": self.token_type} | found


class Asked(msgspec.Struct, frozen=True):
    """A request at the token or the revocation endpoint.

    Attributes:
        form: its parameters, each once.
        authorization: the header.
        ip, agent, request_id: of the request.
    """

    form: Mapping[str, str]
    authorization: str | None
    ip: str
    agent: str
    request_id: str

    def get(self, name: str) -> str:
        """A parameter; one without a value counts as left out (RFC 6749, 3.2)."""
        return self.form.get(name, "")

    def need(self, name: str) -> str:
        """A parameter that must be there."""
        if not self.get(name):
            raise OAuthRefused("invalid_request", f"The parameter '{name}' is missing.")
        return self.get(name)


class _Client(msgspec.Struct, frozen=True):
    id: str
    secret: str


class OAuth:
    """See the module's docstring.

    Args:
        db: the database.
        settings: of this installation.
        tokens: makes the access tokens.
        authenticator: knows the API keys.
        sessions, operators: of people.
        people: checks passwords; without it there is no password grant.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        tokens: AccessTokens,
        authenticator: Authenticator,
        sessions: Sessions,
        operators: Operators,
        people: ChecksPassword | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._tokens = tokens
        self._authenticator = authenticator
        self._sessions = sessions
        self._operators = operators
        self.people = people

    @property
    def grants(self) -> tuple[str, ...]:
        """Those that this installation gives."""
        return GRANTS if self._takes_passwords else GRANTS[:1]

    @property
    def _takes_passwords(self) -> bool:
        return self.people is not None and not self._settings.oidc.require

    def metadata(self) -> dict[str, Any]:
        """RFC 8414."""
        root = self._tokens.issuer
        ways = ["client_secret_basic", "client_secret_post"] + (["none"] if self._takes_passwords else [])
        return {
            "issuer": root,
            "token_endpoint": f"{root}/oauth/token",
            "token_endpoint_auth_methods_supported": ways,
            "revocation_endpoint": f"{root}/oauth/revoke",
            "revocation_endpoint_auth_methods_supported": ["none"],
            "jwks_uri": f"{root}/.well-known/jwks.json",
            "grant_types_supported": list(self.grants),
            "response_types_supported": [],
            "scopes_supported": list(SCOPES),
            "service_documentation": f"{root}/docs",
        }

    def jwks(self) -> dict[str, Any]:
        """The keys that sign access tokens."""
        return self._tokens.jwks()

    async def grant(self, asked: Asked) -> TokenOut:
        """Answer a request at ``/oauth/token``.

        Raises:
            OAuthRefused: as RFC 6749, 5.2.
        """
        kind = asked.need("grant_type")
        if kind not in self.grants:
            raise OAuthRefused("unsupported_grant_type", f"There are: {', '.join(self.grants)}.")
        if asked.get("scope") and not _SCOPE.fullmatch(asked.get("scope")):
            raise OAuthRefused("invalid_scope", "Scopes stand between single blanks.")
        client = _client(asked)
        if kind == "client_credentials":
            return await self._to_key(asked, client)
        if client is not None and client.secret:
            # Who it is for is proved by the person's own password or refresh token; a second proof would mean nothing.
            raise OAuthRefused("invalid_client", f"The {kind} grant takes no client secret; leave it out.", 401)
        return await (self._to_person(asked) if kind == "password" else self._again(asked))

    async def revoke(self, asked: Asked) -> None:
        """Answer a request at ``/oauth/revoke`` (RFC 7009): end the session behind a refresh token or a person's access token.

        What is not valid (any more) needs no end, so that it is no error. A key's access token has nothing to end but the key.

        Raises:
            OAuthRefused: ``unsupported_token_type`` for such a token.
        """
        text = asked.need("token")
        if looks_like_one(text):
            try:
                claims = self._tokens.read(text)
                which: dict[str, Any] = {"session_id": ids.decode("ses", claims.sid)} if claims.sid else {}
            except (AccessTokenInvalid, ids.InvalidId):
                return
            if not which:
                raise OAuthRefused(
                    "unsupported_token_type",
                    "It ends by itself within minutes, or at once with its API key: revoke that.",
                )
        elif _REFRESH.fullmatch(text):
            which = {"hash": _hash(text)}
        else:
            return
        ended = msgspec.json.decode(await self._db.call("oauth_session_end", which | {"now": clock.now()}) or b"null")
        self._authenticator.forget()
        if ended:
            operator = await self._operators.get(UUID(ended["operator_id"]))
            await self._operators.tell(
                operator, "operator.token_revoked", asked.request_id, {"session": ended["session_id"]}
            )

    # -- Grants -----------------------------------------------------------------------------------------------------------------

    async def _to_key(self, asked: Asked, client: _Client | None) -> TokenOut:
        if client is None or not client.secret:
            raise OAuthRefused("invalid_client", "Send an API key: its id as client_id, itself as client_secret.", 401)
        row: KeyRow | None = await self._authenticator.key(client.secret)
        if row is None or ids.encode("key", row.key_id) != client.id:
            raise OAuthRefused("invalid_client", "There is no such API key, or it is revoked or expired.", 401)
        scopes = _narrowed(asked, row.scopes)
        ttl_s = self._ttl_s(row.expires_at)
        text = self._tokens.issue(subject=client.id, tenant=row.tenant, live=row.live, scopes=scopes, ttl_s=ttl_s)
        return TokenOut(text, ttl_s, _joined(scopes))

    async def _to_person(self, asked: Asked) -> TokenOut:
        operator = await self._verified(asked)
        wanted = asked.get("tenant")
        found = [one for one in operator.memberships if wanted in ("", one.slug)]
        if not found:
            raise OAuthRefused("invalid_grant", "The person is no member of this tenant.")
        if len(found) > 1:
            raise OAuthRefused("invalid_request", "The person is a member of several tenants: name one as 'tenant'.")
        live = asked.get("live") or "false"
        if live not in ("true", "false"):
            raise OAuthRefused("invalid_request", "The parameter 'live' is true or false.")
        session = await self._sessions.open(
            operator,
            method="token",
            strong=True,  # Whatever the person has, they have just given.
            ip=asked.ip,
            agent=asked.agent,
            tenant_id=found[0].tenant_id,
            live=live == "true",
        )
        # The session's own token is told nobody: such a session opens no page.
        signed = await self._sessions.find_by_id(session.session_id)
        if signed is None or not holds(signed):
            await self._sessions.end(operator.operator_id, why="role", session_id=session.session_id)
            raise OAuthRefused("invalid_grant", "This role needs a second factor: set one up in the cockpit first.")
        try:
            scopes = _narrowed(asked, signed.scopes)
        except OAuthRefused:
            await self._sessions.end(operator.operator_id, why="signed_out", session_id=session.session_id)
            raise
        refresh = _new_refresh()
        await self._db.call(
            "oauth_refresh_add",
            {
                "hash": _hash(refresh),
                "session_id": session.session_id,
                "scopes": sorted(scopes),
                "now": clock.now(),
                "expires_at": session.expires_at,
            },
        )
        data = {"method": "token", "second_factor": operator.has_second_factor}
        await self._operators.tell(operator, "operator.signed_in", asked.request_id, data)
        return self._persons(
            signed.operator, session.session_id, session.expires_at, found[0].slug, live == "true", scopes, refresh
        )

    async def _again(self, asked: Asked) -> TokenOut:
        given, refresh, now = asked.need("refresh_token"), _new_refresh(), clock.now()
        if not _REFRESH.fullmatch(given):
            raise _no_refresh()
        wanted = sorted(set(asked.get("scope").split())) or None
        idle = timedelta(minutes=self._settings.access.session_idle_min)
        document = {
            "hash": _hash(given),
            "next": _hash(refresh),
            "wanted": wanted,
            "now": now,
            "idle_before": now - idle,
        }
        found = msgspec.json.decode(await self._db.call("oauth_refresh_use", document) or b"null")
        if found is None:
            raise _no_refresh()
        if "scope" in found:
            raise OAuthRefused("invalid_scope", "The refresh token has not all of these scopes.")
        session_id = UUID(found["session_id"])
        if "reused" in found:
            self._authenticator.forget()
            if found["ended"]:
                operator = await self._operators.get(UUID(found["operator_id"]))
                data = {"session": str(session_id)}
                await self._operators.tell(operator, "operator.token_reused", asked.request_id, data)
            raise _no_refresh()
        try:
            signed = await self._sessions.find_by_id(session_id)
        except NoTenant:
            signed = None
        if signed is None or not holds(signed):
            raise _no_refresh()
        scopes = frozenset(wanted or found["scopes"]) & signed.scopes
        where = signed.membership.slug
        return self._persons(
            signed.operator, session_id, signed.session.expires_at, where, signed.session.live, scopes, refresh
        )

    def _persons(
        self,
        operator: Operator,
        session_id: UUID,
        expires_at: datetime,
        tenant: str,
        live: bool,
        scopes: frozenset[str],
        refresh: str,
    ) -> TokenOut:
        ttl_s = self._ttl_s(expires_at)
        text = self._tokens.issue(
            subject=operator.public_id,
            tenant=tenant,
            live=live,
            scopes=scopes,
            session=ids.encode("ses", session_id),
            ttl_s=ttl_s,
        )
        return TokenOut(text, ttl_s, _joined(scopes), refresh_token=refresh)

    def _ttl_s(self, ends_at: datetime | None) -> int:
        left = self._tokens.ttl_s if ends_at is None else int((ends_at - clock.now()).total_seconds())
        return max(1, min(left, self._tokens.ttl_s))

    async def _verified(self, asked: Asked) -> Operator:
        """The person. Why it is refused, nobody is told, but that waiting helps."""
        assert self.people is not None
        email, password = asked.need("username"), asked.need("password")
        try:
            return await self.people.verify(email, password, asked.get("otp"), asked.ip, asked.request_id)
        except DomainError as error:
            if error.status >= 500:
                raise
            wait_s = int(error.fields.get("retry_after_s", 0))
            if error.status == 429 or wait_s:
                raise OAuthRefused("invalid_grant", "Too many tries failed: wait.", 429, wait_s) from None
            said = "The e-mail address, the password or the code (otp) is wrong, or the person may not sign in."
            raise OAuthRefused("invalid_grant", said) from None


def _client(asked: Asked) -> _Client | None:
    """The client's credentials, in the header or in the body, never in both (RFC 6749, 2.3)."""
    scheme, _, text = (asked.authorization or "").partition(" ")
    inside = asked.get("client_secret")
    if scheme.lower() != "basic":
        return _Client(asked.get("client_id"), inside) if asked.get("client_id") or inside else None
    if inside:
        raise OAuthRefused("invalid_request", "Send the client's secret in the header or in the body, not in both.")
    try:
        name, colon, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise OAuthRefused("invalid_client", "The Authorization header is not Basic authentication.", 401)
    name, secret = unquote_plus(name), unquote_plus(secret)
    if asked.get("client_id") not in ("", name):
        raise OAuthRefused("invalid_request", "client_id is not the one in the Authorization header.")
    return _Client(name, secret)


def _narrowed(asked: Asked, most: frozenset[str]) -> frozenset[str]:
    wanted = frozenset(asked.get("scope").split())
    if wanted - most:
        # What is asked for beyond is not repeated: it may be any text.
        raise OAuthRefused("invalid_scope", "This key or role has not all of these scopes.")
    return wanted or most


def _joined(scopes: frozenset[str]) -> str:
    return " ".join(sorted(scopes))


def _no_refresh() -> OAuthRefused:
    return OAuthRefused("invalid_grant", "The refresh token is wrong, used, expired or revoked.")


def _new_refresh() -> str:
    return REFRESH_PREFIX + ids.letters(clock.random_bytes(32))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
