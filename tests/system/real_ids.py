"""Hooks for Schemathesis (``SCHEMATHESIS_HOOKS=tests.system.real_ids``): some of what it makes up meets objects that exist.

``REAL_IDS`` holds them in JSON: the name of a path parameter or body field -> an id. Two requests of three get them, and a fresh
idempotency key; otherwise next to nothing would come further than a 404 or a key that was used before.
"""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import schemathesis

REAL_IDS: dict[str, str] = json.loads(os.environ["REAL_IDS"])
_numbers = itertools.count()


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Put ids and key into a request."""
    number = next(_numbers)
    if number % 3 == 0:
        return
    for name in case.path_parameters or {}:
        case.path_parameters[name] = REAL_IDS.get(name, case.path_parameters[name])
    if isinstance(case.body, dict):
        for name in case.body.keys() & REAL_IDS.keys():
            if isinstance(case.body[name], str):
                case.body[name] = REAL_IDS[name]
    if case.method.upper() == "POST":
        case.headers["Idempotency-Key"] = f"of-schemathesis-{number}"
