"""Amounts as PSPs want them: exact in both directions, or refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearspan.sdk import (
    CURRENCIES,
    Money,
    NotSupported,
    Unrepresentable,
    decimal_text,
    from_decimal,
    from_units,
    to_units,
)

AMOUNTS = st.integers(0, 10**12)
CODES = st.sampled_from(sorted(CURRENCIES))


@given(AMOUNTS, CODES)
def test_a_decimal_text_is_read_back_as_the_same_amount(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    assert from_decimal(decimal_text(money), currency) == money
    assert Decimal(decimal_text(money)) == Decimal(minor).scaleb(-CURRENCIES[currency])


@given(AMOUNTS, CODES, st.integers(0, 4))
def test_units_are_read_back_as_the_same_amount_or_are_refused(minor: int, currency: str, digits: int) -> None:
    money = Money(minor, currency)
    exact = Decimal(minor).scaleb(digits - CURRENCIES[currency])
    if exact != exact.to_integral_value():
        with pytest.raises(Unrepresentable, match=currency):
            to_units(money, digits)
        return
    assert to_units(money, digits) == exact
    assert from_units(to_units(money, digits), currency, digits) == money


@given(st.text(max_size=20), CODES)
def test_any_text_is_an_amount_or_refused(text: str, currency: str) -> None:
    try:
        money = from_decimal(text, currency)
    except Unrepresentable:
        return
    assert Decimal(text) == Decimal(money.amount_minor).scaleb(-CURRENCIES[currency])


@pytest.mark.parametrize(
    ("money", "digits", "text"),
    [
        (Money(1099, "EUR"), None, "10.99"),
        (Money(5, "EUR"), None, "0.05"),
        (Money(0, "EUR"), None, "0.00"),
        (Money(500, "JPY"), None, "500"),
        (Money(1, "KWD"), None, "0.001"),
        (Money(500, "JPY"), 2, "500.00"),
        (Money(1200, "HUF"), 0, "12"),
    ],
)
def test_decimals_are_written_as_the_psp_counts_them(money: Money, digits: int | None, text: str) -> None:
    assert decimal_text(money, digits) == text


@pytest.mark.parametrize("text", ["", "1e3", "+1", " 1", "1.", ".5", "1,00", "NaN", "1.005", "٣", "1" * 16])
def test_what_is_no_plain_decimal_is_no_amount(text: str) -> None:
    with pytest.raises(Unrepresentable):
        from_decimal(text, "EUR")


def test_zeros_beyond_the_currency_are_read() -> None:
    assert from_decimal("10.990", "EUR") == Money(1099, "EUR")
    assert from_decimal("-500.00", "JPY") == Money(-500, "JPY")


def test_an_amount_the_psp_cannot_take_is_not_sent() -> None:
    assert issubclass(Unrepresentable, NotSupported)
    with pytest.raises(NotSupported, match="finer"):
        decimal_text(Money(1201, "HUF"), 0)
