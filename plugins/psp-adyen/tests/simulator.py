"""A server that speaks Adyen's Checkout API v72 on 127.0.0.1, for tests: ``python simulator.py --port N``.

It keeps its own book, checks every request against the published description (``spec/``), remembers idempotency keys, and signs
its webhooks as Adyen does. Where the documentation leaves a choice it behaves in the way that is hardest for a client: the
reference before a redirect is not the one after it, not every answer repeats the amount, and a notification of a modification
carries the reference of the payment.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import hashlib
import hmac
import json
import socket
from pathlib import Path
from typing import Any

import jsonschema_rs
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.response import Redirect

SPEC = json.loads((Path(__file__).parent / "spec" / "CheckoutService-v72.subset.json").read_text())
API_KEY = "adyen_test_api_key"
MERCHANT = "ClearspanECOM"
HMAC_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
REFUSALS = {
    "4000000000009995": ("12", "Not enough balance", "51 : Insufficient funds/over credit limit"),
    "4000000000000002": ("2", "Refused", "05 : Do not honor"),
}
# The last one is declined elsewhere, with an error on the way: what fails over comes here.
APPROVED = {"4242424242424242", "5555555555554444", "4111111111111111", "4000000000000119"}
CHALLENGE = "4000002500003155"


def _plain(node: Any) -> Any:
    """JSON Schema 2020-12 of a schema of the description."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {k: _plain(v) for k, v in node.items() if k not in ("example", "examples", "discriminator", "xml")}
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made


SCHEMAS = _plain(SPEC["components"]["schemas"])


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """Of one schema of the description."""
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    )


