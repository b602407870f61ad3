"""What PayPal's orders, authorisations, captures and refunds say.

Shapes and enumerations: OpenAPI descriptions "Orders" 2.13 and "Payments" 2.5 (paypal/paypal-rest-api-specifications, 2024-02).
An order holds all that was ever done about one charge: ``custom_id`` is the charge's operation everywhere, ``invoice_id`` the
operation of the very object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_paypal.refusals import ISSUES, LOOK_AGAIN, PROCESSOR, REQUEST_FAULTS

NO_DECIMALS = frozenset({"HUF", "JPY", "TWD"})
"""Amounts with decimals cause an error: https://developer.paypal.com/api/rest/reference/currency-codes/ (2026-08)."""
CAPTURED = frozenset({"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"})
AUTHORIZED = frozenset({"CREATED", "CAPTURED", "PARTIALLY_CAPTURED", "VOIDED"})
HELD = frozenset({"CREATED", "PARTIALLY_CAPTURED", "PENDING"})
REFUSED = frozenset({"DECLINED", "FAILED", "DENIED", "CANCELLED"})
DOCUMENTED = CAPTURED | AUTHORIZED | HELD | REFUSED
_PEOPLE = (
    "payer payee shipping name email_address address billing_address phone phone_number phone_type birth_date tax_info"
)
_PERSONAL = frozenset(_PEOPLE.split())


class Amount(msgspec.Struct, frozen=True):
    """``money``."""

    currency_code: str
    value: str

    def money(self) -> sdk.Money:
        """As the gateway counts.

        Raises:
            OutcomeUnknown: it is no amount.
        """
        try:
            return sdk.from_decimal(self.value, self.currency_code)
        except (sdk.Unrepresentable, sdk.UnknownCurrency) as error:
            raise sdk.OutcomeUnknown(f"PayPal's amount is unreadable: {error}") from error


class Link(msgspec.Struct, frozen=True):
    """``link_description``."""

    rel: str
    href: str


class _Processor(msgspec.Struct, frozen=True):
    response_code: str | None = None
    payment_advice_code: str | None = None


class _Reason(msgspec.Struct, frozen=True):
    reason: str | None = None


class _Reference(msgspec.Struct, frozen=True):
    id: str


class _Breakdown(msgspec.Struct, frozen=True):
    paypal_fee: Amount | None = None


class Related(msgspec.Struct, frozen=True):
    """``related_ids``."""

    order_id: str | None = None
    authorization_id: str | None = None


class _Supplementary(msgspec.Struct, frozen=True):
    related_ids: Related = Related()


class Payment(msgspec.Struct, frozen=True):
    """An authorisation, a capture or a refund; they share these fields."""

    id: str
    status: str
    amount: Amount
    custom_id: str | None = None
    invoice_id: str | None = None
    status_details: _Reason = _Reason()
    processor_response: _Processor = _Processor()
    network_transaction_reference: _Reference | None = None
    seller_receivable_breakdown: _Breakdown = _Breakdown()
    supplementary_data: _Supplementary = _Supplementary()
    links: Sequence[Link] = ()

    @property
    def reference(self) -> str | None:
        """Our id of the capture or refund. What was made in PayPal's dashboard has the charge's ids, or none."""
        return self.invoice_id if self.invoice_id != self.custom_id else None


class _Payments(msgspec.Struct, frozen=True):
    authorizations: Sequence[Payment] = ()
    captures: Sequence[Payment] = ()
    refunds: Sequence[Payment] = ()


class _Unit(msgspec.Struct, frozen=True):
    custom_id: str | None = None
    payments: _Payments = _Payments()


class _ThreeDs(msgspec.Struct, frozen=True):
    authentication_status: str | None = None
    enrollment_status: str | None = None


class _Authenticated(msgspec.Struct, frozen=True):
    liability_shift: str | None = None
    three_d_secure: _ThreeDs = _ThreeDs()


class _Vault(msgspec.Struct, frozen=True):
    id: str | None = None


class _Attributes(msgspec.Struct, frozen=True):
    vault: _Vault = _Vault()


