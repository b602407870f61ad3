"""``clearspan key``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta

from clearspan.access.keys import SCOPES
from clearspan.app import Gateway
from clearspan.commands.provision import by_command
from clearspan.commands.start import with_gateway
from clearspan.platform import clock
from clearspan.platform.problems import InvalidRequest
from clearspan.settings import Settings

DAYS_MAX = 36_500


def create(
    settings: Settings, slug: str, *, live: bool, scopes: Sequence[str] | None, name: str, expires_days: int | None
) -> int:
    """Make a key. The key alone goes to stdout, so that ``KEY=$(clearspan key create ...)`` works; words go to stderr."""
    if expires_days is not None and not 1 <= expires_days <= DAYS_MAX:
        raise InvalidRequest(f"--expires-days is a number from 1 to {DAYS_MAX}.")
    unknown = sorted(set(scopes or ()) - set(SCOPES))
    if unknown:
        raise InvalidRequest(f"There is no scope {', '.join(unknown)}. There are: {', '.join(SCOPES)}.")

    async def work(gateway: Gateway) -> int:
        tenant = await gateway.tenants.by_slug(slug)
        ends = clock.now() + timedelta(days=expires_days) if expires_days is not None else None
        key, secret = await gateway.api_keys.create(by_command(tenant, live=live), name, scopes or list(SCOPES), ends)
        print(secret)
        mode = "live" if live else "test"
        until = f", until {ends:%Y-%m-%d}" if ends is not None else ""
        print(
            f"A {mode} key of tenant {slug} with {len(key.scopes)} scopes{until}. It is stored nowhere: keep it now.",
            file=sys.stderr,
        )
        return 0

    return with_gateway(settings, work)
