"""The SQL functions of the money path, versioned by their own content.

Each domain module keeps its functions in ``<module>/sql/*.sql``. Their names carry ``{{v}}``, the first eight hex
digits of the hash of all these files, so a release calls exactly the bodies it was built with: two releases run side
by side on one database, and installing (``clearspan migrate``) is idempotent and never changes a function that
another release is using.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

PLACEHOLDER = "{{v}}"
MODULES = (
    "payments",
    "ledger",
    "psps",
    "webhooks",
    "access",
    "journal",
    "tenants",
    "subscriptions",
    "rebills",
    "reports",
    "desk",
)


@cache
def sources() -> tuple[str, ...]:
    """The texts of all files, in a fixed order."""
    found: list[str] = []
    for module in MODULES:
        folder = resources.files("clearspan").joinpath(module, "sql")
        if folder.is_dir():
            files = sorted(
                (entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name
            )
            found += [entry.read_text() for entry in files]
    return tuple(found)


@cache
def version() -> str:
    """Eight hex digits that name this release's functions."""
    return hashlib.sha256("\0".join(sources()).encode()).hexdigest()[:8]


@cache
def name(function: str) -> str:
    """The function's name in the database."""
    return f"{function}_{version()}"


def installation() -> str:
    """One script that creates every function of this release."""
    return "\n".join(source.replace(PLACEHOLDER, version()) for source in sources())
