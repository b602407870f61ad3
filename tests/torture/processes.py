"""Tier (b): real processes, a real PostgreSQL and a PSP with a book of its own; a killer goes round with SIGKILL.

    python -m tests.torture kill --kills 500 [--seed S] [--processes 2] [--json FILE]

``world`` starts everything in a folder of its own: PostgreSQL, Valkey, both simulators, and one warm parent that forks
gateways and workers (``tests.system.serve``), so that a process lives again some milliseconds after it was killed. ``Load`` is
the clients: they insist, each request with one key, at whichever process, until it is answered, and write down all they were
told. The PSP answers with faults by rate, and every change in its book comes back as a webhook. At the end the faults stop, the
workers find out what is open, and ``invariants`` lays our database, the PSP's book and the clients' answers side by side.

The seed decides what is asked, with which faults and when a kill comes; the machine decides which instruction it hits. So a run
that failed is repeated in its kind, not instruction by instruction: for that there is the first tier (``sim``).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import httpx
import msgspec
from tests.conftest import ALL_SCOPES, PASSWORD, free_ports
from tests.shop import Json, Shop, Simulator, Web, web, with_payments
from tests.torture import invariants
from tests.torture.invariants import Answered, Violation
from tests.torture.proxy import Proxy

from clearspan.access.guard import Authenticator
from clearspan.access.service import ApiKeys
from clearspan.platform import clock, ids, schema
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.embedded_redis import EmbeddedRedis
from clearspan.settings import DataSettings, Settings, load
from clearspan.tenants.service import Tenants

MASTER = MasterKey(bytes(range(32)))
PSP_TIMEOUT_S = 1.0
LEASE_S = 2
"""More than a call to the PSP may take, as the settings demand; short, so that what a killed process held is soon taken over."""
PROMISE_S = 60.0
"""P16: so long after the last fault 99 of 100 open outcomes are known."""
UNWANTED_S = 61.0
"""What was cancelled unsent stays unsent; it is known when the PSP's longest late effect and its lookup's lag are over."""
PATIENCE_S = 300.0
"""P16: and all of them."""
ASK_S = 20.0
"""So long a client insists before it leaves a request alone; it is taken up again at the end."""
WATCH_S = 6.0
"""So long a client waits for a payment that is processing before it leaves it to the workers."""
FAULTS: Json = {
    "rates": {
        "F1": 0.03,
        "F2": 0.02,
        "F3": 0.03,
        "F4": 0.03,
        "F5": 0.03,
        "F7": 0.02,
        "F8": 0.02,
        "F10": 0.02,
        "F12": 0.03,
        "W1": 0.05,
        "W2": 0.05,
        "W3": 0.05,
        "W6": 0.02,
    },
    # A little longer than the gateway waits: it must not take long, and nothing may be under way for ever.
    "options": {"F1": {"hang_s": 3}, "F2": {"hang_s": 3}, "F3": {"delay_s": 1.5, "hang_s": 3}, "W2": {"hold_s": 2}},
}
"""What the simulator does wrong by rate, as ``PUT /v1/faults`` takes it; see docs/reliability.md."""
WORK_S = 1.0
"""So long at most the killer waits for the clients to have had an answer per kill."""
POINTS = ("reserved", "answered", "settled")
"""Where a request may meet a process that kills itself; see ``tests.system.serve``."""
PLACES = ("stored-webhook-0", "told-webhook-0")
"""And where a message may."""
PASSING = frozenset(
    {
        "idempotency_key_in_flight",
        "payment_in_progress",
        "operation_outcome_unknown",
        "database_unavailable",
        "outcome_not_stored",
    }
)
"""Refusals after which the same request is repeated; so is whatever comes with 429 or 503."""
EXPECTED = frozenset(
    {
        "payment_not_confirmable",
        "payment_not_capturable",
        "payment_not_cancelable",
        "payment_not_refundable",
        "amount_above_capturable",
        "amount_above_refundable",
        "payment_has_charge",
    }
)
"""Refusals that a client may earn when requests race or an earlier one was declined."""
FLOWS = {
    "purchase": 5,
    "two_steps": 4,
    "manual": 5,
    "cancel_authorized": 2,
    "cancel_early": 1,
    "cancel_race": 1,
    "declined_first": 2,
    "same_key_twice": 3,
    "pending": 1,
}
"""What a merchant does, and how often."""


class World:
    """Everything that runs.

    Attributes:
        web: gateways and workers.
        shops: the merchant, once behind each gateway and once behind whichever is free.
        postgres, valkey: the servers.
        database, queue: proxies in front of them, when the gateways go through them.
        superuser_url, app_url: past the proxy.
        scope: the present merchant's.
        accounts: the name of a PSP account -> its id.
    """

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self.web: Web
        self.shops: list[Shop]
        self.postgres: EmbeddedPostgres
        self.valkey: EmbeddedRedis
        self.database: Proxy | None = None
        self.queue: Proxy | None = None
        self.superuser_url = ""
        self.app_url = ""
        self.scope: Scope
        self.accounts: dict[str, UUID] = {}

    async def open_shop(self) -> None:
        """A fresh merchant with an account at the PSP, which tells it of every change in its book."""
        self.scope, key = await _merchant(self.app_url, self._settings)
        psp_url = self._settings.plugin["psp-sandbox"]["url"]
        urls = (*self.web.urls, self.web.shared_url)
        first, *others = [await self._stack.enter_async_context(_client(url, key)) for url in urls]
        shop = Shop(first, psp_url)
        self.shops = [shop, *(shop.behind(http) for http in others)]
        account = await shop.add_account("alpha", 10)
        self.accounts = {"alpha": ids.decode("acct", account["id"])}
        async with shop.psp("alpha") as psp:
            (await psp.put("/v1/webhooks", json={"url": account["webhook_url"]})).raise_for_status()
        for token in CARDS:
            await shop.card(token)

    @property
    def shop(self) -> Shop:
        """Behind whichever gateway is free."""
        return self.shops[-1]

    async def faults(self, faults: Json) -> None:
        """Let the PSP fail at random from now on; an empty table ends that."""
        for account in self.accounts:
            async with self.shop.psp(account) as psp:
                (await psp.put("/v1/faults", json=faults)).raise_for_status()

    async def injected(self) -> Counter[str]:
        """How often the PSP had which fault."""
        found: Counter[str] = Counter()
        for account in self.accounts:
            async with self.shop.psp(account) as psp:
                found.update((await psp.get("/v1/faults")).raise_for_status().json()["injected"])
        return found

    async def books(self) -> dict[str, list[Json]]:
        """As ``invariants`` wants them."""
        return {str(account): await self.shop.book(name) for name, account in self.accounts.items()}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """As superuser."""
        connection = await asyncpg.connect(self.superuser_url, server_settings={"timezone": "UTC"})
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def world(
    folder: Path, *, gateways: int = 2, workers: int = 1, proxied: bool = False, delays_s: Sequence[float] = ()
) -> AsyncIterator[World]:
    """Start everything below ``folder``, and stop it at the end.

    Args:
        proxied: gateways and workers reach PostgreSQL and Valkey through proxies.
        delays_s: distances between the looks of recovery, instead of the real ones.
    """
    settings = _settings(folder)
    async with AsyncExitStack() as stack:
        made = World(settings, stack)
        simulators = [
            Simulator("clearspan_psp_sandbox.simulator", _port(settings, "psp-sandbox"), folder),
            Simulator("clearspan_vault_sandbox.server", _port(settings, "vault-sandbox"), folder),
        ]
        for simulator in simulators:
            stack.callback(simulator.kill)
        started = asyncio.gather(*(simulator.start() for simulator in simulators))
        # Ports of their own: both are restarted, and found again.
        postgres_port, valkey_port = free_ports(2)
        made.postgres = EmbeddedPostgres(folder / "postgres", port=postgres_port)
        made.valkey = EmbeddedRedis(folder / "valkey", port=valkey_port)
        stack.callback(made.valkey.stop)
        stack.callback(made.postgres.stop)
        await asyncio.to_thread(made.postgres.start)
        await asyncio.to_thread(made.valkey.start)
        made.superuser_url = _of(made.postgres.superuser_url, "torture")
        made.app_url = app_url = await asyncio.to_thread(_migrated, made.postgres.superuser_url)
        await started
        redis_url = made.valkey.url
        if proxied:
            made.database = await stack.enter_async_context(Proxy(app_url))
            made.queue = await stack.enter_async_context(Proxy(redis_url))
            app_url, redis_url = made.database.url, made.queue.url
        made.web = await stack.enter_async_context(
            web(
                app_url,
                settings,
                MASTER,
                folder / "web",
                count=gateways,
                workers=workers,
                webhooks=True,
                redis_url=redis_url,
                tables={
                    "database": {"pool_size": 4, "orm_pool_size": 2, "connect_timeout_s": 3},
                    "worker": {"sweep_interval_s": 1},
                    "server": {"drain_timeout_s": 5},
                    "rebills": {"rate_per_account_s": 200.0, "lease_s": 10},
                },
                delays_s=list(delays_s),
            )
        )
        yield made


CARDS = ("tok_visa", "tok_mastercard", "tok_decline_insufficient_funds")


def _client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=PSP_TIMEOUT_S * 5,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    )


def _settings(folder: Path) -> Settings:
    empty = folder / "clearspan.toml"
    empty.touch()
    defaults = with_payments(
        load(empty, environ={}), lease_s=LEASE_S, psp_timeout_s=PSP_TIMEOUT_S, psp_connect_timeout_s=0.5
    )
    psp_port, vault_port = free_ports(2)
    return msgspec.structs.replace(
        defaults,
        data=DataSettings(dir=str(folder / "data")),
        plugins=msgspec.structs.replace(defaults.plugins, enabled={"psp-sandbox": "", "vault-sandbox": ""}),
        plugin={
            "psp-sandbox": {"url": f"http://127.0.0.1:{psp_port}"},
            "vault-sandbox": {"url": f"http://127.0.0.1:{vault_port}"},
        },
    )


def _port(settings: Settings, plugin: str) -> int:
    return urlsplit(settings.plugin[plugin]["url"]).port or 0


def _of(url: str, database: str, role: str = "") -> str:
    parts = urlsplit(url)
    netloc = f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}" if role else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


def _migrated(superuser_url: str) -> str:
    """Make and migrate the database; returns how the application reaches it."""

    async def make() -> None:
        connection = await asyncpg.connect(superuser_url)
        try:
            await connection.execute(f"CREATE ROLE torture_owner LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
            await connection.execute("CREATE DATABASE torture OWNER torture_owner")
            if connection.get_server_version().major >= 16:
                # Most of what a new process costs would be its passwords' 4096 rounds, for each connection.
                await connection.execute("ALTER DATABASE torture SET scram_iterations = 1")
        finally:
            await connection.close()

    asyncio.run(make())
    schema.migrate(_of(superuser_url, "torture", "torture_owner"), app_role="torture_app", app_password=PASSWORD)
    return _of(superuser_url, "torture", "torture_app")


async def _merchant(app_url: str, settings: Settings) -> tuple[Scope, str]:
    """A tenant in test mode, and a key for everything."""
    database = Database(app_url, settings.database)
    await database.open()
    try:
        slug = f"torture-{clock.random_bytes(4).hex()}"
        tenant = await Tenants(database, MASTER).create(slug, "Torture")
        scope = Scope(tenant_id=tenant.tenant_id, live=False)
        caller = Caller(scope=scope, actor_type="cli", actor_id="torture", request_id="req_torture", tenant=slug)
        pepper = MASTER.derive("api-key-pepper")
        authenticator = Authenticator(database, pepper, settings.access)
        keys = ApiKeys(database, pepper, settings.access, authenticator)
        _, key = await keys.create(caller, "torture", ALL_SCOPES, None)
        return scope, key
    finally:
        await database.close()


# -- Clients --------------------------------------------------------------------------------------------------------------------


class Asked(msgspec.Struct):
    """One request under one key, and what was said to it.

    Attributes:
        answer: the first that ended the matter.
        unlike: an answer to the same request that was not the same bytes.
    """

    path: str
    body: Json
    key: str
    answer: tuple[int, bytes] | None = None
    unlike: tuple[int, bytes] | None = None

    def take(self, answer: httpx.Response) -> None:
        """Another answer."""
        told = (answer.status_code, answer.content)
        if self.answer is None:
            self.answer = told
        elif self.answer != told and answer.is_success:
            self.unlike = told

    @property
    def told(self) -> Json:
        """The answer's body."""
        assert self.answer is not None
        body: Json = msgspec.json.decode(self.answer[1])
        return body

    @property
    def succeeded(self) -> bool:
        """Whether something was done."""
        return self.answer is not None and self.answer[0] < 300


