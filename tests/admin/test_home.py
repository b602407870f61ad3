"""Home shows the day in figures, what waits for somebody, and the newest payments."""

from __future__ import annotations

import re

import pytest
from tests.admin.conftest import NewPerson, Tabs, picture
from tests.shop import Shop


async def test_the_day_is_counted_per_currency_and_never_across(people: NewPerson, shop: Shop) -> None:
    await shop.paid(1000, currency="EUR")
    await shop.paid(2000, currency="EUR")
    await shop.paid(700, currency="JPY")
    await shop.pay(500, "tok_decline_insufficient_funds")
    person = await people("support")
    page = (await person.get("/")).text
    assert "€30.00" in page
    assert "¥700" in page
    assert "75.0%" in page, "three of four"
    assert "€37" not in page
