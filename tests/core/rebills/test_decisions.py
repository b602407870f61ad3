"""What is decided after each decline, in which order, and when the next try is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from clearspan.payments.caps import Refusal
from clearspan.rebills import plans
from clearspan.rebills.models import (
    REASONS,
    Action,
    Backup,
    Charge,
    Decision,
    Situation,
    decide,
    final_at,
    next_payday,
    sentence,
)
from clearspan.rebills.plans import BUILT_IN, DunningPlan, Payday
from clearspan.sdk import DECLINES

INVOICE, CARD, OTHER = UUID(int=7), UUID(int=8), UUID(int=9)
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
EXACT = DunningPlan(jitter_h=0, payday=None, holdout_bp=0)
DAY = timedelta(days=1)


def charge(code: str, at: datetime = NOW, **more: object) -> Charge:
    """A decline."""
    return msgspec.structs.replace(Charge(state="declined", at=at, payment_method_id=CARD, code=code), **more)


def situation(*tries: Charge, **more: object) -> Situation:
    """A minute after the last of these."""
    first = next((one.at for one in tries if one.state == "declined"), None)
    now = tries[-1].at + timedelta(minutes=1) if tries else NOW
    return msgspec.structs.replace(
        Situation(
            now=now,
            invoice_id=INVOICE,
            time_zone="Europe/Berlin",
            invoice_status="open",
            subscription_status="past_due",
            payment_locked=False,
            due_minor=900,
            payment_method_id=CARD,
            tries=tries,
            first_failed_at=first,
            plan=EXACT,
        ),
        **more,
    )


GOLDEN = {
    "insufficient_funds": ("retry_at", "soft", 24.0),
    "limit_exceeded": ("retry_at", "soft", 24.0),
    "do_not_honor": ("retry_at", "generic", 33.5),  # 20:00 in Berlin, the day after 10:30
    "generic_decline": ("retry_at", "generic", 33.5),
    "issuer_unavailable": ("retry_at", "technical", 1.0),
    "processing_error": ("retry_at", "technical", 1.0),
    "authentication_required": ("ask_customer", "authentication", None),
    "expired_card": ("ask_customer", "needs_customer", None),
    "invalid_number": ("ask_customer", "card_stopped", None),
    "invalid_cvc": ("ask_customer", "needs_customer", None),
    "avs_mismatch": ("ask_customer", "needs_customer", None),
    "lost_card": ("ask_customer", "card_stopped", None),
    "stolen_card": ("ask_customer", "fraud", None),
    "pickup_card": ("ask_customer", "card_stopped", None),
    "closed_account": ("ask_customer", "card_stopped", None),
    "no_such_issuer": ("ask_customer", "card_stopped", None),
    "not_permitted": ("ask_customer", "card_stopped", None),
    "restricted_card": ("retry_at", "restricted", 24.0),
    "blocked_by_holder": ("ask_customer", "needs_customer", None),
    "suspected_fraud": ("ask_customer", "fraud", None),
    "psp_risk_blocked": ("ask_customer", "fraud", None),
    "consent_revoked": ("stop", "consent_revoked", None),
    "invalid_merchant": ("retry_at", "configuration", 24.0),
    "invalid_currency": ("retry_at", "configuration", 24.0),
    "invalid_amount": ("retry_at", "configuration", 24.0),
    "duplicate": ("wait", "duplicate", None),
    "unmapped": ("ask_customer", "unmapped", None),
}


def test_there_is_a_case_for_every_code() -> None:
    assert GOLDEN.keys() == DECLINES.keys()


@pytest.mark.parametrize("code", sorted(GOLDEN))
def test_each_code_has_its_answer(code: str) -> None:
    action, reason, hours = GOLDEN[code]
    found = decide(situation(charge(code)))
    assert (found.action, found.reason) == (action, reason)
    if hours is not None:
        assert found.at == NOW + timedelta(hours=hours)
    told = sentence(found)
    assert code in told
    assert told.endswith("Declined so far: 1.")


@pytest.mark.parametrize(
    ("advice", "hours"),
    [("02", 72), ("24", 20), ("25", 24), ("26", 48), ("27", 96), ("28", 144), ("29", 192), ("30", 240)],
)
def test_the_issuers_time_is_kept_and_never_within_twenty_hours(advice: str, hours: int) -> None:
    found = decide(situation(charge("insufficient_funds", advice=advice)))
    assert (found.reason, found.at) == ("issuer_time", NOW + timedelta(hours=hours))


def test_the_issuers_hour_is_kept_to_the_hour_for_a_technical_decline() -> None:
    assert decide(situation(charge("issuer_unavailable", advice="24"))).at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("advice", "answer"),
    [
        ("03", ("ask_customer", "card_stopped")),
        ("21", ("stop", "consent_revoked")),
        ("42", ("stop", "sanctions")),
        ("01", ("ask_customer", "data_wanted")),
        ("40", ("ask_customer", "data_wanted")),
        ("do_not_try_again", ("ask_customer", "card_stopped")),
        ("confirm_card_data", ("ask_customer", "data_wanted")),
        ("try_again_later", ("retry_at", "soft")),
    ],
)
def test_advice_outranks_the_class_of_the_decline(advice: str, answer: tuple[str, str]) -> None:
    found = decide(situation(charge("insufficient_funds", advice=advice)))
    assert (found.action, found.reason) == answer


STOPPED = Refusal(code="card_stopped", decline_code="lost_card")
CAPPED = Refusal(code="retry_cap_reached", rule="visa_reattempts", again_at=NOW + 5 * DAY)


def test_the_order_of_reasons() -> None:
    """Whatever stands further up wins over all that stands below."""
    everything = {"payment_locked": True, "subscription_status": "canceled", "cap": CAPPED}
    assert decide(situation(charge("consent_revoked"), **everything)).reason == "consent_revoked"
    assert decide(situation(charge("insufficient_funds"), **everything)).reason == "payment_in_progress"
    ended = {"subscription_status": "canceled", "cap": CAPPED}
    assert decide(situation(charge("suspected_fraud"), **ended)).reason == "subscription_ended"
    assert decide(situation(charge("lost_card"), **ended)).action is Action.STOP
    assert decide(situation(charge("suspected_fraud", advice="25"), cap=STOPPED)).reason == "fraud"
    assert decide(situation(charge("insufficient_funds", advice="25"), cap=STOPPED)).reason == "card_stopped"
    capped = decide(situation(charge("insufficient_funds", advice="25"), cap=CAPPED))
    assert (capped.reason, capped.at, capped.rule) == ("cap_reached", NOW + 5 * DAY, "visa_reattempts")
    assert decide(situation(charge("expired_card"), cap=CAPPED)).reason == "needs_customer", "a cap allows nothing"
    late = decide(situation(charge("insufficient_funds", advice="30"), cap=CAPPED))
    assert (late.reason, late.at) == ("issuer_time", NOW + 10 * DAY)


def test_an_open_outcome_is_waited_for_whatever_else_is_known() -> None:
    found = decide(
        situation(
            charge("insufficient_funds"), charge("processing_error", NOW + DAY, state="unknown"), payment_locked=True
        )
    )
    assert (found.action, found.reason) == (Action.WAIT, "outcome_unknown")


def test_technical_declines_are_tried_after_one_six_and_twenty_four_hours_and_then_on_the_days_of_the_plan() -> None:
    tries: list[Charge] = []
    now, waits = NOW, []
    for _ in range(5):
        tries.append(charge("issuer_unavailable", now))
        found = decide(situation(*tries))
        assert found.at is not None
        waits.append((found.reason, round((found.at - now) / timedelta(hours=1))))
        now = found.at
    assert waits[:3] == [("technical", 1), ("technical", 6), ("technical", 24)]
    assert [reason for reason, _ in waits[3:]] == ["soft", "soft"]


def test_soft_declines_follow_the_days_of_the_plan_at_the_hour_of_the_last_success() -> None:
    tries: list[Charge] = []
    success = datetime(2026, 2, 1, 17, 15, tzinfo=UTC)  # 18:15 in Berlin
    now, days = NOW, []
    while True:
        tries.append(charge("limit_exceeded", now))
        found = decide(situation(*tries, last_success_at=success))
        if found.action is not Action.RETRY_AT:
            break
        assert found.at is not None
        now = found.at
        local = now.astimezone(ZoneInfo("Europe/Berlin"))
        assert (local.hour, local.minute) == (18, 15)
        days.append((local.date() - NOW.date()).days)
    assert days == [1, 3, 5, 8, 11, 14]
    assert (found.action, found.reason) == (Action.ASK_CUSTOMER, "tries_used_up")
    assert found.at == NOW + 21 * DAY


def test_the_wall_clock_of_the_customer_counts_across_a_change_of_the_clocks() -> None:
    """Berlin's clocks go forward on 29 March 2026: 10:30 is 09:30 UTC before and 08:30 UTC after."""
    before = datetime(2026, 3, 28, 9, 30, tzinfo=UTC)
    found = decide(situation(charge("limit_exceeded", before)))
    assert found.at == before + 3 * DAY - timedelta(hours=1), (
        "the next day would be 23 hours later: a daily limit wants 24"
    )
    assert decide(situation(charge("insufficient_funds", before))).at == before + DAY - timedelta(hours=1)
    assert final_at(before, "Europe/Berlin", EXACT) == before + 21 * DAY - timedelta(hours=1)


