"""Checks requests and answers against PayPal's descriptions in ``spec/``: closed objects, so that an invented field is an error."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

SPEC = Path(__file__).parent / "spec"
FILES = ("checkout_orders_v2", "payments_payment_v2", "notifications_webhooks_v1")
_SUBSCHEMAS = {"$ref", "properties", "allOf", "oneOf", "anyOf"}
_DROPPED = {"example", "examples", "discriminator", "xml", "readOnly", "title", "description", "deprecated"}


@cache
def description(name: str) -> dict[str, Any]:
    """As published, with the corrections that ``spec/README.md`` names."""
    found: dict[str, Any] = json.loads((SPEC / f"{name}.json").read_text())
    if name == "checkout_orders_v2":
        methods = {"type": "string", "enum": ["SCA_ALWAYS", "SCA_WHEN_REQUIRED"]}
        verification = {"type": "object", "properties": {"method": methods}}
        found["components"]["schemas"]["card_attributes"]["properties"]["verification"] = verification
    return found


def operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The description's name and what it says of an operation."""
    for name in FILES:
        for template, methods in description(name)["paths"].items():
            pattern = re.sub(r"\\{[a-z_]+\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path) and method.lower() in methods:
                return name, methods[method.lower()]
    return None


def request_faults(method: str, path: str, body: Any) -> list[str]:
    """What is wrong with a request, or nothing."""
    found = operation(method, path)
    if found is None:
        return [f"{method} {path} is not described"]
    name, described = found
    content = described.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return [] if body is None else [f"{method} {path} takes no body"]
    return _faults(name, content["schema"], {} if body is None else body)


def answer_faults(method: str, path: str, status: int, body: Any) -> list[str]:
    """What is wrong with an answer, or nothing."""
    found = operation(method, path)
    if found is None:
        return [f"{method} {path} is not described"]
    name, described = found
    responses = described["responses"]
    if str(status) not in responses:
        return [f"{method} {path} has no answer {status}"]
    said = responses[str(status)]
    if "$ref" in said:
        said = description(name)["components"]["responses"][said["$ref"].split("/")[-1]]
    content = said.get("content", {}).get("application/json")
    return [] if content is None or body is None else _faults(name, content["schema"], body, closed=status < 400)


def schema_faults(name: str, schema: str, body: Any) -> list[str]:
    """The same for a named schema."""
    return _faults(name, {"$ref": f"#/components/schemas/{schema}"}, body)


def enumeration(name: str, schema: str, field: str) -> set[str]:
    """The values of a field's enumeration."""
    return set(description(name)["components"]["schemas"][schema]["properties"][field]["enum"])


def issues() -> set[str]:
    """Every issue of a 422 of the operations that the adapter uses."""
    found: set[str] = set()
    for name in FILES[:2]:
        for schema, said in description(name)["components"]["schemas"].items():
            if not re.fullmatch(r"422|.*-422", schema) or re.search("patch|track", schema):
                continue
            for kind in said["properties"]["details"]["items"].get("anyOf", ()):
                found |= set(kind["properties"]["issue"]["enum"])
    return found


def _faults(name: str, schema: dict[str, Any], body: Any, *, closed: bool = True) -> list[str]:
    validator = _validator(name, json.dumps(schema, sort_keys=True), closed)
    return [f"{'/'.join(map(str, one.instance_path))}: {one.message}"[:300] for one in validator.iter_errors(body)]


@cache
def _validator(name: str, schema: str, closed: bool) -> Any:
    components = {key: _open(one) for key, one in description(name)["components"]["schemas"].items()}
    wanted = _open(json.loads(schema))
    if closed:
        components = {key: _close_below(one) for key, one in components.items()}
        wanted = _close(wanted)
    return jsonschema_rs.Draft202012Validator({**wanted, "components": {"schemas": components}})


def _open(node: Any) -> Any:
    """OpenAPI 3.0 to JSON Schema 2020-12."""
    if isinstance(node, list):
        return [_open(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: {name: _open(one) for name, one in value.items()} if key == "properties" else _open(value)
        for key, value in node.items()
        if key not in _DROPPED
    }
    if found.pop("nullable", False) and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


def _close_below(node: Any) -> Any:
    """Close what stands in properties and items, never a branch of ``allOf``: its siblings' fields would be strangers."""
    if isinstance(node, list):
        return [_close_below(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = dict(node)
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: _close(one) for name, one in value.items()}
        elif key == "items":
            found[key] = _close(value)
        else:
            found[key] = _close_below(value)
    return found


def _close(node: Any) -> Any:
    found = _close_below(node)
    if isinstance(found, dict) and _SUBSCHEMAS & set(found) and "additionalProperties" not in found:
        found["unevaluatedProperties"] = False
    return found
