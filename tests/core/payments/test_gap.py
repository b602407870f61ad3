"""After a restore nothing that a PSP did in the gap stays unknown, and a client that repeats itself is not charged again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
import httpx
import msgspec
import pytest
from tests.core.payments.conftest import KeyedPsp, Puppet, approve, with_puppets
from tests.shop import Shop, new_key

from clearspan.app import Gateway, create_app
from clearspan.payments.gap import Found, recover_gap
from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.sdk import Approved, Declined, Money, NotFound, OperationNews, OutcomeUnknown, PspFacts
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls


class ListingPsp(KeyedPsp):
    """A puppet that lists what it did."""

    name: ClassVar[str] = "listing"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        KeyedPsp.facts, lookup=msgspec.structs.replace(KeyedPsp.facts.lookup, by_time=True)
    )


class Town:
    """A merchant at a PSP that lists, and the means to lose the database's last minutes."""

    def __init__(self, gateway: Gateway, shop: Shop, merchant: Merchant, puppet: Puppet, superuser: Any) -> None:
        self.gateway, self.shop, self.puppet = gateway, shop, puppet
        self.scope = merchant.caller.scope
        self._superuser = superuser
        self.booked: list[OperationNews] = []
        puppet.does = self.act

    def act(self, verb: str, request: Any) -> Any:
        """An honest PSP that keeps a list."""
        if verb == "activity":
            return list(self.booked)
        if verb == "retrieve":
            return next((one.outcome for one in self.booked if one.reference == request.operation_id), NotFound())
        kind = {"create_intent": "charge", "cancel": "void"}.get(verb, verb)
        found = next((one for one in self.booked if one.reference == request.operation_id), None)
        if found is None:
            found = OperationNews(
                kind=kind,
                reference=request.operation_id,
                psp_ref=f"ref-{request.operation_id}",
                charge_ref=getattr(request, "charge_ref", None),
                amount=request.amount,
                capture=getattr(request, "capture", None),
                metadata=dict(getattr(request, "metadata", {})),
                outcome=Approved(psp_ref=f"ref-{request.operation_id}", amount=request.amount),
            )
            self.booked.append(found)
        return found.outcome

    async def forget(self, *statements: str) -> None:
        """What the backup did not have yet; $1 is the tenant."""
        async with self._superuser.transaction():
            await self._superuser.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await self._superuser.execute(statement, self.scope.tenant_id)

    async def forget_everything(self) -> None:
        """All payments."""
        tables = ("facts", "operations", "payment_intents", "idempotency_keys")
        await self.forget(*(f"DELETE FROM {table} WHERE tenant_id = $1" for table in tables))

    async def recover(self) -> Found:
        """``clearspan recover`` for this merchant."""
        now = clock.now()
        (found,) = await recover_gap(
            self.gateway.payments, self.gateway.psps, self.scope, "req_gap", now - timedelta(minutes=10), now
        )
        return found


