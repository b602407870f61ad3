"""The audit trail: who did what to what, when; what differs; and the proof that nothing of it was changed."""

from __future__ import annotations

import contextlib
from datetime import datetime
from importlib import resources
from typing import Any, Final
from urllib.parse import quote

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.access.errors import OperatorChanged
from clearspan.access.operators import Operators
from clearspan.access.service import ApiKeys
from clearspan.access.sessions import Operator
from clearspan.journal.checking import Trail
from clearspan.journal.errors import NotSealedYet
from clearspan.journal.proofs import Proofs
from clearspan.journal.schemas import SUBJECTS, AuditEntry
from clearspan.journal.service import AuditQuery
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.problems import InvalidRequest
from clearspan_admin import days, telling, web
from clearspan_admin.web import Http
from clearspan_admin.words import mark

PAGE: Final = 50
FIELDS: Final = ("customer", "actor", "subject", "subject_type", "type", "request_id", "after", "before")
TEXT_MAX: Final = 200
HELD: Final = "audit_checkpoint"
"""Under which preference a person's last checkpoint is kept."""
LINKS: Final = {
    "pay": "/payments/",
    "re": "/audit?subject=",
    "cus": "/customers/",
    "sub": "/subscriptions/",
    "inv": "/invoices/",
    "dp": "/disputes/",
    "bulk": "/work/runs/",
}
TROUBLES: Final = {
    "signature": mark("The last checkpoint was not signed by this installation's key."),
    "place": mark("The last checkpoint was renumbered, or its time was changed."),
    "shorter": mark("The tree has fewer entries than the checkpoint says were signed: entries were cut off."),
    "root": mark("The stored tree is not the one that was signed."),
    "held_signature": mark(
        "The checkpoint that you saw last was not signed by the present key: the key was changed, or your note of it was."
    ),
    "held_shorter": mark("You have seen a checkpoint of a longer tree: entries were cut off since."),
    "held_differs": mark(
        "The tree does not begin with the tree of the checkpoint that you saw last: the past was rewritten."
    ),
    "row_changed": mark("An entry is not what was sealed: it was changed."),
    "row_missing": mark("An entry that was sealed is gone: it was deleted."),
    "row_inserted": mark("An entry was put in below what is sealed."),
}


class AuditController(Controller):
    """``/admin/audit``."""

    path = "/audit"

    @get("/", opt={"scope": "audit:read", "session": True})
    async def search(
        self,
        request: Http,
        trail: NamedDependency[Trail],
        operators: NamedDependency[Operators],
        api_keys: NamedDependency[ApiKeys],
        proofs: NamedDependency[Proofs],
    ) -> Response[bytes]:
        """Search it, newest first."""
        given = {name: request.query_params.get(name, "").strip()[:TEXT_MAX] for name in FIELDS}
        scope, live = _scope(request)
        zone = days.zone_of(request)
        error, entries, following = "", list[dict[str, Any]](), None
        try:
            query = AuditQuery(
                **{name: given[name] or None for name in FIELDS if name not in ("after", "before")},
                created_after=days.moment(given["after"], zone),
                created_before=days.moment(given["before"], zone, whole=True),
            )
            found = await trail.search(scope, query, limit=PAGE, cursor=request.query_params.get("cursor") or None)
            names = await _names(scope, operators, api_keys)
            entries = [_shown(entry, names) for entry in found.data]
            following = found.next_cursor
        except (InvalidRequest, ids.InvalidId) as refused:
            error = refused.detail
        state = await proofs.state()
        own: dict[str, str] = {name: value for name, value in given.items() if value}
        mode = {"mode": "live" if live else "test"} if live != web.who(request).session.live else {}
        return web.page(
            request,
            "audit/audit.html",
            status=422 if error else 200,
            entries=entries,
            given=given,
            error=error,
            live=live,
            subjects=sorted(SUBJECTS),
            kinds=telling.KINDS,
            types=telling.TYPES,
            checkpoint=state.checkpoint,
            unsealed_at=state.unsealed_at,
            filtered=bool(own),
            mode_query=own,
            next_href=web.url(request, "/audit", cursor=following, **own, **mode) if following else "",
            first_href=web.url(request, "/audit", **own, **mode) if request.query_params.get("cursor") else "",
        )

    @get("/entries/{event_id:str}", opt={"scope": "audit:read", "session": True})
    async def entry(
        self,
        request: Http,
        event_id: FromPath[str],
        operators: NamedDependency[Operators],
        api_keys: NamedDependency[ApiKeys],
        trail: NamedDependency[Trail],
    ) -> Response[bytes]:
        """One entry, with its proof."""
        scope, live = _scope(request)
        found = await trail.find(scope, ids.decode("evt", event_id))
        names = await _names(scope, operators, api_keys)
        proof, holds = None, False
        with contextlib.suppress(NotSealedYet):
            proof, holds = await trail.proof(scope, ids.decode("evt", event_id))
        return web.page(
            request,
            "audit/entry.html",
            one=_shown(found, names),
            proof=proof,
            holds=holds,
            live=live,
            event_id=event_id,
        )

    @get("/entries/{event_id:str}/proof.jsonl", opt={"scope": "audit:read", "session": True})
    async def download(self, request: Http, event_id: FromPath[str], trail: NamedDependency[Trail]) -> Response[bytes]:
        """The proof of one entry, as the offline verifier takes it."""
        scope, _ = _scope(request)
        text = await trail.export(scope, ids.decode("evt", event_id), _held(web.who(request).operator))
        return _file(text, f"{event_id}.jsonl", "application/jsonl")

    @get("/checkpoint.txt", opt={"scope": "audit:read", "session": True})
    async def checkpoint(self, proofs: NamedDependency[Proofs]) -> Response[bytes]:
        """The last checkpoint, to be kept outside."""
        found = await proofs.latest()
        return _file(found.note, f"checkpoint-{found.size}.txt", "text/plain")

    @get("/verifier.py", opt={"scope": "audit:read", "session": True})
    async def verifier(self) -> Response[bytes]:
        """The offline verifier: one file that needs nothing but Python."""
        text = resources.files("clearspan.journal").joinpath("verifier.py").read_text("utf-8")
        return _file(text, "verifier.py", "text/x-python")

    @post("/verify", opt={"scope": "audit:read", "session": True}, status_code=200)
    async def verify(
        self,
        request: Http,
        trail: NamedDependency[Trail],
        operators: NamedDependency[Operators],
    ) -> Response[bytes]:
        """Check signature, tree and rows now. Nothing is changed but the note of what this person saw."""
        form = await web.form_of(request)
        scope, live = _scope(request, form.text("mode"))
        operator = web.who(request).operator
        held = _held(operator)
        check = await trail.check(scope, held=held, after=form.text("next"))
        if check.checkpoint is not None and not check.troubles:
            await _hold(operators, operator, check.checkpoint.note)
        words = [(trouble, TROUBLES.get(trouble.kind, trouble.kind)) for trouble in check.troubles]
        return web.page(
            request,
            "audit/verify.html",
            check=check,
            troubles=words,
            live=live,
            behind=_lag(check.at, check.unsealed_at, check.behind_at),
            signature=check.checkpoint.note.rstrip("\n").rpartition(" ")[2] if check.checkpoint else "",
        )


