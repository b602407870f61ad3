"""What to do after a charge of an invoice failed: a pure function of what happened, with the reason in words.

The first of these that says no decides: the holder took the consent back, the scheme forbids the card, a cap is
reached, an outcome is open, the subscription or invoice is over, fraud, the issuer's own time, the PSP's advice, the
class of the decline, and last the tenant's plan, which can only be stricter.

Sources of the numbers: merchant advice codes from
https://docs.everonet.com/en-us/gateway/developer-portal/appendix/mastercard-merchant-advice-code (2026-11); Stripe's
advice from https://docs.stripe.com/declines/card (2026-11); eight tries in two weeks as Stripe recommends. The rest is
our choice: the recovery report is there to measure it.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from clearspan.payments.caps import Refusal
from clearspan.rebills.plans import BUILT_IN, DunningPlan
from clearspan.sdk import DECLINES, DeclineClass

REST = timedelta(hours=20)
"""Between two tries of one invoice, but for technical declines."""
LIMIT_REST = timedelta(hours=24)
"""A limit of an account is one of a day."""
LOOK_AGAIN = timedelta(minutes=10)
"""When an outcome that is open, or a charge of the customer's own, is looked at again."""
NOT_SENT = timedelta(minutes=5)
"""After a try that never reached the PSP; twice as long each time, up to an hour."""
NOT_SENT_MAX = timedelta(hours=1)
A_DAY = timedelta(days=1)
CONFIGURATION = timedelta(hours=1)
"""How long an account rests whose setting up a PSP refused, and when a charge without an account is tried again."""

ADVISED = {
    "02": timedelta(hours=72),
    "24": timedelta(hours=1),
    "25": timedelta(hours=24),
    "26": timedelta(days=2),
    "27": timedelta(days=4),
    "28": timedelta(days=6),
    "29": timedelta(days=8),
    "30": timedelta(days=10),
}
"""Merchant advice code -> not before so long after the decline."""
STOPPING_ADVICE = frozenset({"03", "do_not_try_again"})
REVOKING_ADVICE = "21"
SANCTIONS_ADVICE = "42"
CHANGING_ADVICE = frozenset({"01", "40", "41", "confirm_card_data"})
"""Other data or another card is needed: 40 and 41 are prepaid and single-use numbers."""
OPEN_STATES = frozenset({"prepared", "submitted", "requires_action", "pending", "unknown", "needs_review"})
HOURS = (8, 12, 16, 20)
"""What "another time of day" is chosen from."""


