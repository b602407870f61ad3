"""The settings of an account at Mollie: one website profile, in test or live mode."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, OptionalSecret, Secret

MODES = {True: "live_", False: "test_"}
"""How an API key begins. Source: https://docs.mollie.com/reference/authentication"""


class MollieConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings.

    Attributes:
        api_key: of the website profile, ``test_...`` or ``live_...`` (Developers > API keys).
        organization_token: reads settlements, ``access_...``; needs settlements.read, payments.read and refunds.read. Live only.
        webhook_secret: of a webhook made by hand in Mollie's dashboard; empty: calls to each payment's own address are enough.
    """

    api_key: Annotated[Secret, Meta(title="API key")]
    organization_token: Annotated[OptionalSecret, Meta(title="Organization access token")] = ""
    webhook_secret: Annotated[OptionalSecret, Meta(title="Webhook signing secret")] = ""
    url: Host = ""

    def problem(self, live: bool) -> str:
        """What is wrong with these settings in this mode, or nothing."""
        if self.api_key.startswith(MODES[not live]):
            return f"api_key is of {'test' if live else 'live'} mode: take the one that begins with {MODES[live]}"
        if not self.api_key.startswith(MODES[live]):
            return f"api_key does not begin with {MODES[live]}"
        if self.organization_token and not self.organization_token.startswith("access_"):
            return "organization_token does not begin with access_"
        return ""
