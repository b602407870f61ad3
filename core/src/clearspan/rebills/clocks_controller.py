"""``/v1/test-clocks``."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from clearspan.customers.errors import TestModeOnly
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems, reply
from clearspan.rebills.clocks import ClockAdvancing, ClockBackwards, ClockTooFar, TestClocks
from clearspan.rebills.clocks_schemas import TestClockAdvance, TestClockCreate, TestClockList, TestClockOut


class TestClockController(Controller):
    """Test clocks."""

    __test__ = False  # pytest: not a test class

    path = "/test-clocks"
    tags = ("Test clocks",)

    @post(opt={"scope": "test_clocks:write"}, responses=problems(TestModeOnly))
    async def create(
        self,
        data: JSONBody[TestClockCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        test_clocks: NamedDependency[TestClocks],
    ) -> Response[TestClockOut]:
        """Make a test clock. Customers that are made with it live by its time for ever; test mode only."""
        return reply(await test_clocks.create(caller, key, data))

    @get(opt={"scope": "test_clocks:write"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        test_clocks: NamedDependency[TestClocks],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
    ) -> TestClockList:
        """Test clocks, newest first."""
        return await test_clocks.list(caller.scope, limit, cursor)

    @get("/{clock_id:str}", opt={"scope": "test_clocks:write"}, responses=problems(NotFound))
    async def retrieve(
        self, clock_id: FromPath[str], caller: NamedDependency[Caller], test_clocks: NamedDependency[TestClocks]
    ) -> TestClockOut:
        """One test clock."""
        return await test_clocks.get(caller.scope, ids.decode("tc", clock_id))

    @post(
        "/{clock_id:str}/advance",
        status_code=202,
        opt={"scope": "test_clocks:write"},
        responses=problems(NotFound, ClockAdvancing, ClockBackwards, ClockTooFar),
    )
    async def advance(
        self,
        clock_id: FromPath[str],
        data: JSONBody[TestClockAdvance],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        test_clocks: NamedDependency[TestClocks],
    ) -> Response[TestClockOut]:
        """Let a test clock's time pass. It is answered at once; event `test_clock.advanced` tells that the clock has arrived.

        Meanwhile a worker goes from one due instant to the next and does what is due there, in order.
        """
        return reply(await test_clocks.advance(caller, key, ids.decode("tc", clock_id), data))

    @post(
        "/{clock_id:str}/release",
        status_code=200,
        opt={"scope": "test_clocks:write"},
        responses=problems(NotFound),
    )
    async def release(
        self,
        clock_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        test_clocks: NamedDependency[TestClocks],
    ) -> Response[TestClockOut]:
        """Let a test clock cover the tenant no more: customers that are made from now on live by the real time."""
        return reply(await test_clocks.release(caller, key, ids.decode("tc", clock_id)))
