"""``/v1/api-keys``."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from clearspan.access.errors import KeyAlreadyRotated, KeyNotActive, ScopesExceeded
from clearspan.access.schemas import ApiKeyCreate, ApiKeyCreatedOut, ApiKeyList, ApiKeyOut
from clearspan.access.service import ApiKeys
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.idempotency import IdempotencyKey
from clearspan.platform.problems import NotFound
from clearspan.platform.replies import problems, reply


class ApiKeyController(Controller):
    """API keys."""

    path = "/api-keys"
    tags = ("Configuration",)

    @post(opt={"scope": "api_keys:write"}, responses=problems(ScopesExceeded))
    async def create(
        self,
        data: JSONBody[ApiKeyCreate],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        api_keys: NamedDependency[ApiKeys],
    ) -> Response[ApiKeyCreatedOut]:
        """Make an API key in this key's mode, with at most this key's scopes.

        The secret is shown once: an answer that repeats an earlier one with the same `Idempotency-Key` has `secret: null`.
        """
        return reply(await api_keys.issue(caller, key, data))

    @get(opt={"scope": "api_keys:read"}, responses=problems())
    async def list(
        self,
        caller: NamedDependency[Caller],
        api_keys: NamedDependency[ApiKeys],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
    ) -> ApiKeyList:
        """API keys of this key's mode, newest first, expired and revoked ones included."""
        return await api_keys.list(caller.scope, limit, cursor)

    @get("/{key_id:str}", opt={"scope": "api_keys:read"}, responses=problems(NotFound))
    async def retrieve(
        self, key_id: FromPath[str], caller: NamedDependency[Caller], api_keys: NamedDependency[ApiKeys]
    ) -> ApiKeyOut:
        """One API key, without its secret."""
        return await api_keys.get(caller.scope, ids.decode("key", key_id))

    @post(
        "/{key_id:str}/rotate",
        opt={"scope": "api_keys:write"},
        responses=problems(NotFound, ScopesExceeded, KeyNotActive, KeyAlreadyRotated),
    )
    async def rotate(
        self,
        key_id: FromPath[str],
        caller: NamedDependency[Caller],
        key: NamedDependency[IdempotencyKey | None],
        api_keys: NamedDependency[ApiKeys],
    ) -> Response[ApiKeyCreatedOut]:
        """Make a successor with the same name, scopes and lifetime.

        The old key works on for `access.key_rotation_overlap_h` hours, to roll the new one out. The secret is shown once, as
        when a key is made.
        """
        return reply(await api_keys.rotate(caller, key, ids.decode("key", key_id)))

    @delete("/{key_id:str}", status_code=200, opt={"scope": "api_keys:write"}, responses=problems(NotFound))
    async def revoke(
        self, key_id: FromPath[str], caller: NamedDependency[Caller], api_keys: NamedDependency[ApiKeys]
    ) -> ApiKeyOut:
        """End an API key at once, also the one that asks. Payments refuse it immediately, reading within seconds."""
        return await api_keys.revoke(caller, ids.decode("key", key_id))
