"""Balance transactions as settlement lines. Source: https://docs.stripe.com/reports/balance-transaction-types."""

from __future__ import annotations

from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_stripe.amounts import told
from clearspan_psp_stripe.answers import REFERENCE, at, plain

_KINDS = {
    "charge": sdk.SettlementKind.CHARGE,
    "payment": sdk.SettlementKind.CHARGE,
    "refund": sdk.SettlementKind.REFUND,
    "payment_refund": sdk.SettlementKind.REFUND,
    "refund_failure": sdk.SettlementKind.REFUND,  # positive: the money of a failed refund came back
    "payment_failure_refund": sdk.SettlementKind.REFUND,
    "stripe_fee": sdk.SettlementKind.FEE,
    "stripe_fx_fee": sdk.SettlementKind.FEE,
    "tax_fee": sdk.SettlementKind.FEE,
    "payout": sdk.SettlementKind.PAYOUT,
    "payout_cancel": sdk.SettlementKind.PAYOUT,
    "payout_failure": sdk.SettlementKind.PAYOUT,
}
# Disputes come as adjustments; only the reporting category says so.
_CATEGORIES = {
    "dispute": sdk.SettlementKind.DISPUTE,
    "dispute_reversal": sdk.SettlementKind.DISPUTE_REVERSED,
}


class _Source(msgspec.Struct):
    id: str
    payment_intent: str | None = None
    metadata: dict[str, str] | None = None


class _Transaction(msgspec.Struct):
    id: str
    type: str
    reporting_category: str
    amount: int
    fee: int
    net: int
    currency: str
    created: int
    source: _Source | str | None = None


def line(raw: dict[str, Any]) -> sdk.SettlementLine:
    """One balance transaction, its source expanded.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    found = sdk.read(raw, _Transaction)
    if found.amount - found.fee != found.net:
        raise sdk.OutcomeUnknown(f"the balance transaction {found.id} does not add up")
    kind = _CATEGORIES.get(found.reporting_category) or _KINDS.get(found.type, sdk.SettlementKind.ADJUSTMENT)
    source = found.source if isinstance(found.source, _Source) else None
    about_charge = kind in (sdk.SettlementKind.CHARGE, sdk.SettlementKind.DISPUTE, sdk.SettlementKind.DISPUTE_REVERSED)
    return sdk.SettlementLine(
        kind=kind,
        line_ref=found.id,
        gross=told(found.amount, found.currency),
        fee=told(-found.fee, found.currency),
        net=told(found.net, found.currency),
        psp_ref=(source.payment_intent if about_charge else source.id) if source else None,
        reference=((source and source.metadata) or {}).get(REFERENCE),
        batch=source.id if source and kind is sdk.SettlementKind.PAYOUT else None,
        booked_at=at(found.created),
        raw=plain(raw),
    )
