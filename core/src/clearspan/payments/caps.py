"""How often the schemes let a declined card be tried: dated data, counted by the database in the transaction that
reserves a charge.

``card_refusal`` in ``payments.sql`` counts per card fingerprint over all payments and subscriptions of a tenant, the
customer's own tries included; ``refusal`` here says the same in Python and is what the SQL is held against. A first
charge of a new period is no retry of another invoice, but it counts, and is refused, like one.

The schemes' rule books are not public: every rule names the acquirer's or processor's page that tells it. Our caps are
stricter than the rules, because tokens and card numbers, and several merchants of one acquirer, may be counted
together there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import msgspec

from clearspan.sdk import DECLINES, DeclineClass

DAY_S = 86_400
OPEN_S = 900
"""When to look again if only a try whose outcome is open stands in the way."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a scheme and the cap we keep because of it.

    Attributes:
        scheme: a card brand as vaults name it; ``*`` for every brand without rules of its own, ``all`` for each card.
        region: ISO 3166-1 alpha-2 of the issuer; ``*`` for everywhere.
        begins, ends: when the rule holds; ``ends`` is the first moment in which it does not, ``None`` for today's.
        name: for messages and reports.
        rule: what the scheme asks for, in words.
        source: where that is told, with the day it was read.
        most: so many declines, and tries whose outcome is open, and no further one.
        window_s: within so many seconds; ``None`` for ever.
        same: what is counted together: every try of the card, those of the same amount, those of the same payment.
        min_gap_s: between a decline and the next try.
        code: only declines of this normalised code, and what may still become one.
    """

    scheme: str
    region: str = "*"
    begins: datetime
    ends: datetime | None = None
    name: str
    rule: str
    source: str
    most: int
    window_s: int | None
    same: Literal["card", "amount", "payment"]
    min_gap_s: int = 0
    code: str | None = None


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """An answer after which a card is not charged again by us.

    Attributes:
        scheme, begins, ends, name, rule, source: as in ``Limit``.
        advice: merchant advice codes that say so.
        network_codes: the scheme's response codes that say so.
        window_s: for so long; ``None`` for ever.
    """

    scheme: str
    begins: datetime
    ends: datetime | None = None
    name: str
    rule: str
    source: str
    advice: tuple[str, ...] = ()
    network_codes: tuple[str, ...] = ()
    window_s: int | None = None


def _on(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


_MASTERCARD_SOURCE = "https://retries.com/guides/transaction-processing-excellence (2026-11)"

LIMITS = (
    Limit(
        scheme="visa",
        begins=_on("2021-07-01"),
        ends=_on("2025-05-25"),
        name="visa_reattempts",
        rule="Categories 2 to 4: at most 15 reattempts of a declined transaction in 30 days.",
        source="https://www.payvision.com/scheme-updates/visa-new-fees-for-declined-transactions-reattempts/ (2026-11)",
        most=8,
        window_s=30 * DAY_S,
        same="amount",
    ),
    Limit(
        scheme="visa",
        begins=_on("2025-05-25"),
        name="visa_reattempts",
        rule="Categories 2 to 4: at most 20 declines of one card and amount in a rolling 30 days.",
        source="https://developers.tabapay.com/docs/excessive-retry-rules (2026-11)",
        most=8,
        window_s=30 * DAY_S,
        same="amount",
    ),
    Limit(
        scheme="mastercard",
        begins=_on("2022-10-01"),
        name="mastercard_day",
        rule="At most 10 declined tries of one card in a rolling 24 hours, whoever makes them.",
        source=_MASTERCARD_SOURCE,
        most=4,
        window_s=DAY_S,
        same="card",
    ),
    Limit(
        scheme="mastercard",
        begins=_on("2022-10-01"),
        name="mastercard_month",
        rule="At most 35 retries of one card, acceptor and amount in a rolling 30 days.",
        source=_MASTERCARD_SOURCE,
        most=8,
        window_s=30 * DAY_S,
        same="amount",
    ),
    Limit(
        scheme="*",
        begins=_on("2020-01-01"),
        name="any_card",
        rule="No scheme's number is known; processors advise not to retry a decline that came without advice.",
        source=(
            "https://developer.cybersource.com/docs/cybs/en-us/api-fields/reference/all/so/api-fields/"
            "cc-auth-reply-merchant-advice-code.html (2026-11)"
        ),
        most=3,
        window_s=14 * DAY_S,
        same="card",
        min_gap_s=DAY_S,
    ),
    Limit(
        scheme="all",
        region="IN",
        begins=_on("2021-10-01"),
        name="india_no_retry",
        rule="The Reserve Bank asks for a notice before each debit of a mandate; that none is retried is our reading.",
        source="https://razorpay.com/docs/announcements/rbi-card-mandate-guidelines/recurring-payments.md (2026-11)",
        most=1,
        window_s=None,
        same="payment",
    ),
    Limit(
        scheme="all",
        begins=_on("2020-01-01"),
        name="restricted_card",
        rule="A restricted card is seldom freed: our own choice, no scheme's.",
        source="docs/dunning.md",
        most=2,
        window_s=30 * DAY_S,
        same="card",
        code="restricted_card",
    ),
)

STOPS = (
    Stop(
        scheme="visa",
        begins=_on("2021-07-01"),
        name="visa_category_1",
        rule="Category 1, the issuer will never approve: reattempts are prohibited.",
        source="https://developers.getevolved.com/enterprise/docs/visas-processing-integrity-fee-program (2026-11)",
        network_codes=("04", "07", "12", "14", "15", "41", "43", "46", "57"),
    ),
    Stop(
        scheme="all",  # the code is Mastercard's; whoever else sends it means the same
        begins=_on("2022-10-01"),
        name="advice_stop",
        rule="After merchant advice 03 (do not try again) or 21 (payment cancellation): nothing for 30 days.",
        source=_MASTERCARD_SOURCE,
        advice=("03", "21"),
        window_s=30 * DAY_S,
    ),
)

STOP_CODES = sorted(code for code, one in DECLINES.items() if one.kind in (DeclineClass.HARD, DeclineClass.FRAUD))
"""Normalised codes after which a card is never charged by us again (Visa's category 1, and fraud)."""
REVOKED_CODES = sorted(code for code, one in DECLINES.items() if one.kind is DeclineClass.CONSENT)
"""Normalised codes after which a card is charged again only on a mandate that its holder gave later."""


def at(moment: datetime) -> dict[str, Any]:
    """The limits in force at an aware moment, by scheme, ``*`` for all others; the shape is ``SchemeLimits``."""
    dates = {day for one in (*LIMITS, *STOPS) for day in (one.begins, one.ends) if day is not None}
    return _at(max((day for day in dates if day <= moment), default=min(dates)))


@lru_cache(maxsize=16)
def _at(epoch: datetime) -> dict[str, Any]:
    """Between two dates of the table nothing changes. Nobody changes the answer."""
    limits = [one for one in LIMITS if one.begins <= epoch and (one.ends is None or epoch < one.ends)]
    stops = [one for one in STOPS if one.begins <= epoch and (one.ends is None or epoch < one.ends)]
    found: dict[str, Any] = {}
    for scheme in sorted({one.scheme for one in (*LIMITS, *STOPS)} - {"all"}):
        mine = (scheme, "all")
        found[scheme] = msgspec.to_builtins(
            SchemeLimits(
                rules=tuple(
                    Rule(
                        rule=one.name,
                        most=one.most,
                        window_s=one.window_s,
                        same=one.same,
                        min_gap_s=one.min_gap_s,
                        code=one.code,
                        issuer_country=None if one.region == "*" else one.region,
                    )
                    for one in limits
                    if one.scheme in mine
                ),
                stop_codes=tuple(STOP_CODES),
                revoked_codes=tuple(REVOKED_CODES),
                stop_network_codes=tuple(code for one in stops if one.scheme in mine for code in one.network_codes),
                stop_advice=tuple(
                    StopAdvice(advice=advice, window_s=one.window_s)
                    for one in stops
                    if one.scheme in mine
                    for advice in one.advice
                ),
            )
        )
    return found


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A cap as the database takes it; see ``Limit``. With ``issuer_country`` only for cards of that country."""

    rule: str
    most: int
    window_s: int | None
    same: Literal["card", "amount", "payment"]
    min_gap_s: int = 0
    code: str | None = None
    issuer_country: str | None = None


class StopAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant advice code after which nothing goes out for so long; ``None`` for ever."""

    advice: str
    window_s: int | None = None


class SchemeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the cards of one scheme."""

    rules: tuple[Rule, ...] = ()
    stop_codes: tuple[str, ...] = ()
    revoked_codes: tuple[str, ...] = ()
    stop_network_codes: tuple[str, ...] = ()
    stop_advice: tuple[StopAdvice, ...] = ()


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """As far as the schemes' rules look at it."""

    brand: str
    issuer_country: str | None = None


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """A charge of a card that was declined, or may still be.

    Attributes:
        at: aware.
        declined: ``False`` while the outcome is open.
        payment_id: whose.
    """

    at: datetime
    declined: bool
    payment_id: UUID
    amount_minor: int
    currency: str
    code: str | None = None
    advice: str | None = None
    network_code: str | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a card may not be charged now.

    Attributes:
        code: ``card_stopped`` or ``retry_cap_reached``.
        rule: of a cap.
        again_at: when the cap has room again; ``None``: never, or not by time.
        decline_code, advice: of the decline that stopped the card.
    """

    code: str
    rule: str | None = None
    again_at: datetime | None = None
    decline_code: str | None = None
    advice: str | None = None


def refusal(
    limits: SchemeLimits,
    card: Card,
    tries: Sequence[Try],
    *,
    payment_id: UUID,
    amount_minor: int,
    currency: str,
    mandate_since: datetime,
    moment: datetime,
) -> Refusal | None:
    """Whether a charge by the merchant is refused at a moment; ``card_refusal`` in SQL says the same.

    Args:
        limits: of the card's scheme.
        card: the card.
        tries: all declined and open charges of its fingerprint, in any order.
        payment_id, amount_minor, currency: what would be charged.
        mandate_since: when the mandate it rests on became active.
        moment: of the charge.
    """
    for one in sorted((one for one in tries if one.declined), key=lambda one: one.at, reverse=True):
        if (
            one.code in limits.stop_codes
            or (one.code in limits.revoked_codes and one.at >= mandate_since)
            or one.network_code in limits.stop_network_codes
            or any(
                stop.advice == one.advice
                and (stop.window_s is None or one.at > moment - timedelta(seconds=stop.window_s))
                for stop in limits.stop_advice
            )
        ):
            return Refusal(code="card_stopped", decline_code=one.code, advice=one.advice)
    worst: Refusal | None = None
    for rule in limits.rules:
        if rule.issuer_country not in (None, card.issuer_country):
            continue
        until = _room_at(rule, tries, payment_id, amount_minor, currency, moment)
        if until == NEVER:
            return Refusal(code="retry_cap_reached", rule=rule.rule)
        if until > moment and (worst is None or worst.again_at is None or until > worst.again_at):
            worst = Refusal(code="retry_cap_reached", rule=rule.rule, again_at=until)
    return worst


NEVER = datetime.max.replace(tzinfo=UTC)


def _room_at(
    rule: Rule, tries: Sequence[Try], payment_id: UUID, amount_minor: int, currency: str, moment: datetime
) -> datetime:
    """From when on the rule has room for one more try; not after ``moment`` when it has room now."""
    since = None if rule.window_s is None else moment - timedelta(seconds=rule.window_s)
    counted = [
        one
        for one in tries
        if (since is None or one.at > since)
        and (rule.same != "amount" or (one.amount_minor, one.currency) == (amount_minor, currency))
        and (rule.same != "payment" or one.payment_id == payment_id)
        and (rule.code is None or not one.declined or one.code == rule.code)
    ]
    declines = sorted(one.at for one in counted if one.declined)
    soon = moment + timedelta(seconds=OPEN_S)
    room = moment
    if len(declines) >= rule.most:
        if rule.window_s is None:
            return NEVER
        room = declines[len(declines) - rule.most] + timedelta(seconds=rule.window_s)
    elif len(counted) >= rule.most:
        room = soon
    if rule.min_gap_s:
        gap = timedelta(seconds=rule.min_gap_s)
        if declines and declines[-1] > moment - gap:
            room = max(room, declines[-1] + gap)
        elif any(not one.declined and one.at > moment - gap for one in counted):
            room = max(room, soon)
    return room
