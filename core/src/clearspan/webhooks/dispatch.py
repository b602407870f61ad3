"""The loop of a worker that brings events to endpoints: relay, claim, send, settle. Any number of them may run.

A look asks the database which endpoints are behind the journal or have something due, and the loop works on what it finds. The
journal's tail wakes it for tenants in which something happened, a finished delivery for its own tenant; a look at everything
comes every ``LOOK_S`` besides, so nothing depends on being woken. Nothing is held in memory that is not in a row: a killed
process leaves leases behind, which run out.

Each endpoint has a share of the process (``webhooks.endpoint_concurrency``), so one that is slow holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog

from clearspan.journal.feed import Feed
from clearspan.journal.models import Entry, Position
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope, system
from clearspan.platform.crypto import KeyProblem
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable
from clearspan.platform.telemetry import Metrics
from clearspan.settings import WebhookSettings
from clearspan.tenants.service import Tenants
from clearspan.webhooks import signing
from clearspan.webhooks.models import retry_at
from clearspan.webhooks.sending import Exchange, Sender

LOOK_S = 1.0
LOOK_S_MIN = 0.05
BACKOFF_S_MAX = 5.0
RELAY_MAX = 500
"""Events one relay transaction looks at."""
LEASE_MARGIN_S = 15.0
"""For rendering before a try and settling after it, beside the try's own time."""
PURGE_EVERY_S = 600.0
PURGE_MAX = 1000
log = structlog.get_logger("clearspan.webhooks")


class Due(msgspec.Struct, frozen=True):
    """An endpoint with something to do; ``behind`` when the journal has more than it was told."""

    tenant_id: UUID
    live: bool
    webhook_endpoint_id: UUID
    behind: bool

    @property
    def scope(self) -> Scope:
        """Whose it is."""
        return Scope(tenant_id=self.tenant_id, live=self.live)


class Work(msgspec.Struct, frozen=True):
    """The answer of ``webhook_work``."""

    endpoints: list[Due]
    next_at: datetime | None
    waiting_since: datetime | None
    old: list[Scope]


class Relayed(msgspec.Struct, frozen=True):
    """The answer of ``webhook_relay``."""

    made: int
    more: bool


class Taken(msgspec.Struct, frozen=True):
    """A claimed delivery: ``tries`` since it was made or replayed, before this one."""

    delivery_id: UUID
    tries: int
    entry: Entry


class Claim(msgspec.Struct, frozen=True):
    """The answer of ``webhook_claim``; url and secrets (sealed, base64) are missing when the endpoint is enabled no longer."""

    deliveries: list[Taken]
    more: bool
    url: str = ""
    secret: bytes = b""
    previous_secret: bytes | None = None


class Settled(msgspec.Struct, frozen=True):
    """The answer of ``webhook_settle``."""

    settled: bool
    disabled: str | None = None


_WORK = msgspec.json.Decoder(Work)
_RELAYED = msgspec.json.Decoder(Relayed)
_CLAIM = msgspec.json.Decoder(Claim)
_SETTLED = msgspec.json.Decoder(Settled)
_EVENT = msgspec.json.Encoder()


