"""Figures of a tenant: today, and the payments that a list shows.

``today`` is one call of SQL whose cost is that of what happened today and yesterday, by the indexes on time of payments and
ledger; everything that waits is counted by partial indexes and up to a bound (docs/performance.md has figures). An answer is kept
(``KEEP_S``, or ``KEEP_TIMES`` times as long as it took), and askers meanwhile share it: however many people look, a process asks
at most every four seconds per tenant, mode and zone, and spends at most a twentieth of one connection on it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.psps.service import PspAccounts
from clearspan.reports.schemas import (
    AccountHealth,
    PaymentRow,
    Queue,
    RebillsToday,
    Rows,
    Tally,
    Today,
    Volume,
)

KEEP_S = 4.0
KEEP_TIMES = 20.0
COUNT_MAX = 1_000
"""What waits is counted up to here."""
_KEPT_MAX = 1_000
_PAID = "succeeded"
_FAILED = frozenset({"declined", "expired", "not_sent", "not_charged"})


class _Money(msgspec.Struct, frozen=True):
    today: bool
    hour: int
    currency: str
    captured_minor: int | None
    refunded_minor: int | None
    refunds: int


class _Payments(msgspec.Struct, frozen=True):
    today: bool
    hour: int
    currency: str
    psp_account_id: UUID | None
    tried: int
    succeeded: int
    declined: int
    unclear: int

    @property
    def tally(self) -> Tally:
        return Tally(self.tried, self.succeeded, self.declined, self.unclear)


class _Account(msgspec.Struct, frozen=True):
    psp_account_id: UUID
    psp: str
    name: str
    enabled: bool
    blocked_until: datetime | None
    blocked_because: str | None


class _Tries(msgspec.Struct, frozen=True):
    first: bool
    state: str
    count: int


class _Counted(msgspec.Struct, frozen=True, kw_only=True):
    money: list[_Money]
    payments: list[_Payments]
    accounts: list[_Account]
    unknown: Queue
    needs_review: Queue
    parked: Queue
    deliveries: Queue
    endpoints: int
    notices: Queue
    disputes: Queue
    disputes_to_answer: Queue
    approvals: Queue
    rebills_due: int
    rebills: list[_Tries]


_COUNTED = msgspec.json.Decoder(_Counted)
_ROWS = msgspec.json.Decoder(Rows)
_Key = tuple[Scope, str, str | None]


class Reports:
    """See the module's docstring.

    Args:
        db: the database.
        psps: knows how each account does in this process.
    """

    def __init__(self, db: Database, psps: PspAccounts) -> None:
        self._db = db
        self._psps = psps
        self._kept: dict[_Key, tuple[float, Today]] = {}
        self._asking: defaultdict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def today(self, scope: Scope, zone: str, currency: str | None = None) -> Today:
        """The day so far.

        Args:
            scope: whose.
            zone: an IANA name; its midnight begins the day.
            currency: only payments and money of it; what waits is counted whatever its currency.
        """
        key = (scope, zone, currency)
        async with self._asking[key]:
            kept = self._kept.get(key)
            if kept is not None and kept[0] > clock.monotonic():
                return kept[1]
            began = clock.monotonic()
            found = await self._today(scope, ZoneInfo(zone), currency)
            ended = clock.monotonic()
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
                self._asking.clear()
            self._kept[key] = (ended + max(KEEP_S, KEEP_TIMES * (ended - began)), found)
            return found

    async def newest(self, scope: Scope, most: int) -> Rows:
        """The newest payments, and the event from which a stream goes on."""
        return _ROWS.decode(await self._db.call("report_rows", _place(scope) | {"most": most}))

    async def rows(self, scope: Scope, payment_ids: Sequence[UUID]) -> dict[UUID, PaymentRow]:
        """Payments by id as they are now; those that do not exist are left out."""
        if not payment_ids:
            return {}
        found = _ROWS.decode(await self._db.call("report_rows", _place(scope) | {"ids": list(payment_ids)}))
        return {row.payment_id: row for row in found.rows}

    async def _today(self, scope: Scope, zone: ZoneInfo, currency: str | None) -> Today:
        now = clock.now()
        bounds = Bounds.of(now, zone)
        document = _place(scope) | {
            "now": now,
            "hours": bounds.hours,
            "ended": bounds.ended,
            "yesterday": {"from": bounds.before, "until": bounds.before_until},
            "most": COUNT_MAX,
        }
        if currency is not None:
            document["currency"] = currency
        found = _COUNTED.decode(await self._db.call("report_today", document))
        passed = sum(hour <= now for hour in bounds.hours)
        mine = [one for one in found.payments if one.today]
        return Today(
            day=now.astimezone(zone).date(),
            at=now,
            hours=bounds.hours[:passed],
            volumes=_volumes(found, passed),
            payments=_sum(mine),
            before=_sum([one for one in found.payments if not one.today]),
            tried_by_hour=[sum(one.tried for one in mine if one.hour == hour) for hour in range(passed)],
            declined_by_hour=[sum(one.declined for one in mine if one.hour == hour) for hour in range(passed)],
            rebills=_rebills(found),
            accounts=[self._health(one, mine) for one in found.accounts],
            unknown=found.unknown,
            needs_review=found.needs_review,
            parked=found.parked,
            deliveries=found.deliveries,
            endpoints_off=found.endpoints,
            notices=found.notices,
            disputes=found.disputes,
            disputes_to_answer=found.disputes_to_answer,
            approvals=found.approvals,
        )

    def _health(self, account: _Account, payments: Sequence[_Payments]) -> AccountHealth:
        circuits, problem = self._psps.seen(account.psp_account_id)
        return AccountHealth(
            id=ids.encode("acct", account.psp_account_id),
            psp=account.psp,
            name=account.name,
            enabled=account.enabled,
            blocked_until=account.blocked_until,
            blocked_because=account.blocked_because,
            tally=_sum([one for one in payments if one.psp_account_id == account.psp_account_id]),
            circuits=circuits,
            problem=problem,
        )


class Bounds(msgspec.Struct, frozen=True):
    """A day in a zone, as UTC moments.

    Attributes:
        hours: the beginnings of its hours, the first being midnight (or the first moment that exists); 23 to 25.
        ended: the next midnight.
        before: yesterday's midnight.
        before_until: yesterday at the same time of day, so that two days are compared at the same length.
    """

    hours: list[datetime]
    ended: datetime
    before: datetime
    before_until: datetime

    @classmethod
    def of(cls, now: datetime, zone: ZoneInfo) -> Bounds:
        """The day of a moment."""
        local = now.astimezone(zone)
        today, yesterday = local.date(), local.date() - timedelta(days=1)

        def moment(day: Any, at: time) -> datetime:
            return datetime.combine(day, at, zone).astimezone(now.tzinfo)

        begun, ended = moment(today, time()), moment(today + timedelta(days=1), time())
        # Counted in UTC: an hour that a zone skips is not there, one that it repeats is there twice.
        hours = [begun + timedelta(hours=each) for each in range(25) if begun + timedelta(hours=each) < ended]
        return cls(hours, ended, moment(yesterday, time()), moment(yesterday, local.time()))


def _volumes(found: _Counted, passed: int) -> list[Volume]:
    """Per currency, the one with most payments first."""
    weight: defaultdict[str, int] = defaultdict(int)
    for one in found.payments:
        weight[one.currency] += one.tried
    for line in found.money:
        weight[line.currency] += 0
    return [
        Volume(
            currency=currency,
            captured_minor=sum(one.captured_minor or 0 for one in lines if one.today),
            before_minor=sum(one.captured_minor or 0 for one in lines if not one.today),
            refunded_minor=sum(one.refunded_minor or 0 for one in lines if one.today),
            refunds=sum(one.refunds for one in lines if one.today),
            hours=[
                sum(one.captured_minor or 0 for one in lines if one.today and one.hour == hour)
                for hour in range(passed)
            ],
        )
        for currency in sorted(weight, key=lambda each: (-weight[each], each))
        if (lines := [one for one in found.money if one.currency == currency])
    ]


def _rebills(found: _Counted) -> RebillsToday:
    tries = found.rebills
    return RebillsToday(
        due=found.rebills_due,
        charged=sum(one.count for one in tries if one.first and one.state == _PAID),
        recovered=sum(one.count for one in tries if not one.first and one.state == _PAID),
        failed=sum(one.count for one in tries if one.state in _FAILED),
        open=sum(one.count for one in tries if one.state not in _FAILED and one.state != _PAID),
    )


def _sum(payments: Sequence[_Payments]) -> Tally:
    total = Tally()
    for one in payments:
        total += one.tally
    return total


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}
