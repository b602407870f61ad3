"""Requests and answers of the payments API. Amounts are integers in the currency's smallest unit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clearspan.payments.models import Dispute, Operation, OperationState, Payment, PaymentStatus
from clearspan.payments.rows import Decision
from clearspan.platform import ids
from clearspan.vaults.schemas import WEB_ADDRESS

AMOUNT_MAX_MINOR = 1_000_000_000_000

AmountMinor = Annotated[
    int,
    Meta(
        ge=1,
        le=AMOUNT_MAX_MINOR,
        description="Integer, smallest unit: 1099 is 10.99 EUR, 500 is 500 JPY.",
        examples=[1099],
    ),
]
Currency = Annotated[
    str,
    Meta(min_length=3, max_length=3, pattern="^[A-Z]{3}$", description="ISO 4217 code, capitals.", examples=["EUR"]),
]
Reference = Annotated[
    str, Meta(min_length=1, max_length=200, description="Your own id for it.", examples=["order-1042"])
]
Url = Annotated[str, Meta(max_length=2000, pattern=WEB_ADDRESS, examples=["https://shop.example/thanks"])]
Description = Annotated[
    str, Meta(max_length=500, description="For people; no personal data.", examples=["Two coffees"])
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]],
    Meta(max_length=50, description="Your own short strings; no personal data.", examples=[{"order": "o-1042"}]),
]
Account = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=80,
        description="Name or id of the PSP account; default: by routing.",
        examples=["alpha"],
    ),
]
MethodId = Annotated[
    str, Meta(max_length=90, description="Id of a payment method.", examples=["pm_01h455vb4pex5vsknk084sn02q"])
]


MandateId = Annotated[
    str,
    Meta(
        max_length=90,
        description=(
            "Id of a mandate of this payment method. With the customer present and the mandate pending, this is its first"
            " payment. Without the customer: default is the method's active one."
        ),
        examples=["man_01h455vb4pex5vsknk084sn02q"],
    ),
]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: unknown fields are refused."""


class BrowserIn(_Body, frozen=True, kw_only=True):
    """The payer's browser, for 3-D Secure. It goes to the PSP and is stored nowhere."""

    ip_address: Annotated[str, Meta(max_length=45, examples=["203.0.113.7"])] | None = None
    user_agent: Annotated[str, Meta(max_length=500, examples=["Mozilla/5.0 (X11; Linux x86_64)"])] | None = None
    accept_header: Annotated[str, Meta(max_length=500, examples=["text/html,*/*;q=0.8"])] | None = None
    language: Annotated[str, Meta(max_length=35, examples=["de-DE"])] | None = None
    colour_depth: Annotated[int, Meta(ge=1, le=64, examples=[24])] | None = None
    screen_width: Annotated[int, Meta(ge=1, le=100_000, examples=[1920])] | None = None
    screen_height: Annotated[int, Meta(ge=1, le=100_000, examples=[1080])] | None = None
    timezone_offset_min: (
        Annotated[
            int,
            Meta(
                ge=-840,
                le=840,
                description="From local time to UTC, as JavaScript's getTimezoneOffset.",
                examples=[-60],
            ),
        ]
        | None
    ) = None


Failover = Annotated[
    bool,
    Meta(
        description="After a decline that another account may not share, or when the account cannot be reached, try the next one"
        " that fits, in the same call. Never after an unknown outcome. Cards in the vault only, and without psp_account."
    ),
]


class PaymentCreate(_Body, frozen=True, kw_only=True):
    """Create a payment intent; with ``confirm`` it is charged at once."""

    amount_minor: AmountMinor
    currency: Currency
    payment_method: MethodId | None = None
    customer: Annotated[str, Meta(max_length=90, examples=["cus_01h455vb4pex5vsknk084sn02q"])] | None = None
    capture_method: Annotated[
        Literal["automatic", "manual"], Meta(description="manual: authorise now, capture later.")
    ] = "automatic"
    confirm: Annotated[bool, Meta(description="Charge at once; needs payment_method.")] = False
    customer_present: Annotated[
        bool,
        Meta(description="false for a merchant-initiated payment: it needs an active mandate of the payment method."),
    ] = True
    mandate: MandateId | None = None
    psp_account: Account | None = None
    failover: Failover = False
    browser: BrowserIn | None = None
    reference: Reference | None = None
    description: Description | None = None
    return_url: Url | None = None
    metadata: Metadata = {}


