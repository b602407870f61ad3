"""The matrix of what PSPs can do is made from the plugins, and an adapter stays short or says why not."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from clearspan.docs_gen import capabilities

ADAPTERS = list(capabilities.adapters())


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda one: one.name)
def test_an_adapter_has_150_lines_or_says_why_not(adapter: type[Any]) -> None:
    lines = capabilities.lines_of(adapter)
    assert lines <= 150 or capabilities.reason_of(adapter), (
        f"{adapter.__name__} has {lines} lines of code: make it shorter, or say at the top of its module why it is longer than"
        " 150 lines"
    )


def test_every_adapter_is_in_the_matrix() -> None:
    section = capabilities.section()
    assert ADAPTERS
    for adapter in ADAPTERS:
        assert f" {adapter.name} |" in section
        assert f" {capabilities.lines_of(adapter)} |" in section


def test_lines_are_counted_without_words_and_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = '"""Doc\nstring."""\n\n# a comment\nX = [\n    1,\n]  # three\n\n\n'
    source += 'class A:\n    """Words."""\n\n    y = """a\nb"""\n'
    module = types.ModuleType("counted")
    monkeypatch.setitem(sys.modules, "counted", module)
    monkeypatch.setattr(capabilities.inspect, "getsource", lambda _: source)
    assert capabilities._lines(module) == 6