class GaveUp(Exception):
    """No answer in time."""


class Load:
    """The clients of one merchant.

    Attributes:
        asked: every request that was ever sent.
        answered: how often something was done for a client.
        strange: answers that nobody should get.
        over: set, and no client begins anything new.
        doom: the share of requests on whose way a process is to kill itself.
    """

    def __init__(self, world: World, seed: int, *, doom: float = 0.0, flows: dict[str, int] = FLOWS) -> None:
        self._world = world
        self._seed = seed
        self._flows = flows
        self._numbers = itertools.count()
        self._cards: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.asked: list[Asked] = []
        self.answered = 0
        self.strange: list[str] = []
        self.over = asyncio.Event()
        self.doom = doom

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """So many at once."""
        self._cards = {token: await self._world.shop.card(token) for token in CARDS}
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]
        try:
            yield
        finally:
            await self.finish()

    async def finish(self) -> None:
        """Each client finishes what it asked last, or gives up."""
        self.over.set()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        self.strange += [f"{type(end).__name__}: {end}" for end in ends if end is not None]
        self._tasks = []

    async def _client(self) -> None:
        while not self.over.is_set():
            number = next(self._numbers)
            dice = random.Random(f"{self._seed}/{number}")
            flow = dice.choices(list(self._flows), list(self._flows.values()))[0]
            with suppress(GaveUp):
                await getattr(self, f"_{flow}")(_Order(self, number, dice))

    async def insist(self, asked: Asked, dice: random.Random, patience_s: float = ASK_S) -> Asked:
        """Repeat until it is answered.

        Raises:
            GaveUp: it was not, in time.
        """
        shops = self._world.shops
        until = clock.monotonic() + patience_s
        while clock.monotonic() < until:
            try:
                answer = await dice.choice(shops).post(asked.path, asked.body, asked.key)
            except httpx.TransportError:
                await clock.sleep(dice.uniform(0.02, 0.1))
                continue
            if answer.is_success:
                self.answered += 1
                asked.take(answer)
                return asked
            code = _code(answer)
            if code in PASSING or answer.status_code in (429, 503):
                await clock.sleep(dice.uniform(0.2, 0.8))
                continue
            asked.take(answer)
            if code not in EXPECTED:
                self.strange.append(f"{asked.path} was answered {answer.status_code}: {answer.text[:300]}")
            return asked
        raise GaveUp

    async def watch(self, payment_id: str, dice: random.Random) -> Json:
        """The payment when it is no longer processing.

        Raises:
            GaveUp: it still is.
        """
        until = clock.monotonic() + WATCH_S
        while clock.monotonic() < until and not self.over.is_set():
            with suppress(httpx.TransportError):
                answer = await dice.choice(self._world.shops).http.get(f"/v1/payments/{payment_id}")
                if answer.status_code == 200 and answer.json()["status"] != "processing":
                    payment: Json = answer.json()
                    return payment
            await clock.sleep(0.3)
        raise GaveUp

    # -- what a merchant does -----------------------------------------------------------------------------------------

    async def _purchase(self, order: _Order) -> None:
        payment = await order.pay()
        await order.refunds(payment)

    async def _two_steps(self, order: _Order) -> None:
        payment = await order.create()
        payment = await order.act(payment, "confirm", {}, "create_intent")
        await order.refunds(payment)

    async def _manual(self, order: _Order) -> None:
        payment = await order.pay(capture_method="manual")
        part = order.amount if order.dice.random() < 0.5 else order.dice.randint(1, order.amount)
        body = {"amount_minor": part} | ({"final": True} if order.dice.random() < 0.3 else {})
        payment = await order.act(payment, "capture", body, "capture", part)
        if payment.get("amounts", {}).get("captured_minor"):
            await order.refunds(payment, part)

    async def _cancel_authorized(self, order: _Order) -> None:
        payment = await order.pay(capture_method="manual")
        await order.act(payment, "cancel", {}, "cancel")

    async def _cancel_early(self, order: _Order) -> None:
        await order.act(await order.create(), "cancel", {}, "cancel")

    async def _cancel_race(self, order: _Order) -> None:
        payment = await order.create()
        await asyncio.gather(
            order.act(payment, "confirm", {}, "create_intent"),
            order.act(payment, "cancel", {}, "cancel"),
            return_exceptions=True,
        )

    async def _declined_first(self, order: _Order) -> None:
        payment = await order.pay(card="tok_decline_insufficient_funds")
        if payment["status"] == "requires_payment_method":
            payment = await order.act(
                payment, "confirm", {"payment_method": self._cards["tok_mastercard"]}, "create_intent"
            )
            await order.refunds(payment)

    async def _same_key_twice(self, order: _Order) -> None:
        """An impatient client: the same request several times at once."""
        asked = order.asked("/v1/payments", order.payment(confirm=True))
        dices = [random.Random(order.dice.random()) for _ in range(order.dice.randint(2, 4))]
        await asyncio.gather(*(self.insist(asked, dice) for dice in dices), return_exceptions=True)

    async def _pending(self, order: _Order) -> None:
        order.amount = order.dice.choice((9050, 9051))
        await order.pay()

    def card(self, token: str) -> str:
        """A payment method of this token."""
        return self._cards[token]

    async def send(self, order: _Order, asked: Asked, verb: str, amount: int) -> Asked:
        """Ask, sometimes with somebody doomed on the way."""
        if order.dice.random() < self.doom:
            verb = "retrieve" if order.dice.random() < 0.2 else verb
            (self._world.web.doom / f"{order.dice.choice(POINTS)}-{verb}-{amount}").touch()
        if order.dice.random() < self.doom / 2:
            (self._world.web.doom / order.dice.choice(PLACES)).touch()
        return await self.insist(asked, order.dice)


