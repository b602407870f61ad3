"""The web application's composition root: it makes every part once, wires the routes and turns refusals into answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import structlog
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import HeaderParameter

from clearspan.access.guard import Authenticator, authorize, check_scopes
from clearspan.access.oauth import OAuth, PasswordAndCode
from clearspan.access.oidc import OpenId
from clearspan.access.operators import Operators
from clearspan.access.service import ApiKeys
from clearspan.access.sessions import Sessions
from clearspan.access.signing import Signing
from clearspan.access.tokens import AccessTokens
from clearspan.customers.mandates import Mandates
from clearspan.customers.service import Customers
from clearspan.desk.job_queue import JobQueue
from clearspan.desk.service import Desk
from clearspan.journal.checking import Trail
from clearspan.journal.checkpoint import SigningKey
from clearspan.journal.feed import Feed
from clearspan.journal.plugins import PluginDesk
from clearspan.journal.proofs import Proofs
from clearspan.ledger.service import Ledger
from clearspan.payments.approvals import Approvals
from clearspan.payments.inbox import Inbox
from clearspan.payments.search import PaymentSearch
from clearspan.payments.service import Payments
from clearspan.platform import ids
from clearspan.platform.addresses import Guard, place_of
from clearspan.platform.context import Caller
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.gate import AsgiApp, Gate, problem_body
from clearspan.platform.idempotency import IdempotencyKey, read_key
from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import DomainError, InvalidRequest, NotFound
from clearspan.platform.telemetry import Metrics
from clearspan.psps.service import PspAccounts
from clearspan.psps.settlements import Settlements
from clearspan.psps.webhooks import PspWebhooks
from clearspan.rebills.clocks import TestClocks
from clearspan.rebills.desk import Rebills
from clearspan.rebills.dunning import DunningPlans
from clearspan.rebills.mail import Mailer
from clearspan.rebills.notices import Notices
from clearspan.rebills.service import Collector
from clearspan.reports.service import Reports
from clearspan.routes import handlers, openapi, summarise
from clearspan.settings import Settings
from clearspan.subscriptions.catalogue import Billing, Coupons, Plans
from clearspan.subscriptions.documents import Documents
from clearspan.subscriptions.invoices import Invoices
from clearspan.subscriptions.pay import PayPage
from clearspan.subscriptions.pay_links import PayLinks
from clearspan.subscriptions.schedule import Scheduler
from clearspan.subscriptions.service import Subscriptions
from clearspan.tenants.service import Tenants
from clearspan.vaults.links import CaptureLinks
from clearspan.vaults.service import Vaults
from clearspan.webhooks.dispatch import Deliveries
from clearspan.webhooks.sending import Sender
from clearspan.webhooks.service import Webhooks

log = structlog.get_logger("clearspan.app")


class Gateway:
    """Every service of one process, made once. ``open`` connects, ``close`` waits for what is under way.

    Args:
        settings: of this installation.
        app_url: how the application connects to PostgreSQL.
        master: the installation's master key.
        plugins: loaded and checked.
        redis_url: the queue, for those who look at it; empty when it is not known here.
    """

    def __init__(
        self, settings: Settings, app_url: str, master: MasterKey, plugins: Plugins, redis_url: str = ""
    ) -> None:
        self.settings = settings
        self.plugins = plugins
        self.metrics = Metrics()
        self.db = Database(app_url, settings.database)
        self.plugin_desk = PluginDesk(self.db, plugins, settings.plugins)
        self.tenants = Tenants(self.db, master)
        secure = settings.server.public_url.startswith("https:")
        self.sessions = Sessions(self.db, master, settings.access, secure=secure)
        tokens = AccessTokens(master, settings.server.public_url, settings.access.token_ttl_min * 60)
        pepper = master.derive("api-key-pepper")
        self.authenticator = Authenticator(self.db, pepper, settings.access, tokens, self.sessions)
        self.api_keys = ApiKeys(self.db, pepper, settings.access, self.authenticator)
        self.operators = Operators(self.db, master, settings.access, self.sessions)
        public_url = settings.server.public_url
        self.signing = Signing(
            self.db, master, settings.access, public_url, self.operators, self.sessions, self.tenants
        )
        self.capture_links = CaptureLinks(master.derive("capture-link"), settings.server.public_url)
        self.vaults = Vaults(plugins, settings, self.capture_links)
        people = PasswordAndCode(self.signing)
        self.oauth = OAuth(self.db, settings, tokens, self.authenticator, self.sessions, self.operators, people)
        self.openid = OpenId(settings, master, self.sessions, self.operators, self.tenants)
        self.customers = Customers(self.db, self.tenants, self.vaults, plugins.psps)
        self.mandates = Mandates(self.db, self.tenants)
        self.psps = PspAccounts(
            self.db, self.tenants, plugins, self.vaults, settings, self.metrics, _psp_guard(settings)
        )
        self.settlements = Settlements(self.psps)
        self.payments = Payments(self.db, self.psps, master.installation, settings, self.metrics)
        self.payment_search = PaymentSearch(self.db, self.psps, self.customers)
        self.approvals = Approvals(self.db, self.payments, settings)
        self.scheduler = Scheduler(self.db, settings)
        self.collector = Collector(self.db, self.payments, settings)
        self.rebills = Rebills(self.db)
        self.psps.renewed.append(self.rebills.wake_account)
        self.dunning_plans = DunningPlans(self.db)
        self.plans = Plans(self.db)
        self.coupons = Coupons(self.db)
        self.billing = Billing(self.db)
        self.subscriptions = Subscriptions(self.db, self.payments, settings)
        self.customers.before_deletion.append(self.subscriptions.end_of_customer)
        links = PayLinks(master.derive("pay-link"), settings.server.public_url)
        self.invoices = Invoices(self.db, self.payments, links)
        self.documents = Documents(self.db, self.tenants, self.customers, self.invoices)
        self.pay_page = PayPage(
            self.db,
            master.installation,
            links,
            self.invoices,
            self.documents,
            self.customers,
            self.payments,
            self.vaults,
        )
        mailer = Mailer(settings.mail, settings.data_dir)
        self.notices = Notices(self.db, self.invoices, self.documents, self.customers, mailer, settings.mail)
        self.test_clocks = TestClocks(self.db, self.scheduler, self.collector, self.notices)
        self.inbox = Inbox(self.db, self.payments, settings)
        self.psp_webhooks = PspWebhooks(self.db, self.tenants, self.psps, settings.psps, self.metrics)
        self.psp_webhooks.wake = self.inbox.wake
        self.ledger = Ledger(self.db)
        self.desk = Desk(self.db, self.payments, self.psp_webhooks)
        self.job_queue = JobQueue(redis_url, self.db)
        self.feed = Feed(self.db, settings.events, settings.server.sse_streams_max)
        self.sessions.ended.append(lambda operator_id: self.feed.recheck(ids.encode("opr", operator_id)))
        self.reports = Reports(self.db, self.psps)
        self.audit_key = SigningKey.of(master, settings.audit.origin)
        self.proofs = Proofs(self.db, self.audit_key, self.metrics, settings.audit.push_to)
        self.trail = Trail(self.db, self.proofs, self.audit_key)
        self.metrics.sources.append(self.proofs.measure)
        self.webhook_sender = Sender(
            Guard(settings.outbound.allow_internal, settings.outbound.ports), settings.webhooks
        )
        self.webhook_deliveries = Deliveries(
            self.db, self.tenants, self.feed, self.webhook_sender, settings.webhooks, self.metrics
        )
        self.webhooks = Webhooks(self.db, self.tenants, self.webhook_deliveries)
        self.metrics.sources.append(self.webhooks.measure)
        self.feed.renderers |= {
            "webhook_endpoint": self.webhooks.render,
            "payment": self.payments.render_many,
            "refund": self.payments.render_refunds,
            "dispute": self.payments.render_disputes,
            "customer": self.customers.render_many,
            "payment_method": self.customers.render_methods,
            "mandate": self.mandates.render_many,
            "test_clock": self.test_clocks.render_many,
            "rebill": self.rebills.render_many,
            "plan": self.plans.render,
            "coupon": self.coupons.render,
            "subscription": self.subscriptions.render,
            "invoice": self.invoices.render_many,
            "credit_note": self.invoices.render_credit_notes,
        }

    async def open(self) -> None:
        """Connect.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.
        """
        await self.db.open()
        await self.feed.start()

    async def close(self) -> None:
        """End streams, wait for messages of PSPs and for calls to PSPs that are under way, give connections back."""
        await self.feed.stop()
        await self.inbox.drain(self.settings.server.drain_timeout_s)
        await self.payments.drain(self.settings.server.drain_timeout_s)
        await self.psps.close()
        await self.webhook_sender.close()
        await self.openid.close()
        await self.vaults.close()
        await self.db.close()


def _psp_guard(settings: Settings) -> Guard:
    """Provider accounts may name the public internet, and what the operator runs: the simulators of the plugins."""
    companions = [place_of(table["url"]) for table in settings.plugin.values() if isinstance(table.get("url"), str)]
    return Guard([*settings.outbound.allow_internal, *companions], settings.outbound.ports)


def create_app(gateway: Gateway) -> AsgiApp:
    """The ASGI application: the gate around Litestar."""
    settings = gateway.settings
    inner = litestar_app(gateway)
    return Gate(
        inner,  # type: ignore[arg-type]  # Litestar types its ASGI scope more narrowly than ASGI does.
        gateway.metrics,
        body_max=settings.server.body_max_kb * 1024,
        webhook_max=settings.psps.webhook_body_max_kb * 1024,
        header_max=settings.security.max_header_kb * 1024,
    )


def litestar_app(gateway: Gateway) -> Litestar:
    """Litestar itself, for its lifespan and its OpenAPI document."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await gateway.open()
        try:
            yield
        finally:
            await gateway.close()

    def service(name: str) -> Provide:
        found = getattr(gateway, name)

        def provide() -> Any:
            return found

        return Provide(provide, sync_to_thread=False)

    app = Litestar(
        route_handlers=[*handlers(gateway.plugins)],
        guards=[authorize],
        dependencies={
            "caller": Provide(_caller, sync_to_thread=False),
            "key": Provide(_key),
            **{name: service(name) for name in SERVICES},
        },
        exception_handlers={
            DomainError: _problem,
            ValidationException: _invalid,
            HTTPException: _http_error,
            500: _bug,
        },
        lifespan=[lifespan],
        state=State({"gateway": gateway, "authenticator": gateway.authenticator, "sessions": gateway.sessions}),
        openapi_config=openapi(gateway.settings.server.public_url),
        request_max_body_size=None,  # The gate has counted.
        type_encoders={},
        logging_config=None,
    )
    check_scopes(app)
    summarise(app)
    return app


