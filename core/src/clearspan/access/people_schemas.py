"""Requests and answers of the operators' API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from clearspan.access.operators import Member

RoleName = Annotated[
    Literal["owner", "admin", "finance", "support", "developer", "auditor"],
    Meta(description="What they may do in this tenant, in both modes; see docs/roles.md.", examples=["support"]),
]


class OperatorUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a member another role."""

    role: RoleName


class OperatorOut(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may sign in, as a member of the tenant."""

    id: Annotated[str, Meta(examples=["opr_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["operator"]
    email: str
    name: str
    role: RoleName
    status: Literal["active", "disabled"]
    second_factor: Annotated[bool, Meta(description="Whether an authenticator is set up.")]
    single_sign_on: Annotated[bool, Meta(description="Whether an identity provider signs them in.")]
    last_signed_in_at: datetime | None
    member_since: datetime
    version: Annotated[int, Meta(description="Of the membership; grows with each change of the role.")]

    @classmethod
    def of(cls, member: Member) -> Self:
        """Their membership."""
        return cls(
            id=member.public_id,
            object="operator",
            email=member.email,
            name=member.name,
            role=member.role,  # type: ignore[arg-type]  # the column's CHECK holds the words
            status=member.status,  # type: ignore[arg-type]  # likewise
            second_factor=member.totp,
            single_sign_on=member.oidc,
            last_signed_in_at=member.signed_in_at,
            member_since=member.member_since,
            version=member.version,
        )


class OperatorList(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody who may sign in to the tenant, by name."""

    object: Literal["list"]
    data: list[OperatorOut]


class OperatorRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody is no member any more."""

    id: str
    object: Literal["operator"]
    removed: Literal[True]
