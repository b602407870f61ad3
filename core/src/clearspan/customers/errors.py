"""What can be refused about a customer."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class ReferenceTaken(DomainError):
    """Another customer has this reference."""

    code = "customer_reference_taken"
    status = 409
    title = "There is a customer of this reference"
    advice = "Use the existing customer (GET /v1/customers?reference=...), or another reference."


class CustomerDeleted(DomainError):
    """The customer was deleted."""

    code = "customer_deleted"
    status = 409
    title = "The customer was deleted"
    advice = "A deleted customer cannot be changed or charged; create a new one."


class TestModeOnly(DomainError):
    """Test clocks are for test mode."""

    code = "test_mode_only"
    status = 403
    title = "Test clocks exist in test mode only"
    advice = "Use a test key (csk_test_...). In live mode time passes by itself."


class MethodOfAnotherCustomer(DomainError):
    """The payment method belongs to somebody else, or to nobody."""

    code = "mandate_method_mismatch"
    status = 422
    title = "The payment method is not this customer's"
    advice = "A mandate is a customer's consent for a payment method of his own: make the method with this customer."


class MethodGone(DomainError):
    """The payment method was detached."""

    code = "mandate_method_detached"
    status = 409
    title = "The payment method was detached"
    advice = "Make a mandate for a payment method that can be charged."


class MethodNotTaken(DomainError):
    """The PSP of the account takes no such payment method."""

    code = "payment_method_not_taken"
    status = 422
    title = "The PSP account does not take this payment method"
    advice = "GET /v1/psps tells what each PSP takes."


class MethodAccountMissing(DomainError):
    """The payment method names no account, or one that does not exist."""

    code = "payment_method_account_missing"
    status = 422
    title = "There is no such PSP account"
    advice = "Name an enabled account of this mode: psp_account is its name or id."
