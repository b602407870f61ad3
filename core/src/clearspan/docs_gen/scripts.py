"""``docs/scripts.md``: every script that a page of ours loads, with its digest and why (PCI DSS 4.0.1, requirement 6.4.3).

Scripts of the cockpit are found through its entry point, those of the capture page through the vaults'. A script says in its
first comment why it is there; of scripts that others wrote the cockpit's ``scripts.toml`` says it. One without a reason stops
the generation.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import entry_points
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
import pluggy

from clearspan.sdk import Hooks
from clearspan.vaults.service import PAGE_SCRIPT

PAGE = "docs/scripts.md"
_HEAD = """# Scripts

<!-- Made by `python -m clearspan.docs_gen` from the scripts themselves; edit their first comments instead. -->

Every script that a page of Clearspan loads (PCI DSS 4.0.1, requirement 6.4.3). Nothing is loaded inline, and nothing but what a
page's policy names: the cockpit's and the capture page's scripts carry a nonce that is new with each answer, the page on which
invoices are paid has no script at all. `tests/admin/test_scripts.py` compares this list with what the pages load. A change of a
script is a change of this page, which `make check` and reviewers see.

"""


class Script(msgspec.Struct, frozen=True):
    """A script.

    Attributes:
        name: as in its address or its package.
        sha256: of its bytes, as hex.
        why: in a sentence or two.
    """

    name: str
    sha256: str
    why: str


def render() -> str:
    """The page.

    Raises:
        ValueError: a script does not say why it is there.
    """
    lines = ["## The cockpit", "", "Below `/admin/static/<version>/`.", "", *_table(cockpit())]
    lines += ["## The capture page", "", "Below `/capture/assets/`, named by their digest.", "", *_table(capture())]
    lines += [
        "Besides, the vault's own script, from the vault's origin, which the policy of that page names; these are its settings:",
        "",
        *_vaults_own(),
        "",
        "## The API reference",
        "",
        "`/docs` shows the API reference with Swagger UI, from the package that brings it; nobody signs in or pays there.",
        "",
    ]
    return _HEAD + "\n".join(lines)


def cockpit() -> list[Script]:
    """Those of the cockpit, by name."""
    (entry,) = entry_points(group="clearspan", name="admin")
    package = resources.files(entry.value.partition(".")[0])
    reasons: dict[str, str] = tomllib.loads(package.joinpath("scripts.toml").read_text("utf-8"))
    found = sorted(_scripts(package.joinpath("static"), ""), key=lambda pair: pair[0])
    unknown = reasons.keys() - {name for name, _ in found}
    if unknown:
        raise ValueError(f"scripts.toml of the cockpit names scripts that there are not: {', '.join(sorted(unknown))}")
    return [_script(name, content, reasons.get(name, "")) for name, content in found]


def capture() -> list[Script]:
    """Those of the page on which a card is typed: ours, and one per vault without a page of its own."""
    found = [_script("clearspan: capture.js", PAGE_SCRIPT.encode())]
    for vault in sorted(_vaults(), key=lambda one: one.name):
        module = getattr(vault, "capture_module", "")
        if module:
            found.append(_script(f"{vault.name}: capture.js", module.encode()))
    return found


def _vaults_own() -> Iterator[str]:
    for vault in sorted(_vaults(), key=lambda one: one.name):
        if not getattr(vault, "capture_module", ""):
            continue
        for field in msgspec.structs.fields(vault.config_type):
            if field.name.endswith(("_version", "_integrity")):
                shown = f"`{field.default}`" if isinstance(field.default, str) and field.default else "none"
                yield f"- {vault.name}, `{field.encode_name}`: {shown} by default"


def _vaults() -> Iterator[Any]:
    for entry in entry_points(group="clearspan"):
        manager = pluggy.PluginManager("clearspan")
        manager.add_hookspecs(Hooks)
        manager.register(entry.load(), name=entry.name)
        for handed in manager.hook.clearspan_vaults():
            yield from handed


def _scripts(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _scripts(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(".js"):
            yield f"{path}{entry.name}", entry.read_bytes()


def _script(name: str, content: bytes, why: str = "") -> Script:
    why = why or _first_comment(content.decode())
    if not why:
        raise ValueError(f"{name} begins with no comment that says why it is there")
    return Script(name, hashlib.sha256(content).hexdigest(), why)


def _first_comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line.removeprefix("//").strip())
    return " ".join(lines)


def _table(found: list[Script]) -> Iterator[str]:
    yield "| Script | SHA-256 | Why |"
    yield "|---|---|---|"
    for one in found:
        yield f"| `{one.name}` | `{one.sha256}` | {one.why.replace('|', chr(92) + '|')} |"
    yield ""
