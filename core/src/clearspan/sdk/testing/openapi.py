"""A provider's own description of its API (OpenAPI 3.0, 3.1, Swagger 2.0) as a judge of requests and answers.

What the published documents say loosely is read strictly: an object may hold the properties that are described and no others,
a form's values are checked by the types of the schema, and a schema that does not compile is an error, never a pass.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    import jsonschema_rs

DROP: Any = object()
"""In a correction: the thing itself goes."""
Correction = tuple[str, Any] | Callable[[dict[str, Any]], object]
"""A defect of a published document put right: a JSON pointer and the value that belongs there (or ``DROP``), or a function that
changes the document."""
CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2030", "cvc": "123"}
"""What stands in a request for judging where a vault's placeholder was."""
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_PLACEHOLDER = re.compile(r"\{\{.*?(number|exp\w*_month|exp\w*_year|cvc)(?![A-Za-z0-9_]).*?\}\}")
_ERRORS_MAX = 12
_SCHEMAS = ("items", "not", "if", "then", "else", "contains", "propertyNames", "additionalProperties")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COMPOSED = ("$ref", "properties", "allOf", "oneOf", "anyOf")
_NOISE = ("example", "examples", "discriminator", "xml", "externalDocs")


class Example(msgspec.Struct, frozen=True):
    """A documented example.

    Attributes:
        method, path: of the operation, the path as the document writes it; for webhooks ``webhook`` and its name.
        status: of the answer; ``None`` for a request.
        name: the document's.
        value: the body.
    """

    method: str
    path: str
    status: str | None
    name: str
    value: Any


class _Operation:
    """One operation, with what has been compiled of it."""

    def __init__(self, document: dict[str, Any], base: str, path: str, method: str, said: dict[str, Any]) -> None:
        self.document, self.path, self.method, self.said = document, path, method, said
        names = re.split(r"(\{[^}]+\})", base + path)
        self.pattern = re.compile("".join("([^/]+)" if one.startswith("{") else re.escape(one) for one in names))
        self.fixed = sum(len(one) for one in names if not one.startswith("{"))
        self.compiled: dict[str, jsonschema_rs.Draft202012Validator] = {}


