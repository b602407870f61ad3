"""Finding payments: the list, its filters, columns and saved filters, and the export."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Stream

from clearspan.access.operators import Operators
from clearspan.access.sessions import Signed
from clearspan.customers.pii import Pii
from clearspan.customers.service import Customers
from clearspan.payments.search import STATUSES, TEXT_MAX, PaymentSearch, Query, Row
from clearspan.platform import clock, ids
from clearspan.platform.problems import InvalidRequest
from clearspan.psps.service import PspAccounts
from clearspan.sdk import CURRENCIES
from clearspan_admin import typed, web
from clearspan_admin.shown import Shown
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

PAGE: Final = 50
SAVED_MAX: Final = 20
FIELDS: Final = (
    "q", "status", "psp", "currency", "amount_from", "amount_to", "from", "to", "customer", "metadata",
)  # fmt: skip
"""What the list is filtered by, as its address names it."""
COLUMNS: Final[Mapping[str, str]] = {
    "amount": mark("Amount"),
    "status": mark("Status"),
    "created": mark("Created"),
    "customer": mark("Customer"),
    "method": mark("Paid with"),
    "reference": mark("Reference"),
    "account": mark("PSP account"),
    "refunded": mark("Refunded"),
    "decline": mark("Decline code"),
    "description": mark("Description"),
    "updated": mark("Changed"),
    "id": mark("Id"),
}
_SHOWN_AT_FIRST = ("amount", "status", "created", "customer", "method", "reference", "account")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Wanted(msgspec.Struct, frozen=True):
    """The filters of a request.

    Attributes:
        typed: as they were typed.
        query: for the service; meaningless while there are problems.
        problems: by field, in the operator's language.
    """

    typed: dict[str, str]
    query: Query
    problems: dict[str, str]

    @property
    def address(self) -> str:
        """The filters as a query string."""
        return urlencode(self.typed)


class PaymentListController(Controller):
    """See the module's docstring."""

    path = "/payments"

    @get(opt={"scope": "payments:read", "session": True})
    async def page(
        self,
        request: Http,
        payment_search: NamedDependency[PaymentSearch],
        psps: NamedDependency[PspAccounts],
        customers: NamedDependency[Customers],
    ) -> Response[bytes]:
        """Payments, newest first."""
        scope = web.caller_of(request).scope
        accounts = await psps.names(scope, fresh=not web.is_fragment(request))
        wanted = read(request, accounts)
        cursor = request.query_params.get("cursor", "")
        found = None
        if not wanted.problems:
            try:
                found = await payment_search.find(scope, wanted.query, limit=PAGE, cursor=cursor or None)
            except InvalidRequest as error:
                wanted.problems["cursor"] = error.detail
        one_id = (
            found is not None and found.looked_for == ["id"] and len(found.rows) == 1 and set(wanted.typed) == {"q"}
        )
        if found is not None and one_id and not web.is_fragment(request):
            return web.go(request, f"/payments/{found.rows[0].id}")
        people: dict[UUID, Pii] = {}
        if found is not None and "customers:read" in web.who(request).scopes:
            owners = {row.payment.customer_id for row in found.rows if row.payment.customer_id is not None}
            people = await customers.personal_of(scope, sorted(owners))
        context: dict[str, Any] = {
            "wanted": wanted,
            "found": found,
            "people": people,
            "cursor": cursor,
            "columns": _columns(web.who(request)),
            "all_columns": COLUMNS,
            "can_save": len(_saved(web.who(request))) < SAVED_MAX,
        }
        if web.is_fragment(request):
            here = web.url(request, "/payments", **wanted.typed)
            return web.page(request, "payments/results.html", headers={"HX-Push-Url": here}, **context)
        return web.page(
            request,
            "payments/list.html",
            status=422 if wanted.problems else 200,
            statuses=STATUSES,
            accounts=sorted(
                {(ids.encode("acct", one), name) for one, (_, name) in accounts.items()}, key=lambda one: one[1]
            ),
            saved=_saved(web.who(request)),
            saved_max=SAVED_MAX,
            example=typed.plain(123450, "EUR", web.who(request).operator.locale),
            **context,
        )

    @get("/export.csv", opt={"scope": "payments:read", "session": True})
    async def export(
        self, request: Http, payment_search: NamedDependency[PaymentSearch], psps: NamedDependency[PspAccounts]
    ) -> Response[bytes] | Stream:
        """What the filters find, as CSV; streamed, so that its size does not matter."""
        scope = web.caller_of(request).scope
        wanted = read(request, await psps.names(scope, fresh=True))
        if wanted.problems:
            return web.go(request, "/payments", **wanted.typed)
        name = f"payments-{clock.now():%Y%m%dT%H%M%SZ}.csv"
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        return Stream(
            _csv(payment_search.all(scope, wanted.query)), media_type="text/csv; charset=utf-8", headers=headers
        )

    @post("/columns", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def columns(self, request: Http, operators: NamedDependency[Operators]) -> Response[bytes]:
        """Keep which columns this person wants."""
        form = await web.form_of(request)
        chosen = [name for name in COLUMNS if name == "amount" or name in form.many("column")]
        if form.has("default"):
            chosen = list(_SHOWN_AT_FIRST)
        await _prefer(web.who(request), operators, columns=chosen)
        return _back(request, form, web.say(request, "The columns are kept."))

    @post("/saved", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def save(self, request: Http, operators: NamedDependency[Operators]) -> Response[bytes]:
        """Save, rename or delete a filter of this person in this tenant."""
        form = await web.form_of(request)
        signed = web.who(request)
        saved = [dict(one) for one in _saved(signed)]
        name, old = form.text("name")[:60], form.text("old")
        if form.has("delete"):
            saved = [one for one in saved if one["name"] != old]
            said = web.say(request, "The filter is deleted.")
        elif not name:
            return _back(request, form, web.say(request, "Give the filter a name."), "bad")
        elif any(one["name"] == name for one in saved if one["name"] != old):
            return _back(request, form, web.say(request, "You have a filter of this name already."), "bad")
        elif form.has("rename"):
            saved = [one | {"name": name} if one["name"] == old else one for one in saved]
            said = web.say(request, "The filter is renamed.")
        elif len(saved) >= SAVED_MAX:
            return _back(
                request,
                form,
                web.say(request, "There may be %(count)s saved filters; delete one first.", count=SAVED_MAX),
                "bad",
            )
        else:
            saved.append({"name": name, "query": urlencode(_known(form.text("query")))})
            said = web.say(request, "The filter is saved.")
        mine = dict(signed.operator.preferences.get("payments", {}).get("saved", {}))
        mine[str(signed.membership.tenant_id)] = saved
        await _prefer(signed, operators, saved=mine)
        return _back(request, form, said)


# -- Filters --------------------------------------------------------------------------------------------------------------------


def read(request: Http, accounts: Mapping[UUID, tuple[str, str]]) -> Wanted:
    """The filters of an address, and what is wrong with them."""
    given = {name: request.query_params.get(name, "").strip().replace("\0", "") for name in FIELDS}
    given = {name: value for name, value in given.items() if value}
    signed = web.who(request)
    locale = signed.operator.locale
    zone = Shown(locale, signed.operator.timezone).tz
    problems: dict[str, str] = {}
    fields: dict[str, Any] = {}

    def say(field: str, text: str, **values: Any) -> None:
        problems[field] = web.say(request, text, **values)

    text = given.get("q", "")
    if len(text) > TEXT_MAX:
        say(
            "q",
            "Search for %(most)s characters at most; an id, a reference or an e-mail address is enough.",
            most=TEXT_MAX,
        )
    elif text:
        fields["text"] = text
        with contextlib.suppress(typed.NotRead):
            fields["amounts"] = [typed.amount(text, locale)]
    status = given.get("status")
    if status is not None and status not in STATUSES:
        say("status", "There is no such status; choose one of the list.")
    fields["status"] = status
    if "psp" in given:
        chosen = [one for one, (psp, name) in accounts.items() if given["psp"] in (ids.encode("acct", one), name, psp)]
        if not chosen:
            say("psp", "There is no such PSP account.")
        fields["accounts"] = chosen
    if "currency" in given:
        given["currency"] = given["currency"].upper()
        if given["currency"] not in CURRENCIES:
            say("currency", "Give a currency as three letters, such as EUR.")
        fields["currency"] = given["currency"]
    for name, field in (("amount_from", "amount_min"), ("amount_to", "amount_max")):
        if name in given:
            try:
                fields[field] = typed.amount(given[name], locale)
            except typed.NotRead:
                say(name, "Give an amount such as %(example)s.", example=typed.plain(123450, "EUR", locale))
    low, high = fields.get("amount_min"), fields.get("amount_max")
    if isinstance(low, Decimal) and isinstance(high, Decimal) and low > high:
        say("amount_to", "The largest amount is below the smallest one.")
    for name, field in (("from", "created_after"), ("to", "created_before")):
        if name in given:
            try:
                fields[field] = typed.day(given[name], zone, end=name == "to").astimezone(UTC)
            except (typed.NotRead, OverflowError):
                say(name, "Give a day as year-month-day, such as 2026-11-23.")
    if {"created_after", "created_before"} <= fields.keys() and fields["created_after"] >= fields["created_before"]:
        say("to", "The last day is before the first one.")
    if "customer" in given:
        try:
            fields["customer"] = ids.decode("cus", given["customer"].lower())
        except ids.InvalidId:
            say(
                "customer",
                "Give a customer's id; it begins with cus_. To search by e-mail address, use the search field.",
            )
    if "metadata" in given:
        key, equals, value = (part.strip() for part in given["metadata"].partition("="))
        if not key or not equals:
            say("metadata", "Write metadata as key=value.")
        fields["metadata"] = {key: value}
    query = Query(**fields) if not problems else Query()
    return Wanted(given, query, problems)


def _known(address: str) -> list[tuple[str, str]]:
    """Of a query string what the list knows: whatever else somebody saves is not kept."""
    try:
        pairs = parse_qsl(address[:4000], max_num_fields=50)
    except ValueError:
        return []
    return [(name, value[:TEXT_MAX]) for name, value in pairs if name in FIELDS]


def _back(request: Http, form: Form, said: str, tone: str = "good") -> Response[bytes]:
    return web.go(request, "/payments", said, tone, **dict(_known(form.text("query"))))


# -- What a person keeps --------------------------------------------------------------------------------------------------------


def _columns(signed: Signed) -> list[str]:
    chosen = signed.operator.preferences.get("payments", {}).get("columns") or _SHOWN_AT_FIRST
    return [name for name in COLUMNS if name in chosen]


def _saved(signed: Signed) -> Sequence[Mapping[str, str]]:
    saved: Sequence[Mapping[str, str]] = (
        signed.operator.preferences.get("payments", {}).get("saved", {}).get(str(signed.membership.tenant_id), [])
    )
    return saved


async def _prefer(signed: Signed, operators: Operators, **what: Any) -> None:
    preferences = dict(signed.operator.preferences)
    preferences["payments"] = {**preferences.get("payments", {}), **what}
    await operators.change(signed.operator, preferences=preferences)


# -- Export ---------------------------------------------------------------------------------------------------------------------


async def _csv(pages: AsyncIterator[list[Row]]) -> AsyncIterator[bytes]:
    head = [
        "id", "created_at", "status", "amount", "currency", "captured", "refunded", "disputed", "customer", "method", "last4",
        "reference", "description", "psp", "psp_account", "decline_code", "updated_at",
    ]  # fmt: skip
    yield _lines([head])
    async for rows in pages:
        if rows:
            yield _lines([_line(row) for row in rows])


def _line(row: Row) -> list[str]:
    payment = row.payment

    def major(minor: int) -> str:
        digits = CURRENCIES.get(payment.currency, 2)
        return f"{Decimal(minor).scaleb(-digits):.{digits}f}"

    return [
        row.id,
        f"{payment.created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        row.word,
        major(payment.amount_minor),
        payment.currency,
        major(payment.captured_minor),
        major(payment.refunded_minor),
        major(payment.disputed_minor),
        row.customer_id or "",
        (row.method.brand or row.method.psp_method or row.method.kind) if row.method else "",
        (row.method.last4 or "") if row.method else "",
        payment.reference or "",
        payment.description or "",
        row.psp,
        row.account,
        (payment.last_error or {}).get("code", ""),
        f"{payment.updated_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    ]


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    """CSV whose cells no spreadsheet takes for formulas."""
    text = io.StringIO()
    csv.writer(text).writerows([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in row] for row in rows)
    return text.getvalue().encode()
