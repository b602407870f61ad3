"""What can be refused about a payment. Each is raised in SQL under the intent's lock, or here before anything is sent."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class PaymentNotFound(DomainError):
    """No such payment of this tenant in this mode."""

    code = "payment_not_found"
    status = 404
    title = "No such payment"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live) as the payment."


class RefundNotFound(DomainError):
    """No such refund of this tenant in this mode."""

    code = "refund_not_found"
    status = 404
    title = "No such refund"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live) as the refund."


class OperationNotFound(DomainError):
    """No such operation."""

    code = "operation_not_found"
    status = 404
    title = "No such operation"


class TenantNotFound(DomainError):
    """The ``tenant`` filter names another tenant than the key's."""

    code = "tenant_not_found"
    status = 404
    title = "No such tenant"
    advice = "A key sees its own tenant only: leave the filter out, or name that tenant's slug or id."


class CustomerMissing(DomainError):
    """The payment names a customer that does not exist."""

    code = "customer_not_found"
    status = 404
    title = "No such customer"
    advice = "Create the customer first, with a key of the same tenant and mode."


class NeedsAccount(DomainError):
    """The payment method can be charged by one PSP account only, or by accounts of another kind than the one asked for."""

    code = "payment_method_needs_account"
    status = 422
    title = "The PSP account cannot charge this payment method"
    advice = "Leave psp_account out, or name the account of the payment method."


class MethodMissing(DomainError):
    """The payment names a payment method that does not exist."""

    code = "payment_method_not_found"
    status = 404
    title = "No such payment method"
    advice = "Create the payment method first (POST /v1/payment-methods), with a key of the same tenant and mode."


class MethodDetached(DomainError):
    """The payment method was detached."""

    code = "payment_method_detached"
    status = 409
    title = "The payment method was detached"
    advice = "Use another payment method."


class MethodOfAnother(DomainError):
    """The payment method belongs to another customer."""

    code = "payment_method_of_another_customer"
    status = 409
    title = "The payment method belongs to another customer"
    advice = "Use a payment method of the payment's customer, or one without a customer. Nothing was charged."


class MethodRequired(DomainError):
    """Confirming needs a payment method."""

    code = "payment_method_missing"
    status = 422
    title = "The payment has no payment method"
    advice = "Send payment_method with the confirmation."


class AccountUnavailable(DomainError):
    """The PSP account was disabled in this moment."""

    code = "psp_account_unavailable"
    status = 409
    title = "The PSP account is disabled"
    advice = "Enable it, or choose another with psp_account. Nothing was charged."


class NotConfirmable(DomainError):
    """The payment's status does not allow a confirmation."""

    code = "payment_not_confirmable"
    status = 409
    title = "The payment cannot be confirmed in this status"
    advice = "Retrieve it: it is already charged, closed, or waits for the payer. Nothing was charged by this request."


class NotContinuable(DomainError):
    """There is no payer's action to continue from."""

    code = "payment_not_continuable"
    status = 409
    title = "The payment does not wait for an action of the payer"
    advice = "Retrieve it to see its status."


class NotCapturable(DomainError):
    """There is nothing to capture."""

    code = "payment_not_capturable"
    status = 409
    title = "The payment has nothing to capture"
    advice = "Only an authorised payment with an amount left can be captured. Nothing was captured."


class NotCancelable(DomainError):
    """There is nothing to cancel."""

    code = "payment_not_cancelable"
    status = 409
    title = "The payment cannot be canceled"
    advice = "What is captured can be refunded; what is canceled or expired stays so. Nothing was changed."


class NotRefundable(DomainError):
    """There is nothing to refund."""

    code = "payment_not_refundable"
    status = 409
    title = "The payment has nothing to refund"
    advice = "Only captured amounts can be refunded; an authorisation is canceled instead. Nothing was refunded."


class NotOffered(DomainError):
    """The PSP of the charge cannot do this; ``capability`` says what is missing."""

    code = "not_offered_by_psp"
    status = 422
    title = "The PSP of this payment cannot do that"
    advice = "GET /v1/psps tells what each PSP can. Nothing was sent."


