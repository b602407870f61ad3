"""The refusal tables, as Mollie documents them: a change here is a change for merchants."""

from __future__ import annotations

from typing import Any

import pytest

import clearspan.sdk as sdk
from clearspan_psp_mollie import answers
from clearspan_psp_mollie.refusals import CARD, DEBIT, FIELD

# https://docs.mollie.com/docs/handling-errors-with-mollie-components, read 2026-11-23: all values of details.failureReason.
DOCUMENTED = (
    "authentication_abandoned authentication_failed authentication_required authentication_unavailable_acs card_declined"
    " card_expired inactive_card insufficient_funds invalid_cvv invalid_card_holder_name invalid_card_number invalid_card_type"
    " possible_fraud refused_by_issuer unknown_reason"
)


def payment(status: str, details: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    known = {"resource": "payment", "id": "tr_1", "amount": {"currency": "EUR", "value": "1.00"}}
    return known | {"status": status, "createdAt": "2026-11-23T12:00:00+00:00", "details": details, **fields}


def test_every_documented_failure_reason_has_a_row() -> None:
    assert set(CARD.rows) == set(DOCUMENTED.split())


@pytest.mark.parametrize(("reason", "code"), [*CARD.rows.items(), ("unheard_of", "unmapped")])
def test_a_failed_card_payment_says_why(reason: str, code: str) -> None:
    found = answers.charge(payment("failed", {"failureReason": reason, "failureMessage": "No."}), capture=True)
    assert isinstance(found, sdk.Declined)
    assert (found.code, found.raw_code, found.message) == (code, reason, "No.")


@pytest.mark.parametrize(("reason", "code"), [*DEBIT.rows.items(), ("XX99", "unmapped")])
def test_a_failed_direct_debit_says_why(reason: str, code: str) -> None:
    found = answers.charge(payment("failed", {"bankReasonCode": reason, "bankReason": "..."}), capture=True)
    assert isinstance(found, sdk.Declined)
    assert (found.code, found.raw_code) == (code, reason)


@pytest.mark.parametrize(
    ("status", "code"),
    [("failed", "unmapped"), ("canceled", "authentication_required"), ("expired", "authentication_required")],
)
def test_a_payment_that_ended_without_a_reason(status: str, code: str) -> None:
    found = answers.charge(payment(status, None), capture=True)
    assert isinstance(found, sdk.Declined)
    assert (found.code, found.raw_code) == (code, status)


@pytest.mark.parametrize("status", ["canceled", "expired"])
def test_a_hold_that_lapsed_took_effect_first(status: str) -> None:
    held = payment(status, None, authorizedAt="2026-11-23T12:00:01+00:00", captureMode="manual")
    assert isinstance(answers.charge(held, capture=False), sdk.Approved)


def test_money_taken_where_a_hold_was_asked_for_is_nobodys_success() -> None:
    with pytest.raises(sdk.OutcomeUnknown, match="at once"):
        answers.charge(payment("paid", None), capture=False)


@pytest.mark.parametrize("status", ["", "PAID", "charged_back", "unheard_of"])
def test_a_status_that_is_not_documented_is_unknown(status: str) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        answers.charge(payment(status, None), capture=True)


@pytest.mark.parametrize(("at", "code"), FIELD.rows.items())
def test_a_field_that_a_payer_decides_is_a_decline(at: str, code: str) -> None:
    answer = sdk.Answer(422, {"status": 422, "title": "Unprocessable Entity", "detail": "No", "field": at})
    found = answers.refused(answer, follow_up=False)
    assert found is not None
    assert (found.code, found.raw_code) == (code, f"422 {at}")


@pytest.mark.parametrize("status", [404, 410])
def test_an_object_of_another_key_is_a_matter_of_settings(status: int) -> None:
    with pytest.raises(sdk.PspMisconfigured):
        answers.refused(sdk.Answer(status, {"status": status, "title": "", "detail": ""}), follow_up=True)
