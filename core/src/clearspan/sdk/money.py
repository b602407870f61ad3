"""Money: integer minor units with a currency. Never a float, never a bare number."""

from __future__ import annotations

import msgspec

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


def format_amount(amount_minor: int, currency: str) -> str:
    """``10.99 EUR``; exact, for people and PSPs that want decimals."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    text = str(abs(amount_minor)).rjust(digits + 1, "0")
    whole, fraction = (text[:-digits], text[-digits:]) if digits else (text, "")
    return f"{sign}{whole}{'.' if digits else ''}{fraction} {currency}"
