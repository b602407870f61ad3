"""Messages of PSPs: received, kept, and looked after.

``POST /webhooks/{token}``: the account is found by the token, its adapter checks the signature over the raw bytes, and one row
per event is committed before the PSP gets its 200. What the message says is told to the payments afterwards
(``payments.inbox``). Whatever goes wrong before the commit is a 5xx, so that the PSP sends the message again.
"""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.orm import read_cursor, write_cursor
from clearspan.platform.pan import mask_pan
from clearspan.platform.problems import DatabaseUnavailable, DomainError
from clearspan.platform.telemetry import Metrics
from clearspan.psps.messages import Kept, kept, masked_body, unreadable
from clearspan.psps.schemas import PspWebhookDetail, PspWebhookList, PspWebhookOut
from clearspan.psps.service import PspAccounts, Sending
from clearspan.sdk import OutcomeUnknown, WebhookDelivery, WebhookEvent, WebhookRejected
from clearspan.settings import PspSettings
from clearspan.tenants.service import Tenants

log = structlog.get_logger("clearspan.webhooks")
COPIES_MAX = 4 * 2**20
"""Bytes that the copies of one message may take; with more the first of its events keeps the only one."""
LOOP_MAX = 64 * 1024
"""Bytes that are searched for card numbers between two other requests: a message full of digits takes 3 s per megabyte."""
_COLUMNS = (
    "inbox_id, live, psp_account_id, event_key, type, state, note, tries, seen, due_at, payment_id, operation_id, dispute_id,"
    " sequence, received_at, updated_at"
)


class WebhookAddressUnknown(DomainError):
    """No account has this webhook address."""

    code = "webhook_address_unknown"
    status = 404
    title = "Nothing is received at this address"
    advice = "Take webhook_url of the PSP account."


class WebhookNotBelieved(DomainError):
    """The signature is missing, wrong, too old, from the future or another account's."""

    code = "webhook_rejected"
    status = 401
    title = "The webhook's signature does not hold"
    advice = "Check that the PSP account holds the secret of this very endpoint, and that the clocks are right."

    def headers(self) -> dict[str, str]:
        """RFC 9110: a 401 names its scheme."""
        return {"WWW-Authenticate": 'Signature realm="clearspan"'}


class WebhookNotTaken(DomainError):
    """It could not be checked or read now; the PSP has to send it again."""

    code = "webhook_not_taken"
    status = 503
    title = "The webhook could not be taken now"
    advice = "Send it again later. The log says why; a plugin is missing or at fault."


class PspWebhookNotFound(DomainError):
    """No such message of this tenant in this mode."""

    code = "psp_webhook_not_found"
    status = 404
    title = "No such message of a PSP"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live)."


class PspWebhookSettled(DomainError):
    """There is nothing to decide about it any more; ``state`` says why."""

    code = "psp_webhook_settled"
    status = 409
    title = "The message does not wait for anybody"
    advice = "Messages that are parked or need attention can be retried and dismissed, dismissed ones retried."


class PspWebhookUnreadable(DomainError):
    """It cannot be told to the payments again: nobody could read it."""

    code = "psp_webhook_unreadable"
    status = 409
    title = "The message could not be read"
    advice = "Look at its body, do what it asks for, and dismiss it. A newer plugin may read the next one."


class PspWebhookBusy(DomainError):
    """It is being told to the payments at this moment."""

    code = "psp_webhook_busy"
    status = 409
    title = "The message is just being applied"
    advice = "Ask again in a moment."

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail, **({"retry_after_s": 1} | fields))


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """The account behind a webhook address, with its sealed settings."""

    tenant_id: UUID
    live: bool
    account_id: UUID
    psp: str
    account: str
    config_version: int
    config: str
    previous_config: str | None
    previous_until: datetime | None

    @property
    def scope(self) -> Scope:
        """Whose it is."""
        return Scope(tenant_id=self.tenant_id, live=self.live)

    def settings(self, now: datetime) -> list[Sending]:
        """The settings whose secret may have signed a message now, the present ones first."""
        versions = [(self.config_version, self.config)]
        if self.previous_config is not None and self.previous_until is not None and self.previous_until > now:
            versions.append((self.config_version - 1, self.previous_config))
        return [
            Sending(
                account_id=self.account_id, psp=self.psp, account=self.account, config_version=version, config=config
            )
            for version, config in versions
        ]


class _Backlog(msgspec.Struct, frozen=True):
    rows: int
    oldest_s: float


_DOOR = msgspec.json.Decoder(Door | None)
_BACKLOG = msgspec.json.Decoder(dict[str, _Backlog])


