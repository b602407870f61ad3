"""VGS's provider under the conformance kit, judged by the published description of its Vault HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import certifi

import clearspan.sdk as sdk
from clearspan.sdk.testing import Description, Exchange, Script, VaultConformance
from clearspan_vault_vgs import VgsVault

CA = Path(certifi.where()).read_text(encoding="ascii")
CA = CA[CA.index("-----BEGIN") :].partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
"""Some authority's: what it signs does not matter here."""
NUMBER, CVC = "tok_sandbox_bhtsCwFUzoJMw9rWUfEV5e", "tok_sandbox_u4y8ccPWUxDrSPg7Nbqmk8"
NOT_FOUND = Exchange(404, {"errors": [{"status": 404, "title": "words"}]}, described=False)


def sent_on(status: int) -> Exchange:
    """What a PSP answered, as it comes through the proxy."""
    return Exchange(status, {"id": "ch_1"}, headers={"VGS-Upstream-Status-Code": str(status)})


class TestVgsVault(VaultConformance):
    provider = VgsVault
    description = Description(Path(__file__).parent / "spec/api.yaml", closed="requests")
    token = f"{NUMBER}.{CVC}.092031.visa.4242"
    other_token = f"{NUMBER[:-1]}x.{CVC[:-1]}y.112033.visa.1881"
    silent = frozenset({"create_session"})
    scenarios = {
        "session": Script(),
        "described": Script(Exchange(204, path=f"PUT /aliases/{NUMBER}")),
        "unknown": Script(NOT_FOUND),
        "deleted": Script(
            Exchange(204, path=f"DELETE /aliases/{NUMBER}"), Exchange(204, path=f"DELETE /aliases/{CVC}")
        ),
        "deleted_unknown": Script(NOT_FOUND, NOT_FOUND),
        "connected": Script(NOT_FOUND),
    }
    own_errors = [
        (Exchange(407), sdk.PspMisconfigured),
        (Exchange(400), sdk.OutcomeUnknown),
        (Exchange(502), sdk.OutcomeUnknown),
        (Exchange(504, headers={"VGS-Upstream-Status-Code": "200"}), sdk.OutcomeUnknown),
    ]
    psp_answers = [sent_on(status) for status in (200, 201, 400, 401, 402, 403, 404, 422, 429, 500, 502)]

    def config(self, url: str) -> Mapping[str, Any]:
        return {
            "vault_id": "tntabc1de23",
            "route_id": "a9ef4d8a-7c5e-4b39-8b0d-3e1f2d6c7b8a",
            "username": "US_conformance",
            "password": "vgs_conformance_password",
            "ca": CA,
            "url": url,
        }
