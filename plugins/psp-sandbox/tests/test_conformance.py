"""The sandbox's adapter under the conformance kit, judged by the structs that its simulator reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan.sdk.testing import NOW, Delivery, Description, Exchange, PspConformance, Script
from clearspan_psp_sandbox import SandboxPsp, bank, signatures
from clearspan_psp_sandbox.refusals import REFUSALS

SECRET = "whsec_conformance_1"
CHARGE = "ch_conformance"
BODIES = {
    "/v1/charges": bank.ChargeIn,
    "/v1/charges/{id}/continue": None,
    "/v1/charges/{id}/captures": bank.CaptureIn,
    "/v1/charges/{id}/voids": bank.VoidIn,
    "/v1/charges/{id}/refunds": bank.RefundIn,
}


def described() -> dict[str, Any]:
    """The simulator's interface as an OpenAPI document."""
    kinds = [*filter(None, BODIES.values()), bank.Operation]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(kinds, schemas, strict=True))

    def json(schema: Any) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schema}}}

    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
    operation = {status: json(by_kind[bank.Operation]) for status in ("200", "402")} | {"4XX": json(error)}
    key = [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 64}}]
    paths: dict[str, Any] = {
        path: {
            "post": {
                "parameters": key,
                "requestBody": json({"type": "object"} if kind is None else by_kind[kind]),
                "responses": operation,
            }
        }
        for path, kind in BODIES.items()
    }
    page = {
        "type": "object",
        "properties": {"operations": {"type": "array", "items": by_kind[bank.Operation]}, "next": {"type": "string"}},
    }
    query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("reference", "cursor")]
    paths["/v1/operations"] = {"get": {"parameters": query, "responses": {"200": json(page)}}}
    return {"openapi": "3.1.0", "paths": paths, "components": {"schemas": components}}


def operation(kind: str = "charge", status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """As the simulator answers."""
    own = {"id": CHARGE} if kind == "charge" else {"id": f"{kind}_conformance", "charge": CHARGE}
    return {
        **own,
        "kind": kind,
        "account": "conformance",
        "reference": "<reference>",
        "status": f"<status:{status}>",
        "amount": "<amount>",
        "currency": "<currency>",
        "created_at": "2026-11-23T12:00:00Z",
        **fields,
    }


CARD = {"card": {"brand": "visa", "last4": "4242"}, "network_transaction_id": "483297487231504"}
AUTHENTICATED = {"three_ds": {"flow": "challenge", "result": "authenticated"}, "eci": "05", **CARD}
ACTION = operation(status="requires_action", challenge_path="/challenge/ch_conformance")


def listed(*operations: dict[str, Any]) -> Exchange:
    return Exchange(200, {"operations": list(operations)})


class TestSandboxPsp(PspConformance):
    adapter = SandboxPsp
    description = Description(described())
    refusals = sdk.RefusalTable(REFUSALS, source="clearspan_psp_sandbox.cards", as_of=date(2026, 11, 23))
    scenarios = {
        "approved": Script(Exchange(200, operation(capture=True, **CARD))),
        "authorized": Script(Exchange(200, operation(capture=False, **CARD))),
        "declined": Script(
            Exchange(402, operation(status="declined", code="<code:1001>", message="<message>")),
            code="insufficient_funds",
        ),
        "pending": Script(Exchange(200, operation(status="pending"))),
        "action_required": Script(Exchange(200, ACTION)),
        "continued": Script(Exchange(200, operation(capture=True, **AUTHENTICATED))),
        "first_credential": Script(Exchange(200, operation(capture=True, **AUTHENTICATED))),
        "merchant_initiated": Script(Exchange(200, operation(capture=True, **CARD))),
        "verified": Script(Exchange(200, operation(capture=False, **CARD))),
        "captured": Script(Exchange(200, operation("capture"))),
        "partially_captured": Script(Exchange(200, operation("capture"))),
        "canceled": Script(Exchange(200, operation("void"))),
        "refunded": Script(Exchange(200, operation("refund"))),
        "partially_refunded": Script(Exchange(200, operation("refund"))),
        "retrieved": Script(listed(operation(capture=True))),
        "retrieved_by_reference": Script(listed(operation(capture=True))),
        "not_found": Script(listed()),
        "retrieved_refund": Script(listed(operation("refund"))),
    }

    def config(self, url: str) -> Mapping[str, Any]:
        return {"api_key": "sk_sandbox_conformance", "url": url, "webhook_secret": SECRET}

    webhook_secret = SECRET
    foreign_secret = "whsec_conformance_2"
    webhook_body = msgspec.json.encode(
        {
            "id": "evt_1",
            "type": "charge.succeeded",
            "account": "conformance",
            "created": int(NOW.timestamp()),
            "sequence": 1,
            "data": {
                **operation(capture=True),
                "status": "succeeded",
                "reference": "op_1",
                "amount": 12347,
                "currency": "EUR",
            },
        }
    )

    webhooks = [
        Delivery(
            webhook_body,
            {"sandbox-signature": signatures.sign(webhook_body, [SECRET], NOW.timestamp())},
            news=[sdk.OperationNews],
        )
    ]

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:
        return Delivery(body, {"Sandbox-Signature": signatures.sign(body, [secret], at.timestamp())})

    def sign_twice(self, body: bytes, *, secrets: Sequence[str], at: datetime) -> Delivery:
        return Delivery(body, {"Sandbox-Signature": signatures.sign(body, secrets, at.timestamp())})
