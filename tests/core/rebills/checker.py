"""The schemes' limits written a second time, from the table of the design and not from ``payments.caps``.

It is given what was charged, and says which rule a charge breaks. Nothing of the gateway is imported here.

| cards | rule |
|---|---|
| Visa | none after a category 1 answer; at most 8 declines per card and amount in 30 days |
| Mastercard | at most 4 declines per card in 24 hours, 8 per card and amount in 30 days; none for 30 days after advice 03 or 21 |
| others | at most 3 declines in 14 days, 24 hours apart |
| issued in India | a declined invoice is not charged again by itself |
| each | none after a hard decline, fraud or a revocation; a restricted card twice in 30 days; 20 hours between two tries of an
|      | invoice unless the decline was technical; not before the time that the issuer named |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

HOUR, DAY = 3600.0, 86_400.0
NEVER_AGAIN = {
    "invalid_number", "lost_card", "stolen_card", "pickup_card", "closed_account", "no_such_issuer", "not_permitted",
    "suspected_fraud", "psp_risk_blocked", "consent_revoked",
}  # fmt: skip
CATEGORY_1 = {"04", "07", "12", "14", "15", "41", "43", "46", "57"}
TECHNICAL = {"issuer_unavailable", "processing_error"}
NAMED_TIMES = {
    "02": 72 * HOUR,
    "24": HOUR,
    "25": DAY,
    "26": 2 * DAY,
    "27": 4 * DAY,
    "28": 6 * DAY,
    "29": 8 * DAY,
    "30": 10 * DAY,
}
RETRYABLE = {"insufficient_funds", "limit_exceeded", "restricted_card", "do_not_honor", "generic_decline"} | TECHNICAL


class Charged(NamedTuple):
    """A charge with what the PSP said; ``at`` in seconds, ``code`` of a decline or ``None`` when it was paid."""

    at: float
    invoice: str
    amount: int
    by_merchant: bool
    code: str | None
    advice: str | None
    network_code: str | None


def violations(brand: str, country: str | None, charges: list[Charged]) -> Iterator[str]:
    """What is wrong with the merchant's charges of one card, in the order of time."""
    for place, now in enumerate(charges):
        if not now.by_merchant:
            continue
        before = [one for one in charges[:place] if one.code is not None]
        if any(one.code in NEVER_AGAIN for one in before):
            yield f"charged after {[one.code for one in before]}"
        if any(one.advice in ("03", "21") and one.at > now.at - 30 * DAY for one in before):
            yield "charged within 30 days of advice 03 or 21"
        yield from _by_brand(brand, now, before)
        mine = [one for one in before if one.invoice == now.invoice]
        if country == "IN" and mine:
            yield "India: a declined invoice was charged again"
        if sum(one.code == "restricted_card" and one.at > now.at - 30 * DAY for one in before) >= 2:
            yield "a restricted card was charged a third time"
        yield from _by_invoice(now, mine)


def _by_brand(brand: str, now: Charged, before: list[Charged]) -> Iterator[str]:
    same_amount = sum(one.amount == now.amount and one.at > now.at - 30 * DAY for one in before)
    if brand == "visa":
        if any(one.network_code in CATEGORY_1 for one in before):
            yield "Visa: charged after category 1"
        if same_amount >= 8:
            yield "Visa: more than 8 in 30 days"
    elif brand == "mastercard":
        if sum(one.at > now.at - DAY for one in before) >= 4:
            yield "Mastercard: more than 4 in 24 hours"
        if same_amount >= 8:
            yield "Mastercard: more than 8 in 30 days"
    else:
        if sum(one.at > now.at - 14 * DAY for one in before) >= 3:
            yield "other: more than 3 in 14 days"
        if any(one.at > now.at - DAY for one in before):
            yield "other: not 24 hours apart"


def _by_invoice(now: Charged, mine: list[Charged]) -> Iterator[str]:
    tried = [one for one in mine if one.by_merchant]
    if not tried:
        return
    last = tried[-1]
    if last.code not in RETRYABLE | {"invalid_merchant", "invalid_currency", "invalid_amount"}:
        yield f"tried again after {last.code}"
    if last.code not in TECHNICAL and now.at < last.at + 20 * HOUR:
        yield "twice within 20 hours"
    if last.code in RETRYABLE and last.advice in NAMED_TIMES and now.at < last.at + NAMED_TIMES[last.advice]:
        yield f"before the issuer's time {last.advice}"
    if sum(one.code in ("do_not_honor", "generic_decline") for one in tried) >= 3:
        yield "a fourth try without a reason"
