"""People: who may sign in, and in which tenants with which role.

An operator belongs to the installation, a membership to a tenant. How people prove who they are is ``access.signing`` (password
and second factor), ``access.oidc`` and ``access.oauth``; what a role may do is ``access.roles``. The journal of a tenant tells
what happened to its members, by id: e-mail addresses and names are not in it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.access.errors import (
    EmailTaken,
    LastOwner,
    LiveKeyRequired,
    MemberAlready,
    OperatorChanged,
    RoleTooHigh,
)
from clearspan.access.models import MembershipRow
from clearspan.access.roles import ROLES, may_give
from clearspan.access.sessions import Operator, Sessions
from clearspan.journal import service as journal
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.settings import AccessSettings

_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,180}\.[^\s@.]{2,}|[^\s@]{1,64}@localhost")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's membership, as the tenant's people see it."""

    operator_id: UUID
    email: str
    name: str
    role: str
    status: str
    totp: bool
    oidc: bool
    signed_in_at: datetime | None
    member_since: datetime
    version: int

    @property
    def public_id(self) -> str:
        """``opr_…``."""
        return ids.encode("opr", self.operator_id)


class Operators:
    """See the module's docstring.

    Args:
        db: the database.
        master: seals secrets of second factors, and keys what is only compared.
        settings: limits.
        sessions: of this process; those of somebody who loses a right end.
    """

    def __init__(self, db: Database, master: MasterKey, settings: AccessSettings, sessions: Sessions) -> None:
        self._db = db
        self._master = master
        self._settings = settings
        self._sessions = sessions

    async def count(self) -> int:
        """How many people there are in the installation."""
        found: int = msgspec.json.decode(await self._db.call("operators_count", {}))
        return found

    async def find(self, *, operator_id: UUID | None = None, email: str | None = None) -> Operator | None:
        """One person."""
        return await self._find(
            {"operator_id": operator_id} if operator_id else {"email": (email or "").strip().lower()}
        )

    async def find_by_identity(self, issuer: str, subject: str) -> Operator | None:
        """The person whom an OpenID provider knows as ``subject``."""
        return await self._find({"issuer": issuer, "subject": subject})

    async def get(self, operator_id: UUID) -> Operator:
        """One person.

        Raises:
            NotFound: there is none.
        """
        found = await self.find(operator_id=operator_id)
        if found is None:
            raise NotFound("There is no such operator.")
        return found

    async def create(
        self, email: str, name: str, *, locale: str = "en", timezone: str = "UTC", operator_id: UUID | None = None
    ) -> Operator:
        """A new person, a member of nothing yet, who cannot sign in yet; ``operator_id`` is one known before.

        Raises:
            InvalidRequest: no e-mail address, or no name.
            EmailTaken: somebody has the address.
        """
        email = check_email(email)
        if not 1 <= len(name.strip()) <= 200:
            raise _invalid("name", "Give a name of 1 to 200 characters.")
        operator_id = operator_id or clock.new_uuid()
        document = {
            "operator_id": operator_id,
            "email": email,
            "name": name.strip(),
            "locale": locale,
            "timezone": timezone,
            "now": clock.now(),
        }
        if not msgspec.json.decode(await self._db.call("operator_add", document)):
            raise EmailTaken
        return await self.get(operator_id)

    async def change(self, operator: Operator, **columns: Any) -> Operator:
        """Change columns of a person: ``name``, ``locale``, ``timezone``, ``preferences``, ``status``, and what signs them in.

        Raises:
            OperatorChanged: somebody else changed them since ``operator`` was read.
        """
        document = {"operator_id": operator.operator_id, "version": operator.version, "set": columns}
        if not msgspec.json.decode(await self._db.call("operator_change", document)):
            raise OperatorChanged
        return await self.get(operator.operator_id)

    # -- Memberships --------------------------------------------------------------------------------------------------------

    async def members(self, scope: Scope) -> list[Member]:
        """The people of a tenant, by name."""
        async with self._db.begin(scope) as session:
            found = await session.scalar(text(f"SELECT {sqlbundle.name('operators_of_tenant')}('{{}}')::text"))
        return msgspec.json.decode(found or "[]", type=list[Member])

    async def member(self, scope: Scope, operator_id: UUID) -> Member:
        """One of them.

        Raises:
            NotFound: a member of the tenant has not this id.
        """
        found = next((one for one in await self.members(scope) if one.operator_id == operator_id), None)
        if found is None:
            raise NotFound("There is no such member of this tenant.")
        return found

    async def rank_of(self, caller: Caller) -> str:
        """The role by which a caller of the API gives and takes roles: a person their own, a key that of an admin.

        Raises:
            LiveKeyRequired: a key of test mode; such keys are handed around, and roles hold in live mode as well.
            NotFound: a person who is no member any more.
        """
        if caller.actor_type == "operator":
            return (await self.member(caller.scope, ids.decode("opr", caller.actor_id))).role
        if not caller.scope.live:
            raise LiveKeyRequired
        return "admin"

    async def not_a_member(self, scope: Scope, operator_id: UUID) -> None:
        """Make sure that somebody may be invited.

        Raises:
            MemberAlready: they are a member of the tenant.
        """
        async with self._db.begin(scope) as session:
            if await _membership(session, scope, operator_id) is not None:
                raise MemberAlready

    async def join(self, caller: Caller, operator_id: UUID, role: str, *, own_role: str = "owner") -> None:
        """Make somebody a member of the caller's tenant.

        Args:
            caller: who does it, in which tenant.
            operator_id: whom.
            role: as what.
            own_role: the role of whoever does it; the command line has an owner's.

        Raises:
            InvalidRequest: there is no such role.
            RoleTooHigh: only owners make owners.
            MemberAlready: they are a member.
        """
        check_role(own_role, role)
        caller = _in_live_mode(caller)
        async with self._db.begin(caller.scope) as session:
            if await _membership(session, caller.scope, operator_id) is not None:
                raise MemberAlready
            session.add(
                MembershipRow(
                    tenant_id=caller.scope.tenant_id,
                    operator_id=operator_id,
                    role=role,
                    created_at=clock.now(),
                    created_by=caller.actor_id,
                    version=1,
                )
            )
            await session.flush()
            await record(session, caller, "operator.joined", operator_id, 1, {"role": role})

    async def change_role(self, caller: Caller, operator_id: UUID, role: str, *, own_role: str) -> None:
        """Give a member another role; their sessions go on with it at once.

        Raises:
            NotFound: no member.
            InvalidRequest: there is no such role.
            RoleTooHigh: only owners make and change owners.
            LastOwner: the tenant would have no owner left.
        """
        check_role(own_role, role)
        caller = _in_live_mode(caller)
        async with self._db.begin(caller.scope) as session:
            row = await _locked(session, caller.scope, operator_id)
            if row.role == role:
                return
            check_role(own_role, row.role)
            before = row.role
            await _keep_an_owner(session, caller.scope, row)
            row.role, row.version = role, row.version + 1
            await record(
                session,
                caller,
                "operator.role_changed",
                operator_id,
                row.version,
                {"changed": ["role"], "before": before, "after": role},
            )

    async def leave(self, caller: Caller, operator_id: UUID, *, own_role: str) -> None:
        """End a membership. A person without any is signed out everywhere.

        Raises:
            NotFound: no member.
            RoleTooHigh: only owners remove owners.
            LastOwner: the tenant would have no owner left.
        """
        caller = _in_live_mode(caller)
        async with self._db.begin(caller.scope) as session:
            row = await _locked(session, caller.scope, operator_id)
            check_role(own_role, row.role)
            await _keep_an_owner(session, caller.scope, row)
            await session.execute(
                delete(MembershipRow).where(
                    MembershipRow.tenant_id == caller.scope.tenant_id, MembershipRow.operator_id == operator_id
                )
            )
            await record(session, caller, "operator.left", operator_id, row.version + 1, {"role": row.role})
        operator = await self.find(operator_id=operator_id)
        if operator is not None and not operator.memberships:
            await self._sessions.end(operator_id, why="role")

    async def end_sessions(self, caller: Caller, operator_id: UUID, *, own_role: str) -> int:
        """Sign a member out everywhere, at once.

        Returns:
            how many sessions were open.

        Raises:
            NotFound: no member.
            RoleTooHigh: only owners do this to owners.
        """
        member = await self.member(caller.scope, operator_id)
        check_role(own_role, member.role)
        ended = await self._sessions.end(operator_id, why="revoked")
        caller = _in_live_mode(caller)
        async with self._db.begin(caller.scope) as session:
            data = {"ended": ended}
            await record(session, caller, "operator.sessions_ended", operator_id, member.version, data)
        return ended

    async def tell(
        self, operator: Operator, type_: str, request_id: str, data: dict[str, Any], actor: str = ""
    ) -> None:
        """Tell the journal of every tenant that a person is a member of what happened to them: a sign-in, another password.

        Args:
            operator: whom.
            type_: such as ``operator.signed_in``.
            request_id: under which request.
            data: codes; no address and no name.
            actor: who did it, when it was not they themselves.
        """
        for membership in operator.memberships:
            scope = Scope(tenant_id=membership.tenant_id, live=True)
            caller = Caller(
                scope=scope,
                actor_type="operator",
                actor_id=actor or operator.public_id,
                request_id=request_id,
                tenant=membership.slug,
            )
            async with self._db.begin(scope) as session:
                row = await _membership(session, scope, operator.operator_id)
                await record(session, caller, type_, operator.operator_id, row.version if row else 0, data)

    async def _find(self, document: dict[str, Any]) -> Operator | None:
        answer = await self._db.call("operator_find", document)
        return msgspec.json.decode(answer or b"null", type=Operator | None)