class _Order:
    """One client's business with one payment."""

    def __init__(self, load: Load, number: int, dice: random.Random) -> None:
        self._load = load
        self._number = number
        self._steps = itertools.count()
        self.dice = dice
        self.amount = dice.randint(1000, 8999)

    def asked(self, path: str, body: Json) -> Asked:
        """A request, written down before it is sent.

        Raises:
            GaveUp: nothing new is begun any more.
        """
        if self._load.over.is_set():
            raise GaveUp
        made = Asked(path, body, f"torture-{self._number}-{next(self._steps)}")
        self._load.asked.append(made)
        return made

    def payment(self, *, card: str = "tok_visa", **fields: Any) -> Json:
        """The body that creates one."""
        method = self._load.card(card)
        return {"amount_minor": self.amount, "currency": "EUR", "payment_method": method} | fields

    async def create(self) -> Json:
        """Without charging it."""
        return (await self._load.insist(self.asked("/v1/payments", self.payment()), self.dice)).told

    async def pay(self, **fields: Any) -> Json:
        """Create and confirm, and wait for the outcome."""
        asked = self.asked("/v1/payments", self.payment(confirm=True, **fields))
        return await self._outcome((await self._load.send(self, asked, "create_intent", self.amount)).told)

    async def act(self, payment: Json, what: str, body: Json, verb: str, amount: int | None = None) -> Json:
        """Something with a payment, and wait for the outcome of its charge."""
        asked = self.asked(f"/v1/payments/{payment['id']}/{what}", body)
        await self._load.send(self, asked, verb, amount or self.amount)
        if not asked.succeeded:
            raise GaveUp
        return await self._outcome(asked.told)

    async def refunds(self, payment: Json, captured: int | None = None) -> None:
        """None, a part, or in two parts."""
        left = captured or self.amount
        for _ in range(self.dice.choice((0, 1, 1, 2))):
            part = self.dice.randint(1, left)
            asked = self.asked(f"/v1/payments/{payment['id']}/refunds", {"amount_minor": part})
            await self._load.send(self, asked, "refund", part)
            left -= part
            if not left:
                break

    async def _outcome(self, payment: Json) -> Json:
        return await self._load.watch(payment["id"], self.dice) if payment.get("status") == "processing" else payment


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("code", ""))
    except ValueError:
        return ""


