"""The schemes' limits: in Python, in the database and in a checker that shares no code with either."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.core.rebills import histories
from tests.core.rebills.checker import Charged, violations
from tests.core.rebills.conftest import START, Desk, declined
from tests.shop import until

from clearspan.payments import caps
from clearspan.payments.caps import LIMITS, STOPS, Card, Refusal, SchemeLimits, Try
from clearspan.payments.errors import RetryCapReached
from clearspan.payments.rows import InvoiceCharge
from clearspan.platform import clock, sqlbundle
from clearspan.platform.context import system
from clearspan.rebills.service import Collector
from clearspan.sdk import Approved, Declined

DAY = timedelta(days=1)


def test_random_histories_break_no_rule() -> None:
    tally = histories.run(7, 3000)
    assert tally.broken == []
    assert tally.retries > 1500, "the histories are worth looking at"


@pytest.mark.parametrize("rule", [one.name for one in LIMITS if one.ends is None])
def test_the_checker_finds_a_cap_that_is_one_too_high(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    def loosened(limits: SchemeLimits) -> SchemeLimits:
        rules = tuple(
            msgspec.structs.replace(one, most=one.most + 1, min_gap_s=0) if one.rule == rule else one
            for one in limits.rules
        )
        return msgspec.structs.replace(limits, rules=rules)

    monkeypatch.setattr(histories, "LIMITS", {scheme: loosened(one) for scheme, one in histories.LIMITS.items()})
    assert histories.run(5, 6000).broken != []


def test_every_limit_has_a_source_and_the_table_has_no_gap() -> None:
    for one in (*LIMITS, *STOPS):
        assert one.source, one.name
        assert one.rule, one.name
        assert one.ends is None or one.begins < one.ends, one.name
    by_name: dict[str, list[Any]] = {}
    for one in LIMITS:
        by_name.setdefault(one.name, []).append(one)
    for name, rows in by_name.items():
        assert [row.ends for row in rows[:-1]] == [row.begins for row in rows[1:]], name
        assert rows[-1].ends is None, name


def test_the_limits_of_a_day_are_those_in_force_then() -> None:
    now = caps.at(datetime(2026, 11, 1, tzinfo=UTC))
    assert set(now) == {"visa", "mastercard", "*"}
    assert [rule["rule"] for rule in now["visa"]["rules"]] == ["visa_reattempts", "india_no_retry", "restricted_card"]
    before = caps.at(datetime(2022, 1, 1, tzinfo=UTC))
    assert "mastercard_day" not in [rule["rule"] for rule in before["mastercard"]["rules"]]
    assert before["visa"]["rules"][0]["most"] == 8


# -- The database says the same -------------------------------------------------------------------------------------------


async def test_the_database_refuses_what_the_model_refuses(wall: Desk) -> None:
    """A few hundred random cards with charges of every kind; whole answers are compared."""
    rng = random.Random(11)
    limits = msgspec.convert(caps.at(START), dict[str, SchemeLimits])
    customer = clock.new_uuid()
    await wall.add("customers", customer_id=customer, created_at=START, updated_at=START)
    seen: dict[str | None, int] = {}
    for _ in range(300):
        brand, country = rng.choice(["visa", "mastercard", "amex"]), rng.choice(["IN", "DE", None])
        fingerprint = clock.new_uuid().hex
        cards = [
            await wall.card(customer, brand=brand, issuer_country=country, fingerprint=fingerprint)
            for _ in range(rng.choice([1, 1, 2]))
        ]
        payments = [(clock.new_uuid(), rng.choice([900, 1900])) for _ in range(rng.choice([1, 2, 3]))]
        for payment, amount in payments:
            await wall.add(
                "payment_intents",
                payment_id=payment,
                amount_minor=amount,
                currency="EUR",
                capture_method="automatic",
                customer_present=True,
                customer_id=customer,
                status="requires_payment_method",
                created_at=START,
                updated_at=START,
                expires_at=START + 500 * DAY,
            )
        tries = [
            await _operation(wall, rng, cards, payment, amount, open_=False)
            for payment, amount in payments
            for _ in range(rng.randrange(6))
        ]
        if rng.random() < 0.3:
            tries.append(await _operation(wall, rng, cards, *payments[0], open_=True))
        moment = START + timedelta(seconds=rng.randrange(40 * 86_400))
        since = START + timedelta(days=rng.choice([-100, 20]))
        of = limits.get(brand, limits["*"])
        payment, amount = payments[0]
        expected = caps.refusal(
            of,
            Card(brand=brand, issuer_country=country),
            tries,
            payment_id=payment,
            amount_minor=amount,
            currency="EUR",
            mandate_since=since,
            moment=moment,
        )
        answer = await wall.value(
            f"SELECT {sqlbundle.name('card_refusal')}(m, $2::jsonb, $3, $4, 'EUR', $5, $6)"
            " FROM payment_methods m WHERE payment_method_id = $1",
            *(cards[0], msgspec.json.encode(of).decode(), payment, amount, since, moment),
        )
        found = None if answer is None else msgspec.json.decode(answer, type=Refusal)
        assert found == expected, (brand, country, moment, tries)
        code = None if expected is None else expected.rule or expected.code
        seen[code] = seen.get(code, 0) + 1
    assert {None, "card_stopped", "any_card", "india_no_retry", "restricted_card"} <= seen.keys(), seen


async def _operation(
    desk: Desk, rng: random.Random, cards: list[UUID], payment: UUID, amount: int, *, open_: bool
) -> Try:
    code = None if open_ else rng.choice(histories.OFTEN if rng.random() < 0.93 else histories.CODES)
    one = Try(
        at=START + timedelta(seconds=rng.randrange(40 * 86_400)),
        declined=not open_,
        payment_id=payment,
        amount_minor=amount,
        currency="EUR",
        code=code,
        advice=None if open_ or rng.random() < 0.9 else rng.choice(["03", "21", "25"]),
        network_code=None if open_ or rng.random() < 0.95 else "14",
    )
    operation = clock.new_uuid()
    await desk.add(
        "operations",
        operation_id=operation,
        payment_id=payment,
        kind="purchase",
        state="unknown" if open_ else "declined",
        amount_minor=amount,
        currency="EUR",
        psp_account_id=desk.account,
        payment_method_id=rng.choice(cards),
        psp_key=operation.hex,
        code=one.code,
        advice=one.advice,
        network_code=one.network_code,
        created_at=one.at,
        sent_at=one.at,
        updated_at=one.at,
    )
    return one


async def test_histories_through_the_database_break_no_rule(desk: Desk) -> None:
    """Two hundred cards, many with two invoices, collected over seven weeks of a test clock by the real collector."""
    rng = random.Random(3)
    cards: dict[str, tuple[str, str | None]] = {}
    for number in range(200):
        brand, country = rng.choice(["visa", "mastercard", "amex"]), rng.choice(["IN", "DE", "US", None])
        fingerprint = f"f{number}-{clock.new_uuid().hex}"
        cards[fingerprint] = (brand, country)
        for _ in range(rng.choice([1, 1, 2])):
            card = {
                "brand": brand,
                "issuer_country": country,
                "fingerprint": fingerprint,
                "funding": rng.choice(["debit", "credit"]),
            }
            deal = await desk.deal(card=card, zone=rng.choice(histories.ZONES))
            await desk.invoice(deal, rng.choice([900, 900, 1900]), at=START + timedelta(hours=rng.randrange(24 * 14)))

    def answer(_: str, request: Any) -> Any:
        draw = random.Random(request.operation_id)
        if draw.random() < 0.2:
            return Approved(psp_ref=f"ref-{request.operation_id}", amount=request.amount)
        code = draw.choice(histories.OFTEN if draw.random() < 0.8 else histories.CODES)
        return Declined(code=code, advice=draw.choice(histories.ADVICE), network_code=draw.choice(histories.NETWORK))

    desk.puppet.does = answer
    # One charge at a time: what two in the same moment may do is the subject of the next test.
    rebills = msgspec.structs.replace(desk.gateway.settings.rebills, charges_max=1)
    settings = msgspec.structs.replace(desk.gateway.settings, rebills=rebills)
    one_by_one = Collector(desk.gateway.db, desk.gateway.payments, settings)
    now = START
    for _ in range(24 * 50):
        waits = await desk.value(
            "SELECT min(next_at) FROM rebills WHERE test_clock_id = $1 AND next_at IS NOT NULL", desk.clock_id
        )
        if waits is None or waits > START + 50 * DAY:
            break
        # Every three hours: what is due is charged a little later than it could be, and together with others.
        now = max(now, waits + timedelta(hours=3))
        await one_by_one.collect(desk.scope, "req_collect", at=now, test_clock_id=desk.clock_id)
    charged = 0
    for fingerprint, (brand, country) in cards.items():
        rows = await desk.sql.fetch(
            "SELECT o.clock_at, p.invoice_id, o.amount_minor, o.state, o.code, o.advice, o.network_code FROM operations o"
            " JOIN payment_intents p USING (tenant_id, live, payment_id)"
            " JOIN payment_methods m ON m.payment_method_id = o.payment_method_id"
            " WHERE m.fingerprint = $1 AND o.state <> 'not_sent' ORDER BY o.clock_at, o.created_at",
            fingerprint,
        )
        log = [
            Charged(
                row["clock_at"].timestamp(),
                str(row["invoice_id"]),
                row["amount_minor"],
                by_merchant=True,
                code=row["code"] if row["state"] == "declined" else None,
                advice=row["advice"],
                network_code=row["network_code"],
            )
            for row in rows
        ]
        charged += len(log)
        assert list(violations(brand, country, log)) == [], (brand, country, log)
    assert charged > 350
    left = await desk.sql.fetch("SELECT DISTINCT state FROM rebills WHERE test_clock_id = $1", desk.clock_id)
    assert {row["state"] for row in left} <= {"settled", "exhausted", "stopped", "waiting", "due"}


# -- In the transaction that reserves -----------------------------------------------------------------------------------


async def test_two_charges_of_one_card_at_once_do_not_pass_a_cap_together(wall: Desk) -> None:
    """Seven declines in the month, and two subscriptions on the card that are charged in the same moment."""
    wall.puppet.does = declined("limit_exceeded")
    fingerprint = clock.new_uuid().hex
    deals = [await wall.deal(card={"fingerprint": fingerprint}) for _ in range(2)]
    rng = random.Random(1)
    payment = clock.new_uuid()
    await wall.add(
        "payment_intents",
        payment_id=payment,
        amount_minor=900,
        currency="EUR",
        capture_method="automatic",
        customer_present=True,
        customer_id=deals[0].customer,
        status="requires_payment_method",
        created_at=START,
        updated_at=START,
        expires_at=START + 500 * DAY,
    )
    for _ in range(7):
        one = await _operation(wall, rng, [deals[0].method], payment, 900, open_=False)
        await wall.sql.execute(
            "UPDATE operations SET code = 'limit_exceeded', advice = NULL, network_code = NULL WHERE payment_id = $1",
            payment,
        )
        assert one.declined
    # When a row was made does not change, so the declines are moved where they belong by making the card's month begin then.
    await wall.sql.execute("ALTER TABLE operations DISABLE TRIGGER guard")
    await wall.sql.execute("UPDATE operations SET created_at = $2 WHERE payment_id = $1", payment, clock.now() - DAY)
    await wall.sql.execute("ALTER TABLE operations ENABLE TRIGGER guard")
    invoices = [await wall.invoice(deal, 900, at=clock.now()) for deal in deals]

    async def charge(deal: Any, invoice: UUID) -> str:
        try:
            await wall.gateway.payments.collect(
                system(wall.scope, "test", "req_test"),
                InvoiceCharge(
                    invoice_id=invoice,
                    number=invoice.hex[:12],
                    payment_id=clock.new_uuid(),
                    opened=False,
                    operation_id=clock.new_uuid(),
                    amount_minor=900,
                    currency="EUR",
                    customer_id=deal.customer,
                    payment_method_id=deal.method,
                    customer_present=False,
                    mandate_id=deal.mandate,
                ),
            )
        except RetryCapReached as error:
            return str(error.fields["rule"])
        return "charged"

    # Both are held up after the cards were counted and before they commit, so that neither can be over before the other begins.
    async with wall.gateway.db.pool.acquire() as holder, holder.transaction():
        await holder.execute(
            "SELECT set_config('app.tenant', $1, true), set_config('app.live', 'f', true)", str(wall.scope.tenant_id)
        )
        await holder.execute("SELECT FROM invoices WHERE invoice_id = ANY($1) FOR UPDATE", invoices)
        charges = [asyncio.create_task(charge(deal, invoice)) for deal, invoice in zip(deals, invoices, strict=True)]

        async def both_wait() -> bool | None:
            waiting = await wall.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return True if waiting >= 2 else None

        await until(both_wait)
    said = await asyncio.gather(*charges)
    assert sorted(said) == ["charged", "visa_reattempts"]
    assert len(wall.puppet.calls) == 1


async def test_what_the_customer_tried_himself_counts(wall: Desk) -> None:
    deal = await wall.deal(card={"brand": "amex"})
    method = deal.method
    wall.puppet.does = declined("do_not_honor")
    from clearspan.platform import ids

    made = await wall.http.post(
        "/v1/payments",
        json={
            "amount_minor": 500,
            "currency": "EUR",
            "customer": ids.encode("cus", deal.customer),
            "payment_method": ids.encode("pm", method),
            "confirm": True,
        },
        headers={"Idempotency-Key": clock.new_uuid().hex},
    )
    assert made.json()["last_error"]["code"] == "do_not_honor", made.text
    invoice = await wall.invoice(deal, at=clock.now())
    await wall.collect()
    rebill = await wall.rebill(invoice)
    assert rebill["tries"] == 0
    assert rebill["last_decision"]["reason"] == "cap_reached"
    assert rebill["last_decision"]["rule"] == "any_card"
    assert timedelta(hours=23) < rebill["next_at"] - clock.now() <= DAY
    assert len(wall.puppet.calls) == 1


async def test_a_card_of_india_is_not_retried_by_itself_but_its_next_period_is_charged(desk: Desk) -> None:
    deal = await desk.deal(card={"brand": "mastercard", "issuer_country": "IN"})
    desk.puppet.does = declined("insufficient_funds")
    invoice = await desk.invoice(deal)
    await desk.collect(START)
    assert await desk.decision(invoice) == ("ask_customer", "cap_for_ever")
    following = await desk.invoice(deal, at=START + 2 * DAY)
    await desk.collect(START + 2 * DAY)
    assert len(await desk.tries(following)) == 1


async def test_a_consent_given_anew_frees_the_card_and_a_hard_decline_never_does(wall: Desk) -> None:
    rng = random.Random(2)
    for code, freed in (("consent_revoked", True), ("lost_card", False)):
        deal = await wall.deal()
        payment = clock.new_uuid()
        await wall.add(
            "payment_intents",
            payment_id=payment,
            amount_minor=900,
            currency="EUR",
            capture_method="automatic",
            customer_present=True,
            customer_id=deal.customer,
            status="requires_payment_method",
            created_at=START,
            updated_at=START,
            expires_at=START + 500 * DAY,
        )
        await _operation(wall, rng, [deal.method], payment, 900, open_=False)
        await wall.sql.execute(
            "UPDATE operations SET code = $2, advice = NULL, network_code = NULL WHERE payment_id = $1", payment, code
        )
        first = await wall.invoice(deal, at=clock.now())
        await wall.collect()
        assert (await wall.rebill(first))["tries"] == 0, "the mandate is older than the decline"
        fresh = await wall.mandate(deal.customer, deal.method, activated_at=clock.now() - timedelta(minutes=1))
        await wall.sql.execute(
            "UPDATE subscriptions SET mandate_id = $2 WHERE subscription_id = $1", deal.subscription, fresh
        )
        second = await wall.invoice(deal, at=clock.now())
        await wall.collect()
        assert ((await wall.rebill(second))["tries"] == 1) is freed
