"""The collector: charges what is due at the pace of its PSP account, and decides what follows from a decline.

It holds no state and has no leader. A rebill is claimed under a lease, charged through ``Payments.collect`` as try
number n under an operation id that is a pure function of invoice and n, and decided upon when the charge has failed.
Whoever dies in between leaves one of three things: a lease that runs out, before anything was reserved; a charge whose
outcome recovery finds out, with the invoice locked meanwhile; or a rebill in ``decide``, which the next run decides.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import msgspec
import structlog

from clearspan.payments import caps
from clearspan.payments.caps import Refusal
from clearspan.payments.errors import RebillLeaseLost
from clearspan.payments.rows import InvoiceCharge
from clearspan.payments.service import Payments
from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope, system
from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable, DomainError
from clearspan.rebills import plans
from clearspan.rebills.models import CONFIGURATION, Action, Decision, Situation, decide, final_at
from clearspan.rebills.plans import BUILT_IN, BUILT_IN_VERSION, DunningPlan
from clearspan.settings import Settings

log = structlog.get_logger("clearspan.rebills")
PATIENCE_S = 60.0
"""One run takes new work for so long; what is left is due in the next sweep. Well below the timeout of a job."""
DECIDED_AT_ONCE = 100
BREATH_S = 0.25
"""The shortest wait for the pace: a claim takes what a quarter of a second allows, not one row at a time."""
QUIET_REASONS = frozenset({"technical", "not_sent", "configuration", "first_try", "new_method", "asked_for", "backup"})
"""Nothing to trouble the customer with: the gateway tries again by itself, and soon."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A rebill to be charged now, of ``rebills_claim``."""

    invoice_id: UUID
    number: str
    customer_id: UUID
    subscription_id: UUID
    amount_minor: int
    currency: str
    opened: bool
    tries: int
    payment_method_id: UUID | None = None
    mandate_id: UUID | None = None
    psp_account_id: UUID | None = None
    reason: str
    first_failed_at: datetime | None = None


