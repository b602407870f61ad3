"""Roles: what a person may do in a tenant, as the scopes that an API key would have.

A role is a set of scopes and nothing else: a page and a call of the API ask for the same scope, so a person can do in the
cockpit what a key with their role's scopes can do, and no more. docs/roles.md, generated, shows every role with every route.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from clearspan.access.keys import SCOPES

_READ = frozenset(scope for scope in SCOPES if scope.endswith(":read"))
_ALL = frozenset(SCOPES)

ROLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "owner": _ALL,
        "admin": _ALL,
        "finance": _READ - {"operators:read"}
        | {
            "payments:write",
            "payments:decide",
            "customers:write",
            "mandates:write",
            "dunning:write",
            "plans:write",
            "subscriptions:write",
            "invoices:write",
            "psp_webhooks:write",
        },
        "support": frozenset(
            {
                "payments:read",
                "payments:write",
                "customers:read",
                "customers:write",
                "mandates:read",
                "mandates:write",
                "plans:read",
                "subscriptions:read",
                "subscriptions:write",
                "invoices:read",
                "invoices:write",
                "dunning:read",
                "events:read",
                "psp_webhooks:read",
                "webhook_endpoints:read",
            }
        ),
        "developer": frozenset(
            {
                "payments:read",
                "customers:read",
                "subscriptions:read",
                "invoices:read",
                "plans:read",
                "events:read",
                "audit:read",
                "test_clocks:write",
                "psp_accounts:read",
                "psp_webhooks:read",
                "psp_webhooks:write",
                "webhook_endpoints:read",
                "webhook_endpoints:write",
                "api_keys:read",
                "api_keys:write",
            }
        ),
        "auditor": _READ,
    }
)
"""Every role with its scopes. An owner differs from an admin in one thing: only owners make, change and remove owners."""

RANK: Final = ("auditor", "support", "developer", "finance", "admin", "owner")
"""For listing."""
STRONG_ROLES: Final = frozenset({"owner", "admin", "finance"})
"""Whoever has one of these must have a second factor (PCI DSS 4.0.1, 8.4.2) before anything else opens."""


def may_give(own: str, role: str) -> bool:
    """Whether somebody with the role ``own`` may give or take the role ``role``."""
    return own == "owner" or (own == "admin" and role != "owner")
