"""What the shared scenario of all PSPs needs to know of this one."""

from __future__ import annotations

from typing import Any

PSP = "sandbox"
PLUGIN = "psp-sandbox"
METHODS = {
    "approved": {"vault": "sandbox", "token": "tok_visa"},
    "declined": {"vault": "sandbox", "token": "tok_decline_insufficient_funds"},
    "challenge": {"vault": "sandbox", "token": "tok_3ds_challenge"},
}
CAN = {"authorize", "partial_capture", "void", "partial_refund", "challenge", "mit", "webhooks", "lookup", "failover"}


def account_config(url: str) -> dict[str, Any]:
    """Settings of an account at the simulator."""
    return {"url": url, "api_key": "sk_sandbox_stage"}
