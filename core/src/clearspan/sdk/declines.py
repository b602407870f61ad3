"""The normalised decline codes: every refusal table maps to these, so that retries and reports mean the same at every PSP.

Normalise by (PSP, scheme, code), never by code alone: the same number means different things at different schemes. A code
without a row is ``unmapped``: it is a final decline, is never retried by itself, and is counted so that the table can grow.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class DeclineClass(StrEnum):
    """What a decline means for a later try."""

    HARD = "hard"
    """This card will never work."""
    NEEDS_CHANGE = "needs_change"
    """Other data, another method or an authentication may work."""
    SOFT = "soft"
    """The same may work on another day."""
    TECHNICAL = "technical"
    """The same may work within the hour."""
    FRAUD = "fraud"
    """Do not try again; show the payer a generic decline."""
    CONSENT = "consent"
    """The payer took the consent back; stop everything that rests on it."""
    CONFIGURATION = "configuration"
    """The merchant's account is set up wrong; stop the batch and tell an operator."""
    GENERIC = "generic"
    """The issuer does not say; a few tries at most."""


class Decline(msgspec.Struct, frozen=True):
    """A code's class and its meaning in words."""

    kind: DeclineClass
    meaning: str


_K = DeclineClass
DECLINES: dict[str, Decline] = {
    "insufficient_funds": Decline(_K.SOFT, "Not enough money on the account."),
    "limit_exceeded": Decline(_K.SOFT, "A limit of amount or number of payments is reached."),
    "do_not_honor": Decline(_K.GENERIC, "The issuer refuses without a reason."),
    "generic_decline": Decline(_K.GENERIC, "The issuer or PSP refuses in general words."),
    "issuer_unavailable": Decline(_K.TECHNICAL, "The issuer could not be reached."),
    "processing_error": Decline(_K.TECHNICAL, "An error on the way, and certainly nothing was charged."),
    "authentication_required": Decline(_K.NEEDS_CHANGE, "The issuer wants the payer to authenticate."),
    "expired_card": Decline(_K.NEEDS_CHANGE, "The card has expired."),
    "invalid_number": Decline(_K.HARD, "There is no such card."),
    "invalid_cvc": Decline(_K.NEEDS_CHANGE, "The security code is wrong."),
    "avs_mismatch": Decline(_K.NEEDS_CHANGE, "The address does not match."),
    "lost_card": Decline(_K.HARD, "The card was reported lost."),
    "stolen_card": Decline(_K.FRAUD, "The card was reported stolen."),
    "pickup_card": Decline(_K.HARD, "The issuer wants the card back."),
    "closed_account": Decline(_K.HARD, "The account is closed."),
    "no_such_issuer": Decline(_K.HARD, "No issuer for this number."),
    "not_permitted": Decline(_K.HARD, "This kind of payment is not allowed with this card or account."),
    "restricted_card": Decline(_K.SOFT, "The card is restricted, for instance by country."),
    "blocked_by_holder": Decline(_K.NEEDS_CHANGE, "The cardholder blocked such payments."),
    "suspected_fraud": Decline(_K.FRAUD, "The issuer suspects fraud."),
    "psp_risk_blocked": Decline(_K.FRAUD, "The PSP's own risk check refused."),
    "consent_revoked": Decline(_K.CONSENT, "The cardholder stopped this merchant's recurring payments."),
    "invalid_merchant": Decline(_K.CONFIGURATION, "The PSP or scheme does not accept the merchant account."),
    "invalid_currency": Decline(_K.CONFIGURATION, "The account does not take this currency."),
    "invalid_amount": Decline(_K.CONFIGURATION, "The amount is outside what the account takes."),
    "duplicate": Decline(_K.GENERIC, "The PSP believes it has seen this payment: looked up, never charged again."),
    "unmapped": Decline(_K.GENERIC, "A code that no table knows yet: final, never retried by itself."),
}
"""Code -> what it means. ``action_expired`` and ``canceled`` are ours, not a PSP's, and therefore not in this table."""
