"""The settings of a merchant account at Adyen."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, OptionalSecret, Secret


class AdyenConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings.

    Attributes:
        api_key: of an API credential with the roles *Checkout webservice role*, *Merchant PAL Webservice role* and *API PCI
            Payments role* (the last one for cards from a vault).
        merchant_account: the merchant account, not the company account.
        hmac_key: of the webhook, as Adyen shows it: hexadecimal. Every message is checked with it.
        live_prefix: Developers > API URLs > Prefix, in the live Customer Area. One prefix is one region: Adyen remembers
            idempotency keys per region, so it must not be changed while operations are undecided.
        return_url: Adyen wants an address with each payment, also where no payer comes back; used when a payment names none.
        webhook_username: when the webhook is set up with basic authentication.
        webhook_password: the same.
        url: replaces Adyen's own.
    """

    api_key: Secret
    merchant_account: Annotated[str, Meta(min_length=1)]
    hmac_key: Secret
    live_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]*$", title="Live URL prefix")] = ""
    return_url: Annotated[str, Meta(title="Return address", max_length=1024)] = "https://example.com/"
    webhook_username: str = ""
    webhook_password: OptionalSecret = ""
    url: Host = ""

    def problem(self, live: bool) -> str:
        """What is wrong with these settings in this mode, or an empty text."""
        if re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", self.hmac_key) is None:
            return "hmac_key is not hexadecimal: copy it as Adyen shows it when it is made"
        if live and not (self.live_prefix or self.url):
            return "live mode needs live_prefix: Developers > API URLs > Prefix in the live Customer Area"
        if bool(self.webhook_username) != bool(self.webhook_password):
            return "basic authentication of webhooks needs both webhook_username and webhook_password"
        return ""

    def address(self, live: bool) -> str:
        """Where the API begins. Source: the API description, "Going live" (https://docs.adyen.com/api-explorer/Checkout/72)."""
        own = (
            f"https://{self.live_prefix}-checkout-live.adyenpayments.com/checkout"
            if live
            else "https://checkout-test.adyen.com"
        )
        return f"{(self.url or own).rstrip('/')}/v72"
