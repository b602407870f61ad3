"""Square as its description and documentation say it behaves: a process with its own book.

    python simulator.py --port 8099

Sandbox tokens and what they do: https://developer.squareup.com/docs/devtools/sandbox/payments. A location's id names its
currency: ``LEUR...`` takes euros. Every request is checked against the official description; what is wrong is listed at
``GET /_control/problems``. See the control endpoints at ``Simulator.control``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from clearspan.sdk.testing import Description

DESCRIPTION = Description(Path(__file__).parent / "spec" / "api.subset.json")
VERSION = "2025-08-20"
HANG_S = 60
LIST_MAX = 3
"""Rows of a page; Square's own 100 would leave paging untried."""
Error = tuple[str, str, str]
REFUSED: dict[str, Error] = {
    "declined": ("PAYMENT_METHOD_ERROR", "GENERIC_DECLINE", "Authorization error: 'GENERIC_DECLINE'"),
    "insufficient-funds": ("PAYMENT_METHOD_ERROR", "INSUFFICIENT_FUNDS", "Authorization error: 'INSUFFICIENT_FUNDS'"),
    "rejected-cvv": ("PAYMENT_METHOD_ERROR", "CVV_FAILURE", "Authorization error: 'CVV_FAILURE'"),
    "rejected-postalcode": ("PAYMENT_METHOD_ERROR", "ADDRESS_VERIFICATION_FAILURE", "Authorization error"),
    "rejected-expiration": ("PAYMENT_METHOD_ERROR", "INVALID_EXPIRATION", "Authorization error: 'INVALID_EXPIRATION'"),
    "already-used": ("INVALID_REQUEST_ERROR", "CARD_TOKEN_USED", "Card nonce already used"),
    "requires-verification": ("PAYMENT_METHOD_ERROR", "CARD_DECLINED_VERIFICATION_REQUIRED", "Verification required"),
}
"""End of a sandbox token -> the error. ``insufficient-funds`` is this simulator's own."""


class Refused(Exception):
    """An answer with errors."""

    def __init__(
        self, status: int, category: str, code: str, detail: str, field: str | None = None, **more: Any
    ) -> None:
        error = {"category": category, "code": code, "detail": detail} | ({"field": field} if field else {})
        self.status, self.body = status, {"errors": [error], **more}