# -- The end --------------------------------------------------------------------------------------------------------------------


class Report(msgspec.Struct, kw_only=True):
    """What a run came to. Times in seconds.

    Attributes:
        command: repeats the run.
        requests: under keys of their own; ``answered`` of them by the end, ``given_up`` meanwhile left to recovery.
        open_at_end: intents without an outcome when the last fault was over, and how long they took from there; ``unwanted``
            are those besides that were cancelled meanwhile.
        violations: none, or the promise is broken.
    """

    seed: int
    command: str = ""
    seconds: float = 0.0
    kills: int = 0
    kills_at_points: int = 0
    events: dict[str, int] = {}
    faults: dict[str, int] = {}
    requests: int = 0
    intents: int = 0
    operations: int = 0
    charges_in_book: int = 0
    operations_in_book: int = 0
    webhooks: int = 0
    open_at_end: int = 0
    converged_p50_s: float = 0.0
    converged_p99_s: float = 0.0
    converged_max_s: float = 0.0
    unwanted: int = 0
    unwanted_max_s: float = 0.0
    duplicates: int = 0
    lost: int = 0
    phantom: int = 0
    unconverged: int = 0
    other: int = 0
    violations: list[str] = []

    def table(self) -> str:
        """For people."""
        rows = [
            (name.replace("_", " "), value)
            for name, value in msgspec.structs.asdict(self).items()
            if name not in ("violations", "command")
        ]
        shown = [
            f"{name:<22}{' '.join(f'{key} {n}' for key, n in sorted(value.items())) if isinstance(value, dict) else value}"
            for name, value in rows
        ]
        broken = [f"  {one}" for one in self.violations[:20]]
        return "\n".join([*shown, *broken, f"repeat with: {self.command}" if broken else "every promise held"])


