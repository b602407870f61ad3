"""``clearspan check``: every payment recomputed from what is append-only, and compared with what is stored."""

from __future__ import annotations

import sys
from collections import Counter

import msgspec

from clearspan.app import Gateway
from clearspan.commands.start import with_gateway
from clearspan.commands.tables import print_table
from clearspan.payments import check
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.settings import Settings

SHOWN_MAX = 1_000
"""Differences that are listed; after them only their number is told."""


def run(settings: Settings, slug: str | None, *, as_json: bool) -> int:
    """Look at everything, of one tenant or of all; 1 when anything differs."""

    async def work(gateway: Gateway) -> int:
        looked = Counter[str](dict.fromkeys(check.LOOKED_AT, 0))
        found: list[check.Difference] = []
        total = 0
        everybody = [await gateway.tenants.by_slug(slug)] if slug else list(await gateway.tenants.all())
        slugs = {tenant.tenant_id: tenant.slug for tenant in everybody}
        for tenant in slugs:
            for live in (False, True):
                async for difference in check.differences(gateway.db, Scope(tenant_id=tenant, live=live), looked):
                    total += 1
                    if len(found) < SHOWN_MAX:
                        found.append(difference)
        if as_json:
            rows = [
                {
                    "tenant": slugs[one.tenant_id],
                    **msgspec.to_builtins(one),
                    "tenant_id": ids.encode("ten", one.tenant_id),
                }
                for one in found
            ]
            document = {"ok": not total, "looked_at": dict(looked), "total": total, "differences": rows}
            print(msgspec.json.format(msgspec.json.encode(document)).decode())
            return 1 if total else 0
        print_table(
            ("TENANT", "MODE", "KIND", "PAYMENT", "ID", "EXPECTED", "FOUND", "WHAT"),
            [
                (
                    slugs[one.tenant_id],
                    "live" if one.live else "test",
                    one.kind,
                    one.payment or "-",
                    one.id if one.id != one.payment else "-",
                    one.expected,
                    one.found,
                    one.what,
                )
                for one in found
            ],
        )
        if total > len(found):
            print(f"... and {total - len(found)} more.")
        sizes = ", ".join(f"{count} {name}" for name, count in looked.items())
        words = f"{total} differences" if total else "No differences"
        print(f"{words}. Looked at: {sizes}.", file=sys.stderr)
        if total:
            print("Change nothing yet: docs/runbooks/ledger-difference.md says what to do.", file=sys.stderr)
        return 1 if total else 0

    return with_gateway(settings, work)