class AboveCapturable(DomainError):
    """The amount is more than what is left to capture."""

    code = "amount_above_capturable"
    status = 422
    title = "The amount is more than what can be captured"
    advice = "Capture at most available_minor. Nothing was captured."


class AboveRefundable(DomainError):
    """The amount is more than what is left to refund."""

    code = "amount_above_refundable"
    status = 422
    title = "The amount is more than what can be refunded"
    advice = "Refund at most available_minor; refunds under way are counted. Nothing was refunded."


class InProgress(DomainError):
    """Another operation on this payment is under way."""

    code = "payment_in_progress"
    status = 409
    title = "Another operation on this payment is under way"
    advice = "Retrieve the payment, or repeat this request after Retry-After seconds. Nothing was sent by this request."

    def headers(self) -> dict[str, str]:
        """When to try again."""
        return {"Retry-After": "2"}


class UnknownOutcome(DomainError):
    """It is not known yet whether the last operation took effect."""

    code = "operation_outcome_unknown"
    status = 409
    title = "The outcome of the last operation is not known yet"
    advice = (
        "The PSP gave no clear answer, so nothing more is sent for this payment until it is found out."
        " Follow the payment's events; do not charge again elsewhere."
    )


class OutcomeNotStored(DomainError):
    """The database went away after the PSP may have been asked."""

    code = "outcome_not_stored"
    status = 503
    title = "The outcome could not be stored yet"
    advice = (
        "The payment provider may have been asked before the database went away. Repeat this request with the same"
        " Idempotency-Key to learn the outcome; do not charge elsewhere."
    )

    def headers(self) -> dict[str, str]:
        """When to try again."""
        return {"Retry-After": "1"}


class NothingToUnwind(DomainError):
    """Another process gave the charge back already. Never leaves the service."""

    code = "nothing_to_unwind"
    status = 409
    title = "There is nothing to give back"


class StillOpen(DomainError):
    """A lookup gave no clear answer; the news waits. Never leaves the gateway."""

    code = "outcome_still_open"
    status = 409
    title = "The PSP was asked and gave no clear answer"


class MovedOn(DomainError):
    """The operation changed while news of it was judged. Never leaves the gateway."""

    code = "operation_moved_on"
    status = 409
    title = "The operation has another state by now"


class DisputeCurrencyMismatch(DomainError):
    """A dispute in another currency than its charge: it is kept for a human. Never leaves the gateway."""

    code = "dispute_currency_mismatch"
    status = 409
    title = "The dispute is in another currency than its charge"


class DisputeNotFound(DomainError):
    """No such dispute of this tenant in this mode."""

    code = "dispute_not_found"
    status = 404
    title = "No such dispute"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live) as the dispute."


class WithoutSurplus(DomainError):
    """There is no surplus to give back."""

    code = "payment_without_surplus"
    status = 409
    title = "The payment has no surplus to give back"
    advice = "Retrieve it: the surplus was given back already, or there never was one. Nothing was changed."


class NotInReview(DomainError):
    """Only what nobody could find out is decided by humans."""

    code = "operation_not_in_review"
    status = 409
    title = "The operation does not wait for a decision"
    advice = "Retrieve the payment: the outcome was found out meanwhile, or the PSP is still being asked. Nothing was changed."


class DecisionNotFound(DomainError):
    """There is no proposed decision."""

    code = "decision_not_found"
    status = 404
    title = "There is no decision to withdraw"


class DecisionConflict(DomainError):
    """Somebody proposed another outcome."""

    code = "decision_conflict"
    status = 409
    title = "Another outcome was proposed"
    advice = "Talk to whoever proposed it; withdraw that decision first if it is wrong. Nothing was changed."


class SecondPersonRequired(DomainError):
    """The amount needs two persons, and this is the first one again."""

    code = "second_person_required"
    status = 409
    title = "A second person must confirm this decision"
    advice = "Let somebody else send the same decision with a key of their own. Nothing was changed."


