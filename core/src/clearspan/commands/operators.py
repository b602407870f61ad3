"""``clearspan operators``: people, for whoever has the machine. How the first one gets in, and those who are locked out."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

from clearspan.access.sessions import Operator
from clearspan.app import Gateway
from clearspan.commands.provision import by_command
from clearspan.commands.start import with_gateway
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.problems import NotFound
from clearspan.platform.runtime import OperatorError, published, with_public_url
from clearspan.settings import Settings

BY = "cli"


def show(settings: Settings) -> int:
    """List the members of every tenant."""

    async def work(gateway: Gateway) -> int:
        rows = [("EMAIL", "TENANT", "ROLE", "STATUS", "SECOND FACTOR", "SIGNED IN")]
        for tenant in await gateway.tenants.all():
            for one in await gateway.operators.members(Scope(tenant_id=tenant.tenant_id, live=True)):
                seen = f"{one.signed_in_at:%Y-%m-%d %H:%M}Z" if one.signed_in_at else "never"
                rows.append((one.email, tenant.slug, one.role, one.status, "yes" if one.totp else "no", seen))
        if len(rows) == 1:
            print("There is nobody yet: clearspan operators link")
            return 0
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]))
        return 0

    return with_gateway(settings, work)


def link(settings: Settings, email: str | None) -> int:
    """Print a link: for somebody's new password, or for the first owner. The link alone goes to stdout, words go to stderr."""

    async def work(gateway: Gateway) -> int:
        if email is None or not await gateway.operators.count():
            first = await gateway.signing.first_owner_link()
            if first is None:
                raise OperatorError("There is somebody already. Say whose link: clearspan operators link EMAIL")
            print(first)
            print("Whoever opens it becomes the first owner. It works once, for 24 hours.", file=sys.stderr)
            return 0
        print(await gateway.signing.rescue_link(await _person(gateway, email), _request_id(), by=BY))
        print(
            f"Whoever opens it sets the password of {email}. It works once, for 24 hours; the second factor stays.",
            file=sys.stderr,
        )
        return 0

    return with_gateway(_reachable(settings), work)


def invite(settings: Settings, email: str, slug: str, role: str) -> int:
    """Print an invitation."""

    async def work(gateway: Gateway) -> int:
        tenant = await gateway.tenants.by_slug(slug)
        print(await gateway.signing.invite(by_command(tenant, live=True), "owner", email, role))
        print(f"By it {email} joins {slug} as {role}. It works once, for 72 hours.", file=sys.stderr)
        return 0

    return with_gateway(_reachable(settings), work)


def disable(settings: Settings, email: str) -> int:
    """Let somebody in no more."""

    async def act(gateway: Gateway, operator: Operator) -> str:
        await gateway.signing.disable(operator, _request_id(), by=BY)
        return f"{operator.email} is disabled; every session has ended."

    return _on(settings, email, act)


def enable(settings: Settings, email: str) -> int:
    """Let somebody in again."""

    async def act(gateway: Gateway, operator: Operator) -> str:
        await gateway.signing.enable(operator, _request_id(), by=BY)
        return f"{operator.email} may sign in again."

    return _on(settings, email, act)


def reset_second_factor(settings: Settings, email: str) -> int:
    """Take a lost authenticator away."""

    async def act(gateway: Gateway, operator: Operator) -> str:
        await gateway.signing.remove_second_factor(operator, _request_id(), by=BY, rescue=True)
        return (
            f"{operator.email} signs in with the password alone, and sets up an authenticator where the role needs one."
        )

    return _on(settings, email, act)


def _on(settings: Settings, email: str, act: Callable[[Gateway, Operator], Awaitable[str]]) -> int:
    async def work(gateway: Gateway) -> int:
        print(await act(gateway, await _person(gateway, email)))
        return 0

    return with_gateway(settings, work)


async def _person(gateway: Gateway, email: str) -> Operator:
    found = await gateway.operators.find(email=email)
    if found is None:
        raise NotFound(f"There is nobody with the address {email}; see 'clearspan operators list'.")
    return found


def _reachable(settings: Settings) -> Settings:
    """Links name the gateway that runs here, whatever port it found."""
    running = published(settings.data_dir)
    if running is None or not running.url:
        return settings
    return with_public_url(settings, running.url)


def _request_id() -> str:
    return ids.encode("req", clock.new_uuid())
