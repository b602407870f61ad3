"""Payments as they happen: rows over a stream that loses nothing, and ends when its reader may read no longer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from tests.admin.conftest import Served, Tabs, picture, signed_in
from tests.conftest import Merchant, NewMerchant
from tests.shop import until

from clearspan.journal.feed import RECHECK_S, TICK_S_MAX
from clearspan.platform import clock, ids

_ID = re.compile(r"^id: (evt_\w+)$", re.MULTILINE)


class HastyClock(clock.SystemClock):
    """Sleeps are short, and the test says how late it is."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.02))


@pytest.fixture
async def hasty() -> AsyncIterator[HastyClock]:
    hasty = HastyClock()
    previous = clock.use(hasty)
    yield hasty
    clock.use(previous)


class Following:
    """An open stream, read as it comes."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.text = ""
        self.ended = False

    async def read(self) -> None:
        async for piece in self.answer.aiter_text():
            self.text += piece
        self.ended = True

    @property
    def ids(self) -> list[str]:
        """Of all events told so far; the first is the place where the stream begins."""
        return _ID.findall(self.text.rpartition("\n\n")[0])

    async def wait_for(self, words: str) -> None:
        await until(lambda: self._has(words))

    async def _has(self, words: str) -> bool | None:
        return True if words in self.text else None


class Reader:
    """Somebody of the served gateway's tenant, over real HTTP."""

    def __init__(self, served: Served, token: str, operator_id: str) -> None:
        self.url = served.url
        self.operator_id = operator_id
        self.http = httpx.AsyncClient(
            base_url=f"{served.url}/admin", cookies={served.gateway.sessions.cookie: token}, trust_env=False
        )

    @asynccontextmanager
    async def follow(self, after: str = "", header: str = "") -> AsyncIterator[Following]:
        """Open the stream; it is read until the block ends."""
        headers = {"Last-Event-ID": header} if header else {}
        async with self.http.stream("GET", "/live", params={"after": after}, headers=headers, timeout=30) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            following = Following(answer)
            task = asyncio.create_task(following.read())
            try:
                yield following
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


NewReader = Callable[..., Awaitable[Reader]]


@pytest.fixture
async def new_reader(served: Served) -> AsyncIterator[NewReader]:
    """``await new_reader("finance")``."""
    made: list[Reader] = []

    async def new(role: str = "support", of: Merchant | None = None) -> Reader:
        operator, session = await signed_in(served.gateway, of or served.merchant, role)
        made.append(Reader(served, session.token, operator.public_id))
        return made[-1]

    yield new
    for one in made:
        await one.http.aclose()


async def journal(served: Served) -> list[str]:
    """Every event of the tenant, in order."""
    scope = served.merchant.caller.scope

    async def ask() -> list[str] | None:
        found: list[str] = []
        while True:
            page = await served.gateway.feed.page(scope, found[-1] if found else None, 100)
            found += [event.id for event in page.data]
            if not page.has_more:
                return found

    return await until(ask)


async def test_a_payment_is_told_as_a_row_with_the_events_id(served: Served, new_reader: NewReader) -> None:
    reader: Reader = await new_reader("support")
    async with reader.follow("start") as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["cache-control"] == "no-store"
        assert stream.answer.headers["x-accel-buffering"] == "no"
        payment = await served.shop.paid(4711, reference="<b>\r\nid: forged")
        await stream.wait_for("€47.11")
        await stream.wait_for("Succeeded")
        frame = next(part for part in stream.text.split("\n\n") if payment["id"] in part and "Succeeded" in part)
    head, kind, *data = frame.split("\n")
    assert re.fullmatch(r"id: evt_\w+", head)
    assert kind == "event: payment"
    assert all(line.startswith("data: ") for line in data)
    assert "&lt;b&gt;" in frame
    assert "<b>" not in frame
    assert "forged" not in stream.ids


