"""Whose first payment must be authenticated before the merchant may charge by himself."""

from __future__ import annotations

EEA = (
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI", "LT", "LU",
    "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
)  # fmt: skip
"""Issuer countries (ISO 3166-1 alpha-2) in which strong customer authentication is the law: the European Economic Area
(https://www.efta.int/about-efta/european-economic-area, 2026-11)."""