@pytest.mark.parametrize(("funding", "day"), [("debit", 6), ("prepaid", 6), ("credit", 3), ("unknown", 3)])
def test_lack_of_money_on_debit_waits_for_the_next_payday(funding: str, day: int) -> None:
    """2 March 2026 is a Monday; Friday is the 6th."""
    plan = msgspec.structs.replace(EXACT, payday=Payday())
    found = decide(situation(charge("insufficient_funds"), funding=funding, plan=plan))
    assert found.at is not None
    assert found.at.day == day


@pytest.mark.parametrize(
    ("day", "days", "weekday", "after"),
    [
        ("2026-03-03", (1, 15, 25), None, "2026-03-15"),
        ("2026-03-15", (1, 15, 25), None, "2026-03-15"),
        ("2026-03-26", (1, 15, 25), None, "2026-04-01"),
        ("2026-02-10", (31,), None, "2026-02-28"),
        ("2026-12-27", (25,), None, "2027-01-25"),
        ("2026-03-03", (1, 15), 4, "2026-03-06"),
        ("2026-03-03", (), None, "2026-03-03"),
    ],
)
def test_the_next_payday(day: str, days: tuple[int, ...], weekday: int | None, after: str) -> None:
    found = next_payday(datetime.fromisoformat(day).date(), days, weekday)
    assert found.isoformat() == after


