"""Answers whose bytes are already made (idempotent calls), and the documentation of refusals."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from clearspan.platform.gate import PanDetected
from clearspan.platform.idempotency import Answer, KeyExpired, KeyInFlight, KeyMalformed, KeyMissing, KeyReused
from clearspan.platform.problems import (
    BodyTooLarge,
    DatabaseUnavailable,
    DomainError,
    Forbidden,
    InvalidRequest,
    MalformedBody,
    Unauthorized,
)


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


def problems(*kinds: type[DomainError], money: type[msgspec.Struct] | None = None) -> dict[int, ResponseSpec]:
    """OpenAPI responses for refusals, with those every route shares.

    Args:
        kinds: what this route can refuse.
        money: the answer of a route that can move money: it requires an idempotency key, and answers 202 while the outcome
            is open.
    """
    shared: list[type[DomainError]] = [Unauthorized, Forbidden, InvalidRequest, MalformedBody, PanDetected]
    shared += [BodyTooLarge, DatabaseUnavailable]
    accepted: dict[int, ResponseSpec] = {}
    if money is not None:
        shared += [KeyMissing, KeyMalformed, KeyReused, KeyExpired, KeyInFlight]
        said = "The outcome is not known yet; the events tell it. Nothing more is sent under this key."
        accepted[202] = ResponseSpec(money, generate_examples=False, description=said)
    by_status: dict[int, list[type[DomainError]]] = {}
    for kind in [*kinds, *shared]:
        by_status.setdefault(kind.status, []).append(kind)
    return accepted | {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            media_type="application/problem+json",
            description="; ".join(f"`{kind.code}`: {kind.title}" for kind in found),
        )
        for status, found in sorted(by_status.items())
    }
