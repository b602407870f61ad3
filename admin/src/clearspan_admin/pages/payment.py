"""One payment: what happened, at the PSP and here, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.errors import StepUpRequired
from clearspan.access.operators import Operators
from clearspan.access.sessions import Sessions
from clearspan.customers.service import Customers
from clearspan.payments import errors
from clearspan.payments.approvals import Approvals, Request
from clearspan.payments.schemas import DecisionCreate, PaymentCancel, PaymentCapture, RefundCreate, SurplusRelease
from clearspan.payments.search import DecisionRow, Fact, Happened, PaymentSearch, View
from clearspan.payments.service import Payments
from clearspan.platform import ids
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.sdk import DECLINES
from clearspan.webhooks.service import Webhooks
from clearspan_admin import typed, web
from clearspan_admin.shown import Shown
from clearspan_admin.web import Form, Http
from clearspan_admin.words import mark

OPEN: Final = ("prepared", "submitted", "requires_action", "pending", "unknown", "needs_review")
_REASON_MAX: Final = 200
_DECISION_MIN: Final = 10
_DECISION_MAX: Final = 1000
Outcome = Literal["succeeded", "declined", "not_charged", "withdraw"]

_DONE: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("capture", "succeeded"): (mark("Captured %(amount)s."), "good"),
    ("capture", "declined"): (mark("The PSP refused to capture %(amount)s: %(why)s"), "bad"),
    ("void", "succeeded"): (mark("Released what was authorised: %(amount)s."), "good"),
    ("void", "declined"): (mark("The PSP refused to release %(amount)s: %(why)s"), "bad"),
    ("refund", "succeeded"): (mark("Refunded %(amount)s."), "good"),
    ("refund", "declined"): (mark("The PSP refused to refund %(amount)s: %(why)s"), "bad"),
}
_PENDING: Final = mark("The PSP took it and will decide later.")
_UNKNOWN: Final = mark("The PSP gave no clear answer. It is being found out; do not do it again elsewhere.")
_NOT_SENT: Final = mark("Nothing was sent: the PSP could not be reached. You can try again.")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the timeline: an operation with both sides, or something that happened to the payment.

    Attributes:
        at: when it began.
        operation: with ``facts`` (what the PSP said, and when) beside ``events`` (what became of it here).
        event: without an operation.
    """

    at: datetime
    operation: Any = None
    facts: Sequence[Fact] = ()
    events: Sequence[Happened] = ()
    decision: DecisionRow | None = None
    event: Happened | None = None


