"""Operators: people who sign in, what they may do in which tenant, their sessions; approvals by a second person."""

from clearspan.migrations import run_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is new; nothing that an older release uses changes its meaning."""
    run_file("0005_operators.sql")
