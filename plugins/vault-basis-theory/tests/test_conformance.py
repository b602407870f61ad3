"""Basis Theory's provider under the conformance kit, judged by its published description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clearspan.sdk as sdk
from clearspan.sdk.testing import Description, Exchange, Script, VaultConformance
from clearspan_vault_basis_theory import BasisTheoryVault

TENANT = "7d2f3a51-3f0c-4f5b-9d4b-0a1d3a1c9a10"
CARD = {
    "id": "<token>",
    "tenant_id": TENANT,
    "type": "card",
    "data": {"number": "XXXXXXXXXXXX4242", "expiration_month": 9, "expiration_year": 2031},
    "fingerprint": "fp_1",
    "containers": ["/pci/high/"],
    "enrichments": {"bin_details": {"card_brand": "VISA", "type": "CREDIT", "country": {"alpha2": "US"}}},
}
SESSION = {"session_key": "key_session", "nonce": "nonce_1", "expires_at": "2026-11-23T12:15:00Z"}
NOT_FOUND = Exchange(404, {"title": "Not Found", "status": 404, "detail": "words"})


def refusal(status: int) -> Exchange:
    """An answer of the proxy's own: without the destination's status."""
    return Exchange(status, {"proxy_error": {"errors": {}, "title": "words", "status": status}})


class TestBasisTheoryVault(VaultConformance):
    provider = BasisTheoryVault
    description = Description(Path(__file__).parent / "spec/swagger.subset.json", closed="requests")
    scenarios = {
        "session": Script(
            Exchange(201, SESSION, path="POST /sessions"),
            Exchange(200, path="POST /sessions/authorize", described=False),
        ),
        "described": Script(Exchange(200, CARD, path="GET /tokens/<token>")),
        "unknown": Script(NOT_FOUND),
        "deleted": Script(Exchange(204, path="DELETE /tokens/<token>")),
        "deleted_unknown": Script(NOT_FOUND),
        "connected": Script(NOT_FOUND),
    }
    own_errors = [
        (refusal(400), sdk.PspMisconfigured),
        (refusal(401), sdk.PspMisconfigured),
        (refusal(403), sdk.PspMisconfigured),
        (refusal(429), sdk.PspUnavailable),
        (refusal(408), sdk.OutcomeUnknown),
        (refusal(500), sdk.OutcomeUnknown),
        (refusal(502), sdk.OutcomeUnknown),
    ]
    psp_answers = [
        Exchange(status, {"id": "ch_1"}, headers={"BT-PROXY-DESTINATION-STATUS": str(status)})
        for status in (200, 201, 400, 401, 402, 403, 404, 408, 422, 429, 500, 502)
    ]

    def config(self, url: str) -> Mapping[str, Any]:
        return {"private_key": "key_conformance_private", "public_key": "key_conformance_public", "url": url}

    def target(self, proxied: Any) -> str:
        # The origin travels in a header, path and query behind /proxy.
        return str(proxied.headers["BT-PROXY-URL"]) + proxied.url.raw_path.decode().removeprefix("/proxy")
