"""Amounts, moments and numbers as the operator's locale and zone write them. All by ``babel`` (Unicode CLDR)."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
import msgspec
from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime, format_skeleton, format_time, format_timedelta
from babel.numbers import format_compact_decimal, format_currency, format_decimal, format_percent

from clearspan.platform import clock
from clearspan.sdk import CURRENCIES


class Shown(msgspec.Struct, frozen=True):
    """How one operator sees things.

    Attributes:
        locale: such as ``de_AT``.
        zone: such as ``Europe/Vienna``.
    """

    locale: str
    zone: str

    @property
    def tz(self) -> ZoneInfo:
        """The zone."""
        return ZoneInfo(self.zone)

    def money(self, amount_minor: int, currency: str) -> str:
        """``€1,234.50``, with the currency's own number of decimals."""
        digits = CURRENCIES.get(currency, 2)
        amount = Decimal(amount_minor).scaleb(-digits)
        pattern = Locale.parse(self.locale).currency_formats["standard"].pattern
        decimals = "0." + "0" * digits if digits else "0"
        return format_currency(
            amount, currency, pattern.replace("0.00", decimals), locale=self.locale, currency_digits=False
        )

    def number(self, value: float) -> str:
        """``1,234``."""
        return format_decimal(value, locale=self.locale)

    def short_number(self, value: float) -> str:
        """``1.2K``."""
        return format_compact_decimal(value, locale=self.locale, fraction_digits=1)

    def percent(self, share: float, digits: int = 1) -> str:
        """``97.5%`` of 0.975."""
        return format_percent(share, format=f"#,##0.{'0' * digits}%" if digits else None, locale=self.locale)

    def moment(self, at: datetime) -> str:
        """``23 Nov 2026, 14:05:09``."""
        return format_datetime(at, "medium", tzinfo=self.tz, locale=self.locale)

    def minute(self, at: datetime) -> str:
        """Without seconds and, this year, without the year: for lists."""
        local = at.astimezone(self.tz)
        skeleton = "MMMd" if local.year == clock.now().astimezone(self.tz).year else "yMMMd"
        day = format_skeleton(skeleton, at, tzinfo=self.tz, locale=self.locale)
        return f"{day}, {format_time(local.timetz(), 'short', tzinfo=self.tz, locale=self.locale)}"

    def clock(self, at: datetime) -> str:
        """``14:05``."""
        return format_time(at.astimezone(self.tz).timetz(), "short", tzinfo=self.tz, locale=self.locale)

    def day(self, at: datetime | date) -> str:
        """``23 Nov 2026``."""
        return format_date(
            at.astimezone(self.tz).date() if isinstance(at, datetime) else at, "medium", locale=self.locale
        )

    def ago(self, at: datetime) -> str:
        """``3 minutes ago``, ``in 2 days``."""
        return format_timedelta(at - clock.now(), add_direction=True, locale=self.locale)


def known_locale(text: str) -> bool:
    """Whether there are rules for it."""
    try:
        Locale.parse(text)
    except (UnknownLocaleError, ValueError):
        return False
    return True


def filters() -> dict[str, Any]:
    """For templates: ``{{ amount|money(currency) }}``, ``{{ at|moment }}``, in whichever locale the page is shown."""

    def filter_of(name: str) -> Any:
        @jinja2.pass_context
        def apply(context: jinja2.runtime.Context, value: Any, *arguments: Any) -> str:
            if value is None:
                return "–"
            shown: str = getattr(context["shown"], name)(value, *arguments)
            return shown

        return apply

    return {
        name: filter_of(name)
        for name in ("money", "number", "short_number", "percent", "moment", "minute", "clock", "day", "ago")
    }
