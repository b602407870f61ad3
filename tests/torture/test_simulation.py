"""The simulated runs of the torture bench, in the size of an ordinary test; ``make torture`` runs the full one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from tests.torture import mutants, shuffles, sim
from tests.torture.database import Server
from tests.torture.mutants import MUTANTS, ROOT, Mutant
from tests.torture.scenario import Outcome

from clearspan.platform import clock

NAMES = (f"torture_test_{clock.random_bytes(4).hex()}_{number}" for number in itertools.count())
KNOWN = "an event is missing"
QUICK = (
    "pending_then_paid",
    "challenged_then_paid",
    "captured_in_parts_and_refunded",
    "authorized_and_canceled",
    "refund_pending_then_failed",
    "disputed_and_lost_after_a_win",
)
"""The tales that are told here; all of them by ``python -m tests.torture shuffles``."""


@pytest.fixture(scope="module")
def play(superuser_url: str) -> Iterator[Callable[[int], Outcome]]:
    """Runs a seed."""
    with sim.bench(superuser_url, next(NAMES)) as run:
        yield run


def test_a_seed_replays_exactly(superuser_url: str, play: Callable[[int], Outcome]) -> None:
    first = [play(seed) for seed in (3, 4)]
    with sim.bench(superuser_url, next(NAMES)) as again:
        second = [again(seed) for seed in (3, 4)]
    assert [one.digest for one in first] == [one.digest for one in second]
    assert len({one.digest for one in first}) == 2


def test_no_money_moves_twice_or_is_lost_in_twelve_runs(play: Callable[[int], Outcome]) -> None:
    outcomes = [play(seed) for seed in range(1000, 1012)]
    failed = [f"seed {one.seed}: {violation}" for one in outcomes for violation in one.violations]
    assert not failed, "\n".join(failed)
    # They were worth something.
    assert sum(one.kills for one in outcomes) > 10
    assert sum(one.faults for one in outcomes) > 50
    assert sum(one.operations for one in outcomes) > 120


def test_a_bug_is_found(superuser_url: str) -> None:
    mutant = next(one for one in MUTANTS if one.name == KNOWN)
    verdict = mutants.hunt(mutant, superuser_url, 40, ())
    assert not verdict.alive, verdict.alive
    assert verdict.told.startswith("I6")


@pytest.fixture(scope="module")
def server(superuser_url: str) -> Iterator[Server]:
    """A database of the simulation's own."""
    with sim.database_of(superuser_url, next(NAMES)) as opened:
        yield opened


@pytest.mark.parametrize("name", QUICK)
def test_any_order_ends_in_one_state(server: Server, name: str) -> None:
    settings, loaded = sim.parts()
    telling = shuffles.Telling(name, seed=7)
    telling.run(6, server, settings, loaded)
    assert not telling.wrong
    assert telling.told == 6


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_bug_replaces_stands_in_the_sources(mutant: Mutant) -> None:
    """So that whoever moves it takes the bug along, long before the mutants are run."""
    for edit in mutant.edits:
        assert (ROOT / edit.path).read_text().count(edit.old) == 1, edit.path
