"""The faults: what the simulator can do wrong, and which request or message meets which.

A fault comes by chance (``PUT /v1/faults``: a rate for each), by script (``POST /v1/faults/scripts``: the next matching request),
or with the payment (metadata ``sandbox_fault``: ``"F3 delay_s=5"``, several with ``;`` between them). Chance is a function of the
account's seed and of how many requests were looked at, so the same requests meet the same faults again. ``TABLE`` is the
reference: what each does, whom it meets, and its options with their defaults; a list is what the seed draws from.
The defaults keep the promises that the adapter states in its facts; an option may break them, and F13 always does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from clearspan_psp_sandbox.bank import RuleBroken

Value = bool | int | float | str
Verb = Literal["charge", "continue", "capture", "void", "refund", "lookup"]
METADATA_KEY = "sandbox_fault"

_CHANGES = frozenset({"charge", "continue", "capture", "void", "refund"})
_ALL = _CHANGES | {"lookup", "activity"}
_MESSAGES = frozenset({"message"})


class Cut(Exception):
    """In process, raised instead of an answer: the connection ends here.

    Attributes:
        when: ``before`` the request was taken in, ``during`` (taken in, nothing booked) or ``after`` (it is booked).
    """

    def __init__(self, when: Literal["before", "during", "after"]) -> None:
        super().__init__(f"cut {when} the request")
        self.when = when


class Kind(msgspec.Struct, frozen=True):
    """A row of the table.

    Attributes:
        does: for people.
        meets: verbs, or ``message``.
        options: name -> default; a tuple is what is drawn from.
    """

    does: str
    meets: frozenset[str]
    options: Mapping[str, Value | tuple[Value, ...]] = {}


TABLE: dict[str, Kind] = {
    "F1": Kind("books, hangs `hang_s`, then resets without an answer", _ALL, {"hang_s": 60.0}),
    "F2": Kind("books nothing, hangs `hang_s`, then resets", _ALL, {"hang_s": 60.0}),
    "F3": Kind(
        "books `delay_s` later, hangs `hang_s`, then resets; until it books, the key is in flight and a lookup finds nothing",
        _CHANGES,
        {"delay_s": 5.0, "hang_s": 60.0},
    ),
    "F4": Kind("answers a 5xx, `booked` or not", _ALL, {"status": (500, 502, 503, 504), "booked": (True, False)}),
    "F5": Kind(
        "resets the connection: `before` or `during` (nothing booked), `after` (booked), `half` an answer (booked)",
        _ALL,
        {"when": ("before", "during", "after", "half")},
    ),
    "F6": Kind(
        "books, and answers one byte each `interval_s` (drip), `size` bytes (large, gzip_bomb) or without end (endless)",
        _ALL,
        {"kind": ("drip", "large", "gzip_bomb", "endless"), "interval_s": 1.0, "size": 100_000_000},
    ),
    "F7": Kind(
        "books, and answers what is no proper answer",
        _ALL,
        {"kind": ("html", "empty", "truncated", "wrong_type", "nan", "duplicate_keys", "unknown_status", "list")},
    ),
    "F8": Kind(
        "books, and answers with a wrong field or with another object",
        _CHANGES | {"lookup"},
        {"kind": ("amount", "currency", "reference", "object", "account")},
    ),
    "F9": Kind(
        "contradicts itself: a later message says declined (webhook_failed), the answer says declined what is booked"
        " (response_declined), a declined charge succeeds `delay_s` later (late_success; others as webhook_failed),"
        " a lookup says declined (lookup_flips)",
        _CHANGES | {"lookup"},
        {"kind": ("webhook_failed", "response_declined", "late_success"), "delay_s": 5.0},
    ),
    "F10": Kind(
        "answers 429 with `Retry-After` (0: without), before the key is looked at or after (`checked`: a known key is answered)",
        _ALL,
        {"retry_after_s": 1, "checked": (True, False)},
    ),
    "F11": Kind(
        "an endpoint (`verb`, or all) is down: 503 after `hang_s`; or slow: everything happens `hang_s` late (brown_out)",
        _ALL,
        {"verb": "", "kind": "down", "hang_s": 0.0},
    ),
    "F12": Kind(
        "lookups of what changed in the last `lag_s` show nothing (lag), now and then nothing (flapping), the state before"
        " (stale); or give every operation a page of its own, the first one empty (pages)",
        frozenset({"lookup"}),
        {"kind": ("lag", "flapping", "stale", "pages"), "lag_s": 0.8},
    ),
    "F13": Kind(
        "breaks the word on keys: forgets them after `window_s` (short_window), ignores them (ignored), answers another payload"
        " as if it were the first (other_payload), answers 409 for ever (conflict)",
        _CHANGES,
        {"kind": ("short_window", "ignored", "other_payload", "conflict"), "window_s": 1.0},
    ),
    "F14": Kind(
        "a refund succeeds and fails `delay_s` later; a capture or void comes when the authorisation has just lapsed",
        frozenset({"refund", "capture", "void"}),
        {"delay_s": 5.0},
    ),
    "F15": Kind(
        "the charge is disputed (dispute) or taken back (return) `delay_s` later",
        frozenset({"charge"}),
        {"kind": ("dispute", "return"), "delay_s": 60.0},
    ),
    "W1": Kind(
        "the message comes `times` more, one by one or in `parallel`", _MESSAGES, {"times": 1, "parallel": False}
    ),
    "W2": Kind("the message is held back up to `hold_s`, so that others overtake it", _MESSAGES, {"hold_s": 5.0}),
    "W3": Kind("the message comes before the answer", _MESSAGES),
    "W4": Kind(
        "the message comes first with a bad signature (the last two are good ones), then properly",
        _MESSAGES,
        {"kind": ("wrong", "missing", "other_account", "old", "future", "reserialised", "rotated", "two_one_valid")},
    ),
    "W5": Kind("the message comes to `url` too", _MESSAGES, {"url": ""}),
    "W6": Kind("the message never comes", _MESSAGES),
}


class Fault(msgspec.Struct, frozen=True):
    """One fault that is to happen; what is left open is drawn from ``draw``."""

    id: str
    options: dict[str, Value]
    draw: str

    def number(self, name: str) -> float:
        """A number's option."""
        return float(self._option(name))

    def word(self, name: str) -> str:
        """A word's option."""
        return str(self._option(name))

    def flag(self, name: str) -> bool:
        """A yes or no."""
        return bool(self._option(name))

    def chance(self, name: str) -> float:
        """From 0 to below 1, the same for this fault and name."""
        return _chance(f"{self.draw}/{name}")

    def _option(self, name: str) -> Value:
        default = TABLE[self.id].options[name]
        if name in self.options:
            return self.options[name]
        return default[int(self.chance(name) * len(default))] if isinstance(default, tuple) else default


