"""``clearspan recover --since``."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from clearspan.app import Gateway
from clearspan.commands.start import with_gateway
from clearspan.payments.gap import Found, recover_gap
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.settings import Settings

_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime) -> datetime:
    """``2026-05-01T10:00:00Z``, or ``90m``, ``2h``, ``3d`` before now.

    Raises:
        ValueError: neither, or in the future.
    """
    if match := _SPAN.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or found > now:
        raise ValueError(text)
    return found.astimezone(UTC)


def run(settings: Settings, since_text: str, *, tenant: str | None, as_json: bool) -> int:
    """Ask the PSPs about a gap; 1 when something could not be asked or taken in."""

    async def work(gateway: Gateway) -> int:
        now = clock.now()
        try:
            since = moment(since_text, now)
        except ValueError:
            print(
                f"--since {since_text!r}: give a moment in the past with its zone, such as 2026-05-01T10:00:00Z, or a span"
                " such as 90m, 2h or 3d.",
                file=sys.stderr,
            )
            return 2
        tenants = [one for one in await gateway.tenants.all() if tenant is None or one.slug == tenant]
        if not tenants:
            print(f"There is no tenant {tenant!r}: clearspan tenant list", file=sys.stderr)
            return 2
        request_id = ids.encode("req", clock.new_uuid())
        rows: list[tuple[str, str, Found]] = []
        for one in tenants:
            for live in (False, True):
                scope = Scope(tenant_id=one.tenant_id, live=live)
                found = await recover_gap(gateway.payments, gateway.psps, scope, request_id, since, now)
                rows += [(one.slug, "live" if live else "test", row) for row in found]
        _show(rows, as_json=as_json)
        return int(any(row.problem or row.unmatched for _, _, row in rows))

    return with_gateway(settings, work)


def _show(rows: list[tuple[str, str, Found]], *, as_json: bool) -> None:
    if as_json:
        told: list[dict[str, Any]] = [
            {"tenant": tenant, "mode": mode} | msgspec.to_builtins(row) for tenant, mode, row in rows
        ]
        print(msgspec.json.encode(told).decode())
        return
    head = ("TENANT", "MODE", "ACCOUNT", "LISTED", "AGREED", "CHANGED", "TAKEN IN", "NOT MATCHED", "OPEN HERE")
    table = [head] + [
        (
            tenant,
            mode,
            row.account,
            "-" if row.listed is None else str(row.listed),
            *(str(number) for number in (row.agreed, row.changed, row.adopted, len(row.unmatched), row.open_)),
        )
        for tenant, mode, row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for tenant, mode, row in rows:
        if row.problem:
            print(f"{tenant} {mode} {row.account}: {row.problem}")
        for reference in row.unmatched:
            print(f"{tenant} {mode} {row.account}: could not be taken in: {reference}")
