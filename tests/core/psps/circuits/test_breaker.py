"""The breaker as a machine: it opens for reason only, lets through what may pass while it is open, and closes again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.core.psps.circuits.conftest import RULES

from clearspan.platform import clock
from clearspan.psps.breaker import RETRY_AFTER_MAX_S, Admitted, CallRefused, Change, Circuit, Guard, State

CHARGE = "create_intent"


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Machine(RuleBasedStateMachine):
    """Calls begin and end in any order, times pass, and everything is held against what was really seen."""

    def __init__(self) -> None:
        super().__init__()
        self.hands = Hands()
        self.real = clock.use(self.hands)  # type: ignore[arg-type]  # nothing else is asked of it
        self.rules = msgspec.structs.replace(RULES, calls_max=6, breaker_probes=2)
        self.news: list[Change] = []
        self.guard = Guard(self.rules, self.changed)
        self.under_way: list[tuple[Admitted, bool]] = []
        self.seen: list[tuple[float, bool]] = []
        self.closed = True
        self.trials = 0
        self.passed: list[float] = []

    def teardown(self) -> None:
        clock.use(self.real)

    def changed(self, group: str, _: Circuit, change: Change | None) -> None:
        assert group == "charge"
        if change is not None:
            self.news.append(change)

    @property
    def state(self) -> State:
        return self.guard.circuit(CHARGE).state

    @rule(recovering=st.booleans())
    def call(self, *, recovering: bool) -> None:
        state, full = self.state, len(self.under_way) >= self.rules.calls_max
        try:
            admitted = self.guard.begin(CHARGE, recovering=recovering)
        except CallRefused as refused:
            if refused.code == "psp_busy":
                assert full
            elif recovering:
                assert self.passed, "the first one passes"
                assert self.hands.at - self.passed[-1] < self.rules.breaker_recovery_probe_s
            else:
                assert state is State.OPEN or self.trials >= self.rules.breaker_probes
            return
        assert not full
        if state is not State.CLOSED and recovering:
            assert not self.passed or self.hands.at - self.passed[-1] >= self.rules.breaker_recovery_probe_s
            self.passed.append(self.hands.at)
        elif state is not State.CLOSED:
            assert state is State.HALF_OPEN, "an open one lets no new call through"
            self.trials += 1
            assert self.trials <= self.rules.breaker_probes
        self.under_way.append((admitted, admitted.on_trial))

    @precondition(lambda self: self.under_way)
    @rule(failed=st.sampled_from([True, True, False, None]), which=st.integers(0, 5))
    def end(self, *, failed: bool | None, which: int) -> None:
        admitted, on_trial = self.under_way.pop(which % len(self.under_way))
        era_before, news_before = self.guard.circuit(CHARGE)._era, len(self.news)
        current = admitted.era == era_before
        self.guard.end(admitted, failed)
        if self.closed and current and failed is not None:
            self.seen.append((self.hands.at, failed))
            counted = [(at, bad) for at, bad in self.seen if at > self.hands.at - self.rules.breaker_window_s]
            newest = [bad for _, bad in counted[-self.rules.breaker_sample :]]
            due = failed and len(newest) >= self.rules.breaker_calls_min and sum(newest) * 2 >= len(newest)
            assert (self.news[news_before:] == [Change.OPENED]) is due
            self.closed = not due
        elif self.closed or not current:
            assert len(self.news) == news_before, "what began before the last change decides nothing"
        elif on_trial and failed is None:
            self.trials -= 1
        elif on_trial and failed:
            assert self.state is State.OPEN, "a trial that fails opens it again, silently"
            assert len(self.news) == news_before
        elif self.news[news_before:]:
            assert self.news[news_before:] == [Change.CLOSED]
            assert failed is False
            self.closed, self.seen = True, []
        if self.guard.circuit(CHARGE)._era != era_before:
            self.trials = 0

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.hands.at += seconds

    @invariant()
    def news_alternate(self) -> None:
        assert self.news == [Change.OPENED, Change.CLOSED] * (len(self.news) // 2) + [Change.OPENED] * (
            len(self.news) % 2
        )
        assert (self.state is State.CLOSED) is self.closed


Machine.TestCase.settings = how(max_examples=150, stateful_step_count=60, deadline=None)
test_whatever_happens_it_opens_for_reason_and_lets_through_what_it_says = Machine.TestCase


@pytest.fixture
def hands() -> Any:
    """Time, moved by hand."""
    hands = Hands()
    real = clock.use(hands)  # type: ignore[arg-type]  # nothing else is asked of it
    yield hands
    clock.use(real)


def made(**rules: Any) -> tuple[Guard, list[Change]]:
    news: list[Change] = []
    return Guard(msgspec.structs.replace(RULES, **rules), lambda *told: news.append(told[2]) if told[2] else None), news


def ended(guard: Guard, *, failed: bool | None, verb: str = CHARGE, retry_after_s: float | None = None) -> None:
    guard.end(guard.begin(verb, recovering=False), failed, retry_after_s)


def refused(guard: Guard, *, recovering: bool = False) -> bool:
    try:
        guard.end(guard.begin(CHARGE, recovering=recovering), None)
    except CallRefused:
        return True
    return False


def test_it_closes_after_a_trial_that_succeeds_and_starts_counting_afresh(hands: Hands) -> None:
    guard, news = made()
    for _ in range(4):
        ended(guard, failed=True)
    assert refused(guard)
    hands.at += 30
    ended(guard, failed=False)
    assert (guard.circuit(CHARGE).state, news) == (State.CLOSED, [Change.OPENED, Change.CLOSED])
    for _ in range(3):
        ended(guard, failed=True)
    assert not refused(guard)


def test_minutes_of_success_do_not_hide_a_failure_of_seconds(hands: Hands) -> None:
    guard, _ = made()
    for _ in range(10_000):
        ended(guard, failed=False)
    for _ in range(5):
        assert not refused(guard)
        ended(guard, failed=True)
    assert refused(guard)


def test_verbs_fail_apart(hands: Hands) -> None:
    guard, _ = made()
    for _ in range(4):
        ended(guard, failed=True, verb="refund")
    assert guard.health() == dict.fromkeys(guard.health(), State.CLOSED) | {"refund": State.OPEN}
    assert not refused(guard)


@pytest.mark.parametrize(("asked_s", "rests_s"), [(None, 30), (5, 30), (120, 120), (1e9, RETRY_AFTER_MAX_S)])
def test_it_stays_open_for_as_long_as_the_psp_asks_within_bounds(
    hands: Hands, asked_s: float | None, rests_s: float
) -> None:
    guard, _ = made()
    for _ in range(4):
        ended(guard, failed=True, retry_after_s=asked_s)
    hands.at += rests_s - 0.1
    assert refused(guard)
    hands.at += 0.1
    assert not refused(guard)


def test_a_recovery_that_always_fails_does_not_keep_it_open_for_ever(hands: Hands) -> None:
    guard, _ = made()
    for _ in range(4):
        ended(guard, failed=True)
    for _ in range(3):
        hands.at += 10
        guard.end(guard.begin(CHARGE, recovering=True), failed=True)
    assert not refused(guard)


def test_a_recovery_that_succeeds_closes_it_at_once(hands: Hands) -> None:
    guard, news = made()
    for _ in range(4):
        ended(guard, failed=True)
    guard.end(guard.begin(CHARGE, recovering=True), failed=False)
    assert not refused(guard)
    assert news == [Change.OPENED, Change.CLOSED]


def test_calls_that_began_before_it_opened_decide_nothing_when_they_end(hands: Hands) -> None:
    guard, news = made()
    slow = [guard.begin(CHARGE, recovering=False) for _ in range(5)]
    for _ in range(4):
        ended(guard, failed=True)
    hands.at += 30
    trial = guard.begin(CHARGE, recovering=False)
    guard.end(slow.pop(), failed=False)
    assert guard.circuit(CHARGE).state is State.HALF_OPEN
    guard.end(slow.pop(), failed=True)
    assert guard.circuit(CHARGE).state is State.HALF_OPEN
    guard.end(trial, failed=False)
    for call in slow:
        guard.end(call, failed=True)
    assert news == [Change.OPENED, Change.CLOSED]


def test_one_asker_a_second_is_offered_the_trial(hands: Hands) -> None:
    guard, _ = made()
    for _ in range(4):
        ended(guard, failed=True)
    circuit = guard.circuit(CHARGE)
    assert not circuit.offers()
    hands.at += 30
    assert [circuit.offers() for _ in range(3)] == [True, False, False]
    hands.at += 1
    assert circuit.offers()
