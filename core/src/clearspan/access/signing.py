"""Signing in with a password and a second factor, and what belongs to it: one-time links, authenticators, limits on guessing.

- **One answer.** Wrong password, unknown address and disabled person get the same words after the same work, and no failure is
  answered before ``FAILURE_S``, so that what only a known account costs (a row in the journal) does not show.
- **Guessing** is counted per account and per address of the network before the password is looked at, so tries at once do not
  pass the limit together. A wrong code counts like a wrong password. Accounts and addresses are stored as HMACs.
- **Between password and code** there is no session but a sealed value, good for a few minutes in one browser.
- **Codes** are TOTP (RFC 6238: SHA-1, 6 digits, 30 s, since that is what every authenticator does), one step of skew either way,
  each step once. Recovery codes work once each; only their HMACs are stored.
- **Links** carry 256 random bits, of which the database has the SHA-256. They work once; two at the same moment: one wins.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import structlog
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import text

from clearspan.access.errors import (
    CodeWrong,
    LinkGone,
    OperatorChanged,
    OperatorShared,
    RoleTooHigh,
    SecondFactorNeeded,
    SignInExpired,
    SignInFailed,
    TooManyTries,
)
from clearspan.access.operators import Operators, check_email, check_role, record
from clearspan.access.passwords import Passwords, outdated
from clearspan.access.roles import STRONG_ROLES, may_give
from clearspan.access.sessions import NewSession, Operator, Owner, Sessions, Signed
from clearspan.platform import clock, crypto, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import KeyProblem, MasterKey
from clearspan.platform.db import Database
from clearspan.platform.problems import NotFound
from clearspan.settings import AccessSettings
from clearspan.tenants.service import Tenants

FAILURE_S: Final = 0.5
"""How long a failure takes at least, in seconds."""
STEP_S: Final = 300
"""How long after the password the code may come, in seconds."""
LINK_H: Final = {"first_owner": 24, "invitation": 72, "password": 24}
"""How long links work, in hours."""
RECOVERY_CODES: Final = 10
_WINDOW: Final = timedelta(minutes=15)
_ADDRESS_FACTOR: Final = 10
_DIGITS: Final = 6
_PERIOD_S: Final = 30
_SKEW: Final = (0, -1, 1)
_SECRET_BYTES: Final = 20  # RFC 4226, section 4: 160 bits.
_PENDING: Final = timedelta(hours=1)
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 that are not taken for each other."""
log = structlog.get_logger("clearspan.signing")
T = TypeVar("T")


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time link that can be used.

    Attributes:
        purpose: ``first_owner``, ``invitation`` or ``password``.
        operator_id: whose password it sets.
        email, tenant_id, role: who is invited where, as what.
        created_by: a person's public id, or ``cli``.
    """

    link_id: UUID
    purpose: str
    operator_id: UUID | None
    email: str
    tenant_id: UUID | None
    role: str | None
    created_by: str
    created_at: datetime
    expires_at: datetime


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation that nobody has followed yet."""

    link_id: UUID
    email: str
    role: str
    created_by: str
    created_at: datetime
    expires_at: datetime


class Step(msgspec.Struct, frozen=True):
    """Who gave the right password a moment ago; sealed, as it goes through the browser."""

    operator_id: UUID
    password_at: datetime | None


class _Sealed(msgspec.Struct, frozen=True):
    until: datetime
    value: msgspec.Raw


class _Pending(msgspec.Struct, frozen=True):
    at: datetime
    secret: bytes


class _Try(msgspec.Struct, frozen=True):
    seq: int | None
    failed: int
    wait_since: datetime | None


