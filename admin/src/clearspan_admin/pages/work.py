"""Work queues: what waits for a person, one thing or many of them at a time."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.operators import Operators
from clearspan.desk.errors import QueueAway, QueueUnknown
from clearspan.desk.job_queue import JobQueue
from clearspan.desk.service import Desk, narrowed_by
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.problems import InvalidRequest, catalogue
from clearspan.psps.service import PspAccounts
from clearspan.psps.webhooks import PspWebhooks
from clearspan.webhooks.service import Webhooks
from clearspan_admin import web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

PAGE: Final = 50
FILTERS: Final = ("state", "account", "endpoint", "kind")
TITLES: Final = {
    "unknown": mark("Unknown outcomes"),
    "webhooks": mark("PSP messages"),
    "deliveries": mark("Webhook deliveries"),
    "notices": mark("E-mails"),
    "rebills": mark("Rebills"),
    "jobs": mark("Background jobs"),
    "syncs": mark("Syncs"),
}
SCOPES: Final = {
    "unknown": ("payments:read", "payments:write"),
    "webhooks": ("psp_webhooks:read", "psp_webhooks:write"),
    "deliveries": ("webhook_endpoints:read", "webhook_endpoints:write"),
    "notices": ("invoices:read", "invoices:write"),
    "rebills": ("dunning:read", "dunning:write"),
    "jobs": ("payments:read", "psp_webhooks:write"),
    "syncs": ("payments:read", "payments:write"),
}
"""For looking and for acting; the services ask for the same ones."""
STATES: Final = {
    "unknown": ("unknown", "needs_review"),
    "webhooks": ("parked", "needs_attention"),
    "notices": ("failed", "retrying", "undeliverable"),
    "rebills": ("needs_review", "blocked", "held"),
}
PREFIXES: Final = {"unknown": "op", "webhooks": "whi", "deliveries": "wd", "notices": "ntc", "rebills": "inv"}


class WorkController(Controller):
    """``/admin/work``."""

    path = "/work"

    @get("/", opt={"scope": "payments:read", "session": True})
    async def show(
        self,
        request: Http,
        desk: NamedDependency[Desk],
        job_queue: NamedDependency[JobQueue],
        psps: NamedDependency[PspAccounts],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[bytes]:
        """One queue, with the others' counts."""
        queue = request.query_params.get("queue", "unknown")
        if queue not in TITLES:
            raise QueueUnknown
        return await _queue_page(request, queue, desk, job_queue, psps, webhooks)

    @post("/act", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def act(self, request: Http, desk: NamedDependency[Desk]) -> Response[bytes]:
        """Retry or dismiss one row now."""
        form = await web.form_of(request)
        queue = form.text("queue")
        await desk.act(
            web.caller_of(request),
            web.idempotency(request, form),
            queue,
            form.text("item"),
            form.text("action", "retry"),
            form.text("reason"),
        )
        said = {
            "unknown": mark("The PSP was asked. If the outcome is known now, the row is gone."),
            "webhooks": mark("Done. A message that is retried is applied within seconds."),
            "deliveries": mark("The event is being sent again."),
            "notices": mark("The mail is sent again within seconds."),
            "rebills": mark("Done. The invoice is first in line."),
        }
        return web.go(request, "/work", web.say(request, said.get(queue, "")), **_query(form, queue))

    @post("/bulk", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def bulk(
        self,
        request: Http,
        desk: NamedDependency[Desk],
        job_queue: NamedDependency[JobQueue],
        psps: NamedDependency[PspAccounts],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[bytes]:
        """Begin a bulk run over selected rows, or over all that match the filter."""
        form = await web.form_of(request)
        queue, items = form.text("queue"), form.many("item")
        every = form.text("which") == "all"
        if queue not in PREFIXES:
            raise QueueUnknown
        asked = {name: form.text(name) for name in FILTERS}
        try:
            run = await desk.start(
                web.caller_of(request),
                web.idempotency(request, form),
                queue,
                narrowed_by(queue, asked, None if every else items),
                form.text("action", "retry"),
                form.text("reason"),
            )
        except InvalidRequest as error:
            given = {"reason": form.text("reason"), "items": set(items), "every": every}
            return await _queue_page(
                request, queue, desk, job_queue, psps, webhooks, error=error, given=given, filters=asked
            )
        return web.go(request, f"/work/runs/{ids.encode('bulk', run.bulk_run_id)}")

    @get("/runs/{run_id:str}", opt={"scope": "payments:read", "session": True})
    async def run(
        self,
        request: Http,
        run_id: FromPath[str],
        desk: NamedDependency[Desk],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """How far a bulk run is. htmx asks for the part that moves, until it stands still."""
        caller = web.caller_of(request)
        run = await desk.run(caller, run_id)
        names = {one.public_id: one.name for one in await operators.members(caller.scope)}
        titles = {kind.code: kind.title for kind in catalogue()}
        return web.page(
            request,
            "work/progress.html" if web.is_fragment(request) else "work/run.html",
            run=run,
            run_id=run_id,
            title=TITLES[run.queue],
            who=names.get(run.asked_by, run.asked_by),
            may_act=SCOPES[run.queue][1] in caller.scopes,
            errors=[
                {"id": ids.encode(PREFIXES[run.queue], each.id), "why": titles.get(each.code, each.code)}
                for each in run.errors
            ],
            link=lambda public_id: _link(run.queue, public_id, {}),
        )

    @post("/runs/{run_id:str}/cancel", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def cancel(self, request: Http, run_id: FromPath[str], desk: NamedDependency[Desk]) -> Response[bytes]:
        """Stop a bulk run."""
        await desk.cancel(web.caller_of(request), run_id)
        said = web.say(request, "The run is canceled. What it has done stays done.")
        return web.go(request, f"/work/runs/{run_id}", said, "info")

    @get("/messages/{webhook_id:str}", opt={"scope": "psp_webhooks:read", "session": True})
    async def message(
        self,
        request: Http,
        webhook_id: FromPath[str],
        psp_webhooks: NamedDependency[PspWebhooks],
        psps: NamedDependency[PspAccounts],
    ) -> Response[bytes]:
        """One message of a PSP: what the adapter read, and the message itself."""
        caller = web.caller_of(request)
        found = await psp_webhooks.get(caller.scope, webhook_id)
        names = {one.id: one.name for one in await psps.all(caller.scope)}
        news = msgspec.json.format(msgspec.json.encode(found.news), indent=2).decode() if found.news else ""
        return web.page(
            request,
            "work/message.html",
            one=found,
            account=names.get(found.psp_account, found.psp_account),
            news=news,
            may_act="psp_webhooks:write" in caller.scopes,
        )

    @get("/deliveries/{delivery_id:str}", opt={"scope": "webhook_endpoints:read", "session": True})
    async def delivery(
        self, request: Http, delivery_id: FromPath[str], webhooks: NamedDependency[Webhooks]
    ) -> Response[bytes]:
        """One delivery of an event to an endpoint, with every try."""
        caller = web.caller_of(request)
        found = await webhooks.delivery(caller.scope, ids.decode("wd", delivery_id))
        endpoint = await webhooks.get(caller.scope, ids.decode("we", found.endpoint))
        return web.page(
            request,
            "work/delivery.html",
            one=found,
            endpoint=endpoint,
            may_act="webhook_endpoints:write" in caller.scopes,
        )

    @post("/jobs", opt={"scope": "payments:read", "session": True}, status_code=303)
    async def jobs(self, request: Http, job_queue: NamedDependency[JobQueue]) -> Response[bytes]:
        """Retry or abort background jobs: one, or all that failed."""
        form = await web.form_of(request)
        change = job_queue.abort if form.text("action") == "abort" else job_queue.retry
        done = await change(web.caller_of(request), form.text("job"), form.text("reason"))
        if not done:
            said = web.say(request, "Nothing was to be done: no such job is in that state any more.")
            return web.go(request, "/work", said, "info", queue="jobs")
        said = web.say(request, "Done, for %(count)s jobs.", count=done)
        return web.go(request, "/work", said, queue="jobs")


async def _queue_page(
    request: Http,
    queue: str,
    desk: Desk,
    job_queue: JobQueue,
    psps: PspAccounts,
    webhooks: Webhooks,
    *,
    error: InvalidRequest | None = None,
    given: dict[str, Any] | None = None,
    filters: dict[str, str] | None = None,
) -> Response[bytes]:
    """The page of a queue; with ``error`` the one on which something was forgotten, with what was typed."""
    caller = web.caller_of(request)
    asked = filters if filters is not None else {name: request.query_params.get(name, "") for name in FILTERS}
    shared: dict[str, Any] = {
        "queue": queue,
        "tabs": [(name, title) for name, title in TITLES.items() if SCOPES[name][0] in caller.scopes],
        "counts": await desk.counts(caller.scope, caller.scopes),
        "title": TITLES[queue],
        "may_act": SCOPES[queue][1] in caller.scopes,
        "filters": asked,
    }
    if queue == "syncs":
        return web.page(request, "work/syncs.html", **shared)
    if queue == "jobs":
        seen, away = None, ""
        try:
            seen = await job_queue.look(caller)
        except QueueAway as refused:
            away = refused.detail
        return web.page(request, "work/jobs.html", seen=seen, away=away, **shared)
    narrowed = narrowed_by(queue, asked)
    after = request.query_params.get("after")
    position = ids.decode(PREFIXES[queue], after) if after and error is None else None
    found = await desk.page(caller, queue, narrowed, limit=PAGE, after=position)
    rows = [_row(queue, item) for item in found.rows[:PAGE]]
    own = {name: value for name, value in asked.items() if value}
    more = len(found.rows) > PAGE
    return web.page(
        request,
        "work/rows.html" if web.is_fragment(request) else "work/queue.html",
        status=200 if error is None else error.status,
        rows=rows,
        total=found.total,
        states=STATES.get(queue, ()),
        choices=await _choices(queue, caller, psps, webhooks),
        runs=[(run, ids.encode("bulk", run.bulk_run_id)) for run in await desk.runs(caller, queue)],
        problem=error,
        given=given or {"reason": "", "items": set(), "every": False},
        next_href=web.url(request, "/work", queue=queue, after=rows[-1]["id"], **own) if more else "",
        first_href=web.url(request, "/work", queue=queue, **own) if position is not None else "",
        query=urlencode({"queue": queue, **own}),
        **shared,
    )


async def _choices(
    queue: str, caller: Caller, psps: PspAccounts, webhooks: Webhooks
) -> tuple[str, list[tuple[str, str]]]:
    """What besides the state a queue can be narrowed by, and to what: the field's name and its options."""
    if queue == "deliveries":
        endpoints = await webhooks.list(caller.scope, 100, None)
        return "endpoint", [(one.id, one.url) for one in endpoints.data]
    if queue in ("unknown", "webhooks", "rebills"):
        return "account", [(one.id, one.name) for one in await psps.all(caller.scope)]
    return "", []


_ABOUT: Final = dict.fromkeys(
    (
        "payment_id",
        "customer_id",
        "invoice_id",
        "subscription_id",
        "account",
        "url",
        "tries",
        "number",
        "readable",
        "enabled",
    )
)


def _row(queue: str, item: Any) -> dict[str, Any]:
    public_id = ids.encode(PREFIXES[queue], item.id)
    about = _ABOUT | item.about
    names = {"payment_id": "pay", "customer_id": "cus", "invoice_id": "inv", "subscription_id": "sub"}
    refers = {name: ids.encode(prefix, UUID(about[name])) if about[name] else "" for name, prefix in names.items()}
    return {
        "id": public_id,
        "item": item,
        "about": about,
        "refers": refers,
        "link": _link(queue, public_id, refers),
        "why": " ".join(part for part in (item.code, item.note) if part)[:300],
    }


def _link(queue: str, public_id: str, refers: dict[str, str]) -> str:
    """Where the thing itself is shown."""
    match queue:
        case "unknown":
            return f"/payments/{refers['payment_id']}" if refers.get("payment_id") else f"/audit?subject={public_id}"
        case "rebills":
            return f"/invoices/{public_id}"
        case "notices" if refers.get("invoice_id"):
            return f"/invoices/{refers['invoice_id']}"
        case "notices" if refers.get("customer_id"):
            return f"/customers/{refers['customer_id']}"
        case "webhooks":
            return f"/work/messages/{public_id}"
        case "deliveries":
            return f"/work/deliveries/{public_id}"
    return f"/audit?subject={public_id}"


def _query(form: web.Form, queue: str) -> dict[str, str]:
    return {"queue": queue} | {name: form.text(name) for name in FILTERS}