class Deliveries:
    """Trying one delivery and noting what came of it; the worker's loop and a test from the API do it alike.

    Args:
        lease_margin_s: see ``LEASE_MARGIN_S``.
    """

    def __init__(
        self,
        db: Database,
        tenants: Tenants,
        feed: Feed,
        sender: Sender,
        settings: WebhookSettings,
        metrics: Metrics,
        lease_margin_s: float = LEASE_MARGIN_S,
    ) -> None:
        self.db = db
        self.settings = settings
        self.metrics = metrics
        self._tenants = tenants
        self._feed = feed
        self.sender = sender
        self._lease_s = settings.timeout_s + lease_margin_s

    def lease_until(self) -> datetime:
        """The end of a lease that begins now."""
        return clock.now() + clock.seconds(self._lease_s)

    async def look(self, scopes: set[Scope] | None = None, before: datetime | None = None) -> Work:
        """What there is to do in these scopes, or everywhere; ``before`` asks for deliveries older than that, too."""
        now = clock.now()
        document: dict[str, Any] = {"now": now}
        if scopes is not None:
            document["scopes"] = list(scopes)
        if before is not None:
            document["before"] = before
        found = _WORK.decode(await self.db.call("webhook_work", document))
        if scopes is None:
            since = found.waiting_since
            self.metrics.webhook_lag.set(0.0 if since is None else max(0.0, (now - since).total_seconds()))
        return found

    async def secrets(self, scope: Scope, endpoint_id: UUID, sealed: Sequence[bytes | None]) -> list[str]:
        """The secrets that sign now, the newest first."""
        return [
            (await self._tenants.open(scope, "webhook_endpoints", "secret", endpoint_id, one)).decode()
            for one in sealed
            if one is not None
        ]

    async def attempt(self, entry: Entry, url: str, secrets: Sequence[str]) -> Exchange:
        """Render, sign, send."""
        began = clock.now()
        try:
            (event,) = await self._feed.render(entry.scope, [entry])
            body = _EVENT.encode(event)
        except DatabaseUnavailable:
            raise
        except Exception:  # An edge, as in the feed: one event that cannot be shown must not silence its endpoint.
            log.exception("event cannot be shown", event_id=str(entry.event_id))
            return Exchange(at=began, duration_ms=0, error="not_rendered")
        return await self.sender.post(url, body, signing.headers(secrets, event.id, clock.now(), body))

    async def settle(
        self, scope: Scope, delivery_id: UUID, token: UUID, exchange: Exchange, *, tries: int, counts: bool = True
    ) -> None:
        """Note a try, if the lease is still ours.

        Args:
            tries: with this one.
            counts: whether it speaks for the endpoint and a failure is tried again.
        """
        now = clock.now()
        again = retry_at(tries, now, exchange.retry_after_s if exchange.status in (429, 503) else None)
        if exchange.delivered:
            result = "delivered"
        elif exchange.status == 410:
            result = "gone"
        else:
            result = "retry" if again is not None and counts else "failed"
        part = system(scope, "webhooks", ids.encode("req", clock.new_uuid()))
        said = _SETTLED.decode(
            await self.db.call(
                "webhook_settle",
                {
                    "tenant_id": scope.tenant_id,
                    "live": scope.live,
                    "delivery_id": delivery_id,
                    "token": token,
                    "now": now,
                    "result": result,
                    "retry_at": again,
                    "counts": counts,
                    "disable_before": now - clock.seconds(self.settings.disable_after_h * 3600),
                    "attempt": exchange,
                    "event_id": clock.new_uuid(),
                    "actor_type": part.actor_type,
                    "actor_id": part.actor_id,
                    "request_id": part.request_id,
                },
            )
        )
        if not said.settled:
            # Somebody else has it by now and tries it again: the consumer may see it twice, and knows it by its id.
            log.warning("lease lost", delivery_id=str(delivery_id))
            return
        self.metrics.webhook_attempts.labels(result).inc()
        if said.disabled is not None:
            log.warning("webhook endpoint disabled", delivery_id=str(delivery_id), reason=said.disabled)


