"""``python -m clearspan.docs_gen [--check]``: write the generated pages below the working directory, the repository's root.

``--check`` writes nothing and ends with 1 when a page is not what its source says, naming each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clearspan.docs_gen import capabilities, configuration, declines, errors, roles, scripts
from clearspan.settings import default_text

PAGES = {
    "config/default.toml": default_text,
    "docs/configuration.md": configuration.render,
    "docs/declines.md": declines.render,
    "docs/errors.md": errors.render,
    capabilities.PAGE: capabilities.render,
    roles.PAGE: roles.render,
    scripts.PAGE: scripts.render,
}


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m clearspan.docs_gen [--check]\n")
        return 2
    stale = [name for name, render in PAGES.items() if _text(Path(name)) != render()]
    if arguments:
        sys.stderr.writelines(f"{name} is stale: run python -m clearspan.docs_gen\n" for name in stale)
        return 1 if stale else 0
    for name in stale:
        Path(name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"{name} written\n")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
