"""Stripe, by its Payment Intents. Contract: Stripe's OpenAPI description of API version 2023-08-16, which every request names.

Sources of the facts: https://docs.stripe.com/api/idempotent_requests (24 hours, 255 characters, errors are replayed, other
parameters are refused), https://docs.stripe.com/search#data-freshness (lists have no delay, unlike searches),
https://docs.stripe.com/payments/place-a-hold-on-a-payment-method (7 days; some networks less), https://docs.stripe.com/webhooks
(three days of repeats, no order). How late a request may still take effect is not published: a day, for as long a key is
remembered.

More than 150 lines, because at Stripe a card needs a payment method of its own, a stored one a customer, a check
without an amount a setup intent, and because an operation is found again only by listing: Stripe has no lookup by our reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_stripe import answers, settlements, webhooks
from clearspan_psp_stripe.amounts import written
from clearspan_psp_stripe.settings import StripeConfig

__all__ = ["StripeConfig", "StripePsp", "clearspan_psps", "requires_sdk"]
requires_sdk = ">=1.3,<2"
INTENTS, SETUPS, REFUNDS = "/v1/payment_intents", "/v1/setup_intents", "/v1/refunds"
_PAGES_MAX = 1_000
_CLOCKS = timedelta(minutes=5)
"""How far Stripe's clock and ours may be apart."""
_EXPAND = {INTENTS: ["latest_charge.balance_transaction"], SETUPS: [], REFUNDS: ["balance_transaction"]}


_Reader = Callable[[dict[str, Any], answers.Asked], sdk.Outcome | sdk.NotFound]


