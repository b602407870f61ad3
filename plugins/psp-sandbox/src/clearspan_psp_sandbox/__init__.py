"""The adapter of the sandbox PSP, a simulated acquirer in its own process with its own books.

Source of every fact: ``clearspan_psp_sandbox.simulator``. More than 150 lines with ``answers``, which read all it can say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_sandbox import answers, signatures
from clearspan_psp_sandbox.settings import TEST_ACCOUNTS, SandboxPspConfig, clearspan_companions, requires_sdk

__all__ = ["SandboxPsp", "SandboxPspConfig", "clearspan_companions", "clearspan_psps", "requires_sdk"]
FollowUp = sdk.CaptureRequest | sdk.CancelRequest | sdk.RefundRequest
_PAGES_MAX = 1_000


class SandboxPsp:
    """See ``PspAdapter``."""

    name: ClassVar[str] = "sandbox"
    config_type: ClassVar[type[msgspec.Struct]] = SandboxPspConfig
    test_accounts: ClassVar[Mapping[str, Mapping[str, Any]]] = TEST_ACCOUNTS
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability),
        idempotency=sdk.Idempotency(timedelta(days=1), True, scope="account", max_len=64, payload_check=True),
        lookup=sdk.Lookup(by_reference=True, by_time=True, lag_max=timedelta(seconds=1)),
        webhook=sdk.WebhookFacts(signature="hmac-sha256", id_field="id", sequence_field="sequence", retry_days=3),
        max_late_effect=timedelta(seconds=60),
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        self._config: SandboxPspConfig = config
        self._context = context
        self._secret = self._config.webhook_secret or signatures.default_secret(self._config.account)
        self._pages = (self._config.public_url or self._config.url).rstrip("/")

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        answer = await self._call("POST", "/v1/charges", _charge_body(request), request.key, request.card().token)
        return self._outcome(answer, "charge", request.operation_id)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        # Without the key, which stands for the charge's first request: repeating a continue changes nothing.
        answer = await self._call("POST", f"/v1/charges/{quote(request.psp_ref, safe='')}/continue", {})
        return self._outcome(answer, "charge", request.operation_id)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        fields = {"amount": request.amount.amount_minor, "final": request.final}
        return await self._follow_up(request, "capture", fields)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        return await self._follow_up(request, "void", {})

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        fields = {"amount": request.amount.amount_minor, "reason": request.reason}
        return await self._follow_up(request, "refund", fields)

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        kind = "charge" if request.kind in ("authorize", "purchase") else request.kind
        listed = await self._list("/v1/operations", {"reference": request.operation_id})
        found = [raw for raw in listed if raw.get("kind") == kind]
        live = [raw for raw in found if raw.get("status") not in ("declined", "canceled", "failed")]
        if len(live) > 1:
            raise sdk.OutcomeUnknown(f"{len(live)} operations carry the reference {request.operation_id}")
        if not found:
            return sdk.NotFound(raw={"operations": listed})
        return self._outcome((live or found)[-1], kind, request.operation_id, request.charge_ref, looked_up=True)

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        header, now = delivery.headers.get(signatures.HEADER), delivery.received_at.timestamp()
        try:
            signatures.verify(delivery.body, header, self._secret, now)
        except signatures.BadSignature as bad:
            raise sdk.WebhookRejected(str(bad)) from bad
        event = answers.event(delivery.body)
        if event.account != self._config.account:
            raise sdk.WebhookRejected("the message is another account's")
        news = answers.news(event.data, self._config.account, self._pages)
        return [sdk.WebhookEvent(event_id=event.id, type=event.type, news=news, sequence=event.sequence)]

    async def activity(self, since: datetime, until: datetime) -> Sequence[sdk.OperationNews]:
        listed = await self._list("/v1/activity", {"since": str(since.timestamp()), "until": str(until.timestamp())})
        return [answers.operation_news(raw, self._config.account, self._pages) for raw in listed]

    async def _follow_up(self, request: FollowUp, kind: str, fields: dict[str, Any]) -> sdk.Outcome:
        path = f"/v1/charges/{quote(request.charge_ref, safe='')}/{kind}s"
        answer = await self._call("POST", path, {"reference": request.operation_id} | fields, request.key)
        return self._outcome(answer, kind, request.operation_id, request.charge_ref)

    async def _list(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """All pages of a list."""
        found: list[dict[str, Any]] = []
        for _ in range(_PAGES_MAX):
            page = answers.read(await self._call("GET", f"{path}?{urlencode(query)}"), answers.Page)
            found += page.operations
            if page.next is None:
                return found
            query = query | {"cursor": page.next}
        raise sdk.OutcomeUnknown("the list has no end")

    async def _call(
        self, method: str, path: str, body: object = None, key: str = "", token: str = ""
    ) -> dict[str, Any]:
        http, extensions = (self._context.vault_http, {"vault_token": token}) if token else (self._context.http, {})
        headers = {"Authorization": f"Bearer {self._config.api_key}"} | ({"Idempotency-Key": key} if key else {})
        url = self._config.url.rstrip("/") + path
        request = http.build_request(method, url, json=body, headers=headers, extensions=extensions)
        answer = await sdk.send(http, request)
        if answer.status in (400, 404):
            raise sdk.PspMisconfigured(f"the simulator refused the request: {answers.error_code(answer.body)}")
        if answer.status not in (200, 402, 422):
            raise sdk.OutcomeUnknown(f"sent, the simulator answered {answer.status}")
        return answer.body

    def _outcome(
        self, raw: dict[str, Any], kind: str, reference: str, charge: str | None = None, *, looked_up: bool = False
    ) -> sdk.Outcome:
        asked = answers.Asked(self._config.account, kind, reference, charge, looked_up)
        return answers.outcome(raw, asked, self._pages)


def _charge_body(request: sdk.ChargeRequest) -> dict[str, Any]:
    source, agreement = request.card(), request.credential
    card = {"number": source.number, "exp_month": source.exp_month, "exp_year": source.exp_year}
    return {
        "reference": request.operation_id,
        "amount": request.amount.amount_minor,
        "currency": request.amount.currency,
        "capture": request.capture,
        "card": card | {"cvc": source.cvc} if request.customer_present else card,
        "network_transaction_id": (agreement and agreement.network_transaction_id) or source.network_transaction_id,
        "customer_present": request.customer_present,
        "stored_credential": agreement and msgspec.to_builtins(agreement),
        "return_url": request.return_url,
        "webhook_url": request.webhook_url,
        "description": request.description,
        "metadata": dict(request.metadata),
    }


@sdk.hookimpl
def clearspan_psps() -> Sequence[type[sdk.PspAdapter]]:
    """The adapter."""
    return [SandboxPsp]
