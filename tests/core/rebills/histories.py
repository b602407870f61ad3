"""Random decline histories of one card through planner and caps, held against a checker that shares no code with them.

A million: ``python -m tests.core.rebills.histories --count 1000000 [--seed 1] [--processes 2]``
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from tests.core.rebills.checker import Charged, violations

from clearspan.payments import caps
from clearspan.payments.caps import Card, SchemeLimits, Try
from clearspan.rebills.models import Action, Charge, Decision, Situation, decide, final_at
from clearspan.rebills.plans import BUILT_IN, DunningPlan, Payday
from clearspan.sdk import DECLINES

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = msgspec.convert(caps.at(START), dict[str, SchemeLimits])
CODES = sorted(DECLINES)
OFTEN = (
    ["insufficient_funds"] * 8
    + ["do_not_honor"] * 4
    + ["issuer_unavailable"] * 3
    + ["limit_exceeded", "restricted_card"] * 2
)
ADVICE = [None] * 12 + [
    "01",
    "02",
    "03",
    "21",
    "24",
    "25",
    "26",
    "27",
    "28",
    "29",
    "30",
    "40",
    "42",
    "try_again_later",
    "do_not_try_again",
]
NETWORK = [None] * 30 + ["51", "05", "04", "14", "57"]
ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
EAGER = DunningPlan(
    soft_days=(1, 2, 3, 4, 5, 6, 7, 8),
    technical_h=(1, 1, 1),
    payday=None,
    jitter_h=3,
    holdout_bp=0,
    final_day=60,
    reminder_days=(),
)
PLANS = [
    BUILT_IN,
    EAGER,
    DunningPlan(hour=3, payday=Payday(days=(31,), weekday=None), jitter_h=0),
    DunningPlan(soft_days=(1, 2, 9), hour=23, jitter_h=3),
]


class Invoice(msgspec.Struct):
    """One that is collected, and how it stands."""

    id: UUID
    payment_id: UUID
    amount: int
    plan: DunningPlan
    held_out: bool
    zone: str
    funding: str
    tries: list[Charge] = []
    first_failed: datetime | None = None
    over: bool = False


def history(rng: random.Random) -> tuple[str, str | None, list[Charged], int]:
    """One card's story: brand, country of issue, what was charged, and how many decisions were made."""
    brand = rng.choice(["visa", "visa", "mastercard", "mastercard", "amex"])
    country = rng.choice(["IN", "DE", "US", None])
    limits = LIMITS.get(brand, LIMITS["*"])
    paid, ours = rng.random() * 0.4, rng.random() < 0.3
    method = UUID(int=rng.getrandbits(128))
    plan, zone = rng.choice(PLANS), rng.choice(ZONES)
    tried: list[Try] = []
    log: list[Charged] = []
    invoices = [
        Invoice(
            id=UUID(int=rng.getrandbits(128)),
            payment_id=UUID(int=rng.getrandbits(128)),
            amount=rng.choice([900, 900, 1900]),
            plan=plan,
            held_out=rng.random() < 0.2,
            zone=zone,
            funding=rng.choice(["debit", "credit"]),
        )
        for _ in range(rng.choice([1, 1, 2, 4]))
    ]
    due: list[tuple[datetime, int, bool]] = []
    for place in range(len(invoices)):
        begins = START + timedelta(seconds=rng.randrange(40 * 86_400))
        due.append((begins, place, True))
        if ours:  # The customer tries too: now and then, or several times within the hour.
            span = rng.choice([3600, 6 * 3600, 20 * 86_400])
            due += [(begins + timedelta(seconds=rng.randrange(span)), place, False) for _ in range(rng.randrange(6))]
    heapq.heapify(due)
    made, last_success = 0, None
    while due:
        now, place, by_merchant = heapq.heappop(due)
        invoice = invoices[place]
        if invoice.over:
            continue
        refused = by_merchant and _refused(limits, brand, country, tried, invoice, now)
        waits = (
            by_merchant and invoice.tries and invoice.first_failed and now >= final_at(invoice.first_failed, zone, plan)
        )
        if not refused and not waits:
            code = None if rng.random() < paid else rng.choice(OFTEN if rng.random() < 0.7 else CODES)
            advice = rng.choice(ADVICE) if code else None
            network = rng.choice(NETWORK) if code else None
            log.append(Charged(now.timestamp(), str(invoice.id), invoice.amount, by_merchant, code, advice, network))
            if code is None:
                invoice.over, last_success = True, now
                continue
            tried.append(
                Try(
                    at=now,
                    declined=True,
                    payment_id=invoice.payment_id,
                    amount_minor=invoice.amount,
                    currency="EUR",
                    code=code,
                    advice=advice,
                    network_code=network,
                )
            )
            if not by_merchant:
                continue
            invoice.tries.append(
                Charge(
                    state="declined", at=now, payment_method_id=method, code=code, advice=advice, network_code=network
                )
            )
            invoice.first_failed = invoice.first_failed or now
        made += 1
        decision = _decide(limits, brand, country, tried, invoice, method, now, last_success, refused=bool(refused))
        if decision.action is Action.RETRY_AT:
            assert decision.at is not None
            heapq.heappush(due, (decision.at, place, True))
        else:  # Whoever is asked or waited for does not come.
            invoice.over = True
        assert made < 500, "the planner comes to rest"
    return brand, country, log, made