async def end(world: World, load: Load, report: Report, patience_s: float) -> None:
    """The faults are over: wait for the workers, get every answer, and check everything.

    To be called inside ``Load.running``, right after the last fault.
    """
    async with world.connected() as connection:
        last_fault: datetime = await connection.fetchval("SELECT clock_timestamp()")
    await load.finish()
    await _patiently(lambda: _converged(world), patience_s)
    await _ask_again(load, patience_s)
    # What was asked just now has an outcome as well before anything is compared.
    await _patiently(lambda: _converged(world), patience_s)
    await _patiently(lambda: _told(world), patience_s)
    async with world.connected() as connection:
        ours = await invariants.read(connection, [world.scope.tenant_id])
        inbox = await connection.fetch(
            "SELECT state, note FROM webhook_inbox WHERE tenant_id = $1", world.scope.tenant_id
        )
    books = await world.books()
    found = invariants.check(ours, books, [*_answers(world, load)])
    found += _one_payment_per_key(ours, load)
    found += [Violation("I5", text) for text in load.strange]
    found += [
        Violation("P6", f"a message is {row['state']}: {row['note']}") for row in inbox if row["state"] != "applied"
    ]
    report.webhooks = len(inbox)
    late, unwanted = _times(ours, last_fault)
    report.requests, report.intents, report.operations = len(load.asked), len(ours.payments), len(ours.operations)
    booked = [one for book in books.values() for one in book]
    report.operations_in_book = len(booked)
    report.charges_in_book = sum(one["kind"] == "charge" for one in booked)
    report.open_at_end = len(late)
    report.converged_p50_s, report.converged_p99_s = _share(late, 0.5), _share(late, 0.99)
    report.converged_max_s = _share(late, 1.0)
    if report.converged_p99_s > PROMISE_S:
        found.append(Violation("I9", f"99 of 100 took up to {report.converged_p99_s} s, the promise is {PROMISE_S} s"))
    report.unwanted, report.unwanted_max_s = len(unwanted), _share(unwanted, 1.0)
    if report.unwanted_max_s > UNWANTED_S + PROMISE_S:
        found.append(Violation("I9", f"what was cancelled and never sent took up to {report.unwanted_max_s} s"))
    kinds = Counter(
        {"I1": "duplicates", "I2": "lost", "lost": "lost", "I3": "phantom", "I9": "unconverged"}.get(one.code, "other")
        for one in found
    )
    for kind, count in kinds.items():
        setattr(report, kind, count)
    report.violations = [str(one) for one in found]


