"""The settlement report, as PayPal documents its rows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import clearspan.sdk as sdk
from clearspan_psp_paypal.settlement import lines

K = sdk.SettlementKind
NAMES = (
    '"CH","Transaction ID","Invoice ID","PayPal Reference ID","PayPal Reference ID Type","Transaction Event Code",'
    '"Transaction Initiation Date","Transaction Completion Date","Transaction Debit or Credit","Gross Transaction Amount",'
    '"Gross Transaction Currency","Fee Debit or Credit","Fee Amount","Fee Currency","Custom Field","Consumer ID",'
    '"Payment Tracking ID","Store ID","Bank Reference ID","Credit Transactional Fee","Credit Promotional Fee","Credit Term"'
)
HEAD = '"RH",2026/11/23 02:44:19 -0800,"A","WBALE5SXPQN6L",009,\n"FH",01\n'
SECTION = '"SH",2026/11/22 00:00:00 -0800,2026/11/22 23:59:59 -0800,"WBALE5SXPQN6L",""\n' + NAMES + "\n"


def row(
    code: str, side: str, gross: str, currency: str = "EUR", fee: tuple[str, str] = ("", ""), invoice: str = "op_1"
) -> str:
    return (
        f'"SB","4EU7004268015634R","{invoice}","","","{code}",2026/11/22 00:01:17 -0800,2026/11/22 01:01:17 -0800,"{side}",'
        f'{gross},"{currency}","{fee[0]}",{fee[1]},"{currency if fee[1] else ""}","op_charge","","","","",,,'
    )


def report(*rows: str, count: int | None = None) -> bytes:
    foot = f'"SF","EUR"\n"SC",{len(rows) if count is None else count}\n"RF","EUR"\n"RC",{len(rows)}\n"FF",{len(rows)}\n'
    return ("\ufeff" + HEAD + SECTION + "\n".join((*rows, "")) + foot).encode()


def test_a_payment_with_its_fee() -> None:
    [line] = lines(report(row("T0006", "CR", "1000", fee=("DR", "64"))))
    assert (line.kind, line.gross, line.fee, line.net) == (K.CHARGE, eur(1000), eur(-64), eur(936))
    assert (line.psp_ref, line.reference) == ("4EU7004268015634R", "op_1")
    assert line.batch == "WBALE5SXPQN6L/2026/11/22 23:59:59 -0800"
    assert line.booked_at == datetime(2026, 11, 22, 9, 1, 17, tzinfo=UTC)


def eur(minor: int) -> sdk.Money:
    return sdk.Money(minor, "EUR")


@pytest.mark.parametrize(
    ("code", "side", "kind"),
    [
        ("T0002", "CR", K.CHARGE),
        ("T0000", "DR", K.ADJUSTMENT),
        ("T0106", "DR", K.FEE),
        ("T1107", "DR", K.REFUND),
        ("T1201", "DR", K.DISPUTE),
        ("T1202", "CR", K.DISPUTE_REVERSED),
        ("T1110", "DR", K.DISPUTE),
        ("T0400", "DR", K.PAYOUT),
        ("T9999", "CR", K.ADJUSTMENT),
    ],
)
def test_event_codes(code: str, side: str, kind: K) -> None:
    [line] = lines(report(row(code, side, "1000")))
    assert (line.kind, line.net.amount_minor) == (kind, 1000 if side == "CR" else -1000)


def test_yen_have_no_decimals_and_forints_are_not_guessed() -> None:
    [line] = lines(report(row("T0006", "CR", "10000", "JPY")))
    assert line.gross == sdk.Money(10000, "JPY")
    with pytest.raises(ValueError, match="line 5: what one unit of HUF"):
        lines(report(row("T0006", "CR", "10000", "HUF")))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (b"", "cut off"),
        (b"Date,Amount\n", "begins with RH"),
        (report(row("T0006", "CR", "1000"), count=2), "counts 2 rows and has 1"),
        (report(row("T0006", "CR", "1000"))[:-8], "cut off"),
        (report(row("T0006", "??", "1000")), "is no amount"),
        (report(row("T0006", "CR", "10.00")), "is no amount"),
        (report(row("T0006", "CR", "1000")).replace(b'"Custom Field"', b'"Custom"'), "columns are missing"),
        (report(row("T0006", "CR", "1000") + ',"one more"'), "line 5"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_what_is_no_report_is_told_where(made: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        lines(made)
