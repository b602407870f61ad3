"""``Idempotency-Key``: same key, same tenant, same mode, same route: same bytes, for 30 days.

The contract (docs/api.md): the first answer is kept from the moment something was done; a refusal before that keeps
nothing. Another payload under the same key is 422, a key whose first request is still under way is 409 with
``Retry-After``, and a key older than the replay window stays spent for ever. If we crash half-way, the next call with
the key *continues* the work.

Money calls claim the key inside their own SQL function; everything else uses ``once``, where claim, work and answer
are one transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import DomainError

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class KeyMissing(DomainError):
    """A call that can move money needs a key."""

    code = "idempotency_key_missing"
    status = 400
    title = "The Idempotency-Key header is missing"
    advice = "Send a fresh random value per action, and the same value when you repeat it. Nothing was done."


class KeyMalformed(DomainError):
    """The key is empty, too long or has odd characters."""

    code = "idempotency_key_malformed"
    status = 400
    title = "The Idempotency-Key header is malformed"
    advice = "Use 1 to 255 visible ASCII characters without spaces."


class KeyReused(DomainError):
    """The key was used for another request."""

    code = "idempotency_key_reused"
    status = 422
    title = "This Idempotency-Key was used with another request"
    advice = "Repeat the first request unchanged, or use a new key for a new action. Nothing was done."


class KeyInFlight(DomainError):
    """The first request with this key is still under way."""

    code = "idempotency_key_in_flight"
    status = 409
    title = "A request with this Idempotency-Key is still under way"
    advice = "Repeat it after Retry-After seconds with the same key."


class KeyExpired(DomainError):
    """The answer is no longer kept; the key stays spent."""

    code = "idempotency_key_expired"
    status = 422
    title = "This Idempotency-Key is spent and its answer is no longer kept"
    advice = "Look the object up; use a new key only for a new action. Nothing was done."


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A client's key with what it was used for.

    Attributes:
        raw: as the client sent it; never leaves the gateway.
        route: method and path template.
        key_hash: SHA-256 over route and key, hex.
        request_hash: SHA-256 over path and canonical body, hex.
    """

    raw: str
    route: str
    key_hash: str
    request_hash: str

    def document(self, *, lease_token: UUID, lease_until: datetime) -> dict[str, Any]:
        """The form in which SQL functions take it."""
        return {
            "key_hash": self.key_hash,
            "request_hash": self.request_hash,
            "lease_token": lease_token,
            "lease_until": lease_until,
        }


class Answer(msgspec.Struct, frozen=True):
    """A finished answer: status and exact bytes."""

    status: int
    body: bytes


def read_key(raw: str | None, *, route: str, path: str, body: bytes) -> IdempotencyKey | None:
    """The key of a request, or ``None`` when it has none.

    Raises:
        KeyMalformed: not 1 to 255 visible ASCII characters.
    """
    if raw is None:
        return None
    if not _KEY.fullmatch(raw):
        raise KeyMalformed
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic") if body else b""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        canonical = body
    return IdempotencyKey(
        raw=raw,
        route=route,
        key_hash=hashlib.sha256(f"{route}\n{raw}".encode()).hexdigest(),
        request_hash=hashlib.sha256(path.encode() + b"\n" + canonical).hexdigest(),
    )


