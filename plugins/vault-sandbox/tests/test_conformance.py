"""The sandbox vault's provider under the conformance kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import clearspan.sdk as sdk
from clearspan.sdk.testing import Exchange, Script, VaultConformance
from clearspan_vault_sandbox import SandboxVault

CARD = {
    "brand": "visa",
    "last4": "4242",
    "exp_month": 12,
    "exp_year": 2030,
    "fingerprint": "fp_1",
    "funding": "credit",
    "issuer_country": "US",
}


def refusal(status: int, code: str) -> Exchange:
    """An answer of the vault's own."""
    return Exchange(status, {"error": {"code": code, "message": "words"}}, headers={"X-Vault-Error": code})


class TestSandboxVault(VaultConformance):
    provider = SandboxVault
    scenarios = {
        "session": Script(Exchange(201, {"id": "ses_1", "expires_at": "2026-11-23T12:15:00Z"}, path="POST /sessions")),
        "described": Script(Exchange(200, CARD, path="GET /tokens/<token>")),
        "unknown": Script(refusal(404, "unknown_token")),
        "deleted": Script(Exchange(204, path="DELETE /tokens/<token>")),
        "deleted_unknown": Script(Exchange(204, path="DELETE /tokens/<token>")),
        "connected": Script(refusal(404, "unknown_token")),
    }
    own_errors = [
        (refusal(502, "target_unreachable"), sdk.PspUnavailable),
        (refusal(502, "target_broken"), sdk.OutcomeUnknown),
        (refusal(504, "target_timeout"), sdk.OutcomeUnknown),
        (refusal(422, "unknown_token"), sdk.PspMisconfigured),
        (refusal(401, "unauthorized"), sdk.PspMisconfigured),
        (refusal(403, "target_not_allowed"), sdk.PspMisconfigured),
        (refusal(413, "too_large"), sdk.PspMisconfigured),
    ]

    def config(self, url: str) -> Mapping[str, Any]:
        return {"api_key": "vk_conformance_key", "url": url}
