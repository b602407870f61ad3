"""What a user can do with webhooks: endpoints and their secrets, the delivery log, tests and replays."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.journal import repository as entries
from clearspan.journal import service as journal
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.addresses import AddressRefused
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import DatabaseUnavailable, InvalidRequest
from clearspan.tenants.service import Tenants
from clearspan.webhooks import signing
from clearspan.webhooks.dispatch import Deliveries
from clearspan.webhooks.errors import EndpointNotEnabled, TooManyEndpoints, UrlRefused
from clearspan.webhooks.models import ENDPOINTS_MAX, Delivery, Endpoint
from clearspan.webhooks.repository import PRESENT, DeliveryRows, EndpointRows
from clearspan.webhooks.schemas import (
    DeliveryList,
    DeliveryOut,
    DeliveryWithAttempts,
    EndpointCreate,
    EndpointList,
    EndpointOut,
    EndpointUpdate,
    EndpointWithSecret,
    RangeReplay,
    ReplayOut,
    SecretRotate,
)

REPLAY_MAX = 10_000
"""Deliveries of one replay."""
_REPLAYED_S = 86_400
"""How far a replay goes back when nobody says."""
_ID_MARGIN_S = 3600
"""An event's id is drawn up to so long before it is written."""


class DeliveryFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What deliveries are searched by; all must hold."""

    endpoint: UUID | None = None
    event: UUID | None = None
    state: str | None = None


class Webhooks:
    """Endpoints and deliveries of all tenants.

    Args:
        deliveries: tries them; its sender's guard says which URLs may be saved.
    """

    def __init__(self, db: Database, tenants: Tenants, deliveries: Deliveries) -> None:
        self._db = db
        self._tenants = tenants
        self._guard = deliveries.sender.guard
        self._deliveries = deliveries
        self._kept_s = deliveries.settings.retention_days * 86_400

    # -- endpoints ------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: EndpointCreate) -> Answer:
        """Add an endpoint and show its secret.

        Raises:
            UrlRefused, TooManyEndpoints; and as ``once``.
        """
        await self._check(body.url)
        endpoint_id, secret = clock.new_uuid(), signing.new_secret()
        sealed = await self._seal(caller.scope, endpoint_id, secret)

        async def make(session: AsyncSession) -> tuple[Endpoint, str]:
            rows = EndpointRows(session)
            if await rows.count(caller.scope) >= ENDPOINTS_MAX:
                raise TooManyEndpoints(f"There may be {ENDPOINTS_MAX} of them. {TooManyEndpoints.advice}")
            now = clock.now()
            endpoint = Endpoint(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=endpoint_id,
                url=body.url,
                description=body.description,
                events=body.events,
                api_version=body.api_version,
                status="enabled",
                disabled_reason=None,
                disabled_at=None,
                secret=sealed,
                previous_secret=None,
                previous_until=None,
                failing_since=None,
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            if body.status == "disabled":
                endpoint.disable()
            await rows.add(endpoint)
            await _record(session, caller, endpoint, "webhook_endpoint.created", events=body.events)
            return endpoint, secret

        return await self._with_secret(caller, key, 201, make)

    async def list(self, scope: Scope, limit: int, cursor: str | None) -> EndpointList:
        """Endpoints of one mode, newest first."""
        async with self._db.begin(scope) as session:
            return EndpointList.of(await EndpointRows(session).page(scope, PRESENT, limit=limit, cursor=cursor))

    async def get(self, scope: Scope, endpoint_id: UUID) -> EndpointOut:
        """One endpoint, also a deleted one.

        Raises:
            NotFound.
        """
        async with self._db.begin(scope) as session:
            return EndpointOut.of(await EndpointRows(session).require(scope, endpoint_id))

    async def update(self, caller: Caller, endpoint_id: UUID, body: EndpointUpdate) -> EndpointOut:
        """Change an endpoint; one that is enabled again goes on where it stopped.

        Raises:
            NotFound, EndpointDeleted, UrlRefused.
        """
        if body.url is not UNSET:
            await self._check(body.url)
        changes = {
            name: value
            for name, value in msgspec.structs.asdict(body).items()
            if value is not UNSET and name != "status"
        }
        async with self._db.begin(caller.scope) as session:
            endpoint = await EndpointRows(session).present(caller.scope, endpoint_id, lock=True)
            changed = [name for name, value in changes.items() if getattr(endpoint, name) != value]
            before = _shown(endpoint)
            for name, value in changes.items():
                setattr(endpoint, name, value)
            if body.status is not UNSET and body.status != endpoint.status:
                changed.append("status")
                if body.status == "enabled":
                    endpoint.enable()
                else:
                    endpoint.disable()
            if changed:
                endpoint.changed()
                await _record(
                    session,
                    caller,
                    endpoint,
                    "webhook_endpoint.updated",
                    changed=changed,
                    **journal.differing(before, _shown(endpoint)),
                )
            return EndpointOut.of(endpoint)

    async def delete(self, caller: Caller, endpoint_id: UUID) -> EndpointOut:
        """Send nothing there any more; its deliveries stay in the log for their time.

        Raises:
            NotFound.
        """
        async with self._db.begin(caller.scope) as session:
            endpoint = await EndpointRows(session).require(caller.scope, endpoint_id, lock=True)
            if endpoint.status != "deleted":
                await DeliveryRows(session).cancel(caller.scope, endpoint_id)
                endpoint.status, endpoint.disabled_reason, endpoint.disabled_at = "deleted", None, None
                endpoint.changed()
                await _record(session, caller, endpoint, "webhook_endpoint.deleted")
            return EndpointOut.of(endpoint)

    async def rotate(self, caller: Caller, key: IdempotencyKey | None, endpoint_id: UUID, body: SecretRotate) -> Answer:
        """Show a new secret; the old one signs too until the overlap ends.

        Raises:
            NotFound, EndpointDeleted; and as ``once``.
        """
        secret = signing.new_secret()
        sealed = await self._seal(caller.scope, endpoint_id, secret)

        async def make(session: AsyncSession) -> tuple[Endpoint, str]:
            endpoint = await EndpointRows(session).present(caller.scope, endpoint_id, lock=True)
            endpoint.rotate(sealed, body.overlap_h)
            endpoint.changed()
            await _record(session, caller, endpoint, "webhook_endpoint.secret_rotated", overlap_h=body.overlap_h)
            return endpoint, secret

        return await self._with_secret(caller, key, 200, make)

    async def render(self, scope: Scope, endpoint_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Endpoints as their events show them."""
        async with self._db.begin(scope) as session:
            found = await EndpointRows(session).among(scope, endpoint_ids)
            return {one.id: msgspec.to_builtins(EndpointOut.of(one)) for one in found}

    # -- deliveries -----------------------------------------------------------------------------------------------

    async def test(self, caller: Caller, key: IdempotencyKey | None, endpoint_id: UUID) -> Answer:
        """Send a ``webhook_endpoint.test`` now, once, and answer what the consumer said.

        Raises:
            NotFound, EndpointDeleted; and as ``once``.
        """
        scope = caller.scope
        done: DeliveryWithAttempts | None = None

        async def work(session: AsyncSession) -> Answer:
            await EndpointRows(session).present(scope, endpoint_id)
            if done is None:
                raise _NotSentYet
            return Answer(200, msgspec.json.encode(done))

        # The network comes between two transactions: the first finds out whether the answer is kept already.
        with contextlib.suppress(_NotSentYet):
            return await once(self._db, scope, key, work)
        done = await self._test(caller, endpoint_id)
        return await once(self._db, scope, key, work)

    async def log(self, scope: Scope, filters: DeliveryFilters, limit: int, cursor: str | None) -> DeliveryList:
        """Deliveries, those of the newest events first."""
        conditions: list[ColumnElement[bool]] = []
        if filters.endpoint is not None:
            conditions.append(Delivery.webhook_endpoint_id == filters.endpoint)
        if filters.event is not None:
            conditions.append(Delivery.event_id == filters.event)
        if filters.state is not None:
            conditions.append(Delivery.state == filters.state)
        async with self._db.begin(scope) as session:
            return DeliveryList.of(await DeliveryRows(session).page(scope, *conditions, limit=limit, cursor=cursor))

    async def delivery(self, scope: Scope, delivery_id: UUID) -> DeliveryWithAttempts:
        """One delivery with every try.

        Raises:
            NotFound.
        """
        async with self._db.begin(scope) as session:
            return await _with_log(DeliveryRows(session), scope, delivery_id)

    async def replay(self, caller: Caller, key: IdempotencyKey | None, delivery_id: UUID) -> Answer:
        """Send a delivery again, under the same ``webhook-id``.

        Raises:
            NotFound, EndpointNotEnabled; and as ``once``.
        """

        async def work(session: AsyncSession) -> Answer:
            delivery = await DeliveryRows(session).require(caller.scope, delivery_id, lock=True)
            endpoint = await _enabled(session, caller.scope, delivery.webhook_endpoint_id)
            delivery.replay()
            endpoint.changed()
            await _record(session, caller, endpoint, "webhook_endpoint.replayed", deliveries=1)
            return Answer(200, msgspec.json.encode(DeliveryOut.of(delivery)))

        return await once(self._db, caller.scope, key, work)

    async def replay_range(
        self, caller: Caller, key: IdempotencyKey | None, endpoint_id: UUID, body: RangeReplay
    ) -> Answer:
        """Send again what happened in a time, under the same ``webhook-id`` each.

        Raises:
            NotFound, EndpointNotEnabled, ReplayTooLarge, InvalidRequest; and as ``once``.
        """
        now = clock.now()
        since = in_utc("since", body.since) or now - clock.seconds(_REPLAYED_S)
        until = min(in_utc("until", body.until) or now, now)
        if since < now - clock.seconds(self._kept_s):
            days = self._deliveries.settings.retention_days
            raise _invalid("since", f"Deliveries are kept for {days} days; take a later moment.")
        if until <= since:
            raise _invalid("until", "until comes after since.")

        async def work(session: AsyncSession) -> Answer:
            endpoint = await _enabled(session, caller.scope, endpoint_id)
            document = {
                "tenant_id": caller.scope.tenant_id,
                "live": caller.scope.live,
                "webhook_endpoint_id": endpoint_id,
                "now": now,
                "since": since,
                "until": until,
                "first_id": _first_id(since, -_ID_MARGIN_S),
                "last_id": _first_id(until, _ID_MARGIN_S),
                "events": body.events or endpoint.events,
                "only_failed": body.only_failed,
                "most": REPLAY_MAX,
            }
            found = await _call(session, "webhook_replay", document)
            deliveries = msgspec.json.decode(found)["deliveries"]
            endpoint.changed()
            await _record(
                session,
                caller,
                endpoint,
                "webhook_endpoint.replayed",
                deliveries=deliveries,
                since=since,
                until=until,
            )
            out = ReplayOut(object="webhook_replay", endpoint=ids.encode("we", endpoint_id), deliveries=deliveries)
            return Answer(200, msgspec.json.encode(out))

        return await once(self._db, caller.scope, key, work)

    async def measure(self) -> None:
        """Say how long the oldest delivery has been waiting for us."""
        # Without an answer the last one stands.
        with contextlib.suppress(DatabaseUnavailable):
            await self._deliveries.look()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _check(self, url: str) -> None:
        try:
            await self._guard.check_url(url)
        except AddressRefused as refused:
            message = f"The URL cannot be used: {refused.reason}."
            raise UrlRefused(message, errors=[{"path": "$.url", "message": refused.reason}]) from None

    async def _seal(self, scope: Scope, endpoint_id: UUID, secret: str) -> bytes:
        return await self._tenants.seal(scope, "webhook_endpoints", "secret", endpoint_id, secret.encode())

    async def _with_secret(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        status: int,
        make: Callable[[AsyncSession], Awaitable[tuple[Endpoint, str]]],
    ) -> Answer:
        made: EndpointWithSecret | None = None

        async def work(session: AsyncSession) -> Answer:
            nonlocal made
            made = EndpointWithSecret.issued(*await make(session))
            # This answer is kept to be repeated, and what is kept must not sign.
            return Answer(status, msgspec.json.encode(msgspec.structs.replace(made, secret=None)))

        answer = await once(self._db, caller.scope, key, work)
        return answer if made is None else Answer(answer.status, msgspec.json.encode(made))

    async def _test(self, caller: Caller, endpoint_id: UUID) -> DeliveryWithAttempts:
        scope, token = caller.scope, clock.new_uuid()
        async with self._db.begin(scope) as session:
            endpoint = await EndpointRows(session).present(scope, endpoint_id)
            event_id = await _record(session, caller, endpoint, "webhook_endpoint.test")
            document = {
                "tenant_id": scope.tenant_id,
                "live": scope.live,
                "webhook_endpoint_id": endpoint_id,
                "event_id": event_id,
                "now": clock.now(),
                "lease_until": self._deliveries.lease_until(),
                "token": token,
            }
            delivery_id = UUID(await _call(session, "webhook_test", document))
            entry = await entries.find(session, scope, event_id)
            assert entry is not None, "written a moment ago"
            sealed = [endpoint.secret]
            if endpoint.previous_secret and endpoint.previous_until and endpoint.previous_until > clock.now():
                sealed.append(endpoint.previous_secret)
        secrets = await self._deliveries.secrets(scope, endpoint_id, sealed)
        exchange = await self._deliveries.attempt(entry, endpoint.url, secrets)
        await self._deliveries.settle(scope, delivery_id, token, exchange, tries=1, counts=False)
        return await self.delivery(scope, delivery_id)