async def once(
    db: Database, scope: Scope, key: IdempotencyKey | None, work: Callable[[AsyncSession], Awaitable[Answer]]
) -> Answer:
    """Do ``work`` and keep its answer, in one transaction; with a known key, repeat the kept answer instead.

    A second request with the same key waits for the first one's commit and then gets its bytes.

    Raises:
        KeyReused, KeyExpired, KeyInFlight: as the contract says.
    """
    async with db.begin(scope) as session:
        if key is None:
            return await work(session)
        now = clock.now()
        claimed = await session.execute(
            text(
                "INSERT INTO idempotency_keys (tenant_id, live, key_hash, request_hash, state, lease_token, lease_until,"
                " created_at) VALUES (:tenant, :live, :key, :request, 'in_flight', :token, :now, :now)"
                " ON CONFLICT DO NOTHING RETURNING 1"
            ),
            {
                "tenant": scope.tenant_id,
                "live": scope.live,
                "key": bytes.fromhex(key.key_hash),
                "request": bytes.fromhex(key.request_hash),
                "token": clock.new_uuid(),
                "now": now,
            },
        )
        place = {"tenant": scope.tenant_id, "live": scope.live, "key": bytes.fromhex(key.key_hash)}
        if claimed.first() is None:
            return _repeat(
                (
                    await session.execute(
                        text(
                            "SELECT request_hash, state, status_code, body FROM idempotency_keys"
                            " WHERE tenant_id = :tenant AND live = :live AND key_hash = :key"
                        ),
                        place,
                    )
                ).one(),
                key,
            )
        answer = await work(session)
        await session.execute(
            text(
                "UPDATE idempotency_keys SET state = 'done', status_code = :status, body = :body"
                " WHERE tenant_id = :tenant AND live = :live AND key_hash = :key"
            ),
            place | {"status": answer.status, "body": answer.body},
        )
        return answer


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a key: the answer that it got, or what an earlier request with it was working on."""

    replay: Answer | None = None
    resume: UUID | None = None


async def claim(
    session: AsyncSession, scope: Scope, key: IdempotencyKey, subject_id: UUID, lease_until: datetime
) -> Claim | None:
    """Claim a key in the transaction of work whose answer comes later (``finish``), after a call to the outside.

    Args:
        session: of the work.
        scope, key: whose and which.
        subject_id: what the work makes or changes; whoever repeats the request after a crash goes on with it.
        lease_until: until then a repetition is told to wait.

    Returns:
        ``None`` to start afresh.

    Raises:
        KeyReused, KeyExpired, KeyInFlight: as the contract says.
    """
    now = clock.now()
    place = {"tenant": scope.tenant_id, "live": scope.live, "key": bytes.fromhex(key.key_hash)}
    mine = {"token": clock.new_uuid(), "until": lease_until}
    claimed = await session.execute(
        text(
            "INSERT INTO idempotency_keys (tenant_id, live, key_hash, request_hash, state, lease_token, lease_until, subject_id,"
            " created_at) VALUES (:tenant, :live, :key, :request, 'in_flight', :token, :until, :subject, :now)"
            " ON CONFLICT DO NOTHING RETURNING 1"
        ),
        place | mine | {"request": bytes.fromhex(key.request_hash), "subject": subject_id, "now": now},
    )
    if claimed.first() is not None:
        return None
    row = (
        await session.execute(
            text(
                "SELECT request_hash, state, status_code, body, lease_until, subject_id FROM idempotency_keys"
                " WHERE tenant_id = :tenant AND live = :live AND key_hash = :key FOR UPDATE"
            ),
            place,
        )
    ).one()
    if row.state == "in_flight" and row.lease_until <= now and bytes(row.request_hash).hex() == key.request_hash:
        await session.execute(
            text(
                "UPDATE idempotency_keys SET lease_token = :token, lease_until = :until"
                " WHERE tenant_id = :tenant AND live = :live AND key_hash = :key"
            ),
            place | mine,
        )
        return Claim(resume=row.subject_id)
    return Claim(replay=_repeat(row, key))


async def finish(db: Database, scope: Scope, key: IdempotencyKey, answer: Answer) -> Answer:
    """Keep the answer of claimed work; should one be kept already, that one is given."""
    document = {
        "tenant_id": scope.tenant_id,
        "live": scope.live,
        "key_hash": key.key_hash,
        "answer": {"status": answer.status, "body": answer.body.decode()},
    }
    kept = msgspec.json.decode(await db.call("idempotency_finish", document), type=_Kept)
    return Answer(kept.status, kept.body.encode())


class _Kept(msgspec.Struct, frozen=True):
    status: int
    body: str


def _repeat(row: Any, key: IdempotencyKey) -> Answer:
    if bytes(row.request_hash).hex() != key.request_hash:
        raise KeyReused
    if row.state == "expired":
        raise KeyExpired
    if row.state == "in_flight":
        raise KeyInFlight(retry_after_s=1)
    return Answer(status=row.status_code, body=bytes(row.body))
