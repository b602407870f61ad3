"""Amounts, refusals, settlements and Stripe's own samples, read without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import clearspan.sdk as sdk
from clearspan.sdk import Money
from clearspan_psp_stripe import answers, settlements, webhooks
from clearspan_psp_stripe.amounts import told, written
from clearspan_psp_stripe.refusals import REFUSALS

SAMPLES = json.loads((Path(__file__).parent / "spec" / "fixtures3.subset.json").read_text())["resources"]
SPEC = json.loads((Path(__file__).parent / "spec" / "spec3.subset.json").read_text())
ASKED = answers.Asked("op_1", Money(1099, "EUR"))


# https://docs.stripe.com/currencies
@pytest.mark.parametrize(
    ("money", "units"),
    [
        (Money(1099, "EUR"), 1099),
        (Money(1099, "HUF"), 1099),
        (Money(1099, "TWD"), 1099),
        (Money(500, "ISK"), 50000),
        (Money(50000, "MGA"), 500),
        (Money(5120, "KWD"), 5120),
        *[
            (Money(500, code), 500)
            for code in [
                "BIF",
                "CLP",
                "DJF",
                "GNF",
                "JPY",
                "KMF",
                "KRW",
                "PYG",
                "RWF",
                "VND",
                "VUV",
                "XAF",
                "XOF",
                "XPF",
            ]
        ],
    ],
)
def test_amounts_are_written_as_stripe_wants_them_and_read_back(money: Money, units: int) -> None:
    assert written(money) == units
    assert told(units, money.currency.lower()) == money


@pytest.mark.parametrize(
    "money", [Money(5124, "KWD"), Money(5, "UGX"), Money(50, "MGA"), Money(1000, "IQD"), Money(1000, "LYD")]
)
def test_what_stripe_cannot_be_told_is_refused(money: Money) -> None:
    with pytest.raises(sdk.NotSupported):
        written(money)


@pytest.mark.parametrize(("amount", "currency"), [(50, "isk"), (5, "ugx"), (5, "xyz"), (5, "iqd")])
def test_an_amount_in_an_answer_that_is_none_is_unknown_and_not_refused(amount: int, currency: str) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        told(amount, currency)


@pytest.mark.parametrize(
    ("raw_code", "code"),
    [
        ("authentication_required", "authentication_required"),
        ("card_not_supported", "not_permitted"),
        ("card_velocity_exceeded", "limit_exceeded"),
        ("currency_not_supported", "invalid_currency"),
        ("do_not_honor", "do_not_honor"),
        ("duplicate_transaction", "duplicate"),
        ("expired_card", "expired_card"),
        ("fraudulent", "suspected_fraud"),
        ("generic_decline", "generic_decline"),
        ("incorrect_cvc", "invalid_cvc"),
        ("incorrect_number", "invalid_number"),
        ("incorrect_zip", "avs_mismatch"),
        ("insufficient_funds", "insufficient_funds"),
        ("invalid_account", "closed_account"),
        ("issuer_not_available", "issuer_unavailable"),
        ("lost_card", "lost_card"),
        ("merchant_blacklist", "psp_risk_blocked"),
        ("pickup_card", "pickup_card"),
        ("processing_error", "processing_error"),
        ("restricted_card", "restricted_card"),
        ("revocation_of_all_authorizations", "consent_revoked"),
        ("revocation_of_authorization", "consent_revoked"),
        ("stop_payment_order", "consent_revoked"),
        ("security_violation", "suspected_fraud"),
        ("stolen_card", "stolen_card"),
        ("transaction_not_allowed", "not_permitted"),
        ("try_again_later", "issuer_unavailable"),
        ("withdrawal_count_limit_exceeded", "limit_exceeded"),
        ("amount_too_small", "invalid_amount"),
        ("payment_intent_authentication_failure", "authentication_required"),
        ("payment_method_provider_decline", "generic_decline"),
        ("lost_or_stolen_card", "lost_card"),
        ("a_code_of_tomorrow", "unmapped"),
    ],
)
def test_refusals_mean_what_they_say(raw_code: str, code: str) -> None:
    assert REFUSALS.code(raw_code) == code


def test_every_decline_code_of_stripes_own_list_has_a_row() -> None:
    # stripe/stripe-go, error.go, commit 00412aff: "List of DeclineCode values".
    listed = [
        "authentication_required",
        "approve_with_id",
        "call_issuer",
        "card_not_supported",
        "card_velocity_exceeded",
        "currency_not_supported",
        "do_not_honor",
        "do_not_try_again",
        "duplicate_transaction",
        "expired_card",
        "fraudulent",
        "generic_decline",
        "incorrect_number",
        "incorrect_cvc",
        "incorrect_pin",
        "incorrect_zip",
        "insufficient_funds",
        "invalid_account",
        "invalid_amount",
        "invalid_cvc",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "invalid_number",
        "invalid_pin",
        "issuer_not_available",
        "lost_card",
        "merchant_blacklist",
        "new_account_information_available",
        "no_action_taken",
        "not_permitted",
        "offline_pin_required",
        "online_or_offline_pin_required",
        "pickup_card",
        "pin_try_exceeded",
        "processing_error",
        "reenter_transaction",
        "restricted_card",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "security_violation",
        "service_not_allowed",
        "stolen_card",
        "stop_payment_order",
        "testmode_decline",
        "transaction_not_allowed",
        "try_again_later",
        "withdrawal_count_limit_exceeded",
    ]
    assert len(listed) == 47
    assert [code for code in listed if REFUSALS.code(code) == "unmapped"] == []


def intent(**fields: Any) -> dict[str, Any]:
    return SAMPLES["payment_intent"] | {"metadata": {"operation_id": "op_1"}, "currency": "eur"} | fields


ERROR = {"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor"}


@pytest.mark.parametrize("status", SPEC["components"]["schemas"]["payment_intent"]["properties"]["status"]["enum"])
def test_every_documented_status_is_read(status: str) -> None:
    fields = {
        "requires_action": {
            "next_action": {"type": "redirect_to_url", "redirect_to_url": {"url": "https://x.example"}}
        },
        "requires_payment_method": {"last_payment_error": ERROR},
    }.get(status, {})
    manual = status == "requires_capture"
    raw = intent(status=status, capture_method="manual" if manual else "automatic", **fields)
    asked = ASKED._replace(capture=not manual)
    if status == "requires_confirmation":  # Every payment is confirmed as it is made.
        with pytest.raises(sdk.OutcomeUnknown):
            answers.charge(raw, asked)
    else:
        expected = {
            "succeeded": sdk.Approved,
            "requires_capture": sdk.Approved,
            "processing": sdk.Pending,
            "requires_action": sdk.ActionRequired,
            "requires_payment_method": sdk.Declined,
            "canceled": sdk.Declined,
        }
        assert isinstance(answers.charge(raw, asked), expected[status])


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"operation_id": "op_2"}},
        {"metadata": {}},
        {"capture_method": "manual"},
        {"status": "requires_capture"},
        {"status": "on_fire"},
        {"status": "requires_payment_method"},
        {"status": "requires_action"},
        {"status": "requires_action", "next_action": {"type": "use_stripe_sdk"}},
        {"amount_received": "1099"},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_what_is_unclear_or_about_something_else_is_unknown(fields: dict[str, Any]) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        answers.charge(intent(**{"status": "succeeded"} | fields), ASKED)


def test_stripes_amount_is_given_and_not_ours() -> None:
    outcome = answers.charge(intent(status="succeeded", amount_received=1, currency="usd"), ASKED)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.amount == Money(1, "USD")


def test_a_suspected_duplicate_is_looked_up_and_then_declined() -> None:
    raw = intent(status="requires_payment_method", last_payment_error=ERROR | {"decline_code": "duplicate_transaction"})
    with pytest.raises(sdk.OutcomeUnknown):
        answers.charge(raw, ASKED)
    outcome = answers.charge(raw, ASKED._replace(looked_up=True))
    assert isinstance(outcome, sdk.Declined)
    assert outcome.code == "duplicate"


def test_the_networks_words_are_passed_on_where_the_version_has_them() -> None:
    said = ERROR | {"network_decline_code": "05", "network_advice_code": "03", "advice_code": "do_not_try_again"}
    outcome = answers.charge(intent(status="requires_payment_method", last_payment_error=said), ASKED)
    assert isinstance(outcome, sdk.Declined)
    assert (outcome.network_code, outcome.advice) == ("05", "03")


@pytest.mark.parametrize("kind", ["payment_intent", "setup_intent"])
def test_stripes_samples_of_intents_are_as_expected(kind: str) -> None:
    assert answers.sdk.read(SAMPLES[kind], answers.Intent).object == kind


def test_stripes_other_samples_are_as_expected() -> None:
    assert isinstance(
        answers.refund_state(sdk.read(SAMPLES["refund"], answers.Refund), SAMPLES["refund"]), sdk.Approved
    )
    assert sdk.read(SAMPLES["event"], webhooks.Event).type == "plan.created"
    about_dispute = SAMPLES["event"] | {"type": "charge.dispute.created", "data": {"object": SAMPLES["dispute"]}}
    news = webhooks.news(sdk.read(about_dispute, webhooks.Event))
    assert isinstance(news, sdk.DisputeNews)
    assert news.charge_ref == SAMPLES["dispute"]["charge"]


def transaction(**fields: Any) -> dict[str, Any]:
    return SAMPLES["balance_transaction"] | fields


def test_a_line_of_a_settlement_is_read_from_stripes_sample() -> None:
    line = settlements.line(transaction(fee=7, net=93, currency="eur"))
    assert (line.kind, line.gross, line.fee, line.net) == (
        sdk.SettlementKind.CHARGE,
        Money(100, "EUR"),
        Money(-7, "EUR"),
        Money(93, "EUR"),
    )
    assert line.booked_at == datetime(2009, 2, 13, 23, 31, 30, tzinfo=UTC)
    assert (line.psp_ref, line.reference) == (None, None)


@pytest.mark.parametrize(
    ("kind", "category", "expected"),
    [
        ("charge", "charge", sdk.SettlementKind.CHARGE),
        ("payment", "charge", sdk.SettlementKind.CHARGE),
        ("refund", "refund", sdk.SettlementKind.REFUND),
        ("payment_refund", "refund", sdk.SettlementKind.REFUND),
        ("refund_failure", "refund_failure", sdk.SettlementKind.REFUND),
        ("adjustment", "dispute", sdk.SettlementKind.DISPUTE),
        ("adjustment", "dispute_reversal", sdk.SettlementKind.DISPUTE_REVERSED),
        ("adjustment", "other_adjustment", sdk.SettlementKind.ADJUSTMENT),
        ("stripe_fee", "fee", sdk.SettlementKind.FEE),
        ("payout", "payout", sdk.SettlementKind.PAYOUT),
        ("payout_failure", "payout_reversal", sdk.SettlementKind.PAYOUT),
        ("topup", "topup", sdk.SettlementKind.ADJUSTMENT),
    ],
)
def test_lines_have_kinds(kind: str, category: str, expected: sdk.SettlementKind) -> None:
    assert settlements.line(transaction(type=kind, reporting_category=category)).kind is expected


def test_a_line_that_does_not_add_up_is_not_believed() -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        settlements.line(transaction(fee=7, net=100))


async def test_settlements_are_fetched_oldest_first_with_our_references(shop: Any) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    request = shop.request()
    charge = await shop.approved(request)
    refund = await shop.psp.refund(sdk.RefundRequest("op_s", "key_s", Money(99, "EUR"), charge.psp_ref))
    await shop.control("dispute", {"charge": charge.psp_ref, "status": "needs_response"})
    lines = await shop.psp.fetch_settlements(began, datetime.fromtimestamp(began.timestamp() + 60, UTC))
    charged = next(at for at, line in enumerate(lines) if line.reference == request.operation_id)
    first, second, third = lines[charged : charged + 3]
    assert (first.psp_ref, first.gross, first.fee) == (charge.psp_ref, Money(1099, "EUR"), Money(-61, "EUR"))
    assert (second.psp_ref, second.reference, second.gross) == (refund.psp_ref, "op_s", Money(-99, "EUR"))
    assert (third.kind, third.psp_ref, third.fee) == (
        sdk.SettlementKind.DISPUTE,
        charge.psp_ref,
        Money(-1500, "EUR"),
    )
