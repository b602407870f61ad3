"""Background work of collecting: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from clearspan.platform.context import Scope
from clearspan.rebills.clocks import TestClocks
from clearspan.rebills.notices_jobs import send_notices
from clearspan.rebills.service import Collector

Context = Mapping[str, Any]


async def advance_test_clocks(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Move the test clocks that are on their way; returns at how many instants something was done."""
    test_clocks: TestClocks = ctx["test_clocks"]
    return await test_clocks.move(Scope(tenant_id=UUID(tenant_id), live=live), ctx["request_id"])


async def collect_invoices(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Charge invoices that are due and decide upon those that failed; returns how many of either."""
    collector: Collector = ctx["collector"]
    with ctx["metrics"].rebill_jobs_failed.count_exceptions():
        return await collector.collect(Scope(tenant_id=UUID(tenant_id), live=live), ctx["request_id"])


JOBS: dict[str, Callable[..., Awaitable[int]]] = {
    "collect_invoices": collect_invoices,
    "send_notices": send_notices,
    "advance_test_clocks": advance_test_clocks,
}
"""By the name that ``due_work`` gives them: collect_invoices, send_notices, advance_test_clocks."""
