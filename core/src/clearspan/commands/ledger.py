"""``clearspan ledger``."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import msgspec

from clearspan.app import Gateway
from clearspan.commands.start import with_gateway
from clearspan.commands.tables import print_table
from clearspan.ledger import service as ledger
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.settings import Settings

SHOWN_MAX = 1_000
"""Differences that are listed; after them only their number is told."""


def check(settings: Settings, slug: str | None, *, as_json: bool) -> int:
    """Compare the ledger with itself and with the payments, of one tenant or of all; 1 when anything differs."""

    async def work(gateway: Gateway) -> int:
        looked = Counter[str]()
        rows: list[dict[str, Any]] = []
        total = 0
        for tenant in [await gateway.tenants.by_slug(slug)] if slug else list(await gateway.tenants.all()):
            for live in (False, True):
                scope = Scope(tenant_id=tenant.tenant_id, live=live)
                async for wrong in ledger.differences(gateway.db, scope, looked):
                    total += 1
                    if len(rows) < SHOWN_MAX:
                        rows.append({"tenant": tenant.slug, "live": live, **_row(wrong)})
        if as_json:
            document = {"ok": not total, "looked_at": dict(looked), "total": total, "differences": rows}
            print(msgspec.json.format(msgspec.json.encode(document)).decode())
            return 1 if total else 0
        columns = ("tenant", "live", "kind", "payment", "transfer", "account", "currency", "expected", "found")
        print_table(
            ["MODE" if name == "live" else name.upper() for name in columns],
            [[_cell(name, row[name]) for name in columns] for row in rows],
        )
        if total > len(rows):
            print(f"... and {total - len(rows)} more.")
        words = f"{total} differences" if total else "No differences"
        sizes = f"{looked['ledger entries']} entries, {looked['ledger payments']} payments"
        print(f"{words}. Looked at: {sizes}.", file=sys.stderr)
        if total:
            print("Change nothing yet: docs/runbooks/ledger-difference.md says what to do.", file=sys.stderr)
        return 1 if total else 0

    return with_gateway(settings, work)


def _row(wrong: ledger.LedgerDifference) -> dict[str, Any]:
    return {
        "kind": wrong.kind,
        "payment": ids.encode_optional("pay", wrong.payment_id),
        "transfer": ids.encode_optional("trf", wrong.transfer_id),
        "account": wrong.account,
        "currency": wrong.currency,
        "expected": wrong.expected,
        "found": wrong.found,
    }


def _cell(name: str, value: object) -> str:
    if name == "live":
        return "live" if value else "test"
    return "-" if value is None else str(value)
