"""The settings of a PayPal account."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, Secret


class PayPalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings. The credentials do not tell whether they are sandbox or live ones: the gateway's mode chooses PayPal's host.

    Attributes:
        three_ds: ask the issuer where the law wants it, or for every card payment with the customer present.
        brand_name: stands on PayPal's pages instead of the account's name.
        webhook_roots: PEM certificates that PayPal's signing certificate must chain to; empty: the public ones.
    """

    client_id: Annotated[str, Meta(min_length=1, title="Client ID", description="Of the REST app in the dashboard.")]
    client_secret: Secret
    webhook_id: Annotated[
        str,
        Meta(
            pattern="^[a-zA-Z0-9]{1,50}$",
            title="Webhook ID",
            description="PayPal shows it where the webhook's address was entered; each signature speaks for it.",
        ),
    ]
    three_ds: Literal["when_required", "always"] = "when_required"
    brand_name: Annotated[str, Meta(max_length=127)] = ""
    url: Host = ""
    webhook_roots: str = ""

    def problem(self, live: bool) -> str:  # noqa: ARG002  (the keys are alike in both modes)
        """What is wrong, or nothing."""
        if self.webhook_roots and "-----BEGIN CERTIFICATE-----" not in self.webhook_roots:
            return "webhook_roots holds no PEM certificate: leave it empty, or paste the whole text of the file"
        return ""
