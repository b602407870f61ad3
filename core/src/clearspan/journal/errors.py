"""What a reader of the journal can put right."""

from __future__ import annotations

from clearspan.platform.problems import DomainError, NotFound


class CursorUnknown(DomainError):
    """The event to go on from is not one of this tenant in this mode."""

    code = "event_cursor_unknown"
    status = 422
    title = "There is no such event to go on from"
    advice = "Send the id of an event that a key of this tenant and mode received; or none, to read from the beginning."


class EventNotFound(NotFound):
    """No such event."""

    code = "event_not_found"
    status = 404
    title = "No such event"


class TooManyStreams(DomainError):
    """This process, or this key, holds as many streams as it may."""

    code = "too_many_streams"
    status = 429
    title = "Too many open streams"

    def __init__(self, detail: str = "", **fields: object) -> None:
        super().__init__(detail, **({"retry_after_s": 5} | fields))


class StreamsClosed(DomainError):
    """The process is stopping."""

    code = "streams_closed"
    status = 503
    title = "The server is stopping"
    advice = "Open the stream again with the same Last-Event-ID; another process serves it."

    def __init__(self, detail: str = "", **fields: object) -> None:
        super().__init__(detail, **({"retry_after_s": 1} | fields))
