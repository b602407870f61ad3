"""``clearspan rebills``: what waits, doing it now, and the story of one invoice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from tests.core.rebills.conftest import Desk, collecting, declined, puppet, wall

from clearspan.commands import rebills
from clearspan.platform import clock, ids

if TYPE_CHECKING:
    import pytest

__all__ = ["collecting", "puppet", "wall"]


async def test_what_waits_is_shown_and_an_invoice_is_explained(wall: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    wall.puppet.does = declined("insufficient_funds")
    deal = await wall.deal()
    invoice = await wall.invoice(deal, at=clock.now())
    await wall.collect()
    tenant = (await wall.gateway.tenants.get(wall.scope.tenant_id)).slug
    assert await rebills._due(wall.gateway, tenant, as_json=True) == 0
    (shown,) = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])
    assert (shown["tenant"], shown["mode"], shown["state"], shown["rebills"], shown["due"]) == (
        tenant,
        "test",
        "due",
        1,
        0,
    )
    assert await rebills._run(wall.gateway, tenant, as_json=False) == 0
    assert capsys.readouterr().out.endswith("Nothing is due.\n")
    assert await rebills._explain(wall.gateway, ids.encode("inv", invoice), as_json=False) == 0
    told = capsys.readouterr().out
    assert "try 1: declined insufficient_funds (raw-insufficient_funds)" in told
    assert "The same may work on another day (code insufficient_funds)." in told
    assert await rebills._due(wall.gateway, "nobody", as_json=False) == 2
    assert await rebills._explain(wall.gateway, ids.encode("inv", clock.new_uuid()), as_json=False) == 1
