"""One scenario for every PSP plugin, each against its simulator: pay, challenge, decline, capture, refund, rebill, storms of
webhooks, answers that never come. Whatever the PSP is, the gateway says the same, and the PSP's own book says what the gateway
says; and every request was as the official description wants it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from tests.conftest import BASE_URL, Merchant, app_of, free_ports, running
from tests.scenarios.rehearsal import Ahead, Booked, Json, Rehearsal, Stage, stages
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.sdk import DECLINES
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Urls

STAGES = stages()
AMOUNT = 1099
RETURN_URL = "https://shop.example/thanks"
PSP_TIMEOUT_S = 1.0


def those_that_can(*needed: str) -> Any:
    """Every stage that has it all; nothing is skipped silently: docs/plugins.md says who can what."""
    able = [stage for stage in STAGES if stage.can >= set(needed)]
    assert able, needed
    return pytest.mark.parametrize("stage", able, ids=repr)


class World:
    """A merchant with one account at a simulator."""

    def __init__(self, shop: Shop, rehearsal: Rehearsal, gateway: Gateway, merchant: Merchant, account: Json) -> None:
        self.shop, self.psp, self.gateway, self.merchant = shop, rehearsal, gateway, merchant
        self.stage = rehearsal.stage
        self.account = account

    async def method(self, name: str, **body: Any) -> str:
        given = {
            key: self.account["id"] if value == "<account>" else value
            for key, value in self.stage.methods[name].items()
        }
        answer = await self.shop.http.post("/v1/payment-methods", json=given | body)
        assert answer.status_code == 201, answer.text
        identity: str = answer.json()["id"]
        return identity

    async def pay(self, name: str = "approved", **fields: Any) -> Json:
        """Create and confirm; a payer who is sent to the PSP's page pays there."""
        given = {"payment_method": await self.method(name), "confirm": True, "return_url": RETURN_URL} | fields
        answer = await self.shop.create(AMOUNT, currency=self.stage.currency, **given)
        assert answer.status_code in (201, 202), answer.text
        return await self.back_from_the_page(answer.json())

    async def back_from_the_page(self, payment: Json, outcome: str = "approve") -> Json:
        if payment["status"] != "requires_action" or outcome == "wait":
            return payment
        params = await self.psp.browser(payment["next_action"]["url"], outcome)
        answer = await self.shop.act(payment, "continue", {"params": params})
        assert answer.status_code in (200, 202), answer.text
        return await self.settled(payment)

    async def settled(self, payment: Json) -> Json:
        """The payment when webhooks and lookups have told what they can."""
        for minutes in (0, 1, 5, 20, 60, 240):
            found = await self.shop.get(payment)
            undecided = [one for one in found["operations"] if one["state"] in ("pending", "unknown", "submitted")]
            if not undecided:
                break
            await self.psp.settle()
            await self.hear(await self.psp.webhooks())
            await self.recover(minutes * 60)
        return await self.shop.get(payment)

    async def recover(self, ahead_s: float) -> None:
        real = clock.use(clock.SystemClock())
        clock.use(Ahead(real, ahead_s))  # type: ignore[arg-type]
        try:
            await self.gateway.payments.recover(self.merchant.caller.scope, "req_recovery", 100)
        finally:
            clock.use(real)

    async def hear(self, messages: list[tuple[dict[str, str], bytes]]) -> list[int]:
        """Deliver messages to the account's webhook address, and let them be applied."""
        address = self.account["webhook_url"].replace("https://pay.example", BASE_URL)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(self.gateway)), base_url=BASE_URL) as psp:
            said = [(await psp.post(address, content=body, headers=headers)).status_code for headers, body in messages]
        for _ in range(3):
            await self.gateway.inbox.apply(self.merchant.caller.scope, "req_inbox", 100)
        return said

    async def charges(self, payment: Json) -> list[Booked]:
        """What the PSP's own book has of a payment, declined ones left out."""
        mine = {one["id"] for one in (await self.shop.get(payment))["operations"]}
        return [one for one in await self.psp.charges() if one.reference in mine and one.status != "declined"]

    async def agrees(self, payment: Json, **booked: Any) -> None:
        """There is exactly one charge in the PSP's book, and it is so; every request was as it should be."""
        (charge,) = await self.charges(payment)
        expected = {"amount_minor": AMOUNT, "currency": self.stage.currency} | booked
        assert {name: getattr(charge, name) for name in expected} == expected
        assert await self.psp.problems() == []