class PaymentController(Controller):
    """See the module's docstring."""

    path = "/payments/{payment_id:str}"

    # -- Looking ------------------------------------------------------------------------------------------------------------

    @get(opt={"scope": "payments:read", "session": True})
    async def show(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        operators: NamedDependency[Operators],
        customers: NamedDependency[Customers],
    ) -> Response[bytes]:
        """The whole story: four round trips to the database besides the session's."""
        scope = web.caller_of(request).scope
        view = await payment_search.view(scope, payment_id)
        person = None
        if view.payment.customer_id is not None and "customers:read" in web.who(request).scopes:
            person = (await customers.personal_of(scope, [view.payment.customer_id])).get(view.payment.customer_id)
        unsettled = any(one.state in OPEN[:-1] for one in view.operations)
        context: dict[str, Any] = {
            "view": view,
            "id": payment_id,
            "steps": steps(view),
            "person": person,
            "names": await names(operators, request),
            "declines": DECLINES,
            "pending": [one for one in view.approvals if one.status == "open"],
            "unsettled": unsettled,
            "pretty": pretty,
            "ids": ids,
        }
        if not web.is_fragment(request):
            return web.page(request, "payments/payment.html", **context)
        # What was open is known now: other buttons belong to it.
        headers = {} if unsettled else {"HX-Refresh": "true"}
        return web.page(request, "payments/story.html", headers=headers, **context)

    # -- Refund -------------------------------------------------------------------------------------------------------------

    @get("/refund", opt={"scope": "payments:write", "session": True})
    async def refund_form(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        approvals: NamedDependency[Approvals],
    ) -> Response[bytes]:
        """How much, and why."""
        view = await payment_search.view(web.caller_of(request).scope, payment_id)
        return _form(request, view, "refund", left=view.payment.refundable_minor, limit=approvals.alone_up_to_minor)

    @post("/refund", opt={"scope": "payments:write", "session": True}, status_code=200)
    async def refund(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        approvals: NamedDependency[Approvals],
        sessions: NamedDependency[Sessions],
    ) -> Response[bytes]:
        """Show what will be done, and with ``sure`` do it."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        sure, left = form.has("sure"), view.payment.refundable_minor
        more: dict[str, Any] = {"left": left, "limit": approvals.alone_up_to_minor}
        # With the key of a refund that was made already, the same answer is given: less is left by now.
        amount, problem = _amount(request, form, view.payment.currency, None if sure else left)
        if problem is None and len(form.text("reason")) > _REASON_MAX:
            problem = "reason", web.say(request, "A reason has %(most)s characters at most.", most=_REASON_MAX)
        if problem is not None:
            return _form(request, view, "refund", form, problem, **more)
        if amount > approvals.step_up_above_minor and not sessions.is_strong(web.who(request)):
            raise StepUpRequired
        if not sure:
            return _form(request, view, "refund", form, amount=amount, sure=True, **more)
        body = RefundCreate(amount_minor=amount, reason=form.text("reason") or None)
        try:
            done = await approvals.refund(caller, web.idempotency(request, form), payment_id, body)
        except DomainError as refused:
            return _form(request, view, "refund", form, ("amount", said_of(request, refused)), **more)
        if isinstance(done, Request):
            shown = shown_to(request).money(done.amount_minor, done.currency)
            said = web.say(request, "%(amount)s need a second person. Your request waits for approval.", amount=shown)
            return web.go(request, f"/payments/{payment_id}", said, "info")
        return await self._told(request, payment_search, payment_id, "refund")

    # -- Capture and cancel -------------------------------------------------------------------------------------------------

    @get("/capture", opt={"scope": "payments:write", "session": True})
    async def capture_form(
        self, request: Http, payment_id: FromPath[str], payment_search: NamedDependency[PaymentSearch]
    ) -> Response[bytes]:
        """How much."""
        view = await payment_search.view(web.caller_of(request).scope, payment_id)
        return _form(request, view, "capture", left=view.payment.capturable_minor)

    @post("/capture", opt={"scope": "payments:write", "session": True}, status_code=200)
    async def capture(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        payments: NamedDependency[Payments],
    ) -> Response[bytes]:
        """Show what will be done, and with ``sure`` do it."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        sure, left = form.has("sure"), view.payment.capturable_minor
        amount, problem = _amount(request, form, view.payment.currency, None if sure else left)
        if problem is not None:
            return _form(request, view, "capture", form, problem, left=left)
        if not sure:
            return _form(request, view, "capture", form, amount=amount, sure=True, left=left)
        body = PaymentCapture(amount_minor=amount, final=form.has("final"))
        try:
            await payments.capture(caller, web.idempotency(request, form), payment_id, body)
        except DomainError as refused:
            return _form(request, view, "capture", form, ("amount", said_of(request, refused)), left=left)
        return await self._told(request, payment_search, payment_id, "capture")

    @get("/cancel", opt={"scope": "payments:write", "session": True})
    async def cancel_form(
        self, request: Http, payment_id: FromPath[str], payment_search: NamedDependency[PaymentSearch]
    ) -> Response[bytes]:
        """Why."""
        view = await payment_search.view(web.caller_of(request).scope, payment_id)
        return _form(request, view, "cancel", left=view.payment.capturable_minor)

    @post("/cancel", opt={"scope": "payments:write", "session": True}, status_code=200)
    async def cancel(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        payments: NamedDependency[Payments],
    ) -> Response[bytes]:
        """Close it, or release what is authorised."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        left = view.payment.capturable_minor
        if len(form.text("reason")) > _REASON_MAX:
            said = web.say(request, "A reason has %(most)s characters at most.", most=_REASON_MAX)
            return _form(request, view, "cancel", form, ("reason", said), left=left)
        body = PaymentCancel(reason=form.text("reason") or None)
        try:
            answer = await payments.cancel(caller, web.idempotency(request, form), payment_id, body)
        except DomainError as refused:
            return _form(request, view, "cancel", form, ("reason", said_of(request, refused)), left=left)
        found = web.answered(answer)
        if found["status"] == "processing" and found["cancel_requested_at"]:
            said = web.say(request, "The outcome is open. It is canceled as soon as it is known.")
            return web.go(request, f"/payments/{payment_id}", said, "info")
        if not any(one.kind == "void" for one in view.operations) and left == 0 and found["status"] == "canceled":
            return web.go(request, f"/payments/{payment_id}", web.say(request, "The payment is canceled."))
        return await self._told(request, payment_search, payment_id, "void")

    # -- What is open -------------------------------------------------------------------------------------------------------

    @post("/look/{operation_id:str}", opt={"scope": "payments:write", "session": True}, status_code=303)
    async def look(
        self,
        request: Http,
        payment_id: FromPath[str],
        operation_id: FromPath[str],
        payments: NamedDependency[Payments],
        payment_search: NamedDependency[PaymentSearch],
    ) -> Response[bytes]:
        """Ask the PSP now."""
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        before = {ids.encode("op", one.operation_id): one.state for one in view.operations}
        try:
            asked = await payments.look_now(caller, payment_id, operation_id)
        except (errors.NothingToLookUp, errors.InProgress) as refused:
            return web.go(request, f"/payments/{payment_id}", said_of(request, refused), "info")
        view = await payment_search.view(caller.scope, payment_id)
        after = {ids.encode("op", one.operation_id): one.state for one in view.operations}
        if not asked:
            said, tone = web.say(request, "The PSP has not answered yet; the page shows it when it has."), "info"
        elif after[operation_id] == before.get(operation_id):
            said, tone = web.say(request, "The PSP was asked and has nothing new."), "info"
        else:
            said, tone = web.say(request, "The PSP was asked, and the outcome is known better now."), "good"
        return web.go(request, f"/payments/{payment_id}", said, tone)

    @get("/decide/{operation_id:str}", opt={"scope": "payments:decide", "session": True})
    async def decide_form(
        self,
        request: Http,
        payment_id: FromPath[str],
        operation_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """What became of it, and how do you know?"""
        view = await payment_search.view(web.caller_of(request).scope, payment_id)
        return await self._decision(request, view, operation_id, operators)

    @post(
        "/decide/{operation_id:str}",
        opt={"scope": "payments:decide", "session": True, "step_up": True},
        status_code=200,
    )
    async def decide(
        self,
        request: Http,
        payment_id: FromPath[str],
        operation_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        operators: NamedDependency[Operators],
        payments: NamedDependency[Payments],
    ) -> Response[bytes]:
        """Settle by a person's word what nobody could find out; above the limit by two."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        outcome, reason = form.text("outcome"), form.text("reason")
        if outcome not in ("succeeded", "declined", "not_charged", "withdraw"):
            problem = "outcome", web.say(request, "Say what became of it.")
        elif not _DECISION_MIN <= len(reason) <= _DECISION_MAX:
            problem = (
                "reason",
                web.say(
                    request,
                    "Say in %(least)s to %(most)s characters how you know.",
                    least=_DECISION_MIN,
                    most=_DECISION_MAX,
                ),
            )
        elif len(form.text("psp_reference")) > 500:
            problem = "psp_reference", web.say(request, "That is too long for a reference.")
        else:
            problem = None
        if problem is not None:
            return await self._decision(request, view, operation_id, operators, form, problem)
        word: Outcome = outcome  # type: ignore[assignment]  # checked above
        body = DecisionCreate(outcome=word, reason=reason, psp_reference=form.text("psp_reference") or None)
        try:
            answer = await payments.decide(caller, web.idempotency(request, form), payment_id, operation_id, body)
        except errors.NotInReview:
            return await self._too_late(request, payment_search, payment_id, operation_id, operators)
        except (errors.DecisionConflict, errors.SecondPersonRequired, errors.DecisionNotFound) as refused:
            view = await payment_search.view(caller.scope, payment_id)
            return await self._decision(
                request, view, operation_id, operators, form, ("outcome", said_of(request, refused))
            )
        said = {
            "proposed": web.say(request, "Your word is kept. A second person must say the same."),
            "applied": web.say(request, "The outcome is decided."),
            "withdrawn": web.say(request, "The proposal is withdrawn."),
        }
        state = web.answered(answer)["state"]
        return web.go(request, f"/payments/{payment_id}", said[state], "info" if state == "proposed" else "good")

    @get("/release", opt={"scope": "payments:decide", "session": True})
    async def release_form(
        self, request: Http, payment_id: FromPath[str], payment_search: NamedDependency[PaymentSearch]
    ) -> Response[bytes]:
        """Why."""
        view = await payment_search.view(web.caller_of(request).scope, payment_id)
        return _form(request, view, "release", left=view.payment.surplus_minor)

    @post("/release", opt={"scope": "payments:decide", "session": True}, status_code=200)
    async def release(
        self,
        request: Http,
        payment_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        payments: NamedDependency[Payments],
    ) -> Response[bytes]:
        """Give back a charge that arrived although it had been given up."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        reason = form.text("reason")
        if not 3 <= len(reason) <= _REASON_MAX:
            said = web.say(request, "Give a reason of 3 to %(most)s characters.", most=_REASON_MAX)
            return _form(request, view, "release", form, ("reason", said), left=view.payment.surplus_minor)
        try:
            await payments.release_surplus(
                caller, web.idempotency(request, form), payment_id, SurplusRelease(reason=reason)
            )
        except errors.WithoutSurplus as refused:
            return web.go(request, f"/payments/{payment_id}", said_of(request, refused), "info")
        return web.go(request, f"/payments/{payment_id}", web.say(request, "The surplus is given back now."))

    @post("/resend/{delivery_id:str}", opt={"scope": "webhook_endpoints:write", "session": True}, status_code=303)
    async def resend(
        self,
        request: Http,
        payment_id: FromPath[str],
        delivery_id: FromPath[str],
        payment_search: NamedDependency[PaymentSearch],
        webhooks: NamedDependency[Webhooks],
    ) -> Response[bytes]:
        """Send one of this payment's webhooks again."""
        form = await web.form_of(request)
        caller = web.caller_of(request)
        view = await payment_search.view(caller.scope, payment_id)
        found = next((one for one in view.deliveries if one.id == delivery_id), None)
        if found is None:
            raise errors.PaymentNotFound
        try:
            await webhooks.replay(caller, web.idempotency(request, form), found.delivery_id)
        except DomainError as refused:
            return web.go(request, f"/payments/{payment_id}", said_of(request, refused), "bad")
        return web.go(request, f"/payments/{payment_id}", web.say(request, "The webhook is sent again."))

    # -- Inside -------------------------------------------------------------------------------------------------------------

    async def _told(self, request: Http, search: PaymentSearch, payment_id: str, kind: str) -> Response[bytes]:
        """Back to the payment, with what became of its newest operation of a kind."""
        view = await search.view(web.caller_of(request).scope, payment_id)
        done = next((one for one in reversed(view.operations) if one.kind == kind), None)
        if done is None:
            return web.go(request, f"/payments/{payment_id}")
        if done.state in ("unknown", "needs_review"):
            said, tone = web.say(request, _UNKNOWN), "info"
        elif done.state in OPEN:
            said, tone = web.say(request, _PENDING), "info"
        elif (kind, done.state.value) in _DONE:
            text, tone = _DONE[kind, done.state.value]
            why = (
                web.say(request, DECLINES[done.code].meaning)
                if done.code in DECLINES
                else done.code or done.message or ""
            )
            said = web.say(request, text, amount=shown_to(request).money(done.amount_minor, done.currency), why=why)
        else:
            said, tone = web.say(request, _NOT_SENT), "bad"
        return web.go(request, f"/payments/{payment_id}", said, tone)

    async def _decision(
        self,
        request: Http,
        view: View,
        operation_id: str,
        operators: Operators,
        form: Form | None = None,
        problem: tuple[str, str] | None = None,
    ) -> Response[bytes]:
        operation = next((one for one in view.operations if ids.encode("op", one.operation_id) == operation_id), None)
        if operation is None:
            raise errors.OperationNotFound
        proposed = next(
            (one for one in view.decisions if one.operation_id == operation.operation_id and one.state == "proposed"),
            None,
        )
        context: dict[str, Any] = {
            "operation": operation,
            "shown_id": operation_id,
            "proposed": proposed,
            "names": await names(operators, request),
        }
        return _form(request, view, "decide", form, problem, left=operation.amount_minor, **context)

    async def _too_late(
        self, request: Http, search: PaymentSearch, payment_id: str, operation_id: str, operators: Operators
    ) -> Response[bytes]:
        """Somebody, or the PSP, was faster: say who and what."""
        view = await search.view(web.caller_of(request).scope, payment_id)
        applied = next(
            (
                one
                for one in view.decisions
                if one.state == "applied" and ids.encode("op", one.operation_id) == operation_id
            ),
            None,
        )
        if applied is None:
            said = web.say(request, "It was found out meanwhile; nobody has to decide. Nothing was changed.")
        else:
            who = applied.confirmed_by or applied.proposed_by
            known = await names(operators, request)
            said = web.say(
                request,
                "%(who)s decided it a moment ago: %(outcome)s. Nothing was changed.",
                who=known.get(who, who),
                outcome=web.say(request, _OUTCOMES[applied.outcome]),
            )
        return web.go(request, f"/payments/{payment_id}", said, "info")


