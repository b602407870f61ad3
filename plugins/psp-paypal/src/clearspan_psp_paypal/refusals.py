"""PayPal's codes -> the gateway's.

Two kinds: the issue of a 422 (nothing was executed), and the processor's code inside an authorisation or capture that was DENIED,
DECLINED or FAILED. Both tables and the sets below hold every value of the enumerations of the descriptions "Orders" 2.13 and
"Payments" 2.5; an issue that stands nowhere is newer than they are.
"""

from __future__ import annotations

from datetime import date

from clearspan.sdk import RefusalTable

ISSUES = RefusalTable(
    {
        "AGREEMENT_ALREADY_CANCELLED": "consent_revoked",
        "BILLING_AGREEMENT_NOT_FOUND": "consent_revoked",
        "TOKEN_ID_NOT_FOUND": "invalid_number",  # a payment token that was deleted
        "TOKEN_EXPIRED": "expired_card",
        "CARD_EXPIRED": "expired_card",
        "REFERENCED_CARD_EXPIRED": "expired_card",
        "INVALID_EXPIRY_DATE": "expired_card",
        "PAYPAL_TRANSACTION_ID_EXPIRED": "expired_card",
        "PNREF_EXPIRED": "expired_card",
        "INVALID_SECURITY_CODE_LENGTH": "invalid_cvc",
        "CARD_BRAND_NOT_SUPPORTED": "not_permitted",
        "CARD_TYPE_NOT_SUPPORTED": "not_permitted",
        "INSTRUMENT_DECLINED": "generic_decline",
        "PAYMENT_SOURCE_DECLINED_BY_PROCESSOR": "generic_decline",
        "ALIAS_DECLINED_BY_PROCESSOR": "generic_decline",
        "PAYMENT_SOURCE_CANNOT_BE_USED": "not_permitted",
        "PAYMENT_SOURCE_INFO_CANNOT_BE_VERIFIED": "avs_mismatch",
        "BILLING_ADDRESS_INVALID": "avs_mismatch",
        "DECLINED_DUE_TO_RELATED_TXN": "generic_decline",
        "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING": "generic_decline",
        "PAYER_CANNOT_PAY": "generic_decline",
        "PAYER_ACCOUNT_LOCKED_OR_CLOSED": "closed_account",
        "PAYER_ACCOUNT_RESTRICTED": "restricted_card",
        "DOMESTIC_TRANSACTION_REQUIRED": "not_permitted",
        "COMPLIANCE_VIOLATION": "psp_risk_blocked",
        "PAYEE_BLOCKED_TRANSACTION": "psp_risk_blocked",
        "TRANSACTION_BLOCKED_BY_PAYEE": "psp_risk_blocked",
        "TRANSACTION_REFUSED": "psp_risk_blocked",  # "PayPal's internal controls prevent"
        "TRANSACTION_LIMIT_EXCEEDED": "limit_exceeded",
        "TRANSACTION_RECEIVING_LIMIT_EXCEEDED": "limit_exceeded",
        "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED": "limit_exceeded",
        "MAX_VALUE_EXCEEDED": "invalid_amount",
        "CANNOT_BE_ZERO_OR_NEGATIVE": "invalid_amount",
        "CANNOT_BE_NEGATIVE": "invalid_amount",
        "INVALID_CURRENCY_CODE": "invalid_currency",
        "CURRENCY_NOT_SUPPORTED_FOR_CARD_TYPE": "invalid_currency",
        "CURRENCY_NOT_SUPPORTED_FOR_COUNTRY": "invalid_currency",
        "CURRENCY_NOT_SUPPORTED_FOR_BANK": "invalid_currency",
        "CURRENCY_MISMATCH": "invalid_currency",
        "AUTH_CAPTURE_CURRENCY_MISMATCH": "invalid_currency",
        "AUTHORIZATION_CURRENCY_MISMATCH": "invalid_currency",
        "AUTH_CURRENCY_MISMATCH": "invalid_currency",
        "REFUND_CAPTURE_CURRENCY_MISMATCH": "invalid_currency",
        "PREVIOUS_TRANSACTION_REFERENCE_HAS_CHARGEBACK": "not_permitted",
        "PREVIOUS_TRANSACTION_REFERENCE_VOIDED": "not_permitted",
        "INVALID_PREVIOUS_TRANSACTION_REFERENCE": "not_permitted",
        "ORDER_EXPIRED": "not_permitted",
        "AUTHORIZATION_ALREADY_CAPTURED": "not_permitted",
        "AUTHORIZATION_AMOUNT_EXCEEDED": "invalid_amount",
        "AUTHORIZATION_DENIED": "not_permitted",
        "AUTHORIZATION_EXPIRED": "not_permitted",
        "AUTHORIZATION_VOIDED": "not_permitted",
        "MAX_AUTHORIZATION_COUNT_EXCEEDED": "not_permitted",
        "MAX_CAPTURE_AMOUNT_EXCEEDED": "invalid_amount",
        "MAX_CAPTURE_COUNT_EXCEEDED": "not_permitted",
        "PREVIOUSLY_CAPTURED": "not_permitted",
        "CANNOT_BE_VOIDED": "not_permitted",
        "CAPTURE_FULLY_REFUNDED": "not_permitted",
        "MAX_NUMBER_OF_REFUNDS_EXCEEDED": "not_permitted",
        "PARTIAL_REFUND_NOT_ALLOWED": "not_permitted",
        "PENDING_CAPTURE": "not_permitted",
        "REFUND_AMOUNT_EXCEEDED": "invalid_amount",
        "REFUND_AMOUNT_TOO_LOW": "invalid_amount",
        "REFUND_FAILED_INSUFFICIENT_FUNDS": "insufficient_funds",
        "REFUND_IS_RESTRICTED": "not_permitted",
        "REFUND_NOT_ALLOWED": "not_permitted",
        "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK": "not_permitted",
        "REFUND_TIME_LIMIT_EXCEEDED": "not_permitted",
        "TRANSACTION_DISPUTED": "not_permitted",
    },
    source="paypal/paypal-rest-api-specifications @ ec4d8f36, checkout_orders_v2.json and payments_payment_v2.json, 422",
    as_of=date(2024, 2, 3),
)

