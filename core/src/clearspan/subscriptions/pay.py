"""The pay page: a customer pays one invoice, with nothing but the link to it.

Each card that the vault captures is one try, whose operation's id is a pure function of invoice and vault token. So a
reload, a second click or a second tab with the same card meets the same operation; another card is refused by the
invoice's lock while the first is under way, and by its status when it is paid.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import Enum
from uuid import UUID, uuid5

import asyncpg
import msgspec
import structlog
from sqlalchemy import text

from clearspan.customers.errors import CustomerDeleted
from clearspan.customers.schemas import PaymentMethodCreate, PaymentMethodOut
from clearspan.customers.service import Customers
from clearspan.payments import errors
from clearspan.payments.models import OperationState
from clearspan.payments.rows import Details, InvoiceCharge
from clearspan.payments.schemas import PaymentContinue, PaymentOut
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope, system
from clearspan.platform.db import Database
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.problems import DatabaseUnavailable, DomainError
from clearspan.subscriptions.documents import Documents, Party
from clearspan.subscriptions.invoices import Invoices
from clearspan.subscriptions.invoices_schemas import InvoiceOut
from clearspan.subscriptions.pay_links import PayLinks
from clearspan.vaults.errors import VaultTokenInvalid
from clearspan.vaults.schemas import CaptureSessionCreate, CaptureSessionOut
from clearspan.vaults.service import Vaults

log = structlog.get_logger("clearspan.pay")
TEXT_VERSION = "pay-page-1"
"""Of what the customer agrees to by ticking the box; a new one with every change of ``keep`` and ``keep_terms``."""


class Outcome(Enum):
    """How a try went; the values are the words of ``texts``, shown to the customer."""

    PAID = "paid"
    UNDER_WAY = "locked"
    DECLINED = "declined"
    FAILED = "failed"
    CARD_REFUSED = "card_refused"
    IN_DOUBT = "in_doubt"


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What a link leads to.

    Attributes:
        action_url: of the customer's bank, while it waits for a confirmation.
        offers_keeping: there is a subscription that could be charged with the card.
    """

    scope: Scope
    invoice_id: UUID
    invoice: InvoiceOut
    party: Party
    action_url: str | None
    offers_keeping: bool
    clock_at: datetime | None