class Simulator:
    """The book of one company account."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.secret = HMAC_KEY
        self.webhook_url = ""
        self.charges: dict[str, dict[str, Any]] = {}
        self.waiting: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, tuple[str, str]] = {}
        self.keys: dict[str, tuple[str, int, dict[str, Any]]] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.fault = ""
        self.count = 0
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def reference(self) -> str:
        """A new ``pspReference``: sixteen letters and digits."""
        self.count += 1
        return f"SIM{hashlib.sha256(str(self.count).encode()).hexdigest()[:8].upper()}{self.count:05}"

    def check(self, schema: str, body: Any, what: str) -> str:
        """What is wrong with a body, or nothing; a request's fault is kept as a problem."""
        found = self._validators.setdefault(schema, validator(schema))
        for error in found.iter_errors(body):
            words = f"{what}: {'/'.join(map(str, error.instance_path)) or 'body'}: {error.message[:300]}"
            self.problems.append(words)
            return words
        return ""

    # -- payments -----------------------------------------------------------------------------------------------------

    def pay(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """``POST /payments``."""
        method, extra = body["paymentMethod"], body.get("additionalData", {})
        if method.get("storedPaymentMethodId"):
            found = self.stored.get(method["storedPaymentMethodId"])
            if found is None or found[0] != body.get("shopperReference"):
                return self.error("803", "PaymentDetail not found")
            if "recurringProcessingModel" not in body or body.get("shopperInteraction") != "ContAuth":
                self.problems.append("a stored card needs shopperInteraction ContAuth and recurringProcessingModel")
            number = found[1]
        elif "encryptedCardNumber" in method:
            number = method["encryptedCardNumber"].removeprefix("test_")
        else:
            number = method.get("number", "")
            if len(method.get("expiryYear", "")) != 4:
                return self.error("141", "Expiry year should be in format YYYY")
        if number not in APPROVED | set(REFUSALS) | {CHALLENGE}:
            return self.error("101", "Invalid card number")
        if body.get("shopperInteraction") == "Ecommerce" and "cvc" not in method and "number" in method:
            self.problems.append("an Ecommerce payment by card without cvc")
        charge = {
            "reference": body["reference"],
            "amount": body["amount"],
            "captured": 0,
            "refunded": 0,
            "canceled": False,
            "auto": extra.get("manualCapture") != "true",
            "number": number,
            "body": body,
            "status": "pending",
        }
        mit = body.get("shopperInteraction") == "ContAuth" and "browserInfo" not in body
        if number == CHALLENGE and not mit and not method.get("storedPaymentMethodId"):
            asked = body.get("authenticationData", {}).get("threeDSRequestData", {})
            if asked.get("nativeThreeDS") != "disabled":
                self.problems.append("without nativeThreeDS disabled the native flow would start")
            token = f"pay{len(self.waiting) + 1}"
            self.waiting[token] = charge
            action = {
                "paymentMethodType": "scheme",
                "url": f"{self.address}/threeds/{token}",
                "method": "GET",
                "type": "redirect",
            }
            # This reference is of the request only; the one that stays comes after the redirect.
            return 200, {"resultCode": "RedirectShopper", "pspReference": self.reference(), "action": action}
        return 200, self.decide(charge, "", None)

    def decide(self, charge: dict[str, Any], failed: str, three_ds: dict[str, str] | None) -> dict[str, Any]:
        """The authorisation of a payment, and its webhook."""
        ref = charge["id"] = self.reference()
        self.charges[ref] = charge
        code, words, raw = REFUSALS.get(charge["number"], ("", "", ""))
        if failed:
            code, words, raw = "11", "3D Not Authenticated", ""
        answer: dict[str, Any] = {"pspReference": ref, "merchantReference": charge["reference"]}
        body = charge["body"]
        if code:
            charge["status"] = "declined"
            answer |= {"resultCode": "Refused", "refusalReason": words, "refusalReasonCode": code}
            extra = {"refusalReasonRaw": raw, "merchantAdviceCode": "02 : Cannot approve at this time, try again later"}
            if raw:
                answer["additionalData"] = extra
            self.notify(charge, "AUTHORISATION", ref, success=False, reason=words, extra=extra if raw else {})
            return answer
        charge["status"] = "authorized"
        extra = {
            "networkTxReference": f"{self.count:015}",
            "authCode": "044925",
            "cardSummary": charge["number"][-4:],
            "expiryDate": "3/2030",
            "refusalReasonRaw": "AUTHORISED",
        } | (three_ds or {})
        if body.get("storePaymentMethod") and body.get("shopperReference"):
            token = f"TOK{self.count:013}"
            self.stored[token] = (body["shopperReference"], charge["number"])
            extra |= {
                "tokenization.storedPaymentMethodId": token,
                "tokenization.shopperReference": body["shopperReference"],
                "tokenization.store.operationType": "created",
            }
        answer |= {"resultCode": "Authorised", "additionalData": extra}
        if len(self.charges) % 2:  # sometimes it is said, sometimes not
            answer["amount"] = charge["amount"]
        if charge["auto"] and charge["amount"]["value"]:
            charge["captured"], charge["status"] = charge["amount"]["value"], "captured"
        extra = extra | {f"metadata.{k}": v for k, v in body.get("metadata", {}).items()}
        self.notify(charge, "AUTHORISATION", ref, success=True, reason="044925:4242:03/2030", extra=extra)
        return answer

    def details(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """``POST /payments/details``."""
        token, _, outcome = body["details"].get("redirectResult", "").partition("!")
        charge = self.waiting.get(token)
        if charge is None:
            return self.error("101", "Invalid redirectResult")
        if charge["canceled"]:
            return 200, {"resultCode": "Cancelled", "pspReference": self.reference(), "refusalReasonCode": "15"}
        three_ds = {
            "threeDOffered": "true",
            "threeDOfferedResponse": "C",
            "threeDAuthenticated": "true",
            "threeDAuthenticatedResponse": "Y",
            "threeDSVersion": "2.2.0",
            "eci": "05",
            "dsTransID": "a3b86754-444d-46ca-95a2-ada351d3f42c",
        }
        return 200, self.decide(charge, "" if outcome == "approve" else "3ds", three_ds)

    # -- modifications ------------------------------------------------------------------------------------------------

    def modify(self, ref: str, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """``POST /payments/{ref}/captures`` and its like: always received; what came of it is said by webhook."""
        charge = self.charges.get(ref)
        if charge is None:
            return self.error("167", "Original pspReference required for this operation")
        made, value, why = self.reference(), body.get("amount", charge["amount"])["value"], ""
        whole = charge["amount"]["value"]
        if verb == "captures":
            if charge["status"] != "authorized" or value > whole:
                why = "Insufficient balance on payment"
            else:
                charge["captured"], charge["status"] = value, "captured"
        elif verb == "refunds":
            if charge["refunded"] + value > charge["captured"]:
                why = "Insufficient balance on payment"
            else:
                charge["refunded"] += value
        elif charge["status"] != "authorized":
            why = "Transaction is not in a state that can be cancelled"
        else:
            charge["status"], charge["canceled"] = "canceled", True
        event = {"captures": "CAPTURE", "refunds": "REFUND"}.get(verb, "CANCELLATION")
        self.notify(charge, event, made, success=not why, reason=why, original=ref, value=value)
        return 201, body | {"paymentPspReference": ref, "pspReference": made, "status": "received"}

    def cancel_by_reference(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """``POST /cancels``."""
        found = [*self.charges.values(), *self.waiting.values()]
        charge = next((one for one in found if one["reference"] == body["paymentReference"]), None)
        if charge is None:
            return self.error("167", "Original pspReference required for this operation")
        charge["canceled"] = True
        charge["status"] = "canceled"
        made = self.reference()
        self.notify(charge, "TECHNICAL_CANCEL", made, success=True, original=charge.get("id"))
        return 201, body | {"pspReference": made, "status": "received"}

    # -- webhooks -----------------------------------------------------------------------------------------------------

    def notify(
        self,
        charge: dict[str, Any],
        event: str,
        ref: str,
        *,
        success: bool,
        reason: str = "",
        original: str | None = None,
        value: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Sign a notification and keep it."""
        amount = charge["amount"] | ({} if value is None else {"value": value})
        item: dict[str, Any] = {
            "amount": amount,
            "eventCode": event,
            "eventDate": "2026-11-23T06:05:34+01:00",
            "merchantAccountCode": charge["body"]["merchantAccount"],
            "merchantReference": charge["reference"],
            "paymentMethod": "visa",
            "pspReference": ref,
            "reason": reason,
            "success": "true" if success else "false",
        } | ({"originalReference": original} if original else {})
        fields = ["pspReference", "originalReference", "merchantAccountCode", "merchantReference"]
        told = [str(item.get(name, "")) for name in fields]
        told += [str(amount["value"]), amount["currency"], event, item["success"]]
        digest = hmac.digest(bytes.fromhex(self.secret), ":".join(told).encode(), "sha256")
        item["additionalData"] = dict(extra or {}) | {"hmacSignature": base64.b64encode(digest).decode()}
        message = {"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}
        self.webhooks.append({"headers": {"content-type": "application/json"}, "body": json.dumps(message)})

    def error(self, code: str, words: str, kind: str = "validation") -> tuple[int, dict[str, Any]]:
        """A ``ServiceError``."""
        found = {
            "status": 422,
            "errorCode": code,
            "message": words,
            "errorType": kind,
            "pspReference": self.reference(),
        }
        return 422, found

    def book(self) -> list[dict[str, Any]]:
        """What truly happened."""
        waiting = [one | {"id": key} for key, one in self.waiting.items() if "id" not in one]
        return [
            {
                "id": one["id"],
                "reference": one["reference"],
                "amount_minor": one["amount"]["value"],
                "currency": one["amount"]["currency"],
                "status": one["status"],
                "captured_minor": one["captured"],
                "refunded_minor": one["refunded"],
            }
            for one in [*self.charges.values(), *waiting]
        ]


SCHEMA_OF = {
    "/payments": "PaymentRequest",
    "/payments/details": "PaymentDetailsRequest",
    "/cancels": "StandalonePaymentCancelRequest",
    "/paymentMethods": "PaymentMethodsRequest",
    "captures": "PaymentCaptureRequest",
    "cancels": "PaymentCancelRequest",
    "refunds": "PaymentRefundRequest",
}


def build(address: str) -> Litestar:
    """The application."""
    sim = Simulator(address)

    @post("/v72/{path:path}", status_code=200)
    async def api(request: Request[Any, Any, Any], path: str) -> Response[Any]:
        path = "/" + path.strip("/")
        if request.headers.get("x-api-key") != API_KEY:
            words = {"status": 401, "errorCode": "000", "message": "HTTP Status Response - Unauthorized"}
            return Response(words | {"errorType": "security"}, status_code=401)
        body = await request.json()
        key = request.headers.get("idempotency-key", "")
        echo = {"Idempotency-Key": key} if key else {}
        if len(key) > 64:
            sim.problems.append("an idempotency key of more than 64 characters")
        parts = path.strip("/").split("/")
        modifies = len(parts) == 3 and parts[0] == "payments" and parts[2] in SCHEMA_OF
        name = SCHEMA_OF.get(parts[2] if modifies else path)
        if name is None:
            sim.problems.append(f"POST {path}: no such call")
            return Response({"status": 404, "errorCode": "000", "message": "Not found"}, status_code=404)
        digest = hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()
        if key in sim.keys:
            before, status, answer = sim.keys[key]
            if before != digest and "browserInfo" not in body and path != "/payments":
                sim.problems.append(f"POST {path}: the key was used for another request")
            return Response(answer, status_code=status, headers=echo)
        if wrong := sim.check(name, body, f"POST {path}"):
            status, answer = sim.error("702", wrong)
            return Response(answer, status_code=status, headers=echo)
        if body.get("merchantAccount", MERCHANT) != MERCHANT:
            words = {"status": 403, "errorCode": "901", "message": "Invalid Merchant Account", "errorType": "security"}
            return Response(words, status_code=403)
        if path == "/paymentMethods":
            return Response({"paymentMethods": [{"name": "Cards", "type": "scheme"}]}, status_code=200)
        fault, sim.fault = sim.fault, ""
        if fault == "hang_before":
            await asyncio.sleep(60)
        if fault == "error_before":
            failed = {"status": 500, "errorCode": "905", "message": "Payment details are not supported"}
            return Response(failed | {"errorType": "configuration"}, status_code=500, headers=echo)
        if path == "/payments":
            status, answer = sim.pay(body)
        elif path == "/payments/details":
            status, answer = sim.details(body)
        elif path == "/cancels":
            status, answer = sim.cancel_by_reference(body)
        else:
            status, answer = sim.modify(parts[1], parts[2], body)
        answer = copy.deepcopy(answer)
        if key:
            sim.keys[key] = (digest, status, answer)
        if fault == "hang_after":
            await asyncio.sleep(60)
        if fault == "error_after":
            failed = {"status": 500, "errorCode": "000", "message": "Internal error", "errorType": "internal"}
            return Response(failed, status_code=500, headers=echo | {"transient-error": "true"})
        if fault == "garbage_after":
            return Response("<html><body>Oops</body></html>", media_type="text/html", status_code=200)
        return Response(answer, status_code=status, headers=echo)

    @get("/threeds/{token:str}")
    async def page(token: str, outcome: str = "") -> Response[Any] | Redirect:
        charge = sim.waiting.get(token)
        if charge is None:
            return Response("no such payment", status_code=404, media_type="text/plain")
        if outcome not in ("approve", "refuse"):
            links = "".join(f'<a href="?outcome={one}">{one}</a> ' for one in ("approve", "refuse"))
            return Response(f"<html><body>{links}</body></html>", media_type="text/html")
        back = charge["body"]["returnUrl"]
        return Redirect(f"{back}{'&' if '?' in back else '?'}redirectResult={token}%21{outcome}", status_code=302)

    @post("/_control/next", status_code=200)
    async def next_fault(data: dict[str, Any]) -> dict[str, Any]:
        sim.fault = data["fault"]
        return {}

    @post("/_control/webhook", status_code=200)
    async def webhook(data: dict[str, Any]) -> dict[str, Any]:
        sim.webhook_url, sim.secret = data.get("url", ""), data.get("secret") or HMAC_KEY
        return {}

    @post("/_control/event", status_code=200)
    async def event(data: dict[str, Any]) -> dict[str, Any]:
        """Something that no request asked for: ``{"charge", "event", "reference", "extra", "value", "reason"}``."""
        charge = sim.charges[data["charge"]]
        ref = data.get("reference") or sim.reference()
        more = {"value": data.get("value"), "extra": data.get("extra"), "reason": data.get("reason", "")}
        sim.notify(charge, data["event"], ref, success=True, original=charge["id"], **more)
        return {"reference": ref}

    @get("/_control/charges")
    async def charges() -> list[dict[str, Any]]:
        return sim.book()

    @get("/_control/webhooks")
    async def webhooks() -> list[dict[str, Any]]:
        return sim.webhooks

    @get("/_control/problems")
    async def problems() -> list[str]:
        return sim.problems

    handlers = [api, page, next_fault, webhook, event, charges, webhooks, problems]
    return Litestar(handlers, openapi_config=None)


def main() -> None:
    """Serve until killed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=0)
    port = options.parse_args().port
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(f"ready {address}", flush=True)  # noqa: T201
        config = uvicorn.Config(build(address), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