async def test_a_connection_that_drops_in_the_middle_of_many_events_loses_none(
    served: Served, new_reader: NewReader
) -> None:
    """Dropped again and again while payments are made; what was told, in order, is the journal."""
    reader: Reader = await new_reader("support")
    told = (await journal(served))[:1]
    done = asyncio.Event()

    async def sell() -> None:
        await asyncio.gather(*(served.shop.paid(1000 + each) for each in range(25)))
        done.set()

    async def follow() -> None:
        while True:
            finished = done.is_set()
            async with reader.follow(header=told[-1]) as stream:
                goal = await journal(served)
                more = min(len(goal) - len(told), 7)
                while len(stream.ids) < more:
                    await clock.sleep(0.005)
                told.extend(stream.ids)
            if finished and told[-1] == (await journal(served))[-1]:
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(sell())
        group.create_task(follow())
    assert told == await journal(served)


async def test_an_event_that_is_none_or_anothers_is_refused(
    served: Served, new_reader: NewReader, new_merchant: NewMerchant
) -> None:
    reader: Reader = await new_reader("support")
    other = await new_merchant()
    await signed_in(served.gateway, other, "owner")
    theirs = (await served.gateway.feed.page(other.caller.scope, None, 10)).data
    wrong = [ids.encode("evt", clock.new_uuid()), "evt_", "nonsense", *[event.id for event in theirs]]
    assert theirs, "the other tenant has events"
    for event_id in wrong:
        for asked in ({"params": {"after": event_id}}, {"headers": {"Last-Event-ID": event_id}}):
            answer = await reader.http.get("/live", **asked)  # type: ignore[arg-type]
            assert answer.status_code == 422, event_id
            assert answer.json()["code"] == "event_cursor_unknown"


async def test_a_tenant_is_told_nothing_of_another(
    served: Served, new_reader: NewReader, new_merchant: NewMerchant
) -> None:
    stranger: Reader = await new_reader("owner", of=await new_merchant())
    mine: Reader = await new_reader("owner")
    async with stranger.follow("start") as theirs, mine.follow("start") as ours:
        payment = await served.shop.paid(4711)
        await ours.wait_for(payment["id"])
        await theirs.wait_for(": clearspan events")
    assert payment["id"] not in theirs.text


async def test_one_person_holds_so_many_streams_and_no_more(served: Served, new_reader: NewReader) -> None:
    reader: Reader = await new_reader("support")
    colleague: Reader = await new_reader("support")
    most = served.gateway.settings.server.sse_streams_per_person_max
    async with asyncio.timeout(30):
        async with AsyncExitStack() as stack:
            for _ in range(most):
                stream = await stack.enter_async_context(reader.follow("start"))
                await stream.wait_for(": clearspan events")
            answer = await reader.http.get("/live")
            assert answer.status_code == 429
            assert answer.json()["code"] == "too_many_streams"
            assert "Close one of them" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0
            other = await stack.enter_async_context(colleague.follow("start"))
            await other.wait_for(": clearspan events")


async def test_signing_out_ends_the_stream_at_once(served: Served, new_reader: NewReader) -> None:
    reader: Reader = await new_reader("support")
    async with reader.follow("start") as stream:
        await stream.wait_for(": clearspan events")
        await served.gateway.sessions.end(ids.decode("opr", reader.operator_id), why="signed_out")
        await until(lambda: _ended(stream))
    assert (await reader.http.get("/live")).status_code == 401


async def _ended(stream: Following) -> bool | None:
    return True if stream.ended else None


@pytest.mark.parametrize("what", ["ended elsewhere", "disabled", "not a member", "another mode"])
async def test_who_may_read_no_longer_is_told_nothing_more(
    hasty: HastyClock, served: Served, new_reader: NewReader, what: str
) -> None:
    """The real bound: a look every 30 seconds, at a tick at most 15 seconds later."""
    assert RECHECK_S + TICK_S_MAX < 60
    reader: Reader = await new_reader("support")
    gateway = served.gateway
    operator = await gateway.operators.get(ids.decode("opr", reader.operator_id))
    async with reader.follow("start") as stream:
        await stream.wait_for(": clearspan events")
        gateway.sessions.ended.clear()  # As if another process did it.
        if what == "ended elsewhere":
            await gateway.sessions.end(operator.operator_id, why="revoked")
        elif what == "disabled":
            await gateway.operators.change(operator, status="disabled")
        elif what == "another mode":
            signed = await gateway.sessions.find(next(iter(reader.http.cookies.jar)).value or "")
            assert signed is not None
            await gateway.sessions.look_at(signed, live=True)
        else:
            await gateway.operators.leave(served.merchant.caller, operator.operator_id, own_role="owner")
        hasty.ahead_s += RECHECK_S
        await until(lambda: _ended(stream))
        told = len(stream.ids)
        await served.shop.paid(4711)
    assert "47.11" not in stream.text
    assert len(stream.ids) == told


