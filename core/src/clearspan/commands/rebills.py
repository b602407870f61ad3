"""``clearspan rebills due``, ``run`` and ``explain``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clearspan.app import Gateway
from clearspan.commands.start import with_gateway
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.rebills.errors import RebillNotFound
from clearspan.settings import Settings

Told = dict[str, Any]


def due(settings: Settings, tenant: str | None, *, as_json: bool) -> int:
    """Show what waits, by tenant, mode and state."""
    return with_gateway(settings, lambda gateway: _due(gateway, tenant, as_json=as_json))


async def _due(gateway: Gateway, tenant: str | None, *, as_json: bool) -> int:
    async def one(gateway: Gateway, scope: Scope) -> list[Told]:
        found = await gateway.rebills.waiting(scope)
        return [*found["states"], *({"state": "blocked", **row} for row in found["blocked"])]

    return await _each(gateway, tenant, one, as_json=as_json)


def run(settings: Settings, tenant: str | None, *, as_json: bool) -> int:
    """Do what the job does, once for each tenant and mode."""
    return with_gateway(settings, lambda gateway: _run(gateway, tenant, as_json=as_json))


async def _run(gateway: Gateway, tenant: str | None, *, as_json: bool) -> int:
    request_id = ids.encode("req", clock.new_uuid())

    async def one(gateway: Gateway, scope: Scope) -> list[Told]:
        done = await gateway.collector.collect(scope, request_id)
        return [{"done": done}] if done else []

    return await _each(gateway, tenant, one, as_json=as_json)


def explain(settings: Settings, invoice: str, *, as_json: bool) -> int:
    """Tell the story of one invoice, whosever it is."""
    return with_gateway(settings, lambda gateway: _explain(gateway, invoice, as_json=as_json))


async def _explain(gateway: Gateway, invoice: str, *, as_json: bool) -> int:
    invoice_id = ids.decode("inv", invoice)
    for tenant in await gateway.tenants.all():
        for live in (False, True):
            try:
                found = await gateway.rebills.explain(Scope(tenant_id=tenant.tenant_id, live=live), invoice_id)
            except RebillNotFound:
                continue
            if as_json:
                print(msgspec.json.encode(found).decode())
                return 0
            mode = "live" if live else "test"
            print(
                f"{found.number or found.id} of {tenant.slug} ({mode}): {found.amount_minor} {found.currency}, {found.state}"
            )
            for charge in found.charges:
                said = " ".join(filter(None, (charge.state, charge.code, charge.raw_code and f"({charge.raw_code})")))
                print(f"  {charge.at:%Y-%m-%d %H:%M} try {charge.number}: {said}")
            for decision in found.decisions:
                print(f"  {decision.decided_at:%Y-%m-%d %H:%M} {decision.sentence}")
            print(f"Next: {found.next_step}")
            return 0
    print(f"No tenant has a rebill of {invoice}.", file=sys.stderr)
    return 1


async def _each(
    gateway: Gateway, tenant: str | None, one: Callable[[Gateway, Scope], Awaitable[list[Told]]], *, as_json: bool
) -> int:
    tenants = [row for row in await gateway.tenants.all() if tenant is None or row.slug == tenant]
    if not tenants:
        print(
            f"There is no tenant {tenant!r}: clearspan tenant list" if tenant else "There is no tenant.",
            file=sys.stderr,
        )
        return 2
    told: list[Told] = []
    for row in tenants:
        for live in (False, True):
            head = {"tenant": row.slug, "mode": "live" if live else "test"}
            told += [head | line for line in await one(gateway, Scope(tenant_id=row.tenant_id, live=live))]
    if as_json:
        print(msgspec.json.encode(told).decode())
    elif not told:
        print("Nothing is due.")
    else:
        for line in told:
            print("  ".join(f"{name}={value}" for name, value in line.items()))
    return 0