class Signing:
    """See the module's docstring.

    Args:
        db: the database.
        master: seals secrets of second factors and what goes through browsers, and keys what is only compared.
        settings: limits.
        public_url: of the gateway; links begin with it.
        operators, sessions, tenants: the services.
    """

    def __init__(
        self,
        db: Database,
        master: MasterKey,
        settings: AccessSettings,
        public_url: str,
        operators: Operators,
        sessions: Sessions,
        tenants: Tenants,
    ) -> None:
        self._db = db
        self._settings = settings
        self._public_url = public_url.rstrip("/")
        self._operators = operators
        self._sessions = sessions
        self._tenants = tenants
        self._passwords = Passwords()
        self._seal_key = master.derive("signing-seal")
        self._totp_key = master.derive("operator-totp")
        self._recovery_key = master.derive("operator-recovery-code")
        self._tries_key = master.derive("sign-in-tries")

    # -- Signing in ---------------------------------------------------------------------------------------------------------

    async def by_password(self, email: str, password: str, *, ip: str, request_id: str) -> Operator:
        """The person with this address and password. One who ``has_second_factor`` is signed in by ``by_code`` only.

        Raises:
            SignInFailed: no.
            TooManyTries: for now nobody may try.
        """
        email = normal_email(email)

        async def judge() -> tuple[Operator | None, bool]:
            operator = await self._operators.find(email=email) if email else None
            active = operator is not None and operator.status == "active"
            stored = operator.password_hash if operator is not None and active else None
            return operator, await self._passwords.matches(stored, password)

        operator = await self._guarded(email, ip, request_id, "password", judge, SignInFailed, half=True)
        assert operator.password_hash is not None
        if outdated(operator.password_hash):
            operator = await self._rehashed(operator, password)
        return operator

    def step(self, operator: Operator, visit: str) -> str:
        """What the browser brings back with the code, good for ``STEP_S`` seconds in the visit that it was made in."""
        return self.seal("step", Step(operator.operator_id, operator.password_at), STEP_S, visit)

    async def by_code(self, step: str, code: str, *, visit: str, ip: str, request_id: str) -> Operator:
        """The person of ``step``, who has given the code of an authenticator or a recovery code as well.

        Raises:
            SignInExpired: the password was given too long ago, elsewhere, or is another one by now.
            CodeWrong: the code does not count.
            TooManyTries: for now nobody may try.
        """
        known = self.unseal("step", step, Step, visit)
        operator = await self._operators.find(operator_id=known.operator_id) if known else None
        if (
            known is None
            or operator is None
            or operator.status != "active"
            or operator.password_at != known.password_at
            or not operator.has_second_factor
        ):
            raise SignInExpired
        found = operator

        async def judge() -> tuple[Operator | None, bool]:
            return found, await self._takes(found, code, request_id)

        return await self._guarded(operator.email, ip, request_id, "second_factor", judge, CodeWrong)

    async def begin(
        self,
        operator: Operator,
        *,
        second_factor: bool,
        ip: str,
        agent: str,
        request_id: str,
        previous: Owner | None = None,
    ) -> NewSession:
        """A session for somebody who has shown who they are.

        Args:
            operator: who.
            second_factor: whether they gave one; whoever has none has given all that there is.
            ip, agent: for the list of sessions that they see.
            request_id: under which request.
            previous: this browser's session before: it ends, and the same person goes on in the tenant and mode of it.
        """
        same = previous is not None and previous.operator_id == operator.operator_id
        made = await self._sessions.open(
            operator,
            method="password",
            strong=second_factor or not operator.has_second_factor,
            ip=ip,
            agent=agent,
            tenant_id=previous.tenant_id if previous is not None and same else None,
            live=previous.live if previous is not None and same else False,
        )
        if previous is not None and not previous.ended:
            await self._sessions.end(previous.operator_id, session_id=previous.session_id, why="signed_out")
        await self._operators.tell(
            operator, "operator.signed_in", request_id, {"method": "password", "second_factor": second_factor}
        )
        return made

    async def confirm(self, signed: Signed, given: str, *, ip: str, request_id: str) -> None:
        """Somebody shows again that it is they: by a code, or by the password where they have no second factor.

        Raises:
            CodeWrong, SignInFailed: it is not right.
            TooManyTries: for now they may not try.
        """
        operator = signed.operator

        async def judge() -> tuple[Operator | None, bool]:
            if operator.has_second_factor:
                return operator, await self._takes(operator, given, request_id)
            return operator, await self._passwords.matches(operator.password_hash, given)

        kind = CodeWrong if operator.has_second_factor else SignInFailed
        # Counted apart from signing in: strangers who guess do not lock out somebody at work.
        await self._guarded(f"confirm {operator.email}", ip, request_id, "second_factor", judge, kind)
        await self._sessions.strengthened(signed)

    async def _guarded(
        self,
        account: str,
        ip: str,
        request_id: str,
        code: str,
        judge: Callable[[], Awaitable[tuple[Operator | None, bool]]],
        refusal: type[SignInFailed | CodeWrong],
        *,
        half: bool = False,
    ) -> Operator:
        """Let ``judge`` decide within the limits; ``half``: the count goes on where a second factor has yet to be given."""
        began = clock.monotonic()
        made = await self._try(account, ip)
        operator, right = await judge()
        if operator is not None and right:
            await self._db.call("sign_in_done", {"seq": made.seq, "ok": not (half and operator.has_second_factor)})
            return operator
        if operator is not None:
            await self._operators.tell(operator, "operator.sign_in_failed", request_id, {"code": code})
            if made.failed + 1 == self._settings.sign_in_tries_max:
                await self._operators.tell(operator, "operator.locked_out", request_id, {"code": code})
        await clock.sleep(max(0.0, FAILURE_S - (clock.monotonic() - began)))
        raise refusal

    async def _try(self, account: str, ip: str) -> _Try:
        now = clock.now()
        document = {
            "account": self._blinded(f"account {account}"),
            "address": self._blinded(f"address {ip}"),
            "now": now,
            "since": now - _WINDOW,
            "account_max": self._settings.sign_in_tries_max,
            "address_max": self._settings.sign_in_tries_max * _ADDRESS_FACTOR,
        }
        made = msgspec.json.decode(await self._db.call("sign_in_try", document), type=_Try)
        if made.seq is None:
            assert made.wait_since is not None
            raise TooManyTries(retry_after_s=max(1, int((made.wait_since + _WINDOW - now).total_seconds()) + 1))
        return made

    def _blinded(self, what: str) -> str:
        return hmac.digest(self._tries_key, what.encode(), hashlib.sha256).hex()

    async def _rehashed(self, operator: Operator, password: str) -> Operator:
        try:
            return await self._operators.change(operator, password_hash=await self._passwords.hashed(password))
        except OperatorChanged:  # Next time, then.
            return operator

    # -- Passwords ----------------------------------------------------------------------------------------------------------

    async def change_password(self, signed: Signed, password: str, request_id: str) -> None:
        """Another password; every other session ends.

        Raises:
            PasswordRefused: see ``Passwords.check``.
            OperatorChanged: something else was changed at the same moment.
        """
        operator = await self._set_password(signed.operator, password)
        await self._sessions.end(operator.operator_id, why="revoked", keep=signed.session.session_id)
        await self._operators.tell(operator, "operator.password_changed", request_id, {"by": "profile"})

    async def _set_password(self, operator: Operator, password: str) -> Operator:
        await self._passwords.check(password, email=operator.email)
        hashed = await self._passwords.hashed(password)
        return await self._operators.change(operator, password_hash=hashed, password_at=clock.now())

    # -- The second factor --------------------------------------------------------------------------------------------------

    async def offer_second_factor(self, operator: Operator) -> tuple[str, str]:
        """An authenticator to set up: its secret in base32, for typing, and its ``otpauth:`` address, for a QR code.

        The same for an hour, so that a page that is loaded again fits what was scanned.
        """
        pending = self._pending(operator)
        if pending is None or pending.at < clock.now() - _PENDING:
            pending = _Pending(clock.now(), clock.random_bytes(_SECRET_BYTES))
            sealed = crypto.seal(self._totp_key, msgspec.json.encode(pending), f"pending/{operator.operator_id}")
            await self._operators.change(operator, totp_pending=sealed.hex())
        uri = _totp(pending.secret).get_provisioning_uri(operator.email, "Clearspan")
        return base64.b32encode(pending.secret).decode(), uri

    async def set_second_factor(self, signed: Signed, code: str, request_id: str) -> list[str]:
        """Take the offered authenticator, as ``code`` shows that it works.

        Returns:
            new recovery codes, seen this once.

        Raises:
            CodeWrong: it shows nothing.
        """
        operator = await self._operators.get(signed.operator.operator_id)
        pending = self._pending(operator)
        step = None if pending is None else _step_of(pending.secret, _plain(code))
        if pending is None or step is None:
            raise CodeWrong
        codes, kept = self._new_recovery_codes(operator)
        sealed = crypto.seal(self._totp_key, pending.secret, f"secret/{operator.operator_id}")
        operator = await self._operators.change(
            operator, totp_secret=sealed.hex(), totp_pending=None, recovery_codes=kept
        )
        await self._db.call("operator_totp_use", {"operator_id": operator.operator_id, "step": step})
        await self._sessions.strengthened(signed)
        await self._operators.tell(operator, "operator.second_factor_set", request_id, {})
        return codes

    async def renew_recovery_codes(self, signed: Signed, request_id: str) -> list[str]:
        """New recovery codes, seen this once; the old ones end."""
        operator = await self._operators.get(signed.operator.operator_id)
        codes, kept = self._new_recovery_codes(operator)
        await self._operators.change(operator, recovery_codes=kept)
        await self._operators.tell(operator, "operator.recovery_codes_renewed", request_id, {})
        return codes

    async def remove_second_factor(
        self, operator: Operator, request_id: str, *, by: str = "", rescue: bool = False
    ) -> None:
        """Go on with the password alone.

        Args:
            operator: who.
            request_id: under which request.
            by: who does it, when it is not they.
            rescue: the authenticator is lost; a role that needs one sets up another before anything else opens.

        Raises:
            SecondFactorNeeded: a role of theirs needs it, and this is no rescue.
        """
        if not rescue and any(one.role in STRONG_ROLES for one in operator.memberships):
            raise SecondFactorNeeded
        operator = await self._operators.change(operator, totp_secret=None, totp_pending=None, recovery_codes=[])
        if rescue:
            await self._sessions.end(operator.operator_id, why="revoked")
        await self._operators.tell(operator, "operator.second_factor_removed", request_id, {}, actor=by)

    async def _takes(self, operator: Operator, given: str, request_id: str) -> bool:
        """Whether a code or recovery code counts, which then is used."""
        plain = _plain(given)
        if len(plain) == _DIGITS and plain.isdecimal():
            return await self._takes_code(operator, plain)
        if not operator.has_second_factor or len(plain) != 10:
            return False
        document = {"operator_id": operator.operator_id, "code": self._recovery_digest(operator, plain)}
        if not msgspec.json.decode(await self._db.call("operator_recovery_use", document)):
            return False
        left = len(operator.recovery_codes) - 1
        await self._operators.tell(operator, "operator.recovery_code_used", request_id, {"left": left})
        return True

    async def _takes_code(self, operator: Operator, code: str) -> bool:
        if operator.totp_secret is None:
            return False
        try:
            secret = crypto.open_(self._totp_key, bytes.fromhex(operator.totp_secret), f"secret/{operator.operator_id}")
        except KeyProblem:
            log.warning("second_factor_unreadable", operator=operator.public_id)
            return False
        step = _step_of(secret, code)
        if step is None:
            return False
        fresh: bool = msgspec.json.decode(
            await self._db.call("operator_totp_use", {"operator_id": operator.operator_id, "step": step})
        )
        return fresh

    def _pending(self, operator: Operator) -> _Pending | None:
        if operator.totp_pending is None:
            return None
        try:
            opened = crypto.open_(
                self._totp_key, bytes.fromhex(operator.totp_pending), f"pending/{operator.operator_id}"
            )
        except KeyProblem:
            return None
        return msgspec.json.decode(opened, type=_Pending)

    def _new_recovery_codes(self, operator: Operator) -> tuple[list[str], list[str]]:
        plain = [
            "".join(_LETTERS[byte % len(_LETTERS)] for byte in clock.random_bytes(10)) for _ in range(RECOVERY_CODES)
        ]
        return [f"{one[:5]}-{one[5:]}" for one in plain], [self._recovery_digest(operator, one) for one in plain]

    def _recovery_digest(self, operator: Operator, plain: str) -> str:
        return hmac.digest(self._recovery_key, f"{operator.operator_id} {plain}".encode(), hashlib.sha256).hex()

    # -- One-time links -----------------------------------------------------------------------------------------------------

    async def invite(self, caller: Caller, own_role: str, email: str, role: str) -> str:
        """A link by which whoever has this address becomes a member of the caller's tenant; it is shown this once.

        A newer invitation of the address into the tenant ends the older one.

        Raises:
            InvalidRequest: no e-mail address, or no such role.
            RoleTooHigh: see ``roles.may_give``.
            MemberAlready: they are a member.
        """
        check_role(own_role, role)
        email = check_email(email)
        there = await self._operators.find(email=email)
        if there is not None:
            await self._operators.not_a_member(caller.scope, there.operator_id)
        link_id, url = await self._make_link(
            "invitation", caller.actor_id, email=email, tenant_id=caller.scope.tenant_id, role=role
        )
        async with self._db.begin(caller.scope) as session:
            # Somebody new gets the link's id: the journal speaks of one person from the invitation on.
            await record(
                session,
                caller,
                "operator.invited",
                there.operator_id if there else link_id,
                there.version if there else 0,
                {"role": role},
            )
        return url

    async def invitations(self, scope: Scope) -> list[Invitation]:
        """The open invitations of a tenant, newest first."""
        async with self._db.begin(scope) as session:
            found = await session.scalar(
                text(f"SELECT {sqlbundle.name('operator_invitations')}(CAST(:p AS jsonb))::text"),
                {"p": msgspec.json.encode({"now": clock.now()}).decode()},
            )
        return msgspec.json.decode(found or "[]", type=list[Invitation])

    async def withdraw(self, caller: Caller, link_id: UUID) -> None:
        """End an invitation.

        Raises:
            NotFound: the tenant has no such open invitation.
        """
        async with self._db.begin(caller.scope) as session:
            ended = await session.scalar(
                text(f"SELECT {sqlbundle.name('operator_invitation_end')}(CAST(:p AS jsonb))::text"),
                {"p": msgspec.json.encode({"link_id": link_id, "now": clock.now()}).decode()},
            )
            if ended != "true":
                raise NotFound("There is no such open invitation.")
            await record(session, caller, "operator.invitation_withdrawn", link_id, 0, {})

    async def reset_link(self, caller: Caller, own_role: str, operator_id: UUID) -> str:
        """A link by which a member of the caller's tenant sets another password; it is shown this once.

        Raises:
            NotFound: no member of the tenant.
            RoleTooHigh: whoever may not give a role sets no passwords of those who have it.
            OperatorShared: they are a member of other tenants as well.
        """
        member = await self._operators.member(caller.scope, operator_id)
        if not may_give(own_role, member.role):
            raise RoleTooHigh
        operator = await self._operators.get(operator_id)
        if any(one.tenant_id != caller.scope.tenant_id for one in operator.memberships):
            raise OperatorShared
        return await self.rescue_link(operator, caller.request_id, by=caller.actor_id)

    async def rescue_link(self, operator: Operator, request_id: str, *, by: str) -> str:
        """The same for anybody, by whoever runs the installation."""
        _, url = await self._make_link("password", by, operator_id=operator.operator_id)
        await self._operators.tell(operator, "operator.password_link_made", request_id, {}, actor=by)
        return url

    async def first_owner_link(self) -> str | None:
        """The link that makes the first owner; it ends the one made before. ``None`` when there is somebody."""
        if await self._operators.count():
            return None
        return (await self._make_link("first_owner", "cli"))[1]

    async def link(self, token: str) -> Link:
        """What a link is for, without using it.

        Raises:
            LinkGone: nothing (any more).
        """
        return await self._find_link(token, use=False)

    async def is_new(self, link: Link) -> bool:
        """Whether whoever follows an invitation has yet to choose a password."""
        operator = await self._operators.find(email=link.email)
        return operator is None or _never_signed_in(operator)

    async def take_first_owner(
        self, token: str, *, email: str, name: str, password: str, tenant_name: str, locale: str, request_id: str
    ) -> Operator:
        """Make the first person: owner of every tenant there is, or of a new one named ``tenant_name``.

        Raises:
            LinkGone, InvalidRequest, PasswordRefused.
        """
        await self.link(token)
        email = check_email(email)
        await self._passwords.check(password, email=email)
        hashed = await self._passwords.hashed(password)
        operator_id = (await self._find_link(token, use=True)).link_id
        tenants = [one for one in await self._tenants.all() if one.status == "active"]
        if not tenants:
            name_of_it = tenant_name.strip()[:200] or "Default"
            tenants = [await self._tenants.create(_slug(name_of_it), name_of_it)]
        operator = await self._operators.create(email, name, locale=locale, operator_id=operator_id)
        operator = await self._operators.change(operator, password_hash=hashed, password_at=clock.now())
        for tenant in tenants:
            caller = _caller(tenant.tenant_id, tenant.slug, operator, request_id)
            await self._operators.join(caller, operator.operator_id, "owner")
        return await self._operators.get(operator.operator_id)

    async def take_invitation(self, token: str, *, name: str, password: str, locale: str, request_id: str) -> Operator:
        """Somebody new follows an invitation.

        Raises:
            LinkGone, InvalidRequest, PasswordRefused.
            SignInFailed: they are not new: they sign in and then join.
        """
        link = await self.link(token)
        if link.purpose != "invitation":
            raise LinkGone
        if not await self.is_new(link):
            raise SignInFailed
        operator = await self._operators.find(email=link.email)
        if operator is not None and operator.status != "active":
            raise LinkGone
        await self._passwords.check(password, email=link.email)
        hashed = await self._passwords.hashed(password)
        await self._find_link(token, use=True)
        if operator is None:
            operator = await self._operators.create(link.email, name, locale=locale, operator_id=link.link_id)
        operator = await self._operators.change(
            operator, name=name.strip() or operator.name, password_hash=hashed, password_at=clock.now()
        )
        await self._join(link, operator, request_id)
        return await self._operators.get(operator.operator_id)

    async def join_by_link(self, token: str, operator: Operator, request_id: str) -> Link:
        """Somebody who has signed in before follows an invitation of their address.

        Raises:
            LinkGone: it is none, or another's.
            MemberAlready: they are a member.
        """
        link = await self.link(token)
        if link.purpose != "invitation" or link.email != operator.email or operator.status != "active":
            raise LinkGone
        link = await self._find_link(token, use=True)
        await self._join(link, operator, request_id)
        return link

    async def take_password(self, token: str, password: str, request_id: str) -> Operator:
        """Set the password that a link is for. Every session ends; the second factor stays.

        Raises:
            LinkGone, PasswordRefused.
        """
        link = await self.link(token)
        if link.purpose != "password" or link.operator_id is None:
            raise LinkGone
        operator = await self._operators.get(link.operator_id)
        await self._passwords.check(password, email=operator.email)
        hashed = await self._passwords.hashed(password)
        await self._find_link(token, use=True)
        operator = await self._operators.get(link.operator_id)
        operator = await self._operators.change(operator, password_hash=hashed, password_at=clock.now())
        await self._sessions.end(operator.operator_id, why="revoked")
        await self._operators.tell(operator, "operator.password_changed", request_id, {"by": "link"})
        return operator

    async def _join(self, link: Link, operator: Operator, request_id: str) -> None:
        assert link.tenant_id is not None
        assert link.role is not None
        tenant = await self._tenants.get(link.tenant_id)
        caller = _caller(tenant.tenant_id, tenant.slug, operator, request_id)
        await self._operators.join(caller, operator.operator_id, link.role)

    async def _make_link(self, purpose: str, by: str, **fields: Any) -> tuple[UUID, str]:
        token, now, link_id = ids.letters(clock.random_bytes(32)), clock.now(), clock.new_uuid()
        await self._db.call(
            "operator_link_add",
            {
                "hash": _hash(token),
                "link_id": link_id,
                "purpose": purpose,
                "created_by": by,
                "now": now,
                "expires_at": now + timedelta(hours=LINK_H[purpose]),
                **fields,
            },
        )
        return link_id, f"{self._public_url}/admin/link/{token}"

    async def _find_link(self, token: str, *, use: bool) -> Link:
        if not re.fullmatch(f"{ids.LETTERS}{{64}}", token):
            raise LinkGone
        document = {"hash": _hash(token), "now": clock.now(), "use": use}
        answer = await self._db.call("operator_link_find", document)
        link = msgspec.json.decode(answer or b"null", type=Link | None)
        if link is None or not await self._still_holds(link):
            raise LinkGone
        return link

    async def _still_holds(self, link: Link) -> bool:
        """Nobody is there yet; or whoever invited could still do so."""
        if link.purpose == "first_owner":
            return not await self._operators.count()
        if link.purpose != "invitation" or not link.created_by.startswith("opr_"):
            return True
        inviter = await self._operators.find(operator_id=ids.decode("opr", link.created_by))
        roles = [one.role for one in inviter.memberships if one.tenant_id == link.tenant_id] if inviter else []
        active = inviter is not None and inviter.status == "active"
        return active and any(may_give(role, link.role or "") for role in roles)

    # -- In and out ---------------------------------------------------------------------------------------------------------

    async def disable(self, operator: Operator, request_id: str, *, by: str) -> None:
        """Let somebody in no more, and end what is open, at once."""
        if operator.status == "disabled":
            return
        operator = await self._operators.change(operator, status="disabled")
        await self._sessions.end(operator.operator_id, why="disabled")
        await self._operators.tell(operator, "operator.disabled", request_id, {}, actor=by)

    async def enable(self, operator: Operator, request_id: str, *, by: str) -> None:
        """Let them in again, with what signed them in before."""
        if operator.status == "active":
            return
        operator = await self._operators.change(operator, status="active")
        await self._operators.tell(operator, "operator.enabled", request_id, {}, actor=by)

    # -- What goes through browsers -----------------------------------------------------------------------------------------

    def seal(self, purpose: str, value: Any, ttl_s: float, bound_to: str) -> str:
        """A value that only we can read and that opens for ``ttl_s`` seconds, where it is bound to, as URL-safe text."""
        plain = msgspec.json.encode({"until": clock.now() + timedelta(seconds=ttl_s), "value": value})
        return base64.urlsafe_b64encode(crypto.seal(self._seal_key, plain, f"{purpose}/{bound_to}")).decode()

    def unseal(self, purpose: str, sealed: str, kind: type[T], bound_to: str) -> T | None:
        """What was sealed; ``None`` when it is too old, bound elsewhere, or not ours."""
        try:
            opened = crypto.open_(self._seal_key, base64.urlsafe_b64decode(sealed), f"{purpose}/{bound_to}")
        except (KeyProblem, ValueError, binascii.Error):
            return None
        found = msgspec.json.decode(opened, type=_Sealed)
        return msgspec.json.decode(found.value, type=kind) if found.until > clock.now() else None