class _NotSentYet(Exception):
    """Rolls the claim of the idempotency key back: the network comes before the transaction that keeps the answer."""


async def _call(session: AsyncSession, function: str, document: dict[str, Any]) -> str:
    """A SQL function inside the session's own transaction."""
    statement = text(f"SELECT {sqlbundle.name(function)}(CAST(:p AS jsonb))::text")
    answer = (await session.execute(statement, {"p": msgspec.json.encode(document).decode()})).scalar_one()
    return str(answer)


async def _enabled(session: AsyncSession, scope: Scope, endpoint_id: UUID) -> Endpoint:
    endpoint = await EndpointRows(session).require(scope, endpoint_id)
    if endpoint.status != "enabled":
        raise EndpointNotEnabled
    return endpoint


async def _with_log(rows: DeliveryRows, scope: Scope, delivery_id: UUID) -> DeliveryWithAttempts:
    return DeliveryWithAttempts.with_log(
        await rows.require(scope, delivery_id), await rows.attempts(scope, delivery_id)
    )


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    """What the journal may tell of an endpoint: its address may hold a secret."""
    return {"status": endpoint.status, "events": list(endpoint.events), "api_version": endpoint.api_version}


async def _record(session: AsyncSession, caller: Caller, endpoint: Endpoint, event: str, **told: Any) -> UUID:
    return await journal.record(
        session,
        caller,
        type=event,
        subject_type="webhook_endpoint",
        subject_id=endpoint.id,
        sequence=endpoint.sequence,
        data={"status": endpoint.status} | told,
    )


def _first_id(moment: datetime, seconds: int) -> UUID:
    """The lowest UUIDv7 of a moment so many seconds away."""
    return UUID(int=max(0, int((moment.timestamp() + seconds) * 1000)) << 80)


def _invalid(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": f"$.{field}", "message": message}])
