"""Garbage collection in a process that lives long.

After its imports alone a process holds 160,000 objects that the collector follows and that stay: modules, routes, validators.
CPython looks through them again and again, and through the youngest after each 700 that were made. ``settle`` takes what is
there out of its sight and has it come less often. Reference counting, which frees nearly everything, is not touched. See
``gc.freeze`` and ``gc.set_threshold`` in the Python documentation; docs/performance.md has what it brings.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects made and not freed before the youngest are looked through; of requests under way a few hundred each."""
ROUNDS: Final = (20, 50)
"""Of the generation before, until the next older one is looked through."""


def settle() -> None:
    """Call once, when a process has everything it runs on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *ROUNDS)
