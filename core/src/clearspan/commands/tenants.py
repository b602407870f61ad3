"""``clearspan tenant``."""

from __future__ import annotations

from clearspan.app import Gateway
from clearspan.commands.provision import add_test_accounts, provision_tenant
from clearspan.commands.start import with_gateway
from clearspan.platform import ids
from clearspan.settings import Settings


def create(settings: Settings, slug: str, name: str) -> int:
    """Make a tenant."""

    async def work(gateway: Gateway) -> int:
        tenant = await provision_tenant(gateway, slug, name)
        accounts = await add_test_accounts(gateway, tenant)
        print(f"Tenant {tenant.slug} ({ids.encode('ten', tenant.tenant_id)}) is made.")
        if accounts:
            print(f"Its test mode has the PSP accounts {', '.join(accounts)}.")
        print(f"Next: clearspan key create --tenant {tenant.slug}")
        return 0

    return with_gateway(settings, work)


def show(settings: Settings) -> int:
    """List all tenants."""

    async def work(gateway: Gateway) -> int:
        tenants = await gateway.tenants.all()
        if not tenants:
            print("There is no tenant yet: clearspan tenant create <slug>")
            return 0
        rows = [("SLUG", "ID", "STATUS", "CREATED", "NAME")]
        rows += [
            (one.slug, ids.encode("ten", one.tenant_id), one.status, f"{one.created_at:%Y-%m-%d %H:%M}Z", one.name)
            for one in tenants
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
        return 0

    return with_gateway(settings, work)
