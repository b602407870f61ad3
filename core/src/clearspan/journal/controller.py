"""``/v1/events`` and ``/v1/audit``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Protocol

from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from clearspan.journal import service
from clearspan.journal.errors import (
    CheckpointNotFound,
    CursorUnknown,
    EventNotFound,
    NotSealedYet,
    StreamsClosed,
    TooManyStreams,
    TreeSizeUnknown,
)
from clearspan.journal.feed import Feed
from clearspan.journal.proofs import Proofs
from clearspan.journal.schemas import (
    AuditKey,
    AuditList,
    CheckpointList,
    CheckpointOut,
    ConsistencyProof,
    EventList,
    EventOut,
    InclusionProof,
)
from clearspan.journal.service import AuditQuery
from clearspan.platform import ids
from clearspan.platform.context import Caller
from clearspan.platform.db import Database
from clearspan.platform.moments import in_utc
from clearspan.platform.problems import Forbidden, InvalidRequest
from clearspan.platform.replies import problems

SCOPE = "events:read"
AUDIT = "audit:read"
SIZE_MAX = 2**53
TYPES_MAX = 50
_TYPE = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")

Types = Annotated[
    list[str] | None,
    QueryParameter(
        name="type", max_items=TYPES_MAX, description="Only these types; separated by commas or given several times."
    ),
]
EventId = Annotated[str | None, QueryParameter(max_length=90)]
Text = Annotated[str | None, QueryParameter(min_length=1, max_length=200)]


class _Authenticator(Protocol):
    """What an open stream needs of ``access``, which stands above this module."""

    async def caller(self, authorization: str | None, request_id: str) -> Caller: ...


class EventController(Controller):
    """What happened, oldest first."""

    path = "/events"
    tags = ("Events",)

    @get(summary="List events", opt={"scope": SCOPE}, responses=problems(CursorUnknown))
    async def list(
        self,
        caller: NamedDependency[Caller],
        feed: NamedDependency[Feed],
        after: Annotated[
            str | None,
            QueryParameter(max_length=90, description="The last event you have; default: from the beginning."),
        ] = None,
        limit: Annotated[int | None, QueryParameter(ge=1, le=1000, description="Events per page; 20.")] = None,
        types: Types = None,
    ) -> EventList:
        """Events after `after`, oldest first. Keep `next_cursor` and ask again: nothing is missed, nothing comes twice.

        An event appears here when every transaction that began before it has ended, as a rule within milliseconds.
        """
        return await feed.page(caller.scope, after, limit, _types(types))

    @get("/stream", summary="Stream events", opt={"scope": SCOPE}, media_type="text/event-stream",
         responses=problems(CursorUnknown, TooManyStreams, StreamsClosed))  # fmt: skip
    async def stream(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        feed: NamedDependency[Feed],
        types: Types = None,
        last_event_id: Annotated[
            str | None, QueryParameter(max_length=90, description="As the header; the header wins.")
        ] = None,
        resume_after: Annotated[
            str | None,
            HeaderParameter(name="Last-Event-ID", max_length=90, description="The last event you have."),
        ] = None,
    ) -> Stream:
        """Server-sent events as they happen; with `Last-Event-ID` first those you missed.

        `id` is the event, `event` its type, `data` the event as JSON. A comment comes every 15 seconds; the stream ends with a
        comment that says why.
        """
        authenticator: _Authenticator = request.app.state.authenticator
        authorization = request.headers.get("authorization")

        async def recheck() -> None:
            if SCOPE not in (await authenticator.caller(authorization, caller.request_id)).scopes:
                raise Forbidden

        body = await feed.stream(caller, resume_after or last_event_id, _types(types), recheck)
        return Stream(
            body,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    @get("/{event_id:str}", summary="Retrieve an event", opt={"scope": SCOPE}, responses=problems(EventNotFound))
    async def get(
        self, event_id: FromPath[str], caller: NamedDependency[Caller], feed: NamedDependency[Feed]
    ) -> EventOut:
        """One event, with its subject as it is now."""
        return await feed.get(caller.scope, ids.decode("evt", event_id))


class AuditController(Controller):
    """Who did what, newest first."""

    path = "/audit"
    tags = ("Events",)

    @get(summary="Search the audit trail", opt={"scope": AUDIT}, responses=problems(ids.InvalidId))
    async def list(
        self,
        caller: NamedDependency[Caller],
        db: NamedDependency[Database],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
        customer: Text = None,
        subject: Annotated[
            str | None,
            QueryParameter(
                max_length=90,
                description="Public id of any kind; of a payment its operations and refunds are found too.",
            ),
        ] = None,
        subject_type: Text = None,
        actor: Text = None,
        type_: Annotated[str | None, QueryParameter(name="type", max_length=90)] = None,
        request_id: Text = None,
        created_after: Annotated[datetime | None, QueryParameter(description="At this moment or later.")] = None,
        created_before: Annotated[datetime | None, QueryParameter(description="Before this moment.")] = None,
    ) -> AuditList:
        """Everything that was done to what is yours: by whom, when, in which request. It cannot be changed, by nobody."""
        query = AuditQuery(
            customer=customer,
            subject=subject,
            subject_type=subject_type,
            actor=actor,
            type=type_,
            request_id=request_id,
            created_after=in_utc("created_after", created_after),
            created_before=in_utc("created_before", created_before),
        )
        return await service.search(db, caller.scope, query, limit=limit, cursor=cursor)

    @get("/key", summary="Retrieve the audit key", opt={"scope": AUDIT}, responses=problems())
    async def key(self, proofs: NamedDependency[Proofs]) -> AuditKey:
        """The public key that checkpoints are signed with. Keep it where you keep checkpoints, from the beginning."""
        return proofs.key()

    @get(
        "/checkpoint",
        summary="Retrieve the last checkpoint",
        opt={"scope": AUDIT},
        responses=problems(CheckpointNotFound),
    )
    async def checkpoint(self, proofs: NamedDependency[Proofs]) -> CheckpointOut:
        """The signed size and root hash of the tree over everything that happened in this installation.

        Keep its `note`: whoever changes anything it covers can be convicted with it.
        """
        return await proofs.latest()

    @get("/checkpoints", summary="List checkpoints", opt={"scope": AUDIT}, responses=problems())
    async def checkpoints(
        self,
        proofs: NamedDependency[Proofs],
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows per page.")] = 20,
        cursor: Annotated[
            str | None, QueryParameter(max_length=200, description="next_cursor of the page before.")
        ] = None,
    ) -> CheckpointList:
        """All checkpoints, newest first."""
        return await proofs.checkpoints(limit=limit, cursor=cursor)

    @get("/consistency", summary="Prove that the trail only grew", opt={"scope": AUDIT},
         responses=problems(TreeSizeUnknown, CheckpointNotFound))  # fmt: skip
    async def consistency(
        self,
        proofs: NamedDependency[Proofs],
        from_: Annotated[int, QueryParameter(name="from", ge=0, le=SIZE_MAX, description="Size of the older tree.")],
        to: Annotated[
            int | None,
            QueryParameter(ge=0, le=SIZE_MAX, description="Size of the newer one; default: of the last checkpoint."),
        ] = None,
    ) -> ConsistencyProof:
        """The proof that the tree of the newer size begins with the whole tree of the older one."""
        return await proofs.between(from_, to)

    @get("/{event_id:str}/proof", summary="Prove that an event is in the trail", opt={"scope": AUDIT},
         responses=problems(EventNotFound, NotSealedYet, TreeSizeUnknown))  # fmt: skip
    async def proof(
        self,
        event_id: FromPath[str],
        caller: NamedDependency[Caller],
        proofs: NamedDependency[Proofs],
        size: Annotated[
            int | None,
            QueryParameter(ge=1, le=SIZE_MAX, description="Of the tree; default: of the last checkpoint."),
        ] = None,
    ) -> InclusionProof:
        """The event's bytes as they were hashed, and the hashes that lead from them to the root."""
        return await proofs.of_event(caller.scope, ids.decode("evt", event_id), size)


def _types(given: list[str] | None) -> frozenset[str]:
    types = frozenset(name.strip() for text in given or () for name in text.split(","))
    if len(types) > TYPES_MAX or not all(_TYPE.fullmatch(name) for name in types):
        message = f"type takes up to {TYPES_MAX} names such as payment.captured."
        raise InvalidRequest(message, errors=[{"path": "type", "message": message}])
    return types
