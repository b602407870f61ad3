"""``/v1/webhook-endpoints`` and ``/v1/webhook-deliveries``."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems, reply
from clearspan.webhooks.errors import EndpointDeleted, EndpointNotEnabled, ReplayTooLarge, TooManyEndpoints, UrlRefused
from clearspan.webhooks.schemas import (
    DeliveryList,
    DeliveryOut,
    DeliveryWithAttempts,
    EndpointCreate,
    EndpointList,
    EndpointOut,
    EndpointUpdate,
    EndpointWithSecret,
    RangeReplay,
    ReplayOut,
    SecretRotate,
)
from clearspan.webhooks.service import DeliveryFilters, Webhooks

READ = {"scope": "webhook_endpoints:read"}
WRITE = {"scope": "webhook_endpoints:write"}
Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")]
Cursor = Annotated[str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")]


class WebhookEndpointController(Controller):
    """Webhook endpoints."""

    path = "/webhook-endpoints"
    tags = ("Webhooks",)

    @post(opt=WRITE, responses=problems(UrlRefused, TooManyEndpoints))
    async def create(
        self,
        data: JSONBody[EndpointCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[EndpointWithSecret]:
        """Add an endpoint. The secret, with which messages are signed, is shown in this answer only."""
        return reply(await webhooks.create(caller, key, data))

    @get(opt=READ, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        webhooks: NamedDependency[Webhooks],
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> EndpointList:
        """Webhook endpoints, newest first."""
        return await webhooks.list(caller.scope, limit, cursor)

    @get("/{endpoint_id:str}", opt=READ, responses=problems(NotFound))
    async def retrieve(
        self, endpoint_id: FromPath[str], caller: NamedDependency[Caller], webhooks: NamedDependency[Webhooks]
    ) -> EndpointOut:
        """One webhook endpoint, without its secret. A deleted one shows that it is."""
        return await webhooks.get(caller.scope, ids.decode("we", endpoint_id))

    @patch("/{endpoint_id:str}", opt=WRITE, responses=problems(NotFound, EndpointDeleted, UrlRefused))
    async def update(
        self,
        endpoint_id: FromPath[str],
        data: JSONBody[EndpointUpdate],
        caller: NamedDependency[Caller],
        webhooks: NamedDependency[Webhooks],
    ) -> EndpointOut:
        """Change an endpoint. One that is enabled again goes on where it stopped."""
        return await webhooks.update(caller, ids.decode("we", endpoint_id), data)

    @delete("/{endpoint_id:str}", status_code=200, opt=WRITE, responses=problems(NotFound))
    async def delete(
        self, endpoint_id: FromPath[str], caller: NamedDependency[Caller], webhooks: NamedDependency[Webhooks]
    ) -> EndpointOut:
        """Delete an endpoint. What waits for it is canceled; its deliveries stay in the log for their time."""
        return await webhooks.delete(caller, ids.decode("we", endpoint_id))

    @post("/{endpoint_id:str}/rotate-secret", status_code=200, opt=WRITE, responses=problems(NotFound, EndpointDeleted))
    async def rotate(
        self,
        endpoint_id: FromPath[str],
        data: JSONBody[SecretRotate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[EndpointWithSecret]:
        """Make a new secret, shown in this answer only. Until the overlap ends messages are signed with both."""
        return reply(await webhooks.rotate(caller, key, ids.decode("we", endpoint_id), data))

    @post("/{endpoint_id:str}/test", status_code=200, opt=WRITE, responses=problems(NotFound, EndpointDeleted))
    async def test(
        self,
        endpoint_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[DeliveryWithAttempts]:
        """Send a `webhook_endpoint.test` now and answer what the consumer said. It is tried once, also when disabled."""
        return reply(await webhooks.test(caller, key, ids.decode("we", endpoint_id)))

    @post(
        "/{endpoint_id:str}/replay",
        status_code=200,
        opt=WRITE,
        responses=problems(NotFound, EndpointNotEnabled, ReplayTooLarge),
    )
    async def replay(
        self,
        endpoint_id: FromPath[str],
        data: JSONBody[RangeReplay],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[ReplayOut]:
        """Send again what happened in a time, each event under its old `webhook-id`; also what the endpoint was never told."""
        return reply(await webhooks.replay_range(caller, key, ids.decode("we", endpoint_id), data))


class WebhookDeliveryController(Controller):
    """The delivery log."""

    path = "/webhook-deliveries"
    tags = ("Webhooks",)

    @get(opt=READ, responses=problems(ids.InvalidId))
    async def list(
        self,
        caller: NamedDependency[Caller],
        webhooks: NamedDependency[Webhooks],
        limit: Limit = 20,
        cursor: Cursor = None,
        endpoint: Annotated[str | None, QueryParameter(max_length=90, description="To this endpoint.")] = None,
        event: Annotated[str | None, QueryParameter(max_length=90, description="Of this event.")] = None,
        with_state: Annotated[
            Literal["pending", "delivered", "failed", "canceled"] | None,
            QueryParameter(name="state", description="In this state."),
        ] = None,
    ) -> DeliveryList:
        """Deliveries, those of the newest events first."""
        filters = DeliveryFilters(
            endpoint=None if endpoint is None else ids.decode("we", endpoint),
            event=None if event is None else ids.decode("evt", event),
            state=with_state,
        )
        return await webhooks.log(caller.scope, filters, limit, cursor)

    @get("/{delivery_id:str}", opt=READ, responses=problems(NotFound))
    async def retrieve(
        self, delivery_id: FromPath[str], caller: NamedDependency[Caller], webhooks: NamedDependency[Webhooks]
    ) -> DeliveryWithAttempts:
        """One delivery with every try and what the consumer answered."""
        return await webhooks.delivery(caller.scope, ids.decode("wd", delivery_id))

    @post("/{delivery_id:str}/replay", status_code=200, opt=WRITE, responses=problems(NotFound, EndpointNotEnabled))
    async def replay(
        self,
        delivery_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[DeliveryOut]:
        """Send a delivery again, under the same `webhook-id`, now and with all tries."""
        return reply(await webhooks.replay(caller, key, ids.decode("wd", delivery_id)))
