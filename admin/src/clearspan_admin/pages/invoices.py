"""Invoices: what they ask for, how they are collected, and stepping in."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.customers.service import Customers
from clearspan.journal.checking import Trail
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids
from clearspan.platform.problems import DomainError, NotFound
from clearspan.rebills.desk import Rebills
from clearspan.rebills.dunning import DunningPlans
from clearspan.rebills.errors import RebillNotFound
from clearspan.rebills.notices import Notices
from clearspan.rebills.notices_schemas import NoticeFilters
from clearspan.rebills.schemas import RebillExplained
from clearspan.subscriptions.documents import Documents
from clearspan.subscriptions.invoices import InvoiceFilters, Invoices
from clearspan.subscriptions.invoices_schemas import STATUSES, CreditNoteCreate, InvoiceOut
from clearspan_admin import billing, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

OVERDUE_D: Final = 7
"""So many days after it was opened an unpaid invoice counts as overdue; the list says so."""
_CREDIT_WRONG: Final = {
    "amount_minor": billing.AMOUNT_WRONG,
    "tax_minor": mark("The tax is an amount that the whole contains."),
    "reason": mark("Say why, in up to 500 characters: it stands on the credit note."),
    "settled_by": mark("Choose how it is settled."),
}
_REASON_WRONG: Final = mark("Say why, in up to 500 characters.")


class _Around(msgspec.Struct, frozen=True):
    """The services that an invoice's page asks."""

    invoices: Invoices
    rebills: Rebills
    dunning_plans: DunningPlans
    notices: Notices
    customers: Customers
    payments: Payments
    trail: Trail


async def provide_around(
    invoices: NamedDependency[Invoices],
    rebills: NamedDependency[Rebills],
    dunning_plans: NamedDependency[DunningPlans],
    notices: NamedDependency[Notices],
    customers: NamedDependency[Customers],
    payments: NamedDependency[Payments],
    trail: NamedDependency[Trail],
) -> _Around:
    """All of them, for pages that may have to show the invoice again with a refusal."""
    return _Around(invoices, rebills, dunning_plans, notices, customers, payments, trail)


