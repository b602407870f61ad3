"""PayPal: Orders v2, Payments v2, webhooks and disputes v1.

One order is one charge, and its id is the charge's ``psp_ref`` from the approval page to the last refund: it is known before the
payer acts, and it alone leads to everything else. What a later verb needs (the authorisation, the capture) is read from the
order when it is needed; captures and refunds have PayPal's own ids. ``custom_id`` is the charge's operation, ``invoice_id`` the
operation of the very order, capture or refund, so that a lookup through the order finds what an answer did not tell.

An order is found by its id only: no described call lists orders by a reference of ours. A charge whose answer was lost is asked
for again under the same key, as PayPal wants it; after the window only the webhook or the settlement report tell.

More than 150 lines: two sources more than a card PSP has, a login, and an order to be read before every later verb.

Sources: the descriptions that ``answers`` names; https://developer.paypal.com/api/rest/reference/idempotency/ (2026-08);
https://developer.paypal.com/api/rest/reference/currency-codes/ (2026-08); https://developer.paypal.com/docs/checkout/ (2026-08).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_paypal import answers, settlement, webhooks
from clearspan_psp_paypal.refusals import LOOK_AGAIN
from clearspan_psp_paypal.settings import PayPalConfig

__all__ = ["PayPal", "PayPalConfig", "clearspan_psps", "requires_sdk"]
requires_sdk = ">=1.3,<2"
HOSTS = {True: "https://api-m.paypal.com", False: "https://api-m.sandbox.paypal.com"}
PAGES = {True: "https://www.paypal.com", False: "https://www.sandbox.paypal.com"}
CURRENCIES = "AUD BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF ILS JPY MXN MYR NOK NZD PHP PLN SEK SGD THB TWD USD"
CANCELED = ("clearspan", "canceled")
"""Added to the address that PayPal sends a payer to who gives up."""
TOKEN_SPARE = timedelta(minutes=5)
"""An access token is not used in its last minutes: a request under way must not outlive it."""


class _Token(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int


class PayPal:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "paypal"
    config_type: ClassVar[type[msgspec.Struct]] = PayPalConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability) - {sdk.Capability.VERIFY},  # amounts must be above zero
        currencies=frozenset(CURRENCIES.split()),
        # Orders keep a key 6 hours (72 on request), payments 45 days: the shorter one holds for all. A known key "returns the
        # latest status of the previous request": whether a refusal is replayed, and who shares a key space, is not confirmed.
        # 108 characters, less two for the key of the second step.
        idempotency=sdk.Idempotency(timedelta(hours=6), max_len=106),
        lookup=sdk.Lookup(),
        webhook=sdk.WebhookFacts(signature="rsa-sha256 over crc32", id_field="id", retry_days=3),
        void_window=timedelta(days=29),  # the life of an authorisation
        sources=frozenset(sdk.SourceKind),
        methods=frozenset({"paypal"}),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: PayPalConfig = config
        self._now = context.now
        url = self._config.url or HOSTS[context.live]
        self._page = f"{self._config.url.rstrip('/') or PAGES[context.live]}/checkoutnow?token="
        basic = b64encode(f"{self._config.client_id}:{self._config.client_secret}".encode()).decode()
        self._login = sdk.Wire(context, url, headers={"Authorization": f"Basic {basic}"}, encoding="form")
        self._wire = sdk.Wire(
            context,
            url,
            headers={"Prefer": "return=representation"},
            key_header="PayPal-Request-Id",
            understood=frozenset({400, 404, 422}),
        )
        self._token: tuple[str, datetime] | None = None
        self._signatures = webhooks.Signatures(
            context.http, self._config.webhook_id, roots=self._config.webhook_roots, url=self._config.url
        )

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        body = _order_body(request, self._config)
        answer = await self._call("POST", "/v2/checkout/orders", body, key=request.key, source=request.source)
        return self._charge(answer, request.operation_id, request.capture, None)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        # Read first: what is done is done, and the issuer's answer or the payer's may forbid to go on.
        found, raw = await self._order(request.psp_ref, request.operation_id)
        if not found.touched and (forbidden := found.forbidden(request.params.get(CANCELED[0]) == CANCELED[1])):
            code = "authentication_required" if forbidden.startswith("3DS") else "generic_decline"
            return sdk.Declined(code=code, raw_code=forbidden, psp_ref=found.id, raw=answers.kept(raw))
        if not found.touched and found.status != "VOIDED":
            path = f"/v2/checkout/orders/{_segment(found.id)}/{'capture' if request.capture else 'authorize'}"
            answer = await self._call("POST", path, {}, key=f"{request.key}-2")
            if answers.issue_of(answer) not in LOOK_AGAIN:
                return self._charge(answer, request.operation_id, request.capture, request.psp_ref)
            try:
                found, raw = await self._order(request.psp_ref, request.operation_id)
            except (sdk.PspUnavailable, sdk.PspMisconfigured) as error:  # The capture was sent.
                raise sdk.OutcomeUnknown(f"captured or not, the order could not be read: {error}") from error
        return answers.charge(found, request.capture, raw, self._page)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        found, raw = await self._order(request.charge_ref)
        if (done := _mine(found.payments.captures, request.operation_id)) is not None:
            return answers.payment(done, raw, done.id, answers.CAPTURED)
        if len(found.payments.authorizations) != 1:
            return sdk.Declined(code="not_permitted", raw_code="NOT_AUTHORIZED", raw=answers.kept(raw))
        body = {
            "amount": _amount(request.amount),
            "invoice_id": request.operation_id,
            "final_capture": request.final,
        }
        path = f"/v2/payments/authorizations/{_segment(found.payments.authorizations[0].id)}/capture"
        return _done(await self._call("POST", path, body, key=request.key), request.operation_id, answers.CAPTURED)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        found, raw = await self._order(request.charge_ref)
        held = next((one for one in found.payments.authorizations if one.status in answers.HELD), None)
        if held is None:
            return _released(found, raw, request.amount) or sdk.Declined(
                code="not_permitted", raw_code="PREVIOUSLY_CAPTURED", raw=answers.kept(raw)
            )
        answer = await self._call("POST", f"/v2/payments/authorizations/{_segment(held.id)}/void")
        if answer.status == 200:
            said = sdk.read(answer.body, answers.Payment)
            if (said.id, said.status) != (held.id, "VOIDED"):
                raise sdk.OutcomeUnknown(f"PayPal answered a void with {said.status!r}")
            held, raw = said, answer.body
        elif answer.status != 204 and answers.issue_of(answer) != "PREVIOUSLY_VOIDED":
            return answers.refusal(answer)
        return _void_of(found, held, raw)

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        found, raw = await self._order(request.charge_ref)
        if (done := _mine(found.payments.refunds, request.operation_id)) is not None:
            return answers.payment(done, raw, done.id, frozenset({"COMPLETED"}))
        capture = _refundable(found, request.amount)
        if capture is None:
            return sdk.Declined(code="not_permitted", raw_code="NO_CAPTURE_HAS_SO_MUCH", raw=answers.kept(raw))
        body = {
            "amount": _amount(request.amount),
            "custom_id": found.custom_id,
            "invoice_id": request.operation_id,
            "note_to_payer": request.reason and request.reason[:255],
        }
        path = f"/v2/payments/captures/{_segment(capture.id)}/refund"
        answer = await self._call("POST", path, body, key=request.key)
        return _done(answer, request.operation_id, frozenset({"COMPLETED"}))

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        charge = request.kind in ("authorize", "purchase")
        if request.psp_ref is not None and request.kind in ("capture", "refund"):
            answer = await self._call("GET", f"/v2/payments/{request.kind}s/{_segment(request.psp_ref)}")
            done = answers.CAPTURED if request.kind == "capture" else frozenset({"COMPLETED"})
            return sdk.NotFound() if answer.status == 404 else _done(answer, request.operation_id, done, looked_up=True)
        ref = request.psp_ref if charge else request.charge_ref
        if ref is None:
            return sdk.NotFound()
        answer = await self._call("GET", f"/v2/checkout/orders/{_segment(ref)}")
        if answer.status == 404:
            return sdk.NotFound(raw=answer.body)
        if charge:
            return self._charge(answer, request.operation_id, request.kind == "purchase", ref, looked_up=True)
        found = sdk.read(answer.body, answers.Order)
        if request.kind == "void":
            return _released(found, answer.body, request.amount) or sdk.NotFound(raw=answers.kept(answer.body))
        listed = found.payments.captures if request.kind == "capture" else found.payments.refunds
        one = _mine(listed, request.operation_id)
        if one is None:
            return sdk.NotFound(raw=answers.kept(answer.body))
        return answers.payment(one, answer.body, one.id, answers.CAPTURED, looked_up=True)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        await self._signatures.check(delivery)
        return webhooks.events(delivery.body)

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.News]:  # noqa: ARG002
        raise sdk.NotSupported("PayPal's payment API has no list: read the settlement report")

    def read_settlements(self, report: bytes) -> Sequence[sdk.SettlementLine]:
        """See ``ReadsSettlements``."""
        return settlement.lines(report)

    async def check_account(self) -> None:
        """See ``ChecksAccount``: the credentials, and that the webhook is this app's."""
        self._token = None
        answer = await self._call("GET", f"/v1/notifications/webhooks/{_segment(self._config.webhook_id)}")
        if answer.status != 200:
            raise sdk.PspMisconfigured("PayPal does not know the webhook_id: copy it from the REST app's webhooks")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, key: str = "", source: Any = None
    ) -> sdk.Answer:
        """An understood answer; a request that PayPal calls malformed raises."""
        headers = {"Authorization": f"Bearer {await self._access_token()}"}
        try:
            answer = await self._wire.call(method, path, body, key=key, source=source, headers=headers)
        except sdk.PspMisconfigured:
            self._token = None  # Revoked, or of an app whose permissions changed: the next call asks for a fresh one.
            raise
        if answer.status == 400:
            raise answers.malformed(answer.body)
        return answer

    async def _access_token(self) -> str:
        now = self._now()
        if self._token is None or self._token[1] <= now:
            try:
                answer = await self._login.call("POST", "/v1/oauth2/token", {"grant_type": "client_credentials"})
                found = sdk.read(answer.body, _Token)
            except sdk.OutcomeUnknown as error:  # Logging in moves nothing: whatever happened, no payment was sent.
                raise sdk.PspUnavailable(f"not sent, no access token: {error}") from error
            self._token = (found.access_token, now + timedelta(seconds=found.expires_in) - TOKEN_SPARE)
            return found.access_token
        return self._token[0]

    async def _order(self, ref: str, reference: str | None = None) -> tuple[answers.Order, dict[str, Any]]:
        answer = await self._call("GET", f"/v2/checkout/orders/{_segment(ref)}")
        if answer.status != 200:
            raise sdk.OutcomeUnknown(f"PayPal answered {answer.status} when asked for the order")
        found = sdk.read(answer.body, answers.Order)
        return answers.order(answer.body, reference or found.custom_id or "", ref), answer.body

    def _charge(
        self, answer: sdk.Answer, reference: str, capture: bool, ref: str | None, *, looked_up: bool = False
    ) -> sdk.Outcome:
        if answer.status not in (200, 201):
            return answers.refusal(answer)
        found = answers.order(answer.body, reference, ref)
        return answers.charge(found, capture, answer.body, self._page, looked_up=looked_up)


