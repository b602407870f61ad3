"""What the cockpit says, in the operator's language: gettext catalogues, English being the text in the source.

A catalogue is ``locale/<language>/<area>.po``, one per area of pages; all of a language are read as one. ``babel`` reads and
compiles them. Texts are marked with ``_()`` in templates and with ``mark()`` where Python names one. A test finds every
marked text and refuses a catalogue that lacks one.
"""

from __future__ import annotations

import io
from functools import cache
from importlib import resources

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

LANGUAGES = {"en": "English", "fr": "Français", "de": "Deutsch", "es": "Español"}


@cache
def translations(language: str) -> NullTranslations:
    """The texts of a language; English has no catalogue."""
    merged = Catalog(locale=language)
    folder = resources.files(__package__).joinpath("locale", language)
    if language == "en" or not folder.is_dir():
        return NullTranslations()
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.endswith(".po"):
            for message in read_po(io.BytesIO(entry.read_bytes()), locale=language):
                if message.id and message.string:
                    merged.add(message.id, message.string)
    compiled = io.BytesIO()
    write_mo(compiled, merged)
    compiled.seek(0)
    return Translations(compiled)


def mark(text: str) -> str:
    """A text that is translated where it is shown."""
    return text


def language_of(locale: str) -> str:
    """``de`` of ``de_AT``; English for what we do not speak."""
    language = locale.partition("_")[0]
    return language if language in LANGUAGES else "en"
