"""Calling a PSP: one verb, one time budget, one observation. Nothing raised here decides about money by being raised.

Whatever an adapter returns or raises becomes an ``Observation``: what can be said about the operation now. Not to
know is ``unknown``, and so is everything that should not have happened (a wrong type, a bug in the adapter, another
amount).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import structlog

from clearspan.platform.pan import mask_pan, mask_pans_in
from clearspan.platform.telemetry import Metrics
from clearspan.sdk import (
    DECLINES,
    ActionRequired,
    Approved,
    Authentication,
    Declined,
    Money,
    NotFound,
    NotSupported,
    Outcome,
    OutcomeUnknown,
    Pending,
    PspMisconfigured,
    PspUnavailable,
)

log = structlog.get_logger("clearspan.psps")
RAW_MAX_BYTES = 16_384
_MESSAGE_MAX = 500
_REFERENCE_MAX = 500
_URL_MAX = 8_000
FAILURES = frozenset({"psp_unavailable", "psp_answer_unclear", "psp_timeout", "adapter_error"})
"""Codes of observations that say: no usable answer came."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed about an operation.

    Attributes:
        observed: the operation state it speaks for, or ``not_found`` (lookups only).
        source: ``response``, ``lookup``, ``webhook`` or ``system``.
        amount_minor, currency: what the PSP says it did.
        psp_ref: the PSP's id.
        code: normalised code or why the outcome is not known.
        raw_code, advice, network_code, message: the PSP's own words.
        network_transaction_id: for later merchant-initiated payments.
        fee_minor: what the PSP keeps, in the operation's currency.
        authenticated: whether the payer was challenged, when the PSP says so.
        authentication: how: ``challenged``, ``version``, ``eci``, ``ds_transaction_id``.
        next_action: what the payer must do.
        action_expires_at: until when.
        raw: the PSP's answer, card numbers masked, at most 16 KB.
        retry_after_s: how long the PSP asked not to be called.
        look_by: when looking again would prove something, aware UTC.
        stored_token: what the account keeps of the payment method for later charges.
    """

    observed: str
    source: str = "response"
    amount_minor: int | None = None
    currency: str | None = None
    psp_ref: str | None = None
    code: str | None = None
    raw_code: str | None = None
    advice: str | None = None
    network_code: str | None = None
    message: str | None = None
    network_transaction_id: str | None = None
    fee_minor: int | None = None
    authenticated: bool | None = None
    authentication: dict[str, Any] | None = None
    next_action: dict[str, Any] | None = None
    action_expires_at: datetime | None = None
    raw: dict[str, Any] | None = None
    retry_after_s: float | None = None
    look_by: datetime | None = None
    stored_token: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it speaks against the PSP's health. A decline, or an answer that our credentials are wrong, does not."""
        return self.code in FAILURES

    def fact(self) -> dict[str, Any]:
        """The form in which ``operation_settle`` takes it."""
        fact = {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not None and name not in ("next_action", "action_expires_at", "retry_after_s", "look_by")
        }
        fact["payload_hash"] = hashlib.sha256(msgspec.json.encode(self.raw, order="deterministic")).hexdigest()
        return fact


async def observe(
    call: Awaitable[Outcome | NotFound],
    *,
    asked: Money,
    psp: str,
    verb: str,
    timeout_s: float,
    metrics: Metrics,
    source: str = "response",
) -> Observation:
    """Await one adapter call and say what is known now. Cancellation passes through; the operation then stays submitted."""
    metrics.payments_inflight.inc()
    try:
        async with asyncio.timeout(timeout_s):
            outcome = await call
        # What an adapter fills in wrongly must be met here, not by the database after the money has moved.
        observation = msgspec.convert(msgspec.structs.asdict(read(outcome, asked, source)), Observation)
    except PspUnavailable as error:
        observation = _undecided("not_sent", "psp_unavailable", error, source)
    except PspMisconfigured as error:
        observation = _undecided("not_sent", "psp_misconfigured", error, source)
    except NotSupported as error:
        observation = _undecided("not_sent", "not_supported", error, source)
    except OutcomeUnknown as error:
        observation = _undecided("unknown", "psp_answer_unclear", error, source)
        observation = msgspec.structs.replace(observation, retry_after_s=error.retry_after_s)
    except TimeoutError as error:
        observation = _undecided("unknown", "psp_timeout", error, source)
    except Exception as error:  # A plugin's bug must end as "unknown", never as a lost or failed payment.
        log.exception("adapter raised", psp=psp, verb=verb)
        observation = _undecided("unknown", "adapter_error", error, source)
    finally:
        metrics.payments_inflight.dec()
    if observation.observed in ("unknown", "not_sent"):
        metrics.psp_call_errors.labels(psp, verb, observation.code or "").inc()
        log.warning("no clear answer", psp=psp, verb=verb, code=observation.code, said=observation.message)
    return observation


