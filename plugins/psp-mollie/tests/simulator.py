"""A simulator of Mollie's Payments API v2, in its own process: ``python simulator.py --port 8090``.

Written from Mollie's documentation and the models of its BSD-2 SDK; its OpenAPI description is CC BY-NC-SA and no part of
it is here, so that requests are checked by the structs below. What they do not know is a problem (``/_control/problems``) and
a 422.

It departs from Mollie where waiting would be all: captures, refunds and releases are done at once unless ``/_control/pace`` says
otherwise, and a card token may be used again. Card tokens: ``TOKENS``. Besides the control calls that every simulator has:

- ``POST /_control/pace {"captures": "pending", "refunds": "pending", "releases": "pending"}``; what a later one omits is done
- ``POST /_control/payment {"id", "status", "reason", "bank"}`` moves a payment, as Mollie's test page does
- ``POST /_control/chargeback {"payment", "value", "reason", "reversed"}``, ``POST /_control/settle {"at"}``
- ``POST /_control/forget``: no problems so far; ``GET /_control/requests``: the bodies so far
- ``POST /_control/webhook {"secret"}`` adds signed events to the classic calls
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

import msgspec
import uvicorn
from msgspec import UNSET, Meta, UnsetType

TOKENS: dict[str, str | None] = {
    "tkn_visa": None,
    "tkn_mastercard": None,
    "tkn_challenge": "challenge",
    "tkn_insufficient_funds": "insufficient_funds",
    "tkn_declined": "card_declined",
    "tkn_later_insufficient_funds": None,
}
"""Card token -> what its charge meets. The last one's later, recurring charges are refused."""
DIGITS = {"ISK": 0, "JPY": 0}
_CURRENCIES = (
    "AED AUD BRL CAD CHF CZK DKK EUR GBP HKD HUF ILS ISK JPY MXN MYR NOK NZD PHP PLN RON SEK SGD THB TWD USD ZAR"
)
CURRENCIES = set(_CURRENCIES.split())
NEEDS_LINES = {"billie", "in3", "klarna", "riverty", "voucher"}
HOLDS = {"applepay", "creditcard", "googlepay", "mobilepay", "vipps"} | NEEDS_LINES
MANDATES = {"creditcard": "creditcard", "applepay": "creditcard", "paypal": "paypal"} | dict.fromkeys(
    ["ideal", "bancontact", "belfius", "eps", "kbc", "trustly"], "directdebit"
)
"""Method of a first payment -> method of its mandate."""
Method = Literal[
    "alma", "applepay", "bacs", "bancomatpay", "bancontact", "banktransfer", "belfius", "billie", "billink", "bizum", "blik",
    "creditcard", "directdebit", "eps", "giftcard", "ideal", "in3", "kbc", "klarna", "mbway", "mobilepay", "multibanco", "mybank",
    "paybybank", "paypal", "paysafecard", "pointofsale", "przelewy24", "riverty", "satispay", "swish", "trustly", "twint",
    "vipps", "voucher", "wero",
]  # fmt: skip
Address = Annotated[str, Meta(pattern=r"^https?://[^\s/]+(/.*)?$", max_length=2048)]
Text = Annotated[str, Meta(min_length=1, max_length=255)]
_SPAN = timedelta(minutes=15)


