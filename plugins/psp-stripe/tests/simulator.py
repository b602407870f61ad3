"""A Stripe of our own, for tests.

``python simulator.py --port 8090`` prints ``ready http://127.0.0.1:8090`` and serves until killed. Every request and every
answer is checked against Stripe's description (``description.py``). Keys are honoured as documented: the first answer is kept, a
500 too; other parameters under the same key are refused; what fails validation is not kept. Authentication and declines go by the
test cards of https://docs.stripe.com/testing.

Control: ``POST /_control/next {"fault", "path"}`` (``path``: the beginning of the address it is for; else what moves money),
``POST /_control/webhook {"url", "secret"}``, ``POST /_control/dispute {"charge", "status"}``,
``POST /_control/refund {"refund", "status"}``, ``GET /_control/charges|webhooks|problems|requests``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import copy
import hashlib
import hmac
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import description
import uvicorn

VERSION = "2023-08-16"
SAMPLES = json.loads((Path(__file__).parent / "spec" / "fixtures3.subset.json").read_text())["resources"]
DECLINES = {
    "4000000000000002": ("card_declined", "generic_decline"),
    "4000000000009995": ("card_declined", "insufficient_funds"),
    "4000000000009987": ("card_declined", "lost_card"),
    "4000000000000069": ("expired_card", None),
    "4000000000000127": ("incorrect_cvc", None),
    "4000000000000119": ("processing_error", None),
}
CHALLENGES = {"4000002500003155", "4000002760003184"}
BRANDS = {"4": "visa", "5": "mastercard", "3": "amex"}
TOKENS = {
    "pm_card_visa": "4242424242424242",
    "pm_card_mastercard": "5555555555554444",
    "pm_card_chargeDeclined": "4000000000000002",
    "pm_card_visa_chargeDeclined": "4000000000000002",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_authenticationRequired": "4000002500003155",
}
MOVES_MONEY = ("/v1/payment_intents", "/v1/refunds", "/v1/setup_intents")
REDIRECTS = {"ideal", "paypal", "grabpay"}


class Refused(Exception):
    """An error object of Stripe's."""

    def __init__(self, status: int, kind: str, code: str | None, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message} | ({"code": code} if code else {}) | more


def invalid(message: str, code: str | None = None, **more: Any) -> Refused:
    return Refused(400, "invalid_request_error", code, message, **more)


