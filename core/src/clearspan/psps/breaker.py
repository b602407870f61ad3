"""Circuit breakers and bulkheads: a PSP that fails or hangs is not called for a while, and never by too many at once.

One ``Guard`` per PSP account holds one ``Circuit`` per group of verbs (``GROUPS``), because a PSP whose refunds are down may
charge all the same. All of it is memory of one process: each finds out for itself, and nothing is shared that could fail.

A refused call was never made, so its operation is ``not_sent``, definitely. What decides about operations that were sent
(recovery's lookups, and sending the same key again) must never stop: it passes an open circuit, one call per account every
``breaker_recovery_probe_s``.

docs/architecture.md says why no library does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from clearspan.platform import clock
from clearspan.settings import PspSettings

GROUPS: Mapping[str, str] = {
    "create_intent": "charge",
    "continue_intent": "continue",
    "capture": "capture",
    "cancel": "void",
    "refund": "refund",
    "retrieve": "lookup",
}
"""An adapter's verb -> the group whose calls succeed and fail together. Another verb is a group of its own."""
RETRY_AFTER_MAX_S = 600.0
"""A PSP may ask for a longer rest; then it is asked again whether it means it."""


class State(StrEnum):
    """Whether calls go out: all, none, or a few to try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Change(StrEnum):
    """What an ended call did to its circuit, for people: opened again after a try is no news."""

    OPENED = "opened"
    CLOSED = "closed"


class Admitted(msgspec.Struct, frozen=True):
    """A call that may go out.

    Attributes:
        group: of its verb.
        era: of the circuit; what a call of an earlier era brings says nothing about this one.
        on_trial: it is one of those by which a half-open circuit decides.
    """

    group: str
    era: int
    on_trial: bool


class CallRefused(Exception):
    """A call that is not made.

    Attributes:
        code: ``psp_circuit_open`` or ``psp_busy``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Circuit:
    """Opens when enough of the newest calls failed, and closes when a try succeeds.

    Args:
        group: the verbs it stands for.
        rules: when to do what.
    """

    def __init__(self, group: str, rules: PspSettings) -> None:
        self._group = group
        self._rules = rules
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=rules.breaker_sample)
        self._era = 0
        self._closed = True
        self._opens_up_at = 0.0
        self._not_before = 0.0
        self._trials = 0
        self._proofs = 0
        self._offered_until = 0.0

    @property
    def state(self) -> State:
        """Now."""
        if self._closed:
            return State.CLOSED
        return State.HALF_OPEN if clock.monotonic() >= max(self._opens_up_at, self._not_before) else State.OPEN

    @property
    def failures(self) -> int:
        """How many of the calls looked at failed."""
        return sum(failed for _, failed in self._outcomes)

    @property
    def calls(self) -> int:
        """How many calls are looked at."""
        return len(self._outcomes)

    def admits(self) -> bool:
        """Whether a new call would go out."""
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and self._trials < self._rules.breaker_probes)

    def offers(self) -> bool:
        """As ``admits``, but a half-open circuit says yes to one asker a second: not all can have the one try."""
        if not self.admits():
            return False
        if self._closed:
            return True
        now = clock.monotonic()
        if now < self._offered_until:
            return False
        self._offered_until = now + 1
        return True

    def take(self, *, passing: bool) -> Admitted:
        """Count a call in that is about to be made; ``passing`` ones go through whatever the state is."""
        on_trial = not self._closed and not passing
        self._trials += on_trial
        return Admitted(self._group, self._era, on_trial)

    def end(self, call: Admitted, failed: bool | None, retry_after_s: float | None) -> Change | None:
        """Take in how a call went.

        Args:
            call: from ``take``.
            failed: ``None`` when it was cut off by ourselves, which tells nothing.
            retry_after_s: how long the PSP asked to be left alone.
        """
        now = clock.monotonic()
        if retry_after_s is not None:
            self._not_before = max(self._not_before, now + min(retry_after_s, RETRY_AFTER_MAX_S))
        if call.era != self._era:
            return None
        if not self._closed:
            return self._tried(call, failed, now)
        if failed is None:
            return None
        self._outcomes.append((now, failed))
        while self._outcomes[0][0] <= now - self._rules.breaker_window_s:
            self._outcomes.popleft()
        enough = self.calls >= self._rules.breaker_calls_min
        if failed and enough and self.failures >= self._rules.breaker_failure_share * self.calls:
            self._open(now)
            return Change.OPENED
        return None

    def _tried(self, call: Admitted, failed: bool | None, now: float) -> Change | None:
        if failed is None:
            self._trials -= call.on_trial
        elif failed:
            # A passing call may be one that always fails; it must not keep the circuit open for ever.
            if call.on_trial:
                self._open(now)
        else:
            self._proofs += 1
            if self._proofs >= self._rules.breaker_probes:
                self._closed = True
                self._begin_era()
                self._outcomes.clear()
                self._not_before = 0.0
                return Change.CLOSED
        return None

    def _open(self, now: float) -> None:
        self._closed = False
        self._opens_up_at = now + self._rules.breaker_open_s
        self._begin_era()

    def _begin_era(self) -> None:
        self._era += 1
        self._trials = self._proofs = 0
        self._offered_until = 0.0


