"""The adapter of the sandbox PSP, a simulated acquirer in its own process with its own books.

Its interface, the source of every fact below, is described in ``clearspan_psp_sandbox.simulator``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_sandbox.bank import Operation
from clearspan_psp_sandbox.refusals import BROKEN_RULES, REFUSALS
from clearspan_psp_sandbox.settings import TEST_ACCOUNTS, SandboxPspConfig, clearspan_companions

__all__ = ["SandboxPsp", "SandboxPspConfig", "clearspan_companions", "clearspan_psps"]
Kind = TypeVar("Kind")
FollowUp = sdk.CaptureRequest | sdk.CancelRequest | sdk.RefundRequest


class SandboxPsp:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "sandbox"
    config_type: ClassVar[type[msgspec.Struct]] = SandboxPspConfig
    test_accounts: ClassVar[Mapping[str, Mapping[str, Any]]] = TEST_ACCOUNTS
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability),
        idempotency=sdk.Idempotency(timedelta(days=1), True, scope="account", max_len=64, payload_check=True),
        lookup=sdk.Lookup(by_reference=True, lag_max=timedelta(seconds=1)),
        max_late_effect=timedelta(seconds=60),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: SandboxPspConfig = config
        self._context = context

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        answer = await self._call("POST", "/v1/charges", _charge_body(request), request.key, request.source.token)
        return self._outcome(answer, request.operation_id)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        # Without the key, which stands for the charge's first request: repeating a continue changes nothing.
        answer = await self._call("POST", f"/v1/charges/{quote(request.psp_ref, safe='')}/continue", {})
        return self._outcome(answer, request.operation_id)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        fields = {"amount": request.amount.amount_minor, "final": request.final}
        return await self._follow_up(request, "captures", fields)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        return await self._follow_up(request, "voids", {})

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        fields = {"amount": request.amount.amount_minor, "reason": request.reason}
        return await self._follow_up(request, "refunds", fields)

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        answer = await self._call("GET", f"/v1/operations?reference={quote(request.operation_id, safe='')}")
        kind = "charge" if request.kind in ("authorize", "purchase") else request.kind
        found = [raw for raw in _read(answer.get("operations"), list[dict[str, Any]]) if raw.get("kind") == kind]
        live = [raw for raw in found if raw.get("status") != "declined"]
        if len(live) > 1:
            raise sdk.OutcomeUnknown(f"{len(live)} operations carry the reference {request.operation_id}")
        if not found:
            return sdk.NotFound(raw=answer)
        return self._outcome((live or found)[-1], request.operation_id, looked_up=True)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:  # noqa: ARG002
        raise sdk.WebhookRejected("the simulator sends no webhooks")

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.OperationNews]:  # noqa: ARG002
        raise sdk.OutcomeUnknown("the simulator lists no activity")

    async def _follow_up(self, request: FollowUp, path: str, fields: dict[str, Any]) -> sdk.Outcome:
        body = {"reference": request.operation_id} | fields
        answer = await self._call("POST", f"/v1/charges/{quote(request.charge_ref, safe='')}/{path}", body, request.key)
        return self._outcome(answer, request.operation_id)

    async def _call(
        self, method: str, path: str, body: object = None, key: str = "", token: str = ""
    ) -> dict[str, Any]:
        http, extensions = (self._context.vault_http, {"vault_token": token}) if token else (self._context.http, {})
        headers = {"Authorization": f"Bearer {self._config.api_key}"} | ({"Idempotency-Key": key} if key else {})
        url = self._config.url.rstrip("/") + path
        request = http.build_request(method, url, json=body, headers=headers, extensions=extensions)
        answer = await sdk.send(http, request)
        if answer.status in (400, 404):
            raise sdk.PspMisconfigured(f"the simulator refused the request: {_error_code(answer.body)}")
        if answer.status not in (200, 402, 422):
            raise sdk.OutcomeUnknown(f"sent, the simulator answered {answer.status}")
        return answer.body

    def _outcome(self, raw: Mapping[str, Any], reference: str, *, looked_up: bool = False) -> sdk.Outcome:
        if error := _error_code(raw):
            if error in BROKEN_RULES:
                return sdk.Declined(code=BROKEN_RULES[error], raw_code=error, raw=raw)
            raise sdk.OutcomeUnknown(f"sent, the simulator answered {error}")
        found = _read(raw, Operation)
        if found.reference != reference:
            raise sdk.OutcomeUnknown("the answer belongs to another operation")
        match found.status:
            case "succeeded":
                amount, network_id = sdk.Money(found.amount, found.currency), found.network_transaction_id
                return sdk.Approved(psp_ref=found.id, amount=amount, network_transaction_id=network_id, raw=raw)
            case "pending":
                return sdk.Pending(psp_ref=found.id, raw=raw)
            case "requires_action":
                page = (self._config.public_url or self._config.url).rstrip("/") + (found.challenge_path or "")
                return sdk.ActionRequired(psp_ref=found.id, action=sdk.RedirectAction(page), raw=raw)
            case "declined" | "canceled":
                code = REFUSALS.get(found.code or "", "unmapped")
                if code == "duplicate" and not looked_up:
                    raise sdk.OutcomeUnknown("the simulator suspects a duplicate: look the operation up")
                words = {"advice": found.advice, "network_code": found.network_code, "message": found.message}
                return sdk.Declined(code=code, raw_code=found.code or "", psp_ref=found.id, raw=raw, **words)


def _charge_body(request: sdk.ChargeRequest) -> dict[str, Any]:
    source = request.source
    card = {"number": source.number, "exp_month": source.exp_month, "exp_year": source.exp_year}
    return {
        "reference": request.operation_id,
        "amount": request.amount.amount_minor,
        "currency": request.amount.currency,
        "capture": request.capture,
        "card": card | {"cvc": source.cvc} if request.customer_present else card,
        "network_transaction_id": source.network_transaction_id,
        "customer_present": request.customer_present,
        "return_url": request.return_url,
        "description": request.description,
        "metadata": dict(request.metadata),
    }


def _read(raw: object, kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise sdk.OutcomeUnknown(f"the answer is not as documented: {error}") from error


def _error_code(raw: Mapping[str, Any]) -> str:
    return str(raw["error"].get("code", "none")) if isinstance(raw.get("error"), dict) else ""


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [SandboxPsp]