@pytest.fixture(scope="module")
def rehearsals() -> Iterator[dict[str, Rehearsal]]:
    """Every simulator."""
    with ExitStack() as stack:
        found = {}
        for stage in STAGES:
            found[stage.psp] = rehearsal = Rehearsal(stage)
            stack.callback(rehearsal.stop)
        yield found


@pytest.fixture(scope="module")
def staged(
    settings: Settings, rehearsals: dict[str, Rehearsal], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings with every PSP plugin, and a vault that may forward to the simulators."""
    (port,) = free_ports(1)
    tables = {name: dict(table) for name, table in settings.plugin.items()}
    tables["vault-sandbox"] = {
        "url": f"http://127.0.0.1:{port}",
        "allow": [one.url for one in rehearsals.values()],
    }
    enabled = {"vault-sandbox": ""} | {one.stage.plugin: "" for one in rehearsals.values()}
    mine = msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, public_url="https://pay.example"),
        plugins=msgspec.structs.replace(settings.plugins, enabled=enabled),
        plugin=tables,
        payments=msgspec.structs.replace(settings.payments, psp_timeout_s=PSP_TIMEOUT_S, wait_budget_s=20),
        # One account meets every fault here: its circuit is not what is tried.
        psps=msgspec.structs.replace(settings.psps, breaker_calls_min=10_000),
    )
    home = tmp_path_factory.mktemp("stage")
    companions = plugins.load(enabled).companions(tables, str(home))
    with running([one for one in companions if one.name == "vault-sandbox"], home):
        yield mine


@pytest.fixture(scope="module")
async def gateway(urls: Urls, staged: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """With every PSP plugin."""
    made = Gateway(staged, urls.app, master, plugins.load(staged.plugins.enabled))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def world(
    stage: Stage, gateway: Gateway, merchant: Merchant, rehearsals: dict[str, Rehearsal]
) -> AsyncIterator[World]:
    """A fresh merchant at the simulator of the stage."""
    rehearsal = rehearsals[stage.psp]
    headers = {"Authorization": f"Bearer {merchant.key}"}
    transport = httpx.ASGITransport(app=app_of(gateway))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        config = stage.account_config(rehearsal.url)
        answer = await http.post("/v1/psp-accounts", json={"psp": stage.psp, "name": "main", "config": config})
        assert answer.status_code == 201, answer.text
        account = answer.json()
        await rehearsal.told_where(account["webhook_url"])
        yield World(Shop(http, rehearsal.url), rehearsal, gateway, merchant, account)


@those_that_can()
async def test_a_payment_is_in_both_books_once(world: World) -> None:
    payment = await world.pay()
    assert payment["status"] == "succeeded", payment
    assert payment["amounts"]["captured_minor"] == AMOUNT
    await world.agrees(payment, status="captured", captured_minor=AMOUNT)


@those_that_can()
async def test_a_refusal_is_a_decline_with_a_normalised_code_and_nothing_is_charged(world: World) -> None:
    payment = await world.pay("declined")
    assert payment["status"] == "requires_payment_method", payment
    error = (await world.shop.get(payment))["last_error"]
    assert error["code"] in DECLINES
    assert error["code"] != "unmapped"
    assert error["raw_code"]
    assert await world.charges(payment) == []
    assert await world.psp.problems() == []


@those_that_can("challenge")
async def test_a_payer_who_proves_who_he_is_pays(world: World) -> None:
    payment = await world.pay("challenge")
    assert payment["status"] == "succeeded", payment
    await world.agrees(payment, status="captured")


@those_that_can("challenge")
async def test_a_payer_who_does_not_pays_nothing(world: World) -> None:
    method = await world.method("challenge")
    made = await world.shop.create(
        AMOUNT, currency=world.stage.currency, payment_method=method, confirm=True, return_url=RETURN_URL
    )
    assert made.json()["status"] == "requires_action", made.text
    payment = await world.back_from_the_page(made.json(), "refuse")
    assert payment["status"] == "requires_payment_method", payment
    assert [one for one in await world.charges(payment) if one.status in ("authorized", "captured")] == []


@those_that_can("authorize")
async def test_an_authorisation_is_captured(world: World) -> None:
    payment = await world.pay("manual" if "manual" in world.stage.methods else "approved", capture_method="manual")
    assert payment["status"] == "requires_capture", payment
    await world.agrees(payment, status="authorized", captured_minor=0)
    assert (await world.shop.act(payment, "capture", {"final": True})).status_code in (200, 202)
    payment = await world.settled(payment)
    assert (payment["status"], payment["amounts"]["captured_minor"]) == ("succeeded", AMOUNT)
    await world.agrees(payment, status="captured", captured_minor=AMOUNT)


@those_that_can("authorize", "partial_capture")
async def test_part_of_an_authorisation_is_captured_and_the_rest_released(world: World) -> None:
    payment = await world.pay("manual" if "manual" in world.stage.methods else "approved", capture_method="manual")
    assert (await world.shop.act(payment, "capture", {"amount_minor": 400, "final": True})).status_code in (200, 202)
    payment = await world.settled(payment)
    assert payment["amounts"]["captured_minor"] == 400, payment
    await world.agrees(payment, captured_minor=400)


@those_that_can("authorize", "void")
async def test_an_authorisation_is_released(world: World) -> None:
    payment = await world.pay("manual" if "manual" in world.stage.methods else "approved", capture_method="manual")
    assert (await world.shop.act(payment, "cancel")).status_code in (200, 202)
    payment = await world.settled(payment)
    assert (payment["status"], payment["amounts"]["captured_minor"]) == ("canceled", 0), payment
    await world.agrees(payment, status="canceled", captured_minor=0)


@those_that_can("partial_refund")
async def test_part_of_a_payment_is_given_back_once(world: World) -> None:
    payment = await world.pay()
    for amount in (300, 200):
        answer = await world.shop.act(payment, "refunds", {"amount_minor": amount})
        assert answer.status_code in (201, 202), answer.text
        payment = await world.settled(payment)
    assert payment["amounts"]["refunded_minor"] == 500, payment
    await world.agrees(payment, refunded_minor=500)


@those_that_can("mit")
async def test_a_customer_who_agreed_is_charged_later_without_being_there(world: World) -> None:
    customer = await world.shop.customer()
    method = await world.method("stored" if "stored" in world.stage.methods else "approved", customer=customer)
    mandate = await world.shop.mandate(customer=customer, method=method, purpose="recurring")
    first = await world.pay(customer=customer, payment_method=method, mandate=mandate["id"])
    assert first["status"] == "succeeded", first
    assert (await world.shop.mandate_of(mandate))["status"] == "active"
    answer = await world.shop.create(
        AMOUNT, currency=world.stage.currency, customer=customer, payment_method=method, mandate=mandate["id"],
        confirm=True, customer_present=False,
    )  # fmt: skip
    assert answer.status_code in (201, 202), answer.text
    second = await world.settled(answer.json())
    assert second["status"] == "succeeded", second
    await world.agrees(second, status="captured")


@those_that_can()
@pytest.mark.parametrize("fault", ["hang_after", "error_after", "garbage_after"])
async def test_a_charge_whose_answer_is_lost_is_found_and_never_made_twice(world: World, fault: str) -> None:
    await world.psp.next(fault)
    payment = await world.pay()
    payment = await world.back_from_the_page(await world.settled(payment))
    assert payment["status"] == "succeeded", payment
    await world.agrees(payment, status="captured")


@those_that_can()
@pytest.mark.parametrize("fault", ["hang_before", "error_before"])
async def test_a_request_that_was_lost_is_made_once_or_waits_and_is_never_called_a_failure(
    world: World, fault: str
) -> None:
    await world.psp.next(fault)
    made = await world.pay()
    payment = await world.back_from_the_page(await world.settled(made))
    states = {one["state"] for one in payment["operations"]}
    assert not states & {"declined"}, payment
    assert len(await world.charges(payment)) <= 1
    assert (payment["status"] == "succeeded") == (len(await world.charges(payment)) == 1)


@those_that_can("webhooks")
async def test_a_storm_of_messages_changes_nothing_that_is_true(world: World) -> None:
    paid = await world.pay()
    await world.shop.act(paid, "refunds", {"amount_minor": 300})
    before = await world.settled(paid)
    messages = await world.psp.webhooks()
    assert messages, "the simulator tells something"
    storm = messages * 4
    random.Random(7).shuffle(storm)  # noqa: S311
    assert set(await world.hear(storm)) == {200}
    after = await world.shop.get(paid)
    assert (after["status"], after["amounts"]) == (before["status"], before["amounts"])
    assert len(after["operations"]) == len(before["operations"])
    await world.agrees(paid, refunded_minor=300)


@those_that_can("webhooks")
async def test_a_message_that_was_touched_is_not_believed(world: World) -> None:
    paid = await world.pay()
    messages = await world.psp.webhooks()
    touched = [
        (headers, body.replace(str(AMOUNT).encode(), b"9999").replace(b"10.99", b"99.99")) for headers, body in messages
    ]
    changed = [new for new, old in zip(touched, messages, strict=True) if new != old]
    if changed:
        assert set(await world.hear(changed)) == {401}
        return
    # It says nothing but an id: whatever stands in it, the PSP is asked.
    before = await world.shop.get(paid)
    await world.hear([(headers, body + b"x") for headers, body in messages])
    after = await world.shop.get(paid)
    assert (after["status"], after["amounts"]) == (before["status"], before["amounts"])
    assert len(await world.charges(paid)) == 1


@pytest.fixture
async def stripe_then_adyen(
    gateway: Gateway, merchant: Merchant, rehearsals: dict[str, Rehearsal]
) -> AsyncIterator[Shop]:
    """A merchant with an account at Stripe, which comes first, and one at Adyen."""
    headers = {"Authorization": f"Bearer {merchant.key}"}
    transport = httpx.ASGITransport(app=app_of(gateway))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        for priority, name in enumerate(("stripe", "adyen"), 1):
            config = rehearsals[name].stage.account_config(rehearsals[name].url)
            body = {"psp": name, "name": name, "priority": priority, "config": config}
            assert (await http.post("/v1/psp-accounts", json=body)).status_code == 201
        yield Shop(http, rehearsals["stripe"].url)


async def test_a_declined_stripe_charge_goes_over_to_adyen_with_the_one_vault_token(
    stripe_then_adyen: Shop, rehearsals: dict[str, Rehearsal]
) -> None:
    shop = stripe_then_adyen
    answer = await shop.pay(AMOUNT, "tok_decline_processing_error", failover=True, return_url=RETURN_URL)
    payment = await shop.get(answer.json())
    assert payment["status"] == "succeeded", payment
    told = [(one["account"], one["state"], one["code"]) for one in payment["operations"]]
    assert told == [("stripe", "declined", "processing_error"), ("adyen", "succeeded", None)]
    booked = {
        name: [
            one
            for one in await rehearsals[name].charges()
            if one.reference in {op["id"] for op in payment["operations"]}
        ]
        for name in ("stripe", "adyen")
    }
    assert [one.status for one in booked["stripe"] if one.status != "declined"] == []
    assert [(one.amount_minor, one.status) for one in booked["adyen"]] == [(AMOUNT, "captured")]
    assert await rehearsals["stripe"].problems() == []
    assert await rehearsals["adyen"].problems() == []


@pytest.mark.parametrize("fault", ["hang_after", "hang_before", "error_before", "garbage_after"])
async def test_an_unknown_stripe_charge_never_goes_over(
    stripe_then_adyen: Shop, rehearsals: dict[str, Rehearsal], fault: str
) -> None:
    shop = stripe_then_adyen
    await shop.card()
    await rehearsals["stripe"].next(fault)
    answer = await shop.pay(AMOUNT, failover=True, return_url=RETURN_URL)
    payment = await shop.get(answer.json())
    assert (payment["status"], payment["outcome"]) == ("processing", "unknown"), payment
    assert [one["account"] for one in payment["operations"]] == ["stripe"]
    mine = {one["id"] for one in payment["operations"]}
    assert [one for one in await rehearsals["adyen"].charges() if one.reference in mine] == []
