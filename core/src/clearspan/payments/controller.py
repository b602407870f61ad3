"""``/v1/payments`` and ``/v1/refunds``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from clearspan.payments import errors
from clearspan.payments.schemas import (
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
)
from clearspan.payments.service import Payments
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest
from clearspan.platform.replies import problems, reply
from clearspan.routing.service import NoRoute

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]
_STATUSES = (
    "requires_payment_method, requires_confirmation, requires_action, processing, requires_capture, succeeded,"
    " partially_captured, canceled, expired"
)
Status = Annotated[
    str | None,
    QueryParameter(
        pattern="^[a-z_]{1,40}$",
        description=f"One of {_STATUSES}; or what people search by: failed, authorized, captured, refunded, disputed, unknown.",
    ),
]
STATUS_WORDS = frozenset(
    [*_STATUSES.split(", "), "failed", "authorized", "captured", "refunded", "disputed", "unknown"]
)
MINOR = QueryParameter(ge=1, le=10**12)


class PaymentController(Controller):
    """Payment intents."""

    path = "/payments"
    tags = ["Payments"]

    @post(
        opt={"scope": "payments:write"},
        responses=problems(
            errors.CustomerMissing, errors.MethodMissing, errors.MethodOfAnother, errors.MethodDetached, errors.MethodRequired,
            errors.AccountUnavailable, errors.UnsupportedCurrency, errors.MandateMissing, errors.MandateNotActive,
            errors.RetryCapReached, errors.CardStopped, NoRoute, errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def create(
        self,
        data: JSONBody[PaymentCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Create a payment; with `confirm: true` charge it in the same call.

        A decline is an answer, not an error: the payment shows `requires_payment_method` and `last_error`. 202 means that the
        outcome is not known yet; follow the events.
        """
        return reply(await payments.create(caller, key, data))

    @get(opt={"scope": "payments:read"}, responses=problems(errors.TenantNotFound, ids.InvalidId))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        payments: NamedDependency[Payments],
        limit: Limit = 20,
        cursor: Cursor = None,
        tenant: Annotated[str | None, QueryParameter(max_length=90, description="Your own slug or id.")] = None,
        status: Status = None,
        psp: Annotated[str | None, QueryParameter(max_length=80, description="PSP or account name.")] = None,
        customer: Annotated[str | None, QueryParameter(max_length=90)] = None,
        currency: Annotated[str | None, QueryParameter(pattern="^[A-Z]{3}$")] = None,
        reference: Annotated[str | None, QueryParameter(max_length=200)] = None,
        amount_min: Annotated[int | None, MINOR] = None,
        amount_max: Annotated[int | None, MINOR] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> PaymentList:
        """Payments, newest first, each with its operations at the PSPs and its audit entries.

        Metadata is searched with `metadata[key]=value`.
        """
        if status is not None and status not in STATUS_WORDS:
            raise InvalidRequest(
                f"status is one of {', '.join(sorted(STATUS_WORDS))}.",
                errors=[{"path": "status", "message": "unknown"}],
            )
        metadata = {
            name[9:-1]: value
            for name, value in request.query_params.multi_items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        _only(request, _FILTERS, "metadata[key]")
        filters = {
            "tenant": tenant,
            "status": status,
            "psp": psp,
            "customer_id": ids.decode("cus", customer) if customer is not None else None,
            "currency": currency,
            "reference": reference,
            "amount_min": amount_min,
            "amount_max": amount_max,
            "created_after": in_utc("created_after", created_after),
            "created_before": in_utc("created_before", created_before),
            "metadata": metadata or None,
        }
        return await payments.page(caller, filters, limit, cursor)

    @get("/{payment_id:str}", opt={"scope": "payments:read"}, responses=problems(errors.PaymentNotFound))
    async def get(
        self, payment_id: FromPath[str], caller: NamedDependency[Caller], payments: NamedDependency[Payments]
    ) -> PaymentOut:
        """One payment with its operations at the PSPs and its audit entries."""
        return await payments.get(caller, payment_id)

    @post(
        "/{payment_id:str}/confirm",
        status_code=200,
        opt={"scope": "payments:write"},
        responses=problems(
            errors.PaymentNotFound, errors.NotConfirmable, errors.InProgress, errors.UnknownOutcome, errors.MethodMissing,
            errors.MethodRequired, errors.MethodDetached, errors.MethodOfAnother, errors.AccountUnavailable, NoRoute,
            errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def confirm(
        self,
        payment_id: FromPath[str],
        data: JSONBody[PaymentConfirm],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Charge a payment, at most once however often you ask."""
        return reply(await payments.confirm(caller, key, payment_id, data))

    @post(
        "/{payment_id:str}/continue",
        status_code=200,
        opt={"scope": "payments:write"},
        responses=problems(
            errors.PaymentNotFound, errors.NotContinuable, errors.InProgress, errors.UnknownOutcome,
            errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def continue_(
        self,
        payment_id: FromPath[str],
        data: JSONBody[PaymentContinue],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Go on after the payer came back from `next_action`."""
        return reply(await payments.continue_(caller, key, payment_id, data))

    @post(
        "/{payment_id:str}/capture",
        status_code=200,
        opt={"scope": "payments:write"},
        responses=problems(
            errors.PaymentNotFound, errors.NotCapturable, errors.AboveCapturable, errors.NotOffered,
            errors.InProgress, errors.UnknownOutcome,
            errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def capture(
        self,
        payment_id: FromPath[str],
        data: JSONBody[PaymentCapture],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Capture an authorised amount: all, a part, or several parts one after the other."""
        return reply(await payments.capture(caller, key, payment_id, data))

    @post(
        "/{payment_id:str}/cancel",
        status_code=200,
        opt={"scope": "payments:write"},
        responses=problems(
            errors.PaymentNotFound, errors.NotCancelable, errors.NotOffered, errors.InProgress, errors.UnknownOutcome,
            errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def cancel(
        self,
        payment_id: FromPath[str],
        data: JSONBody[PaymentCancel],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Close a payment, or release what is authorised and not captured."""
        return reply(await payments.cancel(caller, key, payment_id, data))

    @post(
        "/{payment_id:str}/release-surplus",
        status_code=202,
        opt={"scope": "payments:decide"},
        responses=problems(errors.PaymentNotFound, errors.WithoutSurplus),
    )
    async def release_surplus(
        self,
        payment_id: FromPath[str],
        data: JSONBody[SurplusRelease],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Give back a charge that succeeded after it had been given up (`amounts.surplus_minor`)."""
        return reply(await payments.release_surplus(caller, key, payment_id, data))

    @post(
        "/{payment_id:str}/operations/{operation_id:str}/decision",
        status_code=200,
        opt={"scope": "payments:decide"},
        responses=problems(
            errors.PaymentNotFound, errors.OperationNotFound, errors.NotInReview, errors.DecisionConflict,
            errors.DecisionNotFound, errors.SecondPersonRequired,
        ),
    )  # fmt: skip
    async def decide(
        self,
        payment_id: FromPath[str],
        operation_id: FromPath[str],
        data: JSONBody[DecisionCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[DecisionOut]:
        """Say what became of an operation in `needs_review`.

        202: the amount is above `payments.second_person_above_minor`, and a second person must send the same decision.
        """
        return reply(await payments.decide(caller, key, payment_id, operation_id, data))

    @post(
        "/{payment_id:str}/refunds",
        status_code=201,
        opt={"scope": "payments:write"},
        responses=problems(
            errors.PaymentNotFound, errors.NotRefundable, errors.AboveRefundable, errors.NotOffered,
            errors.InProgress, errors.UnknownOutcome,
            errors.OutcomeNotStored, money=RefundOut,
        ),
    )  # fmt: skip
    async def refund(
        self,
        payment_id: FromPath[str],
        data: JSONBody[RefundCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[RefundOut]:
        """Give back a captured amount: all, a part, or several parts; never more than was captured."""
        return reply(await payments.refund(caller, key, payment_id, data))


_FILTERS = frozenset(
    {
        "limit",
        "cursor",
        "tenant",
        "status",
        "psp",
        "customer",
        "currency",
        "reference",
        "amount_min",
        "amount_max",
        "created_after",
        "created_before",
    }
)


_REFUND_FILTERS = frozenset({"limit", "cursor", "payment"})


def _only(request: Request[Any, Any, Any], filters: frozenset[str], *also: str) -> None:
    """A filter that is not there would silently find everything."""
    for name in request.query_params:
        if name in filters or (also and name.startswith("metadata[") and name.endswith("]")):
            continue
        raise InvalidRequest(
            f"There is no filter {name[:40]!r}; there are {', '.join([*sorted(filters), *also])}.",
            errors=[{"path": name[:40], "message": "unknown query parameter"}],
        )


class MandateVerificationController(Controller):
    """The part of ``/v1/mandates`` that asks a PSP."""

    path = "/mandates"
    tags = ("Mandates",)

    @post(
        "/{mandate_id:str}/verify",
        opt={"scope": "mandates:write"},
        responses=problems(
            errors.MandateNotFound, errors.MandateNotActive, errors.MethodDetached, errors.AccountUnavailable,
            errors.UnsupportedCurrency, NoRoute, errors.OutcomeNotStored, money=PaymentOut,
        ),
    )  # fmt: skip
    async def verify(
        self,
        mandate_id: FromPath[str],
        data: JSONBody[MandateVerify],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        payments: NamedDependency[Payments],
    ) -> Response[PaymentOut]:
        """Activate a mandate without charging: a zero-amount payment with the customer present.

        The answer is a payment of 0: `requires_action` while the bank asks the customer (then `POST /v1/payments/{id}/continue`),
        `succeeded` when the card is good. A suspended mandate is active again after it.
        """
        return reply(await payments.verify_mandate(caller, key, ids.decode("man", mandate_id), data))


class RefundController(Controller):
    """Refunds."""

    path = "/refunds"
    tags = ["Payments"]

    @get(opt={"scope": "payments:read"}, responses=problems(errors.PaymentNotFound))
    async def list(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        payments: NamedDependency[Payments],
        payment: Annotated[str | None, QueryParameter(max_length=90, description="Of one payment.")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> RefundList:
        """Refunds, newest first."""
        _only(request, _REFUND_FILTERS)
        return await payments.list_refunds(caller, payment, limit, cursor)

    @get("/{refund_id:str}", opt={"scope": "payments:read"}, responses=problems(errors.RefundNotFound))
    async def get(
        self, refund_id: FromPath[str], caller: NamedDependency[Caller], payments: NamedDependency[Payments]
    ) -> RefundOut:
        """One refund."""
        return await payments.get_refund(caller, refund_id)


class DisputeController(Controller):
    """Disputes."""

    path = "/disputes"
    tags = ["Payments"]

    @get(opt={"scope": "payments:read"}, responses=problems(errors.PaymentNotFound))
    async def list(
        self,
        caller: NamedDependency[Caller],
        payments: NamedDependency[Payments],
        payment: FromQuery[str | None] = None,
        status: Annotated[str | None, QueryParameter(pattern="^[a-z_]{1,40}$")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> DisputeList:
        """Disputes and returned direct debits, newest first."""
        return await payments.list_disputes(caller, payment, status, limit, cursor)

    @get("/{dispute_id:str}", opt={"scope": "payments:read"}, responses=problems(errors.DisputeNotFound))
    async def get(
        self, dispute_id: FromPath[str], caller: NamedDependency[Caller], payments: NamedDependency[Payments]
    ) -> DisputeOut:
        """One dispute."""
        return await payments.get_dispute(caller, dispute_id)