def normal_email(email: str) -> str:
    """As it is stored."""
    return unicodedata.normalize("NFKC", email).strip().lower()[:254]


def _plain(code: str) -> str:
    """A code as typed, without blanks and dashes."""
    return re.sub(r"[\s\-]", "", unicodedata.normalize("NFKC", code[:100])).lower()


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, _DIGITS, SHA1(), _PERIOD_S)  # noqa: S303  (RFC 6238; HMAC-SHA-1 is not broken)


def _step_of(secret: bytes, code: str) -> int | None:
    """Of which 30-second step, now or beside, this is the code."""
    totp, now = _totp(secret), int(clock.now().timestamp()) // _PERIOD_S
    # All of them, so that the time does not tell which.
    found = [
        step
        for step in (now + skew for skew in _SKEW)
        if hmac.compare_digest(totp.generate(step * _PERIOD_S), code.encode())
    ]
    return found[0] if found else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _never_signed_in(operator: Operator) -> bool:
    return operator.password_hash is None and operator.oidc_subject is None


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-0123456789")[:40].strip("-")
    return slug if len(slug) >= 3 else "default"


def _caller(tenant_id: UUID, slug: str, operator: Operator, request_id: str) -> Caller:
    return Caller(
        scope=Scope(tenant_id=tenant_id, live=True),
        actor_type="operator",
        actor_id=operator.public_id,
        request_id=request_id,
        tenant=slug,
    )
