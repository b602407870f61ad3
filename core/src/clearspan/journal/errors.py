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


class CheckpointNotFound(NotFound):
    """Nothing was signed yet."""

    code = "checkpoint_not_found"
    status = 404
    title = "There is no checkpoint yet"
    advice = "The worker signs one every audit.checkpoint_interval_s while events come in: ask again, and check that one runs."


class NotSealedYet(DomainError):
    """The event is younger than the tree it is asked for in."""

    code = "event_not_sealed_yet"
    status = 409
    title = "The event is not in that tree yet"
    advice = "Ask again after the next checkpoint, within about audit.checkpoint_interval_s, or for a larger size."

    def __init__(self, detail: str = "", **fields: object) -> None:
        super().__init__(detail, **({"retry_after_s": 10} | fields))


class TreeSizeUnknown(DomainError):
    """The tree never had that many entries."""

    code = "tree_size_unknown"
    status = 422
    title = "The tree has no such size"