class Description:
    """One provider's documents, corrected and ready to judge.

    Args:
        paths: the files, JSON or YAML; or documents as they are.
        corrections: of the published defects, each applied to every document that has the place.
        base: what our requests' paths begin with before the documents' paths; the path of the documents' first server is
            tried too.
        closed: ``all``: properties that are not described are errors; ``requests``: in requests only; ``none``: nowhere
            (where a document tells its variants apart by discriminator only).

    Raises:
        ValueError: a file is no OpenAPI document, or no document has the place that a correction names.
    """

    def __init__(
        self,
        *paths: Path | str | dict[str, Any],
        corrections: Sequence[Correction] = (),
        base: str = "",
        closed: str = "all",
    ) -> None:
        self._closed = {"all": (True, True), "requests": (True, False), "none": (False, False)}[closed]
        self.documents = [copy.deepcopy(one) if isinstance(one, dict) else _load(Path(one)) for one in paths]
        for correction in corrections:
            if not sum([_corrected(document, correction) for document in self.documents]):
                raise ValueError(f"no document has {correction}")
        self._operations: list[_Operation] = []
        self._shared: dict[tuple[int, bool], dict[str, Any]] = {}
        for document in self.documents:
            for own in dict.fromkeys((base.rstrip("/"), _server_path(document))):
                for path, item in document.get("paths", {}).items():
                    for method in METHODS:
                        if method in item:
                            shared = item.get("parameters", [])
                            said = {**item[method], "parameters": [*shared, *(item[method].get("parameters") or [])]}
                            self._operations.append(_Operation(document, own, path, method, said))
        self._operations.sort(key=lambda one: -one.fixed)

    def request_errors(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> list[str]:
        """What is wrong with a request; nothing when it is as described.

        Args:
            url: an address or a path, with its query.
            headers: by name, in any case.
            body: as sent. Placeholders of a vault are replaced by a test card first.
        """
        parts = urlsplit(url)
        operation = self._find(method, parts.path)
        if operation is None:
            return [f"no description has {method} {parts.path}"]
        found = operation.pattern.fullmatch(parts.path)
        assert found is not None
        names = re.findall(r"\{([^}]+)\}", operation.path)
        texts = dict(zip(names, map(unquote, found.groups()[-len(names) :] if names else ()), strict=True))
        return [
            *self._parameter_errors(operation, "path", texts),
            *self._query_errors(operation, parts.query),
            *self._header_errors(operation, headers),
            *self._body_errors(operation, headers, body),
        ][:_ERRORS_MAX]

    def response_errors(self, method: str, url: str, status: int, body: Any) -> list[str]:
        """What is wrong with an answer.

        Args:
            url: of the request.
            body: the decoded JSON, or the bytes; ``b""`` or ``None`` for none.
        """
        operation = self._find(method, urlsplit(url).path)
        if operation is None:
            return [f"no description has {method} {urlsplit(url).path}"]
        responses = operation.said.get("responses", {})
        said = responses.get(str(status)) or responses.get(f"{status // 100}XX") or responses.get("default")
        if said is None:
            return [f"{method} {operation.path} is not described to answer {status}, only {', '.join(responses)}"]
        said = self._resolved(operation.document, said)
        media = said.get("content", {}) or ({"application/json": said} if "schema" in said else {})
        schema = _json_schema(media)
        if isinstance(body, bytes):
            if not body:
                body = None
            else:
                try:
                    body = json.loads(body)
                except ValueError:
                    return ["the answer is not JSON"]
        if schema is None:
            return [] if body in (None, {}) or not media else ["no JSON is described for this answer"]
        if body is None:
            return [f"{method} {operation.path} answers {status} with a body"]
        return self._judge(operation, f"response {status}", schema, body, closed=self._closed[1])

    def examples(self) -> Iterator[Example]:
        """Every documented example of a body, of requests, answers and webhooks."""
        seen: set[tuple[str, str]] = set()
        for operation in self._operations:
            if (operation.method, operation.path) in seen:
                continue
            seen.add((operation.method, operation.path))
            yield from self._examples(operation.document, operation.method.upper(), operation.path, operation.said)
        for document in self.documents:
            for name, item in document.get("webhooks", {}).items():
                for method in METHODS:
                    if method in item:
                        yield from self._examples(document, "webhook", name, item[method])

    def example_errors(self, example: Example) -> list[str]:
        """What is wrong with a documented example, by the document itself."""
        if example.method == "webhook":
            for document in self.documents:
                for method, said in document.get("webhooks", {}).get(example.path, {}).items():
                    operation = _Operation(document, "", example.path, method, said)
                    schema = _json_schema(self._resolved(document, said.get("requestBody", {})).get("content", {}))
                    if schema is not None:
                        return self._judge(operation, "body", schema, example.value, closed=False)
            return [f"no description has the webhook {example.path}"]
        operation = next(
            one for one in self._operations if (one.method.upper(), one.path) == (example.method, example.path)
        )
        if example.status is None:
            schema = _json_schema(
                self._resolved(operation.document, operation.said.get("requestBody", {})).get("content", {})
            )
            return [] if schema is None else self._judge(operation, "open body", schema, example.value, closed=False)
        said = self._resolved(operation.document, operation.said["responses"][example.status])
        schema = _json_schema(said.get("content", {}))
        return (
            []
            if schema is None
            else self._judge(operation, f"open {example.status}", schema, example.value, closed=False)
        )

    def operation(self, method: str, url: str) -> str | None:
        """The path as the document writes it, or ``None`` when none has it."""
        found = self._find(method, urlsplit(url).path)
        return found.path if found else None

    def compile_all(self) -> list[str]:
        """What does not compile of all bodies of all operations."""
        errors = []
        for one in self._operations:
            bodies = [self._resolved(one.document, one.said.get("requestBody", {}))]
            bodies += [self._resolved(one.document, said) for said in one.said.get("responses", {}).values()]
            for body in bodies:
                for kind, media in (body.get("content") or {}).items():
                    try:
                        self._validator(one, f"{id(media)}", media.get("schema", True), closed=True)
                    except ValueError as error:
                        errors.append(f"{one.method} {one.path} {kind}: {error}")
        return errors

    def _find(self, method: str, path: str) -> _Operation | None:
        for one in self._operations:
            if one.method == method.lower() and one.pattern.fullmatch(path):
                return one
        return None

    def _parameters(self, operation: _Operation, where: str) -> dict[str, dict[str, Any]]:
        all_ = [self._resolved(operation.document, one) for one in operation.said["parameters"]]
        return {one["name"]: one for one in all_ if one.get("in") == where}

    def _parameter_errors(self, operation: _Operation, where: str, given: Mapping[str, str]) -> list[str]:
        errors = []
        for name, said in self._parameters(operation, where).items():
            if name not in given:
                errors += [f"{where}: {name} is missing"] if said.get("required") else []
                continue
            schema = said.get("schema", {"type": said["type"]} if "type" in said else True)
            value = self._coerced(operation.document, schema, given[name])
            errors += self._judge(operation, f"{where} {name}", schema, value, closed=False)
        return errors

    def _query_errors(self, operation: _Operation, query: str) -> list[str]:
        given = nested(query)
        described = self._parameters(operation, "query")
        described = {name.removesuffix("[]"): said for name, said in described.items()}
        errors = [f"query: {name} is not described" for name in given if name not in described]
        for name, said in described.items():
            if name not in given:
                errors += [f"query: {name} is missing"] if said.get("required") else []
                continue
            schema = said.get("schema", {"type": said["type"]} if "type" in said else True)
            value = self._coerced(operation.document, schema, given[name])
            errors += self._judge(operation, f"query {name}", schema, value, closed=False)
        return errors

    def _header_errors(self, operation: _Operation, headers: Mapping[str, str]) -> list[str]:
        given = {name.lower(): value for name, value in headers.items()}
        errors = []
        for name, said in self._parameters(operation, "header").items():
            # OpenAPI: parameters of these names are ignored.
            if name.lower() in ("accept", "content-type", "authorization"):
                continue
            if name.lower() not in given:
                errors += [f"header: {name} is missing"] if said.get("required") else []
                continue
            schema = said.get("schema", {"type": said["type"]} if "type" in said else True)
            value = self._coerced(operation.document, schema, given[name.lower()])
            errors += self._judge(operation, f"header {name}", schema, value, closed=False)
        return errors

    def _body_errors(self, operation: _Operation, headers: Mapping[str, str], body: bytes) -> list[str]:
        said = self._resolved(operation.document, operation.said.get("requestBody", {}))
        content = said.get("content", {})
        required = bool(said.get("required"))
        for name, parameter in self._parameters(operation, "body").items():  # Swagger 2.0
            content, required = {"application/json": parameter}, bool(parameter.get("required", name))
        if not body:
            return ["the body is missing"] if required else []
        if not content:
            return [f"{operation.method.upper()} {operation.path} takes no body"]
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        kind = kind.partition(";")[0].strip().lower()
        by_kind = {name.partition(";")[0].lower(): media for name, media in content.items()}
        media = by_kind.get(kind) or by_kind.get("*/*")
        if media is None:
            return [f"the body is {kind or 'of no declared type'}; described: {', '.join(by_kind)}"]
        schema = media.get("schema", True)
        try:
            text = body.decode()
            if kind == "application/x-www-form-urlencoded":
                value = self._coerced(operation.document, schema, _filled(nested(text)))
            else:
                value = _filled(json.loads(text, object_pairs_hook=_once))
        except ValueError as error:
            return [f"the body is unreadable: {error}"]
        return self._judge(operation, f"body {kind}", schema, value, closed=self._closed[0])

    def _judge(self, operation: _Operation, what: str, schema: Any, value: Any, *, closed: bool) -> list[str]:
        validator = self._validator(operation, what, schema, closed=closed)
        errors = []
        for error in validator.iter_errors(value):
            place = "".join(f"/{one}" for one in error.instance_path)
            errors.append(f"{what}{' at ' + place if place else ''}: {error.message[:400]}")
            if len(errors) == _ERRORS_MAX:
                break
        return errors

    def _validator(
        self, operation: _Operation, what: str, schema: Any, *, closed: bool
    ) -> jsonschema_rs.Draft202012Validator:
        if what not in operation.compiled:
            rules = _jsonschema()
            document = operation.document
            shared = self._shared.get((id(document), closed))
            if shared is None:
                shared = {
                    "components": {"schemas": _normalised_map(document.get("components", {}).get("schemas"), closed)},
                    "definitions": _normalised_map(document.get("definitions"), closed),
                }
                self._shared[id(document), closed] = shared
            whole = _closed(_normalised(schema, closed), closed)
            whole = {**whole, **shared} if isinstance(whole, dict) else whole
            try:
                operation.compiled[what] = rules.Draft202012Validator(whole, offline=True)
            except (ValueError, rules.ReferencingError) as error:
                raise ValueError(
                    f"{operation.method} {operation.path}, {what}: the schema does not compile: {error}"
                ) from error
        return operation.compiled[what]

    def _resolved(self, document: dict[str, Any], said: Any) -> dict[str, Any]:
        while isinstance(said, dict) and "$ref" in said:
            said = _at(document, said["$ref"].removeprefix("#"))
        return cast(dict[str, Any], said)

    def _coerced(self, document: dict[str, Any], schema: Any, value: Any) -> Any:
        """A form's texts as the types the schema names; what fits none stays a text, and is then an error."""
        said = list(_alternatives(document, schema))
        if isinstance(value, dict):
            if any(one.get("type") == "array" for one in said) and all(name.isdigit() for name in value):
                return self._coerced(document, schema, [value[name] for name in sorted(value, key=int)])
            found = {}
            for name, one in value.items():
                inner = [each["properties"][name] for each in said if name in each.get("properties", {})]
                inner = inner or [
                    each["additionalProperties"] for each in said if isinstance(each.get("additionalProperties"), dict)
                ]
                found[name] = self._coerced(document, {"anyOf": inner} if inner else True, one)
            return found
        if isinstance(value, list):
            inner = [each["items"] for each in said if "items" in each]
            return [self._coerced(document, {"anyOf": inner} if inner else True, one) for one in value]
        types: set[Any] = set()
        for one in said:
            types |= set(one["type"] if isinstance(one.get("type"), list) else [one.get("type")])
        if "integer" in types and re.fullmatch(r"-?[0-9]{1,18}", value):
            return int(value)
        if "number" in types and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]+)?", value):
            return float(value)
        if "boolean" in types and value in ("true", "false"):
            return value == "true"
        return value

    def _examples(self, document: dict[str, Any], method: str, path: str, said: dict[str, Any]) -> Iterator[Example]:
        bodies: list[tuple[str | None, Any]] = [(None, said.get("requestBody", {}))]
        bodies += list(said.get("responses", {}).items())
        for status, body in bodies:
            for media in (self._resolved(document, body).get("content") or {}).values():
                if "example" in media:
                    yield Example(method, path, status, "example", media["example"])
                for name, one in (media.get("examples") or {}).items():
                    value = self._resolved(document, one)
                    if isinstance(value, dict) and "value" in value:
                        yield Example(method, path, status, name, value["value"])


