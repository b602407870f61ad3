"""Sessions of people: a random cookie, and a row on the server that can be ended at any moment.

The cookie holds 256 random bits and nothing else; the database holds their SHA-256, so a dump opens no session. A session ends
when it is idle (``access.session_idle_min``), too old (``access.session_max_h``), signed out, revoked, or when its person is
disabled or leaves the last tenant. Every request asks the database (one round trip), so each of these holds at once.

Forms carry a token derived from the session's secret: it is worth nothing in another session, and a page of another origin
cannot read it. ``platform``'s cookie rules: ``__Host-`` and ``Secure`` whenever people come by https; on plain http, which is
for a developer's own machine only, neither can be set.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from litestar.connection import ASGIConnection

from clearspan.access.errors import NoTenant, SignInRequired
from clearspan.access.roles import ROLES
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.settings import AccessSettings

TOKEN_BYTES = 32


class Membership(msgspec.Struct, frozen=True):
    """A tenant and the role in it."""

    tenant_id: UUID
    slug: str
    name: str
    role: str


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """A person, with what signs them in. Never leaves this package but as ``Signed``."""

    operator_id: UUID
    email: str
    name: str
    status: str
    password_hash: str | None
    password_at: datetime | None
    totp_secret: str | None
    totp_pending: str | None
    recovery_codes: list[str]
    oidc_issuer: str | None
    oidc_subject: str | None
    locale: str
    timezone: str
    preferences: dict[str, Any]
    signed_in_at: datetime | None
    created_at: datetime
    version: int
    memberships: list[Membership]

    @property
    def public_id(self) -> str:
        """``opr_…``."""
        return ids.encode("opr", self.operator_id)

    @property
    def has_second_factor(self) -> bool:
        """Whether a code is asked for."""
        return self.totp_secret is not None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """An open session."""

    session_id: UUID
    operator_id: UUID
    method: str
    tenant_id: UUID | None
    live: bool
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    strong_at: datetime | None
    ip: str
    agent: str


class _Found(msgspec.Struct, frozen=True):
    session: Session
    operator: Operator


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is signed in, in the tenant and mode that they look at.

    Attributes:
        operator: who.
        session: by which session.
        membership: in which tenant, with which role.
        csrf: what forms of this session carry.
    """

    operator: Operator
    session: Session
    membership: Membership
    csrf: str

    @property
    def scopes(self) -> frozenset[str]:
        """What the role allows."""
        return ROLES[self.membership.role]

    def caller(self, request_id: str) -> Caller:
        """For services, which do not care whether a person or a key asks."""
        return Caller(
            scope=Scope(tenant_id=self.membership.tenant_id, live=self.session.live),
            actor_type="operator",
            actor_id=self.operator.public_id,
            request_id=request_id,
            scopes=self.scopes,
            tenant=self.membership.slug,
        )


class NewSession(msgspec.Struct, frozen=True):
    """A session just made; the token is seen this once."""

    token: str
    session_id: UUID
    expires_at: datetime


class Owner(msgspec.Struct, frozen=True):
    """Whose session a cookie is of, or was; it opens nothing.

    Attributes:
        operator_id: who.
        session_id: which.
        tenant_id, live: what was looked at.
        ended: whether it was ended; it may be over without that.
    """

    operator_id: UUID
    session_id: UUID
    tenant_id: UUID | None
    live: bool
    ended: bool


