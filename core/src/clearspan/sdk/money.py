"""Money: integer minor units with a currency. Never a float, never a bare number."""

from __future__ import annotations

import re

import msgspec

from clearspan.sdk.errors import NotSupported

# ISO 4217:2015, list one (active codes of payment currencies; amendment 177, 2024-06), code -> number of minor digits.
# Funds codes, precious metals and test codes are left out. Source: SIX Group, "List One: Current Currency & Funds".
_TWO = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC"
    " CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES"
    " KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR"
    " NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT"
    " TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"
)
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"

CURRENCIES: dict[str, int] = (
    dict.fromkeys(_TWO.split(), 2) | dict.fromkeys(_ZERO.split(), 0) | dict.fromkeys(_THREE.split(), 3)
)
"""ISO 4217 code -> number of digits after the decimal point."""


class UnknownCurrency(ValueError):
    """Not an active ISO 4217 payment currency."""


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount in the currency's smallest unit: ``Money(1099, "EUR")`` is 10.99 euros, ``Money(500, "JPY")`` 500 yen."""

    amount_minor: int
    currency: str

    def __str__(self) -> str:
        """Decimal notation, for people: ``10.99 EUR``."""
        return format_amount(self.amount_minor, self.currency)


def exponent(currency: str) -> int:
    """Digits after the decimal point.

    Raises:
        UnknownCurrency: not in ``CURRENCIES``.
    """
    try:
        return CURRENCIES[currency]
    except KeyError:
        raise UnknownCurrency(currency) from None


class Unrepresentable(NotSupported):
    """The PSP cannot be told this amount, or told one that is none of ours."""


def decimal_text(money: Money, digits: int | None = None) -> str:
    """``10.99`` for ``Money(1099, "EUR")``, for PSPs that want decimals.

    Args:
        money: not negative.
        digits: after the point, where the PSP's differ from ISO 4217.

    Raises:
        Unrepresentable: it has more digits than the PSP takes.
    """
    units = to_units(money, exponent(money.currency) if digits is None else digits)
    digits = exponent(money.currency) if digits is None else digits
    text = str(units).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def from_decimal(text: str, currency: str) -> Money:
    """The amount behind ``10.99``.

    Raises:
        Unrepresentable: it is no plain decimal number, or finer than the currency's smallest unit.
    """
    digits = exponent(currency)
    found = re.fullmatch(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,6}))?", text)
    if found is None or (found[3] is not None and found[3][digits:].strip("0")):
        raise Unrepresentable(f"{text!r} is no amount of {currency}")
    minor = int(found[2] + (found[3] or "")[:digits].ljust(digits, "0"))
    return Money(-minor if found[1] else minor, currency)


def to_units(money: Money, digits: int) -> int:
    """The amount in a PSP's unit of ``digits`` decimals, where that is not ISO 4217's.

    Raises:
        Unrepresentable: it is finer than the PSP's unit.
    """
    own = exponent(money.currency)
    larger, smaller = _power(digits - own), _power(own - digits)
    if money.amount_minor % smaller:
        raise Unrepresentable(f"{money} is finer than what the PSP takes in {money.currency}: {digits} decimals")
    return money.amount_minor * larger // smaller


def from_units(amount: int, currency: str, digits: int) -> Money:
    """The amount that a PSP told in its unit of ``digits`` decimals.

    Raises:
        Unrepresentable: it is finer than the currency's smallest unit.
    """
    own = exponent(currency)
    larger, smaller = _power(own - digits), _power(digits - own)
    if amount % smaller:
        raise Unrepresentable(f"{amount} is no amount of {currency} with {digits} decimals")
    return Money(amount * larger // smaller, currency)


def _power(digits: int) -> int:
    return int("1" + "0" * digits) if digits > 0 else 1


def format_amount(amount_minor: int, currency: str) -> str:
    """``10.99 EUR``; exact, for people and PSPs that want decimals."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    text = str(abs(amount_minor)).rjust(digits + 1, "0")
    whole, fraction = (text[:-digits], text[-digits:]) if digits else (text, "")
    return f"{sign}{whole}{'.' if digits else ''}{fraction} {currency}"
