"""Words, amounts and dates in the languages of what customers get.

The words stand in ``texts/<language>.toml``, one table per place they are used in. Amounts and dates are written as the
Unicode CLDR says for the language (package ``babel``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import cache
from importlib import resources
from types import MappingProxyType

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, format_percent

from clearspan.platform.locales import LANGUAGES
from clearspan.sdk import CURRENCIES

__all__ = ["LANGUAGES", "country", "date", "money", "number", "percent", "words"]
_LOCALES = {"en": "en_GB", "de": "de_DE", "fr": "fr_FR", "es": "es_ES"}


@cache
def words(language: str, table: str) -> Mapping[str, str]:
    """One table of a language's words."""
    text = resources.files("clearspan.subscriptions").joinpath("texts", f"{language}.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text)[table])


def money(amount_minor: int, currency: str, language: str) -> str:
    """``€1,234.50`` or ``1.234,50 €``, with the currency's own number of decimals."""
    digits = CURRENCIES[currency]
    amount = Decimal(amount_minor).scaleb(-digits)
    pattern = Locale.parse(_LOCALES[language]).currency_formats["standard"].pattern
    decimals = "0." + "0" * digits if digits else "0"
    return format_currency(
        amount, currency, pattern.replace("0.00", decimals), locale=_LOCALES[language], currency_digits=False
    )


def percent(rate_bp: int, language: str) -> str:
    """``19%`` or ``19 %`` of 1900 basis points."""
    pattern = Locale.parse(_LOCALES[language]).percent_formats[None].pattern.replace("#,##0", "#,##0.##")
    return format_percent(Decimal(rate_bp).scaleb(-4), format=pattern, locale=_LOCALES[language])


def number(value: int, language: str) -> str:
    """``1,000``."""
    return format_decimal(value, locale=_LOCALES[language])


def date(moment: datetime, language: str, zone: tzinfo) -> str:
    """``5 May 2026``."""
    return format_date(moment.astimezone(zone).date(), format="long", locale=_LOCALES[language])


def country(code: str, language: str) -> str:
    """``Germany`` of ``DE``; the code itself when it has no name."""
    named: str = Locale.parse(_LOCALES[language]).territories.get(code, code)
    return named
