"""What a class that a plugin hands over must have before the core lets it in, said in words for its author.

The verbs come from the protocols of ``clearspan.sdk``, so this page cannot fall behind them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from clearspan.sdk import (
    API_VERSION,
    Capability,
    PspAdapter,
    PspFacts,
    RouteSet,
    SourceKind,
    VaultProvider,
    form_fields,
)

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""Of a PSP or a vault: it stands in URLs, in rows and in metrics."""
_ASKED_BY_FACT = {"activity"}
"""Verbs that only some facts ask for."""
_RESTS_ON = {
    Capability.PARTIAL_CAPTURE: Capability.AUTHORIZE,
    Capability.MULTIPLE_CAPTURE: Capability.PARTIAL_CAPTURE,
    Capability.PARTIAL_REFUND: Capability.REFUND,
    Capability.VOID: Capability.AUTHORIZE,
}
_SECRET = re.compile(r"(^|_)(api_key|secret|password|token|private_key|access_key)(_|$)")
_OPTIONAL = {"check_account": 0, "fetch_settlements": 2, "check_connection": 0}
"""Verbs that may be left out, and how many arguments they take; the last is a vault's."""


def sdk_problem(module: Any) -> str:
    """Why the module's ``requires_sdk`` rules this Clearspan out, or nothing. Without one, any version is fine."""
    wanted = getattr(module, "requires_sdk", "")
    try:
        fits = SpecifierSet("".join(wanted)).contains(API_VERSION)
    except (InvalidSpecifier, TypeError):
        return f"requires_sdk is {wanted!r}; write a version range such as '>=1.3,<2'"
    if fits:
        return ""
    return (
        f"it needs SDK {wanted}, and this Clearspan has {API_VERSION}: install a version of the plugin for it, or another"
        " Clearspan"
    )


def psp_problems(kind: Any) -> list[str]:
    """What a class lacks to be a ``PspAdapter``."""
    found = _class_problems(kind)
    if found:
        return found
    facts = getattr(kind, "facts", None)
    if not isinstance(facts, PspFacts):
        return [*_common(kind), "facts: missing, must be a PspFacts"]
    left_out = frozenset() if facts.lookup.by_time else _ASKED_BY_FACT
    found += [*_common(kind), *_verbs(kind, PspAdapter, left_out), *_fact_problems(facts), *_form(kind)]
    return [*found, *_test_accounts(kind)]


def psp_remarks(kind: type[PspAdapter]) -> list[str]:
    """What is allowed and still worth a second look before money goes through it."""
    return [*_fact_remarks(kind.facts), *_setting_remarks(kind.config_type)]


def vault_problems(kind: Any) -> list[str]:
    """What a class lacks to be a ``VaultProvider``."""
    return _class_problems(kind) or [*_common(kind), *_verbs(kind, VaultProvider, frozenset())]


def route_problems(routes: Any) -> list[str]:
    """Why something is no ``RouteSet``."""
    if not isinstance(routes, RouteSet):
        return [f"is a {type(routes).__name__}, must be a RouteSet"]
    return [] if routes.path.startswith("/") else [f"path: is {routes.path!r}, must start with '/'"]


def _class_problems(kind: Any) -> list[str]:
    return (
        [] if isinstance(kind, type) else [f"is a {type(kind).__name__}, must be a class: hand over the class itself"]
    )


def _common(kind: type) -> Iterator[str]:
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield f"name: is {name!r}, must be up to 40 lower-case letters, digits, '-' and '_', a letter first"
    config_type = getattr(kind, "config_type", None)
    if not (isinstance(config_type, type) and issubclass(config_type, msgspec.Struct)):
        yield "config_type: missing, must be a msgspec.Struct"
        return
    problem = getattr(config_type, "problem", None)
    if problem is not None and (inspect.iscoroutinefunction(problem) or not _takes(problem, 2)):
        yield "config_type.problem: must be a plain method problem(self, live)"
    if not _takes(kind, 2):
        yield "__init__: must take (config, context)"


