"""Making a tenant ready to be tried out: accounts at the simulators, in test mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.psps.schemas import PspAccountCreate
from clearspan.tenants.models import Tenant

_OPERATORS_WORDS = ("url", "public_url")
"""What the operator's ``[plugin.<name>]`` says about every account of that plugin."""


async def provision_tenant(gateway: Gateway, slug: str, name: str) -> Tenant:
    """Make a tenant; its test mode gets every account that an enabled adapter declares as ``test_accounts``.

    Raises:
        TenantInvalid, SlugTaken: see ``Tenants.create``.
    """
    tenant = await gateway.tenants.create(slug, name)
    await add_test_accounts(gateway, tenant)
    return tenant


async def add_test_accounts(gateway: Gateway, tenant: Tenant) -> list[str]:
    """Add those that the tenant lacks, the first declared with the best priority; returns the names of all of them."""
    caller = by_command(tenant, live=False)
    present = {account.name for account in await gateway.psps.all(caller.scope)}
    names = []
    for index, (psp, name, config) in enumerate(_declared(gateway)):
        names.append(name)
        if name not in present:
            body = PspAccountCreate(psp=psp, name=name, config=dict(config), priority=10 * (index + 1))
            await gateway.psps.create(caller, None, body)
    return names


def by_command(tenant: Tenant, *, live: bool) -> Caller:
    """Whoever sits at the command line, acting for a tenant."""
    return Caller(
        scope=Scope(tenant_id=tenant.tenant_id, live=live),
        actor_type="cli",
        actor_id="cli",
        request_id=ids.encode("req", clock.new_uuid()),
        tenant=tenant.slug,
    )


def _declared(gateway: Gateway) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for psp, adapter in gateway.plugins.psps.items():
        table = gateway.settings.plugin.get(gateway.plugins.plugin_of_psp[psp], {})
        shared = {word: table[word] for word in _OPERATORS_WORDS if word in table}
        accounts: Mapping[str, Mapping[str, Any]] = getattr(adapter, "test_accounts", {})
        for name, config in accounts.items():
            yield psp, name, {**config, **shared}
