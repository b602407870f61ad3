"""PayPal's settlement report (``STL-yyyymmdd...CSV``).

Source: "Settlement Report" (https://developer.paypal.com/reports/settlement.md, 2026-08): rows begin with their type (RH report
header, FH file header, SH section header, CH column names, SB section body, SF and SC section footer and count, RF and RC report
footer and count, FF file footer); amounts have neither sign nor decimal separator, ``CR`` and ``DR`` stand beside them. Event
codes: "T-code reference" (https://developer.paypal.com/reports/reference/t-codes.md, 2026-06).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import clearspan.sdk as sdk
from clearspan_psp_paypal.answers import NO_DECIMALS

_K = sdk.SettlementKind
CODES = {
    "T1106": _K.DISPUTE,  # payment reversal, by PayPal
    "T1107": _K.REFUND,
    "T1108": _K.FEE,  # fee reversal
    "T1109": _K.FEE,  # fee refund
    "T1110": _K.DISPUTE,  # hold while a dispute is looked into
    "T1111": _K.DISPUTE_REVERSED,  # that hold ends
    "T1201": _K.DISPUTE,  # chargeback
    "T1202": _K.DISPUTE_REVERSED,
    "T1205": _K.DISPUTE_REVERSED,  # chargeback reimbursed
}
GROUPS = {"T00": _K.CHARGE, "T01": _K.FEE, "T04": _K.PAYOUT}
"""The event group says enough for reconciliation; whatever stands in neither table is an adjustment."""
_NAMES = (
    "Transaction ID,Invoice ID,Custom Field,Transaction Event Code,Transaction Completion Date,Transaction Debit or Credit,"
    "Gross Transaction Amount,Gross Transaction Currency,Fee Debit or Credit,Fee Amount,Fee Currency"
)
_COLUMNS = _NAMES.split(",")
_SIGNS = {"CR": 1, "DR": -1}


def lines(report: bytes) -> Sequence[sdk.SettlementLine]:
    """The body rows of a report, in its order.

    Raises:
        ValueError: it is none, cut off, or not as documented; the message says in which row.
    """
    read = _Reader()
    rows = csv.reader(io.StringIO(report.decode("utf-8-sig")), strict=True)
    try:
        for row in rows:
            read.row(row)
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error
    if read.last != "FF":
        raise ValueError("the report is cut off: its last row, FF, is missing")
    return read.found


class _Reader:
    """What the rows before mean for the next one."""

    def __init__(self) -> None:
        self.found: list[sdk.SettlementLine] = []
        self.last = ""
        self._columns: list[str] = []
        self._batch: str | None = None
        self._in_section = 0

    def row(self, row: list[str]) -> None:
        kind, *cells = row or [""]
        if not self.last and kind != "RH":
            raise ValueError("a settlement report begins with RH")
        match kind:
            case "SH":
                self._batch, self._in_section = f"{cells[2]}/{cells[1]}", 0
            case "CH":
                self._columns = cells
                if missing := [name for name in _COLUMNS if name not in cells]:
                    raise ValueError(f"columns are missing: {', '.join(missing)}")
            case "SB":
                self.found.append(_line(dict(zip(self._columns, cells, strict=True)), self._batch))
                self._in_section += 1
            case "SC" if int(cells[0]) != self._in_section:
                raise ValueError(f"the section counts {cells[0]} rows and has {self._in_section}")
        self.last = kind


def _line(row: Mapping[str, str], batch: str | None) -> sdk.SettlementLine:
    code, currency = row["Transaction Event Code"], row["Gross Transaction Currency"]
    gross = _amount(row["Transaction Debit or Credit"], row["Gross Transaction Amount"], currency)
    fee = sdk.Money(0, currency)
    if row["Fee Amount"].strip("0 "):
        if row["Fee Currency"] != currency:
            raise ValueError(f"the fee is in {row['Fee Currency']}, the amount in {currency}")
        fee = _amount(row["Fee Debit or Credit"], row["Fee Amount"], currency)
    kind = CODES.get(code) or GROUPS.get(code[:3], _K.ADJUSTMENT)
    if kind is _K.CHARGE and gross.amount_minor < 0:
        kind = _K.ADJUSTMENT  # a payment that the merchant made
    booked_at = datetime.strptime(row["Transaction Completion Date"], "%Y/%m/%d %H:%M:%S %z").astimezone(UTC)
    return sdk.SettlementLine(
        kind=kind,
        # One transaction may stand in a report as payment, hold and release.
        line_ref=f"{row['Transaction ID']}/{code}/{row['Transaction Debit or Credit']}",
        gross=gross,
        fee=fee,
        net=sdk.Money(gross.amount_minor + fee.amount_minor, currency),
        psp_ref=row["Transaction ID"] or None,
        reference=row["Invoice ID"] or row["Custom Field"] or None,
        batch=batch,
        booked_at=booked_at,
        raw={name: row[name] for name in _COLUMNS},
    )


def _amount(side: str, digits: str, currency: str) -> sdk.Money:
    if currency in NO_DECIMALS and currency != "JPY":
        # The one example given is of yen. Whether these, which PayPal takes without decimals, count hundredths is not confirmed.
        raise ValueError(f"what one unit of {currency} is in these reports is not documented")
    if side not in _SIGNS or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"{side!r} {digits!r} is no amount")
    return sdk.from_units(_SIGNS[side] * int(digits), currency, sdk.exponent(currency))
