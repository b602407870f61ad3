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


class Keys:
    """Keys of all accounts; each account has a key space of its own."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Remembered] = {}
        self._ages: deque[tuple[float, str, str]] = deque()
        self.in_flight: set[tuple[str, str]] = set()

    def find(self, account: str, key: str, now: float) -> Remembered | None:
        """What was answered to the key within the window."""
        while self._ages and self._ages[0][0] <= now - WINDOW_S:
            _, old_account, old_key = self._ages.popleft()
            del self._known[old_account, old_key]
        return self._known.get((account, key))

    def remember(self, account: str, key: str, remembered: Remembered, now: float) -> None:
        """Keep an answer; a key is remembered once in a window."""
        self._known[account, key] = remembered
        self._ages.append((now, account, key))