_LOOK_AGAIN = (
    # Something was done, or is being done, about this order or authorisation before. DUPLICATE_INVOICE_ID: our own operation was
    # captured once already (accounts that block repeated invoice ids), or refunded.
    "DUPLICATE_INVOICE_ID ORDER_ALREADY_AUTHORIZED ORDER_ALREADY_CAPTURED ORDER_CANNOT_BE_CONFIRMED ORDER_COMPLETED_OR_VOIDED"
    " ORDER_COMPLETION_IN_PROGRESS ORDER_IS_PENDING_APPROVAL ORDER_NOT_APPROVED PAYER_ACTION_REQUIRED PAYMENT_ALREADY_APPROVED"
    " PREVIOUSLY_VOIDED"
)
LOOK_AGAIN = frozenset(_LOOK_AGAIN.split())

_REQUEST_FAULTS = (
    # The request or the merchant's account is not as PayPal wants it: an operator must act.
    "ACTION_DOES_NOT_MATCH_INTENT AMOUNT_CANNOT_BE_SPECIFIED AMOUNT_MISMATCH APPLE_PAY_AMOUNT_MISMATCH AUTH_CAPTURE_NOT_ENABLED"
    " BANK_NOT_SUPPORTED_FOR_VERIFICATION BILLING_AGREEMENT_ID_MISMATCH BLIK_ONE_CLICK_MISSING_REQUIRED_PARAMETER"
    " CANCEL_URL_REQUIRED CARD_EXPIRY_REQUIRED CARD_NUMBER_REQUIRED CITY_REQUIRED COUNTRY_NOT_SUPPORTED_BY_PAYMENT_SOURCE"
    " CRYPTOGRAM_REQUIRED DECIMALS_NOT_SUPPORTED DECIMAL_PRECISION DEVICE_DATA_NOT_AVAILABLE DONATION_ITEMS_NOT_SUPPORTED"
    " DUPLICATE_REFERENCE_ID EMV_DATA_REQUIRED GOOGLE_PAY_GATEWAY_MERCHANT_ID_MISMATCH IBAN_COUNTRY_NOT_SUPPORTED"
    " IDENTIFIER_NOT_FOUND INCOMPATIBLE_PARAMETER_VALUE INVALID_FX_RATE_ID INVALID_GOOGLE_PAY_TOKEN INVALID_IBAN"
    " INVALID_PAYEE_PRICING_TIER_ID INVALID_PAYER_ID INVALID_PICKUP_ADDRESS INVALID_PLATFORM_FEES_ACCOUNT"
    " INVALID_PLATFORM_FEES_AMOUNT ITEM_CATEGORY_NOT_SUPPORTED_BY_PAYMENT_SOURCE ITEM_TOTAL_MISMATCH ITEM_TOTAL_REQUIRED"
    " MERCHANT_INITIATED_WITH_AUTHENTICATION_RESULTS MERCHANT_INITIATED_WITH_MULTIPLE_PURCHASE_UNITS"
    " MERCHANT_INITIATED_WITH_SECURITY_CODE MISMATCHED_VAULT_ID_TO_PAYMENT_SOURCE MISSING_CRYPTOGRAM MISSING_PICKUP_ADDRESS"
    " MISSING_PREVIOUS_REFERENCE MULTIPLE_ITEM_CATEGORIES MULTIPLE_SHIPPING_ADDRESS_NOT_SUPPORTED"
    " MULTIPLE_SHIPPING_OPTION_SELECTED MULTIPLE_SHIPPING_TYPE_NOT_SUPPORTED MULTI_CURRENCY_ORDER"
    " NOT_ELIGIBLE_FOR_PAYPAL_TRANSACTION_ID_PROCESSING NOT_ELIGIBLE_FOR_PNREF_PROCESSING NOT_ENABLED_FOR_APPLE_PAY"
    " NOT_ENABLED_FOR_BANK_PROCESSING NOT_ENABLED_FOR_CARD_PROCESSING NOT_ENABLED_FOR_GOOGLE_PAY"
    " NOT_ENABLED_TO_VAULT_PAYMENT_SOURCE NO_PAYMENT_SOURCE_PROVIDED ONE_OF_PARAMETERS_REQUIRED ONE_OF_THE_PARAMETERS_REQUIRED"
    " ONLY_ONE_BANK_SOURCE_ALLOWED ONLY_ONE_PAYMENT_SOURCE_ALLOWED ORDER_CANNOT_BE_SAVED ORDER_COMPLETE_ON_PAYMENT_APPROVAL"
    " PAYEE_ACCOUNT_INVALID PAYEE_ACCOUNT_LOCKED_OR_CLOSED PAYEE_ACCOUNT_RESTRICTED"
    " PAYEE_COUNTRY_NOT_SUPPORTED_FOR_PAYMENT_SOURCE PAYEE_FX_RATE_ID_CURRENCY_MISMATCH PAYEE_FX_RATE_ID_EXPIRED"
    " PAYEE_NOT_ENABLED_FOR_BANK_PROCESSING PAYEE_NOT_ENABLED_FOR_CARD_PROCESSING PAYEE_PRICING_TIER_ID_NOT_ENABLED"
    " PAYMENT_SOURCE_MISMATCH PAYMENT_SOURCE_NOT_SUPPORTED PAYMENT_TYPE_NOT_SUPPORTED_FOR_INTENT"
    " PAYPAL_TRANSACTION_ID_NOT_FOUND PLATFORM_FEES_NOT_SUPPORTED PLATFORM_FEE_EXCEEDED PLATFORM_FEE_NOT_ENABLED"
    " PLATFORM_FEE_PAYEE_CANNOT_BE_SAME_AS_PAYER PNREF_NOT_FOUND POSTAL_CODE_REQUIRED PREFERRED_PAYMENT_SOURCE_MISMATCH"
    " PREFERRED_SHIPPING_OPTION_AMOUNT_MISMATCH REAUTHORIZATION_NOT_SUPPORTED REFERENCE_ID_REQUIRED"
    " REQUIRED_PARAMETER_FOR_CUSTOMER_INITIATED_PAYMENT REQUIRED_PARAMETER_FOR_PAYMENT_SOURCE RETURN_URL_REQUIRED"
    " SAVE_ORDER_NOT_SUPPORTED SETUP_ERROR_FOR_BANK SHIPPING_ADDRESS_INVALID SHIPPING_OPTIONS_NOT_SUPPORTED"
    " SHIPPING_OPTION_NOT_SELECTED SHIPPING_TYPE_NOT_SUPPORTED_FOR_CLIENT TAX_TOTAL_MISMATCH TAX_TOTAL_REQUIRED"
    " UNSUPPORTED_INTENT UNSUPPORTED_INTENT_FOR_PAYMENT_SOURCE UNSUPPORTED_PAYMENT_INSTRUCTION"
    " UNSUPPORTED_PROCESSING_INSTRUCTION UNSUPPORTED_SHIPPING_TYPE VAULT_INSTRUCTION_DUPLICATED VAULT_INSTRUCTION_REQUIRED"
)
REQUEST_FAULTS = frozenset(_REQUEST_FAULTS.split())

