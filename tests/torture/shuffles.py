"""Any order, any repetition: what a PSP says about a payment ends in the same state however it arrives.

Each tale is played with the real gateway and the simulator, and all that the PSP says about it is written down: the
answers to our requests (which the gateway never saw) and its messages. Then the same tale is told to a fresh, equal
payment in another order, with repetitions; the state at the end must be equal but for ids and times.

There is no tale of a refusal that the PSP takes back later: whoever hears of the refusal first gives the charge back
as a surplus, whoever never hears of it keeps it. Both agree with the PSP's book.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid5

import msgspec
from tests.torture import invariants, network, sim
from tests.torture.database import Server
from tests.torture.world import Lost, Merchant, World

from clearspan.app import Gateway
from clearspan.payments.rows import Opened
from clearspan.payments.schemas import PaymentCancel, PaymentCapture, PaymentContinue, PaymentCreate, RefundCreate
from clearspan.platform import clock
from clearspan.platform.context import system
from clearspan.platform.plugins import Plugins
from clearspan.psps.calls import read
from clearspan.sdk import Money
from clearspan.settings import Settings
from clearspan_psp_sandbox import answers

Json = dict[str, Any]
SHORT = 5
"""Of a tale with so many messages or fewer every order is told."""
PER_WORLD = 60
_IGNORED = frozenset(
    {
        "sequence",
        "created_at",
        "updated_at",
        "expires_at",
        "canceled_at",
        "expired_at",
        "cancel_requested_at",
        "unwind_at",
    }
) | frozenset(
    {"tenant_id", "payment_id", "charge_operation_id", "psp_account_id", "payment_method_id", "metadata", "reference"}
)
_SHOWN = ("kind", "state", "amount_minor", "currency", "code", "raw_code", "network_code", "final", "fee_minor")


class Message(msgspec.Struct, frozen=True):
    """One thing that the PSP said.

    Attributes:
        name: of the message; repeated messages are the same.
        raw: the answer to a request, or
        body: a webhook.
    """

    name: str
    raw: Json = {}
    body: str = ""


class Stage:
    """One payment of one tale, in a world where nothing fails by chance."""

    def __init__(self, world: World, merchant: Merchant, number: int, heard: int) -> None:
        self._world = world
        self._merchant = merchant
        self._number = number
        self._calls = 0
        self._account = merchant.accounts[0]
        self._heard = heard
        self.payment_id = ""
        self.messages: list[Message] = []

    async def ask(self, what: str, body: msgspec.Struct) -> None:
        """Have the gateway ask the PSP, which acts; the answer never comes."""
        gateway, caller = self._world.gateways[0].gateway, self._merchant.caller
        self._calls += 1
        path = f"/v1/payments/{self.payment_id}/{what}" if what else "/v1/payments"
        key = self._world.key(f"POST {what}", path, f"key-{self._number}-{self._calls}", body)
        verbs: dict[str, Callable[[Gateway], Awaitable[Any]]] = {
            "": lambda _: gateway.payments.create(caller, key, body),  # type: ignore[arg-type]
            "continue": lambda _: gateway.payments.continue_(caller, key, self.payment_id, body),  # type: ignore[arg-type]
            "capture": lambda _: gateway.payments.capture(caller, key, self.payment_id, body),  # type: ignore[arg-type]
            "cancel": lambda _: gateway.payments.cancel(caller, key, self.payment_id, body),  # type: ignore[arg-type]
            "refunds": lambda _: gateway.payments.refund(caller, key, self.payment_id, body),  # type: ignore[arg-type]
        }
        psp = self._world.psp
        psp.recorded.clear()
        psp.faults = network.Faults(f5_after=1.0)
        status, said = await self._world.request(self._world.gateways[0], verbs[what])
        psp.faults = network.Faults()
        assert status in (200, 201, 202), said
        if not what:
            self.payment_id = msgspec.json.decode(said)["id"]
        self.messages += [Message(f"answer-{self._calls}", raw) for raw in psp.recorded]
        await self.listen()

    async def listen(self) -> None:
        """Write down the messages that the PSP has made since."""
        made = await self._world.psp.messages(self._account)
        self.messages += [Message(one["type"] + "-" + one["id"][-4:], body=one["body"]) for one in made[self._heard :]]
        self._heard = len(made)

    async def settle_pending(self) -> None:
        """Let the PSP's time pass."""
        await clock.sleep(5)
        await self.listen()

    async def payer(self, result: str) -> None:
        """What the payer does, who finds the page in the first answer."""
        page = next(one.raw["challenge_path"] for one in self.messages if "challenge_path" in one.raw)
        await self._world.psp.answer_challenge(f"{network.PSP_URL}{page}", result)
        await self.listen()

    async def happen(self, do: str, **fields: Any) -> None:
        """Something that no request asked for."""
        await self._world.psp.happen(self._account, {"do": do} | fields)
        await self.listen()

    def psp_id(self, kind: str) -> str:
        """The PSP's id of the newest operation (or dispute) of this kind."""
        told = [one.raw or msgspec.json.decode(one.body)["data"] for one in self.messages]
        return str(next(one["id"] for one in reversed(told) if one["kind"] == kind))

    async def tell(self, message: Message) -> None:
        """Bring one message to the gateway."""
        gateway = self._world.gateways[0].gateway
        account_id = UUID(self._account.account_id)
        fact_id = uuid5(account_id, f"{self._number}/{message.name}")

        async def answer(_: Gateway) -> Any:
            return await self._answer(gateway, account_id, message, fact_id)

        async def webhook(_: Gateway) -> Any:
            event = answers.event(message.body.encode())
            name = self._account.api_key.removeprefix("sk_sandbox_")
            return await gateway.payments.tell(
                self._merchant.caller.scope,
                "req_shuffle",
                account_id=account_id,
                news=answers.news(event.data, name, network.PSP_URL),
                fact_id=fact_id,
                sequence=event.sequence,
            )

        status, said = await self._world.request(self._world.gateways[0], webhook if message.body else answer)
        assert status == 200, f"{message.name}: {said}"
        assert said != "null", f"{message.name} was not matched"

    async def _answer(self, gateway: Gateway, account_id: UUID, message: Message, fact_id: UUID) -> Any:
        """As the process that asked would have taken the answer in."""
        caller = system(self._merchant.caller.scope, "payments", "req_shuffle")
        document = {
            "psp_account_id": account_id,
            "operation_id": network.operation_of(message.raw["reference"]),
            "psp_ref": None,
            "kind": message.raw["kind"],
        }
        found = await gateway.payments.ask("operation_match", caller, document)
        assert found is not None
        opened = msgspec.json.decode(found, type=Opened)
        assert opened.operation is not None
        asked = Money(opened.operation.amount_minor, opened.operation.currency)
        observation = read(self._world.psp.outcome(self._account, message.raw), asked, "response")
        return await gateway.payments.settle(caller, opened, observation, fact_id=fact_id)


