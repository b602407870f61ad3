"""PayPal's descriptions in ``spec/``, with the corrections that its README names."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from clearspan.sdk.testing import Description

SPEC = Path(__file__).parent / "spec"
PAYMENTS = ("checkout_orders_v2", "payments_payment_v2")
_METHODS = {"type": "string", "enum": ["SCA_ALWAYS", "SCA_WHEN_REQUIRED"]}
_VERIFICATION = {"type": "object", "properties": {"method": _METHODS}}

DESCRIPTION = Description(
    *(SPEC / f"{name}.json" for name in (*PAYMENTS, "notifications_webhooks_v1")),
    corrections=[("/components/schemas/card_attributes/properties/verification", _VERIFICATION)],
)


def schemas(name: str) -> dict[str, Any]:
    """Of one file, as published."""
    found: dict[str, Any] = json.loads((SPEC / f"{name}.json").read_text())["components"]["schemas"]
    return found


def issues() -> set[str]:
    """Every issue of a 422 of the operations that the adapter uses."""
    found: set[str] = set()
    for name in PAYMENTS:
        for schema, said in schemas(name).items():
            if re.fullmatch(r"422|.*-422", schema) and not re.search("patch|track", schema):
                for kind in said["properties"]["details"]["items"].get("anyOf", ()):
                    found |= set(kind["properties"]["issue"]["enum"])
    return found


@cache
def words(name: str, verb: str = "") -> dict[str, str]:
    """Issue -> the description's words for it, of one file; those of the verb's own errors before the others."""
    found: dict[str, str] = {}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            said = node.get("properties", {})
            if isinstance(said, dict) and "enum" in said.get("issue", {}) and said.get("description", {}).get("enum"):
                for issue in said["issue"]["enum"]:
                    found.setdefault(issue, said["description"]["enum"][0])
            for one in node.values():
                walk(one)
        elif isinstance(node, list):
            for one in node:
                walk(one)

    for schema in sorted(schemas(name), key=lambda one: f".{verb}-" not in one):
        walk(schemas(name)[schema])
    return found
