"""API keys: made, rotated and revoked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.access.errors import KeyAlreadyRotated, KeyNotActive, ScopesExceeded
from clearspan.access.guard import Authenticator
from clearspan.access.keys import SCOPES, digest, new_key
from clearspan.access.models import CREATED, REVOKED, ROTATED, ApiKey
from clearspan.access.schemas import ApiKeyCreate, ApiKeyCreatedOut, ApiKeyList, ApiKeyOut
from clearspan.journal import service as journal
from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.moments import in_utc
from clearspan.platform.orm import Repository
from clearspan.platform.problems import InvalidRequest, Unauthorized
from clearspan.settings import AccessSettings


class _Keys(Repository[ApiKey]):
    model_type = ApiKey
    noun = "API key"

    async def has_successor(self, scope: Scope, key_id: UUID) -> bool:
        statement = select(ApiKey.id).where(*self.of(scope), ApiKey.rotated_from == key_id).limit(1)
        return await self.session.scalar(statement) is not None


class ApiKeys:
    """API keys of a tenant in one mode.

    A key can neither make nor rotate a key that may do more than itself, and a person none that may do more than their role;
    the command line may do all.

    Args:
        db: the database.
        pepper: under which keys are hashed; not in the database.
        settings: how long old and new key work side by side.
        authenticator: of this process; it forgets what it knows when a key changes.
    """

    def __init__(self, db: Database, pepper: bytes, settings: AccessSettings, authenticator: Authenticator) -> None:
        self._db = db
        self._pepper = pepper
        self._overlap = timedelta(hours=settings.key_rotation_overlap_h)
        self._authenticator = authenticator

    async def create(
        self, caller: Caller, name: str, scopes: Iterable[str], expires_at: datetime | None = None
    ) -> tuple[ApiKeyOut, str]:
        """Make a key in the caller's tenant and mode.

        Returns:
            the key, and its secret: this is the only time it is seen.

        Raises:
            InvalidRequest: an unknown scope, none at all, or an end that is not in the future.
            ScopesExceeded: the caller's own key or role lacks one of the scopes.
        """
        async with self._db.begin(caller.scope) as session:
            key, secret = await self._create(session, caller, name, scopes, expires_at)
            return ApiKeyOut.of(key), secret

    async def issue(self, caller: Caller, idempotency: IdempotencyKey | None, body: ApiKeyCreate) -> Answer:
        """``create``, once per idempotency key; repetitions come without the secret.

        Raises:
            as ``create``, and as ``once``.
        """
        return await self._answer(
            caller,
            idempotency,
            lambda session: self._create(session, caller, body.name, body.scopes, body.expires_at),
        )

    async def rotate(self, caller: Caller, idempotency: IdempotencyKey | None, key_id: UUID) -> Answer:
        """Make a successor with the same name, scopes and lifetime; the old key ends after the overlap.

        Raises:
            NotFound: no such key.
            KeyNotActive, KeyAlreadyRotated: there is nothing to succeed.
            ScopesExceeded: it may do more than the caller's own key.
        """
        answer = await self._answer(caller, idempotency, lambda session: self._rotate(session, caller, key_id))
        self._authenticator.forget()
        return answer

    async def revoke(self, caller: Caller, key_id: UUID) -> ApiKeyOut:
        """End a key at once; a revoked one stays as it is.

        Raises:
            NotFound: no such key.
        """
        async with self._db.begin(caller.scope) as session:
            key = await _Keys(session).require(caller.scope, key_id, lock=True)
            if key.revoked_at is None:
                key.revoked_at = clock.now()
                await _record(session, caller, key, "api_key.revoked", REVOKED)
        self._authenticator.forget()
        return ApiKeyOut.of(key)

    async def get(self, scope: Scope, key_id: UUID) -> ApiKeyOut:
        """One key.

        Raises:
            NotFound: no such key.
        """
        async with self._db.begin(scope) as session:
            return ApiKeyOut.of(await _Keys(session).require(scope, key_id))

    async def list(self, scope: Scope, limit: int, cursor: str | None) -> ApiKeyList:
        """Keys of one mode, newest first, the ended ones too.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        async with self._db.begin(scope) as session:
            return ApiKeyList.of(await _Keys(session).page(scope, limit=limit, cursor=cursor))

    async def _answer(
        self,
        caller: Caller,
        idempotency: IdempotencyKey | None,
        make: Callable[[AsyncSession], Awaitable[tuple[ApiKey, str]]],
    ) -> Answer:
        made: ApiKeyCreatedOut | None = None

        async def work(session: AsyncSession) -> Answer:
            nonlocal made
            key, secret = await make(session)
            made = ApiKeyCreatedOut.issued(key, secret)
            # This answer is kept to be repeated, and what is kept must not authenticate.
            return Answer(201, msgspec.json.encode(msgspec.structs.replace(made, secret=None)))

        answer = await once(self._db, caller.scope, idempotency, work)
        return answer if made is None else Answer(answer.status, msgspec.json.encode(made))

    async def _create(
        self, session: AsyncSession, caller: Caller, name: str, scopes: Iterable[str], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        wanted = frozenset(scopes)
        if not wanted or not wanted <= SCOPES.keys():
            raise _invalid("scopes", f"Name at least one scope; there are {', '.join(SCOPES)}.")
        # In UTC, as everything that is read back: a repeated answer has the same bytes.
        end = in_utc("expires_at", expires_at)
        if end is not None and end <= clock.now():
            raise _invalid("expires_at", "A key ends in the future.")
        await _check_maker(session, caller, wanted)
        return await self._add(session, caller, name, wanted, end)

    async def _rotate(self, session: AsyncSession, caller: Caller, key_id: UUID) -> tuple[ApiKey, str]:
        keys, now = _Keys(session), clock.now()
        old = await keys.require(caller.scope, key_id, lock=True)
        await _check_maker(session, caller, frozenset(old.scopes))
        if old.status(now) != "active":
            raise KeyNotActive
        if await keys.has_successor(caller.scope, key_id):
            raise KeyAlreadyRotated
        end = old.successor_expires_at(now)
        old.retire(now, self._overlap)
        await _record(session, caller, old, "api_key.rotated", ROTATED)
        return await self._add(session, caller, old.name, frozenset(old.scopes), end, rotated_from=old.id)

    async def _add(
        self,
        session: AsyncSession,
        caller: Caller,
        name: str,
        scopes: frozenset[str],
        expires_at: datetime | None,
        rotated_from: UUID | None = None,
    ) -> tuple[ApiKey, str]:
        secret = new_key(live=caller.scope.live)
        key = ApiKey(
            tenant_id=caller.scope.tenant_id,
            live=caller.scope.live,
            id=clock.new_uuid(),
            prefix=secret.prefix,
            secret_hmac=digest(self._pepper, secret.text),
            name=name,
            scopes=sorted(scopes),
            created_at=clock.now(),
            expires_at=expires_at,
            revoked_at=None,
            rotated_from=rotated_from,
        )
        await _Keys(session).add(key)
        await _record(session, caller, key, "api_key.created", CREATED)
        return key, secret.text


async def _check_maker(session: AsyncSession, caller: Caller, scopes: frozenset[str]) -> None:
    """A key makes keys only while it works itself, whatever a process remembers of it, and only within its own scopes.

    A person's role is a limit in the same way, and so is what an access token was narrowed to.
    """
    if caller.actor_type not in ("api_key", "operator"):
        return
    lacking = scopes - caller.scopes
    if caller.key_id is not None:
        maker = await _Keys(session).find(caller.scope, caller.key_id)
        if maker is None or maker.status(clock.now()) != "active":
            raise Unauthorized
        lacking |= scopes - set(maker.scopes)
    if lacking:
        raise ScopesExceeded(
            f"Your key or role lacks {', '.join(sorted(lacking))}. Ask for fewer scopes, or use a key that has them all.",
            scopes=sorted(lacking),
        )


async def _record(session: AsyncSession, caller: Caller, key: ApiKey, event: str, sequence: int) -> None:
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="api_key",
        subject_id=key.id,
        sequence=sequence,
        data={"prefix": key.prefix, "scopes": key.scopes},
    )


def _invalid(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": f"$.{field}", "message": message}])
