"""Moments that a caller named: with a time zone, and turned into UTC before anything else sees them.

PostgreSQL takes no offset of sixteen hours or more and Python none that leaves the years 1 to 9999, so a moment is made
UTC here, once, and what cannot be is the caller's error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from clearspan.platform.problems import InvalidRequest

__all__ = ["in_utc"]


@overload
def in_utc(name: str, moment: datetime) -> datetime: ...
@overload
def in_utc(name: str, moment: datetime | None) -> datetime | None: ...
def in_utc(name: str, moment: datetime | None) -> datetime | None:
    """The same moment in UTC; None stays None.

    Args:
        name: what the caller calls it, for the problem's text and path.
        moment: as it was given.

    Raises:
        InvalidRequest: it has no time zone, or lies outside the years 1 to 9999 in UTC.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise _refused(name, f"{name} needs a time zone, such as 2030-01-01T00:00:00Z.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise _refused(name, f"{name} is no moment between the years 1 and 9999 in UTC.") from None


def _refused(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, errors=[{"path": name, "message": message}])
