"""What people type, read as their locale writes it; what could be read in two ways is shown to them before it acts."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

from babel.numbers import format_decimal, get_decimal_symbol, get_group_symbol

from clearspan.sdk import CURRENCIES

_SPACES = re.compile(r"[\s\u00a0\u202f'’]")


class NotRead(ValueError):
    """The text cannot be read."""


def amount(text: str, locale: str) -> Decimal:
    """A positive amount in major units: ``1.234,50`` in German, ``1 234,50`` in French, ``1,234.50`` in English.

    A single separator that cannot group thousands is a decimal one, whichever it is: ``12.34`` is understood in German too.

    Raises:
        NotRead: letters, a sign, or groups that are none.
    """
    plain = _SPACES.sub("", text)
    if not re.fullmatch(r"[0-9][0-9.,]*", plain):
        raise NotRead(text)
    decimal, group = get_decimal_symbol(locale), get_group_symbol(locale)
    if decimal not in ".,":
        decimal = "."
    group = group if group in ".," and group != decimal else ("," if decimal == "." else ".")
    grouped = re.fullmatch(rf"[0-9]{{1,3}}(?:{re.escape(group)}[0-9]{{3}})+(?:{re.escape(decimal)}[0-9]+)?", plain)
    if grouped:
        plain = plain.replace(group, "").replace(decimal, ".")
    elif re.fullmatch(r"[0-9]+(?:[.,][0-9]+)?", plain):
        plain = plain.replace(",", ".")
    else:
        raise NotRead(text)
    try:
        return Decimal(plain)
    except InvalidOperation:
        raise NotRead(text) from None


def minor(text: str, currency: str, locale: str) -> int:
    """The same in minor units of a currency.

    Raises:
        NotRead: as above, or more decimals than the currency has.
    """
    scaled = amount(text, locale).scaleb(CURRENCIES.get(currency, 2))
    if scaled != scaled.to_integral_value():
        raise NotRead(text)
    return int(scaled)


def plain(amount_minor: int, currency: str, locale: str) -> str:
    """An amount as it would be typed: no currency, no groups."""
    digits = CURRENCIES.get(currency, 2)
    pattern = "0." + "0" * digits if digits else "0"
    return format_decimal(Decimal(amount_minor).scaleb(-digits), format=pattern, locale=locale)


def day(text: str, zone: ZoneInfo, *, end: bool = False) -> datetime:
    """The beginning of a day ``YYYY-MM-DD`` in a zone; with ``end`` that of the day after.

    Raises:
        NotRead: there is no such day.
    """
    try:
        found = date.fromisoformat(text)
        if not 1970 <= found.year <= 9000:
            raise NotRead(text)
        return datetime.combine(found + timedelta(days=1) if end else found, time(), zone)
    except ValueError:
        raise NotRead(text) from None
