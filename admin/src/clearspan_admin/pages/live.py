"""The live stream of the cockpit: payments as rows of a table, as they change.

The same tailer, order and promises as ``/v1/events/stream`` (``clearspan.journal.feed``): each event's id is told, and whoever
names the last one goes on from there without a gap. A row is rendered once per tenant, mode, locale and zone, for everybody who
looks; it shows the payment as it is now, so of several events of one payment in a batch only the last carries it.

``id`` is the event; ``event`` is ``payment`` with the row as ``data``, or ``change`` with the event's type for all else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.response import Stream

from clearspan.access.errors import NoTenant
from clearspan.access.guard import lacks_second_factor
from clearspan.access.sessions import Sessions
from clearspan.journal.feed import Feed, Told
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.problems import Forbidden, Unauthorized
from clearspan.reports.service import Reports
from clearspan.settings import Settings
from clearspan_admin import web
from clearspan_admin.pages.home import START, same_place
from clearspan_admin.web import Http

SCOPE: Final = "payments:read"
_LINE_END = re.compile(r"\r\n|\r|\n")


class LiveController(Controller):
    """``/admin/live``."""

    @get(
        "/live",
        opt={"scope": SCOPE, "session": True, "quiet": True, "stream": True},
        media_type="text/event-stream",
    )
    async def stream(
        self,
        request: Http,
        feed: NamedDependency[Feed],
        reports: NamedDependency[Reports],
        sessions: NamedDependency[Sessions],
        settings: NamedDependency[Settings],
    ) -> Stream:
        """Server-sent events after the event ``after`` (the header ``Last-Event-ID`` wins), then as they happen.

        The session is asked for again at least every 45 seconds and as soon as this process ends it; the stream ends with it, and
        when the person switches to another tenant or mode. Following a stream does not keep an idle session open.
        """
        same_place(request)
        signed, caller = web.who(request), web.caller_of(request)
        token = request.cookies.get(sessions.cookie, "")

        async def recheck() -> None:
            try:
                found = await sessions.find(token, touch=False)
            except NoTenant:
                raise Forbidden from None
            if found is None:
                raise Unauthorized
            if SCOPE not in found.scopes or lacks_second_factor(found) or found.caller("").scope != caller.scope:
                raise Forbidden

        after = request.headers.get("last-event-id") or request.query_params.get("after") or ""
        rows = PaymentRows(signed.operator.locale, signed.operator.timezone, web.root(request), reports)
        body = await feed.stream(
            caller,
            after if after != START else None,
            (),
            recheck,
            form=rows,
            from_start=after == START,
            streams_max=settings.server.sse_streams_per_person_max,
        )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(body, media_type="text/event-stream", headers=headers)


@dataclass(frozen=True)
class PaymentRows:
    """See ``Format``. Equal for all who read the same language in the same zone.

    Attributes:
        locale, zone: how amounts and moments are written.
        root: where links begin.
        reports: gives the rows.
    """

    locale: str
    zone: str
    root: str
    reports: Reports = field(compare=False, repr=False)

    async def frames(self, scope: Scope, entries: Sequence[Told]) -> list[bytes]:
        """One frame per event."""
        subjects = [_payment_of(entry) for entry in entries]
        last = {subject: index for index, subject in enumerate(subjects) if subject is not None}
        rows = await self.reports.rows(scope, list(last))
        macros = web.macros("home/rows.html", locale=self.locale, zone=self.zone, root=self.root) if rows else None
        told: list[bytes] = []
        for index, (entry, subject) in enumerate(zip(entries, subjects, strict=True)):
            row = rows.get(subject) if subject is not None and last[subject] == index else None
            if row is not None and macros is not None:
                told.append(_frame(entry.event_id, "payment", str(macros.row(row))))
            elif subject is not None and subject in rows:
                told.append(f"id: {ids.encode('evt', entry.event_id)}\n\n".encode())
            else:
                told.append(_frame(entry.event_id, "change", entry.type))
        return told


def _payment_of(entry: Told) -> UUID | None:
    """The payment that an event changed: its own, or that of its refund, dispute or operation."""
    if entry.subject_type == "payment":
        return entry.subject_id
    given = entry.data.get("payment_id")
    try:
        return UUID(given) if isinstance(given, str) else None
    except ValueError:
        return None


def _frame(event_id: UUID, kind: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(data))
    return f"id: {ids.encode('evt', event_id)}\nevent: {kind}\n{lines}\n".encode()
