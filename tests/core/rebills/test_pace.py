"""A backlog becomes a steady stream under the pace of each PSP account, over all workers; an account that is refused rests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.core.payments.conftest import approve
from tests.core.rebills.conftest import Desk, declined

from clearspan.payments.service import Payments
from clearspan.platform import clock, ids
from clearspan.rebills.service import Collector, _Run
from clearspan.sdk import PspMisconfigured

_STEPPING: ContextVar[bool] = ContextVar("stepping", default=False)


class Stepped:
    """A clock that moves only when the test, or a task of it, sleeps; the gateway's own tasks sleep as ever."""

    def __init__(self, real: clock.Clock) -> None:
        self._real = real
        self._now = real.now()
        self._passed = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def now(self) -> datetime:
        return self._now + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if not _STEPPING.get():
            await self._real.sleep(seconds)
            return
        self._passed += seconds
        await asyncio.sleep(0)


@contextmanager
def stepped() -> Iterator[Stepped]:
    """Time goes by in steps."""
    real = clock.use(clock.SystemClock())
    mine = Stepped(real)
    clock.use(mine)
    token = _STEPPING.set(True)
    try:
        yield mine
    finally:
        _STEPPING.reset(token)
        clock.use(real)


def paced(desk: Desk, rate: float) -> Collector:
    """A collector of another pace."""
    rebills = msgspec.structs.replace(desk.gateway.settings.rebills, rate_per_account_s=rate)
    settings = msgspec.structs.replace(desk.gateway.settings, rebills=rebills)
    return Collector(desk.gateway.db, desk.gateway.payments, settings)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """When each charge was begun; none is really made."""
    moments: list[datetime] = []

    async def note(self: Payments, caller: Any, charge: Any) -> None:
        moments.append(clock.now())

    async def leave(self: _Run, found: Any, refused: Any) -> None:
        """The rebill stays claimed; its lease is long."""

    monkeypatch.setattr(Payments, "collect", note)
    monkeypatch.setattr(_Run, "store", leave)
    return moments


async def backlog(desk: Desk, count: int) -> None:
    """So many invoices of one subscription that have been due for an hour."""
    deal = await desk.deal()
    for _ in range(count):
        await desk.invoice(deal, at=clock.now() - timedelta(hours=1))


async def test_a_backlog_of_300_at_20_a_second_takes_15_seconds(wall: Desk, begun: list[datetime]) -> None:
    await backlog(wall, 300)
    with stepped():
        assert await paced(wall, 20.0).collect(wall.scope, "req_pace") == 300
    assert len(begun) == 300
    took = (begun[-1] - begun[0]).total_seconds()
    assert 13 <= took <= 15.5, "a burst of one second, then 20 a second"
    for place in range(len(begun) - 41):
        assert (begun[place + 41] - begun[place]).total_seconds() >= 1, "in no second more than the burst and the pace"


async def test_two_workers_share_one_pace(wall: Desk, begun: list[datetime]) -> None:
    await backlog(wall, 100)
    with stepped():
        done = await asyncio.gather(*(paced(wall, 20.0).collect(wall.scope, "req_pace") for _ in range(2)))
    assert sum(done) == 100
    took = (begun[-1] - begun[0]).total_seconds()
    assert took >= 3.9


async def test_an_account_without_room_does_not_hold_up_another(wall: Desk, begun: list[datetime]) -> None:
    await backlog(wall, 60)
    made = await wall.http.post(
        "/v1/psp-accounts",
        json={"psp": "puppet", "name": "beta", "priority": 500, "config": {"name": wall.puppet.name}},
    )
    from clearspan.platform import ids

    deal = await wall.deal(psp_account_id=ids.decode("acct", made.json()["id"]))
    last = await wall.invoice(deal, at=clock.now() - timedelta(minutes=1))
    with stepped() as time:
        await paced(wall, 5.0).collect(wall.scope, "req_pace", most=8)
        assert time.monotonic() < 1.0
    assert (await wall.rebill(last))["state"] == "claimed"


async def test_an_account_that_its_psp_refuses_rests_and_says_so(wall: Desk) -> None:
    first, second = await wall.deal(), await wall.deal()
    now = clock.now()
    one = await wall.invoice(first, at=now)
    wall.puppet.does = declined("invalid_merchant")
    await wall.collect()
    assert await wall.decision(one) == ("retry_at", "configuration")
    assert "rebill.account_blocked" in await wall.events(one)
    other = await wall.invoice(second, at=now)
    assert await wall.collect() == 0
    assert len(wall.puppet.calls) == 1
    assert (await wall.rebill(other))["state"] == "due"
    assert await wall.notices(one) == [], "no customer is troubled with it"
    await wall.sql.execute("UPDATE rebill_pace SET blocked_until = $2 WHERE psp_account_id = $1", wall.account, now)
    assert await wall.collect() == 1


async def test_wrong_credentials_stop_the_batch_until_they_are_changed(wall: Desk) -> None:
    """No more than the charges that were under way: 4 of 12. New settings wake the account at once."""
    now = clock.now()
    invoices = [await wall.invoice(await wall.deal(), at=now) for _ in range(12)]

    def refuse(_: str, __: Any) -> Any:
        raise PspMisconfigured("the API key was revoked")

    wall.puppet.does = refuse
    few = msgspec.structs.replace(wall.gateway.settings.rebills, charges_max=4)
    settings = msgspec.structs.replace(wall.gateway.settings, rebills=few)
    await Collector(wall.gateway.db, wall.gateway.payments, settings).collect(wall.scope, "req_collect")
    tried = len(wall.puppet.calls)
    assert tried <= 4
    assert await wall.collect() == 0
    assert len(wall.puppet.calls) == tried
    assert sorted({(await wall.rebill(one))["state"] for one in invoices}) == ["due"]
    wall.puppet.does = approve
    account = ids.encode("acct", wall.account)
    changed = await wall.http.patch(f"/v1/psp-accounts/{account}", json={"config": {"name": wall.puppet.name}})
    assert changed.status_code == 200
    assert await wall.collect() == 12 - tried
    assert "psp_account.misconfigured" in await wall.events(wall.account)
