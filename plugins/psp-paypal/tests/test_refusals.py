"""Every code of PayPal's descriptions has a meaning here."""

from __future__ import annotations

from typing import Any

import pytest
from described import issues, schemas

import clearspan.sdk as sdk
from clearspan_psp_paypal import answers
from clearspan_psp_paypal.refusals import APPROVALS, ISSUES, LOOK_AGAIN, PROCESSOR, REQUEST_FAULTS

GOLDEN = {
    "INSTRUMENT_DECLINED": "generic_decline",
    "CARD_EXPIRED": "expired_card",
    "AGREEMENT_ALREADY_CANCELLED": "consent_revoked",
    "TRANSACTION_REFUSED": "psp_risk_blocked",
    "REFUND_FAILED_INSUFFICIENT_FUNDS": "insufficient_funds",
    "PAYER_ACCOUNT_RESTRICTED": "restricted_card",
}
GOLDEN_PROCESSOR = {
    "0500": "do_not_honor",
    "5120": "insufficient_funds",
    "5400": "expired_card",
    "5650": "authentication_required",
    "9500": "suspected_fraud",
    "9520": "stolen_card",
    "00N7": "invalid_cvc",
    "PPAX": "limit_exceeded",
    "5200": "duplicate",
}


def test_every_described_issue_stands_in_one_place() -> None:
    places = [set(ISSUES.rows), LOOK_AGAIN, REQUEST_FAULTS]
    assert set().union(*places) == issues()
    assert sum(map(len, places)) == len(issues())


def test_every_described_processor_code_stands_in_the_table() -> None:
    described = set(schemas("checkout_orders_v2")["processor_response"]["properties"]["response_code"]["enum"])
    assert described == set(PROCESSOR.rows) | APPROVALS
    assert not APPROVALS & set(PROCESSOR.rows)


def test_golden_rows() -> None:
    assert {raw: ISSUES.code(raw) for raw in GOLDEN} == GOLDEN
    assert {raw: PROCESSOR.code(raw) for raw in GOLDEN_PROCESSOR} == GOLDEN_PROCESSOR


def test_every_described_status_has_a_meaning() -> None:
    for name in ("checkout_orders_v2", "payments_payment_v2"):
        found = schemas(name)
        captures = set(found["capture_status"]["properties"]["status"]["enum"])
        held = set(found["authorization_status"]["properties"]["status"]["enum"])
        refunds = set(found["refund_status"]["properties"]["status"]["enum"])
        assert captures <= answers.CAPTURED | answers.REFUSED | {"PENDING"}
        assert held <= answers.AUTHORIZED | answers.REFUSED | {"PENDING"}
        assert refunds <= {"COMPLETED", "PENDING"} | answers.REFUSED


def refused(*details: dict[str, Any]) -> sdk.Declined:
    return answers.refusal(sdk.Answer(422, {"name": "UNPROCESSABLE_ENTITY", "details": list(details)}))


def test_a_refusal_that_is_newer_than_the_table_is_final_and_unmapped() -> None:
    found = refused({"issue": "MOON_IS_FULL"})
    assert (found.code, found.raw_code) == ("unmapped", "MOON_IS_FULL")


def test_a_faulty_request_names_its_field_and_not_its_value() -> None:
    with pytest.raises(sdk.PspMisconfigured, match="DECIMAL_PRECISION at /amount/value") as told:
        refused({"issue": "DECIMAL_PRECISION", "field": "/amount/value", "value": "4242424242424242"})
    assert "4242" not in str(told.value)


@pytest.mark.parametrize("issue", sorted(LOOK_AGAIN))
def test_what_was_done_before_is_looked_up(issue: str) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        refused({"issue": issue})


@pytest.mark.parametrize(
    ("status", "links", "waits"),
    [
        ("CREATED", [], False),
        ("CREATED", [{"rel": "approve", "href": "https://www.paypal.com/checkoutnow?token=O1"}], True),
        ("APPROVED", [], True),
        ("SAVED", [], False),
        ("COMPLETED", [], False),
    ],
)
def test_an_order_without_a_payment_waits_only_when_the_payer_can_act(
    status: str, links: list[dict[str, str]], waits: bool
) -> None:
    raw = {"id": "O1", "status": status, "links": links, "purchase_units": [{"custom_id": "op_1"}]}
    found = answers.order(raw, "op_1")
    if waits:
        outcome = answers.charge(found, True, raw, "https://www.paypal.com/checkoutnow?token=")
        assert isinstance(outcome, sdk.ActionRequired)
        assert outcome.action.url == "https://www.paypal.com/checkoutnow?token=O1"
    else:
        with pytest.raises(sdk.OutcomeUnknown):
            answers.charge(found, True, raw, "https://www.paypal.com/checkoutnow?token=")
