"""Adyen, Checkout API v72: raw cards from the vault, cards on file, 3-D Secure by redirect, disputes, settlement reports.

Sources: the published description (Adyen/adyen-openapi, ``CheckoutService-v72`` and ``Webhooks-v1``, 2026-07) and
https://docs.adyen.com as read in 2026-11; where nothing else is said, a fact stands in the description.

What makes Adyen different:

- There is no lookup of any kind. Captures, cancellations and refunds are answered with ``received``, and the outcome comes by
  webhook only. What got no answer is found out by sending the same request again under its idempotency key.
- Idempotency keys: up to 64 characters, valid for at least 31 days, unique per company account; another region does not know
  them (https://docs.adyen.com/development-resources/api-idempotency). An error marked ``transient-error: true`` may be sent
  again under the same key. Whether other errors are replayed, and whether a key refuses another payload, is not confirmed.
- Until the payer has come back, the charge has no ``pspReference`` that is sure to stay ("you will get this value in the
  /payments/details response"), so an action is returned without one.
- ``max_late_effect`` and ``void_window`` are not published for all schemes: the contract's cautious values stand.

The requests are built in ``requests``, the answers read in ``answers``, messages in ``webhooks``, reports in ``settlements``.
Together they exceed the 150 lines that an adapter should have: Adyen spreads the stored credential rules over four fields, has
several event codes per outcome and per dispute, and its answers hold personal data that must not be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_adyen import answers, requests, settlements, webhooks
from clearspan_psp_adyen.amounts import units
from clearspan_psp_adyen.refusals import CARD_ERRORS
from clearspan_psp_adyen.settings import AdyenConfig

__all__ = ["Adyen", "AdyenConfig", "clearspan_psps", "requires_sdk"]
requires_sdk = ">=1.3,<2"
_C = sdk.Capability


class Adyen:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "adyen"
    config_type: ClassVar[type[msgspec.Struct]] = AdyenConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        # Several captures of one payment exist, but only where Adyen's support switched them on for the account.
        capabilities=frozenset(_C) - {_C.MULTIPLE_CAPTURE},
        idempotency=sdk.Idempotency(timedelta(days=31), scope="company account and region", max_len=64),
        lookup=sdk.Lookup(by_psp_ref=False),
        webhook=sdk.WebhookFacts(
            signature="HMAC-SHA256 of eight fields per item",
            id_field="eventCode, pspReference and success",
            retry_days=30,  # https://docs.adyen.com/development-resources/webhooks/troubleshoot
            answer="[accepted]",  # any 2xx is enough today; endpoints set up long ago want these words
        ),
        sources=frozenset({sdk.SourceKind.CARD, sdk.SourceKind.TOKEN}),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: AdyenConfig = config
        self._live = context.live
        address, headers = self._config.address(context.live), {"X-API-Key": self._config.api_key}
        self._wire = sdk.Wire(context, address, headers=headers, understood=frozenset({400, 422}))

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        body = requests.charge_body(request, self._config)
        answer = await self._call("/payments", body, request.key, request.source)
        return answers.charged(answer, request.operation_id, request.amount)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        # What Adyen appends to returnUrl: redirectResult, or payload for some methods.
        details = {name: request.params[name] for name in ("redirectResult", "payload") if name in request.params}
        if not details:
            raise sdk.OutcomeUnknown("the payer came back without redirectResult: Adyen can be asked in no other way")
        key = hashlib.sha256("\0".join((request.key, *details.values())).encode()).hexdigest()
        answer = await self._call("/payments/details", {"details": details}, key)
        return answers.charged(answer, request.operation_id, request.amount)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        # Adyen has no word for "final": unless its support switched several captures on, it releases what this one leaves.
        return await self._modify(request, "captures", {"amount": units(request.amount)})

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        return await self._modify(request, "cancels", {})

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        return await self._modify(request, "refunds", {"amount": units(request.amount)})

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:  # noqa: ARG002
        raise sdk.OutcomeUnknown("Adyen has no lookup: wait for its webhook, or see the Customer Area")

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.News]:  # noqa: ARG002
        raise sdk.NotSupported("Adyen lists nothing by time: read its settlement reports")

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        return webhooks.events(delivery, self._config, live=self._live)

    def read_settlements(self, report: bytes) -> Sequence[sdk.SettlementLine]:
        """See ``ReadsSettlements``: the *Settlement details report* as CSV."""
        return settlements.lines(report)

    async def check_account(self) -> None:
        """See ``ChecksAccount``: asks which payment methods the merchant account has."""
        answer = await self._wire.call("POST", "/paymentMethods", {"merchantAccount": self._config.merchant_account})
        if answer.status != 200:
            raise answers.refused(answer)

    async def _modify(
        self, request: sdk.CaptureRequest | sdk.CancelRequest | sdk.RefundRequest, verb: str, fields: dict[str, Any]
    ) -> sdk.Outcome:
        body = {"merchantAccount": self._config.merchant_account, "reference": request.operation_id} | fields
        path = f"/payments/{quote(request.charge_ref, safe='')}/{verb}"
        if isinstance(request, sdk.CancelRequest) and not request.charge_ref:  # it still waits for its payer
            path, body = "/cancels", body | {"paymentReference": request.charge_operation_id}
        answer = await self._call(path, body, request.key)
        if isinstance(answer, sdk.Declined):
            return answer
        found = sdk.read(answer, answers.Modification)
        about = {"paymentPspReference": request.charge_ref or None, "paymentReference": body.get("paymentReference")}
        expected = body | {name: one for name, one in about.items() if one is not None}
        if any(answer.get(name, one) != one for name, one in expected.items()):
            raise sdk.OutcomeUnknown("the answer belongs to another operation")
        return sdk.Pending(psp_ref=found.psp_reference, raw=answers.kept(answer))

    async def _call(
        self, path: str, body: dict[str, Any], key: str, source: sdk.Source | None = None
    ) -> dict[str, Any] | sdk.Declined:
        answer = await self._wire.call("POST", path, body, key=key, source=source)
        if answer.status not in (400, 422):
            return answer.body
        code = str(answer.body.get("errorCode", ""))
        if path == "/payments" and code in CARD_ERRORS:
            words, ref = str(answer.body.get("message", "")), answer.body.get("pspReference")
            return sdk.Declined(code=CARD_ERRORS[code], raw_code=f"error {code}", message=words, psp_ref=ref)
        raise answers.refused(answer)


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [Adyen]