_OUTCOMES: Final[Mapping[str, str]] = {
    "succeeded": mark("it succeeded"),
    "declined": mark("it was declined"),
    "not_charged": mark("nothing was charged"),
}


def steps(view: View) -> list[Step]:
    """The timeline, oldest first: operations with both their sides, and what happened to the payment besides."""
    of_operation: dict[UUID, list[Happened]] = {one.operation_id: [] for one in view.operations}
    alone: list[Happened] = []
    for event in view.audit:
        told = event.data.get("operation_id")
        subject = (
            event.subject_id if event.subject_id in of_operation else UUID(told) if isinstance(told, str) else None
        )
        if subject in of_operation and not event.type.startswith("approval."):
            of_operation[subject].append(event)
        else:
            alone.append(event)
    made = [Step(at=event.at, event=event) for event in alone]
    for operation in view.operations:
        proposed = (
            one for one in view.decisions if one.operation_id == operation.operation_id and one.state == "proposed"
        )
        made.append(
            Step(
                at=operation.created_at,
                operation=operation,
                facts=[fact for fact in view.facts if fact.operation_id == operation.operation_id],
                events=of_operation[operation.operation_id],
                decision=next(proposed, None),
            )
        )
    return sorted(made, key=lambda step: (step.at, step.operation is not None))