SERVICES = (
    "payments",
    "payment_search",
    "approvals",
    "rebills",
    "dunning_plans",
    "notices",
    "trail",
    "plans",
    "coupons",
    "billing",
    "subscriptions",
    "customers",
    "mandates",
    "test_clocks",
    "invoices",
    "documents",
    "pay_page",
    "tenants",
    "api_keys",
    "sessions",
    "operators",
    "signing",
    "oauth",
    "openid",
    "psps",
    "psp_webhooks",
    "settlements",
    "vaults",
    "capture_links",
    "webhooks",
    "feed",
    "reports",
    "proofs",
    "ledger",
    "desk",
    "job_queue",
    "plugins",
    "plugin_desk",
    "db",
    "metrics",
    "settings",
)


def _caller(request: Request[Any, Any, Any]) -> Caller:
    caller: Caller = request.scope["state"]["caller"]
    return caller


async def _key(
    request: Request[Any, Any, Any],
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            description="A fresh random value per action, the same when you repeat it. Required where money can move.",
        ),
    ] = None,
) -> IdempotencyKey | None:
    return read_key(
        idempotency_key,
        route=f"{request.method} {request.scope['path_template']}",
        path=request.scope["path"],
        body=await request.body(),
    )


def _answer(request: Request[Any, Any, Any], problem: DomainError) -> Response[bytes]:
    return Response(
        problem_body(problem, request.scope["state"]["request_id"]),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=problem.headers(),
    )


