"""The languages of what payers see."""

from __future__ import annotations

LANGUAGES = ("en", "de", "fr", "es")
_ASKED_MAX = 10


def accepted(header: str) -> str:
    """The first of ours in a browser's ``Accept-Language``; English when there is none."""
    asked = [part.split(";")[0].strip()[:2].lower() for part in header.split(",")[:_ASKED_MAX]]
    return next((each for each in asked if each in LANGUAGES), "en")
