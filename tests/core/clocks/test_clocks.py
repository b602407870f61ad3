"""Test clocks: time passes when it is told to, instant by instant, whatever happens to whoever moves it."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
import pytest
from sqlalchemy import text
from tests.conftest import Merchant
from tests.core.payments.conftest import Puppet, Recovery, approve, later
from tests.factories import insert
from tests.shop import Json, Shop, code

from clearspan.app import Gateway
from clearspan.payments.rows import InvoiceCharge
from clearspan.payments.service import Payments
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Scope, system
from clearspan.platform.db import Database
from clearspan.rebills.clocks import LEASE_S, TestClocks
from clearspan.rebills.jobs import JOBS
from clearspan.sdk import OutcomeUnknown
from clearspan.subscriptions.models import period_start

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
BEGIN = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)


async def new_clock(shop: Shop, at: datetime = BEGIN) -> Json:
    made = await shop.post("/v1/test-clocks", {"name": "A year", "now_at": at.isoformat()})
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def advance(shop: Shop, one: Json, to: datetime) -> Any:
    return await shop.post(f"/v1/test-clocks/{one['id']}/advance", {"to": to.isoformat()})


async def read(shop: Shop, one: Json) -> Json:
    answer = await shop.http.get(f"/v1/test-clocks/{one['id']}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def moment(text_: str) -> datetime:
    return datetime.fromisoformat(text_)


async def subscribe(
    superuser: Connection, scope: Scope, clock_id: UUID, customer: UUID, unit: str, mandate: Json | None = None
) -> UUID:
    """A subscription of 9.00 EUR that begins where its clock stands, stored as the API would."""
    now = await superuser.fetchval("SELECT now_at FROM test_clocks WHERE test_clock_id = $1", clock_id)
    anchor = now.replace(tzinfo=None)
    place = {"tenant_id": scope.tenant_id, "live": scope.live}
    stamps = {"created_at": now, "updated_at": now}
    plan, subscription = clock.new_uuid(), clock.new_uuid()
    await insert(
        superuser,
        "plans",
        place
        | {"plan_id": plan, "name": "P", "amounts": '{"EUR": 900}', "interval_unit": unit, "interval_count": 1}
        | stamps,
    )
    end = period_start(anchor, "UTC", unit, 1, 1)  # type: ignore[arg-type]
    method = None if mandate is None else ids.decode("pm", mandate["payment_method"])
    await insert(
        superuser,
        "subscriptions",
        place
        | {
            "subscription_id": subscription,
            "customer_id": customer,
            "status": "active",
            "currency": "EUR",
            "interval_unit": unit,
            "interval_count": 1,
            "time_zone": "UTC",
            "anchor_local": anchor,
            "period_no": 0,
            "current_period_start": now,
            "current_period_end": end,
            "next_at": end,
            "started_at": now,
            "payment_method_id": method,
            "mandate_id": None if mandate is None else ids.decode("man", mandate["id"]),
            "test_clock_id": clock_id,
        }
        | stamps,
    )
    item = {"subscription_id": subscription, "item_id": clock.new_uuid(), "position": 1, "plan_id": plan}
    item |= {"description": "P", "quantity": 1, "unit_amount_minor": 900}
    await insert(superuser, "subscription_items", place | item)
    return subscription


class Paying:
    """A collector whose customers always pay, at once; it notes when it was asked for what.

    Attributes:
        seen: the instants at which something was due, with how much.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.seen: list[tuple[datetime, int]] = []

    async def collect(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        assert request_id
        async with self._db.begin(scope) as session:
            due = await session.execute(
                text(
                    "UPDATE rebills SET state = 'settled', next_at = NULL, updated_at = :at WHERE test_clock_id = :clock"
                    " AND next_at <= :at RETURNING invoice_id"
                ),
                {"clock": test_clock_id, "at": at},
            )
            paid = len(due.all())
        if paid:
            assert at is not None
            self.seen.append((at, paid))
        return paid


class Writing:
    """Sends the notices of a clock, and notes when."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.sent: list[tuple[datetime, str]] = []

    async def send(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        assert request_id
        async with self._db.begin(scope) as session:
            due = await session.execute(
                text(
                    "UPDATE notices SET state = 'sent', due_at = NULL, sent_at = :at WHERE test_clock_id = :clock"
                    " AND due_at <= :at RETURNING kind"
                ),
                {"clock": test_clock_id, "at": at},
            )
            kinds = [kind for (kind,) in due]
        assert at is not None
        self.sent += [(at, kind) for kind in kinds]
        return len(kinds)


async def invoices(superuser: Connection, subscription: UUID) -> list[asyncpg.Record]:
    """Of a subscription, in the order of their numbers."""
    return await superuser.fetch("SELECT * FROM invoices WHERE subscription_id = $1 ORDER BY number", subscription)


# -- The API --------------------------------------------------------------------------------------------------------------------


async def test_a_clock_stands_until_it_is_told_to_go(shop: Shop) -> None:
    made = await new_clock(shop)
    assert (made["status"], moment(made["now_at"]), made["target_at"], made["steps"]) == ("ready", BEGIN, None, 0)
    assert await read(shop, made) == made
    assert [one["id"] for one in (await shop.http.get("/v1/test-clocks")).json()["data"]] == [made["id"]]
    target = BEGIN + timedelta(days=30)
    answer = await advance(shop, made, target)
    assert (answer.status_code, answer.json()["status"]) == (202, "advancing")
    assert (moment(answer.json()["target_at"]), moment(answer.json()["now_at"])) == (target, BEGIN)


async def test_what_a_clock_cannot_do_is_refused(shop: Shop, other_shop: Shop) -> None:
    made = await new_clock(shop)
    for to in (BEGIN, BEGIN - timedelta(days=1)):
        assert code(await advance(shop, made, to)) == (422, "test_clock_backwards")
    assert code(await advance(shop, made, BEGIN + timedelta(days=5 * 366 + 1))) == (422, "test_clock_too_far")
    assert code(await advance(other_shop, made, BEGIN + timedelta(days=1))) == (404, "not_found")
    assert (await read(shop, made)) == made
    await advance(shop, made, BEGIN + timedelta(days=1))
    assert code(await advance(shop, made, BEGIN + timedelta(days=2))) == (409, "test_clock_advancing")
    for never in ("1999-12-31T00:00:00Z", "2100-01-01T00:00:00Z", "2027-01-01T00:00:00"):
        answer = await shop.post("/v1/test-clocks", {"name": "x", "now_at": never})
        assert code(answer) == (422, "invalid_request"), never


async def test_live_mode_has_no_test_clocks(live_shop: Shop, shop: Shop) -> None:
    body = {"name": "x", "now_at": BEGIN.isoformat()}
    assert code(await live_shop.post("/v1/test-clocks", body)) == (403, "test_mode_only")
    made = await new_clock(shop)
    assert code(await live_shop.post("/v1/customers", {"test_clock": made["id"]})) == (403, "test_mode_only")
    assert code(await advance(live_shop, made, BEGIN + timedelta(days=1))) == (404, "not_found")
    assert (await live_shop.http.get("/v1/test-clocks")).json()["data"] == []


async def test_a_customer_lives_by_one_clock_for_ever(shop: Shop, other_shop: Shop, superuser: Connection) -> None:
    made = await new_clock(shop)
    customer = (await shop.post("/v1/customers", {"test_clock": made["id"]})).json()
    assert customer["test_clock"] == made["id"]
    assert (await shop.http.get(f"/v1/customers/{customer['id']}")).json() == customer
    assert (await shop.post("/v1/customers", {})).json()["test_clock"] is None
    assert code(await other_shop.post("/v1/customers", {"test_clock": made["id"]})) == (404, "not_found")
    assert (await shop.http.patch(f"/v1/customers/{customer['id']}", json={"test_clock": None})).status_code == 422
    with pytest.raises(asyncpg.PostgresError, match="clock of a customer does not change"):
        await superuser.execute(
            "UPDATE customers SET test_clock_id = NULL WHERE customer_id = $1", ids.decode("cus", customer["id"])
        )


async def test_what_a_customer_agrees_to_and_pays_happens_at_the_time_of_his_clock(shop: Shop) -> None:
    made = await new_clock(shop)
    customer = await shop.customer(test_clock=made["id"])
    mandate = await shop.mandate(customer=customer)
    await shop.first_payment(mandate)
    found = await shop.mandate_of(mandate)
    assert {moment(found[name]) for name in ("accepted_at", "created_at", "activated_at")} == {BEGIN}
    revoked = await shop.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": "customer"})
    assert moment(revoked.json()["revoked_at"]) == BEGIN


# -- Moving ---------------------------------------------------------------------------------------------------------------------


async def prepared(shop: Shop, merchant: Merchant, superuser: Connection) -> tuple[Json, dict[str, UUID]]:
    """A clock with a monthly and a daily subscription."""
    made = await new_clock(shop)
    customer = ids.decode("cus", await shop.customer(test_clock=made["id"]))
    clock_id = ids.decode("tc", made["id"])
    subscriptions = {
        unit: await subscribe(superuser, merchant.caller.scope, clock_id, customer, unit) for unit in ("month", "day")
    }
    return made, subscriptions


async def one_invoice_per_period(superuser: Connection, subscriptions: dict[str, UUID], to: datetime) -> None:
    """As often as the calendar says, each at its period's begin, numbered in the order of time."""
    numbered: list[tuple[str, datetime]] = []
    for unit, subscription in subscriptions.items():
        anchor = BEGIN.replace(tzinfo=None)
        starts = (period_start(anchor, "UTC", unit, 1, k) for k in itertools.count(1))  # type: ignore[arg-type]
        expected = list(itertools.takewhile(lambda start: start <= to, starts))
        made = await invoices(superuser, subscription)
        assert [one["period_start"] for one in made] == expected
        assert [one["created_at"] for one in made] == expected, "each at its instant"
        assert {one["collection"] for one in made} == {"automatic"}, "none was missed"
        numbered += [(one["number"], one["created_at"]) for one in made]
    assert [at for _, at in sorted(numbered)] == sorted(at for _, at in numbered)


async def test_400_days_bring_one_invoice_per_period_in_the_order_of_time(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    made, subscriptions = await prepared(shop, merchant, superuser)
    to = BEGIN + timedelta(days=400)
    paying = Paying(gateway.db)
    clocks = TestClocks(gateway.db, gateway.scheduler, paying)
    await advance(shop, made, to)
    steps = await clocks.move(merchant.caller.scope, "req_clock", seconds=300)
    found = await read(shop, made)
    assert (found["status"], moment(found["now_at"]), found["target_at"]) == ("ready", to, None)
    assert steps == found["steps"] == 400, "the months begin when a day begins"
    await one_invoice_per_period(superuser, subscriptions, to)
    assert [at for at, _ in paying.seen] == sorted({at for at, _ in paying.seen})
    assert sum(count for _, count in paying.seen) == 400 + 13
    journal = await superuser.fetch(
        "SELECT type FROM journal WHERE tenant_id = $1 AND subject_type = 'test_clock' ORDER BY epoch, seq",
        merchant.caller.scope.tenant_id,
    )
    assert [one["type"] for one in journal] == ["test_clock.created", "test_clock.advancing", "test_clock.advanced"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_whoever_moves_a_clock_may_die_at_any_instant(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection, seed: int
) -> None:
    made, subscriptions = await prepared(shop, merchant, superuser)
    to = BEGIN + timedelta(days=400)
    chance = random.Random(seed)  # noqa: S311  (when somebody dies)
    paying = Paying(gateway.db)
    await advance(shop, made, to)
    deaths = 0
    for life in range(2_000):
        if (await read(shop, made))["status"] == "ready":
            break
        # The next one comes when the lease of the one that died is over.
        with later(seconds=life * (LEASE_S + 1)):
            clocks = TestClocks(gateway.db, gateway.scheduler, paying)
            moving = asyncio.create_task(clocks.move(merchant.caller.scope, f"req_{life}", seconds=300))
            await asyncio.wait({moving}, timeout=chance.random() * 0.2)
            deaths += not moving.done()
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
    found = await read(shop, made)
    assert (found["status"], moment(found["now_at"]), found["steps"]) == ("ready", to, 400)
    assert deaths > 5
    await one_invoice_per_period(superuser, subscriptions, to)
    assert [at for at, _ in paying.seen] == sorted(at for at, _ in paying.seen)
    open_ = await superuser.fetchval(
        "SELECT count(*) FROM rebills WHERE tenant_id = $1 AND next_at IS NOT NULL", _id(merchant)
    )
    assert open_ == 0


def _id(merchant: Merchant) -> UUID:
    return merchant.caller.scope.tenant_id


async def test_several_workers_move_a_clock_as_one_would(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    made, subscriptions = await prepared(shop, merchant, superuser)
    to = BEGIN + timedelta(days=60)
    paying = Paying(gateway.db)
    await advance(shop, made, to)
    clocks = [TestClocks(gateway.db, gateway.scheduler, paying) for _ in range(4)]
    await asyncio.gather(*(one.move(merchant.caller.scope, "req", seconds=120) for one in clocks))
    assert (await read(shop, made))["status"] == "ready"
    await one_invoice_per_period(superuser, subscriptions, to)


async def test_two_clocks_know_nothing_of_each_other(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    made, subscriptions = await prepared(shop, merchant, superuser)
    _, others = await prepared(shop, merchant, superuser)
    to = BEGIN + timedelta(days=40)
    await advance(shop, made, to)
    await TestClocks(gateway.db, gateway.scheduler, Paying(gateway.db)).move(merchant.caller.scope, "req")
    await gateway.scheduler.plan(merchant.caller.scope, "req", at=to)
    await one_invoice_per_period(superuser, subscriptions, to)
    for other in others.values():
        assert await invoices(superuser, other) == [], "neither another clock's time nor everybody's is theirs"


async def test_notices_go_out_at_their_instant(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    made, subscriptions = await prepared(shop, merchant, superuser)
    scope, at = merchant.caller.scope, BEGIN + timedelta(days=3, hours=5)
    customer = await superuser.fetchval(
        "SELECT customer_id FROM subscriptions WHERE subscription_id = $1", subscriptions["day"]
    )
    notice = {"notice_id": clock.new_uuid(), "kind": "reminder", "customer_id": customer, "dedupe": "r", "due_at": at}
    stamps = {"created_at": BEGIN, "updated_at": BEGIN, "test_clock_id": ids.decode("tc", made["id"])}
    await insert(superuser, "notices", {"tenant_id": scope.tenant_id, "live": scope.live} | notice | stamps)
    writing = Writing(gateway.db)
    await advance(shop, made, BEGIN + timedelta(days=5))
    clocks = TestClocks(gateway.db, gateway.scheduler, Paying(gateway.db), writing)
    assert await clocks.move(scope, "req") == 5 + 1
    assert writing.sent == [(at, "reminder")]


async def test_the_worker_is_told_and_its_job_moves_the_clock(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    made = await new_clock(shop)

    async def told() -> bool:
        found = await gateway.db.fetch_text(f"SELECT {sqlbundle.name('due_work')}($1, $2, $3)", clock.now(), 1000, None)
        mine = {"tenant_id": str(_id(merchant)), "live": False, "job": "advance_test_clocks", "rows": 1}
        return mine in msgspec.json.decode(found)

    assert not await told()
    await advance(shop, made, BEGIN + timedelta(days=1))
    assert await told()
    ctx = {"test_clocks": gateway.test_clocks, "request_id": "req_job"}
    await JOBS["advance_test_clocks"](ctx, tenant_id=str(_id(merchant)), live=False)
    assert (await read(shop, made))["status"] == "ready"
    assert not await told()
    actor = await superuser.fetchrow(
        "SELECT * FROM journal WHERE type = 'test_clock.advanced' AND tenant_id = $1", _id(merchant)
    )
    assert actor is not None
    assert (actor["actor_type"], actor["actor_id"], actor["request_id"]) == ("system", "test_clocks", "req_job")


async def test_a_clock_at_which_nobody_does_what_is_due_stays_where_it_is(
    shop: Shop, merchant: Merchant, gateway: Gateway, superuser: Connection
) -> None:
    class Idle:
        async def collect(self, *_: Any, **__: Any) -> int:
            return 0

    made, _ = await prepared(shop, merchant, superuser)
    await advance(shop, made, BEGIN + timedelta(days=3))
    await TestClocks(gateway.db, gateway.scheduler, Idle()).move(merchant.caller.scope, "req", seconds=0.5)
    found = await read(shop, made)
    assert (found["status"], moment(found["now_at"])) == ("advancing", BEGIN + timedelta(days=1))
    await TestClocks(gateway.db, gateway.scheduler, Paying(gateway.db)).move(merchant.caller.scope, "req")
    assert (await read(shop, made))["status"] == "ready", "it was given back, and the next one goes on at once"


# -- With payments --------------------------------------------------------------------------------------------------------------


class Charging:
    """A collector that charges each due invoice once, through the real payments."""

    def __init__(self, db: Database, payments: Payments) -> None:
        self._db = db
        self._payments = payments

    async def collect(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        token = clock.new_uuid()
        async with self._db.begin(scope) as session:
            due = (
                await session.execute(
                    text(
                        "UPDATE rebills r SET state = 'claimed', next_at = :at + interval '1 hour', lease_token = :token"
                        " FROM invoices i JOIN subscriptions s USING (tenant_id, live, subscription_id)"
                        " WHERE i.tenant_id = r.tenant_id AND i.live = r.live AND i.invoice_id = r.invoice_id"
                        " AND r.test_clock_id = :clock AND r.next_at <= :at AND r.state IN ('due', 'decide')"
                        " RETURNING i.invoice_id, i.number, i.due_minor, i.customer_id, s.payment_method_id, s.mandate_id,"
                        " r.tries"
                    ),
                    {"clock": test_clock_id, "at": at, "token": token},
                )
            ).all()
        for one in due:
            charge = InvoiceCharge(
                invoice_id=one.invoice_id,
                number=one.number,
                payment_id=one.invoice_id,
                opened=one.tries > 0,
                operation_id=clock.new_uuid(),
                amount_minor=one.due_minor,
                currency="EUR",
                customer_id=one.customer_id,
                payment_method_id=one.payment_method_id,
                customer_present=False,
                mandate_id=one.mandate_id,
                clock_at=at,
                rebill={"lease_token": token, "try": one.tries + 1, "reason": "test", "delay_s": 0},
            )
            await self._payments.collect(system(scope, "rebills", request_id), charge)
        return len(due)


@pytest.fixture
async def collected(
    theatre: Shop, worker: Gateway, merchant: Merchant, superuser: Connection
) -> tuple[Json, UUID, TestClocks]:
    """A clock with a monthly subscription that rests on a mandate, and what moves it."""
    made = await new_clock(theatre)
    customer = await theatre.customer(test_clock=made["id"])
    mandate = await theatre.mandate(customer=customer)
    await theatre.first_payment(mandate)
    clock_id = ids.decode("tc", made["id"])
    scope = merchant.caller.scope
    owner = ids.decode("cus", customer)
    subscription = await subscribe(superuser, scope, clock_id, owner, "month", await theatre.mandate_of(mandate))
    return made, subscription, TestClocks(worker.db, worker.scheduler, Charging(worker.db, worker.payments))


async def test_charges_are_made_at_the_time_of_the_clock(
    collected: tuple[Json, UUID, TestClocks], theatre: Shop, merchant: Merchant, superuser: Connection
) -> None:
    made, subscription, clocks = collected
    await advance(theatre, made, BEGIN + timedelta(days=100))
    await clocks.move(merchant.caller.scope, "req", seconds=60)
    assert (await read(theatre, made))["status"] == "ready"
    found = await invoices(superuser, subscription)
    assert [(one["status"], one["paid_at"]) for one in found] == [("paid", one["period_start"]) for one in found]
    assert len(found) == 3
    charged = await superuser.fetch(
        "SELECT clock_at FROM operations WHERE tenant_id = $1 AND merchant_initiated ORDER BY clock_at", _id(merchant)
    )
    assert [one["clock_at"] for one in charged] == [one["period_start"] for one in found]


async def test_a_clock_waits_for_a_payment_whose_outcome_is_not_known(
    collected: tuple[Json, UUID, TestClocks],
    theatre: Shop,
    puppet: Puppet,
    recover: Recovery,
    merchant: Merchant,
    superuser: Connection,
) -> None:
    made, subscription, clocks = collected

    def lost(_: str, __: Any) -> Any:
        raise OutcomeUnknown("no answer")

    puppet.does = lost
    await advance(theatre, made, BEGIN + timedelta(days=100))
    for _ in range(2):
        await clocks.move(merchant.caller.scope, "req", seconds=0.5)
        found = await read(theatre, made)
        assert (found["status"], moment(found["now_at"])) == ("advancing", datetime(2027, 2, 28, 9, 30, tzinfo=UTC))
    puppet.does = approve
    with later(seconds=5):
        assert await recover.run() == 1
    await clocks.move(merchant.caller.scope, "req", seconds=60)
    assert (await read(theatre, made))["status"] == "ready"
    assert [one["status"] for one in await invoices(superuser, subscription)] == ["paid"] * 3
    first = (await invoices(superuser, subscription))[0]
    assert first["paid_at"] == first["period_start"], "found out later, it still happened then"


async def test_a_clock_of_the_tenant_takes_every_new_customer_and_only_those(shop: Shop, other_shop: Shop) -> None:
    before = await shop.customer()
    made = await shop.post("/v1/test-clocks", {"name": "All", "now_at": BEGIN.isoformat(), "covers": "tenant"})
    assert (made.status_code, made.json()["covers"]) == (201, "tenant"), made.text
    own = await new_clock(shop)

    async def clock_of(customer: str, there: Shop = shop) -> Any:
        return (await there.http.get(f"/v1/customers/{customer}")).json()["test_clock"]

    assert await clock_of(before) is None
    assert await clock_of(await shop.customer()) == made.json()["id"]
    assert await clock_of(await shop.customer(test_clock=own["id"])) == own["id"]
    assert await clock_of(await other_shop.customer(), other_shop) is None
    another = await shop.post("/v1/test-clocks", {"name": "Next", "now_at": BEGIN.isoformat(), "covers": "tenant"})
    assert (await read(shop, made.json()))["covers"] == "customers"
    assert await clock_of(await shop.customer()) == another.json()["id"]
    released = await shop.post(f"/v1/test-clocks/{another.json()['id']}/release")
    assert (released.status_code, released.json()["covers"]) == (200, "customers"), released.text
    assert await clock_of(await shop.customer()) is None


async def test_many_clocks_at_once_leave_one_that_covers_the_tenant(shop: Shop) -> None:
    body = {"name": "All", "now_at": BEGIN.isoformat(), "covers": "tenant"}
    answers = await asyncio.gather(*(shop.post("/v1/test-clocks", body) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    covering = [one for one in (await shop.http.get("/v1/test-clocks")).json()["data"] if one["covers"] == "tenant"]
    assert len(covering) == 1
