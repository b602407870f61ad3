"""A program for the judges: runs an adapter in the product's interpreter; JSON in, JSON out.

In (standard input): ``{"plugin": "psp-acme", "config": {...}, "live": false, "calls": [{"verb": "refund", "request": {...}}]}``.
Amounts are ``{"amount_minor": 1099, "currency": "EUR"}``; ``source`` of a charge is one of ``{"card": {"number", "exp_month",
"exp_year", "cvc"}}`` (a published test number: no vault stands between), ``{"token": "..", "stored": false}`` and
``{"redirect": "ideal" or null}``. What a request leaves out of ``operation_id``, ``key``, ``capture`` and ``final`` is filled
in. ``verify_webhook`` takes ``{"headers", "body"}``, ``check_account`` nothing.

Out: for each call ``{"outcome": "approved", ...}``, ``{"events": [...]}`` or ``{"raised": "OutcomeUnknown", "message": ".."}``.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

import clearspan.sdk as sdk

REQUESTS: dict[str, type[msgspec.Struct]] = {
    "create_intent": sdk.ChargeRequest,
    "continue_intent": sdk.ContinueRequest,
    "capture": sdk.CaptureRequest,
    "cancel": sdk.CancelRequest,
    "refund": sdk.RefundRequest,
    "retrieve": sdk.RetrieveRequest,
}
PARTS = {"amount": sdk.Money, "credential": sdk.StoredCredential, "browser": sdk.Browser, "created_at": datetime}
DEFAULTS = {
    "operation_id": "op_01h455vb4pex5vsknk084sn02q",
    "key": "k-01h455vb4pex5vsknk084sn02q",
    "capture": True,
    "final": True,
}


def source(told: dict[str, Any]) -> sdk.Source:
    """What a charge is paid with."""
    if "card" in told:
        card = {"exp_month": "12", "exp_year": "2030", "cvc": "123"} | told["card"]
        return sdk.CardSource(token="tok_of_the_judge", **card)  # noqa: S106
    if "redirect" in told:
        return sdk.RedirectSource(method=told["redirect"])
    return sdk.TokenSource(token=told["token"], stored=told.get("stored", False))


def request(verb: str, told: dict[str, Any]) -> Any:
    """The request struct of a verb."""
    if verb == "verify_webhook":
        headers = {name.lower(): value for name, value in told["headers"].items()}
        body, query = told["body"].encode(), told.get("query", {})
        return sdk.WebhookDelivery(headers=headers, body=body, query=query, received_at=datetime.now(UTC))
    kind = REQUESTS[verb]
    fields = {name: value for name, value in DEFAULTS.items() if name in kind.__struct_fields__} | told
    # msgspec cannot tell the kinds of sources apart, so a charge is put together by hand.
    for name, part in PARTS.items():
        if fields.get(name) is not None:
            fields[name] = msgspec.convert(fields[name], part)
    if "source" in fields:
        fields["source"] = source(fields["source"])
    return kind(**fields)


def told(result: Any) -> dict[str, Any]:
    """What a verb returned."""
    if isinstance(result, sdk.NotFound):
        return {"outcome": "not_found"}
    if isinstance(result, list | tuple):
        return {"events": [msgspec.to_builtins(one) for one in result]}
    if result is None:
        return {"outcome": "ok"}
    plain = msgspec.to_builtins(result)
    return {"outcome": plain.pop("type"), **plain}


async def main() -> None:
    """Read, call, write."""
    asked = json.load(sys.stdin)
    module = importlib.import_module("clearspan_" + asked["plugin"].replace("-", "_"))
    (adapter_type,) = module.clearspan_psps()
    answers = []
    async with httpx.AsyncClient(timeout=20) as http:
        context = sdk.PspContext(http=http, vault_http=http, live=asked.get("live", False))
        adapter = adapter_type(msgspec.convert(asked["config"], adapter_type.config_type), context)
        for call in asked["calls"]:
            verb, fields = call["verb"], call.get("request")
            try:
                result = await getattr(adapter, verb)(*([] if fields is None else [request(verb, fields)]))
            except sdk.PspError as error:
                answers.append({"raised": type(error).__name__, "message": str(error)})
            else:
                answers.append(told(result))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
