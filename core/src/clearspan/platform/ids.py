"""Public ids and deterministic ids.

Public ids are TypeIDs (https://github.com/jetify-com/typeid, specification 0.3.0): a prefix that says what it names,
and a UUID in 26 letters. The library is ``typeid-python``. Operation ids and PSP keys are *computed*, so that a
client which repeats a request after we lost its reservation (failover, restore) meets the same key at the PSP and not
a second charge.
"""

from __future__ import annotations

import base64
import hashlib
from uuid import UUID, uuid5

from typeid import TypeID
from typeid.errors import TypeIDException

from clearspan.platform.problems import DomainError


class InvalidId(DomainError):
    """The text is no id of the kind that belongs here."""

    code = "invalid_id"
    status = 404
    title = "No such object"


_LETTERS = str.maketrans("0123456789", "ghijkmnpqr")
LETTERS = "[a-kmnp-r]"
"""A character of ``letters``, as a regular expression."""


def letters(raw: bytes) -> str:
    """Hexadecimal without digits. What people send back to us in bodies, headers and addresses passes the guard against card
    numbers, to which one random hexadecimal text in a few hundred would look like one.
    """
    return raw.hex().translate(_LETTERS)


def encode(prefix: str, value: UUID) -> str:
    """``pay_01h455vb4pex5vsknk084sn02q``."""
    return str(TypeID.from_uuid(suffix=value, prefix=prefix))  # type: ignore[arg-type]  # the standard UUID works too


def encode_optional(prefix: str, value: UUID | None) -> str | None:
    """The same, or ``None``."""
    return None if value is None else encode(prefix, value)


def decode(prefix: str, text: str) -> UUID:
    """The UUID in a public id.

    Raises:
        InvalidId: it is malformed or names another kind of thing.
    """
    try:
        parsed = TypeID.from_string(text)
    except (TypeIDException, ValueError):
        raise InvalidId(f"{text[:64]!r} is not an id; one of this kind starts with '{prefix}_'.") from None
    if parsed.prefix != prefix:
        raise InvalidId(f"{text[:64]!r} is not the id of such an object; one of this kind starts with '{prefix}_'.")
    return UUID(int=parsed.uuid.int)


def operation_id(installation: UUID, tenant_id: UUID, *, live: bool, route: str, client_key: str) -> UUID:
    """The same for the same client key, on whichever machine and after whatever loss."""
    return uuid5(installation, "\n".join((str(tenant_id), "live" if live else "test", route, client_key)))


def psp_key(operation: UUID, generation: int, max_len: int) -> str:
    """The idempotency key sent to a PSP: lower-case base32 of SHA-256, cut to the PSP's maximum.

    The generation grows only when the PSP proved that the earlier key was not executed.
    """
    digest = hashlib.sha256(f"{operation}|{generation}".encode()).digest()
    return ("cs_" + base64.b32encode(digest).decode().rstrip("=").lower())[:max_len]
