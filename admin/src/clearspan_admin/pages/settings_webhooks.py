"""Webhook endpoints: where events are sent, what became of them, and sending them again."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.platform import ids
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.webhooks.errors import TooManyEndpoints, UrlRefused
from clearspan.webhooks.schemas import (
    DeliveryWithAttempts,
    EndpointCreate,
    EndpointOut,
    EndpointUpdate,
    RangeReplay,
    SecretRotate,
)
from clearspan.webhooks.service import DeliveryFilters, Webhooks
from clearspan_admin import filled, web
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

READ = {"scope": "webhook_endpoints:read", "session": True}
WRITE = {"scope": "webhook_endpoints:write", "session": True}
FRESH = WRITE | {"step_up": True}
KINDS = (
    (
        mark("Money"),
        (
            ("payment", mark("Charges and captures, from created to settled or failed.")),
            ("refund", mark("Refunds, and those that came back.")),
            ("dispute", mark("Disputes and returned direct debits.")),
            ("operation", mark("Each thing that is asked of a PSP, and decisions of people.")),
            ("incident", mark("Something contradicts itself; a person has to look.")),
            ("approval", mark("What one person asked for and another has to allow.")),
        ),
    ),
    (
        mark("Customers"),
        (
            ("customer", mark("Customers made, changed and deleted.")),
            ("payment_method", mark("Cards and other ways to pay.")),
            ("mandate", mark("Consent to be charged later.")),
        ),
    ),
    (
        mark("Subscriptions"),
        (
            ("subscription", mark("Begun, changed, past due, recovered, ended.")),
            ("invoice", mark("Opened, paid, voided, given up.")),
            ("credit_note", mark("Invoices taken back, in whole or in part.")),
            ("rebill", mark("How unpaid invoices are collected.")),
            ("dunning_plan", mark("Plans for collecting.")),
            ("plan", mark("What is sold.")),
            ("coupon", mark("Discounts.")),
        ),
    ),
    (
        mark("Settings"),
        (
            ("psp_account", mark("PSP accounts, their circuits and credentials.")),
            ("webhook", mark("Messages of PSPs that need somebody.")),
            ("webhook_endpoint", mark("Endpoints like this one.")),
            ("api_key", mark("API keys made, rotated, revoked.")),
            ("operator", mark("Who may sign in, with which role.")),
            ("tenant", mark("The tenant and how it bills.")),
            ("test_clock", mark("Months in seconds, in test mode.")),
        ),
    ),
)
"""What can be asked for as a whole, in groups; a kind that is not named here can be asked for by its name."""
STATES = ("pending", "delivered", "failed", "canceled")
_ALL = "*"


class WebhookEndpointsController(Controller):
    """``/admin/settings/webhooks``."""

    path = "/settings/webhooks"

    @get("/", opt=READ)
    async def list(self, request: Http, webhooks: NamedDependency[Webhooks]) -> Response[bytes]:
        """Every endpoint of the mode; there are at most twenty."""
        found = await webhooks.list(web.caller_of(request).scope, 100, None)
        return web.page(request, "settings/webhooks.html", endpoints=found.data)

    @get("/new", opt=FRESH)
    async def begin(self, request: Http) -> Response[bytes]:
        """The form of a new endpoint."""
        return _form(request, {"url": "", "description": "", "events": ["payment.*", "refund.*"]}, {})

    @post("/new", opt=FRESH, status_code=200)
    async def add(self, request: Http, webhooks: NamedDependency[Webhooks]) -> Response[bytes]:
        """Add an endpoint, and show its secret in this answer only."""
        form = await web.form_of(request)
        typed = _typed(form)
        body, errors = filled.struct_of(EndpointCreate, typed)
        if body is not None:
            try:
                answer = await webhooks.create(web.caller_of(request), web.idempotency(request, form), body)
                return _secret(request, web.answered(answer))
            except UrlRefused as error:
                errors = {"url": error.detail}
            except TooManyEndpoints as error:
                errors = {"": error.detail}
        return _form(request, typed, _own_words(request, errors))

    @get("/{endpoint_id:str}", opt=READ)
    async def show(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """One endpoint with its deliveries."""
        return await _show(request, webhooks, endpoint_id, {"since": "", "until": "", "only_failed": False}, {})

    @get("/{endpoint_id:str}/edit", opt=FRESH)
    async def edit(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """The form with what there is."""
        endpoint = await webhooks.get(web.caller_of(request).scope, ids.decode("we", endpoint_id))
        typed = {"url": endpoint.url, "description": endpoint.description or "", "events": endpoint.events}
        return _form(request, typed, {}, endpoint)

    @post("/{endpoint_id:str}/edit", opt=FRESH, status_code=303)
    async def change(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Change address, filter and description."""
        caller, identity = web.caller_of(request), ids.decode("we", endpoint_id)
        endpoint = await webhooks.get(caller.scope, identity)
        typed = _typed(await web.form_of(request))
        body, errors = filled.struct_of(EndpointUpdate, typed)
        if body is not None:
            try:
                await webhooks.update(caller, identity, body)
                return web.go(request, f"/settings/webhooks/{endpoint_id}", web.say(request, "Saved."))
            except UrlRefused as error:
                errors = {"url": error.detail}
        return _form(request, typed, _own_words(request, errors), endpoint)

    @post("/{endpoint_id:str}/status", opt=WRITE, status_code=303)
    async def switch(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Enable or disable."""
        form = await web.form_of(request)
        body, _ = filled.struct_of(EndpointUpdate, {"status": form.text("status")})
        if body is None:
            raise InvalidRequest("An endpoint is enabled or disabled.")
        await webhooks.update(web.caller_of(request), ids.decode("we", endpoint_id), body)
        words = (
            web.say(request, "Enabled: it goes on where it stopped.")
            if body.status == "enabled"
            else web.say(request, "Disabled: nothing is sent there until it is enabled again.")
        )
        return web.go(request, f"/settings/webhooks/{endpoint_id}", words)

    @post("/{endpoint_id:str}/delete", opt=WRITE, status_code=303)
    async def delete(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Delete for good."""
        await webhooks.delete(web.caller_of(request), ids.decode("we", endpoint_id))
        return web.go(request, "/settings/webhooks", web.say(request, "Deleted. What waited for it is canceled."))

    @post("/{endpoint_id:str}/rotate", opt=FRESH, status_code=200)
    async def rotate(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Make a new secret and show it in this answer only."""
        form = await web.form_of(request)
        hours = form.text("overlap_h")
        body, _ = filled.struct_of(SecretRotate, {"overlap_h": int(hours) if hours.isdecimal() else -1})
        if body is None:
            raise InvalidRequest(web.say(request, "The old secret can sign for 0 to 168 hours more."))
        answer = await webhooks.rotate(
            web.caller_of(request), web.idempotency(request, form), ids.decode("we", endpoint_id), body
        )
        return _secret(request, web.answered(answer))

    @post("/{endpoint_id:str}/test", opt=WRITE, status_code=303)
    async def test(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Send a test event now and show what came back."""
        form = await web.form_of(request)
        answer = await webhooks.test(
            web.caller_of(request), web.idempotency(request, form), ids.decode("we", endpoint_id)
        )
        sent = msgspec.convert(web.answered(answer), DeliveryWithAttempts)
        words, tone = web.say(request, "The endpoint took the test event."), "good"
        if sent.state != "delivered":
            words, tone = web.say(request, "The endpoint did not take the test event; below is what it said."), "bad"
        return web.go(request, f"/settings/webhooks/{endpoint_id}/deliveries/{sent.id}", words, tone)

    @post("/{endpoint_id:str}/replay", opt=WRITE, status_code=303)
    async def replay_range(
        self, request: Http, endpoint_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Send again what happened in a time."""
        form = await web.form_of(request)
        zone = ZoneInfo(web.who(request).operator.timezone)
        typed = {"since": form.text("since"), "until": form.text("until"), "only_failed": form.has("only_failed")}
        given: dict[str, Any] = {"only_failed": typed["only_failed"]}
        errors: dict[str, str] = {}
        for name in ("since", "until"):
            try:
                given[name] = _moment(form.text(name), zone)
            except ValueError:
                errors[name] = web.say(request, "Give a date and a time.")
        if not errors:
            try:
                answer = await webhooks.replay_range(
                    web.caller_of(request),
                    web.idempotency(request, form),
                    ids.decode("we", endpoint_id),
                    RangeReplay(**given),
                )
                count = web.answered(answer)["deliveries"]
                words = web.say(request, "%(count)s deliveries are sent again.", count=count)
                return web.go(request, f"/settings/webhooks/{endpoint_id}", words)
            except InvalidRequest as error:
                errors = filled.refusal(error, ("since", "until"))
        return await _show(request, webhooks, endpoint_id, typed, errors)

    @get("/{endpoint_id:str}/deliveries/{delivery_id:str}", opt=READ)
    async def delivery(
        self, request: Http, endpoint_id: FromPath[str], delivery_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """One delivery with every try."""
        scope = web.caller_of(request).scope
        endpoint = await webhooks.get(scope, ids.decode("we", endpoint_id))
        found = await webhooks.delivery(scope, ids.decode("wd", delivery_id))
        if found.endpoint != endpoint.id:
            raise NotFound(web.say(request, "There is no page at this address."))
        return web.page(request, "settings/delivery.html", endpoint=endpoint, delivery=found)

    @post("/{endpoint_id:str}/deliveries/{delivery_id:str}/replay", opt=WRITE, status_code=303)
    async def replay(
        self, request: Http, endpoint_id: FromPath[str], delivery_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """Send one again."""
        form = await web.form_of(request)
        await webhooks.replay(web.caller_of(request), web.idempotency(request, form), ids.decode("wd", delivery_id))
        return web.go(
            request,
            f"/settings/webhooks/{endpoint_id}/deliveries/{delivery_id}",
            web.say(request, "It is sent again, with all tries."),
        )


async def _show(
    request: Http, webhooks: Webhooks, endpoint_id: str, typed: dict[str, Any], errors: dict[str, str]
) -> Response[bytes]:
    scope, identity = web.caller_of(request).scope, ids.decode("we", endpoint_id)
    endpoint = await webhooks.get(scope, identity)
    state = request.query_params.get("state", "")
    filters = DeliveryFilters(endpoint=identity, state=state if state in STATES else None)
    log = await webhooks.log(scope, filters, 50, request.query_params.get("cursor"))
    return web.page(
        request,
        "settings/webhook.html",
        status=422 if errors else 200,
        endpoint=endpoint,
        log=log,
        state=state,
        states=STATES,
        typed=typed,
        errors=errors,
        state_of=state_of,
    )


def state_of(endpoint: EndpointOut) -> str:
    """One word for how an endpoint is."""
    return "failing" if endpoint.status == "enabled" and endpoint.failing_since else endpoint.status


def _secret(request: Http, endpoint: dict[str, Any]) -> Response[bytes]:
    # Not compressed: what is secret and what others chose must not share a compressed body.
    return web.page(request, "settings/webhook_secret.html", endpoint=endpoint, compress=False)


def _typed(form: Form) -> dict[str, Any]:
    own = [word for word in form.text("more").replace(",", " ").split() if word]
    events = [_ALL] if form.has("all") else list(dict.fromkeys([*form.many("events"), *own]))
    return {"url": form.text("url"), "description": form.text("description"), "events": events}


def _own_words(request: Http, errors: dict[str, str]) -> dict[str, str]:
    if "events" in errors:
        said = web.say(request, "Choose at least one kind; single types look like payment.captured.")
        return errors | {"events": said}
    return errors


def _moment(text: str, zone: ZoneInfo) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=zone) if text else None


def _form(
    request: Http, typed: dict[str, Any], errors: dict[str, str], endpoint: EndpointOut | None = None
) -> Response[bytes]:
    wholes = {f"{kind}.*" for _, kinds in KINDS for kind, _ in kinds}
    return web.page(
        request,
        "settings/webhook_form.html",
        status=422 if errors else 200,
        typed=typed,
        errors=errors,
        endpoint=endpoint,
        kinds=KINDS,
        more=[one for one in typed["events"] if one not in wholes and one != _ALL],
    )
