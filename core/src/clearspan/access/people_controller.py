"""``/v1/operators``: who may sign in to the tenant, with which role."""

from __future__ import annotations

from litestar import Controller, delete, get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from clearspan.access.errors import LastOwner, LiveKeyRequired, RoleTooHigh
from clearspan.access.operators import Operators
from clearspan.access.people_schemas import OperatorList, OperatorOut, OperatorRemoved, OperatorUpdate
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems


class OperatorController(Controller):
    """People."""

    path = "/operators"
    tags = ("Configuration",)

    @get(opt={"scope": "operators:read"}, responses=problems())
    async def list(self, caller: NamedDependency[Caller], operators: NamedDependency[Operators]) -> OperatorList:
        """Everybody who may sign in to your tenant, by name. People are the same in test and live mode."""
        found = await operators.members(caller.scope)
        return OperatorList(object="list", data=[OperatorOut.of(member) for member in found])

    @get("/{operator_id:str}", opt={"scope": "operators:read"}, responses=problems(NotFound))
    async def retrieve(
        self, operator_id: FromPath[str], caller: NamedDependency[Caller], operators: NamedDependency[Operators]
    ) -> OperatorOut:
        """One member, with role and second factor; never what signs them in."""
        return OperatorOut.of(await operators.member(caller.scope, ids.decode("opr", operator_id)))

    @patch(
        "/{operator_id:str}",
        opt={"scope": "operators:write"},
        responses=problems(NotFound, RoleTooHigh, LastOwner, LiveKeyRequired),
    )
    async def update(
        self,
        operator_id: FromPath[str],
        data: JSONBody[OperatorUpdate],
        caller: NamedDependency[Caller],
        operators: NamedDependency[Operators],
    ) -> OperatorOut:
        """Give a member another role, which holds at once. A key ranks as an admin: it neither makes nor changes owners."""
        identity = ids.decode("opr", operator_id)
        await operators.member(caller.scope, identity)
        await operators.change_role(caller, identity, data.role, own_role=await operators.rank_of(caller))
        return OperatorOut.of(await operators.member(caller.scope, identity))

    @delete(
        "/{operator_id:str}",
        status_code=200,
        opt={"scope": "operators:write"},
        responses=problems(NotFound, RoleTooHigh, LastOwner, LiveKeyRequired),
    )
    async def remove(
        self, operator_id: FromPath[str], caller: NamedDependency[Caller], operators: NamedDependency[Operators]
    ) -> OperatorRemoved:
        """End a membership: they see nothing of the tenant any more, at once. A key ranks as an admin."""
        identity = ids.decode("opr", operator_id)
        member = await operators.member(caller.scope, identity)
        await operators.leave(caller, identity, own_role=await operators.rank_of(caller))
        return OperatorRemoved(id=member.public_id, object="operator", removed=True)
