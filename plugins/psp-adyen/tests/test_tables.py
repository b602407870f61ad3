"""Refusals, codes within words, published examples of answers, and settlement reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import clearspan.sdk as sdk
from clearspan_psp_adyen import answers, requests, settlements
from clearspan_psp_adyen.refusals import CARD_ERRORS, REASONS, REFUSALS, leading_code, normalised

SPEC = json.loads((Path(__file__).parent / "spec" / "CheckoutService-v72.subset.json").read_text())
EXAMPLES = {name: one["value"] for name, one in SPEC["components"]["examples"].items()}
GOLDEN = (
    "2 do_not_honor, 3 generic_decline, 4 processing_error, 5 pickup_card, 6 expired_card, 7 invalid_amount, 8 invalid_number,"
    " 9 issuer_unavailable, 10 not_permitted, 11 authentication_required, 12 insufficient_funds, 14 suspected_fraud,"
    " 15 generic_decline, 16 authentication_required, 17 authentication_required, 18 limit_exceeded,"
    " 19 authentication_required, 20 psp_risk_blocked, 21 processing_error, 22 psp_risk_blocked, 23 not_permitted,"
    " 24 invalid_cvc, 25 restricted_card, 26 consent_revoked, 27 generic_decline, 28 limit_exceeded, 29 limit_exceeded,"
    " 31 suspected_fraud, 32 avs_mismatch, 33 not_permitted, 34 not_permitted, 35 not_permitted,"
    " 36 authentication_required, 37 not_permitted, 38 authentication_required, 39 authentication_required,"
    " 40 not_permitted, 41 authentication_required, 42 authentication_required, 43 authentication_required,"
    " 44 not_permitted, 45 not_permitted, 46 psp_risk_blocked, 50 consent_revoked"
)


def test_the_refusal_table_is_this_one() -> None:
    assert ", ".join(f"{code} {ours}" for code, (_, ours) in REASONS.items()) == GOLDEN
    assert all(code in sdk.DECLINES for code in [*REFUSALS.rows.values(), *CARD_ERRORS.values()])


@pytest.mark.parametrize(
    ("code", "words", "ours"),
    [
        ("12", None, "insufficient_funds"),
        (None, "Not enough balance", "insufficient_funds"),
        (None, "FRAUD", "psp_risk_blocked"),
        ("0", None, "unmapped"),
        ("999", "Something new", "unmapped"),
        (None, None, "unmapped"),
    ],
)
def test_a_refusal_is_known_by_number_or_by_words(code: str | None, words: str | None, ours: str) -> None:
    assert normalised(code, words) == ours


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("05 : Do not honor", "05"),
        ("N7 : Decline for CVV2 failure", "N7"),
        ("51", "51"),
        ("DECLINED", None),
        ("AUTHORISED", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_code_in_front_is_a_code(raw: str | None, code: str | None) -> None:
    assert leading_code(raw) == code


@pytest.mark.parametrize(
    "name",
    [name for name, one in EXAMPLES.items() if isinstance(one, dict) and "resultCode" in one and "balance" not in name],
)
def test_published_answers_are_read(name: str) -> None:
    said: dict[str, Any] = EXAMPLES[name]
    asked = sdk.Money(1000, "EUR")
    if said["resultCode"] in ("IdentifyShopper", "ChallengeShopper"):  # the native flow, which is never asked for
        with pytest.raises(sdk.OutcomeUnknown):
            answers.charged(said, said.get("merchantReference", ""), asked)
    else:
        outcome = answers.charged(said, said.get("merchantReference", ""), asked)
        assert isinstance(outcome, sdk.Approved | sdk.ActionRequired)


@pytest.mark.parametrize("verb", ["captures-capture", "cancels-cancel-with-psp-reference", "refunds-refund"])
def test_published_modifications_are_read(verb: str) -> None:
    said = EXAMPLES[f"post-payments-paymentPspReference-{verb}-201"]
    assert sdk.read(said, answers.Modification).psp_reference == said["pspReference"]


@pytest.mark.parametrize("name", ["generic-400", "generic-422"])
def test_published_errors_are_the_operators(name: str) -> None:
    said = EXAMPLES.get(name) or {
        "status": 422,
        "errorCode": "14_030",
        "message": "Return URL is missing.",
        "errorType": "validation",
    }
    error = answers.refused(sdk.Answer(said["status"], said))
    assert isinstance(error, sdk.PspMisconfigured)
    assert said["message"] in str(error)


def test_a_component_card_is_sent_as_the_published_example_has_it() -> None:
    published = EXAMPLES["post-payments-card-securedfields"]["paymentMethod"]
    request = sdk.ChargeRequest("op", "k", sdk.Money(1, "EUR"), True, sdk.TokenSource(json.dumps(published)))
    assert requests.payment_method(request) == {"type": "scheme"} | {
        name: value for name, value in published.items() if name.startswith("encrypted")
    }


HEADER = (
    "Company Account,Merchant Account,Psp Reference,Merchant Reference,Payment Method,Creation Date,TimeZone,Type,"
    "Modification Reference,Gross Currency,Gross Debit (GC),Gross Credit (GC),Exchange Rate,Net Currency,Net Debit (NC),"
    "Net Credit (NC),Commission (NC),Markup (NC),Scheme Fees (NC),Interchange (NC),Payment Method Variant,"
    "Modification Merchant Reference,Batch Number,Reserved4,Reserved5,Reserved6,Reserved7,Reserved8,Reserved9,Reserved10\n"
)
REPORT = (
    HEADER
    + "Co,Shop,PSP1,op_1,visa,2026-11-20 10:00:00,CET,Settled,CAP1,EUR,,100.00,1,EUR,,98.45,,0.60,0.15,0.80,visa,,134,,,,,,,\n"
    + "Co,Shop,PSP1,op_1,visa,2026-11-21 10:00:00,CET,Refunded,REF1,EUR,40.00,,1,EUR,40.10,,0.10,,,,visa,op_2,134,,,,,,,\n"
    + "Co,Shop,PSP2,op_3,mc,2026-07-20 10:00:00,CEST,Settled,CAP2,USD,,50.00,0.9,EUR,,44.10,0.90,,,,mc,,134,,,,,,,\n"
    + "Co,Shop,PSP3,op_4,mc,2026-11-20 10:00:00,CET,Chargeback,CB1,EUR,20.00,,1,EUR,20.00,,,,,,mc,,134,,,,,,,\n"
    + "Co,Shop,PSP3,op_4,mc,2026-11-20 10:00:00,CET,ChargebackReversed,CB1,EUR,,20.00,1,EUR,,20.00,,,,,mc,,134,,,,,,,\n"
    + "Co,Shop,,,,2026-11-22 00:00:00,CET,Fee,Transaction Fees November,,,,,EUR,3.00,,,,,,,,134,,,,,,,\n"
    + "Co,Shop,,,,2026-11-22 00:00:00,XYZ,MerchantPayout,\"TX1, batch 134\",,,,,EUR,99.45,,,,,,,,134,,,,,,,\n"
    + "Co,Shop,,,,2026-11-22 00:00:00,CET,Balancetransfer,BT,,,,,EUR,0.00,,,,,,,,134,,,,,,,\n"
)  # fmt: skip


def test_a_settlement_report_is_read_to_the_cent() -> None:
    found = settlements.lines(REPORT.encode("utf-8-sig"))
    told = [
        (one.kind.value, one.gross.amount_minor, one.fee.amount_minor, one.net.amount_minor, one.psp_ref)
        for one in found
    ]
    assert told == [
        ("charge", 10000, -155, 9845, "PSP1"),
        ("refund", -4000, -10, -4010, "REF1"),
        ("charge", 4500, -90, 4410, "PSP2"),
        ("dispute", -2000, 0, -2000, "CB1"),
        ("dispute_reversed", 2000, 0, 2000, "CB1"),
        ("fee", 0, -300, -300, "Transaction Fees November"),
        ("payout", -9945, 0, -9945, "TX1, batch 134"),
        ("adjustment", 0, 0, 0, "BT"),
    ]
    assert all(one.gross.amount_minor + one.fee.amount_minor == one.net.amount_minor for one in found)
    assert [one.reference for one in found[:4]] == ["op_1", "op_2", "op_3", "op_4"]
    assert found[0].booked_at == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert found[2].booked_at == datetime(2026, 7, 20, 8, tzinfo=UTC)
    assert found[6].booked_at is None  # a zone that nobody knows
    assert (found[0].line_ref, found[0].batch, found[0].net.currency) == ("134/Settled/CAP1", "134", "EUR")
    assert len({one.line_ref for one in found}) == len(found)


def test_the_published_sample_has_the_gross_of_what_was_settled_in_the_debit_column() -> None:
    line = "Co,Shop,PSP1,op_1,visa,2026-11-20 10:00:00,CET,Settled,CAP1,EUR,100.00,,1,EUR,,98.45,1.55,,,,visa,,134,,,,,,,\n"
    assert settlements.lines((HEADER + line).encode())[0].gross == sdk.Money(10000, "EUR")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (b"", "no column"),
        (b"a,b\n1,2\n", "no column"),
        (REPORT.replace("98.45", "98.46").encode(), "line 2"),
        (REPORT.replace("40.10", "forty").encode(), "line 3"),
        ((HEADER + "Co,Shop,PSP1\n").encode(), "line 2"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_what_is_no_settlement_report_is_refused_with_its_line(report: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settlements.lines(report)
