"""Background work of collecting: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clearspan.rebills.notices_jobs import send_notices

JOBS: dict[str, Callable[..., Awaitable[int]]] = {"send_notices": send_notices}
"""By the name that ``due_work`` gives them: collect_invoices, send_notices, advance_test_clocks."""
