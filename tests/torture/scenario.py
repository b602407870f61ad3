"""What happens in a run: merchants and payers who behave as badly as real ones, and a time in which everything may break.

A run has three parts. First clients make payments while faults happen and processes are killed. Then the faults stop, and the
workers alone bring everything to rest; how long that takes in virtual time is measured. At the end the invariants are
checked, once in the middle and once here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec
from tests.torture import database, invariants, network
from tests.torture.database import Server
from tests.torture.invariants import Answered, Violation
from tests.torture.loop import Stuck
from tests.torture.world import Lost, Merchant, Process, World

from clearspan.app import Gateway
from clearspan.payments.schemas import (
    PaymentCancel,
    PaymentCapture,
    PaymentConfirm,
    PaymentContinue,
    PaymentCreate,
    RefundCreate,
)
from clearspan.platform import clock
from clearspan.platform.plugins import Plugins
from clearspan.settings import Settings
from clearspan_psp_sandbox.cards import FOLLOW_UP_REFUSED_AMOUNT

Json = dict[str, Any]
TRIES_MAX = 6
ACTIONS_MAX = 6
REST_MAX_S = 4 * 86_400.0
"""Everything is at rest after so long, or never."""
CONVERGENCE_MAX_S = 600.0
"""An outcome that is open when the faults stop is known so much later, and four times as long as the faults lasted, at most: the
distance between two looks grows with the age of an operation."""
_NOT_DONE = frozenset({"idempotency_key_in_flight"})
_LATER = frozenset({"payment_in_progress", "operation_outcome_unknown"})


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a run.

    Attributes:
        seed: of the run.
        violations: empty when it passed.
        digest: of the trace.
        profile: which faults it had.
        virtual_s: how long it took by its own clock.
        convergence_s: for each outcome that was open when the faults stopped, how long it stayed open.
        payments, operations, answers, kills, faults, calls, steps: how many.
    """

    seed: int
    violations: list[Violation] = []
    digest: str = ""
    profile: str = ""
    virtual_s: float = 0.0
    convergence_s: list[float] = []
    payments: int = 0
    operations: int = 0
    answers: int = 0
    kills: int = 0
    faults: int = 0
    calls: int = 0
    overlaps: int = 0
    steps: int = 0


def run(
    seed: int, server: Server, settings: Settings, plugins: Plugins, show: Callable[[str], None] | None = None
) -> Outcome:
    """One run, from an empty installation to the verdict; nothing of it stays in the database."""
    world = World(seed, server, settings, plugins, show)
    scenario = Scenario(world)
    outcome = Outcome(seed=seed)
    with world.entered():
        try:
            world.loop.run_until_complete(scenario.play())
        except Stuck as stuck:
            outcome.violations.append(Violation("I9", str(stuck)))
        finally:
            tenants = [one.tenant_id for one in world.merchants]
            ours = server.run(invariants.read(server.superuser, tenants))
            server.clean(tenants)
    outcome.violations += scenario.violations
    outcome.profile = scenario.profile
    outcome.digest = world.trace.digest()
    outcome.virtual_s = world.loop.time()
    outcome.convergence_s = scenario.convergence_s
    outcome.payments, outcome.operations = len(ours.payments), len(ours.operations)
    outcome.answers, outcome.kills = len(world.answers), world.kills
    outcome.faults = sum(world.psp.injected.values())
    outcome.calls, outcome.overlaps, outcome.steps = world.desk.calls, world.desk.overlaps, world.loop.steps
    return outcome


