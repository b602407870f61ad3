"""Reading what the simulator says, answers and messages. Source: ``Operation``, ``Dispute`` and the docstring of ``webhooks``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_sandbox.bank import Operation
from clearspan_psp_sandbox.disputes import Dispute
from clearspan_psp_sandbox.refusals import BROKEN_RULES, REFUSALS

Kind = TypeVar("Kind")


class Event(msgspec.Struct):
    """The envelope of a message."""

    id: str
    type: str
    account: str
    sequence: int
    data: dict[str, Any]


class Page(msgspec.Struct):
    """A piece of a list; ``next`` is the cursor of the next one."""

    operations: list[dict[str, Any]]
    next: str | None = None


def read(raw: object, kind: type[Kind]) -> Kind:
    """As documented.

    Raises:
        OutcomeUnknown: it is not.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise sdk.OutcomeUnknown(f"the answer is not as documented: {error}") from error


def error_code(raw: Mapping[str, Any]) -> str:
    """Of a refusal; empty when it is none."""
    return str(raw["error"].get("code", "none")) if isinstance(raw.get("error"), dict) else ""


class Asked(NamedTuple):
    """What an answer must be about.

    Attributes:
        charge: id of the charge that it belongs to, when that is known.
        looked_up: nothing was asked of the simulator but what it knows.
    """

    account: str
    kind: str
    reference: str
    charge: str | None
    looked_up: bool


def outcome(raw: Mapping[str, Any], asked: Asked, pages: str) -> sdk.Outcome:
    """What an answer means; ``pages`` is where payers reach the simulator.

    Raises:
        OutcomeUnknown: it is not clear, or about something else.
    """
    if error := error_code(raw):
        if error in BROKEN_RULES:
            return sdk.Declined(code=BROKEN_RULES[error], raw_code=error, raw=raw)
        raise sdk.OutcomeUnknown(f"sent, the simulator answered {error}")
    found = read(raw, Operation)
    belongs = found.charge in (None, asked.charge) or asked.charge is None
    if not belongs or (found.account, found.kind, found.reference) != (asked.account, asked.kind, asked.reference):
        raise sdk.OutcomeUnknown("the answer belongs to another operation")
    if REFUSALS.get(found.code or "") == "duplicate" and not asked.looked_up:
        raise sdk.OutcomeUnknown("the simulator suspects a duplicate: look the operation up")
    return _state(found, raw, pages)


def event(body: bytes) -> Event:
    """A message whose signature is good.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    try:
        return msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise sdk.OutcomeUnknown(f"the message is not as documented: {error}") from error


def news(raw: dict[str, Any], account: str, pages: str) -> sdk.News:
    """What a message says.

    Raises:
        OutcomeUnknown: it is not as documented, or about another account's operation.
    """
    return (
        _dispute_news(raw, account) if raw.get("kind") in ("dispute", "return") else operation_news(raw, account, pages)
    )


def operation_news(raw: dict[str, Any], account: str, pages: str) -> sdk.OperationNews:
    """What a list or a message says about an operation.

    Raises:
        OutcomeUnknown: it is not as documented, or another account's.
    """
    found = read(raw, Operation)
    if found.account != account:
        raise sdk.OutcomeUnknown("the operation belongs to another account")
    return sdk.OperationNews(
        kind=found.kind,
        outcome=_state(found, raw, pages),
        reference=found.reference,
        psp_ref=found.id,
        charge_ref=found.charge,
        amount=sdk.Money(found.amount, found.currency),
        capture=(found.capture is not False) if found.kind == "charge" else None,
        at=found.created_at,
        metadata=found.metadata,
    )


def _authentication(found: Operation) -> sdk.Authentication | None:
    if found.three_ds is None or found.three_ds.result != "authenticated":
        return None
    return sdk.Authentication(
        challenged=found.three_ds.flow == "challenge",
        version=found.three_ds.version,
        eci=found.eci,
        ds_transaction_id=found.ds_transaction_id,
    )


def _dispute_news(raw: dict[str, Any], account: str) -> sdk.DisputeNews:
    found = read(raw, Dispute)
    if found.account != account:
        raise sdk.OutcomeUnknown("the dispute belongs to another account")
    return sdk.DisputeNews(
        dispute_ref=found.id,
        status=sdk.DisputeStatus(found.status),
        amount=sdk.Money(found.amount, found.currency),
        charge_ref=found.charge,
        reference=found.reference,
        reason=found.reason,
        network_code=found.network_code,
        evidence_due_at=found.evidence_due_at,
        raw=raw,
    )


def _state(found: Operation, raw: Mapping[str, Any], pages: str) -> sdk.Outcome:
    """How an operation stands."""
    # An authorisation that lapsed took effect first; what never was one ran out of time at the challenge.
    lapsed = found.status == "expired" and found.network_transaction_id is not None
    if found.status == "succeeded" or lapsed:
        fee = sdk.Money(found.fee, found.currency) if found.fee else None
        return sdk.Approved(
            psp_ref=found.id,
            amount=sdk.Money(found.amount, found.currency),
            network_transaction_id=found.network_transaction_id,
            fee=fee,
            authentication=_authentication(found),
            raw=raw,
        )
    if found.status == "pending":
        return sdk.Pending(psp_ref=found.id, raw=raw)
    if found.status == "requires_action":
        page = sdk.RedirectAction(pages + (found.challenge_path or ""))
        return sdk.ActionRequired(psp_ref=found.id, action=page, raw=raw)
    words = {"advice": found.advice, "network_code": found.network_code, "message": found.message}
    code = REFUSALS.get(found.code or "", "unmapped")
    return sdk.Declined(code=code, raw_code=found.code or "", psp_ref=found.id, raw=raw, **words)
