"""Mollie, Payments API v2: hosted checkout, cards of Mollie Components, recurring payments.

Facts and their sources (read 2026-11-23; the docs' addresses are below https://docs.mollie.com):

- Idempotency: ``Idempotency-Key`` on every POST; a key with other parameters is a 400, one that is still at work a 409; a replay
  says ``Idempotent-Replayed: true`` (/reference/api-idempotency). How long: 24 hours in an older edition of that page, one hour
  as Mollie is known to tell now; the shorter one is taken. Whether errors are replayed is not confirmed: taken as no. The key
  "should be a UUID": 36 characters, of which the customer's key takes four.
- Lookup: ``metadata`` comes back in every list, newest first, so that an operation is found by the id that it carries. How soon a
  new object is listed, and how late a request may take effect, is not confirmed: the cautious defaults stand.
- Methods: the SDK's ``MethodEnum`` without those that need what a charge does not hold here: order lines and addresses (alma,
  billie, billink, in3, klarna, riverty, voucher), a terminal (pointofsale), a mandate (directdebit).
- Holds: /docs/place-a-hold-for-a-payment. One capture for cards: a partial one releases the rest (the reference's example of a
  partially captured card payment is ``paid``), so that several captures are not offered.
- Currencies: /docs/multicurrency. Of its newest edition only the beginning was at hand (to NZD, without BGN); the rest is an
  older one's, without RUB.

More than 150 lines: Mollie takes three kinds of sources and has two webhooks, no event log (what happened is read from four
lists, ``activity``) and no settlement report (a settlement is five). Cards never pass through here: their fields are Mollie's own
(Components), or its hosted pages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_mollie import answers, settlements, webhooks
from clearspan_psp_mollie.settings import MODES, MollieConfig

__all__ = ["Mollie", "MollieConfig", "clearspan_psps", "requires_sdk"]
requires_sdk = ">=1.3,<2"
URL = "https://api.mollie.com"
"""Of both modes: the key tells which one is meant. The API's version stands in each path."""
_CURRENCIES = (
    "AED AUD BRL CAD CHF CZK DKK EUR GBP HKD HUF ILS ISK JPY MXN MYR NOK NZD PHP PLN RON SEK SGD THB TWD USD ZAR"
)
_METHODS = (
    "applepay bacs bancomatpay bancontact banktransfer belfius bizum blik creditcard eps giftcard ideal kbc mbway"
    " mobilepay multibanco mybank paybybank paypal paysafecard przelewy24 satispay swish trustly twint vipps wero"
)
HOLDING = frozenset({"applepay", "creditcard", "mobilepay", "vipps"})
"""Methods that can hold an amount; Apple Pay's are cards."""
_PAGE = 100  # Mollie gives up to 250, which come near to the size of an answer that the gateway reads.
_PAGES_MAX = 1_000
_CLOCKS = timedelta(minutes=10)
_HELD_MAX = timedelta(days=31)
_METADATA_MAX = 1_000  # Mollie takes "approximately 1kB".
_C = sdk.Capability