class Book:
    """All objects by id, oldest first, and what became of keys."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, str] = {}
        self.used: set[str] = set()
        self.kept: dict[tuple[str, str], tuple[str, int, dict[str, Any]]] = {}
        self.busy: set[tuple[str, str]] = set()
        self.secret = "whsec_simulator"
        self.fault, self.fault_at = "", MOVES_MONEY
        self.problems: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.request: dict[str, Any] = {"id": None, "idempotency_key": None}
        self.live = False

    # -- objects --------------------------------------------------------------------------------------------------

    def make(self, kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
        """A new object after Stripe's sample of it."""
        made = copy.deepcopy(SAMPLES[kind]) | {
            "id": f"{prefix}_sim{len(self.objects) + 1:05d}Q",
            "created": int(time.time()),
        }
        if "livemode" in made:
            made["livemode"] = self.live
        made |= fields
        self.objects[made["id"]] = made
        return made

    def get(self, ref: str, kind: str, param: str) -> dict[str, Any]:
        found = self.objects.get(ref)
        if found is None or found["object"] != kind:
            raise Refused(404, "invalid_request_error", "resource_missing", f"No such {kind}: '{ref}'", param=param)
        return found

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Newest first."""
        return [one for one in reversed(self.objects.values()) if one["object"] == kind]

    def happened(self, kind: str, about: dict[str, Any]) -> None:
        snapshot = copy.deepcopy({name: value for name, value in about.items() if not name.startswith("_")})
        self.make("event", "evt", type=kind, data={"object": snapshot}, api_version=VERSION, request=dict(self.request))

    # -- sources --------------------------------------------------------------------------------------------------

    def payment_method(self, number: str | None, kind: str = "card", **fields: Any) -> dict[str, Any]:
        made = self.make("payment_method", "pm", customer=None, metadata={}, type=kind, **fields)
        made["billing_details"] = {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": None,
            "name": None,
            "phone": None,
        }
        if kind != "card":
            del made["card"]
            made[kind] = {}
            return made
        assert number is not None
        made["card"] |= {
            "last4": number[-4:],
            "brand": BRANDS.get(number[0], "unknown"),
            "exp_month": 12,
            "exp_year": 2030,
        }
        self.numbers[made["id"]] = number
        return made

    def method(self, ref: str) -> dict[str, Any]:
        if ref in TOKENS:
            return self.payment_method(TOKENS[ref])
        return self.get(ref, "payment_method", "payment_method")

    # -- intents --------------------------------------------------------------------------------------------------

    def confirm(self, intent: dict[str, Any], asked: dict[str, Any]) -> None:
        """Try to pay, or to set up."""
        if "payment_method_data" in asked:
            intent["payment_method"] = self.payment_method(None, asked["payment_method_data"]["type"])["id"]
        if "payment_method" in asked:
            intent["payment_method"] = self.method(asked["payment_method"])["id"]
        if intent["payment_method"] is None:
            raise invalid("You cannot confirm without a payment method.", "parameter_missing", param="payment_method")
        method = self.objects[intent["payment_method"]]
        if method["customer"] is not None and method["customer"] != intent["customer"]:
            raise invalid("The payment method belongs to a customer: send customer too.", param="payment_method")
        if method["id"] in self.used and method["customer"] is None:
            raise invalid("This payment method was used before without a customer.", param="payment_method")
        if method["type"] not in intent["payment_method_types"]:
            raise invalid(f"{method['type']} is not among payment_method_types.", param="payment_method")
        if method["type"] == "ideal" and intent.get("currency") != "eur":
            raise invalid("iDEAL is paid in EUR.", "payment_intent_incompatible_payment_method", param="currency")
        if method["type"] != "card" and intent.get("capture_method") == "manual":
            raise invalid(f"{method['type']} cannot be captured manually.", param="capture_method")
        number = self.numbers.get(method["id"], "")
        challenged = method["type"] in REDIRECTS or (number in CHALLENGES and not method.get("_set_up"))
        if challenged and asked.get("off_session"):
            self.fail(intent, "authentication_required", "authentication_required", 402)
        if challenged and asked.get("error_on_requires_action"):
            self.fail(intent, "authentication_required", "authentication_required", 402)
        if challenged:
            intent["status"] = "requires_action"
            intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
            if back := asked.get("return_url"):
                page = f"{asked['_origin']}/_pay/{intent['id']}"
                intent["next_action"] = {
                    "type": "redirect_to_url",
                    "redirect_to_url": {"return_url": back, "url": page},
                }
            self.happened(f"{intent['object']}.requires_action", intent)
            return
        if number in DECLINES:
            code, why = DECLINES[number]
            self.fail(intent, code, why, 402)
        self.succeed(intent, authenticated=False)

    def succeed(self, intent: dict[str, Any], *, authenticated: bool) -> None:
        method = self.objects[intent["payment_method"]]
        self.used.add(method["id"])
        intent["next_action"] = None
        stored = intent.get("setup_future_usage") or intent.get("usage")
        if stored == "off_session" and intent["customer"]:
            method |= {"customer": intent["customer"], "_set_up": True}
        if intent["object"] == "setup_intent":
            intent["status"] = "succeeded"
            self.happened("setup_intent.succeeded", intent)
            return
        charge = self.make(
            "charge",
            "ch",
            amount=intent["amount"],
            currency=intent["currency"],
            payment_intent=intent["id"],
            payment_method=method["id"],
            metadata=dict(intent["metadata"]),
            description=intent["description"],
            customer=intent["customer"],
            balance_transaction=None,
        )
        charge["billing_details"] = method["billing_details"]
        charge["payment_method_details"] = {"type": method["type"], method["type"]: {}}
        if method["type"] == "card":
            details = SAMPLES["charge"]["payment_method_details"]["card"] | {"last4": method["card"]["last4"]}
            flow = {
                "authentication_flow": "challenge",
                "result": "authenticated",
                "result_reason": None,
                "version": "2.2.0",
            }
            charge["payment_method_details"]["card"] = details | {"three_d_secure": flow if authenticated else None}
        charge |= {"receipt_url": None, "refunds": None}
        del charge["refunds"]
        intent["latest_charge"] = charge["id"]
        if intent["capture_method"] == "manual":
            intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
            charge["captured"] = False
            self.happened("charge.succeeded", charge)
            self.happened("payment_intent.amount_capturable_updated", intent)
            return
        self.take(intent, charge, intent["amount"])
        self.happened("charge.succeeded", charge)
        self.happened("payment_intent.succeeded", intent)

    def fail(self, intent: dict[str, Any], code: str, why: str | None, status: int, message: str = "Declined.") -> None:
        """Declined.

        Raises:
            Refused: with ``status``, when that is one.
        """
        error = {"type": "card_error", "code": code, "message": message} | ({"decline_code": why} if why else {})
        name = "last_payment_error" if intent["object"] == "payment_intent" else "last_setup_error"
        intent |= {"status": "requires_payment_method", "next_action": None, "payment_method": None, name: error}
        if intent["object"] == "payment_intent":
            charge = self.make("charge", "ch", amount=intent["amount"], currency=intent["currency"], status="failed")
            charge |= {"payment_intent": intent["id"], "paid": False, "failure_code": code, "balance_transaction": None}
            del charge["refunds"]
            intent["latest_charge"] = charge["id"]
            self.happened("payment_intent.payment_failed", intent)
        else:
            self.happened("setup_intent.setup_failed", intent)
        if status:
            # Stripe shows the intent inside the error, which itself is inside the intent: only once here.
            raise Refused(
                status,
                "card_error",
                code,
                message,
                **({"decline_code": why} if why else {}),
                **{intent["object"]: copy.deepcopy(intent)},
            )

    def take(self, intent: dict[str, Any], charge: dict[str, Any], amount: int) -> None:
        """Capture."""
        fee = min(amount, amount * 29 // 1000 + 30)
        booked = self.book(charge["id"], "charge", "charge", amount, fee, intent["currency"])
        charge |= {"captured": True, "amount_captured": amount, "balance_transaction": booked}
        intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}

    def book(self, source: str, kind: str, category: str, amount: int, fee: int, currency: str) -> str:
        transaction = self.make(
            "balance_transaction",
            "txn",
            type=kind,
            reporting_category=category,
            amount=amount,
            fee=fee,
            net=amount - fee,
        )
        transaction |= {"currency": currency, "source": source, "status": "pending", "description": None}
        ref: str = transaction["id"]
        return ref

    def charge_of(self, intent: dict[str, Any]) -> dict[str, Any]:
        return self.objects[intent["latest_charge"]]


class Api:
    """The verbs, by path template and method; each takes the places of the address and the parameters."""

    def __init__(self, book: Book) -> None:
        self.book = book

    def post_v1_payment_methods(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("type") != "card":
            return self.book.payment_method(None, asked.get("type", ""), metadata=asked.get("metadata", {}))
        number = asked["card"].get("number", "")
        if not number.isdigit() or len(number) < 12:
            raise Refused(402, "card_error", "invalid_number", "The card number is not a valid number.", param="number")
        if int(asked["card"]["exp_year"]) < 2026:
            raise Refused(402, "card_error", "invalid_expiry_year", "The expiry year is invalid.", param="exp_year")
        return self.book.payment_method(number)

    def get_v1_payment_methods_payment_method(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["payment_method"], "payment_method", "payment_method")

    def post_v1_payment_methods_payment_method_attach(self, asked: dict[str, Any]) -> dict[str, Any]:
        method = self.book.method(asked["payment_method"])
        method["customer"] = self.book.get(asked["customer"], "customer", "customer")["id"]
        return method

    def post_v1_customers(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = {name: asked[name] for name in ("description", "email", "name", "phone") if name in asked}
        return self.book.make("customer", "cus", metadata=asked.get("metadata") or {}, **known)

    def get_v1_customers_customer(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["customer"], "customer", "customer")

    def get_v1_customers_customer_payment_methods(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [one for one in self.book.all("payment_method") if one["customer"] == asked["customer"]]
        return self._page(rows, asked, f"/v1/customers/{asked['customer']}/payment_methods")

    def post_v1_payment_intents(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["amount"] < 1:
            raise invalid("Amount must be at least 50 cents.", "amount_too_small", param="amount")
        if asked.get("off_session") and not asked.get("confirm"):
            raise invalid("off_session needs confirm.", param="off_session")
        automatic = asked.get("automatic_payment_methods")
        intent = self.book.make(
            "payment_intent",
            "pi",
            amount=asked["amount"],
            currency=asked["currency"].lower(),
            capture_method=asked.get("capture_method", "automatic"),
            customer=asked.get("customer"),
            description=asked.get("description"),
            metadata=asked.get("metadata") or {},
            setup_future_usage=asked.get("setup_future_usage"),
            payment_method_types=asked.get("payment_method_types")
            or ["card", *(sorted(REDIRECTS) if automatic else [])],
            canceled_at=None,
        )
        intent["client_secret"] = f"{intent['id']}_secret_simulated"
        if "payment_method" in asked and not asked.get("confirm"):
            intent |= {
                "payment_method": self.book.method(asked["payment_method"])["id"],
                "status": "requires_confirmation",
            }
        self.book.happened("payment_intent.created", intent)
        if asked.get("confirm"):
            self.book.confirm(intent, asked)
        return intent

    def post_v1_payment_intents_intent_confirm(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self._intent(asked)
        self._in_state(intent, "requires_payment_method", "requires_confirmation", "requires_action")
        self.book.confirm(intent, asked | {"off_session": asked.get("off_session")})
        return intent

    def get_v1_payment_intents_intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._intent(asked)

    def post_v1_payment_intents_intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self._intent(asked)
        intent["metadata"] |= asked.get("metadata") or {}
        return intent

    def post_v1_payment_intents_intent_capture(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self._intent(asked)
        self._in_state(intent, "requires_capture")
        amount = asked.get("amount_to_capture", intent["amount_capturable"])
        if not 1 <= amount <= intent["amount_capturable"]:
            raise invalid("More than was authorised.", "amount_too_large", param="amount_to_capture")
        intent["metadata"] |= asked.get("metadata") or {}
        charge = self.book.charge_of(intent)
        self.book.take(intent, charge, amount)
        charge["amount_refunded"] = intent["amount"] - amount
        self.book.happened("charge.captured", charge)
        self.book.happened("payment_intent.succeeded", intent)
        return intent

    def post_v1_payment_intents_intent_cancel(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self._intent(asked)
        states = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action")
        self._in_state(intent, *states)
        intent |= {"status": "canceled", "canceled_at": int(time.time()), "amount_capturable": 0, "next_action": None}
        intent["cancellation_reason"] = asked.get("cancellation_reason")
        self.book.happened("payment_intent.canceled", intent)
        return intent

    def post_v1_setup_intents(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self.book.make(
            "setup_intent",
            "seti",
            customer=asked.get("customer"),
            description=asked.get("description"),
            metadata=asked.get("metadata") or {},
            usage=asked.get("usage", "off_session"),
            payment_method_types=asked.get("payment_method_types") or ["card"],
        )
        intent["client_secret"] = f"{intent['id']}_secret_simulated"
        self.book.happened("setup_intent.created", intent)
        if asked.get("confirm"):
            self.book.confirm(intent, asked)
        return intent

    def get_v1_setup_intents_intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["intent"], "setup_intent", "intent")

    def post_v1_setup_intents_intent_cancel(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self.book.get(asked["intent"], "setup_intent", "intent")
        if intent["status"] in ("succeeded", "canceled"):
            raise invalid("It is over.", "setup_intent_unexpected_state", setup_intent=copy.deepcopy(intent))
        intent |= {"status": "canceled", "next_action": None, "cancellation_reason": asked.get("cancellation_reason")}
        self.book.happened("setup_intent.canceled", intent)
        return intent

    def post_v1_refunds(self, asked: dict[str, Any]) -> dict[str, Any]:
        if "charge" in asked:
            asked["payment_intent"] = self.book.get(asked["charge"], "charge", "charge")["payment_intent"]
        intent = self.book.get(asked["payment_intent"], "payment_intent", "payment_intent")
        if intent["status"] != "succeeded":
            raise invalid("It has no successful charge to refund.", param="payment_intent")
        charge = self.book.charge_of(intent)
        back = sum(
            one["amount"]
            for one in self.book.all("refund")
            if one["payment_intent"] == intent["id"] and one["status"] not in ("failed", "canceled")
        )
        left = charge["amount_captured"] - back
        if left == 0:
            raise invalid("The charge has been refunded.", "charge_already_refunded")
        amount = asked.get("amount", left)
        if not 1 <= amount <= left:
            raise invalid("Refund amount is greater than unrefunded amount on charge.", param="amount")
        refund = self.book.make("refund", "re", amount=amount, currency=intent["currency"], charge=charge["id"])
        refund |= {
            "payment_intent": intent["id"],
            "metadata": asked.get("metadata") or {},
            "reason": asked.get("reason"),
        }
        refund["balance_transaction"] = self.book.book(refund["id"], "refund", "refund", -amount, 0, intent["currency"])
        charge["amount_refunded"] += amount
        charge["refunded"] = amount == left
        self.book.happened("charge.refunded", charge)
        self.book.happened("refund.created", refund)
        return refund

    def get_v1_refunds_refund(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["refund"], "refund", "refund")

    def get_v1_charges_charge(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["charge"], "charge", "charge")

    def get_v1_events_id(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["id"], "event", "id")

    def get_v1_disputes_dispute(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["dispute"], "dispute", "dispute")

    def get_v1_balance_transactions_id(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["id"], "balance_transaction", "id")

    def list_of(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Any list: of payment intents, refunds, events and so on."""
        kind = path.removeprefix("/v1/").removesuffix("s")
        rows = self.book.all(kind)
        for name in ("customer", "payment_intent", "charge", "type", "source"):
            if name in asked:
                rows = [one for one in rows if one.get(name) == asked[name]]
        return self._page(rows, asked, path)

    def _page(self, rows: list[dict[str, Any]], asked: dict[str, Any], path: str) -> dict[str, Any]:
        created = asked.get("created", {})
        created = {"gte": created, "lte": created} if isinstance(created, int) else created
        tests = {
            "gte": lambda at, bound: at >= bound,
            "gt": lambda at, bound: at > bound,
            "lte": lambda at, bound: at <= bound,
            "lt": lambda at, bound: at < bound,
        }
        rows = [one for one in rows if all(tests[name](one["created"], bound) for name, bound in created.items())]
        if after := asked.get("starting_after"):
            ids = [one["id"] for one in rows]
            if after not in ids:
                raise invalid(f"No such object: {after}", "resource_missing", param="starting_after")
            rows = rows[ids.index(after) + 1 :]
        most = asked.get("limit", 10)
        if not 1 <= most <= 100:
            raise invalid("limit is 1 to 100.", "parameter_invalid_integer", param="limit")
        return {"object": "list", "url": path, "has_more": len(rows) > most, "data": rows[:most]}

    def _intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.book.get(asked["intent"], "payment_intent", "intent")

    def _in_state(self, intent: dict[str, Any], *states: str) -> None:
        if intent["status"] not in states:
            raise invalid(
                f"This PaymentIntent's status is {intent['status']}.",
                "payment_intent_unexpected_state",
                payment_intent=copy.deepcopy(intent),
            )

    def expanded(self, raw: Any, paths: list[str]) -> Any:
        """A copy with what was to be shown in full, and without what is only ours."""
        shown = copy.deepcopy(raw)
        for path in paths:
            nodes = [shown]
            for name in path.split("."):
                after: list[Any] = []
                for node in nodes:
                    value = node.get(name)
                    if isinstance(value, str) and value in self.book.objects:
                        value = node[name] = copy.deepcopy(self.book.objects[value])
                    after += value if isinstance(value, list) else [value] if isinstance(value, dict) else []
                nodes = after
        return _shown(shown)


