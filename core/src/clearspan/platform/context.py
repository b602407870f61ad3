"""For whom something is done, by whom, and under which request."""

from __future__ import annotations

from uuid import UUID

import msgspec


class Scope(msgspec.Struct, frozen=True):
    """A tenant in one mode. Every query takes one; test and live data never meet."""

    tenant_id: UUID
    live: bool


class Caller(msgspec.Struct, frozen=True):
    """Who acts.

    Attributes:
        scope: the tenant and mode acted in.
        actor_type: ``api_key``, ``operator``, ``system``, ``cli`` or ``psp``.
        actor_id: the key's or person's public id, or a part of the system.
        request_id: correlates answer, logs, journal and calls to PSPs.
        scopes: what the actor may do.
        key_id: of the API key, when one is used.
        tenant: the tenant's slug.
        session_id: of the session behind a person's access token: what moves money checks it again, as it does the key.
    """

    scope: Scope
    actor_type: str
    actor_id: str
    request_id: str
    scopes: frozenset[str] = frozenset()
    key_id: UUID | None = None
    tenant: str = ""
    session_id: UUID | None = None


def system(scope: Scope, part: str, request_id: str) -> Caller:
    """A part of Clearspan acting on its own."""
    return Caller(scope=scope, actor_type="system", actor_id=part, request_id=request_id)