async def names(operators: Operators, request: Http) -> dict[str, str]:
    """The tenant's people, by public id."""
    members = await operators.members(web.caller_of(request).scope)
    return {one.public_id: one.name for one in members}


def pretty(raw: Any) -> str:
    """A PSP's message, to be read by people."""
    return msgspec.json.format(msgspec.json.encode(raw), indent=2).decode()


def _form(
    request: Http,
    view: View,
    what: str,
    form: Form | None = None,
    problem: tuple[str, str] | None = None,
    *,
    left: int,
    amount: int | None = None,
    sure: bool = False,
    **context: Any,
) -> Response[bytes]:
    currency = view.payment.currency
    locale = web.who(request).operator.locale
    given = dict(form.pairs) if form is not None else {"amount": typed.plain(left, currency, locale)}
    return web.page(
        request,
        "payments/act.html",
        status=422 if problem else 200,
        what=what,
        view=view,
        id=ids.encode("pay", view.payment.payment_id),
        left=left,
        given=given,
        problem=dict([problem] if problem else []),
        amount=amount,
        sure=sure,
        **{"limit": None, "operation": None, "shown_id": "", "proposed": None, "names": {}} | context,
    )


def _amount(request: Http, form: Form, currency: str, left: int | None) -> tuple[int, tuple[str, str] | None]:
    """What was typed, in minor units, and what is wrong with it. ``left``: no more than that."""
    locale = web.who(request).operator.locale
    try:
        amount = typed.minor(form.text("amount"), currency, locale)
    except typed.NotRead:
        example = typed.plain(1234, currency, locale)
        text = "Give an amount in %(currency)s such as %(example)s."
        return 0, ("amount", web.say(request, text, currency=currency, example=example))
    if amount <= 0:
        return 0, ("amount", web.say(request, "Give an amount above zero."))
    if left is not None and amount > left:
        text = "That is more than what is left: %(left)s."
        return 0, ("amount", web.say(request, text, left=shown_to(request).money(left, currency)))
    return amount, None


def said_of(request: Http, refused: DomainError) -> str:
    """A refusal in the operator's language, as far as there is one; what the service says of this case goes along."""
    title = web.say(request, refused.title)
    if isinstance(refused, InvalidRequest):
        return web.say(request, refused.detail)
    available = refused.fields.get("available_minor")
    if isinstance(available, int):
        left = shown_to(request).money(available, refused.fields.get("currency", "EUR"))
        return f"{title}. " + web.say(request, "Left: %(left)s.", left=left)
    return f"{title}. {web.say(request, refused.detail)}"


def shown_to(request: Http) -> Shown:
    """How this person sees amounts and moments."""
    operator = web.who(request).operator
    return Shown(operator.locale, operator.timezone)