class Guard:
    """Stands before every call to one PSP account.

    Args:
        rules: of this installation.
        changed: told of every circuit that is new or may have changed its state: its group, itself, and the news if it is any.
    """

    def __init__(self, rules: PspSettings, changed: Callable[[str, Circuit, Change | None], None]) -> None:
        self._rules = rules
        self._changed = changed
        self._circuits: dict[str, Circuit] = {}
        self._under_way = 0
        self._passed_at: float | None = None

    def circuit(self, verb: str) -> Circuit:
        """The circuit that a verb belongs to."""
        group = GROUPS.get(verb, verb)
        if group not in self._circuits:
            self._circuits[group] = Circuit(group, self._rules)
            self._changed(group, self._circuits[group], None)
        return self._circuits[group]

    def begin(self, verb: str, *, recovering: bool) -> Admitted:
        """Say before a call that it is made; ``end`` must follow.

        Args:
            verb: of the adapter.
            recovering: it finds out about an operation that was sent.

        Raises:
            CallRefused: it must not be made.
        """
        circuit = self.circuit(verb)
        passing = recovering and circuit.state is not State.CLOSED
        if not (self._may_pass() if passing else circuit.admits()):
            raise CallRefused("psp_circuit_open", "Not sent: most of the latest calls to this PSP account failed.")
        if self._under_way >= self._rules.calls_max:
            raise CallRefused("psp_busy", f"Not sent: {self._under_way} calls to this PSP account are under way.")
        if passing:
            self._passed_at = clock.monotonic()
        self._under_way += 1
        before = circuit.state
        call = circuit.take(passing=passing)
        if before is not State.CLOSED:
            self._changed(call.group, circuit, None)
        return call

    def end(self, call: Admitted, failed: bool | None, retry_after_s: float | None = None) -> None:
        """Say how a call went; ``failed`` is ``None`` when we cut it off ourselves."""
        self._under_way -= 1
        circuit = self._circuits[call.group]
        before = circuit.state
        change = circuit.end(call, failed, retry_after_s)
        if change is not None or circuit.state is not before:
            self._changed(call.group, circuit, change)

    def looks_at_once(self, most: int) -> int:
        """How many operations of this account recovery may ask about now, at most ``most``."""
        if self.circuit("retrieve").state is State.CLOSED:
            return min(most, self._rules.calls_max)
        return min(most, int(self._may_pass()))

    def health(self) -> dict[str, State]:
        """Each group's state."""
        return {group: self.circuit(verb).state for verb, group in GROUPS.items()}

    def _may_pass(self) -> bool:
        interval = self._rules.breaker_recovery_probe_s
        return self._passed_at is None or clock.monotonic() - self._passed_at >= interval
