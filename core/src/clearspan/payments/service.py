"""What a user can do with a payment.

Each money-moving call is: reserve (one database call, committed) -> call the PSP (no transaction open) -> settle (one
database call, committed). The call to the PSP runs in its own task, shielded from a client that hangs up; whoever
asked waits for it up to ``payments.wait_budget_s`` and then gets 202 with the payment as it stands.

The answer is rendered *before* settling, from what the pure model predicts, and kept under the client's key in the
same transaction. If something else changed the payment meanwhile (a webhook), the prediction fails, nothing is kept
there, and the answer is rendered from the real row and kept by a second call.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid5

import asyncpg
import msgspec
import structlog

from clearspan.payments import caps, errors, recovery
from clearspan.payments import news as news_of_psps
from clearspan.payments.mandates import activation
from clearspan.payments.models import (
    FINAL,
    Dispute,
    Operation,
    OperationState,
    Payment,
    PaymentStatus,
    derive,
    next_state,
)
from clearspan.payments.news import CLOCK_LABEL, PAYMENT_LABEL, Told
from clearspan.payments.recovery import NextStep
from clearspan.payments.rows import Details, InvoiceCharge, Kept, MandateRow, Opened, Settled, Stale, Verification
from clearspan.payments.schemas import (
    AuditOut,
    DecisionCreate,
    DecisionOut,
    DisputeList,
    DisputeOut,
    MandateVerify,
    PaymentCancel,
    PaymentCapture,
    PaymentConfirm,
    PaymentContinue,
    PaymentCreate,
    PaymentList,
    PaymentOut,
    RefundCreate,
    RefundList,
    RefundOut,
    SurplusRelease,
    dispute_out,
    operation_out,
    payment_out,
    refund_out,
)
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope, system
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, KeyMissing
from clearspan.platform.problems import DatabaseUnavailable, DomainError, InvalidRequest
from clearspan.platform.telemetry import Metrics
from clearspan.psps.calls import Observation
from clearspan.psps.service import PspAccounts, Sending, SendingCredential
from clearspan.routing.service import Choice, NoRoute, choose, may_fail_over
from clearspan.sdk import (
    CURRENCIES,
    Browser,
    CancelRequest,
    CaptureRequest,
    ChargeRequest,
    ContinueRequest,
    Money,
    News,
    RefundRequest,
    RetrieveRequest,
    SourceKind,
    StoredCredential,
)
from clearspan.settings import Settings

log = structlog.get_logger("clearspan.payments")
KEY_LENGTH = 32
UNWOUND_AT_ONCE = 32
"""Well below ``psps.calls_max``: giving back must not crowd out paying."""
_UNDECIDED = (OperationState.PENDING, OperationState.NEEDS_REVIEW)
SETTLE_TRIES = 8
_INVOICE_OPEN_D = 3650
"""The payment of an invoice does not expire: the invoice decides how long it is collected."""


_OPENED = msgspec.json.Decoder(Opened)
_OPENED_LIST = msgspec.json.Decoder(list[Opened])
_SETTLED = msgspec.json.Decoder(Settled)
_DETAILS = msgspec.json.Decoder(Details)
_DETAILS_LIST = msgspec.json.Decoder(list[Details])
_REFUNDS = msgspec.json.Decoder(list[Operation])
_DISPUTES = msgspec.json.Decoder(list[Dispute])
_MANDATE = msgspec.json.Decoder(MandateRow | None)
_STALE = msgspec.json.Decoder(list[Stale])
_ENCODER = msgspec.json.Encoder()

T = TypeVar("T")
Render = Callable[[Payment, list[Operation], Operation | None], Awaitable[Answer]]


class Wish(msgspec.Struct, frozen=True):
    """What a client wants of one charge besides what is stored of it."""

    account: str | None = None
    failover: bool = False
    browser: Browser | None = None


class Payments:
    """Payment intents and refunds."""

    def __init__(
        self, db: Database, psps: PspAccounts, installation: UUID, settings: Settings, metrics: Metrics
    ) -> None:
        self._db = db
        self._psps = psps
        self._installation = installation
        self._settings = settings
        self._metrics = metrics
        self._under_way: set[asyncio.Task[Any]] = set()
        self._looks: Counter[UUID] = Counter()

    # -- what a merchant's developer calls ------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: PaymentCreate) -> Answer:
        """Create an intent; with ``confirm`` also charge it, in the same two database calls.

        Raises:
            KeyMissing, and the refusals of ``errors``.
        """
        key = _required(key)
        try:
            return await self._create(caller, key, body)
        except DomainError:
            # What would be refused today may have been done when the key was new; then that answer is given.
            kept = await self._kept(caller.scope, key)
            if kept is not None:
                return kept
            raise

    async def _create(self, caller: Caller, key: IdempotencyKey, body: PaymentCreate) -> Answer:
        if body.currency not in CURRENCIES:
            raise errors.UnsupportedCurrency
        if body.amount_minor > self._settings.payments.amount_max_minor:
            raise InvalidRequest(
                f"amount_minor may be at most {self._settings.payments.amount_max_minor} in this installation.",
                errors=[{"path": "$.amount_minor", "message": "over payments.amount_max_minor"}],
            )
        if body.confirm and body.payment_method is None:
            raise errors.MethodRequired
        given = {
            "amount_minor": body.amount_minor,
            "currency": body.currency,
            "capture_method": body.capture_method,
            "customer_present": body.customer_present,
            "customer_id": _reference("cus", body.customer, errors.CustomerMissing),
            "payment_method_id": _reference("pm", body.payment_method, errors.MethodMissing),
            "mandate_id": _reference("man", body.mandate, errors.MandateMissing),
            "reference": body.reference,
            "description": body.description,
            "return_url": body.return_url,
            "metadata": body.metadata,
        }
        return await self._open_payment(caller, key, given, confirm=body.confirm, wish=_wish(body))

    async def _open_payment(
        self, caller: Caller, key: IdempotencyKey, given: dict[str, Any], *, confirm: bool, wish: Wish
    ) -> Answer:
        now = clock.now()
        given = given | {
            "payment_id": clock.new_uuid(),
            "expires_at": now + timedelta(hours=self._settings.payments.intent_ttl_h),
        }
        document = self._document(caller, key, now) | {"payment": given}
        if confirm:
            document["caps"] = caps.at(now)
            document["operation"] = await self._charge(caller, key, now, given, wish)
        else:
            document["answer"] = await self._created_answer(caller, given, now)
        opened = await self._open_charge(caller, "payment_open", document, given, wish)
        if opened.payment is not None and opened.operation is None:
            return Answer(document["answer"]["status"], document["answer"]["body"].encode())
        return await self._run(
            caller,
            key,
            opened,
            self._render_payment(caller.scope, 201),
            partial(self._send, browser=wish.browser),
            wish,
        )

    async def verify_mandate(
        self, caller: Caller, key: IdempotencyKey | None, mandate_id: UUID, body: MandateVerify
    ) -> Answer:
        """An authorisation of nothing, the customer present: activates a pending or suspended mandate without charging.

        Raises:
            NotFound: no such mandate.
            KeyMissing, and the refusals of ``errors``.
        """
        key = _required(key)
        if body.currency not in CURRENCIES:
            raise errors.UnsupportedCurrency
        mandate = await self._mandate(caller.scope, mandate_id, None)
        if mandate is None:
            raise errors.MandateNotFound
        given = {
            "amount_minor": 0,
            "currency": body.currency,
            "capture_method": "manual",
            "customer_present": True,
            "customer_id": mandate.customer_id,
            "payment_method_id": mandate.payment_method_id,
            "mandate_id": mandate.mandate_id,
            "reference": None,
            "description": None,
            "return_url": body.return_url,
            "metadata": {},
        }
        try:
            return await self._open_payment(caller, key, given, confirm=True, wish=Wish(body.psp_account))
        except DomainError:
            kept = await self._kept(caller.scope, key)
            if kept is not None:
                return kept
            raise

    async def confirm(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: PaymentConfirm
    ) -> Answer:
        """Charge an intent that waits for it."""
        key = _required(key)
        payment_uuid = _payment_id(payment_id)
        known = await self._find(caller.scope, payment_uuid)
        now = clock.now()
        method = _reference("pm", body.payment_method, errors.MethodMissing)
        given = msgspec.structs.asdict(known.payment)
        if method is not None:
            given["payment_method_id"] = method
        try:
            operation = await self._charge(caller, key, now, given, wish := _wish(body))
        except NoRoute:
            kept = await self._kept(caller.scope, key)
            if kept is not None:
                return kept
            raise
        operation |= {"payment_method_id": method, "return_url": body.return_url}
        document = self._document(caller, key, now) | {
            "payment_id": payment_uuid,
            "operation": operation,
            "caps": caps.at(now),
        }
        opened = await self._open_charge(caller, "operation_open", document, given, wish)
        render = self._render_payment(caller.scope, 200)
        return await self._run(caller, key, opened, render, partial(self._send, browser=wish.browser), wish)

    async def capture(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: PaymentCapture
    ) -> Answer:
        """Capture everything that is left, or a part."""
        key = _required(key)
        now = clock.now()
        operation = self._operation(caller, key, now, "capture") | {
            "amount_minor": body.amount_minor,
            "final": body.final,
            "reference": body.reference,
        }
        return await self._operate(
            caller, key, now, _payment_id(payment_id), operation, self._render_payment(caller.scope, 200)
        )

    async def cancel(self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: PaymentCancel) -> Answer:
        """Close an intent without a charge, or release at the PSP what is authorised and not captured."""
        key = _required(key)
        now = clock.now()
        payment_uuid = _payment_id(payment_id)
        render = self._render_payment(caller.scope, 200)
        try:
            opened = _OPENED.decode(
                await self._db.call(
                    "payment_close",
                    self._document(caller, key, now)
                    | {"payment_id": payment_uuid, "want": "cancel", "reason": body.reason},
                )
            )
        except errors.HasCharge:
            operation = self._operation(caller, key, now, "void") | {"reason": body.reason}
            return await self._operate(caller, key, now, payment_uuid, operation, render)
        if opened.replay is not None:
            return opened.replay.answer()
        assert opened.payment is not None
        return await self._keep(caller, key, await render(opened.payment, opened.operations, None))

    async def refund(self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: RefundCreate) -> Answer:
        """Give back everything that is left, or a part."""
        key = _required(key)
        now = clock.now()
        operation = self._operation(caller, key, now, "refund") | {
            "amount_minor": body.amount_minor,
            "reason": body.reason,
            "reference": body.reference,
            "metadata": body.metadata,
        }
        return await self._operate(caller, key, now, _payment_id(payment_id), operation, self._render_refund(201))

    async def refund_within(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        payment_id: UUID,
        body: RefundCreate,
        function: str,
        more: Callable[[UUID], dict[str, Any]],
        render: Callable[[RefundOut], Awaitable[bytes]],
    ) -> Answer:
        """Refund in the transaction of something else: a credit note.

        Args:
            function: does what ``operation_open`` does, and the other thing.
            more: of the refund's id, what ``function`` takes besides.
            render: the answer, of the refund as it will stand.
        """
        key = _required(key)
        now = clock.now()
        operation = self._operation(caller, key, now, "refund") | {
            "amount_minor": body.amount_minor,
            "reason": body.reason,
            "reference": body.reference,
            "metadata": body.metadata,
        }
        document = self._document(caller, key, now) | {"payment_id": payment_id, "operation": operation}

        async def answer(payment: Payment, _: list[Operation], refund: Operation | None) -> Answer:
            assert refund is not None
            code = 201 if refund.state in FINAL else 202
            return Answer(code, await render(refund_out(refund, live=payment.live)))

        opened = await self._open(caller, function, document | more(operation["operation_id"]))
        return await self._run(caller, key, opened, answer, self._send)

    async def continue_(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: PaymentContinue
    ) -> Answer:
        """Ask the PSP how the payer's action went."""
        key = _required(key)
        now = clock.now()
        opened = await self._lease(caller, now, _payment_id(payment_id), None, "continue", key)

        async def send(caller: Caller, opened: Opened) -> Observation:
            operation, sending = opened.operation, opened.sending
            assert operation is not None
            assert sending is not None
            if operation.state is not OperationState.REQUIRES_ACTION:
                return await self._look_up_or_repeat(caller, opened)
            psp = await self._psps.open(caller.scope, sending)
            request = ContinueRequest(
                operation_id=ids.encode("op", operation.operation_id),
                key=psp.key(operation.psp_key),
                amount=Money(operation.amount_minor, operation.currency),
                capture=operation.kind == "purchase",
                psp_ref=operation.psp_ref or "",
                params=body.params,
            )
            return await psp.observe(psp.adapter.continue_intent(request), request.amount, "continue_intent")

        return await self._run(caller, key, opened, self._render_payment(caller.scope, 200), send)

    async def get(self, caller: Caller, payment_id: str) -> PaymentOut:
        """One payment with its operations and audit entries."""
        return await self._detailed(caller.scope, await self._find(caller.scope, _payment_id(payment_id)))

    async def page(self, caller: Caller, filters: Mapping[str, Any], limit: int, cursor: str | None) -> PaymentList:
        """A page, newest first, each payment with its operations and audit entries.

        Args:
            filters: names as ``payment_list`` in SQL; absent or ``None`` means any. ``psp`` and ``tenant`` are words.
        """
        wanted = {name: value for name, value in filters.items() if value is not None}
        tenant = wanted.pop("tenant", None)
        if tenant is not None and tenant not in (caller.tenant, ids.encode("ten", caller.scope.tenant_id)):
            raise errors.TenantNotFound
        psp = wanted.pop("psp", None)
        if psp is not None:
            names = await self._psps.names(caller.scope, fresh=True)
            wanted["account_ids"] = [account for account, words in names.items() if psp in words]
        page = _DETAILS_LIST.decode(
            await self._db.call("payment_list", _place(caller.scope) | wanted | {"limit": limit + 1} | _after(cursor))
        )
        rows = [await self._detailed(caller.scope, details) for details in page[:limit]]
        more = len(page) > limit
        last = page[limit - 1].payment if more else None
        return PaymentList(
            object="list",
            data=rows,
            has_more=more,
            next_cursor=_cursor(last.created_at, last.payment_id) if last else None,
        )

    async def get_refund(self, caller: Caller, refund_id: str) -> RefundOut:
        """One refund."""
        found = _REFUNDS.decode(
            await self._db.call("refund_list", _place(caller.scope) | {"ids": [_refund_id(refund_id)], "limit": 1})
        )
        if not found:
            raise errors.RefundNotFound
        return refund_out(found[0], live=caller.scope.live)

    async def list_refunds(self, caller: Caller, payment: str | None, limit: int, cursor: str | None) -> RefundList:
        """A page, newest first."""
        document: dict[str, Any] = _place(caller.scope) | {"limit": limit + 1} | _after(cursor)
        if payment is not None:
            document["payment_id"] = (await self._find(caller.scope, _payment_id(payment))).payment.payment_id
        page = _REFUNDS.decode(await self._db.call("refund_list", document))
        more = len(page) > limit
        last = page[limit - 1] if more else None
        return RefundList(
            object="list",
            data=[refund_out(row, live=caller.scope.live) for row in page[:limit]],
            has_more=more,
            next_cursor=_cursor(last.created_at, last.operation_id) if last else None,
        )

    async def get_dispute(self, caller: Caller, dispute_id: str) -> DisputeOut:
        """One dispute."""
        found = await self._disputes(caller.scope, [_dispute_id(dispute_id)])
        return dispute_out(found[0], live=caller.scope.live)

    async def _disputes(self, scope: Scope, wanted: Sequence[UUID]) -> list[Dispute]:
        document = _place(scope) | {"ids": list(wanted), "limit": len(wanted)}
        found = _DISPUTES.decode(await self._db.call("dispute_list", document))
        if not found:
            raise errors.DisputeNotFound
        return found

    async def list_disputes(
        self, caller: Caller, payment: str | None, status: str | None, limit: int, cursor: str | None
    ) -> DisputeList:
        """A page, newest first."""
        document: dict[str, Any] = _place(caller.scope) | {"limit": limit + 1} | _after(cursor)
        if payment is not None:
            document["payment_id"] = (await self._find(caller.scope, _payment_id(payment))).payment.payment_id
        if status is not None:
            document["status"] = status
        page = _DISPUTES.decode(await self._db.call("dispute_list", document))
        more = len(page) > limit
        last = page[limit - 1] if more else None
        return DisputeList(
            object="list",
            data=[dispute_out(row, live=caller.scope.live) for row in page[:limit]],
            has_more=more,
            next_cursor=_cursor(last.opened_at, last.dispute_id) if last else None,
        )

    async def disputes_to_answer(self, scope: Scope, limit: int, after: str | None = None) -> list[DisputeOut]:
        """Disputes that want an answer, the next deadline first; ``limit`` and one more when there are more.

        Args:
            after: the id of the last one of the page before.

        Raises:
            DisputeNotFound: ``after`` names none.
        """
        document: dict[str, Any] = _place(scope) | {"limit": limit + 1}
        if after is not None:
            last = (await self._disputes(scope, [_dispute_id(after)]))[0]
            document |= {"after_id": last.dispute_id, "after_at": last.evidence_due_at}
        found = _DISPUTES.decode(await self._db.call("disputes_to_answer", document))
        return [dispute_out(row, live=scope.live) for row in found]

    # -- what the rest of the gateway calls -----------------------------------------------------------------------

    async def render_many(self, scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """The current state of payments, for events."""
        names = await self._psps.names(scope)
        found = _DETAILS_LIST.decode(await self._db.call("payments_by_id", _place(scope) | {"ids": list(wanted)}))
        return {
            one.payment.payment_id: msgspec.to_builtins(payment_out(one.payment, one.operations, names), str_keys=True)
            for one in found
        }

    async def render_refunds(self, scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """The current state of refunds, for events."""
        document = _place(scope) | {"ids": list(wanted), "limit": len(wanted)}
        found = _REFUNDS.decode(await self._db.call("refund_list", document))
        return {one.operation_id: msgspec.to_builtins(refund_out(one, live=scope.live)) for one in found}

    async def render_disputes(self, scope: Scope, wanted: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """The current state of disputes, for events."""
        document = _place(scope) | {"ids": list(wanted), "limit": len(wanted)}
        found = _DISPUTES.decode(await self._db.call("dispute_list", document))
        return {one.dispute_id: msgspec.to_builtins(dispute_out(one, live=scope.live)) for one in found}

    async def collect(self, caller: Caller, charge: InvoiceCharge) -> Details:
        """Charge an invoice: reserve, send, settle, as for every payment.

        The invoice, its subscription and its rebill change in the transactions of the payment (``subscriptions/sql``).
        A try that was made already, by whoever died over it, is looked up instead of being made again.

        Returns:
            the payment with its operations, ``processing`` when the PSP has not answered within ``payments.wait_budget_s``.

        Raises:
            NoRoute, and the refusals of ``errors``, InvoiceNotPayable and RebillLeaseLost among them: nothing was sent.
        """
        now = clock.now()
        wanted = None if charge.psp_account_id is None else ids.encode("acct", charge.psp_account_id)
        by_merchant = not charge.customer_present
        choice = await self._choose_any(caller.scope, charge.currency, "automatic", wanted, by_merchant=by_merchant)
        operation = self._lease_fields(now) | {
            "sources": sorted(choice.candidate.facts.sources),
            "operation_id": charge.operation_id,
            "psp_key": ids.psp_key(charge.operation_id, 0, KEY_LENGTH),
            "want": "charge",
            "psp_account_id": choice.candidate.account_id,
            "routing": choice.reason,
            "payment_method_id": charge.payment_method_id,
            "mandate_id": charge.mandate_id,
            "merchant_initiated": not charge.customer_present,
            "clock_at": charge.clock_at,
            "return_url": charge.return_url,
        }
        document = self._document(caller, None, now) | {
            "payment_id": charge.payment_id,
            "operation": operation,
            "rebill": charge.rebill,
            "caps": caps.at(charge.clock_at or now),
        }
        if not charge.opened:
            document["payment"] = {
                "payment_id": charge.payment_id,
                "invoice_id": charge.invoice_id,
                "mandate_id": charge.mandate_id,
                "amount_minor": charge.amount_minor,
                "currency": charge.currency,
                "capture_method": "automatic",
                "customer_present": charge.customer_present,
                "customer_id": charge.customer_id,
                "payment_method_id": charge.payment_method_id,
                "reference": charge.number,
                "description": charge.description,
                "return_url": charge.return_url,
                "metadata": {},
                "expires_at": now + timedelta(days=_INVOICE_OPEN_D),
            }
        opened = await self._open_charge(
            caller,
            "operation_open" if charge.opened else "payment_open",
            document,
            {"currency": charge.currency, "capture_method": "automatic", "amount_minor": charge.amount_minor},
            Wish(),
        )
        return await self._send_within_budget(caller, opened, self._send)

    async def verify(self, caller: Caller, verification: Verification) -> Details:
        """Authorise nothing with the customer present, so that his bank may ask him: its success activates the mandate.

        Returns:
            as ``collect``.

        Raises:
            NoRoute, and the refusals of ``errors``: nothing was sent.
        """
        now = clock.now()
        wanted = None if verification.psp_account_id is None else ids.encode("acct", verification.psp_account_id)
        choice = await self._choose_any(caller.scope, verification.currency, "manual", wanted)
        document = self._document(caller, None, now) | {
            "operation": self._lease_fields(now)
            | {
                "sources": sorted(choice.candidate.facts.sources),
                "operation_id": verification.operation_id,
                "psp_key": ids.psp_key(verification.operation_id, 0, KEY_LENGTH),
                "want": "charge",
                "psp_account_id": choice.candidate.account_id,
                "routing": choice.reason,
                "mandate_id": verification.mandate_id,
                "merchant_initiated": False,
                "clock_at": verification.clock_at,
            },
            "caps": caps.at(now),
            "payment": {
                "payment_id": verification.payment_id,
                "mandate_id": verification.mandate_id,
                "amount_minor": 0,
                "currency": verification.currency,
                "capture_method": "manual",
                "customer_present": True,
                "customer_id": verification.customer_id,
                "payment_method_id": verification.payment_method_id,
                "return_url": verification.return_url,
                "metadata": {},
                "expires_at": now + timedelta(hours=self._settings.payments.intent_ttl_h),
            },
        }
        opened = await self._open_charge(caller, "payment_open", document, document["payment"], Wish())
        return await self._send_within_budget(caller, opened, self._send)

    async def resume_charge(self, caller: Caller, payment_id: UUID, operation_id: UUID) -> Details:
        """Go on with a charge of ``collect`` or ``verify`` whose caller died: look it up, else send it again under its key.

        Raises:
            InProgress: another one is at it.
        """
        opened = await self._lease(caller, clock.now(), payment_id, operation_id, "resume", None)
        return await self._send_within_budget(caller, opened, self._look_up_or_repeat)

    async def _send_within_budget(
        self, caller: Caller, opened: Opened, send: Callable[[Caller, Opened], Awaitable[Observation]]
    ) -> Details:
        async def send_and_store() -> None:
            await self.settle(caller, opened, await send(caller, opened))

        assert opened.payment is not None
        if opened.sending is not None:
            task = asyncio.create_task(send_and_store())
            self._under_way.add(task)
            task.add_done_callback(self._finished)
            await asyncio.wait({task}, timeout=self._settings.payments.wait_budget_s)
        return await self._find(caller.scope, opened.payment.payment_id)

    async def expire_stale(self, scope: Scope, request_id: str, most: int) -> int:
        """Close intents whose time is over; one that waits for the payer is looked up and given up at the PSP first.

        Returns:
            how many were closed.
        """
        caller = system(scope, "expiry", request_id)
        document = self._document(caller, None, clock.now())
        found = _STALE.decode(await self._db.call("stale_payments", document | {"most": most}))
        return sum(await self._side_by_side(self._expire_one(caller, stale) for stale in found))

    async def _expire_one(self, caller: Caller, stale: Stale) -> bool:
        try:
            if stale.status == PaymentStatus.REQUIRES_ACTION:
                opened = await self._lease(caller, clock.now(), stale.payment_id, stale.operation_id, "expire", None)
                if opened.sending is not None:
                    observation = await self._give_up_action(caller, opened)
                    await self.settle(caller, opened, observation)
            await self._db.call(
                "payment_close",
                self._document(caller, None, clock.now()) | {"payment_id": stale.payment_id, "want": "expire"},
            )
        except (errors.HasCharge, errors.InProgress, errors.UnknownOutcome):
            return False  # It moved on meanwhile, or the PSP gave no clear answer: the next sweep looks again.
        return True

    async def unwind(self, scope: Scope, request_id: str, most: int) -> int:
        """Give back charges that nobody wants any more; ``recovery.unwinding`` says which.

        Returns:
            how many payments were claimed.
        """
        caller = system(scope, "unwinding", request_id)
        now = clock.now()
        document = self._document(caller, None, now)
        document |= {
            "most": min(most, UNWOUND_AT_ONCE),
            "again_at": now + timedelta(seconds=self._settings.idempotency.lease_s),
        }
        claimed = _DETAILS_LIST.decode(await self._db.call("unwinding_claim", document))
        await self._side_by_side(self._unwind_one(caller, details) for details in claimed)
        return len(claimed)

    async def _side_by_side(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Do all of it at once; what still waits for a PSP after ``recovery.PATIENCE_S`` goes on without the job."""
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            self._under_way.add(task)
            task.add_done_callback(self._finished)
        if not tasks:
            return []
        ended, _ = await asyncio.wait(tasks, timeout=recovery.PATIENCE_S)
        return [task.result() for task in tasks if task in ended]

    async def _unwind_one(self, caller: Caller, details: Details) -> None:
        payment, now = details.payment, clock.now()
        plan = recovery.unwinding(payment, details.operations)
        if plan is None:
            await self._db.call(
                "unwinding_set", self._document(caller, None, now) | {"payment_id": payment.payment_id, "at": None}
            )
            return
        # One id per charge and try: whoever dies between sending and storing is repeated under the same key.
        operation_id = uuid5(plan.charge.operation_id, f"unwind {plan.tries}")
        operation = self._lease_fields(now) | {
            "operation_id": operation_id,
            "psp_key": ids.psp_key(operation_id, 0, KEY_LENGTH),
            "want": plan.kind,
            "unwinds": plan.charge.operation_id,
            "reason": plan.because,
            "routing": {"rule": recovery.UNWIND_RULE, "because": plan.because},
        }
        document = self._document(caller, None, now) | {"payment_id": payment.payment_id, "operation": operation}
        try:
            opened = _OPENED.decode(await self._db.call("operation_open", document))
        except (errors.NothingToUnwind, asyncpg.UniqueViolationError):
            return  # Another process was faster, or an operation of the merchant's is under way: the next sweep looks again.
        observation = await self._send(caller, opened)
        await self.settle(caller, opened, observation)

    async def release_surplus(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: SurplusRelease
    ) -> Answer:
        """Give back a surplus that is held (``payments.surplus = "hold"``), or try again now."""
        key = _required(key)
        now = clock.now()
        document = self._document(caller, key, now) | {
            "payment_id": _payment_id(payment_id),
            "at": now,
            "reason": body.reason,
        }
        opened = _OPENED.decode(await self._db.call("unwinding_set", document))
        if opened.replay is not None:
            return opened.replay.answer()
        assert opened.payment is not None
        answer = await self._render_payment(caller.scope, 200)(opened.payment, opened.operations, None)
        return await self._keep(caller, key, Answer(202, answer.body))

    async def decide(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, operation_id: str, body: DecisionCreate
    ) -> Answer:
        """Settle by a human's word what nobody could find out; above ``payments.second_person_above_minor`` by two."""
        key = _required(key)
        now = clock.now()
        document = self._document(caller, key, now) | {
            "payment_id": _payment_id(payment_id),
            "operation_id": _operation_id(operation_id),
            "decision_id": clock.new_uuid(),
            "outcome": body.outcome,
            "reason": body.reason,
            "psp_ref": body.psp_reference,
            "second_person_above_minor": self._settings.payments.second_person_above_minor,
            "unwind_surplus": self._settings.payments.surplus == "return",
            "mandate_activation": activation(self._settings.mandates.authentication),
        }
        opened = _OPENED.decode(await self._db.call("operation_decide", document))
        if opened.replay is not None:
            return opened.replay.answer()
        assert opened.decision is not None
        assert opened.operation is not None
        out = DecisionOut.of(opened.decision, opened.operation)
        answer = Answer(202 if opened.decision.state == "proposed" else 200, _ENCODER.encode(out))
        return await self._keep(caller, key, answer)

    async def tell(
        self,
        scope: Scope,
        request_id: str,
        *,
        account_id: UUID,
        news: News,
        fact_id: UUID,
        sequence: int | None = None,
        adopt: bool = False,
    ) -> Told | None:
        """Take in what a PSP says unasked; see ``payments.news``."""
        caller = system(scope, "news", request_id)
        return await news_of_psps.tell(
            self, caller, account_id=account_id, news=news, fact_id=fact_id, sequence=sequence, adopt=adopt
        )

    async def recover(self, scope: Scope, request_id: str, most: int) -> int:
        """Ask the PSPs about operations whose outcome is open and due; ``payments.recovery`` has the rules.

        Each is settled as soon as its PSP has answered. A PSP that hangs holds up nobody: others' operations are claimed
        meanwhile, and after ``recovery.PATIENCE_S`` the looks that still wait go on without this job.

        Returns:
            how many were claimed.
        """
        caller = system(scope, "recovery", request_id)
        ends_at = clock.monotonic() + recovery.PATIENCE_S
        looked_at = 0
        waiting: set[asyncio.Task[None]] = set()
        while True:
            claimed = await self._claim(caller, min(recovery.BATCH, most - looked_at))
            looked_at += len(claimed)
            waiting |= {self._begin_look(caller, opened) for opened in claimed}
            left = ends_at - clock.monotonic()
            if not waiting or left <= 0:
                return looked_at
            # Whatever is due and may be asked about has been claimed: then only a look that ends makes room for more.
            ended, waiting = await asyncio.wait(
                waiting,
                timeout=min(recovery.SLICE_S, left) if claimed else left,
                return_when=asyncio.ALL_COMPLETED if claimed else asyncio.FIRST_COMPLETED,
            )
            for look in ended:
                look.result()

    async def look_now(self, caller: Caller, payment_id: str, operation_id: str) -> bool:
        """Ask the PSP now about one operation whose outcome is open, by the rules of recovery: it is sent again only under the
        same key and only where those allow it; a payer's action is looked up and left to the payer.

        Returns:
            whether the PSP has been asked within ``payments.wait_budget_s``; else that goes on.

        Raises:
            PaymentNotFound, OperationNotFound, NothingToLookUp; InProgress: somebody is at it.
        """
        now = clock.now()
        payments = self._settings.payments
        margin_s = self._settings.idempotency.lease_s - payments.psp_timeout_s
        document = self._document(caller, None, now) | {
            "payment_id": _payment_id(payment_id),
            "operation_id": _operation_id(operation_id),
            "lease_token": clock.new_uuid(),
            "lease_until": now + timedelta(seconds=recovery.CALLS * payments.psp_timeout_s + margin_s),
        }
        opened = _OPENED.decode(await self._db.call("operation_look", document))
        task = asyncio.create_task(self._look_once(caller, opened))
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait({task}, timeout=payments.wait_budget_s)
        if done:
            task.result()
        return bool(done)

    async def _look_once(self, caller: Caller, opened: Opened) -> None:
        operation, sending = opened.operation, opened.sending
        assert operation is not None
        assert sending is not None
        if operation.state is not OperationState.REQUIRES_ACTION:
            await self._recover_one(caller, opened)
            return
        seen = Observation(observed="requires_action", source="system", code="no_lookup")
        if await self.can_look_up(caller.scope, operation, sending):
            seen = await self.look_up(caller.scope, operation, sending)
        if seen.observed in ("not_found", "not_sent", "unknown", "requires_action"):
            # The payer's time stays as it was.
            seen = msgspec.structs.replace(
                seen,
                observed="requires_action",
                action_expires_at=operation.action_expires_at,
                next_action=operation.next_action,
            )
        await self.settle(caller, opened, seen)

    async def _claim(self, caller: Caller, most: int) -> list[Opened]:
        """Due operations to look at now, none beyond what their accounts may be asked at once."""
        if most <= 0:
            return []
        now = clock.now()
        payments = self._settings.payments
        margin_s = self._settings.idempotency.lease_s - payments.psp_timeout_s
        allowed = self._psps.looks_at_once(recovery.PER_ACCOUNT)
        for account, looks in self._looks.items():
            allowed[account] = max(0, min(allowed.get(account, recovery.PER_ACCOUNT), recovery.PER_ACCOUNT - looks))
        document = self._document(caller, None, now) | {
            "lease_token": clock.new_uuid(),
            "lease_until": now + timedelta(seconds=recovery.CALLS * payments.psp_timeout_s + margin_s),
            "most": most,
            "per_account": recovery.PER_ACCOUNT,
            "accounts": {str(account): count for account, count in allowed.items()},
        }
        return _OPENED_LIST.decode(await self._db.call("operations_claim", document))

    def _begin_look(self, caller: Caller, opened: Opened) -> asyncio.Task[None]:
        """One look as a task, counted for its account until it ends."""
        assert opened.sending is not None
        account = opened.sending.account_id
        sending = msgspec.structs.replace(opened.sending, recovering=True)
        look = asyncio.create_task(self._look(caller, msgspec.structs.replace(opened, sending=sending)))
        self._looks[account] += 1
        self._under_way.add(look)

        def ended(task: asyncio.Task[None]) -> None:
            self._looks[account] -= 1
            self._looks += Counter()  # forgets what is zero
            self._finished(task)

        look.add_done_callback(ended)
        return look

    async def _look(self, caller: Caller, opened: Opened) -> None:
        """An operation whose plugin is gone, or whose row cannot be reached, must not hold up the others."""
        try:
            await self._recover_one(caller, opened)
        except DomainError as error:
            log.warning("an outcome stays open", code=error.code, said=error.detail)

    async def _recover_one(self, caller: Caller, opened: Opened) -> None:
        operation = opened.operation
        assert operation is not None
        if operation.state is OperationState.REQUIRES_ACTION:
            observation = await self._give_up_action(caller, opened)
        else:
            observation = await self._find_out(caller, opened)
            if operation.state is OperationState.SUBMITTED and observation.observed == OperationState.NOT_CHARGED:
                # Whoever sent it died: its outcome was unknown before it is known.
                await self.settle(caller, opened, msgspec.structs.replace(observation, observed="unknown"))
        await self.settle(caller, opened, observation)

    async def _find_out(self, caller: Caller, opened: Opened) -> Observation:
        """What can be said of an operation after a lookup, and after sending it again where the rules allow that."""
        payment, operation, sending = opened.payment, opened.operation, opened.sending
        assert payment is not None
        assert operation is not None
        assert sending is not None
        undecided = operation.state if operation.state in _UNDECIDED else OperationState.UNKNOWN
        psp = await self._psps.open(caller.scope, sending)
        found = Observation(observed="not_found", source="system", code="no_lookup")
        if recovery.can_ask(operation, psp.facts):
            found = await self.look_up(caller.scope, operation, sending)
        now = clock.now()
        if found.observed == "not_found":
            step = recovery.after_nothing_was_found(payment, operation, psp.facts, now)
            if step is NextStep.RESEND and operation.state not in _UNDECIDED:
                return await self._resend(caller, opened)
            if step is NextStep.NOT_CHARGED and operation.state is not OperationState.PENDING:
                return msgspec.structs.replace(found, observed="not_charged", code="not_found_in_time")
        if found.observed in ("not_found", "not_sent", "unknown"):
            limit = timedelta(hours=self._settings.payments.quarantine_h)
            if recovery.quarantined(operation, now, limit):
                return msgspec.structs.replace(found, observed="needs_review", code="quarantined")
            # That a *lookup* was not sent says nothing about the operation.
            return msgspec.structs.replace(
                found,
                observed=undecided,
                code=found.code or "lookup_found_nothing",
                look_by=recovery.proof_at(operation, psp.facts),
            )
        return found

    async def _resend(self, caller: Caller, opened: Opened) -> Observation:
        """Send the same operation under the same key once more, and say so first."""
        operation = opened.operation
        assert operation is not None
        document = _place(caller.scope) | {
            "now": clock.now(),
            "operation_id": operation.operation_id,
            "lease_token": operation.lease_token,
        }
        if not msgspec.json.decode(await self._db.call("operation_resend", document)):
            return Observation(observed="unknown", source="system", code="lease_lost")
        again = await self._send(caller, opened)
        # That this try was not sent does not prove that the first one was not.
        return msgspec.structs.replace(again, observed="unknown") if again.observed == "not_sent" else again

    async def drain(self, seconds: float) -> None:
        """Wait for calls to PSPs that are under way. What is left stays ``submitted``; its lease runs out and recovery asks."""
        if self._under_way:
            log.info("waiting for calls to PSPs", count=len(self._under_way))
            await asyncio.wait(self._under_way, timeout=seconds)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    # -- the three steps ------------------------------------------------------------------------------------------

    async def _operate(
        self,
        caller: Caller,
        key: IdempotencyKey,
        now: datetime,
        payment_id: UUID,
        operation: dict[str, Any],
        render: Render,
    ) -> Answer:
        document = self._document(caller, key, now) | {
            "payment_id": payment_id,
            "operation": operation,
        }
        return await self._run(caller, key, await self._open(caller, "operation_open", document), render, self._send)

    async def _open(self, caller: Caller, function: str, document: dict[str, Any]) -> Opened:
        """Reserve. An operation that is there although its key is not was taken in after a restore: go on with it."""
        try:
            return _OPENED.decode(await self._db.call(function, document))
        except asyncpg.UniqueViolationError as error:
            # one_charge_per_payment and one_void_per_charge stand behind the lock; whoever meets them came second.
            if error.constraint_name in ("one_charge_per_payment", "one_void_per_charge"):
                raise errors.InProgress from error
            if error.constraint_name != "operations_pkey":
                raise
        log.warning("an operation was known before its key", actor=caller.actor_id)
        return _OPENED.decode(await self._db.call("operation_resume", document))

    async def _run(
        self,
        caller: Caller,
        key: IdempotencyKey,
        opened: Opened,
        render: Render,
        send: Callable[[Caller, Opened], Awaitable[Observation]],
        wish: Wish | None = None,
    ) -> Answer:
        """Call the PSP for what was reserved and answer, or repeat, or go on where a crash left off."""
        if opened.replay is not None:
            return opened.replay.answer()
        if opened.resume is not None:
            now = clock.now()
            opened = await self._lease(
                caller, now, opened.resume.payment_id, opened.resume.operation_id, "resume", None
            )
            send, wish = self._look_up_or_repeat, None
        assert opened.payment is not None
        if opened.sending is None:
            details = await self._find(caller.scope, opened.payment.payment_id)
            return await self._keep(caller, key, await render(details.payment, details.operations, opened.operation))
        task = asyncio.create_task(self._send_and_settle(caller, key, opened, render, send, wish))
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait({task}, timeout=self._settings.payments.wait_budget_s)
        try:
            if done:
                return task.result()
            answer = await render(opened.payment, opened.operations, opened.operation)
            return await self._keep(caller, key, Answer(202, answer.body))
        except DatabaseUnavailable as error:
            # Its own words say that nothing was sent; from here on that would be a lie.
            raise errors.OutcomeNotStored from error

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("settling failed; recovery will find the operation", exc_info=task.exception())

    async def _send_and_settle(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        opened: Opened,
        render: Render,
        send: Callable[[Caller, Opened], Awaitable[Observation]],
        wish: Wish | None = None,
    ) -> Answer:
        observation = await send(caller, opened)
        tried: list[UUID] = []
        while wish is not None and wish.failover:
            following = await self._fail_over(caller, opened, observation, tried)
            if following is None:
                break
            opened = following
            observation = await send(caller, opened)
        settled, answer = await self._settle(caller, key, opened, observation, render)
        if answer is not None and settled.kept:
            return answer
        details = await self._find(caller.scope, settled.payment.payment_id)
        answer = await render(details.payment, details.operations, settled.operation)
        return answer if key is None else await self._keep(caller, key, answer)

    async def _fail_over(
        self, caller: Caller, opened: Opened, observation: Observation, tried: list[UUID]
    ) -> Opened | None:
        """The same charge, reserved at the next account, when the outcome allows it and there is one; the former is settled then.

        Args:
            tried: accounts that had their turn; this one is added.
        """
        payment, operation, sending = opened.payment, opened.operation, opened.sending
        if payment is None or operation is None or sending is None or sending.method is None:
            return None
        if sending.method.kind != SourceKind.CARD or not may_fail_over(observation.observed, observation.code):
            return None
        tried.append(sending.account_id)
        try:
            choice = await self._choose(
                caller.scope,
                payment.currency,
                payment.capture_method,
                None,
                verifies=payment.amount_minor == 0,
                tried=tried,
            )
        except NoRoute:
            return None
        settled = await self.settle(caller, opened, observation)
        if settled.operation.state not in (OperationState.DECLINED, OperationState.NOT_SENT):
            return None  # other news came meanwhile; settling it again changes nothing
        now = clock.now()
        # One id per try: whoever repeats it after a crash repeats this very charge.
        operation_id = uuid5(operation.operation_id, "failover")
        because = f"{sending.account}: {observation.observed} {observation.code or ''}".strip()
        document = self._document(caller, None, now) | {
            "payment_id": payment.payment_id,
            "caps": caps.at(now),
            "operation": self._lease_fields(now)
            | {"operation_id": operation_id, "psp_key": ids.psp_key(operation_id, 0, KEY_LENGTH), "want": "charge"}
            | _chosen(choice)
            | {"routing": choice.reason | {"after": because}},
        }
        try:
            following = await self._open(caller, "operation_open", document)
        except DomainError as refused:  # canceled meanwhile, a cap of the card: then the first outcome stands
            log.info("no failover", because=refused.code)
            return None
        return following

    async def _send(self, caller: Caller, opened: Opened, browser: Browser | None = None) -> Observation:
        """The one place where a reserved operation goes out."""
        payment, operation, sending = opened.payment, opened.operation, opened.sending
        assert payment is not None
        assert operation is not None
        assert sending is not None
        psp = await self._psps.open(caller.scope, sending)
        amount = Money(operation.amount_minor, operation.currency)
        reference = ids.encode("op", operation.operation_id)
        psp_key = psp.key(operation.psp_key)
        charge_ref = sending.charge_ref or ""
        match operation.kind:
            case "authorize" | "purchase":
                charge = ChargeRequest(
                    operation_id=reference,
                    key=psp_key,
                    amount=amount,
                    capture=operation.kind == "purchase",
                    source=psp.source(),
                    customer_present=not operation.merchant_initiated,
                    credential=_credential(operation, sending.credential),
                    return_url=payment.return_url,
                    webhook_url=self._psps.webhook_url(sending),
                    description=payment.description,
                    # The payment's own id goes along, so that a charge can be put back where it belongs after a restore.
                    metadata=payment.metadata
                    | {PAYMENT_LABEL: ids.encode("pay", payment.payment_id)}
                    | ({CLOCK_LABEL: operation.clock_at.isoformat()} if operation.clock_at is not None else {}),
                    customer=ids.encode_optional("cus", payment.customer_id),
                    browser=browser,
                )
                return await psp.observe(psp.adapter.create_intent(charge), amount, "create_intent")
            case "capture":
                capture = CaptureRequest(
                    operation_id=reference, key=psp_key, amount=amount, charge_ref=charge_ref, final=operation.final
                )
                return await psp.observe(psp.adapter.capture(capture), amount, "capture")
            case "void":
                assert operation.parent_id is not None
                charged = ids.encode("op", operation.parent_id)
                cancel = CancelRequest(
                    operation_id=reference,
                    key=psp_key,
                    amount=amount,
                    charge_ref=charge_ref,
                    charge_operation_id=charged,
                )
                return await psp.observe(psp.adapter.cancel(cancel), amount, "cancel")
            case _:
                refund = RefundRequest(
                    operation_id=reference, key=psp_key, amount=amount, charge_ref=charge_ref, reason=operation.reason
                )
                return await psp.observe(psp.adapter.refund(refund), amount, "refund")

    async def _look_up_or_repeat(self, caller: Caller, opened: Opened) -> Observation:
        """After a crash, when the client repeats its request: ask the PSP, else send the *same* key again while it holds."""
        operation, sending = opened.operation, opened.sending
        assert operation is not None
        assert sending is not None
        psp = await self._psps.open(caller.scope, sending)
        if recovery.can_ask(operation, psp.facts):
            found = await self.look_up(caller.scope, operation, sending)
            if found.observed == "not_sent":
                # The *lookup* was not sent; that says nothing about the operation.
                return msgspec.structs.replace(found, observed="unknown")
            if found.observed != "not_found":
                return found
        assert opened.payment is not None
        if recovery.may_resend(operation, psp.facts, clock.now()) and not recovery.called_off(
            opened.payment, operation
        ):
            return await self._resend(caller, opened)
        return Observation(observed="unknown", source="system", code="lookup_found_nothing")

    async def ask(self, function: str, caller: Caller, document: dict[str, Any]) -> str | None:
        """Call a function of the money path on the gateway's own behalf."""
        found: str | None = await self._db.call(function, self._document(caller, None, clock.now()) | document)
        return found

    async def can_look_up(self, scope: Scope, operation: Operation, sending: Sending) -> bool:
        """Whether the PSP can be asked about this operation."""
        psp = await self._psps.open(scope, sending)
        return recovery.can_ask(operation, psp.facts)

    async def look_up(self, scope: Scope, operation: Operation, sending: Sending) -> Observation:
        """Ask the PSP how an operation stands."""
        psp = await self._psps.open(scope, sending)
        request = RetrieveRequest(
            operation_id=ids.encode("op", operation.operation_id),
            key=psp.key(operation.psp_key),
            kind=operation.kind,
            amount=Money(operation.amount_minor, operation.currency),
            psp_ref=operation.psp_ref,
            charge_ref=sending.charge_ref,
            created_at=operation.created_at,
        )
        return await psp.observe(psp.adapter.retrieve(request), request.amount, "retrieve", source="lookup")

    async def settle(
        self,
        caller: Caller,
        opened: Opened,
        observation: Observation,
        *,
        fact_id: UUID | None = None,
        sequence: int | None = None,
        note_only: bool = False,
        judged: OperationState | None = None,
    ) -> Settled:
        """Store what was observed when nobody waits for an answer.

        Args:
            caller: on whose behalf.
            opened: the operation, with its payment.
            observation: what was seen.
            fact_id: the same observation is stored once.
            sequence: the PSP's own order of its news about this operation.
            note_only: keep the fact, change nothing.
            judged: the state that unasked news was judged against.

        Raises:
            MovedOn: the operation has another final state than ``judged`` by now.
        """
        more: dict[str, Any] = {"psp_sequence": sequence, "note_only": note_only, "judged": judged}
        if fact_id is not None:
            more["fact_id"] = fact_id
        settled, _ = await self._settle(caller, None, opened, observation, _no_answer, **more)
        return settled

    async def _settle(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        opened: Opened,
        observation: Observation,
        render: Render,
        **more: Any,
    ) -> tuple[Settled, Answer | None]:
        """Store what was observed, and the predicted answer with it; an answer that contradicts what was heard is looked up."""
        try:
            return await self._store(caller, key, opened, observation, render, **more)
        except errors.MovedOn:
            if observation.source != "response":
                raise
        return await self._store_contradiction(caller, opened, observation), None

    async def _store_contradiction(self, caller: Caller, opened: Opened, observation: Observation) -> Settled:
        """The PSP answered that a refund succeeded, after it had told that it failed. Its record decides, when it can be had."""
        operation, sending = opened.operation, opened.sending
        assert operation is not None
        found = observation
        if sending is not None and await self.can_look_up(caller.scope, operation, sending):
            found = await self.look_up(caller.scope, operation, sending)
        if found.observed not in ("succeeded", "declined"):
            found = observation  # As carried out, with an incident: the money may be gone.
        settled, _ = await self._store(
            caller, None, opened, found, _no_answer, looked_up=True, taken_back=found.observed == "declined"
        )
        if found is not observation:
            settled, _ = await self._store(
                caller, None, opened, observation, _no_answer, looked_up=True, note_only=True
            )
        return settled

    async def _store(
        self,
        caller: Caller,
        key: IdempotencyKey | None,
        opened: Opened,
        observation: Observation,
        render: Render,
        **more: Any,
    ) -> tuple[Settled, Answer | None]:
        """One observation in one transaction. Repeats while the database is away."""
        payment, operation = opened.payment, opened.operation
        assert payment is not None
        assert operation is not None
        now = clock.now()
        action_expires_at = observation.action_expires_at
        if observation.observed == "requires_action" and action_expires_at is None:
            action_expires_at = now + timedelta(minutes=self._settings.payments.action_ttl_min)
        document = self._document(caller, None, now) | {
            "payment_id": payment.payment_id,
            "operation_id": operation.operation_id,
            "lease_token": operation.lease_token,
            "fact": observation.fact() | {"fact_id": more.pop("fact_id", None) or clock.new_uuid()},
            "next_action": observation.next_action,
            "action_expires_at": action_expires_at,
            "sweep_at": recovery.look_again(operation, observation, now),
            "unwind_surplus": self._settings.payments.surplus == "return",
            "unwind_at": recovery.unwind_again(operation, opened.operations, now),
            **more,
        }
        if operation.mandate_id is not None:
            document["mandate_activation"] = activation(self._settings.mandates.authentication)
        answer = None
        if key is not None:
            predicted, operations, changed = _predict(payment, opened.operations, operation, observation, now)
            answer = await render(predicted, operations, changed)
            document["answer"] = {
                "key_hash": key.key_hash,
                "status": answer.status,
                "body": answer.body.decode(),
                "sequence": predicted.sequence,
                "payment_status": predicted.status,
                "operation_state": changed.state,
                "code": changed.code,
                "psp_ref": changed.psp_ref,
            }
        for attempt in range(SETTLE_TRIES):
            try:
                return _SETTLED.decode(await self._db.call("operation_settle", document)), answer
            except asyncpg.UniqueViolationError as error:
                if error.constraint_name == "facts_pkey":  # An earlier try was committed although we heard no answer.
                    details = await self._find(caller.scope, payment.payment_id)
                    row = next(one for one in details.operations if one.operation_id == operation.operation_id)
                    return Settled(details.payment, row, kept=False), answer
                # The PSP's reference was given to another operation in this moment: the next try sees it.
            except (DatabaseUnavailable, asyncpg.TransactionRollbackError):
                if attempt < SETTLE_TRIES - 1:
                    await clock.sleep(0.1 * 2**attempt)
        raise DatabaseUnavailable

    # -- pieces ---------------------------------------------------------------------------------------------------

    async def _lease(
        self,
        caller: Caller,
        now: datetime,
        payment_id: UUID,
        operation_id: UUID | None,
        want: str,
        key: IdempotencyKey | None,
    ) -> Opened:
        document = self._document(caller, key, now) | self._lease_fields(now)
        document |= {"payment_id": payment_id, "operation_id": operation_id, "want": want}
        return _OPENED.decode(await self._db.call("operation_lease", document))

    async def _give_up_action(self, caller: Caller, opened: Opened) -> Observation:
        """A charge whose payer never came back: look it up, and cancel it at the PSP if it still waits.

        A PSP that cannot be asked tells by itself how it ended; until then nothing is known but that the time is over."""
        operation, sending = opened.operation, opened.sending
        assert operation is not None
        assert sending is not None
        if not await self.can_look_up(caller.scope, operation, sending):
            return Observation(observed="pending", source="system", code="action_expired")
        observation = await self.look_up(caller.scope, operation, sending)
        if observation.observed == "requires_action":
            psp = await self._psps.open(caller.scope, sending)
            amount = Money(operation.amount_minor, operation.currency)
            giving_up = uuid5(operation.operation_id, "give up")
            request = CancelRequest(
                operation_id=ids.encode("op", giving_up),
                key=psp.key(ids.psp_key(giving_up, 0, KEY_LENGTH)),
                amount=amount,
                charge_ref=operation.psp_ref or "",
                charge_operation_id=ids.encode("op", operation.operation_id),
            )
            canceled = await psp.observe(psp.adapter.cancel(request), amount, "cancel")
            if canceled.observed == "succeeded":
                return Observation(observed="expired", source="response", code="action_expired", raw=canceled.raw)
        if observation.observed in ("not_found", "not_sent"):
            # Neither proves that the payer did not just finish.
            return msgspec.structs.replace(
                observation, observed="unknown", code=observation.code or "lookup_found_nothing"
            )
        return observation

    async def _charge(
        self, caller: Caller, key: IdempotencyKey, now: datetime, given: Mapping[str, Any], wish: Wish
    ) -> dict[str, Any]:
        """The operation's fields; ``given`` are the payment's."""
        place = given["currency"], given["capture_method"]
        choice = None
        if wish.account is None and not given["customer_present"]:
            # Where the first payment was made, if that account still takes charges: the issuer knows it.
            mandate = await self._mandate(caller.scope, given["mandate_id"], given["payment_method_id"])
            if mandate is not None and mandate.psp_account_id is not None:
                with contextlib.suppress(NoRoute):
                    account = ids.encode("acct", mandate.psp_account_id)
                    choice = await self._choose(caller.scope, *place, account, source=None, by_merchant=True)
        if choice is None:
            verifies, by_merchant = given["amount_minor"] == 0, not given["customer_present"]
            choice = await self._choose_any(
                caller.scope, *place, wish.account, verifies=verifies, by_merchant=by_merchant
            )
        return self._operation(caller, key, now, "charge") | _chosen(choice)

    async def _choose_any(
        self, scope: Scope, currency: str, capture_method: str, wanted: str | None, **more: Any
    ) -> Choice:
        """An account for a method whose kind is not known yet: for a card, which most are, else for whatever it is."""
        place = currency, capture_method, wanted
        try:
            return await self._choose(scope, *place, **more)
        except NoRoute as refused:
            try:
                return await self._choose(scope, *place, **more, source=None)
            except NoRoute:
                raise refused from None

    async def _open_charge(
        self, caller: Caller, function: str, document: dict[str, Any], given: Mapping[str, Any], wish: Wish
    ) -> Opened:
        """Reserve a charge. A method that another account must charge is told by the database, and reserved there."""
        try:
            return await self._open(caller, function, document)
        except errors.NeedsAccount as told:
            held_by = told.fields["psp_account_id"]
            account = None if held_by is None else ids.encode("acct", UUID(held_by))
            if wish.account is not None and account is not None:
                names = await self._psps.names(caller.scope, UUID(held_by))
                if wish.account not in (account, names.get(UUID(held_by), ("", ""))[1]):
                    raise errors.NeedsAccount(psp_account=account) from None
            choice = await self._choose(
                caller.scope,
                given["currency"],
                given["capture_method"],
                account or wish.account,
                verifies=given["amount_minor"] == 0,
                source=SourceKind(told.fields["source"]),
                method=told.fields["psp_method"],
            )
        document["operation"] |= _chosen(choice)
        return await self._open(caller, function, document)

    async def _mandate(self, scope: Scope, mandate_id: UUID | None, method_id: UUID | None) -> MandateRow | None:
        document = _place(scope) | {"mandate_id": mandate_id, "payment_method_id": method_id}
        found: MandateRow | None = _MANDATE.decode(await self._db.call("mandate_find", document))
        return found

    async def _choose(
        self, scope: Scope, currency: str, capture_method: str, wanted: str | None, **more: Any
    ) -> Choice:
        fields: dict[str, Any] = {"currency": currency, "capture_method": capture_method, "wanted": wanted} | more
        try:
            return choose(await self._psps.candidates(scope), **fields)
        except NoRoute:  # An account may have been added a moment ago, by another process.
            return choose(await self._psps.candidates(scope, fresh=True), **fields)

    def _operation(self, caller: Caller, key: IdempotencyKey, now: datetime, want: str) -> dict[str, Any]:
        operation_id = ids.operation_id(
            self._installation, caller.scope.tenant_id, live=caller.scope.live, route=key.route, client_key=key.raw
        )
        return self._lease_fields(now) | {
            "operation_id": operation_id,
            "psp_key": ids.psp_key(operation_id, 0, KEY_LENGTH),
            "want": want,
            "lacking": self._psps.lacking() if want != "charge" else None,
        }

    def _lease_fields(self, now: datetime) -> dict[str, Any]:
        return {
            "lease_token": clock.new_uuid(),
            "lease_until": now + timedelta(seconds=self._settings.idempotency.lease_s),
        }

    def _document(self, caller: Caller, key: IdempotencyKey | None, now: datetime) -> dict[str, Any]:
        document: dict[str, Any] = _place(caller.scope) | {
            "now": now,
            "actor_type": caller.actor_type,
            "actor_id": caller.actor_id,
            "key_id": caller.key_id,
            "session_id": caller.session_id,
            "request_id": caller.request_id,
            "event_ids": [clock.new_uuid(), clock.new_uuid(), clock.new_uuid()],
        }
        if caller.actor_type == "operator":
            document["refund_second_person_above_minor"] = self._settings.payments.refund_second_person_above_minor
        if key is not None:
            lease = self._lease_fields(now)
            document["idempotency"] = key.document(lease_token=lease["lease_token"], lease_until=lease["lease_until"])
        return document

    async def _created_answer(self, caller: Caller, given: dict[str, Any], now: datetime) -> dict[str, Any]:
        status = (
            PaymentStatus.REQUIRES_CONFIRMATION if given["payment_method_id"] else PaymentStatus.REQUIRES_PAYMENT_METHOD
        )
        payment = Payment(live=caller.scope.live, created_at=now, updated_at=now, status=status, **given)
        return {"status": 201, "body": _ENCODER.encode(payment_out(payment, [], {})).decode()}

    def _render_payment(self, scope: Scope, status: int) -> Render:
        async def render(payment: Payment, operations: list[Operation], _: Operation | None) -> Answer:
            out = payment_out(payment, operations, await self._psps.names(scope, payment.psp_account_id))
            unclear = payment.status is PaymentStatus.PROCESSING
            return Answer(202 if unclear else status, _ENCODER.encode(out))

        return render

    def _render_refund(self, status: int) -> Render:
        async def render(payment: Payment, _: list[Operation], refund: Operation | None) -> Answer:
            assert refund is not None
            code = status if refund.state in FINAL else 202
            return Answer(code, _ENCODER.encode(refund_out(refund, live=payment.live)))

        return render

    async def _keep(self, caller: Caller, key: IdempotencyKey, answer: Answer) -> Answer:
        """Keep this answer under the key unless one is kept already; the kept one is given."""
        document = _place(caller.scope) | {
            "key_hash": key.key_hash,
            "answer": {"status": answer.status, "body": answer.body.decode()},
        }
        return msgspec.json.decode(await self._db.call("idempotency_finish", document), type=Kept).answer()

    async def _kept(self, scope: Scope, key: IdempotencyKey) -> Answer | None:
        """The answer that this very request got before, if it did."""
        document = _place(scope) | {"key_hash": key.key_hash, "request_hash": key.request_hash}
        found = await self._db.call("idempotency_peek", document)
        return None if found is None else msgspec.json.decode(found, type=Kept).answer()

    async def _find(self, scope: Scope, payment_id: UUID) -> Details:
        found = await self._db.call("payment_read", _place(scope) | {"payment_id": payment_id})
        if found is None:
            raise errors.PaymentNotFound
        return _DETAILS.decode(found)

    async def _detailed(self, scope: Scope, details: Details) -> PaymentOut:
        names = await self._psps.names(scope, details.payment.psp_account_id)
        facts: dict[str, list[dict[str, Any]]] = {}
        for fact in details.facts:
            shown = {name: fact[name] for name in _SHOWN_OF_A_FACT if fact.get(name) is not None}
            facts.setdefault(fact["operation_id"], []).append(shown)
        out = payment_out(details.payment, details.operations, names)
        return msgspec.structs.replace(
            out,
            operations=[operation_out(one, facts.get(str(one.operation_id), []), names) for one in details.operations],
            audit=[
                AuditOut(
                    **{**entry, "id": ids.encode("evt", UUID(entry["id"])), "at": datetime.fromisoformat(entry["at"])}
                )
                for entry in details.audit
            ],
        )


_SHOWN_OF_A_FACT = (
    "source",
    "observed",
    "observed_at",
    "amount_minor",
    "currency",
    "psp_ref",
    "code",
    "raw_code",
    "authentication",
    "raw",
)


def _predict(
    payment: Payment, operations: list[Operation], operation: Operation, observation: Observation, now: datetime
) -> tuple[Payment, list[Operation], Operation]:
    """What ``operation_settle`` will make of an observation: intent, operations and the operation itself."""
    after = next_state(operation.state, OperationState(observation.observed), kind=operation.kind)
    moved = after is not operation.state
    changed = msgspec.structs.replace(
        operation,
        state=after,
        psp_ref=operation.psp_ref or observation.psp_ref,
        code=observation.code if moved or after is OperationState.UNKNOWN else operation.code,
        raw_code=observation.raw_code if moved else operation.raw_code,
        advice=observation.advice if moved else operation.advice,
        network_code=observation.network_code if moved else operation.network_code,
        message=observation.message if moved else operation.message,
        next_action=(observation.next_action or operation.next_action)
        if after is OperationState.REQUIRES_ACTION
        else None,
        updated_at=now,
    )
    rows = [changed if one.operation_id == operation.operation_id else one for one in operations]
    if not moved:
        return payment, rows, changed
    if changed.kind == "void" and after is OperationState.SUCCEEDED:
        rows = [
            msgspec.structs.replace(one, state=OperationState.EXPIRED, code="canceled", next_action=None)
            if one.operation_id == changed.parent_id
            and one.state in (OperationState.REQUIRES_ACTION, OperationState.PENDING)
            else one
            for one in rows
        ]
        payment = msgspec.structs.replace(payment, canceled_at=now, cancellation_reason=changed.reason)
    derived = derive(payment, rows)
    return msgspec.structs.replace(derived, sequence=payment.sequence + 1, updated_at=now), rows, changed


def _credential(operation: Operation, credential: SendingCredential | None) -> StoredCredential | None:
    if credential is None:
        return None
    return StoredCredential(
        initiator="merchant" if operation.merchant_initiated else "customer",
        purpose=credential.purpose,
        first=credential.first,
        mandate=ids.encode("man", credential.mandate_id),
        network_transaction_id=credential.network_transaction_id,
    )


async def _no_answer(*_: object) -> Answer:
    """Nobody waits for the answer of what the gateway does on its own."""
    return Answer(200, b"")


def _wish(body: PaymentCreate | PaymentConfirm) -> Wish:
    browser = None if body.browser is None else Browser(**msgspec.structs.asdict(body.browser))
    return Wish(body.psp_account, body.failover and body.psp_account is None, browser)


def _chosen(choice: Choice) -> dict[str, Any]:
    """What the database is told of an account that was chosen."""
    return {
        "psp_account_id": choice.candidate.account_id,
        "routing": choice.reason,
        "sources": sorted(choice.candidate.facts.sources),
    }


def _required(key: IdempotencyKey | None) -> IdempotencyKey:
    if key is None:
        raise KeyMissing
    return key


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def _payment_id(text: str) -> UUID:
    try:
        return ids.decode("pay", text)
    except ids.InvalidId:
        raise errors.PaymentNotFound from None


def _operation_id(text: str) -> UUID:
    try:
        return ids.decode("op", text)
    except ids.InvalidId:
        raise errors.OperationNotFound from None


def _dispute_id(text: str) -> UUID:
    try:
        return ids.decode("dp", text)
    except ids.InvalidId:
        raise errors.DisputeNotFound from None


def _refund_id(text: str) -> UUID:
    try:
        return ids.decode("re", text)
    except ids.InvalidId:
        raise errors.RefundNotFound from None


def _reference(prefix: str, text: str | None, missing: type[Exception]) -> UUID | None:
    if text is None:
        return None
    try:
        return ids.decode(prefix, text)
    except ids.InvalidId:
        raise missing from None


def _cursor(moment: datetime, identity: UUID) -> str:
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{identity}".encode()).decode().rstrip("=")


def _after(cursor: str | None) -> dict[str, Any]:
    if cursor is None:
        return {}
    try:
        moment, _, identity = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
        return {"after_at": datetime.fromisoformat(moment), "after_id": UUID(identity)}
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise InvalidRequest(
            "cursor is not one that a list answered; start again without it.",
            errors=[{"path": "cursor", "message": "unknown"}],
        ) from None