def nested(text: str) -> dict[str, Any]:
    """A form or a query: ``a[b][0]=c`` is ``{"a": {"b": ["c"]}}``; a name that comes again makes a list.

    Raises:
        ValueError: one name is both a text and something nested.
    """
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        head, *rest = re.findall(r"^[^\[]+|\[([^\]]*)\]", name) and re.split(r"\]?\[", name.removesuffix("]"))
        place: Any = found
        for here, following in zip([head, *rest], [*rest, None], strict=False):
            if not isinstance(place, dict):
                raise ValueError(f"{name} is a text and something nested")  # noqa: TRY004  (what was sent is wrong)
            step = here or str(len(place))  # a[]=c
            if following is not None:
                place = place.setdefault(step, {})
            elif step in place:
                before = place[step]
                place[step] = [*before, value] if isinstance(before, list) else [before, value]
            else:
                place[step] = value
    return {name: _lists(value) for name, value in found.items()}


def _lists(value: Any) -> Any:
    """Objects whose names are 0, 1, 2 … are lists."""
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(one) for name, one in value.items()}
    if inner and list(inner) == [str(index) for index in range(len(inner))]:
        return list(inner.values())
    return inner


def _jsonschema() -> Any:
    try:
        import jsonschema_rs  # noqa: PLC0415  (of the extra "testing")
    except ImportError as error:
        raise RuntimeError("descriptions need jsonschema-rs: install clearspan[testing]") from error
    return jsonschema_rs


