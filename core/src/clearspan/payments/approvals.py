"""What one person asks for and another allows: refunds by people above ``payments.refund_second_person_above_minor``.

The limit is checked where the refund is reserved, in its transaction and under the payment's lock, so no page and no call of a
person's goes around it; parts of one payment count together. An approval and its refund are one transaction too: a payment that
changed meanwhile refuses both. API keys are not held by the limit: what a program may refund is what its scopes say.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from clearspan.payments import errors
from clearspan.payments.models import Payment
from clearspan.payments.schemas import RefundCreate, RefundOut
from clearspan.payments.search import ApprovalRow, Method, after, write_cursor
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope, system
from clearspan.platform.db import Database
from clearspan.platform.idempotency import IdempotencyKey, KeyMissing, read_key
from clearspan.platform.problems import InvalidRequest
from clearspan.settings import Settings

EXPIRES_AFTER: Final = timedelta(days=7)
REASON_MAX: Final = 500


class Request(ApprovalRow, frozen=True, kw_only=True):
    """A request with the payment as it stands now."""

    subject: Payment
    method: Method | None = None

    @property
    def still_possible(self) -> bool:
        """Whether as much is left to refund."""
        return self.amount_minor <= self.subject.refundable_minor


class RequestList(msgspec.Struct, frozen=True, kw_only=True):
    """A page, newest first."""

    data: list[Request]
    next_cursor: str | None


class _Opened(msgspec.Struct, frozen=True):
    approval: ApprovalRow | None = None
    decided: bool = True
    replay: dict[str, Any] | None = None


_LIST = msgspec.json.Decoder(list[Request])
_OPENED = msgspec.json.Decoder(_Opened)


class Approvals:
    """See the module's docstring."""

    def __init__(self, db: Database, payments: Payments, settings: Settings) -> None:
        self._db = db
        self._payments = payments
        self._settings = settings.payments

    @property
    def alone_up_to_minor(self) -> int:
        """What people may give back of one payment by themselves."""
        return self._settings.refund_second_person_above_minor

    @property
    def step_up_above_minor(self) -> int:
        """Above this a refund needs a factor given a moment ago."""
        return self._settings.refund_step_up_above_minor

    async def refund(
        self, caller: Caller, key: IdempotencyKey | None, payment_id: str, body: RefundCreate
    ) -> RefundOut | Request:
        """Refund, or ask for a second person where one may not do it alone.

        Args:
            caller, key, payment_id: as ``Payments.refund``.
            body: with an amount.

        Returns:
            the refund, or the request for it.

        Raises:
            InvalidRequest: a second person is needed, and there is no reason.
            ApprovalPending; and what ``Payments.refund`` refuses.
        """
        if key is None:
            raise KeyMissing
        try:
            answer = await self._payments.refund(caller, key, payment_id, body)
        except errors.ApprovalRequired:
            return await self._ask(caller, key, payment_id, body)
        return msgspec.json.decode(answer.body, type=RefundOut)

    async def _ask(self, caller: Caller, key: IdempotencyKey, payment_id: str, body: RefundCreate) -> Request:
        assert body.amount_minor is not None, "who asks says how much"
        if not body.reason:
            said = "Say why: a second person decides about this refund, and reads it."
            raise InvalidRequest(said, errors=[{"path": "reason", "message": said}])
        now, approval_id = clock.now(), clock.new_uuid()
        # A key of its own: the refund's was given back when the refund was refused.
        asking = read_key(key.raw, route=f"{key.route} approval", path=payment_id, body=msgspec.json.encode(body))
        assert asking is not None
        document = _document(caller) | {
            "payment_id": ids.decode("pay", payment_id),
            "approval": {
                "approval_id": approval_id,
                "amount_minor": body.amount_minor,
                "request": body,
                "reason": body.reason,
                "expires_at": now + EXPIRES_AFTER,
            },
            "idempotency": asking.document(lease_token=clock.new_uuid(), lease_until=now),
        }
        opened = _OPENED.decode(await self._db.call("approval_ask", document))
        if opened.replay is not None:
            kept: dict[str, str] = msgspec.json.decode(opened.replay["body"])
            approval_id = UUID(kept["approval_id"])
        return await self.get(caller.scope, ids.encode("apv", approval_id))

    async def approve(self, caller: Caller, approval_id: str, reason: str = "") -> tuple[Request, RefundOut]:
        """Allow a request, and refund: once, however often and by however many this is called.

        Returns:
            the request, whose ``decided_by`` says whose word counted, and the refund.

        Raises:
            ApprovalNotFound, ApprovalDecided: rejected, withdrawn or expired.
            OwnApproval: who asked cannot approve.
            what ``Payments.refund`` refuses: the payment changed; the request stays open.
        """
        request = await self.get(caller.scope, approval_id)
        if request.status == "open" and request.expires_at <= clock.now():
            raise errors.ApprovalDecided(approval_status="expired")
        if request.asked_by == caller.actor_id:
            raise errors.OwnApproval
        key = read_key(request.id, route="approval", path=request.id, body=b"")
        body = msgspec.convert(request.request, RefundCreate)
        more = {"approval_id": request.approval_id, "reason": _short(reason)}

        async def shown(refund: RefundOut) -> bytes:
            return msgspec.json.encode(refund)

        answer = await self._payments.refund_within(
            caller, key, request.subject_id, body, "approval_refund", lambda _: more, shown
        )
        return await self.get(caller.scope, approval_id), msgspec.json.decode(answer.body, type=RefundOut)

    async def reject(self, caller: Caller, approval_id: str, reason: str) -> Request:
        """Say no, with a reason.

        Raises:
            InvalidRequest: without a reason.
            ApprovalNotFound, ApprovalDecided; OwnApproval: who asked withdraws instead.
        """
        if not reason.strip():
            said = "Say why: whoever asked for it reads it."
            raise InvalidRequest(said, errors=[{"path": "reason", "message": said}])
        return await self._decide(caller, approval_id, "rejected", reason)

    async def withdraw(self, caller: Caller, approval_id: str) -> Request:
        """Take one's own request back.

        Raises:
            ApprovalNotFound, ApprovalDecided; OwnApproval: it is somebody else's.
        """
        return await self._decide(caller, approval_id, "withdrawn", "")

    async def _decide(self, caller: Caller, approval_id: str, outcome: str, reason: str) -> Request:
        document = _document(caller) | {
            "approval_id": _identity(approval_id),
            "outcome": outcome,
            "reason": _short(reason),
        }
        opened = _OPENED.decode(await self._db.call("approval_decide", document))
        assert opened.approval is not None
        if not opened.decided:
            raise errors.ApprovalDecided(approval_status=opened.approval.status)
        return await self.get(caller.scope, approval_id)

    async def get(self, scope: Scope, approval_id: str) -> Request:
        """One request.

        Raises:
            ApprovalNotFound.
        """
        document = _place(scope) | {"approval_id": _identity(approval_id), "limit": 1}
        rows = _LIST.decode(await self._db.call("approval_list", document))
        if not rows:
            raise errors.ApprovalNotFound
        return rows[0]

    async def page(self, scope: Scope, *, open_: bool, limit: int = 50, cursor: str | None = None) -> RequestList:
        """A page of what waits, or of what was decided.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        document = _place(scope) | after(cursor) | {"open": open_, "limit": limit + 1}
        rows = _LIST.decode(await self._db.call("approval_list", document))
        last = rows[limit - 1] if len(rows) > limit else None
        return RequestList(
            data=rows[:limit], next_cursor=write_cursor(last.asked_at, last.approval_id) if last is not None else None
        )


async def expire(db: Database, scope: Scope, request_id: str, most: int) -> int:
    """End requests whose time is over; returns how many."""
    document = _document(system(scope, "expiry", request_id), most) | {"most": most}
    return int(await db.call("approvals_sweep", document))


def _document(caller: Caller, expiring: int = 1) -> dict[str, Any]:
    return _place(caller.scope) | {
        "now": clock.now(),
        "actor_type": caller.actor_type,
        "actor_id": caller.actor_id,
        "key_id": caller.key_id,
        "request_id": caller.request_id,
        "event_ids": [clock.new_uuid(), clock.new_uuid(), clock.new_uuid()],
        "expiry_ids": [clock.new_uuid() for _ in range(expiring)],
    }


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


def _short(reason: str) -> str:
    return reason.strip()[:REASON_MAX]


def _identity(text: str) -> UUID:
    try:
        return ids.decode("apv", text)
    except ids.InvalidId:
        raise errors.ApprovalNotFound from None
