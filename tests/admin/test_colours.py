"""Contrast of the design system, computed from its tokens: nobody has to see a page to know that it can be read."""

from __future__ import annotations

import re
from importlib import resources

import pytest

CSS = resources.files("clearspan_admin").joinpath("static", "cockpit.css").read_text("utf-8")
TOKENS: dict[str, tuple[str, str]] = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", CSS)
}
SURFACES = ("surface", "ground", "raised", "sunken")
TONES = ("good", "info", "warn", "bad", "plain")
TEXTS = [
    *((text, surface) for text in ("text", "muted", "accent", "accent-strong", *TONES) for surface in SURFACES),
    *((tone, f"{tone}-soft") for tone in TONES),
    *(("text", f"{tone}-soft") for tone in (*TONES, "accent")),
    ("accent-strong", "accent-soft"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
]
BORDERS = [(border, surface) for border in ("control", "focus") for surface in SURFACES]


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("over", "under", "least"), [*((*pair, 4.5) for pair in TEXTS), *((*pair, 3.0) for pair in BORDERS)]
)
def test_what_must_be_seen_stands_out(scheme: int, over: str, under: str, least: float) -> None:
    assert contrast(TOKENS[over][scheme], TOKENS[under][scheme]) >= least


def test_contrast_is_computed_as_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#777777", "#ffffff"), 2) == 4.48


def test_a_colour_is_said_once_and_for_both_schemes() -> None:
    """Outside of the tokens there is no colour, so neither scheme can forget one."""
    root, rest = CSS.split("}", 1)
    names = re.findall(r"--([a-z-]+):", root)
    assert len(names) == len(set(names))
    assert "--" not in re.sub(r"var\(--[a-z-]+\)|/\*.*?\*/", "", rest, flags=re.DOTALL), "tokens are set in :root only"
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{}]*;)", rest) == []
    assert set(re.findall(r"rgb\([^)]*\)", rest)) == {"rgb(10 16 22 / .5)"}, "of the dialog's backdrop only"
    assert set(re.findall(r"var\(--([a-z-]+)\)", CSS)) <= set(names)