async def test_the_table_follows_the_payments_without_a_reload(served: Served, tabs: Tabs) -> None:
    """Rows come, change in place and wait while the table is paused; the figures follow."""
    await served.shop.paid(1111)
    page = await tabs.open("finance")
    await page.goto(f"{served.url}/admin/")
    table = page.locator("[data-live] tbody")
    await page.locator('[data-live][data-state="live"]').wait_for()
    assert await page.locator("[data-live-word]").inner_text() == "Live updates"
    await page.evaluate("window.notReloaded = true")

    second = await served.shop.paid(2222)
    row = table.locator(f"tr#{second['id']}")
    await row.wait_for()
    assert await table.locator("tr").first.get_attribute("id") == second["id"], "newest first"
    await row.get_by_text("Succeeded").wait_for()
    await served.shop.act(second, "refunds", {})
    await row.get_by_text("Refunded").wait_for()
    assert await table.locator("tr").count() == 2, "changed in place"

    await page.locator("[data-live-pause]").click()
    await page.get_by_text("Paused", exact=True).wait_for()
    third = await served.shop.paid(3333)
    await page.get_by_text("Resume, 1 waiting").wait_for()
    assert await table.locator(f"tr#{third['id']}").count() == 0
    await picture(page, "home-paused")
    await page.locator("[data-live-pause]").click()
    await table.locator(f"tr#{third['id']}").wait_for()

    await page.locator("#now").get_by_text("€66.66").wait_for(timeout=15_000)
    for each in range(52):
        await served.shop.paid(5000 + each)
    await table.get_by_text("€50.51").wait_for()
    assert await table.locator("tr").count() == 50
    assert await page.evaluate("window.notReloaded")
    times = await table.locator("tr").evaluate_all("rows => rows.map((row) => Number(row.dataset.at))")
    assert times == sorted(times, reverse=True)


async def test_a_page_says_when_its_session_is_over(served: Served, tabs: Tabs) -> None:
    page = await tabs.open("support")
    await page.goto(f"{served.url}/admin/")
    await page.locator('[data-live][data-state="live"]').wait_for()
    token = next(one["value"] for one in await page.context.cookies() if one["name"] == served.gateway.sessions.cookie)
    signed = await served.gateway.sessions.find(token)
    assert signed is not None
    await served.gateway.sessions.end(signed.operator.operator_id, why="revoked")
    await page.get_by_text("You are signed out").wait_for(timeout=15_000)
    assert await page.locator("[data-live-sign-in]").is_visible()
    # The browser tells of the refused requests, which is what this test is about.
    tabs.complaints = [said for said in tabs.complaints if "401" not in said]


@pytest.mark.parametrize("look", [{"dark": False}, {"dark": True}, {"width": 390}], ids=["light", "dark", "narrow"])
async def test_home_looks_like_this(served: Served, tabs: Tabs, look: dict[str, int]) -> None:
    shop = served.shop
    for amount, currency in ((1099, "EUR"), (2500, "USD"), (500, "JPY"), (12900, "GBP")):
        await shop.paid(amount, currency=currency, reference=f"order-{amount}")
    await shop.act(await shop.paid(4200), "refunds", {"amount_minor": 1000})
    await shop.pay(900, "tok_decline_insufficient_funds")
    await shop.pay(900, metadata={"sandbox_fault": "F4 status=502 booked=true"})
    page = await tabs.open("owner", **look)  # type: ignore[arg-type]
    await page.goto(f"{served.url}/admin/")
    await page.locator('[data-live][data-state="live"]').wait_for()
    await picture(page, f"home-{'dark' if look.get('dark') else look.get('width', 'light')}")
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "nothing sticks out"
    sent = await page.evaluate(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".filter((each) => !each.name.includes('/live?')).reduce((sum, each) => sum + each.transferSize, 0)"
    )
    assert sent < 100_000, f"{sent} bytes"
