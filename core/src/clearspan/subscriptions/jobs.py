"""Background work on subscriptions: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from clearspan.platform.context import Scope
from clearspan.subscriptions.schedule import Scheduler

Context = Mapping[str, Any]


async def plan_subscriptions(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Open the invoices of periods that are due; returns how many subscriptions were moved on."""
    scheduler: Scheduler = ctx["scheduler"]
    return await scheduler.plan(Scope(tenant_id=UUID(tenant_id), live=live), ctx["request_id"])


JOBS = {"plan_subscriptions": plan_subscriptions}
"""By the name that ``due_work`` gives them."""
