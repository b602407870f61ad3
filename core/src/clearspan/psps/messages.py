"""What is kept of a PSP's message: its events as the adapter read them, and its bytes, without card numbers. No I/O.

What an adapter reads is met here as strictly as what it answers to a call: a wrong type is the adapter's bug and
nothing of the message is believed; a reference that cannot be stored or found again makes the message unreadable.
References and event ids stay as they are, as in ``psps.calls``: a PSP may count its operations in 16 digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Meta

from clearspan.platform.pan import find_pan, find_pan_in_text, mask_pan, mask_pans_in
from clearspan.psps.calls import _masked as masked
from clearspan.psps.calls import _reference as reference
from clearspan.psps.calls import _text as text
from clearspan.sdk import DisputeNews, Hint, News, OperationNews, OutcomeUnknown, WebhookEvent

EVENTS_MAX = 500
"""Events in one message; more is a PSP that nobody has met yet."""
WITHHELD = b"[withheld: card data]"
_REFERENCES = frozenset({"reference", "psp_ref", "charge_ref", "dispute_ref"})
_KEY_MAX = 200
_NOTE_MAX = 500
_TEXT_MAX = 8_000

_NEWS = msgspec.json.Decoder(News)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One event, ready for the inbox.

    Attributes:
        event_key: the same whenever the PSP sends it again.
        type: the PSP's word.
        state: ``received``, ``ignored`` or ``needs_attention``.
        news: as ``read_news`` takes it, or ``None``.
        sequence: the PSP's own order.
        note: why it needs attention.
    """

    event_key: str
    type: str
    state: str
    news: msgspec.Raw | None = None
    sequence: int | None = None
    note: str | None = None


class _Envelope(msgspec.Struct, frozen=True):
    event_id: str
    type: str
    sequence: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None


def kept(events: Sequence[WebhookEvent], body: bytes, *, signed: bool) -> list[Kept]:
    """The events of a message that an adapter has verified; of an unsigned one only hints are left.

    Raises:
        OutcomeUnknown: a reference cannot be kept, or there are too many events.
        msgspec.MsgspecError, TypeError, AttributeError: the adapter handed over something else than events.
    """
    if len(events) > EVENTS_MAX:
        raise OutcomeUnknown(f"{len(events)} events in one message")
    found: list[Kept] = []
    keys: set[str] = set()
    for index, event in enumerate(events):
        given = {"event_id": event.event_id, "type": event.type, "sequence": event.sequence}
        envelope = msgspec.convert(given, _Envelope)
        key = _event_key(envelope.event_id, body, index)
        if key in keys:  # Two events under one id would be one, and the second lost.
            key = _event_key("", body, index)
        keys.add(key)
        news = None
        if event.news is not None:
            news = msgspec.Raw(msgspec.json.encode(_clean(event.news if signed else _hint(event.news))))
            _NEWS.decode(news)
        found.append(
            Kept(
                event_key=key,
                type=_words(envelope.type, _KEY_MAX) or "unknown",
                state="ignored" if news is None else "received",
                news=news,
                sequence=envelope.sequence,
            )
        )
    # A message that says nothing is kept too: there is no 200 without a row.
    return found or [Kept(event_key=_event_key("", body, 0), type="empty", state="ignored")]


def unreadable(body: bytes, error: OutcomeUnknown) -> Kept:
    """A signed message that the adapter cannot read, for a human."""
    note = _words(str(error), _NOTE_MAX) or "the adapter does not say why"
    # Not the key that it will have when a newer adapter reads it.
    key = f"unreadable:{hashlib.sha256(body).hexdigest()}"
    return Kept(event_key=key, type="unreadable", state="needs_attention", note=note)


def read_news(news: bytes | msgspec.Raw) -> News:
    """What ``kept`` wrote."""
    found: News = _NEWS.decode(news)
    return found


def masked_body(body: bytes, content_type: str) -> bytes:
    """The message without card numbers and security codes: the same bytes when it holds none."""
    form = "form" in content_type
    content = "form" if form else "json"
    if find_pan(body, content=content) is None:
        return body
    readings = (_masked_form(body) if form else _masked_json(body), mask_pan(body.decode("utf-8", "replace")).encode())
    return next((one for one in readings if one is not None and find_pan(one, content=content) is None), WITHHELD)


def _masked_json(body: bytes) -> bytes | None:
    try:
        return json.dumps(mask_pans_in(json.loads(body)), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return None


def _masked_form(body: bytes) -> bytes | None:
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return urlencode([pair for name, value in pairs for pair in _masked_pair(name, value)]).encode()


def _masked_pair(name: str, value: str) -> list[tuple[str, Any]]:
    hidden = mask_pans_in({name: value})
    assert isinstance(hidden, dict)
    return list(hidden.items())


def _event_key(event_id: str, body: bytes, index: int) -> str:
    if not event_id:
        return f"{hashlib.sha256(body).hexdigest()}:{index}"
    if len(event_id) > _KEY_MAX or "\0" in event_id or find_pan_in_text(event_id):
        return f"id:{hashlib.sha256(event_id.encode('utf-8', 'replace')).hexdigest()}"
    return event_id.encode("utf-8", "replace").decode()


def _hint(news: News) -> Hint:
    match news:
        case Hint():
            return news
        case OperationNews():
            return Hint(kind=news.kind, reference=news.reference, psp_ref=news.psp_ref)
        case DisputeNews():
            return Hint(kind="charge", reference=news.reference, psp_ref=news.charge_ref)


def _clean(value: Any, name: str = "") -> Any:
    """What the database can store of an adapter's structs, with the words for people masked and bounded."""
    match value:
        case msgspec.Struct():
            config = value.__struct_config__
            fields = {
                field: _clean(one, field) for field, one in msgspec.structs.asdict(value).items() if one is not None
            }
            return fields | ({config.tag_field: config.tag} if config.tag_field is not None else {})
        case Mapping() if name == "raw":
            return masked(value)
        case Mapping():
            return {_clean(key): _clean(one) for key, one in value.items()}
        case str() if name in _REFERENCES:
            return reference(value)
        case str():
            return _words(value, _TEXT_MAX)
        case _:
            return value


def _words(said: str, longest: int) -> str:
    return (text(said, longest) or "").encode("utf-8", "replace").decode()
