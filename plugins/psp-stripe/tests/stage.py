"""Stripe on the common stage: what the scenario over all PSPs needs to know."""

from __future__ import annotations

from typing import Any

PSP = "stripe"
PLUGIN = "psp-stripe"
CAN = {
    "authorize",
    "partial_capture",
    "void",
    "partial_refund",
    "challenge",
    "mit",
    "webhooks",
    "lookup",
    "failover",
}
METHODS: dict[str, dict[str, Any]] = {
    "approved": {"vault": "sandbox", "token": "tok_visa"},
    "second": {"vault": "sandbox", "token": "tok_mastercard"},
    "declined": {"vault": "sandbox", "token": "tok_decline_insufficient_funds"},
    "challenge": {"vault": "sandbox", "token": "tok_3ds_challenge"},
    "token": {"type": "psp_token", "psp_account": "<account>", "token": "pm_card_visa"},
    "redirect": {"type": "redirect", "psp_account": "<account>", "method": "ideal"},
}


def account_config(url: str) -> dict[str, Any]:
    """Settings of an account at the simulator."""
    return {"api_key": "sk_test_simulator", "webhook_secret": "whsec_simulator", "url": url}