class Scenario:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance("plan")
        self.profile = ""
        self.violations: list[Violation] = []
        self.convergence_s: list[float] = []

    async def play(self) -> None:
        """All three parts."""
        world, chance = self._world, self._chance
        if chance.random() < 0.15:
            world.workers_asleep_until = chance.uniform(30, 400)
        world.start(gateways=chance.choice((2, 2, 3)), workers=chance.choice((1, 2)))
        for index in range(chance.choice((1, 1, 2))):
            await world.open_shop(f"shop-{world.seed}-{index}", chance.choice((1, 2)))
        await self._unleash()
        span = chance.choice((5.0, 30.0, 90.0))
        clients = [
            Client(
                world, chance.choice(world.merchants), random.Random(chance.random()), chance.uniform(0, span)
            ).shop()
            for _ in range(chance.randint(4, 14))
        ]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client)
        world.note("faults stop")
        world.psp.faults, world.psp.outage_until = network.Faults(), 0.0
        world.desk.faults = database.Faults()
        for shop in world.merchants:
            for account in shop.accounts:
                await world.psp.behave(account)
        world.spare()
        await self._check(settled=False)
        await self._rest()
        await self._check(settled=True)
        if chance.random() < 0.1:
            await self._after_the_replay_window()

    async def _unleash(self) -> None:
        """Choose what goes wrong in this run."""
        chance, world = self._chance, self._world
        self.profile = chance.choice(
            (
                "calm",
                "psp",
                "late",
                "late",
                "database",
                "kill",
                "outage",
                "hang",
                "contradiction",
                "surprise",
                "sandbox",
                "sandbox",
                "all",
                "all",
                "all",
                "all",
            )
        )
        share = chance.choice((0.03, 0.1, 0.25))
        name = self.profile
        everything = name == "all"
        if name == "psp" or everything:
            each = share / 4
            world.psp.faults = network.Faults(
                refused=each,
                f1=each,
                f2=each,
                f3=each,
                f4=each,
                f5=each,
                f7=each,
                f8=each,
                f10=each,
                f12=each,
                twice=each,
                slow=each,
            )
        elif name == "late":
            share = max(share, 0.1)
            world.psp.faults = network.Faults(f3=share * 1.5, f12=share, f2=share, refused=share)
        elif name == "hang":
            world.psp.faults = network.Faults(f1=share * 2, f2=share, slow=share)
        elif name == "outage":
            begins = chance.uniform(0, 60)
            world.psp.outage_share = chance.choice((1.0, 0.5))
            world.loop.call_later(begins, self._outage, begins + chance.uniform(5, 120))
            world.psp.faults = network.Faults(f5=share, f4=share)
        if name == "database" or everything:
            world.desk.faults = database.Faults(
                lost_before=share / 5, lost_after=share / 3, refused=share / 6, slow=chance.choice((0.0, 2.0))
            )
        if name == "kill" or everything or (name in ("outage", "late") and chance.random() < 0.7):
            world.mean_life = chance.choice((60, 200, 600))
            for process in [*world.gateways, *world.workers]:
                process.life = 1 + chance.expovariate(1 / world.mean_life)
        messages = {"W1": 0.1, "W2": 0.2, "W3": 0.2, "W4": 0.05, "W6": chance.choice((0.0, 0.2))}
        if name == "surprise":
            # What was given up is charged after all; only the PSP's message tells.
            world.psp.faults = network.Faults(f3=share * 2)
            world.psp.latest_s = 1800.0
            await self._send_webhooks(messages | {"W6": 0.0})
        elif name == "contradiction":
            await self._send_webhooks(messages | {"F14": share, "W6": 0.0})
            for shop in world.merchants:
                for account in shop.accounts:
                    # Not by chance: that would let lookups lie too, and who is there to ask then?
                    for verb in ("charge", "capture", "void", "refund"):
                        lie = {"fault": "F9", "verb": verb, "skip": chance.randrange(4), "times": 2}
                        told = {"options": {"kind": "webhook_failed", "delay_s": 45.0}}
                        await world.psp.script(account, lie | told)
        elif name == "sandbox":
            each = share / 6
            own = dict.fromkeys(
                ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F10", "F11", "F12", "F14", "F15"), each
            )
            # That a refund failed in the end nobody hears but by its message.
            await self._send_webhooks(own | messages | {"W6": 0.0})
        elif chance.random() < (0.2 if name == "late" else 0.6):
            await self._send_webhooks(messages)
        world.note(f"profile {name}, share {share}")

    async def _send_webhooks(self, rates: dict[str, float]) -> None:
        for shop in self._world.merchants:
            for account in shop.accounts:
                await self._world.psp.send_webhooks(account, rates)

    def _outage(self, until: float) -> None:
        self._world.note("outage")
        self._world.psp.outage_until = until

    # -- afterwards -------------------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Let the workers work until nothing is open, jumping over the time in which nothing is due."""
        world = self._world
        began = world.loop.time()
        waiting = await self._open()
        mine = _undecided(waiting)
        patience = CONVERGENCE_MAX_S + 4 * began
        while waiting or world.psp.next_at is not None:
            if world.loop.time() - began > REST_MAX_S:
                return  # The invariants tell what is still open.
            due = [datetime.fromisoformat(one["sweep_at"]) for one in waiting if one["sweep_at"] is not None]
            pauses = [(moment - clock.now()).total_seconds() for moment in due]
            if world.psp.next_at is not None:
                pauses.append(world.psp.next_at - world.loop.time())
            pause = min(pauses, default=60.0)
            if pause > 10 and not world.psp.busy:
                world.loop.jump(world.loop.time() + pause)
            await clock.sleep(1.0)
            waiting = await self._open()
            still = _undecided(waiting)
            for found in sorted(mine - still):
                self.convergence_s.append(world.loop.time() - began)
                if self.convergence_s[-1] > patience:
                    self._found(
                        [
                            Violation(
                                "I9",
                                f"the outcome of {found} was found out {self.convergence_s[-1]:.0f} s after the faults stopped",
                            )
                        ]
                    )
            mine &= still
        # What the last outcome rings for is done too.
        await clock.sleep(3 * world.settings.worker.sweep_interval_s)

    async def _open(self) -> list[Json]:
        tenants = [one.tenant_id for one in self._world.merchants]
        rows = self._world.server.run(
            self._world.server.superuser.fetch(
                "SELECT operation_id::text, state, sweep_at::text FROM operations WHERE tenant_id = ANY ($1) AND state IN"
                " ('prepared', 'submitted', 'requires_action', 'pending', 'unknown') UNION ALL"
                " SELECT payment_id::text, 'to unwind', unwind_at::text FROM payment_intents WHERE tenant_id = ANY ($1)"
                " AND unwind_at IS NOT NULL AND (amount_minor <> $2 OR NOT EXISTS (SELECT FROM operations o"
                " WHERE o.tenant_id = payment_intents.tenant_id AND o.payment_id = payment_intents.payment_id"
                # The sandbox refuses that for ever; once is enough.
                " AND o.kind IN ('void', 'refund') AND o.state = 'declined' AND o.routing->>'rule' = 'unwind'))",
                tenants,
                FOLLOW_UP_REFUSED_AMOUNT,
            )
        )
        return [dict(row) for row in rows]

    async def _check(self, *, settled: bool) -> None:
        world = self._world
        tenants = [one.tenant_id for one in world.merchants]
        ours = world.server.run(invariants.read(world.server.superuser, tenants))
        self._found(invariants.check(ours, await world.books(), world.answers, settled=settled))
        if settled:
            needles = [
                *network.CARDS.values(),
                *(account.api_key for shop in world.merchants for account in shop.accounts),
            ]
            self._found(world.server.run(invariants.canaries(world.server.superuser, tenants, needles)))

    async def _after_the_replay_window(self) -> None:
        """A month later the keys are spent, and a repetition is refused and charges nothing."""
        world = self._world
        answered = [one for one in world.answers if one.status == 201 and one.route == "POST /v1/payments"]
        if not answered:
            return
        again = self._chance.choice(answered)
        world.loop.jump(world.loop.time() + 32 * 86_400)
        await clock.sleep(4 * world.settings.worker.sweep_interval_s)
        merchant = next(one for one in world.merchants if str(one.tenant_id) == again.tenant_id)
        body = msgspec.json.decode(again.request.partition("\n")[2], type=PaymentCreate)
        key = world.key(again.route, "/v1/payments", again.key, body)
        status, said = await world.request(
            world.gateways[0], lambda gateway: gateway.payments.create(merchant.caller, key, body)
        )
        if (status, msgspec.json.decode(said).get("code")) != (422, "idempotency_key_expired"):
            self._found([Violation("I5", f"a key older than the replay window was answered {status}: {said[:300]}")])

    def _found(self, violations: list[Violation]) -> None:
        for one in violations:
            if one not in self.violations:
                self._world.note(f"VIOLATION {one}")
                self.violations.append(one)


