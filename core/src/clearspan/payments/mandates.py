"""Whose first payment must be authenticated before the merchant may charge by himself, and after which declines he may not."""

from __future__ import annotations

from typing import Any

from clearspan.sdk import DECLINES, DeclineClass

EEA = (
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI", "LT", "LU",
    "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
)  # fmt: skip
"""Issuer countries (ISO 3166-1 alpha-2) in which strong customer authentication is the law: the European Economic Area
(https://www.efta.int/about-efta/european-economic-area, 2026-11)."""

SUSPENDING = (
    *sorted(code for code, decline in DECLINES.items() if decline.kind is DeclineClass.HARD),
    "expired_card",
    "stolen_card",
)
"""Declines of a merchant-initiated charge that suspend its mandate: the card as it is will not be charged again."""


def activation(authentication: str) -> dict[str, Any]:
    """The rules of ``mandate_settled`` in ``subscriptions/sql/collect.sql``; ``authentication`` is ``[mandates]``' setting."""
    return {"authentication": authentication, "eea": EEA, "suspend": SUSPENDING}
