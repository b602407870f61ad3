"""How often the schemes let a declined card be tried: dated data, counted by the database in the transaction that
reserves a charge.

``charge_allowed`` in ``payments.sql`` counts per card fingerprint over all payments and subscriptions of a tenant,
the customer's own tries included.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any


def at(moment: datetime) -> dict[str, Any]:
    """The limits in force, by scheme; ``*`` for all others. See ``charge_allowed`` for the shape."""
    del moment  # The limits come with the rebills.
    return {}