def _order_body(request: sdk.ChargeRequest, config: PayPalConfig) -> dict[str, Any]:
    unit = {
        "custom_id": request.operation_id,
        "invoice_id": request.operation_id,
        "description": request.description and request.description[:127],
        "amount": _amount(request.amount),
    }
    return {
        "intent": "CAPTURE" if request.capture else "AUTHORIZE",
        "purchase_units": [unit],
        "payment_source": _payment_source(request, config),
    }


def _payment_source(request: sdk.ChargeRequest, config: PayPalConfig) -> dict[str, Any]:
    match request.source:
        case sdk.CardSource() as card:
            stored = {"number": card.number, "expiry": f"{card.exp_year}-{card.exp_month}"}
            present = {"security_code": card.cvc} | _three_ds(request, config) if request.customer_present else {}
            return {"card": stored | present | _agreement(request, card.network_transaction_id)}
        case sdk.TokenSource(token=token):
            kind, _, identity = token.rpartition(":")
            if kind == "card":
                ours = _three_ds(request, config) if request.customer_present else {}
                return {"card": {"vault_id": identity} | ours | _agreement(request, None)}
            if kind not in ("", "paypal"):
                raise sdk.NotSupported("a PayPal token is paypal:<id> or card:<id> of its vault")
            return {"paypal": {"vault_id": identity}}
        case sdk.RedirectSource():
            first = request.credential is not None and request.credential.first
            # MERCHANT: the merchant keeps the token. Needs vaulting to be enabled at PayPal, else NOT_ENABLED_TO_VAULT_...
            vault = {"store_in_vault": "ON_SUCCESS", "usage_type": "MERCHANT"}
            experience = {
                **_return(request),
                "brand_name": config.brand_name or None,
                "shipping_preference": "NO_SHIPPING",
                "user_action": "PAY_NOW",
            }
            return {"paypal": {"experience_context": experience} | ({"attributes": {"vault": vault}} if first else {})}