@pytest.fixture(scope="module")
async def restored(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """A gateway that knows ``ListingPsp``."""
    loaded = with_puppets(settings)
    loaded.psps["listing"] = ListingPsp
    loaded.plugin_of_psp["listing"] = "listing"
    gateway = Gateway(settings, urls.app, master, loaded)
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
async def town(
    restored: Gateway, merchant: Merchant, puppet: Puppet, psp_url: str, superuser: asyncpg.Connection[asyncpg.Record]
) -> AsyncIterator[Town]:
    """With one account."""
    from tests.conftest import BASE_URL

    transport = httpx.ASGITransport(app=create_app(restored))
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        shop = Shop(client, psp_url)
        await shop.add_account("listing", 1, psp="listing", config={"name": puppet.name})
        yield Town(restored, shop, merchant, puppet, superuser)


async def test_what_agrees_is_counted_and_left_alone(town: Town) -> None:
    payment = await town.shop.paid()
    before = await town.shop.get(payment)
    found = await town.recover()
    assert (found.listed, found.agreed, found.changed, found.adopted, found.unmatched) == (1, 1, 0, 0, [])
    assert await town.shop.get(payment) == before


async def test_a_lost_charge_is_taken_in_and_the_repeated_request_meets_it(town: Town) -> None:
    key = new_key()
    lost = (await town.shop.pay(key=key)).json()
    await town.forget_everything()
    assert (await town.shop.http.get(f"/v1/payments/{lost['id']}")).status_code == 404
    found = await town.recover()
    assert (found.adopted, found.unmatched) == (1, [])
    adopted = await town.shop.get(lost["id"])
    assert (adopted["status"], adopted["amounts"]["captured_minor"]) == ("succeeded", 1099)
    again = await town.shop.pay(key=key)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (201, lost["id"], "succeeded")
    assert (await town.shop.pay(key=key)).content == again.content
    assert town.puppet.verbs.count("create_intent") == 1
    assert (await town.recover()).agreed == 1, "the second time everything agrees"


async def test_without_recovery_the_repeated_request_sends_the_same_key_and_reference(town: Town) -> None:
    key = new_key()
    await town.shop.pay(key=key)
    await town.forget_everything()
    again = await town.shop.pay(key=key)
    assert again.json()["status"] == "succeeded"
    assert len(town.booked) == 1
    first, second = (request for verb, request in town.puppet.calls if verb == "create_intent")
    assert (first.key, first.operation_id) == (second.key, second.operation_id)


async def test_a_lost_refund_and_a_lost_capture_go_back_to_their_charge(town: Town) -> None:
    payment = await town.shop.paid(capture_method="manual")
    await town.shop.act(payment, "capture", {"amount_minor": 600})
    await town.shop.act(payment, "refunds", {"amount_minor": 100})
    before = (await town.shop.get(payment))["amounts"]
    follow_ups = "SELECT operation_id FROM operations WHERE tenant_id = $1 AND kind IN ('capture', 'refund')"
    await town.forget(
        f"DELETE FROM facts WHERE tenant_id = $1 AND operation_id IN ({follow_ups})",
        f"DELETE FROM idempotency_keys WHERE tenant_id = $1 AND operation_id IN ({follow_ups})",
        "DELETE FROM operations WHERE tenant_id = $1 AND kind IN ('capture', 'refund')",
        "UPDATE payment_intents SET captured_minor = 0, refunded_minor = 0, status = 'requires_capture' WHERE tenant_id = $1",
    )
    found = await town.recover()
    assert (found.agreed, found.adopted, found.unmatched) == (1, 2, [])
    assert (await town.shop.get(payment))["amounts"] == before


async def test_a_charge_whose_payment_was_charged_again_meanwhile_is_a_surplus(town: Town) -> None:
    payment = await town.shop.ready()
    await town.shop.act(payment, "confirm")
    await town.forget(
        *(f"DELETE FROM {table} WHERE tenant_id = $1" for table in ("facts", "operations", "idempotency_keys")),
        "UPDATE payment_intents SET captured_minor = 0, authorized_minor = 0, charge_operation_id = NULL,"
        " status = 'requires_confirmation' WHERE tenant_id = $1",
    )
    assert (await town.shop.act(payment, "confirm")).json()["status"] == "succeeded", "another key: a second charge"
    found = await town.recover()
    assert found.adopted == 1
    after = await town.shop.get(payment)
    assert (after["status"], after["amounts"]["surplus_minor"]) == ("succeeded", 1099)
    assert await town.gateway.payments.unwind(town.scope, "req_unwind", 10) == 1
    assert (await town.shop.get(payment))["amounts"]["surplus_minor"] == 0


async def test_what_was_open_in_the_backup_is_looked_up_at_once(town: Town) -> None:
    def lost(verb: str, request: Any) -> Any:
        outcome = town.act(verb, request)
        if verb == "create_intent":
            raise OutcomeUnknown("sent, no answer")
        return outcome

    town.puppet.does = lost
    payment = (await town.shop.pay()).json()
    assert payment["outcome"] == "unknown"
    found = await town.recover()
    assert (found.open_, found.changed) == (1, 1)
    assert (await town.shop.get(payment))["status"] == "succeeded"


async def test_a_decline_that_only_the_psp_knows_is_no_money_and_a_foreign_refund_is_reported(town: Town) -> None:
    amount = Money(500, "EUR")
    town.booked = [
        OperationNews(
            kind="charge", reference="x", outcome=Declined(code="do_not_honor", raw_code="05", psp_ref="ch_1")
        ),
        OperationNews(
            kind="refund", reference="y", charge_ref="ch_nobody", outcome=Approved(psp_ref="re_1", amount=amount)
        ),
    ]
    found = await town.recover()
    assert (found.listed, found.agreed, found.unmatched) == (2, 1, ["re_1"])


async def test_a_psp_that_cannot_list_or_answer_is_named(town: Town) -> None:
    def away(*_: Any) -> Any:
        raise OutcomeUnknown("no answer from the PSP")

    town.puppet.does = away
    assert (await town.recover()).problem == "no answer from the PSP"
    town.puppet.does = approve