async def record(
    session: AsyncSession, caller: Caller, type_: str, operator_id: UUID, sequence: int, data: dict[str, Any]
) -> None:
    """A journal row about a person."""
    await journal.record(
        session,
        caller,
        type=type_,
        subject_type="operator",
        subject_id=operator_id,
        sequence=sequence,
        customer_id=None,
        data=data,
    )


def _in_live_mode(caller: Caller) -> Caller:
    """A membership holds in both modes; the journal of live mode tells of it, whichever of them was being looked at."""
    return msgspec.structs.replace(caller, scope=Scope(tenant_id=caller.scope.tenant_id, live=True))


async def _membership(session: AsyncSession, scope: Scope, operator_id: UUID) -> MembershipRow | None:
    return await session.scalar(
        select(MembershipRow).where(
            MembershipRow.tenant_id == scope.tenant_id, MembershipRow.operator_id == operator_id
        )
    )


async def _locked(session: AsyncSession, scope: Scope, operator_id: UUID) -> MembershipRow:
    """The membership, with every owner's locked as well, in one order: two owners cannot remove each other at once."""
    rows = await session.scalars(
        select(MembershipRow)
        .where(
            MembershipRow.tenant_id == scope.tenant_id,
            (MembershipRow.operator_id == operator_id) | (MembershipRow.role == "owner"),
        )
        .order_by(MembershipRow.operator_id)
        .with_for_update()
    )
    found = next((row for row in rows.all() if row.operator_id == operator_id), None)
    if found is None:
        raise NotFound("There is no such member of this tenant.")
    return found


async def _keep_an_owner(session: AsyncSession, scope: Scope, row: MembershipRow) -> None:
    if row.role != "owner":
        return
    other = await session.scalar(
        select(MembershipRow.operator_id)
        .where(
            MembershipRow.tenant_id == scope.tenant_id,
            MembershipRow.role == "owner",
            MembershipRow.operator_id != row.operator_id,
        )
        .limit(1)
    )
    if other is None:
        raise LastOwner


def check_email(email: str) -> str:
    """An e-mail address as it is stored.

    Raises:
        InvalidRequest: it is none.
    """
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email) or len(email) > 254:
        raise _invalid("email", "Give an e-mail address, such as ada@example.com.")
    return email


def check_role(own: str, role: str) -> None:
    """Whether there is such a role, and somebody with the role ``own`` may give it.

    Raises:
        InvalidRequest, RoleTooHigh.
    """
    if role not in ROLES:
        raise _invalid("role", f"There is no such role; there are {', '.join(ROLES)}.")
    if not may_give(own, role):
        raise RoleTooHigh


def _invalid(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": path, "message": message}])