class Script(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/faults/scripts``: after ``skip`` matching requests or messages, the next ``times`` meet the fault.

    ``reference`` and ``amount`` are those of the request's operation (with ``continue`` and ``lookup``: of the one meant); of a
    message, ``verb`` is the operation's kind.
    """

    fault: str
    verb: Verb | None = None
    reference: str | None = None
    amount: int | None = None
    times: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    skip: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    options: dict[str, Value] = msgspec.field(default_factory=dict)


class Rates(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``PUT /v1/faults``; an empty one ends all faults, scripts too."""

    seed: int = 0
    rates: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]] = msgspec.field(default_factory=dict)
    options: dict[str, dict[str, Value]] = msgspec.field(default_factory=dict)


class State(msgspec.Struct, omit_defaults=True):
    """An account's faults, as the book keeps them.

    Attributes:
        injected: fault -> how often it happened.
        drawn: how many requests and messages were looked at since the rates were set.
        rehearsed: references of charges whose metadata was read.
    """

    chance: Rates = msgspec.field(default_factory=Rates)
    scripts: list[Script] = msgspec.field(default_factory=list)
    injected: dict[str, int] = msgspec.field(default_factory=dict)
    drawn: int = 0
    rehearsed: list[str] = msgspec.field(default_factory=list)


