"""The schema's history: one numbered SQL file per revision, run by Alembic through advanced-alchemy.

Rules: expand first, contract a release later, so that releases N and N+1 run side by side; a revision never changes
once released. SQL functions are not here: they are versioned by content (``clearspan.platform.sqlbundle``).
"""

from __future__ import annotations

from contextvars import ContextVar
from importlib import resources
from typing import Any

from alembic import op

app_role: ContextVar[str] = ContextVar("app_role")
"""The role that is granted what the application needs; set by ``clearspan.platform.schema``."""


def run_file(name: str) -> None:
    """Run ``sql/<name>`` in the migration's transaction, with ``{{app_role}}`` filled in."""
    role = app_role.get()
    script = resources.files(__package__).joinpath("sql", name).read_text().replace("{{app_role}}", f'"{role}"')
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda raw: raw.execute(script))
