"""Days as people type them into filters, in their own zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from clearspan.platform.problems import InvalidRequest
from clearspan_admin import web
from clearspan_admin.web import Http


def zone_of(request: Http) -> ZoneInfo:
    """The zone of whoever looks."""
    return ZoneInfo(web.who(request).operator.timezone)


def moment(text: str, zone: ZoneInfo, *, whole: bool = False) -> datetime | None:
    """The beginning of a day or a moment; of ``whole`` the end of the day or minute. An aware UTC moment; ``None`` for nothing.

    Raises:
        InvalidRequest: it is no day.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        if whole:
            found += timedelta(days=1) if len(text) <= len("2026-01-01") else timedelta(minutes=1)
        # The day is counted on the wall clock, so that one of 23 or 25 hours is a day too.
        return (found if found.tzinfo is not None else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = "Give a day, such as 2026-11-23."
        raise InvalidRequest(message, errors=[{"path": "day", "message": message}]) from None