class Faults:
    """Of all accounts.

    Attributes:
        changed: accounts whose state the book does not have yet.
    """

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self.changed: set[str] = set()

    def restore(self, account: str, state: State) -> None:
        """As the book has it."""
        self._states[account] = state

    def state(self, account: str) -> State:
        """An account's faults."""
        return self._states.get(account) or State()

    def set_rates(self, account: str, rates: Rates) -> None:
        """Replace the faults by chance.

        Raises:
            RuleBroken: unknown_fault, unknown_option.
        """
        for fault in {*rates.rates, *rates.options}:
            check(fault, rates.options.get(fault, {}))
        state = self._own(account)
        state.scripts = state.scripts if rates != Rates() else []
        state.chance, state.drawn = rates, 0

    def add(self, account: str, script: Script) -> None:
        """Let something happen.

        Raises:
            RuleBroken: unknown_fault, unknown_option.
        """
        check(script.fault, script.options)
        self._own(account).scripts.append(script)

    def rehearse(self, account: str, reference: str, metadata: Mapping[str, str]) -> None:
        """Turn a charge's metadata into scripts, once.

        Raises:
            RuleBroken: unknown_fault, unknown_option.
        """
        text = metadata.get(METADATA_KEY)
        if not text or reference in self.state(account).rehearsed:
            return
        scripts = [_script(part, reference) for part in text.split(";")]
        for script in scripts:
            check(script.fault, script.options)
        self._own(account).scripts.extend(scripts)
        self._own(account).rehearsed.append(reference)

    def meet(self, account: str, verb: str, reference: str, amount: int | None) -> Fault | None:
        """The fault that this request meets, if any."""
        return self._meet(account, verb, verb, reference, amount) if account in self._states else None

    def meet_message(self, account: str, kind: str, reference: str, amount: int) -> Fault | None:
        """The fault that this message meets, if any."""
        return self._meet(account, "message", kind, reference, amount) if account in self._states else None

    def _meet(self, account: str, met: str, verb: str, reference: str, amount: int | None) -> Fault | None:
        state = self._states[account]
        fault = self._scripted(state, account, met, verb, reference, amount) or self._by_chance(state, account, met)
        if fault is not None:
            state.injected[fault.id] = state.injected.get(fault.id, 0) + 1
            self.changed.add(account)
        return fault

    def _scripted(
        self, state: State, account: str, met: str, verb: str, reference: str, amount: int | None
    ) -> Fault | None:
        for script in state.scripts:
            wanted = (script.verb or verb, script.reference or reference, script.amount or amount)
            if met not in TABLE[script.fault].meets or wanted != (verb, reference, amount):
                continue
            self.changed.add(account)
            if script.skip:
                script.skip -= 1
                continue
            script.times -= 1
            if script.times == 0:
                state.scripts.remove(script)
            happened = state.injected.get(script.fault, 0)
            return Fault(script.fault, script.options, f"{state.chance.seed}/{account}/{script.fault}/{happened}")
        return None

    def _by_chance(self, state: State, account: str, met: str) -> Fault | None:
        if not state.chance.rates:
            return None
        draw = f"{state.chance.seed}/{account}/{state.drawn}"
        state.drawn += 1
        left = _chance(draw)
        for fault, kind in TABLE.items():
            options = state.chance.options.get(fault, {})
            if met in kind.meets and options.get("verb") in (None, "", met):
                left -= state.chance.rates.get(fault, 0.0)
                if left < 0:
                    return Fault(fault, options, draw)
        return None

    def _own(self, account: str) -> State:
        self.changed.add(account)
        return self._states.setdefault(account, State())


def check(fault: str, options: Mapping[str, Any]) -> None:
    """Whether the table knows them.

    Raises:
        RuleBroken: unknown_fault, unknown_option.
    """
    if fault not in TABLE:
        raise RuleBroken(400, "unknown_fault", f"The faults are {', '.join(TABLE)}.")
    for name, value in options.items():
        if name not in (known := TABLE[fault].options):
            raise RuleBroken(400, "unknown_option", f"The options of {fault}: {', '.join(known) or 'none'}.")
        default = known[name]
        example = default[0] if isinstance(default, tuple) else default
        if isinstance(example, str) is not isinstance(value, str):
            raise RuleBroken(400, "unknown_option", f"{fault} {name} is like {example!r}.")
        words = (
            (*default, *_ALSO.get((fault, name), ())) if isinstance(default, tuple) else _ALSO.get((fault, name), ())
        )
        if isinstance(example, str) and words and value not in words:
            raise RuleBroken(400, "unknown_option", f"{fault} {name} is one of {', '.join(map(str, words))}.")


_ALSO: dict[tuple[str, str], tuple[str, ...]] = {
    ("F9", "kind"): ("lookup_flips",),
    ("F11", "kind"): ("down", "brown_out"),
    ("F11", "verb"): ("", *sorted(_ALL)),
}
"""Words that are never drawn."""


def _script(text: str, reference: str) -> Script:
    fault, *pairs = text.split() or [""]
    options: dict[str, Value] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        options[name] = _value(value)
    times = options.pop("times", 1) if fault != "W1" else 1
    return Script(
        fault, reference=reference, times=max(1, int(times)) if isinstance(times, int) else 1, options=options
    )


def _value(text: str) -> Value:
    try:
        return msgspec.convert(msgspec.json.decode(text), bool | int | float)
    except msgspec.MsgspecError:
        return text


def _chance(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
