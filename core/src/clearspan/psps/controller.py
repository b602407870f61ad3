"""``/v1/psp-accounts``."""

from __future__ import annotations

from litestar import Controller, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.plugins import Plugins
from clearspan.platform.replies import problems, reply
from clearspan.psps import catalogue
from clearspan.psps.catalogue import PspList
from clearspan.psps.schemas import PspAccountCheck, PspAccountCreate, PspAccountList, PspAccountOut, PspAccountUpdate
from clearspan.psps.service import AccountNameTaken, AccountNotFound, PspAccounts, UnknownPsp


class PspAccountController(Controller):
    """PSP accounts."""

    path = "/psp-accounts"
    tags = ["Configuration"]

    @post(opt={"scope": "psp_accounts:write"}, responses=problems(UnknownPsp, AccountNameTaken))
    async def create(
        self,
        data: JSONBody[PspAccountCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        psps: NamedDependency[PspAccounts],
    ) -> Response[PspAccountOut]:
        """Add a PSP account. Its settings are checked, sealed, and never shown again."""
        return reply(await psps.create(caller, key, data))

    @get(opt={"scope": "psp_accounts:read"}, responses=problems())
    async def list(self, caller: NamedDependency[Caller], psps: NamedDependency[PspAccounts]) -> PspAccountList:
        """All PSP accounts of the key's mode."""
        return PspAccountList(object="list", data=await psps.all(caller.scope))

    @get("/{account_id:str}", opt={"scope": "psp_accounts:read"}, responses=problems(AccountNotFound))
    async def get(
        self, account_id: FromPath[str], caller: NamedDependency[Caller], psps: NamedDependency[PspAccounts]
    ) -> PspAccountOut:
        """One PSP account."""
        return await psps.get(caller.scope, account_id)

    @patch("/{account_id:str}", opt={"scope": "psp_accounts:write"}, responses=problems(AccountNotFound))
    async def update(
        self,
        account_id: FromPath[str],
        data: JSONBody[PspAccountUpdate],
        caller: NamedDependency[Caller],
        psps: NamedDependency[PspAccounts],
    ) -> PspAccountOut:
        """Change priority, status or settings."""
        return await psps.update(caller, account_id, data)

    @post(
        "/{account_id:str}/check",
        status_code=200,
        opt={"scope": "psp_accounts:write"},
        responses=problems(AccountNotFound, UnknownPsp),
    )
    async def check(
        self, account_id: FromPath[str], caller: NamedDependency[Caller], psps: NamedDependency[PspAccounts]
    ) -> PspAccountCheck:
        """Ask the PSP whether it takes an account's settings. Moves nothing."""
        return await psps.check(caller.scope, account_id)


class PspController(Controller):
    """PSPs that accounts can be added for."""

    path = "/psps"
    tags = ["Configuration"]

    @get(opt={"scope": "psp_accounts:read"}, responses=problems(), sync_to_thread=False)
    def list(self, plugins: NamedDependency[Plugins]) -> PspList:
        """All PSPs of the enabled plugins: what each can do, and the form for the settings of an account."""
        return catalogue.psps(plugins)
