"""Payouts as settlement lines.

Square lists payouts by when they were made, and the entries of each. A BATCH payout equals the sum of its entries; a SIMPLE one
has none and comes again as an entry of a later BATCH (``PayoutType``, ``PayoutEntry`` of the description): it has no line here.
``payout_fee`` is told beside the entries and is in none of the sums; it stays in the payout's ``raw``. Of an entry ``net`` is
``gross - fee``, and what a refund gives back of the fee is negative (the example of ListPayoutEntries).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

import clearspan.sdk as sdk

_KINDS = {
    "CHARGE": sdk.SettlementKind.CHARGE,
    "REFUND": sdk.SettlementKind.REFUND,
    "DISPUTE": sdk.SettlementKind.DISPUTE,
    "OPEN_DISPUTE": sdk.SettlementKind.DISPUTE,
    "PAYOUT": sdk.SettlementKind.PAYOUT,
    "RETURNED_PAYOUT": sdk.SettlementKind.PAYOUT,
} | dict.fromkeys(
    (
        "DEPOSIT_FEE",
        "DEPOSIT_FEE_REVERSED",
        "FEE",
        "GIFT_CARD_LOAD_FEE",
        "GIFT_CARD_LOAD_FEE_REFUND",
        "LOCAL_OFFERS_FEE",
        "PAID_SERVICE_FEE",
        "PAID_SERVICE_FEE_REFUND",
        "PROCESSING_FEE",
        "PROCESSING_FEE_REFUND",
        "SUBSCRIPTION_FEE",
        "SUBSCRIPTION_FEE_PAID_REFUND",
        "SUBSCRIPTION_FEE_REFUND",
        "TAX_ON_FEE",
        "THIRD_PARTY_FEE",
        "THIRD_PARTY_FEE_REFUND",
        "UNDO_GIFT_CARD_LOAD_FEE_REFUND",
        "UNDO_PROCESSING_FEE_REFUND",
    ),
    sdk.SettlementKind.FEE,
)
"""``ActivityType`` -> kind; the others are adjustments."""


class _Money(msgspec.Struct):
    """``Money``. The description says ``currency``, its examples of payouts ``currency_code``."""

    amount: int
    currency: str | None = None
    currency_code: str | None = None

    def money(self) -> sdk.Money:
        if not (self.currency or self.currency_code):
            raise sdk.OutcomeUnknown("an amount of a payout has no currency")
        return sdk.Money(self.amount, self.currency or self.currency_code or "")


class Payout(msgspec.Struct):
    """``Payout``."""

    id: str
    type: str
    amount_money: _Money
    created_at: datetime


class _Details(msgspec.Struct):
    payment_id: str | None = None
    refund_id: str | None = None


class Entry(msgspec.Struct):
    """``PayoutEntry``."""

    id: str
    payout_id: str
    type: str
    gross_amount_money: _Money
    fee_amount_money: _Money
    net_amount_money: _Money
    effective_at: datetime | None = None
    type_charge_details: _Details | None = None
    type_refund_details: _Details | None = None
    type_dispute_details: _Details | None = None
    type_open_dispute_details: _Details | None = None


def line(raw: dict[str, Any]) -> sdk.SettlementLine:
    """One entry of a payout.

    Raises:
        OutcomeUnknown: it is not as documented, or does not add up.
    """
    found = sdk.read(raw, Entry)
    gross, fee, net = (
        one.money() for one in (found.gross_amount_money, found.fee_amount_money, found.net_amount_money)
    )
    if (
        len({gross.currency, fee.currency, net.currency}) > 1
        or gross.amount_minor - fee.amount_minor != net.amount_minor
    ):
        raise sdk.OutcomeUnknown(f"the payout entry {found.id} does not add up")
    kind = _KINDS.get(found.type, sdk.SettlementKind.ADJUSTMENT)
    if kind is sdk.SettlementKind.DISPUTE and gross.amount_minor > 0:
        kind = sdk.SettlementKind.DISPUTE_REVERSED
    refund = found.type_refund_details
    about = found.type_charge_details or found.type_dispute_details or found.type_open_dispute_details
    return sdk.SettlementLine(
        kind=kind,
        line_ref=found.id,
        gross=gross,
        fee=sdk.Money(-fee.amount_minor, fee.currency),
        net=net,
        psp_ref=refund.refund_id if refund else about.payment_id if about else None,
        batch=found.payout_id,
        booked_at=found.effective_at,
        raw=raw,
    )


def paid_out(payout: Payout, raw: dict[str, Any]) -> sdk.SettlementLine:
    """What left for the seller's bank; negative when Square took it from there."""
    amount = payout.amount_money.money()
    left = sdk.Money(-amount.amount_minor, amount.currency)
    return sdk.SettlementLine(
        kind=sdk.SettlementKind.PAYOUT,
        line_ref=payout.id,
        gross=left,
        fee=sdk.Money(0, amount.currency),
        net=left,
        batch=payout.id,
        booked_at=payout.created_at,
        raw=raw,
    )