def read(outcome: Outcome | NotFound, asked: Money, source: str) -> Observation:
    """What an outcome says about an operation over ``asked``.

    Raises:
        OutcomeUnknown: it is none, or its reference cannot be kept.
    """
    raw = _masked(outcome.raw)
    match outcome:
        case Approved():
            matches = outcome.amount == asked
            return Observation(
                observed="succeeded" if matches else "unknown",
                source=source,
                amount_minor=outcome.amount.amount_minor,
                currency=outcome.amount.currency,
                psp_ref=_reference(outcome.psp_ref),
                code=None if matches else "amount_mismatch",
                message=None
                if matches
                else f"asked for {asked}, the PSP says {outcome.amount.amount_minor} {outcome.amount.currency}",
                network_transaction_id=_text(outcome.network_transaction_id),
                fee_minor=outcome.fee.amount_minor if outcome.fee and outcome.fee.currency == asked.currency else None,
                authenticated=outcome.authentication.challenged if outcome.authentication else None,
                authentication=_authentication(outcome.authentication),
                stored_token=_reference(outcome.stored_token) if outcome.stored_token else None,
                raw=raw,
            )
        case Declined():
            return Observation(
                observed="declined",
                source=source,
                psp_ref=_reference(outcome.psp_ref) if outcome.psp_ref else None,
                code=outcome.code if outcome.code in DECLINES else "unmapped",
                raw_code=_text(outcome.raw_code),
                advice=_text(outcome.advice),
                network_code=_text(outcome.network_code),
                message=_text(outcome.message),
                raw=raw,
            )
        case ActionRequired():
            return Observation(
                observed="requires_action",
                source=source,
                psp_ref=None if outcome.psp_ref is None else _reference(outcome.psp_ref),
                next_action={"type": "redirect", "url": _text(outcome.action.url, _URL_MAX)},
                action_expires_at=outcome.expires_at,
                raw=raw,
            )
        case Pending():
            return Observation(observed="pending", source=source, psp_ref=_reference(outcome.psp_ref), raw=raw)
        case NotFound() if source == "lookup":
            return Observation(observed="not_found", source=source, raw=raw)
    raise OutcomeUnknown(f"the adapter returned a {type(outcome).__name__}")


def _authentication(said: Authentication | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {
        "challenged": said.challenged,
        "version": _text(said.version),
        "eci": _text(said.eci),
        "ds_transaction_id": _text(said.ds_transaction_id),
    }


def _undecided(observed: str, code: str, error: BaseException, source: str) -> Observation:
    words = str(error) or type(error).__name__
    return Observation(observed=observed, source=source, code=code, message=_text(words))


def _text(words: str | None, longest: int = _MESSAGE_MAX) -> str | None:
    return mask_pan(words)[:longest].replace("\0", "\ufffd") if words else None


def _reference(text: str) -> str:
    """The PSP's id as it is: one that cannot be stored or found again leaves the outcome unknown."""
    if not 1 <= len(text) <= _REFERENCE_MAX or "\0" in text:
        raise OutcomeUnknown("the PSP's reference is empty, too long or unreadable")
    return text


def _masked(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The PSP's words for people: whatever is wrong with them, the outcome they came with stands."""
    try:
        encoded = msgspec.json.encode(mask_pans_in(dict(raw)))
        if len(encoded) > RAW_MAX_BYTES:
            return {"truncated": True, "bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
        # PostgreSQL stores no NUL. Read back, so that all of it is JSON.
        return msgspec.json.decode(encoded.replace(rb"\u0000", rb"\ufffd"), type=dict[str, Any])
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        return {"unreadable": type(error).__name__}
