"""The hosted capture page: plain HTML, no script, one stylesheet inside the page that the policy names by its hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from itertools import groupby
from urllib.parse import urlsplit

from clearspan_vault_sandbox.cards import CARDS, EXP_MONTH, EXP_YEAR, TestCard

STYLE = files(__package__).joinpath("page.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

_HEADINGS = {
    "approved": "Approved",
    "3-D Secure": "3-D Secure",
    "special": "Special behaviour",
    "declined": "Declined, one per code",
}
_FIELDS = {"number": "Card number", "expiry": "Expiry date", "cvc": "CVC", "name": "Name on card"}
_HINTS = {"expiry": "MM/YY", "cvc": "The 3 or 4 digit security code; any will do"}


def policy(return_url: str | None = None) -> str:
    """The content security policy; browsers check a form's redirect too, so the origin to return to must be in it."""
    targets = "'self'"
    if return_url:
        parts = urlsplit(return_url)
        targets += f" {parts.scheme}://{parts.netloc}"
    return f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {targets}; base-uri 'none'; frame-ancestors 'none'"


def capture(session_id: str, values: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """The form.

    Args:
        session_id: part of the page's own address.
        values: field -> text to show; never what a payer typed, unless it is in the table of test cards.
        errors: field -> what is wrong with it.
    """
    listed = "".join(f'<li><a href="#{field}">{escape(text)}</a></li>' for field, text in errors.items())
    summary = (
        f'<div class="errors" role="alert"><strong>The card was not accepted</strong><ul>{listed}</ul></div>'
        if errors
        else ""
    )
    number, expiry, cvc, name = (_field(field, values.get(field, ""), errors.get(field)) for field in _FIELDS)
    groups = "".join(
        f"<details{'' if group == 'declined' else ' open'}><summary>{_HEADINGS[group]}</summary>"
        f'<ul class="cards">{"".join(_row(card) for card in cards)}</ul></details>'
        for group, cards in groupby(CARDS, key=lambda card: card.group)
    )
    return _page(
        f"{'Error: ' if errors else ''}Enter a test card",
        f"""<h1>Enter a test card</h1>
<p class="soft">This page belongs to the sandbox vault. The shop never sees the number; it gets a token.</p>
<div class="columns">
<section class="card" aria-label="Card">{summary}
<form method="post" action="/capture/{escape(session_id)}" autocomplete="off" novalidate>
{number}<div class="pair">{expiry}{cvc}</div>{name}
<button type="submit">Save card</button>
</form></section>
<section class="card" aria-labelledby="cards"><h2 id="cards">Test cards</h2>
<p class="soft">Choose one to fill in the form, or copy its number. Other numbers are refused.</p>{groups}</section>
</div>""",
    )


def message(title: str, text: str) -> str:
    """A page that only says something."""
    return _page(title, f'<section class="card message"><h1>{escape(title)}</h1><p>{escape(text)}</p></section>')


def filled(card: TestCard) -> dict[str, str]:
    """The form's values for a row of the table."""
    return {
        "number": card.spaced,
        "expiry": f"{EXP_MONTH:02}/{EXP_YEAR % 100:02}",
        "cvc": card.cvc,
        "name": "Test Payer",
    }


def _field(field: str, value: str, error: str | None) -> str:
    numeric = "" if field == "name" else ' inputmode="numeric"'
    described, below = [], ""
    if hint := _HINTS.get(field):
        described.append(f"{field}-hint")
        below += f'<p class="hint" id="{field}-hint">{escape(hint)}</p>'
    if error:
        described.append(f"{field}-error")
        below += f'<p class="wrong" id="{field}-error">{escape(error)}</p>'
    attributes = ' aria-invalid="true"' if error else ""
    if described:
        attributes += f' aria-describedby="{" ".join(described)}"'
    return (
        f'<div class="field"><label for="{field}">{_FIELDS[field]}</label>'
        f'<input id="{field}" name="{field}" value="{escape(value)}" maxlength="64" autocomplete="off" required{numeric}'
        f"{attributes}>{below}</div>"
    )


def _row(card: TestCard) -> str:
    return (
        f"<li><span>{escape(card.title)}</span><code>{card.spaced}</code>"
        f'<a href="?card={card.name}" aria-label="Use {escape(card.title)}">Use</a></li>'
    )


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Clearspan sandbox vault</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<style>{STYLE}</style></head><body>"
        '<p class="note"><strong>Sandbox.</strong> No money moves. Never enter a real card.</p>'
        f"<main>{body}</main></body></html>"
    )
