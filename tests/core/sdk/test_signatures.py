"""Who sent a message, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from clearspan.sdk import WebhookRejected, check_time, hmac_base64, hmac_hex, same

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_hmac_sha256_of_rfc_4231() -> None:
    """Test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac_hex(b"Jefe", b"what do ya want for nothing?") == expected
    assert hmac_base64(b"Jefe", b"what do ya want for nothing?") == "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="


def test_texts_are_the_same_or_not_whatever_they_are() -> None:
    assert same("abc", "abc")
    assert not same("abc", "abd")
    assert not same("é", "abc")
    assert not same("", "abc")


@pytest.mark.parametrize("away_s", [-300, 0, 300])
def test_five_minutes_are_near_enough(away_s: int) -> None:
    check_time(int(NOW.timestamp()) + away_s, NOW)


@pytest.mark.parametrize("away_s", [-301, 301, -(10**9), 10**30])
def test_more_is_refused_both_ways(away_s: int) -> None:
    with pytest.raises(WebhookRejected):
        check_time(int(NOW.timestamp()) + away_s, NOW)


def test_the_tolerance_may_be_another() -> None:
    with pytest.raises(WebhookRejected):
        check_time(int((NOW - timedelta(seconds=61)).timestamp()), NOW, tolerance_s=60)