def _shown(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {name: _shown(one) for name, one in raw.items() if not name.startswith("_")}
    return [_shown(one) for one in raw] if isinstance(raw, list) else raw


class Server:
    """ASGI."""

    def __init__(self) -> None:
        self.book = Book()
        self.api = Api(self.book)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path, query = scope["path"], scope["query_string"].decode()
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        if path.startswith("/_control/"):
            await answer(send, 200, self.control(path, body))
        elif path.startswith("/_pay/"):
            await self.pay(path, query, send)
        else:
            await self.call(scope["method"].lower(), path, query, body.decode(), headers, receive, send)

    async def call(
        self, method: str, path: str, query: str, body: str, headers: dict[str, str], receive: Any, send: Any
    ) -> None:
        """One request of the API."""
        book = self.book
        book.requests.append(
            {
                "method": method.upper(),
                "path": path,
                "version": headers.get("stripe-version"),
                "query": query,
                "body": body,
            }
            | {"key": headers.get("idempotency-key")}
        )
        request_id = {"request-id": f"req_sim{len(book.requests)}"}
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            credentials = base64.b64decode(credentials).decode().partition(":")[0]
        if not credentials.startswith(("sk_test_", "rk_test_", "sk_live_", "rk_live_")):
            error = {"type": "invalid_request_error", "message": "Invalid API Key provided."}
            return await answer(send, 401, {"error": error}, request_id)
        if credentials.startswith("rk_test_forbidden"):
            error = {"type": "invalid_request_error", "message": "The key has no permission for this."}
            return await answer(send, 403, {"error": error}, request_id)
        book.live = "_live_" in credentials
        found = description.find(path, method)
        if found is None:
            book.problems.append(f"{method.upper()} {path}: not described")
            error = {
                "type": "invalid_request_error",
                "message": f"Unrecognized request URL ({method.upper()}: {path}).",
            }
            return await answer(send, 404, {"error": error}, request_id)
        described, places = found
        asked, wrong = described.request(query, body)
        if wrong:
            book.problems += [f"{method.upper()} {path}: {one}" for one in wrong]
            error = {"type": "invalid_request_error", "code": "parameter_unknown", "message": "; ".join(wrong)}
            return await answer(send, 400, {"error": error}, request_id)
        key = headers.get("idempotency-key") if method == "post" else None
        slot, sent = (credentials, key or ""), hashlib.sha256(f"{path}?{body}".encode()).hexdigest()
        if key is not None and len(key) > 255:
            error = {"type": "invalid_request_error", "message": "The key is longer than 255 characters."}
            return await answer(send, 400, {"error": error}, request_id)
        if slot in book.busy:
            error = {"type": "invalid_request_error", "code": "idempotency_key_in_use", "message": "In use."}
            return await answer(send, 409, {"error": error}, request_id)
        if key is not None and slot in book.kept:
            first, status, kept = book.kept[slot]
            if first != sent:
                error = {"type": "idempotency_error", "message": "The key came with other parameters before."}
                return await answer(send, 400, {"error": error}, request_id)
            return await answer(send, status, kept, request_id | {"idempotent-replayed": "true"})
        fault = ""
        if method == "post" and path.startswith(book.fault_at):
            fault, book.fault = book.fault, ""
        if fault == "error_before":
            return await answer(send, 500, {"error": {"type": "api_error", "message": "An error."}}, request_id)
        if fault == "hang_before":
            return await hang(receive)
        host = headers.get("host", "127.0.0.1")
        book.request = {"id": request_id["request-id"], "idempotency_key": key}
        status, said = self.run(described, method, asked | places | {"_origin": f"http://{host}"}, path)
        if fault == "error_after":
            status, said = 500, {"error": {"type": "api_error", "message": "An error."}}
        if key is not None:
            book.kept[slot] = (sent, status, said)
        if fault == "hang_after":
            return await hang(receive)
        if fault == "garbage_after":
            return await answer(send, 200, "<html>Bad gateway</html>", {"content-type": "text/html"})
        return await answer(send, status, said, request_id)

    def run(self, described: description.Operation, method: str, asked: dict[str, Any], path: str) -> tuple[int, Any]:
        """Do it, and check the answer."""
        name = f"{method}_{described.path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}"
        verb = getattr(self.api, name, None)
        if verb is None and method == "get" and "{" not in described.path:
            verb = lambda asked: self.api.list_of(path, asked)  # noqa: E731
        if verb is None:
            self.book.problems.append(f"{method.upper()} {path}: not simulated")
            return 404, {"error": {"type": "invalid_request_error", "message": "Not simulated."}}
        try:
            said = self.api.expanded(verb(asked), asked.get("expand", []))
        except Refused as refused:
            return refused.status, _shown({"error": refused.error})
        self.book.problems += [f"{method.upper()} {path}: {one}" for one in described.answer(said)]
        return 200, said

    async def pay(self, path: str, query: str, send: Any) -> None:
        """The payer's page."""
        intent = self.book.objects[path.removeprefix("/_pay/")]
        outcome = dict(parse_qsl(query)).get("outcome")
        self.book.request = {"id": None, "idempotency_key": None}
        if outcome not in ("approve", "refuse") or intent["status"] != "requires_action":
            await answer(send, 200, "<p>Add outcome=approve or outcome=refuse.</p>", {"content-type": "text/html"})
            return
        back = intent["next_action"]["redirect_to_url"]["return_url"]
        if outcome == "approve":
            self.book.succeed(intent, authenticated=True)
        elif self.book.objects[intent["payment_method"]]["type"] != "card":
            self.book.fail(intent, "payment_intent_payment_attempt_failed", None, 0)
        else:
            self.book.fail(intent, f"{intent['object']}_authentication_failure", None, 0)
        parts = urlsplit(back)
        ended = "succeeded" if outcome == "approve" else "failed"
        added = {intent["object"]: intent["id"], f"{intent['object']}_client_secret": intent["client_secret"]}
        query = urlencode([*parse_qsl(parts.query), *added.items(), ("redirect_status", ended)])
        await answer(send, 302, "", {"location": urlunsplit(parts._replace(query=query))})

    def control(self, path: str, body: bytes) -> Any:
        """What tests ask."""
        book = self.book
        told = json.loads(body) if body else {}
        book.request = {"id": None, "idempotency_key": None}
        match path.removeprefix("/_control/"):
            case "next":
                book.fault = told["fault"]
                book.fault_at = (told["path"],) if "path" in told else MOVES_MONEY
            case "webhook":
                book.secret = told.get("secret") or book.secret
            case "dispute":
                return self.dispute(told)
            case "refund":
                refund = book.objects[told["refund"]] | {"status": told["status"]}
                book.objects[told["refund"]] = refund
                book.happened("charge.refund.updated", refund)
            case "charges":
                return [self.row(one) for one in reversed(book.all("payment_intent"))]
            case "webhooks":
                return [self.message(one) for one in reversed(book.all("event"))]
            case "problems":
                return book.problems
            case "requests":
                return book.requests
        return {}

    def dispute(self, told: dict[str, Any]) -> Any:
        """A bank disputes a charge, or goes on with it."""
        book = self.book
        intent = book.objects[told["charge"]]
        known = [one for one in book.all("dispute") if one["payment_intent"] == intent["id"]]
        made = known[0] if known else None
        if made is None:
            made = book.make("dispute", "dp", amount=intent["amount_received"], currency=intent["currency"], charge="")
            made |= {"charge": intent["latest_charge"], "payment_intent": intent["id"], "reason": "fraudulent"}
            book.book(made["id"], "adjustment", "dispute", -made["amount"], 1500, intent["currency"])
        made["status"] = told["status"]
        book.happened("charge.dispute.updated" if known else "charge.dispute.created", made)
        return made

    def row(self, intent: dict[str, Any]) -> dict[str, Any]:
        """A charge as the common scenario reads it."""
        words = {"succeeded": "captured", "requires_capture": "authorized", "canceled": "canceled"}
        words |= {"requires_payment_method": "declined"}
        back = [one for one in self.book.all("refund") if one["payment_intent"] == intent["id"]]
        return {
            "id": intent["id"],
            "reference": intent["metadata"].get("operation_id"),
            "amount_minor": intent["amount"],
            "currency": intent["currency"].upper(),
            "status": words.get(intent["status"], "pending"),
            "captured_minor": intent["amount_received"],
            "refunded_minor": sum(one["amount"] for one in back if one["status"] not in ("failed", "canceled")),
        }

    def message(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event as Stripe sends it, signed now."""
        body = json.dumps(event, indent=2)
        at = int(time.time())
        signed = hmac.new(self.book.secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json; charset=utf-8", "stripe-signature": f"t={at},v1={signed},v0=0"}
        return {"headers": headers, "body": body}


async def hang(receive: Any) -> None:
    """No answer for a minute, or until the client has gone; the connection then breaks."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while (await receive())["type"] != "http.disconnect":
                pass


async def answer(send: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """Send it."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    said = {"content-type": "application/json", "content-length": str(len(content))} | (headers or {})
    pairs = [(name.encode(), value.encode()) for name, value in said.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


class Announcing(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"ready http://127.0.0.1:{self.config.port}\n")
        sys.stdout.flush()


def main() -> None:
    """Serve until killed."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    port = arguments.parse_args().port
    config = uvicorn.Config(Server(), host="127.0.0.1", port=port, log_level="error", lifespan="off", loop="asyncio")
    Announcing(config).run()


if __name__ == "__main__":
    main()
