"""Bulk runs as background work: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from clearspan.desk.service import Desk
from clearspan.platform.context import Scope

Context = Mapping[str, Any]


async def work_bulk_runs(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Work on the bulk runs that are due; returns how many steps were made."""
    desk: Desk = ctx["desk"]
    return await desk.work(Scope(tenant_id=UUID(tenant_id), live=live), ctx["request_id"])


JOBS = {"work_bulk_runs": work_bulk_runs}
"""By the name that ``due_work`` gives them."""