class MandateVerify(_Body, frozen=True, kw_only=True):
    """Verify a mandate's card with a zero-amount payment, the customer present."""

    return_url: Url
    currency: Currency = "EUR"
    psp_account: Account | None = None


class PaymentConfirm(_Body, frozen=True, kw_only=True):
    """Charge an intent."""

    payment_method: MethodId | None = None
    psp_account: Account | None = None
    failover: Failover = False
    browser: BrowserIn | None = None
    return_url: Url | None = None


class PaymentContinue(_Body, frozen=True, kw_only=True):
    """Go on after the payer came back."""

    params: Annotated[
        dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=4000)]],
        Meta(max_length=30, description="The query parameters the payer came back with.", examples=[{}]),
    ] = {}


class PaymentCapture(_Body, frozen=True, kw_only=True):
    """Capture an authorised amount."""

    amount_minor: Annotated[
        AmountMinor | None, Meta(description="Default: everything that is left.", examples=[500])
    ] = None
    final: Annotated[bool, Meta(description="Release what is left afterwards.")] = False
    reference: Reference | None = None


class PaymentCancel(_Body, frozen=True, kw_only=True):
    """Cancel: close an intent, or release what is authorised and not captured."""

    reason: Annotated[str, Meta(max_length=200, examples=["customer changed their mind"])] | None = None


class RefundCreate(_Body, frozen=True, kw_only=True):
    """Give back a captured amount."""

    amount_minor: Annotated[
        AmountMinor | None, Meta(description="Default: everything that is left.", examples=[500])
    ] = None
    reason: Annotated[str, Meta(max_length=200, examples=["returned goods"])] | None = None
    reference: Reference | None = None
    metadata: Metadata = {}


class DecisionCreate(_Body, frozen=True, kw_only=True):
    """What a human found out about an operation that waits for a decision."""

    outcome: Annotated[
        Literal["succeeded", "declined", "not_charged", "withdraw"],
        Meta(description="What really happened at the PSP; `withdraw` takes a proposed decision back."),
    ]
    reason: Annotated[
        str,
        Meta(min_length=10, max_length=1000, examples=["Statement of 3 May shows no such charge; PSP ticket 4711."]),
    ]
    psp_reference: Annotated[str, Meta(min_length=1, max_length=500, examples=["ch_abc"])] | None = None


class SurplusRelease(_Body, frozen=True, kw_only=True):
    """Give a surplus back now."""

    reason: Annotated[str, Meta(min_length=3, max_length=200, examples=["the customer was charged twice"])]