class Mollie:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "mollie"
    config_type: ClassVar[type[msgspec.Struct]] = MollieConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(
            {_C.PURCHASE, _C.AUTHORIZE, _C.PARTIAL_CAPTURE, _C.VOID, _C.REFUND, _C.PARTIAL_REFUND}
            | {_C.THREE_DS, _C.MERCHANT_INITIATED}
        ),
        currencies=frozenset(_CURRENCIES.split()),
        idempotency=sdk.Idempotency(timedelta(hours=1), scope="unknown", max_len=32, payload_check=True),
        lookup=sdk.Lookup(by_reference=True, by_time=True),
        webhook=sdk.WebhookFacts(
            signature="hmac-sha256 of events; classic calls are hints", id_field="id", retry_days=1
        ),
        sources=frozenset({sdk.SourceKind.TOKEN, sdk.SourceKind.REDIRECT}),
        methods=frozenset(_METHODS.split()),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: MollieConfig = config
        self._live = context.live
        url, understood = self._config.url or URL, frozenset({404, 410, 422})
        self._wire = sdk.Wire(context, url, headers=_bearer(self._config.api_key), understood=understood)
        self._books = sdk.Wire(context, url, headers=_bearer(self._config.organization_token))

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        body = _charge_body(request)
        if request.credential is not None and request.credential.first:
            # A customer of its own for each agreement: Mollie cannot be asked for the one that we mean.
            made = {"metadata": {"customer": request.customer, "mandate": request.credential.mandate}}
            answer = await _harmless(self._wire.call("POST", "/v2/customers", made, key=f"{request.key}-cst"))
            answers.refused(answer, follow_up=False)
            body |= {"sequenceType": "first", "customerId": sdk.read(answer.body, answers.Created).id}
        answer = await self._wire.call("POST", "/v2/payments", body, key=request.key)
        if no := answers.refused(answer, follow_up=False):
            return no
        return _charge(answer.body, request.operation_id, request.capture)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        # What the payer's browser brought back is nobody's word: Mollie is asked.
        answer = await self._wire.call("GET", _payment(request.psp_ref))
        answers.refused(answer, follow_up=True)
        return _charge(answer.body, request.operation_id, request.capture)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        return await self._part(request, "captures", None)

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        return await self._part(request, "refunds", request.reason or request.operation_id)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        path = _payment(request.charge_ref)
        before = await _harmless(self._wire.call("GET", path))
        answers.refused(before, follow_up=True)
        found = sdk.read(before.body, answers.Payment)
        if found.status == "authorized":
            answer = await self._wire.call("POST", f"{path}/release-authorization", {}, key=request.key)
        elif found.status in ("open", "pending") and found.is_cancelable:
            answer = await self._wire.call("DELETE", path)
        else:
            said = "Mollie cannot cancel this payment now"
            return answers.released(
                before.body, sdk.Declined(code="not_permitted", raw_code=found.status, message=said)
            )
        if no := answers.refused(answer, follow_up=True):
            return no
        if answer.status == 202:  # A release says no more than that it was accepted.
            answer = await self._wire.call("GET", path)
        return answers.released(answer.body, sdk.Pending(psp_ref=f"{request.charge_ref}/void"))

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        if request.kind in ("authorize", "purchase"):
            return await self._find_charge(request)
        path = _payment(request.charge_ref or "")
        if request.kind == "void":
            answer = await self._wire.call("GET", path)
            if answer.status == 404:
                return sdk.NotFound()
            asked = sdk.Pending(psp_ref=request.psp_ref) if request.psp_ref else sdk.NotFound()
            return answers.released(answer.body, asked)
        kind = f"{request.kind}s"
        found = [raw async for raw in self._list(f"{path}/{kind}", kind) if _is(raw, request)]
        return _one(found, request.operation_id, answers.part)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        return webhooks.events(delivery, self._config.webhook_secret)

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.News]:
        found: list[tuple[datetime, sdk.News]] = []
        # A payment changes after it was made, at the latest when its hold ends.
        async for raw in self._list("/v2/payments", "payments", since - _HELD_MAX):
            payment = sdk.read(raw, answers.Payment)
            if any(since <= at <= until for at in payment.times):
                found += [(max(payment.times), news) for news in _payment_news(payment, raw)]
            if payment.capture_mode == "manual" and payment.amount_captured:
                async for part in self._list(f"{_payment(payment.id)}/captures", "captures", since):
                    found.append(_part_news(part))
        async for raw in self._list("/v2/refunds", "refunds", since):
            found.append(_part_news(raw))
        # A chargeback may be reversed long after it was made.
        async for raw in self._list("/v2/chargebacks", "chargebacks", since - _HELD_MAX):
            back = sdk.read(raw, answers.Chargeback)
            found.append((back.reversed_at or back.created_at, answers.dispute(raw)))
        return [news for at, news in sorted(found, key=lambda one: one[0]) if since <= at <= until]

    async def check_account(self) -> None:
        """Make a call that moves nothing; see ``ChecksAccount``."""
        answer = await self._wire.call("GET", "/v2/profiles/me")
        answers.refused(answer, follow_up=False)
        if answer.body.get("mode") != MODES[self._live].rstrip("_"):
            raise sdk.PspMisconfigured(f"the API key is of {answer.body.get('mode')} mode")

    async def fetch_settlements(self, since: datetime, until: datetime) -> Sequence[sdk.SettlementLine]:
        """The lines of what was settled in a span of time; see ``FetchesSettlements``."""
        if not self._config.organization_token:
            raise sdk.PspMisconfigured("Mollie tells settlements to organization tokens only: set organization_token")
        found: list[sdk.SettlementLine] = []
        async for raw in self._list("/v2/settlements", "settlements", since - 2 * _HELD_MAX, wire=self._books):
            one = sdk.read(raw, settlements.Settlement)
            if one.settled_at is None or not since <= one.settled_at < until:
                continue
            lines: list[sdk.SettlementLine | None] = []
            for name, kind in settlements.PARTS.items():
                listed = self._list(f"/v2/settlements/{quote(one.id, safe='')}/{name}", name, wire=self._books)
                lines += [settlements.line(entry, kind, one.id, one.settled_at) async for entry in listed]
            # Settlements come newest first.
            found = [line for line in lines if line is not None] + settlements.totals(one, one.settled_at) + found
        return found

    async def _part(self, request: sdk.CaptureRequest | sdk.RefundRequest, name: str, words: str | None) -> sdk.Outcome:
        metadata = {"operation_id": request.operation_id}
        body = {"amount": _amount(request.amount), "description": words, "metadata": metadata}
        answer = await self._wire.call("POST", f"{_payment(request.charge_ref)}/{name}", body, key=request.key)
        if no := answers.refused(answer, follow_up=True):
            return no
        return _own(answer.body, request.operation_id, answers.part)

    async def _find_charge(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        capture = request.kind == "purchase"
        if request.psp_ref is not None:
            answer = await self._wire.call("GET", _payment(request.psp_ref))
            if answer.status == 404:
                return sdk.NotFound()
            return _charge(answer.body, request.operation_id, capture)
        since = request.created_at - _CLOCKS if request.created_at else None
        found = [raw async for raw in self._list("/v2/payments", "payments", since) if _is(raw, request)]
        return _one(found, request.operation_id, lambda raw: answers.charge(raw, capture))

    async def _list(
        self, path: str, name: str, since: datetime | None = None, *, wire: sdk.Wire | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """A list, newest first, until what is older than ``since``."""
        query: dict[str, Any] = {"limit": _PAGE}
        for _ in range(_PAGES_MAX):
            answer = await (wire or self._wire).call("GET", path, query=query)
            answers.refused(answer, follow_up=True)
            page = sdk.read(answer.body, answers.Page)
            for raw in page.embedded.get(name, []):
                made = sdk.read(raw, _Dated).created_at
                if since is not None and made is not None and made < since:
                    return
                yield raw
            if page.links.next is None:
                return
            # Only the place is taken from the link, never its host.
            query["from"] = parse_qs(urlsplit(page.links.next.href).query).get("from", [""])[0]
        raise sdk.OutcomeUnknown("the list has no end")


class _Dated(msgspec.Struct, rename="camel"):
    created_at: answers.Time | None = None


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _payment(psp_ref: str) -> str:
    return f"/v2/payments/{quote(psp_ref, safe='')}"


def _amount(money: sdk.Money) -> dict[str, str]:
    return {"currency": money.currency, "value": sdk.decimal_text(money)}


def _charge_body(request: sdk.ChargeRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "amount": _amount(request.amount),
        "description": request.description or request.operation_id,
        "redirectUrl": request.return_url,
        "webhookUrl": request.webhook_url,
        "metadata": _metadata(request),
        "captureMode": None if request.capture else "manual",
    }
    match request.source:
        case sdk.TokenSource(token=token, stored=True):
            customer, mandate = answers.stored_parts(token)
            body |= {"customerId": customer, "mandateId": mandate}
            if not request.customer_present:
                return body | {"sequenceType": "recurring"}  # the one kind that needs no return_url
            # Present, he confirms on Mollie's page: a recurring charge would tell his bank that he is not.
        case sdk.TokenSource(token=token):
            body |= {"method": "creditcard", "cardToken": token}
        case sdk.RedirectSource(method=method):
            if not request.capture and method not in HOLDING:
                raise sdk.NotSupported(f"Mollie holds an amount with {', '.join(sorted(HOLDING))}: name one of them")
            body |= {"method": method}
        case _:
            raise sdk.NotSupported("Mollie takes its own card tokens and redirects, no cards from a vault")
    if request.return_url is None:
        raise sdk.NotSupported("Mollie sends the payer to its pages: return_url is needed")
    return body


def _metadata(request: sdk.ChargeRequest) -> dict[str, str]:
    """Ours first; of the merchant's as much as fits."""
    found = {"operation_id": request.operation_id}
    for name, value in request.metadata.items():
        if len(msgspec.json.encode(found | {name: value})) <= _METADATA_MAX:
            found.setdefault(name, value)
    return found


async def _harmless(call: Awaitable[sdk.Answer]) -> sdk.Answer:
    """A call that moves no money: whatever became of it, nothing was charged."""
    try:
        return await call
    except sdk.OutcomeUnknown as error:
        raise sdk.PspUnavailable(f"nothing was charged, a call before it failed: {error}") from error


def _own(raw: dict[str, Any], reference: str, reader: Callable[[dict[str, Any]], sdk.Outcome]) -> sdk.Outcome:
    if answers.reference(raw.get("metadata")) != reference:
        raise sdk.OutcomeUnknown("the answer belongs to another operation")
    return reader(raw)


def _charge(raw: dict[str, Any], reference: str, capture: bool) -> sdk.Outcome:
    return _own(raw, reference, lambda raw: answers.charge(raw, capture))


def _is(raw: dict[str, Any], request: sdk.RetrieveRequest) -> bool:
    if request.psp_ref is not None:
        return raw.get("id") == request.psp_ref
    return answers.reference(raw.get("metadata")) == request.operation_id


def _one(
    found: list[dict[str, Any]], reference: str, reader: Callable[[dict[str, Any]], sdk.Outcome]
) -> sdk.Outcome | sdk.NotFound:
    """The one of a list that is ours; of several tries the one that was not refused."""
    outcomes = [_own(raw, reference, reader) for raw in found]
    live = [one for one in outcomes if not isinstance(one, sdk.Declined)]
    if len(live) > 1:
        raise sdk.OutcomeUnknown(f"{len(live)} operations carry the reference {reference}")
    return (live or outcomes or [sdk.NotFound()])[0]


def _payment_news(found: answers.Payment, raw: dict[str, Any]) -> list[sdk.News]:
    """What a listed payment says of its charge, and of its void."""
    hold = found.capture_mode == "manual"
    metadata = found.metadata if isinstance(found.metadata, dict) else {}
    try:
        outcome = answers.charge(raw, not hold)
    except sdk.OutcomeUnknown:
        return [sdk.Hint(kind="charge", psp_ref=found.id)]
    news: list[sdk.News] = [
        sdk.OperationNews(
            kind="charge",
            outcome=outcome,
            reference=answers.reference(metadata),
            psp_ref=found.id,
            amount=answers.money(found.amount),
            capture=not hold,
            at=max(found.times),
            metadata={name: value for name, value in metadata.items() if isinstance(value, str)},
        )
    ]
    if found.status == "canceled" and found.authorized_at:
        void = answers.released(raw, outcome)
        ref = f"{found.id}/void"
        news.append(
            sdk.OperationNews(kind="void", outcome=void, psp_ref=ref, charge_ref=found.id, at=found.canceled_at)
        )
    return news


def _part_news(raw: dict[str, Any]) -> tuple[datetime, sdk.News]:
    found = sdk.read(raw, answers.Part)
    return found.created_at, sdk.OperationNews(
        kind=found.resource,
        outcome=answers.part(raw),
        reference=answers.reference(found.metadata),
        psp_ref=found.id,
        charge_ref=found.payment_id,
        amount=answers.money(found.amount),
        at=found.created_at,
    )


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [Mollie]
