"""What the simulator does with which card and which amount. Any other card number is refused and not remembered.

The numbers are widely published test numbers (https://docs.stripe.com/testing), except those that begin with 4000000000088 or
5555550000088: no number is published for their purpose, so this project made them in the test ranges 400000 (Visa) and 555555
(Mastercard).
The refusal codes are the simulator's own, as every PSP has its own; ``network_code`` and ``advice`` are in the schemes' notation
(ISO 8583 response codes, Mastercard merchant advice codes).
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """What the simulator answers when it says no."""

    code: str
    message: str
    network_code: str | None = None
    advice: str | None = None


REFUSALS: dict[str, Refusal] = {
    "insufficient_funds": Refusal("1001", "Insufficient funds", "51"),
    "limit_exceeded": Refusal("1002", "Card limit exceeded", "61"),
    "do_not_honor": Refusal("2001", "Do not honor", "05"),
    "generic_decline": Refusal("2002", "Declined by the issuer, no reason given", "05"),
    "issuer_unavailable": Refusal("5001", "Issuer not available", "91"),
    "processing_error": Refusal("5002", "System malfunction", "96"),
    "authentication_required": Refusal("2003", "Strong customer authentication required", "1A"),
    "expired_card": Refusal("3001", "Expired card", "54", "01"),
    "invalid_number": Refusal("3002", "No such card number", "14", "03"),
    "invalid_cvc": Refusal("3003", "Security code does not match", "N7"),
    "avs_mismatch": Refusal("3004", "Postal code does not match", "6P"),
    "lost_card": Refusal("4001", "Card reported lost", "41", "03"),
    "stolen_card": Refusal("4002", "Card reported stolen", "43", "03"),
    "pickup_card": Refusal("4003", "Pick up card", "04", "03"),
    "closed_account": Refusal("4004", "Account closed", "46", "03"),
    "no_such_issuer": Refusal("3005", "No such issuer", "15"),
    "not_permitted": Refusal("2004", "Transaction not permitted to this card", "57"),
    "restricted_card": Refusal("2005", "Restricted card", "62"),
    "blocked_by_holder": Refusal("2006", "Blocked by the cardholder", "78"),
    "suspected_fraud": Refusal("6001", "Issuer suspects fraud", "59"),
    "psp_risk_blocked": Refusal("6002", "Blocked by the simulator's risk rules"),
    "consent_revoked": Refusal("7001", "Cardholder revoked the authorisation", "R1", "21"),
    "invalid_merchant": Refusal("8001", "Merchant not set up for this", "03"),
    "invalid_currency": Refusal("8002", "Currency not set up for this merchant"),
    "invalid_amount": Refusal("8003", "Invalid amount", "13"),
    "duplicate": Refusal("8004", "Looks like a duplicate of an earlier transaction", "94"),
    "unmapped": Refusal("9999", "A refusal that is in nobody's table"),
    # Reasons without a card of their own.
    "authentication_failed": Refusal("2007", "Cardholder authentication failed"),
    "abandoned": Refusal("2008", "Given up before the cardholder authenticated"),
    "challenge_expired": Refusal("2009", "The cardholder did not authenticate in time"),
    "brand_not_accepted": Refusal("8005", "This account does not take American Express", "57"),
    "follow_up_refused": Refusal("8006", "The acquirer refused the operation"),
    "refund_returned": Refusal("8007", "The cardholder's bank sent the refund back"),
}


class Card(msgspec.Struct, frozen=True):
    """A test card.

    Attributes:
        number: digits only.
        brand: lower case.
        title: what happens, for people.
        refusal: key of ``REFUSALS``: every charge is declined so.
        rebill_refusal: the same, for merchant-initiated charges only.
        rebill_advice: the advice that comes with it, instead of the reason's own.
        rebill_declines: so many tries of one amount are declined so, the next one is approved, and then it begins again; 0: all.
        rebills: so many merchant-initiated charges are approved, and none after them.
        valid_s: the card expires so long after its first charge.
        eea: issued where the law wants the payer to authenticate: the first payment of a mandate asks for a challenge, and a
            merchant-initiated charge is declined unless it names one that was.
        authentication: ``challenge``, ``frictionless``, ``failed`` or empty: what 3-D Secure does while the customer is present.
        after_challenge: key of ``REFUSALS``: the issuer's answer after an approved challenge.
        slow: the charge is booked at once and answered late, see ``delay_s``.
    """

    number: str
    brand: str
    title: str
    refusal: str = ""
    rebill_refusal: str = ""
    rebill_advice: str = ""
    rebill_declines: int = 0
    rebills: int = 0
    valid_s: float = 0
    eea: bool = False
    authentication: str = ""
    after_challenge: str = ""
    slow: bool = False


def _advised(advice: str, number: str, *, refusal: str = "insufficient_funds", declines: int = 1) -> Card:
    tries = "the first try of each amount is declined" if declines else "merchant-initiated charges are declined"
    title = f"approved with the customer present, {tries}: {REFUSALS[refusal].message}, advice {advice}"
    return Card(number, "mastercard", title, rebill_refusal=refusal, rebill_advice=advice, rebill_declines=declines)


def _declined(reason: str, number: str) -> Card:
    return Card(number, "visa", f"declined: {REFUSALS[reason].message}", refusal=reason)


CARDS: tuple[Card, ...] = (
    Card("4242424242424242", "visa", "approved"),
    Card("4000056655665556", "visa", "approved (debit)"),
    Card("4000002760000016", "visa", "approved (issued in Germany)", eea=True),
    Card("4000002500000003", "visa", "approved (issued in France)", eea=True),
    Card("4000008260000000", "visa", "approved (issued in the United Kingdom)"),
    Card("5555555555554444", "mastercard", "approved"),
    Card("5200828282828210", "mastercard", "approved (debit)"),
    Card("5105105105105100", "mastercard", "approved (prepaid)"),
    Card("378282246310005", "amex", "approved by alpha, declined by beta"),
    Card("6011111111111117", "discover", "approved"),
    Card("3056930009020004", "diners", "approved"),
    Card("3566002020360505", "jcb", "approved"),
    Card("6200000000000005", "unionpay", "approved"),
    Card("4000002500003155", "visa", "asks for a 3-D Secure challenge, then approved", authentication="challenge"),
    Card("4000000000003055", "visa", "authenticated without a challenge, approved", authentication="frictionless"),
    Card("4000008400001280", "visa", "declined: 3-D Secure authentication fails", authentication="failed"),
    Card(
        "4000008400001629",
        "visa",
        "asks for a 3-D Secure challenge, then declined by the issuer",
        authentication="challenge",
        after_challenge="generic_decline",
    ),
    Card("4000000000088007", "visa", "approved, but the answer comes late", slow=True),
    Card(
        "4000000000000341",
        "visa",
        "approved with the customer present, merchant-initiated charges are declined: Insufficient funds",
        rebill_refusal="insufficient_funds",
    ),
    Card(
        "4000000000088163",
        "visa",
        "approved with the customer present, the first two tries of each amount are declined: Insufficient funds",
        rebill_refusal="insufficient_funds",
        rebill_declines=2,
    ),
    Card("4000000000088171", "visa", "approved, expires 45 days after its first charge", valid_s=45 * 86_400),
    Card(
        "4000000000088189",
        "visa",
        "approved, the third merchant-initiated charge is declined: Cardholder revoked the authorisation",
        rebill_refusal="consent_revoked",
        rebills=2,
    ),
    _advised("24", "5555550000088015"),
    _advised("25", "5555550000088023"),
    _advised("02", "5555550000088031"),
    _advised("03", "5555550000088049", refusal="do_not_honor", declines=0),
    _declined("insufficient_funds", "4000000000009995"),
    _declined("limit_exceeded", "4000000000006975"),
    _declined("do_not_honor", "4000000000088015"),
    _declined("generic_decline", "4000000000000002"),
    _declined("issuer_unavailable", "4000000000088023"),
    _declined("processing_error", "4000000000000119"),
    _declined("authentication_required", "4000002760003184"),
    _declined("expired_card", "4000000000000069"),
    _declined("invalid_number", "4242424242424241"),
    _declined("invalid_cvc", "4000000000000127"),
    _declined("avs_mismatch", "4000000000000036"),
    _declined("lost_card", "4000000000009987"),
    _declined("stolen_card", "4000000000009979"),
    _declined("pickup_card", "4000000000088031"),
    _declined("closed_account", "4000000000088049"),
    _declined("no_such_issuer", "4000000000088056"),
    _declined("not_permitted", "4000000000088064"),
    _declined("restricted_card", "4000000000088072"),
    _declined("blocked_by_holder", "4000000000088080"),
    _declined("suspected_fraud", "4000000000088098"),
    _declined("psp_risk_blocked", "4100000000000019"),
    _declined("consent_revoked", "4000000000088106"),
    _declined("invalid_merchant", "4000000000088114"),
    _declined("invalid_currency", "4000000000088122"),
    _declined("invalid_amount", "4000000000088130"),
    _declined("duplicate", "4000000000088148"),
    _declined("unmapped", "4000000000088155"),
)
BY_NUMBER = {card.number: card for card in CARDS}

DECLINED_AMOUNTS: dict[int, str] = {9001 + index: reason for index, reason in enumerate(list(REFUSALS)[:27])}
"""Minor units, any currency -> key of ``REFUSALS``, for a card that would be approved: 9001 to 9027 in the table's order."""

PENDING_AMOUNTS: dict[int, Literal["succeeded", "declined"] | None] = {9050: "succeeded", 9051: "declined", 9052: None}
"""Charges and refunds of this amount are pending; ``PENDING_S`` later they end so, or never."""
PENDING_S = 2.0

BETA_DECLINED_AMOUNT = 9060
"""Alpha approves, beta declines with ``do_not_honor``."""

FOLLOW_UP_REFUSED_AMOUNT = 9070
"""A charge of this amount is approved; a capture, void or refund of exactly it is refused."""


def delay_s(amount: int) -> int:
    """How late the slow card's answer is: the amount's last two digits when they are 1 to 60, else 5."""
    last = amount % 100
    return last if 1 <= last <= 60 else 5


class Fee(msgspec.Struct, frozen=True):
    """``basis_points`` of what is captured, ``fixed`` minor units for each approved charge."""

    basis_points: int
    fixed: int


FEES: dict[str, Fee] = {"alpha": Fee(140, 25), "beta": Fee(90, 10)}
"""By account; further accounts pay what alpha pays."""
