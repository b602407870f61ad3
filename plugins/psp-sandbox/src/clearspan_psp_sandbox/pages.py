"""The challenge page: what a card issuer shows the payer. Plain HTML, no script."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from urllib.parse import urlencode, urlsplit, urlunsplit

from clearspan.sdk import UnknownCurrency, format_amount
from clearspan_psp_sandbox.bank import Operation

_STYLE = files(__package__).joinpath("page.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def policy(return_url: str | None) -> str:
    """The content security policy; browsers check a form's redirect too, so the origin to return to must be in it."""
    targets = "'self'"
    if return_url:
        parts = urlsplit(return_url)
        targets += f" {parts.scheme}://{parts.netloc}"
    return f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {targets}; base-uri 'none'; frame-ancestors 'none'"


def challenge(charge: Operation) -> str:
    """Approve or fail."""
    try:
        amount = format_amount(charge.amount, charge.currency)
    except UnknownCurrency:
        amount = f"{charge.amount} {charge.currency}"
    card = charge.card
    rows = {
        "Merchant": f"Sandbox account {charge.account}",
        "Amount": amount,
        "Card": f"{card.brand.title()} •••• {card.last4}" if card else "-",
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    listed += f'<div><dt>Payment</dt><dd class="id">{escape(charge.id)}</dd></div>'
    return _page(
        "Confirm your payment",
        f"""<h1>Confirm your payment</h1>
<p class="soft">This page plays the card issuer. Decide how the 3‑D&nbsp;Secure challenge ends.</p>
<dl>{listed}</dl>
<form method="post">
<button name="result" value="approve">Approve</button>
<button name="result" value="fail" class="second">Fail</button>
</form>""",
    )


def done(charge: Operation) -> str:
    """The challenge is over."""
    result = charge.three_ds.result if charge.three_ds else "over"
    back = f'<p><a href="{escape(come_back(charge))}">Back to the shop</a></p>' if charge.return_url else ""
    closing = "" if back else "<p>You can close this page.</p>"
    return _page("Challenge finished", f"<h1>Challenge finished</h1><p>Result: {escape(result)}.</p>{back}{closing}")


def missing() -> str:
    """No such challenge."""
    return _page("Not found", "<h1>Not found</h1><p>There is no challenge at this address.</p>")


def come_back(charge: Operation) -> str:
    """The address to return to, with ``charge`` and ``authentication`` added to its query."""
    parts = urlsplit(charge.return_url or "")
    result = charge.three_ds.result if charge.three_ds else ""
    query = urlencode({"charge": charge.id, "authentication": result})
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Clearspan sandbox PSP</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<style>{_STYLE}</style></head><body><p class="note"><strong>Sandbox.</strong> No money moves.</p>'
        f'<main class="card">{body}</main></body></html>'
    )
