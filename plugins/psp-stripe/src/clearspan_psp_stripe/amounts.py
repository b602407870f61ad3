"""Amounts as Stripe writes them.

Source: https://docs.stripe.com/currencies, sections zero-decimal, three-decimal and special cases. Amounts are in ISO 4217's
smallest unit, except: MGA has no decimals; ISK has none either, but is written with two, always 00; the last digit of
three-decimal currencies must be 0. HUF and TWD have two decimals in payments, and none in payouts only. UGX is refused: the page
lists it among the zero-decimal currencies and among the special cases, and a factor of a hundred is nothing to guess (not
confirmed). IQD and LYD are not in Stripe's list.
"""

from __future__ import annotations

import clearspan.sdk as sdk

_DIGITS = {"ISK": 2, "MGA": 0}
_THREE = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
_REFUSED = frozenset({"IQD", "LYD", "UGX"})


def written(money: sdk.Money) -> int:
    """The amount in a request.

    Raises:
        NotSupported: Stripe cannot be told it.
    """
    if money.currency in _REFUSED:
        raise sdk.NotSupported(
            f"Stripe takes no {money.currency}, or not in a way that is documented without contradiction"
        )
    units = sdk.to_units(money, _digits(money.currency))
    if money.currency in _THREE and units % 10:
        raise sdk.NotSupported(f"{money}: Stripe wants the last of three decimals to be 0")
    return units


def told(amount: int, currency: str) -> sdk.Money:
    """The amount in an answer.

    Raises:
        OutcomeUnknown: it is none of ours.
    """
    code = currency.upper()
    if code in _REFUSED:
        raise sdk.OutcomeUnknown(f"the answer is about {amount} {code}, and how Stripe writes {code} is not known")
    try:
        return sdk.from_units(amount, code, _digits(code))
    except (sdk.Unrepresentable, sdk.UnknownCurrency) as error:
        raise sdk.OutcomeUnknown(f"the answer is about {amount} {code}, which is no amount here") from error


def _digits(currency: str) -> int:
    return _DIGITS.get(currency, sdk.exponent(currency))
