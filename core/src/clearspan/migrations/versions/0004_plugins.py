"""Plugins: payment methods that a PSP holds. Test clocks of whole tenants. The log of plugins."""

from clearspan.migrations import run_file

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is new; nothing that an older release uses changes its meaning."""
    for name in ("sources", "clocks", "plugins"):
        run_file(f"0004_{name}.sql")
