"""Square's error codes in the gateway's words.

Square sorts its codes into categories (``x-enum-elements`` of ``ErrorCode``). All of PAYMENT_METHOD_ERROR and REFUND_ERROR have a
row here, or stand in ``UNKNOWN``. Of INVALID_REQUEST_ERROR those have one that speak about this payment, its source or its
state; the others speak about the request itself and mean that it was not executed (``PspMisconfigured``).
Meanings: https://developer.squareup.com/reference/square/enums/ErrorCode, where it says more than the name; which of our words
fits a code is judgement, and several were judged by the name alone.
"""

from __future__ import annotations

from datetime import date

from clearspan.sdk import RefusalTable

REFUSALS = RefusalTable(
    {
        # PAYMENT_METHOD_ERROR
        "ACCOUNT_UNUSABLE": "closed_account",
        "ADDRESS_VERIFICATION_FAILURE": "avs_mismatch",
        "ALLOWABLE_PIN_TRIES_EXCEEDED": "limit_exceeded",
        "APPLE_TTP_PIN_TOKEN": "authentication_required",
        "BAD_EXPIRATION": "expired_card",
        "BUYER_REFUSED_PAYMENT": "generic_decline",
        "CARDHOLDER_INSUFFICIENT_PERMISSIONS": "restricted_card",
        "CARD_DECLINED": "generic_decline",
        "CARD_DECLINED_CALL_ISSUER": "do_not_honor",
        "CARD_DECLINED_VERIFICATION_REQUIRED": "authentication_required",
        "CARD_EXPIRED": "expired_card",
        "CARD_NOT_SUPPORTED": "not_permitted",
        "CHIP_INSERTION_REQUIRED": "authentication_required",
        "CURRENCY_MISMATCH": "invalid_currency",
        "CVV_FAILURE": "invalid_cvc",
        "EXPIRATION_FAILURE": "expired_card",
        "GENERIC_DECLINE": "generic_decline",
        "GIFT_CARD_AVAILABLE_AMOUNT": "insufficient_funds",
        "INSUFFICIENT_FUNDS": "insufficient_funds",
        "INSUFFICIENT_PERMISSIONS": "restricted_card",
        "INVALID_ACCOUNT": "closed_account",
        "INVALID_CARD": "invalid_number",
        "INVALID_ENCRYPTED_CARD": "invalid_number",
        "INVALID_EXPIRATION": "expired_card",
        "INVALID_FEES": "invalid_amount",
        "INVALID_LOCATION": "invalid_merchant",
        "INVALID_PIN": "authentication_required",
        "INVALID_POSTAL_CODE": "avs_mismatch",
        "MANUALLY_ENTERED_PAYMENT_NOT_SUPPORTED": "not_permitted",
        "MISSING_ACCOUNT_TYPE": "not_permitted",
        "MISSING_PIN": "authentication_required",
        "PAN_FAILURE": "invalid_number",
        "PAYMENT_AMOUNT_MISMATCH": "invalid_amount",
        "PAYMENT_LIMIT_EXCEEDED": "invalid_amount",
        "READER_DECLINED": "generic_decline",
        "TRANSACTION_LIMIT": "limit_exceeded",
        "UNSUPPORTED_CARD_BRAND": "not_permitted",
        "UNSUPPORTED_ENTRY_METHOD": "not_permitted",
        "VERIFY_AVS_FAILURE": "avs_mismatch",
        "VERIFY_CVV_FAILURE": "invalid_cvc",
        "VOICE_FAILURE": "do_not_honor",
        # REFUND_ERROR
        "CARD_MISMATCH": "not_permitted",
        "INSUFFICIENT_PERMISSIONS_FOR_REFUND": "invalid_merchant",
        "PAYMENT_NOT_REFUNDABLE": "not_permitted",
        "PAYMENT_NOT_REFUNDABLE_DUE_TO_DISPUTE": "not_permitted",
        "REFUND_ALREADY_PENDING": "processing_error",
        "REFUND_AMOUNT_INVALID": "invalid_amount",
        "REFUND_DECLINED": "generic_decline",
        "REFUND_ERROR_PAYMENT_NEEDS_COMPLETION": "not_permitted",
        "RESERVATION_DECLINED": "generic_decline",
        # INVALID_REQUEST_ERROR, about this payment
        "AMOUNT_TOO_HIGH": "invalid_amount",
        "CARD_PRESENCE_REQUIRED": "not_permitted",
        "CARD_PROCESSING_NOT_ENABLED": "invalid_merchant",
        "CARD_TOKEN_EXPIRED": "generic_decline",
        "CARD_TOKEN_USED": "generic_decline",
        "DELAYED_TRANSACTION_CANCELED": "generic_decline",
        "DELAYED_TRANSACTION_CAPTURED": "generic_decline",
        "DELAYED_TRANSACTION_EXPIRED": "generic_decline",
        "DELAYED_TRANSACTION_FAILED": "generic_decline",
        "INVALID_CARD_DATA": "invalid_number",
        "INVALID_EXPIRATION_DATE": "expired_card",
        "INVALID_EXPIRATION_YEAR": "expired_card",
        "SOURCE_EXPIRED": "generic_decline",
        "SOURCE_USED": "generic_decline",
        "UNSUPPORTED_COUNTRY": "not_permitted",
        "UNSUPPORTED_CURRENCY": "invalid_currency",
        "UNSUPPORTED_INSTRUMENT_TYPE": "not_permitted",
        "UNSUPPORTED_SOURCE_TYPE": "not_permitted",
    },
    source="ErrorCode in api.json of square/connect-api-specification, Square-Version 2025-08-20",
    as_of=date(2026, 11, 23),
)

UNKNOWN = frozenset({"CONFLICT", "IDEMPOTENCY_KEY_REUSED", "REQUEST_TIMEOUT", "TEMPORARY_ERROR"})
"""Codes that do not say what became of the payment. TEMPORARY_ERROR, a PAYMENT_METHOD_ERROR: Square advises to send again with
the same key, and does not say that nothing was charged. IDEMPOTENCY_KEY_REUSED: something else was done under this key."""