Tale = Callable[[Stage, Merchant], Awaitable[None]]


def _create(merchant: Merchant, amount: int, card: str = "tok_visa", capture: str = "automatic") -> PaymentCreate:
    return PaymentCreate(
        amount_minor=amount,
        currency="EUR",
        payment_method=merchant.methods[card],
        capture_method=capture,
        confirm=True,  # type: ignore[arg-type]
    )


async def _known(stage: Stage) -> None:
    """The first operation's outcome is known, so that the next may follow; its messages come again later."""
    await stage.tell(stage.messages[-1])


async def paid(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 1099))


async def declined(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 1099, "tok_insufficient"))


async def pending_then_paid(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 9050))
    await stage.settle_pending()


async def pending_then_declined(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 9051))
    await stage.settle_pending()


async def challenged_then_paid(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 1099, "tok_challenge"))
    await _known(stage)
    await stage.payer("approve")
    await stage.ask("continue", PaymentContinue())


async def challenged_then_declined(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 1099, "tok_challenge_declined"))
    await _known(stage)
    await stage.payer("approve")
    await stage.ask("continue", PaymentContinue())


async def challenged_then_pending_then_paid(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 9050, "tok_challenge"))
    await _known(stage)
    await stage.payer("approve")
    await stage.ask("continue", PaymentContinue())
    await stage.settle_pending()


async def captured_in_parts_and_refunded(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 5000, capture="manual"))
    await _known(stage)
    await stage.ask("capture", PaymentCapture(amount_minor=1200))
    await stage.ask("capture", PaymentCapture(amount_minor=800))
    await _known(stage)
    await stage.ask("refunds", RefundCreate(amount_minor=300))


async def authorized_and_canceled(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 1099, capture="manual"))
    await _known(stage)
    await stage.ask("cancel", PaymentCancel())


async def refund_pending_then_done(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 20000))
    await _known(stage)
    await stage.ask("refunds", RefundCreate(amount_minor=9050))
    await stage.settle_pending()


async def refund_pending_then_failed(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 20000))
    await _known(stage)
    await stage.ask("refunds", RefundCreate(amount_minor=9051))
    await stage.settle_pending()


async def refund_done_then_failed(stage: Stage, merchant: Merchant) -> None:
    await stage.ask("", _create(merchant, 20000))
    await _known(stage)
    await stage.ask("refunds", RefundCreate(amount_minor=700))
    await stage.happen("fail_refund", refund=stage.psp_id("refund"))


async def disputed_and_won(stage: Stage, merchant: Merchant) -> None:
    await _disputed(stage, merchant, "under_review", "won")


async def disputed_and_lost_after_a_win(stage: Stage, merchant: Merchant) -> None:
    await _disputed(stage, merchant, "under_review", "won", "pre_arbitration", "lost")


async def _disputed(stage: Stage, merchant: Merchant, *statuses: str) -> None:
    await stage.ask("", _create(merchant, 1099))
    await _known(stage)
    await stage.happen("dispute", charge=stage.psp_id("charge"), amount=500)
    for status in statuses:
        await stage.happen("dispute_update", dispute=stage.psp_id("dispute"), status=status)


