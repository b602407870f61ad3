"""``clearspan plugins``: what is installed, enabled and loaded; one of them looked at; a new one begun."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from packaging.specifiers import SpecifierSet

from clearspan.app import Gateway
from clearspan.commands.plugin_probe import PspReport, Report, probe
from clearspan.commands.start import with_gateway
from clearspan.commands.tables import print_table
from clearspan.journal import plugins as plugin_log
from clearspan.journal.plugins import PluginChange
from clearspan.platform import plugins
from clearspan.platform.context import Scope
from clearspan.platform.crypto import KeyProblem
from clearspan.platform.plugins import PluginError, distribution_of
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.platform.processes import EmbeddedServerError
from clearspan.platform.runtime import OperatorError, embeds_postgres, published
from clearspan.platform.telemetry import configure_logging
from clearspan.sdk import FormField
from clearspan.settings import Settings

_ANY = "any"
EXIT = {"enabled": 0, "not enabled": 0, "safe mode": 0}
"""States that are as they should be."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin in the list.

    Attributes:
        state: ``enabled`` (it loads), ``left out`` (it does not), ``refused`` (the start stops), ``missing`` (likewise),
            ``not enabled`` (installed only; none of its code runs), ``safe mode``.
        allowed: the versions that the settings allow; ``None`` when it is not listed there.
        brings: what it hands over, when it is enabled.
    """

    name: str
    state: str
    distribution: str = ""
    version: str = ""
    allowed: str | None = None
    brings: list[str] = []
    problem: str = ""


def show(settings: Settings, *, as_json: bool) -> int:
    """List them; 1 when an enabled one does not load."""
    configure_logging("critical", "console")
    lines = _lines(settings)
    if as_json:
        _print_json({"object": "list", "data": lines})
    else:
        rows = [
            (
                one.name,
                one.state,
                one.version or "-",
                "-" if one.allowed is None else one.allowed or _ANY,
                ", ".join(one.brings) or "-",
            )
            for one in lines
        ]
        print_table(("NAME", "STATE", "VERSION", "ALLOWED", "BRINGS"), rows)
        for one in lines:
            if one.problem:
                print(f"{one.name}: {one.problem}", file=sys.stderr)
        if not lines:
            print("No plugin is installed.")
    return max((EXIT.get(one.state, 1) for one in lines), default=0)


def _lines(settings: Settings) -> list[Line]:
    enabled, safe_mode = settings.plugins.enabled, settings.plugins.safe_mode
    points = plugins.installed()
    found = []
    for name in sorted(points.keys() | enabled.keys()):
        allowed = enabled.get(name)
        if name not in points:
            words = "listed in plugins.enabled and not installed: install it, or take it out"
            found.append(Line(name=name, state="missing", allowed=allowed, problem=words))
            continue
        distribution, version = distribution_of(points[name])
        line = Line(name=name, state="not enabled", distribution=distribution, version=version, allowed=allowed)
        if allowed is not None:
            line = msgspec.structs.replace(line, state="safe mode") if safe_mode else _loaded(line, allowed)
        found.append(line)
    # One by one they may load, and still not together.
    if not safe_mode and all(one.state in ("enabled", "not enabled") for one in found):
        plugins.load(enabled)
    return found


def _loaded(line: Line, allowed: str) -> Line:
    try:
        loaded = plugins.load({line.name: allowed})
    except PluginError as error:
        return msgspec.structs.replace(line, state="refused", problem=str(error))
    if problem := loaded.loaded[0].problem:
        return msgspec.structs.replace(line, state="left out", problem=problem)
    return msgspec.structs.replace(line, state="enabled", brings=loaded.provides(line.name))


def info(settings: Settings, name: str, *, as_json: bool) -> int:
    """Tell all about one; 1 when it cannot be loaded."""
    configure_logging("critical", "console")
    report = probe(name)
    changes, unknown = _history(settings, name)
    if as_json:
        _print_json({**msgspec.to_builtins(report), "enabled": settings.plugins.enabled.get(name), "history": changes})
        return 1 if report.problem else 0
    allowed = settings.plugins.enabled.get(name)
    print(f"{name}  {report.distribution} {report.version}")
    if report.summary:
        print(report.summary)
    print(f"Enabled: {'no' if allowed is None else f'yes, versions allowed: {allowed or _ANY}'}")
    if report.problem:
        print(f"Cannot be loaded: {report.problem}")
    if report.requires_sdk:
        print(f"Needs SDK: {report.requires_sdk}")
    for label, url in report.links.items():
        print(f"{label}: {url}")
    for psp in report.psps:
        _print_psp(psp)
    for vault in report.vaults:
        print(f"\nVault {vault}; its settings stand in [plugin.{name}] of the settings file.")
    others = [words for words in report.provides if not words.startswith(("psp ", "vault "))]
    if others:
        print(f"\nBrings also: {', '.join(others)}")
    print("\nHistory" + (f": {unknown}" if unknown else "" if changes or unknown else ": none, it has not run yet"))
    for change in changes:
        why = f" ({change.problem})" if change.problem else ""
        print(f"  {change.at:%Y-%m-%d %H:%M:%S}Z  {change.type}  {change.version}{why}")
    return 1 if report.problem else 0


def _print_psp(psp: PspReport) -> None:
    print(f"\nPSP {psp.name}")
    rows = [
        ("capabilities", ", ".join(psp.capabilities)),
        ("pays with", ", ".join([*psp.sources, *psp.methods])),
        ("currencies", ", ".join(psp.currencies) or "all"),
        ("also does", ", ".join(psp.does) or "-"),
        (
            "idempotency keys",
            f"remembered for {_span(psp.idempotency_window_s)}" if psp.idempotency_window_s else "none",
        ),
        ("lookup", f"{', '.join(psp.lookup)}; visible after {_span(psp.lookup_lag_max_s)}" if psp.lookup else "none"),
        ("late effect", f"a lost request may still act for {_span(psp.max_late_effect_s)}"),
        ("webhooks", psp.webhook_signature if psp.webhook_signature != "none" else "unsigned, hints only"),
    ]
    for label, words in rows:
        print(f"  {label:<18}{words}")
    print("  settings")
    for field in psp.settings:
        print(f"    {field.name:<20}{_told(field)}")


def _told(field: FormField) -> str:
    kind = f"one of {', '.join(field.choices)}" if field.type == "choice" else field.type
    default = "" if field.required or field.default in (None, "") else f", default {field.default}"
    words = ". ".join(part.rstrip(".") for part in (field.title, field.description) if part)
    return f"{kind}, {'required' if field.required else 'optional'}{default}: {words}."


def _span(seconds: float) -> str:
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {name}{'s' * (seconds != size)}"
    return f"{seconds:g} seconds"


def _history(settings: Settings, name: str) -> tuple[list[PluginChange], str]:
    """What the installation's log says, and why it cannot be read; no database is started for it."""
    if embeds_postgres(settings):
        running = published(settings.data_dir)
        if running is None or not running.owner_url:
            return [], "not known while Clearspan does not run"
    found: list[PluginChange] = []

    async def work(gateway: Gateway) -> int:
        found.extend(await plugin_log.history(gateway.db, name))
        return 0

    # Without plugins: one that is broken must not keep its own history from being read.
    alone = msgspec.structs.replace(settings, plugins=msgspec.structs.replace(settings.plugins, safe_mode=True))
    try:
        with_gateway(alone, work)
    except (OperatorError, KeyProblem, EmbeddedServerError, DomainError) as error:
        return [], str(error)
    return found, ""


