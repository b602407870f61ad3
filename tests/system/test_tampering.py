"""Whatever a database superuser changes below a checkpoint that is held outside, the examination finds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest
from tests.core.journal.trail import Trail, new_trail
from tests.system.tampering import attacks, prepare

from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Urls

COUNT = 200
"""``python -m tests.system.tampering --count 10000`` runs more."""


@pytest.fixture
def empty(databases: Callable[[], Urls]) -> Urls:
    """A database of its own."""
    return databases()


@pytest.fixture
async def trail(empty: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Trail]:
    """An empty journal with a sealer."""
    async with new_trail(empty, settings, master) as found:
        yield found


async def test_every_attack_is_found_against_a_checkpoint_held_outside(trail: Trail) -> None:
    held = await prepare(trail)
    assert (await trail.examine(held)).findings == []
    done = [one async for one in attacks(trail, held, 7, range(COUNT))]
    assert len(done) == COUNT
    assert [f"{number}: {did}" for number, did, report in done if not report.findings] == []
    assert len({did[-1].split()[0] for _, did, _ in done}) == 4, "every kind of cover-up took part"
    assert len({one.split()[0] for _, did, _ in done for one in did[:-1]}) == 13, "and every kind of change"
    assert (await trail.examine(held)).findings == [], "nothing of it stayed"
    # What the proof rests on: nothing but the held checkpoint tells of a tail cut off, or of everything signed anew.
    by_held_alone = [did for _, did, report in done if all(one.kind.startswith("held_") for one in report.findings)]
    assert len(by_held_alone) > COUNT / 20
    assert "cover_tree_and_signatures" in {did[-1] for did in by_held_alone}