class PayPage:
    """What the pay page does."""

    def __init__(
        self,
        db: Database,
        installation: UUID,
        links: PayLinks,
        invoices: Invoices,
        documents: Documents,
        customers: Customers,
        payments: Payments,
        vaults: Vaults,
    ) -> None:
        self._db = db
        self._installation = installation
        self._links = links
        self._invoices = invoices
        self._documents = documents
        self._customers = customers
        self._payments = payments
        self._vaults = vaults

    async def open(self, token: str) -> Opened | None:
        """What the link leads to; ``None`` for a wrong one, which costs no query, and for a draft."""
        found = self._links.read(token)
        if found is None:
            return None
        scope, invoice_id = found
        try:
            invoice = await self._invoices.get(scope, invoice_id)
        except DatabaseUnavailable:
            raise
        except DomainError:
            return None
        if invoice.number is None:
            return None
        subscription_id = None if invoice.subscription is None else ids.decode("sub", invoice.subscription)
        party = await self._documents.party(scope, ids.decode("cus", invoice.customer), subscription_id)
        action_url = None
        if invoice.payment is not None and invoice.payment_locked:
            caller = system(scope, "pay_page", "req_pay_page")
            payment: PaymentOut = await self._payments.get(caller, invoice.payment)
            action_url = payment.next_action.url if payment.next_action is not None else None
        async with self._db.begin(scope) as session:
            row = (
                await session.execute(
                    text(
                        "SELECT s.ended_at IS NULL AND s.subscription_id IS NOT NULL AS running, k.now_at FROM invoices i"
                        " LEFT JOIN subscriptions s USING (tenant_id, live, subscription_id)"
                        " LEFT JOIN test_clocks k ON k.tenant_id = i.tenant_id AND k.live = i.live"
                        " AND k.test_clock_id = i.test_clock_id"
                        " WHERE i.tenant_id = :tenant AND i.live = :live AND i.invoice_id = :invoice"
                    ),
                    {"tenant": scope.tenant_id, "live": scope.live, "invoice": invoice_id},
                )
            ).one()
        return Opened(
            scope=scope,
            invoice_id=invoice_id,
            invoice=invoice,
            party=party,
            action_url=action_url,
            offers_keeping=bool(row.running),
            clock_at=row.now_at,
        )

    async def document(self, token: str) -> tuple[str, bytes] | None:
        """The PDF; ``None`` for a wrong link."""
        found = self._links.read(token)
        if found is None:
            return None
        try:
            return await self._documents.invoice(*found)
        except DatabaseUnavailable:
            raise
        except DomainError:
            return None

    async def capture(self, opened: Opened, request_id: str, *, keep: bool) -> str | None:
        """Open a page of the vault that leads back to ``card``; ``None`` when the vault cannot be used."""
        back = f"{self._links.url(opened.scope, opened.invoice_id)}/card"
        if keep and opened.offers_keeping:
            back += "?keep=yes"
        caller = system(opened.scope, "pay_page", request_id)
        try:
            answer = await self._vaults.capture_session(self._db, caller, None, CaptureSessionCreate(return_url=back))
        except DatabaseUnavailable:
            raise
        except DomainError as error:
            log.warning("pay page: no capture session", code=error.code)
            return None
        return msgspec.json.decode(answer.body, type=CaptureSessionOut).url

    async def charge(
        self, opened: Opened, vault_token: str, request_id: str, *, keep: bool
    ) -> tuple[Outcome, str | None]:
        """Make a payment method of the vault's token and charge the invoice with it, once for each token.

        Returns:
            how it went, and where the customer must go on (3-D Secure) when the bank asks for it.
        """
        caller = system(opened.scope, "pay_page", request_id)
        try_ = hashlib.sha256(f"{opened.invoice_id}\n{vault_token}".encode()).hexdigest()
        operation_id = uuid5(self._installation, f"{opened.scope.tenant_id}\n{opened.scope.live}\npay page\n{try_}")
        known = await self._known(caller, opened, operation_id)
        if known is not None:
            return known, None
        try:
            method_id = await self._method(caller, opened, vault_token, try_)
        except (VaultTokenInvalid, CustomerDeleted):
            return Outcome.CARD_REFUSED, None
        except DatabaseUnavailable:
            raise
        except DomainError as error:
            log.warning("pay page: no payment method", code=error.code)
            return Outcome.FAILED, None
        kept = keep and opened.offers_keeping
        mandate_id = await self._mandate(caller, opened, operation_id, method_id) if kept else None
        try:
            details = await self._collect(caller, opened, operation_id, method_id, mandate_id)
        except (errors.InvoiceNotPayable, errors.InProgress, errors.UnknownOutcome, errors.NotConfirmable):
            return Outcome.IN_DOUBT, None
        except DatabaseUnavailable:
            raise
        except DomainError as error:
            log.warning("pay page: not charged", code=error.code)
            return Outcome.FAILED, None
        if not kept:  # Nobody agreed to have it charged again.
            await self._customers.detach_method(caller, None, method_id)
        return _outcome(details, operation_id)

    async def returned(self, opened: Opened, params: dict[str, str], request_id: str) -> Outcome:
        """The customer is back from the bank: ask the PSP how it went."""
        assert opened.invoice.payment is not None
        caller = system(opened.scope, "pay_page", request_id)
        # A key of its own for each return: the customer may come back twice, and only the second time be done.
        raw = clock.new_uuid().hex
        key = IdempotencyKey(
            raw=raw, route="pay page return", key_hash=_hash(f"return\n{raw}"), request_hash=_hash(raw)
        )
        try:
            await self._payments.continue_(caller, key, opened.invoice.payment, PaymentContinue(params=params))
        except DatabaseUnavailable:
            raise
        except DomainError as error:  # Not waiting any more, or in doubt: the page shows what is true.
            log.info("pay page: nothing to continue", code=error.code)
        payment = await self._payments.get(caller, opened.invoice.payment)
        return Outcome.DECLINED if payment.status == "requires_payment_method" else Outcome.UNDER_WAY

    async def _known(self, caller: Caller, opened: Opened, operation_id: UUID) -> Outcome | None:
        """How this very try went, when it was made before."""
        if opened.invoice.payment is None:
            return None
        payment = await self._payments.get(caller, opened.invoice.payment)
        mine = ids.encode("op", operation_id)
        state = next((one.state for one in payment.operations or [] if one.id == mine), None)
        return None if state is None else _said(OperationState(state))

    async def _method(self, caller: Caller, opened: Opened, vault_token: str, try_: str) -> UUID:
        body = PaymentMethodCreate(token=vault_token, customer=opened.invoice.customer)
        key = IdempotencyKey(
            raw=try_,
            route="pay page card",
            key_hash=_hash(f"card\n{try_}"),
            request_hash=_hash(opened.invoice.customer),
        )
        made = await self._customers.add_method(caller, key, body)
        return ids.decode("pm", msgspec.json.decode(made.body, type=PaymentMethodOut).id)

    async def _mandate(self, caller: Caller, opened: Opened, operation_id: UUID, method_id: UUID) -> UUID:
        mandate_id = uuid5(operation_id, "mandate")
        now = clock.now()
        document = {
            "tenant_id": caller.scope.tenant_id,
            "live": caller.scope.live,
            "now": now,
            "at": opened.clock_at or now,
            "mandate_id": mandate_id,
            "customer_id": ids.decode("cus", opened.invoice.customer),
            "payment_method_id": method_id,
            "text_version": f"{TEXT_VERSION}-{opened.party.language}",
            "actor_type": caller.actor_type,
            "actor_id": caller.actor_id,
            "request_id": caller.request_id,
        }
        await self._db.call("pay_mandate", document)
        return mandate_id

    async def _collect(
        self, caller: Caller, opened: Opened, operation_id: UUID, method_id: UUID, mandate_id: UUID | None
    ) -> Details:
        invoice = opened.invoice
        for _ in range(2):
            charge = InvoiceCharge(
                invoice_id=opened.invoice_id,
                number=invoice.number or "",
                payment_id=uuid5(opened.invoice_id, "payment")
                if invoice.payment is None
                else ids.decode("pay", invoice.payment),
                opened=invoice.payment is not None,
                operation_id=operation_id,
                amount_minor=invoice.left_minor,
                currency=invoice.currency,
                customer_id=ids.decode("cus", invoice.customer),
                payment_method_id=method_id,
                customer_present=True,
                mandate_id=mandate_id,
                clock_at=opened.clock_at,
                return_url=f"{self._links.url(opened.scope, opened.invoice_id)}/return",
            )
            try:
                return await self._payments.collect(caller, charge)
            except asyncpg.UniqueViolationError as error:
                # Somebody made the invoice's payment in this moment; now it is there.
                if error.constraint_name not in ("payment_intents_pkey", "one_payment_per_invoice") or charge.opened:
                    raise
                invoice = await self._invoices.get(opened.scope, opened.invoice_id)
        raise errors.InProgress


def _outcome(details: Details, operation_id: UUID) -> tuple[Outcome, str | None]:
    mine = next((one for one in details.operations if one.operation_id == operation_id), None)
    if mine is None:
        return Outcome.IN_DOUBT, None
    waits = mine.state is OperationState.REQUIRES_ACTION and mine.next_action is not None
    return _said(mine.state), mine.next_action.get("url") if waits and mine.next_action else None


def _said(state: OperationState) -> Outcome:
    match state:
        case OperationState.SUCCEEDED:
            return Outcome.PAID
        case OperationState.DECLINED:
            return Outcome.DECLINED
        case OperationState.NOT_SENT | OperationState.NOT_CHARGED | OperationState.EXPIRED:
            return Outcome.FAILED
    return Outcome.UNDER_WAY


def _hash(said: str) -> str:
    return hashlib.sha256(f"pay page\n{said}".encode()).hexdigest()
