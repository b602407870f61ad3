"""The ledger: what stands on each account, which entries made it so, and whether all of it agrees."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency

from clearspan.ledger.service import EntryQuery, Ledger
from clearspan.platform import ids
from clearspan.platform.problems import InvalidRequest
from clearspan.psps.service import PspAccounts
from clearspan_admin import days, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

PAGE: Final = 50
ACCOUNTS: Final = {
    "authorized": (mark("Authorised"), mark("Held on payers' cards and not yet taken: what could still be captured.")),
    "payer_commitment": (mark("Payer commitment"), mark("Counterpart of what is held, as far as it was not taken.")),
    "released": (
        mark("Released"),
        mark("Of what was held, what was let go: voids, and the rest after a final capture."),
    ),
    "in_transit": (
        mark("In transit"),
        mark("What PSPs owe you: taken, and not given back, withheld, kept as a fee or paid out."),
    ),
    "captured": (mark("Captured"), mark("What was taken from payers: the revenue side.")),
    "refunded": (mark("Refunded"), mark("What was given back to payers.")),
    "disputed": (mark("Disputed"), mark("What PSPs withhold because payers dispute it.")),
    "returned": (mark("Returned"), mark("What banks took back (direct debits).")),
    "surplus": (mark("Surplus"), mark("What arrived although it had been given up, and has to be given back.")),
    "fees": (mark("Fees"), mark("What PSPs keep for their work.")),
}
KINDS: Final = {
    "authorize": mark("Authorisation"),
    "purchase": mark("Charge"),
    "capture": mark("Capture"),
    "void": mark("Void"),
    "refund": mark("Refund"),
    "reversal": mark("Reversal"),
    "surplus": mark("Surplus"),
    "dispute": mark("Dispute"),
    "fee": mark("Fee"),
    "opening": mark("Opening balance"),
}
WRONG: Final = {
    "balance": mark("An account of this payment has not the balance that the payment's totals say"),
    "transfer_not_zero": mark("The entries of this transfer do not sum to zero"),
    "payment_missing": mark("There is no payment to these entries in their currency"),
    "sum_not_zero": mark("The accounts of this currency do not sum to zero"),
}


class LedgerController(Controller):
    """``/admin/ledger``."""

    path = "/ledger"

    @get("/", opt={"scope": "ledger:read", "session": True})
    async def show(
        self, request: Http, ledger: NamedDependency[Ledger], psps: NamedDependency[PspAccounts]
    ) -> Response[bytes]:
        """Balances, and the entries behind them."""
        return await _page(request, ledger, psps)

    @post("/check", opt={"scope": "ledger:read", "session": True}, status_code=200)
    async def check(
        self, request: Http, ledger: NamedDependency[Ledger], psps: NamedDependency[PspAccounts]
    ) -> Response[bytes]:
        """Compare the ledger with itself and with the payments, now. Nothing is changed."""
        done = await ledger.check(web.caller_of(request).scope)
        wrong = [
            {
                "said": WRONG.get(one.kind, one.kind),
                "one": one,
                "payment": ids.encode("pay", one.payment_id) if one.payment_id else "",
            }
            for one in done.differences
        ]
        return await _page(request, ledger, psps, check=done, wrong=wrong)


async def _page(request: Http, ledger: Ledger, psps: PspAccounts, **more: Any) -> Response[bytes]:
    scope = web.caller_of(request).scope
    names = ("account", "payment", "psp_account", "after", "before")
    given = {name: request.query_params.get(name, "").strip()[:200] for name in names}
    error, balances, entries, following = "", [], [], None
    zone = days.zone_of(request)
    try:
        if given["account"] and given["account"] not in ACCOUNTS:
            given["account"] = ""
        since, until = days.moment(given["after"], zone), days.moment(given["before"], zone, whole=True)
        balances = (await ledger.balances(scope, psp_account=given["psp_account"] or None, before=until)).data
        query = EntryQuery(
            payment=given["payment"] or None,
            account=given["account"] or None,
            created_after=since,
            created_before=until,
        )
        found = await ledger.entries(scope, query, limit=PAGE, cursor=request.query_params.get("cursor") or None)
        entries, following = found.data, found.next_cursor
    except (InvalidRequest, ids.InvalidId) as refused:
        error = refused.detail
    own: dict[str, str] = {name: value for name, value in given.items() if value}
    return web.page(
        request,
        "ledger/ledger.html",
        status=422 if error else 200,
        currencies=[(currency, list(group)) for currency, group in groupby(balances, key=lambda one: one.currency)],
        entries=entries,
        given=given,
        error=error,
        accounts=ACCOUNTS,
        kinds=KINDS,
        psps={one.id: one.name for one in await psps.all(scope)},
        filtered=bool(own),
        next_href=web.url(request, "/ledger", cursor=following, **own) if following else "",
        first_href=web.url(request, "/ledger", **own) if request.query_params.get("cursor") else "",
        **({"check": None, "wrong": []} | more),
    )
