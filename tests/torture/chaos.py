"""Tier (c): the same load while everything around the processes fails: PostgreSQL, the queue, the connections, the deployment.

    python -m tests.torture chaos --minutes 1 [--seed S] [--json FILE]

Two hands, each one event after the other (``EVENTS``), so that two things go wrong at once. PostgreSQL and Valkey are this run's
own and stand behind proxies (``proxy``). The PSP fails by rate as in the other tier. When the time is over everything is healed,
and the same checks are made (``processes.end``).

Not here: a full disk (fault D4 without the read-only database), and failover to a replica that has lost commits (D5).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg
from redis import asyncio as redis
from redis.exceptions import RedisError
from tests.torture import processes
from tests.torture.processes import FLOWS, LEASE_S, Report, World
from tests.torture.proxy import Proxy, When

from clearspan.platform import clock

FUNCTIONS = (
    b"payment_open_",
    b"operation_open_",
    b"operation_settle_",
    b"operations_claim_",
    b"inbox_receive_",
    b"inbox_told_",
)
"""SQL functions of the money path: each call is one transaction."""
EVENTS = {
    "postgres_restarted": 2,
    "postgres_crashed": 2,
    "database_cut": 4,
    "commit_unheard": 5,
    "commit_prevented": 3,
    "database_silent": 2,
    "database_refuses": 1,
    "database_slow": 2,
    "database_read_only": 1,
    "queue_flushed": 3,
    "queue_restarted": 1,
    "queue_cut": 2,
    "queue_silent": 1,
    "webhook_storm": 4,
    "rolling_restart": 2,
    "process_stopped": 4,
    "process_killed": 4,
}
"""And how often each comes."""


class Chaos:
    """What can go wrong, one method per event.

    Args:
        servers: held while one of them is away, so that the other hand leaves them alone.

    Attributes:
        happened: how often each did.
    """

    def __init__(self, world: World, dice: random.Random, servers: asyncio.Lock) -> None:
        assert world.database is not None
        assert world.queue is not None
        self._world = world
        self._dice = dice
        self._database: Proxy = world.database
        self._queue: Proxy = world.queue
        self._servers = servers
        self.happened: Counter[str] = Counter()

    async def hand(self, until: float, events: dict[str, int]) -> None:
        """One event after the other."""
        while clock.monotonic() < until:
            event = self._dice.choices(list(events), list(events.values()))[0]
            await getattr(self, event)()
            self.happened[event] += 1
            await clock.sleep(self._dice.uniform(0.1, 1.0))

    # -- PostgreSQL ---------------------------------------------------------------------------------------------------

    async def postgres_restarted(self) -> None:
        """D1, fast: transactions are rolled back, everything is written down."""
        async with self._servers:
            await asyncio.to_thread(self._world.postgres.stop)
            await clock.sleep(self._dice.uniform(0, 1))
            await asyncio.to_thread(self._world.postgres.start)

    async def postgres_crashed(self) -> None:
        """D1, immediate: what ``pg_ctl stop -m immediate`` does; the next start recovers from the log."""
        async with self._servers:
            server = self._world.postgres._server
            assert server is not None
            os.kill(server.pid, signal.SIGQUIT)
            await asyncio.to_thread(self._world.postgres.stop)
            await asyncio.to_thread(self._world.postgres.start)

    async def database_cut(self) -> None:
        """Every connection at once."""
        self._database.cut(reset=self._dice.random() < 0.5)

    async def commit_unheard(self) -> None:
        """D1: the connection goes while a commit's answer is on its way, or while it commits."""
        when = self._dice.choice((When.AFTER, When.AFTER, When.SENT))
        await self._trap(when)

    async def commit_prevented(self) -> None:
        """The connection goes before the server has heard of it."""
        await self._trap(When.BEFORE)

    async def _trap(self, when: When) -> None:
        function = self._dice.choice(FUNCTIONS)
        trap = self._database.trap(function, when, times=self._dice.randint(1, 3), reset=self._dice.random() < 0.3)
        with suppress(TimeoutError):
            await asyncio.wait_for(trap.sprung.wait(), 2)
        trap.left = 0

    async def database_silent(self) -> None:
        """N1: a black hole, longer than a lease."""
        self._database.hold()
        await clock.sleep(self._dice.uniform(0.5, LEASE_S + 2))
        if self._dice.random() < 0.5:
            self._database.cut(reset=True)
        self._database.release()

    async def database_refuses(self) -> None:
        """Nobody listens there any more."""
        await self._database.refuse()
        self._database.cut()
        await clock.sleep(self._dice.uniform(0.2, 2))
        await self._database.accept()

    async def database_slow(self) -> None:
        """Each piece on the wire takes long."""
        self._database.delay_s = self._dice.uniform(0.01, 0.1)
        await clock.sleep(self._dice.uniform(0.5, 2))
        self._database.delay_s = 0.0

    async def database_read_only(self) -> None:
        """D4, as far as it goes without a full disk: sessions from now on may not write."""
        async with self._servers:
            await self._order("ALTER DATABASE torture SET default_transaction_read_only = on")
            self._database.cut()
            await clock.sleep(self._dice.uniform(0.2, 1.5))
            await self._order("ALTER DATABASE torture RESET default_transaction_read_only")
            self._database.cut()

    async def _order(self, sql: str) -> None:
        connection = await asyncpg.connect(
            self._world.superuser_url, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    # -- the queue ----------------------------------------------------------------------------------------------------

    async def queue_flushed(self) -> None:
        """R1: everything in it is gone."""
        async with self._servers:
            client = redis.from_url(self._world.valkey.url)
            with suppress(RedisError, OSError):
                await client.flushall()
            await client.aclose()

    async def queue_restarted(self) -> None:
        """R1."""
        async with self._servers:
            await asyncio.to_thread(self._world.valkey.stop)
            await clock.sleep(self._dice.uniform(0, 2))
            await asyncio.to_thread(self._world.valkey.start)

    async def queue_cut(self) -> None:
        """Every connection at once."""
        self._queue.cut(reset=self._dice.random() < 0.5)

    async def queue_silent(self) -> None:
        """N1."""
        self._queue.hold()
        await clock.sleep(self._dice.uniform(0.5, 3))
        self._queue.release()

    # -- messages and processes ---------------------------------------------------------------------------------------

    async def webhook_storm(self) -> None:
        """W1, W2: of the messages that were ever sent some come again, several times, shuffled, at once."""
        for account in self._world.accounts:
            async with self._world.shop.psp(account) as psp:
                told = (await psp.get("/v1/webhooks")).json()["messages"]
                chosen = self._dice.sample(told, min(len(told), 40))
                storm = {
                    "ids": [one["id"] for one in chosen],
                    "times": self._dice.randint(1, 3),
                    "shuffle_seed": self._dice.randint(0, 1 << 30),
                    "parallel": True,
                }
                with suppress(Exception):  # It waits for every answer, and some never come.
                    await psp.post("/v1/webhooks/send", json=storm, timeout=5)

    async def rolling_restart(self) -> None:
        """K2: SIGTERM to one after the other."""
        for index in range(self._world.web.count):
            self._world.web.signal(index, signal.SIGTERM)
            await clock.sleep(self._dice.uniform(0.2, 1))

    async def process_stopped(self) -> None:
        """K2: one stands still until its leases are over, and then goes on as if nothing had happened."""
        index = self._dice.randrange(self._world.web.count)
        self._world.web.signal(index, signal.SIGSTOP)
        await clock.sleep(self._dice.uniform(0.5, LEASE_S + 2))
        self._world.web.signal(index, signal.SIGCONT)

    async def process_killed(self) -> None:
        """K1."""
        await self._world.web.kill(self._dice.randrange(self._world.web.count))

    async def heal(self) -> None:
        """Everything is as it should be."""
        for proxy in (self._database, self._queue):
            proxy.heal()
            await proxy.accept()
        for index in range(self._world.web.count):
            self._world.web.signal(index, signal.SIGCONT)


async def run(
    world: World,
    *,
    seconds: float,
    seed: int,
    clients: int = 48,
    only: Sequence[str] = (),
    flows: dict[str, int] = FLOWS,
) -> Report:
    """Run the tier with a fresh merchant.

    Args:
        world: made with ``proxied``.
        only: these events; empty means all.
        flows: what the clients do.
    """
    events = {name: weight for name, weight in EVENTS.items() if not only or name in only}
    servers = asyncio.Lock()
    hands = [Chaos(world, random.Random(f"{seed}/{name}"), servers) for name in ("left", "right")]
    async with processes.run_of(world, seed, clients, processes.FAULTS, doom=0.02, flows=flows) as (_, report):
        until = clock.monotonic() + seconds
        await _all(hand.hand(until, events) for hand in hands)
        await hands[0].heal()
        report.events = dict(hands[0].happened + hands[1].happened)
    return report


async def _all(work: Any) -> None:
    """All of it, and then the first failure."""
    for ended in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended


def add_commands(commands: Any) -> None:
    """``chaos``, for ``argparse``'s subcommands."""
    parser = commands.add_parser(
        "chaos", help="restarts, cuts, flushes, storms and stopped processes while clients pay"
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", choices=sorted(EVENTS), default=[], help="these events only")
    processes.add_common(parser)

    def tier(options: argparse.Namespace) -> int:
        only = f" --only {' '.join(options.only)}" if options.only else ""
        return processes.run(
            options,
            f"chaos --minutes {options.minutes} --seed {options.seed}{only}",
            {"gateways": 3, "workers": 2, "proxied": True},
            lambda world: run(
                world, seconds=options.minutes * 60, seed=options.seed, clients=options.clients, only=options.only
            ),
        )

    parser.set_defaults(run=tier)
