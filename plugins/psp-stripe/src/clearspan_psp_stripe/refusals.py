"""Stripe's codes -> the gateway's normalised codes.

``error.decline_code`` when there is one, else ``error.code``. Sources:

- decline codes: https://docs.stripe.com/declines/codes, in the full list that Stripe's own Go library keeps of it
  (stripe/stripe-go, error.go, commit 00412aff), and authentication_not_handled, which the page has since added. Codes that are
  newer still are "unmapped" and counted.
- error codes: https://docs.stripe.com/error-codes, in the list ``PaymentIntent.LastPaymentError.code`` of stripe-python 16.1.0.
  Those that can speak of a payment, capture, void or refund have a row; those that say "the request is malformed" have none: they
  are configuration errors with the field named.
- refunds' ``failure_reason``: https://docs.stripe.com/refunds#failed-refunds.

Stripe documents call_issuer, no_action_taken and others as "unknown reason": they are generic here. do_not_try_again is one too,
but its name is the network's order.
"""

from __future__ import annotations

from datetime import date

import clearspan.sdk as sdk

_DECLINE_CODES = {
    "approve_with_id": "generic_decline",
    "authentication_required": "authentication_required",
    "authentication_not_handled": "authentication_required",
    "call_issuer": "generic_decline",
    "card_not_supported": "not_permitted",
    "card_velocity_exceeded": "limit_exceeded",
    "currency_not_supported": "invalid_currency",
    "do_not_honor": "do_not_honor",
    "do_not_try_again": "not_permitted",
    "duplicate_transaction": "duplicate",
    "expired_card": "expired_card",
    "fraudulent": "suspected_fraud",
    "generic_decline": "generic_decline",
    "incorrect_cvc": "invalid_cvc",
    "incorrect_number": "invalid_number",
    "incorrect_pin": "authentication_required",
    "incorrect_zip": "avs_mismatch",
    "insufficient_funds": "insufficient_funds",
    "invalid_account": "closed_account",
    "invalid_amount": "invalid_amount",
    "invalid_cvc": "invalid_cvc",
    "invalid_expiry_month": "expired_card",
    "invalid_expiry_year": "expired_card",
    "invalid_number": "invalid_number",
    "invalid_pin": "authentication_required",
    "issuer_not_available": "issuer_unavailable",
    "lost_card": "lost_card",
    "merchant_blacklist": "psp_risk_blocked",
    "new_account_information_available": "closed_account",
    "no_action_taken": "generic_decline",
    "not_permitted": "not_permitted",
    "offline_pin_required": "authentication_required",
    "online_or_offline_pin_required": "authentication_required",
    "pickup_card": "pickup_card",
    "pin_try_exceeded": "limit_exceeded",
    "processing_error": "processing_error",
    "reenter_transaction": "issuer_unavailable",
    "restricted_card": "restricted_card",
    "revocation_of_all_authorizations": "consent_revoked",
    "revocation_of_authorization": "consent_revoked",
    "security_violation": "suspected_fraud",
    "service_not_allowed": "not_permitted",
    "stolen_card": "stolen_card",
    "stop_payment_order": "consent_revoked",
    "testmode_decline": "generic_decline",
    "transaction_not_allowed": "not_permitted",
    "try_again_later": "issuer_unavailable",
    "withdrawal_count_limit_exceeded": "limit_exceeded",
}

_ERROR_CODES = {
    "account_closed": "closed_account",
    "amount_too_large": "invalid_amount",
    "amount_too_small": "invalid_amount",
    "authentication_failure": "authentication_required",
    "balance_insufficient": "insufficient_funds",  # a refund, and our own balance at Stripe
    "bank_account_declined": "generic_decline",
    "bank_account_restricted": "restricted_card",
    "bank_account_unusable": "closed_account",
    "capability_not_active": "invalid_merchant",
    "capture_charge_authorization_expired": "not_permitted",
    "capture_unauthorized_payment": "not_permitted",
    "card_decline_rate_limit_exceeded": "limit_exceeded",  # Stripe: this card was declined too often, wait 24 hours
    "card_declined": "generic_decline",
    "charge_already_captured": "not_permitted",
    "charge_already_refunded": "not_permitted",
    "charge_disputed": "not_permitted",
    "charge_exceeds_source_limit": "limit_exceeded",
    "charge_exceeds_transaction_limit": "limit_exceeded",
    "charge_expired_for_capture": "not_permitted",
    "charge_not_refundable": "not_permitted",
    "country_unsupported": "not_permitted",
    "debit_not_authorized": "consent_revoked",
    "expired_payment_method": "expired_card",
    "incorrect_address": "avs_mismatch",
    "incorrect_postal_code": "avs_mismatch",
    "india_recurring_payment_mandate_canceled": "consent_revoked",
    "intent_invalid_state": "not_permitted",
    "invalid_card_type": "not_permitted",
    "invalid_charge_amount": "invalid_amount",
    "no_account": "closed_account",
    "payment_intent_action_required": "authentication_required",
    "payment_intent_authentication_failure": "authentication_required",
    "payment_intent_mandate_invalid": "consent_revoked",
    "payment_intent_payment_attempt_expired": "authentication_required",  # the payer did not come back in time
    "payment_intent_payment_attempt_failed": "generic_decline",
    "payment_intent_unexpected_state": "not_permitted",
    "payment_method_bank_account_blocked": "restricted_card",
    "payment_method_currency_mismatch": "invalid_currency",
    "payment_method_customer_decline": "authentication_required",  # the payer said no on the method's own pages
    "payment_method_not_available": "issuer_unavailable",
    "payment_method_provider_decline": "generic_decline",
    "payment_method_provider_timeout": "issuer_unavailable",
    "payment_method_restricted": "restricted_card",
    "payment_method_unactivated": "invalid_merchant",
    "payment_method_unexpected_state": "not_permitted",
    "postal_code_invalid": "avs_mismatch",
    "refer_to_customer": "generic_decline",
    "refund_disputed_payment": "not_permitted",
    "request_blocked": "psp_risk_blocked",
    "setup_attempt_failed": "generic_decline",
    "setup_intent_authentication_failure": "authentication_required",
    "setup_intent_mandate_invalid": "consent_revoked",
    "setup_intent_setup_attempt_expired": "authentication_required",
    "setup_intent_unexpected_state": "not_permitted",
    "three_d_secure_authentication_not_supported": "authentication_required",
    "three_d_secure_authentication_upstream_error": "processing_error",
}

_REFUND_FAILURES = {
    "charge_for_pending_refund_disputed": "not_permitted",
    "declined": "generic_decline",
    "expired_or_canceled_card": "closed_account",
    "lost_or_stolen_card": "lost_card",
    "merchant_request": "not_permitted",  # the refund was canceled at our own wish
    "unknown": "generic_decline",
}

_STATUSES = {
    "canceled": "authentication_required",  # of a payment that was given up before the payer had done his part
    "failed": "generic_decline",  # of a refund without a reason
}

REFUSALS = sdk.RefusalTable(
    _ERROR_CODES | _REFUND_FAILURES | _STATUSES | _DECLINE_CODES,
    source="https://docs.stripe.com/declines/codes, https://docs.stripe.com/error-codes and https://docs.stripe.com/refunds",
    as_of=date(2026, 11, 23),
)
