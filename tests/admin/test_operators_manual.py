"""docs/operators.md shows pictures that exist, and explains every status that the cockpit shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.admin import pictures

from clearspan.access.roles import ROLES
from clearspan_admin import web
from clearspan_admin.nav import MENU

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "operators.md").read_text(encoding="utf-8")
NAMED = re.findall(r"!\[([^\]]*)\]\(pictures/([a-z-]+)\.png\)", TEXT)


def test_every_picture_that_is_named_is_there_and_every_one_there_is_named() -> None:
    names = {name for _, name in NAMED}
    assert {path.stem for path in pictures.FOLDER.glob("*.png")} == names
    assert names <= pictures.PICTURES.keys(), "make pictures would not renew it"
    assert all(described for described, _ in NAMED)


@pytest.mark.parametrize("path", sorted(pictures.FOLDER.glob("*.png")), ids=lambda path: path.stem)
def test_a_picture_is_small_and_as_wide_as_it_should_be(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) < pictures.SIZE_MAX
    assert int.from_bytes(content[16:20]) == (390 if pictures.PICTURES[path.stem].phone else 1280)


def test_every_status_is_explained_under_the_word_that_is_shown() -> None:
    """A status of ``ui.html`` without a row in the table fails this: say there what it means to the people who see it."""
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| [^|]+\. \|$", TEXT, re.MULTILINE))
    template = web._environment("en").get_template("ui.html")
    tones = template.make_module({"csrf_value": "", "new_key": str, "root": "", "shown": None}).TONES  # type: ignore[attr-defined]
    assert {name: str(word) for name, (_, _, word) in tones.items() if rows.get(name) != word} == {}


def test_every_role_and_every_key_of_the_menu_is_explained() -> None:
    roles = re.findall(r"^\| ([A-Z][a-z]+) \| [^|]+ \|$", TEXT, re.MULTILINE)
    assert {role.title() for role in ROLES} <= set(roles)
    (line,) = re.findall(r"^\| `g` then (.*) \|.*\|$", TEXT, re.MULTILINE)
    assert set(re.findall(r"`(.)`", line)) == {entry.keys[-1] for _, entries in MENU for entry in entries if entry.keys}
