"""Reading what Mollie says. Source of names, statuses and their meaning: https://docs.mollie.com/reference/payments-api and
https://docs.mollie.com/docs/handling-payment-status (2026-11-23), the models of mollie-api-py 1.10.20 (BSD-2). Where a page of
one endpoint is named below, its facts were read in Mollie's published OpenAPI description, which that page is made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

import clearspan.sdk as sdk
from clearspan_psp_mollie.refusals import CARD, DEBIT, FIELD, GIVEN_UP

T = TypeVar("T")
Time = Annotated[datetime, Meta(tz=True)]
_KEPT = frozenset(
    {
        "resource",
        "id",
        "mode",
        "status",
        "statusReason",
        "amount",
        "amountCaptured",
        "amountRefunded",
        "amountChargedBack",
    }
    | {"method", "sequenceType", "captureMode", "captureBefore", "customerId", "mandateId", "settlementId", "paymentId"}
    | {
        "isCancelable",
        "createdAt",
        "authorizedAt",
        "paidAt",
        "canceledAt",
        "expiredAt",
        "failedAt",
        "metadata",
        "field",
    }
)
_DETAILS = frozenset({"failureReason", "bankReasonCode", "bankReason", "cardSecurity", "cardLabel"})


class Amount(msgspec.Struct):
    """``{"currency": "EUR", "value": "10.00"}``."""

    currency: str
    value: str


class Url(msgspec.Struct):
    """Where a link leads."""

    href: str


class Links(msgspec.Struct):
    """Those that are followed: ``checkout`` is the payer's page, ``next`` the list's next part."""

    checkout: Url | None = None
    next: Url | None = None


class Details(msgspec.Struct, rename="camel"):
    """Why a payment failed: cards and direct debits tell it in their own words."""

    failure_reason: str | None = None
    failure_message: str | None = None
    bank_reason_code: str | None = None


class Payment(msgspec.Struct, rename="camel"):
    """A payment. A capture mode of ``None`` is automatic."""

    resource: Literal["payment"]
    id: str
    status: str
    amount: Amount
    created_at: Time
    metadata: Any = None
    amount_captured: Amount | None = None
    capture_mode: str | None = None
    sequence_type: str | None = None
    customer_id: str | None = None
    mandate_id: str | None = None
    is_cancelable: bool | None = None
    details: Details | None = None
    authorized_at: Time | None = None
    paid_at: Time | None = None
    canceled_at: Time | None = None
    expired_at: Time | None = None
    failed_at: Time | None = None
    expires_at: Time | None = None
    links: Links = msgspec.field(name="_links", default_factory=Links)

    @property
    def times(self) -> list[datetime]:
        """When something happened to it, as far as it is told."""
        told = (self.created_at, self.authorized_at, self.paid_at, self.canceled_at, self.expired_at, self.failed_at)
        return [at for at in told if at is not None]


class Part(msgspec.Struct, rename="camel"):
    """A capture or a refund."""

    resource: Literal["capture", "refund"]
    id: str
    status: str
    amount: Amount
    payment_id: str
    created_at: Time
    metadata: Any = None


class Chargeback(msgspec.Struct, rename="camel"):
    """Money that the payer's bank took back. ``reason`` is told for direct debits only."""

    resource: Literal["chargeback"]
    id: str
    amount: Amount
    payment_id: str
    created_at: Time
    reversed_at: Time | None = None
    reason: dict[str, Any] | None = None


class Page(msgspec.Struct):
    """A part of a list, newest first."""

    embedded: dict[str, list[dict[str, Any]]] = msgspec.field(name="_embedded")
    links: Links = msgspec.field(name="_links", default_factory=Links)


class Created(msgspec.Struct):
    """Of an answer that only its id matters of."""

    id: str


class Error(msgspec.Struct):
    """https://docs.mollie.com/reference/handling-errors"""

    status: int
    title: str = ""
    detail: str = ""
    field: str | None = None


def money(amount: Amount) -> sdk.Money:
    """An amount; Mollie's decimals are ISO 4217's in every currency it takes (https://docs.mollie.com/docs/multicurrency).

    Raises:
        OutcomeUnknown: it is none.
    """
    try:
        return sdk.from_decimal(amount.value, amount.currency)
    except (sdk.Unrepresentable, sdk.UnknownCurrency) as error:
        raise sdk.OutcomeUnknown(f"the answer holds no amount: {error}") from error


def reference(metadata: object) -> str | None:
    """Our id of the operation, as ``metadata`` carries it."""
    found = metadata.get("operation_id") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


