"""Messages are signed as Standard Webhooks says; the reference implementation verifies them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from clearspan.platform import clock
from clearspan.webhooks import signing

KEY = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'


@pytest.mark.parametrize("secret", [KEY, f"whsec_{KEY}"])
def test_the_official_vector(secret: str) -> None:
    assert signing.sign(secret, MESSAGE, 1614265330, BODY) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_reference_implementation_verifies_what_we_sign_with_either_secret() -> None:
    old, new = signing.new_secret(), signing.new_secret()
    now = datetime.now(UTC)
    for body in (BODY, '{"name": "Zoë 🎉"}'.encode(), b"{}"):
        sent = signing.headers([new, old], "evt_1", now, body)
        assert sent["webhook-signature"].count(" ") == 1
        for secret in (old, new):
            assert Webhook(secret).verify(body, sent) is not None
        with pytest.raises(WebhookVerificationError):
            Webhook(signing.new_secret()).verify(body, sent)
        with pytest.raises(WebhookVerificationError):
            Webhook(new).verify(body + b" ", sent)
        for name, value in (("webhook-id", "evt_2"), ("webhook-timestamp", str(int(now.timestamp()) + 1))):
            with pytest.raises(WebhookVerificationError):
                Webhook(new).verify(body, sent | {name: value})


def test_a_secret_is_32_random_bytes() -> None:
    made = {signing.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) for one in made} == {32}
    assert clock.now().tzinfo is UTC
