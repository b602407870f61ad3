"""The *Settlement details report* as CSV.

Columns and record types: https://docs.adyen.com/reporting/settlement-reconciliation/transaction-level/settlement-details-report
(read 2026-11) and its older page ``settlement-detail-report-structure``. Amounts are decimals; ``(GC)`` is the currency of the
payment, ``(NC)`` that of the payout. What counts is the net column, which says by its place (debit or credit) in which direction
the money went, and the four columns of costs; the gross in the payout's currency follows from them and is checked against
``(GC)`` where both currencies are the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import clearspan.sdk as sdk

KINDS = {
    "Settled": sdk.SettlementKind.CHARGE,
    "Refunded": sdk.SettlementKind.REFUND,
    "RefundedReversed": sdk.SettlementKind.REFUND,
    "Chargeback": sdk.SettlementKind.DISPUTE,
    "SecondChargeback": sdk.SettlementKind.DISPUTE,
    "ChargebackReversed": sdk.SettlementKind.DISPUTE_REVERSED,
    "Fee": sdk.SettlementKind.FEE,
    "MiscCosts": sdk.SettlementKind.FEE,
    "PaymentCost": sdk.SettlementKind.FEE,
    "InvoiceDeduction": sdk.SettlementKind.FEE,
    "MerchantPayout": sdk.SettlementKind.PAYOUT,
}
"""``Type`` -> our kind; every other type is an adjustment."""
COSTS = ("Commission (NC)", "Markup (NC)", "Scheme Fees (NC)", "Interchange (NC)")
NEEDED = (
    "Psp Reference", "Merchant Reference", "Creation Date", "TimeZone", "Type", "Modification Reference", "Gross Currency",
    "Gross Debit (GC)", "Gross Credit (GC)", "Net Currency", "Net Debit (NC)", "Net Credit (NC)", *COSTS, "Batch Number",
)  # fmt: skip
ZONES_H = {"UTC": 0, "GMT": 0, "WET": 0, "BST": 1, "CET": 1, "WEST": 1, "CEST": 2, "EET": 2, "EEST": 3}
"""Hours before UTC of the zones whose names mean one thing only; of any other one the time is left out."""


def lines(report: bytes) -> list[sdk.SettlementLine]:
    """The lines of one report.

    Raises:
        ValueError: it is none, or not as documented.
    """
    rows = csv.DictReader(io.StringIO(report.decode("utf-8-sig")), strict=True)
    missing = [name for name in NEEDED if name not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"not a settlement details report: no column {', '.join(missing)}")
    found = []
    seen: dict[str, int] = {}
    try:
        for row in rows:
            base = "/".join(row[name] for name in ("Batch Number", "Type", "Modification Reference") if row[name])
            seen[base] = seen.get(base, 0) + 1
            found.append(_line(row, base if seen[base] == 1 else f"{base}/{seen[base]}"))
    except (csv.Error, TypeError, AttributeError, ValueError, sdk.Unrepresentable) as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error
    return found


def _line(row: Mapping[str, str], line_ref: str) -> sdk.SettlementLine:
    if None in row or None in row.values():
        raise ValueError("not as many fields as the header has")
    kind, currency = KINDS.get(row["Type"], sdk.SettlementKind.ADJUSTMENT), row["Net Currency"]
    net = _amount(row, "Net Credit (NC)", currency) - _amount(row, "Net Debit (NC)", currency)
    fee = -sum(_amount(row, name, currency) for name in COSTS)
    if kind is sdk.SettlementKind.FEE:
        fee = net
    gross = net - fee
    credit, debit = (
        _amount(row, f"Gross {side} (GC)", row["Gross Currency"] or currency) for side in ("Credit", "Debit")
    )
    same = row["Gross Currency"] == currency and kind is not sdk.SettlementKind.FEE and (credit or debit)
    if same and abs(gross) != abs(credit - debit):
        raise ValueError(
            f"net and costs give a gross of {abs(gross)}, the report says {abs(credit - debit)} minor units"
        )
    return sdk.SettlementLine(
        kind=kind,
        line_ref=line_ref,
        gross=sdk.Money(gross, currency),
        fee=sdk.Money(fee, currency),
        net=sdk.Money(net, currency),
        # Of a charge the payment's own reference, of what was done to it the modification's.
        psp_ref=(row["Psp Reference"] if kind is sdk.SettlementKind.CHARGE else row["Modification Reference"]) or None,
        reference=(row.get("Modification Merchant Reference") or row["Merchant Reference"]) or None
        if kind is not sdk.SettlementKind.CHARGE
        else row["Merchant Reference"] or None,
        batch=row["Batch Number"] or None,
        booked_at=_moment(row),
        raw={name: row[name] for name in NEEDED},
    )


def _amount(row: Mapping[str, str], column: str, currency: str) -> int:
    return sdk.from_decimal(row[column], currency).amount_minor if row[column] else 0


def _moment(row: Mapping[str, str]) -> datetime | None:
    day, zone = row.get("Booking Date") or row["Creation Date"], row.get("Booking Date TimeZone") or row["TimeZone"]
    if not day or zone not in ZONES_H:
        return None
    return datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=ZONES_H[zone])
