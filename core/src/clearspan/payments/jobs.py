"""Background work on payments: load, call the service that users call too. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from clearspan.payments.approvals import expire
from clearspan.payments.inbox import Inbox
from clearspan.payments.service import Payments
from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings

Context = Mapping[str, Any]
"""What every job gets: ``payments``, ``inbox``, ``db``, ``settings``, and ``request_id`` of this run."""


async def expire_payments(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Close intents whose time is over; returns how many."""
    payments: Payments = ctx["payments"]
    settings: Settings = ctx["settings"]
    scope = Scope(tenant_id=UUID(tenant_id), live=live)
    return await payments.expire_stale(scope, ctx["request_id"], settings.worker.sweep_batch)


async def recover_operations(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Find out what became of operations whose outcome is open; returns how many were looked at."""
    payments: Payments = ctx["payments"]
    settings: Settings = ctx["settings"]
    scope = Scope(tenant_id=UUID(tenant_id), live=live)
    return await payments.recover(scope, ctx["request_id"], settings.worker.sweep_batch)


async def apply_webhooks(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Tell the payments what PSPs sent; returns how many messages were told."""
    inbox: Inbox = ctx["inbox"]
    settings: Settings = ctx["settings"]
    scope = Scope(tenant_id=UUID(tenant_id), live=live)
    return await inbox.apply(scope, ctx["request_id"], settings.worker.sweep_batch)


async def unwind_charges(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Give back charges that nobody wants any more; returns how many payments were looked at."""
    payments: Payments = ctx["payments"]
    settings: Settings = ctx["settings"]
    scope = Scope(tenant_id=UUID(tenant_id), live=live)
    return await payments.unwind(scope, ctx["request_id"], settings.worker.sweep_batch)


async def expire_approvals(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """End requests for a second person that nobody decided in time; returns how many."""
    db: Database = ctx["db"]
    settings: Settings = ctx["settings"]
    scope = Scope(tenant_id=UUID(tenant_id), live=live)
    return await expire(db, scope, ctx["request_id"], settings.worker.sweep_batch)


async def expire_keys(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Forget the answers kept under idempotency keys that are older than the replay window; the keys stay spent."""
    db: Database = ctx["db"]
    settings: Settings = ctx["settings"]
    document = {
        "tenant_id": tenant_id,
        "live": live,
        "before": clock.now() - timedelta(days=settings.idempotency.replay_days),
        "most": settings.worker.sweep_batch,
    }
    return int(await db.call("idempotency_purge", document))


JOBS = {
    "expire_payments": expire_payments,
    "recover_operations": recover_operations,
    "apply_webhooks": apply_webhooks,
    "unwind_charges": unwind_charges,
    "expire_approvals": expire_approvals,
    "expire_keys": expire_keys,
}
"""By the name that ``due_work`` gives them."""
