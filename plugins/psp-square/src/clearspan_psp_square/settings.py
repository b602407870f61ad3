"""The settings of a Square account."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, OptionalSecret, Secret

API_VERSION = "2025-08-20"
LIVE_URL = "https://connect.squareup.com"
TEST_URL = "https://connect.squareupsandbox.com"


class SquareConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings. Square's tokens do not tell their mode, so nothing here can check it; ``clearspan plugins check`` asks Square.

    Attributes:
        access_token: Developer Console, the application's Credentials page; the sandbox has its own.
        location_id: Developer Console, Locations. Payments are taken, and looked for, at this one; its currency is theirs.
        webhook_signature_key: Developer Console, Webhooks, Subscriptions; empty: no message is believed.
        notification_url: the subscription's URL, letter for letter, where it is not this account's ``webhook_url``, as behind a
            proxy that changes it. Square signs it together with the message.
        url: see ``Host``.
    """

    access_token: Secret
    location_id: Annotated[str, Meta(min_length=1, max_length=50)]
    webhook_signature_key: OptionalSecret = ""
    notification_url: Annotated[str, Meta(pattern=r"^(https?://[^\s]+)?$")] = ""
    url: Host = ""

    def problem(self, live: bool) -> str:
        """What is wrong with these settings."""
        if live and self.notification_url.startswith("http:"):
            return "notification_url is not https, and Square calls no other in production"
        return ""

    def host(self, live: bool) -> str:
        """Where the API is."""
        return self.url or (LIVE_URL if live else TEST_URL)