class _Made(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    data: list[dict[str, Any]]
    has_more: bool


class StripePsp:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "stripe"
    config_type: ClassVar[type[msgspec.Struct]] = StripeConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability) - {sdk.Capability.MULTIPLE_CAPTURE},
        # 255 characters, of which the keys of preparatory calls want a few.
        idempotency=sdk.Idempotency(
            timedelta(hours=24), True, scope="account and mode", max_len=245, payload_check=True
        ),
        lookup=sdk.Lookup(by_reference=True, by_time=True, lag_max=timedelta(minutes=1)),
        webhook=sdk.WebhookFacts(signature="Stripe-Signature v1, hmac-sha256", id_field="id", retry_days=3),
        max_late_effect=timedelta(days=1),
        void_window=timedelta(days=7),
        sources=frozenset(sdk.SourceKind),
        # Those that redirect and need nothing but a return address: https://docs.stripe.com/payments/ideal/accept-a-payment,
        # .../paypal/accept-a-payment, .../grabpay/accept-a-payment. Others want a name, an email or a bank.
        methods=frozenset({"ideal", "paypal", "grabpay"}),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: StripeConfig = config
        self._context = context
        headers = {"Authorization": f"Bearer {self._config.api_key}", "Stripe-Version": webhooks.VERSION}
        self._wire = sdk.Wire(
            context,
            self._config.url or "https://api.stripe.com",
            headers=headers,
            encoding="form",
            understood=frozenset({400, 402, 404}),
        )

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        path = SETUPS if request.amount.amount_minor == 0 else INTENTS
        body = _charge_body(request, path)
        paid_with = await self._paid_with(request)
        if isinstance(paid_with, sdk.Declined):
            return paid_with
        answer = await self._wire.call("POST", path, body | paid_with, key=request.key)
        return _charged(answer, answers.Asked(request.operation_id, request.amount, request.capture))

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        answer = await self._get(_path(request.psp_ref), request.psp_ref)
        return _charged(answer, answers.Asked(request.operation_id, request.amount, request.capture, looked_up=True))

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        body = {
            "amount_to_capture": written(request.amount),
            "metadata": {answers.CAPTURED_BY: request.operation_id},
            "expand": _EXPAND[INTENTS],
        }
        answer = await self._wire.call("POST", f"{_one(request.charge_ref)}/capture", body, key=request.key)
        return _followed(answer, answers.captured, request)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        answer = await self._wire.call("POST", f"{_one(request.charge_ref)}/cancel", {}, key=request.key)
        return _followed(answer, answers.voided, request)

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        body = {
            "payment_intent": request.charge_ref,
            "amount": written(request.amount),
            "reason": request.reason
            if request.reason in ("duplicate", "fraudulent", "requested_by_customer")
            else None,
            "metadata": {answers.REFERENCE: request.operation_id},
            "expand": _EXPAND[REFUNDS],
        }
        answer = await self._wire.call("POST", REFUNDS, body, key=request.key)
        if answer.status != 200:
            return answers.decline(answers.refused(answer), None, answer.body)
        return answers.refund(
            answer.body, answers.Asked(request.operation_id, request.amount, charge=request.charge_ref)
        )

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        if request.kind == "refund":
            return await self._retrieved_refund(request)
        is_charge = request.kind in ("authorize", "purchase")
        ref = request.psp_ref if is_charge else request.charge_ref or (request.psp_ref or "").partition("/")[0]
        asked = answers.Asked(request.operation_id, request.amount, request.kind != "authorize", ref, looked_up=True)
        if not ref and is_charge:
            return await self._found(request, SETUPS if request.amount.amount_minor == 0 else INTENTS, asked, {})
        if not ref:
            raise sdk.OutcomeUnknown("a capture or void is found by its charge only, whose id is not known")
        answer = await self._get(_path(ref), ref)
        if answer.status == 404:
            return sdk.NotFound(raw=answers.plain(answer.body))
        if is_charge:
            return _charged(answer, asked)
        return (answers.captured if request.kind == "capture" else answers.voided)(_understood(answer), asked)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        webhooks.verify(delivery, self._config.webhook_secret)
        event = webhooks.event(delivery.body)
        if event.livemode != self._context.live:
            raise sdk.WebhookRejected("the message is of the other mode, test or live")
        return [sdk.WebhookEvent(event_id=event.id, type=event.type, news=webhooks.news(event))]

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.News]:
        # The same objects as in messages; Stripe keeps them for 30 days: https://docs.stripe.com/api/events.
        listed = await self._list("/v1/events", {"created": _span(since, until)})
        told = [webhooks.news(sdk.read(raw, webhooks.Event)) for raw in reversed(listed)]
        return [news for news in told if news is not None]

    async def check_account(self) -> None:
        """See ``ChecksAccount``."""
        _understood(await self._wire.call("GET", INTENTS, query={"limit": 1}))

    async def fetch_settlements(self, since: datetime, until: datetime) -> Sequence[sdk.SettlementLine]:
        """See ``FetchesSettlements``."""
        query = {"created": _span(since, until), "expand": ["data.source"]}
        return [settlements.line(raw) for raw in reversed(await self._list("/v1/balance_transactions", query))]

    async def _paid_with(self, request: sdk.ChargeRequest) -> dict[str, Any] | sdk.Declined:
        """The part of a charge that names the source, and what must be made for it before, which charges nothing."""
        source, customer = request.source, None
        if isinstance(source, sdk.RedirectSource):
            return {"payment_method_types": [source.method], "payment_method_data": {"type": source.method}}
        if isinstance(source, sdk.TokenSource):
            held, _, method = source.token.rpartition("/")
            if bool(held) != source.stored:
                raise sdk.NotSupported("a stored token is customer and payment method, any other one a payment method")
            customer = held or None
        else:
            card = {"number": source.number, "exp_month": source.exp_month, "exp_year": source.exp_year}
            body = {"type": "card", "card": card | ({"cvc": source.cvc} if request.customer_present else {})}
            made = await self._prepare("/v1/payment_methods", body, f"{request.key}-method", source)
            if isinstance(made, sdk.Declined):
                return made
            method = made
        if customer is None and _to_be_stored(request):
            body = {"metadata": {"customer": request.customer}}
            made = await self._prepare("/v1/customers", body, f"{request.key}-customer")
            if isinstance(made, sdk.Declined):
                return made
            customer = made
        return {"payment_method_types": ["card"], "payment_method": method, "customer": customer}

    async def _prepare(
        self, path: str, body: dict[str, Any], key: str, source: sdk.Source | None = None
    ) -> str | sdk.Declined:
        """Make an object that cannot charge.

        Raises:
            PspUnavailable: nobody knows whether it was made, and nothing was charged.
        """
        try:
            answer = await self._wire.call("POST", path, body, key=key, source=source)
        except sdk.OutcomeUnknown as error:
            raise sdk.PspUnavailable(f"nothing was charged, {path} was not answered: {error}") from error
        if answer.status == 200:
            return sdk.read(answer.body, _Made).id
        return answers.decline(answers.refused(answer), None, answer.body)

    async def _retrieved_refund(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        asked = answers.Asked(request.operation_id, request.amount, charge=request.charge_ref, looked_up=True)
        if request.psp_ref is None:
            return await self._found(request, REFUNDS, asked, {"payment_intent": request.charge_ref})
        answer = await self._get(REFUNDS, request.psp_ref)
        if answer.status == 404:
            return sdk.NotFound(raw=answers.plain(answer.body))
        return answers.refund(_understood(answer), asked)

    async def _found(
        self, request: sdk.RetrieveRequest, path: str, asked: answers.Asked, query: dict[str, Any]
    ) -> sdk.Outcome | sdk.NotFound:
        """The object that carries our reference, among all that were made since the operation was."""
        query = query | {"expand": [f"data.{name}" for name in _EXPAND[path]]}
        ours: list[dict[str, Any]] = []
        # Most are made at once; the second span is all that there may be.
        for late in (_CLOCKS, self.facts.max_late_effect + self.facts.lookup.lag_max + _CLOCKS):
            at = request.created_at
            span = {"created": _span(at - _CLOCKS, at + late)} if at is not None else {}
            listed = await self._list(path, query | span)
            ours = [raw for raw in listed if (raw.get("metadata") or {}).get(answers.REFERENCE) == request.operation_id]
            if ours or at is None:
                break
        live = [raw for raw in ours if raw.get("status") not in ("requires_payment_method", "canceled", "failed")]
        if len(live) > 1:
            raise sdk.OutcomeUnknown(f"{len(live)} objects of Stripe carry the reference {request.operation_id}")
        if not ours:
            return sdk.NotFound()
        read = answers.refund if path == REFUNDS else answers.charge
        return read((live or ours)[0], asked)

    async def _get(self, path: str, ref: str) -> sdk.Answer:
        return await self._wire.call("GET", f"{path}/{quote(ref, safe='')}", query={"expand": _EXPAND[path]})

    async def _list(self, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        """All pages, newest first."""
        found: list[dict[str, Any]] = []
        for _ in range(_PAGES_MAX):
            after = {"starting_after": found[-1].get("id")} if found else {}
            page = sdk.read(
                _understood(await self._wire.call("GET", path, query={"limit": 100} | query | after)), _Page
            )
            found += page.data
            if not page.has_more or not page.data:
                return found
        raise sdk.OutcomeUnknown(f"there are more than {_PAGES_MAX} pages of {path}")


def _charge_body(request: sdk.ChargeRequest, path: str) -> dict[str, Any]:
    """A charge without its source.

    Raises:
        NotSupported: Stripe cannot take it.
    """
    agreement = request.credential
    if isinstance(request.source, sdk.RedirectSource) and (
        request.source.method is None or agreement is not None or not request.capture or path == SETUPS
    ):
        raise sdk.NotSupported("by redirect this adapter takes purchases of a named method, and stores nothing")
    if path == SETUPS and request.return_url is None:
        raise sdk.NotSupported(
            "Stripe may ask the payer for a challenge when a card is checked: a return_url is needed"
        )
    by_merchant = _by_merchant(request)
    body = {
        "confirm": True,
        "description": request.description,
        "metadata": {**request.metadata, answers.REFERENCE: request.operation_id},
        "expand": _EXPAND[path],
        "return_url": None if by_merchant and path == INTENTS else request.return_url,
    }
    if path == SETUPS:
        return body | {"usage": "off_session"}
    return body | {
        "amount": written(request.amount),
        "currency": request.amount.currency.lower(),
        "capture_method": "automatic" if request.capture else "manual",
        "off_session": True if by_merchant else None,
        "setup_future_usage": "off_session" if _to_be_stored(request) else None,
        # Without an address to return to there can be no challenge, so none is to be asked for.
        "error_on_requires_action": True if request.return_url is None and not by_merchant else None,
    }


def _by_merchant(request: sdk.ChargeRequest) -> bool:
    return not request.customer_present or (
        request.credential is not None and request.credential.initiator == "merchant"
    )


def _to_be_stored(request: sdk.ChargeRequest) -> bool:
    return request.credential is not None and request.credential.first and not _by_merchant(request)


def _charged(answer: sdk.Answer, asked: answers.Asked) -> sdk.Outcome:
    if answer.status == 200:
        return answers.charge(answer.body, asked)
    error = answers.refused(answer)
    about = error.payment_intent or error.setup_intent
    if about is None:
        return answers.decline(error, None, answer.body)
    outcome = answers.charge(about, asked, error)
    if not isinstance(outcome, sdk.Declined):
        raise sdk.OutcomeUnknown("Stripe refuses and says that it did not: look the operation up")
    return outcome


def _followed(answer: sdk.Answer, read: _Reader, request: sdk.CaptureRequest | sdk.CancelRequest) -> sdk.Outcome:
    """A capture or void. A refusal that shows the charge as it is may say that it had happened already."""
    asked = answers.Asked(request.operation_id, request.amount, charge=request.charge_ref)
    error = None if answer.status == 200 else answers.refused(answer)
    about = answer.body if error is None else error.payment_intent or error.setup_intent
    outcome = read(about, asked) if about is not None else sdk.NotFound()
    if not isinstance(outcome, sdk.NotFound):
        return outcome
    if error is None:
        raise sdk.OutcomeUnknown("Stripe answered, and nothing happened to the charge")
    return answers.decline(error, None, answer.body)


def _understood(answer: sdk.Answer) -> dict[str, Any]:
    """The body of an answer that cannot be a decline."""
    if answer.status != 200:
        raise sdk.PspMisconfigured(f"Stripe refused: {answers.refused(answer).code}")
    return answer.body


def _path(ref: str) -> str:
    return SETUPS if ref.startswith("seti_") else INTENTS


def _one(charge_ref: str) -> str:
    return f"{_path(charge_ref)}/{quote(charge_ref, safe='')}"


def _span(since: datetime, until: datetime) -> dict[str, int]:
    return {"gte": int(since.timestamp()), "lt": int(until.timestamp())}


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [StripePsp]
