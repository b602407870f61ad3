"""Rebills: mandates, plans, subscriptions, invoices, dunning, test clocks."""

from clearspan.migrations import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is new; nothing that an older release uses changes its meaning."""
    for name in ("messages", "mandates", "subscriptions", "rebills"):
        run_file(f"0003_{name}.sql")
