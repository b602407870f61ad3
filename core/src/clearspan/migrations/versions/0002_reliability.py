"""Reliability: webhooks in and out, disputes, human decisions, ledger, audit proof."""

from clearspan.migrations import run_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is new; nothing that release 0.1 uses changes its meaning."""
    for name in ("money", "ledger", "proof", "webhooks"):
        run_file(f"0002_{name}.sql")
