"""What Mollie says instead of yes -> the gateway's normalised codes.

Three vocabularies that never meet: ``details.failureReason`` of a card payment, ``details.bankReasonCode`` of a direct debit, and
the ``field`` of a 422, which says which part of a request Mollie could not carry out.
"""

from __future__ import annotations

from datetime import date

from clearspan.sdk import RefusalTable

CARD = RefusalTable(
    {
        "authentication_abandoned": "authentication_required",
        "authentication_failed": "authentication_required",
        "authentication_required": "authentication_required",
        "authentication_unavailable_acs": "authentication_required",
        "card_declined": "generic_decline",
        "card_expired": "expired_card",
        "inactive_card": "not_permitted",
        "insufficient_funds": "insufficient_funds",
        "invalid_card_holder_name": "avs_mismatch",  # a detail that the payer can put right, like a wrong address
        "invalid_card_number": "invalid_number",
        "invalid_card_type": "not_permitted",
        "invalid_cvv": "invalid_cvc",
        "possible_fraud": "suspected_fraud",
        "refused_by_issuer": "do_not_honor",
        "unknown_reason": "generic_decline",
    },
    source="https://docs.mollie.com/docs/handling-errors-with-mollie-components (details.failureReason, complete)",
    as_of=date(2026, 11, 23),
)

# Mollie passes the reason codes of the European Payments Council on as they are. Not all of them are listed by a page that could
# be read; what is left out is "unmapped".
DEBIT = RefusalTable(
    {
        "AC01": "invalid_number",
        "AC04": "closed_account",
        "AC06": "restricted_card",
        "AM04": "insufficient_funds",
        "AM06": "insufficient_funds",
        "MD06": "consent_revoked",
        "MD07": "closed_account",
        "MS02": "generic_decline",
        "MS03": "generic_decline",
    },
    source="https://documentation.lemonway.com/v8.2/reference/sepa-error-codes (ISO reason codes of SEPA direct debit)",
    as_of=date(2026, 11, 23),
)

# A payment that its payer gave up has no reason: it is what a challenge that was given up is elsewhere.
GIVEN_UP = {"canceled": "authentication_required", "expired": "authentication_required"}

# 422: "the request contains issues", with the field. Nothing was executed. These fields hold what a payer or the books decide;
# any other one is a request that this account cannot send (PspMisconfigured names it).
FIELD = RefusalTable(
    {
        "cardToken": "invalid_number",  # used before, expired, or none of this profile
        "mandateId": "not_permitted",
        "customerId": "not_permitted",
        "amount": "invalid_amount",
        "amount.value": "invalid_amount",
        "amount.currency": "invalid_currency",
    },
    source="https://docs.mollie.com/reference/handling-errors (shape of an error); which fields: the adapter's own requests",
    as_of=date(2026, 11, 23),
)