def _refused(
    limits: SchemeLimits, brand: str, country: str | None, tried: list[Try], invoice: Invoice, now: datetime
) -> caps.Refusal | None:
    return caps.refusal(
        limits,
        Card(brand=brand, issuer_country=country),
        tried,
        payment_id=invoice.payment_id,
        amount_minor=invoice.amount,
        currency="EUR",
        mandate_since=START - timedelta(days=100),
        moment=now,
    )


def _decide(
    limits: SchemeLimits,
    brand: str,
    country: str | None,
    tried: list[Try],
    invoice: Invoice,
    method: UUID,
    now: datetime,
    last_success: datetime | None,
    *,
    refused: bool,
) -> Decision:
    return decide(
        Situation(
            now=now,
            invoice_id=invoice.id,
            time_zone=invoice.zone,
            invoice_status="open",
            subscription_status="active",
            payment_locked=False,
            due_minor=invoice.amount,
            payment_minor=invoice.amount,
            tries=tuple(invoice.tries),
            refused="retry_cap_reached" if refused else None,
            cap=_refused(limits, brand, country, tried, invoice, now),
            payment_method_id=method,
            funding=invoice.funding,
            first_failed_at=invoice.first_failed,
            last_success_at=last_success,
            plan=invoice.plan,
            held_out=invoice.held_out,
        )
    )


class Tally(msgspec.Struct):
    """What a run saw."""

    histories: int = 0
    charges: int = 0
    retries: int = 0
    decisions: int = 0
    broken: list[str] = []


def run(seed: int, count: int) -> Tally:
    """So many histories from one seed."""
    tally = Tally()
    for number in range(count):
        brand, country, log, made = history(random.Random(f"{seed}/{number}"))
        tally.histories += 1
        tally.charges += len(log)
        ours = [one.invoice for one in log if one.by_merchant]
        tally.retries += len(ours) - len(set(ours))
        tally.decisions += made
        tally.broken += [f"seed {seed}/{number} {brand} {country}: {said}" for said in violations(brand, country, log)]
    return tally


def main(argv: list[str] | None = None) -> int:
    """Run and report; 1 when a rule was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(argv)
    began = time.monotonic()
    part = -(-options.count // (options.processes * 20))
    parts = [
        (options.seed * 1000 + place, min(part, options.count - place * part))
        for place in range(-(-options.count // part))
    ]
    if options.processes == 1:
        tallies = [run(seed, count) for seed, count in parts]
    else:
        with ProcessPoolExecutor(options.processes) as pool:
            tallies = list(pool.map(run, *zip(*parts, strict=True)))
    total = Tally()
    for one in tallies:
        total.histories += one.histories
        total.charges += one.charges
        total.retries += one.retries
        total.decisions += one.decisions
        total.broken += one.broken
    took = time.monotonic() - began
    print(
        f"{total.histories} histories, {total.charges} charges ({total.retries} retries), {total.decisions} decisions,"
        f" {len(total.broken)} violations; {took:.0f} s, {total.histories / took:.0f} histories/s"
    )
    for said in total.broken[:20]:
        print(said)
    return int(bool(total.broken))


if __name__ == "__main__":
    sys.exit(main())
