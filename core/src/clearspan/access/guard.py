"""Who calls, and may they? Deny by default: a route without a declared scope stops the start."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from sqlalchemy import text

from clearspan.access.errors import NoTenant, RoleForbids, SecondFactorRequired, SignInRequired, StepUpRequired
from clearspan.access.keys import SCOPES, ParsedKey, digest, parse
from clearspan.access.roles import STRONG_ROLES
from clearspan.access.sessions import Sessions, Signed
from clearspan.access.tokens import AccessTokenInvalid, AccessTokens, Claims, looks_like_one
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import DomainError, Forbidden, InvalidRequest, MalformedBody, Unauthorized
from clearspan.settings import AccessSettings

PUBLIC = "public"
"""``opt={"scope": PUBLIC}``: no key is needed."""
ANY = "any"
"""``opt={"scope": ANY}``: any valid key."""
_CACHE_MAX = 10_000
STEP_UP_SCOPES = frozenset({"api_keys:write", "webhook_endpoints:write", "psp_accounts:write", "operators:write"})
"""What the cockpit does only with a factor given a moment ago: a person's token has these only for so long after its password
and code were given (``access.step_up_min``), however often it is refreshed."""


class KeyRow(msgspec.Struct, frozen=True):
    """An active API key."""

    tenant_id: UUID
    live: bool
    key_id: UUID
    secret_hmac: str
    scopes: frozenset[str]
    tenant: str
    expires_at: datetime | None


_ROWS = msgspec.json.Decoder(list[KeyRow])
_ROW = msgspec.json.Decoder(KeyRow | None)


class Authenticator:
    """Keys and access tokens to callers, with a short memory (``access.key_cache_s``).

    A key revoked elsewhere is refused for reading within that time; calls that move money check it again in their own
    transaction, so for them revocation is immediate. The same holds for the key or session behind an access token; a session is
    asked about anew by everything but reading, so that another role counts at once.

    Args:
        db: the database.
        pepper: of the keys' digests.
        settings: how long is remembered.
        tokens, sessions: access tokens, and what stands behind those of people; without them keys only.
    """

    def __init__(
        self,
        db: Database,
        pepper: bytes,
        settings: AccessSettings,
        tokens: AccessTokens | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._db = db
        self._tokens = tokens
        self._sessions = sessions
        self._keys_by_id: dict[UUID, tuple[float, KeyRow | None]] = {}
        self._signed: dict[UUID, tuple[float, Signed | None]] = {}
        self._pepper = pepper
        self._ttl = settings.key_cache_s
        self._known: dict[str, tuple[float, KeyRow]] = {}
        self._used: dict[tuple[Scope, UUID], datetime] = {}

    async def caller(self, authorization: str | None, request_id: str, *, fresh: bool = False) -> Caller:
        """The caller behind an ``Authorization`` header.

        Args:
            authorization: the header.
            request_id: for the caller.
            fresh: ask again about the session behind a person's token.

        Raises:
            Unauthorized: no key, or not a valid one.
            AccessTokenInvalid: an access token that is not valid (any more).
        """
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer":
            raise Unauthorized
        if self._tokens is not None and looks_like_one(text):
            return await self._of_token(self._tokens.read(text), request_id, fresh=fresh)
        row = await self.key(text)
        if row is None:
            raise Unauthorized
        return self._of_key(row, request_id)

    async def key(self, text: str) -> KeyRow | None:
        """The active API key with this text."""
        parsed = parse(text)
        row = None if parsed is None else await self._row(parsed)
        return row if row is not None and not _is_over(row) else None

    def _of_key(self, row: KeyRow, request_id: str) -> Caller:
        scope = Scope(tenant_id=row.tenant_id, live=row.live)
        self._used[scope, row.key_id] = clock.now()
        return Caller(
            scope=scope,
            actor_type="api_key",
            actor_id=ids.encode("key", row.key_id),
            request_id=request_id,
            scopes=row.scopes,
            key_id=row.key_id,
            tenant=row.tenant,
        )

    async def _of_token(self, claims: Claims, request_id: str, *, fresh: bool) -> Caller:
        if claims.sid:
            signed = await self.person(claims, fresh=fresh)
            assert self._sessions is not None
            scopes = claims.scopes & signed.scopes
            if not self._sessions.is_strong(signed):
                scopes -= STEP_UP_SCOPES
            return msgspec.structs.replace(
                signed.caller(request_id), scopes=scopes, session_id=signed.session.session_id
            )
        row = await self._key_by_id(_decoded("key", claims.sub))
        if row is None or _is_over(row) or (row.live, row.tenant) != (claims.live, claims.tenant):
            raise AccessTokenInvalid
        caller = self._of_key(row, request_id)
        return msgspec.structs.replace(caller, scopes=claims.scopes & row.scopes)

    async def person(self, claims: Claims, *, fresh: bool) -> Signed:
        """Who stands behind a person's token, while the session, the membership and the second factor that it needs do.

        Raises:
            AccessTokenInvalid: one of them does not.
        """
        session_id = _decoded("ses", claims.sid)
        known = self._signed.get(session_id)
        if fresh or known is None or known[0] <= clock.monotonic():
            if len(self._signed) >= _CACHE_MAX:
                self._signed.clear()
            assert self._sessions is not None
            try:
                signed = await self._sessions.find_by_id(session_id)
            except NoTenant:
                signed = None
            known = self._signed[session_id] = (clock.monotonic() + self._ttl, signed)
        signed = known[1]
        if (
            signed is None
            or not holds(signed)
            or (signed.operator.public_id, signed.membership.slug, signed.session.live)
            != (claims.sub, claims.tenant, claims.live)
            or signed.session.expires_at <= clock.now()
        ):
            raise AccessTokenInvalid
        return signed

    async def _key_by_id(self, key_id: UUID) -> KeyRow | None:
        known = self._keys_by_id.get(key_id)
        if known is None or known[0] <= clock.monotonic():
            if len(self._keys_by_id) >= _CACHE_MAX:
                self._keys_by_id.clear()
            row = _ROW.decode(await self._db.call("api_key_by_id", {"key_id": key_id}) or b"null")
            known = self._keys_by_id[key_id] = (clock.monotonic() + self._ttl, row)
        return known[1]

    def forget(self) -> None:
        """Ask the database again for every key and session (after one was changed here)."""
        self._known.clear()
        self._keys_by_id.clear()
        self._signed.clear()

    async def write_uses(self) -> None:
        """Store when each key was last used. Called once a minute, so that no request pays for it.

        Raises:
            DatabaseUnavailable: PostgreSQL is away; what was not stored is tried again next time.
        """
        while self._used:
            (scope, key_id), moment = next(iter(self._used.items()))
            async with self._db.begin(scope) as session:
                await session.execute(
                    text(
                        "UPDATE api_keys SET last_used_at = GREATEST(last_used_at, :moment)"
                        " WHERE tenant_id = :tenant AND live = :live AND key_id = :key"
                    ),
                    {"moment": moment, "tenant": scope.tenant_id, "live": scope.live, "key": key_id},
                )
            if self._used[scope, key_id] == moment:
                del self._used[scope, key_id]

    async def _row(self, key: ParsedKey) -> KeyRow | None:
        hashed = digest(self._pepper, key.text).hex()
        known = self._known.get(hashed)
        if known is not None and known[0] > clock.monotonic():
            return known[1]
        answer = await self._db.fetch_text(f"SELECT {sqlbundle.name('api_keys_by_prefix')}($1)", key.prefix)
        for row in _ROWS.decode(answer):
            if row.live == key.live and hmac.compare_digest(row.secret_hmac, hashed):
                if len(self._known) >= _CACHE_MAX:
                    self._known.clear()
                self._known[hashed] = (clock.monotonic() + self._ttl, row)
                return row
        self._known.pop(hashed, None)
        return None


def holds(signed: Signed) -> bool:
    """Whether a session of method ``token`` still gives what it was opened for: that tenant, with the factor its role needs."""
    return (
        signed.session.method == "token"
        and signed.membership.tenant_id == signed.session.tenant_id
        and (signed.membership.role not in STRONG_ROLES or signed.operator.has_second_factor)
    )


def _is_over(row: KeyRow) -> bool:
    return row.expires_at is not None and row.expires_at <= clock.now()


def _decoded(prefix: str, text: str) -> UUID:
    try:
        return ids.decode(prefix, text)
    except ids.InvalidId:
        raise AccessTokenInvalid from None


async def authorize(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of every route: a valid key with the route's scope, and a body that is strictly what the route declares.

    Raises:
        Unauthorized, Forbidden, MalformedBody, InvalidRequest.
    """
    if _is_options(handler):
        return
    scope = handler.opt["scope"]
    request_id = connection.scope["state"]["request_id"]
    if handler.opt.get("session"):
        try:
            await _enter(connection, handler, scope)
        except (SignInRequired, StepUpRequired):
            await _keep_what_was_sent(connection)
            raise
    elif scope != PUBLIC:
        authenticator: Authenticator = connection.app.state.authenticator
        fresh = connection.scope.get("method") not in ("GET", "HEAD")
        caller = await authenticator.caller(connection.headers.get("authorization"), request_id, fresh=fresh)
        if scope != ANY and scope not in caller.scopes:
            if caller.session_id is not None and scope in STEP_UP_SCOPES:
                raise Forbidden(
                    f"This token lacks the scope '{scope}', or its password and code were given too long ago for it: get a"
                    " new one with the password grant."
                )
            raise Forbidden(
                f"This key lacks the scope '{scope}'. Make a key that has it, or ask whoever owns this one."
            )
        connection.scope["state"]["caller"] = caller
    if isinstance(connection, Request) and isinstance(handler, HTTPRouteHandler):
        await _check_body(connection, handler)


