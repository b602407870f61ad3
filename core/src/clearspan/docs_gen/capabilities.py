"""The part of ``docs/plugins.md`` between its markers: what each installed PSP plugin says of its PSP, and how long it is."""

from __future__ import annotations

import ast
import inspect
import io
import sys
import tokenize
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from clearspan.sdk import API_VERSION, CURRENCIES, Capability, Hooks, SourceKind

PAGE = "docs/plugins.md"
BEGIN = "<!-- capabilities: made by `python -m clearspan.docs_gen` from the installed plugins; edit their facts instead. -->"
END = "<!-- end of capabilities -->"
_LEFT_OUT = ("refusals", "settings")
_SILENT = {
    *(
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    )
}


def render() -> str:
    """The page with its section made anew.

    Raises:
        ValueError: the page has no markers.
    """
    text = Path(PAGE).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no section between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{section()}{END}{after}"


def section() -> str:
    """The tables, PSPs in the order of their names."""
    found = sorted(adapters(), key=lambda one: one.name)
    facts = {one.name: one.facts for one in found}
    rows: list[tuple[str, list[str]]] = [
        (f"`{one.value}`", ["yes" if one in said.capabilities else "–" for said in facts.values()])
        for one in Capability
    ]
    rows += [
        (f"source `{one.value}`", ["yes" if one in said.sources else "–" for said in facts.values()])
        for one in SourceKind
    ]
    rows += [
        ("methods by name", [", ".join(sorted(said.methods)) or "–" for said in facts.values()]),
        ("currencies", [str(len(said.currencies or CURRENCIES)) for said in facts.values()]),
        ("idempotency window", [_span(said.idempotency.window) for said in facts.values()]),
        ("replays errors", ["yes" if said.idempotency.replays_errors else "no" for said in facts.values()]),
        ("lookup", [_lookup(said) for said in facts.values()]),
        ("webhook signature", [said.webhook.signature for said in facts.values()]),
        ("late effect, at most", [_span(said.max_late_effect) for said in facts.values()]),
        ("authorisation can be voided for", [_span(said.void_window) for said in facts.values()]),
        ("lines of code", [str(lines_of(one)) for one in found]),
    ]
    head = f"| | {' | '.join(facts)} |\n|---|{'---|' * len(facts)}\n"
    body = "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in rows)
    return (
        f"\nSDK {API_VERSION}. Lines of code: of the adapter's module and the modules of its package that it imports, without"
        f" refusal table, settings, docstrings, comments and blanks.\n\n{head}{body}\n"
    )


def adapters() -> Iterator[Any]:
    """The PSP adapters of all installed plugins, enabled or not."""
    for entry in entry_points(group="clearspan"):
        manager = pluggy.PluginManager("clearspan")
        manager.add_hookspecs(Hooks)
        manager.register(entry.load(), name=entry.name)
        for handed in manager.hook.clearspan_psps():
            yield from handed


def lines_of(adapter: type[Any]) -> int:
    """Lines of code of an adapter, as the page counts them."""
    module = sys.modules[adapter.__module__]
    return sum(_lines(one) for one in [module, *_beside(module)])


def reason_of(adapter: type[Any]) -> str:
    """What the top of its module says about its length; empty when nothing."""
    words = inspect.getdoc(sys.modules[adapter.__module__]) or ""
    return words if "150 lines" in words else ""


def _beside(module: ModuleType) -> Iterator[ModuleType]:
    """Modules of the same package that a module imports."""
    package = module.__name__.partition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
            names |= {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names if one.name.partition(".")[0] == package}
    for name in sorted(names - {module.__name__}):
        if name in sys.modules and name.rpartition(".")[2] not in _LEFT_OUT:
            yield sys.modules[name]


def _lines(module: ModuleType) -> int:
    source = inspect.getsource(module)
    said: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SILENT:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - said)


def _span(span: timedelta) -> str:
    if not span:
        return "none"
    seconds = int(span.total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _lookup(said: Any) -> str:
    ways = [
        name
        for name, can in (
            ("reference", said.lookup.by_reference),
            ("key", said.lookup.by_key),
            ("time", said.lookup.by_time),
        )
        if can
    ]
    return f"by {', '.join(ways)}; lag {_span(said.lookup.lag_max)}" if ways else "by the PSP's id only"
