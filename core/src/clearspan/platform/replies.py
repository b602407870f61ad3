"""Answers whose bytes are already made (idempotent calls), and the documentation of refusals."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from clearspan.platform.idempotency import Answer, KeyInFlight, KeyMissing, KeyReused
from clearspan.platform.problems import DomainError, Forbidden, InvalidRequest, MalformedBody, Unauthorized


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details (RFC 9457)."""

    type: Annotated[str, Meta(examples=["urn:clearspan:problem:amount_above_capturable"])]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What happened and what to do.")]
    code: Annotated[str, Meta(description="Stable; see docs/errors.md.")]
    request_id: str


def reply(answer: Answer) -> Response[Any]:
    """Send the exact bytes of an answer."""
    return Response(answer.body, status_code=answer.status, media_type="application/json")


def problems(*kinds: type[DomainError], money: bool = False) -> dict[int, ResponseSpec]:
    """OpenAPI responses for refusals, with those every route shares.

    Args:
        kinds: what this route can refuse.
        money: the route requires an idempotency key.
    """
    shared: list[type[DomainError]] = [Unauthorized, Forbidden, InvalidRequest, MalformedBody]
    if money:
        shared += [KeyMissing, KeyReused, KeyInFlight]
    by_status: dict[int, list[type[DomainError]]] = {}
    for kind in [*kinds, *shared]:
        by_status.setdefault(kind.status, []).append(kind)
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            media_type="application/problem+json",
            description="; ".join(f"`{kind.code}`: {kind.title}" for kind in found),
        )
        for status, found in sorted(by_status.items())
    }
