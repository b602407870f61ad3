"""What Adyen answers: ``PaymentResponse``, the modifications, ``ServiceError``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_adyen.amounts import told
from clearspan_psp_adyen.refusals import leading_code, normalised

_KEPT = {
    *(
        "resultCode",
        "status",
        "pspReference",
        "paymentPspReference",
        "originalReference",
        "merchantReference",
        "reference",
    ),
    *("amount", "refusalReason", "refusalReasonCode", "eventCode", "eventDate", "success", "paymentMethod"),
}
_KEPT_EXTRA = {
    *(
        "refusalReasonRaw",
        "merchantAdviceCode",
        "inferredRefusalReason",
        "acquirerCode",
        "acquirerReference",
        "authCode",
    ),
    *("avsResult", "cvcResult", "eci", "liabilityShift", "threeDAuthenticated", "threeDOffered", "threeDSVersion"),
    *("scaExemptionRequested", "fundingSource", "cardIssuingCountry", "paymentMethodVariant", "disputeStatus"),
    *("chargebackReasonCode", "chargebackSchemeCode", "modification.action"),
}


def kept(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An answer or a message without what must not be stored: names, addresses, card data, tokens, the CAVV."""
    extra = raw.get("additionalData")
    told_more = {k: v for k, v in extra.items() if k in _KEPT_EXTRA} if isinstance(extra, dict) else {}
    return {k: v for k, v in raw.items() if k in _KEPT} | ({"additionalData": told_more} if told_more else {})


class _Amount(msgspec.Struct):
    value: int
    currency: str


class _Action(msgspec.Struct):
    type: str
    url: str = ""
    method: str = "GET"


class _Payment(msgspec.Struct, rename="camel"):
    """``PaymentResponse`` and ``PaymentDetailsResponse``, what is used of them."""

    result_code: str
    psp_reference: str | None = None
    merchant_reference: str | None = None
    amount: _Amount | msgspec.UnsetType = msgspec.UNSET
    additional_data: dict[str, Any] = {}
    action: _Action | None = None
    refusal_reason: str | None = None
    refusal_reason_code: str | None = None


class Modification(msgspec.Struct, rename="camel"):
    """The answers to captures, cancels and refunds; ``received`` is the only status there is."""

    psp_reference: str
    status: Literal["received"]
    merchant_account: str


def refused(answer: sdk.Answer) -> sdk.PspError:
    """A ``ServiceError``. Of 4xx Adyen says that the request failed because of what it held (https://docs.adyen.com/errors)."""
    code, kind = str(answer.body.get("errorCode", "none")), str(answer.body.get("errorType", "none"))
    words = f"Adyen answered {answer.status}, error {code} ({kind}): {answer.body.get('message', '')}"[:300]
    # 704: "request already processed or in progress". Nothing is known of the first one.
    transient = answer.headers.get("transient-error", "").lower() == "true"
    if code == "704" or transient or kind not in ("validation", "configuration", "security"):
        return sdk.OutcomeUnknown(words)
    return sdk.PspMisconfigured(words)


def charged(answer: dict[str, Any] | sdk.Declined, reference: str, asked: sdk.Money) -> sdk.Outcome:
    """The result of a payment. Source: ``resultCode`` and
    https://docs.adyen.com/online-payments/build-your-integration/payment-result-codes."""
    if isinstance(answer, sdk.Declined):
        return answer
    found = sdk.read(answer, _Payment)
    if found.merchant_reference not in (None, reference):
        raise sdk.OutcomeUnknown("the answer belongs to another operation")
    match found.result_code:
        case "RedirectShopper" if found.action and found.action.type == "redirect" and found.action.method == "GET":
            return sdk.ActionRequired(psp_ref=None, action=sdk.RedirectAction(found.action.url), raw=kept(answer))
        case "Refused" | "Cancelled" | "Error":
            return declined(
                found.refusal_reason_code, found.refusal_reason, found.additional_data, found.psp_reference, answer
            )
        case "Pending" | "Received" if found.psp_reference:
            return sdk.Pending(psp_ref=found.psp_reference, raw=kept(answer))
        case "Authorised" | "PartiallyAuthorised" if found.psp_reference:
            # Not every answer says the amount; "Authorised" is the word for the whole of it, the other one for less.
            if found.amount is msgspec.UNSET and found.result_code != "Authorised":
                raise sdk.OutcomeUnknown("authorised in part, and Adyen does not say how much")
            amount = asked if found.amount is msgspec.UNSET else told(found.amount.value, found.amount.currency)
            return approved(found.psp_reference, amount, found.additional_data, answer)
    raise sdk.OutcomeUnknown(
        f"sent, and Adyen answered resultCode {found.result_code[:40]}, which this adapter cannot follow"
    )


def approved(ref: str, amount: sdk.Money, extra: Mapping[str, Any], raw: Mapping[str, Any]) -> sdk.Approved:
    """An authorisation, with what ``additionalData`` says of it (each field has to be switched on in the Customer Area)."""
    authentication = None
    if str(extra.get("threeDAuthenticated", "")).lower() == "true":
        authentication = sdk.Authentication(
            # The transaction status of EMV 3-D Secure: C means that the issuer asked for a challenge.
            challenged=extra.get("threeDOfferedResponse") == "C",
            version=extra.get("threeDSVersion"),
            eci=extra.get("eci"),
            ds_transaction_id=extra.get("dsTransID"),
        )
    return sdk.Approved(
        psp_ref=ref,
        amount=amount,
        network_transaction_id=extra.get("networkTxReference"),
        authentication=authentication,
        stored_token=extra.get("tokenization.storedPaymentMethodId") or extra.get("recurring.recurringDetailReference"),
        raw=kept(raw),
    )


def declined(
    code: str | None, words: str | None, extra: Mapping[str, Any], ref: str | None, raw: Mapping[str, Any]
) -> sdk.Declined:
    """A refusal; the scheme's code and Mastercard's advice where the account's settings let Adyen tell them."""
    return sdk.Declined(
        code=normalised(code, words),
        raw_code=code or (words or "")[:100],
        advice=leading_code(extra.get("merchantAdviceCode")),
        network_code=leading_code(extra.get("refusalReasonRaw")),
        message=words,
        psp_ref=ref,
        raw=kept(raw),
    )
