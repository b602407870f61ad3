"""The demo's comparison of our list with the provider's book sees every kind of difference."""

from __future__ import annotations

from typing import Any

import pytest

from clearspan.commands.demo import differences


def payment(**amounts: int) -> dict[str, Any]:
    known = {"captured_minor": 1000, "refunded_minor": 300, "voided_minor": 0} | amounts
    operations = [{"id": "op_charge", "state": "succeeded"}, {"id": "op_refund", "state": "succeeded"}]
    return {"id": "pay_1", "currency": "EUR", "amounts": known, "operations": operations}


def book() -> list[dict[str, Any]]:
    charge = {
        "kind": "charge",
        "reference": "op_charge",
        "status": "succeeded",
        "currency": "EUR",
        "captured": 1000,
        "refunded": 300,
    }
    return [charge, {"kind": "refund", "reference": "op_refund", "status": "succeeded", "currency": "EUR"}]


def test_equal_books_have_no_difference() -> None:
    assert differences([payment()], {"alpha": book(), "beta": []}) == []


def test_a_second_charge_at_another_account_is_seen() -> None:
    assert differences([payment()], {"alpha": book(), "beta": book()[:1]}) != []


@pytest.mark.parametrize("amounts", [{"captured_minor": 999}, {"refunded_minor": 0}, {"voided_minor": 1}], ids=str)
def test_an_amount_that_differs_is_seen(amounts: dict[str, int]) -> None:
    assert len(differences([payment(**amounts)], {"alpha": book()})) == 1


def test_an_operation_that_the_provider_does_not_know_is_seen() -> None:
    assert differences([payment()], {"alpha": book()[:1]}) == ["op_refund: we say succeeded, the provider says []"]


def test_a_charge_that_we_believe_declined_is_seen() -> None:
    ours = payment(captured_minor=0, refunded_minor=0)
    ours["operations"] = [{"id": "op_charge", "state": "declined"}]
    assert len(differences([ours], {"alpha": book()[:1]})) == 2