class _Claim(msgspec.Struct, frozen=True, kw_only=True):
    rebills: list[Claimed]
    again_s: float | None = None
    diverted: int = 0


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    plan_id: UUID
    version: int
    plan: DunningPlan


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision about one rebill depends on, of ``rebill_situations``."""

    invoice_id: UUID
    sequence: int
    state: str
    psp_account_id: UUID | None = None
    dunning_version: int
    held_out: bool
    plan: _Plan | None = None
    situation: Situation

    def complete(self, refused: DomainError | None) -> Situation:
        """With the plan it goes by and what a charge was refused with."""
        plan = self.plan.plan if self.plan is not None else BUILT_IN
        held = self.held_out if self.dunning_version else plans.held_out(plan, self.invoice_id)
        cap = self.situation.cap
        if cap is None and refused is not None and refused.code in ("retry_cap_reached", "card_stopped"):
            cap = msgspec.convert({"code": refused.code} | refused.fields, Refusal, strict=False)
        return msgspec.structs.replace(
            self.situation, plan=plan, held_out=held, refused=refused.code if refused else None, cap=cap
        )


class _Stored(msgspec.Struct, frozen=True):
    stored: bool
    state: str | None = None


_CLAIM = msgspec.json.Decoder(_Claim)
_FOUND = msgspec.json.Decoder(list[Found])


class Collector:
    """Collects the invoices of one tenant and mode at a time."""

    def __init__(self, db: Database, payments: Payments, settings: Settings) -> None:
        self._db = db
        self._payments = payments
        self._settings = settings.rebills

    async def collect(
        self,
        scope: Scope,
        request_id: str,
        *,
        at: datetime | None = None,
        test_clock_id: UUID | None = None,
        most: int | None = None,
    ) -> int:
        """Charge what is due and decide what waits for a decision, until nothing is due or ``PATIENCE_S`` is over.

        Args:
            scope: whose.
            request_id: of the run.
            at: the moment to work for; default: now, as it moves on. A test clock's own time with ``test_clock_id``.
            test_clock_id: only what hangs on this clock; default: only what hangs on none.
            most: charges begun at most.

        Returns:
            how many charges were begun and decisions made.
        """
        run = _Run(self._db, self._payments, self._settings, system(scope, "collector", request_id), at, test_clock_id)
        return await run.work(most)


class _Run:
    """One run: a caller and a moment."""

    def __init__(
        self,
        db: Database,
        payments: Payments,
        settings: Any,
        caller: Caller,
        at: datetime | None,
        test_clock_id: UUID | None,
    ) -> None:
        self._db = db
        self._payments = payments
        self._settings = settings
        self._caller = caller
        self._at = at
        self._clock = test_clock_id
        self._lease = clock.new_uuid()

    async def work(self, most: int | None) -> int:
        ends_at = clock.monotonic() + PATIENCE_S
        done, begun = 0, 0
        running: set[asyncio.Task[int]] = set()
        failed: BaseException | None = None
        while True:
            decided = await self.decide_due()
            claim = _Claim(rebills=[])
            room = self._settings.charges_max - len(running)
            if most is not None:
                room = min(room, most - begun)
            if room > 0 and failed is None and clock.monotonic() < ends_at:
                claim = await self.claim(room)
            done, begun = done + decided, begun + len(claim.rebills)
            running |= {asyncio.create_task(self.charge(one)) for one in claim.rebills}
            pause = max(claim.again_s, BREATH_S) if claim.again_s is not None else None
            if running:
                # With room and more due there is a next batch as soon as the pace allows; else a charge has to end first.
                ended, running = await asyncio.wait(
                    running, timeout=pause if room > 0 else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in ended:
                    error = task.exception()
                    failed = failed or error
                    done += 0 if error else task.result()
            elif failed is not None:
                raise failed
            elif pause is not None and room > 0 and clock.monotonic() < ends_at:
                await clock.sleep(pause)
            elif decided < DECIDED_AT_ONCE and not claim.rebills and not claim.diverted:
                return done

    async def claim(self, most: int) -> _Claim:
        """Due rebills under this run's lease, no more than the pace allows."""
        document = self._document() | {
            "most": most,
            "lease_token": self._lease,
            "lease_s": self._settings.lease_s,
            "rate_per_s": self._settings.rate_per_account_s,
            "card_expiring_days": BUILT_IN.card_expiring_days,
        }
        return _CLAIM.decode(await self._db.call("rebills_claim", document))

    async def charge(self, one: Claimed) -> int:
        """One try, and the decision when it has failed; returns 1, or 0 when somebody else has it by now."""
        moment = self._moment()
        refused: DomainError | None = None
        if one.payment_method_id is not None and one.mandate_id is not None:
            try:
                await self._payments.collect(self._caller, self._as_charge(one, moment))
            except RebillLeaseLost:
                return 0
            except DatabaseUnavailable:
                raise
            except DomainError as error:
                refused = error
        # A charge that is still under way is decided upon when its outcome is there.
        for found in await self.situations([one.invoice_id]):
            if found.state in ("claimed", "decide"):
                await self.store(found, refused)
        return 1

    def _as_charge(self, one: Claimed, moment: datetime) -> InvoiceCharge:
        assert one.payment_method_id is not None
        number = one.tries + 1
        delay = moment - one.first_failed_at if one.first_failed_at else timedelta(0)
        return InvoiceCharge(
            invoice_id=one.invoice_id,
            number=one.number,
            payment_id=uuid5(one.invoice_id, "payment"),
            opened=one.opened,
            operation_id=uuid5(one.invoice_id, f"try {number}"),
            amount_minor=one.amount_minor,
            currency=one.currency,
            customer_id=one.customer_id,
            payment_method_id=one.payment_method_id,
            customer_present=False,
            mandate_id=one.mandate_id,
            psp_account_id=one.psp_account_id,
            clock_at=self._at if self._clock is not None else None,
            rebill={
                "lease_token": self._lease,
                "try": number,
                "reason": one.reason,
                "delay_s": max(0, int(delay.total_seconds())),
            },
            description=f"Invoice {one.number}",
        )

    async def decide_due(self) -> int:
        """Decide what waits for it; what a run that died has left among it."""
        found = await self.situations(None)
        for one in found:
            await self.store(one, None)
        return len(found)

    async def situations(self, invoices: list[UUID] | None) -> list[Found]:
        """What decisions depend on, of these or of those that are due."""
        document = self._document() | {"caps": caps.at(self._moment()), "most": DECIDED_AT_ONCE}
        if invoices is not None:
            document["ids"] = invoices
        return _FOUND.decode(await self._db.call("rebill_situations", document))

    async def store(self, found: Found, refused: DomainError | None) -> None:
        """Decide, and store it unless the rebill has moved on."""
        situation = found.complete(refused)
        decision = decide(situation)
        asked = decision.action is Action.ASK_CUSTOMER
        first_failed = situation.first_failed_at or (situation.now if asked else None)
        document = self._document() | {
            "invoice_id": found.invoice_id,
            "sequence": found.sequence,
            "lease_token": self._lease,
            "decision": decision,
            "first_failed_at": first_failed,
            "final_at": first_failed and final_at(first_failed, situation.time_zone, situation.plan),
            "dunning_plan_id": found.plan.plan_id if found.plan else None,
            "dunning_version": found.plan.version if found.plan else BUILT_IN_VERSION,
            "held_out": situation.held_out,
            "notices": notices(situation, decision, first_failed),
            "failed": asked,
        }
        # A test clock's hours are not the account's.
        if decision.reason == "configuration" and self._clock is None:
            document["block"] = {"psp_account_id": found.psp_account_id, "until": clock.now() + CONFIGURATION}
            log.error(
                "a PSP refuses the merchant's account: its rebills rest",
                psp_account_id=str(found.psp_account_id),
                code=decision.code,
            )
        for _ in range(3):
            try:
                stored = msgspec.json.decode(await self._db.call("rebill_decide", document), type=_Stored)
                break
            except asyncpg.TransactionRollbackError:  # Two locks met: whoever lost asks again.
                continue
        else:
            return  # It stays due: the next run decides.
        if stored.stored:
            log.info("decided", invoice_id=str(found.invoice_id), action=decision.action, reason=decision.reason)

    def _moment(self) -> datetime:
        return self._at or clock.now()

    def _document(self) -> dict[str, Any]:
        scope = self._caller.scope
        now = clock.now()
        return {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "now": now,
            "at": self._at or now,
            "test_clock_id": self._clock,
            "actor_type": self._caller.actor_type,
            "actor_id": self._caller.actor_id,
            "request_id": self._caller.request_id,
        }


def notices(situation: Situation, decision: Decision, first_failed: datetime | None) -> list[dict[str, Any]]:
    """What the customer is told because of a decision; the same reason is told once."""
    asked = decision.action is Action.ASK_CUSTOMER
    if first_failed is None or not (asked or decision.action is Action.RETRY_AT) or decision.reason in QUIET_REASONS:
        return []
    invoice, days = situation.invoice_id, situation.plan.reminder_days
    told: list[dict[str, Any]] = []
    if asked:
        told.append({"kind": "action_needed", "dedupe": f"action_needed:{invoice}:{decision.tries}"})
    elif 0 in days:
        told.append({"kind": "payment_failed", "dedupe": f"payment_failed:{invoice}"})
    told = [one | {"due_at": situation.now} for one in told]
    later = [(day, first_failed + timedelta(days=day)) for day in days if day > 0]
    told += [
        {"kind": "reminder", "dedupe": f"reminder:{invoice}:{day}", "due_at": due}
        for day, due in later
        if due > situation.now
    ]
    return told
