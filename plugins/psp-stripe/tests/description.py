"""Stripe's OpenAPI description as a judge of requests and answers: `tests/spec/spec3.subset.json`.

Requests are form-encoded with nested names; they are parsed and their texts turned into what the schema wants before they are
checked. Objects in requests are closed: Stripe refuses parameters it does not know, at any depth.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs

SPEC = json.loads((Path(__file__).parent / "spec" / "spec3.subset.json").read_text())


def parse(encoded: str) -> dict[str, Any]:
    """``a[b][0]=c`` and ``a[b][]=c`` as nested objects and lists."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        path = [part.strip("[]") for part in re.findall(r"^[^\[]+|\[[^\]]*\]", name)]
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1] or str(len(node))] = value
    return root


class Operation:
    """One path and method."""

    def __init__(self, path: str, method: str) -> None:
        self.path = path
        described = SPEC["paths"][path][method]
        content = (described.get("requestBody") or {}).get("content") or {}
        body = content.get("application/x-www-form-urlencoded", {}).get("schema", {"type": "object", "properties": {}})
        query = [one for one in described.get("parameters", []) if one["in"] == "query"]
        self._body = body
        self._query = {
            "type": "object",
            "properties": {one["name"]: one["schema"] for one in query},
            "required": [one["name"] for one in query if one.get("required")],
            "additionalProperties": False,
        }
        self._check_body = _validator(_closed(body))
        self._check_query = _validator(_closed(self._query))
        self._check_answer = _validator(described["responses"]["200"]["content"]["application/json"]["schema"])

    def request(self, query: str, body: str) -> tuple[dict[str, Any], list[str]]:
        """The parameters, and what is wrong with them."""
        asked = _typed(parse(query), self._query)
        sent = _typed(parse(body), self._body)
        wrong = [f"query {one.message}" for one in self._check_query.iter_errors(asked)]
        wrong += [f"body {list(one.instance_path)} {one.message}" for one in self._check_body.iter_errors(sent)]
        return asked | sent, wrong

    def answer(self, body: Any) -> list[str]:
        """What is wrong with an answer."""
        return [f"answer {list(one.instance_path)} {one.message[:300]}" for one in self._check_answer.iter_errors(body)]


@cache
def operation(path: str, method: str) -> Operation:
    """Described once."""
    return Operation(path, method)


def find(path: str, method: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation of an address, and what stands in its places."""
    for template, methods in SPEC["paths"].items():
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
        if method in methods and (found := re.fullmatch(pattern, path)):
            return operation(template, method), found.groupdict()
    return None


def resource(name: str, raw: Any) -> list[str]:
    """What is wrong with an object of a named schema."""
    check = _validator({"$ref": f"#/components/schemas/{name}"})
    return [f"{list(one.instance_path)} {one.message[:300]}" for one in check.iter_errors(raw)]


def _converted(schema: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: ``nullable`` becomes a type."""
    if isinstance(schema, list):
        return [_converted(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: _converted(one) for name, one in schema.items() if name not in ("discriminator", "example", "nullable")
    }
    if schema.get("nullable") is True:
        if isinstance(found.get("type"), str):
            found["type"] = [found["type"], "null"]
            if "enum" in found:
                found["enum"] = [*found["enum"], None]
        else:
            found = {"anyOf": [found, {"type": "null"}]}
    return found


_COMPONENTS = {"schemas": _converted(SPEC["components"]["schemas"])}


def _validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**_converted(schema), "components": _COMPONENTS})


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(one) for name, one in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def _typed(value: Any, schema: dict[str, Any]) -> Any:
    """Texts as the schema wants them."""
    arms = schema.get("anyOf", [schema])
    if isinstance(value, dict):
        arrays = [one for one in arms if one.get("type") == "array"]
        if arrays and all(name.isdigit() for name in value):
            return [_typed(value[name], arrays[0]["items"]) for name in sorted(value, key=int)]
        objects = [one for one in arms if one.get("type") == "object"]
        best = max(objects, key=lambda one: len(value.keys() & one.get("properties", {}).keys()), default={})
        inner, rest = best.get("properties", {}), best.get("additionalProperties")
        rest = rest if isinstance(rest, dict) else {}
        return {name: _typed(one, inner.get(name, rest)) for name, one in value.items()}
    kinds = {one.get("type") for one in arms}
    if "integer" in kinds and re.fullmatch(r"-?[0-9]+", value):
        return int(value)
    if "boolean" in kinds and value in ("true", "false"):
        return value == "true"
    return value