class _Source(msgspec.Struct, frozen=True):
    attributes: _Attributes = _Attributes()
    authentication_result: _Authenticated | None = None


class _Sources(msgspec.Struct, frozen=True):
    card: _Source | None = None
    paypal: _Source | None = None


class Order(msgspec.Struct, frozen=True):
    """``order``, with the one purchase unit that we send."""

    id: str
    status: str
    purchase_units: Sequence[_Unit] = ()
    payment_source: _Sources = _Sources()
    links: Sequence[Link] = ()

    @property
    def payments(self) -> _Payments:
        """What was done about it."""
        return self.purchase_units[0].payments if self.purchase_units else _Payments()

    @property
    def custom_id(self) -> str | None:
        """Our id of the charge."""
        told = {unit.custom_id for unit in self.purchase_units}
        told |= {one.custom_id for one in (*self.payments.authorizations, *self.payments.captures)}
        told.discard(None)
        return told.pop() if len(told) == 1 else None

    @property
    def touched(self) -> bool:
        """Whether anything was authorised or captured, or refused."""
        return bool(self.payments.authorizations or self.payments.captures)

    def forbidden(self, payer_canceled: bool) -> str:
        """Why an order must not be captured or authorised, or nothing.

        Source: https://developer.paypal.com/docs/checkout/advanced/customize/3d-secure/response-parameters (2025-12): go on
        when liability may shift, or stays with us because card or issuer take no part (enrolment N, U, B).
        """
        card = self.payment_source.card
        if card is None or card.authentication_result is None:
            return "PAYER_CANCELED" if payer_canceled else ""
        said = card.authentication_result
        enrolled, shift = said.three_d_secure.enrollment_status, said.liability_shift
        if shift in ("POSSIBLE", "YES") or (shift == "NO" and enrolled in ("N", "U", "B")):
            return ""
        return f"3DS_{enrolled or '-'}_{said.three_d_secure.authentication_status or '-'}_{shift or '-'}"


def order(raw: Mapping[str, Any], reference: str, psp_ref: str | None = None) -> Order:
    """An order that must be about our charge.

    Raises:
        OutcomeUnknown: it is not as documented, or another one.
    """
    found = sdk.read(raw, Order)
    if len(found.purchase_units) > 1 or found.custom_id != reference or psp_ref not in (None, found.id):
        raise sdk.OutcomeUnknown("the answer is about another order")
    return found


def charge(found: Order, capture: bool, raw: Mapping[str, Any], page: str, *, looked_up: bool = False) -> sdk.Outcome:
    """How a purchase or an authorisation stands; ``page`` is where payers approve an order that names no page itself.

    Raises:
        OutcomeUnknown: it does not say.
    """
    tries = found.payments.captures if capture else found.payments.authorizations
    good = [one for one in tries if one.status not in REFUSED]
    if len(good) > 1:
        raise sdk.OutcomeUnknown(f"{len(good)} payments were made about one order")
    if tries:
        outcome = payment((good or list(tries))[-1], raw, found.id, CAPTURED if capture else AUTHORIZED, looked_up)
        if isinstance(outcome, sdk.Approved):
            outcome = msgspec.structs.replace(
                outcome, stored_token=_stored(found), authentication=_authentication(found)
            )
        return outcome
    links = [one.href for one in found.links if one.rel in ("payer-action", "approve")]
    if found.status in ("PAYER_ACTION_REQUIRED", "APPROVED") or (found.status == "CREATED" and links):
        # An approved order waits for us, and only the payer's return makes us go on: PayPal's page sends him back at once.
        # One that is merely created and leads nowhere is being paid at this moment.
        url = links[0] if links else f"{page}{found.id}"
        return sdk.ActionRequired(psp_ref=found.id, action=sdk.RedirectAction(url), raw=kept(raw))
    if found.status == "VOIDED":
        return sdk.Declined(code="generic_decline", raw_code="VOIDED", psp_ref=found.id, raw=kept(raw))
    raise sdk.OutcomeUnknown(f"the order is {found.status!r} and holds no payment")


