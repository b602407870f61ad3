"""Every text of the cockpit is in every catalogue, says the same there, and is shown in the operator's language."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest
from tests.admin import samples
from tests.admin.conftest import NewPerson
from tests.conftest import Merchant

from clearspan.app import Gateway
from clearspan.platform.gate import AsgiApp
from clearspan_admin import web, words, words_missing
from clearspan_admin.words_missing import TRANSLATED, MessageId

SHOWN = {"title", "placeholder", "aria-label", "alt", "data-confirm", "data-label"}
VOID = {"meta", "link", "input", "img", "br", "hr", "path", "rect", "line", "circle", "polyline", "polygon", "ellipse"}
AS_IT_IS = {"code", "pre", "script", "style", "kbd"}


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated_and_no_translation_is_left_over(language: str) -> None:
    """When it fails: ``make words`` prints what is missing, in the form in which the catalogues want it."""
    missing, unused = words_missing.missing(language), words_missing.unused(language)
    assert not missing, f"{len(missing)} texts are in no catalogue of {language}, {missing[:5]} and others"
    assert not unused, f"{unused} stand in a catalogue of {language} and nowhere else"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_catalogue_is_whole(language: str) -> None:
    """No doubtful, empty or commented-out entry, and one translation of a text, whichever area of pages needs it."""
    said: dict[MessageId, tuple[str, str]] = {}
    wrong = []
    for file, catalogue in words_missing.catalogues(language).items():
        assert catalogue.charset == "utf-8", file
        if catalogue.obsolete:
            wrong.append(f"{file}: {len(catalogue.obsolete)} obsolete entries")
        for message in catalogue:
            if not message.id:
                continue
            if message.fuzzy or not message.string or (isinstance(message.string, tuple) and not all(message.string)):
                wrong.append(f"{file}: {message.id!r} is fuzzy or empty")
            text = str(message.string)
            other, elsewhere = said.setdefault(message.id, (text, file))
            if other != text:
                wrong.append(f"{message.id!r} is {text!r} in {file} and {other!r} in {elsewhere}")
    assert wrong == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_placeholders_of_its_text(language: str) -> None:
    wrong = []
    for text, message in words_missing.translated(language).items():
        wanted = set().union(*map(words_missing.placeholders, [text] if isinstance(text, str) else text))
        for said in [message.string] if isinstance(message.string, str) else message.string:
            found = words_missing.placeholders(said)
            # A singular may say "one" in words.
            if found != wanted and not (isinstance(text, tuple) and found < wanted):
                wrong.append(f"{text!r}: {said!r}")
            bare = said.replace("%%", "")
            if wanted and bare.count("%") != len(words_missing._PLACEHOLDER.findall(bare)):
                wrong.append(f"{text!r}: a bare % in {said!r}")
    assert wrong == []


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_a_text_is_never_markup(language: str) -> None:
    """Jinja takes what ``_()`` gives for safe: a name or message of somebody else's, handed to it by mistake, would be a hole."""
    environment = web._environment(language)
    hostile = '<img src=x onerror="alert(1)">&'
    template = "{{ _(text) }} {{ ngettext(text, text, 2) }} {{ _('Copy %(what)s', what=text) }}"
    shown = environment.from_string(template).render(text=hostile)
    assert "<" not in shown
    assert '"' not in shown
    assert shown.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;") == 3


class Texts(HTMLParser):
    """Every text of a page that people see or hear, but not what stands there as it is: codes, names of languages."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._inside: list[tuple[str, bool]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value.strip() for name, value in attrs if name in SHOWN and value}
        if tag not in VOID:
            self._inside.append((tag, tag in AS_IT_IS or (tag != "html" and "lang" in dict(attrs))))

    def handle_endtag(self, tag: str) -> None:
        while self._inside:
            if self._inside.pop()[0] == tag:
                return

    def handle_data(self, data: str) -> None:
        if data.strip() and not any(as_it_is for _, as_it_is in self._inside):
            self.found.add(" ".join(data.split()))


def told(language: str) -> Iterator[str]:
    """The texts that look different in a language."""
    for text, message in words_missing.translated(language).items():
        if isinstance(text, str) and message.string != text and not words_missing.placeholders(text):
            yield text


@pytest.mark.parametrize("language", TRANSLATED)
async def test_a_page_speaks_the_operators_language(
    language: str, people: NewPerson, app: AsgiApp, gateway: Gateway, merchant: Merchant
) -> None:
    """Each page that needs no object, as an owner with this language sees it: no text of a catalogue stands there in English."""
    person = await people("owner")
    await gateway.operators.change(
        await gateway.operators.get(person.operator.operator_id), locale=language, name="Ada Lovelace"
    )
    person.http._transport = httpx.ASGITransport(app=samples.glance(app))  # type: ignore[arg-type]
    english = set(told(language))
    # In every language one of these is a word of that language as well, with another meaning.
    alike = {str(message.string) for message in words_missing.translated(language).values()}
    left = {}
    for page in samples.pages_of(app, "GET"):
        if page.names and page.template != "/admin/{path}":
            continue
        answer = await person.http.get(page.path({}), headers={"Accept-Language": language})
        if answer.headers.get("content-type", "").startswith("text/html") and "<!doctype html>" in answer.text:
            assert f'<html lang="{language}"' in answer.text, page
            left[str(page)] = sorted((Texts(answer.text).found & english) - alike)
    assert {page: texts for page, texts in left.items() if texts} == {}
    assert len(left) >= 3


async def test_a_refusal_speaks_it_too(people: NewPerson, gateway: Gateway) -> None:
    person = await people("support")
    await gateway.operators.change(person.operator, locale="de_AT")
    answer = await person.get("/audit")
    assert answer.status_code == 403
    assert "Ihre Rolle öffnet das nicht" in answer.text


def test_english_is_the_source() -> None:
    assert words.translations("en").gettext("Payments") == "Payments"
    assert words.translations("de").gettext("Payments") == "Zahlungen"
    assert words.language_of("de_AT") == "de"
    assert words.language_of("pt_BR") == "en"
