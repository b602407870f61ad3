"""Square: tokens of its Web Payments SDK (``cnon:``) and cards on file (``ccof:``). Card numbers it takes from nobody's server.

Sources, read 2026-11-23. Operations, fields and codes: api.json of square/connect-api-specification, Square-Version 2025-08-20.
Meanings: developer.squareup.com/reference/square and the descriptions in Square's own SDK (squareup 46.0.0.20260916). Besides:

- Keys: in the body, at most 45 characters; another payload under the same key is refused (/docs/working-with-apis/idempotency).
  How long a key is remembered Square does not publish (/forums/t/28303, staff, 2026-10), so the window is zero: the core looks up
  instead of sending again. Completing and canceling a payment have no key; both can be done only once.
- Lookup: by ``reference_id``, at most 40 characters, in the list of payments since the operation was reserved, which may lag
  "several seconds" (ListPayments). A refund has no field of ours except ``reason``, so this begins with the operation's id: the
  seller and the payer may see it. There is no lookup by key. ``POST /v2/payments/cancel`` cancels by key, not used yet.
- Partial capture: ``amount_money`` is lowered before the payment is completed; not for sellers in Japan, and a payment says in
  ``capabilities`` whether it can (/docs/payments-api/update-payments). One capture for each payment.
- An authorisation of a card that is not present is canceled after 7 days (``delay_duration``, CreatePayment).
- A card is kept after its first payment, from the payment's id (``source_id`` of CreateCard: "a card nonce or a payment id";
  /docs/cards-api/walkthrough/card-from-payment-id), for a customer that has to exist. If that fails, the payment still stands and
  ``raw["card_not_kept"]`` says why. ``stored_token`` is ``ccof:..|<customer>``: CreatePayment wants both.
- 3-D Secure happens in the browser, inside the SDK. It leaves its mark in the nonce or, with ``verifyBuyer``, in a verification
  token of its own: ``cnon:..|verf:..``. The API itself never redirects (/docs/sca-overview).
- Messages are sent again for 72 hours (/docs/webhooks/troubleshooting).
- Currencies: those of the countries where Square takes cards (/docs/testing-your-app: Australia, Canada, France, Ireland, Japan,
  Spain, United Kingdom, United States); an account takes its own only (/forums/t/18358, reviewed by staff).
- How late a request may still take effect is not confirmed: the SDK's most cautious value.

More than 150 lines: a part is captured in three calls, a card is kept in two, and everything is found again by reading lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_square import answers, settlements, webhooks
from clearspan_psp_square.settings import API_VERSION, SquareConfig

__all__ = ["SquareConfig", "SquarePsp", "clearspan_psps", "requires_sdk"]
requires_sdk = ">=1.3,<2"
Found = TypeVar("Found", answers.Payment, answers.Refund)
_READ = frozenset({400, 402, 404, 422})
_PAGES_MAX = 1_000
_SKEW = timedelta(minutes=5)


class SquarePsp:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "square"
    config_type: ClassVar[type[msgspec.Struct]] = SquareConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability)
        - {sdk.Capability.MULTIPLE_CAPTURE, sdk.Capability.THREE_DS, sdk.Capability.VERIFY},
        currencies=frozenset({"AUD", "CAD", "EUR", "GBP", "JPY", "USD"}),
        idempotency=sdk.Idempotency(scope="seller and endpoint (not confirmed)", max_len=45, payload_check=True),
        lookup=sdk.Lookup(by_reference=True, by_time=True, lag_max=timedelta(minutes=10)),
        webhook=sdk.WebhookFacts(
            signature="hmac-sha256 over URL and body",
            id_field="event_id",
            sequence_field="data.object.dispute.version",
            retry_days=3,
        ),
        sources=frozenset({sdk.SourceKind.TOKEN}),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: SquareConfig = config
        headers = {"Authorization": f"Bearer {config.access_token}", "Square-Version": API_VERSION}
        url = self._config.host(context.live)
        self._wire = sdk.Wire(context, url, headers=headers, key_header=None, understood=_READ)

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        answer = await self._wire.call("POST", "/v2/payments", _charge_body(request, self._config.location_id))
        if answer.status >= 400:
            return answers.refused(answer.body)
        raw = _object(answer, "payment")
        payment = _ours(raw, request.operation_id, answers.Payment)
        outcome = answers.charge(payment, "purchase" if request.capture else "authorize", raw)
        if isinstance(outcome, sdk.Approved) and request.credential is not None and request.credential.first:
            return await self._keep_card(request, request.credential, outcome)
        return outcome

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        raise sdk.NotSupported(
            f"Square asked for no action about {request.psp_ref}; the payer authenticates in the browser"
        )

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        path = f"/v2/payments/{quote(request.charge_ref, safe='')}"
        answer = await _before(self._wire.call("GET", path))
        if answer.status >= 400:
            return answers.refused(answer.body)
        raw = _object(answer, "payment")
        state, total = _changed(raw, "capture", request.charge_ref), sdk.read(raw, answers.Payment).total_money
        if isinstance(state, sdk.Declined):
            return state
        if isinstance(state, sdk.NotFound) and total.money() != request.amount:
            lowered = {
                "idempotency_key": _key(request.key, "amount"),
                "payment": {"amount_money": _money(request.amount)},
            }
            # Without an answer this is unknown too: it might still lower the amount in the midst of the next try.
            answer = await self._wire.call("PUT", path, lowered)
            if answer.status >= 400:
                return answers.refused(answer.body)
            held = sdk.read(_object(answer, "payment"), answers.Payment)
            if (held.status, held.total_money.money()) != ("APPROVED", request.amount):
                raise sdk.OutcomeUnknown(f"the payment is {held.status} over {held.total_money.money()}, not lowered")
        return await self._change(path + "/complete", "capture", request.charge_ref, {})

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        return await self._change(
            f"/v2/payments/{quote(request.charge_ref, safe='')}/cancel", "void", request.charge_ref
        )

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        body = {
            "idempotency_key": request.key,
            "payment_id": request.charge_ref,
            "amount_money": _money(request.amount),
            "reason": " ".join([request.operation_id, request.reason or ""]).strip()[:192],
        }
        answer = await self._wire.call("POST", "/v2/refunds", body)
        if answer.status >= 400:
            return answers.refused(answer.body)
        raw = _object(answer, "refund")
        found = _ours(raw, request.operation_id, answers.Refund)
        if found.payment_id != request.charge_ref:
            raise sdk.OutcomeUnknown("the answer is about another payment")
        return answers.refund(found, raw)

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        if request.kind in ("capture", "void"):
            raw = await self._get(f"/v2/payments/{quote(request.charge_ref or '-', safe='')}", "payment")
            return _changed(raw, request.kind, request.charge_ref or "") if raw else sdk.NotFound()
        what = "refund" if request.kind == "refund" else "payment"
        since = request.created_at and request.created_at - _SKEW
        if request.psp_ref is not None:
            raw = await self._get(f"/v2/{what}s/{quote(request.psp_ref, safe='')}", what)
            found = [raw] if raw else []
        else:
            found = [
                raw async for raw in self._list(what, since, None) if answers.reference(raw) == request.operation_id
            ]
        live = [raw for raw in found if raw.get("status") not in ("FAILED", "CANCELED", "REJECTED")]
        if len(live) > 1:
            raise sdk.OutcomeUnknown(f"{len(live)} {what}s carry the reference {request.operation_id}")
        if not found:
            return sdk.NotFound()
        raw = (live or found)[-1]
        if what == "refund":
            return answers.refund(_ours(raw, request.operation_id, answers.Refund), raw)
        return answers.charge(_ours(raw, request.operation_id, answers.Payment), request.kind, raw)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        return webhooks.read(delivery, self._config)

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.News]:
        place = self._config.location_id
        news = [answers.payment_news(raw, place) async for raw in self._list("payment", since, until)]
        news += [answers.refund_news(raw, place) async for raw in self._list("refund", since, until)]
        return [one for one in news if one is not None]

    async def check_account(self) -> None:
        """See ``ChecksAccount``: lists one payment of the location."""
        answer = await self._wire.call(
            "GET", "/v2/payments", query={"location_id": self._config.location_id, "limit": 1}
        )
        if answer.status >= 400:
            raise sdk.PspMisconfigured(f"Square does not know the location {self._config.location_id} of this account")

    async def fetch_settlements(self, since: datetime, until: datetime) -> Sequence[sdk.SettlementLine]:
        """See ``FetchesSettlements``: the payouts made in a span of time, each after its entries."""
        span = {"location_id": self._config.location_id, "begin_time": since.isoformat(), "end_time": until.isoformat()}
        lines: list[sdk.SettlementLine] = []
        async for raw in self._pages("/v2/payouts", "payouts", span):
            payout = sdk.read(raw, settlements.Payout)
            if payout.type != "SIMPLE" and payout.created_at < until:
                entries = self._pages(f"/v2/payouts/{quote(payout.id, safe='')}/payout-entries", "payout_entries", {})
                lines += [settlements.line(entry) async for entry in entries]
                lines.append(settlements.paid_out(payout, raw))
        return lines

    async def _change(self, path: str, kind: str, charge_ref: str, body: dict[str, Any] | None = None) -> sdk.Outcome:
        answer = await self._wire.call("POST", path, body)
        if answer.status >= 400:
            return answers.refused(answer.body, by_state=True)
        outcome = _changed(_object(answer, "payment"), kind, charge_ref)
        if isinstance(outcome, sdk.NotFound):
            raise sdk.OutcomeUnknown(f"the payment is as if there had been no {kind}")
        return outcome

    async def _keep_card(
        self, request: sdk.ChargeRequest, agreement: sdk.StoredCredential, paid: sdk.Approved
    ) -> sdk.Approved:
        """The card of a payment on file. The payment stands, whatever comes of it."""
        payer = request.customer or agreement.mandate
        # A customer needs a name; ours is an id, the same for each of his cards, and so is its key.
        customer = {"idempotency_key": _key(payer, "customer"), "given_name": payer, "reference_id": payer}
        try:
            owner = _made(await self._wire.call("POST", "/v2/customers", customer), "customer")
            card = {
                "idempotency_key": _key(request.key, "card"),
                "source_id": paid.psp_ref,
                "card": {"customer_id": owner, "reference_id": agreement.mandate},
            }
            kept = _made(await self._wire.call("POST", "/v2/cards", card), "card")
        except sdk.PspError as error:
            return msgspec.structs.replace(paid, raw={**paid.raw, "card_not_kept": str(error)})
        return msgspec.structs.replace(paid, stored_token=f"{kept}|{owner}")

    async def _get(self, path: str, what: str) -> dict[str, Any]:
        """One object; empty when there is none."""
        answer = await self._wire.call("GET", path)
        if answer.status >= 400 and answer.status != 404:
            raise sdk.PspMisconfigured(f"Square refused to show a {what}: {answers.refused(answer.body).raw_code}")
        return {} if answer.status == 404 else _object(answer, what)

    async def _list(self, what: str, since: datetime | None, until: datetime | None) -> AsyncIterator[dict[str, Any]]:
        """All payments or refunds of the location made in a span of time, oldest first."""
        query = {"location_id": self._config.location_id, "begin_time": since and since.isoformat()}
        async for raw in self._pages(f"/v2/{what}s", f"{what}s", query | {"end_time": until and until.isoformat()}):
            yield raw

    async def _pages(self, path: str, name: str, query: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A whole list, oldest first."""
        query = query | {"sort_order": "ASC", "limit": 100, "cursor": None}
        for _ in range(_PAGES_MAX):
            answer = await self._wire.call("GET", path, query=query)
            if answer.status >= 400:
                raise sdk.PspMisconfigured(f"Square refused to list: {answers.refused(answer.body).raw_code}")
            for raw in sdk.read(answer.body.get(name, []), list[dict[str, Any]]):
                yield raw
            query["cursor"] = answer.body.get("cursor")
            if not query["cursor"]:
                return
        raise sdk.OutcomeUnknown("the list has no end")