def payment(
    found: Payment, raw: Mapping[str, Any], psp_ref: str, done: frozenset[str], looked_up: bool = False
) -> sdk.Outcome:
    """How an authorisation, capture or refund stands; ``done`` are the statuses that say it took effect.

    Raises:
        OutcomeUnknown: an undocumented status, or PayPal's processor suspects a duplicate.
    """
    if found.status in done:
        amount, fee = found.amount.money(), found.seller_receivable_breakdown.paypal_fee
        network = found.network_transaction_reference
        return sdk.Approved(
            psp_ref=psp_ref,
            amount=amount,
            network_transaction_id=network.id if network else None,
            fee=fee.money() if fee and fee.currency_code == amount.currency else None,
            raw=kept(raw),
        )
    if found.status == "PENDING":
        return sdk.Pending(psp_ref=psp_ref, raw=kept(raw))
    if found.status in REFUSED:
        raw_code = found.processor_response.response_code or found.status_details.reason or found.status
        code = PROCESSOR.code(raw_code)
        if code == "duplicate" and not looked_up:
            raise sdk.OutcomeUnknown("PayPal's processor suspects a duplicate: look the operation up")
        advice = found.processor_response.payment_advice_code
        return sdk.Declined(code=code, raw_code=raw_code, advice=advice, psp_ref=psp_ref, raw=kept(raw))
    raise sdk.OutcomeUnknown(f"PayPal answered with the undocumented status {found.status!r}")


def issues(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``details`` of an error."""
    details = raw.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def issue_of(answer: sdk.Answer) -> str:
    """The first issue of a 422; empty for other answers."""
    said = issues(answer.body) if answer.status == 422 else []
    return str(said[0].get("issue")) if said else ""


def malformed(raw: Mapping[str, Any]) -> sdk.PspMisconfigured:
    """A request that PayPal did not take: nothing was executed. The value is not repeated."""
    said = [f"{one.get('issue')} at {one.get('field') or 'no field'}" for one in issues(raw)]
    return sdk.PspMisconfigured(f"PayPal does not take the request: {', '.join(said) or raw.get('name')}")


def refusal(answer: sdk.Answer) -> sdk.Declined:
    """A 422: PayPal understood and did nothing.

    Raises:
        PspMisconfigured: a fault of the request or the account.
        OutcomeUnknown: it says that something was done before, or it is no 422.
    """
    said = {str(one.get("issue")): one for one in issues(answer.body)}
    if answer.status != 422 or not said or LOOK_AGAIN.intersection(said):
        raise sdk.OutcomeUnknown(f"PayPal answered {answer.status} {', '.join(said)}: look the operation up")
    known = [issue for issue in said if issue in ISSUES.rows]
    if not known and REQUEST_FAULTS.intersection(said):
        raise malformed(answer.body)
    issue = (known or list(said))[0]
    message = str(said[issue].get("description") or "")
    return sdk.Declined(code=ISSUES.code(issue), raw_code=issue, message=message or None, raw=answer.body)


def kept(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without what it says about people."""
    return {name: _kept(value) for name, value in raw.items() if name not in _PERSONAL}


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return kept(value)
    return [_kept(one) for one in value] if isinstance(value, list) else value


def _stored(found: Order) -> str | None:
    """``paypal:<id>`` or ``card:<id>``: PayPal's vault knows two kinds, and a charge must name the kind."""
    for kind, source in (("paypal", found.payment_source.paypal), ("card", found.payment_source.card)):
        if source is not None and source.attributes.vault.id:
            return f"{kind}:{source.attributes.vault.id}"
    return None


def _authentication(found: Order) -> sdk.Authentication | None:
    """PayPal tells neither version nor ECI, nor whether the payer was challenged: ``False`` claims the least."""
    card = found.payment_source.card
    if card is None or card.authentication_result is None:
        return None
    status = card.authentication_result.three_d_secure.authentication_status
    return sdk.Authentication(challenged=False) if status in ("Y", "A") else None