async def _converged(world: World) -> bool:
    """Whether no outcome is open, and nothing is left to be given back."""
    async with world.connected() as connection:
        return not await connection.fetchval(
            "SELECT (SELECT count(*) FROM operations WHERE state IN ('prepared', 'submitted', 'pending', 'unknown'))"
            " + (SELECT count(*) FROM payment_intents WHERE unwind_at IS NOT NULL)"
        )


async def _told(world: World) -> bool:
    """Whether every message of the PSP has reached its payment."""
    async with world.connected() as connection:
        return not await connection.fetchval("SELECT count(*) FROM webhook_inbox WHERE state <> 'applied'")


async def _patiently(ask: Callable[[], Awaitable[bool]], patience_s: float) -> None:
    """Until it is so, or patience is at its end; what is open then is a violation."""
    until = clock.monotonic() + patience_s
    while not await ask() and clock.monotonic() < until:
        await clock.sleep(0.2)


async def _ask_again(load: Load, patience_s: float) -> None:
    """Every request once more under its key: those never answered get their answer, the others the same one again."""
    dice = random.Random(0)
    waiting = iter(load.asked)

    async def ask() -> None:
        for asked in waiting:
            try:
                await load.insist(asked, dice, patience_s)
            except GaveUp:
                load.strange.append(f"{asked.path} with key {asked.key} gets no answer")

    await asyncio.gather(*(ask() for _ in range(12)))


