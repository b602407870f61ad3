"""Adyen's amounts: integers in units that mostly, not always, are those of ISO 4217."""

from __future__ import annotations

import clearspan.sdk as sdk

DIGITS = {"CLP": 2, "CVE": 0, "IDR": 0, "ISK": 2}
"""Where Adyen's decimals differ from ISO 4217 ("differs from standard"). Source:
https://docs.adyen.com/development-resources/currency-codes (2026-11)."""


def units(money: sdk.Money) -> dict[str, int | str]:
    """``Amount`` of the API.

    Raises:
        Unrepresentable: it is finer than Adyen's unit.
    """
    value = sdk.to_units(money, DIGITS.get(money.currency, sdk.exponent(money.currency)))
    return {"value": value, "currency": money.currency}


def told(value: int, currency: str) -> sdk.Money:
    """The amount that Adyen says.

    Raises:
        OutcomeUnknown: it is none of ours.
    """
    try:
        return sdk.from_units(value, currency, DIGITS.get(currency, sdk.exponent(currency)))
    except (sdk.UnknownCurrency, sdk.Unrepresentable) as error:
        raise sdk.OutcomeUnknown(f"Adyen says an amount that cannot be read: {error}") from error
