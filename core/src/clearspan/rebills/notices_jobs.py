"""Sending mails as background work: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from clearspan.platform.context import Scope
from clearspan.rebills.notices import Notices

Context = Mapping[str, Any]


async def send_notices(ctx: Context, *, tenant_id: str, live: bool) -> int:
    """Send what is due; returns how many were looked at."""
    notices: Notices = ctx["notices"]
    return await notices.send(Scope(tenant_id=UUID(tenant_id), live=live), ctx["request_id"])
