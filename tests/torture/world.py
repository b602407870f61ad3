"""One simulated installation: gateway processes and workers that die and come back, on one virtual clock, before one PSP.

The parts are the real ones: ``clearspan.app.Gateway`` with all its services, ``clearspan.worker.Sweeper`` and its jobs, the
sandbox adapter. Two doors are replaced, the connections to PostgreSQL (``database``) and to the network (``network``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec
import structlog
from tests.torture import network
from tests.torture.database import Desk, Server, SimulatedDatabase
from tests.torture.invariants import Answered
from tests.torture.loop import PROCESS, Trace, VirtualClock, VirtualLoop

import clearspan.app
from clearspan.access.keys import SCOPES
from clearspan.app import Gateway
from clearspan.platform import clock, ids, outbound
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.idempotency import Answer, IdempotencyKey, read_key
from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import DomainError
from clearspan.psps.schemas import PspAccountCreate
from clearspan.sdk import VaultProvider
from clearspan.settings import Settings
from clearspan.worker import Jobs, Sweeper

T = TypeVar("T")
Json = dict[str, Any]
MASTER = MasterKey(bytes(range(32)))


class Lost(ConnectionError):
    """The connection to the gateway broke: the client does not know what became of its request."""


class Account(msgspec.Struct, frozen=True):
    """A PSP account: ours, and the name it has at the simulator."""

    account_id: str
    name: str
    api_key: str


class Merchant(msgspec.Struct, frozen=True):
    """A tenant with its API key, its accounts and a card of each kind (vault token -> payment method)."""

    caller: Caller
    accounts: list[Account]
    methods: dict[str, str]

    @property
    def tenant_id(self) -> UUID:
        """Its id."""
        return self.caller.scope.tenant_id


class Silent:
    """A doorbell that nobody hears: sweeps do the work themselves."""

    async def ring(self, *_: Any, **__: Any) -> bool:
        """Nobody comes."""
        return False


class Process:
    """A gateway or a worker between its start and its death.

    Attributes:
        life: steps until it is killed.
    """

    def __init__(self, world: World, name: str, life: float) -> None:
        self.name = name
        self.alive = True
        self.life = life
        self.context: Context = world.outside.copy()
        self.context.run(PROCESS.set, self)
        self.replies: dict[asyncio.Future[Any], None] = {}  # in order: a set would iterate by address
        self._world = world
        SimulatedDatabase.desk = world.desk
        self.gateway = self.context.run(Gateway, world.settings, "postgresql://simulated", MASTER, world.plugins)

    def step(self) -> None:
        """See ``Mortal``."""
        self.life -= 1
        if self.life <= 0:
            self._world.kill(self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as this process."""
        return self._world.loop.create_task(work, context=self.context.copy())