def _three_ds(request: sdk.ChargeRequest, config: PayPalConfig) -> dict[str, Any]:
    """``attributes.verification`` is younger than the description: developer.paypal.com/expanded/3d-secure (2026-06)."""
    if request.return_url is None:
        return {}  # PayPal then asks for 3-D Secure where the law wants it, on a page that leads nowhere.
    first = request.credential is not None and request.credential.first
    method = "SCA_ALWAYS" if first or config.three_ds == "always" else "SCA_WHEN_REQUIRED"
    return {"attributes": {"verification": {"method": method}}, "experience_context": _return(request)}


def _agreement(request: sdk.ChargeRequest, network: str | None) -> dict[str, Any]:
    """``stored_credential``. Mastercard's own date of the first payment is not sent: the gateway keeps the id only."""
    agreement = request.credential
    if agreement is None:
        return {}
    merchant = agreement.initiator == "merchant"
    before = agreement.network_transaction_id or network
    credential = {
        "payment_initiator": "MERCHANT" if merchant else "CUSTOMER",
        "payment_type": "RECURRING" if agreement.purpose == "recurring" else "UNSCHEDULED",
        "usage": "FIRST" if agreement.first else "SUBSEQUENT",
        # Allowed with MERCHANT only.
        "previous_network_transaction_reference": {"id": before} if merchant and before else None,
    }
    return {"stored_credential": credential}


