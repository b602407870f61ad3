"""``/pay/{token}``: plain HTML, no script, one stylesheet inside the page that the policy names by its hash."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from markupsafe import Markup

from clearspan.access.guard import PUBLIC
from clearspan.platform.locales import accepted
from clearspan.subscriptions import languages
from clearspan.subscriptions.documents import clean
from clearspan.subscriptions.invoices_controller import pdf as pdf_response
from clearspan.subscriptions.pay import Opened, Outcome, PayPage

_STYLE = resources.files("clearspan.platform").joinpath("payer.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Robots-Tag": "noindex, nofollow", "Cache-Control": "no-store"}
_LOOKS_AGAIN_S = 5
_TOKEN_MAX = 500
_MESSAGES = frozenset(
    {Outcome.DECLINED.value, Outcome.FAILED.value, Outcome.CARD_REFUSED.value, Outcome.IN_DOUBT.value}
)


class PayController(Controller):
    """The pay page."""

    path = "/pay/{token:str}"
    include_in_schema = False

    @get(opt={"scope": PUBLIC})
    async def show(
        self, request: Request[Any, Any, Any], token: FromPath[str], pay_page: NamedDependency[PayPage]
    ) -> Response[str]:
        """The invoice, and the button to pay it when it can be paid."""
        opened = await pay_page.open(token)
        return _unknown(request) if opened is None else _page(opened, token, request.query_params.get("e", ""))

    @post(opt={"scope": PUBLIC}, status_code=200)
    async def begin(
        self, request: Request[Any, Any, Any], token: FromPath[str], pay_page: NamedDependency[PayPage]
    ) -> Response[str]:
        """On to the vault's page. A page in between, because browsers hold a form's redirect to its policy."""
        opened = await pay_page.open(token)
        if opened is None:
            return _unknown(request)
        if not _payable(opened):
            return _to(token)
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        url = await pay_page.capture(opened, _id(request), keep=form.get("keep") == ["yes"])
        return _to(token, Outcome.FAILED) if url is None else _leaving(opened, "leaving_vault", url)

    @get("/card", opt={"scope": PUBLIC})
    async def card(
        self, request: Request[Any, Any, Any], token: FromPath[str], pay_page: NamedDependency[PayPage]
    ) -> Response[str]:
        """Back from the vault with a card's token: charge it, once however often this is loaded."""
        opened = await pay_page.open(token)
        if opened is None:
            return _unknown(request)
        vault_token = request.query_params.get("token", "")
        if not _payable(opened) or not 0 < len(vault_token) <= _TOKEN_MAX:
            return _to(token)
        keep = request.query_params.get("keep") == "yes"
        outcome, url = await pay_page.charge(opened, vault_token, _id(request), keep=keep)
        return _to(token, outcome) if url is None else _leaving(opened, "leaving_bank", url)

    @get("/return", opt={"scope": PUBLIC})
    async def back(
        self, request: Request[Any, Any, Any], token: FromPath[str], pay_page: NamedDependency[PayPage]
    ) -> Response[str]:
        """Back from the bank."""
        opened = await pay_page.open(token)
        if opened is None:
            return _unknown(request)
        if opened.invoice.payment is None or not opened.invoice.payment_locked:
            return _to(token)
        params = {name[:100]: value[:1000] for name, value in list(request.query_params.items())[:20]}
        return _to(token, await pay_page.returned(opened, params, _id(request)))

    @get("/pdf", opt={"scope": PUBLIC})
    async def document(
        self, request: Request[Any, Any, Any], token: FromPath[str], pay_page: NamedDependency[PayPage]
    ) -> Response[Any]:
        """The invoice as PDF."""
        found = await pay_page.document(token)
        if found is None:
            return _unknown(request)
        answer = pdf_response(*found)
        answer.headers["X-Robots-Tag"] = _HEADERS["X-Robots-Tag"]
        return answer


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("clearspan.subscriptions"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _id(request: Request[Any, Any, Any]) -> str:
    found: str = request.scope["state"]["request_id"]
    return found


def _payable(opened: Opened) -> bool:
    return opened.invoice.left_minor > 0 and not opened.invoice.payment_locked


def _to(token: str, outcome: Outcome | None = None) -> Response[str]:
    """Look at the page, which shows what is true; the card's token leaves the address bar."""
    asked = f"?e={outcome.value}" if outcome is not None and outcome.value in _MESSAGES else ""
    return Response("", status_code=303, headers={"Location": f"/pay/{token}{asked}", "Cache-Control": "no-store"})


def _page(opened: Opened, token: str, message: str) -> Response[str]:
    invoice, party = opened.invoice, opened.party
    said = languages.words(party.language, "pay")
    seller, number = party.seller.name, clean(invoice.number or "")
    here = f"/pay/{token}"
    known: dict[str, Any] = {"live": invoice.live, "pdf": f"{here}/pdf"}
    if invoice.status == "void" or (invoice.left_minor <= 0 and invoice.status != "paid"):
        text = said["void_text"].format(number=number, seller=seller)
        return _html(party.language, 200, heading=said["void_title"], text=text, **known)
    if invoice.status == "paid":
        text = said["paid_text"].format(number=number, seller=seller)
        return _html(party.language, 200, heading=said["paid_title"], text=text, **known)
    issued = languages.date(invoice.opened_at or invoice.created_at, party.language, party.zone)
    amount = languages.money(invoice.left_minor, invoice.currency, party.language)
    known |= {"amount": amount, "facts": [(said["number"], number), (said["issued"], issued)]}
    if opened.action_url is not None:
        go_on = {"url": opened.action_url, "name": said["action_button"]}
        return _html(party.language, 200, heading=said["action_title"], text=said["action_text"], go_on=go_on, **known)
    if invoice.payment_locked:
        return _html(
            party.language,
            200,
            heading=said["locked_title"],
            text=said["locked_text"],
            refresh=str(_LOOKS_AGAIN_S),
            **known,
        )
    keep = None
    if opened.offers_keeping:
        keep = {"label": said["keep"], "terms": said["keep_terms"].format(seller=seller)}
    return _html(
        party.language,
        200,
        title=said["title"].format(number=number),
        heading=said["from"].format(seller=seller),
        error=said[message] if message in _MESSAGES else None,
        action=here,
        keep=keep,
        button=said["button"].format(amount=amount),
        vault=said["vault"].format(seller=seller),
        **known,
    )


def _leaving(opened: Opened, why: str, url: str) -> Response[str]:
    said = languages.words(opened.party.language, "pay")
    return _html(
        opened.party.language,
        200,
        live=opened.invoice.live,
        heading=said[why],
        go_on={"url": url, "name": said["go_on"]},
        refresh=f"0;url={url}",
    )


def _unknown(request: Request[Any, Any, Any]) -> Response[str]:
    language = accepted(request.headers.get("accept-language", ""))
    said = languages.words(language, "pay")
    return _html(language, 404, live=True, heading=said["unknown_title"], text=said["unknown_text"])


_NOTHING = dict.fromkeys(
    ("title", "text", "error", "amount", "facts", "go_on", "button", "action", "keep", "vault", "pdf", "refresh")
)


def _html(language: str, status: int, **shown: Any) -> Response[str]:
    values = _NOTHING | {"title": shown["heading"]} | shown
    page = _templates().get_template("pay.html")
    body = page.render(
        language=language,
        said=languages.words(language, "pay"),
        style=Markup(_STYLE),  # noqa: S704  (our own file)
        **values,
    )
    return Response(body, status_code=status, media_type="text/html", headers=_HEADERS)
