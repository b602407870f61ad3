"""What the project promises about itself: time through one door, everything documented, no network in a transaction."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clearspan import sdk
from clearspan.access.keys import SCOPES
from clearspan.platform.problems import catalogue
from clearspan.platform.telemetry import Metrics
from clearspan.sdk.hookspecs import Hooks

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "clearspan"
SOURCES = sorted(CORE.rglob("*.py"))

FORBIDDEN = {
    ("time", "time"),
    ("time", "monotonic"),
    ("time", "sleep"),
    ("asyncio", "sleep"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("uuid", "uuid1"),
    ("uuid", "uuid4"),
    ("os", "urandom"),
}
"""Ways to time, chance and sleep that a simulated run could not replace."""
FORBIDDEN_MODULES = {"random", "secrets"}
DOORS = {
    "platform/clock.py": "the door itself",
    "sdk/psp.py": "an adapter's clock outside of a gateway, in its author's tests; the gateway hands over its own",
    "platform/processes.py": "waits for embedded servers, before there is a gateway whose time could be simulated",
    "platform/embedded_postgres.py": "likewise",
    "platform/embedded_redis.py": "likewise",
    "sdk/vault.py": "a provider's clock outside of a gateway, in its author's tests; the gateway hands over its own",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CORE)))
def test_time_chance_and_sleep_go_through_the_clock(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN:
                found.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            found += [
                f"line {node.lineno}: import {name.name}" for name in node.names if name.name in FORBIDDEN_MODULES
            ]
        elif isinstance(node, ast.ImportFrom):
            if node.module in FORBIDDEN_MODULES:
                found.append(f"line {node.lineno}: from {node.module}")
            found += [
                f"line {node.lineno}: from {node.module} import {name.name}"
                for name in node.names
                if (node.module, name.name) in FORBIDDEN
            ]
    relative = str(path.relative_to(CORE))
    assert (not found) or relative in DOORS, found


def test_the_exceptions_to_the_clock_rule_are_files_that_exist() -> None:
    assert [name for name in DOORS if not (CORE / name).exists()] == []


def test_sql_never_asks_for_the_time_itself() -> None:
    texts = {path: path.read_text() for path in CORE.rglob("*.sql")}
    assert len(texts) > 3
    found = [
        str(path)
        for path, text in texts.items()
        if re.search(r"\b(now\(\)|current_timestamp|clock_timestamp|statement_timestamp)", _code(text), re.IGNORECASE)
    ]
    assert found == []


def _code(sql: str) -> str:
    return re.sub(r"--[^\n]*", "", sql)


def test_every_hook_is_documented_for_plugin_authors() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    hooks = [name for name in vars(Hooks) if name.startswith("clearspan_")]
    assert len(hooks) >= 4
    assert [name for name in hooks if f"`{name}(" not in page] == []


def test_every_scope_is_in_the_api_guide() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert [scope for scope in SCOPES if f"`{scope}`" not in page] == []


def test_every_metric_is_documented_for_operators() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    text = Metrics().render().decode()
    names = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    for name in (
        "gateway_requests_total",
        "gateway_request_duration_seconds",
        "payments_inflight_total",
        "rebill_jobs_failed_total",
        "webhook_lag_seconds",
        "psp_call_errors_total",
        "reconciliation_mismatches_total",
    ):
        assert name in names
        assert f"`{name}`" in page


def test_every_public_name_of_the_sdk_says_what_it_is() -> None:
    missing = [
        name
        for name in sdk.__all__
        if isinstance(getattr(sdk, name), type) and not (getattr(sdk, name).__doc__ or "").strip()
    ]
    assert missing == []


def test_every_error_says_what_to_do_or_is_explained_where_it_is_raised() -> None:
    import clearspan.app  # noqa: F401  (so that every module's errors are known)

    kinds = list(catalogue())
    assert len(kinds) > 30
    assert [kind.code for kind in kinds if not (kind.__doc__ or "").strip()] == []
    assert [kind.code for kind in kinds if not re.fullmatch(r"[a-z][a-z0-9_]{2,60}", kind.code)] == []


def test_nothing_in_the_repository_names_a_host_of_a_package_index() -> None:
    locks = [ROOT / "requirements.lock", ROOT / "requirements-runtime.lock"]
    assert [str(path) for path in locks if re.search(r"https?://|--index|--find-links", path.read_text())] == []


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