def _return(request: sdk.ChargeRequest) -> dict[str, str]:
    if request.return_url is None:
        raise sdk.NotSupported("PayPal needs a return_url to send the payer back to")
    joint = "&" if urlsplit(request.return_url).query else "?"
    return {
        "return_url": request.return_url,
        "cancel_url": f"{request.return_url}{joint}{'='.join(CANCELED)}",
    }


def _amount(amount: sdk.Money) -> dict[str, str]:
    digits = 0 if amount.currency in answers.NO_DECIMALS else None
    return {"currency_code": amount.currency, "value": sdk.decimal_text(amount, digits)}


def _segment(ref: str) -> str:
    return quote(ref, safe="")


def _mine(listed: Sequence[answers.Payment], operation_id: str) -> answers.Payment | None:
    """The capture or refund that we made for this operation; one that took effect before one that did not."""
    found = [one for one in listed if one.invoice_id == operation_id]
    return next((one for one in found if one.status not in answers.REFUSED), found[0] if found else None)


def _refundable(found: answers.Order, amount: sdk.Money) -> answers.Payment | None:
    """The first capture with so much left: PayPal refunds captures, and an authorisation may have several."""
    for capture in found.payments.captures:
        if capture.status not in ("COMPLETED", "PARTIALLY_REFUNDED", "PENDING"):
            continue
        back = sum(
            one.amount.money().amount_minor
            for one in found.payments.refunds
            if one.status not in answers.REFUSED
            and any(link.rel == "up" and link.href.endswith(f"/{capture.id}") for link in one.links)
        )
        if capture.amount.money().amount_minor - back >= amount.amount_minor:
            return capture
    return None


def _released(found: answers.Order, raw: Mapping[str, Any], asked: sdk.Money) -> sdk.Approved | None:
    """That nothing is held; ``None`` when something is held or was taken. An order that nobody captured or authorised holds
    nothing: it lapses by itself, and no documented call ends it sooner."""
    payments = found.payments
    voided = next((one for one in payments.authorizations if one.status == "VOIDED"), None)
    if voided is not None:
        return _void_of(found, voided, raw)
    made = (*payments.authorizations, *payments.captures)
    if strange := [one.status for one in made if one.status not in answers.DOCUMENTED]:
        raise sdk.OutcomeUnknown(f"PayPal answered with the undocumented status {strange[0]!r}")
    if any(one.status not in answers.REFUSED for one in made):
        return None
    return sdk.Approved(psp_ref=f"{found.id}/void", amount=asked, raw=answers.kept(raw))


def _void_of(found: answers.Order, held: answers.Payment, raw: Mapping[str, Any]) -> sdk.Approved:
    """A void gives back what was not captured before."""
    whole, taken = held.amount.money(), [one for one in found.payments.captures if one.status not in answers.REFUSED]
    left = whole.amount_minor - sum(one.amount.money().amount_minor for one in taken)
    return sdk.Approved(psp_ref=f"{found.id}/void", amount=sdk.Money(left, whole.currency), raw=answers.kept(raw))


def _done(answer: sdk.Answer, operation_id: str, done: frozenset[str], *, looked_up: bool = False) -> sdk.Outcome:
    """What became of a capture or refund of ours."""
    if answer.status not in (200, 201):
        return answers.refusal(answer)
    found = sdk.read(answer.body, answers.Payment)
    if found.invoice_id != operation_id:
        raise sdk.OutcomeUnknown("the answer is about another operation")
    return answers.payment(found, answer.body, found.id, done, looked_up)


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [PayPal]
