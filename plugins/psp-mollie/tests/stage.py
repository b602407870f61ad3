"""Mollie on the stage of the shared scenario: plain values, no imports of the product."""

from __future__ import annotations

from typing import Any

PSP = "mollie"
PLUGIN = "psp-mollie"


def account_config(url: str) -> dict[str, Any]:
    """``config`` of ``POST /v1/psp-accounts``, for a simulator at this address."""
    return {"api_key": "test_dHar4XY7LxsDOtmnkVtjNVWXLSlXsM", "url": url}


def _token(token: str) -> dict[str, Any]:
    return {"type": "psp_token", "psp_account": "<account>", "token": token}


METHODS: dict[str, dict[str, Any]] = {
    "approved": _token("tkn_visa"),
    "second": _token("tkn_mastercard"),
    "declined": _token("tkn_insufficient_funds"),
    "challenge": {"type": "redirect", "psp_account": "<account>", "method": "ideal"},
    "challenge_card": _token("tkn_challenge"),
    "choose": {"type": "redirect", "psp_account": "<account>", "method": None},
}
CAN = {"authorize", "partial_capture", "void", "partial_refund", "challenge", "mit", "webhooks", "lookup"}