def _answers(world: World, load: Load) -> Iterable[Answered]:
    for asked in load.asked:
        for told in (asked.answer, asked.unlike):
            if told is not None:
                yield Answered(
                    tenant_id=str(world.scope.tenant_id),
                    route=f"POST {asked.path}",
                    key=asked.key,
                    request=msgspec.json.encode(asked.body).decode(),
                    status=told[0],
                    body=told[1].decode(),
                )


def _one_payment_per_key(ours: invariants.Ours, load: Load) -> Iterable[Violation]:
    """Not one more, not one less than the clients' keys that asked for one."""
    told = {
        str(ids.decode("pay", one.told["id"])) for one in load.asked if one.path == "/v1/payments" and one.succeeded
    }
    here = {one["payment_id"] for one in ours.payments}
    for payment_id in here - told:
        yield Violation("I5", f"payment {payment_id} exists, and no client was told of it")
    for payment_id in told - here:
        yield Violation("lost", f"a client was told of payment {payment_id}, which does not exist")


def _times(ours: invariants.Ours, last_fault: datetime) -> tuple[list[float], list[float]]:
    """Seconds from the last fault to the outcome, for each intent that had none then; ascending. Cancelled ones apart."""
    latest: dict[str, float] = {}
    for one in ours.operations:
        if one["decided_at"] is None:
            continue
        decided, made = datetime.fromisoformat(one["decided_at"]), datetime.fromisoformat(one["created_at"])
        if made <= last_fault < decided:
            late = (decided - last_fault).total_seconds()
            latest[one["payment_id"]] = max(latest.get(one["payment_id"], 0.0), late)
    canceled = {one["payment_id"] for one in ours.payments if one["cancel_requested_at"] is not None}
    wanted = sorted(late for payment_id, late in latest.items() if payment_id not in canceled)
    return wanted, sorted(late for payment_id, late in latest.items() if payment_id in canceled)


