"""The two tiers of the torture bench that need real processes, in a small size: nothing is doubled, nothing lost.

``make torture`` runs them larger; see docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.torture import chaos, database, processes, schedulers
from tests.torture.processes import Report, World

DELAYS_S = (0.5, 1, 2, 4, 8, 8)
"""Recovery looks sooner than it would, so that a test ends sooner."""
FLOWS = {name: weight for name, weight in processes.FLOWS.items() if name != "cancel_race"}
"""What is cancelled before it was sent is known after a minute only: the PSP's longest late effect."""


def held(report: Report) -> None:
    """Every promise, and something was done that could have broken it."""
    assert report.violations == [], report.table()
    assert report.intents > 10
    assert report.charges_in_book > 5
    assert report.webhooks > 5
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Two gateways and a worker, with everything they need; each run is a merchant of its own."""
    folder = tmp_path_factory.mktemp("torture")
    async with processes.world(folder, gateways=2, workers=1, proxied=True, delays_s=DELAYS_S) as running:
        yield running


async def test_twenty_kills_double_nothing_and_lose_nothing(world: World) -> None:
    report = await processes.kill(world, kills=20, seed=20261122, clients=12, flows=FLOWS)
    held(report)
    assert report.kills >= 20


async def test_ten_seconds_of_chaos_double_nothing_and_lose_nothing(world: World) -> None:
    report = await chaos.run(world, seconds=10, seed=20261122, clients=12, flows=FLOWS)
    held(report)
    assert sum(report.events.values()) > 4


async def test_the_bench_finds_a_psp_that_ignores_its_keys(world: World) -> None:
    """So that a silent checker is noticed: every charge is late, a lookup finds nothing yet, and the same key charges again."""
    lies = {
        "rates": {"F3": 0.5, "F13": 1.0},
        "options": {"F3": {"delay_s": 6, "hang_s": 2}, "F13": {"kind": "ignored"}},
    }
    for seed in (1, 2, 3, 4):
        # Which processes die when is up to the machine: on a slow one a run may end before a key is used again.
        report = await processes.kill(
            world, kills=4, seed=seed, clients=12, faults=lies, pause_s=(1, 2), doom=0, flows=FLOWS, patience_s=8
        )
        if report.duplicates:
            break
    assert report.duplicates > 0, report.table()
    assert "the PSP executed 2 charges" in " ".join(report.violations)


async def test_schedulers_that_die_under_clocks_that_jump_bill_each_period_once(superuser_url: str) -> None:
    urls = await asyncio.to_thread(database.prepare, superuser_url, f"cs_schedulers_{os.getpid()}")
    try:
        report = await schedulers.run(urls, subscriptions=100, days=70, schedulers=3, kills=6, seed=20261123)
    finally:
        await asyncio.to_thread(database.drop, superuser_url, f"cs_schedulers_{os.getpid()}")
    assert report.violations == [], report.text()
    assert report.invoices > 500
    assert report.looks > 50
    assert report.canceled > 3
