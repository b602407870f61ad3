"""The simulator's refusal codes -> the gateway's normalised codes.

Source: the simulator's own table, ``clearspan_psp_sandbox.cards.REFUSALS``; ``9999`` is left out on purpose, so that a code which
nobody mapped can be tried. Codes of one thousand belong together: 1 funds, 2 issuer, 3 card data, 4 card lost or closed,
5 technical, 6 fraud, 7 consent, 8 merchant. ``BROKEN_RULES`` are answers to requests that the simulator's books forbid.
"""

from __future__ import annotations

REFUSALS: dict[str, str] = {
    "1001": "insufficient_funds",
    "1002": "limit_exceeded",
    "2001": "do_not_honor",
    "2002": "generic_decline",
    "2003": "authentication_required",
    "2004": "not_permitted",
    "2005": "restricted_card",
    "2006": "blocked_by_holder",
    "2007": "authentication_required",  # the cardholder tried and failed
    "2008": "authentication_required",  # the challenge was given up
    "2009": "authentication_required",  # the challenge was not answered in time
    "3001": "expired_card",
    "3002": "invalid_number",
    "3003": "invalid_cvc",
    "3004": "avs_mismatch",
    "3005": "no_such_issuer",
    "4001": "lost_card",
    "4002": "stolen_card",
    "4003": "pickup_card",
    "4004": "closed_account",
    "5001": "issuer_unavailable",
    "5002": "processing_error",
    "6001": "suspected_fraud",
    "6002": "psp_risk_blocked",
    "7001": "consent_revoked",
    "8001": "invalid_merchant",
    "8002": "invalid_currency",
    "8003": "invalid_amount",
    "8004": "duplicate",
    "8005": "not_permitted",  # a brand this account does not take
    "8006": "not_permitted",  # a capture, void or refund the acquirer refused
    "8007": "not_permitted",  # a refund that came back after it had succeeded
}

BROKEN_RULES: dict[str, str] = {
    "not_a_test_card": "invalid_number",
    "unknown_network_transaction": "not_permitted",
    "amount_zero": "invalid_amount",
    "amount_exceeds_authorized": "invalid_amount",
    "amount_exceeds_captured": "invalid_amount",
    "authorization_expired": "not_permitted",
    "charge_not_authorized": "not_permitted",
    "charge_not_captured": "not_permitted",
    "charge_voided": "not_permitted",
    "already_captured": "not_permitted",
}
