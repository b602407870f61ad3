"""The memory for idempotency keys: the same key answers the same bytes for 24 hours, errors included."""

from __future__ import annotations

from collections import deque

import msgspec

WINDOW_S = 24 * 3600


class Remembered(msgspec.Struct, frozen=True):
    """What a key stands for; ``digest`` is the hash of the path and body that came with it."""

    digest: str
    status: int
    answer: bytes


class _Known(msgspec.Struct, frozen=True):
    remembered: Remembered
    at: float


class Keys:
    """Keys of all accounts; each account has a key space of its own."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}
        self._ages: deque[tuple[float, str, str]] = deque()
        self.in_flight: set[tuple[str, str]] = set()

    def find(self, account: str, key: str, now: float, window_s: float = WINDOW_S) -> Remembered | None:
        """What was answered to the key within the window."""
        while self._ages and self._ages[0][0] <= now - WINDOW_S:
            at, old_account, old_key = self._ages.popleft()
            if (old := self._known.get((old_account, old_key))) and old.at == at:
                del self._known[old_account, old_key]
        known = self._known.get((account, key))
        return known.remembered if known and known.at > now - window_s else None

    def remember(self, account: str, key: str, remembered: Remembered, now: float) -> None:
        """Keep an answer; it replaces the one before, which only a PSP that breaks its word has."""
        self._known[account, key] = _Known(remembered, now)
        self._ages.append((now, account, key))