TALES: dict[str, Tale] = {
    tale.__name__: tale
    for tale in (
        paid,
        declined,
        pending_then_paid,
        pending_then_declined,
        challenged_then_paid,
        challenged_then_declined,
        challenged_then_pending_then_paid,
        captured_in_parts_and_refunded,
        authorized_and_canceled,
        refund_pending_then_done,
        refund_pending_then_failed,
        refund_done_then_failed,
        disputed_and_won,
        disputed_and_lost_after_a_win,
    )
}


def orders(count: int, chance: random.Random) -> Iterator[list[int]]:
    """Every order of a short tale, then random ones with repetitions, without end."""
    if count <= SHORT:
        for order in itertools.permutations(range(count)):
            yield list(order)
    while True:
        told = [*range(count), *(chance.randrange(count) for _ in range(chance.randint(0, count)))]
        chance.shuffle(told)
        yield told


async def state(world: World, merchant: Merchant, payment_id: str) -> tuple[str, Json]:
    """The state of a payment without ids and times, and its hash."""
    ours = world.server.run(invariants.read(world.server.superuser, [merchant.tenant_id]))
    place = str(network.operation_of(payment_id, "pay"))
    payment = next(one for one in ours.payments if one["payment_id"] == place)
    shown = {name: value for name, value in payment.items() if name not in _IGNORED and not name.endswith("_id")}
    shown["next_action"] = shown["next_action"] is not None
    operations = sorted(
        ([one[name] for name in _SHOWN] for one in ours.operations if one["payment_id"] == place), key=repr
    )
    disputes = [[one["status"], one["amount_minor"]] for one in ours.disputes if one["payment_id"] == place]
    seen = {"payment": shown, "operations": operations, "disputes": disputes}
    return hashlib.sha256(msgspec.json.encode(seen, order="deterministic")).hexdigest(), seen


class Telling:
    """One tale, told in many orders; stops at the first that ends otherwise.

    Attributes:
        told: how many were told.
        wrong: what was wrong, or empty.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._chance = random.Random(f"{seed}/{name}")
        self._plan: Iterator[list[int]] | None = None
        self._first: tuple[str, Json] | None = None
        self.told = 0
        self.wrong = ""

    def run(self, count: int, server: Server, settings: Settings, plugins: Plugins) -> None:
        """Tell it ``count`` times. No answer ever comes here, which would open every circuit; that is not the subject."""
        patient = msgspec.structs.replace(settings.psps, breaker_sample=10_000, breaker_calls_min=10_000)
        settings = msgspec.structs.replace(settings, psps=patient)
        while self.told < count and not self.wrong:
            world = World(hash_of(self._seed, self._name, self.told), server, settings, plugins)
            with world.entered():
                try:
                    world.loop.run_until_complete(self._tell(world, min(PER_WORLD, count - self.told)))
                except (AssertionError, Lost) as error:
                    self.wrong = f"{self._name}: {error}"
                finally:
                    server.clean([one.tenant_id for one in world.merchants])

    async def _tell(self, world: World, count: int) -> None:
        world.start(gateways=1, workers=0)
        world.psp.record = True
        merchant = await world.open_shop(f"shuffle-{world.seed}", 1)
        for number in range(count):
            stage = Stage(world, merchant, number, len(await world.psp.messages(merchant.accounts[0])))
            await TALES[self._name](stage, merchant)
            self._plan = self._plan or orders(len(stage.messages), self._chance)
            order = [stage.messages[index] for index in next(self._plan)]
            for message in order:
                await stage.tell(message)
            digest, seen = await state(world, merchant, stage.payment_id)
            self.told += 1
            self._first = self._first or (digest, seen)
            if self._first[0] != digest:
                names = " ".join(message.name for message in order)
                self.wrong = f"{self._name}, told as {names}: {_difference(self._first[1], seen)}"
                return


def hash_of(*parts: object) -> int:
    """A seed from several things."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=6).digest(), "big")


def _difference(first: Json, seen: Json) -> str:
    was, now = first["payment"], seen["payment"]
    changed = {key: (was[key], value) for key, value in now.items() if was[key] != value}
    return (
        f"{changed} {[(key, first[key], seen[key]) for key in ('operations', 'disputes') if first[key] != seen[key]]}"
    )


def main(count: int, seed: int) -> int:
    """All tales, ``count`` tellings in all. Returns the exit code."""
    settings, loaded = sim.parts()
    began = time.monotonic()
    total, failed = 0, 0
    with sim.postgres() as url, sim.database_of(url, f"torture_{os.getpid()}") as server:
        for name in TALES:
            telling = Telling(name, seed)
            telling.run(max(1, count // len(TALES)), server, settings, loaded)
            total += telling.told
            failed += bool(telling.wrong)
            print(f"{name:40} {telling.told:6} tellings  {telling.wrong or 'one state'}", flush=True)
    print(f"{total} tellings in {time.monotonic() - began:.0f} s, {failed} of {len(TALES)} tales failed")
    return 1 if failed else 0
