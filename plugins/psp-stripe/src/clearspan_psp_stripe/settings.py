"""The settings of an account at Stripe."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

import clearspan.sdk as sdk


class StripeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings."""

    api_key: Annotated[
        sdk.Secret,
        Meta(
            title="Secret or restricted key",
            description="Dashboard, Developers, API keys: sk_test_, rk_live_ and so on.",
        ),
    ]
    webhook_secret: Annotated[
        sdk.OptionalSecret,
        Meta(
            title="Signing secret of the webhook endpoint",
            description="Begins with whsec_. Without it no message of Stripe is believed.",
        ),
    ] = ""
    url: sdk.Host = ""

    def problem(self, live: bool) -> str:
        """What is wrong with these settings in this mode, or "".

        Source: https://docs.stripe.com/keys (prefixes of keys tell their mode).
        """
        mode = "live" if live else "test"
        if not self.api_key.startswith((f"sk_{mode}_", f"rk_{mode}_")):
            return f"api_key is no {mode} key: take one that begins with sk_{mode}_ or rk_{mode}_."
        if self.webhook_secret and not self.webhook_secret.startswith("whsec_"):
            return "webhook_secret begins with whsec_: copy it from the webhook endpoint's page."
        return ""
