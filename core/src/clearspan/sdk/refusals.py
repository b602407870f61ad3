"""Refusal tables: what a PSP's codes mean in the gateway's words, with the source of each table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from clearspan.sdk.declines import DECLINES


class RefusalTable:
    """One PSP's codes -> the gateway's normalised codes. A code without a row is ``unmapped``: final, never retried by itself.

    Args:
        rows: the PSP's code -> one of ``DECLINES``.
        source: where the PSP documents them, for people: a page's address, a file of its API description.
        as_of: when the source was read.

    Raises:
        ValueError: a row maps to no code of ours.
    """

    def __init__(self, rows: Mapping[str, str], *, source: str, as_of: date) -> None:
        wrong = sorted({code for code in rows.values() if code not in DECLINES})
        if wrong:
            raise ValueError(f"no normalised codes: {', '.join(wrong)}")
        self.rows = dict(rows)
        self.source = source
        self.as_of = as_of

    def code(self, raw_code: str | None) -> str:
        """The normalised code."""
        return self.rows.get(raw_code or "", "unmapped")
