"""One plugin, loaded alone in a process of its own, and what can be told of it: ``clearspan plugins info`` and ``check``.

``python -m clearspan.commands.plugin_probe NAME FILE`` writes a ``Report`` to FILE. A file and not stdout, since a plugin may
print; a process, since it may hang, exit or crash the interpreter.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from clearspan.platform import contract
from clearspan.platform.plugins import TIME_S, LoadedPlugin, PluginError, distribution_of, installed, load
from clearspan.psps import catalogue
from clearspan.sdk import FormField, PspAdapter, form_fields

GRACE_S = 10.0
"""For the process itself, on top of what the plugin gets."""


class PspReport(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP; durations in seconds."""

    name: str
    capabilities: list[str]
    sources: list[str]
    methods: list[str]
    currencies: list[str]
    does: list[str]
    idempotency_window_s: float
    lookup: list[str]
    lookup_lag_max_s: float
    max_late_effect_s: float
    webhook_signature: str
    settings: list[FormField]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin is.

    Attributes:
        problem: why it cannot be loaded, or empty.
        requires_sdk: the versions of the contract that it says it needs.
        links: label -> URL, of the distribution's metadata.
        findings: what is wrong, and would be refused sooner or later.
        remarks: what is allowed and worth a second look.
    """

    name: str
    distribution: str
    version: str
    summary: str = ""
    problem: str = ""
    requires_sdk: str = ""
    provides: list[str] = []
    psps: list[PspReport] = []
    vaults: list[str] = []
    links: dict[str, str] = {}
    findings: list[str] = []
    remarks: list[str] = []


def probe(name: str, *, time_s: float = TIME_S) -> Report:
    """Look at an installed plugin from a safe distance.

    Raises:
        PluginError: no such plugin is installed.
    """
    points = installed()
    if name not in points:
        raise PluginError(f"No plugin '{name}' is installed. Installed: {', '.join(sorted(points)) or 'none'}.")
    distribution, version = distribution_of(points[name])
    report = Report(name=name, distribution=distribution, version=version, **_metadata(distribution))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "clearspan.commands.plugin_probe", name, str(out), f"{time_s:g}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=time_s + GRACE_S, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            return msgspec.structs.replace(report, problem=f"it did not come back within {time_s:g} seconds")
        if out.exists():
            return msgspec.json.decode(out.read_bytes(), type=Report)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    died = f"it ended the process with code {done.returncode}{f': {said[-1]}' if said else ''}"
    return msgspec.structs.replace(report, problem=died)


def examine(name: str, time_s: float) -> Report:
    """Load it here."""
    point = installed()[name]
    distribution, version = distribution_of(point)
    try:
        plugins = load({name: ""}, entry_points=[point], time_s=time_s)
        one = plugins.loaded[0]
    except PluginError as error:
        one = LoadedPlugin(name, distribution, version, problem=str(error))
    if one.problem:
        return Report(
            name=name, distribution=distribution, version=version, problem=one.problem, **_metadata(distribution)
        )
    module = point.load()
    requires = str(getattr(module, "requires_sdk", ""))
    remarks = [] if requires else ["requires_sdk: not said; write requires_sdk = '>=1.3,<2' into the module"]
    remarks += [f"{kind.name}: {words}" for kind in plugins.psps.values() for words in contract.psp_remarks(kind)]
    findings = list(_foreign_imports(point)) if plugins.psps or plugins.vaults else []
    if not plugins.provides(name):
        findings.append("it brings nothing: no hook hands anything over")
    return Report(
        name=name,
        distribution=distribution,
        version=version,
        requires_sdk=requires,
        provides=plugins.provides(name),
        psps=[_psp(kind) for kind in plugins.psps.values()],
        vaults=sorted(plugins.vaults),
        findings=findings,
        remarks=remarks,
        **_metadata(distribution),
    )


def _psp(kind: type[PspAdapter]) -> PspReport:
    facts = kind.facts
    return PspReport(
        name=kind.name,
        idempotency_window_s=facts.idempotency.window.total_seconds(),
        lookup=[name for name in ("by_reference", "by_key", "by_time") if getattr(facts.lookup, name)],
        lookup_lag_max_s=facts.lookup.lag_max.total_seconds(),
        max_late_effect_s=facts.max_late_effect.total_seconds(),
        webhook_signature=facts.webhook.signature,
        settings=form_fields(kind.config_type),
        **catalogue.described(kind),
    )


def _metadata(distribution: str) -> dict[str, Any]:
    try:
        found = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return {}
    links = [line.partition(",") for line in found.get_all("Project-URL") or []]
    return {
        "summary": (found.get_all("Summary") or [""])[0],
        "links": {label.strip(): url.strip() for label, _, url in links},
    }


def _foreign_imports(point: importlib.metadata.EntryPoint) -> Iterator[str]:
    """Where a PSP's or vault's plugin reaches past the contract."""
    spec = importlib.util.find_spec(point.module)
    if spec is None or spec.origin is None:
        return
    origin = Path(spec.origin)
    for path in sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                # "from clearspan import sdk" imports clearspan.sdk.
                names = [f"clearspan.{one.name}" for one in node.names] if node.module == "clearspan" else [node.module]
            else:
                continue
            for name in names:
                if name.startswith("clearspan.") and not f"{name}.".startswith("clearspan.sdk."):
                    yield f"{path.name}, line {node.lineno}: imports {name}; only clearspan.sdk is promised to stay"


if __name__ == "__main__":
    _, plugin, file, seconds = sys.argv
    Path(file).write_bytes(msgspec.json.encode(examine(plugin, float(seconds))))