class Action(StrEnum):
    """What is done next."""

    RETRY_AT = "retry_at"
    """Charge at ``at``."""
    OTHER_METHOD = "other_method"
    """Charge the customer's backup now."""
    ASK_CUSTOMER = "ask_customer"
    """Only the customer can help; ``at`` is when the final action comes."""
    WAIT = "wait"
    """Nothing is decided; look again at ``at``."""
    STOP = "stop"
    """No further charge and no final action."""
    FINAL = "final"
    """The plan is used up: its final action."""


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One try of an invoice, as far as decisions look at it.

    Attributes:
        state: of the operation.
        at: when it was made.
        payment_method_id: what was charged.
    """

    state: str
    at: datetime
    payment_method_id: UUID
    code: str | None = None
    advice: str | None = None
    network_code: str | None = None


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """Another stored method whose holder agreed to its use when the first one fails."""

    payment_method_id: UUID
    mandate_id: UUID
    psp_account_id: UUID | None = None


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision depends on.

    Attributes:
        now: the moment of the decision, a test clock's time where there is one.
        invoice_id: of the rebill.
        time_zone: the subscription's, an IANA name.
        invoice_status, subscription_status: as they stand.
        payment_locked: a charge of the invoice is under way or unknown.
        due_minor: what is still to be paid.
        payment_minor: what its payment asks for, once there is one.
        tries: the scheduler's charges of this invoice, oldest first.
        refused: the code with which a charge was refused before it was sent, of ``payments.errors``.
        cap: what ``card_refusal`` says of the card now.
        payment_method_id: what would be charged: the subscription's, or the backup in use; ``None``: there is none.
        method_active, mandate_status: of that; no mandate is ``None``.
        funding: ``credit``, ``debit``, ``prepaid`` or ``unknown``.
        first_failed_at: of this invoice.
        last_success_at: of a charge of this card.
        backups: methods not tried for this invoice yet, in the order of use.
        backup: the one in use.
        plan, held_out: see ``rebills.plans``.
    """

    now: datetime
    invoice_id: UUID
    time_zone: str
    invoice_status: str
    subscription_status: str
    payment_locked: bool
    due_minor: int
    payment_minor: int | None = None
    tries: tuple[Charge, ...] = ()
    refused: str | None = None
    cap: Refusal | None = None
    payment_method_id: UUID | None
    method_active: bool = True
    mandate_status: str | None = "active"
    funding: str = "unknown"
    first_failed_at: datetime | None = None
    last_success_at: datetime | None = None
    backups: tuple[Backup, ...] = ()
    backup: Backup | None = None
    plan: DunningPlan = BUILT_IN
    held_out: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is done and why; stored with the rebill and told in the journal, so it holds no personal data.

    Attributes:
        action: see ``Action``.
        reason: one of ``REASONS``.
        at: of the next charge or look; ``None`` for ``stop`` and ``final``.
        code: of the decline or refusal that led to it.
        advice: what issuer or PSP said about a later try.
        rule: the cap that moved the retry.
        tries: declined so far.
        backup: what is charged instead of the subscription's method.
        final_action: of the plan, with ``final``.
        decided_at: when.
    """

    action: Action
    reason: str
    at: datetime | None = None
    code: str | None = None
    advice: str | None = None
    rule: str | None = None
    tries: int = 0
    backup: Backup | None = None
    final_action: str | None = None
    decided_at: datetime | None = None


REASONS = {
    "consent_revoked": "The cardholder took back the consent to be charged",
    "card_stopped": "The issuer or the scheme forbids further charges to this card",
    "sanctions": "The issuer points to sanctions: a person has to look at this customer",
    "fraud": "The decline speaks of fraud",
    "cap_reached": "The card has been tried as often as is allowed for now",
    "cap_for_ever": "Cards of this country are not retried by themselves",
    "outcome_unknown": "The outcome of the last charge is not known yet",
    "payment_in_progress": "The customer is paying, or another charge is under way",
    "subscription_ended": "The subscription has ended",
    "invoice_closed": "The invoice is not open any more",
    "nothing_due": "Nothing is left to be paid",
    "amount_changed": "The amount of the invoice changed after its first try: it has to be settled by hand",
    "payment_closed": "The invoice's payment was canceled or has expired",
    "plan_over": "The last day of the plan has come",
    "issuer_time": "The issuer said when to try again",
    "data_wanted": "The issuer or the PSP wants other card data or another card",
    "needs_customer": "Only the customer can put this right",
    "authentication": "The issuer wants the customer to authenticate",
    "no_method": "There is no payment method that can be charged",
    "no_mandate": "There is no active mandate to charge on",
    "technical": "A technical decline: the same may work soon",
    "soft": "The same may work on another day",
    "payday": "There was not enough money: the next payday is a better day",
    "generic": "The issuer gives no reason: another day and time of day",
    "restricted": "The card is restricted: one more try, not more",
    "unmapped": "Nobody knows this decline code: it is never retried by itself",
    "tries_used_up": "All tries of the plan are used up",
    "duplicate": "The PSP believes it has seen this payment: its messages are waited for",
    "duplicate_unresolved": "The PSP believes it has seen this payment and nothing more was heard: a person has to look",
    "configuration": "The PSP refused the merchant's account, not the customer: it rests until somebody looks",
    "no_account": "No PSP account can take this charge",
    "not_sent": "The last try never reached the PSP; it does not count",
    "backup": "The customer agreed to the use of another stored payment method",
    "first_try": "The first charge of the invoice",
    "new_method": "There is another payment method since the last try",
    "asked_for": "Somebody asked for a charge now",
    "released": "Somebody released the invoice for collection",
    "refused": "The charge was refused before it was sent",
}
"""Reason code -> the beginning of an operator's sentence."""


