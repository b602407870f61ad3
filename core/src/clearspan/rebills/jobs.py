"""Background work of collecting: load, call the service. A job drains what is due of one tenant and mode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

JOBS: dict[str, Callable[..., Awaitable[int]]] = {}
"""By the name that ``due_work`` gives them: collect_invoices, send_notices, advance_test_clocks."""
