"""``clearspan plugins new``: the package of a new plugin, complete and honest: what is not written yet says so when it is called.

The templates lie beside this module, in ``new_plugin/<kind>``; ``@WORDS@`` in their texts and paths are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from clearspan.platform.problems import InvalidRequest
from clearspan.sdk import API_VERSION

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME_MAX = 30
_SUFFIX = ".tmpl"


def run(kind: str, name: str, directory: Path | None) -> int:
    """Write it, and say what comes next."""
    folder = write(kind, name, directory)
    print(f"{folder} is written. Next, in it: read README.md, then 'pytest' says what is missing.")
    return 0


def write(kind: str, name: str, directory: Path | None = None) -> Path:
    """Write the package of a new plugin; answers where it is.

    Args:
        kind: ``psp`` or ``vault``.
        name: of the provider.
        directory: where to; must not exist, or be empty.

    Raises:
        InvalidRequest: the name or the directory cannot be taken.
    """
    if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
        raise InvalidRequest(
            f"'{name}' cannot be a plugin's name: up to {_NAME_MAX} lower-case letters, digits and '-', a letter first."
        )
    folder = directory if directory is not None else Path(f"{kind}-{name}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InvalidRequest(f"{folder} is not empty: name another place with --directory.")
        words = _words(kind, name)
        for path, template in _files(resources.files("clearspan.commands") / "new_plugin" / kind, PurePosixPath()):
            place = folder / _filled(str(path).removesuffix(_SUFFIX), words)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_filled(template.read_text(encoding="utf-8"), words), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be written: {error.strerror or error}.") from error
    return folder


def _words(kind: str, name: str) -> dict[str, str]:
    major = int(API_VERSION.partition(".")[0])
    return {
        "NAME": name.replace("-", "_"),
        "PLUGIN": f"{kind}-{name}",
        "DISTRIBUTION": f"clearspan-{kind}-{name}",
        "PACKAGE": f"clearspan_{kind}_{name.replace('-', '_')}",
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "TITLE": " ".join(part.capitalize() for part in name.split("-")),
        "TESTS": "tests",  # A folder of that name is left out where images are built.
        "SDK": f">={API_VERSION},<{major + 1}",
    }


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _files(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            yield from _files(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield path / entry.name, entry