def test_without_a_reason_there_are_three_tries_at_other_times_of_the_day() -> None:
    tries, hours = [], []
    now = NOW
    for _ in range(3):
        tries.append(charge("do_not_honor", now))
        found = decide(situation(*tries))
        if found.action is not Action.RETRY_AT:
            break
        assert found.at is not None
        now = found.at
        hours.append(now.astimezone(ZoneInfo("Europe/Berlin")).hour)
    assert len(tries) == 3
    assert (found.action, found.reason) == (Action.ASK_CUSTOMER, "tries_used_up")
    assert len({10, *hours}) == 3, hours


def test_a_restricted_card_is_tried_twice() -> None:
    found = decide(situation(charge("restricted_card"), charge("restricted_card", NOW + DAY)))
    assert (found.action, found.reason) == (Action.ASK_CUSTOMER, "tries_used_up")


def test_jitter_is_the_same_each_time_within_its_bounds_and_spreads() -> None:
    plan = msgspec.structs.replace(EXACT, jitter_h=2)
    moved = set()
    for number in range(200):
        asked = situation(charge("limit_exceeded"), plan=plan, invoice_id=UUID(int=number))
        first, second = decide(asked), decide(asked)
        assert first == second
        assert first.at is not None
        gap = first.at - NOW
        assert timedelta(hours=22) <= gap <= timedelta(days=3, hours=2)
        moved.add(first.at)
    assert len(moved) > 150


