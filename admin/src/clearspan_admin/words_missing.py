"""``python -m clearspan_admin.words_missing [language ...]``: what the catalogues lack, in the form in which they want it.

Prints, for each language, entries with an empty translation, ready to be filled in and put into ``locale/<language>/<area>.po``;
ends with 1 when there are any. The test of the catalogues uses the same functions.
"""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.pofile import read_po, write_po

from clearspan.access import errors
from clearspan.access.keys import SCOPES
from clearspan.platform import problems
from clearspan.platform.problems import DomainError
from clearspan.sdk import DECLINES
from clearspan_admin.words import LANGUAGES

TRANSLATED: Final = tuple(language for language in LANGUAGES if language != "en")
KEYWORDS: Final[Mapping[str, Any]] = {"_": None, "mark": None, "say": (2,), "gettext": None, "ngettext": (1, 2)}
PROBLEMS: Final[tuple[type[DomainError], ...]] = (
    errors.SignInRequired,
    errors.NoTenant,
    errors.RoleForbids,
    errors.StepUpRequired,
    errors.SecondFactorRequired,
    errors.FormRefused,
    errors.RoleTooHigh,
    errors.LastOwner,
    errors.OperatorChanged,
    errors.MemberAlready,
    errors.EmailTaken,
    problems.NotFound,
    problems.InvalidRequest,
)
"""Refusals that the cockpit itself makes; those of the API stand in English, with their code."""
_PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]|%%")
MessageId = str | tuple[str, ...]


def marked() -> dict[MessageId, list[str]]:
    """Every text that is shown in the operator's language, with where it stands."""
    found: dict[MessageId, list[str]] = {}
    for method, name, entry in _sources():
        options = {"silent": "false", "trim_blocks": "true", "lstrip_blocks": "true", "newstyle_gettext": "true"}
        options |= {"extensions": "jinja2.ext.do"}
        with entry.open("rb") as file:
            for line, text, _, _ in extract(method, file, KEYWORDS, (), options if method != "python" else {}):
                found.setdefault(tuple(text) if isinstance(text, tuple | list) else text, []).append(f"{name}:{line}")
    for kind in PROBLEMS:
        for text in (kind.title, kind.advice):
            if text:
                found.setdefault(text, []).append(f"{kind.__module__}.{kind.__name__}")
    return found


def catalogues(language: str) -> dict[str, Catalog]:
    """The catalogues of a language by the name of their file.

    Raises:
        PoFileError: one is no catalogue.
    """
    folder = resources.files(__package__).joinpath("locale", language)
    if not folder.is_dir():
        return {}
    return {
        entry.name: read_po(io.BytesIO(entry.read_bytes()), locale=language, abort_invalid=True)
        for entry in sorted(folder.iterdir(), key=lambda each: each.name)
        if entry.name.endswith(".po")
    }


def translated(language: str) -> dict[MessageId, Message]:
    """What the catalogues of a language translate."""
    found = [message for catalogue in catalogues(language).values() for message in catalogue]
    return {_id(one): one for one in found if one.id and _is_whole(one)}


def missing(language: str) -> list[MessageId]:
    """What is marked and not translated."""
    known = translated(language)
    return [text for text in marked() if text not in known]


def unused(language: str) -> list[MessageId]:
    """What is translated and that nothing says any more."""
    texts, others = marked(), unmarked()
    return [text for text in translated(language) if text not in texts and text not in others]


def unmarked() -> set[MessageId]:
    """What may be translated and need not be: texts of the core that pages show, and texts that Python keeps in a variable."""
    found: set[MessageId] = {*SCOPES.values(), *(decline.meaning for decline in DECLINES.values())}
    import clearspan.app  # noqa: F401, PLC0415  (so that every refusal there is is known)

    for kind in problems.catalogue():
        found |= {kind.title, kind.advice}
    for method, _, entry in _sources():
        if method == "python":
            found |= {
                node.value
                for node in ast.walk(ast.parse(entry.read_bytes()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def placeholders(text: str) -> set[str]:
    """``{"count"}`` of ``%(count)s payments``."""
    return {found for found in _PLACEHOLDER.findall(text) if found}


def _id(message: Message) -> MessageId:
    return tuple(message.id) if isinstance(message.id, list | tuple) else str(message.id)


def _is_whole(message: Message) -> bool:
    said = message.string if isinstance(message.string, list | tuple) else (message.string,)
    return not message.fuzzy and all(said)


def _sources() -> Iterator[tuple[str, str, Traversable]]:
    for entry, name in _files(resources.files(__package__), ""):
        if name.startswith("templates/") and name.endswith(".html"):
            yield "jinja2.ext:babel_extract", name, entry
        elif name.endswith(".py"):
            yield "python", name, entry


def _files(folder: Traversable, path: str) -> Iterator[tuple[Traversable, str]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _files(entry, f"{path}{entry.name}/")
        else:
            yield entry, f"{path}{entry.name}"


def main(languages: list[str]) -> int:
    """Returns the exit code."""
    unknown = [language for language in languages if language not in TRANSLATED]
    if unknown:
        sys.stderr.write(f"usage: python -m clearspan_admin.words_missing [{'|'.join(TRANSLATED)} ...]\n")
        return 2
    places = marked()
    lacking = False
    for language in languages or TRANSLATED:
        lacks = missing(language)
        for text in unused(language):
            sys.stdout.write(f"# {language}: nothing says {text!r} any more; remove it\n")
        if not lacks:
            sys.stdout.write(f"# {language}: nothing is missing\n")
            continue
        lacking = True
        catalogue = Catalog(locale=language, fuzzy=False, header_comment=f"# {language}: {len(lacks)} missing")
        for text in lacks:
            catalogue.add(text, auto_comments=[", ".join(places[text][:3])])
        into = io.BytesIO()
        write_po(into, catalogue, width=0)
        sys.stdout.write(into.getvalue().decode())
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
