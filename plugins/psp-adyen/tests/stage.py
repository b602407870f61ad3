"""Plain values for the scenario that is the same for every PSP; the simulator is beside it."""

from __future__ import annotations

from typing import Any

PSP = "adyen"
PLUGIN = "psp-adyen"
METHODS: dict[str, dict[str, Any]] = {
    "approved": {"vault": "sandbox", "token": "tok_visa"},
    "declined": {"vault": "sandbox", "token": "tok_decline_insufficient_funds"},
    "challenge": {"vault": "sandbox", "token": "tok_3ds_challenge"},
    "second": {"vault": "sandbox", "token": "tok_mastercard"},
}
# No "lookup": Adyen has none. What got no answer is found out by the same key or by webhook.
CAN = {"authorize", "partial_capture", "void", "partial_refund", "challenge", "mit", "webhooks", "failover"}


def account_config(url: str) -> dict[str, Any]:
    """Settings of an account at the simulator."""
    return {
        "api_key": "adyen_test_api_key",
        "merchant_account": "ClearspanECOM",
        "hmac_key": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
        "url": url,
    }
