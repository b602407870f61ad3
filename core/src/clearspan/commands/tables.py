"""Tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the last one as it is; nothing without rows."""
    if not rows:
        return
    everything = [heads, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(heads) - 1)]
    for row in everything:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