class DecisionOut(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about an operation."""

    id: str
    object: Literal["decision"]
    payment: str
    operation: str
    outcome: Literal["succeeded", "declined", "not_charged"]
    state: Annotated[
        Literal["proposed", "applied", "withdrawn"], Meta(description="proposed: a second person must say the same.")
    ]
    reason: str
    psp_reference: str | None
    proposed_by: str
    proposed_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None

    @classmethod
    def of(cls, row: Decision, operation: Operation) -> DecisionOut:
        """From the row."""
        return cls(
            id=ids.encode("dec", row.decision_id),
            object="decision",
            payment=ids.encode("pay", operation.payment_id),
            operation=ids.encode("op", operation.operation_id),
            outcome=row.outcome,  # type: ignore[arg-type]  # the column's CHECK holds the words
            state=row.state,  # type: ignore[arg-type]  # likewise
            reason=row.reason,
            psp_reference=row.psp_ref,
            proposed_by=row.proposed_by,
            proposed_at=row.proposed_at,
            confirmed_by=row.confirmed_by,
            confirmed_at=row.confirmed_at,
        )


class DisputeOut(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute, or a direct debit that a bank gave back (`returned`)."""

    id: str
    object: Literal["dispute"]
    live: bool
    payment: str
    status: Literal[
        "inquiry",
        "inquiry_closed",
        "needs_response",
        "under_review",
        "won",
        "lost",
        "accepted",
        "expired",
        "pre_arbitration",
        "prevented",
        "returned",
    ]
    amount_minor: int
    currency: str
    reason: str | None
    network_code: str | None
    evidence_due_at: datetime | None
    psp_reference: str
    sequence: int
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class DisputeList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of disputes, newest first."""

    object: Literal["list"]
    data: list[DisputeOut]
    has_more: bool
    next_cursor: str | None


class AmountsOut(msgspec.Struct, frozen=True, kw_only=True):
    """Where the money is, all in minor units of the payment's currency."""

    authorized_minor: int
    captured_minor: int
    capturable_minor: int
    voided_minor: int
    refunded_minor: int
    refundable_minor: int
    disputed_minor: int
    returned_minor: int
    surplus_minor: Annotated[int, Meta(description="Charged although it had been given up; it is given back.")]


class PspOut(msgspec.Struct, frozen=True, kw_only=True):
    """Which PSP account holds the charge, and under which reference."""

    psp: str
    account: str
    account_id: str
    reference: str | None


class NextActionOut(msgspec.Struct, frozen=True, kw_only=True):
    """What the payer must do now."""

    type: Literal["redirect"]
    url: str


class PaymentErrorOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why the last charge did not succeed: the normalised code, and the PSP's own words for your support."""

    code: str
    raw_code: str | None = None
    advice: str | None = None
    network_code: str | None = None
    message: str | None = None


class OperationOut(msgspec.Struct, frozen=True, kw_only=True):
    """One intended change at a PSP, with what the PSP said."""

    id: str
    kind: Literal["authorize", "purchase", "capture", "void", "refund"]
    state: OperationState
    amount_minor: int
    currency: str
    psp: str
    account: str
    psp_reference: str | None
    code: str | None
    raw_code: str | None
    message: str | None
    routing: dict[str, str]
    fee_minor: Annotated[int | None, Meta(description="What the PSP keeps for it, as far as it said.")]
    created_at: datetime
    decided_at: datetime | None
    observations: list[dict[str, Any]]


class AuditOut(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry about the payment."""

    id: str
    type: str
    at: datetime
    actor_type: str
    actor_id: str
    request_id: str


class PaymentOut(msgspec.Struct, frozen=True, kw_only=True):
    """A payment intent."""

    id: str
    object: Literal["payment"]
    live: bool
    status: Literal[
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "succeeded",
        "partially_captured",
        "canceled",
        "expired",
    ]
    outcome: Annotated[
        Literal["pending", "unknown"] | None,
        Meta(description="With processing: pending = accepted by the PSP; unknown = being found out. Never a failure."),
    ]
    amount_minor: int
    currency: str
    amounts: AmountsOut
    capture_method: Literal["automatic", "manual"]
    customer_present: bool
    customer: str | None
    payment_method: str | None
    mandate: Annotated[str | None, Meta(description="What it rests on, or what its success activates.")]
    psp: PspOut | None
    next_action: NextActionOut | None
    last_error: PaymentErrorOut | None
    reference: str | None
    description: str | None
    return_url: str | None
    metadata: dict[str, str]
    cancellation_reason: str | None
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    canceled_at: datetime | None
    cancel_requested_at: Annotated[
        datetime | None, Meta(description="Canceled while the outcome was open: carried out when it is known.")
    ]
    operations: list[OperationOut] | UnsetType = UNSET
    audit: list[AuditOut] | UnsetType = UNSET


class PaymentList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of payments, newest first."""

    object: Literal["list"]
    data: list[PaymentOut]
    has_more: bool
    next_cursor: str | None


class RefundOut(msgspec.Struct, frozen=True, kw_only=True):
    """A refund."""

    id: str
    object: Literal["refund"]
    live: bool
    payment: str
    status: Annotated[
        Literal["submitted", "pending", "unknown", "succeeded", "failed", "canceled"],
        Meta(description="unknown = being found out; never a failure."),
    ]
    amount_minor: int
    currency: str
    reason: str | None
    reference: str | None
    metadata: dict[str, str]
    code: str | None
    psp_reference: str | None
    created_at: datetime
    updated_at: datetime


class RefundList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of refunds, newest first."""

    object: Literal["list"]
    data: list[RefundOut]
    has_more: bool
    next_cursor: str | None


Names = dict[Any, tuple[str, str]]
"""PSP account id -> (PSP, account name)."""

_REFUND_STATUS = {
    OperationState.PREPARED: "submitted",
    OperationState.SUBMITTED: "submitted",
    OperationState.REQUIRES_ACTION: "pending",
    OperationState.PENDING: "pending",
    OperationState.UNKNOWN: "unknown",
    OperationState.NEEDS_REVIEW: "unknown",
    OperationState.SUCCEEDED: "succeeded",
    OperationState.DECLINED: "failed",
    OperationState.EXPIRED: "canceled",
    OperationState.NOT_CHARGED: "canceled",
    OperationState.NOT_SENT: "canceled",
    OperationState.SURPLUS: "succeeded",
    OperationState.REVERSED: "failed",
}


def payment_out(payment: Payment, operations: list[Operation], names: Names) -> PaymentOut:
    """Render the current state; pure, so that the same state gives the same bytes."""
    charge = next((op for op in operations if op.operation_id == payment.charge_operation_id), None)
    psp = None
    if payment.psp_account_id is not None:
        kind, account = names.get(payment.psp_account_id, ("", ""))
        psp = PspOut(
            psp=kind,
            account=account,
            account_id=ids.encode("acct", payment.psp_account_id),
            reference=charge.psp_ref if charge else None,
        )
    return PaymentOut(
        id=ids.encode("pay", payment.payment_id),
        object="payment",
        live=payment.live,
        status=payment.status.value,
        outcome=payment.outcome,  # type: ignore[arg-type]  # the column's CHECK holds the two words
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        amounts=AmountsOut(
            authorized_minor=payment.authorized_minor,
            captured_minor=payment.captured_minor,
            capturable_minor=payment.capturable_minor,
            voided_minor=payment.voided_minor,
            refunded_minor=payment.refunded_minor,
            refundable_minor=payment.refundable_minor,
            disputed_minor=payment.disputed_minor,
            returned_minor=payment.returned_minor,
            surplus_minor=payment.surplus_minor,
        ),
        capture_method=payment.capture_method,  # type: ignore[arg-type]  # likewise
        customer_present=payment.customer_present,
        customer=ids.encode_optional("cus", payment.customer_id),
        payment_method=ids.encode_optional("pm", payment.payment_method_id),
        mandate=ids.encode_optional("man", payment.mandate_id),
        psp=psp,
        next_action=msgspec.convert(payment.next_action, NextActionOut) if payment.next_action else None,
        last_error=msgspec.convert(payment.last_error, PaymentErrorOut) if payment.last_error else None,
        reference=payment.reference,
        description=payment.description,
        return_url=payment.return_url,
        metadata=payment.metadata,
        cancellation_reason=payment.cancellation_reason or payment.cancel_request_reason,
        sequence=payment.sequence,
        created_at=payment.created_at,
        updated_at=payment.updated_at,
        expires_at=payment.expires_at,
        canceled_at=payment.canceled_at
        or (payment.cancel_requested_at if payment.status is PaymentStatus.CANCELED else None),
        cancel_requested_at=payment.cancel_requested_at,
    )


def operation_out(operation: Operation, observations: list[dict[str, Any]], names: Names) -> OperationOut:
    """One operation with the PSP's own messages beside it."""
    psp, account = names.get(operation.psp_account_id, ("", ""))
    return OperationOut(
        id=ids.encode("op", operation.operation_id),
        kind=operation.kind,  # type: ignore[arg-type]  # the column's CHECK holds the words
        state=operation.state,
        amount_minor=operation.amount_minor,
        currency=operation.currency,
        psp=psp,
        account=account,
        psp_reference=operation.psp_ref,
        code=operation.code,
        raw_code=operation.raw_code,
        message=operation.message,
        routing=operation.routing,
        fee_minor=operation.fee_minor,
        created_at=operation.created_at,
        decided_at=operation.decided_at,
        observations=observations,
    )


def refund_out(refund: Operation, *, live: bool) -> RefundOut:
    """A refund as its operation stands."""
    return RefundOut(
        id=ids.encode("re", refund.operation_id),
        object="refund",
        live=live,
        payment=ids.encode("pay", refund.payment_id),
        status=_REFUND_STATUS[refund.state],  # type: ignore[arg-type]  # the table's values are the words
        amount_minor=refund.amount_minor,
        currency=refund.currency,
        reason=refund.reason,
        reference=refund.reference,
        metadata=refund.metadata,
        code=refund.code,
        psp_reference=refund.psp_ref,
        created_at=refund.created_at,
        updated_at=refund.updated_at,
    )


def dispute_out(dispute: Dispute, *, live: bool) -> DisputeOut:
    """A dispute as it stands."""
    return DisputeOut(
        id=ids.encode("dp", dispute.dispute_id),
        object="dispute",
        live=live,
        payment=ids.encode("pay", dispute.payment_id),
        status=dispute.status,  # type: ignore[arg-type]  # the column's CHECK holds the words
        amount_minor=dispute.amount_minor,
        currency=dispute.currency,
        reason=dispute.reason,
        network_code=dispute.network_code,
        evidence_due_at=dispute.evidence_due_at,
        psp_reference=dispute.psp_ref,
        sequence=dispute.sequence,
        opened_at=dispute.opened_at,
        updated_at=dispute.updated_at,
        closed_at=dispute.closed_at,
    )