class InvoicePages(Controller):
    """``/admin/invoices``."""

    dependencies = {"around": provide_around}

    @get("/invoices", opt={"scope": "invoices:read", "session": True})
    async def list(
        self, request: Http, invoices: NamedDependency[Invoices], customers: NamedDependency[Customers]
    ) -> Response[bytes]:
        """Newest first, by status, customer, subscription, number, or what is overdue."""
        asked = request.query_params
        query, cursor = asked.get("q", "").strip(), asked.get("cursor")
        where = billing.place_of(query)
        if where is not None:
            return web.go(request, where)
        scope = web.caller_of(request).scope
        chosen = {name: asked.get(name, "") for name in ("status", "customer", "subscription")} | {"q": query}
        overdue = chosen["status"] == "overdue"
        filters = InvoiceFilters(
            status=chosen["status"] if chosen["status"] in STATUSES else None,
            customer_id=ids.decode("cus", chosen["customer"]) if chosen["customer"] else None,
            subscription_id=ids.decode("sub", chosen["subscription"]) if chosen["subscription"] else None,
            number=query[:60] or None,
            due=True if overdue else None,
            opened_before=clock.now() - timedelta(days=OVERDUE_D) if overdue else None,
        )
        found = await invoices.list(scope, filters, billing.ROWS, cursor)
        names = await billing.names_of(request, customers, found.data)
        return billing.show(
            request, "invoices/list.html", found=found, names=names, chosen=chosen, cursor=cursor, statuses=STATUSES,
            overdue_d=OVERDUE_D,
        )  # fmt: skip

    @get("/invoices/{invoice_id:str}", opt={"scope": "invoices:read", "session": True})
    async def show(self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]) -> Response[bytes]:
        """One invoice: what it asks for, what was tried, what comes next and why."""
        return await _page(request, around, ids.decode("inv", invoice_id))

    @get("/invoices/{invoice_id:str}/pdf", opt={"scope": "invoices:read", "session": True})
    async def pdf(
        self, request: Http, invoice_id: FromPath[str], documents: NamedDependency[Documents]
    ) -> Response[bytes]:
        """The document, as the customer gets it."""
        return _pdf(*await documents.invoice(web.caller_of(request).scope, ids.decode("inv", invoice_id)))

    @get("/invoices/{invoice_id:str}/credit-notes/{note_id:str}/pdf", opt={"scope": "invoices:read", "session": True})
    async def note_pdf(
        self,
        request: Http,
        invoice_id: FromPath[str],
        note_id: FromPath[str],
        invoices: NamedDependency[Invoices],
        documents: NamedDependency[Documents],
    ) -> Response[bytes]:
        """A credit note's document."""
        scope, own = web.caller_of(request).scope, ids.decode("cn", note_id)
        if (await invoices.get_credit_note(scope, own)).invoice != invoice_id:
            raise NotFound(web.say(request, "This invoice has no such credit note."))
        return _pdf(*await documents.credit_note(scope, own))

    # -- Collecting ---------------------------------------------------------------------------------------------------

    @post("/invoices/{invoice_id:str}/charge", opt={"scope": "dunning:write", "session": True}, status_code=303)
    async def charge(
        self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]
    ) -> Response[bytes]:
        """Charge it now instead of when its plan says."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.rebills.retry(web.caller_of(request), web.idempotency(request, form), own)
        said = mark("It is charged within seconds. Reload this page to see what became of it.")
        return await _do(request, around, own, doing, said)

    @post("/invoices/{invoice_id:str}/stop", opt={"scope": "dunning:write", "session": True}, status_code=303)
    async def stop(self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]) -> Response[bytes]:
        """Charge it no more by itself."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        reason = form.text("reason")
        if not 0 < len(reason) <= 500:
            return await _page(request, around, own, wrong={"reason": _REASON_WRONG}, typed={"reason": reason})
        doing = around.rebills.stop(web.caller_of(request), web.idempotency(request, form), own, reason)
        said = mark("Collection has stopped. The subscription stays as it is.")
        return await _do(request, around, own, doing, said, reason=reason)

    @post("/invoices/{invoice_id:str}/release", opt={"scope": "dunning:write", "session": True}, status_code=303)
    async def release(
        self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]
    ) -> Response[bytes]:
        """Collect an invoice that was held."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.rebills.release(web.caller_of(request), web.idempotency(request, form), own)
        return await _do(request, around, own, doing, mark("Released: it is charged within seconds."))

    # -- The invoice itself -------------------------------------------------------------------------------------------

    @post("/invoices/{invoice_id:str}/open", opt={"scope": "invoices:write", "session": True}, status_code=303)
    async def open(self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]) -> Response[bytes]:
        """Give a draft its number."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.invoices.open(web.caller_of(request), web.idempotency(request, form), own)
        return await _do(request, around, own, doing, mark("The invoice is open: it has its number and never changes."))

    @post("/invoices/{invoice_id:str}/send", opt={"scope": "invoices:write", "session": True}, status_code=303)
    async def send(self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]) -> Response[bytes]:
        """Mail it again."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.invoices.send(web.caller_of(request), web.idempotency(request, form), own)
        return await _do(request, around, own, doing, mark("It is mailed to the customer; below stands how that goes."))

    @post("/invoices/{invoice_id:str}/void", opt={"scope": "invoices:write", "session": True}, status_code=303)
    async def void(self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]) -> Response[bytes]:
        """Take it back as a whole."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.invoices.void(web.caller_of(request), web.idempotency(request, form), own)
        return await _do(request, around, own, doing, mark("The invoice is void: nobody has to pay it."))

    @post("/invoices/{invoice_id:str}/uncollectible", opt={"scope": "invoices:write", "session": True}, status_code=303)
    async def uncollectible(
        self, request: Http, invoice_id: FromPath[str], around: NamedDependency[_Around]
    ) -> Response[bytes]:
        """Give it up."""
        form, own = await web.form_of(request), ids.decode("inv", invoice_id)
        doing = around.invoices.mark_uncollectible(web.caller_of(request), web.idempotency(request, form), own)
        said = mark("Marked uncollectible: nobody charges it any more, the customer may still pay it.")
        return await _do(request, around, own, doing, said)

    @get("/invoices/{invoice_id:str}/credit", opt={"scope": "invoices:write", "session": True})
    async def credit_form(
        self, request: Http, invoice_id: FromPath[str], invoices: NamedDependency[Invoices]
    ) -> Response[bytes]:
        """How much is taken back, and how."""
        invoice = await invoices.get(web.caller_of(request).scope, ids.decode("inv", invoice_id))
        typed = {"amount": "", "tax": "", "settled_by": _ways(invoice)[0], "reason": ""}
        return _credit_page(request, invoice, typed)

    @post("/invoices/{invoice_id:str}/credit", opt={"scope": "invoices:write", "session": True}, status_code=303)
    async def credit(
        self, request: Http, invoice_id: FromPath[str], invoices: NamedDependency[Invoices]
    ) -> Response[bytes]:
        """Make the credit note."""
        caller, form = web.caller_of(request), await web.form_of(request)
        own = ids.decode("inv", invoice_id)
        invoice = await invoices.get(caller.scope, own)
        typed = {name: form.text(name) for name in ("amount", "tax", "settled_by", "reason")}
        amount = billing.minor_of(typed["amount"], invoice.currency)
        tax = billing.minor_of(typed["tax"] or "0", invoice.currency)
        document = {
            "amount_minor": amount,
            "tax_minor": tax,
            "settled_by": typed["settled_by"],
            "reason": typed["reason"],
        }
        try:
            body = _credit(document)
            await invoices.credit(caller, web.idempotency(request, form), own, body)
        except billing.Wrong as error:
            return _credit_page(request, invoice, typed, wrong=error.fields)
        except DomainError as error:
            return _credit_page(request, invoice, typed, problem=error)
        return web.go(request, f"/invoices/{invoice_id}", web.say(request, "The credit note was made."))


