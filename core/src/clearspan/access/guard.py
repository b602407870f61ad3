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

from clearspan.access.errors import RoleForbids, SecondFactorRequired, StepUpRequired
from clearspan.access.keys import SCOPES, ParsedKey, digest, parse
from clearspan.access.roles import STRONG_ROLES
from clearspan.access.sessions import Sessions
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


class _Row(msgspec.Struct, frozen=True):
    tenant_id: UUID
    live: bool
    key_id: UUID
    secret_hmac: str
    scopes: frozenset[str]
    tenant: str
    expires_at: datetime | None


_ROWS = msgspec.json.Decoder(list[_Row])


class Authenticator:
    """Keys to callers, with a short memory (``access.key_cache_s``).

    A key revoked elsewhere is refused for reading within that time; calls that move money check it again in their own
    transaction, so for them revocation is immediate.
    """

    def __init__(self, db: Database, pepper: bytes, settings: AccessSettings) -> None:
        self._db = db
        self._pepper = pepper
        self._ttl = settings.key_cache_s
        self._known: dict[str, tuple[float, _Row]] = {}
        self._used: dict[tuple[Scope, UUID], datetime] = {}

    async def caller(self, authorization: str | None, request_id: str) -> Caller:
        """The caller behind an ``Authorization`` header.

        Raises:
            Unauthorized: no key, or not a valid one.
        """
        scheme, _, text = (authorization or "").partition(" ")
        key = parse(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Unauthorized
        row = await self._row(key)
        if row is None or (row.expires_at is not None and row.expires_at <= clock.now()):
            raise Unauthorized
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

    def forget(self) -> None:
        """Ask the database again for every key (after one was changed here)."""
        self._known.clear()

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

    async def _row(self, key: ParsedKey) -> _Row | None:
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
        await _enter(connection, handler, scope)
    elif scope != PUBLIC:
        authenticator: Authenticator = connection.app.state.authenticator
        caller = await authenticator.caller(connection.headers.get("authorization"), request_id)
        if scope != ANY and scope not in caller.scopes:
            raise Forbidden(
                f"This key lacks the scope '{scope}'. Make a key that has it, or ask whoever owns this one."
            )
        connection.scope["state"]["caller"] = caller
    if isinstance(connection, Request) and isinstance(handler, HTTPRouteHandler):
        await _check_body(connection, handler)


async def _enter(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler, scope: str) -> None:
    """A page for people: an open session, a role with the page's scope, and the factors that role and action need.

    ``opt={"session": True}`` makes a route such a page; ``"step_up": True`` asks for a factor given a moment ago;
    ``"half": True`` lets people in who have yet to set up the second factor that their role needs.

    Raises:
        SignInRequired, NoTenant, RoleForbids, SecondFactorRequired, StepUpRequired.
    """
    sessions: Sessions = connection.app.state.sessions
    signed = await sessions.enter(connection)
    if scope not in (PUBLIC, ANY) and scope not in signed.scopes:
        raise RoleForbids(
            f"Your role, {signed.membership.role}, lacks the right '{scope}'. Ask an owner or admin for it."
        )
    if handler.opt.get("half"):
        return
    needs = signed.membership.role in STRONG_ROLES and signed.session.method != "oidc"
    if needs and not signed.operator.has_second_factor:
        raise SecondFactorRequired
    if handler.opt.get("step_up") and not sessions.is_strong(signed):
        raise StepUpRequired


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