class PspWebhooks:
    """See the module's docstring.

    Attributes:
        wake: called after a commit that left something to tell, with the scope and the request id. It must not wait.
    """

    def __init__(
        self, db: Database, tenants: Tenants, psps: PspAccounts, settings: PspSettings, metrics: Metrics
    ) -> None:
        self._db = db
        self._tenants = tenants
        self._psps = psps
        self._settings = settings
        self._metrics = metrics
        self.wake: Callable[[Scope, str], None] = lambda _scope, _request_id: None

    # -- receiving ------------------------------------------------------------------------------------------------

    async def receive(self, token: str, delivery: WebhookDelivery, request_id: str) -> str:
        """Take a message: when this returns, it is committed.

        Returns:
            the body that this PSP wants of our 200; empty when it does not care.

        Raises:
            WebhookAddressUnknown, WebhookNotBelieved: nothing is kept.
            WebhookNotTaken, DatabaseUnavailable: it must come again.
        """
        # A wrong token is looked up like a right one.
        found = await self._db.fetch_text(f"SELECT {sqlbundle.name('inbox_account')}($1)", token)
        door = _DOOR.decode(found)
        if door is None:
            self._metrics.psp_webhooks_received.labels("none", "unknown_address").inc()
            raise WebhookAddressUnknown
        counted = self._metrics.psp_webhooks_received
        delivery = msgspec.structs.replace(delivery, url=self._psps.webhook_address(token) or "")
        try:
            events = await self._read(door, delivery)
            fresh = await self._keep(door, delivery, events, request_id)
        except WebhookNotBelieved:
            counted.labels(door.psp, "rejected").inc()
            raise
        except Exception:  # Counted, not caught.
            counted.labels(door.psp, "not_taken").inc()
            raise
        unread = events[0].state == "needs_attention"
        counted.labels(door.psp, "repeated" if not fresh else "unreadable" if unread else "taken").inc()
        if any(event.state == "received" for event in events):
            self.wake(door.scope, request_id)
        return self._psps.webhook_answer(door.psp)

    async def _read(self, door: Door, delivery: WebhookDelivery) -> list[Kept]:
        """What the message says, when its signature holds."""
        try:
            for sending in door.settings(delivery.received_at):
                psp = await self._psps.open(door.scope, sending)
                try:
                    async with asyncio.timeout(self._settings.webhook_verify_timeout_s):
                        events: Sequence[WebhookEvent] = await psp.adapter.verify_webhook(delivery)
                    return kept(events, delivery.body, signed=psp.facts.webhook.signature != "none")
                except WebhookRejected as error:
                    said = mask_pan(str(error))[:200]
                    log.warning("webhook rejected", psp=door.psp, account=door.account, said=said)
        except OutcomeUnknown as error:
            log.warning("webhook unreadable", psp=door.psp, account=door.account)
            return [unreadable(delivery.body, error)]
        except DatabaseUnavailable:
            raise
        except Exception as error:
            # A plugin's bug must neither lose the message nor believe it. Its words may quote the message: they are not told.
            place = "".join(traceback.format_tb(error.__traceback__))
            log.error(  # noqa: TRY400
                "adapter raised", psp=door.psp, verb="verify_webhook", kind=type(error).__name__, place=place
            )
            raise WebhookNotTaken from error
        raise WebhookNotBelieved

    async def _keep(self, door: Door, delivery: WebhookDelivery, events: list[Kept], request_id: str) -> int:
        """Commit the events; returns how many were not known."""
        content_type = delivery.headers.get("content-type", "")
        if len(delivery.body) <= LOOP_MAX:
            plain = masked_body(delivery.body, content_type)
        else:
            plain = await asyncio.to_thread(masked_body, delivery.body, content_type)
        copies = len(events) if len(plain) * len(events) <= COPIES_MAX else 1
        rows = []
        for index, event in enumerate(events):
            inbox_id = clock.new_uuid()
            sealed = None
            if index < copies:
                sealed = b64encode(
                    await self._tenants.seal(door.scope, "webhook_inbox", "body", inbox_id, plain)
                ).decode()
            rows.append(
                msgspec.structs.asdict(event) | {"inbox_id": inbox_id, "body": sealed, "event_id": clock.new_uuid()}
            )
        document = {
            "tenant_id": door.tenant_id,
            "live": door.live,
            "now": delivery.received_at,
            "actor_type": "psp",
            "actor_id": ids.encode("acct", door.account_id),
            "request_id": request_id,
            "psp_account_id": door.account_id,
            "body_hash": hashlib.sha256(delivery.body).hexdigest(),
            "events": rows,
        }
        fresh: int = msgspec.json.decode(await self._db.call("inbox_receive", document))
        return fresh

    # -- looking after --------------------------------------------------------------------------------------------

    async def page(
        self, scope: Scope, state: str | None, account_id: UUID | None, limit: int, cursor: str | None
    ) -> PspWebhookList:
        """A page, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        before = read_cursor(cursor) if cursor is not None else None
        async with self._db.begin(scope) as session:
            found = await session.execute(
                text(
                    f"SELECT {_COLUMNS} FROM webhook_inbox WHERE tenant_id = :tenant AND live = :live"  # noqa: S608
                    " AND (CAST(:state AS text) IS NULL OR state = :state)"
                    " AND (CAST(:account AS uuid) IS NULL OR psp_account_id = :account)"
                    " AND (CAST(:before AS uuid) IS NULL OR inbox_id < :before) ORDER BY inbox_id DESC LIMIT :most"
                ),
                _place(scope) | {"state": state, "account": account_id, "before": before, "most": limit + 1},
            )
            rows = found.all()
        more = len(rows) > limit
        return PspWebhookList(
            data=[PspWebhookOut.of(row) for row in rows[:limit]],
            next_cursor=write_cursor(rows[limit - 1].inbox_id) if more else None,
            has_more=more,
        )

    async def get(self, scope: Scope, webhook_id: str) -> PspWebhookDetail:
        """One message, with what it says.

        Raises:
            PspWebhookNotFound.
        """
        identity = _identity(webhook_id)
        async with self._db.begin(scope) as session:
            row = (
                await session.execute(
                    text(
                        f"SELECT {_COLUMNS}, news, body FROM webhook_inbox"  # noqa: S608
                        " WHERE tenant_id = :tenant AND live = :live AND inbox_id = :id"
                    ),
                    _place(scope) | {"id": identity},
                )
            ).one_or_none()
        if row is None:
            raise PspWebhookNotFound
        body = None
        if row.body is not None:
            body = await self._tenants.open(scope, "webhook_inbox", "body", identity, row.body)
        return PspWebhookDetail.with_body(row, body)

    async def decide(
        self, caller: Caller, key: IdempotencyKey | None, webhook_id: str, want: str, reason: str | None = None
    ) -> Answer:
        """``retry`` a message now, or ``dismiss`` it.

        Raises:
            PspWebhookNotFound, PspWebhookSettled, PspWebhookUnreadable, PspWebhookBusy.
        """
        identity = _identity(webhook_id)

        async def work(session: AsyncSession) -> Answer:
            document = {
                "tenant_id": caller.scope.tenant_id,
                "live": caller.scope.live,
                "now": clock.now(),
                "actor_type": caller.actor_type,
                "actor_id": caller.actor_id,
                "key_id": caller.key_id,
                "session_id": caller.session_id,
                "request_id": caller.request_id,
                "inbox_id": identity,
                "want": want,
                "reason": reason,
                "event_id": clock.new_uuid(),
            }
            await session.execute(
                text(f"SELECT {sqlbundle.name('inbox_decide')}(CAST(:document AS jsonb))"),
                {"document": msgspec.json.encode(document).decode()},
            )
            row = await session.execute(
                text(
                    f"SELECT {_COLUMNS} FROM webhook_inbox WHERE tenant_id = :tenant AND live = :live AND inbox_id = :id"  # noqa: S608
                ),
                _place(caller.scope) | {"id": identity},
            )
            return Answer(200, msgspec.json.encode(PspWebhookOut.of(row.one())))

        answer = await once(self._db, caller.scope, key, work)
        if want == "retry":
            self.wake(caller.scope, caller.request_id)
        return answer

    async def measure(self) -> None:
        """Say in the metrics how much waits, in all tenants. Called once a minute.

        Raises:
            DatabaseUnavailable.
        """
        found = _BACKLOG.decode(await self._db.fetch_text(f"SELECT {sqlbundle.name('inbox_backlog')}($1)", clock.now()))
        for state in ("received", "parked", "needs_attention"):
            waiting = found.get(state, _Backlog(0, 0.0))
            self._metrics.psp_webhooks_waiting.labels(state).set(waiting.rows)
            self._metrics.psp_webhooks_oldest.labels(state).set(waiting.oldest_s)


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant": scope.tenant_id, "live": scope.live}


def _identity(webhook_id: str) -> UUID:
    try:
        return ids.decode("whi", webhook_id)
    except ids.InvalidId:
        raise PspWebhookNotFound from None