def _pdf(name: str, content: bytes) -> Response[bytes]:
    """To look at or to save; nothing of it is kept by the browser."""
    headers = {
        "Content-Disposition": f'inline; filename="{name}.pdf"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, media_type="application/pdf", headers=headers)


def _ways(invoice: InvoiceOut) -> list[str]:
    """How a credit note of this invoice can be settled; the first is what people mostly want. The core has the last word."""
    if invoice.status == "paid":
        return ["refund", "credit"] if invoice.subscription else ["refund"]
    return ["reduction", "credit"] if invoice.subscription else ["reduction"]


def _credit(document: dict[str, Any]) -> CreditNoteCreate:
    """The request of what was typed; ``None`` stands for an amount that is none. Raises ``billing.Wrong``."""
    amount, tax = document["amount_minor"], document["tax_minor"]
    if not amount:
        raise billing.Wrong(amount_minor=_CREDIT_WRONG["amount_minor"])
    if tax is None or tax > amount:
        raise billing.Wrong(tax_minor=_CREDIT_WRONG["tax_minor"])
    return billing.body_of(CreditNoteCreate, document, _CREDIT_WRONG)


def _credit_page(request: Http, invoice: InvoiceOut, typed: dict[str, str], **more: Any) -> Response[bytes]:
    most = invoice.due_minor - invoice.credited_minor
    return billing.show(
        request, "invoices/credit.html", invoice=invoice, typed=typed, ways=_ways(invoice), most=most, **more
    )


async def _do(
    request: Http, around: _Around, own: UUID, doing: Awaitable[Any], said: str, **typed: str
) -> Response[bytes]:
    """Do it and say so, or show the invoice again with the refusal."""
    try:
        await doing
    except DomainError as error:
        return await _page(request, around, own, problem=error, typed=typed)
    return web.go(request, f"/invoices/{ids.encode('inv', own)}", web.say(request, said))


async def _page(request: Http, around: _Around, own: UUID, **more: Any) -> Response[bytes]:
    scope, scopes = web.caller_of(request).scope, web.who(request).scopes
    invoice = await around.invoices.get(scope, own)
    rebill: RebillExplained | None = None
    payment: Any = None
    final_action = ""
    if "dunning:read" in scopes and invoice.subscription is not None:
        try:
            rebill = await around.rebills.explain(scope, own)
        except RebillNotFound:
            rebill = None
        if rebill is not None and rebill.plan is not None:
            final_action = await billing.final_action_of(around.dunning_plans, scope, rebill)
    if "payments:read" in scopes and invoice.payment is not None:
        payment_id = ids.decode("pay", invoice.payment)
        payment = (await around.payments.render_many(scope, [payment_id])).get(payment_id)
    mails = await around.notices.list(scope, NoticeFilters(invoice_id=own), 20, None)
    return billing.show(
        request,
        "invoices/show.html",
        invoice=invoice,
        rebill=rebill,
        final_action=final_action,
        payment=payment,
        mails=mails.data,
        names=await billing.names_of(request, around.customers, [invoice]),
        history=await billing.history_of(request, around.trail, subject=ids.encode("inv", own)),
        **({"typed": {}} | more),
    )
