"""What the shared scenario needs to know about PayPal."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

PSP = "paypal"
PLUGIN = "psp-paypal"


def account_config(url: str) -> dict[str, Any]:
    """Settings for the simulator at ``url``, whose certificates nobody else vouches for."""
    with urllib.request.urlopen(f"{url}/_control/roots", timeout=5) as answer:  # noqa: S310
        roots = json.load(answer)["pem"]
    return {
        "client_id": "simulator",
        "client_secret": "simulated",
        "webhook_id": "4JH86294D6297924G",
        "webhook_roots": roots,
        "url": url,
    }


METHODS: dict[str, dict[str, Any]] = {
    "approved": {"vault": "sandbox", "token": "tok_visa"},
    "declined": {"vault": "sandbox", "token": "tok_decline_insufficient_funds"},
    "challenge": {"vault": "sandbox", "token": "tok_3ds_challenge"},
    "second": {"type": "redirect", "psp_account": "<account>", "method": "paypal"},
}
CAN = {"authorize", "partial_capture", "void", "partial_refund", "challenge", "mit", "webhooks", "failover"}