class Client:
    """Somebody who buys one thing, with a merchant's server in between that repeats what was not answered.

    Args:
        chance: decides what this one does.
        begins: when, in seconds.
    """

    def __init__(self, world: World, merchant: Merchant, chance: random.Random, begins: float) -> None:
        self._world = world
        self._merchant = merchant
        self._chance = chance
        self._begins = begins
        self._keys = 0
        self._stays_home = False
        self._id = f"{world.seed}-{chance.randrange(10**9)}"

    async def shop(self) -> None:
        """From the first click to the last."""
        chance = self._chance
        await clock.sleep(self._begins)
        payment = await self._begin()
        for _ in range(ACTIONS_MAX):
            if payment is None:
                return
            await clock.sleep(chance.choice((0.0, 0.05, 1.0, 10.0)) * chance.random())
            payment = await self._go_on(payment)

    async def _begin(self) -> Json | None:
        chance, methods = self._chance, self._merchant.methods
        confirm = chance.random() < 0.75
        amount = chance.choice(
            (chance.randint(100, 8999), chance.randint(100, 8999), 9001, 9050, 9051, FOLLOW_UP_REFUSED_AMOUNT)
        )
        # The sandbox refuses to give up a charge of this amount: one that waits for its payer would wait for ever.
        self._stays_home = amount == FOLLOW_UP_REFUSED_AMOUNT
        body = PaymentCreate(
            amount_minor=amount,
            currency=chance.choice(("EUR", "EUR", "USD", "JPY")),
            payment_method=self._card() if confirm or chance.random() < 0.8 else None,
            capture_method=chance.choice(("automatic", "manual")),
            customer_present=chance.random() < 0.85,
            confirm=confirm,
            failover=chance.random() < 0.5,
            reference=f"order-{self._id}",
            return_url="https://shop.example/thanks",
            metadata={"order": self._id},
        )
        assert body.payment_method is None or body.payment_method in methods.values()
        other = msgspec.structs.replace(body, amount_minor=amount + 1)
        return await self._ask(
            "POST /v1/payments",
            "/v1/payments",
            body,
            lambda gateway, caller, key, given: gateway.payments.create(caller, key, given),
            other,
        )

    async def _go_on(self, payment: Json) -> Json | None:
        """The next thing somebody does with this payment; ``None`` when they leave."""
        chance = self._chance
        match payment["status"]:
            case "requires_payment_method" | "requires_confirmation":
                return await chance.choice(
                    (self._confirm, self._confirm, self._confirm_twice, self._cancel, self._leave)
                )(payment)
            case "requires_action":
                return await chance.choice(
                    (self._pay, self._pay, self._pay, self._continue, self._cancel, self._leave)
                )(payment)
            case "requires_capture" | "partially_captured":
                return await chance.choice(
                    (self._capture, self._capture, self._capture_twice, self._cancel, self._refund, self._leave)
                )(payment)
            case "succeeded":
                return await chance.choice(
                    (self._refund, self._refund, self._refund_twice, self._capture, self._leave)
                )(payment)
            case "processing":
                if chance.random() < 0.4:
                    return await self._cancel(payment)
                await clock.sleep(chance.choice((0.2, 3.0, 20.0)))
                return await self._look(payment) if chance.random() < 0.8 else await self._confirm(payment)
            case _:
                return await self._leave(payment)

    # -- what one can do --------------------------------------------------------------------------------------------------------

    async def _leave(self, _: Json) -> Json | None:
        return None

    async def _confirm(self, payment: Json) -> Json | None:
        body = PaymentConfirm(
            payment_method=self._card(),
            failover=self._chance.random() < 0.5,
            return_url=self._chance.choice((None, "https://shop.example/again")),
        )
        other = msgspec.structs.replace(body, return_url="https://shop.example/other")
        return await self._act(
            payment,
            "confirm",
            body,
            lambda gateway, caller, key, given: gateway.payments.confirm(caller, key, payment["id"], given),
            other,
        )

    async def _confirm_twice(self, payment: Json) -> Json | None:
        """Two clicks, two keys."""
        return await self._both(self._confirm(payment), self._confirm(payment))

    async def _pay(self, payment: Json) -> Json | None:
        if payment["next_action"] is not None and self._chance.random() < 0.9:
            await clock.sleep(self._chance.uniform(0.1, 20))
            await self._world.psp.answer_challenge(
                payment["next_action"]["url"], self._chance.choice(("approve", "approve", "approve", "fail"))
            )
        return await self._continue(payment)

    async def _continue(self, payment: Json) -> Json | None:
        return await self._act(
            payment,
            "continue",
            PaymentContinue(),
            lambda gateway, caller, key, given: gateway.payments.continue_(caller, key, payment["id"], given),
            PaymentContinue(params={"other": "1"}),
        )

    async def _capture(self, payment: Json) -> Json | None:
        left = payment["amounts"]["capturable_minor"]
        part = self._chance.choice((None, None, max(1, left // 2), max(1, left // 3), left + 1))
        body = PaymentCapture(amount_minor=part, final=self._chance.random() < 0.3)
        return await self._act(
            payment,
            "capture",
            body,
            lambda gateway, caller, key, given: gateway.payments.capture(caller, key, payment["id"], given),
            msgspec.structs.replace(body, amount_minor=(part or left or 1) + 1),
        )

    async def _capture_twice(self, payment: Json) -> Json | None:
        return await self._both(self._capture(payment), self._chance.choice((self._capture, self._cancel))(payment))

    async def _cancel(self, payment: Json) -> Json | None:
        body = PaymentCancel(reason="changed my mind")
        return await self._act(
            payment,
            "cancel",
            body,
            lambda gateway, caller, key, given: gateway.payments.cancel(caller, key, payment["id"], given),
            PaymentCancel(reason="another reason"),
        )

    async def _refund(self, payment: Json) -> Json | None:
        left = payment["amounts"]["refundable_minor"]
        part = self._chance.choice((None, max(1, left // 2), max(1, left // 3), left + 1))
        body = RefundCreate(amount_minor=part, reason="returned goods")
        done = await self._ask(
            "POST /v1/payments/{payment_id}/refunds",
            f"/v1/payments/{payment['id']}/refunds",
            body,
            lambda gateway, caller, key, given: gateway.payments.refund(caller, key, payment["id"], given),
            msgspec.structs.replace(body, amount_minor=(part or left or 1) + 1),
        )
        return None if done is None else await self._look(payment)

    async def _refund_twice(self, payment: Json) -> Json | None:
        return await self._both(self._refund(payment), self._refund(payment))

    async def _both(self, one: Awaitable[Json | None], other: Awaitable[Json | None]) -> Json | None:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(_awaited(one)), group.create_task(_awaited(other))
        return first.result() or second.result()

    async def _look(self, payment: Json) -> Json | None:
        for _ in range(TRIES_MAX):
            try:
                status, body = await self._world.request(
                    self._gateway(), lambda gateway: gateway.payments.get(self._merchant.caller, payment["id"])
                )
            except Lost:
                status, body = 0, ""
            if status == 200:
                found: Json = msgspec.json.decode(body)
                return found
            await clock.sleep(self._chance.uniform(0.1, 2))
        return None

    # -- how one asks -----------------------------------------------------------------------------------------------------------

    async def _act(
        self, payment: Json, what: str, body: msgspec.Struct, call: Callable[..., Awaitable[Any]], other: msgspec.Struct
    ) -> Json | None:
        done = await self._ask(
            f"POST /v1/payments/{{payment_id}}/{what}", f"/v1/payments/{payment['id']}/{what}", body, call, other
        )
        return None if done is None else await self._look(payment) if done.get("object") != "payment" else done

    async def _ask(
        self, route: str, path: str, body: msgspec.Struct, call: Callable[..., Awaitable[Any]], other: msgspec.Struct
    ) -> Json | None:
        """Ask until there is an answer, as a merchant's server does; then perhaps ask again, or for something else.

        Returns:
            the object, the problem when it was refused, or ``None`` when nobody answered and this one gave up.
        """
        chance = self._chance
        self._keys += 1
        raw = f"key-{self._id}-{self._keys}"
        told = None
        patience = chance.choice((1, 3, TRIES_MAX))
        for _ in range(patience):
            if chance.random() < 0.12:
                async with asyncio.TaskGroup() as group:
                    asked = [group.create_task(self._once(route, path, raw, body, call)) for _ in range(2)]
                told = next((one.result() for one in asked if _final(one.result())), asked[0].result())
            else:
                told = await self._once(route, path, raw, body, call)
            if _final(told):
                break
            await clock.sleep(chance.choice((0.1, 1.0, 5.0, 40.0)) * chance.uniform(0.5, 1.5))
        if not _final(told):
            return None
        if chance.random() < 0.2:
            await self._once(route, path, raw, body, call)
        if chance.random() < 0.15:
            await self._once(route, path, raw, other, call)
        assert told is not None
        found: Json = msgspec.json.decode(told[1])
        return found

    async def _once(
        self, route: str, path: str, raw: str, body: msgspec.Struct, call: Callable[..., Awaitable[Any]]
    ) -> tuple[int, str] | None:
        """One request to some process; ``None`` when the connection broke."""
        chance, world, caller = self._chance, self._world, self._merchant.caller
        key = world.key(route, path, raw, body)
        hangs_up = (
            chance.choice((0.0005, 0.004, 0.05, 0.5, 5.0)) * chance.random() * 2 if chance.random() < 0.1 else None
        )

        async def work(gateway: Gateway) -> Any:
            return await call(gateway, caller, key, body)

        try:
            status, said = await world.request(self._gateway(), work, hangs_up_after=hangs_up)
        except Lost:
            world.note(f"client {raw} lost")
            return None
        world.note(f"client {raw} {route} {status} {said}")
        request = f"{path}\n{msgspec.json.encode(body).decode()}"
        world.answers.append(
            Answered(
                tenant_id=str(caller.scope.tenant_id), route=route, key=raw, request=request, status=status, body=said
            )
        )
        return status, said

    def _gateway(self) -> Process:
        return self._chance.choice(self._world.gateways)

    def _card(self) -> str:
        if self._stays_home:
            return self._merchant.methods["tok_visa"]
        weighed = (
            "tok_visa",
            "tok_visa",
            "tok_visa",
            "tok_visa",
            "tok_mastercard",
            "tok_challenge",
            "tok_challenge",
            *network.CARDS,
        )
        return self._merchant.methods[self._chance.choice(weighed)]


async def _awaited(work: Awaitable[Json | None]) -> Json | None:
    return await work


def _undecided(waiting: list[Json]) -> set[str]:
    """Those of which nobody here knows what the PSP would say."""
    return {one["operation_id"] for one in waiting if one["state"] not in ("requires_action", "pending", "to unwind")}


def _final(told: tuple[int, str] | None) -> bool:
    """Whether a client need not ask again: neither lost nor to be repeated."""
    if told is None or told[0] >= 500:
        return False
    return told[0] < 400 or msgspec.json.decode(told[1]).get("code") not in _NOT_DONE