def words(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What of an answer may be kept: Mollie tells names, addresses and accounts of payers, and none of it is needed."""
    details = raw.get("details")
    told = {name: details[name] for name in _DETAILS & details.keys()} if isinstance(details, dict) else {}
    return {name: raw[name] for name in raw if name in _KEPT} | ({"details": told} if told else {})


def charge(raw: Mapping[str, Any], capture: bool) -> sdk.Outcome:
    """How a payment stands.

    Args:
        raw: the payment.
        capture: ``False`` when only a hold was asked for.

    Raises:
        OutcomeUnknown: it is not as documented, or money was taken where a hold was asked for.
    """
    found, kept = sdk.read(raw, Payment), words(raw)
    held = found.status in ("canceled", "expired") and found.authorized_at is not None and not capture
    if found.status == "paid" or held or (found.status == "authorized" and not capture):
        if not capture and found.capture_mode != "manual":
            raise sdk.OutcomeUnknown("Mollie took the money at once, where only a hold was asked for")
        stored = found.sequence_type == "first" and found.customer_id and found.mandate_id
        token = stored_token(found.customer_id or "", found.mandate_id or "") if stored else None
        return sdk.Approved(psp_ref=found.id, amount=money(found.amount), stored_token=token, raw=kept)
    if found.status == "open" and found.links.checkout is not None:
        page = sdk.RedirectAction(found.links.checkout.href)
        return sdk.ActionRequired(psp_ref=found.id, action=page, expires_at=found.expires_at, raw=kept)
    # Authorised although the whole was asked for: Mollie captures it by itself, and says so when it has.
    if found.status in ("open", "pending", "authorized"):
        return sdk.Pending(psp_ref=found.id, raw=kept)
    if found.status in ("canceled", "expired", "failed"):
        return _declined(found, kept)
    raise sdk.OutcomeUnknown(f"Mollie documents no payment status {found.status!r}")


def _declined(found: Payment, kept: dict[str, Any]) -> sdk.Declined:
    said = found.details or Details()
    raw_code = said.failure_reason or said.bank_reason_code or found.status
    if said.failure_reason:
        code = CARD.code(said.failure_reason)
    elif found.status == "failed":
        code = DEBIT.code(said.bank_reason_code)
    else:
        code = GIVEN_UP[found.status]
    return sdk.Declined(code=code, raw_code=raw_code, message=said.failure_message, psp_ref=found.id, raw=kept)


def released(raw: Mapping[str, Any], standing: T) -> sdk.Approved | sdk.Declined | T:
    """Whether what was held, or waited for, is given up. A release is accepted first and done later, and the payment then is
    canceled, or paid when something of it had been captured (https://docs.mollie.com/reference/release-authorization).

    Args:
        raw: the payment.
        standing: what it means when the payment still stands.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    found, kept = sdk.read(raw, Payment), words(raw)
    psp_ref, amount = f"{found.id}/void", money(found.amount)
    taken = money(found.amount_captured).amount_minor if found.amount_captured else 0
    rest = sdk.Money(amount.amount_minor - taken, amount.currency)
    ended = found.status == "paid" and found.amount_captured is not None and rest.amount_minor > 0
    if found.status == "canceled" or ended:
        return sdk.Approved(psp_ref=psp_ref, amount=rest, raw=kept)
    if found.status in ("paid", "expired", "failed"):
        return sdk.Declined(code="not_permitted", raw_code=found.status, psp_ref=psp_ref, raw=kept)
    if found.status in ("open", "pending", "authorized"):
        return standing
    raise sdk.OutcomeUnknown(f"Mollie documents no payment status {found.status!r}")


def part(raw: Mapping[str, Any]) -> sdk.Outcome:
    """How a capture or a refund stands. Captures: pending, succeeded, failed. Refunds: queued, pending, processing, refunded,
    failed, canceled (https://docs.mollie.com/reference/get-capture and get-refund).

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    found, kept = sdk.read(raw, Part), words(raw)
    if found.status in ("succeeded", "refunded"):
        return sdk.Approved(psp_ref=found.id, amount=money(found.amount), raw=kept)
    if found.status in ("queued", "pending", "processing"):
        return sdk.Pending(psp_ref=found.id, raw=kept)
    if found.status in ("failed", "canceled"):
        return sdk.Declined(code="not_permitted", raw_code=found.status, psp_ref=found.id, raw=kept)
    raise sdk.OutcomeUnknown(f"Mollie documents no {found.resource} status {found.status!r}")


def dispute(raw: Mapping[str, Any], of: str | None = None) -> sdk.DisputeNews:
    """A chargeback. Mollie takes the money back at once and tells no more than whether that was reversed; a direct debit's, which
    alone has a reason, is a bank's return (https://docs.mollie.com/reference/get-chargeback).

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    found = sdk.read(raw, Chargeback)
    status = sdk.DisputeStatus.WON if found.reversed_at else sdk.DisputeStatus.LOST
    if found.reason is not None and found.reversed_at is None:
        status = sdk.DisputeStatus.RETURNED
    return sdk.DisputeNews(
        dispute_ref=found.id,
        status=status,
        amount=money(found.amount),
        charge_ref=found.payment_id,
        reference=of,
        reason=str((found.reason or {}).get("code") or "") or None,
        raw=words(raw),
    )


def refused(answer: sdk.Answer, *, follow_up: bool) -> sdk.Declined | None:
    """What a 404, 410 or 422 means; nothing was executed.

    Args:
        answer: of a request.
        follow_up: it was about a payment that exists, so that its books may forbid it.

    Raises:
        PspMisconfigured: the request is one that this account cannot send.
    """
    if answer.status < 300:
        return None
    said = sdk.read(answer.body, Error)
    if answer.status in (404, 410):
        raise sdk.PspMisconfigured("Mollie has no such object under this API key: is it another profile's or mode's?")
    code = FIELD.rows.get(said.field or "", "not_permitted" if follow_up and said.field is None else "")
    if not code:
        raise sdk.PspMisconfigured(f"Mollie refused the request, field {said.field or 'not named'}: {said.detail}")
    return sdk.Declined(code=code, raw_code=f"422 {said.field or ''}".strip(), message=said.detail, raw={"status": 422})


def stored_token(customer: str, mandate: str) -> str:
    """What later charges rest on, as one text."""
    return f"{customer}/{mandate}"


def stored_parts(token: str) -> tuple[str, str]:
    """Customer and mandate of a text that ``stored_token`` made.

    Raises:
        NotSupported: it made it not.
    """
    customer, slash, mandate = token.partition("/")
    if not (slash and customer.startswith("cst_") and mandate.startswith("mdt_")):
        raise sdk.NotSupported("a stored token of Mollie is a customer and a mandate: cst_.../mdt_...")
    return customer, mandate
