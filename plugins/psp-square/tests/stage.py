"""What the shared scenario needs to know about Square."""

from __future__ import annotations

from typing import Any

PSP = "square"
PLUGIN = "psp-square"
WEBHOOK_SECRET = "square_signature_key"


def account_config(url: str) -> dict[str, Any]:
    """The settings of an account at the simulator. Its webhook secret is what ``POST /_control/webhook`` gets."""
    return {
        "access_token": "EAAAscenario_access_token",
        "location_id": "LEUR0000MAIN1",
        "webhook_signature_key": WEBHOOK_SECRET,
        "url": url,
    }


def _token(token: str) -> dict[str, Any]:
    return {"type": "psp_token", "psp_account": "<account>", "token": token}


METHODS = {
    "approved": _token("cnon:card-nonce-ok"),
    "declined": _token("cnon:card-nonce-declined"),
    # No challenge by redirect: the issuer wants an authentication, which happens in the browser before.
    "second": _token("cnon:card-nonce-requires-verification|verf:verified-by-payer"),
}
CAN = {"authorize", "partial_capture", "void", "partial_refund", "mit", "webhooks", "lookup", "failover"}
