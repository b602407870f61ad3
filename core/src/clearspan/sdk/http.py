"""Sending a request so that "not sent" and "unknown" are never confused.

httpx is the only HTTP client a plugin sees; the core builds it (pool per PSP account, time budget, tracing).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from clearspan.sdk.errors import OutcomeUnknown, PspMisconfigured, PspUnavailable

ANSWER_MAX_BYTES = 1_000_000
"""A PSP's answer larger than this is unreadable: the outcome is unknown."""


class Answer(msgspec.Struct, frozen=True):
    """A readable answer: JSON, below 500, not 401/403.

    Attributes:
        status: the HTTP status, 200 to 499.
        body: the decoded JSON object; empty after 204, and after a 202 that says no more than that.
        headers: by name in lower case.
    """

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one that names a key twice says two things at once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _not_json(word: str) -> Any:
    raise ValueError(f"{word} is no number")


async def send(http: httpx.AsyncClient, request: httpx.Request) -> Answer:
    """Send once and return the answer, or raise what its absence means.

    Raises:
        PspUnavailable: the connection could not be made, so not a byte of the request was written.
        OutcomeUnknown: timeout, reset, 408, 409, 425, 429 or 5xx, an answer over 1 MB, or one that is not a JSON object.
        PspMisconfigured: 401 or 403.
    """
    body = bytearray()
    try:
        response = await http.send(request, stream=True)
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise OutcomeUnknown(f"the answer is larger than {ANSWER_MAX_BYTES} bytes")
        finally:
            await response.aclose()
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        raise PspUnavailable(f"not sent: {type(error).__name__}") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise OutcomeUnknown(f"sent, no clear answer: {type(error).__name__}") from error
    if response.status_code in (401, 403):
        raise PspMisconfigured(f"the PSP answered {response.status_code}: check the account's credentials")
    if response.status_code in (408, 409, 425, 429) or response.status_code >= 500 or response.status_code < 200:
        raise OutcomeUnknown(
            f"sent, the PSP answered {response.status_code}", retry_after_s=retry_after_s(response.headers)
        )
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status_code == 204 or (response.status_code == 202 and not body):
        return Answer(response.status_code, {}, headers)
    try:
        decoded = json.loads(body.decode(), object_pairs_hook=_unambiguous, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise OutcomeUnknown(f"sent, the answer is not JSON: {type(error).__name__}") from error
    if not isinstance(decoded, dict):
        raise OutcomeUnknown("sent, the answer is not a JSON object")
    return Answer(response.status_code, decoded, headers)


def retry_after_s(headers: httpx.Headers) -> float | None:
    """The seconds of ``Retry-After`` (RFC 9110, 10.2.3), 0 or more; a date there is measured from the answer's own ``Date``."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        span = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, span.total_seconds())
