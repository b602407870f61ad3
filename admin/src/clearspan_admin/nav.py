"""The menu: what there is, where, and which scope it needs. The command palette and the tests read it too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from clearspan_admin.words import mark


class Entry(msgspec.Struct, frozen=True):
    """A page of the menu.

    Attributes:
        title: in English; translated where it is shown.
        path: below the cockpit.
        icon: of ``icons.toml``.
        scope: whoever lacks it does not see the entry.
        keys: the keyboard's way there.
        unless: whoever has this scope comes there by another entry.
    """

    title: str
    path: str
    icon: str
    scope: str
    keys: str = ""
    unless: str = ""


MENU: Final[tuple[tuple[str, tuple[Entry, ...]], ...]] = (
    (
        "",
        (
            Entry(mark("Home"), "/", "house", "payments:read", "g h"),
            Entry(mark("Payments"), "/payments", "credit-card", "payments:read", "g p"),
            Entry(mark("Disputes"), "/disputes", "gavel", "payments:read", "g x"),
            Entry(mark("Customers"), "/customers", "users", "customers:read", "g c"),
        ),
    ),
    (
        mark("Rebills"),
        (
            Entry(mark("Subscriptions"), "/subscriptions", "repeat", "subscriptions:read", "g s"),
            Entry(mark("Invoices"), "/invoices", "file-text", "invoices:read", "g i"),
            Entry(mark("Dunning"), "/dunning", "life-buoy", "dunning:read", "g d"),
            Entry(mark("Plans"), "/plans", "scroll-text", "plans:read"),
        ),
    ),
    (
        mark("Work"),
        (
            Entry(mark("Queues"), "/work", "list-checks", "payments:read", "g w"),
            Entry(mark("Approvals"), "/approvals", "shield-check", "payments:read"),
            Entry(mark("Ledger"), "/ledger", "scale", "ledger:read"),
            Entry(mark("Audit trail"), "/audit", "badge-check", "audit:read", "g a"),
        ),
    ),
    (
        mark("Settings"),
        (
            Entry(mark("PSP accounts"), "/settings/psps", "landmark", "psp_accounts:read"),
            Entry(mark("Vaults and plugins"), "/settings/plugins", "plug", "psp_accounts:read"),
            Entry(mark("Webhook endpoints"), "/settings/webhooks", "webhook", "webhook_endpoints:read"),
            Entry(mark("API keys"), "/settings/api-keys", "key-round", "api_keys:read"),
            Entry(mark("People and roles"), "/settings/people", "user-cog", "operators:read"),
            Entry(mark("Tenant"), "/settings/tenant", "building-2", "operators:read"),
            Entry(
                mark("How you bill"), "/settings/tenant/billing", "building-2", "plans:write", unless="operators:read"
            ),
        ),
    ),
)


def menu(scopes: Collection[str]) -> list[tuple[str, list[Entry]]]:
    """What somebody with these scopes sees; groups without an entry are left out."""
    groups = [
        (title, [entry for entry in entries if entry.scope in scopes and entry.unless not in scopes])
        for title, entries in MENU
    ]
    return [(title, entries) for title, entries in groups if entries]
