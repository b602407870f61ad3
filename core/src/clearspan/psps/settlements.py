"""What a PSP pays out, line by line: asked of its API, or read from a report it publishes. Nothing is stored or booked."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
import structlog
from msgspec import Meta

from clearspan.platform.context import Scope
from clearspan.platform.pan import mask_pan
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.psps.service import PspAccounts
from clearspan.sdk import PspError, SettlementLine

log = structlog.get_logger("clearspan.psps")
SPAN_MAX_D = 93
"""Days of one request."""
TIMEOUT_S = 120.0
"""A quarter has many pages."""


class SettlementsNotSupported(DomainError):
    """The PSP or its plugin has nothing of the kind."""

    code = "settlements_not_supported"
    status = 422
    title = "This PSP account tells no settlements this way"
    advice = (
        "GET /v1/psps: `does` has `settlements` where they can be asked for, `settlement_files` where a report is read."
    )


class SettlementUnreadable(DomainError):
    """The report is none of this PSP, or not as documented."""

    code = "settlement_unreadable"
    status = 422
    title = "The settlement report cannot be read"


class SettlementsUnavailable(DomainError):
    """The PSP gave no usable answer."""

    code = "settlements_unavailable"
    status = 503
    title = "The PSP does not tell its settlements now"
    advice = "Try again later; check the account's settings (POST /v1/psp-accounts/{id}/check)."


class SettlementLineOut(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Amounts are signed as the merchant sees them: a refund is negative, and so is a fee."""

    kind: Literal["charge", "refund", "dispute", "dispute_reversed", "fee", "payout", "adjustment"]
    line: Annotated[str, Meta(description="The PSP's id of it.", examples=["txn_1"])]
    currency: Annotated[str, Meta(examples=["EUR"])]
    gross_minor: Annotated[int, Meta(examples=[1099])]
    fee_minor: Annotated[int, Meta(examples=[-46])]
    net_minor: Annotated[int, Meta(examples=[1053])]
    psp_reference: Annotated[str | None, Meta(description="The PSP's id of the charge or refund.", examples=["ch_1"])]
    operation: Annotated[
        str | None, Meta(description="Ours, when the line holds it.", examples=["op_01h455vb4pex5vsknk084sn02q"])
    ]
    batch: Annotated[str | None, Meta(description="The payout or report.", examples=["po_1"])]
    booked_at: datetime | None


class SettlementTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one currency, payouts left out."""

    currency: str
    lines: int
    gross_minor: int
    fee_minor: int
    net_minor: int


class SettlementOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a PSP pays out."""

    object: Literal["settlement"]
    psp_account: str
    lines: list[SettlementLineOut]
    totals: list[SettlementTotal]


class Settlements:
    """Settlements of a tenant's accounts."""

    def __init__(self, psps: PspAccounts) -> None:
        self._psps = psps

    async def fetch(self, scope: Scope, account_id: str, since: datetime, until: datetime) -> SettlementOut:
        """What was booked in a span of time, aware UTC.

        Raises:
            AccountNotFound, UnknownPsp, SettlementsNotSupported, SettlementsUnavailable.
            InvalidRequest: the span is empty or longer than ``SPAN_MAX_D`` days.
        """
        if not 0 < (until - since).total_seconds() <= SPAN_MAX_D * 86_400:
            raise InvalidRequest(
                f"until must be later than since, by {SPAN_MAX_D} days at most.",
                errors=[{"path": "$.until", "message": "not in reach of since"}],
            )
        psp = await self._psps.opened(scope, account_id)
        ask = getattr(psp.adapter, "fetch_settlements", None)
        if ask is None:
            raise SettlementsNotSupported
        try:
            async with asyncio.timeout(TIMEOUT_S):
                lines: Sequence[SettlementLine] = await ask(since, until)
            return _out(account_id, lines)
        except (PspError, TimeoutError, msgspec.ValidationError) as error:
            log.warning("no settlements", psp=psp.name, said=mask_pan(str(error))[:200])
            raise SettlementsUnavailable from error

    async def read(self, scope: Scope, account_id: str, report: bytes) -> SettlementOut:
        """The lines of a report that the PSP published.

        Raises:
            AccountNotFound, UnknownPsp, SettlementsNotSupported, SettlementUnreadable.
        """
        psp = await self._psps.opened(scope, account_id)
        understand = getattr(psp.adapter, "read_settlements", None)
        if understand is None:
            raise SettlementsNotSupported
        try:
            lines: Sequence[SettlementLine] = await asyncio.to_thread(understand, report)
            return _out(account_id, lines)
        except (ValueError, PspError, msgspec.ValidationError) as error:
            raise SettlementUnreadable(
                f"It is none of {psp.name}'s as documented: {mask_pan(str(error))[:300]}"
            ) from error


def _out(account_id: str, lines: Sequence[SettlementLine]) -> SettlementOut:
    found = [
        SettlementLineOut(
            kind=line.kind.value,
            line=line.line_ref,
            currency=line.gross.currency,
            gross_minor=line.gross.amount_minor,
            fee_minor=line.fee.amount_minor,
            net_minor=line.net.amount_minor,
            psp_reference=line.psp_ref,
            operation=line.reference,
            batch=line.batch,
            booked_at=line.booked_at,
        )
        for line in lines
    ]
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for one in found:
        if one.kind != "payout":
            total = sums[one.currency]
            for place, value in enumerate((1, one.gross_minor, one.fee_minor, one.net_minor)):
                total[place] += value
    totals = [
        SettlementTotal(currency=currency, lines=count, gross_minor=gross, fee_minor=fee, net_minor=net)
        for currency, (count, gross, fee, net) in sorted(sums.items())
    ]
    return SettlementOut(object="settlement", psp_account=account_id, lines=found, totals=totals)
