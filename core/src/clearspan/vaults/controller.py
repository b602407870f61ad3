"""``/v1/capture-sessions``."""

from __future__ import annotations

from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.replies import problems, reply
from clearspan.vaults.errors import VaultUnavailable, VaultUnknown
from clearspan.vaults.schemas import CaptureSessionCreate, CaptureSessionOut
from clearspan.vaults.service import Vaults


class CaptureSessionController(Controller):
    """Hosted capture pages."""

    path = "/capture-sessions"
    tags = ("Customers",)

    @post(opt={"scope": "customers:write"}, responses=problems(VaultUnknown, VaultUnavailable))
    async def create(
        self,
        data: JSONBody[CaptureSessionCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        vaults: NamedDependency[Vaults],
        db: NamedDependency[Database],
    ) -> Response[CaptureSessionOut]:
        """Open a page of the vault on which the payer types the card.

        Send the payer's browser to `url`. It comes back to `return_url` with `token=` in the query; make a payment method of it.
        """
        return reply(await vaults.capture_session(db, caller, key, data))