def sentence(decision: Decision) -> str:
    """The decision in one or two sentences for an operator; times in UTC."""
    why = REASONS[decision.reason]
    said = [f"code {decision.code}"] if decision.code else []
    said += [f"advice {decision.advice}"] if decision.advice else []
    said += [f"cap {decision.rule}"] if decision.rule else []
    if said:
        why += f" ({', '.join(said)})"
    when = f"{decision.at:%Y-%m-%d %H:%M} UTC" if decision.at else "now"
    match decision.action:
        case Action.RETRY_AT:
            what = f"The next charge is due {'on ' + when if decision.at else when}."
        case Action.OTHER_METHOD:
            what = "That method is charged now."
        case Action.ASK_CUSTOMER:
            what = f"The customer is asked to act; the plan ends on {when}."
        case Action.WAIT:
            what = f"Nothing is charged; looked at again on {when}."
        case Action.STOP:
            what = "Collection has stopped."
        case Action.FINAL:
            words = {"cancel": "is canceled", "unpaid": "is marked unpaid", "pause": "is paused"}
            what = f"The subscription {words[decision.final_action or 'cancel']} and the invoice is uncollectible."
    if decision.tries:
        what += f" Declined so far: {decision.tries}."
    return f"{why}. {what}"


def decide(s: Situation) -> Decision:
    """What to do with an unpaid invoice; the same for the same situation, whenever and wherever it is asked."""
    return msgspec.structs.replace(_Deciding(s).decision(), decided_at=s.now)