def test_what_was_not_sent_is_tried_again_in_minutes_that_double() -> None:
    tries: list[Charge] = []
    waits = []
    for code in (
        "psp_circuit_open",
        "psp_busy",
        "psp_unavailable",
        "psp_unavailable",
        "psp_unavailable",
        "psp_unavailable",
    ):
        tries.append(charge(code, NOW + timedelta(hours=len(tries)), state="not_sent"))
        found = decide(situation(*tries))
        assert (found.reason, found.tries) == ("not_sent", 0)
        assert found.at is not None
        waits.append((found.at - tries[-1].at) // timedelta(minutes=1))
    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_decision_at_its_own_time_says_now() -> None:
    first = decide(situation(charge("insufficient_funds")))
    assert first.at is not None
    again = decide(situation(charge("insufficient_funds"), now=first.at + timedelta(hours=3)))
    assert (again.action, again.at) == (Action.RETRY_AT, first.at + timedelta(hours=3))


@pytest.mark.parametrize("code", ["expired_card", "lost_card", "insufficient_funds"])
def test_a_backup_is_charged_when_the_card_is_of_no_use_any_more(code: str) -> None:
    backup = Backup(payment_method_id=OTHER, mandate_id=UUID(int=1))
    tries = [charge(code, NOW + day * DAY) for day in ((0,) if code != "insufficient_funds" else range(7))]
    found = decide(situation(*tries, backups=(backup,)))
    assert (found.action, found.backup) == (Action.OTHER_METHOD, backup)
    plan = msgspec.structs.replace(EXACT, other_method=False)
    assert decide(situation(*tries, backups=(backup,), plan=plan)).action is Action.ASK_CUSTOMER


@pytest.mark.parametrize("code", ["suspected_fraud", "authentication_required", "unmapped", "consent_revoked"])
def test_a_backup_is_not_charged_after_fraud_or_where_only_the_customer_can_help(code: str) -> None:
    backup = Backup(payment_method_id=OTHER, mandate_id=UUID(int=1))
    assert decide(situation(charge(code), backups=(backup,))).action is not Action.OTHER_METHOD


def test_a_new_payment_method_is_charged_at_once_whatever_the_old_one_was_told() -> None:
    found = decide(situation(charge("lost_card"), payment_method_id=OTHER))
    assert (found.action, found.reason) == (Action.RETRY_AT, "new_method")


def test_the_last_day_brings_the_final_action_but_not_for_what_no_customer_can_help() -> None:
    late = NOW + 22 * DAY
    assert decide(situation(charge("insufficient_funds"), now=late)).action is Action.FINAL
    assert decide(situation(charge("insufficient_funds"), now=late)).final_action == "cancel"
    assert decide(situation(charge("lost_card"), now=late)).action is Action.FINAL
    assert decide(situation(charge("invalid_merchant"), now=late)).action is not Action.FINAL
    assert decide(situation(charge("duplicate"), now=late)).reason == "duplicate_unresolved"


def test_no_retry_comes_on_or_after_the_last_day() -> None:
    first, last = charge("insufficient_funds"), charge("insufficient_funds", NOW + 14 * DAY, advice="30")
    assert decide(situation(first, last)).action is Action.ASK_CUSTOMER


def test_the_control_group_goes_by_its_own_days_without_any_cleverness() -> None:
    found = decide(situation(charge("insufficient_funds"), funding="debit", plan=BUILT_IN, held_out=True))
    assert found.at == NOW + 7 * DAY
    assert decide(situation(charge("lost_card"), plan=BUILT_IN, held_out=True)).reason == "card_stopped"


def test_one_in_ten_invoices_is_held_out_and_always_the_same() -> None:
    chosen = [plans.held_out(BUILT_IN, UUID(int=number)) for number in range(10_000)]
    assert 900 < sum(chosen) < 1100
    assert chosen[:100] == [plans.held_out(BUILT_IN, UUID(int=number)) for number in range(100)]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_a_sentence(reason: str) -> None:
    for action in Action:
        told = sentence(Decision(action=action, reason=reason, at=NOW, final_action="pause"))
        assert told.startswith(REASONS[reason])
        assert told.endswith(".")


@pytest.mark.parametrize(
    ("plan", "path"),
    [
        (DunningPlan(soft_days=(3, 1)), "$.plan.soft_days"),
        (DunningPlan(soft_days=(1, 21)), "$.plan.soft_days"),
        (DunningPlan(control_days=(7, 7)), "$.plan.control_days"),
        (DunningPlan(reminder_days=(0, 30)), "$.plan.reminder_days"),
        (DunningPlan(technical_h=(6, 1)), "$.plan.technical_h"),
        (DunningPlan(payday=Payday(days=(), weekday=None)), "$.plan.payday"),
        (DunningPlan(payday=Payday(days=(25, 1))), "$.plan.payday.days"),
        (DunningPlan(grace_days=30), "$.plan.grace_days"),
    ],
)
def test_a_plan_that_contradicts_itself_is_told_where(plan: DunningPlan, path: str) -> None:
    assert [found for found, _ in plans.problems(plan)] == [path]


def test_the_plan_that_comes_with_clearspan_is_a_good_one() -> None:
    assert list(plans.problems(BUILT_IN)) == []
