"""Adyen's refusals -> the gateway's normalised codes.

An answer carries ``refusalReasonCode``, a webhook only the words (``reason``), so the table knows both. Left out are ``0`` (of
approved payments) and ``1``, which Adyen does not document. The numbers 43 to 45 and 50 were confirmed in several public
integrations, not on Adyen's page, of which only a part could be read.
"""

from __future__ import annotations

import re
from datetime import date

from clearspan.sdk import RefusalTable

REASONS: dict[str, tuple[str, str]] = {
    "2": ("Refused", "do_not_honor"),
    "3": ("Referral", "generic_decline"),
    "4": ("Acquirer Error", "processing_error"),
    "5": ("Blocked Card", "pickup_card"),
    "6": ("Expired Card", "expired_card"),
    "7": ("Invalid Amount", "invalid_amount"),
    "8": ("Invalid Card Number", "invalid_number"),
    "9": ("Issuer Unavailable", "issuer_unavailable"),
    "10": ("Not supported", "not_permitted"),
    "11": ("3D Not Authenticated", "authentication_required"),
    "12": ("Not enough balance", "insufficient_funds"),
    "14": ("Acquirer Fraud", "suspected_fraud"),
    "15": ("Cancelled", "generic_decline"),
    "16": ("Shopper Cancelled", "authentication_required"),  # the payer gave the challenge up
    "17": ("Invalid Pin", "authentication_required"),
    "18": ("Pin tries exceeded", "limit_exceeded"),
    "19": ("Pin validation not possible", "authentication_required"),
    "20": ("FRAUD", "psp_risk_blocked"),  # Adyen's own score before the authorisation
    "21": ("Not Submitted", "processing_error"),
    "22": ("FRAUD-CANCELLED", "psp_risk_blocked"),  # and after it
    "23": ("Transaction Not Permitted", "not_permitted"),
    "24": ("CVC Declined", "invalid_cvc"),
    "25": ("Restricted Card", "restricted_card"),
    "26": ("Revocation Of Auth", "consent_revoked"),
    "27": ("Declined Non Generic", "generic_decline"),
    "28": ("Withdrawal amount exceeded", "limit_exceeded"),
    "29": ("Withdrawal count exceeded", "limit_exceeded"),
    "31": ("Issuer Suspected Fraud", "suspected_fraud"),
    "32": ("AVS Declined", "avs_mismatch"),
    "33": ("Card requires online pin", "not_permitted"),
    "34": ("No checking account available on Card", "not_permitted"),
    "35": ("No savings account available on Card", "not_permitted"),
    "36": ("Mobile pin required", "authentication_required"),
    "37": ("Contactless fallback", "not_permitted"),
    "38": ("Authentication required", "authentication_required"),
    "39": ("RReq not received from DS", "authentication_required"),
    "40": ("Current AID is in Penalty Box.", "not_permitted"),
    "41": ("CVM Required Restart Payment", "authentication_required"),
    "42": ("3DS Authentication Error", "authentication_required"),
    "43": ("Online PIN required", "authentication_required"),
    "44": ("Try another interface", "not_permitted"),
    "45": ("Chip downgrade mode", "not_permitted"),
    "46": ("Transaction blocked by Adyen to prevent excessive retry fees", "psp_risk_blocked"),
    "50": ("Token Revoked", "consent_revoked"),
}
"""``refusalReasonCode`` -> ``refusalReason`` and our code."""

REFUSALS = RefusalTable(
    {code: ours for code, (_, ours) in REASONS.items()} | {words.lower(): ours for words, ours in REASONS.values()},
    source="https://docs.adyen.com/development-resources/refusal-reasons",
    as_of=date(2026, 11, 23),
)

CARD_ERRORS = {
    "101": "invalid_number",  # Invalid card number
    "102": "invalid_number",  # Unable to determine variant
    "103": "invalid_cvc",  # CVC is not the right length
    "129": "expired_card",  # Expiry Date Invalid
    "153": "invalid_cvc",  # Invalid CVC
}
"""``errorCode`` of a request refused for what the payer typed. Source: https://docs.adyen.com/development-resources/error-codes
(2026-11; 129 and 153 from public collections of the same table)."""


def normalised(code: str | None, words: str | None) -> str:
    """Our code for a refusal told by number or by words."""
    found = REFUSALS.code(code)
    return found if found != "unmapped" else REFUSALS.code((words or "").strip().lower())


def leading_code(raw: str | None) -> str | None:
    """``05`` of ``05 : Do not honor``, the form of ``refusalReasonRaw`` and ``merchantAdviceCode``; ``None`` of plain words.
    Source: https://docs.adyen.com/development-resources/raw-acquirer-responses (the words change without notice, so only the
    code in front is used)."""
    found = re.match(r"\s*([0-9A-Z]{2})(?:\s*:|\s*$)", raw or "")
    return found[1] if found else None
