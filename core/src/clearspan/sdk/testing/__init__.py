"""The conformance kit: proves a plugin without its provider. Needs ``clearspan[testing]``.

``PspConformance`` and ``VaultConformance`` are classes of tests to inherit; ``Description`` judges requests and answers by the
provider's own description; ``ScriptedServer`` answers, well or badly, over real connections. docs/conformance.md shows how.
"""

from clearspan.sdk.testing.openapi import CARD, DROP, Correction, Description, Example, nested
from clearspan.sdk.testing.psp import PspConformance, Said, Script
from clearspan.sdk.testing.server import FAULTS, Exchange, Request, ScriptedServer
from clearspan.sdk.testing.vault import VaultConformance
from clearspan.sdk.testing.webhooks import NOW, Delivery

__all__ = [
    "CARD",
    "DROP",
    "FAULTS",
    "NOW",
    "Correction",
    "Delivery",
    "Description",
    "Example",
    "Exchange",
    "PspConformance",
    "Request",
    "Said",
    "Script",
    "ScriptedServer",
    "VaultConformance",
    "nested",
]