def _form(kind: type) -> Iterator[str]:
    """Accounts are set up in a form; a vault's settings stand in the operator's file and may have any shape."""
    config_type = getattr(kind, "config_type", None)
    if isinstance(config_type, type) and issubclass(config_type, msgspec.Struct):
        try:
            form_fields(config_type)
        except Exception as error:  # noqa: BLE001  (whatever an author's annotations make of it)
            yield f"config_type: {error}"


def _verbs(kind: type, protocol: type, left_out: AbstractSet[str]) -> Iterator[str]:
    for verb, model in vars(protocol).items():
        if verb.startswith("_") or not inspect.isfunction(model) or verb in left_out:
            continue
        yield from _verb(kind, verb, len(inspect.signature(model).parameters), inspect.iscoroutinefunction(model))
    for verb, arguments in _OPTIONAL.items():
        if hasattr(kind, verb):
            yield from _verb(kind, verb, arguments + 1, awaited=True)


def _verb(kind: type, verb: str, arguments: int, awaited: bool) -> Iterator[str]:
    method = inspect.getattr_static(kind, verb, None)
    if method is None or isinstance(getattr(kind, verb), property):
        yield f"{verb}: missing"
    elif inspect.iscoroutinefunction(getattr(kind, verb)) != awaited:
        yield f"{verb}: must be {'an async def' if awaited else 'a plain def'}"
    elif not isinstance(method, staticmethod | classmethod) and not _takes(getattr(kind, verb), arguments):
        yield f"{verb}: must take {arguments - 1} argument{'s' * (arguments != 2)} besides self"


def _takes(function: Any, arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # No signature to be had: something in C.
        return True
    return True


def _fact_problems(facts: PspFacts) -> Iterator[str]:
    try:
        msgspec.convert(msgspec.structs.asdict(facts), PspFacts)
    except msgspec.ValidationError as error:
        yield f"facts: {error}"
        return
    if not facts.sources:
        yield "facts.sources: empty, so nothing could be charged"
    if facts.methods and SourceKind.REDIRECT not in facts.sources:
        yield "facts.methods: named, but SourceKind.REDIRECT is not among facts.sources"
    wrong = sorted(code for code in facts.currencies if not re.fullmatch("[A-Z]{3}", code))
    if wrong:
        yield f"facts.currencies: {', '.join(wrong)}: write ISO 4217 codes in capitals"
    if facts.idempotency.max_len < 8 and facts.idempotency.window:
        yield "facts.idempotency.max_len: below 8, keys of so few characters repeat"


def _test_accounts(kind: type) -> Iterator[str]:
    accounts = getattr(kind, "test_accounts", {})
    if not isinstance(accounts, Mapping) or not all(isinstance(one, Mapping) for one in accounts.values()):
        yield "test_accounts: must map account names to settings"


def _fact_remarks(facts: PspFacts) -> Iterator[str]:
    can = facts.capabilities
    if not can & {Capability.PURCHASE, Capability.AUTHORIZE}:
        yield "facts.capabilities: neither purchase nor authorize, so nothing can be charged"
    for one, needs in _RESTS_ON.items():
        if one in can and needs not in can:
            yield f"facts.capabilities: {one} without {needs}"
    if not (facts.lookup.by_reference or facts.lookup.by_key or facts.idempotency.window):
        yield "facts: neither a lookup by reference nor an idempotency window: a lost answer waits for a person"
    if facts.webhook.signature == "none":
        yield "facts.webhook: no signature, so messages are hints only"
    if facts.max_late_effect > timedelta(days=1):
        yield f"facts.max_late_effect: {facts.max_late_effect}, for so long a lost request is waited for"


def _setting_remarks(config_type: type[msgspec.Struct]) -> Iterator[str]:
    for field in form_fields(config_type):
        if field.type == "text" and _SECRET.search(field.name):
            yield f"config_type.{field.name}: is shown as it is typed; a secret is annotated sdk.Secret"
        if (
            not field.description
            and field.title == field.name.replace("_", " ").capitalize()
            and field.type != "secret"
        ):
            yield f"config_type.{field.name}: says nothing about itself; Meta(title=..., description=...)"
