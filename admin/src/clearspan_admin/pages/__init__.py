"""The pages, one module per noun. A module that stands here is found: its controllers are every ``Controller`` in it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from litestar import Controller


def handlers() -> Iterator[type[Controller]]:
    """Every controller of every module."""
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda one: one.name):
        module = importlib.import_module(f"{__name__}.{found.name}")
        for _, kind in sorted(inspect.getmembers(module, inspect.isclass)):
            if issubclass(kind, Controller) and kind.__module__ == module.__name__:
                yield kind
