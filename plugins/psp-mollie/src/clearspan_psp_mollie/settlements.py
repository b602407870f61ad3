"""Settlements: what Mollie paid out, line by line.

Mollie tells amounts per payment, capture, refund and chargeback (``settlementAmount``, in the settlement's currency, negative for
what is taken), but its fees only per month and kind of cost (``periods``), so that those are one line. What Mollie does
not settle itself (PayPal, gift cards) has no ``settlementAmount`` and no line. Only organization tokens may read this, and test
mode has no settlements. Source: https://docs.mollie.com/reference/settlements-api (2026-11-23), models of mollie-api-py 1.10.20.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec

import clearspan.sdk as sdk
from clearspan_psp_mollie.answers import Amount, Time, money, reference, words

PARTS = {
    "payments": sdk.SettlementKind.CHARGE,
    "captures": sdk.SettlementKind.CHARGE,
    "refunds": sdk.SettlementKind.REFUND,
    "chargebacks": sdk.SettlementKind.DISPUTE,
}
"""List of a settlement -> what its entries are."""


class _Cost(msgspec.Struct, rename="camel"):
    description: str
    amount_gross: Amount


class _Period(msgspec.Struct):
    costs: list[_Cost] = []


class Settlement(msgspec.Struct, rename="camel"):
    """One payout. ``settled_at`` is missing while it is open."""

    id: str
    amount: Amount
    settled_at: Time | None = None
    periods: dict[str, dict[str, _Period]] | list[Any] = {}


class _Settled(msgspec.Struct, rename="camel"):
    resource: str
    id: str
    settlement_amount: Amount | None = None
    payment_id: str | None = None
    metadata: Any = None


def line(raw: Mapping[str, Any], kind: sdk.SettlementKind, of: str, at: datetime) -> sdk.SettlementLine | None:
    """One entry of a settlement's lists; ``None`` when Mollie did not settle it.

    Raises:
        OutcomeUnknown: it is not as documented.
    """
    found = sdk.read(raw, _Settled)
    if found.settlement_amount is None:
        return None
    gross = money(found.settlement_amount)
    if kind is sdk.SettlementKind.DISPUTE and gross.amount_minor > 0:
        kind = sdk.SettlementKind.DISPUTE_REVERSED
    return sdk.SettlementLine(
        kind=kind,
        line_ref=f"{of}/{found.id}",
        gross=gross,
        fee=sdk.Money(0, gross.currency),
        net=gross,
        psp_ref=found.payment_id if found.resource in ("capture", "chargeback") else found.id,
        reference=reference(found.metadata) if found.resource in ("payment", "refund") else None,
        batch=of,
        booked_at=at,
        raw=words(raw),
    )


def totals(found: Settlement, at: datetime) -> list[sdk.SettlementLine]:
    """The fees, and what left for the merchant's bank.

    Raises:
        OutcomeUnknown: an amount is none.
    """
    # An empty ``periods`` comes as a list.
    years = found.periods.values() if isinstance(found.periods, dict) else ()
    costs = [cost for months in years for period in months.values() for cost in period.costs]
    told = {"costs": [f"{cost.description}: {cost.amount_gross.value}" for cost in costs]}
    payout = _taken(sdk.SettlementKind.PAYOUT, found.id, money(found.amount), at, {})
    fees = _fees(costs, found.amount.currency)
    return [_taken(sdk.SettlementKind.FEE, found.id, fees, at, told), payout] if fees.amount_minor else [payout]


def _fees(costs: list[_Cost], currency: str) -> sdk.Money:
    """All of a settlement in one: Mollie tells them in hundredths of a cent, and rounds the sum (how is not confirmed)."""
    try:
        exact = sum((Decimal(cost.amount_gross.value) for cost in costs), Decimal(0))
        units = exact.scaleb(sdk.exponent(currency)).quantize(Decimal(1), ROUND_HALF_UP)
        return sdk.Money(int(units), currency)
    except (ArithmeticError, ValueError) as error:
        raise sdk.OutcomeUnknown("a cost of the settlement is no amount") from error


def _taken(
    kind: sdk.SettlementKind, batch: str, amount: sdk.Money, at: datetime, raw: dict[str, Any]
) -> sdk.SettlementLine:
    nothing, taken = sdk.Money(0, amount.currency), sdk.Money(-amount.amount_minor, amount.currency)
    gross, fee = (nothing, taken) if kind is sdk.SettlementKind.FEE else (taken, nothing)
    ref = f"{batch}/{kind.value}"
    return sdk.SettlementLine(
        kind=kind, line_ref=ref, gross=gross, fee=fee, net=taken, batch=batch, booked_at=at, raw=raw
    )