class Simulator:
    """The book and what may be done with it."""

    def __init__(self) -> None:
        self.payments: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.customers: dict[str, dict[str, Any]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.payouts: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.booked: set[str] = set()
        self.keys: dict[tuple[str, str], tuple[bytes, int, dict[str, Any]]] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.hook = {"url": "https://gateway.test/webhooks/square", "secret": "square_signature_key"}
        self.fault = ""
        self.serial = 0

    # The control endpoints.

    def control(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """``POST next {"fault"}``, ``POST webhook {"url", "secret"}``, ``GET charges | webhooks | problems``.

        Beyond what all simulators have: ``POST reset`` starts anew, ``POST refund {"id", "status"}`` ends a pending refund,
        ``POST settle`` all of them, ``POST dispute {"payment", "state"}`` opens a dispute or goes on with it,
        ``POST payout`` pays out what was captured and refunded since the last one.
        """
        match method, path:
            case "POST", "next":
                self.fault = body["fault"]
            case "POST", "webhook":
                self.hook = {
                    "url": body.get("url", self.hook["url"]),
                    "secret": body.get("secret", self.hook["secret"]),
                }
            case "POST", "reset":
                self.__init__()  # type: ignore[misc]
            case "POST", "refund":
                self.end_refund(body["id"], body["status"])
            case "POST", "settle":
                for name, refund in self.refunds.items():
                    if refund["status"] == "PENDING":
                        self.end_refund(name, "COMPLETED")
            case "POST", "dispute":
                self.dispute(body["payment"], body["state"])
            case "POST", "payout":
                return self.pay_out()
            case "GET", "charges":
                return [self.row(payment) for payment in self.payments.values()]
            case "GET", "webhooks":
                return self.webhooks
            case "GET", "problems":
                return self.problems
            case _:
                raise Refused(404, "INVALID_REQUEST_ERROR", "NOT_FOUND", "no such control")
        return {"ok": True}

    def row(self, payment: dict[str, Any]) -> dict[str, Any]:
        """A line of the book."""
        status = {
            "APPROVED": "authorized",
            "COMPLETED": "captured",
            "CANCELED": "canceled",
            "FAILED": "declined",
            "PENDING": "pending",
        }[payment["status"]]
        total = payment["total_money"]
        return {
            "id": payment["id"],
            "reference": payment.get("reference_id"),
            "amount_minor": payment.get("approved_money", total)["amount"],
            "currency": total["currency"],
            "status": status,
            "captured_minor": total["amount"] if status == "captured" else 0,
            "refunded_minor": payment.get("refunded_money", {"amount": 0})["amount"],
        }

    # Square's own operations.

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """One request, already checked."""
        match method, path.strip("/").split("/")[1:]:
            case "POST", ["payments"]:
                return {"payment": self.pay(body)}
            case "GET", ["payments"]:
                return self.page("payments", self.payments, query)
            case "GET", ["payments", one]:
                return {"payment": self.payment(one)}
            case "PUT", ["payments", one]:
                return {"payment": self.update(self.payment(one), body)}
            case "POST", ["payments", "cancel"]:
                for payment in self.payments.values():
                    if payment["_key"] == body["idempotency_key"] and payment["status"] == "APPROVED":
                        self.move(payment, "CANCELED")
                return {}
            case "POST", ["payments", one, "complete"]:
                return {"payment": self.move(self.payment(one), "COMPLETED")}
            case "POST", ["payments", one, "cancel"]:
                return {"payment": self.move(self.payment(one), "CANCELED")}
            case "POST", ["refunds"]:
                return {"refund": self.refund(body)}
            case "GET", ["refunds"]:
                return self.page("refunds", self.refunds, query)
            case "GET", ["refunds", one]:
                return {"refund": self.known(self.refunds, one, "refund")}
            case "GET", ["payouts"]:
                return self.page("payouts", self.payouts, query)
            case "GET", ["payouts", one, "payout-entries"]:
                self.known(self.payouts, one, "payout")
                own = {name: entry for name, entry in self.entries.items() if entry["payout_id"] == one}
                return self.page("payout_entries", own, query)
            case "POST", ["customers"]:
                return {"customer": self.customer(body)}
            case "POST", ["cards"]:
                return {"card": self.card(body)}
        raise Refused(404, "INVALID_REQUEST_ERROR", "NOT_FOUND", "the simulator has no such operation")

    def pay(self, body: dict[str, Any]) -> dict[str, Any]:
        """CreatePayment."""
        money, location = body["amount_money"], body.get("location_id", "LEUR0000MAIN1")
        if location[1:4] != money["currency"]:
            words = f"This merchant can only process payments in {location[1:4]}, but amount was provided in {money['currency']}"
            raise Refused(400, "INVALID_REQUEST_ERROR", "INVALID_VALUE", words, "amount_money.currency")
        source, error = body["source_id"], None
        kept = self.cards.get(source)
        if kept is not None and body.get("customer_id") != kept["customer_id"]:
            raise Refused(404, "INVALID_REQUEST_ERROR", "NOT_FOUND", "Card not found for this customer", "source_id")
        token = kept["_source"] if kept else source
        for prefix in ("cnon:card-nonce-", "ccof:customer-card-id-"):
            if token.startswith(prefix):
                error = REFUSED.get(token.removeprefix(prefix))
                known = error is not None or token == f"{prefix}ok"
                if token.endswith("requires-verification") and body.get("verification_token"):
                    error = None
                break
        else:
            known = False
        if not known:
            raise Refused(404, "INVALID_REQUEST_ERROR", "NOT_FOUND", "Card nonce not found", "source_id")
        now, name = self.now(), self.name("payment")
        payment: dict[str, Any] = {
            "id": name,
            "created_at": now,
            "updated_at": now,
            "amount_money": money,
            "total_money": money,
            "status": "FAILED" if error else "COMPLETED" if body.get("autocomplete", True) else "APPROVED",
            "source_type": "CARD",
            "location_id": location,
            "order_id": f"order{name}",
            "delay_action": "CANCEL",
            "delay_duration": "PT168H",
            "card_details": {
                "status": "FAILED" if error else "CAPTURED" if body.get("autocomplete", True) else "AUTHORIZED",
                "entry_method": "ON_FILE" if source.startswith("ccof:") else "KEYED",
                "card": {"card_brand": "VISA", "last_4": "1111", "exp_month": 12, "exp_year": 2030},
            },
            "_key": body["idempotency_key"],
            "_source": token,
        }
        payment |= {key: body[key] for key in ("reference_id", "note", "customer_id") if key in body}
        if error:
            category, code, detail = error
            payment["card_details"]["errors"] = [{"category": category, "code": code, "detail": detail}]
        else:
            payment["approved_money"] = money
            if payment["status"] == "APPROVED":
                payment["capabilities"] = ["EDIT_AMOUNT_UP", "EDIT_AMOUNT_DOWN"]
        self.payments[name] = payment
        self.tell("payment.created", "payment", payment)
        if error:
            raise Refused(400, *error, payment=payment)
        return payment

    def update(self, payment: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """UpdatePayment: the amount, before it is completed."""
        money = body["payment"]["amount_money"]
        if payment["status"] != "APPROVED":
            raise Refused(400, "INVALID_REQUEST_ERROR", "BAD_REQUEST", "Only an APPROVED payment can be updated")
        if money["amount"] > payment["approved_money"]["amount"]:
            raise Refused(
                400, "INVALID_REQUEST_ERROR", "AMOUNT_TOO_HIGH", "more than was approved", "payment.amount_money"
            )
        payment |= {"amount_money": money, "total_money": money, "updated_at": self.now()}
        self.tell("payment.updated", "payment", payment)
        return payment

    def move(self, payment: dict[str, Any], status: str) -> dict[str, Any]:
        """Complete or cancel an approved payment."""
        if payment["status"] != "APPROVED":
            words = f"Payment {payment['id']} is in state {payment['status']}, and cannot become {status}"
            raise Refused(400, "INVALID_REQUEST_ERROR", "BAD_REQUEST", words)
        payment |= {"status": status, "updated_at": self.now()}
        payment.pop("capabilities", None)
        payment["card_details"]["status"] = "CAPTURED" if status == "COMPLETED" else "VOIDED"
        self.tell("payment.updated", "payment", payment)
        return payment

    def refund(self, body: dict[str, Any]) -> dict[str, Any]:
        """RefundPayment: pending first, as Square's own example."""
        payment, money = self.payment(body["payment_id"]), body["amount_money"]
        if payment["status"] != "COMPLETED":
            raise Refused(400, "REFUND_ERROR", "REFUND_ERROR_PAYMENT_NEEDS_COMPLETION", "The payment is not completed")
        asked = sum(
            one["amount_money"]["amount"]
            for one in self.refunds.values()
            if one["payment_id"] == payment["id"] and one["status"] in ("PENDING", "COMPLETED")
        )
        if asked + money["amount"] > payment["total_money"]["amount"]:
            words = "The requested refund amount exceeds the amount available to refund."
            raise Refused(400, "REFUND_ERROR", "REFUND_AMOUNT_INVALID", words, "amount_money.amount")
        now, name = self.now(), f"{payment['id']}_{self.name('refund')}"
        refund = {
            "id": name,
            "status": "PENDING",
            "amount_money": money,
            "payment_id": payment["id"],
            "location_id": payment["location_id"],
            "order_id": f"order{name}",
            "created_at": now,
            "updated_at": now,
        } | ({"reason": body["reason"]} if body.get("reason") else {})
        self.refunds[name] = refund
        payment.setdefault("refund_ids", []).append(name)
        self.tell("refund.created", "refund", refund)
        return refund

    def end_refund(self, name: str, status: str) -> None:
        """A refund that was pending has an end, and a message says so."""
        refund = self.refunds[name]
        refund |= {"status": status, "updated_at": self.now()}
        if status == "COMPLETED":
            self.give_back(refund)
        self.tell("refund.updated", "refund", refund)

    def give_back(self, refund: dict[str, Any]) -> None:
        """A refund's money has left."""
        payment, money = self.payments[refund["payment_id"]], refund["amount_money"]
        before = payment.get("refunded_money", {"amount": 0})["amount"]
        payment["refunded_money"] = {"amount": before + money["amount"], "currency": money["currency"]}

    def customer(self, body: dict[str, Any]) -> dict[str, Any]:
        """CreateCustomer."""
        names = ("given_name", "family_name", "company_name", "email_address", "phone_number")
        if not any(body.get(name) for name in names):
            raise Refused(
                400, "INVALID_REQUEST_ERROR", "MISSING_REQUIRED_PARAMETER", f"At least one of {names} is required"
            )
        name = self.name("customer").upper()
        self.customers[name] = {"id": name, "created_at": self.now(), "version": 0} | {
            key: body[key] for key in ("given_name", "reference_id") if key in body
        }
        return self.customers[name]

    def card(self, body: dict[str, Any]) -> dict[str, Any]:
        """CreateCard, from a nonce or from a payment."""
        self.known(self.customers, body["card"]["customer_id"], "customer", "CUSTOMER_NOT_FOUND", 400)
        paid = self.payments.get(body["source_id"])
        if paid is not None and paid["status"] not in ("COMPLETED", "APPROVED"):
            raise Refused(400, "INVALID_REQUEST_ERROR", "INVALID_CARD_DATA", "Invalid card data.", "source_id")
        name = f"ccof:{self.name('card')}"
        token = paid["_source"] if paid else body["source_id"]
        self.cards[name] = {
            "id": name,
            "card_brand": "VISA",
            "last_4": "1111",
            "exp_month": 12,
            "exp_year": 2030,
            "enabled": True,
            "version": 1,
            "customer_id": body["card"]["customer_id"],
            "_source": token,
        }
        return self.cards[name]

    def dispute(self, payment_id: str, state: str) -> None:
        """A dispute is opened, or goes on."""
        payment = self.payments[payment_id]
        version = payment["_dispute"] = payment.get("_dispute", 0) + 1
        now = self.now()
        dispute = {
            "id": f"dp_{payment_id}"[:40],
            "amount_money": payment["total_money"],
            "reason": "NO_KNOWLEDGE",
            "state": state,
            "due_at": "2027-01-31T00:00:00.000Z",
            "disputed_payment": {"payment_id": payment_id},
            "card_brand": "VISA",
            "created_at": now,
            "updated_at": now,
            "version": version,
            "location_id": payment["location_id"],
        }
        self.tell("dispute.created" if version == 1 else "dispute.state.updated", "dispute", dispute)

    def page(self, what: str, rows: dict[str, dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        """ListPayments, ListPaymentRefunds."""
        begin = (
            datetime.fromisoformat(query["begin_time"]) if "begin_time" in query else datetime(2020, 1, 1, tzinfo=UTC)
        )
        end = (
            datetime.fromisoformat(query["end_time"]) if "end_time" in query else datetime.now(UTC) + timedelta(days=1)
        )
        place = query.get("location_id", "LEUR0000MAIN1")
        found = [
            row
            for row in rows.values()
            if row.get("location_id", place) == place
            and begin <= datetime.fromisoformat(row.get("created_at") or row["effective_at"]) <= end
        ]
        if query.get("sort_order") != "ASC":
            found.reverse()
        start = int(query.get("cursor", "0"))
        more = {"cursor": str(start + LIST_MAX)} if start + LIST_MAX < len(found) else {}
        return ({what: found[start : start + LIST_MAX]} if found else {}) | more

    def pay_out(self) -> dict[str, Any]:
        """A fee of 2 % for each payment, of which a refund gives its part back."""
        payout: dict[str, Any] = {
            "id": f"po_{self.name('payout')}", "type": "BATCH", "status": "SENT", "location_id": "LEUR0000MAIN1",
            "created_at": self.now(), "version": 1,
        }  # fmt: skip
        total, currency = 0, "EUR"
        charges = [("CHARGE", one, one["id"], 1) for one in self.payments.values() if one["status"] == "COMPLETED"]
        refunds = [
            ("REFUND", one, one["payment_id"], -1) for one in self.refunds.values() if one["status"] == "COMPLETED"
        ]
        for kind, one, payment, sign in charges + refunds:
            money = one["total_money"] if kind == "CHARGE" else one["amount_money"]
            gross, currency = sign * money["amount"], money["currency"]
            if one["id"] in self.booked:
                continue
            fee = sign * (money["amount"] // 50)
            total += gross - fee
            about = {"payment_id": payment} | ({"refund_id": one["id"]} if kind == "REFUND" else {})
            entry = {
                "id": f"poe_{self.name('entry')}", "payout_id": payout["id"], "effective_at": self.now(), "type": kind,
                f"type_{kind.lower()}_details": about,
            }  # fmt: skip
            for name, amount in (("gross", gross), ("fee", fee), ("net", gross - fee)):
                entry[f"{name}_amount_money"] = {"amount": amount, "currency": currency}
            self.booked.add(one["id"])
            self.entries[entry["id"]] = entry
        payout["amount_money"] = {"amount": total, "currency": currency}
        self.payouts[payout["id"]] = payout
        return payout

    # Small things.

    def payment(self, name: str) -> dict[str, Any]:
        """A payment by its id."""
        return self.known(self.payments, name, "payment")

    def known(
        self, rows: dict[str, Any], name: str, what: str, code: str = "NOT_FOUND", status: int = 404
    ) -> dict[str, Any]:
        """A row, or a refusal."""
        if name not in rows:
            raise Refused(status, "INVALID_REQUEST_ERROR", code, f"Could not find {what} with id: {name}")
        found: dict[str, Any] = rows[name]
        return found

    def name(self, what: str) -> str:
        """A new id."""
        self.serial += 1
        return hashlib.sha256(f"{what}{self.serial}".encode()).hexdigest()[:24]

    def now(self) -> str:
        """As Square writes it."""
        return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def tell(self, kind: str, name: str, row: dict[str, Any]) -> None:
        """A message, signed as Square signs it."""
        message = {
            "merchant_id": "MLSIMULATOR01",
            "location_id": row["location_id"],
            "type": kind,
            "event_id": f"evt-{len(self.webhooks):06}",
            "created_at": self.now(),
            "data": {"type": name, "id": row["id"], "object": {name: public(row)}},
        }
        body = json.dumps(message, separators=(",", ":"))
        signed = hmac.digest(self.hook["secret"].encode(), (self.hook["url"] + body).encode(), "sha256")
        headers = {
            "x-square-hmacsha256-signature": base64.b64encode(signed).decode(),
            "content-type": "application/json",
        }
        self.webhooks.append({"headers": headers, "body": body})


def public(value: Any) -> Any:
    """Without what only the simulator knows."""
    if isinstance(value, dict):
        return {name: public(one) for name, one in value.items() if not name.startswith("_")}
    return [public(one) for one in value] if isinstance(value, list) else value


Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class App:
    """Over HTTP."""

    def __init__(self) -> None:
        self.simulator = Simulator()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        status, said = await self.answer(scope, body, receive)
        if status:
            await reply(send, status, said)

    async def answer(self, scope: dict[str, Any], body: bytes, receive: Receive) -> tuple[int, bytes]:
        """Status and body; status 0: no answer at all."""
        sim, method, path = self.simulator, scope["method"], scope["path"]
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        try:
            if path.startswith("/_control/"):
                return 200, json.dumps(
                    public(sim.control(method, path.removeprefix("/_control/"), json.loads(body or b"{}")))
                ).encode()
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            self.check(method, path, scope["query_string"].decode(), headers, body)
            moves = method == "POST" and path.startswith(("/v2/payments", "/v2/refunds"))
            fault, sim.fault = (sim.fault, "") if moves else ("", sim.fault)
            if fault.endswith("_before"):
                return await self.broken(fault, receive)
            done = self.once(method, path, query, json.loads(body) if body else {}, body)
            return await self.broken(fault, receive) if fault else done
        except Refused as refused:
            return refused.status, json.dumps(public(refused.body)).encode()

    def once(
        self, method: str, path: str, query: dict[str, str], asked: dict[str, Any], body: bytes
    ) -> tuple[int, bytes]:
        """The answer, the same for the same key. Refused payments keep their answer too."""
        key = (path, asked.get("idempotency_key", ""))
        if key[1] and key in self.simulator.keys:
            before, status, said = self.simulator.keys[key]
            if before != body:
                words = "The idempotency key can only be retried with the same request data."
                raise Refused(400, "INVALID_REQUEST_ERROR", "IDEMPOTENCY_KEY_REUSED", words, "idempotency_key")
            return status, json.dumps(said).encode()
        try:
            status, said = 200, public(self.simulator.answer(method, path, query, asked))
        except Refused as refused:
            status, said = refused.status, public(refused.body)
        errors = DESCRIPTION.response_errors(method, path, 200, said)
        self.simulator.problems += [f"our answer to {method} {path}: {error}" for error in errors]
        if key[1]:
            self.simulator.keys[key] = (body, status, said)
        return status, json.dumps(said).encode()

    def check(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        """Whether the request is as described."""
        if not headers.get("authorization", "").startswith("Bearer EAAA"):
            raise Refused(401, "AUTHENTICATION_ERROR", "UNAUTHORIZED", "This request could not be authorized.")
        target = f"{path}?{query}" if query else path
        errors = DESCRIPTION.request_errors(method, target, headers, body)
        if not errors:
            return
        self.simulator.problems += [f"{method} {path}: {error}" for error in errors]
        raise Refused(400, "INVALID_REQUEST_ERROR", "BAD_REQUEST", "; ".join(errors)[:400])

    async def broken(self, fault: str, receive: Receive) -> tuple[int, bytes]:
        """How a faulty answer looks."""
        if fault.startswith("hang"):
            try:
                async with asyncio.timeout(HANG_S):
                    while (await receive())["type"] != "http.disconnect":
                        pass
            except TimeoutError:
                pass
            return 0, b""
        if fault.startswith("error"):
            error = {
                "category": "API_ERROR",
                "code": "INTERNAL_SERVER_ERROR",
                "detail": "An internal server error has occurred.",
            }
            return 500, json.dumps({"errors": [error]}).encode()
        return 200, b"<html><body>Service temporarily unavailable</body></html>"


async def reply(send: Send, status: int, body: bytes) -> None:
    """One whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def serve(port: int) -> None:
    """Until it is killed."""
    server = uvicorn.Server(uvicorn.Config(App(), host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if server.started:
        bound = server.servers[0].sockets[0].getsockname()[1]
        print(f"ready http://127.0.0.1:{bound}", flush=True)  # noqa: T201
    await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