def check(settings: Settings, name: str, *, account: str | None, tenant: str | None, live: bool, as_json: bool) -> int:
    """Load one alone, and say whether it keeps to the contract; with an account, whether its PSP takes it. 1 when not."""
    configure_logging("critical", "console")
    if (account is None) != (tenant is None):
        raise InvalidRequest("--account and --tenant belong together: a PSP account is a tenant's.")
    report = probe(name)
    findings = [report.problem] if report.problem else list(report.findings)
    allowed = settings.plugins.enabled.get(name)
    if allowed is not None and not SpecifierSet(allowed).contains(report.version, prereleases=True):
        findings.append(f"version {report.version} is outside of what the settings allow, '{allowed}'")
    answer = None
    if account is not None and tenant is not None and not findings:
        if allowed is None:
            raise InvalidRequest(f"Enable the plugin first: add {name} to plugins.enabled.")
        answer = _ask(settings, report, account, tenant, live=live)
        if answer["status"] not in ("ok", "not_supported"):
            findings.append(f"account {account}: {answer['status']}: {answer['message']}")
    if as_json:
        document = {
            "ok": not findings,
            "findings": findings,
            "remarks": report.remarks,
            "account": answer,
            "plugin": report,
        }
        _print_json(document)
        return 1 if findings else 0
    for words in findings:
        print(f"wrong   {words}")
    for words in report.remarks:
        print(f"remark  {words}")
    if answer is not None and not findings:
        print(f"account {account}: {answer['status']}: {answer['message']}")
    enabled = "" if allowed is not None else f" It is not enabled: add {name} to [plugins.enabled]."
    if not findings:
        print(f"{name} {report.version} keeps to the contract: {', '.join(report.provides)}.{enabled}")
    return 1 if findings else 0


def _ask(settings: Settings, report: Report, account: str, slug: str, *, live: bool) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []

    async def work(gateway: Gateway) -> int:
        scope = Scope(tenant_id=(await gateway.tenants.by_slug(slug)).tenant_id, live=live)
        accounts = {one.name: one for one in await gateway.psps.all(scope)}
        found = accounts.get(account)
        if found is None or found.psp not in {psp.name for psp in report.psps}:
            mine = sorted(one.name for one in accounts.values() if one.psp in {psp.name for psp in report.psps})
            mode = "live" if live else "test"
            raise InvalidRequest(
                f"Tenant {slug} has no PSP account '{account}' of this plugin in {mode} mode."
                f" There are: {', '.join(mine) or 'none'}."
            )
        answers.append(msgspec.to_builtins(await gateway.psps.check(scope, found.id)))
        return 0

    with_gateway(settings, work)
    return answers[0]


def _print_json(document: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(document)).decode())