class Sessions:
    """See the module's docstring.

    Args:
        db: the database.
        master: for the key of form tokens.
        settings: how long sessions live.
        secure: whether people come by https.
    """

    def __init__(self, db: Database, master: MasterKey, settings: AccessSettings, *, secure: bool) -> None:
        self._db = db
        self._key = master.derive("form-token")
        self._settings = settings
        self.secure = secure
        self.cookie = "__Host-clearspan" if secure else "clearspan"
        self.ended: list[Callable[[UUID], None]] = []
        """Told of whom a session was ended by this process, so that what is open for them is looked at again at once."""

    async def open(
        self,
        operator: Operator,
        *,
        method: str,
        strong: bool,
        ip: str,
        agent: str,
        tenant_id: UUID | None = None,
        live: bool = False,
    ) -> NewSession:
        """Begin a session: always with a new token, so that none can be planted before.

        Args:
            operator: who signed in.
            method: ``password``, ``oidc`` or ``token``.
            strong: whether a second factor was given.
            ip, agent: for the list of sessions that the person sees.
            tenant_id, live: where to begin; the first membership in test mode by default.
        """
        token = clock.random_bytes(TOKEN_BYTES).hex()
        now, session_id = clock.now(), clock.new_uuid()
        expires_at = now + timedelta(hours=self._settings.session_max_h)
        if tenant_id is None and operator.memberships:
            tenant_id = operator.memberships[0].tenant_id
        await self._db.call(
            "operator_session_add",
            {
                "hash": _hash(token),
                "session_id": session_id,
                "operator_id": operator.operator_id,
                "method": method,
                "tenant_id": tenant_id,
                "live": live,
                "now": now,
                "expires_at": expires_at,
                "strong_at": now if strong else None,
                "ip": ip,
                "agent": agent,
            },
        )
        return NewSession(token, session_id, expires_at)

    async def find(self, token: str, *, touch: bool = True) -> Signed | None:
        """Whose session this is; ``None`` when it is over or never was.

        Args:
            token: of the cookie.
            touch: whether this counts as activity; what a page does by itself does not.
        """
        if len(token) != 2 * TOKEN_BYTES:
            return None
        return await self._find({"hash": _hash(token), "touch": touch}, token)

    async def find_by_id(self, session_id: UUID) -> Signed | None:
        """The session behind an access token; it has no forms."""
        return await self._find({"session_id": session_id}, "")

    async def _find(self, which: Mapping[str, Any], token: str) -> Signed | None:
        now = clock.now()
        document = {**which, "now": now, "idle_before": now - timedelta(minutes=self._settings.session_idle_min)}
        found = msgspec.json.decode(
            await self._db.call("operator_session_find", document) or b"null", type=_Found | None
        )
        if found is None:
            return None
        memberships = {one.tenant_id: one for one in found.operator.memberships}
        membership = memberships.get(found.session.tenant_id) or next(iter(memberships.values()), None)
        if membership is None:
            raise NoTenant
        return Signed(operator=found.operator, session=found.session, membership=membership, csrf=self.csrf(token))

    def csrf(self, token: str) -> str:
        """What forms of the session with this token carry."""
        return hmac.digest(self._key, token.encode(), hashlib.sha256).hex()

    def place(self, signed: Signed, salt: str) -> str:
        """What forms carry besides, in whichever session of theirs: who looks, in which tenant and mode."""
        where = f"{signed.operator.operator_id} {signed.membership.tenant_id} {signed.session.live} {salt}"
        return ids.letters(hmac.digest(self._key, where.encode(), hashlib.sha256))

    async def of_request(self, connection: ASGIConnection[Any, Any, Any, Any], *, touch: bool = True) -> Signed | None:
        """Who sent this request, by its cookie."""
        token = connection.cookies.get(self.cookie)
        return None if token is None else await self.find(token, touch=touch)

    async def owner(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Owner | None:
        """Whose cookie this browser has, though the session may be over: to go on where they were, once they have signed in."""
        token = connection.cookies.get(self.cookie, "")
        if len(token) != 2 * TOKEN_BYTES:
            return None
        found = await self._db.call("operator_session_owner", {"hash": _hash(token)})
        return msgspec.json.decode(found or b"null", type=Owner | None)

    async def enter(self, connection: ASGIConnection[Any, Any, Any, Any], *, touch: bool = True) -> Signed:
        """The same, and the request's state knows it.

        Raises:
            SignInRequired: there is no open session.
            NoTenant: the person is a member of no tenant (any more).
        """
        signed = await self.of_request(connection, touch=touch)
        if signed is None:
            raise SignInRequired
        state = connection.scope["state"]
        state["signed"] = signed
        state["caller"] = signed.caller(state["request_id"])
        return signed

    def is_strong(self, signed: Signed) -> bool:
        """Whether a factor was given recently enough (``access.step_up_min``) for what needs a fresh one."""
        at = signed.session.strong_at
        return at is not None and clock.now() - at < timedelta(minutes=self._settings.step_up_min)

    async def look_at(self, signed: Signed, *, tenant_id: UUID | None = None, live: bool | None = None) -> None:
        """Switch tenant or mode. A tenant without membership is not switched to."""
        known = {one.tenant_id for one in signed.operator.memberships}
        change: dict[str, Any] = {}
        if tenant_id is not None and tenant_id in known:
            change["tenant_id"] = tenant_id
        if live is not None:
            change["live"] = live
        await self._change(signed.session.session_id, change)

    async def strengthened(self, signed: Signed) -> None:
        """A factor was given just now."""
        await self._change(signed.session.session_id, {"strong_at": clock.now()})

    async def end(
        self, operator_id: UUID, *, why: str, session_id: UUID | None = None, keep: UUID | None = None
    ) -> int:
        """End one session of a person, or all but ``keep``.

        Returns:
            how many were open.
        """
        document = {
            "operator_id": operator_id,
            "session_id": session_id,
            "except": keep,
            "now": clock.now(),
            "why": why,
        }
        ended: int = msgspec.json.decode(await self._db.call("operator_sessions_end", document))
        for tell in self.ended:
            tell(operator_id)
        return ended

    async def of_operator(self, operator_id: UUID) -> list[Session]:
        """Open sessions, newest first."""
        now = clock.now()
        idle = now - timedelta(minutes=self._settings.session_idle_min)
        answer = await self._db.call(
            "operator_sessions_of", {"operator_id": operator_id, "now": now, "idle_before": idle}
        )
        return msgspec.json.decode(answer, type=list[Session])

    async def _change(self, session_id: UUID, change: dict[str, Any]) -> None:
        if change:
            await self._db.call("operator_session_change", {"session_id": session_id, "set": change})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