class _Deciding:
    """One decision under way."""

    def __init__(self, s: Situation) -> None:
        self.s = s
        self.last = s.tries[-1] if s.tries else None
        self.declined = [one for one in s.tries if one.state == "declined"]
        self.zone = _zone(s.time_zone)
        self.first_failed = s.first_failed_at or s.now
        self.final_at = final_at(self.first_failed, s.time_zone, s.plan)

    # -- the order ----------------------------------------------------------------------------------------------------

    def decision(self) -> Decision:
        s, last = self.s, self.last
        # What was said about another card than the one that would be charged says nothing about this one.
        said = last if last is not None and last.payment_method_id == s.payment_method_id else None
        kind = _class(said)
        if kind is DeclineClass.CONSENT or (said and said.state == "declined" and said.advice == REVOKING_ADVICE):
            return self._stop("consent_revoked")
        if said is not None and said.state == "declined" and said.advice == SANCTIONS_ADVICE:
            return self._stop("sanctions")
        if kind is not DeclineClass.FRAUD and self._card_is_stopped(said, kind):
            return self._without_this_card("card_stopped")
        if s.cap is not None and s.cap.code == "retry_cap_reached" and s.cap.again_at is None:
            return self._without_this_card("cap_for_ever")
        closed = self._unfinished() or self._closed()
        if closed is not None:
            return closed
        if self._is_fraud(kind):
            return self._ask("fraud")
        return self._capped(self._by_advice(said, kind))

    def _card_is_stopped(self, said: Charge | None, kind: DeclineClass | None) -> bool:
        if kind is DeclineClass.HARD or (
            said is not None and said.state == "declined" and said.advice in STOPPING_ADVICE
        ):
            return True
        cap = self.s.cap
        return cap is not None and cap.code == "card_stopped" and not self._is_fraud(kind)

    def _is_fraud(self, kind: DeclineClass | None) -> bool:
        cap = self.s.cap
        stopped_by = cap.decline_code if cap is not None and cap.code == "card_stopped" else None
        return kind is DeclineClass.FRAUD or (
            stopped_by in DECLINES and DECLINES[stopped_by or ""].kind is DeclineClass.FRAUD
        )

    def _unfinished(self) -> Decision | None:
        s = self.s
        if self.last is not None and self.last.state in OPEN_STATES:
            return self._wait("outcome_unknown", LOOK_AGAIN)
        if s.payment_locked or s.refused in ("payment_in_progress", "operation_outcome_unknown"):
            return self._wait("payment_in_progress", LOOK_AGAIN)
        return None

    def _closed(self) -> Decision | None:
        s = self.s
        if s.subscription_status in ("canceled", "incomplete_expired"):
            return self._stop("subscription_ended")
        if s.invoice_status != "open":
            return self._stop("invoice_closed")
        if s.due_minor <= 0:
            return self._stop("nothing_due")
        if s.payment_minor is not None and s.payment_minor != s.due_minor:
            return self._stop("amount_changed")
        if s.refused == "payment_not_confirmable":
            return self._stop("payment_closed")
        if s.first_failed_at is not None and s.now >= self.final_at:
            if self.last is not None and self.last.code == "duplicate":
                return self._stop("duplicate_unresolved")
            if not self._ours_to_fix():
                return self._say(Action.FINAL, "plan_over", final_action=s.plan.final_action)
        return None

    def _by_advice(self, said: Charge | None, kind: DeclineClass | None) -> Decision:
        """From the issuer's time on; the card may be charged as far as scheme and fraud are concerned."""
        s = self.s
        if s.payment_method_id is None or not s.method_active:
            return self._other_or_ask("no_method")
        if s.mandate_status != "active":
            return self._other_or_ask("no_mandate")
        if s.refused in ("no_psp_account", "psp_account_unavailable"):
            return self._wait("no_account", CONFIGURATION)
        if s.refused not in (None, "retry_cap_reached", "card_stopped"):
            return self._wait("refused", CONFIGURATION, code=s.refused)
        if self.last is None:
            return self._retry("first_try", s.now)
        if said is None:
            return self._retry("backup" if s.backup else "new_method", s.now)
        if said.state in ("not_sent", "not_charged"):
            return self._not_sent(said)
        if said.state == "expired":
            return self._ask("authentication")
        advised = ADVISED.get(said.advice or "")
        if advised is not None and kind in (
            DeclineClass.SOFT, DeclineClass.GENERIC, DeclineClass.TECHNICAL
        ) and said.code not in ("unmapped", "duplicate"):  # fmt: skip
            return self._at_issuers_time(said, kind, advised)
        if said.advice in CHANGING_ADVICE:
            return self._other_or_ask("data_wanted")
        return self._by_class(said, kind)

    def _by_class(self, said: Charge, kind: DeclineClass | None) -> Decision:
        s = self.s
        match said.code:
            case "duplicate":
                return self._wait("duplicate", A_DAY)
            case "unmapped":
                return self._ask("unmapped")
            case "authentication_required":
                return self._ask("authentication")
        if kind is DeclineClass.CONFIGURATION:
            return self._retry("configuration", said.at + A_DAY)
        if kind is DeclineClass.NEEDS_CHANGE:
            return self._other_or_ask("needs_customer")
        if self._used_up(said, kind):
            return self._other_or_ask("tries_used_up")
        if kind is DeclineClass.TECHNICAL:
            row = self._in_a_row(lambda one: _class(one) is DeclineClass.TECHNICAL)
            if row <= len(s.plan.technical_h):
                return self._retry("technical", said.at + timedelta(hours=s.plan.technical_h[row - 1]))
        rest = LIMIT_REST if said.code == "limit_exceeded" else REST
        poor = said.code == "insufficient_funds" and s.funding in ("debit", "prepaid") and not s.held_out
        other_hour = kind is DeclineClass.GENERIC and not s.held_out
        slot = self._slot(said.at + rest, payday=poor, other_hour=other_hour)
        if slot is None:
            return self._other_or_ask("tries_used_up")
        reason = (
            "generic" if kind is DeclineClass.GENERIC else "restricted" if said.code == "restricted_card" else "soft"
        )
        return self._retry("payday" if poor and s.plan.payday is not None else reason, slot)

    def _at_issuers_time(self, said: Charge, kind: DeclineClass | None, advised: timedelta) -> Decision:
        """Not before it; and as it is a decline that was not technical, not within 20 hours either."""
        if self._used_up(said, kind):
            return self._other_or_ask("tries_used_up")
        rest = timedelta(0) if kind is DeclineClass.TECHNICAL else LIMIT_REST if said.code == "limit_exceeded" else REST
        return self._retry("issuer_time", said.at + max(advised, rest))

    def _used_up(self, said: Charge, kind: DeclineClass | None) -> bool:
        """Whether this class of decline, or the plan as a whole, allows no further try."""
        plan = self.s.plan
        mine = [one for one in self.declined if one.payment_method_id == said.payment_method_id]
        if (
            kind is DeclineClass.GENERIC
            and sum(_class(one) is DeclineClass.GENERIC for one in mine) >= plan.generic_tries
        ):
            return True
        if said.code == "restricted_card":
            return sum(one.code == "restricted_card" for one in mine) >= plan.restricted_tries
        days = plan.control_days if self.s.held_out else plan.soft_days
        return kind is not DeclineClass.TECHNICAL and len(
            [one for one in mine if _class(one) is not DeclineClass.TECHNICAL]
        ) > len(days)

    # -- times --------------------------------------------------------------------------------------------------------

    def _slot(self, earliest: datetime, *, payday: bool, other_hour: bool) -> datetime | None:
        """The first day of the plan whose moment is not before ``earliest``; ``None`` when the plan has none left."""
        s, plan = self.s, self.s.plan
        first = self.first_failed.astimezone(self.zone)
        days = plan.control_days if s.held_out else plan.soft_days
        usual = first
        if not s.held_out and plan.hour == "last_success" and s.last_success_at is not None:
            usual = s.last_success_at.astimezone(self.zone)
        hour, minute = usual.hour, usual.minute
        if not s.held_out and isinstance(plan.hour, int):
            hour, minute = plan.hour, 0
        if other_hour:
            hour, minute = self._untried_hour(), 0
        found: datetime | None = None
        for day in days:
            when = first.date() + timedelta(days=day)
            if payday and plan.payday is not None:
                moved = next_payday(when, plan.payday.days, plan.payday.weekday)
                if moved < first.date() + timedelta(days=plan.final_day):
                    when = moved
            slot = datetime(when.year, when.month, when.day, hour, minute, tzinfo=self.zone).astimezone(UTC)
            if not s.held_out:
                slot += jitter(s.invoice_id, day, plan.jitter_h)
            if slot >= earliest and (found is None or slot < found):
                found = slot
        return found

    def _untried_hour(self) -> int:
        """The hour of ``HOURS`` that is farthest from those of the tries so far."""
        tried = [one.at.astimezone(self.zone).hour for one in self.declined]
        return max(HOURS, key=lambda hour: min(min((hour - one) % 24, (one - hour) % 24) for one in tried))

    def _not_sent(self, said: Charge) -> Decision:
        if said.code == "psp_misconfigured":
            return self._retry("configuration", said.at + CONFIGURATION)
        row = self._in_a_row(lambda one: one.state in ("not_sent", "not_charged"))
        return self._retry("not_sent", said.at + min(NOT_SENT * 2 ** min(row - 1, 10), NOT_SENT_MAX))

    def _in_a_row(self, same: Callable[[Charge], bool]) -> int:
        row = 0
        for one in reversed(self.s.tries):
            if not same(one):
                break
            row += 1
        return row

    # -- answers ------------------------------------------------------------------------------------------------------

    def _say(self, action: Action, reason: str, at: datetime | None = None, **more: Any) -> Decision:
        last = self.last
        given: dict[str, Any] = {"code": last.code if last else self.s.refused, "advice": last.advice if last else None}
        given |= {"tries": len(self.declined), "backup": self.s.backup} | more
        return Decision(action=action, reason=reason, at=at, **given)

    def _stop(self, reason: str) -> Decision:
        return self._say(Action.STOP, reason)

    def _wait(self, reason: str, span: timedelta, **more: Any) -> Decision:
        return self._say(Action.WAIT, reason, self.s.now + span, **more)

    def _ask(self, reason: str, **more: Any) -> Decision:
        return self._say(Action.ASK_CUSTOMER, reason, max(self.final_at, self.s.now), **more)

    def _other_or_ask(self, reason: str) -> Decision:
        s = self.s
        if s.plan.other_method and s.backups and not s.held_out:
            return self._say(Action.OTHER_METHOD, "backup", s.now, backup=s.backups[0])
        return self._ask(reason)

    def _without_this_card(self, reason: str) -> Decision:
        return self._unfinished() or self._closed() or self._other_or_ask(reason)

    def _retry(self, reason: str, at: datetime) -> Decision:
        return self._say(Action.RETRY_AT, reason, max(at, self.s.now))

    def _capped(self, decision: Decision) -> Decision:
        """A retry waits for the cap, and none comes at or after the end of the plan."""
        cap = self.s.cap
        if decision.action is not Action.RETRY_AT or decision.at is None:
            return decision
        if cap is not None and cap.again_at is not None and cap.again_at > decision.at:
            decision = msgspec.structs.replace(decision, reason="cap_reached", at=cap.again_at, rule=cap.rule)
        if self.s.first_failed_at is not None and decision.at is not None and decision.at >= self.final_at:
            if decision.reason in ("not_sent", "configuration"):
                return msgspec.structs.replace(decision, action=Action.WAIT, at=self.final_at)
            return self._other_or_ask(decision.reason if decision.reason == "cap_reached" else "tries_used_up")
        return decision

    def _ours_to_fix(self) -> bool:
        """What no customer can help must not cost him his subscription."""
        last = self.last
        return last is not None and (
            _class(last) is DeclineClass.CONFIGURATION
            or (last.state == "not_sent" and last.code == "psp_misconfigured")
            or self.s.refused in ("no_psp_account", "psp_account_unavailable")
        )