def _problem(request: Request[Any, Any, Any], error: DomainError) -> Response[bytes]:
    return _answer(request, error)


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """The framework's own findings (query parameters, mostly)."""
    found = [
        {"path": str(item.get("key", "")), "message": str(item.get("message", ""))}
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict)
    ]
    said = "; ".join(f"{item['path']}: {item['message']}" for item in found) or "The request is not valid."
    return _answer(request, InvalidRequest(said, errors=found))


class MethodNotAllowed(DomainError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = 405
    title = "The method is not allowed here"


class Refused(DomainError):
    """Whatever the framework refuses otherwise."""

    code = "bad_request"
    status = 400
    title = "The request cannot be served"


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    match error.status_code:
        case 404:
            return _answer(request, NotFound("There is nothing at this address; see /docs for what there is."))
        case 405:
            return _answer(request, MethodNotAllowed("See /docs for the methods of this address."))
        case status if status < 500:
            return _answer(request, Refused(str(error.detail)))
    return _bug(request, error)


class InternalError(DomainError):
    """A bug of ours. Nothing about the inside is told; the request id finds it in the log."""

    code = "internal_error"
    status = 500
    title = "Something went wrong on our side"
    advice = (
        "Repeat the request with the same Idempotency-Key: it continues where it stopped."
        " If it happens again, report the request id."
    )


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("unhandled", exc_info=error, route=request.scope.get("path_template"))
    return _answer(request, InternalError())
