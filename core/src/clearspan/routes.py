"""Which routes there are, and how the OpenAPI document describes them."""

from __future__ import annotations

import re
from typing import Any

from litestar import Litestar, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, SecurityScheme, Tag

from clearspan.access.controller import ApiKeyController
from clearspan.access.guard import PUBLIC
from clearspan.access.keys import SCOPES
from clearspan.access.oauth_controller import OAuthController
from clearspan.access.people_controller import OperatorController
from clearspan.customers.controller import CustomerController, PaymentMethodController
from clearspan.customers.mandates_controller import MandateController
from clearspan.journal.controller import AuditController, EventController
from clearspan.ledger.controller import LedgerController
from clearspan.payments.controller import (
    DisputeController,
    MandateVerificationController,
    PaymentController,
    RefundController,
)
from clearspan.platform.pages import DocsController, HealthController
from clearspan.platform.plugins import Plugins
from clearspan.psps.controller import PspAccountController, PspController
from clearspan.psps.inbox_controller import PspWebhookController, WebhookController
from clearspan.psps.settlements_controller import SettlementController
from clearspan.rebills.clocks_controller import TestClockController
from clearspan.rebills.controller import DunningPlanController, RebillController
from clearspan.rebills.notices_controller import NoticeController
from clearspan.subscriptions.controller import (
    BillingSettingsController,
    CouponController,
    PlanController,
    SubscriptionController,
)
from clearspan.subscriptions.invoices_controller import CreditNoteController, InvoiceController
from clearspan.subscriptions.pay_controller import PayController
from clearspan.tenants.controller import TenantController
from clearspan.vaults.capture_controller import CaptureController
from clearspan.vaults.controller import CaptureSessionController
from clearspan.webhooks.controller import WebhookDeliveryController, WebhookEndpointController

V1 = (
    PaymentController,
    RefundController,
    DisputeController,
    CustomerController,
    PaymentMethodController,
    MandateController,
    MandateVerificationController,
    TestClockController,
    CaptureSessionController,
    DunningPlanController,
    RebillController,
    PlanController,
    CouponController,
    SubscriptionController,
    BillingSettingsController,
    InvoiceController,
    CreditNoteController,
    NoticeController,
    PspController,
    PspAccountController,
    SettlementController,
    PspWebhookController,
    EventController,
    WebhookEndpointController,
    WebhookDeliveryController,
    AuditController,
    LedgerController,
    ApiKeyController,
    OperatorController,
    TenantController,
)


def handlers(plugins: Plugins) -> list[Any]:
    """Our own routes and those of plugins."""
    own: list[Any] = [Router(path="/v1", route_handlers=list(V1)), WebhookController, PayController]
    own += [CaptureController, HealthController, DocsController, OAuthController]
    return own + [Router(path=routes.path, route_handlers=list(routes.handlers)) for routes in plugins.routes]


def summarise(app: Litestar) -> None:
    """An operation without a summary gets the first sentence of its handler's docstring."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.summary is None and handler.fn.__doc__:
                handler.summary = re.split(r"[.;:] |\.?\n|\.$", handler.fn.__doc__.strip(), maxsplit=1)[0]


def openapi(public_url: str) -> OpenAPIConfig:
    """The OpenAPI 3.1 document at ``/openapi.json``; token endpoints stand in it with their whole address, where it is known."""
    schemes = {"api_key": SecurityScheme(type="http", scheme="bearer")}
    if public_url:
        token_url = f"{public_url}/oauth/token"
        schemes["oauth2"] = SecurityScheme(
            type="oauth2",
            description="Forms and refusals of the token endpoint are OAuth's own: docs/api.md, OAuth2.",
            flows=OAuthFlows(
                client_credentials=OAuthFlow(token_url=token_url, scopes=SCOPES),
                password=OAuthFlow(token_url=token_url, refresh_url=token_url, scopes=SCOPES),
            ),
        )
    return OpenAPIConfig(
        title="Clearspan",
        version="v1",
        summary="One API in front of many payment service providers.",
        description=(
            "Amounts are integers in the currency's smallest unit. Every POST takes an `Idempotency-Key`; calls that can move"
            " money require one. Errors are problem details (RFC 9457) with a stable `code`."
        ),
        # The framework mounts a router of its own in any case; the document is served by DocsController.
        openapi_router=Router(path="/openapi", route_handlers=[], opt={"scope": PUBLIC}, include_in_schema=False),
        render_plugins=[JsonRenderPlugin()],
        use_handler_docstrings=True,
        components=Components(security_schemes={**schemes}),
        security=[{name: []} for name in schemes],
        tags=[
            Tag(name="Payments", description="Payment intents, from creation to refund."),
            Tag(name="Customers", description="Customers and their payment methods."),
            Tag(name="Mandates", description="The customers' consent to be charged without being present."),
            Tag(name="Test clocks", description="Months in seconds, in test mode."),
            Tag(name="Rebills", description="How unpaid invoices are collected: dunning plans, decisions, reports."),
            Tag(name="Subscriptions", description="Plans, coupons, subscriptions, and how they are billed."),
            Tag(name="Invoices", description="What customers owe, what was taken back, and what they were sent."),
            Tag(name="Events", description="What happened: feed, live stream and audit trail."),
            Tag(name="Ledger", description="Double entry: what stands where, and how it came there."),
            Tag(name="Webhooks", description="Events sent to you: endpoints and the delivery log."),
            Tag(name="Configuration", description="PSP accounts, API keys, people, the tenant."),
        ],
    )
