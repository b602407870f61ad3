"""``/v1/invoices`` and ``/v1/credit-notes``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from clearspan.customers.errors import CustomerDeleted
from clearspan.payments import errors
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.platform.replies import problems, reply
from clearspan.subscriptions.documents import Documents
from clearspan.subscriptions.invoices import InvoiceFilters, Invoices
from clearspan.subscriptions.invoices_errors import (
    CreditAboveInvoice,
    CreditNotPossible,
    InvoiceLocked,
    InvoiceTransition,
    InvoiceWithoutDocument,
)
from clearspan.subscriptions.invoices_schemas import (
    STATUSES,
    CreditNoteCreate,
    CreditNoteList,
    CreditNoteOut,
    InvoiceCreate,
    InvoiceList,
    InvoiceOut,
    Nothing,
)

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]
Id = Annotated[str | None, QueryParameter(max_length=90)]


class InvoiceController(Controller):
    """Invoices."""

    path = "/invoices"
    tags = ("Invoices",)

    @post(
        opt={"scope": "invoices:write"},
        responses=problems(NotFound, CustomerDeleted, errors.UnsupportedCurrency),
    )
    async def create(
        self,
        data: JSONBody[InvoiceCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[InvoiceOut]:
        """Make a draft of a one-off invoice. Nothing is asked for until it is opened."""
        return reply(await invoices.create(caller, key, data))

    @get(opt={"scope": "invoices:read"}, responses=problems(ids.InvalidId))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        invoices: NamedDependency[Invoices],
        limit: Limit = 20,
        cursor: Cursor = None,
        customer: Id = None,
        subscription: Id = None,
        status: Annotated[
            str | None, QueryParameter(pattern="^[a-z_]{1,40}$", description=f"One of {', '.join(STATUSES)}.")
        ] = None,
        number: Annotated[str | None, QueryParameter(max_length=60, description="The whole number.")] = None,
        due: Annotated[bool | None, QueryParameter(description="true: something is left to pay.")] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> InvoiceList:
        """Invoices, newest first."""
        if status is not None and status not in STATUSES:
            raise InvalidRequest(
                f"status is one of {', '.join(STATUSES)}.", errors=[{"path": "status", "message": "unknown"}]
            )
        _only(request, _FILTERS)
        filters = InvoiceFilters(
            customer_id=None if customer is None else ids.decode("cus", customer),
            subscription_id=None if subscription is None else ids.decode("sub", subscription),
            status=status,
            number=number,
            due=due,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
        )
        return await invoices.list(caller.scope, filters, limit, cursor)

    @get("/{invoice_id:str}", opt={"scope": "invoices:read"}, responses=problems(NotFound))
    async def retrieve(
        self, invoice_id: FromPath[str], caller: NamedDependency[Caller], invoices: NamedDependency[Invoices]
    ) -> InvoiceOut:
        """One invoice with its lines, taxes and credit notes."""
        return await invoices.get(caller.scope, ids.decode("inv", invoice_id))

    @post(
        "/{invoice_id:str}/open",
        status_code=200,
        opt={"scope": "invoices:write"},
        responses=problems(NotFound, InvoiceTransition),
    )
    async def open(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[Nothing],  # noqa: ARG002  (declared: nothing else is taken)
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[InvoiceOut]:
        """Give a draft its number: from here on it asks for money and never changes."""
        return reply(await invoices.open(caller, key, ids.decode("inv", invoice_id)))

    @post(
        "/{invoice_id:str}/void",
        status_code=200,
        opt={"scope": "invoices:write"},
        responses=problems(NotFound, InvoiceTransition, InvoiceLocked),
    )
    async def void(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[Nothing],  # noqa: ARG002
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[InvoiceOut]:
        """Take an unpaid invoice back as a whole. Refused while a payment of it is under way or unknown."""
        return reply(await invoices.void(caller, key, ids.decode("inv", invoice_id)))

    @post(
        "/{invoice_id:str}/mark-uncollectible",
        status_code=200,
        opt={"scope": "invoices:write"},
        responses=problems(NotFound, InvoiceTransition, InvoiceLocked),
    )
    async def mark_uncollectible(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[Nothing],  # noqa: ARG002
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[InvoiceOut]:
        """Give an open invoice up: nobody charges it any more, the customer may still pay it."""
        return reply(await invoices.mark_uncollectible(caller, key, ids.decode("inv", invoice_id)))

    @post(
        "/{invoice_id:str}/send",
        status_code=202,
        opt={"scope": "invoices:write"},
        responses=problems(NotFound, InvoiceTransition, InvoiceWithoutDocument),
    )
    async def send(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[Nothing],  # noqa: ARG002
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[InvoiceOut]:
        """Mail it to the customer with the PDF and the link to pay; `GET /v1/notices?invoice=` shows how that goes."""
        return reply(await invoices.send(caller, key, ids.decode("inv", invoice_id)))

    @get(
        "/{invoice_id:str}/pdf",
        opt={"scope": "invoices:read"},
        media_type="application/pdf",
        responses=problems(NotFound, InvoiceWithoutDocument),
    )
    async def pdf(
        self, invoice_id: FromPath[str], caller: NamedDependency[Caller], documents: NamedDependency[Documents]
    ) -> Response[bytes]:
        """The document, in the customer's language."""
        name, content = await documents.invoice(caller.scope, ids.decode("inv", invoice_id))
        return pdf(name, content)

    @post(
        "/{invoice_id:str}/credit-notes",
        status_code=201,
        opt={"scope": "invoices:write"},
        responses=problems(
            NotFound, InvoiceTransition, InvoiceLocked, CreditAboveInvoice, CreditNotPossible, errors.NotRefundable,
            errors.AboveRefundable, errors.InProgress, errors.UnknownOutcome, errors.OutcomeNotStored, money=CreditNoteOut,
        ),
    )  # fmt: skip
    async def credit(
        self,
        invoice_id: FromPath[str],
        data: JSONBody[CreditNoteCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        invoices: NamedDependency[Invoices],
    ) -> Response[CreditNoteOut]:
        """Take an invoice back, in whole or in part; never more than it asks for."""
        return reply(await invoices.credit(caller, key, ids.decode("inv", invoice_id), data))


class CreditNoteController(Controller):
    """Credit notes."""

    path = "/credit-notes"
    tags = ("Invoices",)

    @get(opt={"scope": "invoices:read"}, responses=problems(ids.InvalidId))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        invoices: NamedDependency[Invoices],
        invoice: Id = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> CreditNoteList:
        """Credit notes, newest first."""
        _only(request, frozenset({"invoice", "limit", "cursor"}))
        invoice_id = None if invoice is None else ids.decode("inv", invoice)
        return await invoices.list_credit_notes(caller.scope, invoice_id, limit, cursor)

    @get("/{credit_note_id:str}", opt={"scope": "invoices:read"}, responses=problems(NotFound))
    async def retrieve(
        self, credit_note_id: FromPath[str], caller: NamedDependency[Caller], invoices: NamedDependency[Invoices]
    ) -> CreditNoteOut:
        """One credit note."""
        return await invoices.get_credit_note(caller.scope, ids.decode("cn", credit_note_id))

    @get(
        "/{credit_note_id:str}/pdf",
        opt={"scope": "invoices:read"},
        media_type="application/pdf",
        responses=problems(NotFound),
    )
    async def pdf(
        self, credit_note_id: FromPath[str], caller: NamedDependency[Caller], documents: NamedDependency[Documents]
    ) -> Response[bytes]:
        """The document, in the customer's language."""
        name, content = await documents.credit_note(caller.scope, ids.decode("cn", credit_note_id))
        return pdf(name, content)


_FILTERS = frozenset(
    {"limit", "cursor", "customer", "subscription", "status", "number", "due", "created_after", "created_before"}
)


def _only(request: Request[Any, Any, Any], filters: frozenset[str]) -> None:
    """A filter that is not there would silently find everything."""
    for name in request.query_params:
        if name not in filters:
            raise InvalidRequest(
                f"There is no filter {name[:40]!r}; there are {', '.join(sorted(filters))}.",
                errors=[{"path": name[:40], "message": "unknown query parameter"}],
            )


def pdf(name: str, content: bytes) -> Response[bytes]:
    """A PDF to look at or to save; ``name`` holds nothing but letters, digits, dots and dashes."""
    return Response(
        content, media_type="application/pdf", headers={"Content-Disposition": f'inline; filename="{name}.pdf"'}
    )
