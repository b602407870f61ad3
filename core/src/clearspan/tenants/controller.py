"""``/v1/tenant``."""

from __future__ import annotations

from litestar import Controller, get
from litestar.di import NamedDependency

from clearspan.platform.context import Caller
from clearspan.platform.replies import problems
from clearspan.tenants.schemas import TenantOut
from clearspan.tenants.service import Tenants


class TenantController(Controller):
    """Whose key is this?"""

    path = "/tenant"
    tags = ("Configuration",)

    @get(summary="Retrieve your tenant", opt={"scope": "any"}, responses=problems())
    async def retrieve(self, caller: NamedDependency[Caller], tenants: NamedDependency[Tenants]) -> TenantOut:
        """The tenant and mode that the key belongs to: a cheap way to try a key out."""
        return TenantOut.of(await tenants.get(caller.scope.tenant_id), live=caller.scope.live)
