"""Foundation: tenants, keys, customers, payment methods, PSP accounts, payments, idempotency, journal."""

from clearspan.migrations import run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    run_file("0001_foundation.sql")