APPROVALS = frozenset({"0000", "1000", "7600"})
"""What the processor says besides: approved, approved in part, approved without capture."""

PROCESSOR = RefusalTable(
    {
        "00N7": "invalid_cvc",
        "0100": "generic_decline",  # refer to the issuer
        "0390": "invalid_number",  # account not found
        "0500": "do_not_honor",
        "0580": "not_permitted",  # unauthorised transaction
        "0800": "processing_error",  # bad response, reversal required
        "0880": "processing_error",  # cryptographic failure
        "0890": "not_permitted",  # PIN
        "0960": "processing_error",
        "0R00": "consent_revoked",  # cancelled payment
        "10BR": "do_not_honor",  # issuer rejected
        "1300": "processing_error",  # invalid data format
        "1310": "invalid_amount",
        "1312": "not_permitted",
        "1317": "processing_error",  # invalid capture date
        "1320": "invalid_currency",
        "1330": "invalid_number",
        "1335": "invalid_number",  # invalid account, recurring
        "1340": "invalid_merchant",  # invalid terminal
        "1350": "invalid_merchant",
        "1352": "restricted_card",  # restricted or inactive account
        "1360": "processing_error",
        "1370": "invalid_merchant",  # merchant category
        "1380": "expired_card",  # invalid expiration
        "1382": "invalid_cvc",
        "1384": "not_permitted",  # life cycle of the transaction
        "1390": "processing_error",  # invalid order
        "1393": "not_permitted",  # cannot be completed
        "5100": "generic_decline",
        "5110": "invalid_cvc",
        "5120": "insufficient_funds",
        "5130": "not_permitted",  # PIN
        "5135": "limit_exceeded",  # PIN tries
        "5140": "closed_account",
        "5150": "pickup_card",
        "5160": "not_permitted",  # unauthorised user
        "5170": "avs_mismatch",
        "5180": "restricted_card",
        "5190": "avs_mismatch",
        "5200": "duplicate",
        "5210": "not_permitted",  # invalid transaction
        "5400": "expired_card",
        "5500": "not_permitted",  # PIN
        "5650": "authentication_required",
        "5700": "not_permitted",
        "5710": "limit_exceeded",
        "5800": "not_permitted",  # reversal rejected
        "5900": "no_such_issuer",  # invalid issue
        "5910": "issuer_unavailable",
        "5920": "issuer_unavailable",
        "5930": "not_permitted",  # card not activated
        "5950": "closed_account",  # an updated card has been issued
        "6300": "invalid_number",
        "7700": "authentication_required",
        "7710": "authentication_required",
        "7800": "no_such_issuer",  # BIN error
        "7900": "not_permitted",  # PIN
        "8000": "processing_error",
        "8010": "processing_error",
        "8020": "invalid_merchant",  # configuration
        "8030": "not_permitted",
        "8100": "processing_error",
        "8110": "issuer_unavailable",
        "8220": "issuer_unavailable",
        "9100": "issuer_unavailable",  # declined, please retry
        "9500": "suspected_fraud",
        "9510": "suspected_fraud",
        "9520": "stolen_card",  # lost or stolen: the stricter one
        "9530": "generic_decline",  # call the issuer
        "9540": "do_not_honor",
        "9600": "generic_decline",  # unrecognised response code
        "PCNR": "authentication_required",  # contingencies not resolved
        "PCVV": "invalid_cvc",
        "PP06": "closed_account",
        "PPRN": "not_permitted",  # must not be tried again
        "PPAD": "avs_mismatch",
        "PPAB": "do_not_honor",  # account blocked by the issuer
        "PPAE": "not_permitted",  # American Express is not enabled
        "PPAG": "not_permitted",
        "PPAI": "invalid_amount",
        "PPAR": "generic_decline",
        "PPAU": "invalid_merchant",  # merchant category
        "PPAV": "avs_mismatch",
        "PPAX": "limit_exceeded",
        "PPBG": "not_permitted",
        "PPC2": "invalid_cvc",
        "PPCE": "invalid_merchant",  # registration incomplete
        "PPCO": "restricted_card",  # country
        "PPCR": "generic_decline",
        "PPCT": "not_permitted",
        "PPCU": "invalid_currency",
        "PPD3": "authentication_required",
        "PPDC": "not_permitted",
        "PPDI": "not_permitted",
        "PPDV": "generic_decline",
        "PPDT": "limit_exceeded",
        "PPEF": "expired_card",
        "PPEL": "limit_exceeded",
        "PPER": "processing_error",
        "PPEX": "expired_card",
        "PPFE": "not_permitted",
        "PPFI": "invalid_number",
        "PPFR": "restricted_card",
        "PPFV": "processing_error",
        "PPGR": "not_permitted",
        "PPH1": "processing_error",
        "PPIF": "duplicate",  # idempotency failure
        "PPII": "processing_error",
        "PPIM": "processing_error",
        "PPIT": "processing_error",
        "PPLR": "not_permitted",
        "PPLS": "processing_error",
        "PPMB": "processing_error",
        "PPMC": "not_permitted",  # Mastercard is blocked
        "PPMD": "generic_decline",  # deprecated by PayPal
        "PPNC": "not_permitted",
        "PPNL": "limit_exceeded",
        "PPNM": "invalid_merchant",
        "PPNT": "issuer_unavailable",
        "PPPH": "processing_error",
        "PPPI": "not_permitted",
        "PPPM": "not_permitted",
        "PPQC": "not_permitted",
        "PPRE": "not_permitted",
        "PPRF": "not_permitted",
        "PPRR": "invalid_merchant",
        "PPS0": "processing_error",
        "PPS1": "not_permitted",
        "PPS2": "not_permitted",
        "PPS3": "not_permitted",
        "PPS4": "invalid_currency",
        "PPS5": "processing_error",
        "PPS6": "invalid_amount",
        "PPSC": "psp_risk_blocked",  # score
        "PPSD": "generic_decline",
        "PPSE": "do_not_honor",  # American Express says no
        "PPTE": "authentication_required",
        "PPTF": "processing_error",
        "PPTI": "processing_error",
        "PPTR": "authentication_required",
        "PPTT": "not_permitted",
        "PPTV": "authentication_required",
        "PPUA": "not_permitted",
        "PPUC": "invalid_currency",
        "PPUE": "not_permitted",
        "PPUI": "not_permitted",
        "PPUP": "not_permitted",
        "PPUR": "not_permitted",
        "PPVC": "invalid_currency",
        "PPVE": "processing_error",
        "PPVT": "not_permitted",
    },
    source="checkout_orders_v2.json, processor_response; words: developer.paypal.com/serversdk, ProcessorResponseCode",
    as_of=date(2026, 11, 23),
)