async def _names(scope: Scope, operators: Operators, api_keys: ApiKeys) -> dict[str, str]:
    """Public id to name, of people and keys; the journal has ids only."""
    people = {one.public_id: one.name for one in await operators.members(scope)}
    keys = await api_keys.list(scope, 100, None)
    return people | {key.id: key.name for key in keys.data}


def _shown(entry: AuditEntry, names: dict[str, str]) -> dict[str, Any]:
    """An entry for a page."""
    prefix = entry.subject.id.rpartition("_")[0]
    differs = telling.diff(entry.data)
    return {
        "entry": entry,
        "phrase": telling.phrase(entry.type),
        "who": names.get(entry.actor.id, ""),
        "link": f"{LINKS[prefix]}{entry.subject.id}" if prefix in LINKS else "",
        "subject": names.get(entry.subject.id, ""),
        "diff": differs,
        "changed": [name for name in telling.named(entry.data) if name not in {one.name for one in differs}],
        "raw": msgspec.json.format(msgspec.json.encode(entry.data), indent=2).decode(),
    }


def _scope(request: Http, asked: str = "") -> tuple[Scope, bool]:
    """The tenant in the mode that is asked for; people's events are in live mode, and may be read from either."""
    scope = web.caller_of(request).scope
    mode = asked or request.query_params.get("mode", "")
    live = {"live": True, "test": False}.get(mode, scope.live)
    return Scope(tenant_id=scope.tenant_id, live=live), live


def _held(operator: Operator) -> str:
    note = operator.preferences.get(HELD, "")
    return note if isinstance(note, str) else ""


async def _hold(operators: Operators, operator: Operator, note: str) -> None:
    """Remember what this person saw; when something else of theirs was changed at this moment, once more."""
    if _held(operator) == note:
        return
    for _ in range(2):
        try:
            await operators.change(operator, preferences={**operator.preferences, HELD: note})
        except OperatorChanged:
            operator = await operators.get(operator.operator_id)
        else:
            return


def _lag(at: datetime, *moments: datetime | None) -> int:
    """How many seconds ago the oldest event happened that no checkpoint covers."""
    return max([0, *(round((at - moment).total_seconds()) for moment in moments if moment is not None)])


def _file(text: str, name: str, kind: str) -> Response[bytes]:
    return Response(
        text.encode(),
        media_type=f"{kind}; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{quote(name)}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )
