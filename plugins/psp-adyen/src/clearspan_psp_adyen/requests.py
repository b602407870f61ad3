"""What Adyen is asked for: ``PaymentRequest`` of the Checkout API."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_adyen.amounts import units
from clearspan_psp_adyen.settings import AdyenConfig


def charge_body(request: sdk.ChargeRequest, config: AdyenConfig) -> dict[str, Any]:
    """``PaymentRequest``."""
    back = request.return_url or config.return_url
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(back))
    # Without a capture time the merchant account's own setting would decide (https://docs.adyen.com/online-payments/capture).
    extra = None if request.capture else {"manualCapture": "true"}
    body = {
        "merchantAccount": config.merchant_account,
        "reference": request.operation_id,
        "amount": units(request.amount),
        "paymentMethod": payment_method(request),
        "captureDelayHours": 0 if request.capture else None,
        "returnUrl": back,
        "shopperReference": request.customer,
        # At most 20 entries, names of up to 20 and values of up to 80 characters: what does not fit is left out, never the last
        # ones, which are the gateway's own.
        "metadata": dict([(k, v) for k, v in request.metadata.items() if len(k) <= 20 and len(v) <= 80][-20:]) or None,
    } | _credential(request)
    if request.customer_present:
        body |= {"channel": "Web", "origin": origin if len(origin) <= 80 else None} | _browser(request.browser)
        # The redirect flow: Adyen's native one needs its own components in the payer's browser.
        three_ds = {"threeDSRequestData": {"nativeThreeDS": "disabled"}}
        first = request.credential is not None and request.credential.first
        body["authenticationData"] = three_ds | ({"attemptAuthentication": "always"} if first else {})
    elif network := _network_transaction(request):
        extra = (extra or {}) | {"networkTxReference": network}
    return body | {"additionalData": extra}


def _credential(request: sdk.ChargeRequest) -> dict[str, Any]:
    """Who pays and on what consent. Source: ``shopperInteraction``, ``recurringProcessingModel``, ``storePaymentMethod``."""
    agreement, token = request.credential, request.source
    on_file = isinstance(token, sdk.TokenSource) and (token.stored or not token.token.startswith("{"))
    if on_file and request.customer is None:
        raise sdk.NotSupported("Adyen charges a stored card only together with its customer")
    again = not request.customer_present or on_file or (agreement is not None and not agreement.first)
    model = "CardOnFile" if again else None
    if agreement is not None and (agreement.first or not request.customer_present):
        model = "Subscription" if agreement.purpose == "recurring" else "UnscheduledCardOnFile"
    elif not request.customer_present:
        model = "UnscheduledCardOnFile"
    keep = agreement is not None and agreement.first and isinstance(token, sdk.TokenSource) and not on_file
    return {
        "shopperInteraction": "ContAuth" if again else "Ecommerce",
        "recurringProcessingModel": model,
        "storePaymentMethod": True if keep and request.customer is not None else None,
    }


def _network_transaction(request: sdk.ChargeRequest) -> str | None:
    """Of the payment that a merchant-initiated one rests on, unless Adyen itself keeps the card."""
    if not isinstance(request.source, sdk.CardSource):
        return None
    return (request.credential and request.credential.network_transaction_id) or request.source.network_transaction_id


def payment_method(request: sdk.ChargeRequest) -> dict[str, Any]:
    """``CardDetails``. A token is a ``storedPaymentMethodId``, or ``state.data.paymentMethod`` of Adyen's components as JSON."""
    source = request.source
    if isinstance(source, sdk.CardSource):
        card = {
            "type": "scheme",
            "number": source.number,
            "expiryMonth": source.exp_month,
            "expiryYear": source.exp_year,
        }
        return card | {"cvc": source.cvc} if request.customer_present else card
    if not isinstance(source, sdk.TokenSource):
        raise sdk.NotSupported("this adapter takes cards from the vault and Adyen's own tokens")
    if source.stored or not source.token.startswith("{"):
        return {"type": "scheme", "storedPaymentMethodId": source.token}
    try:
        given = msgspec.json.decode(source.token, type=dict[str, str])
    except msgspec.MsgspecError:
        raise sdk.NotSupported("the token is no paymentMethod of Adyen's components: a JSON object of texts") from None
    wanted = ("encryptedCardNumber", "encryptedExpiryMonth", "encryptedExpiryYear", "encryptedSecurityCode", "brand")
    if "encryptedCardNumber" not in given or {"number", "cvc"} & set(given):
        raise sdk.NotSupported("the token must hold encryptedCardNumber and no plain card data")
    return {"type": "scheme"} | {name: given[name] for name in wanted if name in given}


def _browser(browser: sdk.Browser | None) -> dict[str, Any]:
    """``browserInfo``, where the two headers are known that even the redirect flow needs; all its fields are required.

    For the others stands what most browsers say: in the redirect flow Adyen's own page asks the browser itself."""
    if browser is None or browser.user_agent is None or browser.accept_header is None:
        return {"shopperIP": browser.ip_address if browser else None}
    info = {
        "userAgent": browser.user_agent,
        "acceptHeader": browser.accept_header,
        "language": browser.language or "en",
        "colorDepth": browser.colour_depth or 24,
        "screenWidth": browser.screen_width or 1920,
        "screenHeight": browser.screen_height or 1080,
        "timeZoneOffset": browser.timezone_offset_min or 0,
        "javaEnabled": False,
    }
    return {"browserInfo": info, "shopperIP": browser.ip_address}