def _load(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml  # noqa: PLC0415  (of the extra "testing")
        except ImportError as error:
            raise RuntimeError("descriptions in YAML need PyYAML: install clearspan[testing]") from error
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  (it is the safe one)
    else:
        document = json.loads(text)
    if not isinstance(document, dict) or not ("openapi" in document or "swagger" in document):
        raise ValueError(f"{path.name} is no OpenAPI document")
    return document


def _server_path(document: dict[str, Any]) -> str:
    if "basePath" in document:
        return str(document["basePath"]).rstrip("/")
    servers = document.get("servers") or [{"url": ""}]
    return str(urlsplit(servers[0]["url"]).path).rstrip("/")


def _at(document: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def _corrected(document: dict[str, Any], correction: Correction) -> bool:
    if callable(correction):
        correction(document)
        return True
    pointer, value = correction
    parent, _, last = pointer.rpartition("/")
    last = last.replace("~1", "/").replace("~0", "~")
    try:
        place = _at(document, parent)
        if value is DROP:
            del place[int(last) if isinstance(place, list) else last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    except (KeyError, IndexError, TypeError, ValueError):
        return False
    return True


def _json_schema(content: Mapping[str, Any]) -> Any:
    for kind, media in content.items():
        if "json" in kind or kind == "*/*":
            return media.get("schema", True)
    return None


def _alternatives(document: dict[str, Any], schema: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """A schema and all that it is made of, without going into properties."""
    if not isinstance(schema, dict) or depth > 12:
        return
    if "$ref" in schema:
        yield from _alternatives(document, _at(document, schema["$ref"].removeprefix("#")), depth + 1)
    yield schema
    for name in ("allOf", "anyOf", "oneOf"):
        for one in schema.get(name, []):
            yield from _alternatives(document, one, depth + 1)


def _normalised_map(schemas: Mapping[str, Any] | None, closed: bool) -> dict[str, Any]:
    return {name: _normalised(one, closed) for name, one in (schemas or {}).items()}


def _normalised(schema: Any, closed: bool) -> Any:
    """A schema of OpenAPI 3.0 or Swagger as one of JSON Schema 2020-12; closed at the positions below it, not at its root."""
    if not isinstance(schema, dict):
        return schema
    found = {name: value for name, value in schema.items() if name not in _NOISE and not name.startswith("x-")}
    for name in _SCHEMAS:
        if name in found and isinstance(found[name], dict):
            inner = _normalised(found[name], closed)
            found[name] = _closed(inner, closed) if name in ("items", "additionalProperties") else inner
    for name in _SCHEMA_LISTS:
        if name in found:
            found[name] = [_normalised(one, closed) for one in found[name]]
    for name in _SCHEMA_MAPS:
        if name in found and isinstance(found[name], dict):
            found[name] = {
                key: _closed(_normalised(one, closed), closed and name != "$defs") for key, one in found[name].items()
            }
    if isinstance(found.get("required"), bool):
        del found["required"]
    for limit, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(found.get(limit), bool):
            exclusive = found.pop(limit)
            if exclusive and bound in found:
                found[limit] = found.pop(bound)
    if found.pop("nullable", False):
        found = _nullable(found)
    return found


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if set(schema) & {"$ref", "allOf", "anyOf", "oneOf"} or "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]} if schema else {}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    schema = {**schema, "type": [*types, "null"]}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _closed(schema: Any, closed: bool) -> Any:
    """The same, where names that nothing describes are errors."""
    if not closed or not isinstance(schema, dict) or "additionalProperties" in schema:
        return schema
    if not any(name in schema for name in _COMPOSED):
        return schema
    return {**schema, "unevaluatedProperties": False}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _filled(value: Any) -> Any:
    """With a test card where a vault's placeholders are."""
    if isinstance(value, dict):
        return {name: _filled(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one) for one in value]
    if not isinstance(value, str):
        return copy.copy(value)
    return _PLACEHOLDER.sub(lambda found: CARD[re.sub(r"exp\w*_", "exp_", found[1])], value)