def _charge_body(request: sdk.ChargeRequest, location: str) -> dict[str, Any]:
    if not isinstance(request.source, sdk.TokenSource):
        raise sdk.NotSupported("Square takes its own tokens only")
    token, _, second = request.source.token.partition("|")
    # "CASH" and "EXTERNAL" would only write down a payment that Square never takes (CreatePayment).
    if not token.startswith(("cnon:", "ccof:")):
        raise sdk.NotSupported("Square's token is none of a card: cnon:.. of the Web Payments SDK, or a stored ccof:..")
    verified = second.startswith("verf:")
    note = request.description
    return {
        "source_id": token,
        "verification_token": second if verified else None,
        "customer_id": second if second and not verified else None,
        "idempotency_key": request.key,
        "amount_money": _money(request.amount),
        "autocomplete": request.capture,
        "location_id": location,
        "reference_id": request.operation_id,
        "note": note and note[:500],
        "customer_details": {"customer_initiated": request.customer_present, "seller_keyed_in": False},
    }


def _object(answer: sdk.Answer, what: str) -> dict[str, Any]:
    return sdk.read(answer.body.get(what), dict[str, Any])


def _changed(raw: dict[str, Any], kind: str, charge_ref: str) -> sdk.Outcome | sdk.NotFound:
    payment = sdk.read(raw, answers.Payment)
    if payment.id != charge_ref:
        raise sdk.OutcomeUnknown("the answer is about another payment")
    return answers.change(payment, kind, raw)


def _money(amount: sdk.Money) -> dict[str, Any]:
    return {"amount": amount.amount_minor, "currency": amount.currency}


def _key(key: str, purpose: str) -> str:
    """The key of a secondary request, 45 characters."""
    return sdk.hmac_hex(key.encode(), purpose.encode())[:45]


def _ours(raw: dict[str, Any], operation_id: str, kind: type[Found]) -> Found:
    if answers.reference(raw) != operation_id:
        raise sdk.OutcomeUnknown("the answer is about another operation")
    return sdk.read(raw, kind)


def _made(answer: sdk.Answer, what: str) -> str:
    """The id of what was made."""
    if answer.status >= 400:
        raise sdk.NotSupported(f"Square made no {what}: {answers.refused(answer.body).raw_code}")
    return sdk.read(answer.body.get(what), answers.Made).id


async def _before(call: Awaitable[sdk.Answer]) -> sdk.Answer:
    """A request before the one that moves money: without its answer nothing was moved."""
    try:
        return await call
    except sdk.OutcomeUnknown as error:
        raise sdk.PspUnavailable(f"nothing was captured: {error}") from error


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [SquarePsp]