class World:
    """See the module's docstring.

    Args:
        seed: decides everything.
        show: gets each line of the trace.
    """

    def __init__(
        self, seed: int, server: Server, settings: Settings, plugins: Plugins, show: Callable[[str], None] | None = None
    ) -> None:
        self.seed = seed
        self.server = server
        self.settings = settings
        self.plugins = plugins
        self.loop = VirtualLoop(self.chance("order"))
        self.clock = VirtualClock(self.loop, self.chance("ids"))
        self.trace = Trace(show)
        self.outside: Context = copy_context()
        self.outside.run(PROCESS.set, None)
        self.desk = Desk(self, self.chance("database"))
        self.psp = network.Outside(self, self.chance("network"))
        self.gateways: list[Process] = []
        self.workers: list[Process] = []
        self.merchants: list[Merchant] = []
        self.answers: list[Answered] = []
        self.kills = 0
        self.mean_life: float | None = None
        """Steps a process lives on average; ``None`` is for ever."""
        self.workers_asleep_until = 0.0
        """Before that moment, in the loop's time, no worker works."""
        self._lives = self.chance("lives")
        self._graveyard: list[Process] = []

    def chance(self, name: str) -> random.Random:
        """A source of chance of its own for each purpose, so that more of one does not change the others."""
        return random.Random(f"{self.seed}/{name}")

    def note(self, line: str) -> None:
        """Into the trace."""
        self.trace(self.loop.time(), line)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The clock, the database and the network of this world are those of the code under test."""
        previous = clock.use(self.clock)
        real_client, real_database = outbound.client, clearspan.app.Database

        def client(
            connect_timeout_s: float,
            timeout_s: float,
            vault: VaultProvider | None = None,
            **_: object,
        ) -> httpx.AsyncClient:
            return network.client(self.psp, timeout_s, vault)

        outbound.client = client
        clearspan.app.Database = SimulatedDatabase  # type: ignore[misc]
        asyncio.set_event_loop(self.loop)
        try:
            yield
        finally:
            for process in [*self.gateways, *self.workers]:
                process.alive = False
            clock.use(previous)
            outbound.client, clearspan.app.Database = real_client, real_database  # type: ignore[misc]
            asyncio.set_event_loop(None)
            self.loop.forget()
            self.loop.close()

    # -- processes --------------------------------------------------------------------------------------------------------------

    def start(self, *, gateways: int, workers: int) -> None:
        """The first processes."""
        for index in range(gateways):
            self.gateways.append(Process(self, f"gateway-{index}", self._life()))
        for index in range(workers):
            self.workers.append(self._worker(f"worker-{index}"))

    def _worker(self, name: str) -> Process:
        process = Process(self, name, self._life())
        jobs = process.context.run(Jobs, process.gateway)
        sweeper = Sweeper(process.gateway, Silent(), jobs)  # type: ignore[arg-type]
        sweeping = process.spawn(self._sweeping(sweeper))
        # Whatever ends it ends the worker's process, which is started again.
        sweeping.add_done_callback(lambda _: self._ended(process, sweeping), context=self.outside)
        return process

    def _ended(self, process: Process, sweeping: asyncio.Task[None]) -> None:
        self.note(f"{process.name} ended: {sweeping.exception()!r}")
        if process.alive:
            self.kill(process)

    async def _sweeping(self, sweeper: Sweeper) -> None:
        begins = self._lives.uniform(0, self.settings.worker.sweep_interval_s)
        await clock.sleep(max(begins, self.workers_asleep_until - self.loop.time()))
        await sweeper.run()

    def _life(self) -> float:
        return float("inf") if self.mean_life is None else 1 + self._lives.expovariate(1 / self.mean_life)

    def kill(self, process: Process) -> None:
        """SIGKILL; another one is there a little later."""
        process.alive = False
        self.kills += 1
        self.note(f"kill {process.name}")
        self._graveyard.append(process)
        for reply in [*process.replies]:
            if not reply.done():
                reply.set_exception(Lost())
        self.loop.call_later(self._lives.uniform(0.05, 3), self._reborn, process, context=self.outside)

    def _reborn(self, process: Process) -> None:
        self.note(f"start {process.name}")
        if process in self.gateways:
            self.gateways[self.gateways.index(process)] = Process(self, process.name, self._life())
        else:
            self.workers[self.workers.index(process)] = self._worker(process.name)

    def spare(self) -> None:
        """From now on nobody is killed."""
        self.mean_life = None
        for process in [*self.gateways, *self.workers]:
            process.life = float("inf")

    # -- clients ----------------------------------------------------------------------------------------------------------------

    async def request(
        self,
        process: Process,
        work: Callable[[Gateway], Awaitable[Any]],
        *,
        hangs_up_after: float | None = None,
    ) -> tuple[int, str]:
        """One request to one process; gives status and body.

        Raises:
            Lost: it died meanwhile, or nobody listens there; or the client hung up.
        """
        if not process.alive:
            raise Lost
        reply = self.loop.create_future()
        process.replies[reply] = None

        async def serve() -> None:
            try:
                answer = await work(process.gateway)
                told = (answer.status, answer.body.decode()) if isinstance(answer, Answer) else (200, _json(answer))
            except DomainError as refused:
                told = refused.status, _json(refused.document())
            except Exception as error:  # noqa: BLE001  (the application answers 500 to whatever it does not know)
                self.note(f"bug {type(error).__name__}: {error}")
                told = 500, _json({"code": "internal_error", "detail": f"{type(error).__name__}: {error}"})
            if not reply.done():
                reply.set_result(told)

        task = process.spawn(serve())
        try:
            async with asyncio.timeout(hangs_up_after):
                status, body = await reply
        except TimeoutError:
            # The server cancels the request's task when the connection is gone.
            task.cancel()
            raise Lost from None
        finally:
            process.replies.pop(reply, None)
        return status, body

    def key(self, route: str, path: str, raw: str, body: msgspec.Struct) -> IdempotencyKey:
        """As the application reads it."""
        key = read_key(raw, route=route, path=path, body=msgspec.json.encode(body))
        assert key is not None
        return key

    # -- what there is before anything happens ----------------------------------------------------------------------------------

    async def open_shop(self, name: str, accounts: int) -> Merchant:
        """A tenant, made by the real services, with nothing going wrong yet."""
        gateway = self.gateways[0].gateway
        tenant = await gateway.tenants.create(name, name)
        scope = Scope(tenant_id=tenant.tenant_id, live=False)
        key_id = clock.new_uuid()
        cli = Caller(scope=scope, actor_type="cli", actor_id="torture", request_id="req_torture", tenant=name)
        made = []
        for index in range(accounts):
            api_key = f"sk_sandbox_{name.replace('-', '_')}_{index}"
            body = PspAccountCreate(
                psp="sandbox",
                name=f"acct{index}",
                priority=10 + index,
                config={"url": network.PSP_URL, "api_key": api_key},
            )
            out = msgspec.json.decode((await gateway.psps.create(cli, None, body)).body)
            made.append(Account(str(ids.decode("acct", out["id"])), out["name"], api_key))
        methods = {token: clock.new_uuid() for token in network.CARDS}
        self.server.run(self._store(scope, key_id, methods))
        caller = Caller(
            scope=scope,
            actor_type="api_key",
            actor_id=ids.encode("key", key_id),
            request_id="req_torture",
            scopes=frozenset(SCOPES),
            key_id=key_id,
            tenant=name,
        )
        merchant = Merchant(caller, made, {token: ids.encode("pm", method) for token, method in methods.items()})
        self.merchants.append(merchant)
        return merchant

    async def _store(self, scope: Scope, key_id: UUID, methods: dict[str, UUID]) -> None:
        now = clock.now()
        # The one thing that the database may draw by lot.
        await self.server.superuser.execute(
            "UPDATE psp_accounts SET webhook_token = 'whk_' || md5(psp_account_id::text) WHERE tenant_id = $1",
            scope.tenant_id,
        )
        await self.server.superuser.execute(
            "INSERT INTO api_keys (tenant_id, live, key_id, prefix, secret_hmac, name, scopes, created_at)"
            " VALUES ($1, $2, $3, 'torture0', '', 'torture', $4, $5)",
            scope.tenant_id,
            scope.live,
            key_id,
            sorted(SCOPES),
            now,
        )
        await self.server.superuser.executemany(
            "INSERT INTO payment_methods (tenant_id, live, payment_method_id, vault, vault_token, brand, last4,"
            " exp_month, exp_year, fingerprint, created_at, updated_at)"
            " VALUES ($1, $2, $3, 'sandbox', $4, 'visa', $5, 12, 2040, $4, $6, $6)",
            [
                (scope.tenant_id, scope.live, method, token, network.CARDS[token][-4:], now)
                for token, method in methods.items()
            ],
        )
        # Their holders agreed to be charged without being present.
        customer = clock.new_uuid()
        await self.server.superuser.execute(
            "INSERT INTO customers (tenant_id, live, customer_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)",
            scope.tenant_id,
            scope.live,
            customer,
            now,
        )
        await self.server.superuser.executemany(
            "INSERT INTO mandates (tenant_id, live, mandate_id, customer_id, payment_method_id, purpose, status, text_version,"
            " accepted_at, activated_at, created_at, updated_at)"
            " VALUES ($1, $2, $3, $4, $5, 'unscheduled', 'active', '1', $6, $6, $6, $6)",
            [(scope.tenant_id, scope.live, clock.new_uuid(), customer, method, now) for method in methods.values()],
        )

    async def books(self) -> dict[str, list[Json]]:
        """What the PSP has of every account of this world."""
        return {one.account_id: await self.psp.book(one.api_key) for shop in self.merchants for one in shop.accounts}


def _json(told: Any) -> str:
    return msgspec.json.encode(told).decode()


def log_into(note: Callable[[str], None]) -> None:
    """What the gateway logs as an error goes to ``note`` and nowhere else."""

    def take(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        error = event.get("exc_info")
        kind = sys.exc_info()[1] if error is True else error
        note(f"log {event['event']}" + (f": {type(kind).__name__}: {kind}" if isinstance(kind, BaseException) else ""))
        raise structlog.DropEvent

    structlog.configure(
        processors=[take],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