class NothingToLookUp(DomainError):
    """The outcome of the operation is known."""

    code = "operation_decided"
    status = 409
    title = "The outcome of this operation is known"
    advice = "There is nothing to ask the PSP about. Nothing was changed."


class ApprovalRequired(DomainError):
    """A person gives back more of a payment than one may alone."""

    code = "approval_required"
    status = 409
    title = "A second person must approve this refund"
    advice = (
        "Above payments.refund_second_person_above_minor, all refunds of the payment by people taken together, ask for it on the"
        " payment's page in the cockpit. Nothing was refunded."
    )


class ApprovalNotFound(DomainError):
    """No such request of this tenant in this mode."""

    code = "approval_not_found"
    status = 404
    title = "There is no such request for approval"


class ApprovalPending(DomainError):
    """There is a request about this payment already."""

    code = "approval_pending"
    status = 409
    title = "A refund of this payment waits for approval already"
    advice = "Let somebody decide it, or withdraw it, before you ask for another one. Nothing was changed."


class ApprovalDecided(DomainError):
    """Somebody was faster, or it expired."""

    code = "approval_decided"
    status = 409
    title = "This request is decided already"
    advice = "approval_status says how. Nothing was changed."


class OwnApproval(DomainError):
    """Whoever asks cannot approve."""

    code = "own_approval"
    status = 409
    title = "Somebody else must decide this"
    advice = "You asked for it. A colleague with the scope payments:decide approves or rejects it; you can withdraw it."


class HasCharge(DomainError):
    """A charge is live; the caller voids instead. Never leaves the service."""

    code = "payment_has_charge"
    status = 409
    title = "The payment has a charge at a PSP"


class UnsupportedCurrency(DomainError):
    """Not an ISO 4217 currency."""

    code = "unknown_currency"
    status = 422
    title = "The currency is not known"
    advice = "Use a three-letter ISO 4217 code in capitals, such as EUR, USD or JPY."


class MandateNotFound(DomainError):
    """No such mandate of this tenant in this mode."""

    code = "mandate_not_found"
    status = 404
    title = "No such mandate"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live)."


class MandateMissing(DomainError):
    """A merchant-initiated charge without the customer's consent to it."""

    code = "mandate_missing"
    status = 409
    title = "The customer did not agree to be charged by you"
    advice = (
        "A payment with customer_present = false needs a mandate of this customer for this payment method:"
        " POST /v1/mandates, then a first payment with the customer present. Nothing was sent."
    )


class MandateNotActive(DomainError):
    """The mandate was revoked, is suspended, or its first payment is missing."""

    code = "mandate_not_active"
    status = 409
    title = "The mandate is not active"
    advice = (
        "mandate_status says why. A pending one becomes active with its first payment, a suspended one again with a payment"
        " of the customer's; a revoked one stays revoked: ask the customer for a new one. Nothing was sent."
    )


class RetryCapReached(DomainError):
    """The schemes limit how often a declined card may be tried; see docs/dunning.md."""

    code = "retry_cap_reached"
    status = 409
    title = "This card has been tried as often as is allowed"
    advice = "Wait until again_at, or use another payment method. Nothing was sent."


class CardStopped(DomainError):
    """The issuer said that this card must not be charged again without its holder."""

    code = "card_stopped"
    status = 409
    title = "The issuer forbids further charges to this card"
    advice = "Ask the customer for another payment method. Nothing was sent."


class InvoiceNotPayable(DomainError):
    """The invoice is not open any more."""

    code = "invoice_not_payable"
    status = 409
    title = "The invoice cannot be paid"
    advice = "invoice_status says how it stands: paid, void or not open yet. Nothing was sent."


class RebillLeaseLost(DomainError):
    """Another worker collects the invoice, or it was stopped meanwhile. Never leaves the gateway."""

    code = "rebill_lease_lost"
    status = 409
    title = "The invoice is not collected by this worker any more"