def _class(said: Charge | None) -> DeclineClass | None:
    if said is None or said.state != "declined":
        return None
    found = DECLINES.get(said.code or "unmapped", DECLINES["unmapped"])
    return found.kind


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def final_at(first_failed: datetime, time_zone: str, plan: DunningPlan) -> datetime:
    """When the plan's final action is due: the same time of day, so many days later, in the subscription's zone."""
    local = first_failed.astimezone(_zone(time_zone)) + timedelta(days=plan.final_day)
    return local.replace(fold=0).astimezone(UTC)


def next_payday(day: date, days: Sequence[int], weekday: int | None) -> date:
    """The first payday on or after a day: one of the days of the month, or the weekday. ``day`` when there is none."""
    found: list[date] = []
    if weekday is not None:
        found.append(day + timedelta(days=(weekday - day.weekday()) % 7))
    for ahead in (0, 1):
        year, month = divmod(day.year * 12 + day.month - 1 + ahead, 12)
        length = calendar.monthrange(year, month + 1)[1]
        found += [date(year, month + 1, min(one, length)) for one in days]
    return min((one for one in found if one >= day), default=day)


def jitter(invoice_id: UUID, day: int, hours: int) -> timedelta:
    """Up to so many hours either way, by a hash of invoice and day."""
    if not hours:
        return timedelta(0)
    drawn = int.from_bytes(hashlib.sha256(b"jitter%d" % day + invoice_id.bytes).digest()[:4], "big")
    return timedelta(seconds=drawn % (2 * hours * 3600 + 1) - hours * 3600)
