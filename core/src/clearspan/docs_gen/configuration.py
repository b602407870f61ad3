"""``docs/configuration.md`` and ``config/default.toml``, made from ``clearspan/default.toml`` and the settings' types.

``python -m clearspan.docs_gen.configuration`` writes both below the working directory, the root of the repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from clearspan.settings import FIELDS, default_text, describe, variable

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m clearspan.docs_gen.configuration` from core/src/clearspan/default.toml; edit that file. -->

Every setting has a default, so Clearspan starts without any configuration. What you change comes from, later ones winning:

1. `config/default.toml`, a copy of which is in the installed package;
2. one TOML file: the one given on the command line, else the one `CLEARSPAN_CONFIG` names, else `clearspan.toml` in the
   working directory when there is one;
3. environment variables `CLEARSPAN_<TABLE>_<KEY>`: `CLEARSPAN_SERVER_PORT=9000`. Booleans are `true`, `false`, `1` or `0`;
   lists are separated by commas or a TOML or JSON array; a table is a TOML inline table or a JSON object:
   `CLEARSPAN_PLUGINS_ENABLED='{ admin = ">=0.1", psp-acme = ">=1.2,<2" }'`. In a plugin's own variables,
   `CLEARSPAN_PLUGIN_<NAME>_<KEY>`, a dash of the name is an underscore, and the value is text.

Your `[plugins.enabled]` replaces the default one; the keys of a `[plugin.<name>]` are added to its defaults.

An unknown setting, in the file or in a `CLEARSPAN_` variable, stops the start, and so does a value of the wrong type or
out of bounds; all mistakes are listed at once, each with its source. In Kubernetes a Service named `clearspan` would put
such variables into every pod: set `enableServiceLinks: false` there, or name it differently.

Values of the type *secret* are never shown in logs or errors.
"""


class Entry(Struct, frozen=True):
    """One line of ``default.toml``: ``default`` is TOML, ``comment`` the lines above it as one."""

    key: str
    default: str
    comment: str


class Section(Struct, frozen=True):
    """One table of ``default.toml``; ``name`` may be dotted."""

    name: str
    comment: str
    entries: list[Entry]


def sections() -> list[Section]:
    """``default.toml`` with its comments, which a TOML parser drops. It keeps to one line per value."""
    found: list[Section] = []
    comment: list[str] = []
    for line in default_text().splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            continue
        if line.startswith("["):
            found.append(Section(name=line.strip("[]"), comment=" ".join(comment), entries=[]))
        elif line:
            key, default = line.split(" = ", 1)
            found[-1].entries.append(Entry(key=key, default=default, comment=" ".join(comment)))
        comment = []
    return found


def render() -> str:
    """``docs/configuration.md``."""
    return "\n".join([_INTRODUCTION, *(line for section in sections() for line in _section(section))])


def _section(section: Section) -> Iterator[str]:
    yield f"## `[{section.name}]`"
    yield ""
    yield section.comment
    yield ""
    yield "| Setting | Type | Default | Environment variable | Meaning |"
    yield "|---|---|---|---|---|"
    for entry in section.entries:
        kind, environment = _kind(section.name, entry.key)
        cells = (f"`{entry.key}`", kind, f"`{entry.default}`", f"`{environment}`", entry.comment)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _kind(table: str, key: str) -> tuple[str, str]:
    """Words for the type of a setting, and its environment variable."""
    if table == "plugins.enabled":
        return "version range", variable("plugins", "enabled")
    if table.startswith("plugin."):
        return "the plugin's", variable(table.replace(".", "_"), key)
    return describe(FIELDS[table][key]), variable(table, key)


def copy_default(root: Path) -> None:
    """Write ``config/default.toml``, where people look for it, as the copy of the one in the package."""
    (root / "config" / "default.toml").write_text(default_text(), encoding="utf-8")


def write_page(root: Path) -> None:
    """Write ``docs/configuration.md``."""
    (root / "docs" / "configuration.md").write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    copy_default(Path())
    write_page(Path())