class _Closed(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class AmountIn(_Closed):
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    value: Annotated[str, Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{2})?$")]


class PaymentIn(_Closed):
    amount: AmountIn
    description: Text
    redirect_url: Address | UnsetType = UNSET
    webhook_url: Address | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    method: Method | UnsetType = UNSET
    capture_mode: Literal["automatic", "manual"] | UnsetType = UNSET
    sequence_type: Literal["oneoff", "first", "recurring"] = "oneoff"
    customer_id: Annotated[str, Meta(pattern="^cst_.+$")] | UnsetType = UNSET
    mandate_id: Annotated[str, Meta(pattern="^mdt_.+$")] | UnsetType = UNSET
    card_token: Annotated[str, Meta(pattern="^tkn_.+$")] | UnsetType = UNSET


class PartIn(_Closed):
    amount: AmountIn
    metadata: dict[str, str] | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class CustomerIn(_Closed):
    metadata: dict[str, str] | UnsetType = UNSET


class Nothing(_Closed):
    pass


class Refused(Exception):
    """A request that Mollie refuses."""

    def __init__(self, status: int, detail: str, at: str | None = None, *, problem: bool = False) -> None:
        super().__init__(detail)
        self.status, self.detail, self.at, self.problem = status, detail, at, problem


@dataclass
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Ask:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Book:
    """What this Mollie knows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.payments: dict[str, dict[str, Any]] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.customers: dict[str, dict[str, Any]] = {}
        self.mandates: dict[str, dict[str, Any]] = {}
        self.settlements: dict[str, dict[str, Any]] = {}
        self.hidden: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, tuple[str, Answer | None]] = {}
        self.problems: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.webhooks: list[dict[str, Any]] = []
        self.pace: dict[str, str] = {}
        self.secret = ""
        self.fault = ""
        self.made = 0

    def new(self, kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
        self.made += 1
        identity = f"{prefix}_{hashlib.sha256(str(self.made).encode()).hexdigest()[:10]}"
        return {"resource": kind, "id": identity, "mode": "test"} | fields | {"createdAt": now()}

    def link(self, path: str, kind: str = "application/hal+json") -> dict[str, str]:
        return {"href": path if path.startswith("http") else self.url + path, "type": kind}

    # -- payments -------------------------------------------------------------------------------------------------

    def create(self, asked: PaymentIn) -> dict[str, Any]:
        recurring = asked.sequence_type == "recurring"
        amount = _amount(asked.amount)
        if asked.redirect_url is UNSET and not recurring:
            raise Refused(422, "The redirect URL is required", "redirectUrl", problem=True)
        if asked.metadata and len(msgspec.json.encode(asked.metadata)) > 1024:
            raise Refused(422, "The metadata is too large", "metadata", problem=True)
        method = asked.method or None
        if asked.card_token and (method != "creditcard" or recurring):
            raise Refused(422, "A card token is for one-off and first card payments", "cardToken", problem=True)
        if method in NEEDS_LINES or method in ("pointofsale", "directdebit"):
            raise Refused(422, "The method needs more than was sent", "method", problem=True)
        if asked.capture_mode == "manual" and method not in HOLDS and not (method is None and asked.mandate_id):
            raise Refused(422, "The method cannot be captured manually", "captureMode", problem=True)
        if asked.customer_id and asked.customer_id not in self.customers:
            raise Refused(422, "The customer is unknown", "customerId")
        if asked.sequence_type == "first" and (not asked.customer_id or (method and method not in MANDATES)):
            raise Refused(
                422, "A first payment needs a customer, and a method that makes a mandate", "customerId", problem=True
            )
        mandate = self.mandates.get(asked.mandate_id or "")
        if (recurring or asked.mandate_id) and (mandate is None or mandate["customerId"] != asked.customer_id):
            raise Refused(422, "No suitable mandate of this customer", "mandateId")
        if asked.card_token and asked.card_token not in TOKENS:
            raise Refused(422, "The card token is unknown or used", "cardToken")
        told = {
            "amount": {"currency": amount[1], "value": asked.amount.value},
            "description": asked.description,
            "method": mandate["method"] if mandate else method,
            "metadata": asked.metadata or None,
            "status": "open",
            "isCancelable": method in ("banktransfer", "paypal"),
            "profileId": "pfl_v9hTwCvYqw",
            "sequenceType": asked.sequence_type,
            "redirectUrl": asked.redirect_url or None,
            "webhookUrl": asked.webhook_url or None,
        }
        payment = self.new("payment", "tr", **told)
        for name, value in (
            ("captureMode", asked.capture_mode),
            ("customerId", asked.customer_id),
            ("mandateId", asked.mandate_id),
        ):
            if value:
                payment[name] = value
        self.payments[payment["id"]] = payment
        self.hidden[payment["id"]] = {"token": asked.card_token or "", "capture": asked.capture_mode != "manual"}
        meets = TOKENS.get(asked.card_token or "", "challenge")
        if recurring:
            assert mandate is not None
            refused = self.hidden[mandate["id"]]["token"] == "tkn_later_insufficient_funds"
            if mandate["method"] == "directdebit":
                self.move(payment, "pending")
            else:
                self.move(payment, *(("failed", "insufficient_funds") if refused else ("paid",)))
        elif meets == "challenge":
            payment["expiresAt"] = stamp(datetime.now(UTC) + _SPAN)
            payment["_links"] = {"checkout": self.link(f"/checkout/{payment['id']}", "text/html")}
        elif meets is None:
            self.move(payment, "paid")
        else:
            self.move(payment, "failed", meets)
        return self.shown(payment)

    def move(self, payment: dict[str, Any], status: str, reason: str | None = None) -> None:
        """Another status, with what comes with it."""
        hold = not self.hidden[payment["id"]]["capture"]
        if status == "paid" and hold and payment["status"] != "authorized":
            status = "authorized"
        payment["status"] = status
        for name in ("isCancelable", "expiresAt"):
            payment.pop(name, None)
        payment.get("_links", {}).pop("checkout", None)
        stamps = {
            "authorized": "authorizedAt",
            "paid": "paidAt",
            "canceled": "canceledAt",
            "expired": "expiredAt",
            "failed": "failedAt",
        }
        if status in stamps:
            payment[stamps[status]] = now()
        if status == "authorized":
            payment |= {
                "captureBefore": stamp(datetime.now(UTC) + timedelta(days=7)),
                "amountCaptured": _like(payment, Decimal(0)),
            }
        if status == "paid":
            payment["amountRefunded"] = _like(payment, Decimal(0))
        if reason is not None:
            payment["details"] = {
                "failureReason": reason,
                "failureMessage": "The payment failed.",
                "cardHolder": "T. TEST",
            }
        if status in ("paid", "authorized") and payment["sequenceType"] == "first" and "mandateId" not in payment:
            mandate = self.new("mandate", "mdt", method=MANDATES[payment["method"] or "ideal"], status="valid")
            mandate |= {"customerId": payment["customerId"], "details": {"cardHolder": "T. TEST"}}
            self.mandates[mandate["id"]] = mandate
            self.hidden[mandate["id"]] = {"token": self.hidden[payment["id"]]["token"]}
            payment["mandateId"] = mandate["id"]
        if status not in ("open", "pending"):
            self.tell(payment, f"payment.{status}", payment)

    def shown(self, payment: dict[str, Any]) -> dict[str, Any]:
        links = {"self": self.link(f"/v2/payments/{payment['id']}"), "dashboard": self.link("/dashboard", "text/html")}
        return payment | {"_links": links | payment.get("_links", {})}

    def payment(self, identity: str) -> dict[str, Any]:
        if identity not in self.payments:
            raise Refused(404, "No payment exists with token " + identity)
        return self.payments[identity]

    def taken(self, payment: dict[str, Any], kind: str) -> Decimal:
        """Of a payment, without what failed."""
        mine = (one for one in self.parts.values() if one["paymentId"] == payment["id"] and one["resource"] == kind)
        return sum(
            (Decimal(one["amount"]["value"]) for one in mine if one.get("status") not in ("failed", "canceled")),
            Decimal(0),
        )

    def part(self, payment: dict[str, Any], kind: str, asked: PartIn) -> dict[str, Any]:
        units, currency = _amount(asked.amount)
        if currency != payment["amount"]["currency"]:
            raise Refused(422, "The amount contains an invalid currency", "amount.currency")
        whole = Decimal(payment["amount"]["value"])
        if kind == "capture":
            if payment["status"] != "authorized":
                raise Refused(422, "The payment is not authorized")
            left = whole - self.taken(payment, "capture")
        else:
            if payment["status"] != "paid":
                raise Refused(422, "The payment is not paid")
            base = self.taken(payment, "capture") if payment.get("captureMode") == "manual" else whole
            left = base - self.taken(payment, "refund")
        if not 0 < units <= left:
            raise Refused(422, "The amount is higher than the remaining amount", "amount")
        slow = self.pace.get(f"{kind}s", "")
        status = slow or {"capture": "succeeded", "refund": "refunded"}[kind]
        one = self.new(
            kind, {"capture": "cpt", "refund": "re"}[kind], amount=msgspec.to_builtins(asked.amount), status=status
        )
        one |= {"paymentId": payment["id"], "metadata": asked.metadata or None, "description": asked.description or ""}
        one["_links"] = {
            "self": self.link(f"/v2/payments/{payment['id']}/{kind}s/{one['id']}"),
            "documentation": self.link("/"),
        }
        one["_links"]["payment"] = self.link(f"/v2/payments/{payment['id']}")
        self.parts[one["id"]] = one
        self.finish(payment, one)
        return one

    def finish(self, payment: dict[str, Any], one: dict[str, Any]) -> None:
        """What a done capture or refund does to its payment."""
        if one["status"] == "succeeded":
            payment["amountCaptured"] = _like(payment, self.taken(payment, "capture"))
            if payment["status"] == "authorized":
                self.move(payment, "paid")  # A card's first capture releases the rest.
        if one["status"] in ("queued", "pending"):
            return
        if one["resource"] == "refund":
            payment["amountRefunded"] = _like(payment, self.taken(payment, "refund"))
        self.tell(payment, f"{one['resource']}.{one['status']}", one)

    def release(self, payment: dict[str, Any]) -> None:
        if payment["status"] != "authorized":
            raise Refused(422, "Authorization cannot be released because the payment is not in the authorized state.")
        if self.pace.get("releases"):
            self.hidden[payment["id"]]["releasing"] = True
        else:
            self.move(payment, "canceled")

    def cancel(self, payment: dict[str, Any]) -> dict[str, Any]:
        if not payment.get("isCancelable"):
            raise Refused(422, "The payment cannot be cancelled")
        self.move(payment, "canceled")
        return self.shown(payment)

    def tell(self, payment: dict[str, Any], kind: str, entity: dict[str, Any]) -> None:
        """A classic call, and an event when a secret is set."""
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if payment.get("webhookUrl") and not kind.startswith("capture."):
            self.webhooks.append({"headers": headers, "body": f"id={payment['id']}"})
        if self.secret:
            event = self.new("event", "event", type=kind, entityId=entity["id"])
            event |= {"_embedded": {"entity": entity}, "_links": {"self": self.link(f"/v2/events/{event['id']}")}}
            body = msgspec.json.encode(event)
            signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
            signed = {"content-type": "application/json", "x-mollie-signature": f"sha256={signature}"}
            self.webhooks.append({"headers": signed, "body": body.decode()})


def now() -> str:
    return stamp(datetime.now(UTC))


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S+00:00")


def _like(payment: dict[str, Any], value: Decimal) -> dict[str, str]:
    currency = payment["amount"]["currency"]
    return {"currency": currency, "value": f"{value:.{DIGITS.get(currency, 2)}f}"}


def _amount(asked: AmountIn) -> tuple[Decimal, str]:
    if asked.currency not in CURRENCIES:
        raise Refused(422, "The currency is not supported", "amount.currency")
    digits = len(asked.value.partition(".")[2])
    if digits != DIGITS.get(asked.currency, 2):
        raise Refused(422, "The amount has the wrong number of decimals", "amount.value", problem=True)
    return Decimal(asked.value), asked.currency


MOVES = re.compile(r"(POST|DELETE) /v2/payments(/[^/]+(/(captures|refunds|release-authorization))?)?")
_ONE = r"([A-Za-z]+_[A-Za-z0-9]+)"


class Api:
    """HTTP."""

    def __init__(self, url: str) -> None:
        self.book = Book(url)
        self.routes: list[tuple[str, Callable[..., Answer]]] = [
            (r"POST /v2/payments", self.create_payment),
            (r"GET /v2/payments", lambda ask: self.listed(ask, "payments", self.book.payments.values())),
            (rf"GET /v2/payments/{_ONE}", lambda _, one: Answer(200, self.book.shown(self.book.payment(one)))),
            (rf"DELETE /v2/payments/{_ONE}", lambda _, one: Answer(200, self.book.cancel(self.book.payment(one)))),
            (rf"POST /v2/payments/{_ONE}/release-authorization", self.release),
            (rf"POST /v2/payments/{_ONE}/(capture|refund)s", self.create_part),
            (rf"GET /v2/payments/{_ONE}/(captures|refunds|chargebacks)", self.parts_of),
            (r"GET /v2/(refunds|chargebacks)", lambda ask, kind: self.listed(ask, kind, self.of_kind(kind))),
            (r"POST /v2/customers", self.create_customer),
            (rf"GET /v2/customers/{_ONE}/mandates", self.mandates_of),
            (r"GET /v2/profiles/me", self.profile),
            (r"GET /v2/settlements", self.settlements),
            (rf"GET /v2/settlements/{_ONE}/(payments|captures|refunds|chargebacks)", self.settled),
        ]
        self.controls: dict[str, Callable[[Any], Any]] = {
            "POST next": lambda said: setattr(self.book, "fault", said["fault"]),
            "POST pace": self.set_pace,
            "POST payment": self.moved,
            "POST chargeback": self.chargeback,
            "POST settle": self.settle,
            "POST forget": lambda _: self.book.problems.clear(),
            "POST webhook": lambda said: setattr(self.book, "secret", said.get("secret") or ""),
            "GET charges": lambda _: [self.charge(one) for one in self.book.payments.values()],
            "GET webhooks": lambda _: self.book.webhooks,
            "GET requests": lambda _: self.book.requests,
            "GET problems": lambda _: self.book.problems,
        }

    # -- Mollie's -------------------------------------------------------------------------------------------------

    def create_payment(self, ask: Ask) -> Answer:
        return Answer(201, self.book.create(_read(ask, PaymentIn, self.book)))

    def create_part(self, ask: Ask, identity: str, kind: str) -> Answer:
        return Answer(201, self.book.part(self.book.payment(identity), kind, _read(ask, PartIn, self.book)))

    def create_customer(self, ask: Ask) -> Answer:
        asked = _read(ask, CustomerIn, self.book)
        one = self.book.new("customer", "cst", name=None, email=None, locale=None, metadata=asked.metadata or None)
        links = {name: self.book.link(f"/v2/customers/{one['id']}") for name in ("self", "dashboard", "documentation")}
        self.book.customers[one["id"]] = one | {"_links": links}
        return Answer(201, self.book.customers[one["id"]])

    def release(self, ask: Ask, identity: str) -> Answer:
        if ask.body:
            _read(ask, Nothing, self.book)
        self.book.release(self.book.payment(identity))
        return Answer(202)

    def parts_of(self, ask: Ask, identity: str, name: str) -> Answer:
        self.book.payment(identity)
        return self.listed(ask, name, [one for one in self.of_kind(name) if one["paymentId"] == identity])

    def of_kind(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.book.parts.values() if one["resource"] == name.removesuffix("s")]

    def mandates_of(self, ask: Ask, customer: str) -> Answer:
        return self.listed(
            ask, "mandates", [one for one in self.book.mandates.values() if one["customerId"] == customer]
        )

    def profile(self, ask: Ask) -> Answer:
        mode = ask.headers["authorization"].removeprefix("Bearer ").partition("_")[0]
        return Answer(
            200, {"resource": "profile", "id": "pfl_v9hTwCvYqw", "mode": mode, "name": "Shop", "createdAt": now()}
        )

    def settlements(self, ask: Ask) -> Answer:
        return self.listed(ask, "settlements", self.book.settlements.values())

    def settled(self, ask: Ask, identity: str, name: str) -> Answer:
        return self.listed(ask, name, self.book.hidden[identity][name])

    def listed(self, ask: Ask, name: str, all_of_them: Any) -> Answer:
        """A page, newest first."""
        if unknown := ask.query.keys() - {"limit", "from", "sort"}:
            raise Refused(400, f"Unknown parameters {sorted(unknown)}", problem=True)
        limit, start = int(ask.query.get("limit", "50")), ask.query.get("from")
        if not 1 <= limit <= 250:
            raise Refused(400, "Invalid limit", "limit", problem=True)
        items = list(all_of_them)[::-1]
        ids = [one["id"] for one in items]
        if start is not None and start not in ids:
            raise Refused(400, "Invalid cursor value", "from", problem=True)
        first = ids.index(start) if start is not None else 0
        page = [self.book.shown(one) if one["resource"] == "payment" else one for one in items[first : first + limit]]
        after = ids[first + limit : first + limit + 1]
        following = self.book.link(f"{ask.path}?{urlencode({'from': after[0], 'limit': limit})}") if after else None
        links = {
            "self": self.book.link(ask.path),
            "previous": None,
            "next": following,
            "documentation": self.book.link("/"),
        }
        return Answer(200, {"count": len(page), "_embedded": {name: page}, "_links": links})

    # -- the tests' -----------------------------------------------------------------------------------------------

    def charge(self, payment: dict[str, Any]) -> dict[str, Any]:
        currency = payment["amount"]["currency"]
        scale = 10 ** DIGITS.get(currency, 2)
        manual = payment.get("captureMode") == "manual"
        captured = self.book.taken(payment, "capture") if manual else Decimal(payment["amount"]["value"])
        status = {"paid": "captured", "failed": "declined", "expired": "canceled", "open": "pending"}.get(
            payment["status"]
        )
        return {
            "id": payment["id"],
            "reference": (payment["metadata"] or {}).get("operation_id"),
            "amount_minor": int(Decimal(payment["amount"]["value"]) * scale),
            "currency": currency,
            "status": status or payment["status"],
            "captured_minor": int(captured * scale) if payment["status"] in ("paid", "authorized") else 0,
            "refunded_minor": int(self.book.taken(payment, "refund") * scale),
        }

    def set_pace(self, said: dict[str, str]) -> None:
        self.book.pace = said
        for one in self.book.parts.values():
            kind = one["resource"]
            if one.get("status") in ("pending", "queued") and f"{kind}s" not in said:
                one["status"] = {"capture": "succeeded", "refund": "refunded"}[kind]
                self.book.finish(self.book.payments[one["paymentId"]], one)
        for payment in self.book.payments.values():
            if "releases" not in said and self.book.hidden[payment["id"]].pop("releasing", False):
                self.book.move(payment, "canceled")

    def moved(self, said: dict[str, str]) -> None:
        payment = self.book.payment(said["id"])
        if said.get("bank"):
            payment["details"] = {"bankReasonCode": said["bank"], "consumerAccount": "NL55INGB0000000000"}
        self.book.move(payment, said["status"], said.get("reason"))

    def chargeback(self, said: dict[str, Any]) -> dict[str, Any]:
        payment = self.book.payment(said["payment"])
        old = next((one for one in self.of_kind("chargebacks") if one["paymentId"] == payment["id"]), None)
        if said.get("reversed") and old is not None:
            old["reversedAt"] = now()
            self.book.tell(payment, "chargeback.reversed", old)
            return old
        amount = {"currency": payment["amount"]["currency"], "value": said["value"]}
        reason = {"code": said["reason"], "description": "As the bank says"} if said.get("reason") else None
        one = self.book.new("chargeback", "chb", amount=amount, reason=reason, paymentId=payment["id"], reversedAt=None)
        one["_links"] = {name: self.book.link("/v2/chargebacks") for name in ("self", "payment", "documentation")}
        self.book.parts[one["id"]] = one
        payment["amountChargedBack"] = amount
        self.book.tell(payment, "chargeback.received", one)
        return one

    def settle(self, said: dict[str, str]) -> dict[str, Any]:
        """Everything of euros so far, in one settlement with a fee of 0.29 for each payment."""
        lists: dict[str, list[dict[str, Any]]] = {"payments": [], "captures": [], "refunds": [], "chargebacks": []}
        for payment in self.book.payments.values():
            whole = payment["status"] == "paid" and payment.get("captureMode") != "manual"
            if whole and payment["amount"]["currency"] == "EUR":
                lists["payments"].append(self.book.shown(payment) | {"settlementAmount": payment["amount"]})
        for one in [part for part in self.book.parts.values() if part["amount"]["currency"] == "EUR"]:
            value = one["amount"]["value"] if one["resource"] == "capture" else f"-{one['amount']['value']}"
            lists[f"{one['resource']}s"].append(one | {"settlementAmount": one["amount"] | {"value": value}})
        total = sum(
            (Decimal(one["settlementAmount"]["value"]) for found in lists.values() for one in found), Decimal(0)
        )
        fee = Decimal("0.29") * (len(lists["payments"]) + len(lists["captures"]))
        one = self.book.new("settlement", "stl", reference="1234567.2611.01", status="paidout", settledAt=said["at"])
        cost = {"description": "Credit card", "method": "creditcard", "count": 1, "rate": {}, "amountVat": None}
        cost |= {name: {"currency": "EUR", "value": f"{fee:.4f}"} for name in ("amountNet", "amountGross")}
        one |= {"amount": {"currency": "EUR", "value": f"{total - fee:.2f}"}, "balanceId": "bal_gVMhHKqSSRYJyPsuoPNFH"}
        one |= {
            "periods": {"2026": {"11": {"costs": [cost], "revenue": []}}},
            "_links": {"self": self.book.link("/v2/settlements")},
        }
        self.book.settlements[one["id"]], self.book.hidden[one["id"]] = one, lists
        return one

    # -- the way of a request -------------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> Answer:
        line = f"{ask.method} {ask.path}"
        if line.startswith("GET /checkout/"):
            return self.checkout(ask)
        token = ask.headers.get("authorization", "").removeprefix("Bearer ")
        organization = ask.path.startswith("/v2/settlements")
        if not token.startswith(("access_",) if organization else ("test_", "live_", "access_")):
            return _error(Refused(401, "Missing authentication, or failed to authenticate"))
        key = ask.headers.get("idempotency-key", "") if ask.method == "POST" else ""
        print_of = hashlib.sha256(f"{line} ".encode() + ask.body).hexdigest()
        if key and key in self.book.keys:
            known, kept = self.book.keys[key]
            if known != print_of:
                return _error(Refused(400, "The idempotency key was used with other parameters"))
            if kept is None:
                return _error(Refused(409, "A request with this idempotency key is being processed"))
            return Answer(kept.status, kept.body, kept.headers | {"idempotent-replayed": "true"})
        try:
            answer = self.routed(ask, line)
        except Refused as refused:
            if refused.problem:
                self.book.problems.append(f"{line}: {refused.detail} ({refused.at})")
            answer = _error(refused)
        else:
            if key:
                # What was answered then, not what the payment is now.
                self.book.keys[key] = (
                    print_of,
                    Answer(answer.status, msgspec.json.decode(msgspec.json.encode(answer.body))),
                )
        return answer

    def routed(self, ask: Ask, line: str) -> Answer:
        for pattern, handler in self.routes:
            if found := re.fullmatch(pattern, line):
                return handler(ask, *found.groups())
        raise Refused(404, f"No such resource: {line}", problem=True)

    def checkout(self, ask: Ask) -> Answer:
        """The payer's page."""
        payment = self.book.payment(ask.path.rpartition("/")[2])
        outcome = ask.query.get("outcome")
        if outcome is None:
            links = "".join(f'<a href="?outcome={one}">{one}</a> ' for one in ("approve", "refuse"))
            return Answer(200, f"<html>{links}</html>", {"content-type": "text/html"})
        if payment["status"] == "open":
            payment["method"] = payment["method"] or "ideal"
            if outcome == "approve":
                self.book.move(payment, "paid")
            elif payment["method"] == "creditcard":
                self.book.move(payment, "failed", "authentication_failed")
            else:
                self.book.move(payment, "canceled")
        return Answer(302, "", {"location": payment["redirectUrl"], "content-type": "text/html"})

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        ask = Ask(scope["method"], scope["path"], dict(parse_qsl(scope["query_string"].decode())), headers, body)
        if ask.path.startswith("/_control/"):
            said = msgspec.json.decode(body) if body else {}
            told = self.controls[f"{ask.method} {ask.path.removeprefix('/_control/')}"](said)
            answer = Answer(200, told if told is not None else {})
        else:
            answer = await self.faulty(ask, receive)
        await _say(send, answer)

    async def faulty(self, ask: Ask, receive: Callable[[], Awaitable[Any]]) -> Answer:
        """The answer, unless a fault waits for the next request that moves money."""
        fault = ""
        if MOVES.fullmatch(f"{ask.method} {ask.path}"):
            fault, self.book.fault = self.book.fault, ""
        broken = _error(Refused(500, "Internal error"))
        if fault == "error_before":
            return broken
        answer = broken if fault == "hang_before" else self.answer(ask)
        if fault.startswith("hang"):
            await _gone(receive)
        if fault == "garbage_after":
            return Answer(200, "<html>Welcome</html>", {"content-type": "text/html"})
        return broken if fault == "error_after" else answer


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Until the client leaves, or a minute."""
    try:
        async with asyncio.timeout(60):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


def _read(ask: Ask, kind: type[Any], book: Book) -> Any:
    """A body as documented."""
    if ask.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "The body is to be JSON", problem=True)
    book.requests.append({"line": f"{ask.method} {ask.path}", "body": msgspec.json.decode(ask.body)})
    try:
        return msgspec.json.decode(ask.body, type=kind)
    except msgspec.ValidationError as error:
        at = re.search(r"\$\.([A-Za-z.]+)|field `([A-Za-z]+)`", str(error))
        raise Refused(422, str(error), (at[1] or at[2]) if at else "body", problem=True) from error


def _error(refused: Refused) -> Answer:
    titles = {
        400: "Bad Request",
        401: "Unauthorized Request",
        404: "Not Found",
        409: "Conflict",
        422: "Unprocessable Entity",
    }
    body = {"status": refused.status, "title": titles.get(refused.status, "Error"), "detail": refused.detail}
    links = {"documentation": {"href": "https://docs.mollie.com/reference/handling-errors", "type": "text/html"}}
    return Answer(refused.status, body | ({"field": refused.at} if refused.at else {}) | {"_links": links})


async def _say(send: Callable[[Any], Awaitable[None]], answer: Answer) -> None:
    headers = {"content-type": "application/hal+json"} | answer.headers
    content = b""
    if isinstance(answer.body, str):
        content = answer.body.encode()
    elif answer.body is not None:
        content = msgspec.json.encode(answer.body)
    names = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": names})
    await send({"type": "http.response.body", "body": content})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    url = f"http://127.0.0.1:{port}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            sys.stdout.write(f"ready {url}\n")
            sys.stdout.flush()

    Server(uvicorn.Config(Api(url), host="127.0.0.1", port=port, log_level="error", access_log=False)).run()


if __name__ == "__main__":
    main()
