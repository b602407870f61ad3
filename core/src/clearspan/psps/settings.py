"""Whether the settings of a PSP account work: as written, as changed, and as the PSP sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from clearspan.platform import clock
from clearspan.platform.pan import mask_pan
from clearspan.platform.problems import InvalidRequest
from clearspan.psps.breaker import GROUPS
from clearspan.sdk import PspAdapter, PspFacts, PspMisconfigured

TELL_AGAIN_S = 3_600.0
"""The same account is told about once an hour: a PSP that refuses everything would fill the journal."""
log = structlog.get_logger("clearspan.psps")


def check(kind: type[PspAdapter], config: Mapping[str, Any], *, live: bool) -> None:
    """Refuse settings that an adapter cannot work with in this mode.

    Raises:
        InvalidRequest.
    """
    try:
        settings = msgspec.convert(dict(config), type=kind.config_type, strict=True)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    problem = getattr(settings, "problem", None)
    if problem is None:
        return
    try:
        words = problem(live)
    except Exception as error:  # noqa: BLE001
        # A plugin's bug. Its words may quote a secret: they are not told.
        log.error("a plugin's check of settings raised", psp=kind.name, kind=type(error).__name__)  # noqa: TRY400
        raise _invalid("the plugin could not check these settings; see the gateway's log") from None
    if words:
        raise _invalid(mask_pan(str(words))[:500])


def _invalid(words: str) -> InvalidRequest:
    return InvalidRequest(f"config: {words}", errors=[{"path": "$.config", "message": words}])


def changed_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Which settings differ, by name; values are nobody's business."""
    missing = object()
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name, missing) != after.get(name, missing))


class Credentials:
    """Whether the PSP takes an account's settings, as this process sees it.

    Args:
        changed: told when that changes: the words of the refusal, or nothing when the settings are taken again; and whether
            it is news for people.
    """

    def __init__(self, changed: Callable[[str, bool], None]) -> None:
        self._changed = changed
        self._refused: dict[str, str] = {}
        self._told_at: float | None = None

    @property
    def problem(self) -> str | None:
        """The PSP's latest refusal, while it stands."""
        return next(reversed(self._refused.values()), None)

    def refused(self, verb: str, words: str) -> None:
        """The PSP refused our settings."""
        group = GROUPS.get(verb, verb)
        known = self._refused.pop(group, None)
        self._refused[group] = words
        now = clock.monotonic()
        news = known is None and (self._told_at is None or now - self._told_at >= TELL_AGAIN_S)
        if news:
            self._told_at = now
        self._changed(words, news)

    def taken(self, verb: str) -> None:
        """The PSP answered a call of this kind with more than a refusal of ourselves."""
        if self._refused.pop(GROUPS.get(verb, verb), None) is not None and not self._refused:
            self._changed("", False)

    def renewed(self) -> None:
        """There are other settings, or a check found that these work: what was refused is past."""
        if self._refused:
            self._refused.clear()
            self._changed("", False)
        self._told_at = None


class Unusable:
    """Stands in for an adapter that cannot be made of its settings: nothing is sent, and the operator is told why.

    Without it a plugin whose new version asks for more settings would leave every operation of the account undecided.
    """

    def __init__(self, facts: PspFacts, words: str) -> None:
        self.facts = facts
        self._words = words

    async def _refuse(self, *_: Any) -> Any:
        raise PspMisconfigured(self._words)

    create_intent = continue_intent = capture = cancel = refund = retrieve = verify_webhook = activity = (
        check_account
    ) = _refuse


def make(kind: type[PspAdapter], plain: bytes, context: Any) -> Any:
    """The adapter of an account, or what stands in for it."""
    try:
        return kind(msgspec.json.decode(plain, type=kind.config_type, strict=False), context)
    except Exception as error:  # noqa: BLE001
        # A setting may be quoted by whatever a plugin raises: only its kind is told, and what our own decoder says.
        words = f"the plugin could not be set up ({type(error).__name__})"
        if isinstance(error, msgspec.ValidationError):
            words = f"its settings do not fit the plugin any more: {error}"
        log.error("no adapter can be made", psp=kind.name, problem=words)  # noqa: TRY400
        return Unusable(kind.facts, words)
