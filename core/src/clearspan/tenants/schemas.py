"""The answer of the tenant's API."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

import msgspec

from clearspan.platform import ids
from clearspan.tenants.models import Tenant


class TenantOut(msgspec.Struct, frozen=True, kw_only=True):
    """The tenant that the API key belongs to."""

    id: str
    object: Literal["tenant"]
    live: bool
    slug: str
    name: str
    status: Literal["active", "suspended"]
    created_at: datetime

    @classmethod
    def of(cls, tenant: Tenant, *, live: bool) -> Self:
        """``live`` is the key's mode: a tenant has both."""
        return cls(
            id=ids.encode("ten", tenant.tenant_id),
            object="tenant",
            live=live,
            slug=tenant.slug,
            name=tenant.name,
            status=tenant.status,  # type: ignore[arg-type]  # the column's CHECK holds the words
            created_at=tenant.created_at,
        )