async def _enter(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler, scope: str) -> None:
    """A page for people: an open session, a role with the page's scope, and the factors that role and action need.

    ``opt={"session": True}`` makes a route such a page; ``"step_up": True`` asks for a factor given a moment ago;
    ``"half": True`` lets people in who have yet to set up the second factor that their role needs; ``"quiet": True`` is for what
    pages ask by themselves: it does not keep an idle session open.

    Raises:
        SignInRequired, NoTenant, RoleForbids, SecondFactorRequired, StepUpRequired.
    """
    sessions: Sessions = connection.app.state.sessions
    signed = await sessions.enter(connection, touch=not handler.opt.get("quiet"))
    if scope not in (PUBLIC, ANY) and scope not in signed.scopes:
        raise RoleForbids(
            f"Your role, {signed.membership.role}, lacks the right '{scope}'. Ask an owner or admin for it."
        )
    if handler.opt.get("half"):
        return
    if lacks_second_factor(signed):
        raise SecondFactorRequired
    if handler.opt.get("step_up") and not sessions.is_strong(signed):
        raise StepUpRequired


async def _keep_what_was_sent(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """For the page that answers the refusal, which cannot wait: whose cookie it is, and the form that has to go on afterwards."""
    if isinstance(connection, Request) and connection.method == "POST":
        state = connection.scope["state"]
        state["owner"] = await connection.app.state.sessions.owner(connection)
        state["typed"] = await connection.body()


def lacks_second_factor(signed: Signed) -> bool:
    """Whether somebody's role needs a second factor that they have yet to set up."""
    needs = signed.membership.role in STRONG_ROLES and signed.session.method != "oidc"
    return needs and not signed.operator.has_second_factor


async def _check_body(request: Request[Any, Any, Any], handler: HTTPRouteHandler) -> None:
    """Decode strictly: the framework's own decoding would take ``"1"`` and ``1.0`` for an integer."""
    declared = handler.parsed_fn_signature.parameters.get("data")
    if declared is None:
        return
    kind = declared.annotation
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedMediaType(f"Send the body as application/json, not {content_type[:60]!r}.")
    body = await request.body()
    try:
        msgspec.json.decode(body or b"{}", type=kind)
        if rb"\u0000" in body and _holds_nul(msgspec.json.decode(body)):
            raise InvalidRequest("No text may hold a NUL character (\\u0000); leave it out.")
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        path = place.strip("`") or "$"
        raise InvalidRequest(f"{message} at {path}.", errors=[{"path": path, "message": message}]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"{error}. Send one JSON object, UTF-8.") from None
    except RecursionError:
        raise MalformedBody("The JSON is nested too deeply.") from None


def _holds_nul(document: Any) -> bool:
    """PostgreSQL stores no text with a NUL in it."""
    match document:
        case str():
            return "\0" in document
        case dict():
            return any(_holds_nul(part) for pair in document.items() for part in pair)
        case list():
            return any(map(_holds_nul, document))
    return False


class UnsupportedMediaType(DomainError):
    """The body is not JSON."""

    code = "unsupported_media_type"
    status = 415
    title = "The body must be JSON"


def _is_options(handler: BaseRouteHandler) -> bool:
    """The framework's own answer to OPTIONS: it lists methods and knows nothing else."""
    return isinstance(handler, HTTPRouteHandler) and handler.http_methods == {HttpMethod.OPTIONS}


def check_scopes(app: Litestar) -> None:
    """Refuse to start when a route declares no scope or an unknown one."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)]):
            if handler is None or _is_options(handler):
                continue
            scope = handler.opt.get("scope")
            assert scope in SCOPES or scope in (PUBLIC, ANY), f"{handler} on {route.path} declares the scope {scope!r}"
