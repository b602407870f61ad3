"""Disputes and returned payments: what a payer's bank does to a charge long after it. No I/O; time comes from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Status = Literal[
    "inquiry",
    "inquiry_closed",
    "needs_response",
    "under_review",
    "won",
    "lost",
    "accepted",
    "expired",
    "pre_arbitration",
    "prevented",
    "returned",
]
EVIDENCE_S = 14 * 86_400
"""How long evidence is taken, from the opening."""
TAKES_MONEY = frozenset(
    {"needs_response", "under_review", "lost", "accepted", "expired", "pre_arbitration", "returned"}
)
"""While a dispute stands so, its amount is taken from the account."""


class Dispute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dispute, or with the status ``returned`` a payment that the payer's bank took back without one.

    Attributes:
        charge: the charge's id.
        reference: the merchant's reference of that charge.
        reason: the bank's word for why.
        network_code: the scheme's reason code.
        evidence_due_at: until when evidence is taken.
    """

    id: str
    kind: Literal["dispute", "return"]
    account: str
    charge: str
    reference: str
    status: Status
    amount: int
    currency: str
    created_at: datetime
    reason: str | None = None
    network_code: str | None = None
    evidence_due_at: datetime | None = None