def _share(times: Sequence[float], share: float) -> float:
    """The time within which this share was done; 0 when there was nothing to do."""
    return round(times[min(len(times) - 1, int(len(times) * share))], 2) if times else 0.0


# -- The killer -----------------------------------------------------------------------------------------------------------------


async def kill(
    world: World,
    *,
    kills: int,
    seed: int,
    clients: int = 48,
    faults: Json = FAULTS,
    pause_s: tuple[float, float] = (0.02, 0.05),
    doom: float = 0.1,
    flows: dict[str, int] = FLOWS,
    patience_s: float = PATIENCE_S,
) -> Report:
    """Run the tier with a fresh merchant.

    Args:
        kills: how many, at random instants and at points together.
        pause_s: from one kill at a random instant to the next, at least and at most.
        doom: the share of requests on whose way a process is to kill itself.
        flows: what the clients do.
        patience_s: how long the end may take.
    """
    instants = random.Random(f"{seed}/instants")
    async with run_of(world, seed, clients, faults, doom=doom, flows=flows, patience_s=patience_s) as (load, report):
        killed = world.web.killed
        while world.web.killed - killed < kills:
            await clock.sleep(instants.uniform(*pause_s))
            # On a slow machine a life would end before anything was done in it.
            waiting_until = clock.monotonic() + WORK_S
            while load.answered < world.web.killed - killed and clock.monotonic() < waiting_until:
                await clock.sleep(0.005)
            await world.web.kill(instants.randrange(world.web.count))
    return report


@asynccontextmanager
async def run_of(
    world: World,
    seed: int,
    clients: int,
    faults: Json,
    *,
    doom: float,
    flows: dict[str, int] = FLOWS,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[tuple[Load, Report]]:
    """A run: what is done within is the trouble, and after it comes ``end``."""
    await world.open_shop()
    load, report = Load(world, seed, doom=doom, flows=flows), Report(seed=seed)
    await world.faults(faults | {"seed": seed})
    killed, kills, began = world.web.killed, world.web.kills, clock.monotonic()
    async with load.running(clients):
        yield load, report
        report.kills = world.web.killed - killed
        report.kills_at_points = report.kills - (world.web.kills - kills)
        report.seconds = round(clock.monotonic() - began, 1)
        report.faults = dict(await world.injected())
        await world.faults({})
        for doomed in world.web.doom.iterdir():
            doomed.unlink(missing_ok=True)
        await end(world, load, report, patience_s)


# -- The command ----------------------------------------------------------------------------------------------------------------


def add_commands(commands: Any) -> None:
    """``kill``, for ``argparse``'s subcommands."""
    parser = commands.add_parser("kill", help="SIGKILL at random instants while clients pay and the PSP fails")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2, help="gateways; one worker goes with every two")
    add_common(parser)

    def tier(options: argparse.Namespace) -> int:
        command = f"kill --kills {options.kills} --seed {options.seed} --processes {options.processes}"
        servers = {"gateways": options.processes, "workers": max(1, options.processes // 2)}
        return run(
            options,
            command,
            servers,
            lambda world: kill(world, kills=options.kills, seed=options.seed, clients=options.clients),
        )

    parser.set_defaults(run=tier)


def add_common(parser: argparse.ArgumentParser) -> None:
    """What both tiers take."""
    new = int.from_bytes(clock.random_bytes(4))
    parser.add_argument("--seed", type=int, default=new, help="of a run to be repeated; default: a new one")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--json", type=Path, default=None, help="write the report here as well")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and the database's files")


def run(options: argparse.Namespace, command: str, servers: Json, tier: Callable[[World], Awaitable[Report]]) -> int:
    """Run a tier in a world of its own and tell of it; 1 when a promise was broken.

    Args:
        command: repeats it.
        servers: for ``world``.
    """

    async def play(folder: Path) -> Report:
        async with world(folder, **servers) as made:
            return await tier(made)

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="torture-"))
        folder.chmod(0o755)
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        report = asyncio.run(play(folder))
    report.command = f"python -m tests.torture {command}"
    print(report.table())
    if options.keep:
        print(f"kept: {folder}")
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 1 if report.violations else 0
