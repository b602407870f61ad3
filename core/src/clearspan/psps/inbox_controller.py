"""``/webhooks`` for PSPs, ``/v1/psp-webhooks`` for the people who look after their messages."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from clearspan.platform import clock, ids
from clearspan.platform.context import Caller
from clearspan.platform.gate import WEBHOOKS
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.replies import problems, reply
from clearspan.psps.schemas import PspWebhookDetail, PspWebhookDismiss, PspWebhookList, PspWebhookOut, WebhookState
from clearspan.psps.webhooks import (
    PspWebhookBusy,
    PspWebhookNotFound,
    PspWebhooks,
    PspWebhookSettled,
    PspWebhookUnreadable,
)
from clearspan.sdk import WebhookDelivery

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]


class WebhookController(Controller):
    """Where PSPs send their messages. No key: the address is a secret, and the message is signed."""

    path = WEBHOOKS
    include_in_schema = False

    @post("/{token:str}", status_code=200, opt={"scope": "public"})
    async def receive(
        self, request: Request[Any, Any, Any], token: FromPath[str], psp_webhooks: NamedDependency[PspWebhooks]
    ) -> Response[bytes]:
        """Take one message; 200 means that it is kept."""
        wanted = await psp_webhooks.receive(token, await _delivery(request), request.scope["state"]["request_id"])
        if wanted:
            return Response(wanted.encode(), status_code=200, media_type="text/plain")
        return Response(b'{"received":true}', status_code=200, media_type="application/json")


async def _delivery(request: Request[Any, Any, Any]) -> WebhookDelivery:
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return WebhookDelivery(
        headers=headers,
        body=await request.body(),
        query=dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        received_at=clock.now(),
    )


class PspWebhookController(Controller):
    """Messages of PSPs."""

    path = "/psp-webhooks"
    tags = ["Configuration"]

    @get(opt={"scope": "psp_webhooks:read"}, responses=problems(ids.InvalidId))
    async def list(
        self,
        caller: NamedDependency[Caller],
        psp_webhooks: NamedDependency[PspWebhooks],
        in_state: Annotated[WebhookState | None, QueryParameter(name="state", description="Of one state.")] = None,
        account: Annotated[str | None, QueryParameter(max_length=90, description="Of one PSP account.")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> PspWebhookList:
        """Messages of PSPs, newest first."""
        account_id = ids.decode("acct", account) if account is not None else None
        return await psp_webhooks.page(caller.scope, in_state, account_id, limit, cursor)

    @get("/{webhook_id:str}", opt={"scope": "psp_webhooks:read"}, responses=problems(PspWebhookNotFound))
    async def get(
        self, webhook_id: FromPath[str], caller: NamedDependency[Caller], psp_webhooks: NamedDependency[PspWebhooks]
    ) -> PspWebhookDetail:
        """One message of a PSP, with what the adapter read and the message itself."""
        return await psp_webhooks.get(caller.scope, webhook_id)

    @post(
        "/{webhook_id:str}/retry",
        status_code=200,
        opt={"scope": "psp_webhooks:write"},
        responses=problems(PspWebhookNotFound, PspWebhookSettled, PspWebhookUnreadable, PspWebhookBusy),
    )
    async def retry(
        self,
        webhook_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        psp_webhooks: NamedDependency[PspWebhooks],
    ) -> Response[PspWebhookOut]:
        """Apply a message now that is parked, needs attention or was dismissed."""
        return reply(await psp_webhooks.decide(caller, key, webhook_id, "retry"))

    @post(
        "/{webhook_id:str}/dismiss",
        status_code=200,
        opt={"scope": "psp_webhooks:write"},
        responses=problems(PspWebhookNotFound, PspWebhookSettled, PspWebhookBusy),
    )
    async def dismiss(
        self,
        webhook_id: FromPath[str],
        data: JSONBody[PspWebhookDismiss],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        psp_webhooks: NamedDependency[PspWebhooks],
    ) -> Response[PspWebhookOut]:
        """Close a message that concerns nobody here; it stays in the list."""
        return reply(await psp_webhooks.decide(caller, key, webhook_id, "dismiss", data.reason))