class Dispatcher:
    """See the module's docstring. It reads the tail of the journal as a ``Reader`` of everybody's entries.

    Args:
        drain_s: how long a stop waits for deliveries that are under way.
    """

    scope = None

    def __init__(self, deliveries: Deliveries, feed: Feed, drain_s: float) -> None:
        self._deliveries = deliveries
        self._db = deliveries.db
        self._settings = deliveries.settings
        self._feed = feed
        self._drain_s = drain_s
        self._wake = asyncio.Event()
        self._stirred: set[Scope] = set()
        self._flying: Counter[UUID] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._purge_at = clock.monotonic()

    def joined(self, _: Position) -> None:
        """See ``Reader.joined``; what came before is found by looking at everything."""
        self._wake.set()

    def receive(self, entries: Sequence[Entry]) -> None:
        """See ``Reader.receive``."""
        self._stirred.update(entry.scope for entry in entries)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; then what is under way is waited for."""
        failures, look_at = 0, 0.0
        self._feed.tailer.join(self)
        try:
            while True:
                try:
                    stirred, self._stirred = self._stirred, set()
                    everywhere = not stirred or clock.monotonic() >= look_at
                    wait_s = await self.step(None if everywhere else stirred)
                    if everywhere:
                        look_at = clock.monotonic() + LOOK_S
                    failures = 0
                except Exception as error:  # noqa: BLE001  (an edge, as in the tail: the loop outlives whatever happens to the database)
                    failures += 1
                    log.warning("webhooks held up", error=type(error).__name__, failures=failures)
                    await clock.sleep(min(BACKOFF_S_MAX, 0.1 * 2 ** min(failures, 10)))
                    look_at = 0.0
                    continue
                await self._pause(min(wait_s, max(0.0, look_at - clock.monotonic())))
        finally:
            self._feed.tailer.leave(self)
            await self.drain()

    async def step(self, scopes: set[Scope] | None = None) -> float:
        """One look, in these scopes or everywhere, and the work it finds. Returns after how many seconds to look again."""
        purging = scopes is None and clock.monotonic() >= self._purge_at
        found = await self._deliveries.look(scopes, self._kept_from(clock.now()) if purging else None)
        for due in found.endpoints:
            more = due.behind and (await self._relay(due)).more
            if await self._claim(due) or more:
                self._stirred.add(due.scope)
        if purging:
            await self._purge(found.old)
        if self._stirred:
            return 0.0
        if found.next_at is None:
            return LOOK_S
        return min(LOOK_S, max(LOOK_S_MIN, (found.next_at - clock.now()).total_seconds()))

    async def drain(self) -> None:
        """Wait for deliveries that are under way, then give up on them; their leases run out."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, due: Due) -> Relayed:
        now = clock.now()
        return _RELAYED.decode(
            await self._db.call(
                "webhook_relay", _place(due) | {"now": now, "after": self._kept_from(now), "most": RELAY_MAX}
            )
        )

    async def _claim(self, due: Due) -> bool:
        """Take what this process has room for and send it. Returns whether there may be more to take now."""
        endpoint_id = due.webhook_endpoint_id
        room = min(
            self._settings.endpoint_concurrency - self._flying[endpoint_id],
            self._settings.concurrency - len(self._tasks),
        )
        if room <= 0:
            return False  # Whoever finishes first wakes the loop.
        token = clock.new_uuid()
        document = _place(due) | {
            "now": clock.now(),
            "lease_until": self._deliveries.lease_until(),
            "token": token,
            "most": room,
        }
        claim = _CLAIM.decode(await self._db.call("webhook_claim", document))
        if claim.deliveries:
            try:
                secrets = await self._deliveries.secrets(due.scope, endpoint_id, [claim.secret, claim.previous_secret])
            except KeyProblem as error:
                # This endpoint's alone: the others do not wait for it. The leases run out, and it is tried again.
                log.error("secret of a webhook endpoint does not open", endpoint=str(endpoint_id), error=str(error))  # noqa: TRY400
                return False
            for taken in claim.deliveries:
                self._flying[endpoint_id] += 1
                task = asyncio.create_task(self._deliver(due, claim.url, secrets, taken, token))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return claim.more and len(claim.deliveries) < room

    async def _deliver(self, due: Due, url: str, secrets: Sequence[str], taken: Taken, token: UUID) -> None:
        try:
            exchange = await self._deliveries.attempt(taken.entry, url, secrets)
            await self._deliveries.settle(due.scope, taken.delivery_id, token, exchange, tries=taken.tries + 1)
        except DatabaseUnavailable:
            log.warning("not settled: the database is away", delivery_id=str(taken.delivery_id))
        except Exception:  # An edge, as the job runner is: the row stays, its lease runs out, and it is tried again.
            log.exception("delivery failed", delivery_id=str(taken.delivery_id))
        finally:
            self._flying[due.webhook_endpoint_id] -= 1
            if not self._flying[due.webhook_endpoint_id]:
                del self._flying[due.webhook_endpoint_id]
            self._stirred.add(due.scope)
            self._wake.set()

    async def _purge(self, old: Sequence[Scope]) -> None:
        purged = 0
        for scope in old:
            document = {"tenant_id": scope.tenant_id, "live": scope.live, "before": self._kept_from(clock.now())}
            purged += int(await self._db.call("webhook_purge", document | {"most": PURGE_MAX}))
        if purged:
            log.info("old deliveries forgotten", deliveries=purged)
        else:
            self._purge_at = clock.monotonic() + PURGE_EVERY_S

    def _kept_from(self, now: datetime) -> datetime:
        return now - clock.seconds(self._settings.retention_days * 86_400)

    async def _pause(self, seconds: float) -> None:
        """For so long, or until something happens."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()


def _place(due: Due) -> dict[str, Any]:
    return {"tenant_id": due.tenant_id, "live": due.live, "webhook_endpoint_id": due.webhook_endpoint_id}
