"""What a caller can put right, as RFC 9457 problem details.

Every refusal is a ``DomainError`` subclass with a stable ``code``; ``docs/errors.md`` is generated from them.
Services raise them and know no HTTP beyond the status; ``clearspan.app`` turns them into answers. The ``type`` of a
problem is a URN of its code, so that nothing has to be reachable to tell two problems apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class DomainError(Exception):
    """A refusal with a stable code.

    Args:
        detail: what happened and what to do; never a secret or a card number.
        fields: members added to the problem document.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    advice: ClassVar[str] = ""
    """What to do, when the raiser gives no detail; also shown in docs/errors.md."""

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail or self.advice or self.title)
        self.detail = detail or self.advice or self.title
        self.fields = fields

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "type": f"urn:clearspan:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        } | self.fields

    def headers(self) -> dict[str, str]:
        """Headers of the answer: ``Retry-After`` when a field says when."""
        return {"Retry-After": str(self.fields["retry_after_s"])} if "retry_after_s" in self.fields else {}


def catalogue() -> Iterator[type[DomainError]]:
    """All refusals that have a code, each once, in the order of their codes."""
    seen: dict[str, type[DomainError]] = {}
    stack = list(DomainError.__subclasses__())
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        if "code" in vars(kind):
            other = seen.setdefault(kind.code, kind)
            assert other is kind, f"two errors claim the code {kind.code}"
    return iter(sorted(seen.values(), key=lambda kind: kind.code))


def from_refusal(code: str, fields: dict[str, Any]) -> DomainError:
    """The error for a refusal raised in SQL (SQLSTATE CS001)."""
    if code not in _BY_CODE:  # Modules are imported as they are needed.
        _BY_CODE.update((kind.code, kind) for kind in catalogue())
    assert code in _BY_CODE, f"the database refused with {code}, which no error class names"
    return _BY_CODE[code](**fields)


_BY_CODE: dict[str, type[DomainError]] = {}


class Unauthorized(DomainError):
    """No valid API key."""

    code = "api_key_invalid"
    status = 401
    title = "The API key is missing, wrong, expired or revoked"
    advice = "Send 'Authorization: Bearer csk_test_...' with a key made by 'clearspan key create'."

    def headers(self) -> dict[str, str]:
        """RFC 9110: a 401 names its scheme."""
        return {"WWW-Authenticate": 'Bearer realm="clearspan"'}


class Forbidden(DomainError):
    """The key may not do this."""

    code = "scope_missing"
    status = 403
    title = "The API key lacks a scope"


class NotFound(DomainError):
    """No such object of this tenant in this mode."""

    code = "not_found"
    status = 404
    title = "No such object"


class InvalidRequest(DomainError):
    """The request cannot be read or a field is wrong; ``errors`` lists each with its place."""

    code = "invalid_request"
    status = 422
    title = "The request is not valid"


class MalformedBody(DomainError):
    """The body is not JSON."""

    code = "malformed_json"
    status = 400
    title = "The body is not valid JSON"


class BodyTooLarge(DomainError):
    """The body is over the limit."""

    code = "body_too_large"
    status = 413
    title = "The body is too large"


class DatabaseUnavailable(DomainError):
    """PostgreSQL cannot be reached or is overloaded; nothing was sent to a PSP."""

    code = "database_unavailable"
    status = 503
    title = "The database cannot be reached"
    advice = "Nothing was sent to a payment provider by this request. Repeat it with the same Idempotency-Key."

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail, **({"retry_after_s": 1} | fields))
